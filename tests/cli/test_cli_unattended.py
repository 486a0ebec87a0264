"""What is left of runs that nobody has watched: a log with times, the runs on a line each, a checkpoint made small."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_kit import batchmill
from fault_kit import finish, numbered, prepare, witnessed

WORDS = ("f.py:picky", "items.jsonl", "-c", "run.ckpt", "-o", "out.jsonl", "--log", "run.log", "--resume")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A batch of which eight items failed in the first run, and none in the second."""
    prepare(tmp_path, numbered(40, text="x" * 500))
    assert finish(*WORDS, cwd=tmp_path).status == 1
    (tmp_path / "mended").touch()
    assert finish(*WORDS, cwd=tmp_path).err == ""
    return tmp_path


def test_the_log_has_all_that_was_said_with_its_time_whatever_the_mail_had(work: Path) -> None:
    lines = (work / "run.log").read_text().splitlines()
    said = [re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} ", "", line) for line in lines]
    assert not set(said) & set(lines)
    assert sum(line.startswith("begins: ") for line in said) == 2
    assert "Resuming from checkpoint: 32/40 done, 8 failed" in said
    assert any(line.startswith("batchmill: 8 of 40 items failed (exit 1)") for line in said)
    assert any(line.startswith("batchmill: all 40 items done (exit 0)") for line in said)
    assert finish("f.py:picky", "no.jsonl", *WORDS[2:], cwd=work).status == 66
    assert "ends: no.jsonl" in (work / "run.log").read_text()
    assert finish(*WORDS[:6], "--log", "no/run.log", "--resume", cwd=work).status == 74
    assert finish(*WORDS[:6], "--log", "items.jsonl", "--resume", cwd=work).status == 2


def test_each_run_is_a_line(work: Path) -> None:
    head, first, second = batchmill("status", "run.ckpt", "--runs", cwd=work).stdout.splitlines()
    assert head.split() == ["run", "started", "time", "ok", "failed", "done", "before", "how", "it", "ended"]
    assert [line.split()[4:7] for line in (first, second)] == [["32", "8", "0"], ["8", "0", "32"]]
    assert (first.endswith("exit 1"), second.endswith("exit 0")) == (True, True)
    found = [
        json.loads(line) for line in batchmill("status", "run.ckpt", "--runs", "--json", cwd=work).stdout.splitlines()
    ]
    assert [(run["run"], run["failed"], run["exit_code"]) for run in found] == [(1, 8, 1), (2, 0, 0)]


def test_a_checkpoint_without_what_was_superseded_is_smaller_and_the_same(work: Path) -> None:
    made = batchmill("verify", "run.ckpt", "--compact", "small.ckpt", cwd=work)
    assert (made.returncode, "without 8 superseded outcomes" in made.stdout) == (0, True), made.stderr
    assert (work / "small.ckpt").stat().st_size < (work / "run.ckpt").stat().st_size
    assert batchmill("verify", "small.ckpt", cwd=work).returncode == 0
    for command in (("results", "--all"), ("failures", "--json"), ("status", "--runs")):
        before, after = (batchmill(*command, name, cwd=work) for name in ("run.ckpt", "small.ckpt"))
        assert (after.returncode, after.stdout) == (0, before.stdout)
    assert batchmill("report", "small.ckpt", "-o", "small.html", cwd=work).returncode == 0
    ran = witnessed(work)
    assert finish(*WORDS[:2], "-c", "small.ckpt", "--resume", cwd=work).status == 0
    assert witnessed(work) == ran
    assert batchmill("verify", "run.ckpt", "--compact", "small.ckpt", cwd=work).returncode == 73
