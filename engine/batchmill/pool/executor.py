"""The one adapter to ProcessPoolExecutor: an executor with one worker.

It is an Executor as `base` has them.

What it, and the modules that start processes (`processes`, `bootstrap`), use of the inside of the standard library, as
it is in CPython 3.11 to 3.15; where that is not so, the first start says it in one sentence (Unsupported):

    ProcessPoolExecutor   asks its context for get_start_method, Process, SimpleQueue, Lock and BoundedSemaphore; starts
                          its process in the first `submit`; watches `sentinel`, and ends with `terminate` and `join`;
                          keeps its thread in `_executor_manager_thread`, and what is not answered in
                          `_pending_work_items`
    Queue                 asks its semaphore to acquire, to release, and `_semlock._is_zero()`; keeps `_reader` and
                          `_writer`; starts its thread by `_start_thread` in the first `put`, if `_thread` is None
    SimpleQueue           keeps `_reader` and `_writer`, of which `recv` and `send` read and write a length and a pickle
    Process               `_bootstrap(parent_sentinel=)` is its main function in the new process
    reduction             DupFd asks the process being started (set_spawning_popen) to pass a descriptor
"""

from __future__ import annotations

import os
import pickle
import platform
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import process, queues
from multiprocessing.connection import Connection
from typing import Any

from batchmill.errors import Unsupported
from batchmill.pool.processes import Origin, WorkerProcess
from batchmill.system.scarcity import lacking_number
from batchmill.system.threads import ensure_room

_THREADS = 2  # that serve a worker in this process
_MOST_KEPT = 6 << 20  # bytes of memory for a reply that serve again
_JOIN = 1.0  # seconds for the executor's thread to have seen that its process is dead

_spare: deque[bytearray] = deque(maxlen=2)  # as many replies are read at once, mostly


class NoLock:
    """A lock or a semaphore that is always free: one process reads what one other writes.

    Named semaphores, which every executor would have six of, need a resource tracker, and one that a dead worker held
    is never free again.
    """

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """As a lock that is free."""
        return True

    def release(self) -> None:
        """As a lock."""

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def _semlock(self) -> NoLock:
        return self

    def _is_zero(self) -> bool:
        return False


class ReplyReader(Connection):
    """The end of a pipe that replies are read from, each into one piece of memory, which serves again. The library's
    own asks for all that is left, gets 64 KiB of it, and puts such pieces together, in memory that is new each time: of
    large replies that is most of what reading costs."""

    def recv(self) -> Any:
        """As Connection.recv."""
        (size,) = struct.unpack("!i", self._fill(memoryview(bytearray(4))))
        if size < 0:
            (size,) = struct.unpack("!Q", self._fill(memoryview(bytearray(8))))
        try:
            memory = _spare.pop()
        except IndexError:
            memory = bytearray()
        if len(memory) < size:
            memory = bytearray(size)
        with memoryview(memory)[:size] as reply:
            found = pickle.loads(self._fill(reply))
        if len(memory) <= _MOST_KEPT:
            _spare.append(memory)
        return found

    def _fill(self, memory: memoryview) -> memoryview:
        left = memory
        while left:
            taken = os.readv(self.fileno(), [left])
            if not taken:
                raise EOFError("a reply has no end")
            left = left[taken:]
        return memory


class _WorkerFace(WorkerProcess):
    """The executor's process, and the thread that feeds it: `calls` would start that in the executor's own thread,
    where nobody would hear that it cannot be started."""

    def __init__(self, origin: Origin, target: Callable[..., Any], args: Sequence[Any]) -> None:
        super().__init__(origin, target, args)
        self._calls = args[0]

    def start(self) -> None:
        """Start both. Raises OSError and RuntimeError (no thread)."""
        super().start()
        with self._calls._notempty:
            if self._calls._thread is None:
                self._calls._start_thread()

    @property
    def feeder(self) -> threading.Thread:
        """The thread that writes its calls to the pipe."""
        thread: threading.Thread = self._calls._thread
        return thread

    def abandon(self) -> None:
        """End what of it was started."""
        self._calls.close()
        if self.is_started:
            self.kill()
            self.join()
            self.close()


class _Context:
    """What ProcessPoolExecutor takes for a context of multiprocessing."""

    process: _WorkerFace | None = None
    replies: Any = None

    def __init__(self, origin: Origin) -> None:
        self._origin = origin

    def get_start_method(self, allow_none: bool = False) -> str:
        return self._origin.method

    def Lock(self) -> NoLock:  # noqa: N802 - multiprocessing's name
        return NoLock()

    def BoundedSemaphore(self, value: int = 1) -> NoLock:  # noqa: N802
        return NoLock()

    def SimpleQueue(self) -> Any:  # noqa: N802
        self.replies = queues.SimpleQueue(ctx=self)
        return self.replies

    def Process(self, *, target: Callable[..., Any], args: Sequence[Any]) -> _WorkerFace:  # noqa: N802
        self.process = _WorkerFace(self._origin, target, args)
        return self.process


class SingleProcessExecutor:
    """One worker, which first calls `initializer(*initargs)`; its process starts with the first `submit`."""

    def __init__(self, origin: Origin, initializer: Any, initargs: tuple[Any, ...]) -> None:
        self._context: Any = _Context(origin)
        self._process: _WorkerFace
        self._is_shut_down = False
        with _as_known():
            self._executor = ProcessPoolExecutor(  # type: ignore[call-overload]
                1, self._context, initializer=initializer, initargs=initargs
            )

    def start(self, function: Callable[..., Any]) -> Future[Any]:
        """Start the process, and have it call the function first. Raises OSError, and Unsupported."""
        with _as_known():
            try:
                ensure_room(_THREADS)
                future: Future[Any] = self._executor.submit(function)
                self._manager: threading.Thread = self._executor._executor_manager_thread
            except BaseException as error:
                self._abandon()
                if isinstance(error, OSError) or (number := lacking_number(error)) is None:
                    raise
                raise OSError(number, os.strerror(number)) from error
            # A worker killed half-way through a reply must show as the end of the pipe: the manager thread would
            # wait for the rest for ever while this process itself holds a writing end (row 22 of tests/README.md).
            self._context.replies._writer.close()
            self._context.replies._reader.__class__ = ReplyReader  # now: the worker has been given its copy
            self._process = self._context.process
            self._feeder: threading.Thread = self._process.feeder
        return future

    def _abandon(self) -> None:
        """End what was started when something else could not be."""
        self.shutdown()
        process: _WorkerFace | None = self._context.process
        if process is not None:
            process.abandon()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """As ProcessPoolExecutor.submit."""
        future: Future[Any] = self._executor.submit(function, *arguments)
        return future

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_dead(self) -> bool:
        return not self._process.is_alive()

    @property
    def is_over(self) -> bool:
        return self._process.joined.is_set()

    @property
    def is_disconnected(self) -> bool:
        return self._process.is_disconnected

    @property
    def is_deaf(self) -> bool:
        if self._is_shut_down or (self._manager.is_alive() and self._feeder.is_alive()):
            return False
        return bool(self._executor._pending_work_items)

    @property
    def exitcode(self) -> int | None:
        return self._process.exitcode

    def shutdown(self) -> None:
        """As Executor.shutdown, once: a second call would wait for a lock that is held while a worker is being
        ended."""
        if not self._is_shut_down:
            self._is_shut_down = True
            self._executor.shutdown(wait=False, cancel_futures=True)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, seconds: float) -> None:
        self._process.wait(seconds)

    def close(self) -> None:
        """As Executor.close, but what the manager thread may still wait for stays open."""
        if self._process.joined.wait(_JOIN):
            self._process.close()
            self._context.replies.close()


@contextmanager
def _as_known() -> Iterator[None]:
    """Raise Unsupported where the standard library is not as it is known here."""
    try:
        assert hasattr(process.BaseProcess, "_bootstrap")
        yield
    except (AttributeError, TypeError, AssertionError) as error:
        raise Unsupported(
            f"the process pools of Python {platform.python_version()} are not as batchmill knows them: {error}",
            "use Python 3.11 to 3.15, or a newer batchmill",
        ) from error
