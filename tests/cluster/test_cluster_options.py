"""Options of a run on a real Dask cluster, and what is refused before anything begins."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import socket
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_kit import DaskCluster, certificate, dask_cluster
from fault_kit import (
    CHECKPOINT,
    committed,
    finish,
    lines_of,
    numbered,
    prepare,
    running,
    strikes,
    witnessed,
    write_items,
)
from tree_kit import ROOT

import batchmill
from batchmill.batch.batch import Batch
from batchmill.cluster import agent_host
from batchmill.cluster.backend import DaskBackend, doubts
from batchmill.cluster.connection import Call
from batchmill.cluster.dask_client import checked, connected
from batchmill.errors import ClusterUnfit, InputMissing, InvalidUsage
from batchmill.plan import Plan, make_plan
from batchmill.settings import Settings

pytest.importorskip("distributed", reason="the extra dask is not installed")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc"),
    pytest.mark.cluster,
]

WORK = ("f.py:work", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl")
NOWHERE = "tcp://127.0.0.1:1"  # no scheduler is there


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Two workers of two threads; none of the tests here harms them."""
    with dask_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        for name in ("alice", "bob"):
            cluster.add(name, "--no-nanny", "--nthreads", "2")
        yield cluster.ready()


def plan(function: Callable[..., Any] = len, init: Callable[[], Any] | None = None, **settings: Any) -> Plan:
    """A batch of no items."""
    return make_plan(function, items=[], no_checkpoint=True, init=init, settings=Settings(**settings))


# --- refusals --------------------------------------------------------------------------------------------------------


def test_modules_too_large_to_be_sent_are_refused_before_a_checkpoint_is_moved_aside(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3))
    assert finish(*WORK, cwd=tmp_path).status == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "large").mkdir()
    with (tmp_path / "large" / "data.py").open("w") as file:
        file.truncate(65 << 20)
    (tmp_path / "f.py").write_text(f"import large\n{before['f.py'].decode()}")
    ended = finish(*WORK, "--fresh", "--cluster", NOWHERE, cwd=tmp_path)
    assert ended.status == 2, ended.err
    assert "too large to be sent" in ended.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == {
        **before,
        "f.py": (tmp_path / "f.py").read_bytes(),
    }


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a certificate, by the options that they are for."""
    files = certificate(tmp_path_factory.mktemp("tls"))
    return dict(zip(("--tls-ca-file", "--tls-cert", "--tls-key"), files, strict=True))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to make a certificate")
@pytest.mark.parametrize("option", ["--tls-ca-file", "--tls-cert", "--tls-key"])
@pytest.mark.parametrize("trouble", ["missing", "a folder", "nonsense"])
def test_a_certificate_that_is_no_good_is_a_missing_input_and_named(
    option: str, trouble: str, tmp_path: Path, tls: dict[str, str]
) -> None:
    file = tmp_path / "odd.pem"
    if trouble == "a folder":
        file.mkdir()
    elif trouble == "nonsense":
        file.write_text("nonsense\n")
    given: dict[str, Any] = {**tls, option: str(file)}
    batch = plan(cluster="tls://127.0.0.1:1", **{name[2:].replace("-", "_"): path for name, path in given.items()})
    with pytest.raises(InputMissing, match=r"odd\.pem") as caught, connected(batch):
        pass
    assert (option in caught.value.message) == (trouble != "nonsense")


def test_a_certificate_that_is_missing_is_exit_66_and_one_line(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3))
    ended = finish(*WORK, "--cluster", NOWHERE, "--tls-cert", "missing.pem", cwd=tmp_path)
    assert ended.status == 66
    (line,) = ended.err.splitlines()
    assert "--tls-cert missing.pem does not exist" in line


@pytest.mark.parametrize("option", ["--tls-ca-file", "--tls-cert", "--tls-key"])
def test_a_certificate_without_a_cluster_is_refused(option: str, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3))
    ended = finish(*WORK, option, "x.pem", cwd=tmp_path)
    assert ended.status == 2
    assert f"{option} is for a cluster" in ended.err


@pytest.mark.parametrize(
    ("workers", "said"),
    [((), "all there are"), (("-j", "4"), "at most 4"), (("-j", "50%"), "50% of all there are")],
)
def test_a_dry_run_says_how_many_workers_of_a_cluster_there_would_be(
    workers: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    prepare(tmp_path, numbered(3))
    ended = finish(*WORK, "-n", *workers, "--cluster", NOWHERE, cwd=tmp_path)
    assert ended.status == 0
    assert f"workers    {said} ({NOWHERE})" in ended.out.splitlines()


def test_a_client_that_was_closed_is_refused(cluster: DaskCluster) -> None:
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as client:
        assert checked(client) is client
    with pytest.raises(InvalidUsage, match="is closed"):
        Batch(plan(), cluster=client).run()


def test_what_dask_says_is_kept_back_for_the_time_of_a_run(
    cluster: DaskCluster, caplog: pytest.LogCaptureFixture
) -> None:
    from distributed.versions import VersionMismatchWarning

    warnings.simplefilter("error")  # pytest puts them back
    logger, warned = logging.getLogger("distributed.client"), list(warnings.filters)
    before = logger.level, list(logger.filters)
    with connected(plan(cluster=cluster.address)):
        logger.error("meanwhile")
        warnings.warn(VersionMismatchWarning("Mismatched versions found\n\n+-----+"), stacklevel=1)
        with connected(plan(cluster=cluster.address)):  # runs in several threads
            pass
        logger.error("meanwhile")
    assert (logger.level, logger.filters) == before
    with pytest.raises(InvalidUsage), connected(plan(cluster="nonsense://x")):
        pass
    assert (logger.level, logger.filters, warnings.filters) == (*before, warned)
    logger.error("afterwards")
    assert caplog.messages == ["afterwards"]


# --- who may take part -----------------------------------------------------------------------------------------------


def facts(**changed: str) -> dict[str, Any]:
    """A worker's, where it differs from this machine."""
    return {**agent_host.describe(), **changed}


@pytest.mark.parametrize(("other", "said"), [
    ({"python": "3.2.1"}, "has Python 3.2.1"), ({"implementation": "pypy"}, "has pypy 3."),
])  # fmt: skip
def test_another_python_is_warned_of_and_cannot_have_functions_by_value(other: dict[str, str], said: str) -> None:
    warning = doubts("tcp://a:1", facts(**other), plan())
    assert warning.startswith(f"Warning: worker tcp://a:1 {said}")
    assert f"and this is Python {sys.version.split()[0]}" in warning
    for by_value in (plan(lambda item: item), plan(init=lambda: None)):
        with pytest.raises(ClusterUnfit, match="functions sent by value need the same"):
            doubts("tcp://a:1", facts(**other), by_value)


def test_another_patch_of_python_is_the_same() -> None:
    python = ".".join([*sys.version.split()[0].split(".")[:2], "99"])
    assert doubts("tcp://a:1", facts(python=python), plan(lambda item: item)) == ""


def test_another_batchmill_cannot_take_part() -> None:
    with pytest.raises(ClusterUnfit, match=r"has batchmill 0\.0\.1"):
        doubts("tcp://a:1", facts(batchmill="0.0.1"), plan())


# --- options ---------------------------------------------------------------------------------------------------------

FUNCTIONS = """
import os
import time
from f import note

kept = []


def pid(item):
    return os.getpid()


def gated(item):
    note(item["id"])
    while not os.path.exists("go"):
        time.sleep(0.01)
    return os.getpid()


def half(item):
    note(item["id"])
    while item["n"] >= 4 and not os.path.exists("go"):
        time.sleep(0.01)
    return item["n"]


def talks(item):
    print("item", item["n"])
    return os.getpid()


def leaks(item):
    if len(kept) < 10:
        kept.append(bytearray(8 << 20))
    elif len(set(open("witness"))) == 1:
        time.sleep(0.05)
    note(os.getpid())
    return item["n"]
"""


def ready(directory: Path, count: int) -> list[dict[str, Any]]:
    """So many items and functions for them."""
    items = numbered(count)
    prepare(directory, items)
    (directory / "g.py").write_text(FUNCTIONS)
    return items


def command(function: str, cluster: DaskCluster, *options: str) -> tuple[str, ...]:
    return (f"g.py:{function}", *WORK[1:], "--cluster", cluster.address, *options)


def pids(directory: Path) -> Counter[int]:
    """How many items each worker ran."""
    return Counter(line["result"] for line in lines_of(directory / "out.jsonl"))


@pytest.mark.parametrize(("workers", "expected"), [("auto", 4), ("3", 3), ("50%", 2)])
def test_there_are_as_many_workers_as_threads_or_as_was_said(
    workers: str, expected: int, cluster: DaskCluster, tmp_path: Path
) -> None:
    ready(tmp_path, 12)
    with running(*command("gated", cluster, "-j", workers, "--json"), cwd=tmp_path) as run:
        run.until(lambda: len(witnessed(tmp_path)) == expected, "an item in each worker")
        (tmp_path / "go").touch()
        ended = run.end()
    assert ended.status == 0, ended.err
    assert len(pids(tmp_path)) == expected
    assert json.loads(ended.out)["workers"] == expected


def test_the_progress_line_counts_workers_and_their_threads(cluster: DaskCluster, tmp_path: Path) -> None:
    ready(tmp_path, 8)
    options = ("-v", "--progress", "log", "--progress-interval", "100ms")
    with running(*command("gated", cluster, *options), cwd=tmp_path) as run:
        run.until(lambda: b" | 2 workers 4 threads cpu " in run.said(), "a line of progress")
        (tmp_path / "go").touch()
        assert run.end().status == 0


def test_what_items_print_on_all_workers_goes_to_one_file(cluster: DaskCluster, tmp_path: Path) -> None:
    ready(tmp_path, 40)
    ended = finish(*command("talks", cluster, "--worker-output", "prints.txt"), cwd=tmp_path)
    assert (ended.status, ended.out, ended.err) == (0, "", "")
    assert sorted((tmp_path / "prints.txt").read_text().splitlines()) == sorted(f"item {n}" for n in range(40))


def test_a_run_whose_time_is_up_is_continued(cluster: DaskCluster, tmp_path: Path) -> None:
    items = ready(tmp_path, 8)
    ended = finish(*command("half", cluster, "--chunk-size", "1", "--time-limit", "3s"), cwd=tmp_path)
    assert ended.status == 3, ended.err
    assert "stopped by --time-limit" in ended.err
    done = set(committed(tmp_path))
    assert done <= {item["id"] for item in items[:4]}
    cluster.assert_no_agents(limit=15)
    (tmp_path / "go").touch()
    ended = finish(*command("half", cluster, "--resume"), cwd=tmp_path)
    assert ended.status == 0, ended.err
    assert lines_of(tmp_path / "out.jsonl") == [{"id": item["id"], "result": item["n"]} for item in items]
    assert {id for id, count in Counter(witnessed(tmp_path)).items() if count > 1}.isdisjoint(done)


def test_no_worker_process_runs_more_items_than_it_may(cluster: DaskCluster, tmp_path: Path) -> None:
    ready(tmp_path, 30)
    ended = finish(*command("pid", cluster, "--max-items-per-worker", "5"), cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    found = pids(tmp_path)
    assert found.total() == 30
    assert max(found.values()) <= 5


def test_a_worker_process_that_holds_too_much_is_replaced_and_nobody_fails(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    ready(tmp_path, 200)
    options = ("--worker-memory", "90M", "-j", "1", "--chunk-size", "1")
    ended = finish(*command("leaks", cluster, *options), cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert len(lines_of(tmp_path / "out.jsonl")) == 200
    assert len(set(witnessed(tmp_path))) > 1
    assert strikes(tmp_path) == 0


def test_workers_that_cannot_be_reached_from_here_are_reached_by_way_of_the_scheduler(
    cluster: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def nothing(self: DaskBackend, name: str, session: str) -> Call:
        async def call(**message: Any) -> dict[str, Any]:
            tried.append(name)
            raise OSError("no route to host")

        return call

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(DaskBackend, "_direct", nothing)
    ready(tmp_path, 40)
    report = batchmill.run("g.py:pid", "items.jsonl", checkpoint=CHECKPOINT, output="out.jsonl",
                           cluster=cluster.address)  # fmt: skip
    assert (report.completed, report.workers) == (40, 4)
    assert len(lines_of(tmp_path / "out.jsonl")) == 40
    assert tried, "the straight way is tried first"


def test_where_items_ran_is_known_even_of_a_run_that_was_killed(cluster: DaskCluster, tmp_path: Path) -> None:
    ready(tmp_path, 8)
    with running(*command("half", cluster, "--chunk-size", "1"), cwd=tmp_path) as run:
        run.until(lambda: len(committed(tmp_path)) == 4, "some items")
        run.signal(signal.SIGKILL)
        run.end()
    with batchmill.open_checkpoint(tmp_path / CHECKPOINT) as results:
        assert results.status().hosts == {socket.gethostname(): 4}


# --- the manual's script ---------------------------------------------------------------------------------------------

JOBQUEUE = """
from distributed import LocalCluster

class SLURMCluster(LocalCluster):
    def __init__(self, *, cores, processes, memory, walltime, queue):
        super().__init__(n_workers=0, threads_per_worker=2, dashboard_address=None, host="127.0.0.1")

    def scale(self, jobs):
        super().scale(min(jobs, 1))
"""


def test_the_script_for_slurm_runs_where_processes_stand_in_for_its_jobs(tmp_path: Path) -> None:
    manual = (ROOT / "cli" / "README.md").read_text()
    (script,) = [block for block in re.findall(r"```text\n(.*?)```", manual, re.DOTALL) if "dask_jobqueue" in block]
    (tmp_path / "score.py").write_text("def score(item):\n    return item['n'] + 1\n")
    write_items(tmp_path / "items.jsonl", numbered(30))
    (tmp_path / "dask_jobqueue.py").write_text(JOBQUEUE)
    (tmp_path / "script.py").write_text(script)
    ended = finish(cwd=tmp_path, command=(sys.executable, "script.py"))
    assert ended.status == 0, ended.err
    assert [line["result"] for line in lines_of(tmp_path / "scores.jsonl")] == list(range(1, 31))
