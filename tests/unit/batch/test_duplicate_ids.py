"""Repeated ids: what the ranges of ids prove, and what counting finds."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.batch import duplicate_ids
from batchmill.batch.duplicate_ids import Spans, count_repeats


def spans_of(ids: list[Any], cuts: list[int], rng: random.Random, gaps: set[int]) -> Spans:
    """The chunks of `ids` (cut at `cuts`) as ranges, in any order, those numbered in `gaps` left out."""
    bounds = sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))})
    chunks = [(a, b) for number, (a, b) in enumerate(pairwise(bounds)) if number not in gaps]
    rng.shuffle(chunks)
    spans = Spans()
    for first, end in chunks:
        part = ids[first:end]
        is_ordered = all(a < b for a, b in pairwise(part)) or all(a > b for a, b in pairwise(part))
        low, high = (min(part), max(part)) if is_ordered else (None, None)
        spans.add(first, end, low, high)
    return spans


IDS = st.lists(st.integers(0, 60), max_size=40) | st.lists(st.integers(0, 10**6), unique=True, max_size=40).map(sorted)


@settings(max_examples=300, deadline=None)
@given(IDS, st.lists(st.integers(1, 40)), st.randoms(use_true_random=False))
def test_ids_that_are_proved_distinct_are_distinct(ids: list[int], cuts: list[int], rng: random.Random) -> None:
    if spans_of(ids, cuts, rng, set()).are_distinct:
        assert len(set(ids)) == len(ids)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(), unique=True, max_size=40).map(sorted),
    st.lists(st.integers(1, 40)),
    st.sets(st.integers(0, 5)),
    st.randoms(use_true_random=False),
)
def test_ids_in_order_are_proved_distinct_whatever_the_order_of_chunks_and_the_gaps(
    ids: list[int], cuts: list[int], gaps: set[int], rng: random.Random
) -> None:
    assert spans_of(ids, cuts, rng, gaps).are_distinct
    assert spans_of(ids[::-1], cuts, rng, gaps).are_distinct


@pytest.mark.parametrize(
    "ranges",
    [
        [(0, 2, 1, 5), (2, 4, 5, 9)],
        [(0, 2, 1, 5), (4, 6, 5, 9)],
        [(2, 4, 1, 5), (0, 2, 3, 9)],
        [(0, 2, 1, 5), (2, 4, "6", "9")],
        [(0, 2, 1, 5), (2, 4, None, None)],
        [(0, 2, 1, 2), (4, 6, 5, 6), (2, 4, 3, 5)],
    ],
    ids=["touching", "apart", "overlapping", "of other types", "without order", "filling a gap"],
)
def test_ranges_that_may_share_an_id_prove_nothing(ranges: list[tuple[int, int, Any, Any]]) -> None:
    spans = Spans()
    for span in ranges:
        spans.add(*span)
    assert not spans.are_distinct


def test_what_is_broken_stays_broken() -> None:
    spans = Spans()
    spans.add(0, 1, None, None)
    spans.add(1, 2, 1, 1)
    assert not spans.are_distinct


def test_neighbouring_ranges_are_kept_as_one() -> None:
    spans = Spans()
    for first in (3, 1, 0, 2, 4):
        spans.add(first, first + 1, first, first)
        spans.add(first + 50, first + 51, 90 - first, 90 - first)  # they decrease
    assert len(spans._by_start) == len(spans._by_end) == 2
    assert spans.are_distinct


def test_asking_changes_nothing() -> None:
    spans = Spans()
    spans.add(0, 1, 1, 1)
    assert spans.are_distinct
    spans.add(5, 6, 2, 2)
    assert spans.are_distinct


VALUES = st.integers(-3, 5) | st.sampled_from(["0", "1", 1.0, True, None, 2**61 - 1, 2**61, 2**61 + 3])


@settings(deadline=None)
@given(st.lists(st.lists(VALUES, max_size=20) | st.lists(st.integers(-3, 3), max_size=20), max_size=6))
def test_repeats_are_the_occurrences_after_the_first(columns: list[list[Any]]) -> None:
    counts = Counter((type(id), id) for ids in columns for id in ids)
    total = sum(counts.values())
    assert count_repeats(columns, total) == total - len(counts)


def test_above_the_limit_one_part_in_so_many_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicate_ids, "EXACT", 10_000)
    columns = [[f"id {i}" for i in range(start, start + 1000)] for start in range(0, 40_000, 1000)]
    assert count_repeats(columns, 40_000) == 0
    estimate = count_repeats(columns * 2, 80_000)
    assert 30_000 < estimate < 50_000
    assert estimate % 8 == 0
