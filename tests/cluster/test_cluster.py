"""Batches on a real Dask cluster: the output, the functions and the API are those of one machine."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_kit import DaskCluster, dask_cluster, tls_options
from fault_kit import (
    CHECKPOINT,
    LIMIT,
    committed,
    finish,
    lines_of,
    numbered,
    prepare,
    running,
    undisturbed,
    witnessed,
)

import batchmill
from batchmill.cluster.protocol import LEASE

pytest.importorskip("distributed", reason="the extra dask is not installed")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc"),
    pytest.mark.cluster,
]

WORK = ("f.py:work", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Three workers of one thread; none of the tests here harms them."""
    with dask_cluster(tmp_path_factory.mktemp("cluster"), "alice", "bob", "carol", nanny=False) as cluster:
        yield cluster


MANY = """
import os, time

def many(items):
    numbers = [item["n"] for item in items]
    if 33 in numbers:
        os._exit(5)
    if 71 in numbers:
        time.sleep(60)
    if 99 in numbers:
        raise ValueError("no")
    return [2 * n for n in numbers]
"""

WHOLE = """
import dataclasses, os, sys
import numpy as np
import batchmill

@dataclasses.dataclass
class Point:
    x: int

def set_up(folder, table):
    global FOLDER, OWN
    FOLDER, OWN = folder, table

def clean_up():
    open(os.path.join(FOLDER, f"end-{os.getpid()}"), "w").close()

def move(item, table):
    assert not (table.flags.writeable or OWN.flags.writeable)
    return Point(item.x + int(table[2]) + int(OWN[0])), os.getpid()

def move_all(items, table):
    return [Point(item.x + int(table[2])) for item in items]

if __name__ == "__main__":
    folder, cluster = sys.argv[1:]
    points, table = [Point(n) for n in range(20)], np.arange(10**5)
    found = batchmill.map(move, points, kwargs={"table": table}, init=set_up, end=clean_up, cluster=cluster,
                          init_kwargs={"folder": folder, "table": table + 7})
    assert [point for point, _ in found] == [Point(n + 9) for n in range(20)]
    ended = {int(name.removeprefix("end-")) for name in os.listdir(folder) if name.startswith("end-")}
    assert ended >= {pid for _, pid in found}, (ended, found)
    with batchmill.stream(move_all, points, kwargs={"table": table}, batch_size="auto", cluster=cluster) as outcomes:
        assert sorted(outcome.result.x for outcome in outcomes) == list(range(2, 22))
"""

KILLED = """
import time
from f import note

def works(items):
    time.sleep(0.01 * len(items))
    for item in items:
        if item["n"] % 15 == 7:
            raise ValueError("no")
    for item in items:
        note(item["id"])
    return [2 * item["n"] for item in items]
"""

# --- the same output -------------------------------------------------------------------------------------------------


def test_the_output_is_that_of_a_local_run_byte_for_byte_and_each_item_ran_once(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    prepare(tmp_path, numbered(400, sleep=0.002, text="ä\n" * 10))
    expected = undisturbed(tmp_path)
    ended = finish(*WORK, "--cluster", cluster.address, cwd=tmp_path)
    assert (ended.status, ended.out, ended.err) == (0, "", "")
    assert (tmp_path / "out.jsonl").read_bytes() == expected
    assert set(Counter(witnessed(tmp_path)).values()) == {1}
    assert len(witnessed(tmp_path)) == 400
    cluster.assert_no_agents(limit=LEASE + 10)


def test_of_a_call_of_many_items_on_the_cluster_those_fail_that_fail_alone(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    (tmp_path / "many.py").write_text(MANY)
    prepare(tmp_path, numbered(120))
    options = ("-c", "many.ckpt", "-o", "many.jsonl", "--batch-size", "16", "--timeout", "1s")
    ended = finish("many.py:many", "items.jsonl", *options, "--cluster", cluster.address, cwd=tmp_path)
    assert ended.status == 1, ended.err
    failed = {33: "WorkerDied", 71: "Timeout", 99: "ValueError"}
    found = lines_of(tmp_path / "many.jsonl")
    assert [one["result"] for one in found] == [2 * n for n in range(120) if n not in failed]
    assert all(f"1x {type}" in ended.err for type in failed.values()), ended.err


def test_calls_of_many_that_were_killed_on_the_cluster_are_resumed_there_with_another_size_to_the_same_output(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    prepare(tmp_path, numbered(300))
    words = ("killed.py:works", *WORK[1:], "--cluster", cluster.address)
    with running(*words, "--batch-size", "7", cwd=tmp_path) as run:
        run.until(lambda: len(committed(tmp_path)) > 60, "some results")
        run.signal(signal.SIGKILL)
        run.end()
        run.assert_gone()
    done = {id for id, outcome in committed(tmp_path).items() if outcome.ok}
    ran = Counter(witnessed(tmp_path))
    ended = finish(*words, "--resume", "--batch-size", "64", cwd=tmp_path)
    assert (ended.status, "20 of 300 items failed" in ended.err) == (1, True), ended.err
    expected = [b'{"id": "i%d", "result": %d}\n' % (n, 2 * n) for n in range(300) if n % 15 != 7]
    assert (tmp_path / "out.jsonl").read_bytes() == b"".join(expected)
    assert len(done) < 280
    assert not set(Counter(witnessed(tmp_path)) - ran) & done
    assert set(ran.values()) == {1}


def test_lines_run_with_a_module_beside_the_function_and_what_is_edited_is_what_runs_next(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    (tmp_path / "score.py").write_text("import helper\n\ndef score(item):\n    return [helper.word(item), 1]\n")
    (tmp_path / "helper.py").write_text("def word(item):\n    return item.upper()\n")
    (tmp_path / "items.txt").write_text("".join(f"word {n}\n" for n in range(50)))
    for version, word in ((1, "WORD"), (2, "word")):
        arguments = ("score.py:score", "items.txt", "-c", f"{version}.ckpt", "-o", f"{version}.jsonl", "-v")
        ended = finish(*arguments, "--cluster", cluster.address, cwd=tmp_path)
        assert ended.status == 0, ended.err
        assert [one["result"] for one in lines_of(tmp_path / f"{version}.jsonl")] == [
            [f"{word} {n}", version] for n in range(50)
        ]
        (tmp_path / "score.py").write_text("import helper\n\ndef score(item):\n    return [helper.word(item), 2]\n")
        (tmp_path / "helper.py").write_text("def word(item):\n    return item\n")


def test_a_csv_runs_by_a_function_of_a_package_and_a_scheduler_file_names_the_cluster(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    package = tmp_path / "tasks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "rules.py").write_text("def rule(row):\n    return int(row['n']) * 2, row['text']\n")
    (package / "score.py").write_text("from tasks.rules import rule\n\ndef score(row):\n    return rule(row)\n")
    rows = "".join(f'{n},"two\nlines, {n}"\n' for n in range(60))
    (tmp_path / "items.csv").write_text("n,text\n" + rows)
    for name, where in (("here", ()), ("there", ("--cluster-file", str(cluster.file)))):
        arguments = ("tasks.score:score", "items.csv", "-c", f"{name}.ckpt", "-o", f"{name}.out.csv", "--id-field", "n")
        ended = finish(*arguments, *where, cwd=tmp_path)
        assert (ended.status, ended.err) == (0, "")
    assert (tmp_path / "there.out.csv").read_bytes() == (tmp_path / "here.out.csv").read_bytes()
    assert (tmp_path / "there.out.csv").read_bytes().count(b"lines, ") == 60


def test_a_batch_begun_here_is_ended_on_the_cluster_and_no_item_runs_twice(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    prepare(tmp_path, numbered(60))
    expected = undisturbed(tmp_path)
    begun = finish(*WORK, "--limit", "25", "-j", "2", cwd=tmp_path)
    assert begun.status == 3
    ended = finish(*WORK, "--resume", "--cluster", cluster.address, cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert (tmp_path / "out.jsonl").read_bytes() == expected
    assert sorted(witnessed(tmp_path)) == sorted(f"i{n}" for n in range(60))


# --- from Python -----------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
import batchmill
from distributed import Client

def score(n):
    print(f"scoring {n}")
    return n * n

def main(address):
    with Client(address) as client:
        for cluster in (client, address):
            report = batchmill.run(score, range(20), cluster=cluster, output=f"{type(cluster).__name__}.jsonl")
            report.raise_for_failures()
        assert client.status == "running"

if __name__ == "__main__":
    main(sys.argv[1])
"""


def test_a_script_runs_its_own_function_on_a_client_or_an_address_and_prints_come_home(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", cluster.address], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    for name in ("Client", "str"):
        assert [one["result"] for one in lines_of(tmp_path / f"{name}.jsonl")] == [n * n for n in range(20)]
    assert Counter(done.stderr.splitlines()) == {f"scoring {n}": 2 for n in range(20)}


def test_what_python_gives_and_takes_is_the_same_on_the_cluster(cluster: DaskCluster, tmp_path: Path) -> None:
    """Shared data, arguments of init, an end, values of one's own, calls of many items."""
    (tmp_path / "script.py").write_text(WHOLE)
    ended = finish(cwd=tmp_path, command=(sys.executable, "script.py", str(tmp_path), cluster.address))
    assert (ended.status, ended.out, ended.err) == (0, "", "")


# --- refusals --------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_where_no_scheduler_is_the_run_says_so_and_touches_nothing(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3))
    address = f"tcp://127.0.0.1:{free_port()}"
    ended = finish(*WORK, "--cluster", address, cwd=tmp_path)
    assert ended.status == 70
    (line,) = ended.err.splitlines()
    assert f"no scheduler can be reached at {address}" in line
    assert {path.name for path in tmp_path.iterdir()} == {"f.py", "items.jsonl"}


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--cluster", "nonsense://x"), 2, "nonsense"),
        (("--cluster", "tcp://127.0.0.1:port"), 2, "tcp://127.0.0.1:port"),
        (("--cluster", "tcp://h:1", "--cluster-file", "s.json"), 2, "exclude each other"),
        (("--cluster-file", "missing.json"), 66, "missing.json does not exist"),
    ],
)
def test_what_cannot_be_a_cluster_is_refused_at_once(
    arguments: tuple[str, ...], status: int, said: str, tmp_path: Path
) -> None:
    prepare(tmp_path, numbered(3))
    ended = finish(*WORK, *arguments, cwd=tmp_path)
    assert ended.status == status, ended.err
    (line,) = ended.err.splitlines()
    assert said in line
    assert {path.name for path in tmp_path.iterdir()} == {"f.py", "items.jsonl"}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"address": 8786}'])
def test_a_file_that_no_scheduler_wrote_is_named(text: str, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3))
    (tmp_path / "s.json").write_text(text)
    ended = finish(*WORK, "--cluster-file", "s.json", cwd=tmp_path)
    assert ended.status == 2, ended.err
    (line,) = ended.err.splitlines()
    assert "--cluster-file s.json does not say where a scheduler is" in line


def copy_of_batchmill(directory: Path) -> Path:
    """A directory for PYTHONPATH in which batchmill is of another version."""
    source = Path(batchmill.__file__).parent
    shutil.copytree(source, directory / "batchmill", ignore=shutil.ignore_patterns("__pycache__"))
    text = (source / "version.py").read_text()
    (directory / "batchmill" / "version.py").write_text(text.replace(batchmill.__version__, "0.0.1"))
    return directory


# A `sitecustomize` with which Python has no batchmill.
WITHOUT_BATCHMILL = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "batchmill":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
"""


def test_workers_with_another_batchmill_or_none_do_nothing_and_the_others_all(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(20))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "sitecustomize.py").write_text(WITHOUT_BATCHMILL)
    other = copy_of_batchmill(tmp_path / "other")
    with dask_cluster(tmp_path) as cluster:
        cluster.add("old", "--no-nanny", PYTHONPATH=str(other))
        cluster.add("bare", "--no-nanny", PYTHONPATH=str(tmp_path / "none"))
        cluster.ready("good", nanny=False)
        refusals = (b"batchmill 0.0.1, and this is " + batchmill.__version__.encode(), b"has no batchmill")
        with running("f.py:gated", *WORK[1:], "-v", "--cluster", cluster.address, cwd=tmp_path) as run:
            run.until(lambda: all(refusal in run.said() for refusal in refusals), "both refusals")
            (tmp_path / "go").touch()
            ended = run.end()
            run.assert_gone()
        assert ended.status == 0, ended.err
        assert len(lines_of(tmp_path / "out.jsonl")) == 20

        cluster.remove("good")
        cluster.remove("bare")
        ended = finish(*WORK, "--fresh", "--cluster", cluster.address, cwd=tmp_path)
        assert ended.status == 78
        assert f"pip install batchmill=={batchmill.__version__}" in ended.err


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to make a certificate")
def test_a_tls_cluster_needs_its_certificates(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(20))
    options = tls_options(tmp_path)
    with dask_cluster(tmp_path, "worker", nanny=False, tls=options) as cluster:
        ended = finish(*WORK, "--cluster", cluster.address, *options, cwd=tmp_path)
        assert (ended.status, ended.err) == (0, "")
        assert len(lines_of(tmp_path / "out.jsonl")) == 20
        ended = finish(*WORK, "--fresh", "--cluster", cluster.address, cwd=tmp_path)
        assert ended.status == 2, ended.err


# --- stopping --------------------------------------------------------------------------------------------------------


def test_a_run_that_is_interrupted_keeps_what_was_done_and_its_agents_end(cluster: DaskCluster, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(2000, sleep=0.02))
    with running(*WORK, "--cluster", cluster.address, cwd=tmp_path) as run:
        run.until(lambda: len(witnessed(tmp_path)) > 60, "some items")
        run.signal(signal.SIGINT)
        ended = run.end()
        run.assert_gone()
    assert ended.status == -signal.SIGINT, ended.err
    assert sorted(committed(tmp_path)) == sorted(witnessed(tmp_path))
    cluster.assert_no_agents(limit=LEASE + 10)


def test_status_tells_where_items_ran(cluster: DaskCluster, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(60, sleep=0.1))
    ended = finish(*WORK, "--cluster", cluster.address, cwd=tmp_path)
    assert ended.status == 0, ended.err
    told = finish(CHECKPOINT, "--json", cwd=tmp_path, command=(sys.executable, "-m", "batchmill", "status"))
    assert json.loads(told.out)["hosts"] == {socket.gethostname(): 60}
