"""The outcomes of an id that came more than once: which of them is the next record's.

A million lines may all be equal. So the one that is wanted is at the front of a queue, and one that is not there any
more is passed over once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator


class Repeated:
    """Outcomes as numbers: the lowest bit says whether it failed, the `content_bits` above it are what its item was.

    `is_live` says whether an outcome was not taken by other ways than `claim`; it never comes back.
    """

    def __init__(self, content_bits: int, is_live: Callable[[int], bool]) -> None:
        self._mask = (1 << content_bits + 1) - 1
        self._is_live = is_live
        self._alike: dict[int, deque[int]] = {}
        self._all: tuple[deque[int], deque[int]] = (deque(), deque())  # ok, failed
        self._left: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        return iter(self._left)

    def add(self, outcome: int) -> None:
        """Another outcome, behind those that are here."""
        self._left.add(outcome)
        self._all[outcome & 1].append(outcome)
        self._alike.setdefault(outcome & self._mask, deque()).append(outcome)

    def best(self, content: int | None = None) -> int | None:
        """The first ok outcome of that content, of any where it is None; else the first that failed."""
        alike = (self._alike.get((content or 0) << 1 | failed, deque()) for failed in (0, 1))
        for queue in self._all if content is None else alike:
            while queue:
                if queue[0] in self._left and self._is_live(queue[0]):
                    return queue[0]
                self._left.discard(queue.popleft())
        return None

    def claim(self, outcome: int) -> None:
        """That outcome is a record's now."""
        self._left.remove(outcome)
