"""The outcome frames of a run's checkpoint, to be read back: those of earlier runs, and those that this run commits."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from batchmill.checkpoint.frames import FrameType
from batchmill.checkpoint.index import Extent, Index
from batchmill.checkpoint.resume import NullCheckpoint
from batchmill.checkpoint.writer import Checkpoint
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import read_head
from batchmill.model import Earlier

_CACHED = 8  # decoded frames kept: neighbouring items mostly lie in the same frame


class CommittedFrames:
    """Frames by seq, as `layout.Frames`; `old` is the index of those of earlier runs, `new` that of this run's."""

    def __init__(self, checkpoint: Checkpoint | NullCheckpoint, old: Index) -> None:
        self._checkpoint = checkpoint
        self.old = old
        self.new = Index()
        self._kept: dict[int, OutcomeBlock] = {}

    def append(self, payload: bytes) -> int:
        """Commit a payload as it is; its seq."""
        ref = self._checkpoint.append(FrameType.OUTCOMES, payload)
        self.new.add(ref.seq, ref.offset, ref.length, read_head(payload))
        return ref.seq

    def replace(self, earlier: Earlier) -> None:
        """Another outcome counts in place of this one."""
        self._index_of(earlier.seq).drop(earlier.seq, earlier.outcome, failed=earlier.attempts > 0)

    def is_new(self, seq: int) -> bool:
        """Whether a frame is of this run."""
        return len(self.new) > 0 and seq >= self.new.seq(0)

    def _index_of(self, seq: int) -> Index:
        return self.new if self.is_new(seq) else self.old

    def payload(self, seq: int) -> bytes:
        """The payload; raises CheckpointDamaged."""
        return self._checkpoint.read(self._index_of(seq).row_of(seq).ref)

    def block(self, seq: int) -> OutcomeBlock:
        """The same, decoded."""
        block = self._kept.pop(seq, None) or OutcomeBlock(self.payload(seq))
        self._kept[seq] = block
        if len(self._kept) > _CACHED:
            del self._kept[next(iter(self._kept))]
        return block

    def extent(self, seq: int) -> Extent:
        """How large it is."""
        return self._index_of(seq).extent(seq)

    def moved(self, seq: int) -> Collection[int]:
        """None: a frame that was found in one piece lies in one piece."""
        return ()

    def gone(self, seq: int) -> frozenset[int]:
        """The outcomes in it that were replaced."""
        return frozenset(self._index_of(seq).gone.get(seq, ()))

    def ids(self) -> Iterator[list[Any]]:
        """The ids of all outcomes that count, of items of the input, frame by frame."""
        for row in (*self.old, *self.new):
            gone = self._index_of(row.seq).not_current(row.seq)
            ids = OutcomeBlock(self._checkpoint.read(row.ref)).ids
            yield [id for index, id in enumerate(ids) if index not in gone] if gone else ids
