"""Faults of what items start: nothing of the run reaches it, by any way to start it and any start method of workers.

What it sees is compared with what the same function's children see in a program of its own.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import environment
from fault_kit import METHODS, PROGRAM, finish, lines_of, until
from process_kit import born_with

FUNCTIONS = '''
import ctypes, json, multiprocessing, os, signal, subprocess, sys, time

# What is open above 2, but for the listing itself and libffi's own file, which ctypes keeps open on some systems.
OPEN = """
import os

def descriptors():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass
    return sorted(fd for fd, path in found.items() if fd > 2 and "/libffi.so" not in path)
"""
exec(OPEN)

LOOK = OPEN + """
import json, signal, sys
fds = descriptors()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
words = {name: status[name].strip() for name in ("SigBlk", "SigIgn")}
open(sys.argv[1], "w").write(json.dumps({"fds": fds, **words}))
"""


def look(path):
    """What a forked child sees: its open descriptors above 2, and what signals mean to it."""
    fds = descriptors()
    handlers = {signal.Signals(n).name: str(signal.getsignal(n)) for n in (1, 2, 10, 12, 13, 15, 17)}
    mask = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    with open(path, "w") as file:
        json.dump({"fds": fds, "handlers": handlers, "mask": mask}, file)


def command(path):
    return [sys.executable, "-c", LOOK, path]


def by_subprocess(path):
    subprocess.run(command(path), check=True, close_fds=False)


def by_posix_spawn(path):
    os.waitpid(os.posix_spawn(sys.executable, command(path), os.environ), 0)


def by_c(path):
    import shlex
    assert ctypes.CDLL(None).system(shlex.join(command(path)).encode()) == 0


def by_fork(path):
    pid = os.fork()
    if pid == 0:
        look(path)
        os._exit(0)
    os.waitpid(pid, 0)


def by_process(path):
    process = multiprocessing.get_context("fork").Process(target=look, args=(path,))
    process.start()
    process.join()


WAYS = {way.__name__: way for way in (by_subprocess, by_posix_spawn, by_c, by_fork, by_process)}


def seen(item):
    path = f"{item['way']}.{os.getpid()}"
    try:
        WAYS[item["way"]](path)
        found = json.load(open(path))
    finally:
        os.unlink(path)
    if item["way"] == "by_process":  # has pipes of its own
        found["fds"] = found["fds"][3:]
    return found


def ends(item):
    """How children end that are asked to, and which start method is the default."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=time.sleep, args=(1000,))
    process.start()
    process.terminate()
    process.join()
    with context.Pool(1) as pool:
        pool.map(abs, [-1])
    code = "import time; print(flush=True); time.sleep(1000)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    return [process.exitcode, child.wait(), multiprocessing.get_start_method(), sorted(os.environ)]


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](json.loads(sys.argv[2]))))
'''
WAYS = ("by_subprocess", "by_posix_spawn", "by_c", "by_fork", "by_process")


def plain(cwd: Path, function: str, item: dict[str, str], **options: Any) -> Any:
    """What the function returns in a program of its own."""
    command = [sys.executable, "f.py", function, json.dumps(item)]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, timeout=60, check=True, **options)
    return json.loads(done.stdout)


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    (tmp_path / "f.py").write_text(FUNCTIONS)
    (tmp_path / "items.jsonl").write_text("".join(json.dumps({"id": way, "way": way}) + "\n" for way in WAYS))
    return tmp_path


@pytest.mark.sampled(4)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ignored", [None, signal.SIGHUP], ids=["defaults", "nohup"])
def test_children_of_a_function_see_what_they_see_without_a_run(
    method: str, ignored: signal.Signals | None, cwd: Path
) -> None:
    before: Callable[[], None] | None = None if ignored is None else (lambda: ignore(ignored))
    expected = {way: plain(cwd, "seen", {"way": way}, preexec_fn=before) for way in WAYS}
    command = ("f.py:seen", "items.jsonl", "--no-checkpoint", "-o", "out.jsonl", "-j", "2", "--start-method", method)
    ended = finish(*command, cwd=cwd, before=before)
    assert ended.status == 0, ended.err
    assert {line["id"]: line["result"] for line in lines_of(cwd / "out.jsonl")} == expected
    assert all(found["fds"] == [] for found in expected.values())


def ignore(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("method", METHODS)
def test_children_of_a_function_end_as_they_do_without_a_run(method: str, cwd: Path) -> None:
    (cwd / "one.jsonl").write_text('{"id": 1}\n')
    command = ("f.py:ends", "one.jsonl", "--no-checkpoint", "-o", "out.jsonl", "--start-method", method)
    ended = finish(*command, "--timeout", "30s", cwd=cwd)
    assert ended.status == 0, ended.err
    [line] = lines_of(cwd / "out.jsonl")
    terminated, interrupted, default, names = plain(cwd, "ends", {})
    assert line["result"][:3] == [terminated, interrupted, default]
    assert (terminated, interrupted) == (-signal.SIGTERM, -signal.SIGINT)
    assert set(names) <= set(line["result"][3])


def test_try_and_a_run_are_alike_to_children(cwd: Path) -> None:
    for way in WAYS:
        done = subprocess.run(
            [PROGRAM, "try", "f.py:seen", "items.jsonl", "--id", way],
            cwd=cwd, env=environment(), capture_output=True, timeout=60, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout)["fds"] == []
        assert json.loads(done.stdout) == plain(cwd, "seen", {"way": way})


def test_a_command_has_its_three_streams_and_no_more(cwd: Path) -> None:
    look = 'import os; print(sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1])'
    for words in (["--", sys.executable, "-c", look, "{}"], ["--stdin", "--", sys.executable, "-c", look]):
        ended = finish("--no-checkpoint", "items.jsonl", *words, cwd=cwd, command=(PROGRAM, "exec"))
        assert (ended.status, ended.out) == (0, "[0, 1, 2]\n" * len(WAYS)), ended.err


def test_a_command_that_writes_to_every_descriptor_reaches_nobody(cwd: Path) -> None:
    (cwd / "evil.py").write_text(
        "import os, pickle, struct\n"
        "class Payload:\n"
        "    def __reduce__(self): return os.system, ('touch owned',)\n"
        "data = pickle.dumps(Payload())\n"
        "for fd in range(3, 64):\n"
        "    try: os.write(fd, struct.pack('!i', len(data)) + data)\n"
        "    except OSError: pass\n"
    )
    words = ("items.jsonl", "--", sys.executable, "evil.py", "{}")
    ended = finish("--no-checkpoint", *words, cwd=cwd, command=(PROGRAM, "exec"))
    assert (ended.status, ended.err) == (0, "")
    assert not (cwd / "owned").exists()


@pytest.mark.parametrize("method", METHODS)
def test_what_a_worker_leaves_that_dies_as_soon_as_it_is_there_ends_too(method: str, cwd: Path) -> None:
    own_session = "" if method == "fork" else 'subprocess.Popen(["sleep", "1000"], start_new_session=True)'
    (cwd / "dies.py").write_text(
        f'import os, subprocess\nsubprocess.Popen(["sleep", "1000"])\n{own_session}\nos._exit(7)\n'
        "def work(item): pass\n"
    )
    mark = {"LEFT_BY": str(cwd)}
    words = ("dies.py:work", "items.jsonl", "--no-checkpoint", "--start-method", method)
    assert "exited with status 7 while importing" in finish(*words, cwd=cwd, **mark).err
    until(lambda: not born_with(f"LEFT_BY={cwd}"), "the end of what it had started")
