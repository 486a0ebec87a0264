"""How many items a call of the function covers: a fixed number, or as many as pay.

`auto` doubles while items a second grow by a tenth, and stays where they were the most. A call stays within the time of
a chunk, so that work can still be shared out, and stops growing at half of the memory that a worker may hold.
"""

from __future__ import annotations

from collections.abc import Callable

GAIN = 1.1  # times as many items a second that twice the size must bring
ENOUGH = 0.02  # seconds of calls, and
CALLS = 3  # how many of them, after which a size is judged
MOST = 1 << 16


class BatchSize:
    """`size` is the number of items for the next call. `fixed` None: found out, while `has_room` (in memory)."""

    def __init__(self, fixed: int | None, has_room: Callable[[], bool] = lambda: True) -> None:
        self.size = fixed or 1
        self._is_settled = fixed is not None
        self._has_room = has_room
        self._best = (1, 0.0)  # size, and items a second
        self._is_warm = False
        self._calls = self._items = 0
        self._seconds = 0.0

    def seen(self, items: int, seconds: float, most: float) -> None:
        """Learn from a call of `items` items; the next ones should not take longer than `most` seconds."""
        if self._is_settled or items != self.size:  # what is left of a chunk says little
            return
        if not self._is_warm:  # the first call pays for what all others find there
            self._is_warm = True
            return
        self._calls, self._items, self._seconds = self._calls + 1, self._items + items, self._seconds + seconds
        if self._seconds >= most or (self._calls >= CALLS and self._seconds >= ENOUGH):
            self._judge(self._items / max(self._seconds, 1e-9), most)

    def _judge(self, rate: float, most: float) -> None:
        best, most_so_far = self._best
        self._calls, self._items, self._seconds = 0, 0, 0.0
        if rate < GAIN * most_so_far:
            self.size = best if rate < most_so_far else self.size
            self._is_settled = True
            return
        self._best = (self.size, rate)
        if 2 * self.size <= MOST and 2 * self.size / rate <= most and self._has_room():
            self.size *= 2
        else:
            self._is_settled = True
