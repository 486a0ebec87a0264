"""The fork server that workers come from, as the parent has it: a process of our own, never multiprocessing's.

The program's own fork server, resource tracker, environment, signal mask and list of preloaded modules stay as they
are: the server is started with an environment and a mask of its own (posix_spawn), and is reached by a pair of sockets
without a name. One that has died, or was stopped, is replaced by the next start; its workers do not notice.

    parent --> Request + descriptors    START, SPAWN: a worker, by fork alone or with a fresh interpreter; the number 1
                                        says that it adopts what its commands leave: that ends before ENDED is said
                                        RELEASE: nobody asks for that worker any more
           <-- Reply                    HELLO: it is up; STARTED (with a pidfd); FAILED: errno; ENDED: exit code

It takes as long to start as all of the parent's own imports. The command line, which knows early that it will need
workers and whose process is all ours then, calls `prestart` first: the server is forked from it, with those imports.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

from batchmill.system.children import kill_descendants, pidfd_open
from batchmill.system.interpreter import command
from batchmill.worker.bootstrap import STOPPING

START, SPAWN, RELEASE = range(3)
HELLO, STARTED, FAILED, ENDED = range(4)
MAX_DESCRIPTORS = 64  # with one request
_FORMAT = struct.Struct("=iqq")
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_DEATHS = 3  # servers that may die under the start of one worker
_LOOK = 0.1  # seconds between looks at a server that does not answer
_PATIENCE = 2.0  # seconds for an exit code to come, and for a server to end


class Preload(NamedTuple):
    """What a server imports for its workers to share: `modules`, looked for in the directories `path` first, with
    `variables` in its environment."""

    modules: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


NOTHING = Preload()


class Message(NamedTuple):
    """A request or a reply: what it is, the process that it is about, and a number (errno, exit code)."""

    kind: int
    pid: int = 0
    number: int = 0

    def send(self, control: socket.socket, descriptors: Sequence[int] = ()) -> None:
        """Send it, with descriptors. Raises OSError where nobody is left to read it."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        control.sendmsg([_FORMAT.pack(*self)], rights, getattr(socket, "MSG_NOSIGNAL", 0))


def receive(control: socket.socket) -> tuple[Message | None, list[int]]:
    """The next message and the descriptors with it; None at the end. They are not inherited by what is started."""
    data, descriptors = b"", []
    while len(data) < _FORMAT.size:
        more, found, _, _ = socket.recv_fds(control, _FORMAT.size - len(data), MAX_DESCRIPTORS, _CLOSE_ON_EXEC)
        descriptors += found
        for descriptor in found:
            os.set_inheritable(descriptor, False)
        if not more:
            return None, descriptors
        data += more
    return Message(*_FORMAT.unpack(data)), descriptors


class Started(NamedTuple):
    """A worker's process: `pidfd` becomes readable when it ends; None where the system has no such thing."""

    pid: int
    pidfd: int | None
    connection: Connection | None  # with the server that started it


class ServerLost(ConnectionError):
    """The server's process has ended, or was stopped from outside."""


class Connection:
    """One process of a fork server, from its start by `launch` to its end. Every method may be called from any
    thread."""

    def __init__(self, preload: Preload, launch: Launch) -> None:
        ours, theirs = socket.socketpair()
        self._control = ours
        self._codes: dict[int, int] = {}
        self._lock = threading.RLock()
        self.is_lost = False  # the process has ended, or was given up
        self._is_up = self._is_ending = False
        with theirs:
            self._pid = launch(theirs.fileno(), preload)
        self._pidfd = pidfd_open(self._pid)
        _connections.add(self)

    def is_up(self, patience: float) -> bool:
        """Whether a start would be answered at once, after at most `patience` seconds: preloading may take minutes.

        One that was stopped meanwhile is lost.
        """
        with self._lock:
            self._is_up = self._is_up or self.is_lost or _is_readable(self._control, patience)
            if not self._is_up and _is_stopped(self._pid):
                self._lose()
            return self._is_up

    def start(self, kind: int, descriptors: Sequence[int], *, adopts: bool = False) -> Started:
        """Start a worker that is given `descriptors` (see bootstrap.live), and `adopts` what its commands leave. Raises
        OSError, and ServerLost."""
        with self._lock:
            self._send(Message(kind, number=adopts), descriptors)
            while True:
                reply, found = self._receive(None)
                if reply.kind == FAILED:
                    raise OSError(reply.number, os.strerror(reply.number))
                if reply.kind == STARTED:
                    return Started(reply.pid, found[0] if found else None, self)

    def exit_code(self, pid: int) -> int | None:
        """How a worker that is dead ended; None where that cannot be known any more."""
        deadline = time.monotonic() + _PATIENCE
        with self._lock:
            try:
                while pid not in self._codes:
                    self._receive(deadline)
            except OSError:
                return None
            return self._codes[pid]

    def release(self, pid: int) -> None:
        """Let go of a worker that is dead."""
        with self._lock:
            self._codes.pop(pid, None)
            try:
                self._send(Message(RELEASE, pid))
            except OSError:
                pass

    def _send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        if self.is_lost:
            raise ServerLost("the fork server is gone")
        try:
            message.send(self._control, descriptors)
        except OSError as error:
            self._lose()
            raise ServerLost("the fork server is gone") from error

    def _receive(self, deadline: float | None) -> tuple[Message, list[int]]:
        """The next message; raises TimeoutError after the deadline, ServerLost where the server will not answer."""
        try:
            while not self.is_lost and not _is_readable(self._control, _LOOK):
                if _is_stopped(self._pid):
                    self._lose()
                elif deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError
            message, found = (None, []) if self.is_lost else receive(self._control)
        except ConnectionError:
            message, found = None, []
        if message is None:
            self._lose()
            raise ServerLost("the fork server is gone")
        self._is_up = True
        if message.kind == ENDED:
            self._codes[message.pid] = message.number
        return message, found

    def _lose(self) -> None:
        """Give the process up. Its workers go on: they are not its own but the run's; unless that is over."""
        if not self.is_lost:
            self.is_lost = True
            self._control.close()
            self._end_process()
            _connections.discard(self)

    def _end_process(self) -> None:
        """Kill the process if it has not ended, and let go of it."""
        try:
            if self._is_ending:
                kill_descendants(self._pid)
            if self._pidfd is None:
                os.kill(self._pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        except OSError:
            pass  # the program let go of it, by a handler for SIGCHLD or by ignoring that
        if self._pidfd is not None:
            os.close(self._pidfd)

    def stop(self) -> None:
        """Have the server end, with all that its workers left behind, and wait for that."""
        with self._lock:
            self._is_ending = True
            if not self.is_up(0.0):
                self._lose()  # it would not look before it has imported what it preloads
            if self.is_lost:
                return
            self._control.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + _PATIENCE
            try:
                while True:
                    self._receive(deadline)
            except (OSError, MemoryError):
                self._lose()

    def forget(self) -> None:
        """In a process forked from the one that it belongs to: it is not ours."""
        self.is_lost = True
        self._control.close()
        if self._pidfd is not None:
            os.close(self._pidfd)


class ForkServer:
    """A fork server with `preload` imported; its process is started by the first call that needs it, by `launch`; one
    that takes its place, with a fresh interpreter."""

    def __init__(self, preload: Preload = NOTHING, launch: Launch | None = None) -> None:
        self.preload = preload
        self.users = 0
        self._launch = launch or _spawn
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def prestart(self) -> Connection:
        """Start the process, if there is none. Raises OSError."""
        with self._lock:
            if self._connection is None or self._connection.is_lost:
                self._connection = Connection(self.preload, self._launch)
                self._launch = _spawn
            return self._connection

    def is_up(self, patience: float) -> bool:
        """As Connection.is_up; where one is lost, the next call asks another. Raises OSError where none can be
        started."""
        return self.prestart().is_up(patience)

    def start(self, kind: int, descriptors: Sequence[int], *, adopts: bool = False) -> Started:
        """Start a worker. Raises OSError where that cannot be."""
        for _ in range(_DEATHS):
            try:
                return self.prestart().start(kind, descriptors, adopts=adopts)
            except ServerLost:
                continue
        meanwhile = f", preloading {', '.join(self.preload.modules)}" if self.preload.modules else ""
        raise OSError(f"the fork server ended {_DEATHS} times before it had started a worker{meanwhile}")

    def stop(self) -> None:
        """End its process, and what workers have left behind."""
        if self._connection is not None:
            self._connection.stop()


_lock = threading.Lock()
_servers: dict[Preload, ForkServer] = {}
_connections: set[Connection] = set()


def borrow(preload: Preload = NOTHING) -> ForkServer:
    """The server with `preload` imported; to be given back."""
    with _lock:
        found = _servers.setdefault(preload, ForkServer(preload))
        found.users += 1
        return found


def give_back(server: ForkServer) -> None:
    """End a server without users: the program's children are then its own again."""
    with _lock:
        server.users -= 1
        if not server.users:
            _servers.pop(server.preload, None)
            server.stop()


def prestart(preload: Preload = NOTHING, launch: Launch | None = None) -> None:
    """Have the server that will be borrowed start now, by `launch`. Raises OSError."""
    with _lock:
        _servers.setdefault(preload, ForkServer(preload, launch)).prestart()


def stop_all() -> None:
    """End all servers: this process is about to end."""
    for connection in list(_connections):
        connection.stop()


def default_start_method() -> str:
    """Forkserver wherever there is one: fork after threads deadlocks, spawn is ten times slower."""
    import multiprocessing

    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


Launch = Callable[[int, Preload], int]  # starts a process with that end of a pair of sockets, that imports these


def _spawn(control: int, preload: Preload) -> int:
    """Start the server's process with a fresh interpreter, standard input empty, and output to stderr."""
    target = 3 if control != 3 else 4
    words = command("pool.forkserver_main", "serve", target, list(preload.modules), list(preload.path))
    actions: list[tuple[object, ...]] = [
        (os.POSIX_SPAWN_DUP2, control, target),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 2 if _is_open(2) else 0, 1),
    ]
    if not _is_open(2):
        actions.append((os.POSIX_SPAWN_DUP2, 0, 2))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return os.posix_spawn(
        words[0], words, {**os.environ, **dict(preload.variables)}, file_actions=actions, setsigmask={*mask, *STOPPING}
    )


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _is_readable(control: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(control, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _is_stopped(pid: int) -> bool:
    try:
        from batchmill.system.machine import is_stopped  # psutil takes its time

        return is_stopped(pid)
    except (OSError, MemoryError, ImportError):  # nothing is left to find out with
        return False


def _forget() -> None:
    """In a child that the program has forked: what is the parent's stays the parent's."""
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it
    for connection in list(_connections):
        connection.forget()
    _connections.clear()
    _servers.clear()


os.register_at_fork(after_in_child=_forget)
