"""Workers of a real Dask cluster that leave, are cut off, or come and cannot work: nothing runs twice at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_kit import DaskCluster, dask_cluster
from fault_kit import (
    CHECKPOINT,
    FUNCTIONS,
    Ended,
    Run,
    committed,
    finish,
    numbered,
    prepare,
    results_of,
    running,
    strikes,
    witnessed,
)
from process_kit import send

from batchmill.cluster.protocol import LEASE

pytest.importorskip("distributed", reason="the extra dask is not installed")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc"),
    pytest.mark.cluster,
]

OUT = ("items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", "--chunk-size", "1")
MORE = '''

def locked(item):
    """Never ends on alice, and ends elsewhere only once she has an item.

    Notes TWICE where another process is at the same item: a lock dies with its holder.
    """
    worker = os.environ["WORKER"]
    note("on", worker, item["id"])
    lock = os.open(f"lock-{item['id']}", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note("TWICE", item["id"], os.getpid())
    while worker == "alice" or "on alice" not in open("witness").read():
        time.sleep(0.01)
    os.close(lock)
    return item["n"]
'''
UNFIT = """
import os
if os.environ["WORKER"] == "carol":
    import what_is_not_installed_there
"""


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[DaskCluster]:
    """Two workers of one thread, with nannies if that is asked for: they take seconds more to come and to go."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    prepare(tmp_path, numbered(6))
    (tmp_path / "f.py").write_text(FUNCTIONS + MORE)
    with dask_cluster(folder, "alice", "bob", nanny=getattr(request, "param", False)) as cluster:
        yield cluster


def on(directory: Path, worker: str) -> list[str]:
    """The items that were begun on a worker."""
    return [line.split()[2] for line in witnessed(directory) if line.startswith(f"on {worker} ")]


def all_but_one(run: Run, directory: Path) -> None:
    """Wait until alice alone still has an item."""
    run.until(lambda: len(committed(directory)) == 5 and on(directory, "alice"), "all but what alice has")


def check(ended: Ended, directory: Path) -> None:
    """All is done, the item of alice by bob, and by him alone."""
    assert ended.status == 0, ended.err
    assert results_of(directory / "out.jsonl") == {f"i{n}": n for n in range(6)}
    (held,) = on(directory, "alice")
    assert held in on(directory, "bob")
    assert not [line for line in witnessed(directory) if line.startswith("TWICE")]
    assert strikes(directory) == 0


def test_what_a_retired_worker_runs_has_ended_before_it_runs_elsewhere(cluster: DaskCluster, tmp_path: Path) -> None:
    retire = (
        "import sys; from distributed import Client\n"
        "with Client(sys.argv[1]) as client: client.retire_workers(names=['alice'], close_workers=False)"
    )
    with running("f.py:locked", *OUT, "--cluster", cluster.address, cwd=tmp_path) as run:
        all_but_one(run, tmp_path)
        subprocess.run([sys.executable, "-c", retire, cluster.address], check=True, timeout=60, capture_output=True)
        check(run.end(), tmp_path)
        run.assert_gone()
    cluster.assert_no_agents(limit=LEASE + 10)


@pytest.mark.parametrize("cluster", [True], indirect=True, ids=["nannies"])  # without, Dask just ends the process
def test_a_worker_that_is_told_to_close_says_goodbye(cluster: DaskCluster, tmp_path: Path) -> None:
    with running("f.py:locked", *OUT, "-v", "--cluster", cluster.address, cwd=tmp_path) as run:
        all_but_one(run, tmp_path)
        cluster.workers["alice"].process.send_signal(signal.SIGTERM)
        ended = run.end()
        check(ended, tmp_path)
        run.assert_gone()
    assert "it is leaving the cluster" in ended.err
    cluster.remove("alice")


def test_an_agent_whose_worker_is_stopped_ends_by_itself_before_its_item_runs_elsewhere(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    with running("f.py:locked", *OUT, "--cluster", cluster.address, cwd=tmp_path) as run:
        all_but_one(run, tmp_path)
        stopped = cluster.workers["alice"].inner_pid
        send(signal.SIGSTOP, [stopped])
        try:
            check(run.end(), tmp_path)
            run.assert_gone()
        finally:
            send(signal.SIGCONT, [stopped])


def test_a_worker_that_comes_later_and_cannot_import_the_function_does_not_end_the_run(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    (tmp_path / "f.py").write_text(UNFIT + FUNCTIONS)
    with running("f.py:gated", *OUT, "-v", "--cluster", cluster.address, cwd=tmp_path) as run:
        run.until(lambda: len(witnessed(tmp_path)) >= 2, "items on both")
        cluster.add("carol", "--no-nanny")
        run.until(lambda: b"cannot work for this run" in run.said(), "that carol cannot")
        (tmp_path / "go").touch()
        ended = run.end()
        run.assert_gone()
    assert ended.status == 0, ended.err
    assert "what_is_not_installed_there" in ended.err
    assert results_of(tmp_path / "out.jsonl") == {f"i{n}": n for n in range(6)}


def test_a_worker_that_is_there_from_the_start_and_cannot_import_the_function_is_left_out_and_that_is_kept(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    (tmp_path / "f.py").write_text(UNFIT.replace("carol", "alice") + FUNCTIONS)
    with running("f.py:gated", *OUT, "--cluster", cluster.address, "--progress", "log", cwd=tmp_path) as run:
        run.until(lambda: b"cannot work for this run" in run.said(), "that alice cannot")
        (tmp_path / "go").touch()
        ended = run.end()
        run.assert_gone()
    assert ended.status == 0, ended.err
    assert results_of(tmp_path / "out.jsonl") == {f"i{n}": n for n in range(6)}
    assert "Lost " not in ended.err
    told = finish(CHECKPOINT, cwd=tmp_path, command=(sys.executable, "-m", "batchmill", "status"))
    assert "what_is_not_installed_there" in told.out


def test_where_no_worker_can_import_the_function_the_run_says_so_and_on_which(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(6))
    (tmp_path / "f.py").write_text(UNFIT + FUNCTIONS)
    with (
        dask_cluster(tmp_path, "carol", nanny=False) as cluster,
        running("f.py:work", *OUT, "--cluster", cluster.address, cwd=tmp_path) as run,
    ):
        ended = run.end()
        run.assert_gone()
    assert ended.status == 78
    assert "worker tcp://127.0.0.1" in ended.err
    assert "what_is_not_installed_there" in ended.err
