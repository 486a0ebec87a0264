"""Owns how a Python value becomes msgpack bytes, and the ids made of them. Never keeps what cannot be read back exact.

The forms are those of `unpacking`. A dataclass becomes a map, a namedtuple a tuple, an Enum its value; a subclass of
str, int, float, list or dict becomes its base. An aware datetime keeps its UTC offset, not its zone's name.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import hashlib
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from msgpack import ExtType, Packer, Timestamp, Unpacker

from batchmill.imported import imported
from batchmill.unpacking import MAX_EXT_DEPTH, READING, UNWEIGHED, Ext, reason, unpack_value

if TYPE_CHECKING:
    import pathlib

# A frame's payload is at most 64 MiB; what is held back is room for the head, the id and the columns beside a result.
MAX_PACKED = (64 << 20) - (256 << 10)
MAX_DEPTH = 500  # json's encoder and the recursive converters stay below Python's recursion limit of 1000
_SMALL = 64 << 10  # bytes that are read back at once

_NATIVE = frozenset((type(None), bool, int, float, str, bytes, bytearray, list, dict, ExtType, Timestamp))
_PLAIN = frozenset((type(None), bool, int, float, str))  # what reads back exactly without trying
_CONTAINERS = frozenset((list, dict, tuple, set, frozenset))
_NOT_OPENING = bytes(
    byte for byte in range(256) if not (0x80 <= byte <= 0x9F or 0xC7 <= byte <= 0xC9 or 0xD4 <= byte <= 0xDF)
)
_DEEP = f"this result is nested too deeply to be kept (the limit is {MAX_DEPTH} levels, {MAX_EXT_DEPTH} of tuples)"

_Convert = Callable[[Any, "_Level"], Any]


# --- packing ---------------------------------------------------------------------------------------------------------


class _Level:
    """One Packer per level of nested extension types: a Packer cannot be entered again while its `default` runs."""

    __slots__ = ("_next", "depth", "pack")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._next: _Level | None = None
        # strict_types, or tuples and IntEnums would silently come back as lists and ints of another kind.
        self.pack: Callable[[Any], bytes] = Packer(
            strict_types=True, default=self.convert, unicode_errors="surrogatepass"
        ).pack

    def deeper(self) -> _Level:
        if self._next is None:
            if self.depth >= MAX_EXT_DEPTH:
                raise ValueError(_DEEP)
            self._next = _Level(self.depth + 1)
        return self._next

    def convert(self, value: Any) -> Any:
        """Something msgpack packs natively; it asks once per value, so the steps are all taken here."""
        for _ in range(MAX_EXT_DEPTH):
            kind: Any = type(value)
            value = _converter(kind)(value, self)
            kind = type(value)
            if kind in _NATIVE and not (kind is int and not -(2**63) <= value < 2**64):
                return value
        raise ValueError(_DEEP)


class Packing:
    """The packers and the reader of one thread: they are not safe to share, and making one costs more than a result."""

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self.level = _Level(0)
        self._pack = self.level.pack
        reader = Unpacker(**READING)
        self._feed: Callable[[bytes], None] = reader.feed
        self._unpack: Callable[[], Any] = reader.unpack

    def value(self, value: Any) -> bytes:
        """See `pack_value`."""
        try:
            packed = self._pack(value)
        except RecursionError:
            raise ValueError(_DEEP) from None
        except ValueError as error:
            if "recursion limit" in str(error):
                raise ValueError(_DEEP) from None
            raise
        if len(packed) > UNWEIGHED:
            self._renew()  # a Packer's buffer never shrinks
        return packed

    def result(self, value: Any) -> bytes:
        """See `pack_result`."""
        is_plain = type(value) in _PLAIN
        if is_plain and len(packed := self._pack(value)) <= _SMALL:
            return packed
        packed = self.value(value)
        if len(packed) > MAX_PACKED:
            size = f"{len(packed) / (1 << 20):.0f} MiB"
            sentence = f"a result must stay below 64 MiB packed, this one has {size}: write a file, return its path"
            raise ValueError(sentence)
        if not is_plain:
            self._read_back(packed)
        return packed

    def _read_back(self, packed: bytes) -> None:
        try:
            if len(packed) <= _SMALL:
                self._feed(packed)
                value = self._unpack()
            else:
                value = unpack_value(packed)
        except BaseException as error:
            self._renew()  # the reader is left in the middle of the value
            if not isinstance(error, Exception):
                raise
            raise ValueError(f"this result cannot be kept, it does not read back: {reason(error)}") from None
        if len(packed) > MAX_DEPTH and _too_deep(packed, value):
            raise ValueError(_DEEP)


class _Local(threading.local):
    """A Packing for each thread that asks. A lookup takes longer than packing a number: a lane holds its own."""

    def __init__(self) -> None:
        self.packing = Packing()


def pack_value(value: Any) -> bytes:
    """The msgpack bytes of `value`.

    Raises TypeError, in a sentence naming the type, for what cannot be kept, and ValueError for what is nested too
    deeply; an exception of the value's own methods passes through.
    """
    return _local.packing.value(value)


def pack_result(value: Any) -> bytes:
    """`pack_value`, and proof that the bytes can be read again: nothing else may be committed.

    Raises as `pack_value`, and ValueError for what is too large or does not read back.
    """
    return _local.packing.result(value)


def _too_deep(packed: bytes, value: Any) -> bool:
    # The bytes that may open a container bound the depth, at a nanosecond each: most values are done here.
    if len(packed.translate(None, _NOT_OPENING)) <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _containers(outer)]
        if not level:
            return False
    return True


def _containers(outer: Any) -> list[Any]:
    if type(outer) not in _CONTAINERS:
        return []
    inner = outer.values() if type(outer) is dict else outer
    return [] if _CONTAINERS.isdisjoint(map(type, inner)) else [item for item in inner if type(item) in _CONTAINERS]


def array_header(length: int) -> bytes:
    """The msgpack bytes that open an array of `length` elements."""
    if length < 16:
        return bytes((0x90 | length,))
    return struct.pack(">BH", 0xDC, length) if length < 1 << 16 else struct.pack(">BI", 0xDD, length)


# --- converters: a table by type, filled for subclasses when they are first met ---------------------------------------


def _pack_tuple(value: Any, level: _Level) -> ExtType:
    return ExtType(Ext.TUPLE, level.deeper().pack(list(value)))


def _pack_set(value: Any, level: _Level) -> ExtType:
    # Sorted by bytes: hash seeds differ between processes, and the same set must give the same output.
    parts = sorted(map(level.deeper().pack, value))
    return ExtType(Ext.SET if isinstance(value, set) else Ext.FROZENSET, array_header(len(parts)) + b"".join(parts))


def _pack_int(value: int, level: _Level) -> ExtType:
    return ExtType(Ext.INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _pack_moment(code: int, value: dt.datetime | dt.time) -> ExtType:
    text, offset = value.isoformat(), value.utcoffset()
    # CPython reads an offset of less than a second as none, and a zone may need a date to know its offset.
    lost = value.tzinfo is not None and (
        offset is None or (offset.microseconds and type(value).fromisoformat(text).utcoffset() != offset)
    )
    if lost:
        raise TypeError(f"the zone of the {type(value).__name__} {text} cannot be kept; return its isoformat()")
    return ExtType(code, bytes((value.fold,)) + text.encode())


def _pack_path(value: pathlib.PurePath, level: _Level) -> ExtType:
    import pathlib

    kind = 0 if isinstance(value, pathlib.Path) else 2 if isinstance(value, pathlib.PureWindowsPath) else 1
    return ExtType(Ext.PATH, bytes((kind,)) + str(value).encode("utf-8", "surrogatepass"))


def _pack_dataclass(value: Any, level: _Level) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _pack_numpy(value: Any, level: _Level) -> ExtType:
    np, dtype = sys.modules["numpy"], value.dtype
    descr = dtype.str if dtype.fields is None else np.lib.format.dtype_to_descr(dtype)
    if dtype.hasobject or np.lib.format.descr_to_dtype(descr) != dtype:
        raise TypeError(f"a numpy value of dtype {dtype} cannot be kept; return a list, or an array of plain numbers")
    code = Ext.ARRAY if isinstance(value, np.ndarray) else Ext.SCALAR
    raw = value.tobytes() if dtype.itemsize else b""  # numpy.str_("") has no size, but four bytes
    return ExtType(code, level.deeper().pack([descr, list(value.shape), raw]))


_EXACT: dict[type, _Convert] = {
    int: _pack_int,  # only those that msgpack has no room for come here
    tuple: _pack_tuple,
    set: _pack_set,
    frozenset: _pack_set,
    complex: lambda value, _: ExtType(Ext.COMPLEX, struct.pack(">dd", value.real, value.imag)),
    dt.datetime: lambda value, _: _pack_moment(Ext.DATETIME, value),
    dt.date: lambda value, _: ExtType(Ext.DATE, value.isoformat().encode()),
    dt.time: lambda value, _: _pack_moment(Ext.TIME, value),
    dt.timedelta: lambda value, _: ExtType(
        Ext.TIMEDELTA, struct.pack(">iii", value.days, value.seconds, value.microseconds)
    ),
}
_EXACT_ONCE_IMPORTED: dict[str, _Convert] = {
    "decimal.Decimal": lambda value, _: ExtType(Ext.DECIMAL, str(value).encode()),
    "fractions.Fraction": lambda value, level: ExtType(
        Ext.FRACTION, level.deeper().pack([value.numerator, value.denominator])
    ),
    "uuid.UUID": lambda value, _: ExtType(Ext.UUID, value.bytes),
}
# Subclasses of datetime, Decimal and the like are not here: pandas.Timestamp is one, and would lose its nanoseconds.
_BASES: tuple[tuple[type, _Convert], ...] = (
    (Enum, lambda value, _: value.value),
    (str, lambda value, _: str.__str__(value)),
    (int, lambda value, _: int.__int__(value)),
    (float, lambda value, _: float.__float__(value)),
    (bytes, lambda value, _: memoryview(value).tobytes()),
    (bytearray, lambda value, _: memoryview(value).tobytes()),
    (tuple, _pack_tuple),
    (list, lambda value, _: list(value)),
    (set, _pack_set),
    (frozenset, _pack_set),
    (Mapping, lambda value, _: dict(value)),
)


@functools.lru_cache(maxsize=512)  # by type; bounded, as a function may make classes as it goes
def _converter(kind: Any) -> _Convert:
    if kind in _EXACT:
        return _EXACT[kind]
    np: Any = sys.modules.get("numpy")
    if np is not None and (kind in (np.ndarray, np.memmap) or issubclass(kind, np.generic)):
        return _pack_numpy
    for name, convert in _EXACT_ONCE_IMPORTED.items():
        if kind is imported(name):
            return convert
    if issubclass(kind, imported("pathlib.PurePath") or ()):
        return _pack_path
    for base, convert in _BASES:
        if issubclass(kind, base):
            return convert
    if dataclasses.is_dataclass(kind):
        return _pack_dataclass
    raise TypeError(
        f"a result of type {kind.__name__!r} cannot be kept; return a list, or write a file and return its path"
    )


# --- ids -------------------------------------------------------------------------------------------------------------


def canonical(value: Any) -> bytes:
    """The msgpack bytes of `value` with the keys of every map sorted: equal values, equal bytes.

    Raises ValueError for what msgpack cannot carry.
    """
    try:
        return pack_value(_ordered(value))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no id can be made of this item: {error}") from error


def _ordered(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, tuple):
        return tuple(map(_ordered, value))
    if kind not in _NATIVE:
        value = _local.packing.level.convert(value)
        kind = type(value)
    if kind is dict:
        return {key: _ordered(value[key]) for key in sorted(value, key=pack_value)}
    return list(map(_ordered, value)) if kind is list else value


def id_key(id: Any) -> bytes:
    """The bytes that stand for an id with its type: 1, 1.0, "1" and True differ. Raises ValueError as `canonical`."""
    return pack_value(id) if type(id) in _PLAIN else canonical(id)


def digest_id(raw: bytes) -> str:
    """The id of an item that has no other: 32 hexadecimal digits of the BLAKE2b of its bytes."""
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


_local = _Local()
