"""Where single outcomes lie: the last word counts, and 10^7 of them fit in memory."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.checkpoint.index import Index
from batchmill.checkpoint.moves import Moves
from batchmill.codec.outcomes import Head
from batchmill.errors import CheckpointDamaged

SAID = st.tuples(st.integers(1, 3), st.integers(0, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**40 - 9))


@given(st.lists(st.one_of(SAID, st.integers(1, 3))))
def test_what_was_said_last_of_an_outcome_counts(said: list[tuple[int, int, int, int, int] | int]) -> None:
    moves, model = Moves(), dict[tuple[int, int], tuple[int, int]]()
    for word in said:
        if isinstance(word, int):
            moves.forget(word)
            model = {entry: where for entry, where in model.items() if entry[0] != word}
            continue
        seq, place, count, generation, position = word
        moves.put(seq, place, count, generation, position)
        model |= {(seq, place + i): (generation, position + i) for i in range(count)}
        moves.where(seq, position % 7)  # a look between two words changes nothing
    assert {(seq, place): moves.where(seq, place) for seq in range(5) for place in range(15)} == {
        (seq, place): model.get((seq, place)) for seq in range(5) for place in range(15)
    }
    for seq in {seq for seq, _ in model}:
        places = sorted(place for at, place in model if at == seq)
        assert [*moves.indices(seq)] == places
        assert [*moves.of(seq)] == [(place, *model[seq, place]) for place in places]
    assert set(moves) == {seq for seq, _ in model}


def test_a_moved_outcome_takes_a_few_bytes() -> None:
    frames, held = 20, 2000
    order = random.Random(1).sample(range(frames * held), frames * held)
    tracemalloc.start()
    try:
        moves = Moves()
        for position, item in enumerate(order):
            moves.put(item // held, item % held, 1, 2, position)
        said = tracemalloc.get_traced_memory()[0]
        assert all(moves.where(seq, 0) for seq in range(frames))
        sorted_in = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert max(said, sorted_in) <= 24 * frames * held


@pytest.mark.parametrize(
    "item",
    [[5, 0, 4, 0], [5, 3, 1, 0], [5, -1, 2, 0], [5, 0, 0, 0], [5, 0, 1 << 60, 0], [5, 0, 1, 1 << 40], [5, 0, 1, -1]],
)
def test_an_order_of_what_is_not_there_is_damage(item: list[int]) -> None:
    index = Index()
    index.add(5, 1000, 500, Head(generation=1, records=3, items=3, ok=3))
    with pytest.raises(CheckpointDamaged):
        index.add_order({"generation": 2, "from": 0, "blocks": [], "items": [item]})
