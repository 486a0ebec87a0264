"""Which failed items are tried again, and when.

The wait before try n+1 is `delay` * 2^(n-1), times a random factor from 0.5 to 1.5, so that items that failed together
do not all come back together (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import NamedTuple

LONGEST = 3600.0  # seconds; doubling ends here


class Again(NamedTuple):
    """An item to be tried again: where it stands in the input, and which committed outcome holds its bytes."""

    due: float
    position: int
    line: int
    input: int
    seq: int
    outcome: int
    attempts: int


class Retries:
    """Failed items that wait for their next try; `retries` more than the first are allowed each."""

    def __init__(self, retries: int, delay: float, chance: Callable[[], float]) -> None:
        self._retries = retries
        self._delay = delay
        self._chance = chance
        self._waiting: list[Again] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def allows(self, attempts: int) -> bool:
        """Whether an item that failed `attempts` times may be tried again."""
        return attempts <= self._retries

    def add(self, now: float, failed: Again) -> None:
        """Let an item wait; its `due` is set here, from `now` in seconds."""
        wait = min(LONGEST, self._delay * 2.0 ** (failed.attempts - 1)) * (0.5 + self._chance())
        heapq.heappush(self._waiting, failed._replace(due=now + wait))

    def due(self, now: float) -> Again | None:
        """The next item whose time has come, None where there is none yet."""
        if self._waiting and self._waiting[0].due <= now:
            return heapq.heappop(self._waiting)
        return None

    def wait(self, now: float) -> float | None:
        """Seconds until the next one is due, None where none waits."""
        return max(0.0, self._waiting[0].due - now) if self._waiting else None
