"""Items that were removed from the input: the outcomes in a checkpoint that the last complete input had no item for.

They stay in the file, and count again as soon as an item is found for them. A run that has read its input to the end
says which they are (RUN frame, field `removed`); what it says takes the place of what earlier runs said.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import chain

from batchmill.errors import CheckpointDamaged


class Removed:
    """Ranges of outcomes by the seq of their frame. `items` counts them all, `failed` those among them that failed."""

    def __init__(self) -> None:
        self.items = 0
        self.failed = 0
        self._ranges: dict[int, list[range]] = {}
        self._ok: Counter[int] = Counter()  # by seq
        self._failed: Counter[int] = Counter()

    def __contains__(self, seq: int) -> bool:
        """Whether outcomes of that frame are among them."""
        return seq in self._ranges

    def add(self, seq: int, start: int, count: int, failed: int) -> None:
        """The `count` outcomes of frame `seq` from index `start` on, of which `failed` failed; by ascending index."""
        self._ranges.setdefault(seq, []).append(range(start, start + count))
        self._ok[seq] += count - failed
        self._failed[seq] += failed
        self.items += count
        self.failed += failed

    def replace(self, seq: int, index: int, *, failed: bool) -> None:
        """That outcome, which had `failed`, is replaced by another one: where it is among them it no longer counts.

        Raises CheckpointDamaged where none of the frame's is left that could be it.
        """
        ranges = self._ranges.get(seq, [])
        at = bisect_right(ranges, index, key=lambda span: span.start) - 1
        if at < 0 or index not in ranges[at]:
            return
        counts = self._failed if failed else self._ok
        if not counts[seq]:
            raise CheckpointDamaged("an outcome is replaced that was said to be removed, and to be another")
        counts[seq] -= 1
        self.items -= 1
        self.failed -= failed

    def end(self, seq: int) -> int:
        """The index after the last of a frame's among them, 0 where there is none."""
        return self._ranges[seq][-1].stop if seq in self._ranges else 0

    def counts(self, seq: int) -> tuple[int, int]:
        """How many of a frame's outcomes are among them: ok, failed."""
        return self._ok[seq], self._failed[seq]

    def of(self, seq: int) -> Collection[int]:
        """The indices of a frame's outcomes among them, with those replaced since."""
        ranges: Sequence[range] = self._ranges.get(seq, ())
        return ranges[0] if len(ranges) == 1 else frozenset(chain.from_iterable(ranges))
