"""Owns what makes a process a lane: its group, its signals, its streams, and that it never outlives the parent."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait as wait_for
from typing import Any

_F_SETSIG = 10  # fcntl's, Linux; not in the fcntl module before 3.13
_EASIER_VICTIM = 500  # of 1000 points in the kernel's choice whom to kill for memory
_PARENTS_OWN = (signal.SIGPIPE, signal.SIGUSR1)  # a forked lane would inherit the parent's handlers


def become_lane() -> None:
    """Make this process the leader of a group that dies with the parent and does not mind the parent's signals."""
    os.setpgid(0, 0)
    _die_with_parent()
    _take_signals()
    _be_first_victim()


def _be_first_victim() -> None:
    """When memory runs out, let the kernel take a lane, and never the parent: that costs one item."""
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            adjusted = min(1000, int(file.read()) + _EASIER_VICTIM)
            file.seek(0)
            file.write(str(adjusted))
    except (OSError, ValueError):
        pass  # no Linux, or a container that forbids it


def _die_with_parent() -> None:
    """No lane outlives the parent, not even inside C code that never lets go of the interpreter.

    On Linux the kernel itself kills the lane's group when the parent's end of the sentinel pipe closes (FAULTS.md row
    32: PR_SET_PDEATHSIG does not, for the parent of a lane is the fork server). Elsewhere a thread waits.
    """
    parent = parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel
    if sys.platform == "linux":
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(sentinel, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
        # A parent that died before this line sends no signal any more.
        poll = select.poll()
        poll.register(sentinel, select.POLLIN)
        if poll.poll(0):
            os._exit(1)
    else:
        threading.Thread(target=_exit_after, args=(sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait_for([sentinel])
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _nothing(signum: int, frame: object) -> None:
    """A handler, for SIG_IGN would be inherited by what items start."""


def _take_signals() -> None:
    # The parent decides when a lane stops: a terminal, `timeout` and systemd signal every process of a run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _nothing)
    signal.signal(signal.SIGHUP, _nothing)
    for signum in _PARENTS_OWN:
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL if signum != signal.SIGPIPE else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def _no_breakpoint(*args: Any, **keywords: Any) -> None:
    raise RuntimeError("breakpoint() works in `batchmill try`, not in a worker")


def own(inherited: Any) -> int:
    """The descriptor that a lane was given; a forked one has it as it is."""
    descriptor: int = inherited if isinstance(inherited, int) else inherited.descriptor
    return descriptor


def redirect(output: str, inherited: Any) -> None:
    """Close stdin, and send stdout and stderr where the run wants them.

    `output` is "stderr", "none" or a file's name; `inherited` is a descriptor (or holds it) to write to in place
    of stderr.
    """
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if output == "none":
        target = null
    elif output != "stderr":
        target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    elif inherited is None:
        target = 2
    else:
        target = own(inherited)
    os.dup2(target, 1)
    os.dup2(target, 2)
    for extra in {null, target} - {0, 1, 2}:
        os.close(extra)
    sys.breakpointhook = _no_breakpoint
    # The fork server's own streams may be anything; a lane's are line-buffered text, and never raise for a character.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the life of the process, as the next
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = open(  # noqa: SIM115
            descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
