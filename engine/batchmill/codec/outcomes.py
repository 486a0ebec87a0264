"""The payloads of frames: a chunk's reply as OUTCOMES, and the maps of all other frames.

An OUTCOMES payload is a msgpack array of ten or eleven, laid out so that the parent can append it without opening it:

    0  head        bin of fixed size at offset 3: the numbers that counting and resuming need (`Head`)
    1  ids         array, one per item; its size in bytes is in the head
    2  results     array, one per item; where it failed nil, or what a failed command left; its size in bytes is in the
                   head
    3  failures    array of [item, type, message, traceback, raw item or nil]
    4  seconds     bin, float32 per item
    5  contents    bin, u32 per item: crc32 of the item's content
    6  offsets     nil (item i is at first + i), or bin, u32 per item: its position less `first`
    7  attempts    nil (all 1), or array of [item, attempts] for those above 1
    8  supersedes  nil, or array of [item, seq, item of that frame, attempts]: the outcome there is replaced by the one
                   here; attempts are those of the old one if it had failed, 0 if it was ok
    9  items       nil, or array of bin: the raw items
    10 lines       bin, u32 per item: its line less `line`; only where records can be of several lines

Numbers in bins are little-endian. Ids can be read without results, results without the columns after them.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from batchmill.codec.pack import MAX_PACKED, array_header, pack_value
from batchmill.codec.unpack import MAX_DEPTH, UNWEIGHED, is_deeper, unpack_value
from batchmill.errors import CheckpointDamaged
from batchmill.model import MAX_PAYLOAD

SUPERSEDES = 1  # flag: element 8 is there
MASKED = 2  # flag: not all lines of the block have their outcome in this frame
SEALED = 4  # flag: the block is one record that was never opened, also where it is the pickle of a Python item
NIL = b"\xc0"

_HEAD = struct.Struct("<BBHIIIIIIIIIQQQddIHH16sII")
HEAD_SIZE = _HEAD.size
assert HEAD_SIZE == 112, "the head's layout is part of the file format"
_OPENINGS = tuple(bytes((0x90 | length, 0xC4, HEAD_SIZE)) for length in (10, 11))  # an array, a bin of HEAD_SIZE
OPENING = len(_OPENINGS[0])
BODY = OPENING + HEAD_SIZE
PEEK = BODY  # bytes of a payload that `read_head` needs
_VERSION = 1
MAX_POSITION = 1 << 40  # of a record in the whole input
MAX_GENERATION = 1 << 23
MANY = 1 << 53
_AROUND = 8  # levels of ours around a value that may have MAX_DEPTH itself


class PayloadTooLarge(ValueError):
    """Outcomes that do not fit into one frame, or whose ids could not be read from it again."""


class Head(NamedTuple):
    """The fixed part of an OUTCOMES payload.

    `worker`, `run`, `generation`, `input` (its ordinal) and `pid` say where it comes from; `records` counts those of
    the block that are covered, `items` those with an outcome here, of which `ok` and `failed`; `blank` those passed
    over. `first` is the 0-based position of the block's first record in the whole input, `line` its 1-based line within
    its INPUT, `size` the block's bytes, `seconds` the chunk's wall time in its worker, `started` the epoch second.
    `first_crc` is the crc32 of the first record, `digest` the BLAKE2b-16 of the block; `shard` of `shards` is 0/0 where
    there is none. The last two are filled in by `pack_outcomes`.
    """

    version: int = _VERSION
    flags: int = 0
    worker: int = 0
    run: int = 1
    generation: int = 0
    input: int = 0
    records: int = 0
    items: int = 0
    ok: int = 0
    failed: int = 0
    blank: int = 0
    pid: int = 0
    first: int = 0
    line: int = 1
    size: int = 0
    seconds: float = 0.0
    started: float = 0.0
    first_crc: int = 0
    shard: int = 0
    shards: int = 0
    digest: bytes = bytes(16)
    ids_size: int = 0
    results_size: int = 0

    def pack(self) -> bytes:
        """The head's HEAD_SIZE bytes. Raises struct.error for a number out of range."""
        return _HEAD.pack(*self)

    @classmethod
    def unpack(cls, data: bytes | memoryview, offset: int = 0) -> Head:
        """The head at `offset` of `data`; raises struct.error where there is too little of it."""
        return cls._make(_HEAD.unpack_from(data, offset))


def pack_outcomes(  # noqa: PLR0917 - a worker passes its columns in the file's order
    head: Head,
    ids: list[Any],
    results: Sequence[bytes],
    failures: Sequence[tuple[int, str, str, str, bytes | None]] = (),
    seconds: array[float] | Iterable[float] = (),
    contents: array[int] | Iterable[int] = (),
    offsets: array[int] | Iterable[int] | None = None,
    attempts: Iterable[tuple[int, int]] | None = None,
    supersedes: Iterable[tuple[int, int, int, int]] | None = None,
    items: list[bytes] | None = None,
    lines: Iterable[int] | None = None,
) -> bytes:
    """The OUTCOMES payload; `results` are packed already (NIL where failed) and joined as they are.

    The SUPERSEDES flag and the two sizes of the head are set here. Raises what `pack_value` raises, for an id, and
    PayloadTooLarge.
    """
    packed_ids = _pack_ids(ids)
    head = head._replace(
        flags=head.flags | SUPERSEDES if supersedes else head.flags & ~SUPERSEDES,
        ids_size=len(packed_ids),
        results_size=len(array_header(len(results))) + sum(map(len, results)),
    )
    columns = (
        [list(failure) for failure in failures],
        _column("f", seconds),
        _column("I", contents),
        None if offsets is None else _column("I", offsets),
        [list(pair) for pair in attempts or ()] or None,
        [list(row) for row in supersedes or ()] or None,
        items,
        *(() if lines is None else (_column("I", lines),)),
    )
    front = (_OPENINGS[lines is not None], head.pack(), packed_ids, array_header(len(results)))
    back = [pack_value(column) for column in columns]
    size = sum(map(len, front)) + head.results_size + sum(map(len, back))
    if size > MAX_PAYLOAD:
        raise PayloadTooLarge(f"{size} bytes")
    return b"".join((*front, *results, *back))


def _pack_ids(ids: list[Any]) -> bytes:
    packed = pack_value(ids)
    if len(packed) > UNWEIGHED:
        try:
            unpack_value(packed)
        except CheckpointDamaged as error:
            raise PayloadTooLarge(error.message) from error
    return packed


def _column(code: str, numbers: Iterable[Any]) -> bytes:
    column = numbers if isinstance(numbers, array) and numbers.typecode == code else array(code, numbers)
    if sys.byteorder == "big":
        column = array(code, column)
        column.byteswap()
    return column.tobytes()


def read_head(payload: bytes | memoryview) -> Head:
    """The head of an OUTCOMES payload, of which PEEK bytes suffice; raises CheckpointDamaged."""
    if len(payload) < BODY or payload[:OPENING] not in _OPENINGS:
        raise CheckpointDamaged("an outcome frame does not begin with its head")
    head = Head.unpack(payload, OPENING)
    if head.version != _VERSION:
        raise CheckpointDamaged(f"an outcome frame has version {head.version}, which this batchmill does not know")
    if head.ok + head.failed != head.items:
        raise CheckpointDamaged("an outcome frame's counts do not add up")
    if head.first + head.records > MAX_POSITION or head.line + head.records > MAX_POSITION:
        raise CheckpointDamaged("an outcome frame lies beyond any input")
    if head.generation > MAX_GENERATION or head.run > MAX_GENERATION:
        raise CheckpointDamaged("an outcome frame is of a run that cannot have been")
    return head


def refuse_depth(packed: bytes | memoryview, value: Any) -> None:
    """Raise CheckpointDamaged for ids and maps, which are shown as they are, nested more deeply than results may be."""
    if is_deeper(packed, value, MAX_DEPTH + _AROUND):
        raise CheckpointDamaged(f"a value in the checkpoint is nested in more than {MAX_DEPTH} levels")


def pack_map(values: dict[str, Any]) -> bytes:
    """The payload of a META, RUN, SAMPLE, STRIKE, END or ORDER frame; raises as `pack_value`."""
    return pack_value(values)


def unpack_map(payload: bytes | memoryview, limit: int = MAX_PACKED) -> dict[str, Any]:
    """The map that `pack_map` packed; raises CheckpointDamaged for anything else, or above `limit` bytes."""
    if len(payload) > limit:
        raise CheckpointDamaged(f"a frame's map of {len(payload)} bytes is above the limit of {limit}")
    value = unpack_value(payload)
    if type(value) is not dict or set(map(type, value)) - {str}:
        raise CheckpointDamaged("a frame's payload is not a map with text keys")
    refuse_depth(payload, value)
    return value
