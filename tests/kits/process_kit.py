"""The processes that tests start: how they are found, and that they end. Imports the standard library alone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

LIMIT = 60.0  # seconds after which a wait is given up


def processes(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    return [pid for pid in _pids() if (stat := _stat(pid)) and int(stat[3]) == session and stat[0] not in "ZX"]


def born_with(variable: str) -> list[int]:
    """The processes that have not ended and were started with `variable`, NAME=value, in their environment.

    It tells what came of a process in whatever session, and whoever is its parent now.
    """
    return [pid for pid in _pids() if variable.encode() in _environment(pid) and is_running(pid)]


def is_running(pid: int) -> bool:
    """Whether there is a process of that number that has not ended."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def parent_of(pid: int) -> int:
    """The parent process, 0 where there is none any more."""
    stat = _stat(pid)
    return int(stat[1]) if stat else 0


def children_of(pid: int) -> list[int]:
    """The processes whose parent it is, also those that have ended and are not reaped yet."""
    return [child for child in _pids() if parent_of(child) == pid]


def command_line(pid: int) -> str:
    """The words that a process was started with, behind its number."""
    try:
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode(errors='replace')}"
    except OSError:
        return f"{pid}"


def is_fork_server(pid: int) -> bool:
    """Whether a child of a run's parent process is its fork server: the only one of them that blocks SIGTERM."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    blocked = next(line.split()[1] for line in lines if line.startswith("SigBlk:"))
    return bool(int(blocked, 16) >> (signal.SIGTERM - 1) & 1)


def send(number: int, pids: Iterable[int]) -> None:
    """Send a signal to processes that may have ended meanwhile."""
    for pid in pids:
        assert pid > 0, "that would be all of our own group"
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def kill(find: Callable[[], Sequence[int]]) -> None:
    """SIGKILL for all that `find()` finds, until it finds nothing."""
    deadline = time.monotonic() + LIMIT
    while (left := find()) and time.monotonic() < deadline:
        send(signal.SIGKILL, left)
        time.sleep(0.01)


def sweep(session: int) -> None:
    """Kill whatever is left of a session that is not our own."""
    assert session != os.getsid(0)
    kill(lambda: processes(session))


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """A process, as subprocess.Popen starts it, in a session of its own.

    The end of the test kills what is left of the session (conftest.py calls `end_all`), whatever becomes of the test:
    `with subprocess.Popen(...)` waits there for ever for a process that hangs.
    """
    process = subprocess.Popen(command, start_new_session=True, **options)
    _to_end.callback(_end, process)
    return process


def end_later(session: int) -> None:
    """The same for a session that was made otherwise; `session` is a child of this process."""
    _to_end.callback(_end_session, session)


def end_all() -> None:
    """End what the test has started."""
    _to_end.close()


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """As `start`; it ends with the block."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        _end(process)


_to_end = ExitStack()


def _end(process: subprocess.Popen[Any]) -> None:
    sweep(process.pid)
    process.wait(LIMIT)
    for stream in (process.stdin, process.stdout, process.stderr):
        try:
            if stream is not None:
                stream.close()
        except OSError:
            pass  # what was still to be written has no reader any more


def _end_session(session: int) -> None:
    sweep(session)
    try:
        os.waitpid(session, 0)
    except ChildProcessError:
        pass  # the test has waited for it


def _pids() -> list[int]:
    """Every process of this machine; none where there is no /proc."""
    try:
        return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    except OSError:
        return []


def _stat(pid: int) -> list[str] | None:
    """What Linux says of a process, from its state on: state, parent, process group, session, ..."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return stat[stat.rindex(")") + 2 :].split()


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # it has ended, or is another user's
