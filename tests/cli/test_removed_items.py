"""Outcomes of items that INPUT no longer has: left out by what reads a checkpoint, counted, given where asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_kit import batchmill

from batchmill import open_checkpoint

BAD = '{"id": 2, "n": "bad\n'


def line(id: int, n: int) -> str:
    return json.dumps({"id": id, "n": n}) + "\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "f.py").write_text("def work(item):\n    return 12 // item['n']\n")
    return tmp_path


def run(place: Path, lines: Sequence[str], *options: str, name: str = "c.ckpt") -> dict[str, Any]:
    """The report of a run over these lines; with its exit status as `status`."""
    (place / "in.jsonl").write_text("".join(lines))
    ended = batchmill("run", "f.py:work", "in.jsonl", "-c", name, "--resume", "--json", *options, cwd=place)
    report: dict[str, Any] = json.loads(ended.stdout)
    return report


def read(place: Path, *words: str) -> list[Any]:
    """What a command prints, as JSON lines, and then what it tells people."""
    ended = batchmill(*words, cwd=place)
    assert ended.returncode == 0
    return [*map(json.loads, ended.stdout.splitlines()), *([ended.stderr.strip()] if ended.stderr else [])]


def test_a_corrected_line_is_all_that_is_spoken_of(place: Path) -> None:
    assert run(place, [line(1, 1), BAD, line(3, 0), line(4, 4)])["failed"] == 2
    report = run(place, [line(1, 1), line(2, 2), line(3, 3)], "-o", "out.jsonl")
    assert (report["exit_code"], report["total"], report["failed"], report["removed"]) == (0, 3, 0, 2)

    status = read(place, "status", "c.ckpt", "--json")[0]
    assert (status["done"], status["failed"], status["removed"], status["total"]) == (3, 0, 2, 3)
    told = batchmill("status", "c.ckpt", cwd=place).stdout
    assert "3 done, 0 failed\n" in told
    assert "2 more outcomes of items that INPUT no longer has" in told

    left = "Left out: 1 failure of items that INPUT no longer has; --with-removed gives it too"
    assert read(place, "failures", "c.ckpt", "--json") == [left]
    assert read(place, "failures", "c.ckpt", "--items") == [left]
    given = batchmill("failures", "c.ckpt", "--items", "--with-removed", cwd=place)
    assert (given.stdout, given.stderr) == (BAD, "")

    results = read(place, "results", "c.ckpt")
    assert results[:-1] == [{"id": 1, "result": 12}, {"id": 2, "result": 6}, {"id": 3, "result": 4}]
    assert results[-1] == "Left out: 1 result of items that INPUT no longer has; --with-removed gives it too"
    assert (place / "out.jsonl").read_text() == batchmill("results", "c.ckpt", cwd=place).stdout
    assert len(read(place, "results", "c.ckpt", "--all", "--with-removed")) == 5

    page = batchmill("report", "c.ckpt", "-o", "-", cwd=place).stdout
    assert "2 outcomes of items that INPUT no longer has are left out" in page
    assert "JSONDecodeError" not in page
    with open_checkpoint(place / "c.ckpt") as found:
        assert [outcome.id for outcome in found.outcomes()] == [1, 2, 3]
        assert (list(found.failures()), found.left_out) == ([], (1, 1))


def test_only_a_run_that_read_all_of_its_input_says_what_was_removed(place: Path) -> None:
    run(place, [line(n, n) for n in range(1, 5)])
    report = run(place, [line(4, 4), line(5, 5), line(6, 6)], "--limit", "1")
    assert (report["stopped"], report["removed"]) == ("limit", 0)
    assert [outcome["id"] for outcome in read(place, "results", "c.ckpt")] == [1, 2, 3, 4, 5]
    assert run(place, [line(4, 4), line(5, 5)])["removed"] == 3
    assert run(place, [line(2, 2), line(5, 5)])["removed"] == 3
    assert [outcome["id"] for outcome in read(place, "results", "c.ckpt")[:-1]] == [2, 5]
    report = run(place, [line(n, n) for n in range(1, 6)])
    assert (report["removed"], report["skipped"]) == (0, 5)


def test_what_was_removed_fails_and_comes_back_without_being_counted_twice(place: Path) -> None:
    assert run(place, [line(1, 1), line(2, 0)])["failed"] == 1
    assert run(place, [line(1, 1)])["removed"] == 1
    report = run(place, [line(1, 1), line(2, 0), line(3, 3), line(4, 4)], "--limit", "1")  # fails again
    assert (report["failed"], report["removed"]) == (1, 0)
    status = read(place, "status", "c.ckpt", "--json")[0]
    assert (status["done"], status["failed"], status["removed"]) == (1, 1, 0)


def test_shards_speak_of_their_own_items_and_are_merged_without_the_others(place: Path) -> None:
    before = [line(n, n) for n in range(1, 21)]
    for shard in ("1/2", "2/2"):
        run(place, before, "--shard", shard, name=f"{shard[0]}.ckpt")
    after = [line(n, n) for n in range(1, 21, 2)]
    removed = [run(place, after, "--shard", f"{k}/2", name=f"{k}.ckpt")["removed"] for k in (1, 2)]
    assert sum(removed) == 10
    assert all(removed)
    merged = read(place, "results", "1.ckpt", "2.ckpt")
    assert [outcome["id"] for outcome in merged[:-1]] == list(range(1, 21, 2))
    assert "10 results" in merged[-1]


def test_a_shard_says_nothing_of_other_shards_items(place: Path) -> None:
    run(place, [line(n, n) for n in range(1, 21)])
    for shard in ("1/2", "2/2"):
        run(place, [line(n, n) for n in range(10, 0, -1)], "--shard", shard)  # by id, not by block
    status = read(place, "status", "c.ckpt", "--json")[0]
    assert (status["done"], status["removed"]) == (10, 10)
