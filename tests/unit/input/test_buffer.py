"""Where rows end, found out block by block."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.input.buffer import Buffer
from batchmill.input.dialects import Dialect
from batchmill.input.tables import Table

TABLE = Table(Dialect(","))


def rows_of(blocks: list[bytes]) -> list[bytes]:
    """The rows, each taken as soon as it is known where it ends."""
    buffer, rows = Buffer(TABLE), list[bytes]()

    def take() -> None:
        while (end := buffer.marks.find(b"\n", buffer.offset)) >= 0:
            rows.append(buffer.data[buffer.offset : end + 1])
            buffer.offset = end + 1

    came = 0
    for block in blocks:
        buffer.add(block)
        came += len(block)
        take()
        assert len(buffer) == came - sum(map(len, rows))
    buffer.end()
    take()
    return [*rows, buffer.data[buffer.offset :]]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text('a",\n', min_size=1, max_size=6).map(str.encode), max_size=12))
def test_blocks_of_any_size_make_the_rows_of_the_whole(blocks: list[bytes]) -> None:
    assert rows_of(blocks) == rows_of([b"".join(blocks)] if blocks else [])


def test_behind_a_quote_that_none_closes_each_block_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    scan = TABLE.scan

    def look(data: bytes, *, more: bool) -> Any:
        looked.append(len(data))
        return scan(data, more=more)

    monkeypatch.setattr(TABLE, "scan", look)
    blocks = [b'1,"open\n', *[b"2,x\n" * 1000] * 500]
    rows = rows_of(blocks)
    assert (len(rows), rows[0]) == (500_002, b'1,"open\n'), "the quote costs its own row"
    assert sum(looked) < 3 * sum(map(len, blocks))
