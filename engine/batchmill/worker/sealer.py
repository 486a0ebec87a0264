"""What becomes of a record that no worker may open again: its outcome, and what stands for its id.

It never opens one either: it may be what kills whoever does.

Its id is its position in the input, unless the caller of the Python API gave one, and its content is known by the
record's bytes, so that a later run finds it again.
"""

from __future__ import annotations

import time
from array import array

from batchmill.codec.ids import id_key
from batchmill.codec.outcomes import Head
from batchmill.input.formats import block_of
from batchmill.input.items import Found, ItemReader
from batchmill.model import Chunk, IdScan
from batchmill.worker.reply import MAX_KEPT_ITEM, Part, Reply


class Sealer:
    """Fails the records of run number `run` that are sealed. `keeps_items`: items are kept beside their outcomes."""

    def __init__(self, identifier: ItemReader, shard: tuple[int, int] | None, run: int, *, keeps_items: bool) -> None:
        self._identifier = identifier
        self._shard = shard or (0, 0)
        self._run = run
        self._keeps_items = keeps_items

    def scan(self, chunk: Chunk) -> IdScan:
        """What stands for a scan of a sealed record."""
        found = self._found(chunk)
        return IdScan([None if found is None else id_key(found[0])], array("I", [0 if found is None else found[3]]))

    def outcome(self, chunk: Chunk, worker: int, generation: int) -> Part:
        """The outcome of a sealed record, as if worker `worker` had answered for it."""
        assert chunk.condemned is not None
        reply, found = Reply(0.0), self._found(chunk)
        if found is None:
            reply.pass_over(0, is_blank=False)
        else:
            id, raw, _, content, _ = found
            format = self._identifier.format
            kept = raw if format is None else format.kept(chunk.header, raw)
            if self._keeps_items and len(kept) <= MAX_KEPT_ITEM:
                reply.keep(kept)
            reply.add(id, content, reply.fail(chunk.condemned, kept), 0.0)
        shard, shards = self._shard
        head = Head(
            worker=worker, run=self._run, generation=generation, started=time.time(), shard=shard, shards=shards
        )
        (part,) = reply.close(chunk, self._identifier.format, head)
        return part

    def _found(self, chunk: Chunk) -> Found | None:
        assert chunk.records == 1
        assert chunk.condemned is not None
        format, record = self._identifier.format, None
        if isinstance(chunk.data, tuple):
            record = chunk.data[0]
        elif format is not None:
            record = block_of(chunk, format).removesuffix(format.separator)
        return self._identifier.unread(chunk, 0, record, chunk.condemned)
