"""Formats: where records end, what they parse to, what their ids are, and that dividing a chunk loses nothing."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from worker_kit import chunk_of, run_chunk, worker

from batchmill.codec.ids import id_key, shard_of
from batchmill.errors import InvalidUsage
from batchmill.input.by_suffix import format_of
from batchmill.input.formats import (
    FORMATS,
    MAX_OWN_ID,
    BadItem,
    IdRule,
    block_of,
    count_records,
    cut,
    divide,
    split_records,
)
from batchmill.model import Chunk, Earlier

SHORT = st.lists(st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"")), max_size=400)
# Long and short records by turns, where an estimate from the mean is wrong by a hundred times.
LUMPY = st.lists(st.sampled_from([0, 1, 3, 900]), min_size=100, max_size=600).map(
    lambda sizes: [b"x" * size for size in sizes]
)
RECORDS = SHORT | LUMPY


def block(records: list[bytes], *, closed: bool = True) -> bytes:
    data = b"\n".join(records)
    return data + b"\n" if closed and records else data


# --- cutting ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(RECORDS, st.integers(0, 700), st.booleans(), st.binary(max_size=9))
def test_a_cut_finds_exactly_the_records_asked_for(
    records: list[bytes], wanted: int, closed: bool, before: bytes
) -> None:
    data = before + block(records, closed=closed)
    terminated = data.count(b"\n", len(before))
    end, found = cut(data, len(before), wanted, b"\n")
    assert found == min(wanted, terminated)
    assert data.count(b"\n", len(before), end) == found
    assert end == len(before) or data[end - 1 : end] == b"\n"


@settings(max_examples=40, deadline=None)
@given(RECORDS, st.booleans())
def test_a_block_has_as_many_records_as_it_splits_into(records: list[bytes], closed: bool) -> None:
    data = block(records, closed=closed)
    assert count_records(data, b"\n") == len(split_records(data, b"\n"))


@settings(max_examples=40, deadline=None)
@given(RECORDS)
def test_a_closed_block_splits_into_the_records_it_was_made_of(records: list[bytes]) -> None:
    assert split_records(block(records), b"\n") == records


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    count = draw(st.integers(2, 150))
    is_block = draw(st.booleans())
    records = [draw(st.sampled_from([b"", b"a", b"bb", b"c" * 300])) + b"%d" % i for i in range(count)]
    data = block(records, closed=draw(st.booleans())) if is_block else tuple(records)
    skip = draw(st.none() | st.binary(min_size=count, max_size=count).map(lambda raw: bytes(b & 1 for b in raw)))
    offsets = draw(st.none() | st.sets(st.integers(0, count - 1), max_size=5))
    earlier = None if offsets is None else {offset: Earlier(offset, 7, 1) for offset in offsets}
    ids = None if is_block else tuple(f"id {i}" for i in range(count))
    return Chunk(draw(st.integers(0, 10**6)), 1, 3, count, data, skip=skip, earlier=earlier, ids=ids, losses=1)


def records_of(chunk: Chunk) -> list[tuple[Any, ...]]:
    """All that is known of each record of a chunk."""
    raw = chunk.data if isinstance(chunk.data, tuple) else split_records(block_of(chunk, FORMATS["lines"]), b"\n")
    assert len(raw) == chunk.records
    return [
        (
            chunk.first + i,
            chunk.line + i,
            chunk.input,
            raw[i],
            chunk.skip[i] if chunk.skip else 0,
            chunk.earlier.get(i) if chunk.earlier else None,
            chunk.ids[i] if chunk.ids else None,
            chunk.losses,
        )
        for i in range(chunk.records)
    ]


@settings(max_examples=40, deadline=None)
@given(chunks(), st.data())
def test_dividing_a_chunk_neither_loses_nor_doubles_nor_changes_a_record(chunk: Chunk, data: st.DataObject) -> None:
    head, tail = divide(chunk, data.draw(st.integers(1, chunk.records - 1)), FORMATS["lines"])
    assert records_of(head) + records_of(tail) == records_of(chunk)
    assert head.to_run + tail.to_run == chunk.to_run


@settings(max_examples=40, deadline=None)
@given(chunks())
def test_a_chunk_divided_to_single_records_is_still_the_same_chunk(chunk: Chunk) -> None:
    pieces, rest = [], chunk
    while rest.records > 1:
        piece, rest = divide(rest, 1, FORMATS["lines"])
        pieces.append(piece)
    assert [record for piece in [*pieces, rest] for record in records_of(piece)] == records_of(chunk)


# --- parsing ---------------------------------------------------------------------------------------------------------


def parse(raw: bytes, format: str = "jsonl") -> Any:
    return FORMATS[format].parser(b"")(FORMATS[format].trim(raw))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.sampled_from([b"", b" ", b"\t", b"\r"]))
def test_a_json_line_parses_to_what_was_written(value: Any, blank: bytes) -> None:
    assert parse(blank + json.dumps(value).encode() + blank) == value


@given(st.binary(max_size=40))
def test_a_json_line_of_any_bytes_is_an_item_or_a_bad_item(raw: bytes) -> None:
    assume(FORMATS["jsonl"].trim(raw))
    with suppress(BadItem):
        parse(raw)


@pytest.mark.parametrize(
    ("raw", "type", "words"),
    [
        (b'{"a": 1', "JSONDecodeError", "not valid JSON"),
        (b"{x", "JSONDecodeError", "not valid JSON: Expecting property name enclosed in double quotes at column 2"),
        (b"1 2", "JSONDecodeError", "Extra data"),
        (b"nul", "JSONDecodeError", "Expecting value at column 1"),
        (b'["a', "JSONDecodeError", "not valid JSON: Unterminated string starting at column 2"),
        (b'["\\x"]', "JSONDecodeError", "not valid JSON: Invalid \\escape at column 3"),
        (b'{"a": "\xff"}', "UnicodeDecodeError", "not valid UTF-8: invalid start byte at byte 7"),
        (b"[" * 200_000, "JSONDecodeError", "nested too deeply"),
        (b"9" * 5000, "JSONDecodeError", "4300 digits"),
    ],
)
def test_a_line_that_is_no_json_says_what_is_wrong_with_it(raw: bytes, type: str, words: str) -> None:
    with pytest.raises(BadItem) as caught:
        parse(raw)
    assert caught.value.type == type
    assert words in caught.value.message


def test_integers_of_more_than_64_bits_stay_integers() -> None:
    assert parse(b'{"n": 123456789012345678901234567890}') == {"n": 123456789012345678901234567890}


@pytest.mark.parametrize("format", ["jsonl", "lines"])
@pytest.mark.parametrize("raw", [b"", b"\r", b"  \t", b" \r"])
def test_a_blank_line_is_nothing(format: str, raw: bytes) -> None:
    assert FORMATS[format].trim(raw) == b""


def test_a_line_keeps_its_blanks_and_loses_its_carriage_return() -> None:
    assert parse(b"  two words \r", "lines") == "  two words "


def test_a_line_that_is_not_utf8_is_a_bad_item() -> None:
    with pytest.raises(BadItem, match="not valid UTF-8"):
        parse(b"caf\xe9", "lines")


def test_a_path_that_is_not_utf8_survives() -> None:
    path = parse(b"/data/caf\xe9.txt\r", "files")
    assert path.encode("utf-8", "surrogateescape") == b"/data/caf\xe9.txt\r"


# --- the format of a name --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.jsonl", "jsonl"),
        ("A.NDJSON", "jsonl"),
        ("dir.v2/a.txt", "lines"),
        ("a.list.xz", "lines"),
        ("a.jsonl.gz", "jsonl"),
        ("a.txt.bz2", "lines"),
    ],
)
def test_a_suffix_names_its_format(name: str, format: str) -> None:
    assert format_of(name) == format


def test_a_json_document_is_refused_with_the_line_that_helps() -> None:
    with pytest.raises(InvalidUsage) as caught:
        format_of("data/all.json")
    assert "jq -c '.[]' data/all.json > data/all.jsonl" in caught.value.remedy


@pytest.mark.parametrize("name", ["a.dat", "dir.txt/a", "jsonl", "a.gz", "a.csv.old"])
def test_a_name_that_tells_no_format_is_refused_naming_the_option(name: str) -> None:
    with pytest.raises(InvalidUsage, match="give format jsonl"):
        format_of(name)


# --- ids -------------------------------------------------------------------------------------------------------------


def id_of(raw: bytes, field: str | None = None) -> Any:
    return IdRule(field).id_of(parse(raw), raw)


@pytest.mark.parametrize(
    ("raw", "id"),
    [
        (b'{"id": 7, "v": 1}', 7),
        (b'{"id": "7"}', "7"),
        (b'{"id": 7.0}', 7.0),
        (b'{"id": true}', True),
        (b'"name"', "name"),
        (b"12", 12),
        (b"1.5", 1.5),
    ],
)
def test_an_id_is_the_field_or_the_item_itself_with_its_type(raw: bytes, id: Any) -> None:
    found = id_of(raw)
    assert (found, type(found)) == (id, type(id))


@pytest.mark.parametrize("raw", [b'{"v": 1}', b'{"id": null}', b'{"id": [1]}', b"[1, 2]", b"null", b"true"])
def test_an_item_without_an_id_of_its_own_has_a_digest(raw: bytes) -> None:
    id = id_of(raw)
    assert isinstance(id, str)
    assert len(id) == 32
    assert id == id_of(raw) != id_of(raw + b" ")


@pytest.mark.parametrize("text", ["x" * (MAX_OWN_ID + 1), "é" * (MAX_OWN_ID // 2 + 1)])
def test_a_text_above_a_kilobyte_is_identified_by_its_digest(text: str) -> None:
    raw = text.encode()
    assert IdRule().id_of(text, raw) != text


def test_one_and_its_likes_are_different_ids() -> None:
    assert len({id_key(id) for id in (1, "1", 1.0, True, b"1")}) == 5


def test_a_named_field_is_the_id() -> None:
    assert id_of(b'{"id": 1, "key": "k"}', "key") == "k"


@pytest.mark.parametrize(
    ("raw", "words"), [(b'{"id": 1}', "has no field 'key'"), (b'{"key": {}}', "a list or an object"), (b"3", "no")]
)
def test_an_item_without_the_named_field_is_bad(raw: bytes, words: str) -> None:
    with pytest.raises(BadItem, match=words):
        id_of(raw, "key")


def test_an_id_that_is_half_a_surrogate_pair_is_kept() -> None:
    with worker(lambda item: 1):
        reply, _ = run_chunk(chunk_of(b'{"id": "\\ud800"}\n{"id": 2}\n'))
    assert reply.ids == ["\ud800", 2]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers() | st.text(max_size=5) | st.booleans() | st.floats(allow_nan=False), max_size=30))
def test_every_id_belongs_to_exactly_one_shard(ids: list[Any]) -> None:
    for shards in (1, 2, 3, 7):
        assert all(1 <= shard_of(id, shards) <= shards for id in ids)


def test_every_shard_gets_about_its_share() -> None:
    counts = [sum(shard_of(id, 4) == shard for id in range(2000)) for shard in (1, 2, 3, 4)]
    assert all(400 < count < 600 for count in counts)


def test_shards_of_an_input_cover_each_item_once() -> None:
    data = b"".join(b'{"id": %d}\n' % i for i in range(60)) + b"\nnot json\n"
    found = []
    for number in (1, 2, 3):
        with worker(lambda item: item["id"], shard=(number, 3)):
            found += run_chunk(chunk_of(data))[0].ids
    assert len(found) == 61
    assert len({id_key(id) for id in found}) == 61


def test_a_shard_is_the_same_on_every_machine() -> None:
    assert [shard_of(id, 8) for id in (1, "1", "tasks", 2.5)] == [3, 8, 5, 3]
