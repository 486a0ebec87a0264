"""Facts about binning: however much goes in, little is kept, and what is kept is true."""

from __future__ import annotations

import math
import random

import pytest

from batchmill.checkpoint.histogram import MOST_BINS, SHORTEST, Clock, Durations, Thinned


def test_amounts_are_neither_lost_nor_made_however_often_the_bins_double() -> None:
    clock = Clock()
    series, other = clock.series(), clock.series()
    rng, total = random.Random(1), 0
    for number in range(2000):
        start = number * rng.random() * 10
        series.add(start, start + rng.expovariate(0.2), 7)
        total += 7
    other.add(0.0, 0.0, 3)
    assert len(series.bins()) <= MOST_BINS
    assert clock.width > SHORTEST
    assert sum(series.bins()) == pytest.approx(total)
    assert list(other.bins()) == [3.0]


def test_an_amount_is_spread_evenly_over_its_time() -> None:
    clock = Clock()
    clock.reach(MOST_BINS)
    assert clock.width == 1.0
    series = clock.series()
    series.add(1.5, 3.5, 8)
    assert list(series.bins()) == [0, 2, 4, 2]


def test_times_that_no_clock_should_tell_do_no_harm() -> None:
    clock = Clock()
    series = clock.series()
    for start, end in ((-5.0, -3.0), (0.0, 1e300), (math.nan, math.nan), (7.0, 2.0)):
        series.add(start, end, 1)
    assert len(series.bins()) <= MOST_BINS
    assert sum(series.bins()) == pytest.approx(4)


def test_quantiles_are_right_to_six_percent_and_counts_exactly() -> None:
    rng = random.Random(2)
    values = [rng.lognormvariate(-3, 2) for _ in range(20_000)]
    seen = Durations()
    for begin in range(0, len(values), 700):
        seen.add(values[begin : begin + 700])
    assert (seen.count, seen.longest) == (len(values), max(values))
    assert seen.sum == pytest.approx(sum(values))
    ordered = sorted(values)
    for share in (0.01, 0.5, 0.9, 0.99):
        assert seen.quantile(share) == pytest.approx(ordered[int(share * len(values))], rel=0.06)
    for found in seen.bins(10):
        assert found.items == sum(found.low <= value < found.high for value in values)
    assert seen.quantile(1.0) == seen.longest


def test_what_is_no_duration_is_left_out() -> None:
    seen = Durations()
    assert seen.add([1.0, math.nan, -1.0, math.inf, 0.5]) == [0.5, 1.0]
    assert seen.add([]) == []
    assert (seen.count, seen.sum, seen.longest) == (2, 1.5, 1.0)


def test_the_shortest_and_the_longest_imaginable_are_counted() -> None:
    seen = Durations()
    seen.add([0.0, 1e-30, 1e30])
    assert sum(found.items for found in seen.bins(10)) == 3
    assert seen.quantile(0.5) <= 1.1e-7


def test_a_distribution_of_nothing_has_no_bins() -> None:
    assert (list(Durations().bins(10)), Durations().quantile(0.5)) == ([], 0.0)


def test_a_long_series_keeps_its_means_and_its_peaks() -> None:
    thinned = Thinned(100)
    for number in range(12_345):
        thinned.add(float(number), number % 10, 999.0 if number == 5000 else 1.0)
    points = thinned.points()
    assert 50 <= len(points) <= 101
    assert max(peak for _, _, peak in points) == 999.0
    assert [at for at, *_ in points] == sorted(at for at, *_ in points)
    assert sum(mean for _, mean, _ in points) / len(points) == pytest.approx(4.5, rel=0.02)


def test_a_short_series_is_left_as_it_is() -> None:
    thinned = Thinned(100)
    thinned.add(1.0, 2.0, 3.0)
    assert thinned.points() == [(1.0, 2.0, 3.0)]
