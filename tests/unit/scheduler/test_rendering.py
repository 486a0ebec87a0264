"""Who makes the output of a run whose items are on a cluster: workers here, whatever becomes of those there."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from cluster_kit import DaskCluster, dask_cluster
from fault_kit import CHECKPOINT, FUNCTIONS, LIMIT, Run, committed, finish, numbered, prepare, running, until, witnessed
from process_kit import parent_of, send

from batchmill.errors import WorkersLost
from batchmill.output.ordering import RenderJob
from batchmill.output.writer import OutputWriter
from batchmill.scheduler.rendering import LocalOutputMaker
from batchmill.worker.main import WorkerSetup

pytest.importorskip("distributed", reason="the extra dask is not installed")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc"),
    pytest.mark.cluster,
]

WORK = ("f.py:work", "items.jsonl", "-c", CHECKPOINT)
PLACED = '''

def placed(item):
    """Notes the worker it runs in. Each fifty wait for a file."""
    while not os.path.exists(f"go{item['n'] // 50}"):
        time.sleep(0.01)
    note(os.getpid(), item["id"])
    time.sleep(0.005)
    return item["n"]
'''


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Two workers of one thread; none of the tests here harms them."""
    with dask_cluster(tmp_path_factory.mktemp("cluster"), "alice", "bob", nanny=False) as cluster:
        yield cluster


def makers(run: Run) -> list[int]:
    """The workers of a run on this machine: each leads a process group, as the fork server does. Items are
    elsewhere."""
    found = []
    for pid in run.all():
        try:
            if os.getpgid(pid) == pid and parent_of(pid) != run.pid != pid:
                found.append(pid)
        except ProcessLookupError:
            continue
    return found


def lines(*numbers: int, square: bool = True) -> str:
    """What the output holds of those items."""
    result = '{{"n": {0}, "square": {1}, "text": null}}' if square else "{0}"
    return "".join(f'{{"id": "i{n}", "result": {result.format(n, n * n)}}}\n' for n in numbers)


def test_a_worker_that_dies_over_output_costs_no_worker_of_an_item(cluster: DaskCluster, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(200))
    (tmp_path / "f.py").write_text(FUNCTIONS + PLACED)
    killed: set[int] = set()

    def kill() -> bool:
        fresh = set(makers(run)) - killed
        send(signal.SIGKILL, fresh)
        killed.update(fresh)
        return bool(fresh)

    words = ("f.py:placed", "items.jsonl", "-c", CHECKPOINT, "-o", "-", "--chunk-size", "5")
    with running(*words, "--cluster", cluster.address, cwd=tmp_path) as run:
        for part in range(4):
            (tmp_path / f"go{part}").touch()
            if part < 3:
                run.until(kill, "a worker that makes output")
        ended = run.end()
        run.assert_gone()
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == lines(*range(200), square=False)
    assert len({line.split()[0] for line in witnessed(tmp_path)}) == 2
    assert len(witnessed(tmp_path)) == 200


def test_items_do_not_wait_for_output_to_be_made(cluster: DaskCluster, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(200, sleep=0.01))
    stopped: set[int] = set()

    def stop() -> bool:
        fresh = set(makers(run)) - stopped
        send(signal.SIGSTOP, fresh)
        stopped.update(fresh)
        return len(witnessed(tmp_path)) == 200

    words = (*WORK, "-o", "-", "--chunk-size", "2", "--cluster", cluster.address)
    with running(*words, cwd=tmp_path) as run:
        run.until(stop, "all items to run while no output is made")
        assert stopped
        run.until(lambda: len(committed(tmp_path)) == 200, "all items to be committed")
        send(signal.SIGCONT, stopped)
        ended = run.end()
        run.assert_gone()
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == lines(*range(200))


def test_a_batch_that_is_done_needs_no_worker_for_its_output(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(50))
    assert finish(*WORK, cwd=tmp_path).status == 0
    with dask_cluster(tmp_path) as cluster:
        words = (*WORK, "--resume", "-o", "out.jsonl", "--cluster", cluster.address)
        ended = finish(*words, cwd=tmp_path)
    assert ended.status == 0, ended.err
    assert (tmp_path / "out.jsonl").read_text() == lines(*range(50))
    assert len(witnessed(tmp_path)) == 50


def test_output_is_made_when_all_workers_are_gone(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(60, sleep=0.01))
    stopped: set[int] = set()

    def stop() -> bool:
        fresh = set(makers(run)) - stopped
        send(signal.SIGSTOP, fresh)
        stopped.update(fresh)
        return len(committed(tmp_path)) == 60

    with dask_cluster(tmp_path, "only", nanny=False) as cluster:
        words = (*WORK, "-o", "-", "--chunk-size", "60", "--cluster", cluster.address)
        with running(*words, cwd=tmp_path) as run:
            run.until(stop, "all items to be committed")
            cluster.remove("only")
            send(signal.SIGCONT, stopped)
            ended = run.end()
            run.assert_gone()
    assert ended.status == 0, ended.err
    assert ended.out == lines(*range(60))


class _Deadly:
    """Work whose arrival ends the process."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (7,)


class _Wanted:
    """An output that wants only so much, and counts what is made of it."""

    is_unread = False

    def __init__(self, *jobs: object) -> None:
        self._jobs = iter(enumerate(jobs))
        self._count = len(jobs)
        self.made: set[int] = set()

    @property
    def is_done(self) -> bool:
        return len(self.made) == self._count

    def next_job(self) -> tuple[int, object] | None:
        return next(self._jobs, None)

    def rendered(self, number: int, data: bytes, unsaid: object) -> None:
        self.made.add(number)


class Alone:
    """A desk of its own, and the part of a loop that it needs."""

    def __init__(self, folder: Path, *jobs: object) -> None:
        setup = WorkerSetup(
            spec=None, init=None, format=None, id_field=None, shard=None, with_item=False, run=1, ids_needed=False,
            environ=dict(os.environ), directory=str(folder), is_silent=True,
        )  # fmt: skip
        self.output = _Wanted(*jobs)
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.output_maker = LocalOutputMaker(setup, 2, self._events.put, cast("OutputWriter", self.output))

    def turn(self) -> bool:
        """One turn of the loop; whether all is made."""
        self.output_maker.fill(lambda worker: False)
        while not self._events.empty():
            self._events.get_nowait().action()
        self.output_maker.look()
        return self.output_maker.is_done


def test_work_that_kills_whatever_worker_makes_it_ends_the_run(tmp_path: Path) -> None:
    alone = Alone(tmp_path, _Deadly())
    try:
        with pytest.raises(WorkersLost, match="died making the output; the last one exited with status 7"):
            until(alone.turn, "the error")
    finally:
        alone.output_maker.close()


def test_workers_that_die_while_work_is_handed_to_them_hold_up_nothing(tmp_path: Path) -> None:
    alone = Alone(tmp_path, *[RenderJob(0, 0, (), "jsonl", False, False, "jsonl")] * 1000)
    killed: set[int] = set()

    def kill() -> bool:
        pool = alone.output_maker._pool.workers.values()
        doomed = {worker.pid for worker in pool if worker.ready and len(alone.output.made) > 100 * len(killed)}
        send(signal.SIGKILL, doomed - killed)
        killed.update(doomed)
        return alone.turn()

    thread = threading.Thread(target=until, args=(kill, "all of it"), daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive(), "it waits for itself"
    alone.output_maker.close()
    assert len(alone.output.made) == 1000
    assert len(killed) > 5
