"""Faults of sharing: several runs on one checkpoint at once."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from fault_kit import CHECKPOINT, finish, numbered, prepare, results_of, running, until, witnessed

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
