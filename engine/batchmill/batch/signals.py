"""The meaning of signals: the first asks to stop, a later one insists.

Only the command line installs handlers, and only in the main thread; everything here leaves other threads alone.

    INT, TERM, HUP   on_stop(signum, False), once; a second or more later, on_stop(signum, True)
    PIPE             on_stop(SIGPIPE, False), once, when it is our own stdout or stderr that nobody reads any more
    USR1             on_status()

What was ignored when we were started (HUP under nohup, INT after `&` in a script) stays ignored. The callbacks run
inside a signal handler, between any two instructions of the main thread: they may set a flag or put into a
queue.SimpleQueue, but take no lock (queue.Queue is not reentrant).
"""

from __future__ import annotations

import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from batchmill.worker.bootstrap import STOPPING

INSIST_AFTER = 1.0  # seconds; `timeout`, systemd and a closed terminal send the same signal twice at once


class Watch:
    """While entered, turns signals into calls of `on_stop(signum, insist)` and `on_status()`.

    `clock` gives seconds that never go back; `reader_gone` tells whether a SIGPIPE is about our own output.
    `signum` is the first signal that asked to stop, or None. The handlers found are restored on leaving.
    """

    def __init__(
        self,
        on_stop: Callable[[int, bool], object],
        on_status: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
        reader_gone: Callable[[], bool] | None = None,
    ) -> None:
        self.signum: int | None = None
        self._on_stop = on_stop
        self._on_status = on_status
        self._clock = clock
        self._reader_gone = reader_gone or _is_output_unread
        self._asked: float | None = None
        self._quiet = False
        self._found: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Watch:
        if _in_main_thread():
            for signum in STOPPING:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._install(signum, self._stop)
            self._install(signal.SIGPIPE, self._pipe)
            self._install(signal.SIGUSR1, self._status)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _restore(self._found)

    def _install(self, signum: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> None:
        self._found[signum] = signal.signal(signum, handler)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        now = self._clock()
        if self._asked is None:
            self._asked = now
            self._first(signum)
        elif now - self._asked >= INSIST_AFTER:
            self._on_stop(signum, True)

    def _pipe(self, signum: int, frame: FrameType | None) -> None:
        # Writing to a worker that has just died raises SIGPIPE too, and must not stop the run.
        if not self._quiet and self._reader_gone():
            self._quiet = True
            self._first(signum)

    def _first(self, signum: int) -> None:
        if self.signum is None:
            self.signum = signum
        self._on_stop(signum, False)

    def _status(self, signum: int, frame: FrameType | None) -> None:
        self._on_status()


def deaf() -> None:
    """Ignore what asks to stop from here on: this process has stopped, and only has to say so."""
    if _in_main_thread():
        for signum in STOPPING:
            signal.signal(signum, signal.SIG_IGN)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _restore(found: dict[signal.Signals, Any]) -> None:
    while found:
        signum, handler = found.popitem()
        # None: a handler that C code installed, which Python cannot put back.
        signal.signal(signum, signal.SIG_DFL if handler is None else handler)


def _is_output_unread() -> bool:
    for descriptor in (1, 2):
        poll = select.poll()
        poll.register(descriptor, 0)
        if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
            return True
    return False
