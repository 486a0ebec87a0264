"""Keys that JSON cannot tell apart: neither replaces the other in any output, and the reader is told."""

from __future__ import annotations

import csv
import datetime as dt
import json
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_kit import batchmill

from batchmill.codec.json_form import Plain
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import Head, pack_outcomes
from batchmill.codec.pack import pack_result
from batchmill.codec.unpack import unpack_value
from batchmill.codec.unsaid import Unsaid
from batchmill.output import rows
from batchmill.output.json_lines import render
from batchmill_cli.terminal.json_output import as_json

DATE = dt.datetime(2024, 1, 2, 3, 4)
ONE_TEXT: dict[str, tuple[dict[Any, Any], list[Any]]] = {
    "a number": ({1: "a", "1": "b"}, [[1, "a"], ["1", "b"]]),
    "the other way round": ({"1": "b", 1: "a"}, [["1", "b"], [1, "a"]]),
    "true": ({True: 1, "true": 2, "True": 3}, [[True, 1], ["true", 2], ["True", 3]]),
    "none": ({None: 1, "null": 2, "None": 3}, [[None, 1], ["null", 2], ["None", 3]]),
    "a float": ({1.5: 1, "1.5": 2}, [[1.5, 1], ["1.5", 2]]),
    "minus zero": ({-0.0: 1, "-0.0": 2}, [[-0.0, 1], ["-0.0", 2]]),
    "infinity": ({float("inf"): 1, "inf": 2}, [["inf", 1], ["inf", 2]]),
    "a large number": ({10**30: 1, str(10**30): 2}, [[10**30, 1], [str(10**30), 2]]),
    "a tuple": ({(1, "a"): 1, '[1, "a"]': 2}, [[[1, "a"], 1], ['[1, "a"]', 2]]),
    "a tuple and a set": ({(1,): 1, frozenset({1}): 2}, [[[1], 1], [[1], 2]]),
    "bytes": ({b"\0": 1, "AA==": 2}, [["AA==", 1], ["AA==", 2]]),
    "a date": ({DATE: 1, DATE.isoformat(): 2}, [[DATE.isoformat(), 1], [DATE.isoformat(), 2]]),
    "a decimal": ({Decimal("1.0"): 1, "1.0": 2}, [["1.0", 1], ["1.0", 2]]),
    "a decimal and a float": ({Decimal("2.5"): 1, 0.5: 2, "2.5": 3}, [["2.5", 1], [0.5, 2], ["2.5", 3]]),
    "of numpy": ({np.int64(3): 1, "3": 2}, [[3, 1], ["3", 2]]),
    "a path": ({Path("a"): 1, "a": {"b": 2}}, [["a", 1], ["a", {"b": 2}]]),
    "three": ({1: "a", "1": "b", (1,): "c", "x": "d"}, [[1, "a"], ["1", "b"], [[1], "c"], ["x", "d"]]),
}
WRAPS = (lambda v: v, lambda v: [v], lambda v: {"k": v}, lambda v: (0, {"k": (v,)}), lambda v: {2: v})


def block_of(*values: Any, ids: list[Any] | None = None) -> OutcomeBlock:
    count = len(values)
    head = Head(records=count, items=count, ok=count)
    packed = list(map(pack_result, values))
    return OutcomeBlock(pack_outcomes(head, ids or list(range(count)), packed, (), [0.0] * count, [0] * count))


def lines_of(block: OutcomeBlock) -> tuple[list[Any], Unsaid]:
    data, unsaid = render(block, None, format="jsonl", all=False, with_item=False)
    return [json.loads(line, object_pairs_hook=distinct) for line in data.splitlines()], unsaid


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, by a reader that takes no key twice."""
    assert len({key for key, _ in pairs}) == len(pairs), pairs
    return dict(pairs)


@pytest.mark.parametrize("name", ONE_TEXT)
def test_a_map_with_two_keys_of_one_text_is_pairs_and_is_counted(name: str) -> None:
    value, pairs = ONE_TEXT[name]
    for wrap in WRAPS:
        plain, beside = {"plain": 1}, float("nan")
        found, unsaid = lines_of(block_of(wrap(value), plain, beside))
        expected = json.loads(json.dumps(wrap(pairs)))
        assert [line["result"] for line in found] == [expected, plain, None]
        assert (unsaid.maps, unsaid.numbers) == (1, 1)


@pytest.mark.parametrize("name", ONE_TEXT)
def test_it_is_the_same_in_tables_and_reports(name: str) -> None:
    value, pairs = ONE_TEXT[name]
    for format in ("csv", "sqlite"):
        data, unsaid = rows.render(block_of(value), None, format=format, all=False, with_item=False, source="items")
        cell = next(csv.reader([data.decode()]))[1] if format == "csv" else unpack_value(data)[2]
        assert (json.loads(cell), unsaid.maps) == (json.loads(json.dumps(pairs)), 1)
    assert json.loads(as_json({"id": value})) == {"id": json.loads(json.dumps(pairs))}


def test_maps_whose_keys_differ_as_text_are_objects() -> None:
    value = {1: "a", 1.5: "b", True + 1: "c", None: "d", "None": "e", (1,): "f", b"k": "g"}
    found, unsaid = lines_of(block_of(value))
    assert found[0]["result"] == {"1": "a", "1.5": "b", "2": "c", "null": "d", "None": "e", "[1]": "f", "aw==": "g"}
    assert not unsaid


def test_results_too_large_to_be_held_at_once_are_looked_at_too() -> None:
    large = ["x" * 3_000_000, {1: "a", "1": "b"}]
    found, unsaid = lines_of(block_of(large, {"k": 1}))
    assert (found[0]["result"][1], found[1]["result"], unsaid.maps) == ([[1, "a"], ["1", "b"]], {"k": 1}, 1)


def test_ids_and_items_are_looked_at_too() -> None:
    found, unsaid = lines_of(block_of(1, ids=[{1: "a", "1": "b"}]))
    assert (found[0]["id"], unsaid.maps) == ([[1, "a"], ["1", "b"]], 1)
    kept = [pack_result({None: 1, "null": 2})]
    payload = pack_outcomes(Head(records=1, items=1, ok=1), [1], [pack_result(2)], (), [0.0], [0], items=kept)
    data, unsaid = render(payload, None, format="jsonl", all=False, with_item=True, source="items")
    assert (json.loads(data)["item"], unsaid.maps) == ([[None, 1], ["null", 2]], 1)


def test_the_sentence_names_two_of_the_keys() -> None:
    plain = Plain()
    plain.of([{1: 1, "1": 2}, {None: 1, "null": 2}, float("nan")])
    assert plain.unsaid.sentences() == [
        "1 number that JSON cannot say (NaN, infinity) was written as null",
        "2 maps have keys that are one text in JSON (such as 1 and '1'): they are arrays of [key, value] pairs",
    ]
    assert Unsaid(maps=1, example="x") + Unsaid(outputs=2) + Unsaid(maps=2) == Unsaid(maps=3, outputs=2, example="x")


FUNCTION = """
def boxed(item):
    return {1: item, "1": -item} if item == 2 else {"1": item}
"""
TOLD = "1 map has keys that are one text in JSON (such as 1 and '1'): it is an array of [key, value] pairs"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "f.py").write_text(FUNCTION)
    (folder / "items.jsonl").write_text("1\n2\n3\n")
    return folder


def test_a_run_tells_and_so_does_results(work: Path) -> None:
    ended = batchmill("run", "f.py:boxed", "items.jsonl", "-c", "x.ckpt", "-o", "x.jsonl", "-v", cwd=work)
    assert (ended.returncode, TOLD in ended.stderr) == (0, True)
    assert [json.loads(line)["result"] for line in (work / "x.jsonl").read_text().splitlines()] == [
        {"1": 1},
        [[1, 2], ["1", -2]],
        {"1": 3},
    ]
    again = batchmill("results", "x.ckpt", cwd=work)
    assert (again.returncode, again.stdout, TOLD in again.stderr) == (0, (work / "x.jsonl").read_text(), True)
    report = json.loads(batchmill("status", "x.ckpt", "--json", cwd=work).stdout)["report"]
    assert TOLD in report["warnings"]


def test_a_database_and_msgpack_lose_nothing(work: Path) -> None:
    run = ("run", "f.py:boxed", "items.jsonl", "--no-checkpoint", "-v", "-o")
    ended = batchmill(*run, "x.db", "--output-columns", "id,result", cwd=work)
    assert (ended.returncode, TOLD in ended.stderr) == (0, True)
    with sqlite3.connect(work / "x.db") as database:
        found = [json.loads(cell) for (cell,) in database.execute("select result from items order by id")]
    assert found == [{"1": 1}, [[1, 2], ["1", -2]], {"1": 3}]
    ended = batchmill(*run, "x.msgpack", "--output-format", "msgpack", cwd=work)
    assert (ended.returncode, TOLD in ended.stderr) == (0, False)
    assert pack_result({1: 2, "1": -2}) in (work / "x.msgpack").read_bytes()


def test_try_shows_what_a_run_would_write_and_tells(work: Path) -> None:
    ended = batchmill("try", "f.py:boxed", "items.jsonl", "--line", "2", cwd=work)
    assert (ended.returncode, json.loads(ended.stdout), TOLD in ended.stderr) == (0, [[1, 2], ["1", -2]], True)
