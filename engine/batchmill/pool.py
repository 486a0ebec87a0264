"""Owns the lanes of this machine: a worker process and its executor each. Never knows what a chunk means.

A lane is one worker process behind a ProcessPoolExecutor of its own (max_workers=1): when a worker dies its executor
breaks, and that costs this lane alone.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import select
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing.context import BaseContext
from multiprocessing.reduction import DupFd
from typing import Any

from batchmill import server, worker
from batchmill.errors import InvalidUsage
from batchmill.lanes import Event, Lane, Lanes
from batchmill.signals import held
from batchmill.worker import ALARM, COLUMNS, NO_LIMIT, LaneSetup

PATIENCE = 1.0  # seconds that idle workers get to end by themselves
_SERVERS = 3  # fork servers that may die under the start of one lane
_SERVER_PAUSE = 0.02  # seconds for a dying one to be seen as dead


class OwnExecutor:
    """The one place that touches what ProcessPoolExecutor keeps to itself (CPython 3.11 to 3.15). See Executor."""

    def __init__(self, context: BaseContext, initargs: tuple[Any, ...]) -> None:
        self._executor = ProcessPoolExecutor(1, context, worker.start, initargs)
        self._process: Any = None
        self._pidfd: int | None = None

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """As ProcessPoolExecutor.submit; the first call starts the process."""
        future = self._executor.submit(function, *arguments)
        if self._process is None:
            (self._process,) = self._executor._processes.values()
            self._pidfd = _pidfd(self.pid)
            # A worker killed half-way through a reply must show as the end of the pipe: the manager thread would
            # wait for the rest for ever while this process itself holds a writing end (FAULTS.md row 22).
            self._executor._result_queue._writer.close()  # type: ignore[attr-defined]
        return future

    @property
    def pid(self) -> int:
        """See Executor."""
        return int(self._process.pid)

    @property
    def is_dead(self) -> bool:
        """See Executor."""
        if self._pidfd is not None:
            return self._poll(0)
        return self.is_over or not _exists(self.pid)

    def _poll(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._pidfd or 0, select.POLLIN)
        return bool(poll.poll(max(0.0, seconds) * 1000))

    @property
    def is_over(self) -> bool:
        """Whether the manager thread has ended."""
        thread: Any = self._executor._executor_manager_thread
        return thread is None or not thread.is_alive()

    @property
    def exitcode(self) -> int | None:
        """See Executor."""
        try:
            code: int | None = self._process.exitcode
        except (OSError, ValueError, AssertionError):
            return None
        return code

    def shutdown(self) -> None:
        """See Executor."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def kill(self) -> None:
        """See Executor."""
        for kill in (os.killpg, os.kill):
            try:
                kill(self.pid, signal.SIGKILL)
            except OSError:
                pass  # it has gone, or has not made its group yet

    def wait(self, seconds: float) -> None:
        """See Executor."""
        if self._pidfd is None:
            time.sleep(min(0.01, max(0.0, seconds)))
        else:
            self._poll(seconds)

    def close(self) -> None:
        """See Executor."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


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


class Pool(Lanes):
    """The lanes of a run on this machine.

    `kwargs` (or their pickle) go to every call of the function; `output` is a descriptor that workers write to in place
    of stderr, `lock` one that lanes lock to pass on what commands print (`passing`).
    """

    def __init__(
        self,
        setup: LaneSetup,
        kwargs: dict[str, Any] | bytes,
        size: int,
        put: Callable[[Event], None],
        *,
        start_method: str | None = None,
        preload: Sequence[str] = (),
        output: int | None = None,
        lock: int | None = None,
    ) -> None:
        self._context = multiprocessing.get_context(start_method or server.default_start_method())
        self._shared = self._context.RawArray("q", COLUMNS * size)
        super().__init__(size, put, memoryview(self._shared).cast("B").cast("q"))
        self._setup = pickle.dumps(setup)
        self._kwargs = kwargs if isinstance(kwargs, bytes) else packed(kwargs)
        self._inherited = tuple(None if one is None else _Inherited(one) for one in (output, lock))
        self._preload = list(preload)

    @property
    def start_method(self) -> str:
        """How workers are started."""
        return str(self._context.get_start_method())

    def start(self, slot: int) -> Lane:
        """See Lanes.start."""
        for _ in range(_SERVERS):
            try:
                return self._start(slot)
            except (EOFError, ConnectionError):  # the fork server died in these milliseconds: there will be another
                time.sleep(_SERVER_PAUSE)
        raise OSError("the fork server dies again and again")

    def _start(self, slot: int) -> Lane:
        self._board[COLUMNS * slot] = 0
        self._board[COLUMNS * slot + 1] = NO_LIMIT
        if self.start_method == "forkserver":
            server.start(self._preload)
        elif self.start_method == "spawn":
            server.start_tracker()
        # INT, TERM and HUP go to all processes of a terminal, and would end a lane that has not yet said otherwise.
        forked = self.start_method == "fork"  # it is this process, and has os.environ as it is
        with held(), _hidden_main(), nullcontext() if forked else server.environment():
            executor = OwnExecutor(self._context, (self._shared, slot, self._setup, self._kwargs, self._inherited))
            lane = Lane(slot, executor)
            self.submit(lane, ("hello", 0), worker.hello)
        lane.pid = executor.pid
        self.lanes[slot] = lane
        return lane

    def ask_to_raise(self, lane: Lane, number: int) -> None:
        """Have the lane raise Timeout in the record with that number, if it is still at it."""
        self._board[COLUMNS * lane.slot + 2] = number
        try:
            os.kill(lane.pid, ALARM)
        except OSError:
            pass  # it died just now: an Event will tell


def packed(kwargs: dict[str, Any]) -> bytes:
    """Keyword arguments on their way to a lane; raises InvalidUsage for what cannot be pickled."""
    try:
        return pickle.dumps(kwargs)
    except Exception as error:  # what pickle raises for a lambda, for a lock and for a recursion differs
        raise InvalidUsage(f"kwargs cannot be sent to workers: {error}", "give what can be pickled") from None


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Workers would run the parent's main module again: a script without a guard, or a whole console script."""
    with server.birth:
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


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True
