"""Facts about the inside of the standard library that workers are started with, on the Python that runs this."""

from __future__ import annotations

import inspect
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import Pipe, context, process, queues, reduction
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cli_kit import environment

from batchmill.pool.executor import NoLock, ReplyReader


class Context:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get_start_method(self, allow_none: bool = False) -> str:
        return "forkserver"

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        if name == "SimpleQueue":
            return lambda: queues.SimpleQueue(ctx=self)
        return lambda *_: NoLock()


def test_replies_are_read_as_the_library_writes_them_and_one_without_an_end_raises() -> None:
    reader, writer = Pipe(duplex=False)
    reader.__class__ = ReplyReader
    replies: list[Any] = [None, b"a" * 3_000_000, b"b" * 20_000, [b"c" * 9_000_000, 7], b"d" * 3_000_000]

    def feed() -> None:
        for reply in replies:
            writer.send(reply)

    feeder = Thread(target=feed, daemon=True)
    feeder.start()
    assert [reader.recv() for _ in replies] == replies  # those that came first are not those read into their memory
    feeder.join(30)
    writer._send(b"\0\0\0\x64 a part")  # type: ignore[attr-defined]
    writer.close()
    with pytest.raises(EOFError):
        reader.recv()
    reader.close()


def test_an_executor_asks_its_context_for_these_and_nothing_more() -> None:
    asked = Context()
    executor = ProcessPoolExecutor(1, asked)  # type: ignore[call-overload]
    assert set(asked.asked) == {"SimpleQueue", "Lock", "BoundedSemaphore"}
    executor.shutdown()


def test_a_queue_of_calls_works_with_a_lock_that_locks_nothing() -> None:
    queue: Any = queues.Queue(2, ctx=Context())
    for number in range(5):  # more than it is said to hold
        assert not queue.full()
        queue.put(number, block=True)
    assert [queue.get(block=True) for _ in range(5)] == [0, 1, 2, 3, 4]
    queue.close()
    queue.join_thread()


def test_a_queue_of_replies_keeps_its_ends() -> None:
    queue: Any = queues.SimpleQueue(ctx=Context())
    assert queue._writer.fileno() != queue._reader.fileno()
    queue.close()


def test_the_main_function_of_a_process_takes_the_parents_sentinel() -> None:
    parameters = inspect.signature(process.BaseProcess._bootstrap).parameters  # type: ignore[attr-defined]
    assert list(parameters) == ["self", "parent_sentinel"]


def test_descriptors_are_passed_by_the_process_that_is_being_started() -> None:
    class Starting:
        DupFd = staticmethod(lambda number: ("passed", number))

        def duplicate_for_child(self, descriptor: int) -> int:
            return descriptor + 1000

    context.set_spawning_popen(Starting())  # type: ignore[arg-type]
    try:
        assert reduction.DupFd(7) == ("passed", 1007)  # type: ignore[comparison-overlap]
    finally:
        context.set_spawning_popen(None)


BROKEN = """
import sys
{change}
sys.argv = ["batchmill", "run", "f.py:double", "lines.txt", "--no-checkpoint"]
from batchmill_cli.main import entry
entry()
"""


@pytest.mark.parametrize(
    "change",
    [
        "from multiprocessing.process import BaseProcess; del BaseProcess._bootstrap",
        "import multiprocessing.queues as queues; queues.SimpleQueue._writer = property(lambda self: self.gone)",
        "import concurrent.futures.process as p; p.ProcessPoolExecutor.__init__ = lambda self, workers: None",
    ],
)
def test_where_something_is_not_as_known_the_run_says_so_in_one_line(change: str, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def double(line):\n    return 2 * line\n")
    (tmp_path / "lines.txt").write_text("a\nb\n")
    ended = subprocess.run(
        [sys.executable, "-c", BROKEN.format(change=change)],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment(),
    )  # fmt: skip
    first, *_ = ended.stderr.splitlines()
    assert ended.returncode == 70
    assert "the process pools of Python 3." in first
    assert "use Python 3.11 to 3.15, or a newer batchmill" in first
    assert "Traceback" not in ended.stderr


STARVED = """
import concurrent.futures.process as process, sys
takes = process._ExecutorManagerThread.process_result_item
seen = []

def starve(thread, reply):
    seen.append(reply)
    if {starves}:
        raise MemoryError
    takes(thread, reply)

process._ExecutorManagerThread.process_result_item = starve
sys.argv = "batchmill run -v f.py:double lines.txt --no-checkpoint -j 2 -o out --chunk-size 1".split()
from batchmill_cli.main import entry
entry()
"""


@pytest.mark.parametrize(
    ("starves", "status", "said"),
    [
        ("len(seen) == 5", 0, "Only 1 worker from now on: there is no memory to serve more"),
        ("len(seen) == 1", 0, "Only 1 worker from now on: there is no memory to serve more"),
        ("len(seen) > 4", 71, "no worker can be heard: most likely, there is not enough memory"),
    ],
    ids=["one", "the first", "all"],
)
def test_a_worker_whose_thread_in_the_parent_died_for_want_of_memory_is_done_without(
    starves: str, status: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "f.py").write_text("def double(line):\n    return 2 * line\n")
    (tmp_path / "lines.txt").write_text("".join(f"{n}\n" for n in range(20)))
    ended = subprocess.run(
        [sys.executable, "-c", STARVED.format(starves=starves)],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment(),
    )  # fmt: skip
    assert ended.returncode == status, ended.stderr
    assert said in ended.stderr
    if not status:
        assert len((tmp_path / "out").read_text().splitlines()) == 20
