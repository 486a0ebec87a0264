"""The scan of a checkpoint that a run holds, and recovery after a crash.

It never appends or mends corruption.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from batchmill.checkpoint.frames import (
    HEADER_SIZE,
    MAX_FRAME,
    FileHeader,
    FileScan,
    FrameRef,
    FrameType,
    Kind,
    Verdict,
    frame_bytes,
)
from batchmill.checkpoint.name_lock import Name
from batchmill.checkpoint.reader import damaged, read_meta
from batchmill.codec.outcomes import pack_map
from batchmill.errors import CheckpointRefused, CheckpointUnwritable
from batchmill.files.atomic_file import save_beside
from batchmill.files.storage import Disk, chunks_of, read_at
from batchmill.text import plural

OnFrame = Callable[[FrameRef, bytes], None]


def first_bytes(header: FileHeader, meta: Mapping[str, Any]) -> list[bytes]:
    """What a new checkpoint consists of: file header and META frame."""
    payload = pack_map(dict(meta))
    head, crc = frame_bytes(header.seed, 0, 0, FrameType.META, payload)
    return [header.pack(), head, payload, crc]


class Found(NamedTuple):
    """What opening found: the file's header, its META map, the verdict before repair, what was repaired (or None)."""

    header: FileHeader
    meta: dict[str, Any]
    verdict: Verdict
    repaired: str | None


def examine(name: Name, on_frame: OnFrame | None = None) -> Found:
    """Scan the file whose name is held, once, telling `on_frame` of each frame with the first 256 bytes of its payload,
    and cut what a crash left after the last of them.

    Forget what `on_frame` got when this raises. Raises FileNotFoundError, CheckpointMismatch (newer), CheckpointDamaged
    (all of them leave the file as it was) and CheckpointUnwritable (the repair failed).
    """
    if name.fd is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name.path)
    header = FileHeader.unpack(read_at(name.fd, 0, HEADER_SIZE), name.path)
    meta = read_meta(name.fd, header, name.path)
    verdict = _scan(name.fd, header, name.path, on_frame, name.disk)
    return Found(header, meta, verdict, _repair(name.fd, name.path, verdict, name.disk))


def _scan(fd: int, header: FileHeader, path: str, on_frame: OnFrame | None, disk: Disk) -> Verdict:
    """The verdict on what the disk has, not the cache: synced first, then the part no watermark covers is reread."""
    size = os.fstat(fd).st_size
    try:
        disk.sync(fd)
        disk.forget(fd, max(0, size - header.cap - MAX_FRAME))
    except OSError as error:
        raise CheckpointUnwritable(f"cannot sync {path}: {error.strerror}", "check the disk") from error
    scan = FileScan(lambda at, n: read_at(fd, at, n), size, header)
    for ref, shown in scan:
        if on_frame:
            on_frame(ref, shown)
    assert scan.verdict is not None
    if scan.verdict.kind is Kind.CORRUPT:
        raise damaged(path, scan.verdict)
    return scan.verdict


def _repair(fd: int, path: str, verdict: Verdict, disk: Disk) -> str | None:
    """Cut what a crash left after the last valid frame; says so in one sentence."""
    if verdict.kind is Kind.CLEAN:
        return None
    said = (
        f"{path}: an unfinished write of {plural(verdict.bytes, 'byte')} was cut from its end (an earlier run was"
        " interrupted)"
    )
    try:
        if verdict.kind is Kind.CRASH_DAMAGE:
            end = verdict.offset + verdict.bytes
            kept = save_beside(path, "damaged", lambda: chunks_of(fd, verdict.offset, end), disk)
            said = (
                f"{path}: its end ({plural(verdict.bytes, 'byte')}) was damaged by a crash before it was safe on disk;"
                f" it was moved to {kept}, and its items run again"
            )
        disk.truncate(fd, verdict.offset)
        disk.sync(fd)
    except (OSError, CheckpointRefused) as error:
        raise CheckpointUnwritable(f"cannot repair {path}: {error}", "make room, then try again") from error
    return said
