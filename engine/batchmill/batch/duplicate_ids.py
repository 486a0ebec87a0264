"""The count of repeated ids, in bounded memory.

Most inputs carry ids that increase. Then each chunk's least and greatest id are proof enough: where neighbouring
chunks do not overlap, no id repeats, and nothing had to be kept. Otherwise ids are counted by hash; above `EXACT` of
them one part in so many is counted and scaled up, for equal ids always fall into the same part.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from batchmill.codec.ids import id_key

EXACT = 1_000_000  # ids that are counted exactly; about 100 bytes of memory each


class Spans:
    """Ranges of ids by range of positions, joined where they touch and increase."""

    def __init__(self) -> None:
        self._by_start: dict[int, tuple[int, Any, Any]] = {}
        self._by_end: dict[int, int] = {}
        self._broken = False

    def add(self, first: int, end: int, low: Any, high: Any) -> None:
        """The records at [first, end) have increasing ids from `low` to `high` (None: they do not increase)."""
        if self._broken or low is None:
            self._broken = True
            return
        left = self._by_end.pop(first, None)
        if left is not None:
            _, left_low, left_high = self._by_start.pop(left)
            if not self._increases(left_high, low):
                return
            first, low = left, left_low
        right = self._by_start.pop(end, None)
        if right is not None:
            del self._by_end[right[0]]
            if not self._increases(high, right[1]):
                return
            end, high = right[0], right[2]
        self._by_start[first] = (end, low, high)
        self._by_end[end] = first

    def _increases(self, left: Any, right: Any) -> bool:
        self._broken = type(left) is not type(right) or not left < right
        return not self._broken

    @property
    def are_distinct(self) -> bool:
        """Whether all ranges added are known not to share an id."""
        if self._broken:
            return False
        spans = [self._by_start[first] for first in sorted(self._by_start)]
        return all(self._increases(a[2], b[1]) for a, b in pairwise(spans))


def count_repeats(columns: Iterable[list[Any]], total: int) -> int:
    """Occurrences of an id after its first in `columns` of ids, of which there are `total`; an estimate above EXACT."""
    parts = max(1, -(-total // EXACT))
    seen: set[int] = set()
    counted = 0
    for ids in columns:
        hashes = [hash(id_key(id)) for id in ids]
        if parts > 1:
            hashes = [h for h in hashes if h % parts == 0]
        counted += len(hashes)
        seen.update(hashes)
    return (counted - len(seen)) * parts
