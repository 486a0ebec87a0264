"""Owns running a batch out of reach of KeyboardInterrupt. Never knows what a batch does; installs no signal handler.

    main thread: [wait] --Ctrl-C--> stop(insist) --.      a KeyboardInterrupt comes in the thread that waits, and there
    its own:     [work] <--------------------------'      between two steps of nothing that matters

In the middle of handing out work, or of starting a process, it would leave half of that behind.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from batchmill import threads
from batchmill.signals import INSIST_AFTER

T = TypeVar("T")


class _Work(Generic[T]):
    """Something that is done once, and what came of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._context = contextvars.copy_context()
        self._entry = threading.Lock()
        self.has_begun = False
        self.is_over = threading.Event()
        self.error: BaseException | None = None
        self.result: T

    def run(self) -> None:
        if not self._entry.acquire(blocking=False):
            return
        self.has_begun = True
        try:
            self.result = self._context.run(self._work)
        except BaseException as error:
            self.error = error
        self.is_over.set()


def run_apart(work: Callable[[], T], stop: Callable[[bool], None]) -> T:
    """What `work()` returns or raises; it runs in a thread of its own where this is the main one.

    KeyboardInterrupt is raised when the work has ended: the first one asks it to `stop`, one that comes a second or
    more later insists. In other threads than the main one it never comes.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    found = _Work(work)
    interrupts: list[float] = []
    told = 0
    while True:
        try:
            if not found.has_begun:  # `start` may have been interrupted before or after it did that
                threads.start(found.run, "run", daemon=False)
            while told < len(interrupts):
                told += 1
                stop(interrupts[told - 1] - interrupts[0] >= INSIST_AFTER)
            found.is_over.wait()
            break
        except KeyboardInterrupt:
            interrupts.append(time.monotonic())
    if found.error is not None:
        raise found.error
    if interrupts:
        raise KeyboardInterrupt
    return found.result
