"""The count of repeated ids, in bounded memory.

Most inputs carry ids that increase, or decrease. Then each chunk's least and greatest id are proof enough: where chunks
do not overlap, no id repeats, and nothing had to be kept. Otherwise ids are counted by hash; above `EXACT` of them one
part in so many is counted and scaled up, for equal ids always fall into the same part.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import pairwise, repeat
from typing import Any

from batchmill.codec.ids import id_key

_MODULUS = sys.hash_info.modulus  # whole numbers from 0 up to this have hashes of their own: -1 and -2 have one
EXACT = 1_000_000  # ids that are counted exactly; about 100 bytes of memory each


class Spans:
    """Ranges of ids by range of positions, joined where they touch and do not overlap."""

    def __init__(self) -> None:
        self._by_start: dict[int, tuple[int, Any, Any]] = {}
        self._by_end: dict[int, int] = {}
        self._broken = False

    def add(self, first: int, end: int, low: Any, high: Any) -> None:
        """The records at [first, end) have ids that strictly increase or decrease, between `low` and `high` (None:
        they do not)."""
        if self._broken or low is None:
            self._broken = True
            return
        left = self._by_end.pop(first, None)
        if left is not None:
            _, left_low, left_high = self._by_start.pop(left)
            if self._overlap(left_low, left_high, low, high):
                return
            first, low, high = left, min(left_low, low), max(left_high, high)
        right = self._by_start.pop(end, None)
        if right is not None:
            del self._by_end[right[0]]
            if self._overlap(low, high, right[1], right[2]):
                return
            end, low, high = right[0], min(low, right[1]), max(high, right[2])
        self._by_start[first] = (end, low, high)
        self._by_end[end] = first

    def _overlap(self, low: Any, high: Any, other_low: Any, other_high: Any) -> bool:
        self._broken = type(low) is not type(other_low) or not (high < other_low or other_high < low)
        return self._broken

    @property
    def are_distinct(self) -> bool:
        """Whether all ranges added are known not to share an id."""
        if self._broken:
            return False
        spans = [(low, high) for _, low, high in self._by_start.values()]
        if len({type(low) for low, _ in spans}) > 1:
            return False
        return all(a[1] < b[0] for a, b in pairwise(sorted(spans)))


def count_repeats(columns: Iterable[list[Any]], total: int) -> int:
    """Occurrences of an id after its first in `columns` of ids, of which there are `total`; an estimate above EXACT."""
    parts = max(1, -(-total // EXACT))
    seen: set[int] = set()
    counted = 0
    for ids in columns:
        hashes = list(_hashes(ids))
        if parts > 1:
            hashes = [h for h in hashes if h % parts == 0]
        counted += len(hashes)
        seen.update(hashes)
    return (counted - len(seen)) * parts


def _hashes(ids: list[Any]) -> Iterable[int]:
    """What ids count as: equal ones of one type are one."""
    kinds = set(map(type, ids))
    if kinds == {str}:
        return map(hash, ids)
    if kinds == {int} and min(ids) >= 0 and max(ids) < _MODULUS:
        return map(hash, zip(ids, repeat(int)))
    return map(_hash, ids)


def _hash(id: Any) -> int:
    if type(id) is str:
        return hash(id)
    return hash((id, int)) if type(id) is int and 0 <= id < _MODULUS else hash(id_key(id))
