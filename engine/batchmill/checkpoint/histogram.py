"""How many numbers become few: amounts over time, logarithmic bins, thinned series.

Each takes any number of values one after the other and keeps a bounded number of them.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

SHORTEST = 1 / 16  # seconds: the first width of a bin of time
MOST_BINS = 240  # of time; one more, and two become one
PER_DECADE = 40  # logarithmic bins between 1 and 10: each is 6 % wider than the one before
_DECADES = (-7, 7)  # from 100 ns to four months: what lies outside is in the first or last bin


class Clock:
    """The width of the bins of time that several series share: it doubles whenever they would become too many."""

    def __init__(self) -> None:
        self.width = SHORTEST
        self._series: list[Amounts] = []

    def series(self) -> Amounts:
        """A new series on this clock."""
        self._series.append(Amounts(self))
        return self._series[-1]

    def reach(self, end: float) -> None:
        """Make the bins wide enough for `end`, in seconds since the clock's zero."""
        while end > self.width * MOST_BINS:
            self.width *= 2
            for series in self._series:
                series.halve()


class Amounts:
    """How much of something lies in each bin of time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._bins = array("d")

    def add(self, start: float, end: float, amount: float) -> None:
        """Spread `amount` evenly over [start, end], in seconds since the clock's zero (before it: at it)."""
        start, end = max(0.0, start), max(0.0, start, end)
        self._clock.reach(end)
        width = self._clock.width
        first, last = int(start / width), min(int(end / width), MOST_BINS - 1)
        first = min(first, last)
        self._bins.extend([0.0] * (last + 1 - len(self._bins)))
        if first == last:
            self._bins[first] += amount
            return
        density = amount / (end - start)
        self._bins[first] += density * ((first + 1) * width - start)
        for number in range(first + 1, last):
            self._bins[number] += density * width
        self._bins[last] += density * (end - last * width)

    def halve(self) -> None:
        """Two bins become one."""
        odd = self._bins[::2]
        for number, amount in enumerate(self._bins[1::2]):
            odd[number] += amount
        self._bins = odd

    def bins(self) -> Sequence[float]:
        """The amounts, from the clock's zero on; bins after the last amount are left out."""
        return self._bins


class Bin(NamedTuple):
    """`items` values lie in [low, high)."""

    low: float
    high: float
    items: int


class Durations:
    """The distribution of seconds, with bins that are even on a logarithmic scale."""

    def __init__(self) -> None:
        low, high = _DECADES
        edges = range(low * PER_DECADE, high * PER_DECADE + 1)
        self._edges = [10 ** (edge / PER_DECADE) for edge in edges]
        self._counts = array("Q", [0] * (len(self._edges) - 1))
        self.count = 0
        self.sum = 0.0
        self.longest = 0.0

    def add(self, seconds: Sequence[float]) -> list[float]:
        """Add values; returns those that are durations at all, sorted."""
        values = sorted(seconds)
        total = math.fsum(values)
        if not math.isfinite(total) or (values and values[0] < 0):  # not-a-number breaks the order: sort again
            values = sorted(value for value in values if 0 <= value < math.inf)
            total = math.fsum(values)
        at, count = 0, len(values)
        while at < count:
            number = min(max(bisect_right(self._edges, values[at]) - 1, 0), len(self._counts) - 1)
            is_last = number == len(self._counts) - 1
            after = count if is_last else bisect_left(values, self._edges[number + 1], at + 1)
            self._counts[number] += after - at
            at = after
        self.count += count
        self.sum += total
        self.longest = max(self.longest, values[-1] if values else 0.0)
        return values

    def quantile(self, share: float) -> float:
        """Seconds below which that share (0 to 1) of the values lies, to 6 %; 0 where there are none."""
        wanted, seen = share * self.count, 0
        for number, count in enumerate(self._counts):
            if count and seen + count >= wanted:
                within = (wanted - seen) / count
                value: float = self._edges[number] * (self._edges[number + 1] / self._edges[number]) ** within
                return min(value, self.longest)
            seen += count
        return self.longest

    def bins(self, per_decade: int) -> Iterator[Bin]:
        """The counts in `per_decade` bins to the decade (a divisor of PER_DECADE), from the first that is not empty on
        to the last."""
        step = PER_DECADE // per_decade
        counts = [sum(self._counts[begin : begin + step]) for begin in range(0, len(self._counts), step)]
        filled = [number for number, count in enumerate(counts) if count]
        for number in range(filled[0], filled[-1] + 1) if filled else ():
            yield Bin(self._edges[number * step], self._edges[(number + 1) * step], counts[number])


class Thinned:
    """At most `most` points of a series in order: beyond that, two neighbours become one.

    A point is (time, *values); of two, the time and the first value are averaged, of the others the larger is kept.
    """

    def __init__(self, most: int = 600) -> None:
        self._most = most
        self._points: list[tuple[float, ...]] = []
        self._pending: list[tuple[float, ...]] = []
        self._stride = 1

    def add(self, *point: float) -> None:
        """Append a point."""
        self._pending.append(point)
        if len(self._pending) < self._stride:
            return
        self._points.append(_joined(self._pending))
        self._pending = []
        if len(self._points) >= self._most:
            self._points = [_joined(self._points[number : number + 2]) for number in range(0, len(self._points), 2)]
            self._stride *= 2

    def points(self) -> list[tuple[float, ...]]:
        """The points."""
        return [*self._points, _joined(self._pending)] if self._pending else list(self._points)


def _joined(points: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    columns = list(zip(*points))
    means = [math.fsum(column) / len(column) for column in columns[:2]]
    return (*means, *map(max, columns[2:]))
