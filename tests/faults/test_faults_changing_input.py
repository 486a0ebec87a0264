"""An INPUT that changes while workers read their ranges of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cli_kit import batchmill

WORK = """
import os

def work(item):
    for path, text in item.get("append", {}).items():
        with open(path, "a") as file:
            file.write(text)
    for path, text in item.get("replace", {}).items():
        with open("new", "w") as file:
            file.write(text)
        os.replace("new", path)
    for path, size in item.get("truncate", {}).items():
        os.truncate(path, size)
    return item["n"]
"""


def lines(*first: dict[str, Any], count: int = 300) -> str:
    items: list[dict[str, Any]] = [*first, *[{}] * (count - len(first))]
    return "".join(json.dumps({"id": n, "n": n, "text": "x" * 10_000, **item}) + "\n" for n, item in enumerate(items))


def test_what_was_appended_is_run_and_a_file_in_its_place_is_not(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    more = '{"id": "more", "n": -1}\n'
    changes: list[dict[str, object]] = [
        {"append": {"in.jsonl": more}},
        *[{}] * 49,
        {"replace": {"in.jsonl": "no\n" * 999_999}},
    ]
    (tmp_path / "in.jsonl").write_text(lines(*changes))
    done = batchmill(
        "run", "work.py:work", "in.jsonl", "-o", "out.jsonl", "--chunk-size", "10", "-j", "1", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line)["result"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert results == [*range(300), -1]


def test_a_file_that_is_cut_short_ends_the_batch_behind_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    whole = lines({"truncate": {"in.jsonl": 5_000}})
    (tmp_path / "in.jsonl").write_text(whole)
    done = batchmill("run", "work.py:work", "in.jsonl", "-c", "c", "--chunk-size", "10", "-j", "1", cwd=tmp_path)
    assert done.returncode == 65, done.stderr
    assert "cut short while the batch ran" in done.stderr
    (tmp_path / "in.jsonl").write_text(whole.replace('"truncate"', '"was"'))
    done = batchmill("run", "work.py:work", "in.jsonl", "-c", "c", "--resume", "-o", "out.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line)["result"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert results == list(range(300))
