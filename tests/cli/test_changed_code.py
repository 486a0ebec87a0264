"""Results of other code than there is now: counted wherever a batch is told of, and made again where that is asked."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from cli_kit import batchmill

RUN = ("run", "f.py:work", "items.txt", "-c", "x.ckpt", "-o", "out.jsonl", "--resume")
_sizes = itertools.count(1)
OLDER = "6 results were made by other source of f.py:work than it has now; --rerun-older runs them again"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A batch that is done, of whose function a helper was edited then."""
    (tmp_path / "f.py").write_text("import helper\n\n\ndef work(line):\n    return helper.value(line)\n")
    (tmp_path / "items.txt").write_text("".join(f"{n}\n" for n in range(6)))
    edit(tmp_path, 1)
    assert batchmill(*RUN, cwd=tmp_path).stderr == ""
    edit(tmp_path, 2)
    return tmp_path


def edit(place: Path, factor: int) -> None:
    write(place, f"def value(line):\n    return {factor} * int(line)\n")


def write(place: Path, source: str) -> None:
    """Python takes a file of the same second and the same size for the same file."""
    (place / "helper.py").write_text(f"{source}# {next(_sizes) * '-'}\n")


def results(place: Path) -> list[int]:
    return [json.loads(line)["result"] for line in (place / "out.jsonl").read_text().splitlines()]


def status(place: Path) -> int:
    count: int = json.loads(batchmill("status", "x.ckpt", "--json", cwd=place).stdout)["older_source"]
    return count


def test_they_are_said_though_nothing_was_left_to_run_and_run_again_where_that_is_asked(place: Path) -> None:
    assert status(place) == 0  # nobody has run the new code
    assert OLDER.split(" of f.py", maxsplit=1)[0] in batchmill(*RUN, "--dry-run", cwd=place).stdout
    ended = batchmill(*RUN, "--json", cwd=place)
    assert (ended.returncode, json.loads(ended.stdout)["older_source"]) == (0, 6)
    assert OLDER in ended.stderr
    assert (results(place), status(place)) == ([0, 1, 2, 3, 4, 5], 6)
    part = batchmill(*RUN, "--rerun-older", "--limit", "2", "--json", cwd=place)
    assert (part.returncode, json.loads(part.stdout)["older_source"], status(place)) == (3, 4, 4)
    assert "4 to do" in batchmill(*RUN, "--rerun-older", "--dry-run", cwd=place).stdout
    ended = batchmill(*RUN, "--rerun-older", "--json", cwd=place)
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["completed"], report["skipped"], report["failed"]) == (0, 4, 2, 0)
    assert (results(place), status(place)) == ([0, 2, 4, 6, 8, 10], 0)
    ended = batchmill(*RUN, "--rerun-older", cwd=place)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert results(place) == [0, 2, 4, 6, 8, 10]


def test_where_no_source_can_be_read_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "n.jsonl").write_text("4\n9\n")
    words = ("run", "math:sqrt", "n.jsonl", "-c", "m.ckpt", "--resume")
    assert batchmill(*words, cwd=tmp_path).returncode == 0
    ended = batchmill(*words, "--rerun-older", cwd=tmp_path)
    assert ended.returncode == 0
    assert "--rerun-older runs nothing again: math:sqrt has no source that can be read" in ended.stderr
    assert "No such option '--rerun-older'" in batchmill("exec", "n.jsonl", "--rerun-older", "--", "true").stderr


def test_what_moved_or_failed_or_changed_is_told_apart(place: Path) -> None:
    write(place, "def value(line):\n    return 10 // (int(line) - 3)\n")
    ended = batchmill(*RUN, "--rerun-older", "--json", cwd=place)  # item 3 fails
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["completed"], report["failed"], report["older_source"]) == (1, 5, 1, 0)
    edit(place, 7)
    (place / "items.txt").write_text("5\n9\n4\n3\n2\n1\n0\n")
    ended = batchmill(*RUN, "--json", cwd=place)  # 9 is new, 3 is tried again
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["completed"], report["skipped"], report["older_source"]) == (0, 2, 5, 5)
    ended = batchmill(*RUN, "--rerun-older", "--json", cwd=place)
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["completed"], report["skipped"], report["older_source"]) == (0, 5, 2, 0)
    assert results(place) == [35, 63, 28, 21, 14, 7, 0]
