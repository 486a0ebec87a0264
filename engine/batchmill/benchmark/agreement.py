"""Whether results agree between worker counts: digests per item in, disagreements out.

An item whose result differs between two rounds with the same count gives another result each time (a clock, a random
number): that says nothing about worker counts, and is told apart.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """Items whose results differ: how many, the first of them, and the two counts (equal ones: from call to call)."""

    items: int
    first: int
    workers: tuple[int, int]


class Agreement:
    """The digest of every item's result with every count of workers, as first seen."""

    def __init__(self) -> None:
        self._seen: dict[int, dict[int, int]] = {}  # workers -> item -> digest
        self._unsteady: dict[int, int] = {}  # item -> workers

    def add(self, workers: int, item: int, digest: int) -> None:
        """`item` gave a result with that digest, with that many workers."""
        if self._seen.setdefault(workers, {}).setdefault(item, digest) != digest:
            self._unsteady.setdefault(item, workers)

    @property
    def from_call_to_call(self) -> Difference | None:
        """The items whose result is another one each time; None where there are none."""
        if not self._unsteady:
            return None
        first = min(self._unsteady)
        return Difference(len(self._unsteady), first, (self._unsteady[first],) * 2)

    @property
    def between_counts(self) -> Difference | None:
        """The other items whose result depends on the number of workers; None where there are none."""
        if not self._seen:
            return None
        least = min(self._seen)
        found: dict[int, int] = {}
        for workers in sorted(self._seen):
            for item, digest in self._seen[workers].items():
                if item not in self._unsteady and self._seen[least].get(item, digest) != digest:
                    found.setdefault(item, workers)
        if not found:
            return None
        first = min(found)
        return Difference(len(found), first, (least, found[first]))
