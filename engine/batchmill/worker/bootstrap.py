"""What makes a process a worker: its group, its signals, its descriptors, and that it never outlives the parent.

    fork server, fresh interpreter --> live(descriptors) --.
    fork of the program -------------> live_forked --------+--> become_worker --> the executor's loop --> [end]

From here on nothing of ours reaches what an item starts: descriptors are closed on exec and in forked children, and
signals are there as the program had them.
"""

from __future__ import annotations

import fcntl
import mmap
import multiprocessing
import os
import pickle
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import process
from multiprocessing.connection import wait as wait_for
from typing import Any, NoReturn

from batchmill.system.children import kill_descendants
from batchmill.value_class import value_class

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # sent to all processes of a terminal, or of a service


_F_SETSIG = 10  # fcntl's, Linux; not in the fcntl module before 3.13
_EASIER_VICTIM = 500  # of 1000 points in the kernel's choice whom to kill for memory
_PARENTS_OWN = (signal.SIGPIPE, signal.SIGUSR1)  # a forked worker would inherit the parent's handlers
_passed: list[int] = []  # descriptors that came with the order to live, for what is unpickled to claim
_foreign: set[int] = set()  # descriptors that are not batchmill's: the program's, or those of a preloaded module
_own: set[int] = set()  # those that are, and that no process started by an item may have
_sentinels: list[int] = []  # the one that tells of the parent's end
_handlers: set[object] = set()  # batchmill's, which a child forked by an item must not have either


@value_class
class Birth:
    """What a worker's process is to know of the program before it unpickles anything of it."""

    name: str
    parent_pid: int
    parent_name: str
    authkey: bytes
    path: list[str]
    arguments: list[str]
    directory: str  # in which the program started
    start_method: str | None  # that the program has chosen for its own processes
    tracker: Passed | None  # the program's resource tracker, if it has one
    call: bytes  # (target, args), pickled


class Passed:
    """A descriptor that a worker's process is given: the one with that number in the order to live."""

    def __init__(self, number: int) -> None:
        self.number = number

    def detach(self) -> int:
        """The descriptor in this process, from now on the caller's to close."""
        return _passed[self.number]


def live(descriptors: Sequence[int], foreign: Iterable[int] = ()) -> NoReturn:
    """Be the worker that is described in the file that comes second; the parent lives as long as the first is open.

    `foreign` are the descriptors that this process has beside those, from what was preloaded.
    """
    sentinel, file = descriptors[:2]
    _passed[:] = descriptors[2:]
    with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as data:
        birth: Birth = pickle.loads(data)
    os.close(file)
    tracker = None if birth.tracker is None else birth.tracker.detach()
    become_worker(sentinel, {*foreign, *(() if tracker is None else (tracker,))})
    _prepare(birth, tracker)
    target, args = pickle.loads(birth.call)
    own = _Process(target=target, name=birth.name, args=args)
    _work(own, (birth.parent_pid, birth.parent_name), sentinel)


def live_forked(
    sentinel: int, foreign: Iterable[int], name: str, target: Callable[..., Any], args: Sequence[Any]
) -> NoReturn:
    """Be the worker that was forked from the program itself; `foreign` are the descriptors that are the program's."""
    become_worker(sentinel, foreign)
    _work(_Process(target=target, name=name, args=args), (os.getppid(), process.current_process().name), sentinel)


def _prepare(birth: Birth, tracker: int | None) -> None:
    """Take over from the program what multiprocessing's own workers do, but for its main module."""
    process.current_process().authkey = birth.authkey
    process.ORIGINAL_DIR = birth.directory  # type: ignore[attr-defined]
    sys.path = birth.path
    sys.argv = birth.arguments
    if birth.start_method is not None:
        multiprocessing.set_start_method(birth.start_method, force=True)
    if tracker is not None:
        from multiprocessing import resource_tracker

        resource_tracker._resource_tracker._fd = tracker  # type: ignore[attr-defined]


class _Process(multiprocessing.Process):
    """A worker's process in itself. What its main function raises is not printed: its pipes are gone, or an item left
    something behind that raises between items. The parent sees that it has ended, and tells what that means."""

    def run(self) -> None:
        try:
            super().run()
        except BaseException:
            raise SystemExit(1) from None


def _work(own: multiprocessing.Process, parent: tuple[int, str], sentinel: int) -> NoReturn:
    """Be a process of multiprocessing's kind, with a parent of that id and name; end with all that it has started."""
    code = 1
    try:
        own._parent_pid, own._parent_name = parent  # type: ignore[attr-defined]
        code = own._bootstrap(parent_sentinel=sentinel)  # type: ignore[attr-defined]
    finally:
        kill_descendants(os.getpid())
        os._exit(code)


def become_worker(sentinel: int, foreign: Iterable[int]) -> None:
    """Make this process the leader of a group that dies with the parent and ignores its signals.

    `foreign` are the open descriptors that are not batchmill's.
    """
    os.setpgid(0, 0)
    _die_with_parent(sentinel)
    _foreign.update(foreign)
    seal()
    for descriptor in descriptors_above(2):
        os.set_inheritable(descriptor, False)
    _take_signals()
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_become_stranger)
    _be_first_victim()


def seal() -> None:
    """Take stock of the descriptors that are batchmill's: all but the foreign ones, as long as no item has run."""
    _own.clear()
    _own.update(set(descriptors_above(2)) - _foreign)


def handle(signum: int, handler: Callable[[int, Any], None]) -> None:
    """Install a handler of ours, which a child forked by an item is not to have."""
    _handlers.add(handler)
    signal.signal(signum, handler)


def descriptors_above(lowest: int) -> list[int]:
    """The open descriptors of this process above that one."""
    found = (int(name) for name in os.listdir("/dev/fd"))
    return [descriptor for descriptor in found if descriptor > lowest and _is_open(descriptor)]


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:  # the one that the list was read from
        return False
    return True


def close_all_above(lowest: int, keep: int) -> None:
    """Close what this process has inherited above that descriptor, but for one."""
    for descriptor in descriptors_above(lowest):
        if descriptor != keep:
            os.close(descriptor)


_held = threading.local()


def _hold() -> None:
    """Before an item forks: a signal that came before the child has the usual handlers would do nothing there."""
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*STOPPING, signal.SIGUSR2})


def _let_go() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


def _become_stranger() -> None:
    """In a child that an item has forked: it has nothing to do with the run, and signals mean what they always do."""
    for descriptor in _own:
        try:
            os.close(descriptor)
        except OSError:
            pass  # an item had closed it before
    _own.clear()
    for signum in signal.valid_signals():
        if signal.getsignal(signum) in _handlers:
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    _handlers.clear()
    _let_go()


def _be_first_victim() -> None:
    """When memory runs out, let the kernel take a worker, and never the parent: that costs one item."""
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            adjusted = min(1000, int(file.read()) + _EASIER_VICTIM)
            file.seek(0)
            file.write(str(adjusted))
    except (OSError, ValueError):
        pass  # no Linux, or a container that forbids it


def end_with_parent(end: Callable[[], object]) -> None:
    """Have `end` called when the parent has ended, in place of being killed: for a worker that runs nothing but our
    own code, and always comes to its signal handlers."""
    if sys.platform != "linux":
        return
    (sentinel,) = _sentinels

    def look(signum: int, frame: object) -> None:
        if _is_over(sentinel):
            end()

    handle(signal.SIGIO, look)
    fcntl.fcntl(sentinel, _F_SETSIG, signal.SIGIO)
    fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
    if _is_over(sentinel):
        end()


def _is_over(sentinel: int) -> bool:
    poll = select.poll()
    poll.register(sentinel, select.POLLIN)
    return bool(poll.poll(0))


def _die_with_parent(sentinel: int) -> None:
    """No worker outlives the parent, not even inside C code that never lets go of the interpreter.

    On Linux the kernel itself kills the worker's group when the parent's end of the sentinel pipe closes (row 32 of
    tests/README.md#the-fault-matrix: PR_SET_PDEATHSIG does not, for the parent of a worker is the fork server).
    Elsewhere a thread waits.
    """
    _sentinels[:] = [sentinel]
    if sys.platform == "linux":
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(sentinel, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
        if _is_over(sentinel):  # a parent that died before this line sends no signal any more
            os._exit(1)
    else:
        threading.Thread(target=_exit_after, args=(sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait_for([sentinel])
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _nothing(signum: int, frame: object) -> None:
    """A handler, for SIG_IGN would be inherited by what items start."""


def _take_signals() -> None:
    """Mind no signal that asks to stop: a terminal, `timeout` and systemd send it to every process, and the parent
    decides. What was ignored from the start (HUP under nohup) stays so, also for what items start."""
    for signum in STOPPING:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            handle(signum, _nothing)
            signal.siginterrupt(signum, False)
    for signum in _PARENTS_OWN:
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL if signum != signal.SIGPIPE else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOPPING, signal.SIGCHLD, signal.SIGUSR2})


def _no_breakpoint(*args: Any, **keywords: Any) -> None:
    raise RuntimeError("breakpoint() works in `batchmill try`, not in a worker")


def redirect(is_silent: bool, inherited: int | None) -> None:
    """Close stdin, and send stdout and stderr where the run wants them.

    `inherited` is a descriptor to write to in place of stderr, or None; `is_silent`: all of it is dropped.
    """
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    target = null if is_silent else 2 if inherited is None else inherited
    os.dup2(target, 1)
    os.dup2(target, 2)
    for extra in {null, target} - {0, 1, 2}:
        os.close(extra)
    sys.breakpointhook = _no_breakpoint
    # The fork server's own streams may be anything; a worker's are line-buffered text, and never raise for a character.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the life of the process, as the next
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = open(  # noqa: SIM115
            descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
