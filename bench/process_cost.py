"""Owns what a whole process and all it starts cost: wall time, CPU, memory. Never knows what it does.

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
from pathlib import Path
from typing import NamedTuple

import psutil

from main_job import look

_SUBREAPER = 36
_LOOK, _TREE_LOOK = 0.01, 0.1  # seconds
_LEFT_BEHIND = 10.0  # seconds that processes may outlive their parent


class Cost(NamedTuple):
    """Seconds and bytes; `parent` is the process itself, `total` and `tree` all of them."""

    wall: float
    parent_cpu: float
    total_cpu: float
    parent_rss: float
    tree_rss: float


class Broke(Exception):
    """The process ended with an error; its message is the last line it wrote."""


def adopt_orphans() -> None:
    """Have orphans of what is started become children of this process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def run(command: list[str], folder: Path, log: Path) -> Cost:
    """Run a program to its end. Raises Broke."""
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    before = _children_cpu()
    with open(log, "wb") as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=errors, stderr=errors)
        memory = _Memory(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        wall = time.perf_counter() - begun
        parent_cpu = _cpu(process.pid)
        process.wait()
        memory.stop()
    _reap()
    if process.returncode:
        written = log.read_text(errors="replace").strip().splitlines() or [""]
        raise Broke(f"status {process.returncode}: {written[-1]}")
    total = _children_cpu() - before
    return Cost(wall, parent_cpu, total, memory.parent, max(memory.tree, memory.parent))


def _cpu(pid: int) -> float:
    """CPU seconds of a process that has ended and was not waited for yet, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Memory:
    """Watches the memory of a process and of its tree from a thread: the main one waits for its end."""

    def __init__(self, pid: int) -> None:
        self.parent = self.tree = 0.0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The process has ended."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        next_tree = 0.0
        while not self._over.wait(_LOOK):
            seen = look(self._pid)
            self.parent = seen[1] if seen is not None else self.parent
            if time.monotonic() >= next_tree:
                next_tree = time.monotonic() + _TREE_LOOK
                self.tree = max(self.tree, _tree_rss(self._pid))


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
