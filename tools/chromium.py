# SPDX-License-Identifier: MIT
"""A headless Chromium spoken to over two pipes: what the report's tests and its screenshots need, and nothing to install.

The DevTools protocol is JSON, one message after another, each ended by a zero byte. With ``--remote-debugging-pipe`` the
browser reads them from file descriptor 3 and answers on 4, so there is no port, no websocket and no third package.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers run as root; only pages made here are opened
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
)
_SECONDS = 60.0


def find() -> str | None:
    """The browser: CERTCAL_CHROMIUM, or one of ``NAMES`` on the path; None where there is none."""
    given = os.environ.get("CERTCAL_CHROMIUM")
    if given:
        return given
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def browser(executable: str) -> Iterator[Chromium]:
    """A browser with a profile of its own, which is gone afterwards.

    Args:
        executable: the program, as ``find`` gives it.

    Yields:
        The browser, with one empty tab.

    Raises:
        OSError: the program does not start, or goes away.
        TimeoutError: it does not answer.
    """
    profile = tempfile.mkdtemp(prefix="certcal-chromium-")
    there, ours = os.pipe()
    back, theirs = os.pipe()
    # The shell puts the pipes at 3 and 4, wherever they are; Python cannot without a fork hook.
    command = f'exec "$@" 3<&{there} 4>&{theirs}'
    process = subprocess.Popen(
        [
            "/bin/bash",
            "-c",
            command,
            "chromium",
            executable,
            *_FLAGS,
            f"--user-data-dir={profile}",
            "about:blank",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(there, theirs),
        start_new_session=True,  # so that its children can be ended with it
    )
    os.close(there)
    os.close(theirs)
    try:
        yield Chromium(ours, back)
    finally:
        os.close(ours)  # the browser ends when its pipe does
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(back)
        shutil.rmtree(profile, ignore_errors=True)


class Chromium:
    """One tab, and what it said while pages were open."""

    def __init__(self, write: int, read: int) -> None:
        """Takes over the tab that the browser opened with."""
        self._write, self._read = write, read
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol.

        Raises:
            RuntimeError: the browser refused it.
            OSError: the browser went away.
            TimeoutError: it did not answer.
        """
        self._number += 1
        message: dict[str, Any] = {
            "id": self._number,
            "method": method,
            "params": parameters,
        }
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                break
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + _SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser did not answer within {_SECONDS:g} s")
            more = os.read(self._read, 1 << 20)
            if not more:
                raise OSError("the browser went away")
            self._buffer += more
        head, self._buffer = self._buffer.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(head)
        return answer

    def open(
        self, page: Path, width: int, height: int, *, dark: bool = False, scale: float = 1.0
    ) -> None:
        """Opens a file in a window of a size, in the light or the dark theme, and waits until it is there.

        Args:
            page: the file.
            width: of the window, CSS pixels; below 500 it counts as a phone.
            height: of the window, CSS pixels.
            dark: whether the reader prefers dark colours.
            scale: device pixels a CSS pixel.
        """
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="screen", features=[scheme])
        self.events.clear()
        frame = self.call("Page.navigate", url=page.resolve().as_uri())
        if "errorText" in frame:
            raise OSError(f"{page}: {frame['errorText']}")
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page, as JSON has it.

        Raises:
            RuntimeError: it threw.
        """
        made = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in made:
            raise RuntimeError(f"{expression}: {made['exceptionDetails']}")
        return made["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key, down and up again, such as ("Tab", 9)."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **(text if kind == "keyDown" else {}),
            )

    def screenshot(self, *, whole: bool = False) -> bytes:
        """What the window shows, or the whole page, as PNG."""
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {**size, "x": 0, "y": 0, "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", **options)["data"])

    def pdf(self) -> bytes:
        """The page as printed on A4."""
        size = {"paperWidth": 8.27, "paperHeight": 11.69, "marginTop": 0.5, "marginBottom": 0.5}
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False, **size)["data"])

    def requests(self) -> list[str]:
        """Every address outside the page that was asked for since ``open``, the page's own first."""
        asked = [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [address for address in asked if not address.startswith("data:")]

    def complaints(self) -> list[str]:
        """Errors and warnings of the console and of scripts since ``open``."""
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event["method"] == "Log.entryAdded":
                found.append(parameters["entry"]["text"])
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled":
                found.append(str(parameters["args"]))
        return found
