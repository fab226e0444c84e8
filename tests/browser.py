"""Headless Chromium, spoken to through its debugging pipe: pages are looked at as a reader sees them.

No driver and no package is needed, only the browser: ``apt-get install chromium``, or ``CHROMIUM=/path`` in the environment.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

__all__ = ["Browser", "browser", "found"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")

# The browser wants its ends of the pipes as descriptors 3 and 4.
_AS_3_AND_4 = """
import fcntl, os, sys
high = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for number, end in enumerate(high, start=3):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


def found() -> str | None:
    """The browser's path, or None."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """One page that goes from address to address."""

    def __init__(self, reads: IO[bytes], writes: IO[bytes]) -> None:
        self._in, self._out = reads, writes
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def _message(self) -> dict[str, Any]:
        """The next message; each ends with a zero byte."""
        while b"\0" not in self._rest:
            data = self._in.read(1 << 16)
            assert data, "the browser has ended"
            self._rest += data
        one, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(one)
        return message

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its answer."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        self._out.write(json.dumps(command).encode() + b"\0")
        while (message := self._message()).get("id") != self._number:
            pass  # an event
        assert "error" not in message, message
        answer: dict[str, Any] = message["result"]
        return answer

    def open(self, address: str, width: int, height: int = 900, dark: bool = False) -> None:
        """Load a page at a width in CSS pixels, and wait until it is laid out."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        wrong = self.call("Page.navigate", url=address).get("errorText")
        assert not wrong, f"{address}: {wrong}"
        self.run(
            "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))"
            ".then(() => document.fonts.ready).then(() => 1)"
        )

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is awaited."""
        said = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def picture(self, path: Path) -> None:
        """A screenshot of what is seen."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Start a browser with its profile in a folder; skips the test, with the reason, where there is none."""
    path = found()
    if path is None:
        pytest.skip("Chromium is not here: apt-get install chromium, or CHROMIUM=/path/to/it")
    to_browser, ours_out = os.pipe()
    ours_in, from_browser = os.pipe()

    line = [
        sys.executable, "-c", _AS_3_AND_4, str(to_browser), str(from_browser), path, "--headless", "--no-sandbox",
        "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={folder}", "--hide-scrollbars", "--no-first-run",
        "--disable-background-networking", "about:blank",
    ]  # fmt: skip
    with open(folder / "browser.log", "wb") as log:
        process = subprocess.Popen(
            line, pass_fds=(to_browser, from_browser), stdout=log, stderr=log, start_new_session=True
        )
    os.close(to_browser)
    os.close(from_browser)
    ends = os.fdopen(ours_in, "rb", buffering=0), os.fdopen(ours_out, "wb", buffering=0)
    try:
        with ends[0], ends[1]:
            yield Browser(*ends)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
