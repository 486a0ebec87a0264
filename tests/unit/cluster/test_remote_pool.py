"""Workers elsewhere as the loop has them: an agent in a process of its own, joined to RemotePool by pipes. No Dask."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_kit import AgentProcess, NullCheckpoint
from fault_kit import until
from process_kit import is_running

from batchmill.cluster.dask_client import lost
from batchmill.cluster.protocol import AgentSetup, Death, pack
from batchmill.cluster.remote_executor import RemoteExecutor
from batchmill.cluster.remote_limits import RemoteLimits
from batchmill.cluster.remote_pool import Machine, RemotePool
from batchmill.codec.outcome_block import OutcomeBlock, outcomes
from batchmill.errors import WorkersLost
from batchmill.files.mapped_pickle import Pickled
from batchmill.model import Chunk, Wake
from batchmill.pool.base import Event, Worker
from batchmill.settings import Settings
from batchmill.worker import records
from batchmill.worker.code_bundle import collect
from batchmill.worker.function import parse
from batchmill.worker.main import WorkerSetup

ITEMS = """
import os
import time
import helper

def work(item):
    if item == "die":
        os._exit(7)
    if item == "hang":
        time.sleep(1000)
    while item == "gated" and not os.path.exists(__file__ + ".go"):
        time.sleep(0.01)
    return [item, helper.version, os.getpid()]
"""
TIMED = Settings(timeout=0.5)


class There:
    """RemotePool with agents of two workers each; what a run would hear of them."""

    def __init__(self, folder: Path, limits: Settings) -> None:
        self.folder = folder
        self._limits = limits
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._waiting: list[Event] = []
        self.messages: list[str] = []
        self.agents: list[AgentProcess] = []
        self._threads: list[threading.Thread] = []
        (folder / "items.py").write_text(ITEMS)
        (folder / "helper.py").write_text("version = 1\n")
        spec = parse("items.py:work", str(folder))
        self._files = collect(spec)
        self._worker = WorkerSetup(
            spec=spec, init=None, format="lines", id_field=None, shard=None, with_item=False, run=1, ids_needed=True,
            environ={}, directory=str(folder), is_silent=False, timeout=limits.timeout,
        )  # fmt: skip
        self.workers = RemotePool(self.events.put, Wake(), self.messages.append)
        self.guard = RemoteLimits(self.workers, limits.max_items_per_worker)

    def join(self, host: str) -> Machine:
        """A machine joins with its agent."""
        slots = self.workers.reserve(host, 2)
        agent = AgentProcess(AgentSetup(slots, self._worker, Pickled.of(({}, {})), self._limits, self._files))
        self.agents.append(agent)
        machine = self.workers.add(f"tcp://{host}:1", host, agent, slots)
        self._threads.append(threading.Thread(target=agent.listen, args=(machine,)))
        self._threads[-1].start()
        self.until(lambda: machine.is_up, "an agent")
        return machine

    def until(self, ready: Callable[[], Any], what: str) -> None:
        """Let the workers do what is the loop's to do until `ready()`."""

        def look() -> Any:
            self.gone += self.workers.gone()
            return ready()

        self.gone: list[Worker] = []
        until(look, what, limit=30)

    def start(self) -> Worker:
        """A worker that is up."""
        worker = self.workers.start(self.workers.vacant()[0])
        assert self.answer(worker).error is None
        worker.ready = True
        return worker

    def run(self, worker: Worker, serial: int, *items: str) -> None:
        """Have a worker run a chunk of those lines."""
        chunk = Chunk(0, 1, 0, len(items), "".join(f"{item}\n" for item in items).encode())
        self.workers.submit(worker, ("run", serial), records.run_chunk, records.ChunkJob(serial, 0.0, 1, chunk))

    def event(self, worker: Worker) -> Event:
        """What it answers next; what others answer meanwhile is kept for them."""
        while not (answers := [event for event in self._waiting if event.worker is worker]):
            event = self.events.get(timeout=30)
            if isinstance(event, Event):
                self._waiting.append(event)
        self._waiting.remove(answers[0])
        self.workers.heard(answers[0], of_items=True)
        return answers[0]

    def answer(self, worker: Worker) -> Any:
        """What its next call returned."""
        return self.event(worker).future.result(0)

    def results(self, worker: Worker) -> list[Any]:
        """What the items of its next chunk returned, as far as they were run."""
        answer = self.answer(worker)
        return [outcome.result for payload, _ in answer.parts for _, outcome in outcomes(OutcomeBlock(payload), None)]

    def lost(self, worker: Worker) -> Worker:
        """The same worker, once it is confirmed dead."""
        event = self.event(worker)
        assert isinstance(event.future.exception(0), RuntimeError)
        self.workers.give_up(worker)
        self.until(lambda: worker in self.gone, "the end of a worker")
        return worker

    def close(self) -> None:
        """End all."""
        self.workers.close(0.0)
        for agent in self.agents:
            agent.end()
        for thread in self._threads:
            thread.join(30)


@pytest.fixture
def there(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[There]:
    there = There(tmp_path, getattr(request, "param", Settings()))
    try:
        yield there
    finally:
        there.close()


def test_a_worker_elsewhere_answers_like_one_here(there: There) -> None:
    machine = there.join("a")
    worker = there.start()
    there.run(worker, 1, "x", "y")
    there.run(worker, 2, "z")
    assert there.results(worker) == [["x", 1, worker.pid], ["y", 1, worker.pid]]
    assert there.results(worker) == [["z", 1, worker.pid]]
    assert worker.outstanding == []
    there.workers.close(1.0)
    until(lambda: machine.is_lost, "the end of the agent", limit=30)
    assert not is_running(worker.pid)


def test_a_worker_that_dies_says_of_what_and_of_which_item_and_its_slot_takes_another(there: There) -> None:
    there.join("a")
    worker, other = there.start(), there.start()
    assert there.workers.vacant() == []
    there.run(worker, 3, "x", "die", "y")
    dead = there.lost(worker)
    assert there.workers.running(dead) == (3, 1)
    assert dead.executor.exitcode == 7
    assert (dead.machine_lost, dead.disconnected) == ("", False)
    assert there.guard.killed_for(dead, 7) is None
    assert there.workers.vacant() == [worker.slot]
    there.run(there.start(), 4, "x")
    there.run(other, 5, "y")
    assert len(there.results(other)) == 1


@pytest.mark.parametrize("there", [TIMED], indirect=True, ids=["timeout"])
def test_an_item_that_takes_too_long_is_ended_by_its_agent_and_told_as_a_timeout(there: There) -> None:
    there.join("a")
    worker = there.start()
    there.run(worker, 1, "x", "hang")
    found = there.event(worker)
    if found.future.exception(0) is None:  # its own alarm was enough
        ((payload, _),) = found.future.result(0).parts
        failed = [outcome.error for _, outcome in outcomes(OutcomeBlock(payload), None) if not outcome.ok]
        assert [error.type for error in failed if error is not None] == ["Timeout"]
    else:
        there.workers.give_up(worker)
        there.until(lambda: worker in there.gone, "the end of a worker")
        verdict = there.guard.killed_for(worker, worker.executor.exitcode)
        assert verdict is not None
        assert verdict.type == "Timeout"


def test_what_was_taken_back_is_not_run(there: There) -> None:
    there.join("a")
    worker = there.start()
    there.run(worker, 1, "gated", "b", "c", "d")
    there.run(worker, 2, "e")
    there.workers.lower(worker, 1, 2)
    until(lambda: there.workers.has_seen(worker), "that the limit was seen", limit=30)
    (there.folder / "items.py.go").touch()
    assert [item for item, _, _ in there.results(worker)] == ["gated", "b"]
    assert there.results(worker) == []
    there.run(worker, 3, "f")
    assert [item for item, _, _ in there.results(worker)] == ["f"]


def test_a_lost_machine_takes_its_workers_and_no_others_and_its_place_is_for_the_next_of_that_host(
    there: There,
) -> None:
    here, lost = there.join("a"), there.join("b")
    pool = {slot: there.workers.start(slot) for slot in there.workers.vacant()}
    for worker in pool.values():
        there.answer(worker)
    hung = pool[lost.slots[0]]
    there.run(hung, 1, "hang")
    until(lambda: there.workers.running(hung) == (1, 0), "the item to run", limit=30)
    os.kill(there.agents[1].process.pid, signal.SIGKILL)
    assert there.lost(hung) is hung
    assert {worker.machine_lost for worker in pool.values() if worker.slot in lost.slots} == {"tcp://b:1"}
    assert {worker.machine_lost for worker in pool.values() if worker.slot in here.slots} == {""}
    assert there.workers.running(hung) == (1, 0)
    assert any("Lost tcp://b:1" in message for message in there.messages)
    there.run(pool[here.slots[0]], 2, "x")
    assert len(there.results(pool[here.slots[0]])) == 1
    there.until(lambda: not there.workers.dying and len(there.workers.workers) == 2, "the end of all that was lost")
    assert there.join("b").slots == lost.slots
    assert there.start().slot in lost.slots


def test_a_machine_that_joins_later_runs_the_code_of_the_start(there: There) -> None:
    (there.folder / "helper.py").write_text("version = 2\n")
    there.join("a")
    worker = there.start()
    there.run(worker, 1, "x")
    assert there.results(worker) == [["x", 1, worker.pid]]


def test_a_defect_of_an_agent_ends_the_run_and_is_told(there: There) -> None:
    machine = there.join("a")
    machine.send("nonsense")
    with pytest.raises(WorkersLost, match=r"the agent at tcp://a:1 broke"):
        there.until(lambda: False, "the error")


def test_what_a_lost_machine_still_says_is_not_heard(there: There) -> None:
    machine = there.join("a")
    worker = there.start()
    machine.lose("no answer")
    machine.receive(pack("started", worker.slot, 1))
    machine.receive(pack("board", [(worker.slot, 99, 0, 0)], [], 0.0, 0, False))
    assert there.workers.running(worker) is None


def test_a_worker_counts_as_moving_until_it_is_said_to_stand_still(there: There) -> None:
    machine = there.join("a")
    worker = there.start()
    machine.receive(pack("board", [(worker.slot, 99, 0, 0)], [worker.slot], 0.0, 0, False))
    assert worker.is_moving
    machine.receive(pack("board", [(worker.slot, 99, 0, 0)], [], 0.0, 0, False))
    assert not worker.is_moving


# --- without an agent ------------------------------------------------------------------------------------------------


def workers_nowhere(say: Callable[[str], None] = lambda text: None) -> RemotePool:
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    return RemotePool(events.put, None, say)


def test_a_worker_started_on_a_machine_that_was_just_lost_died_with_it() -> None:
    pool = workers_nowhere()
    machine = pool.add("tcp://a:1", "a", NullCheckpoint(), pool.reserve("a", 1))
    machine.receive(pack("up", 1))
    (slot,) = pool.vacant()
    machine.lose("it left")
    worker = pool.start(slot)
    assert worker.machine_lost == "tcp://a:1"
    assert worker.executor.is_dead


def test_where_workers_are_is_known_from_the_moment_their_machine_joins_and_stays_so() -> None:
    pool = workers_nowhere()
    first = pool.add("tcp://a:1", "a", NullCheckpoint(), pool.reserve("a", 2))
    assert pool.hosts() == [(0, "a"), (1, "a")]
    first.lose("it left before anybody looked")
    pool.add("tcp://b:1", "b", NullCheckpoint(), pool.reserve("b", 1))
    pool.add("tcp://a:2", "a", NullCheckpoint(), pool.reserve("a", 2))
    assert pool.hosts() == [(0, "a"), (1, "a"), (2, "b")]
    assert pool.hosts(2) == [(2, "b")]
    assert pool.hosts(3) == []


def test_the_most_workers_there_were_are_those_that_were_there_at_once() -> None:
    pool = workers_nowhere()
    pool.add("tcp://a:1", "a", NullCheckpoint(), pool.reserve("a", 2)).lose("it left")
    assert pool.most == 2
    pool.add("tcp://b:1", "b", NullCheckpoint(), pool.reserve("b", 1))
    assert pool.most == 2
    pool.add("tcp://c:1", "c", NullCheckpoint(), pool.reserve("c", 3))
    assert pool.most == 4


def test_a_limit_is_seen_when_all_that_were_sent_are() -> None:
    pool = workers_nowhere()
    machine = pool.add("tcp://a:1", "a", NullCheckpoint(), pool.reserve("a", 1))
    machine.receive(pack("up", 1))
    worker = pool.start(*pool.vacant())
    assert isinstance(worker.executor, RemoteExecutor)
    pool.lower(worker, 1, 5)
    pool.lower(worker, 1, 3)
    machine.receive(pack("lowered", worker.slot, (1 << 32) + 3, 0, 0))
    assert not pool.has_seen(worker)
    machine.receive(pack("lowered", worker.slot, (1 << 32) + 3, 0, 0))
    assert pool.has_seen(worker)


@pytest.mark.parametrize(("checkpoint", "said"), [("a.ckpt", "resume=True"), (None, "with a checkpoint")])
def test_a_lost_scheduler_promises_only_what_is_kept(checkpoint: str | None, said: str) -> None:
    error = lost("tcp://a:1", OSError(), checkpoint)
    assert said in error.remedy
    assert ("is in the checkpoint" in error.message) == (checkpoint is not None)


def test_a_machine_that_cannot_work_for_the_run_gets_no_workers_and_what_it_had_is_no_suspect() -> None:
    pool = workers_nowhere()
    link = NullCheckpoint()
    machine = pool.add("tcp://a:1", "a", link, pool.reserve("a", 2))
    machine.receive(pack("up", 1))
    worker = pool.start(pool.vacant()[0])
    machine.receive(pack("unfit", "no room"))
    assert pool.vacant() == []
    assert link.sent[-1] == ["stop"]
    assert machine.unfit is not None
    assert "no room" in str(machine.unfit)
    machine.lose("its agent ended")
    assert worker.is_spared


def test_where_fewer_processes_can_be_started_a_machine_has_fewer_workers() -> None:
    said: list[str] = []
    pool = workers_nowhere(said.append)
    machine = pool.add("tcp://a:1", "a", NullCheckpoint(), pool.reserve("a", 3))
    machine.receive(pack("up", 1))
    for slot in pool.vacant():
        pool.start(slot)
    machine.receive(pack("gone", 2, 0, 0, 0, Death(unstarted="no more processes")))
    worker = pool.workers[2]
    assert worker.unstarted == "no more processes"
    pool.give_up(worker)
    assert pool.unfit(worker, WorkersLost("no worker can be started")) is None
    assert said == ["Only 2 workers could be started on tcp://a:1: no more processes"]
    assert pool.size == 2
    assert list(pool.gone()) == [worker]
    assert pool.vacant() == []
    machine.lose("it left")
    assert pool.size == 0


def test_a_machine_on_which_no_process_can_be_started_is_left_out() -> None:
    pool = workers_nowhere()
    machine = pool.add("tcp://a:1", "a", NullCheckpoint(), pool.reserve("a", 1))
    machine.receive(pack("up", 1))
    worker = pool.start(0)
    machine.receive(pack("gone", 0, 0, 0, 0, Death(unstarted="no more processes")))
    pool.give_up(worker)
    assert pool.unfit(worker, WorkersLost("no worker can be started: no more processes")) is None
    assert machine.unfit is not None
    assert "worker tcp://a:1 cannot work for this run: no worker can be started" in machine.unfit.message


def test_messages_take_as_long_as_to_most_machines() -> None:
    pool = workers_nowhere()
    assert pool.round_trip == 0.0
    near = pool.add("tcp://a:1", "a", NullCheckpoint(), pool.reserve("a", 1), round_trip=0.001)
    pool.add("tcp://b:1", "b", NullCheckpoint(), pool.reserve("b", 1), round_trip=0.002)
    pool.add("tcp://c:1", "c", NullCheckpoint(), pool.reserve("c", 1), round_trip=0.5)
    assert pool.round_trip == 0.002
    near.lose("it left")
    pool.add("tcp://d:1", "d", NullCheckpoint(), pool.reserve("d", 1), round_trip=0.5)
    assert pool.round_trip == 0.5
