"""Outcomes that an ordering of the input moved one by one: where each of them lies now."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator

from batchmill.errors import CheckpointDamaged

_POSITION_BITS = 40  # of a number that has a position in it, and above it the generation
_POSITION = (1 << _POSITION_BITS) - 1


class Moves:
    """Where single outcomes lie that an ordering moved one by one, by frame seq and index; what was said last counts.

    At 16 bytes each: a shuffled input moves every item by itself, and 10^7 objects would be gigabytes.
    """

    def __init__(self) -> None:
        self._sorted: dict[int, array[int]] = {}  # seq -> its indices in order, then where each is
        self._said: dict[int, array[int]] = {}  # seq -> index, where, index, where, ...: what came since

    def __contains__(self, seq: int) -> bool:
        return seq in self._said or seq in self._sorted

    def put(self, seq: int, index: int, count: int, generation: int, position: int) -> None:
        """The outcomes from `index` on lie at consecutive positions. Raises CheckpointDamaged for no such."""
        where = generation << _POSITION_BITS | position
        try:
            said = self._said[seq]
        except KeyError:
            said = self._said[seq] = array("Q")
        try:
            if position + count > _POSITION:
                raise OverflowError
            if count == 1:
                said.append(index)
                said.append(where)
            else:
                said.extend(number for i in range(count) for number in (index + i, where + i))
        except (OverflowError, TypeError) as error:
            raise CheckpointDamaged("an order frame has a position that is none") from error

    def forget(self, seq: int) -> None:
        """The frame is in one piece again."""
        self._said.pop(seq, None)
        self._sorted.pop(seq, None)

    def where(self, seq: int, index: int) -> tuple[int, int] | None:
        """(generation, position) of an outcome; None where it was not moved by itself."""
        found = self._sorted.get(seq) if seq not in self._said else self._of(seq)
        if found is None:
            return None
        count = len(found) // 2
        at = bisect_left(found, index, 0, count)
        if at == count or found[at] != index:
            return None
        return found[count + at] >> _POSITION_BITS, found[count + at] & _POSITION

    def indices(self, seq: int) -> Collection[int]:
        """The indices of a frame that were moved one by one, in order."""
        found = self._of(seq)
        return found[: len(found) // 2] if found else ()

    def count(self, seq: int) -> int:
        """How many they are."""
        return len(self._of(seq) or ()) // 2

    def __iter__(self) -> Iterator[int]:
        return iter([*self._sorted, *(seq for seq in self._said if seq not in self._sorted)])

    def of(self, seq: int) -> Iterator[tuple[int, int, int]]:
        """(index, generation, position) of each of a frame's, by index."""
        found = self._of(seq)
        if found:
            count = len(found) // 2
            for index, where in zip(found[:count], found[count:]):
                yield index, where >> _POSITION_BITS, where & _POSITION

    def _of(self, seq: int) -> array[int] | None:
        """What is known of a frame, with all that was said sorted in."""
        said, before = self._said.pop(seq, None), self._sorted.get(seq)
        if said is None:
            return before
        count = 0 if before is None else len(before) // 2
        latest = {} if before is None else dict(zip(before[:count], before[count:]))
        latest.update(zip(said[0::2], said[1::2]))
        indices = sorted(latest)
        found = array("Q", indices)
        found.extend(map(latest.__getitem__, indices))
        self._sorted[seq] = found
        return found
