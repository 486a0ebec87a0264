"""Looking at a damaged checkpoint and copying what is good out of it.

It never changes the file it looks at.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from batchmill.checkpoint.frames import (
    HEAD_SIZE,
    HEADER_SIZE,
    PEEK,
    FileHeader,
    FrameRef,
    FrameType,
    Kind,
    Pread,
    Verdict,
    find_damaged_frames,
    find_frames,
    frame_bytes,
    payload_of,
    seed_of,
)
from batchmill.checkpoint.history import History
from batchmill.checkpoint.reader import Holder, Reader
from batchmill.codec.outcome_block import read_ids
from batchmill.codec.outcomes import pack_map, read_head
from batchmill.errors import BatchmillError, CheckpointDamaged, CheckpointRefused
from batchmill.files.atomic_file import create_whole
from batchmill.files.storage import Disk, open_regular, read_at, sibling
from batchmill.model import MAX_PAYLOAD
from batchmill.value_class import value_class

_MAX_LOST = 1_000_000  # gaps are filled frame by frame; a hostile seq must not fill the disk


@value_class
class Verification:
    """What `verify` found: `size` in bytes, valid `frames` before the damage, `runs` and `outcomes` (items) in them.

    `kinds` counts the frames by FrameType name. `live` is who is writing the file now, or None. `wrong` are the frames
    whose checksums are right and whose contents are not.
    """

    path: str
    size: int
    frames: int
    outcomes: int
    runs: int
    kinds: dict[str, int]
    verdict: Verdict
    live: Holder | None
    wrong: tuple[Wrong, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong: CLEAN, or the unfinished last frame of a live run."""
        is_whole = self.verdict.kind is Kind.CLEAN or (self.verdict.kind is Kind.TORN and self.live is not None)
        return is_whole and not self.wrong


class Wrong(NamedTuple):
    """A frame that does not hold what it should: its seq, its FrameType's name, and why."""

    seq: int
    type: str
    reason: str


def verify(path: str, *, contents: bool = True) -> Verification:
    """Check every byte of the file, without a lock, and (`contents`) what frames hold.

    Raises as `Reader` does where there is not even a file header.
    """
    with Reader(path) as reader:
        live, size = reader.live(), reader.size
        scan = reader.scan(verify=True, peek=MAX_PAYLOAD)
        kinds: Counter[str] = Counter()
        outcomes, sieve = 0, _Sieve(contents)
        for ref, payload in scan:
            kinds[FrameType(ref.type).name] += 1
            sieve.passes(ref, payload)
            if ref.type == FrameType.OUTCOMES:
                outcomes += _place(ref, payload).items
        assert scan.verdict is not None
        runs, wrong = kinds[FrameType.RUN.name], tuple(sieve.wrong)
        return Verification(path, size, scan.verdict.frames, outcomes, runs, dict(kinds), scan.verdict, live, wrong)


class _Sieve:
    """Tells frames that hold what they should, by themselves and beside those before them, from others."""

    def __init__(self, is_used: bool) -> None:
        self._history = History() if is_used else None
        self.wrong: list[Wrong] = []

    def passes(self, ref: FrameRef, payload: bytes) -> bool:
        """Whether the frame is one of the former; those of the latter are in `wrong`."""
        try:
            if self._history is not None:
                self._history.take(ref, payload)
        except CheckpointDamaged as error:
            self.wrong.append(Wrong(ref.seq, FrameType(ref.type).name, error.message))
            return False
        return True


class Place(NamedTuple):
    """Where the outcomes of frame `seq` stand in the input: from position `first` on, `lines` lines, `items` items."""

    seq: int
    first: int
    lines: int
    items: int


@value_class
class Lost:
    """Frames `first` to `last` (seqs) are gone.

    Which items they held is not known, but `before` and `after` are the nearest frames with outcomes around them.
    `place` and `ids` are what their damaged bytes still show, not to be relied on; None and () where nothing.
    """

    first: int
    last: int
    before: Place | None
    after: Place | None
    place: Place | None = None
    ids: tuple[Any, ...] = ()


@value_class
class Salvaged:
    """What `salvage` wrote: the new file's `path`, how many frames were `kept`, what is `lost`.

    `meta_lost`: frame 0 was among the lost, and the new one is the map {"lost": True}. `tail` counts the bytes after
    the last valid frame, which may have been frames too.
    """

    path: str
    kept: int
    lost: tuple[Lost, ...]
    meta_lost: bool
    tail: int


def salvaged_name(path: str) -> str:
    """The name of the file that `salvage` makes for the checkpoint `path`."""
    return sibling(path, "salvaged", os.path.splitext(path)[1] or ".ckpt")


def salvage(path: str, out: str | None = None, *, disk: Disk | None = None, contents: bool = True) -> Salvaged:
    """Write every valid frame of `path` into a new checkpoint, `NAME.salvaged.ckpt` or `out`, which opens CLEAN.

    A frame that (with `contents`) does not hold what it should is none of them. Frames keep their seq, by which others
    refer to them: an empty GAP frame stands for each that is gone. Raises
    FileNotFoundError, CheckpointDamaged (nothing to salvage), CheckpointRefused (the new file exists or cannot be
    created), CheckpointMismatch (written by a newer batchmill).
    """
    fd = open_regular(path)
    try:
        source = _Source(fd, path, contents)
        out = out or salvaged_name(path)
        os.close(create_whole(out, source.parts(), disk=disk or Disk()))
        return source.report(out)
    except FileExistsError as error:
        raise CheckpointRefused(f"{out} exists", "move it away, or name another file") from error
    finally:
        os.close(fd)


def find_seed(pread: Pread, size: int) -> int | None:
    """The crc seed of a file whose header is lost, from its frames; None where no two of them agree.

    Frames of one file give one seed; a damaged head crc gives some other.
    """
    seen: Counter[int] = Counter()
    for ref, _ in find_frames(pread, size, None, 0):
        seed = seed_of(pread(ref.start, HEAD_SIZE))
        seen[seed] += 1
        if seen[seed] == 3:
            break
    best, votes = max(seen.items(), key=lambda entry: entry[1], default=(0, 0))
    return best if votes > 1 else None


class _Source:
    """The frames of a damaged file by seq."""

    def __init__(self, fd: int, path: str, contents: bool) -> None:
        self._fd = fd
        self._path = path
        self._size = os.fstat(fd).st_size
        self._seed = self._find_seed()
        self._refs: dict[int, FrameRef] = {}
        for ref, _ in find_frames(self._pread, self._size, self._seed, 0):
            self._refs.setdefault(ref.seq, ref)
        self._last = max(self._refs, default=-1)
        lost = self._last + 1 - len(self._refs)
        if not self._refs or lost > _MAX_LOST:
            raise CheckpointDamaged(f"{path}: nothing can be salvaged ({len(self._refs)} valid frames, {lost} missing)")
        meta = self._refs.get(0)
        self._meta_lost = meta is None or meta.type != FrameType.META
        self._sieve = _Sieve(contents)

    def _pread(self, offset: int, size: int) -> bytes:
        return read_at(self._fd, offset, size)

    def _find_seed(self) -> int:
        try:
            return FileHeader.unpack(self._pread(0, HEADER_SIZE), self._path).seed
        except CheckpointDamaged:
            seed = find_seed(self._pread, self._size)
            if seed is None:
                raise
            return seed

    def parts(self) -> Iterator[bytes]:
        """The new file: a new id, the old frames under their old seqs, watermarks that promise nothing yet."""
        header = FileHeader(os.urandom(16))
        yield header.pack()
        for seq in range(self._last + 1):
            type, payload = self._frame(seq)
            head, crc = frame_bytes(header.seed, seq, 0, type, payload)
            yield from (head, payload, crc)

    def _frame(self, seq: int) -> tuple[int, bytes]:
        if seq == 0 and self._meta_lost:
            return FrameType.META, pack_map({"lost": True})
        ref = self._refs.get(seq)
        if ref is None:
            return FrameType.GAP, b""
        payload = payload_of(self._seed, ref, self._pread(ref.start, ref.end - ref.start))
        if payload is None:
            raise CheckpointDamaged(f"{self._path} changes while it is read", "try again when no run uses it")
        if self._sieve.passes(ref, payload):
            return ref.type, payload
        del self._refs[seq]
        self._meta_lost = self._meta_lost or seq == 0
        return self._frame(seq)

    def report(self, out: str) -> Salvaged:
        hints = self._hints()
        gaps = list(_gaps(sorted(self._refs)))
        lost = tuple(self._lost(first, last, hints) for first, last in gaps)
        tail = self._size - max((ref.end for ref in self._refs.values()), default=HEADER_SIZE)
        return Salvaged(out, len(self._refs), lost, self._meta_lost, tail)

    def _lost(self, first: int, last: int, hints: dict[int, FrameRef]) -> Lost:
        before, after = self._near(range(first - 1, -1, -1)), self._near(range(last + 1, self._last + 1))
        hint = next((hints[seq] for seq in range(first, last + 1) if seq in hints), None)
        return Lost(first, last, before, after, *(self._guess(hint) if hint else (None, ())))

    def _hints(self) -> dict[int, FrameRef]:
        refs = find_damaged_frames(self._pread, self._size, self._seed, 0)
        return {ref.seq: ref for ref in refs if ref.type == FrameType.OUTCOMES and ref.seq not in self._refs}

    def _near(self, seqs: Iterable[int]) -> Place | None:
        for seq in seqs:
            ref = self._refs.get(seq)
            if ref is not None and ref.type == FrameType.OUTCOMES:
                return _place(ref, self._pread(ref.offset, min(PEEK, ref.length)))
        return None

    def _guess(self, ref: FrameRef) -> tuple[Place | None, tuple[Any, ...]]:
        payload = self._pread(ref.offset, min(ref.length, MAX_PAYLOAD))
        place = _place(ref, payload)
        try:
            return place if place.items else None, tuple(read_ids(payload))
        except BatchmillError:
            return place if place.items else None, ()


def _place(ref: FrameRef, shown: bytes) -> Place:
    try:
        head = read_head(shown)
    except CheckpointDamaged:
        return Place(ref.seq, 0, 0, 0)
    return Place(ref.seq, head.first, head.records, head.items)


def _gaps(seqs: list[int]) -> Iterator[tuple[int, int]]:
    expected = 0
    for seq in seqs:
        if seq > expected:
            yield expected, seq - 1
        expected = seq + 1
