"""Faults of an input that is another one when the run continues: resume is by id, whatever moved."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_kit import (
    CHECKPOINT,
    PROGRAM,
    Ended,
    committed,
    finish,
    lines_of,
    numbered,
    prepare,
    witnessed,
    write_items,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")

Items = list[dict[str, Any]]


def crunch(cwd: Path, *arguments: str, function: str = "ident", input: str = "items.jsonl") -> Ended:
    """One run on the checkpoint; its witness starts empty."""
    (cwd / "witness").unlink(missing_ok=True)
    return finish(f"f.py:{function}", input, "-c", CHECKPOINT, "-o", "out.jsonl", "-j", "2", *arguments, cwd=cwd)


def first(cwd: Path, items: Items, function: str = "ident") -> None:
    """Run all of `items` into a new checkpoint."""
    ended = crunch(prepare(cwd, items), function=function)
    assert ended.status == (0 if function == "ident" else 1), ended.err


def again(cwd: Path, items: Items, *arguments: str, function: str = "ident", status: int = 0) -> list[str]:
    """Resume with other items; what ran, by id."""
    write_items(cwd / "items.jsonl", items)
    ended = crunch(cwd, "--resume", *arguments, function=function)
    assert ended.status == status, ended.err
    return [line.split()[0] for line in witnessed(cwd)]


def output(cwd: Path) -> list[Any]:
    return [line["result"] for line in lines_of(cwd / "out.jsonl")]


def shuffled(items: Items) -> Items:
    return random.Random(4).sample(items, len(items))


NEW = [{"id": f"new{n}", "n": n} for n in range(7)]
EDITS: dict[str, Callable[[Items], Items]] = {
    "reversed": lambda items: items[::-1],
    "shuffled": shuffled,
    "halves swapped": lambda items: items[100:] + items[:100],
    "shrunk": lambda items: items[20:90] + items[100:180:2],
    "grown at its head": lambda items: NEW + items,
    "grown at its end": lambda items: items + NEW,
    "a line inserted": lambda items: items[:101] + NEW[:1] + items[101:],
    "shuffled, shrunk and grown": lambda items: shuffled(items[30:] + NEW),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("edit", EDITS)
def test_row_38_only_what_is_new_runs_and_the_output_follows_the_input(edit: str, tmp_path: Path) -> None:
    items = numbered(200)
    first(tmp_path, items)
    now = EDITS[edit](items)
    assert sorted(again(tmp_path, now)) == sorted(item["id"] for item in now if item["id"].startswith("new"))
    assert output(tmp_path) == now
    kept = {item["id"] for item in [*items, *now]}
    assert set(committed(tmp_path)) == kept  # the checkpoint has everything


def test_row_38_the_way_back_to_the_first_input_is_free(tmp_path: Path) -> None:
    items = numbered(200)
    first(tmp_path, items)
    again(tmp_path, EDITS["shuffled, shrunk and grown"](items))
    assert again(tmp_path, items) == []
    assert output(tmp_path) == items


def test_row_38_what_was_done_and_what_is_new_stream_out_in_input_order(tmp_path: Path) -> None:
    items = numbered(100)
    first(tmp_path, items)
    for now in (EDITS["a line inserted"](items), [*shuffled(items), *NEW]):
        write_items(tmp_path / "items.jsonl", now)
        ended = finish("f.py:ident", "items.jsonl", "-c", CHECKPOINT, "--resume", "-o", "-", "-j", "2", cwd=tmp_path)
        assert ended.status == 0, ended.err
        assert [json.loads(line)["result"] for line in ended.out.splitlines()] == now


def test_row_38_an_interrupted_run_may_continue_with_a_shuffled_input(tmp_path: Path) -> None:
    items = numbered(120)
    prepare(tmp_path, items)
    assert crunch(tmp_path, "--limit", "50", "--chunk-size", "7").status == 3
    assert sorted(len(lines_of(path)) for path in tmp_path.glob("out.jsonl*")) == [50]
    done = set(committed(tmp_path))
    assert len(done) == 50
    now = shuffled(items)
    assert sorted(again(tmp_path, now)) == sorted({item["id"] for item in items} - done)
    assert output(tmp_path) == now


def test_row_38_a_limit_is_exit_3_until_all_is_done(tmp_path: Path) -> None:
    items = numbered(25)
    prepare(tmp_path, items)
    ran: list[str] = []
    statuses = []
    for _ in range(4):
        statuses.append(crunch(tmp_path, "--limit", "10", "--resume").status)
        ran += witnessed(tmp_path)
    assert statuses == [3, 3, 0, 0]
    assert len(ran) == len(set(ran)) == 25
    assert output(tmp_path) == items
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 25


# Content that changed


def test_row_38_a_changed_item_keeps_its_result_and_is_counted_until_told_otherwise(tmp_path: Path) -> None:
    items = numbered(60)
    first(tmp_path, items)
    now = [{**item, "v": 2} if item["n"] in (5, 30, 59) else item for item in items]
    write_items(tmp_path / "items.jsonl", now)
    ended = crunch(tmp_path, "--resume", "-v")
    assert ended.status == 0
    assert "3 changed items kept their old result" in ended.err
    assert (witnessed(tmp_path), output(tmp_path)) == ([], items)
    assert sorted(again(tmp_path, now, "--rerun-changed")) == ["i30", "i5", "i59"]
    assert output(tmp_path) == now
    assert len(committed(tmp_path)) == 60
    ended = crunch(tmp_path, "--resume", "-v")
    assert "changed items" not in ended.err
    assert (witnessed(tmp_path), output(tmp_path)) == ([], now)


# Repeated ids


def test_row_38_each_occurrence_of_an_id_is_an_item_of_its_own(tmp_path: Path) -> None:
    items = [{"id": n % 4, "n": n} for n in range(40)]
    prepare(tmp_path, items)
    ended = crunch(tmp_path, "-v")
    assert ended.status == 0
    assert "36 repeated ids" in ended.err
    assert output(tmp_path) == items
    assert again(tmp_path, shuffled(items)) == []
    assert output(tmp_path) == shuffled(items)
    assert len(again(tmp_path, [*items, {"id": 2, "n": 99}])) == 1
    assert output(tmp_path) == [*items, {"id": 2, "n": 99}]


@pytest.mark.parametrize("order", ["cab", "acb", "abc", "bca"])
def test_row_38_of_one_id_the_occurrence_that_is_new_is_the_one_that_runs(order: str, tmp_path: Path) -> None:
    first(tmp_path, [{"id": 1, "v": v} for v in "ab"])
    now = [{"id": 1, "v": v} for v in order]
    write_items(tmp_path / "items.jsonl", now)
    assert crunch(tmp_path, "--resume").status == 0
    assert witnessed(tmp_path) == ["1 c"]
    assert output(tmp_path) == now


def test_row_38_ids_are_compared_with_their_type(tmp_path: Path) -> None:
    first(tmp_path, [{"id": 1, "v": "number"}])
    now: Items = [{"id": "1", "v": "text"}, {"id": 1, "v": "number"}, {"id": True, "v": "truth"}]
    write_items(tmp_path / "items.jsonl", now)
    assert crunch(tmp_path, "--resume").status == 0
    assert sorted(line.split()[1] for line in witnessed(tmp_path)) == ["text", "truth"]
    assert output(tmp_path) == now


# Failed items


def test_row_38_failed_items_run_again_unless_told_otherwise(tmp_path: Path) -> None:
    items = numbered(40)
    bad = {f"i{n}" for n in range(40) if n % 5 == 3}
    first(tmp_path, items, "picky")
    assert {id for id, outcome in committed(tmp_path).items() if not outcome.ok} == bad
    assert again(tmp_path, items, "--no-retry-failed", function="picky", status=1) == []
    moved = shuffled(items)
    assert sorted(again(tmp_path, moved, function="picky", status=1)) == sorted(bad)
    assert {outcome.attempts for outcome in committed(tmp_path).values() if not outcome.ok} == {2}
    (tmp_path / "mended").touch()
    assert sorted(again(tmp_path, items, function="picky")) == sorted(bad)
    assert output(tmp_path) == list(range(40))
    assert len(committed(tmp_path)) == 40
    assert {committed(tmp_path)[id].attempts for id in bad} == {3}
    assert again(tmp_path, moved, function="picky") == []


# Whose checkpoint it is


def names(cwd: Path) -> list[str]:
    return sorted(path.name for path in cwd.glob("*.ckpt*"))


def test_row_38_fresh_moves_the_old_checkpoint_aside_and_keeps_as_many_as_told(tmp_path: Path) -> None:
    items = numbered(5)
    first(tmp_path, items)
    for _ in range(3):
        ended = crunch(tmp_path, "--fresh", "--keep", "2")
        assert (ended.status, len(witnessed(tmp_path))) == (0, 5)
    assert names(tmp_path) == ["run.1.ckpt", "run.2.ckpt", "run.ckpt"]


def test_row_38_fresh_if_finished_continues_an_unfinished_batch_only(tmp_path: Path) -> None:
    items = numbered(8)
    prepare(tmp_path, items)
    nightly = ("--resume", "--fresh-if-finished")
    assert crunch(tmp_path, *nightly, "--limit", "3").status == 3
    assert (crunch(tmp_path, *nightly).status, len(witnessed(tmp_path)), names(tmp_path)) == (0, 5, ["run.ckpt"])
    assert (crunch(tmp_path, *nightly).status, len(witnessed(tmp_path))) == (0, 8)
    assert names(tmp_path) == ["run.1.ckpt", "run.ckpt"]


def test_row_38_what_belongs_to_another_batch_is_78_and_untouched(tmp_path: Path) -> None:
    first(tmp_path, numbered(5))
    (tmp_path / "lines.txt").write_text("a\n")
    before = (tmp_path / CHECKPOINT).read_bytes()
    strangers: list[tuple[str, dict[str, str], tuple[str, ...], str]] = [
        ("work", {}, (), "function"),
        ("ident", {}, ("--set", "x=1"), "--set"),
        ("ident", {}, ("--id-field", "n"), "id rule"),
        ("ident", {"input": "lines.txt"}, (), "format"),
    ]
    for function, input, arguments, named in strangers:
        ended = crunch(tmp_path, "--resume", *arguments, function=function, **input)
        assert ended.status == 78, named
        assert all(word in ended.err for word in (named, "-c", "--fresh", "--accept-changes"))
        assert witnessed(tmp_path) == []
        assert (tmp_path / CHECKPOINT).read_bytes() == before
    ended = crunch(tmp_path, "--resume", "--accept-changes", function="work")
    assert ended.status == 0
    assert witnessed(tmp_path) == []


def test_row_38_a_default_name_is_not_shared_by_inputs_of_the_same_name(tmp_path: Path) -> None:
    prepare(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_items(tmp_path / folder / "items.jsonl", numbered(3, v=folder))
    assert finish("f.py:ident", "a/items.jsonl", "--resume", cwd=tmp_path).status == 0
    ended = finish("f.py:ident", "b/items.jsonl", "--resume", cwd=tmp_path)
    assert ended.status == 78
    assert "a/items.jsonl" in ended.err
    assert len(witnessed(tmp_path)) == 3
    assert finish("f.py:ident", "b/items.jsonl", "-c", "b.ckpt", "--resume", cwd=tmp_path).status == 0


def test_row_38_shards_cover_everything_once(tmp_path: Path) -> None:
    items = numbered(100)
    prepare(tmp_path, items)
    parts = [f"{n}.ckpt" for n in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        command = ("f.py:ident", "items.jsonl", "--shard", f"{number}/3", "-c", part, "-j", "2")
        assert finish(*command, "--limit", "10", cwd=tmp_path).status == 3
        assert finish(*command, "--resume", cwd=tmp_path).status == 0
    assert sorted(line.split()[0] for line in witnessed(tmp_path)) == sorted(item["id"] for item in items)
    assert finish("results", *parts, "-o", "all.jsonl", cwd=tmp_path, command=(PROGRAM,)).status == 0
    found = [line["result"] for line in lines_of(tmp_path / "all.jsonl")]
    assert sorted(found, key=lambda item: item["n"]) == items
