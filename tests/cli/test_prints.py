"""What items on a cluster print: all of it arrives, nothing waits for who reads it, and little is held meanwhile."""

from __future__ import annotations

import os
import queue
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agent_kit import LIMIT, Agent, NullCheckpoint
from cluster_kit import DaskCluster, dask_cluster
from fault_kit import CHECKPOINT, FUNCTIONS, committed, numbered, prepare, running, until

from batchmill.cluster.protocol import pack
from batchmill.cluster.remote_pool import RemotePool
from batchmill.model import Wake

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc"),
    pytest.mark.cluster,
]
MANY = 4 << 20  # bytes, more than there is room for on their way
CHATTY = f"""

def chatty(item):
    if item["n"] == 0:
        print("x" * {MANY - 1})
    return item["n"]
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Two workers of one thread; none of the tests here harms them."""
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    with dask_cluster(tmp_path_factory.mktemp("cluster"), "alice", "bob", nanny=False) as cluster:
        yield cluster


def chatty(directory: Path, count: int) -> tuple[str, ...]:
    """The arguments of a run of which item 0 prints much, to a fifo."""
    prepare(directory, numbered(count))
    (directory / "f.py").write_text(FUNCTIONS + CHATTY)
    os.mkfifo(directory / "prints")
    return ("f.py:chatty", "items.jsonl", "-c", CHECKPOINT, "--chunk-size", "1", "--worker-output", "prints")


@contextmanager
def held(fifo: Path) -> Iterator[int]:
    """Somebody who could read, and does not yet."""
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    try:
        yield reader
    finally:
        os.close(reader)


def read_all(reader: int) -> int:
    """How many bytes come until the end."""
    count = 0
    while data := os.read(reader, 1 << 16):
        assert set(data) <= set(b"x\n")
        count += len(data)
    return count


def test_while_nobody_reads_what_one_item_prints_the_others_are_run_and_committed(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    words = chatty(tmp_path, 40)
    with held(tmp_path / "prints") as reader, running(*words, "--cluster", cluster.address, cwd=tmp_path) as run:
        run.until(lambda: len(committed(tmp_path)) == 39, "all other items to be committed")
        time.sleep(0.5)
        assert "i0" not in committed(tmp_path)
        assert read_all(reader) == MANY
        ended = run.end()
        run.assert_gone()
    assert (ended.status, ended.err) == (0, "")
    assert len(committed(tmp_path)) == 40


def test_a_run_whose_prints_nobody_reads_ends_when_it_is_interrupted(cluster: DaskCluster, tmp_path: Path) -> None:
    words = chatty(tmp_path, 40)
    with held(tmp_path / "prints"), running(*words, "--grace", "1s", "--cluster", cluster.address, cwd=tmp_path) as run:
        run.until(lambda: len(committed(tmp_path)) == 39, "all other items to be committed")
        run.signal(signal.SIGINT)
        ended = run.end()
        run.assert_gone()
    assert ended.status == -signal.SIGINT
    assert len(committed(tmp_path)) == 39


# --- an agent --------------------------------------------------------------------------------------------------------


@pytest.fixture
def talker(tmp_path: Path) -> Iterator[Agent]:
    """An agent with one worker, whose items print a line of so many kilobytes."""
    talker = Agent(tmp_path, "def work(item):\n    print('x' * (item * 1024 - 1))\n", workers=1)
    try:
        talker.until("up")
        talker.start(0)
        yield talker
    finally:
        talker.close()


def printed(talker: Agent, *, acknowledge: bool, limit: float) -> int:
    """The bytes that come until none do for `limit` seconds; the first may take longer."""
    count = 0
    while True:
        try:
            count += len(talker.until("output", limit=limit if count else LIMIT)[1])
        except queue.Empty:
            return count
        if acknowledge:
            talker.send("ack")


def test_an_agent_has_little_on_its_way_that_was_not_acknowledged(talker: Agent) -> None:
    talker.run(0, 1, "4096")
    first = printed(talker, acknowledge=False, limit=1.0)
    assert 0 < first <= 16 << 16
    for _ in range(16):
        talker.send("ack")
    rest, deadline = 0, time.monotonic() + LIMIT
    while first + rest < 4 << 20:
        assert time.monotonic() < deadline
        rest += printed(talker, acknowledge=True, limit=1.0)
    assert first + rest == 4 << 20


def test_what_is_in_the_pipe_at_the_goodbye_comes_without_an_acknowledgement(talker: Agent) -> None:
    talker.run(0, 1, "4096")
    assert printed(talker, acknowledge=False, limit=1.0)
    talker.send("bye")
    assert printed(talker, acknowledge=False, limit=5.0) >= 1 << 16


# --- a run -----------------------------------------------------------------------------------------------------------


def test_what_is_printed_is_acknowledged_when_it_is_written_and_holds_up_nothing() -> None:
    reader, writer = os.pipe()
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    workers = RemotePool(events.put, Wake(), lambda text: None, writer)
    link = NullCheckpoint()
    machine = workers.add("tcp://a:1", "a", link, workers.reserve("a", 1))
    machine.receive(pack("output", b"x" * (1 << 20)))  # more than a pipe holds: a write would block here
    machine.receive(pack("output", b"y"))
    workers.catch_up()
    assert link.sent == []
    found = b""
    while len(found) < (1 << 20) + 1:
        found += os.read(reader, 1 << 16)
    assert found == b"x" * (1 << 20) + b"y"
    until(lambda: link.sent == [["ack"], ["ack"]], "the acknowledgements")
    workers.close(0.0)
    workers.last_words()
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_what_nobody_reads_is_not_waited_for_at_the_end_for_ever_and_goes_nowhere_else(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    workers = RemotePool(lambda event: None, Wake(), lambda text: None, writer)
    machine = workers.add("tcp://a:1", "a", NullCheckpoint(), workers.reserve("a", 1))
    machine.receive(pack("output", b"x" * (1 << 20)))
    begun = time.monotonic()
    workers.last_words()
    assert time.monotonic() - begun < 15
    os.close(writer)
    with open(tmp_path / "other", "wb"):  # takes the number of what was closed
        while os.read(reader, 1 << 16):
            pass
    os.close(reader)
    assert (tmp_path / "other").read_bytes() == b""


def test_what_is_to_be_done_in_the_loop_s_thread_cannot_keep_it_there() -> None:
    done: list[int] = []

    def again() -> None:
        done.append(len(done))
        if len(done) < 10:
            workers.later(again)

    workers = RemotePool(lambda event: None, Wake(), lambda text: None)
    workers.later(again)
    workers.catch_up()
    assert done == [0]
