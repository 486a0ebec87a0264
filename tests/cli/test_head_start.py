"""Tests of the look at the command line before anything is imported, and of the fork server that it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_kit import batchmill

from batchmill_cli.prewarm import is_wanted

RUN = ["run", "score.py:score", "items.jsonl"]


@pytest.mark.parametrize(
    "args", [RUN, [*RUN, "--resume", "-o", "-"], ["demo"], ["exec", "in.txt", "--", "ls", "--help"]]
)
def test_a_batch_gets_its_fork_server_at_once(args: list[str]) -> None:
    assert is_wanted(args, {})


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--version"],
        ["status", "a.ckpt"],
        ["run", "--help"],
        [*RUN, "-n"],
        [*RUN, "--dry-run"],
        [*RUN, "--preload", "numpy"],
        [*RUN, "--preload=numpy"],
        [*RUN, "--start-method", "spawn"],
        ["exec", "-n", "in.txt", "--", "ls"],
    ],
)
def test_what_needs_no_server_or_another_one_starts_none(args: list[str]) -> None:
    assert not is_wanted(args, {})


def test_a_start_method_from_the_environment_counts() -> None:
    assert not is_wanted(RUN, {"BATCHMILL_RUN_START_METHOD": "spawn"})
    assert is_wanted(RUN, {"BATCHMILL_RUN_WORKERS": "2"})


def test_a_server_started_for_nothing_leaves_nothing_behind(tmp_path: Path) -> None:
    ended = batchmill("run", "nowhere.py:f", "items.jsonl", cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert ended.returncode == 66
    assert list(tmp_path.iterdir()) == []
