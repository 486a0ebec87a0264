"""Owns a lane without a process: the worker's code set up in this interpreter. Tests nothing."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from batchmill import worker
from batchmill.codec import Block
from batchmill.formats import FORMATS, IdRule, count_records
from batchmill.function import Resolved
from batchmill.identity import Identifier
from batchmill.model import Chunk
from batchmill.reply import Tally
from batchmill.worker import NO_LIMIT, LaneSetup, Order


@contextmanager
def lane(
    function: Callable[..., Any] = repr,
    *,
    format: str | None = "jsonl",
    id_field: str | None = None,
    shard: tuple[int, int] | None = None,
    with_item: bool = False,
    kwargs: Mapping[str, Any] | None = None,
    ids_needed: bool = True,
    run: int = 1,
) -> Iterator[array[int]]:
    """Make this interpreter a lane at slot 0; gives the board: [record, limit]."""
    state, board = worker._lane, array("q", [0, NO_LIMIT])
    before = dict(vars(state))
    state.board, state.slot = memoryview(board), 0
    state.setup = LaneSetup(
        spec=None,
        init=None,
        format=format,
        id_field=id_field,
        shard=shard,
        with_item=with_item,
        run=run,
        ids_needed=ids_needed,
        environ={},
        directory="/",
        output="none",
    )
    state.identifier = Identifier(format, IdRule(id_field), shard, ids_needed)
    state.kwargs = dict(kwargs or {})
    state.resolved = Resolved(function, None, "digest")
    try:
        yield board
    finally:
        vars(state).clear()
        vars(state).update(before)


def chunk_of(data: bytes, *, first: int = 0, line: int = 1, input: int = 0, format: str = "jsonl") -> Chunk:
    """A block as a chunk."""
    return Chunk(first, line, input, count_records(data, FORMATS[format].separator), data)


def run_chunk(chunk: Chunk, *, serial: int = 1, seconds: float = 0.0, generation: int = 1) -> tuple[Block, Tally]:
    """What the lane answers for a chunk."""
    payload, tally = worker.run_chunk(Order(serial, seconds, generation, chunk))
    return Block(payload), tally
