"""The fork server's own process: starting workers from a clean interpreter, and telling how they ended.

A worker that has ended stays a zombie till it is released: until then its process id, and so its group's, cannot
become another's, and killing it late hits nobody else. What workers leave behind when they end, in whatever session
or group, becomes this process's child (PR_SET_CHILD_SUBREAPER), and ends with it, when the parent's end of `control`
closes.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType
from typing import NoReturn

from batchmill.importing import without_collection
from batchmill.pool.forkserver import ENDED, FAILED, HELLO, RELEASE, SPAWN, STARTED, Message, Preload, receive
from batchmill.system.children import adopt_orphans, children_of, exit_code, kill_tree, pidfd_open, reap
from batchmill.system.interpreter import command
from batchmill.worker import bootstrap, random_streams

# What every worker would import again: our code for it, the executor's, and what its calls are unpickled with; and of
# that, what the parent needs as well.
SHARED = ("batchmill.worker.main", "concurrent.futures.process", "multiprocessing.queues")
_PRELOAD = (*SHARED, "batchmill.output.external_sort", "orjson")
_LAST = 2.0  # seconds for killed processes to be gone


def preload(modules: Sequence[str]) -> None:
    """Import them, for the workers to have: one that needs what cannot be imported meets the same error, and tells
    it."""
    for module in modules:
        try:
            importlib.import_module(module)
        except BaseException:
            pass
    for name in ("stdout", "stderr"):  # else each worker would write it again
        with suppress(AttributeError, OSError, ValueError):
            getattr(sys, name).flush()


def fork_off(control: int, wanted: Preload) -> int:
    """Start the fork server by forking this process, whose end of `control` it is; the process id.

    What workers need of ours is imported once, for both. The process must not have another thread, nor anything yet
    that is not batchmill's.
    """
    with without_collection():
        for module in SHARED:
            importlib.import_module(module)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, bootstrap.STOPPING)
    pid = os.fork()
    if pid == 0:
        _be_forked(control, wanted)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def _be_forked(control: int, wanted: Preload) -> NoReturn:
    """Be the server in a fork of the command line's process, with nothing left of what that is."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(2, 1)
        os.dup2(null, 0)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        sys.modules["__main__"] = ModuleType("__main__")  # what items start would import the program again
        serve(control, wanted.modules, wanted.path)
    finally:
        os._exit(1)


def serve(control: int, modules: Sequence[str], path: Sequence[str]) -> NoReturn:
    """Be the fork server, at the other end of `control`. INT, TERM and HUP are blocked, and stay so."""
    os.setpgid(0, 0)
    bootstrap.close_all_above(2, keep=control)
    preload(_PRELOAD)
    sys.path[:0] = path
    with random_streams.noted():
        preload(modules)
    try:
        with socket.socket(fileno=control) as connection:
            _Server(connection).run()
    finally:
        os._exit(0)


class _Server:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._preloaded = set(bootstrap.descriptors_above(2)) - {control.fileno()}
        self._running: set[int] = set()
        self._adopting: set[int] = set()  # of the workers that run, those whose orphans come when they end
        self._ended: set[int] = set()
        self._on_child = signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        self._wake, self._waker = os.pipe()
        for end in (self._wake, self._waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def run(self) -> None:
        """Until nobody is left to ask for anything."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        try:
            Message(HELLO, os.getpid()).send(self._control)
            adopt_orphans()  # before there is a worker: one may end as soon as it is there
            while True:
                ready = dict(poll.poll())
                if self._wake in ready:
                    os.read(self._wake, 4096)
                    self._look()
                if self._control.fileno() in ready and not self._answer():
                    break
        except OSError:
            pass  # the parent has gone between two looks
        self._end()

    def _answer(self) -> bool:
        request, descriptors = receive(self._control)
        if request is None:
            return False
        if request.kind == RELEASE:
            self._running.discard(request.pid)
            self._ended.discard(request.pid)
            reap(request.pid)
        else:
            self._start(request, descriptors)
        return True

    def _start(self, request: Message, descriptors: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            Message(FAILED, number=error.errno or 0).send(self._control)
            return
        else:
            if pid == 0:
                self._become_worker(request.kind, descriptors)
            self._running.add(pid)
            if request.number:
                self._adopting.add(pid)
            pidfd = pidfd_open(pid)
            Message(STARTED, pid).send(self._control, [] if pidfd is None else [pidfd])
            descriptors = descriptors if pidfd is None else [*descriptors, pidfd]
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _become_worker(self, kind: int, descriptors: list[int]) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, self._on_child)
            for descriptor in (self._wake, self._waker, self._control.detach()):
                os.close(descriptor)
            if kind == SPAWN:
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, True)
                words = command("worker.bootstrap", "live", descriptors)
                os.execv(words[0], words)  # noqa: S606 - our own command line
            bootstrap.live(descriptors, self._preloaded)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def _look(self) -> None:
        """Tell of workers that have ended, and let go of orphans that have."""
        for pid in list(self._running):
            code = exit_code(pid)
            if code is not None:
                self._running.discard(pid)
                self._ended.add(pid)
                if pid in self._adopting:
                    self._adopting.discard(pid)
                    self._end_orphans()
                Message(ENDED, pid, code).send(self._control)
        for pid in self._orphans():
            reap(pid)

    def _end(self) -> None:
        """Kill all that is left."""
        self._running.clear()
        self._ended.clear()
        self._end_orphans()

    def _end_orphans(self) -> None:
        """Kill what is no worker, and what comes back from that as an orphan."""
        deadline = time.monotonic() + _LAST
        while (left := self._orphans()) and time.monotonic() < deadline:
            for pid in left:
                kill_tree(pid)
            select.select([], [], [], 0.01)
            for pid in left:
                reap(pid)

    def _orphans(self) -> list[int]:
        return [pid for pid in children_of(os.getpid()) if pid not in self._running and pid not in self._ended]
