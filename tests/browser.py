"""A browser for tests: Chromium without a window, driven over a pipe by the DevTools protocol. It opens no port.

What is looked at is the page itself: the protocol emulates the screen and the colours, and evaluates expressions beside
the page, so that nothing is put into it.
"""

import base64
import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Browser", "browser"]

PACKAGE = "chromium"  # of Debian: apt-get install chromium


@dataclass
class Browser:
    """One tab. complaints: everything that the console, the log or the page's own errors said."""

    _to: Any
    _from: Any
    _session: str = ""
    _asked: int = 0
    complaints: list[str] = field(default_factory=list)
    _events: list[str] = field(default_factory=list)

    def open(self, path: Path, *, width: int = 1200, dark: bool = False, print_: bool = False) -> None:
        """Load a file, on a screen of this width and with these colours, and wait until it is there."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme], media="print" if print_ else "screen")
        self._events.clear()
        self.ask("Page.navigate", url=path.resolve().as_uri())
        self.wait("Page.loadEventFired")

    def wait(self, event: str) -> None:
        """Until there has been such an event since the last wait."""
        while event not in self._events:
            self._read()
        self._events.clear()

    def see(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page, as far down as it goes, as a PNG."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, path: Path) -> None:
        """The page as it is printed."""
        path.write_bytes(base64.b64decode(self.ask("Page.printToPDF", printBackground=False)["data"]))

    def ask(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol and wait for its result; what happens meanwhile is noted."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self._asked:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            assert byte, "the browser has ended"
            text += byte
        message = json.loads(text)
        event = message.get("method", "")
        self._events.append(event)
        if event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(message["params"]["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(message["params"]["args"]))
        elif event == "Log.entryAdded":
            self.complaints.append(message["params"]["entry"]["text"])
        return message


@contextmanager
def browser(scratch: Path) -> Any:
    """A Browser, ended after; scratch: a folder for its profile. Skips the test where Chromium is not installed."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip(f"needs a browser: apt-get install {PACKAGE}")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
    command = [program, *options, f"--user-data-dir={scratch}", "--remote-debugging-pipe", "about:blank"]
    # the protocol speaks over file descriptors 3 and 4, which bash puts in their places
    shell = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command]
    process = subprocess.Popen(shell, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
    os.close(theirs_in)
    os.close(theirs_out)
    with open(ours_out, "wb") as to, open(ours_in, "rb") as from_:
        try:
            found = Browser(to, from_)
            tab = found.ask("Target.createTarget", url="about:blank")["targetId"]
            found._session = found.ask("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                found.ask(f"{domain}.enable")
            yield found
            found._session = ""
            found.ask("Browser.close")
        finally:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
