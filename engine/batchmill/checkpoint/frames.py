r"""The bytes of a checkpoint: file header, checksummed frames, verdicts on damage. Never touches a file.

This docstring is the format's definition; everything below follows it. All numbers are little-endian.

    file    = header frame*                     frame 0 is META
    header  = magic  "\x89BMILL\r\n"   8        a non-ASCII first byte and CR LF last: text-mode damage shows
              u16 version = 1                   newer: refused
              u16 flags = 0                     required features; an unknown one: refused
              u32 cap                           bytes that may be unsynced before an append waits
              id                      16        random, new for every file
              u32 crc32 of the 32 bytes before
    frame   = magic  "\xf7BMF"         4
              u32 length                        of the payload, <= 72 MiB
              u64 seq                           0, 1, 2, ... without gaps
              u64 synced                        the file is known to be on disk up to this offset
              u8 type, 3 zero bytes             FrameType
              u32 head crc                      crc32 of the 28 bytes before, seeded with crc32(id)
              payload              length       msgpack
              u32 crc                           crc32 of the payload, seeded with the head crc

A file with the id 000102...0f and one META frame holding {"a": 1}:

    0000  89 42 4d 49 4c 4c 0d 0a 01 00 00 00 00 00 80 00
    0010  00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f
    0020  28 90 77 eb f7 42 4d 46 04 00 00 00 00 00 00 00
    0030  00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00
    0040  62 21 9f 1b 81 a1 61 01 03 1f e6 73

Why so: a length that is believed unchecked turns a flipped bit into a "torn tail" that drops half the file, hence the
head crc. The id in the seed and the dense seq show frames that are foreign, stale, missing, repeated or swapped; so
would chained checksums, but then one bad frame hides all that follow, as one inserted byte would with offsets summed.

Verdicts on the first byte P that is not part of a valid frame (first row that fits):

    CORRUPT       in frame 0 (it was synced before the file got its name), or a valid head with the wrong seq
    TORN          no valid frame after P, and the rest is a short frame with a valid head, a head cut short, or zeros
    CRASH_DAMAGE  no frame, before P or after it, says that P was synced, and the rest is <= cap + one frame
    CORRUPT       anything else: what was promised is damaged

Known limit: a file cut by someone else so that no later frame remains looks like an earlier crash.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from enum import Enum, IntEnum
from typing import NamedTuple
from zlib import crc32

from batchmill.errors import CheckpointDamaged, CheckpointMismatch
from batchmill.model import MAX_PAYLOAD
from batchmill.text import option, plural
from batchmill.value_class import value_class

Pread = Callable[[int, int], bytes]  # (offset, size) -> the bytes there, fewer only at the end of the file

VERSION = 1
FILE_MAGIC = b"\x89BMILL\r\n"
FRAME_MAGIC = b"\xf7BMF"
CAP = 8 << 20
PEEK = 256  # bytes of a payload that a scan shows: enough for the head of an OUTCOMES payload

_FILE = struct.Struct("<8sHHI16s")
_HEAD = struct.Struct("<4sIQQB3x")
_CRC = struct.Struct("<I")
HEADER_SIZE = _FILE.size + _CRC.size
HEAD_SIZE = _HEAD.size + _CRC.size
OVERHEAD = HEAD_SIZE + _CRC.size
MAX_FRAME = OVERHEAD + MAX_PAYLOAD
assert (HEADER_SIZE, HEAD_SIZE, OVERHEAD) == (36, 32, 36)

_AHEAD = 1 << 20  # read at once where payloads are read too
_PIECE = 1 << 18  # a payload is checked in pieces: memory stays bounded, and little is read twice
_GLANCE = 4096  # read at once where only heads are wanted


class FrameType(IntEnum):
    """What a payload holds; the msgpack inside is the business of `codec` and of the caller."""

    GAP = 0  # written by salvage only: keeps the seq of a lost frame, so that references by seq stay true
    META = 1
    RUN = 2
    OUTCOMES = 3
    SAMPLE = 4
    STRIKE = 5
    END = 6
    ORDER = 7


_TYPES = frozenset(int(t) for t in FrameType)


class FileHeader(NamedTuple):
    """The first 36 bytes. `id` is 16 random bytes, `cap` the bound on unsynced bytes that the writer keeps."""

    id: bytes
    cap: int = CAP
    version: int = VERSION
    flags: int = 0

    @property
    def seed(self) -> int:
        """What the head crc of every frame of this file starts from."""
        return crc32(self.id)

    def pack(self) -> bytes:
        """The 36 bytes."""
        body = _FILE.pack(FILE_MAGIC, self.version, self.flags, self.cap, self.id)
        return body + _CRC.pack(crc32(body))

    @classmethod
    def unpack(cls, data: bytes, name: str = "the file") -> FileHeader:
        """The header in `data`; raises CheckpointDamaged, or CheckpointMismatch where a newer batchmill wrote it."""
        if data[: len(FILE_MAGIC)] != FILE_MAGIC:
            raise CheckpointDamaged(f"{name} is not a checkpoint", f"name another file with {option('checkpoint')}")
        if len(data) < HEADER_SIZE or crc32(data[: _FILE.size]) != _CRC.unpack_from(data, _FILE.size)[0]:
            raise CheckpointDamaged(f"{name}: the file header is damaged", salvage_hint(name))
        _, version, flags, cap, id = _FILE.unpack_from(data)
        if version != VERSION or flags:
            raise CheckpointMismatch(
                f"{name} was written by a newer batchmill (format {version}, features {flags:#x})",
                f"update batchmill, or name another file with {option('checkpoint')}",
            )
        return cls(id, cap, version, flags)


def salvage_hint(name: str) -> str:
    """The remedy that goes with CheckpointDamaged."""
    return f"`batchmill verify --salvage {name}` writes a new file with every valid frame"


class FrameRef(NamedTuple):
    """Where a frame is: its `seq`, the `offset` of its payload in the file, the payload's `length`, its FrameType."""

    seq: int
    offset: int
    length: int
    type: int

    @property
    def start(self) -> int:
        """Offset of the frame's first byte."""
        return self.offset - HEAD_SIZE

    @property
    def end(self) -> int:
        """Offset after the frame's last byte."""
        return self.offset + self.length + _CRC.size


def frame_bytes(seed: int, seq: int, synced: int, type: int, payload: bytes) -> tuple[bytes, bytes]:
    """What stands before and after `payload` in the file: two parts, so that one writev copies nothing."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a payload of {len(payload)} bytes is larger than {MAX_PAYLOAD}")
    head = _HEAD.pack(FRAME_MAGIC, len(payload), seq, synced, type)
    head_crc = crc32(head, seed)
    return head + _CRC.pack(head_crc), _CRC.pack(crc32(payload, head_crc))


def payload_of(seed: int, ref: FrameRef, frame: bytes) -> bytes | None:
    """The payload in the bytes of a whole frame, or None where they are not (or no longer) the frame `ref`."""
    head = _parse_head(frame, seed)
    if head is None or (head.length, head.seq, head.type) != (ref.length, ref.seq, ref.type):
        return None
    payload = frame[HEAD_SIZE : HEAD_SIZE + head.length]
    right = frame[HEAD_SIZE + head.length :] == _CRC.pack(crc32(payload, head.crc))
    return payload if right else None


class _Head(NamedTuple):
    length: int
    seq: int
    synced: int
    type: int
    crc: int


def _parse_head(data: bytes, seed: int | None) -> _Head | None:
    """A valid head at the start of `data`; with `seed` None its crc is taken as it stands."""
    if len(data) < HEAD_SIZE or not data.startswith(FRAME_MAGIC):
        return None
    _, length, seq, synced, type = _HEAD.unpack_from(data)
    crc = _CRC.unpack_from(data, _HEAD.size)[0]
    if seed is not None and crc32(data[: _HEAD.size], seed) != crc:
        return None
    return _Head(length, seq, synced, type, crc) if length <= MAX_PAYLOAD and type in _TYPES else None


class _Window:
    """Reads ahead, so that small frames do not cost a system call each; never holds more than one read."""

    def __init__(self, pread: Pread, size: int, ahead: int) -> None:
        self.size = size
        self._pread = pread
        self._ahead = ahead
        self._base = 0
        self._data = b""

    def at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`: fewer only at the end."""
        begin = offset - self._base
        if begin < 0 or begin + size > len(self._data):
            self._data = self._pread(offset, max(0, min(max(size, self._ahead), self.size - offset)))
            self._base, begin = offset, 0
        return self._data[begin : begin + size]

    def payload(self, offset: int, length: int, crc: int | None, peek: int) -> tuple[bytes, bool]:
        """The first `peek` bytes of a payload, and whether the crc after it is right (crc None: not looked at)."""
        if crc is None:
            return self.at(offset, min(peek, length)), True
        kept: list[bytes] = []
        room = peek
        for begin in range(offset, offset + length, _PIECE):
            piece = self.at(begin, min(_PIECE, offset + length - begin))
            crc = crc32(piece, crc)
            if room > 0:
                kept.append(piece[:room])
                room -= len(piece)
        return b"".join(kept), self.at(offset + length, _CRC.size) == _CRC.pack(crc)


class Kind(Enum):
    """The four verdicts on a file; the table is at the top of this module."""

    CLEAN = "clean"
    TORN = "torn"
    CRASH_DAMAGE = "crash damage"
    CORRUPT = "corrupt"


@value_class
class Verdict:
    """What a scan found: valid frames up to `offset`, and `bytes` from there to the end of the file.

    `frames` counts the frames before `offset`, `later` the valid ones after it. `synced` is the highest offset that any
    of them says was on disk. `reason` says in a few words what is wrong at `offset` ("" when CLEAN).
    """

    kind: Kind
    offset: int
    bytes: int
    reason: str
    frames: int
    later: int
    synced: int

    def __str__(self) -> str:
        if self.kind is Kind.CLEAN:
            return f"clean: {plural(self.frames, 'frame')}"
        after = f", {self.later} after them" if self.later else ""
        before = f"{plural(self.frames, 'frame')} before it"
        return f"{self.kind.value} at byte {self.offset}: {self.reason} ({before}{after})"


class _Flaw(Enum):
    """What is wrong at the first bad byte."""

    SHORT = "the last frame is cut short"
    NO_HEAD = "a frame's head is cut short"
    BAD_HEAD = "not a frame of this file"
    BAD_SEQ = "a frame is missing, repeated or out of place"
    BAD_PAYLOAD = "a frame's payload is damaged"


class FileScan:
    """One pass over the frames of a file; `verdict` is there once the iteration has ended.

    Yields (FrameRef, first bytes of the payload). `verify` False leaves payloads unread but for those bytes (a damaged
    one then goes unseen). `peek` is how many bytes are shown; MAX_PAYLOAD for whole payloads. Memory is bounded by
    1 MiB plus `peek`, whatever the file holds.
    """

    def __init__(self, pread: Pread, size: int, header: FileHeader, *, verify: bool = True, peek: int = PEEK) -> None:
        self.verdict: Verdict | None = None
        self._pread = pread
        self._size = size
        self._header = header
        self._verify = verify
        self._peek = peek

    def __iter__(self) -> Iterator[tuple[FrameRef, bytes]]:
        window = _Window(self._pread, self._size, _AHEAD if self._verify else _GLANCE)
        seed, size = self._header.seed, self._size
        offset, seq, synced = HEADER_SIZE, 0, 0
        flaw: _Flaw | None = None
        while offset < size:
            head = _parse_head(window.at(offset, HEAD_SIZE), seed)
            if head is None:
                flaw = _Flaw.NO_HEAD if size - offset < HEAD_SIZE else _Flaw.BAD_HEAD
            elif head.seq != seq:
                flaw = _Flaw.BAD_SEQ
            elif offset + OVERHEAD + head.length > size:
                flaw = _Flaw.SHORT
            if flaw or head is None:
                break
            ref = FrameRef(seq, offset + HEAD_SIZE, head.length, head.type)
            shown, right = window.payload(ref.offset, head.length, head.crc if self._verify else None, self._peek)
            if not right:
                flaw = _Flaw.BAD_PAYLOAD
                break
            yield ref, shown
            offset, seq, synced = ref.end, seq + 1, max(synced, head.synced)
        self.verdict = self._judge(offset, seq, synced, flaw)

    def run(self) -> Verdict:
        """The verdict alone."""
        for _ in self:
            pass
        assert self.verdict is not None
        return self.verdict

    def _judge(self, offset: int, frames: int, synced: int, flaw: _Flaw | None) -> Verdict:
        rest = self._size - offset
        if flaw is None:
            kind = Kind.CLEAN if frames else Kind.CORRUPT
            return Verdict(kind, offset, rest, "" if frames else "there is no frame", frames, 0, synced)
        later = 0
        for _, claim in find_frames(self._pread, self._size, self._header.seed, offset + 1):
            later, synced = later + 1, max(synced, claim)
        # offset + 1: the flawed frame itself may be whole (out of place); it is said by the reason, not counted.
        if frames == 0 or flaw is _Flaw.BAD_SEQ or offset < synced or rest > self._header.cap + MAX_FRAME:
            kind = Kind.CORRUPT
        elif not later and self._is_torn(offset, rest, flaw):
            kind = Kind.TORN
        else:
            kind = Kind.CRASH_DAMAGE
        return Verdict(kind, offset, rest, flaw.value, frames, later, synced)

    def _is_torn(self, offset: int, rest: int, flaw: _Flaw) -> bool:
        if flaw is _Flaw.SHORT:
            return True
        if flaw is _Flaw.NO_HEAD and FRAME_MAGIC.startswith(self._pread(offset, min(rest, len(FRAME_MAGIC)))):
            return True
        pieces = (self._pread(at, min(_AHEAD, self._size - at)) for at in range(offset, self._size, _AHEAD))
        return not any(piece.strip(b"\0") for piece in pieces)


def find_frames(pread: Pread, size: int, seed: int | None, start: int) -> Iterator[tuple[FrameRef, int]]:
    """Every valid frame from `start` on, wherever damage left it, with the offset it says was synced.

    Both checksums are checked; with `seed` None (the file header is lost) only the payload's, which the head crc seeds.
    """
    for ref, head, right in _find_heads(pread, size, seed, start):
        if right:
            yield ref, head.synced


def find_damaged_frames(pread: Pread, size: int, seed: int, start: int) -> Iterator[FrameRef]:
    """Frames whose head is valid and whose payload is not: what their bytes say may be shown, never believed."""
    for ref, _, right in _find_heads(pread, size, seed, start):
        if not right:
            yield ref


def _find_heads(pread: Pread, size: int, seed: int | None, start: int) -> Iterator[tuple[FrameRef, _Head, bool]]:
    window = _Window(pread, size, _AHEAD)
    offset = _next_magic(window, start)
    while offset is not None:
        head = _parse_head(window.at(offset, HEAD_SIZE), seed)
        ahead = offset + 1
        if head is not None:
            ref = FrameRef(head.seq, offset + HEAD_SIZE, head.length, head.type)
            right = ref.end <= size and window.payload(ref.offset, ref.length, head.crc, 0)[1]
            yield ref, head, right
            ahead = ref.end if right else ahead
        offset = _next_magic(window, ahead)


def _next_magic(window: _Window, start: int) -> int | None:
    for begin in range(start, window.size, _PIECE):
        found = window.at(begin, _PIECE + len(FRAME_MAGIC) - 1).find(FRAME_MAGIC)
        if found >= 0:
            return begin + found
    return None


def seed_of(head: bytes) -> int:
    """The seed that the head crc of this whole, undamaged head started from (for a file whose header is lost).

    crc32 is linear: crc(head, seed) = crc(head, 0) xor L(seed), and L, the same for all heads as all are 28 bytes, can
    be inverted: Gaussian elimination over the images of the 32 single bits.
    """
    image = crc32(head[: _HEAD.size]) ^ _CRC.unpack_from(head, _HEAD.size)[0]
    zeros = bytes(_HEAD.size)
    rows = [(crc32(zeros, 1 << bit) ^ crc32(zeros), 1 << bit) for bit in range(32)]
    seed = 0
    for bit in range(32):
        pivot = next(row for row in rows if row[0] >> bit & 1)
        rest = [row for row in rows if row is not pivot]
        rows = [(row[0] ^ pivot[0], row[1] ^ pivot[1]) if row[0] >> bit & 1 else row for row in rest]
        if image >> bit & 1:
            image, seed = image ^ pivot[0], seed ^ pivot[1]
    return seed
