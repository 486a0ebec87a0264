"""What is said on stderr during a run: a progress line that fits, and messages that never tear it.

No escape sequence is ever written, so NO_COLOR and TERM=dumb have nothing to forbid. Never touches stdout, and never
lets a terminal that has stopped reading (Ctrl-S) stop the run for the sake of a progress line.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable, Mapping
from threading import RLock
from typing import TYPE_CHECKING

from batchmill.model import Snapshot
from batchmill_cli.options.batch import REDRAW_SECONDS
from batchmill_cli.running.report import indented
from batchmill_cli.terminal import stdio

if TYPE_CHECKING:
    from batchmill_cli.running.log_file import LogFile

LOG_SECONDS = 30.0
HELD_MESSAGES = 1000


def choose_mode(asked: str, *, terminal: bool, verbose: bool, quiet: bool, environ: Mapping[str, str]) -> str:
    """What `--progress auto` means here: "line", "log" or "none"; anything else asked for is taken at its word."""
    if asked != "auto":
        return asked
    if quiet:
        return "none"
    if terminal and environ.get("TERM") != "dumb" and not _is_recorded(environ):
        return "line"
    return "log" if terminal or verbose else "none"


def _is_recorded(environ: Mapping[str, str]) -> bool:
    """Whether a terminal is that of a CI service, which keeps all that is written to it as a log."""
    return environ.get("CI", "").lower() not in ("", "0", "false")


def fit(line: str, width: int) -> str:
    """`line` in at most `width` columns: what stands last goes first, whole, before anything is cut.

    Of the last part, which tells of the machine, memory and CPU go before the workers.
    """
    for end in (" rss ", " cpu "):
        if len(line) > width and end in line:
            line = line[: line.rindex(end)]
    parts = line.split(" | ")
    while len(parts) > 1 and len(" | ".join(parts)) > width:
        parts.pop()
    return " | ".join(parts)[: max(width, 0)]


def redraw(line: str, drawn: int, width: int) -> str:
    """What to write to put `line` over a line of `drawn` columns: CR, the line, and spaces over what is left.

    Never beyond `width`: the terminal may be narrower by now, and would scroll.
    """
    return "\r" + line + " " * (min(drawn, width) - len(line))


def wipe(drawn: int, width: int) -> str:
    """What to write to clear a line of `drawn` columns on a terminal of `width`."""
    return "\r" + " " * min(drawn, width) + "\r" if drawn else ""


def terminal_width(fd: int) -> int:
    """The columns that may be written to: one less than there are, because some terminals wrap at once at the last."""
    try:
        return (os.get_terminal_size(fd).columns or 80) - 1
    except OSError:
        return 79


def may_draw(fd: int) -> bool:
    """Whether a line drawn now is seen by who waits for it: not while a terminal is stopped, nor in the background."""
    try:
        return _is_ours(fd) and bool(select.select([], [fd], [], 0)[1])
    except (OSError, ValueError):
        return False


def _is_ours(fd: int) -> bool:
    try:
        return not os.isatty(fd) or os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True  # not the terminal of our session: nobody's job control


class Screen:
    """stderr during a run, and the log beside it. Safe to call from several threads.

    `mode` is "line", "log" or "none"; `interval` the seconds between lines (None: as cli/README.md says). With `hold`,
    messages are kept in `held`: a run in a crontab that succeeds says nothing.
    """

    def __init__(self, mode: str, interval: float | None = None, *, hold: bool = False, fd: int = 2,
                 log: LogFile | None = None, clock: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
        self.mode = mode
        self._fd = fd
        self._clock = clock
        self._interval = max(interval or 0.0, REDRAW_SECONDS) if mode == "line" else interval or LOG_SECONDS
        self.held: deque[str] = deque(maxlen=HELD_MESSAGES)
        self._hold = hold
        self._log = log
        self._lock = RLock()
        self._asked = False
        # The first drawn line comes at once, the first logged one after the interval.
        self._due = clock() + (0.0 if mode == "line" else self._interval)
        self._line = ""
        self._drawn = 0

    def update(self, snapshot: Snapshot) -> None:
        """Show how the run stands, if it is time to."""
        if self._log is not None:
            self._log.update(snapshot)
        if self._asked:
            self._asked = False
            self.show(str(snapshot))
        if self.mode == "none" or self._clock() < self._due:
            return
        if not self._lock.acquire(blocking=False):
            return  # somebody is writing, perhaps to a terminal that does not read
        try:
            self._due = self._clock() + self._interval
            if self.mode == "log":
                self._write(f"{snapshot}\n")
            elif may_draw(self._fd):
                self._draw(str(snapshot))
        finally:
            self._lock.release()

    def ask(self) -> None:
        """Have the next update shown as a whole line. Only sets a flag: a signal handler may call it."""
        self._asked = True

    def say(self, message: str) -> None:
        """Show a message on a line of its own, above the progress line; or keep it, with `hold`."""
        if self._log is not None:
            self._log.write(message)
        if self._hold:
            self.held.append(message)
        else:
            self.show(message)

    def show(self, text: str) -> None:
        """Show `text` above the progress line, whatever is held; harmless, for it may quote an error or a name."""
        shown = "\n".join(indented(text, 4000))
        self.pass_on(shown.encode("utf-8", "backslashreplace"))

    def pass_on(self, data: bytes) -> None:
        """Write whole lines (or a last piece of one) above the progress line, as they are."""
        with self._lock:
            cleared = wipe(self._drawn, terminal_width(self._fd)).encode()
            stdio.write_all(self._fd, cleared + data.removesuffix(b"\n") + b"\n")
            self._drawn = 0
            if self._line and may_draw(self._fd):
                self._draw(self._line)

    def release(self) -> None:
        """Show what was held, and hold nothing more."""
        self._hold = False
        while self.held:
            self.show(self.held.popleft())

    def finish(self, snapshot: Snapshot | None = None) -> None:
        """Wipe the progress line; in a log, say the last one."""
        with self._lock:
            if self._drawn:
                self._write(wipe(self._drawn, terminal_width(self._fd)))
            elif self.mode == "log" and snapshot is not None:
                self._write(f"{snapshot}\n")
            self._line, self._drawn, self.mode = "", 0, "none"

    def _draw(self, line: str) -> None:
        width = terminal_width(self._fd)  # asked each time: a window may be resized
        fitted = fit(line, width)
        self._write(redraw(fitted, self._drawn, width))
        self._line, self._drawn = line, len(fitted)

    def _write(self, text: str) -> None:
        # One write(2) a piece, past Python's buffers: what a worker writes beside us cannot tear it.
        stdio.write_all(self._fd, text.encode())
