"""How many items a call of the function covers: a fixed number, or as many as pay.

`auto` doubles while items a second grow by a tenth, and stays where they were the most; once it may be mistaken, for
machines are noisy. Calls that take long do not grow on, so that work can still be shared out; nor do those of which
twice as many items might take more memory than there may be: what they have taken so far, twice.
"""

from __future__ import annotations

from collections.abc import Callable

GAIN = 1.1  # times as many items a second that twice the size must bring
ENOUGH = 0.02  # seconds of calls, and
CALLS = 3  # how many of them, after which a size is judged
MISSES = 2  # sizes in a row that brought no gain, after which no more are tried
MOST = 1 << 16


class BatchSize:
    """`size` is the number of items for the next call. `fixed` None: found out, where `peak` tells the most bytes that
    this process has held, and `memory` how many those may be (None: any number)."""

    def __init__(self, fixed: int | None, memory: int | None = None, peak: Callable[[], int] = lambda: 0) -> None:
        self.size = fixed or 1
        self._memory, self._peak = memory, peak
        self._least = 0  # bytes, once it had called
        self._is_settled = fixed is not None
        self._best = (1, 0.0)  # size, and items a second
        self._is_warm = False
        self._misses = 0
        self._calls = self._items = 0
        self._seconds = 0.0

    def seen(self, items: int, seconds: float, most: float) -> None:
        """Learn from a call of `items` items; the next ones should not take longer than `most` seconds."""
        if self._is_settled or items != self.size:  # what is left of a chunk says little
            return
        if not self._is_warm:  # the first call pays for what all others find there
            self._is_warm = True
            self._least = self._peak()
            return
        self._calls, self._items, self._seconds = self._calls + 1, self._items + items, self._seconds + seconds
        if self._seconds >= most or (self._calls >= CALLS and self._seconds >= ENOUGH):
            self._judge(self._items / max(self._seconds, 1e-9), most)

    def _judge(self, rate: float, most: float) -> None:
        self._calls, self._items, self._seconds = 0, 0, 0.0
        is_better = rate >= GAIN * self._best[1]
        self._misses = 0 if is_better else self._misses + 1
        if is_better:
            self._best = (self.size, rate)
        if self._misses < MISSES and self._may_double(rate, most):
            self.size *= 2
        else:
            self.size, self._is_settled = self._best[0], True

    def _may_double(self, rate: float, most: float) -> bool:
        has_room = self._memory is None or 2 * self._peak() - self._least <= self._memory
        return has_room and 2 * self.size <= MOST and self.size / rate <= most
