"""Several hosts on one machine, for tests of what crosses a network: namespaces with an sshd each, behind one switch.

A host has its own network, processes, mounts (home and /tmp), name and shared memory; the file system is otherwise that
of the machine, so a folder outside home and /tmp is a disk that all hosts share. Nothing leaves the switch. Ending the
first process of a host ends all of its processes, so no test can leave one behind or touch those of the machine.

It takes root, and from Debian: iproute2, openssh-server, openssh-client, rsync, util-linux.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

__all__ = ["Hosts", "missing"]

_PROGRAMS = {
    "ip": "iproute2",
    "/usr/sbin/sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsync": "rsync",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}
_SSHD = """
HostKey {root}/host_key
AuthorizedKeysFile {root}/key.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
"""
# The base of the virtual environment may lie below the home that is about to be covered, so it is bound again.
_INSIDE = """
set -e
hostname {name}
mount -t proc proc /proc
mount -t tmpfs -o size=4g tmpfs /dev/shm
mkdir -p {here}/home {here}/tmp {here}/base /run/sshd
mount --bind {base} {here}/base
mount --bind {here}/home /root
mkdir -p {base}
mount --bind {here}/base {base}
mount --bind {here}/tmp /tmp
exec /usr/sbin/sshd -D -f {root}/sshd_config
"""


def missing() -> str:
    """Why there can be no hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "takes root, for network namespaces"
    packages = sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})
    return f"takes Debian's {', '.join(packages)}" if packages else ""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


class Hosts:
    """`count` hosts, 10.77.0.1 and so on, and before them host 0, 10.77.0.10, for the one who gives orders.

    root: a folder that all of them see, not below /tmp or a home.
    """

    def __init__(self, root: Path, count: int) -> None:
        self.root, self.count = root, count
        self.key = root / "key"
        self._mark = secrets.token_hex(3)
        self._first: list[subprocess.Popen[bytes]] = []

    def address(self, host: int) -> str:
        return f"10.77.0.{host or 10}"

    def _space(self, host: int | str) -> str:
        return f"gensys-{self._mark}-{host}"

    def __enter__(self) -> Hosts:
        self.root.mkdir(parents=True)
        for key in ("host_key", "key"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.root / key))
        (self.root / "sshd_config").write_text(_SSHD.format(root=self.root))
        try:
            self._connect()
            for host in range(self.count + 1):
                self._boot(host)
            for host in range(self.count + 1):
                self._wait(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _connect(self) -> None:
        switch = self._space("switch")
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "br0", "up")
        for host in range(self.count + 1):
            space, port = self._space(host), f"v{host}"
            _run("ip", "netns", "add", space)
            _run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "-n", switch, "link", "set", port, "master", "br0", "up")
            _run("ip", "-n", space, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _run("ip", "-n", space, "link", "set", link, "up")
            # to nowhere: programs ask for it when they want to know their own address
            _run("ip", "-n", space, "route", "add", "default", "dev", "eth0")

    def _boot(self, host: int) -> None:
        here = self.root / f"host{host}"
        (here / "home").mkdir(parents=True)
        environment = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH\n"
        (here / "home" / ".bashrc").write_text(environment)
        (here / "home" / ".bash_profile").write_text(". ~/.bashrc\n")
        inside = _INSIDE.format(name=f"host{host}", here=here, root=self.root, base=sys.base_prefix)
        spaces = ["--mount", "--pid", "--fork", "--uts", "--ipc", "--kill-child", "--propagation", "private"]
        command = ["ip", "netns", "exec", self._space(host), "unshare", *spaces, "bash", "-c", inside]
        self._first.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))

    def _wait(self, host: int) -> None:
        until = time.monotonic() + 10
        while not (self._inside(host) and self.run(host, "ssh-keyscan", "-T", "1", self.address(host)).returncode == 0):
            if time.monotonic() > until:
                raise TimeoutError(f"the sshd of host {host} did not start")
            time.sleep(0.1)

    def _inside(self, host: int) -> list[psutil.Process]:
        """The first process of a host, as the machine sees it; [] before it is there."""
        return psutil.Process(self._first[host].pid).children()

    def command(self, host: int, *words: str) -> list[str]:
        """What runs a program in a host, as its root after a login."""
        (first,) = self._inside(host)
        inside = f"cd; . ~/.bashrc; exec {shlex.join(words)}"
        clean = ["env", "-i", "HOME=/root", "USER=root", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        return ["nsenter", "-t", str(first.pid), "-a", *clean, "bash", "-c", inside]

    def run(self, host: int, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a program in a host to its end."""
        command = self.command(host, *words)
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)

    def link(self, host: int, up: bool) -> None:
        """Pull a host's cable out of the switch, or put it back."""
        _run("ip", "-n", self._space("switch"), "link", "set", f"v{host}", "up" if up else "down")

    def __exit__(self, *_: object) -> None:
        for process in self._first:
            process.kill()  # --kill-child: and with it all that run in the host
            process.wait()
        for name in [*range(self.count + 1), "switch"]:
            subprocess.run(["ip", "netns", "del", self._space(name)], capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)
