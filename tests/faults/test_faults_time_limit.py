"""Faults of time: a run with --time-limit, its items longer or shorter than that, and signals meanwhile."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
import work_kit
from cli_kit import environment
from fault_kit import (
    CHECKPOINT,
    committed,
    finish,
    lines_of,
    numbered,
    prepare,
    strikes,
    undisturbed,
    until,
    witnessed,
)

import batchmill
from batchmill.batch.batch import Batch
from batchmill.plan import make_plan
from batchmill.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")

RUN = ("f.py:work", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", "-j", "2", "--resume")


# The time set aside for writing the output grows with the results: with these it is ample, if the machine is not slow.
LARGE = """

small = work


def work(item):
    return {**small(item), "text": "x" * (8 << 20)}
"""


# A program that believes it can write any output in no time.
HURRIED = """
from batchmill.scheduler import run_limits
from batchmill_cli.main import entry

run_limits.RENDERED, run_limits.SLACK = 1 << 60, 0.0
entry()
"""


def state(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written anew."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def assert_partial(place: Path, said: str, items: int) -> None:
    """The output so far was written, or there was no time for that, which is said."""
    partial = place / "out.jsonl.partial"
    if "There was no time left to write what is done to out.jsonl.partial: the checkpoint has it" in said:
        assert not partial.exists()
    else:
        assert len(lines_of(partial)) == items
    assert len(committed(place)) == items


def test_output_that_there_was_no_time_to_write_is_said(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("import time\n\n\ndef work(item):\n    time.sleep(item)\n    return item\n")
    (tmp_path / "items.jsonl").write_text("0\n0.01\n1000\n")
    (tmp_path / "hurried.py").write_text(HURRIED)
    command = ("run", *RUN, "--time-limit", "10s")
    ended = subprocess.run(
        [sys.executable, "hurried.py", *command],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 3
    assert_partial(tmp_path, ended.stderr, 2)
    assert "There was no time left to write" in ended.stderr
    assert "\ncollect   " in ended.stderr


def test_night_after_night_the_same_line_comes_to_the_undisturbed_output(tmp_path: Path) -> None:
    expected = undisturbed(prepare(tmp_path, numbered(60, sleep=0.05)))
    partial, seconds = tmp_path / "out.jsonl.partial", 1.5
    for night in itertools.count():
        before = set(committed(tmp_path))
        seen, old = len(witnessed(tmp_path)), state(partial)
        ended = finish(*RUN, "--time-limit", f"{seconds:g}s", cwd=tmp_path)
        assert not set(witnessed(tmp_path)[seen:]) & before
        if ended.status == 0:
            break
        assert ended.status == 3, ended.err
        assert ended.err.startswith("batchmill: stopped by --time-limit, ")
        words = next(line for line in ended.err.splitlines() if line.startswith("continue"))
        assert f"--time-limit {seconds:g}s" in words
        if state(partial) != old:  # else the machine was too slow even to write it
            assert len(lines_of(partial)) == len(committed(tmp_path)), night
        if len(committed(tmp_path)) == len(before):
            seconds *= 2  # or so slow that a night came to nothing
    assert night > 0
    assert (ended.status, ended.err) == (0, "")
    assert (tmp_path / "out.jsonl").read_bytes() == expected
    assert not (tmp_path / "out.jsonl.partial").exists()


def test_what_does_not_end_in_time_is_killed_without_blame_and_what_did_is_in_the_output(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(6, sleep=0.02))
    (tmp_path / "f.py").write_text((tmp_path / "f.py").read_text() + LARGE)
    items = tmp_path / "items.jsonl"
    items.write_text(items.read_text() + '{"id": "long", "n": 6, "sleep": 1000}\n')
    ended = finish(*RUN, "--time-limit", "10s", cwd=tmp_path)
    assert ended.status == 3
    assert "stopped by --time-limit, 6 of 7 items done" in ended.err
    assert "1 item was still running when the time was up, and stopped to be run again\n" in ended.err
    assert_partial(tmp_path, ended.err, 6)
    assert strikes(tmp_path) == 0
    assert "long" not in committed(tmp_path)
    items.write_text(items.read_text().replace("1000", "0"))
    assert finish(*RUN, cwd=tmp_path).status == 0
    assert len(lines_of(tmp_path / "out.jsonl")) == 7


def test_workers_all_inside_c_code_cost_neither_the_limit_nor_the_output(tmp_path: Path) -> None:
    functions = (prepare(tmp_path, numbered(6)) / "f.py").read_text()
    (tmp_path / "f.py").write_text(functions + LARGE)
    assert finish(*RUN, "--limit", "4", cwd=tmp_path).status == 3
    (tmp_path / "out.jsonl.partial").unlink()
    (tmp_path / "f.py").write_text(functions + "\n\nwork = stuck\n")
    ended = finish(*RUN, "--time-limit", "10s", cwd=tmp_path)
    assert ended.status == 3
    assert "2 items were still running when the time was up" in ended.err
    assert "none ended in time: give more" in ended.err
    assert_partial(tmp_path, ended.err, 4)
    assert strikes(tmp_path) == 0


def test_a_limit_shorter_than_the_import_ends_the_run_without_an_item(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(4))
    (tmp_path / "f.py").write_text("import time\ntime.sleep(1000)\n\n\ndef work(item):\n    return 1\n")
    ended = finish(*RUN, "--time-limit", "0.5s", cwd=tmp_path)
    assert ended.status == 3
    assert "0 of 4 items done" in ended.err or "0 of 0 items done" in ended.err


def test_a_signal_while_the_last_items_are_waited_for_shortens_the_wait(tmp_path: Path) -> None:
    settings = Settings(workers=1, grace=0.1)
    plan = make_plan(work_kit.stay, items=[str(tmp_path / "witness")], settings=settings, no_checkpoint=True)
    batch = Batch(plan)

    def stop() -> None:
        until((tmp_path / "witness").exists, "the item to run")
        batch.stop("time-limit")
        batch.stop("SIGTERM")

    thread = Thread(target=stop)
    thread.start()
    report = batch.run()
    thread.join(60)
    assert (report.stopped, report.exit_code) == ("SIGTERM", 128 + signal.SIGTERM)


def test_in_python_the_limit_counts_from_the_call(tmp_path: Path) -> None:
    report = batchmill.run("work_kit:slow", range(1000), workers=1, time_limit=6)
    assert (report.stopped, report.exit_code) == ("time-limit", 3)
    assert 0 < report.completed < 1000
