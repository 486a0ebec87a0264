"""What tests share about sources. Tests nothing."""

from __future__ import annotations

import queue
import time

from batchmill.input.sources import Source
from batchmill.model import Chunk


class Waker:
    """What a source calls when the loop should look again; waits for it with a deadline."""

    def __init__(self) -> None:
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()

    def __call__(self) -> None:
        self._woken.put(None)

    def pause(self, seconds: float = 0.02) -> None:
        try:
            self._woken.get(timeout=seconds)
        except queue.Empty:
            pass


def drain(source: Source, waker: Waker, records: int = 7) -> list[Chunk]:
    """All chunks of a source, as a loop would take them."""
    chunks: list[Chunk] = []
    deadline = time.monotonic() + 30
    while not source.ended:
        assert time.monotonic() < deadline, "the source does not end"
        chunk = source.take(records)
        if chunk is not None:
            chunks.append(chunk)
        elif not source.ended:
            waker.pause()
    source.close()
    return chunks
