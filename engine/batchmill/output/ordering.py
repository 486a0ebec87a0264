"""The order of results: pieces of frames -> stretches of the input, and the outcomes in each.

Pieces overlap where a later run tried single records of an earlier block again. A stretch holds all pieces that lie
in its range of positions, so that stretches can be written one after the other, and made in parallel. Where frames are
mixed item by item, a stretch would hold hundreds of them: that is for `external_sort`.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from batchmill.checkpoint.index import Piece
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import read_head
from batchmill.codec.unsaid import NOTHING, Unsaid
from batchmill.output import json_lines, rows
from batchmill.output.columns import FORMATS, TableStyle

_POSITIONS = 20_000  # a stretch is at most about so long, unless a single frame is longer
_FRAMES = 64  # and touches at most this many frames
_BYTES = 16 << 20  # of at most this many bytes, unless more of them overlap


class Part(NamedTuple):
    """What a stretch has of a frame, the largest of it once: its payload.

    `pieces` say which outcomes; and so do `singles`, triples of (position, index, count) laid end to end. What is in
    `gone` does not count, nor what is in `moved` where a piece has no `start`.
    """

    seq: int
    payload: bytes
    pieces: tuple[Piece, ...]
    gone: Collection[int] = ()
    moved: Collection[int] = ()
    singles: array[int] = array("Q")


class Stretch(NamedTuple):
    """The outcomes at positions [low, high) of one generation."""

    low: int
    high: int
    pieces: tuple[Piece, ...]


class RenderJob(NamedTuple):
    """A stretch to turn into output bytes; its parts are one a frame, by seq."""

    low: int
    high: int
    parts: tuple[Part, ...]
    format: str
    all: bool
    with_item: bool
    source: str = "jsonl"  # the format that items came in
    table: TableStyle | None = None  # its columns, where it is one


def stretches(pieces: Iterable[Piece], size: Callable[[int], int] = lambda seq: 0) -> Iterator[Stretch]:
    """Pieces as stretches, in the order of results. `size` gives the bytes of a frame."""
    # Not by `start`, which may be None: a frame's only outcome can have moved to where it was.
    by_generation = groupby(sorted(pieces, key=itemgetter(0, 1, 2, 3)), key=itemgetter(0))
    for _, group in by_generation:
        yield from _joined(_sweep(list(group)), size)


def _sweep(pieces: list[Piece]) -> Iterator[Stretch]:
    """Cut at every beginning of a piece; `pieces` are sorted by `low`."""
    active: list[tuple[int, int, Piece]] = []
    next_piece = 0
    low = reach = 0  # the highest end of what is active
    while next_piece < len(pieces) or active:
        if not active:
            low = pieces[next_piece].low
        while next_piece < len(pieces) and pieces[next_piece].low == low:
            heapq.heappush(active, (pieces[next_piece].high, next_piece, pieces[next_piece]))
            reach = max(reach, pieces[next_piece].high)
            next_piece += 1
        high = reach
        if next_piece < len(pieces):
            high = min(high, pieces[next_piece].low)
        yield Stretch(low, high, tuple(piece for _, _, piece in active))
        low = high
        while active and active[0][0] <= low:
            heapq.heappop(active)


def _joined(found: Iterable[Stretch], size: Callable[[int], int]) -> Iterator[Stretch]:
    """Neighbours together, as long as they are small: one job costs as much as many outcomes."""
    low = high = room = 0
    pieces: dict[Piece, None] = {}
    frames: set[int] = set()
    for stretch in found:
        new = {piece.seq for piece in stretch.pieces} - frames
        weight = sum(map(size, new))
        if pieces and not (stretch.high - low <= _POSITIONS and len(frames) + len(new) <= _FRAMES and weight <= room):
            yield Stretch(low, high, tuple(pieces))
            pieces, frames = {}, set()
        if not pieces:
            new = {piece.seq for piece in stretch.pieces}
            low, room, weight = stretch.low, _BYTES, sum(map(size, new))
        high, room = stretch.high, room - weight
        pieces |= dict.fromkeys(stretch.pieces)
        frames |= new
    if pieces:
        yield Stretch(low, high, tuple(pieces))


def picks(block: OutcomeBlock, part: Part, low: int, high: int) -> Iterator[tuple[int, int]]:
    """(position, index) of the outcomes of a part at positions [low, high)."""
    for piece in part.pieces:
        first, end = max(low, piece.low), min(high, piece.high)
        if piece.start is not None:
            yield from _run(first, end, piece.start - piece.low, part.gone)
            continue
        base = block.head.first + piece.shift
        for index, offset in enumerate(block.offsets):
            if first <= base + offset < end and index not in part.gone and index not in part.moved:
                yield base + offset, index
    singles = part.singles
    for position, index, count in zip(singles[::3], singles[1::3], singles[2::3]):
        if count > 1:
            yield from _run(max(low, position), min(high, position + count), index - position, part.gone)
        elif low <= position < high and index not in part.gone:
            yield position, index


def _run(low: int, high: int, shift: int, gone: Collection[int]) -> Iterator[tuple[int, int]]:
    return ((position, position + shift) for position in range(low, high) if position + shift not in gone)


def in_order(parts: Sequence[Part], blocks: Sequence[OutcomeBlock], low: int, high: int) -> list[tuple[int, int, int]]:
    """(position, part number, index) of all outcomes of these parts at [low, high), in order.

    `blocks` are the parts' payloads, decoded once: interleaved frames take turns item by item.
    """
    return sorted(
        (position, number, index)
        for number, (part, block) in enumerate(zip(parts, blocks))
        for position, index in picks(block, part, low, high)
    )


def render_job(job: RenderJob) -> tuple[bytes, Unsaid]:
    """The output bytes of a stretch, and what they could not say."""
    texts, unsaid = [], NOTHING
    blocks = [OutcomeBlock(part.payload) for part in job.parts]
    for number, indices in _groups(job, blocks):
        text, more = rendered(blocks[number], indices, job)
        texts.append(text)
        unsaid += more
    return b"".join(texts), unsaid


def rendered(block: OutcomeBlock, indices: Sequence[int] | None, job: RenderJob) -> tuple[bytes, Unsaid]:
    """The output bytes of some outcomes of a frame, in the order given (None: all of them), as `job` wants them."""
    if job.format in FORMATS:
        return rows.render(
            block,
            indices,
            format=job.format,
            all=job.all,
            with_item=job.with_item,
            source=job.source,
            table=job.table,
        )
    return json_lines.render(block, indices, format=job.format, all=job.all, with_item=job.with_item, source=job.source)


def _is_frame(part: Part, low: int, high: int) -> bool:
    """Whether [low, high) has all of a frame in its own order: pieces are cut at the frontier of a stream, and where
    orderings differ."""
    if part.gone or part.moved or part.singles or len(part.pieces) != 1 or part.pieces[0].start is not None:
        return False
    head, piece = read_head(part.payload), part.pieces[0]
    first, end = max(low, piece.low) - piece.shift, min(high, piece.high) - piece.shift
    return first <= head.first and end >= head.first + head.records


def _groups(job: RenderJob, blocks: Sequence[OutcomeBlock]) -> Iterator[tuple[int, list[int] | None]]:
    """(part number, indices of it) in order; None for all of them."""
    if len(job.parts) == 1 and _is_frame(job.parts[0], job.low, job.high):
        yield 0, None
        return
    ordered = in_order(job.parts, blocks, job.low, job.high)
    for number, group in groupby(ordered, key=itemgetter(1)):
        yield number, [index for _, _, index in group]
