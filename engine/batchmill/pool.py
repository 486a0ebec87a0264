"""Owns the lanes: executors, board, limits, kill and replacement. Never knows what a chunk means.

    Pool --start--> Lane --hello--> ready --submit*--> events --...--> lost --gone--> (a new lane takes the slot)

A lane is one worker process behind a ProcessPoolExecutor of its own (max_workers=1): when a worker dies its executor
breaks, and that costs this lane alone. Whatever a lane answers comes as an Event to `put`, called in a thread of the
executor. A lane is `gone` only when its process is confirmed dead: till then nothing it was running may run elsewhere.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import select
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple

from batchmill import server, worker
from batchmill.errors import InvalidUsage
from batchmill.signals import held
from batchmill.worker import ALARM, COLUMNS, NO_LIMIT, RECORD_BITS, LaneSetup

PATIENCE = 1.0  # seconds that idle workers get to end by themselves
_MASK = (1 << RECORD_BITS) - 1
_MOMENT = 0.05  # seconds that a process may take from closing its files to being dead
_LATE = 2.0  # seconds after which a broken executor's thread is not waited for any more
_SERVERS = 3  # fork servers that may die under the start of one lane
_SERVER_PAUSE = 0.02  # seconds for a dying one to be seen as dead
_main_hidden = threading.Lock()


class Event(NamedTuple):
    """A lane's answer: `future` holds what the call `tag` returned or raised."""

    lane: Lane
    tag: Any
    future: Future[Any]


class Executor:
    """The one place that touches what ProcessPoolExecutor keeps to itself (CPython 3.10 to 3.14)."""

    def __init__(self, context: BaseContext, initargs: tuple[Any, ...]) -> None:
        self._executor = ProcessPoolExecutor(1, context, worker.start, initargs)
        self._process: Any = None

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """As ProcessPoolExecutor.submit; the first call starts the process."""
        future = self._executor.submit(function, *arguments)
        if self._process is None:
            (self._process,) = self._executor._processes.values()
            # A worker killed half-way through a reply must show as the end of the pipe: the manager thread would
            # wait for the rest for ever while this process itself holds a writing end (FAULTS.md row 22).
            self._executor._result_queue._writer.close()  # type: ignore[attr-defined]
        return future

    @property
    def pid(self) -> int:
        """The worker's process."""
        return int(self._process.pid)

    @property
    def is_over(self) -> bool:
        """Whether the manager thread has ended: only then may anyone else ask for the exit code."""
        thread: Any = self._executor._executor_manager_thread
        return thread is None or not thread.is_alive()

    @property
    def exitcode(self) -> int | None:
        """The worker's exit status, -N for signal N, 255 where its fork server died; None where nobody knows."""
        try:
            code: int | None = self._process.exitcode
        except (OSError, ValueError, AssertionError):
            return None
        return code

    def shutdown(self) -> None:
        """Let the worker end when it has nothing more to do; returns at once."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class _Inherited:
    """A descriptor that reaches a lane as its own, whatever the start method.

    DupFd is made while the process object is pickled: made before, it would run a server thread for it, which prints a
    traceback when the lane is killed meanwhile.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _descriptor_of, (DupFd(self.descriptor),)


def _descriptor_of(duplicate: Any) -> int:
    descriptor: int = duplicate.detach()
    return descriptor


class Lane:
    """One worker process in slot `slot`. `outstanding` holds the tags it has not answered."""

    def __init__(self, slot: int, executor: Executor) -> None:
        self.slot = slot
        self.executor = executor
        self.outstanding: list[Any] = []
        self.ready = False
        self.lost = False
        self.lowered = False
        self.retiring = False
        self.disconnected = False
        self.items = 0  # answered for, in all
        self.rss = 0  # bytes, when it was last looked at
        self.pid = 0
        self.pidfd: int | None = None
        self.started = time.monotonic()
        self.busy_since = 0.0  # when it was last given something while it had nothing else
        self.lost_at = 0.0

    @property
    def is_dead(self) -> bool:
        """Whether the process is confirmed to have ended."""
        if self.pidfd is not None:
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            return bool(poll.poll(0))
        return self.executor.is_over or not _exists(self.pid)


class Pool:
    """The lanes of a run. `put` takes Events, from any thread.

    `kwargs` go to every call of the function; `output` is a descriptor that workers write to in place of stderr,
    `lock` one that lanes lock to pass on what commands print (`passing`).
    """

    def __init__(
        self,
        setup: LaneSetup,
        kwargs: dict[str, Any],
        size: int,
        put: Callable[[Event], None],
        *,
        start_method: str | None = None,
        preload: Sequence[str] = (),
        output: int | None = None,
        lock: int | None = None,
    ) -> None:
        self._context = multiprocessing.get_context(start_method or server.default_start_method())
        self._put = put
        self._setup = pickle.dumps(setup)
        try:
            self._kwargs = pickle.dumps(kwargs)
        except Exception as error:  # what pickle raises for a lambda, for a lock and for a recursion differs
            raise InvalidUsage(f"kwargs cannot be sent to workers: {error}", "give what can be pickled") from None
        self._inherited = tuple(None if one is None else _Inherited(one) for one in (output, lock))
        self._board = self._context.RawArray("q", COLUMNS * size)
        self._view = memoryview(self._board).cast("B").cast("q")
        self._preload = list(preload)
        self.lanes: dict[int, Lane] = {}
        self._dying: list[Lane] = []
        self.size = size

    @property
    def start_method(self) -> str:
        """How workers are started."""
        return str(self._context.get_start_method())

    def start(self, slot: int) -> Lane:
        """Start a lane in a free slot; its `hello` comes as an Event with the tag ("hello", 0). Raises OSError."""
        for _ in range(_SERVERS):
            try:
                return self._start(slot)
            except (EOFError, ConnectionError):  # the fork server died in these milliseconds: there will be another
                time.sleep(_SERVER_PAUSE)
        raise OSError("the fork server dies again and again")

    def _start(self, slot: int) -> Lane:
        self._view[COLUMNS * slot] = 0
        self._view[COLUMNS * slot + 1] = NO_LIMIT
        if self.start_method == "forkserver":
            server.start(self._preload)
        elif self.start_method == "spawn":
            server.start_tracker()
        # INT, TERM and HUP go to all processes of a terminal, and would end a lane that has not yet said otherwise.
        with held(), _hidden_main(), server.environment():
            executor = Executor(self._context, (self._board, slot, self._setup, self._kwargs, self._inherited))
            lane = Lane(slot, executor)
            self.submit(lane, ("hello", 0), worker.hello)
        lane.pid = executor.pid
        lane.pidfd = _pidfd(lane.pid)
        self.lanes[slot] = lane
        return lane

    def submit(self, lane: Lane, tag: Any, function: Callable[..., Any], *arguments: Any) -> bool:
        """Have the lane call `function`; False where the lane turns out to be broken (an Event will tell)."""
        if lane.lowered and not lane.outstanding:
            self._view[COLUMNS * lane.slot + 1] = NO_LIMIT
            lane.lowered = False
        if not lane.outstanding:
            lane.busy_since = time.monotonic()
        lane.outstanding.append(tag)
        try:
            future = lane.executor.submit(function, *arguments)
        except RuntimeError as error:  # BrokenProcessPool is one
            future = Future()
            future.set_exception(error)
        future.add_done_callback(lambda done: self._put(Event(lane, tag, done)))
        return not future.done() or future.exception() is None

    def answered(self, lane: Lane, tag: Any) -> None:
        """Note that an Event for `tag` has come."""
        if tag in lane.outstanding:
            lane.outstanding.remove(tag)
            lane.busy_since = time.monotonic()

    # The board

    def running(self, lane: Lane) -> tuple[int, int] | None:
        """(serial, offset) of the record that the lane is running, or was when it died; None between chunks."""
        number = self.number(lane)
        return (number >> RECORD_BITS, (number & _MASK) - 1) if number else None

    def number(self, lane: Lane) -> int:
        """The board's number of the record that the lane is running; 0 between chunks."""
        return self._view[COLUMNS * lane.slot]

    def ask_to_raise(self, lane: Lane, number: int) -> None:
        """Have the lane raise Timeout in the record with that number, if it is still at it."""
        self._view[COLUMNS * lane.slot + 2] = number
        try:
            os.kill(lane.pid, ALARM)
        except OSError:
            pass  # it died just now: an Event will tell

    def lower(self, lane: Lane, serial: int, offset: int) -> None:
        """Forbid the lane to start record `offset` of chunk `serial` or any later one, till all it has is answered."""
        number = (serial << RECORD_BITS) + 1 + offset
        self._view[COLUMNS * lane.slot + 1] = min(number, self._view[COLUMNS * lane.slot + 1])
        lane.lowered = True

    # Ends

    def kill(self, lane: Lane) -> None:
        """Kill the lane's worker and all that its items started, at once."""
        lane.lowered = True
        self._view[COLUMNS * lane.slot + 1] = 0
        _kill_group(lane.pid)

    def broke(self, lane: Lane, error: BaseException) -> None:
        """The lane's executor broke with `error`. Its process may be alive: then an item closed its pipe to us."""
        # An end of file comes a moment before the process counts as dead; without one the fork server has gone.
        if "EOFError" in str(error.__cause__):
            _wait_dead(lane, _MOMENT)
            lane.disconnected = not lane.is_dead
        self.give_up(lane)

    def give_up(self, lane: Lane) -> None:
        """The lane's executor is broken, or it must go: kill what is left of it; `gone` says when its slot is free."""
        if lane.lost:
            return
        self._let_go(lane)
        self.kill(lane)

    def _let_go(self, lane: Lane) -> None:
        lane.lost = True
        lane.lost_at = time.monotonic()
        self._dying.append(lane)
        self.lanes.pop(lane.slot, None)

    def retire(self, lane: Lane) -> None:
        """Give the lane nothing more; when it has answered all it has, it ends by itself and its slot becomes free."""
        lane.retiring = True
        self.lower(lane, 0, 0)
        if not lane.outstanding and not lane.lost:
            self._let_go(lane)
            lane.executor.shutdown()

    def gone(self) -> Iterator[Lane]:
        """The lanes given up whose process is dead and whose executor has come to rest since the last call."""
        for lane in list(self._dying):
            if not lane.is_dead:
                if not lane.retiring or time.monotonic() - lane.lost_at > _LATE:
                    _kill_group(lane.pid)  # it may have been starting, before it made its group
                continue
            if lane.executor.is_over or time.monotonic() - lane.lost_at > _LATE:
                self._dying.remove(lane)
                _close(lane.pidfd)
                lane.pidfd = None
                yield lane

    @property
    def dying(self) -> int:
        """Lanes given up that are not confirmed dead yet."""
        return len(self._dying)

    @property
    def pids(self) -> list[int]:
        """The workers' processes."""
        return [lane.pid for lane in self.lanes.values()]

    def dismiss(self) -> None:
        """Let all lanes end when they are idle; returns at once. `close` waits for them."""
        for lane in (*self.lanes.values(), *self._dying):
            lane.executor.shutdown()

    def close(self, patience: float) -> None:
        """End all lanes: those that are idle by themselves, the rest by SIGKILL after `patience` seconds."""
        lanes = [*self.lanes.values(), *self._dying]
        self.dismiss()
        deadline = time.monotonic() + patience
        for lane in lanes:
            while not lane.is_dead and time.monotonic() < deadline:
                _wait_dead(lane, deadline - time.monotonic())
        for lane in lanes:
            _kill_group(lane.pid)
            _close(lane.pidfd)
            lane.pidfd = None
        self.lanes.clear()
        self._dying.clear()


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Workers would run the parent's main module again: a script without a guard, or a whole console script."""
    with _main_hidden:
        found = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = found


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except OSError:
            pass  # it has gone, or has not made its group yet


def _wait_dead(lane: Lane, patience: float) -> None:
    if lane.pidfd is None:
        time.sleep(min(0.01, max(0.0, patience)))
        return
    poll = select.poll()
    poll.register(lane.pidfd, select.POLLIN)
    poll.poll(max(0.0, patience) * 1000)
