"""`--log FILE`: what a run says, each line with its time, whatever a terminal or a mail gets of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from batchmill.errors import OutputLost
from batchmill.files.storage import write_whole
from batchmill.model import Snapshot
from batchmill_cli.running.report import indented
from batchmill_cli.terminal import stdio

SECONDS = 30.0  # between lines of progress
_LONGEST = 4000  # characters of a line


class LogFile:
    """Adds to the end of a file. Raises OutputLost where it cannot be opened; what cannot be written later is told
    once, and costs the run nothing."""

    def __init__(self, path: str, interval: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._interval = interval or SECONDS
        self._due = clock() + self._interval
        self._is_lost = False
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        except OSError as error:
            raise OutputLost(f"cannot write {path}: {error.strerror}", "check the path given to --log") from None

    def write(self, text: str) -> None:
        """Add a text, which may have several lines."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        lines = "".join(f"{now} {line}\n" for line in indented(text, _LONGEST))
        try:
            write_whole(self._fd, lines.encode("utf-8", "backslashreplace"))
        except OSError as error:
            if not self._is_lost:
                self._is_lost = True
                stdio.tell(f"batchmill: {self._path} cannot be written: {error.strerror}; the run goes on")

    def update(self, snapshot: Snapshot) -> None:
        """Say how the run stands, if it is time to."""
        if self._clock() >= self._due:
            self._due = self._clock() + self._interval
            self.write(str(snapshot))
