"""A checkpoint without what was superseded: the results and errors of outcomes that later ones have replaced.

Frames keep their seq and outcomes their index, by which others refer to them: a frame of which nothing counts any more
becomes an empty one, and in any other what does not count is blanked. It never changes the file it reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from batchmill.checkpoint.frames import FileHeader, FrameRef, FrameType, Kind, frame_bytes
from batchmill.checkpoint.history import History
from batchmill.checkpoint.reader import Reader, damaged
from batchmill.codec.outcome_block import OutcomeBlock, blanked
from batchmill.errors import CheckpointBusy, CheckpointRefused
from batchmill.files.atomic_file import create_whole
from batchmill.files.storage import Disk
from batchmill.value_class import value_class


@value_class
class Compacted:
    """What `compact` wrote: the new file's `path`, its `size` in bytes and what it was `before`, and how many outcomes
    were `dropped`."""

    path: str
    size: int
    before: int
    dropped: int


def compact(path: str, out: str, *, disk: Disk | None = None) -> Compacted:
    """Write what counts in the checkpoint `path` into a new one, `out`, which continues as the old one does.

    Raises CheckpointBusy where a run uses it, CheckpointDamaged, CheckpointRefused (the new file exists or cannot be
    created), and as Reader does.
    """
    with Reader(path) as reader:
        if reader.live() is not None:
            raise CheckpointBusy(f"{path} is used by a run", "wait for its end")
        source = _Source(reader)
        try:
            os.close(create_whole(out, source.parts(), disk=disk or Disk()))
        except FileExistsError as error:
            raise CheckpointRefused(f"{out} exists", "move it away, or name another file") from error
        return Compacted(out, os.stat(out).st_size, reader.size, source.dropped)


class _Source:
    """The frames of a checkpoint that is whole, and which of their outcomes count."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._history = History()
        self._refs: list[FrameRef] = []
        for ref, peek in reader.frames():
            self._history.note(ref, peek)
            self._refs.append(ref)
        if reader.verdict is not None and reader.verdict.kind not in (Kind.CLEAN, Kind.TORN):
            raise damaged(reader.path, reader.verdict)
        self._history.load(reader.payload)
        self.dropped = 0

    def parts(self) -> Iterator[bytes]:
        """The new file: a new id, the frames under their old seqs, watermarks that promise nothing yet."""
        header = FileHeader(os.urandom(16))
        yield header.pack()
        for ref in self._refs:
            type, payload = self._frame(ref)
            head, crc = frame_bytes(header.seed, ref.seq, 0, type, payload)
            yield from (head, payload, crc)

    def _frame(self, ref: FrameRef) -> tuple[int, bytes]:
        payload = self._reader.payload(ref)
        gone = self._history.index.gone.get(ref.seq) if ref.type == FrameType.OUTCOMES else None
        if not gone:
            return ref.type, payload
        self.dropped += len(gone)
        block = OutcomeBlock(payload)
        # What such a frame says of those before it, which it has replaced itself, is still to be known.
        if len(gone) == len(block) and not block.supersedes:
            return FrameType.GAP, b""
        return ref.type, blanked(block, gone)
