"""What a Dask cluster may do to a batch: workers, scheduler and client die, join and leave. No result is lost."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_kit import DaskCluster, Worker, dask_cluster
from endings_kit import ENDINGS, GUILTY, INNOCENT, ORPHANS
from fault_kit import (
    CHECKPOINT,
    FUNCTIONS,
    Run,
    committed,
    finish,
    lines_of,
    numbered,
    prepare,
    results_of,
    running,
    until,
    witnessed,
    write_items,
)
from process_kit import command_line

from batchmill.cluster.protocol import LEASE

pytest.importorskip("distributed", reason="the extra dask is not installed")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc"),
    pytest.mark.cluster,
]

WORK = ("f.py:work", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl")

MORE = '''
import signal
import psutil
import helper


def placed(item):
    """Notes the worker it runs on. But for the first hundred it ends on dave, or once there is the file `go`."""
    note(os.environ["WORKER"], item["id"])
    while os.environ["WORKER"] != "dave" and item["n"] > 100 and not os.path.exists("go"):
        time.sleep(0.01)
    return [item["n"], helper.version]


def brief(item):
    """Takes as long as the last thirty items wait for the file `go`."""
    note(item["id"])
    time.sleep(0.02)
    while item["n"] >= 670 and not os.path.exists("go"):
        time.sleep(0.01)
    return item["n"]


def kill_machine():
    """Kill the process that hosts this worker's agent."""
    agent = psutil.Process()
    while "batchmill.cluster.agent" not in " ".join(agent.cmdline()):
        agent = agent.parent()
    os.kill(agent.ppid(), signal.SIGKILL)
    time.sleep(60)


def endless():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass


def poison(item):
    note(item["id"])
    do = item.get("do")
    if do == "raise":
        raise ValueError("bad")
    if do == "exit":
        os._exit(1)
    if do == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if do == "machine":
        kill_machine()
    if do == "endless":
        endless()
    if do == "stuck":
        ctypes.PyDLL(None).sleep(60)
    time.sleep(0.01)
    return item["n"]
'''


def prepare_more(directory: Path, items: list[dict[str, object]]) -> None:
    (directory / "f.py").write_text(FUNCTIONS + MORE)
    (directory / "helper.py").write_text("version = 1\n")
    write_items(directory / "items.jsonl", items)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Three workers of one thread; a nanny starts each again that is killed."""
    with dask_cluster(tmp_path_factory.mktemp("cluster"), "alice", "bob", "carol") as cluster:
        yield cluster


def test_nothing_that_an_item_left_keeps_a_run_or_outlives_it(cluster: DaskCluster, tmp_path: Path) -> None:
    innocent = (*INNOCENT, *ORPHANS)
    (tmp_path / "f.py").write_text(ENDINGS)
    write_items(tmp_path / "items.jsonl", [{"id": kind, "then": 0} for kind in (*innocent, *GUILTY)])
    ended = finish(*WORK, "--timeout", "3s", "--crash-retries", "0", "--cluster", cluster.address, cwd=tmp_path)
    assert ended.status == 1, ended.err
    assert {line["result"] for line in lines_of(tmp_path / "out.jsonl")} == set(innocent)

    def left() -> list[str]:
        processes = [command_line(pid) for worker in cluster.workers.values() for pid in worker.processes()]
        return [words for words in processes if "sleep(1000)" in words or "server_main" in words]

    until(lambda: not left(), f"the end of {left()}")


# --- workers ---------------------------------------------------------------------------------------------------------


def kill_one_each_second(cluster: DaskCluster, run: Run, count: int) -> None:
    """SIGKILL for one worker after another, so many of them."""
    for kills in range(count):
        due = time.monotonic() + 1

        def found() -> list[Worker]:
            return [worker for worker in cluster.workers.values() if worker.is_up and worker.agents]

        run.until(found, "a worker with an agent")
        there = found()
        there[kills % len(there)].kill()
        time.sleep(max(0.0, due - time.monotonic()))


def test_a_worker_is_killed_each_second_and_every_item_is_done_once(cluster: DaskCluster, tmp_path: Path) -> None:
    cluster.ready()
    prepare_more(tmp_path, numbered(700))
    with running("f.py:brief", *WORK[1:], "--cluster", cluster.address, cwd=tmp_path) as run:
        run.until(lambda: len(witnessed(tmp_path)) > 20, "some items")
        kill_one_each_second(cluster, run, count=6)
        (tmp_path / "go").touch()
        ended = run.end()
        run.assert_gone()
    assert (ended.status, ended.err) == (0, ""), ended.err
    assert results_of(tmp_path / "out.jsonl") == {f"i{n}": n for n in range(700)}
    assert len(lines_of(tmp_path / "out.jsonl")) == 700


def test_a_worker_that_joins_takes_part_with_the_code_of_the_start_and_one_that_leaves_loses_nothing(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    cluster.ready()
    prepare_more(tmp_path, numbered(600))

    def workers() -> set[str]:
        return {line.split()[0] for line in witnessed(tmp_path)}

    with running("f.py:placed", *WORK[1:], "--cluster", cluster.address, cwd=tmp_path) as run:
        run.until(lambda: len(workers()) == 3, "items on three workers")
        (tmp_path / "helper.py").write_text("version = 2\n")
        joined = cluster.add("dave")
        run.until(lambda: "dave" in workers(), "items on the one that joined")
        joined.process.send_signal(signal.SIGTERM)
        joined.end()
        cluster.remove("dave")
        (tmp_path / "go").touch()
        ended = run.end()
        run.assert_gone()
    assert (ended.status, ended.err) == (0, ""), ended.err
    assert results_of(tmp_path / "out.jsonl") == {f"i{n}": [n, 1] for n in range(600)}


def test_items_that_kill_hang_or_raise_fail_alone_each_for_its_own_reason(cluster: DaskCluster, tmp_path: Path) -> None:
    cluster.ready()
    poisons = {17: "raise", 18: "exit", 40: "machine", 60: "segfault", 61: "stuck", 90: "endless"}
    prepare_more(tmp_path, [{**item, "do": poisons.get(item["n"])} for item in numbered(120)])
    ended = finish("f.py:poison", *WORK[1:], "--timeout", "3s", "--cluster", cluster.address, cwd=tmp_path)
    assert ended.status == 1, ended.err
    outcomes = committed(tmp_path)
    failed = {outcome.id: outcome.error for outcome in outcomes.values() if not outcome.ok}
    said = {id: (error.type, error.message) for id, error in failed.items() if error is not None}
    assert set(said) == {f"i{n}" for n in poisons}, ended.err
    assert said["i17"] == ("ValueError", "bad")
    assert [said[f"i{n}"][0] for n in (18, 40, 60)] == ["WorkerDied"] * 3
    assert "status 1" in said["i18"][1]
    assert "SIGSEGV" in said["i60"][1]
    assert "was lost while running it and nothing else" in said["i40"][1]
    assert [said[f"i{n}"][0] for n in (61, 90)] == ["Timeout"] * 2
    assert results_of(tmp_path / "out.jsonl") == {f"i{n}": n for n in range(120) if n not in poisons}


# --- scheduler and client --------------------------------------------------------------------------------------------


def test_a_lost_scheduler_ends_the_run_with_70_and_what_was_done_does_not_run_again(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(300, sleep=0.02))
    with dask_cluster(tmp_path, "alice", "bob", nanny=False) as cluster:
        address = cluster.address
        with running(*WORK, "--cluster", address, cwd=tmp_path) as run:
            run.until(lambda: len(committed(tmp_path)) > 30, "some results")
            cluster.scheduler.process.send_signal(signal.SIGKILL)
            ended = run.end()
            run.assert_gone()
        assert ended.status == 70
        line = ended.err.splitlines()[-1]
        assert f"the scheduler {address} is lost" in line
        assert "--resume" in line
        told = finish(CHECKPOINT, "--json", cwd=tmp_path, command=(sys.executable, "-m", "batchmill", "status"))
        assert json.loads(told.out)["report"]["exit_code"] == 70
        checked = finish(CHECKPOINT, cwd=tmp_path, command=(sys.executable, "-m", "batchmill", "verify"))
        assert checked.status == 0, checked.out

        done, ran = committed(tmp_path), Counter(witnessed(tmp_path))
        assert 30 < len(done) < 300
        cluster.scheduler.close()
        cluster.start_scheduler()
        for name in list(cluster.workers):
            cluster.remove(name)
        cluster.ready("carol", "dave", nanny=False)
        ended = finish(*WORK, "--resume", "--cluster", address, cwd=tmp_path)
        assert (ended.status, ended.err) == (0, "")
    again = Counter(witnessed(tmp_path)) - ran
    assert not set(again) & set(done)
    assert [one["id"] for one in lines_of(tmp_path / "out.jsonl")] == [f"i{n}" for n in range(300)]


def test_the_agents_of_a_killed_run_end_and_it_is_resumed_on_one_machine(cluster: DaskCluster, tmp_path: Path) -> None:
    cluster.ready()
    prepare(tmp_path, numbered(300, sleep=0.02))
    with running(*WORK, "--cluster", cluster.address, cwd=tmp_path) as run:
        run.until(lambda: len(committed(tmp_path)) > 30, "some results")
        run.signal(signal.SIGKILL)
        run.end()
        run.assert_gone()
    killed = time.monotonic()
    done, seen = committed(tmp_path), len(witnessed(tmp_path))
    ended = finish(*WORK, "--resume", "-j", "2", cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert [one["id"] for one in lines_of(tmp_path / "out.jsonl")] == [f"i{n}" for n in range(300)]
    assert not set(witnessed(tmp_path)[seen:]) & set(done)
    cluster.assert_no_agents(limit=LEASE + 5 - (time.monotonic() - killed))
