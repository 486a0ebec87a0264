"""Owns reading a checkpoint, live or dead, whole or damaged. Never writes, and never keeps a lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple

from batchmill.codec import unpack_map
from batchmill.disk import is_locked, open_regular, read_at
from batchmill.errors import BatchmillError, CheckpointDamaged, InputMissing
from batchmill.framing import (
    HEADER_SIZE,
    MAX_PAYLOAD,
    FileHeader,
    FrameRef,
    FrameType,
    Kind,
    Scan,
    Verdict,
    payload_of,
    salvage_hint,
)
from batchmill.model import plural


class Holder(NamedTuple):
    """Who holds a checkpoint, as its last RUN frame says: process id, host name, start in seconds since the epoch."""

    pid: int
    host: str
    started: float


class Reader:
    """A checkpoint for reading, by one descriptor, without a lock; a live writer's unfinished last frame is left out.

    Raises FileNotFoundError, CheckpointRefused (not a regular file, no permission), CheckpointDamaged (no readable file
    header or META) and CheckpointMismatch (written by a newer batchmill). `verdict` is that of the last whole pass.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.verdict: Verdict | None = None
        self._fd = open_regular(path)
        try:
            self.header = FileHeader.unpack(read_at(self._fd, 0, HEADER_SIZE), path)
            self.meta = read_meta(self._fd, self.header, path)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._fd).st_size

    def frames(self, *, payloads: bool = False) -> Iterator[tuple[FrameRef, bytes]]:
        """Every frame that is there now, in file order, with the first 256 bytes of its payload, or all of it.

        Ends at the first byte that is no valid frame; `verdict` then says what it is. With `payloads` False, payloads
        are not read, and damage inside them is found by `payload` only.
        """
        scan = self.scan(verify=payloads, peek=MAX_PAYLOAD if payloads else None)
        yield from scan
        self.verdict = scan.verdict

    def scan(self, *, verify: bool, peek: int | None = None) -> Scan:
        """A `framing.Scan` over the file as it is now."""
        more = {} if peek is None else {"peek": peek}
        return Scan(self.read_at, self.size, self.header, verify=verify, **more)

    def read_at(self, offset: int, size: int) -> bytes:
        """Raw bytes of the file."""
        return read_at(self._fd, offset, size)

    def payload(self, ref: FrameRef) -> bytes:
        """The payload of a frame; raises CheckpointDamaged where it is not what was written."""
        return read_payload(self._fd, self.header, ref, self.path)

    def live(self) -> Holder | None:
        """Who is writing the checkpoint now, or None. The holder of a run that has only just begun is pid 0."""
        return holder_of(self._fd, self.header) if is_locked(self._fd) else None

    def close(self) -> None:
        """Close the file; once."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_reader(path: str) -> Reader:
    """A Reader for a person's path; raises InputMissing where there is no such file, else as Reader."""
    try:
        return Reader(path)
    except FileNotFoundError:
        raise InputMissing(f"{path}: no such checkpoint", "check its path") from None


def read_frames(path: str, *, payloads: bool = True) -> Iterator[tuple[FrameRef, bytes]]:
    """`Reader.frames` of the file at `path`; raises CheckpointDamaged, after the frames before it, at corruption."""
    with Reader(path) as reader:
        yield from reader.frames(payloads=payloads)
        if reader.verdict is not None and reader.verdict.kind is Kind.CORRUPT:
            raise damaged(path, reader.verdict)


def exists_with_outcomes(path: str) -> bool:
    """Whether a file at `path` is in the way of a new checkpoint: it holds outcomes, or damage that may hide some.

    Raises as `Reader` does, but FileNotFoundError and an empty file mean False.
    """
    try:
        reader = Reader(path)
    except FileNotFoundError:
        return False
    except CheckpointDamaged:
        if os.stat(path, follow_symlinks=False).st_size == 0:
            return False
        raise
    with reader:
        if any(ref.type == FrameType.OUTCOMES for ref, _ in reader.frames()):
            return True
        return reader.verdict is None or reader.verdict.kind not in (Kind.CLEAN, Kind.TORN)


def read_payload(fd: int, header: FileHeader, ref: FrameRef, path: str) -> bytes:
    """The payload of a frame in an open file; raises CheckpointDamaged where its checksums do not agree."""
    payload = payload_of(header.seed, ref, read_at(fd, ref.start, ref.end - ref.start))
    if payload is None:
        raise CheckpointDamaged(f"{path}: frame {ref.seq} at byte {ref.start} is damaged", salvage_hint(path))
    return payload


def read_meta(fd: int, header: FileHeader, path: str) -> dict[str, Any]:
    """The map in frame 0; raises CheckpointDamaged."""
    scan = Scan(lambda at, n: read_at(fd, at, n), os.fstat(fd).st_size, header, verify=False)
    for ref, _ in scan:
        if ref.type == FrameType.META:
            return map_of(read_payload(fd, header, ref, path), path)
        break
    raise CheckpointDamaged(f"{path}: its first frame, META, is damaged", salvage_hint(path))


def holder_of(fd: int, header: FileHeader) -> Holder:
    """What the last RUN frame of an open file says of the run that wrote it; pid 0 where there is none."""
    scan = Scan(lambda at, n: read_at(fd, at, n), os.fstat(fd).st_size, header, verify=False)
    runs = [ref for ref, _ in scan if ref.type == FrameType.RUN]
    try:
        for ref in reversed(runs):
            run = map_of(read_payload(fd, header, ref, ""), "")
            if "pid" in run:  # a later RUN frame of the same run may only add to it
                return Holder(int(run["pid"]), str(run["host"]), float(run["started"]))
    except (BatchmillError, KeyError, TypeError, ValueError, OverflowError):
        pass
    return Holder(0, "", 0.0)


def map_of(payload: bytes, path: str) -> dict[str, Any]:
    """The map in a META or RUN payload; raises CheckpointDamaged, naming the file."""
    try:
        return unpack_map(payload)
    except CheckpointDamaged as error:
        raise CheckpointDamaged(f"{path}: {error.message}", salvage_hint(path)) from error


def damaged(path: str, verdict: Verdict) -> CheckpointDamaged:
    """The error for a verdict of CORRUPT: where, why, and what is still readable."""
    return CheckpointDamaged(
        f"{path} is damaged at byte {verdict.offset}: {verdict.reason}; readable: {plural(verdict.frames, 'frame')}"
        f" before it, {verdict.later} after it",
        salvage_hint(path),
    )
