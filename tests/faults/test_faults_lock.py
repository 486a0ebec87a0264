"""Faults of sharing: several runs on one checkpoint at once, refused or waiting for their turn."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fault_kit import CHECKPOINT, Run, finish, numbered, prepare, results_of, running, until, witnessed

import batchmill
from batchmill.errors import CheckpointBusy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")


@pytest.mark.parametrize("count", [2, 8])
def test_row_17_of_several_runs_at_once_one_runs_and_the_others_are_75(count: int, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(6))
    command = ("f.py:gated", "items.jsonl", "-c", CHECKPOINT, "--resume", "-o", "out.jsonl", "-j", "1")
    with ExitStack() as stack:
        runs = [stack.enter_context(running(*command, cwd=tmp_path)) for _ in range(count)]
        until(lambda: sum(run.process.poll() is None for run in runs) <= 1, "all but one to end")
        (holder,) = [run for run in runs if run.process.poll() is None]
        holder.until(lambda: witnessed(tmp_path), "the one to run")
        (tmp_path / "go").touch()
        for run in runs:
            ended = run.end()
            run.assert_gone()
            assert ended.status == (0 if run is holder else 75), ended.err
            assert ended.err == "" if run is holder else len(ended.err.splitlines()) == 1
    assert len(results_of(tmp_path / "out.jsonl")) == 6
    assert sorted(witnessed(tmp_path)) == [f"i{n}" for n in range(6)]


def test_row_17_fresh_does_not_take_a_live_checkpoint_away(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(6))
    command = ("f.py:gated", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", "-j", "1")
    with running(*command, cwd=tmp_path) as run:
        run.until(lambda: witnessed(tmp_path), "the first to run")
        ended = finish(*command, "--fresh", cwd=tmp_path)
        assert ended.status == 75
        assert str(run.pid) in ended.err
        (tmp_path / "go").touch()
        assert run.end().status == 0
    assert len(results_of(tmp_path / "out.jsonl")) == 6


# Waiting

GATED = ("f.py:gated", "items.jsonl", "-c", CHECKPOINT, "--resume", "-o", "out.jsonl", "-j", "1")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Run]:
    """A run that holds the checkpoint until the file `go` is there."""
    prepare(tmp_path, numbered(6))
    with running(*GATED, cwd=tmp_path) as run:
        run.until(lambda: witnessed(tmp_path), "the holder to run")
        yield run


def waits(run: Run) -> None:
    """Until the run has the lock's file open: it is looking at it."""
    run.until(lambda: b"Waiting: " in run.said(), "the run to wait")


def test_runs_that_wait_come_one_after_the_other_and_nothing_runs_twice(holder: Run, tmp_path: Path) -> None:
    with ExitStack() as stack:
        waiting = [stack.enter_context(running(*GATED, "--wait", "-v", cwd=tmp_path)) for _ in range(3)]
        for run in waiting:
            waits(run)
        (tmp_path / "go").touch()
        assert [run.end().status for run in (holder, *waiting)] == [0, 0, 0, 0]
    assert len(results_of(tmp_path / "out.jsonl")) == 6
    assert sorted(witnessed(tmp_path)) == [f"i{n}" for n in range(6)]


def test_a_run_that_waits_goes_on_where_a_killed_one_was(holder: Run, tmp_path: Path) -> None:
    with running(*GATED, "--wait", "1h", "-v", cwd=tmp_path) as run:
        waits(run)
        (tmp_path / "go").touch()
        holder.signal(signal.SIGKILL)
        assert run.end().status == 0
    assert len(results_of(tmp_path / "out.jsonl")) == 6


@pytest.mark.parametrize("limits", [("--wait", "0.6s"), ("--wait", "--time-limit", "0.9s")], ids=["wait", "time-limit"])
def test_who_has_waited_long_enough_is_75_and_is_told_for_whom(
    limits: tuple[str, ...], holder: Run, tmp_path: Path
) -> None:
    ended = finish(*GATED, *limits, cwd=tmp_path)
    assert ended.status == 75
    (line,) = ended.err.splitlines()
    assert re.search(
        rf"in use by another run \(process {holder.pid} on {os.uname().nodename}, since \d{{4}}-\d\d-\d\d \d\d:", line
    )
    assert f"give more to {limits[-2]}, or" in line
    assert finish(*GATED, *limits, "-q", cwd=tmp_path).err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_waiting_at_once(number: signal.Signals, holder: Run, tmp_path: Path) -> None:
    with running(*GATED, "--wait", "-v", cwd=tmp_path) as run:
        waits(run)
        run.signal(number)
        ended = run.end()
        run.assert_gone()
    assert ended.status == -number
    assert f"ended by {number.name} while waiting for " in ended.err.splitlines()[-1]
    assert witnessed(tmp_path) == ["i0"]


def test_without_resume_a_live_checkpoint_is_75_and_waiting_for_it_would_not_help(holder: Run, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    assert holder.end().status == 0
    (tmp_path / "go").unlink()
    items = tmp_path / "items.jsonl"
    items.write_text(items.read_text() + '{"id": "more", "n": 6}\n')
    fresh = [word for word in GATED if word != "--resume"]
    with running(*GATED, cwd=tmp_path) as run:
        run.until(lambda: "more" in witnessed(tmp_path), "the second to run")
        assert str(run.pid) in (busy := finish(*fresh, cwd=tmp_path)).err
        in_the_way = finish(*fresh, "--wait", cwd=tmp_path)
    assert (busy.status, in_the_way.status) == (75, 73)
    assert "--resume continues it" in in_the_way.err


def test_fresh_waits_too(holder: Run, tmp_path: Path) -> None:
    fresh = [word if word != "--resume" else "--fresh" for word in GATED]
    with running(*fresh, "--wait", "-v", cwd=tmp_path) as run:
        waits(run)
        (tmp_path / "go").touch()
        assert (holder.end().status, run.end().status) == (0, 0)
    assert (tmp_path / CHECKPOINT.replace(".ckpt", ".1.ckpt")).exists()


def test_in_python_waiting_is_a_keyword(holder: Run, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(CheckpointBusy):
        batchmill.run(
            f"{tmp_path}/f.py:gated", str(tmp_path / "items.jsonl"), checkpoint=tmp_path / CHECKPOINT, resume=True,
            wait=0.6, on_message=said.append,
        )  # fmt: skip
    assert [line for line in said if line.startswith("Waiting: ")] == said
    assert len(said) == 1
