"""The way of a failed item back to the workers.

It never holds an item's bytes that the checkpoint holds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.input import formats
from batchmill.input.formats import Format
from batchmill.model import Chunk, Earlier
from batchmill.scheduler.in_flight import InFlight
from batchmill.scheduler.retries import Again, Retries

_FINAL = ("WorkerDied", "ItemTooLarge")  # the first has had its --crash-retries, the second can never succeed


class Retrier:
    """Failed items that are tried again in the same run. `read` gives the frame `seq` of the checkpoint."""

    def __init__(
        self,
        retries: int,
        delay: float,
        in_flight: InFlight,
        read: Callable[[int], OutcomeBlock],
        format: Format | None,
    ) -> None:
        self._retries = Retries(retries, delay, random.random)
        self._in_flight = in_flight
        self._read = read
        self._format = format
        self._records: dict[tuple[int, int], Chunk] = {}  # of items that are not in the checkpoint, or not whole

    def __len__(self) -> int:
        return len(self._retries)

    def take(self, chunk: Chunk, seq: int, block: OutcomeBlock) -> set[int]:
        """Frame `seq` holds failed items of a chunk: let those with tries left wait; their offsets in the chunk."""
        taken: set[int] = set()
        if chunk.sealed:
            return taken
        is_row = self._format is not None and self._format.wanted is not None  # what is kept is not its record
        attempts, offsets, now = block.attempts, block.offsets, time.monotonic()
        if self._format is not None and any(failure.raw is None for failure in block.failures.values()):
            chunk = chunk._replace(data=formats.block_of(chunk, self._format))
        for index, failure in block.failures.items():
            tried, offset = attempts.get(index, 1), offsets[index]
            if not self._retries.allows(tried) or failure.type in _FINAL:
                continue
            if failure.raw is None or isinstance(chunk.data, tuple) or is_row:
                self._records[seq, index] = _alone(chunk, offset, self._format)
            line = formats.line_at(chunk, offset, self._format)
            again = Again(0.0, chunk.first + offset, line, chunk.input, seq, index, tried)
            self._retries.add(now, again)
            taken.add(offset)
        return taken

    def look(self, now: float) -> int:
        """Queue the items whose time has come; how many."""
        count = 0
        while (again := self._retries.due(now)) is not None:
            self._in_flight.put(self._chunk(again))
            count += 1
        return count

    def wait(self, now: float) -> float | None:
        """Seconds until the next one is due, None where none waits."""
        return self._retries.wait(now)

    def _chunk(self, again: Again) -> Chunk:
        earlier = {0: Earlier(again.seq, again.outcome, again.attempts)}
        kept = self._records.pop((again.seq, again.outcome), None)
        if kept is not None:
            return kept._replace(earlier=earlier)
        raw = self._read(again.seq).failures[again.outcome].raw
        assert raw is not None
        header, record = (b"", raw) if self._format is None else self._format.of_kept(raw)
        return Chunk(again.position, again.line, again.input, 1, record, earlier=earlier, header=header)


def _alone(chunk: Chunk, offset: int, format: Format | None) -> Chunk:
    """One record of a chunk as a chunk of its own."""
    rest = formats.divide(chunk, offset, format)[1] if offset else chunk
    alone = formats.divide(rest, 1, format)[0] if rest.records > 1 else rest
    return alone._replace(skip=None, crashes=0, condemned=None, alone=False)
