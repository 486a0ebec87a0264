"""Facts about the program that batchmill is a guest in: its own processes, signals and environment stay its own."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from cli_kit import environment
from fault_kit import PROGRAM
from process_kit import born_with, start

SCRIPT = '''
import concurrent.futures, multiprocessing, os, signal, subprocess, sys, threading, time

import batchmill


def double(n):
    return 2 * n


def state():
    """What of this process a guest could have changed."""
    return {
        "environment": dict(os.environ),
        "C library's": subprocess.run(["env"], capture_output=True, text=True).stdout,
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "start method": multiprocessing.get_start_method(allow_none=True),
        "children": multiprocessing.active_children(),
        "processes": children(),
        "main": sys.modules["__main__"],
        "directory": os.getcwd(),
        "path": list(sys.path),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "streams": [sys.stdin, sys.stdout, sys.stderr],
    }


def children():
    files = [f"/proc/self/task/{task}/children" for task in os.listdir("/proc/self/task")]
    return [word for file in files for word in open(file).read().split()]


def its_own(method):
    """The program's own processes of each kind work, and end as they should."""
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(double, [1, 2]) == [2, 4]
    with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
        assert executor.submit(double, 4).result(60) == 8
    process = context.Process(target=time.sleep, args=(1000,))
    process.start()
    process.terminate()
    process.join(60)
    assert process.exitcode == -signal.SIGTERM, process.exitcode


def batch():
    assert batchmill.map(double, [1, 2, 3], workers=2, start_method=theirs) == [2, 4, 6]


def during():
    with batchmill.stream(double, iter(range(10**6)), workers=2, start_method=theirs) as outcomes:
        next(iter(outcomes))
        its_own(method)


if __name__ == "__main__":
    method, theirs, where = sys.argv[1:]
    if where == "before":
        its_own(method)
        batch()
    elif where == "during":
        during()
    elif where == "in a thread":
        thread = threading.Thread(target=batch)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
    before = state() if where == "untouched" else None
    batch()
    if before is not None:
        after = state()
        changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
        assert not changed, changed
    its_own(method)
    print("well")
'''


@pytest.mark.sampled(4)
@pytest.mark.parametrize("where", ["before", "during", "in a thread", "untouched"])
@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_the_processes_of_the_program_itself_are_as_without_a_batch(where: str, method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), method, "forkserver", where]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "well\n", "")


@pytest.mark.parametrize("theirs", ["spawn", "fork"])
def test_a_batch_by_another_method_leaves_the_program_alone_too(theirs: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-W", "ignore", str(script), "forkserver", theirs, "untouched"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "well\n", "")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
@pytest.mark.parametrize(
    "program", [[PROGRAM], [sys.executable, "-E", PROGRAM], [sys.executable, "-I", "-m", "batchmill"]]
)
def test_modules_of_the_user_that_are_named_like_standard_ones_hurt_nobody(
    program: list[str], method: str, tmp_path: Path
) -> None:
    for name in ("random", "tempfile", "socket", "struct", "pickle", "mmap", "msgpack", "psutil", "batchmill"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the user’s own')\n")
    (tmp_path / "f.py").write_text("def double(line):\n    return 2 * line\n")
    (tmp_path / "lines.txt").write_text("a\nb\n")
    command = [*program, "run", "f.py:double", "lines.txt", "-o", "-", "--no-checkpoint", "--start-method", method]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment())
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [json.loads(line)["result"] for line in ended.stdout.splitlines()] == ["aa", "bb"]


def test_when_the_program_has_ended_nothing_of_it_is_left(tmp_path: Path) -> None:
    """Whoever reads what it prints, or waits for its process group, is not kept a moment longer."""
    (tmp_path / "f.py").write_text("def double(line):\n    return 2 * line\n")
    (tmp_path / "lines.txt").write_text("a\nb\n")
    for _ in range(5):
        name, value = "BM_MARK", str(uuid.uuid4())
        command = [PROGRAM, "run", "f.py:double", "lines.txt", "--no-checkpoint"]
        process = start(command, cwd=tmp_path, env=environment(**{name: value}), stdout=subprocess.DEVNULL)
        assert process.wait(60) == 0
        assert born_with(f"{name}={value}") == []
