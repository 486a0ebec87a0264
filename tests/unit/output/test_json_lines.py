"""Outcomes read outside: JSON lines that any reader accepts, msgpack as it was packed, text safe for screens."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_kit import KITS
from value_kit import VALUES, nested, nested_map

from batchmill.codec.outcomes import NIL, Head, pack_outcomes
from batchmill.codec.pack import pack_result
from batchmill.codec.unpack import unpack_value
from batchmill.codec.unsaid import Unsaid
from batchmill.errors import CheckpointDamaged
from batchmill.output.json_lines import render
from batchmill.text import escape


def payload(
    results: Sequence[Any], ids: list[Any] | None = None, *, failed: Sequence[int] = (), items: Any = None
) -> bytes:
    count = len(results)
    return pack_outcomes(
        Head(items=count, ok=count - len(failed), failed=len(failed), records=count),
        list(range(count)) if ids is None else ids,
        [NIL if i in failed else pack_result(result) for i, result in enumerate(results)],
        [(i, "ValueError", f"bad {i}", "Traceback", b"raw %d" % i) for i in failed],
        [0.0] * count,
        [0] * count,
        items=items,
    )


def lines(data: bytes, picks: Sequence[int] | None = None, *, all: bool = False, with_item: bool = False) -> list[str]:
    return render(data, picks, format="jsonl", all=all, with_item=with_item)[0].decode().splitlines()


def said(value: Any) -> Any:
    """What JSON says of a result."""
    (line,) = lines(payload([value]))
    return json.loads(line)["result"]


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


# --- JSON lines ------------------------------------------------------------------------------------------------------


def test_a_line_is_an_id_and_a_result() -> None:
    assert lines(payload([{"v": 2.5}, None, "é"], [1, "a", [2]])) == [
        '{"id": 1, "result": {"v": 2.5}}',
        '{"id": "a", "result": null}',
        '{"id": [2], "result": "é"}',
    ]


def test_failed_items_are_there_only_when_asked_for() -> None:
    data = payload(["x", None, "z"], failed=[1])
    assert lines(data) == ['{"id": 0, "result": "x"}', '{"id": 2, "result": "z"}']
    assert lines(data, all=True)[1] == '{"id": 1, "error": {"type": "ValueError", "message": "bad 1"}}'


def test_picks_choose_and_order() -> None:
    data = payload(["a", "b", "c", "d"], failed=[3])
    assert lines(data, [2, 0, 3]) == ['{"id": 2, "result": "c"}', '{"id": 0, "result": "a"}']
    assert lines(data, []) == []


def test_the_item_stands_beside_its_outcome_where_it_was_kept() -> None:
    data = payload([1, 2, None], failed=[2], items=[b'{"q": 1}', b"no json \xff", b"3"])
    assert [json.loads(line).get("item") for line in lines(data, all=True, with_item=True)] == [
        {"q": 1},
        r"no json \udcff",
        3,
    ]
    kept = [json.loads(line) for line in lines(payload([1, None], failed=[1]), all=True, with_item=True)]
    assert "item" not in kept[0]
    assert kept[1]["item"] == "raw 1"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, (2,)), [1, [2]]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset("cab"), ["a", "b", "c"]),
        ({1, "a", (2,)}, ["a", 1, [2]]),
        ({1.5, 1}, [1, 1.5]),
        (dt.datetime(2024, 1, 2, 3, 4, 5, 6, dt.UTC), "2024-01-02T03:04:05.000006+00:00"),
        (dt.date(2024, 1, 2), "2024-01-02"),
        (dt.time(3, 4), "03:04:00"),
        (dt.timedelta(minutes=1, milliseconds=500), 60.5),
        (Decimal("1.10"), "1.10"),
        (Fraction(1, 3), "1/3"),
        (Fraction(4, 2), "2/1"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (pathlib.Path("a/b"), "a/b"),
        (1 + 2j, "(1+2j)"),
        (b"\x00\xff", "AP8="),
        (msgpack.Timestamp(0, 0), "1970-01-01T00:00:00+00:00"),
        (msgpack.Timestamp(2**60, 0), f"Timestamp(seconds={2**60}, nanoseconds=0)"),
        (2**70, 2**70),
        (np.int64(3), 3),
        (np.float64(2.5), 2.5),
        (np.longdouble(2.5), 2.5),
        (np.bool_(True), True),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.array(["2024-01-02"], "M8[ns]"), ["2024-01-02T00:00:00.000000000"]),
        (np.array([1 + 2j]), ["(1+2j)"]),
        ({True: "c", None: "b", 2.5: "d"} | {(1, 2): "e", b"k": "f", dt.date(2024, 1, 2): "g"},
         {"true": "c", "null": "b", "2.5": "d", "[1, 2]": "e", "aw==": "f", "2024-01-02": "g"}),
        ({1: "a", None: "b", 2.5: "d"}, {"1": "a", "null": "b", "2.5": "d"}),
    ],
)  # fmt: skip
def test_what_json_cannot_say_has_a_plain_form(value: Any, expected: Any) -> None:
    for outer in (lambda inner: inner, lambda inner: [inner, math.nan], lambda inner: {"k": (inner,)}):
        assert said(outer(value)) == json.loads(json.dumps(outer(expected)).replace("NaN", "null"))


def test_numbers_that_are_not_finite_become_null_and_are_counted() -> None:
    values = [math.nan, [math.inf, {"a": -math.inf}], 1.5, np.float64("nan"), np.array([1.0, np.inf])]
    data, unsaid = render(payload(values), None, format="jsonl", all=False, with_item=False)
    assert [json.loads(line, parse_constant=refuse)["result"] for line in data.splitlines()] == [
        None,
        [None, {"a": None}],
        1.5,
        None,
        [1.0, None],
    ]
    assert unsaid == Unsaid(numbers=5)


def test_lone_surrogates_are_written_out_and_counted_and_other_lines_are_left_alone() -> None:
    values = payload(["é\ud800", "é", "\U0001f600", ["\udce9", "\udcff"]])
    out, unsaid = render(values, None, format="jsonl", all=False, with_item=False)
    first, second, third, fourth = out.decode().splitlines()
    assert first == r'{"id": 0, "result": "é\\ud800"}'
    assert second == '{"id": 1, "result": "é"}'
    assert [json.loads(line)["result"] for line in (third, fourth)] == ["\U0001f600", [r"\udce9", r"\udcff"]]
    assert unsaid == Unsaid(texts=2)
    assert unsaid.sentences() == [
        r"In 2 items, what is no valid Unicode (names of files in another encoding, mostly) was written as \udNNN"
    ]
    raw, unsaid = render(values, [3, 0], format="raw", all=False, with_item=False)
    assert raw == b'["\\\\udce9", "\\\\udcff"]\n\xc3\xa9\\ud800'
    assert unsaid == Unsaid(texts=2)
    assert render(payload(["caf\udce9"]), None, format="raw", all=False, with_item=False) == (b"caf\xe9", Unsaid())


def test_line_separators_stay_inside_their_line() -> None:
    text = "a\nb\r\x00\x1b\x85\u2028"
    out = render(payload([text]), None, format="jsonl", all=False, with_item=False)[0]
    assert out.count(b"\n") == 1
    assert json.loads(out)["result"] == text


def test_huge_integers_do_not_stop_the_output() -> None:
    for number in (10**5000, -(10**5000)):
        assert said([number]) == [hex(number)]
        assert json.loads(lines(payload([1], [number]))[0])["id"] == hex(number)
    assert said(Fraction(10**5000, 3)) == f"{hex(10**5000)}/3"


def test_the_deepest_result_is_written() -> None:
    assert said(nested(list, 500)) == nested(list, 500)
    assert said([nested_map(490), math.nan]) == [nested_map(490), None]
    assert json.dumps(said(nested(tuple, 100))) == json.dumps(nested(tuple, 100))


@given(st.lists(VALUES, max_size=3))
@settings(max_examples=100, deadline=None)
def test_any_result_becomes_a_line_of_strict_json(values: list[Any]) -> None:
    out = render(payload(values, list(values)), None, format="jsonl", all=False, with_item=False)[0]
    assert len(out.splitlines()) == len(values)
    for line in out.split(b"\n")[:-1]:
        assert set(json.loads(line.decode(), parse_constant=refuse)) == {"id", "result"}


def test_sets_are_written_the_same_in_every_process() -> None:
    script = """
from test_json_lines import *
values = [{"x", "y", "z"}, {frozenset("ab"), frozenset("cd"), frozenset("a")}, {math.nan, 1.0, 0.5, "s"}]
print([lines(payload([unpack_value(pack_result(value))])) for value in values])
"""
    path = os.pathsep.join([str(pathlib.Path(__file__).parent), str(KITS), os.environ.get("PYTHONPATH", "")])
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1


def test_results_too_large_to_be_held_at_once_are_written_one_by_one() -> None:
    values = [[i] * 1_000_000 for i in range(4)]
    found = [json.loads(line)["result"] for line in lines(payload(values), [3, 1])]
    assert found == [values[3], values[1]]


def test_damage_is_named_not_written() -> None:
    good = payload([{"v": 1}, 2])
    with pytest.raises(CheckpointDamaged):
        lines(good.replace(b"\xa1v", b"\xa1\xff"))
    for bad in (b"", good[:-1], good[:100], b"\x80\x05junk"):
        for format in ("jsonl", "msgpack"):
            with pytest.raises(CheckpointDamaged):
                render(bad, None, format=format, all=True, with_item=True)


def test_hostile_depth_is_damage_not_a_recursion_error() -> None:
    deep = b"\x92" + b"\xcb\x7f\xf8" + bytes(6) + b"\x91" * 1010 + b"\x90"  # not a number: the way without C
    data = pack_outcomes(Head(items=1, ok=1, records=1), [1], [deep], (), [0], [0])
    with pytest.raises(CheckpointDamaged):
        lines(data)


@pytest.mark.parametrize("dtype", ["<i1", ">i4", "<f2", "<f16", "<c16", "<c32", "|b1", "<U3", "|S5", "<M8[ns]",
                                   "<m8[s]", "|V7", "<i4,<f8", "<M8[us],|V3,<f16"])  # fmt: skip
def test_every_kind_of_array_has_a_json_form(dtype: str) -> None:
    values: list[Any] = [np.zeros((2, 1), dtype), np.zeros(1, dtype)[0], np.zeros((0,), dtype)]
    for value in values:
        assert said(value) is not None


# --- msgpack ---------------------------------------------------------------------------------------------------------


def test_msgpack_is_one_map_an_item_with_results_as_they_were_packed() -> None:
    data = payload([{"v": (1, {2})}, None, math.inf], failed=[1], items=[b"1", b"text", b"[3]"])
    out, unsaid = render(data, None, format="msgpack", all=True, with_item=True)
    assert not unsaid
    assert unpacked(out) == [
        {"id": 0, "result": {"v": (1, {2})}, "item": 1},
        {"id": 1, "error": {"type": "ValueError", "message": "bad 1"}, "item": "text"},
        {"id": 2, "result": math.inf, "item": [3]},
    ]
    assert unpacked(render(data, [2], format="msgpack", all=False, with_item=False)[0]) == [
        {"id": 2, "result": math.inf}
    ]


def unpacked(data: bytes) -> list[Any]:
    """Read with a stock Unpacker, whose bounds then cut the bytes for ours."""
    reader = msgpack.Unpacker()
    reader.feed(data)
    entries, start = [], 0
    while start < len(data):
        reader.skip()
        entries.append(unpack_value(data[start : reader.tell()]))
        start = reader.tell()
    return entries


# --- screens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢 \U0001f600 =cmd()", "plain é 漢 \U0001f600 =cmd()"),
        ("\x1b[2J\r\n\t\x00\x7f\x9b", "\\x1b[2J\\x0d\\x0a\\x09\\x00\\x7f\\x9b"),
        ("\u202eabc\u2066\u200f\u2028", "\\u202eabc\\u2066\\u200f\\u2028"),
        ("\ud800", "\\ud800"),
    ],
)
def test_a_screen_sees_escapes(text: str, shown: str) -> None:
    assert escape(text, 100) == shown


@given(st.text(st.characters(exclude_categories=())), st.integers(1, 40))
@settings(deadline=None)
def test_escaped_text_is_short_and_safe(text: str, limit: int) -> None:
    shown = escape(text, limit)
    assert len(shown) <= limit
    shown.encode()
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)


def test_a_long_text_is_cut_with_a_mark() -> None:
    assert escape("x" * 2_000_000, 10) == "x" * 9 + "…"
    assert escape("x" * 10, 10) == "x" * 10
