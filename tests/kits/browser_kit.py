"""A real headless Chromium for tests, driven over its debugging pipe."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT = 60.0
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """The browser's program, None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A browser with one page. `events` are all that its page has said: (method, parameters), in order.

    The browser reads commands on descriptor 3 and writes answers to 4, each a JSON text that a zero byte ends
    (https://chromedevtools.github.io/devtools-protocol/).
    """

    def __init__(self, profile: Path) -> None:
        program = chromium()
        assert program is not None
        ours, self._write = map(_out_of_the_way, os.pipe())
        self._read, theirs = map(_out_of_the_way, os.pipe())
        arguments = [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--hide-scrollbars", "--disable-background-networking", "--force-color-profile=srgb",
            f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        actions = [
            (os.POSIX_SPAWN_DUP2, ours, 3),
            (os.POSIX_SPAWN_DUP2, theirs, 4),
            *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)),
        ]
        environ = {**os.environ, "HOME": str(profile)}
        self._pid = os.posix_spawn(program, arguments, environ, file_actions=actions, setsid=True)
        os.close(ours)
        os.close(theirs)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[tuple[str, dict[str, Any]]] = []
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Security"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Give a command; its answer. AssertionError where it is refused, or after a minute."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + LIMIT
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            assert left > 0, "the browser does not answer"
            assert select.select([self._read], [], [], left)[0], "the browser does not answer"
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has gone"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def wait(self, is_there: Callable[[], bool]) -> None:
        """Read events until `is_there`; AssertionError after a minute."""
        deadline = time.monotonic() + LIMIT
        while not is_there():
            self._next(deadline)

    def show(self, url: str, *, width: int = 1100, height: int = 800, dark: bool = False) -> None:
        """Open a page in a window of that size, and wait until it has loaded."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.wait(lambda: any(method == "Page.loadEventFired" for method, _ in self.events))

    def evaluate(self, script: str) -> Any:
        """The JSON value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """A picture of the whole page."""
        image = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(image["data"]))

    def pdf(self, path: Path) -> None:
        """The page as it is printed."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"]))

    def said(self, *methods: str) -> list[dict[str, Any]]:
        """The parameters of all events of those methods."""
        return [params for method, params in self.events if method in methods]

    def close(self) -> None:
        """End the browser and all its processes."""
        try:
            os.killpg(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self._pid, 0)
        for descriptor in (self._write, self._read):
            os.close(descriptor)


def _out_of_the_way(descriptor: int) -> int:
    """The same pipe under a number that is none of those the browser gets."""
    higher = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return higher
