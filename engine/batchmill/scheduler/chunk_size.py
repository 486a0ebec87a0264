"""The size of the next chunk: seconds seen -> number of items.

A chunk is cut by time, not by count. Its target duration keeps the parent's cost per chunk under a few percent of one
core at this number of workers (a chunk of D seconds on each of L workers costs the parent L * cost / D of its core);
towards the end it shrinks as in guided self-scheduling (Polychronopoulos and Kuck, 1987), so that no worker is left
with a long tail.
"""

from __future__ import annotations

import math

PARENT_COST = 0.0005  # seconds of the parent's time per chunk, measured (bench/)
PARENT_SHARE = 0.02  # of one core, that the parent may spend on chunks
ROUND_TRIPS = 300  # to another machine and back, that a chunk should last: so much of both machines goes into messages
DEEPEST = 64  # chunks that a worker holds at the most
SHORTEST, LONGEST = 0.05, 0.8  # seconds a chunk aims at
OVERRUN = 1.5  # a worker returns what it has when its chunk took this many times its target
LEAST_PATIENCE = 0.1  # seconds; taking back what waits behind a shorter item costs more than it brings
STRAGGLER = 3.0  # times the mean: where all items are long, the long ones are no stragglers
GROWTH = 8  # a chunk is at most 8 times as large as the largest one seen: one fast item proves little
_MEMORY = 0.3  # weight of the newest chunk in the mean


class ChunkSizer:
    """Follows the measured seconds per item and says how many items to send next.

    `fixed` is the user's chunk size, or None for by time; then chunks are multiples of `batch`, the items of a call.
    """

    def __init__(self, workers: int, fixed: int | None = None, batch: int = 1) -> None:
        self._fixed = fixed
        self._batch = batch
        self._mean: float | None = None
        self._largest = 0
        self._aim = 0.0
        self.fit(workers)

    def fit(self, workers: int, round_trip: float = 0.0) -> None:
        """Aim at what suits `workers` workers, to which a message takes `round_trip` seconds there and back."""
        self._workers = workers = max(1, workers)  # on a cluster there may be none just now
        self._round_trip = round_trip
        target = max(SHORTEST, workers * PARENT_COST / PARENT_SHARE, round_trip * ROUND_TRIPS)
        self.target = min(LONGEST, target)

    @property
    def slice(self) -> float:
        """Seconds after which a worker returns what it has of its chunk; 0 means never (a fixed chunk size)."""
        return 0.0 if self._fixed else self.target * OVERRUN

    def depth(self, window: int) -> int:
        """Chunks that a worker should hold: `window`, or more where it would be through with those before the next one
        could come: only chunks of a fixed size are ever so short."""
        if not self._round_trip or self._mean is None:
            return window
        seconds = self._fixed * self._mean if self._fixed else self.target
        return max(window, min(DEEPEST, 1 + math.ceil(self._round_trip / max(seconds, 1e-9))))

    @property
    def patience(self) -> float:
        """Seconds after which a record that still runs holds up what waits behind it: longer than a chunk is meant to
        take now, so that it shrinks towards the end, where time is short. Endless before anything is known."""
        if self._mean is None:
            return math.inf
        aim = self._fixed * self._mean if self._fixed else self._aim
        return max(LEAST_PATIENCE, aim, STRAGGLER * self._mean)

    def call_has(self, items: int) -> None:
        """A call of the function covers so many items now: from now on chunks are multiples of that."""
        self._batch = max(1, items)

    def seen(self, items: int, seconds: float) -> None:
        """Learn from a chunk of `items` items that ran `seconds`."""
        if items <= 0:
            return
        mean = seconds / items
        self._mean = mean if self._mean is None else self._mean + _MEMORY * (mean - self._mean)
        self._largest = max(self._largest, items)

    def next_size(self, remaining: float | None = None) -> int:
        """Items for the next chunk (>= 1); `remaining` is the estimated number not handed out, None where unknown."""
        if self._fixed:
            return self._fixed
        if self._mean is None:
            return self._batch
        size = min(self.target / max(self._mean, 1e-9), self._largest * GROWTH)
        if remaining is not None:
            # Half of an even share; but a chunk under ten times the parent's cost would only keep the parent busy, and
            # more workers than that would wait for the parent if their chunks took less than its round through them
            # all.
            least = max(10, self._workers) * PARENT_COST / max(self._mean, 1e-9)
            size = min(size, max(remaining / (2 * self._workers), least))
        self._aim = size * self._mean
        return max(1, int(size / self._batch)) * self._batch
