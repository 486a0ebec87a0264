"""What a whole process and all it starts cost: wall time and CPU, or memory.

CPU of the tree is exact on Linux: this process adopts what others leave behind (PR_SET_CHILD_SUBREAPER) and waits for
all of it. Memory of the tree is the largest sum of resident sizes seen in a look every tenth of a second; pages that
processes share count in each.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

_SUBREAPER = 36
_LOOK, _TREE_LOOK = 0.01, 0.1  # seconds
_LEFT_BEHIND = 10.0  # seconds that processes may outlive their parent


class Cost(NamedTuple):
    """Seconds; `parent_cpu` is that of the process itself, `total_cpu` of it and all it started."""

    wall: float
    parent_cpu: float
    total_cpu: float


class Memory(NamedTuple):
    """Peaks of resident bytes: of the process itself, and of it and all it started."""

    parent: float
    tree: float


class Broke(Exception):
    """The process ended with an error; its message is the last line it wrote."""


def adopt_orphans() -> None:
    """Have orphans of what is started become children of this process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def run(command: list[str], folder: Path, log: Path) -> Cost:
    """Run a program to its end, undisturbed. Raises Broke."""
    before, begun = _children_cpu(), time.perf_counter()
    with _started(command, folder, log) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        wall = time.perf_counter() - begun
        parent_cpu = _cpu(process.pid)
    return Cost(wall, parent_cpu, _children_cpu() - before)


def watch(command: list[str], folder: Path, log: Path) -> Memory:
    """Run a program to its end and look at its memory all the while. Raises Broke."""
    with _started(command, folder, log) as process:
        looks = _Looks(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        looks.stop()
    return Memory(looks.parent, max(looks.tree, looks.parent))


@contextlib.contextmanager
def _started(command: list[str], folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is waited for at the end of the block, with all it left behind."""
    # Compiled once, as an installed package is: the round that watches memory comes first, and leaves the bytecode.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with (
        open(log, "wb") as errors,
        subprocess.Popen(command, cwd=folder, env=environ, stdout=errors, stderr=errors) as p,
    ):
        yield p
    _reap()
    if p.returncode:
        written = log.read_text(errors="replace").strip().splitlines() or [""]
        raise Broke(f"status {p.returncode}: {written[-1]}")


def _cpu(pid: int) -> float:
    """CPU seconds of a process that has ended and was not waited for yet, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Looks:
    """Looks at the memory of a process and of its tree from a thread: the main one waits for its end."""

    def __init__(self, pid: int) -> None:
        self.parent = self.tree = 0.0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The process has ended."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        next_tree = 0.0
        while not self._over.wait(_LOOK):
            self.parent = max(self.parent, _peak_rss(self._pid))
            if time.monotonic() >= next_tree:
                next_tree = time.monotonic() + _TREE_LOOK
                self.tree = max(self.tree, _tree_rss(self._pid))


def _peak_rss(pid: int) -> float:
    """The kernel's own peak of a process so far; 0 when it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024.0
    except (OSError, StopIteration):
        return 0.0


def _tree_rss(pid: int) -> float:
    total = 0.0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
    return total


def _reap() -> None:
    """Wait for what the process left behind."""
    deadline = time.monotonic() + _LEFT_BEHIND
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(_LOOK)
        except ChildProcessError:
            return


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
