"""What there is to do about a child process: how it ended, what it has started, and ending all of that.

A process group is not enough to end a process: what it has started may have made a group or a session of its own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


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


def kill_tree(pid: int) -> None:
    """SIGKILL a process, its group if it leads one, and all that it has started.

    Each is stopped before its children are looked for: it could start another meanwhile, which nobody would find.
    """
    found = _stopped(pid)
    for kill, target in ((os.killpg, pid), *((os.kill, one) for one in found)):
        send(kill, target, signal.SIGKILL)


def kill_descendants(pid: int) -> None:
    """SIGKILL all that a process has started, but not itself; also what becomes its child by that, as an orphan."""
    killed: set[int] = set()
    while left := set(children_of(pid)) - killed:
        for child in left:
            kill_tree(child)
        killed |= left


def _stopped(pid: int) -> list[int]:
    """The process and all that descends from it, each stopped, the oldest first."""
    found = [pid]
    for one in found:
        send(os.kill, one, signal.SIGSTOP)
        found.extend(child for child in children_of(one) if child not in found)
    return found


def send(kill: Callable[[int, int], None], target: int, signum: int) -> None:
    """Call `os.kill` or `os.killpg`; what has gone, or is another user's, is passed over."""
    try:
        kill(target, signum)
    except OSError:
        pass
