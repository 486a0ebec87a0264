"""What there is to do about a child process: how it ended, what it has started, and ending all of that.

A process group is not enough to end a process: what it has started may have made a group or a session of its own. Its
descendants are not all either: an orphan is the child of the nearest subreaper, or of nobody here. Then it is known by
the MARK in its environment, if it has kept that.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable

MARK = "BATCHMILL_MARK"  # whose commands a process belongs to: an environment variable
_SUBREAPER = 36  # prctl's
_TICKS = os.sysconf("SC_CLK_TCK")


def pidfd_open(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def exit_code(pid: int) -> int | None:
    """How an own child ended: its exit code, -N for signal N; None while it runs. It stays a zombie where it can.

    Raises ChildProcessError where somebody else has let go of it.
    """
    if hasattr(os, "waitid"):
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def reap(pid: int) -> None:
    """Let go of an own child, if it has ended."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


def children_of(pid: int) -> list[int]:
    """The processes that a process has started; none where there is no file or memory left to find out with."""
    try:
        from batchmill.system import machine  # only when there is something to end

        return machine.children_of(pid)
    except (OSError, MemoryError, ImportError):
        return []


def descendants(pid: int) -> list[int]:
    """All that descends from a process, the oldest first."""
    found = children_of(pid)
    for one in found:
        found.extend(child for child in children_of(one) if child not in found)
    return found


def adopt_orphans() -> None:
    """Become the parent of what descendants of this process leave behind, where the system has that."""
    if sys.platform != "linux":
        return
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass


def ticks_now() -> int:
    """The moment, as the kernel notes it down for a process that starts; 0 where it does not."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS) if hasattr(time, "CLOCK_BOOTTIME") else 0


def started_since(pid: int, moment: int) -> bool:
    """Whether a process has not ended, and was started no earlier than `moment` (`ticks_now`)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return sys.platform != "linux"
    return fields[0] not in (b"Z", b"X") and int(fields[19]) >= moment


def mark_of(run: str, worker: int) -> str:
    """The MARK of what a worker's commands are, of a run with that mark."""
    return f"{worker}.{run}"


def marked(mark: str) -> list[int]:
    """The processes with that MARK in their environment, but for this one; none where that cannot be read."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        try:
            if name.isdecimal() and int(name) != os.getpid():
                with open(f"/proc/{name}/environ", "rb") as file:
                    found += [int(name)] if wanted in file.read().split(b"\0") else []
        except OSError:
            pass  # it has gone, or is another user's
    return found


def kill_marked(mark: str) -> None:
    """SIGKILL all that has that MARK, and what it has started."""
    _kill_all(lambda: marked(mark))


def kill_tree(pid: int) -> None:
    """SIGKILL a process, its group if it leads one, and all that it has started.

    Each is stopped before its children are looked for: it could start another meanwhile, which nobody would find.
    """
    found = _stopped(pid)
    for kill, target in ((os.killpg, pid), *((os.kill, one) for one in found)):
        send(kill, target, signal.SIGKILL)


def kill_descendants(pid: int) -> None:
    """SIGKILL all that a process has started, but not itself; also what becomes its child by that, as an orphan."""
    _kill_all(lambda: children_of(pid))


def _kill_all(find: Callable[[], Iterable[int]]) -> None:
    """SIGKILL what `find` finds, and what it has started, till there is nothing new."""
    killed: set[int] = set()
    while left := set(find()) - killed:
        for pid in left:
            kill_tree(pid)
        killed |= left


def _stopped(pid: int) -> list[int]:
    """The process and all that descends from it, each stopped, the oldest first.

    What ends while its children are looked for leaves them to one that was looked at before: hence once more.
    """
    found, seen = [pid], 0
    while seen < len(found):
        for one in found[seen:]:
            send(os.kill, one, signal.SIGSTOP)
        seen = len(found)
        found.extend(dict.fromkeys(child for one in found for child in children_of(one) if child not in found))
    return found


def send(kill: Callable[[int, int], None], target: int, signum: int) -> None:
    """Call `os.kill` or `os.killpg`; what has gone, or is another user's, is passed over."""
    try:
        kill(target, signum)
    except OSError:
        pass
