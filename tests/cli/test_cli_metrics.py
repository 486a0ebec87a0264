"""`--metrics FILE.prom`: what Prometheus is told of a run, while it runs and after it."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client", reason="the extra `metrics` is not installed")

from cli_kit import PROGRAM, batchmill, environment
from fault_kit import finish, numbered, prepare, running, until, witnessed
from prometheus_client.parser import text_string_to_metric_families

COMMAND = ("run", "f.py:picky", "items.jsonl", "-c", "night.ckpt", "--resume", "--metrics", "m.prom")
linux = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return prepare(tmp_path, numbered(10))


def values(path: Path) -> dict[str, float]:
    """Sample -> value, without the prefix and the label `batch`; every sample must have both, and no time."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            assert sample.name.startswith("batchmill_")
            assert sample.labels.pop("batch") == "night"
            assert sample.timestamp is None, "the textfile collector skips a file with timestamps"
            found[sample.name.removeprefix("batchmill_") + "".join(f":{v}" for v in sample.labels.values())] = (
                sample.value
            )
    return found


def test_a_run_tells_its_items_its_status_and_when_it_last_succeeded(work: Path) -> None:
    before = time.time()
    (work / "mended").touch()
    assert batchmill(*COMMAND, cwd=work).returncode == 0
    seen = values(work / "m.prom")
    assert (seen["items_total:completed"], seen["items_total:failed"], seen["items_total:skipped"]) == (10, 0, 0)
    assert (seen["input_items"], seen["remaining_items"], seen["exit_code"], seen["running"]) == (10, 0, 0, 0)
    assert before <= seen["start_timestamp_seconds"] <= seen["last_success_timestamp_seconds"] <= time.time()
    assert seen["checkpoint_bytes"] == (work / "night.ckpt").stat().st_size
    assert min(seen[name] for name in ("duration_seconds", "resident_memory_bytes", "workers")) > 0
    assert sorted(path.name for path in work.glob("m.prom*")) == ["m.prom"]
    assert stat.S_IMODE((work / "m.prom").stat().st_mode) == 0o666 & ~umask()


def umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def test_the_last_success_outlives_what_goes_wrong_afterwards(work: Path) -> None:
    assert batchmill(*COMMAND, cwd=work).returncode == 1
    seen = values(work / "m.prom")
    assert (seen["exit_code"], seen["items_total:failed"]) == (1, 2)
    assert "last_success_timestamp_seconds" not in seen
    (work / "mended").touch()
    assert batchmill(*COMMAND, cwd=work).returncode == 0
    success = values(work / "m.prom")["last_success_timestamp_seconds"]
    assert batchmill(*COMMAND, "--set", "x=1", cwd=work).returncode == 78
    failed = values(work / "m.prom")
    assert (failed["exit_code"], failed["last_success_timestamp_seconds"]) == (78, success)
    assert batchmill(*COMMAND, cwd=work).returncode == 0
    assert values(work / "m.prom")["items_total:skipped"] == 10
    assert values(work / "m.prom")["last_success_timestamp_seconds"] > success


@linux
def test_a_run_is_seen_while_it_runs_and_one_that_is_75_leaves_that_alone(work: Path) -> None:
    (work / "m.prom").write_text('batchmill_exit_code{batch="night"} 3\n')
    words = [word.replace("picky", "gated") for word in COMMAND[1:]]
    with running(*words, "-j", "1", "--progress-interval", "1", cwd=work) as run:
        run.until(lambda: "running" in values(work / "m.prom"), "the first metrics")
        run.until(lambda: witnessed(work), "an item to run")
        live = values(work / "m.prom")
        assert (live["running"], live["exit_code"], live["items_total:completed"]) == (1, 3, 0)
        assert finish(*words, cwd=work).status == 75
        assert values(work / "m.prom")["running"] == 1
        (work / "go").touch()
        until(lambda: values(work / "m.prom")["running"] == 0, "the end")
        assert run.end().status == 0
    assert values(work / "m.prom")["exit_code"] == 0


@linux
def test_a_run_that_is_stopped_says_so(work: Path) -> None:
    words = [word.replace("picky", "gated") for word in COMMAND[1:]]
    with running(*words, "-j", "1", "--grace", "0.1", cwd=work) as run:
        run.until(lambda: witnessed(work), "an item to run")
        run.signal(signal.SIGTERM)
        assert run.end().status == -signal.SIGTERM
    seen = values(work / "m.prom")
    assert (seen["exit_code"], seen["running"], seen["remaining_items"]) == (143, 0, 10)


@pytest.mark.parametrize("earlier", [b"\xff\xfe", b"nonsense {{{\n", b'batchmill_exit_code{batch="x"} 5\n', b""])
def test_an_earlier_file_that_is_nothing_of_ours_is_replaced(earlier: bytes, work: Path) -> None:
    (work / "m.prom").write_bytes(earlier)
    assert batchmill(*COMMAND, cwd=work).returncode == 1
    assert values(work / "m.prom")["exit_code"] == 1


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("m.txt", 2, "--metrics m.txt does not end in .prom; node_exporter reads no other files"),
        ("no/m.prom", 74, "cannot write no/m.prom"),
        ("folder.prom", 74, "cannot write folder.prom"),
        ("out.prom", 2, "--metrics out.prom is the same file as -o"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(path: str, status: int, said: str, work: Path) -> None:
    (work / "folder.prom").mkdir()
    ended = batchmill(*COMMAND[:-1], path, "-o", "out.prom", cwd=work)
    assert ended.returncode == status
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (work / "witness").exists()


def test_a_directory_that_goes_away_costs_the_metrics_and_not_the_run(work: Path) -> None:
    (work / "prom").mkdir()
    (work / "f.py").write_text("import shutil\n\n\ndef picky(item):\n    shutil.rmtree('prom', ignore_errors=True)\n")
    ended = batchmill(*COMMAND[:-1], "prom/m.prom", cwd=work)
    assert ended.returncode == 0
    assert re.fullmatch(r"batchmill: cannot write prom/m.prom: No such file .*goes on without metrics\n", ended.stderr)


def test_without_the_package_one_line_names_the_extra(work: Path) -> None:
    hidden = work / "hidden"
    hidden.mkdir()
    (hidden / "prometheus_client.py").write_text("raise ImportError('hidden')\n")
    ended = subprocess.run(
        [*PROGRAM, *COMMAND], cwd=work, env=environment(PYTHONPATH=str(hidden)), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.strip().endswith("needs the package prometheus_client; pip install 'batchmill[metrics]'")


def test_the_names_follow_the_conventions() -> None:
    from batchmill_cli.running.metrics import COUNTERS, GAUGES

    assert all(name.endswith("_total") for name in COUNTERS)
    assert not any(name.endswith(("_total", "_count", "_sum", "_bucket", "_info")) for name in GAUGES)
    assert not any(re.search(r"milli|micro|minutes|hours|percent|kilo|mega", name) for name in (*COUNTERS, *GAUGES))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in (*COUNTERS, *GAUGES))
