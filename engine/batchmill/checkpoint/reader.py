"""Reading a checkpoint, live or dead, whole or damaged.

It never writes, and never keeps a lock.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

from batchmill.checkpoint.frames import (
    HEADER_SIZE,
    FileHeader,
    FileScan,
    FrameRef,
    FrameType,
    Kind,
    Verdict,
    payload_of,
    salvage_hint,
)
from batchmill.checkpoint.payloads import read_map
from batchmill.errors import CheckpointBusy, CheckpointDamaged, InputMissing
from batchmill.files.storage import is_locked, open_regular, read_at, share_lock
from batchmill.model import MAX_PAYLOAD
from batchmill.text import option, plural


class Holder(NamedTuple):
    """Who holds a checkpoint, as its last RUN frame says: process id, host name, start in seconds since the epoch."""

    pid: int
    host: str
    started: float


NOBODY = Holder(0, "", 0.0)  # whom a file that has only just got its holder names


class Reader:
    """A checkpoint for reading, by one descriptor, without a lock; a live writer's unfinished last frame is left out.

    Raises FileNotFoundError, CheckpointRefused (not a regular file, no permission), CheckpointDamaged (no readable file
    header or META) and CheckpointMismatch (written by a newer batchmill). `verdict` is that of the last whole pass.
    `fd` is an open descriptor of it, which is the Reader's from then on.
    """

    def __init__(self, path: str, fd: int | None = None) -> None:
        self.path = path
        self.verdict: Verdict | None = None
        self._fd = open_regular(path) if fd is None else fd
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

    def scan(self, *, verify: bool, peek: int | None = None) -> FileScan:
        """A `frames.FileScan` over the file as it is now."""
        more = {} if peek is None else {"peek": peek}
        return FileScan(self.read_at, self.size, self.header, verify=verify, **more)

    def read_at(self, offset: int, size: int) -> bytes:
        """Raw bytes of the file."""
        return read_at(self._fd, offset, size)

    def payload(self, ref: FrameRef) -> bytes:
        """The payload of a frame; raises CheckpointDamaged where it is not what was written."""
        return read_payload(self._fd, self.header, ref, self.path)

    def map(self, ref: FrameRef) -> dict[str, Any]:
        """The map in a frame, as `payloads.read_map` reads it."""
        return read_map(ref.type, self.payload(ref))

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


def exists_with_outcomes(path: str) -> bool:
    """Whether a file at `path` is in the way of a new checkpoint: it holds outcomes, or damage that may hide some.

    Raises as `Reader` does, but FileNotFoundError and an empty file mean False.
    """
    try:
        fd = open_regular(path)
    except FileNotFoundError:
        return False
    if os.fstat(fd).st_size == 0:
        os.close(fd)
        return False
    with Reader(path, fd) as reader:
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
    scan = FileScan(lambda at, n: read_at(fd, at, n), os.fstat(fd).st_size, header, verify=False)
    for ref, _ in scan:
        if ref.type == FrameType.META:
            with naming(path):
                return read_map(ref.type, read_payload(fd, header, ref, path))
        break
    raise CheckpointDamaged(f"{path}: its first frame, META, is damaged", salvage_hint(path))


def holder_of(fd: int, header: FileHeader) -> Holder:
    """The process that has a locked file open, by the last RUN frame in it. Pid 0 where that frame is missing, or its
    run is over (it has an END frame, or its process is gone): then the holder has only just begun."""
    scan = FileScan(lambda at, n: read_at(fd, at, n), os.fstat(fd).st_size, header, verify=False)
    runs: list[FrameRef] = []
    for ref, _ in scan:
        if ref.type == FrameType.RUN:
            runs.append(ref)
        elif ref.type == FrameType.END:
            runs.clear()
    try:
        for ref in reversed(runs):
            run = read_map(ref.type, read_payload(fd, header, ref, ""))
            if "pid" in run:  # a later RUN frame of the same run may only add to it
                holder = Holder(run["pid"], run.get("host", ""), run.get("started", 0.0))
                return holder if _may_live(holder) else NOBODY
    except CheckpointDamaged:
        pass
    return NOBODY


def _may_live(holder: Holder) -> bool:
    """Whether the process of a holder may still be there; of another machine that is not known."""
    if holder.host != socket.gethostname() or holder.pid <= 0:
        return True
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


def refuse_live(path: str) -> None:
    """Raise CheckpointBusy where a run holds the checkpoint at `path`, if there is one."""
    try:
        fd = open_regular(path)
    except FileNotFoundError:
        return
    try:
        if not share_lock(fd):
            raise busy(fd, path)
    finally:
        os.close(fd)


def busy(fd: int, path: str) -> CheckpointBusy:
    """The error for an open file that another run has locked, with what can be known of that run."""
    who = "another run"
    try:
        holder = holder_of(fd, FileHeader.unpack(read_at(fd, 0, HEADER_SIZE)))
        if holder.pid:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.started))
            who = f"another run (process {holder.pid} on {holder.host}, since {since})"
    except Exception:  # whatever is wrong with the file, that it is busy is the news
        pass
    return CheckpointBusy(
        f"{path} is in use by {who}",
        f"{option('wait', True)} waits for it, {option('checkpoint', 'FILE')} names another",
    )


@contextmanager
def naming(*paths: str) -> Iterator[None]:
    """What is raised of a checkpoint's contents in the block has the file's name, or those of which it may be one."""
    try:
        yield
    except CheckpointDamaged as error:
        if error.message.startswith(paths):
            raise
        remedy = error.remedy or salvage_hint(" ".join(paths))
        raise CheckpointDamaged(f"{' or '.join(paths)}: {error.message}", remedy) from error


def damaged(path: str, verdict: Verdict) -> CheckpointDamaged:
    """The error for a verdict of CORRUPT: where, why, and what is still readable."""
    return CheckpointDamaged(
        f"{path} is damaged at byte {verdict.offset}: {verdict.reason}; readable: {plural(verdict.frames, 'frame')}"
        f" before it, {verdict.later} after it",
        salvage_hint(path),
    )
