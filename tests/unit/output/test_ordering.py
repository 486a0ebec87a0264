"""The order of results: where outcomes lie after the input was reordered, and how they are cut into stretches."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from checkpoint_kit import Shelf, outcomes_payload
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.checkpoint.index import Index, Piece, add_piece, is_whole
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import MASKED, Head
from batchmill.codec.unsaid import NOTHING
from batchmill.output import ordering
from batchmill.output.layout import parts_of
from batchmill.output.ordering import Part, RenderJob, in_order, render_job, stretches


def blocks_of(parts: list[Part]) -> list[OutcomeBlock]:
    return [OutcomeBlock(part.payload) for part in parts]


def index_of(*frames: tuple[int, int, int, int]) -> Index:
    """An index of frames (seq, generation, first, records) of one item a record."""
    index = Index()
    for seq, generation, first, records in frames:
        head = Head(generation=generation, first=first, records=records, items=records, ok=records)
        index.add(seq, 1000 * seq, 500, head)
    return index


def order(generation: int, start: int | None, blocks: Sequence[Any] = (), items: Sequence[Any] = ()) -> dict[str, Any]:
    return {"generation": generation, "from": start, "blocks": blocks, "items": items}


def placed(index: Index) -> list[tuple[int, int, int, int]]:
    """(generation, position, seq, index) of every outcome, as the pieces say, in order."""
    found = []
    for piece in index.pieces():
        row = index.row(index.number(piece.seq))
        for position in range(piece.low, piece.high):
            if piece.start is not None:
                found.append((piece.generation, position, piece.seq, piece.start + position - piece.low))
            else:
                place = position - piece.shift - row.first
                if place not in index.moved(piece.seq):
                    found.append((piece.generation, position, piece.seq, place))
    return sorted(found)


# --- where an outcome is ---------------------------------------------------------------------------------------------


def test_an_outcome_is_where_its_frame_says() -> None:
    index = index_of((5, 1, 10, 3))
    assert [index.position_of((5, i), i) for i in range(3)] == [(1, 10), (1, 11), (1, 12)]


def test_what_lies_before_the_change_is_carried_over() -> None:
    index = index_of((5, 1, 0, 4), (6, 1, 4, 4))
    index.add_order(order(2, 6))
    assert [index.position_of((6, i), i) for i in range(4)] == [(2, 4), (2, 5), (1, 6), (1, 7)]
    assert index.position_of_block(index.row(0)) == (2, 0)
    assert index.position_of_block(index.row(1)) is None


def test_what_lies_before_several_changes_is_carried_through_all_of_them() -> None:
    index = index_of((5, 1, 0, 2))
    index.add_order(order(2, 10))
    index.add_order(order(3, 10))
    assert index.position_of((5, 1), 1) == (3, 1)
    assert index.position_of_block(index.row(0)) == (3, 0)


def test_a_generation_without_a_start_takes_nothing_along() -> None:
    index = index_of((5, 1, 0, 2))
    index.add_order(order(2, None))
    assert index.position_of((5, 0), 0) == (1, 0)


def test_a_block_that_moved_is_where_the_order_says() -> None:
    index = index_of((5, 1, 0, 3), (6, 1, 3, 3))
    index.add_order(order(2, 0, blocks=[[6, 0], [5, 3]]))
    assert [seq for _, _, seq, _ in placed(index)] == [6, 6, 6, 5, 5, 5]
    assert index.position_of_block(index.row(1)) == (2, 0)


def test_single_outcomes_that_moved_are_where_the_order_says() -> None:
    index = index_of((5, 1, 0, 4))
    index.add_order(order(2, 0, items=[[5, 2, 2, 0], [5, 0, 2, 2]]))
    assert [place for _, _, _, place in placed(index)] == [2, 3, 0, 1]
    assert index.position_of_block(index.row(0)) is None


def test_a_frame_of_which_some_moved_lies_in_both_places() -> None:
    index = index_of((5, 1, 0, 4))
    index.add_order(order(2, 0, items=[[5, 2, 1, 7]]))
    assert placed(index) == [(1, 0, 5, 0), (1, 1, 5, 1), (1, 3, 5, 3), (2, 7, 5, 2)]


def test_a_block_that_moved_after_its_items_did_is_in_one_piece_again() -> None:
    index = index_of((5, 1, 0, 2))
    index.add_order(order(2, 0, items=[[5, 1, 1, 0]]))
    index.add_order(order(3, 0, blocks=[[5, 7]]))
    assert placed(index) == [(3, 7, 5, 0), (3, 8, 5, 1)]


def test_a_frame_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        index_of((5, 1, 0, 1)).number(4)


def test_counts_follow_what_was_replaced() -> None:
    index = Index()
    index.add(5, 0, 0, Head(items=3, ok=1, failed=2, records=4, blank=1))
    index.add(6, 0, 0, Head(items=2, ok=1, failed=1, records=2))
    index.add_replaced(6, [(0, 5, 1, 1), (1, 5, 0, 0)])
    assert (index.items, index.failed, index.gone) == (3, 2, {5: {0, 1}})


@pytest.mark.parametrize(
    ("head", "shard", "whole"),
    [
        (Head(records=3), None, True),
        (Head(records=0), None, False),
        (Head(records=3, flags=MASKED), None, False),
        (Head(records=3, shard=1, shards=4), (1, 4), True),
        (Head(records=3, shard=1, shards=4), (2, 4), False),
        (Head(records=3, shard=1, shards=4), None, False),
        (Head(records=3), (1, 4), True),
    ],
)
def test_a_frame_that_holds_all_of_its_block_is_whole(head: Head, shard: tuple[int, int] | None, whole: bool) -> None:
    index = Index()
    index.add(5, 0, 0, head)
    assert is_whole(index.row(0), shard) is whole


# --- stretches -------------------------------------------------------------------------------------------------------


@st.composite
def piece_lists(draw: st.DrawFn) -> list[Piece]:
    pieces = []
    for seq in range(draw(st.integers(0, 12))):
        low = draw(st.integers(0, 40))
        single = draw(st.booleans())
        high = low + (1 if single else draw(st.integers(1, 15)))
        pieces.append(Piece(draw(st.integers(1, 3)), low, high, seq, start=draw(st.integers(0, 5)) if single else None))
    return pieces


@settings(max_examples=200, deadline=None)
@given(piece_lists(), st.sampled_from([1, 5, 20_000]), st.sampled_from([1, 2, 64]))
def test_stretches_hold_every_piece_wherever_it_lies_and_do_not_overlap(
    pieces: list[Piece], positions: int, frames: int
) -> None:
    limits = ordering._POSITIONS, ordering._FRAMES
    ordering._POSITIONS, ordering._FRAMES = positions, frames
    try:
        found = list(stretches(pieces))
    finally:
        ordering._POSITIONS, ordering._FRAMES = limits
    generations = [stretch.pieces[0].generation for stretch in found]
    assert generations == sorted(generations)
    for stretch in found:
        assert len({piece.generation for piece in stretch.pieces}) == 1
    for generation in {piece.generation for piece in pieces}:
        own = [stretch for stretch in found if stretch.pieces[0].generation == generation]
        assert all(a.high <= b.low for a, b in pairwise(own))
        for piece in (piece for piece in pieces if piece.generation == generation):
            holding = [stretch for stretch in own if piece in stretch.pieces]
            covered = {
                position
                for stretch in holding
                for position in range(max(stretch.low, piece.low), min(stretch.high, piece.high))
            }
            assert covered == set(range(piece.low, piece.high))


def test_pieces_of_one_frame_are_one_part_and_its_payload_is_read_once() -> None:
    pieces = [Piece(1, position, position + 1, 5 + position % 2, start=position) for position in range(10)]
    read: list[int] = []

    def payload(seq: int) -> bytes:
        read.append(seq)
        return b""

    (stretch,) = stretches(pieces)
    parts = parts_of(stretch, Shelf(payload))
    assert [(part.seq, sorted(part.pieces)) for part in parts] == [(5, pieces[::2]), (6, pieces[1::2])]
    assert read == [5, 6]


def test_stretches_carry_a_bounded_number_of_bytes() -> None:
    pieces = [Piece(1, seq, seq + 1, seq) for seq in range(40)]
    found = list(stretches(pieces, lambda seq: 4 << 20))
    assert [len(stretch.pieces) for stretch in found] == [4] * 10


def test_a_stretch_of_many_pieces_takes_linear_time() -> None:
    def steps(count: int) -> int:
        pieces = [Piece(1, position, position + 1, position % 3, start=count - position) for position in range(count)]
        return _lines_run(lambda: list(stretches(pieces)))

    assert steps(5000) < 15 * steps(500)


def _lines_run(call: Callable[[], object]) -> int:
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return count


def test_a_frame_s_only_outcome_may_have_moved_to_where_it_was() -> None:
    pieces = [Piece(1, 3, 4, 7), Piece(1, 3, 4, 7, start=0)]
    assert {piece for stretch in stretches(pieces) for piece in stretch.pieces} == set(pieces)


def test_neighbouring_single_outcomes_become_one_piece() -> None:
    pieces: list[Piece] = []
    for place in range(4):
        add_piece(pieces, Piece(1, 10 + place, 11 + place, 5, start=place))
    add_piece(pieces, Piece(1, 14, 15, 6, start=4))
    assert pieces == [Piece(1, 10, 14, 5, start=0), Piece(1, 14, 15, 6, start=4)]


# --- what is in a stretch --------------------------------------------------------------------------------------------


def test_outcomes_are_taken_from_all_parts_in_the_order_of_positions() -> None:
    block = Part(5, outcomes_payload(0, ["a", "b", "c", "d"]), (Piece(1, 0, 4, 5),), {1, 3})
    again = Part(9, _masked(0, [1, 3], ["B", "D"]), (Piece(1, 0, 4, 9),))
    found = in_order([block, again], blocks_of([block, again]), 0, 4)
    assert found == [(0, 0, 0), (1, 1, 0), (2, 0, 2), (3, 1, 1)]


def _masked(first: int, offsets: list[int], ids: list[Any]) -> bytes:
    from batchmill.codec.outcomes import pack_outcomes
    from batchmill.codec.pack import pack_value

    head = Head(first=first, records=4, items=len(ids), ok=len(ids), flags=MASKED)
    return pack_outcomes(head, ids, [pack_value(1)] * len(ids), [], [0.0] * len(ids), [0] * len(ids), offsets)


def test_only_what_lies_in_the_stretch_is_taken() -> None:
    part = Part(5, outcomes_payload(0, list("abcd")), (Piece(1, 10, 14, 5, shift=10),))
    assert [index for _, _, index in in_order([part], blocks_of([part]), 11, 13)] == [1, 2]


def test_single_outcomes_are_taken_from_where_they_are_in_their_frame() -> None:
    part = Part(5, outcomes_payload(0, list("abcd")), (Piece(1, 10, 12, 5, start=2),), {3})
    assert [(position, index) for position, _, index in in_order([part], blocks_of([part]), 0, 100)] == [(10, 2)]


@pytest.mark.parametrize("without", [(), {1}])
def test_a_stretch_is_rendered_in_order(without: Any) -> None:
    parts = (
        Part(6, outcomes_payload(2, ["c", "d"]), (Piece(1, 2, 4, 6),)),
        Part(5, outcomes_payload(0, ["a", "b"]), (Piece(1, 0, 2, 5),), without),
    )
    text, unsaid = render_job(RenderJob(0, 4, parts, "jsonl", all=False, with_item=False))
    ids = [line.split(b'"')[3].decode() for line in text.splitlines()]
    assert (ids, unsaid) == ([id for id in "abcd" if not (without and id == "b")], NOTHING)


def test_what_moved_away_is_not_taken_where_it_was() -> None:
    payload = outcomes_payload(0, list("abcd"))
    away = Part(5, payload, (Piece(1, 0, 4, 5), Piece(1, 8, 9, 5, start=2)), moved={1, 2})
    assert in_order([away], blocks_of([away]), 0, 10) == [(0, 0, 0), (3, 0, 3), (8, 0, 2)]


def test_the_order_of_parts_does_not_matter() -> None:
    rng = random.Random(3)
    parts = [Part(i, outcomes_payload(3 * i, [3 * i, 1, 2]), (Piece(1, 3 * i, 3 * i + 3, i),)) for i in range(6)]
    expected = [(position, parts[number].seq) for position, number, _ in in_order(parts, blocks_of(parts), 0, 18)]
    rng.shuffle(parts)
    found = [(position, parts[number].seq) for position, number, _ in in_order(parts, blocks_of(parts), 0, 18)]
    assert found == expected
