"""Owns the order of results: pieces of frames -> stretches of the input, and the outcomes in each. Never reads a file.

Pieces overlap where a later run tried single records of an earlier block again. A stretch holds all pieces that lie
in its range of positions, so that stretches can be written one after the other, and made in parallel.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from batchmill import export, rows
from batchmill.codec import Block, read_head
from batchmill.index import Piece

_POSITIONS = 20_000  # a stretch is at most about so long, unless a single frame is longer
_FRAMES = 64  # and touches at most so many frames


class Part(NamedTuple):
    """A piece with what is needed to read it: its frame's payload, and the indices that do not count there."""

    piece: Piece
    payload: bytes
    without: Collection[int]


class Stretch(NamedTuple):
    """The outcomes at positions [low, high) of one generation."""

    low: int
    high: int
    pieces: tuple[Piece, ...]


class RenderOrder(NamedTuple):
    """A stretch to turn into output bytes."""

    low: int
    high: int
    parts: tuple[Part, ...]
    format: str
    all: bool
    with_item: bool
    source: str = "jsonl"  # the format that items came in


def stretches(pieces: Iterable[Piece]) -> Iterator[Stretch]:
    """Pieces as stretches, in the order of results."""
    # Not by `place`, which may be None: a frame's only outcome can have moved to where it was.
    by_generation = groupby(sorted(pieces, key=itemgetter(0, 1, 2, 3)), key=itemgetter(0))
    for _, group in by_generation:
        yield from _joined(_sweep(list(group)))


def _sweep(pieces: list[Piece]) -> Iterator[Stretch]:
    """Cut at every beginning of a piece; `pieces` are sorted by `low`."""
    active: list[tuple[int, int, Piece]] = []
    next_piece = 0
    low = 0
    while next_piece < len(pieces) or active:
        if not active:
            low = pieces[next_piece].low
        while next_piece < len(pieces) and pieces[next_piece].low == low:
            heapq.heappush(active, (pieces[next_piece].high, next_piece, pieces[next_piece]))
            next_piece += 1
        high = max(end for end, _, _ in active)
        if next_piece < len(pieces):
            high = min(high, pieces[next_piece].low)
        yield Stretch(low, high, tuple(piece for _, _, piece in active))
        low = high
        while active and active[0][0] <= low:
            heapq.heappop(active)


def _joined(found: Iterable[Stretch]) -> Iterator[Stretch]:
    """Neighbours together, as long as they are small: one order costs as much as many outcomes."""
    last: Stretch | None = None
    frames: set[int] = set()
    for stretch in found:
        now = {piece.seq for piece in stretch.pieces}
        if last is not None and stretch.high - last.low <= _POSITIONS and len(frames | now) <= _FRAMES:
            pieces = dict.fromkeys((*last.pieces, *stretch.pieces))
            last = Stretch(last.low, stretch.high, tuple(pieces))
            frames |= now
            continue
        if last is not None:
            yield last
        last, frames = stretch, now
    if last is not None:
        yield last


def picks(block: Block, part: Part, low: int, high: int) -> list[tuple[int, int]]:
    """(position, index) of the outcomes of a part at positions [low, high), in order."""
    piece = part.piece
    low, high = max(low, piece.low), min(high, piece.high)
    if piece.place is not None:
        found = [(position, piece.place + position - piece.low) for position in range(low, high)]
        return [(position, index) for position, index in found if index not in part.without]
    base = block.head.first + piece.shift
    return [
        (base + offset, index)
        for index, offset in enumerate(block.offsets)
        if low <= base + offset < high and index not in part.without
    ]


def in_order(parts: Sequence[Part], blocks: Sequence[Block], low: int, high: int) -> list[tuple[int, int, int, int]]:
    """(position, frame seq, part number, index) of all outcomes of these parts at [low, high), in order.

    `blocks` are the parts' payloads, decoded once: interleaved frames take turns item by item.
    """
    return sorted(
        (position, part.piece.seq, number, index)
        for number, (part, block) in enumerate(zip(parts, blocks))
        for position, index in picks(block, part, low, high)
    )


def render_order(order: RenderOrder) -> tuple[bytes, int]:
    """The output bytes of a stretch, and how many numbers JSON could not say."""
    texts, odd = [], 0
    blocks = [Block(part.payload) for part in order.parts]
    render = rows.render if order.format in rows.FORMATS else export.render
    for number, indices in _groups(order, blocks):
        text, count = render(
            blocks[number],
            indices,
            format=order.format,
            all=order.all,
            with_item=order.with_item,
            source=order.source,
        )
        texts.append(text)
        odd += count
    return b"".join(texts), odd


def _is_frame(part: Part) -> bool:
    """Whether a piece is all of its frame: pieces are cut at the frontier of a stream, and where orderings differ."""
    head, piece = read_head(part.payload), part.piece
    low, high = piece.low - piece.shift, piece.high - piece.shift
    return piece.place is None and low <= head.first and high >= head.first + head.lines


def _groups(order: RenderOrder, blocks: Sequence[Block]) -> Iterator[tuple[int, list[int] | None]]:
    """(part number, indices of it) in order; None for all of them."""
    if len(order.parts) == 1:
        only = order.parts[0]
        if not only.without and order.low <= only.piece.low and order.high >= only.piece.high and _is_frame(only):
            yield 0, None
            return
    ordered = in_order(order.parts, blocks, order.low, order.high)
    for number, group in groupby(ordered, key=itemgetter(2)):
        yield number, [index for _, _, _, index in group]
