"""What an agent does with its lanes, by its messages alone: no Dask, no run."""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from batchmill import worker
from batchmill.chunking import Pace
from batchmill.function import FunctionSpec
from batchmill.model import Chunk
from batchmill.remote import RemoteExecutor, RemoteLanes
from batchmill.scheduler import lost
from batchmill.settings import Settings
from batchmill.wire import AgentSetup, framed, pack, pickled, read_message, unpack
from batchmill.worker import LaneSetup, Order
from fault_kit import until

LIMIT = 30.0
ITEMS = """
import os
import time

def work(item):
    if item is None:
        return "safe path: " + os.environ.get("PYTHONSAFEPATH", "no")
    if isinstance(item, float):
        time.sleep(item)
    if isinstance(item, str):
        print(item)
    return item

def slow_to_start():
    if os.path.exists(__file__ + ".slow"):
        time.sleep(1.0)
"""


class AgentProcess:
    """A real agent of two lanes; what it says is kept, in order."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.path = folder / "items.py"
        self.path.write_text(ITEMS)
        spec = FunctionSpec("file", "items", "work", path=str(self.path), directory=str(folder))
        lane = LaneSetup(
            spec=spec, init="slow_to_start", format="jsonl", id_field=None, shard=None, with_item=False, run=1,
            ids_needed=True, environ={}, directory=str(folder), output="stderr",
        )  # fmt: skip
        setup = AgentSetup(range(2), lane, pickle.dumps({}), Settings(**limits), {})
        self.said: list[list[Any]] = []
        self._new: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._numbers: dict[int, int] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "batchmill.agent"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )  # fmt: skip
        self._write(pickle.dumps({name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}))
        self._write(pickle.dumps(setup))
        threading.Thread(target=self._read, daemon=True).start()
        self.until("up")

    def _write(self, message: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(framed(message))
        self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while (message := read_message(self.process.stdout.read)) is not None:
            self._new.put(unpack(message))

    def send(self, *message: Any) -> None:
        """Send it a message."""
        self._write(pack(*message))

    def run(self, slot: int, serial: int, *items: str, alone: bool = False) -> None:
        """Have a lane run a chunk of those lines."""
        data = "".join(f"{item}\n" for item in items).encode()
        chunk = Chunk(serial * 100, 1, 0, len(items), data, alone=alone)
        number = self._numbers[slot] = self._numbers.get(slot, 0) + 1
        order = pickled(worker.run_chunk, (Order(serial, 0.0, 1, chunk),))
        self.send("submit", slot, number, order)

    def until(self, word: str, *rest: Any, limit: float = LIMIT) -> list[Any]:
        """The next message that begins like that."""
        deadline = time.monotonic() + limit
        while True:
            message = self._new.get(timeout=max(0.01, deadline - time.monotonic()))
            self.said.append(message)
            if message[: 1 + len(rest)] == [word, *rest]:
                return message

    def lines(self, slot: int) -> int:
        """How many records the next reply of a lane covers."""
        _, tally = pickle.loads(self.until("reply", slot)[3])
        return int(tally.lines)

    def start(self, *slots: int) -> None:
        """Start lanes, and wait until they are up."""
        for slot in slots:
            self.send("start", slot)
        waiting = set(slots)
        while waiting:
            waiting.discard(self.until("reply")[1])

    def is_silent(self, word: str, seconds: float = 0.4) -> bool:
        """Whether no such message comes for so long."""
        try:
            self.until(word, limit=seconds)
        except queue.Empty:
            return True
        return False

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(LIMIT)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    started = AgentProcess(tmp_path)
    yield started
    started.close()


def test_a_chunk_that_is_to_be_alone_begins_when_the_others_are_done_and_the_run_knows(agent: AgentProcess) -> None:
    agent.start(0, 1)
    agent.run(0, 1, "0.3")
    agent.run(1, 2, "1", alone=True)
    agent.until("reply", 0)
    agent.until("alone", 2)
    assert agent.is_silent("reply")
    agent.send("go", 2)
    assert agent.lines(1) == 1


def test_what_follows_a_chunk_that_was_alone_begins_only_when_the_run_knows_that_it_has_ended(
    agent: AgentProcess,
) -> None:
    agent.start(0, 1)
    agent.run(0, 1, "1", alone=True)
    agent.run(1, 2, "2")
    agent.until("alone", 1)
    agent.send("go", 1)
    agent.until("reply", 0)
    agent.until("alone", 0)
    assert agent.is_silent("reply")  # should the machine be lost now, the first chunk would be blamed for the second
    agent.send("go", 0)
    assert agent.lines(1) == 1


def test_a_chunk_that_waits_for_the_machine_is_under_the_limit_that_came_after_it(agent: AgentProcess) -> None:
    agent.start(0, 1)
    agent.run(0, 1, "0.3")
    agent.run(0, 2, "1", "2", "3", "4", alone=True)
    agent.send("lower", 0, 2, 1)
    agent.until("lowered", 0)
    assert agent.lines(0) == 1
    agent.until("alone", 2)
    agent.send("go", 2)
    assert agent.lines(0) == 1
    agent.until("alone", 0)
    agent.send("go", 0)
    agent.run(0, 3, "1", "2", "3", "4")
    assert agent.lines(0) == 4


def test_a_chunk_that_is_to_be_alone_begins_when_the_last_lane_is_up(agent: AgentProcess) -> None:
    agent.start(0)
    agent.path.with_name("items.py.slow").touch()
    agent.send("start", 1)
    agent.until("started", 1)
    agent.run(0, 1, "1", alone=True)
    agent.until("reply", 1)
    agent.until("alone", 1, limit=5.0)


def test_what_items_print_after_the_run_has_said_goodbye_is_passed_on(agent: AgentProcess) -> None:
    agent.start(0)
    agent.run(0, 1, "0.3", '"said at the end"')
    time.sleep(0.1)
    agent.send("bye")
    assert agent.until("output")[1] == b"said at the end\n"


def test_an_agent_whose_run_is_gone_ends_with_its_lanes_and_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    agent = AgentProcess(tmp_path)
    agent.send("start", 0)
    pid = agent.until("started", 0)[2]
    agent.until("reply", 0)
    agent.run(0, 1, "30.0")
    time.sleep(0.2)
    agent.close()
    assert agent.process.returncode == 0
    until(lambda: not psutil.pid_exists(pid), "the end of the lane", limit=2.0)
    assert not list(tmp_path.glob("batchmill-*"))


def test_lanes_have_the_environment_of_the_worker_and_not_what_the_agent_itself_needs(agent: AgentProcess) -> None:
    agent.start(0)
    agent.run(0, 1, "null")
    payload, _ = pickle.loads(agent.until("reply", 0)[3])
    assert b"safe path: no" in payload


def test_a_pace_for_no_lanes_at_all_is_that_for_one() -> None:
    pace = Pace(4)
    pace.seen(10, 1.0)
    pace.fit(0)
    assert pace.next_size(remaining=100.0) >= 1


class _Nowhere:
    """A link that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[list[Any]] = []

    def send(self, message: bytes) -> None:
        self.sent.append(unpack(message))

    def close(self) -> None:
        pass


def _lanes(tmp_path: Path) -> RemoteLanes:
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    return RemoteLanes(events.put, None, lambda text: None)


def test_a_lane_started_on_a_machine_that_was_just_lost_died_with_it(tmp_path: Path) -> None:
    lanes = _lanes(tmp_path)
    machine = lanes.add("tcp://a:1", "a", _Nowhere(), lanes.reserve("a", 1))
    machine.receive(pack("up", 1))
    (slot,) = lanes.vacant()
    machine.lose("it left")
    lane = lanes.start(slot)
    assert lane.machine_lost == "tcp://a:1"
    assert lane.executor.is_dead


def test_where_lanes_are_is_known_from_the_moment_their_machine_joins_and_stays_so(tmp_path: Path) -> None:
    lanes = _lanes(tmp_path)
    first = lanes.add("tcp://a:1", "a", _Nowhere(), lanes.reserve("a", 2))
    assert lanes.hosts() == [(0, "a"), (1, "a")]
    first.lose("it left before anybody looked")
    lanes.add("tcp://b:1", "b", _Nowhere(), lanes.reserve("b", 1))
    lanes.add("tcp://a:2", "a", _Nowhere(), lanes.reserve("a", 2))
    assert lanes.hosts() == [(0, "a"), (1, "a"), (2, "b")]
    assert lanes.hosts(2) == [(2, "b")]
    assert lanes.hosts(3) == []


def test_the_most_lanes_there_were_are_those_that_were_there_at_once(tmp_path: Path) -> None:
    lanes = _lanes(tmp_path)
    lanes.add("tcp://a:1", "a", _Nowhere(), lanes.reserve("a", 2)).lose("it left")
    assert lanes.most == 2
    lanes.add("tcp://b:1", "b", _Nowhere(), lanes.reserve("b", 1))
    assert lanes.most == 2
    lanes.add("tcp://c:1", "c", _Nowhere(), lanes.reserve("c", 3))
    assert lanes.most == 4


def test_a_limit_is_seen_when_all_that_were_sent_are(tmp_path: Path) -> None:
    lanes = _lanes(tmp_path)
    machine = lanes.add("tcp://a:1", "a", _Nowhere(), lanes.reserve("a", 1))
    machine.receive(pack("up", 1))
    lane = lanes.start(*lanes.vacant())
    assert isinstance(lane.executor, RemoteExecutor)
    lanes.lower(lane, 1, 5)
    lanes.lower(lane, 1, 3)
    machine.receive(pack("lowered", lane.slot, (1 << 32) + 3))
    assert not lanes.has_seen(lane)
    machine.receive(pack("lowered", lane.slot, (1 << 32) + 3))
    assert lanes.has_seen(lane)


@pytest.mark.parametrize(("checkpoint", "said"), [("a.ckpt", "--resume"), (None, "with a checkpoint (-c)")])
def test_a_lost_scheduler_promises_only_what_is_kept(checkpoint: str | None, said: str) -> None:
    error = lost("tcp://a:1", OSError(), checkpoint)
    assert said in error.remedy
    assert ("is in the checkpoint" in error.message) == (checkpoint is not None)
