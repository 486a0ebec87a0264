"""What an agent does with its workers, by its messages alone: no Dask, no run."""

from __future__ import annotations

import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_kit import LIMIT, Agent
from fault_kit import LINGER, until
from process_kit import is_running

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


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    started = Agent(tmp_path, ITEMS, init="slow_to_start")
    started.until("up")
    yield started
    started.close()


def test_a_chunk_that_is_to_be_alone_begins_when_the_others_are_done_and_the_run_knows(agent: Agent) -> None:
    agent.start(0, 1)
    agent.run(0, 1, "0.3")
    agent.run(1, 2, "1", alone=True)
    agent.until("reply", 0)
    agent.until("alone", 2)
    assert agent.is_silent("reply")
    agent.send("go", 2)
    assert agent.records(1) == 1


def test_what_follows_a_chunk_that_was_alone_begins_only_when_the_run_knows_that_it_has_ended(
    agent: Agent,
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
    assert agent.records(1) == 1


def test_a_chunk_that_waits_for_the_machine_is_under_the_limit_that_came_after_it(agent: Agent) -> None:
    agent.start(0, 1)
    agent.run(0, 1, "0.3")
    agent.run(0, 2, "1", "2", "3", "4", alone=True)
    agent.send("lower", 0, 2, 1)
    agent.until("lowered", 0)
    assert agent.records(0) == 1
    agent.until("alone", 2)
    agent.send("go", 2)
    assert agent.records(0) == 1
    agent.until("alone", 0)
    agent.send("go", 0)
    agent.run(0, 3, "1", "2", "3", "4")
    assert agent.records(0) == 4


def test_a_chunk_that_is_to_be_alone_begins_when_the_last_worker_is_up(agent: Agent) -> None:
    agent.start(0)
    agent.path.with_name("items.py.slow").touch()
    agent.send("start", 1)
    agent.until("started", 1)
    agent.run(0, 1, "1", alone=True)
    agent.until("reply", 1)
    agent.until("alone", 1, limit=5.0)


def test_what_items_print_after_the_run_has_said_goodbye_is_passed_on(agent: Agent) -> None:
    agent.start(0)
    agent.run(0, 1, "0.3", '"said at the end"')
    agent.until_running(0, 1)
    agent.send("bye")
    assert agent.until("output")[1] == b"said at the end\n"


def test_an_agent_whose_run_is_gone_ends_with_its_workers_and_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    agent = Agent(tmp_path, ITEMS)
    agent.until("up")
    agent.send("start", 0)
    pid = agent.until("started", 0)[2]
    agent.until("reply", 0)
    agent.run(0, 1, "30.0")
    agent.until_running(0, 1)
    agent.close()
    assert agent.process.returncode == 0
    until(lambda: not is_running(pid), "the end of the worker", limit=LINGER)
    assert not list(tmp_path.glob("batchmill-*"))


def test_a_worker_that_stands_still_is_said_to_and_one_that_gets_on_to_move(agent: Agent) -> None:
    agent.start(0, 1)
    agent.run(0, 1, *["0.03"] * 100)
    agent.run(1, 2, "30.0")
    agent.until_running(1, 2)
    moving = [message[2] for message in (agent.until("board") for _ in range(4))]
    assert moving[-1] == [0]  # the first may be of the moment at which the other began
    assert all(1 not in slots for slots in moving[1:])


def test_workers_have_the_environment_of_the_worker_and_not_what_the_agent_itself_needs(agent: Agent) -> None:
    agent.start(0)
    agent.run(0, 1, "null")
    ((payload, _),) = pickle.loads(agent.until("reply", 0)[3]).parts
    assert b"safe path: no" in payload


def test_an_agent_that_does_not_hear_of_its_run_ends_with_its_workers(tmp_path: Path) -> None:
    agent = Agent(tmp_path, ITEMS, lease=1.0)
    agent.until("up")
    agent.send("start", 0)
    pid = agent.until("started", 0)[2]
    agent.until("reply", 0)
    agent.run(0, 1, "300.0")
    agent.until_running(0, 1)
    try:
        agent.process.wait(LIMIT)
        until(lambda: not is_running(pid), "the end of the worker", limit=LINGER)
    finally:
        agent.close()


def test_an_agent_that_hears_of_its_run_goes_on(tmp_path: Path) -> None:
    agent = Agent(tmp_path, ITEMS, lease=2.0)
    try:
        agent.until("up")
        agent.start(0)
        agent.run(0, 1, "3.0")
        while not any(message[0] == "reply" and message[2] == 1 for message in agent.said):
            agent.pulse()
            agent.is_silent("reply", 0.1)
        agent.run(0, 2, "1")
        assert agent.records(0) == 1
    finally:
        agent.close()


def test_an_agent_that_was_stopped_itself_heard_nothing_and_goes_on(tmp_path: Path) -> None:
    agent = Agent(tmp_path, ITEMS, lease=2.0)
    try:
        agent.until("up")
        agent.start(0)
        agent.process.send_signal(signal.SIGSTOP)
        time.sleep(3.0)
        agent.process.send_signal(signal.SIGCONT)
        agent.run(0, 1, "1")
        assert agent.records(0) == 1
    finally:
        agent.close()


def test_an_agent_that_is_told_to_stop_does_not_wait_for_what_runs(tmp_path: Path) -> None:
    agent = Agent(tmp_path, ITEMS)
    agent.until("up")
    agent.send("start", 0)
    pid = agent.until("started", 0)[2]
    agent.until("reply", 0)
    agent.run(0, 1, "300.0")
    agent.until_running(0, 1)
    agent.send("stop")
    agent.process.wait(LIMIT)
    assert not is_running(pid)
    agent.close()


def test_an_agent_that_lacks_something_says_what(tmp_path: Path) -> None:
    agent = Agent(tmp_path, ITEMS, files={str(tmp_path): {"x" * 300: b""}})
    assert "File name too long" in agent.until("unfit")[1]
    agent.process.wait(LIMIT)
    agent.close()
