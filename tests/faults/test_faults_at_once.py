"""Faults of beginning at once: many commands come to one checkpoint, each with options of its own."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import race_kit
import race_work
from crowd_kit import STATES, anyone, crowd, leave
from fault_kit import numbered, prepare, running, witnessed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")


@pytest.mark.sampled(6)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("state", race_kit.STATES)
def test_of_twenty_at_once_each_ends_for_a_true_reason_and_nothing_is_lost_or_runs_twice(
    state: str, seed: int, tmp_path: Path
) -> None:
    before = race_kit.put(tmp_path, state)
    arguments = (race_work.__file__, str(tmp_path), f"{state}/{seed}", "20")
    with running(*arguments, cwd=tmp_path, command=[sys.executable]) as run:
        ended = run.end()
    assert (ended.status, ended.err) == (0, "")
    assert race_kit.judge(tmp_path, state, before).total() == 20


@pytest.mark.sampled(6)
@pytest.mark.parametrize("state", STATES)
def test_of_twelve_commands_at_once_each_ends_for_a_true_reason(state: str, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(6, sleep=0.01))
    leave(tmp_path, state)
    assert crowd(tmp_path, anyone(12, random.Random(state))) == []


def test_two_that_resume_what_is_not_there_yet_and_wait_come_one_after_the_other(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(6, sleep=0.01))
    assert crowd(tmp_path, ["resume, waiting"] * 2) == []
    assert sorted(witnessed(tmp_path)) == [f"i{n}" for n in range(6)]


def test_twelve_that_begin_anew_at_once_lose_nothing(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(6, sleep=0.01))
    leave(tmp_path, "finished")
    assert crowd(tmp_path, ["fresh"] * 12) == []
