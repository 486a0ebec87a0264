"""Running a batch out of reach of what is raised in the caller's thread.

    caller's thread: [wait] --whatever is raised--> stop(error, insist) --.    KeyboardInterrupt, what a signal handler
    its own:         [work] <---------------------------------------------'    or another thread raises in this one

In the middle of handing out work, or of starting a process, it would leave half of that behind.
"""

from __future__ import annotations

import _thread
import contextvars
import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

from batchmill.batch.signals import INSIST_AFTER
from batchmill.errors import BatchmillError, Interrupted
from batchmill.system import threads
from batchmill.system.scarcity import lacking

T = TypeVar("T")

SLICE = 0.2  # seconds of a wait: a signal that another thread took is seen by this one after it
_DEPTH = 3  # exceptions that may be raised at the same moment, beside the one that is dealt with
_LAST = 1.0  # seconds that a thread may take from its last word to its end


class OwnThread(Generic[T]):
    """Runs `work()` in a thread of its own. `stop(error, insist)` asks it to end, because of what was raised here.

    A second exception, a second or more after the first, insists. `is_over` says that the work has ended. `errands` are
    done here meanwhile.
    """

    def __init__(
        self,
        work: Callable[[], T],
        stop: Callable[[BaseException, bool], None],
        name: str,
        errands: queue.SimpleQueue[Callable[[], None]] | None = None,
    ) -> None:
        self._work, self._stop = work, stop
        self._errands: queue.SimpleQueue[Callable[[], None]] = errands or queue.SimpleQueue()
        self._has_errands = errands is not None
        self._context = contextvars.copy_context()
        self._name, self._is_daemon = name, threading.current_thread().daemon
        self._thread: threading.Thread | None = None
        self._claim: dict[str, str] = {}  # who decided first: the thread that it runs, or the caller that it does not
        self._ended = threading.Lock()  # what the caller waits for; `is_over` is what counts
        self._ended.acquire()
        self._raised: list[tuple[BaseException, TracebackType | None]] = []
        self._told = 0
        self._asked = 0.0  # monotonic time of the first exception
        self._first: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self.has_begun = False
        self.is_over = False
        self._is_past = False
        self._result: T

    def start(self) -> None:
        """Begin. What is raised here meanwhile is raised when the work has ended."""
        try:
            self._begin()
        except BaseException as error:
            self._raised += [(error, error.__traceback__)]
        if self._raised:
            self.outlast()

    def outlast(self, first: Callable[[], None] | None = None) -> None:
        """Call `first`, wait for the end of the work (which begins if it has not), and raise what was raised here
        meanwhile: of several exceptions an exit or KeyboardInterrupt, or else the first one."""
        self._first = first
        self._see_through(_DEPTH)
        if self._raised:
            self._raise()

    def outcome(self) -> T:
        """What the work has returned, or raised."""
        error = self._error
        if error is not None:  # of one that says what is wrong, nobody needs to see where we found it
            raise error.with_traceback(None if isinstance(error, BatchmillError) else error.__traceback__)
        return self._result

    # In the caller's thread, where anything may be raised between any two calls and at every turn of a loop. Between
    # being caught and being noted down nothing is called; what is raised there in the same moment is caught outside.

    def _see_through(self, depth: int) -> None:
        while not self._is_past:
            try:
                if depth:
                    self._see_through(depth - 1)
                else:
                    self._wait()
            except BaseException as error:
                self._raised += [(error, error.__traceback__)]

    def _wait(self) -> None:
        if not self._raised:
            self._begin()
        elif self._claim.setdefault("by", "caller") == "caller":
            self.is_over = True  # it has not begun, and never will
        if self._first is not None:
            self._first()
        self._tell()
        while not self.is_over:
            if self._has_errands:
                self._run_errand(SLICE)
            else:
                self._ended.acquire(timeout=SLICE)
        while not self._errands.empty():
            self._run_errand(0)
        if self._thread is not None:
            self._thread.join(_LAST)
        self._is_past = True

    def _run_errand(self, patience: float) -> None:
        try:
            errand = self._errands.get(timeout=patience)
        except queue.Empty:
            return
        errand()

    def _begin(self) -> None:
        if not self.has_begun:
            self.has_begun = True
            try:  # Thread.start waits for the thread to be up, and must not be left half-way
                _thread.start_new_thread(self._launch, ())
            except RuntimeError as error:
                raise lacking(error, "this run cannot begin") or error from None

    def _tell(self) -> None:
        while self._told < len(self._raised):
            now = time.monotonic()
            self._asked = self._asked or now
            self._stop(self._raised[self._told][0], now - self._asked >= INSIST_AFTER)
            self._told += 1

    def _raise(self) -> None:
        found, self._raised = self._raised, []
        error, at = next((one for one in found if not isinstance(one[0], Exception)), found[0])
        if self._error is not None and self._error is not error and not isinstance(self._error, Interrupted):
            error.__cause__ = error.__cause__ or self._error
        try:
            raise error.with_traceback(_beyond_this_file(at))
        finally:
            del found, error, at  # they hold this frame, which holds them

    # In other threads

    def _launch(self) -> None:
        try:
            threads.start(self._run, self._name, daemon=self._is_daemon)
        except BaseException as error:  # the system has no more
            self._end(error)

    def _run(self) -> None:
        if self._claim.setdefault("by", "thread") != "thread":
            return
        self._thread = threading.current_thread()
        try:
            self._result = self._context.run(self._work)
            self._end(None)
        except BaseException as error:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self.is_over = True
        self._ended.release()
        self._errands.put(_nothing)  # wakes who waits for one


def _nothing() -> None:
    pass


def in_own_thread(
    work: Callable[[], T],
    stop: Callable[[BaseException, bool], None],
    errands: queue.SimpleQueue[Callable[[], None]] | None = None,
) -> T:
    """What `work()` returns or raises, or what is raised here meanwhile; see OwnThread."""
    thread = OwnThread(work, stop, "run", errands)
    thread.outlast()
    return thread.outcome()


def _beyond_this_file(at: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that tells something: where a handler of the user's own was."""
    while at is not None and at.tb_frame.f_code.co_filename == __file__:
        at = at.tb_next
    return at
