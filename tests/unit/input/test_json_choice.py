"""orjson in json's place: the same items, types and errors for every record, whatever stands beside it in its block."""

from __future__ import annotations

import importlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_kit import batchmill
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchmill.errors import InvalidUsage
from batchmill.input import json_choice
from batchmill.input.formats import FORMATS, BadItem, Parse
from batchmill.input.json_choice import parser_of

JSONL = FORMATS["jsonl"]
READ = JSONL.parser(b"")
fast_json: Any = importlib.import_module("batchmill.input.fast_json") if json_choice.is_installed() else None
with_orjson = pytest.mark.skipif(not json_choice.is_installed(), reason="orjson is not installed: the extra `fast`")


def shown(parse: Parse, raw: bytes) -> str:
    """What became of a record, to the last type, sign, digit and key: repr tells apart all that JSON can say."""
    limit = sys.getrecursionlimit()
    try:
        item = parse(raw)
    except BadItem as bad:
        return f"{bad.type}: {bad.message}"
    try:
        sys.setrecursionlimit(20_000)
        return repr(item)
    finally:
        sys.setrecursionlimit(limit)


def same(raw: bytes, *beside: bytes) -> None:
    """A record is read alike by all: alone, in a block, and by orjson also where json would be chosen as the faster."""
    raw = JSONL.trim(raw)
    expected = shown(READ, raw)
    choose = parser_of(JSONL, "orjson")
    block = b"\n".join([*beside, raw, *beside])
    assert shown(choose(raw) or READ, raw) == expected
    assert shown(choose(block) or READ, raw) == expected
    assert shown(fast_json._parse_with_care, raw) == expected
    if not fast_json.may_hold_long_integers(block):
        assert shown(fast_json._parse, raw) == expected


# Values, as many programs would write them.

INTEGERS = st.integers() | st.integers(62, 65).flatmap(
    lambda bits: st.integers(2**bits - 2, 2**bits + 2) | st.integers(-(2**bits) - 2, -(2**bits) + 2)
)
TEXTS = st.text() | st.text('\ud800\udc00\ud83d\ude00\x00\x7f\u2028"\\/a')
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=12,
)


def written(value: Any, ascii: bool, space: str) -> bytes:
    text = json.dumps(value, ensure_ascii=ascii, separators=(f",{space}", f":{space}"))
    return text.encode("utf-8", "surrogatepass")


DOCUMENTS = st.builds(written, VALUES, st.booleans(), st.sampled_from(["", " ", "\t", "  \r"]))

# What JSON's readers differ about.
FRAGMENTS = [
    *(b"NaN", b"Infinity", b"-Infinity", b"null", b"true", b"false", b"nul", b"'a'", b"/**/", b"//"),
    *(b"-0", b"-0.0", b"0e0", b"-0e9", b"00", b"01", b"+1", b".5", b"1.", b"1e", b"1e+", b"--1", b"1_0", b"0x1"),
    *(b"1e400", b"-1e400", b"1e-400", b"5e-324", b"2e-324", b"1.7976931348623157e308", b"1.7976931348623159e308"),
    *(b"9" * size for size in range(17, 23)),
    *(b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616"),
    *(b"0." + b"123456789" * 4, b"0.000012345678901234567", b"12345678901234567890.5", b"1e0000000000000000001"),
    *(rb'"\ud800"', rb'"\ud83d\ude00"', rb'"\ude00\ud83d"', rb'"\ud800\u0041"', rb'"\u0000"', rb'"\uD83D"'),
    *(b'"\xf0\x9f\x98\x80"', b'"\xed\xa0\x80"', b"\xff", b"\xc0\x80", b"\xef\xbb\xbf", b'"\xe2\x80\xa8"', b"\xc2\xa0"),
    *(rb'"\x41"', rb'"\u12"', rb'"\u+123"', rb'"\/"', rb'"\\"', b'"\x00"', b'"\x1f"', b'"\x7f"', b'"', b"\\"),
    *(b"{", b"}", b"[", b"]", b",", b":", b" ", b"\t", b"\r", b"\x0b", b"\x0c", b"\x00", b"[]", b"{}", b"[1]"),
    *(b'{"a":1}', b'{"a":1,"a":2}', b'{"b":1,"a":2,"b":3}', b'{"":0}', b'{"a":1,}', b"[1,]", b'{"\\u0061":1,"a":2}'),
]
PIECES = st.sampled_from(FRAGMENTS) | st.binary(min_size=1, max_size=3)
ADVERSARIAL = st.lists(PIECES, max_size=8).map(b"".join) | st.lists(PIECES, max_size=8).map(
    lambda pieces: b"[" + b",".join(pieces) + b"]"
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A document with a few places overwritten, cut out or filled in."""
    raw = draw(DOCUMENTS)
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(raw)))
        end = min(len(raw), begin + draw(st.integers(0, 3)))
        raw = raw[:begin] + draw(PIECES | st.just(b"")) + raw[end:]
    return raw.replace(b"\n", b" ")


BESIDE = st.sampled_from([b'{"id": 1}', b'{"id": 12345678901234567890}', b"[" * 30, b'"\xff"', b""])


@with_orjson
@settings(max_examples=120, deadline=None)
@given(DOCUMENTS, BESIDE)
def test_a_document_is_read_as_json_reads_it(raw: bytes, beside: bytes) -> None:
    same(raw, beside)


@with_orjson
@settings(max_examples=120, deadline=None)
@given(mutated(), BESIDE)
def test_a_damaged_document_is_read_or_refused_as_json_does(raw: bytes, beside: bytes) -> None:
    same(raw, beside)


@with_orjson
@settings(max_examples=120, deadline=None)
@given(ADVERSARIAL, BESIDE)
@example(b"", b"")
def test_what_readers_differ_about_is_read_or_refused_as_json_does(raw: bytes, beside: bytes) -> None:
    same(raw, beside)


@with_orjson
def test_a_long_integer_is_exact_wherever_it_stands() -> None:
    for before in range(14):
        for digits in range(17, 23):
            for sign in (b"", b"-"):
                number = sign + b"9" * digits
                same(b'{"' + b"k" * before + b'": ' + number + b', "f": 0.12345678901234567890}')
                same(b'["' + b"." * before + b'",' + number + b"]", b"[0.00012345678901234567]")
                same(b"[0." + b"1" * 25 + b"," + b" " * before + number + b"]")


@with_orjson
@pytest.mark.parametrize("depth", [1, 200, 253, 254, 255, 256, 799, 800, 801, 1000, 1015, 1024, 1025, 1026, 5000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"id":1},{"a":[', b"]}]")])
def test_what_is_nested_deeply_is_read_or_refused_as_json_does(depth: int, opening: bytes, closing: bytes) -> None:
    same(opening * depth + b"1" + closing * depth)


@with_orjson
def test_orjson_reads_blocks_of_ordinary_numbers() -> None:
    rng = random.Random(3)
    numbers = [*(rng.gauss(0, 1e-3) for _ in range(2000)), *(rng.randrange(10**18) for _ in range(2000)), 1.0, -0.0]
    assert not fast_json.may_hold_long_integers(json.dumps(numbers).encode())
    assert fast_json.may_hold_long_integers(json.dumps([*numbers, 10**18]).encode())
    plain, careful = parser_of(JSONL, "")(b"[1]"), parser_of(JSONL, "")(b"[12345678901234567890]")
    assert None not in (plain, careful)
    assert plain is not careful
    assert parser_of(JSONL, "")(json.dumps({"text": "no word of it is a number " * 99}).encode()) is None
    assert parser_of(JSONL, "json")(b"[1]") is None
    assert parser_of(FORMATS["lines"], "orjson")(b"[1]") is None


def test_an_environment_that_asks_for_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orjson", None)
    monkeypatch.delitem(sys.modules, "batchmill.input.fast_json", raising=False)
    with pytest.raises(InvalidUsage, match="orjson is not installed") as caught:
        json_choice.check_choice("orjson")
    assert "batchmill[fast]" in str(caught.value.remedy)
    json_choice.check_choice("")
    assert parser_of(JSONL, "")(b"[1]") is None
    found = batchmill("run", "builtins:len", "items.jsonl", env={"BATCHMILL_JSON": "ujson"})
    assert (found.returncode, found.stderr.count("\n"), "one of json, orjson" in found.stderr) == (2, 1, True)


def test_a_batch_has_the_same_results_with_orjson_without_it_and_where_it_is_missing(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text("def show(item):\n    return repr(item)\n")
    (tmp_path / "items.jsonl").write_bytes(b"\n".join([*FRAGMENTS, b"[" * 2000, b"[1e5, -0.0, 0.1]"]) + b"\n")
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "orjson.py").write_text("raise ImportError")
    outputs = []
    for name, env in (
        ("json", {"BATCHMILL_JSON": "json"}),
        ("any", {}),
        ("none", {"PYTHONPATH": str(tmp_path / "missing")}),
    ):
        arguments = ("run", "work.py:show", "items.jsonl", "-c", f"{name}.ckpt", "-j", "1", "--max-failures", "none")
        assert batchmill(*arguments, cwd=tmp_path, env=env).returncode == 1
        found = batchmill("results", f"{name}.ckpt", "--all", "-o", "-", cwd=tmp_path)
        assert found.returncode == 0
        outputs.append(found.stdout)
    assert outputs[0].count("\n") > 80
    assert outputs[1] == outputs[0]
    assert outputs[2] == outputs[0]
