"""A worker's process as the parent has it: starting it by any method, how it ended, and ending it.

    forkserver   our fork server forks                    } it has nothing of the program but what is passed
    spawn        our fork server forks, then executes     }
    fork         the program itself forks: faster to begin, and unsafe where it has threads

A worker is ended in one way, here: whoever has told it that nothing more comes waits PATIENCE seconds (`join`), then it
is killed with all that it has started. One that ends in another way leaves that behind: its group is killed when it is
let go of, and what had left the group by the fork server, whose child it has become. By the method fork there is no
such parent, and what has a session of its own lives on. Nothing waits longer: ProcessPoolExecutor joins its process
while it holds a lock that `submit` and `shutdown` need, and an item can leave behind a thread, a timer or an exit
handler without end.
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
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import context, process
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any, NamedTuple, NoReturn

from batchmill.files.anonymous_file import file_with
from batchmill.pool.forkserver import SPAWN, START, ForkServer, Started
from batchmill.system.children import exit_code, kill_tree, pidfd_open, reap, send
from batchmill.worker import bootstrap
from batchmill.worker.bootstrap import STOPPING, Birth, Passed

PATIENCE = 1.0  # seconds that a worker gets to end by itself
_CLOSING = 0.05  # seconds that a process may take from closing its files to being dead
_DEATH = 1.0  # seconds for a killed process to be gone; one in an uninterruptible call may take for ever


class Inherited:
    """A descriptor that reaches a worker as its own: there it is an int, by whatever method it was started."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached, (DupFd(self.descriptor),)


def _detached(passed: Passed) -> int:
    return passed.detach()


class _Passing:
    """What multiprocessing's reducers take for the process that is being started: it collects descriptors."""

    DupFd = Passed

    def __init__(self, descriptors: list[int]) -> None:
        self._descriptors = descriptors

    def duplicate_for_child(self, descriptor: int) -> int:
        """Have it passed; its number."""
        self._descriptors.append(descriptor)
        return len(self._descriptors) - 1


class Origin(NamedTuple):
    """How a worker's process is started: by `method`, which needs the server unless it is fork.

    In a fork, `foreign` are the descriptors that are not batchmill's: what an item forks keeps them. It `adopts` what
    its commands leave behind.
    """

    method: str
    server: ForkServer | None
    name: str
    foreign: frozenset[int] = frozenset()
    adopts: bool = False


class WorkerProcess:
    """A process that calls `target(*args)`. Not one of the program's: `active_children` does not show it."""

    def __init__(self, origin: Origin, target: Callable[..., Any], args: Sequence[Any]) -> None:
        self._origin = origin
        self._target = target
        self._args = args
        self._lock = threading.Lock()
        self._code: int | None = None
        self._is_closed = False
        self.is_started = False
        self.joined = threading.Event()  # by its executor, which has nothing more to do then
        self.is_disconnected = False  # it was found alive, with its end of the pipes closed

    # What the executor calls

    def start(self) -> None:
        """Start it. Raises OSError."""
        sentinel, self._alive = os.pipe()
        self._life, ends = None, [sentinel]
        if not _has_pidfds():  # its end is then told by that of a pipe, whose other end only it has
            self._life, life = os.pipe()
            ends.append(life)
        try:
            self._started = self._fork(ends) if self._origin.method == "fork" else self._request(ends)
            if self._started.pidfd is None and self._life is None:
                self.kill()
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        except BaseException:
            self._close(self._alive, self._life)
            raise
        finally:
            self._close(*ends)
        del self._target, self._args
        self.is_started = True
        _alive.add(self)

    @property
    def pid(self) -> int:
        """The process."""
        return self._started.pid

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable once the process has ended."""
        found = self._life if self._started.pidfd is None else self._started.pidfd
        assert found is not None
        return found

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return not self.wait(0)

    def terminate(self) -> None:
        """Kill it: its executor cannot reach it any more. SIGTERM would mean nothing to a worker."""
        if not self.wait(_CLOSING):
            self.is_disconnected = True
            self.kill()

    def join(self, timeout: float | None = None) -> None:
        """Wait for it to end, PATIENCE seconds at most; then kill it. The last that its executor does."""
        if not self.wait(PATIENCE if timeout is None else min(timeout, PATIENCE)):
            self.kill()
            self.wait(_DEATH)
        self.joined.set()

    @property
    def exitcode(self) -> int | None:
        """How it ended: its status, -N for signal N; None while it has not, and where nobody knows any more."""
        with self._lock:
            if self._code is None and not self._is_closed and self.wait(0):
                connection = self._started.connection
                self._code = _own_child(self.pid) if connection is None else connection.exit_code(self.pid)
            return self._code

    def wait(self, seconds: float) -> bool:
        """Wait for it to end, at most so long; whether it has."""
        if self._is_closed:
            return True
        poll = select.poll()
        poll.register(self.sentinel, select.POLLIN)
        return bool(poll.poll(max(0.0, seconds) * 1000))

    def kill(self) -> None:
        """SIGKILL it and all that it has started. Its process id is its own until it is closed."""
        if not self._is_closed:
            kill_tree(self.pid)

    def close(self) -> None:
        """Let go of a process that has ended, and kill what it has left in its group: the number is still its own."""
        if self._is_closed or not self.wait(0):
            return
        if self.exitcode is not None:  # else nobody keeps the process, nor its number; the exit code is known from here
            send(os.killpg, self.pid, signal.SIGKILL)
        self._is_closed = True
        if self._started.connection is None:
            reap(self.pid)
        else:
            self._started.connection.release(self.pid)
        _alive.discard(self)
        self.forget()

    def forget(self) -> None:
        """Close the descriptors of it; in a child that the program has forked, all that is left to do."""
        self._is_closed = True
        self._close(self._alive, self._life, self._started.pidfd)

    @staticmethod
    def _close(*descriptors: int | None) -> None:
        for descriptor in descriptors:
            if descriptor is not None:
                os.close(descriptor)

    # How it starts

    def _request(self, ends: list[int]) -> Started:
        """Have the fork server start it."""
        assert self._origin.server is not None
        sentinel, *passed = ends
        file = file_with(self._birth(passed))
        try:
            kind = SPAWN if self._origin.method == "spawn" else START
            return self._origin.server.start(kind, [sentinel, file, *passed], adopts=self._origin.adopts)
        finally:
            os.close(file)

    def _birth(self, passed: list[int]) -> bytes:
        passing, program = _Passing(passed), process.current_process()
        context.set_spawning_popen(passing)  # type: ignore[arg-type]
        try:
            call = bytes(ForkingPickler.dumps((self._target, self._args)))
        finally:
            context.set_spawning_popen(None)
        tracker = _tracker()
        return pickle.dumps(
            Birth(
                name=self._origin.name,
                parent_pid=os.getpid(),
                parent_name=program.name,
                authkey=bytes(program.authkey),
                path=[os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)],
                arguments=list(sys.argv),
                directory=process.ORIGINAL_DIR,  # type: ignore[attr-defined]
                start_method=multiprocessing.get_start_method(allow_none=True),
                tracker=None if tracker is None else Passed(passing.duplicate_for_child(tracker)),
                call=call,
            )
        )

    def _fork(self, ends: list[int]) -> Started:
        held = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # till it has its own handlers
        try:
            with _forking():
                pid = os.fork()
            if pid == 0:
                self._live_forked(ends[0])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return Started(pid, pidfd_open(pid), None)

    def _live_forked(self, sentinel: int) -> NoReturn:
        """Be the worker. Whatever goes wrong, this process must not go on in the parent's place."""
        try:
            self._close(self._alive, self._life)
            bootstrap.live_forked(sentinel, self._origin.foreign, self._origin.name, self._target, self._args)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)


def _has_pidfds() -> bool:
    found = pidfd_open(os.getpid())
    if found is not None:
        os.close(found)
    return found is not None


def _own_child(pid: int) -> int | None:
    try:
        return exit_code(pid)
    except ChildProcessError:  # the program has let go of it
        return None


@contextmanager
def _forking() -> Iterator[None]:
    """Python warns that forks of programs with threads may hang: whoever asked for this method knows. With -W error it
    would be raised after the fork, and the child lost."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _tracker() -> int | None:
    """The way to the program's resource tracker, if it has one or will: who attaches to its shared memory must not have
    another, which would remove that memory when the worker ends."""
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    if tracker is None:
        return None
    if "multiprocessing.shared_memory" in sys.modules:
        tracker.ensure_running()
    descriptor: int | None = tracker._resource_tracker._fd
    return descriptor


_alive: weakref.WeakSet[WorkerProcess] = weakref.WeakSet()


def _forget() -> None:
    """In a child that the program has forked: its end must not be waited for in place of the parent's."""
    for worker in list(_alive):
        worker.forget()
    _alive.clear()


os.register_at_fork(after_in_child=_forget)
