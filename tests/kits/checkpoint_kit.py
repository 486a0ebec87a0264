"""What the checkpoint's tests share: disks that record, fail or cheat; files built in memory. Tests nothing."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from batchmill.checkpoint.frames import FileHeader, FileScan, FrameRef, FrameType, Kind, Pread, Verdict, frame_bytes
from batchmill.checkpoint.index import Extent
from batchmill.checkpoint.reader import Reader, damaged
from batchmill.codec.outcomes import Head, pack_map, pack_outcomes, read_head
from batchmill.codec.pack import pack_value
from batchmill.files.storage import Disk

HEADER = FileHeader(bytes(range(16)))
SECTOR = 512


def pread_of(data: bytes) -> Pread:
    return lambda offset, size: data[offset : offset + size]


def scan_bytes(data: bytes, header: FileHeader = HEADER) -> tuple[list[tuple[int, int, bytes]], Verdict]:
    """(seq, type, payload) of every frame, and the verdict."""
    scan = FileScan(pread_of(data), len(data), header, peek=1 << 26)
    found = [(ref.seq, ref.type, payload) for ref, payload in scan]
    assert scan.verdict is not None
    return found, scan.verdict


def read_frames(path: str, *, payloads: bool = True) -> Iterator[tuple[FrameRef, bytes]]:
    """`Reader.frames` of the file at `path`; raises CheckpointDamaged, after the frames before it, at corruption."""
    with Reader(path) as reader:
        yield from reader.frames(payloads=payloads)
        if reader.verdict is not None and reader.verdict.kind is Kind.CORRUPT:
            raise damaged(path, reader.verdict)


class Built(NamedTuple):
    """A whole checkpoint in memory: its bytes, its frames, and the highest offset that any frame says was synced."""

    data: bytes
    frames: list[tuple[int, int, bytes]]
    refs: list[FrameRef]
    watermark: int


def build(payloads: Sequence[bytes], *, sync_every: int = 0, header: FileHeader = HEADER) -> Built:
    """Frame 0 is META; every `sync_every` frames, all before the frame counts as synced."""
    data, synced = header.pack(), 0
    frames, refs = [], []
    for seq, payload in enumerate([pack_map({"function": "f"}), *payloads]):
        if sync_every and seq % sync_every == 0:
            synced = len(data)
        type = FrameType.META if seq == 0 else FrameType.OUTCOMES
        head, crc = frame_bytes(header.seed, seq, synced, type, payload)
        frames.append((seq, int(type), payload))
        refs.append(FrameRef(seq, len(data) + len(head), len(payload), int(type)))
        data += head + payload + crc
    return Built(data, frames, refs, synced)


def small_file(count: int = 40, size: int = 8, sync_every: int = 5, seed: int = 1) -> Built:
    rng = random.Random(seed)
    # Every third payload holds zeros and pieces of a frame's magic, which guessing by content would trip over.
    tricky = [bytes(size), (b"\xf7BMF" * size)[:size]]
    payloads = [tricky[i // 3 % 2] if i % 3 == 0 else rng.randbytes(size) for i in range(count - 1)]
    return build(payloads, sync_every=sync_every)


def outcomes_payload(first: int, ids: Sequence[object]) -> bytes:
    """An OUTCOMES payload of ok items."""
    count = len(ids)
    head = Head(first=first, records=count, items=count, ok=count)
    return pack_outcomes(head, list(ids), [pack_value(1)] * count, [], [0.0] * count, [0] * count)


class Shelf:
    """Frames of as many items as are asked for, to be read with `read`; `gone` are outcomes that were replaced."""

    def __init__(self, read: Callable[[int], bytes], gone: dict[int, set[int]] | None = None) -> None:
        self.payload = read
        self._gone = gone or {}

    def extent(self, seq: int) -> Extent:
        payload = self.payload(seq)
        return Extent(read_head(payload).items if payload else 0, len(payload))

    def gone(self, seq: int) -> Collection[int]:
        return self._gone.get(seq, ())

    def moved(self, seq: int) -> Collection[int]:
        return ()


class QuickDisk(Disk):
    """Leaves out the waiting for the hardware: for tests whose kernel does not crash."""

    def sync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: str) -> None:
        pass

    def forget(self, fd: int, offset: int) -> None:
        pass


class Done(NamedTuple):
    """One call that a RecordingDisk has seen."""

    fd: int
    verb: str
    at: int = 0
    data: bytes = b""


class RecordingDisk(QuickDisk):
    """Keeps what was done to each descriptor, in order, for power-loss images."""

    def __init__(self) -> None:
        self.log: list[Done] = []

    def write(self, fd: int, parts: Sequence[bytes | memoryview], offset: int) -> int:
        self.log.append(Done(fd, "write", offset, b"".join(parts)))
        return super().write(fd, parts, offset)

    def sync(self, fd: int) -> None:
        self.log.append(Done(fd, "sync"))

    def truncate(self, fd: int, size: int) -> None:
        self.log.append(Done(fd, "truncate", size))
        super().truncate(fd, size)


class ForgetfulDisk(RecordingDisk):
    """Broken on purpose: a sync that syncs nothing."""

    def sync(self, fd: int) -> None:
        pass


class UnlockedDisk(QuickDisk):
    """Broken on purpose: a lock that locks nothing."""

    def lock(self, fd: int) -> None:
        pass


class PhysicalEndDisk(QuickDisk):
    """Broken on purpose: writes where the file happens to end, and never cuts it."""

    def write(self, fd: int, parts: Sequence[bytes | memoryview], offset: int) -> int:
        return super().write(fd, parts, os.fstat(fd).st_size)

    def truncate(self, fd: int, size: int) -> None:
        pass


class FailingDisk(QuickDisk):
    """Raises `error` (an errno) at the calls of `verb` that `when` (1 for the first) picks, and counts all of them."""

    def __init__(self, verb: str, error: int, when: Callable[[int], bool], taken: int = 0) -> None:
        self.verb, self.error, self.when, self.taken = verb, error, when, taken
        self.armed = False
        self.calls: list[str] = []
        self.failed_at = 0

    def _meet(self, verb: str) -> bool:
        if not self.armed:
            return False
        self.calls.append(verb)
        return verb == self.verb and self.when(self.calls.count(verb))

    def _fail(self) -> None:
        self.failed_at = len(self.calls)
        raise OSError(self.error, os.strerror(self.error))

    def write(self, fd: int, parts: Sequence[bytes | memoryview], offset: int) -> int:
        if self._meet("write"):
            if self.taken:  # a short write first, the error at the next call
                taken, self.taken = self.taken, 0
                self.when = lambda _: True
                return super().write(fd, [b"".join(parts)[:taken]], offset)
            self._fail()
        return super().write(fd, parts, offset)

    def sync(self, fd: int) -> None:
        if self._meet("sync"):
            self._fail()

    def truncate(self, fd: int, size: int) -> None:
        if self._meet("truncate"):
            self._fail()
        super().truncate(fd, size)

    def close(self, fd: int) -> None:
        super().close(fd)
        if self._meet("close"):
            self._fail()


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def power_loss(log: Sequence[Done], start: bytes, rng: random.Random) -> bytes:
    """What the disk may hold when the power goes at the end of `log`: any subset of the unsynced sectors is lost.

    A lost sector is as it was at the last sync (zeros where the file was shorter); the file is as long as it was at the
    last sync, or at any write since.
    """
    durable, now, sizes = start, bytearray(start), [len(start)]
    for _, verb, at, data in log:
        if verb == "sync":
            durable, sizes = bytes(now), [len(now)]
        elif verb == "truncate":
            now = bytearray(now[:at].ljust(at, b"\0"))
            sizes.append(at)
        else:
            now[len(now) : at] = bytes(max(0, at - len(now)))
            now[at : at + len(data)] = data
            sizes.append(len(now))
    size, survival = rng.choice(sizes), rng.random()
    image = bytearray(bytes(now[:size]).ljust(size, b"\0"))
    before = durable.ljust(size, b"\0")
    for sector in range(0, size, SECTOR):
        if image[sector : sector + SECTOR] != before[sector : min(sector + SECTOR, size)] and rng.random() > survival:
            image[sector : min(sector + SECTOR, size)] = before[sector : min(sector + SECTOR, size)]
    return bytes(image)


def in_child(code: str, *args: str, timeout: float = 110) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter of its own, with `args` as sys.argv[1:]."""
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=timeout)
