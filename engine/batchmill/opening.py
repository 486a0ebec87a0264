"""Owns getting hold of a checkpoint: lock, recovery after a crash, moving aside. Never appends or mends corruption."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from batchmill.codec import pack_map
from batchmill.disk import (
    Disk,
    chunks_of,
    is_locked,
    is_same_file,
    open_regular,
    read_at,
    save_beside,
    sibling,
    try_lock,
)
from batchmill.errors import CheckpointBusy, CheckpointRefused, CheckpointUnwritable
from batchmill.framing import (
    HEADER_SIZE,
    MAX_FRAME,
    FileHeader,
    FrameRef,
    FrameType,
    Kind,
    Scan,
    Verdict,
    frame_bytes,
)
from batchmill.model import plural
from batchmill.reader import damaged, exists_with_outcomes, holder_of

OnFrame = Callable[[FrameRef, bytes], None]


def move_aside(path: str, keep: int = 1, *, disk: Disk | None = None) -> str:
    """Rename `NAME.ckpt` to `NAME.1.ckpt`, `.1` to `.2` and so on; the oldest beyond `keep` goes. Returns the name.

    Each step is one rename, so that a crash loses nothing but, at most, the number of an old one. Raises
    FileNotFoundError, CheckpointBusy (a run holds one of them) and CheckpointRefused.
    """
    path, disk = os.path.abspath(path), disk or Disk()
    fd = open_locked(path, disk)
    try:
        names = [sibling(path, str(number), os.path.splitext(path)[1]) for number in range(1, keep + 1)]
        used = next((i for i, name in enumerate(names) if not os.path.lexists(name)), keep)
        for name in names[:used]:
            refuse_live(name)
        for number in range(min(used, keep - 1), 0, -1):
            disk.rename(names[number - 1], names[number])
        disk.rename(path, names[0])
        disk.sync_directory(path)
    except OSError as error:
        raise CheckpointRefused(f"cannot move {path} aside: {error.strerror}", "name another file with -c") from error
    finally:
        os.close(fd)
    return names[0]


def refuse_live(path: str) -> None:
    """Raise CheckpointBusy where a run holds the checkpoint at `path`, if there is one."""
    try:
        fd = open_regular(path)
    except FileNotFoundError:
        return
    try:
        if is_locked(fd):
            raise _busy(fd, path)
    finally:
        os.close(fd)


def open_locked(path: str, disk: Disk) -> int:
    """A descriptor of the existing file with its lock; raises FileNotFoundError, CheckpointRefused, CheckpointBusy."""
    for _ in range(10):
        fd = open_regular(path, write=True)
        try:
            busy_unless_locked(disk, fd, path)
            if is_same_file(os.fstat(fd), path):  # else it was moved aside between open and lock
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise CheckpointBusy(f"{path} is being replaced again and again", "see what else uses it")


def busy_unless_locked(disk: Disk, fd: int, path: str) -> None:
    """Take the lock, or raise CheckpointBusy, CheckpointRefused."""
    if not try_lock(disk, fd, path):
        raise _busy(fd, path)


def _busy(fd: int, path: str) -> CheckpointBusy:
    who = "another run"
    try:
        holder = holder_of(fd, FileHeader.unpack(read_at(fd, 0, HEADER_SIZE)))
        if holder.pid:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.started))
            who = f"another run (process {holder.pid} on {holder.host}, since {since})"
    except Exception:  # whatever is wrong with the file, that it is busy is the news
        pass
    return CheckpointBusy(f"{path} is in use by {who}", "--wait waits for it, -c FILE names another")


def lock_empty(path: str, disk: Disk) -> int | None:
    """The locked descriptor of a file at `path` that is in nobody's way, or None where there is no file."""
    try:
        fd = open_locked(path, disk)
    except FileNotFoundError:
        return None
    try:
        if exists_with_outcomes(path):
            raise CheckpointRefused(f"{path} exists", "continue it with --resume, or begin anew with --fresh")
    except BaseException:
        os.close(fd)
        raise
    return fd


def taken(path: str, disk: Disk) -> CheckpointRefused:
    """The error for a name that appeared while the file for it was made."""
    os.close(open_locked(path, disk))  # raises CheckpointBusy where its creator is at work
    return CheckpointRefused(f"{path} was created by another run just now", "continue it with --resume")


def first_bytes(header: FileHeader, meta: Mapping[str, Any]) -> list[bytes]:
    """What a new checkpoint consists of: file header and META frame."""
    payload = pack_map(dict(meta))
    head, crc = frame_bytes(header.seed, 0, 0, FrameType.META, payload)
    return [header.pack(), head, payload, crc]


def recover(fd: int, header: FileHeader, path: str, on_frame: OnFrame | None, disk: Disk) -> tuple[Verdict, str | None]:
    """Scan the locked file once, telling `on_frame` of each frame, and cut what a crash left after the last of them.

    The verdict is that before the repair; the text says what was repaired. Raises CheckpointDamaged (nothing was
    changed) and CheckpointUnwritable.
    """
    verdict = _scan(fd, header, path, on_frame, disk)
    return verdict, _repair(fd, path, verdict, disk)


def _scan(fd: int, header: FileHeader, path: str, on_frame: OnFrame | None, disk: Disk) -> Verdict:
    """The verdict on what the disk has, not the cache: synced first, then the part no watermark covers is reread."""
    size = os.fstat(fd).st_size
    try:
        disk.sync(fd)
        disk.forget(fd, max(0, size - header.cap - MAX_FRAME))
    except OSError as error:
        raise CheckpointUnwritable(f"cannot sync {path}: {error.strerror}", "check the disk") from error
    scan = Scan(lambda at, n: read_at(fd, at, n), size, header)
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
