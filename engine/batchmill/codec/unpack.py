"""How msgpack bytes become values again.

It never executes or trusts what it reads, never takes unbounded memory.

Plain values are plain msgpack. The others are extension types, readable with any msgpack library:

    code  type                payload
    64    int above 64 bits   two's complement, big-endian
    65    tuple               a msgpack array
    66    set                 a msgpack array, sorted by its elements' bytes
    67    frozenset           the same
    68    complex             two float64, big-endian
    69    datetime            one byte of fold, then ISO 8601 text
    70    date                ISO 8601 text
    71    time                one byte of fold, then ISO 8601 text
    72    timedelta           days, seconds, microseconds: three int32, big-endian
    73    Decimal             its text
    74    Fraction            a msgpack array: numerator, denominator
    75    UUID                its 16 bytes
    76    Path                one byte (0 Path, 1 PurePosixPath, 2 PureWindowsPath), then the text
    77    numpy array         a msgpack array: dtype, shape, the bytes in C order
    78    numpy scalar        the same with an empty shape

An aware datetime keeps its UTC offset, not its zone's name. A dataclass becomes a map, a namedtuple a tuple, an Enum
its value; a subclass of str, int, float, list or dict becomes its base.

There are two ways to read, and most values take the first, which is all C. It gives up at a map with a key that is no
text; the second then reads all of the value again and looks at each map and set as it is made: no two of the keys or
elements may be equal (one would silently replace the other), nor too many have one hash (a set of them would take
quadratic time).
"""

from __future__ import annotations

import datetime as dt
import functools
import math
import struct
import threading
from collections.abc import Callable
from enum import IntEnum
from itertools import groupby
from typing import TYPE_CHECKING, Any

from msgpack import unpackb

from batchmill.codec.hashing import with_cache, without_cache
from batchmill.errors import BatchmillError, CheckpointDamaged, CheckpointMismatch

if TYPE_CHECKING:
    from decimal import Decimal
    from fractions import Fraction
    from pathlib import PurePath
    from uuid import UUID

MAX_DEPTH = 500  # of lists and maps: json's encoder and recursive converters stay below Python's limit of 1000
MAX_EXT_DEPTH = 100  # tuples and sets in each other: two Python frames a level
MAX_MEMORY = 256 << 20  # estimated size of a value once it is unpacked
# One byte of msgpack becomes at most about 90 bytes of Python objects (an empty map): up to this size no value can
# exceed MAX_MEMORY, and it need not be weighed.
UNWEIGHED = MAX_MEMORY // 100
_FEW = 16  # keys or elements that may be compared each with each
_COMPARED = 64  # comparisons for each of more
_FRACTION_BITS = 8 * (64 << 10)


class Ext(IntEnum):
    """The codes of the extension types; part of the file format."""

    INT = 64
    TUPLE = 65
    SET = 66
    FROZENSET = 67
    COMPLEX = 68
    DATETIME = 69
    DATE = 70
    TIME = 71
    TIMEDELTA = 72
    DECIMAL = 73
    FRACTION = 74
    UUID = 75
    PATH = 76
    ARRAY = 77
    SCALAR = 78


class _State(threading.local):
    depth = 0  # of extension types, while one is read
    mixed = False  # whether a map was read that has keys of more than one type


_state = _State()


class Merged(ValueError):
    """Keys of a map, or elements of a set, are equal: read, the map or set is shorter than what was written."""


def unpack_value(data: bytes | memoryview, *, carefully: bool = False) -> Any:
    """The value of the msgpack bytes `data`, of any origin: nothing is executed, time and memory are bounded.

    `carefully`: keys that are text may be equal too; by itself this looks at maps with other keys only.
    Raises CheckpointDamaged for bytes that are no value, CheckpointMismatch where numpy is needed and missing.
    """
    return read_value(data, carefully=carefully)[0]


def read_value(data: bytes | memoryview, *, carefully: bool = False) -> tuple[Any, bool]:
    """As `unpack_value`, and whether the keys of each map in it are of one type."""
    if len(data) > UNWEIGHED:
        _check_memory(data)
    if not carefully:
        try:
            return unpackb(data, **FAST.options), True  # text, or bytes, which JSON has no word for
        except BatchmillError:
            raise
        except Exception:  # a key that is no text, mostly; what else it may be is found once more, and named
            pass
        finally:
            with_cache()
    _state.mixed = False
    try:
        return unpackb(data, **CAREFUL.options), not _state.mixed
    except BatchmillError:
        raise
    except Exception as error:
        # MemoryError and RecursionError among them: hostile bytes may raise anything that a constructor can raise.
        raise CheckpointDamaged(f"a value in the checkpoint cannot be read: {reason(error)}") from error
    finally:
        with_cache()


def reason(error: Exception) -> str:
    """Why, in the error's own words, without its remedy."""
    return error.message if isinstance(error, BatchmillError) else str(error) or type(error).__name__


class Reading:
    """One of the ways to read: `options` are those of msgpack's readers; what is nested is read the same way."""

    def __init__(self, **options: Any) -> None:
        # The limits on lengths are those of the bytes at hand, which is what msgpack does by itself.
        self.options = {"unicode_errors": "surrogatepass", "ext_hook": self._extension, **options}

    def _extension(self, code: int, data: bytes) -> Any:
        read = _READERS.get(code)
        if read is not None:
            return read(data)
        read_array = _READERS_OF_ARRAYS.get(code)
        if read_array is None:
            raise ValueError(f"unknown extension type {code}")
        return read_array(self._array(data))

    def _array(self, data: bytes) -> list[Any]:
        if _state.depth >= MAX_EXT_DEPTH:
            raise ValueError("nested too deeply")
        _state.depth += 1
        try:
            value = unpackb(data, **self.options)
        finally:
            _state.depth -= 1
        if type(value) is not list:
            raise ValueError("an extension type without its array")
        return value


def _map_of(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    if len(pairs) > _FEW:
        _check_hashes([key for key, _ in pairs])
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Merged("two keys of a map are equal")
    if len(set(map(type, found))) > 1:
        _state.mixed = True
    return found


def _set_of(items: list[Any], kind: Any) -> Any:
    if len(items) > _FEW:
        _check_hashes(items)
    found = kind(items)
    if len(found) != len(items):
        raise Merged("two elements of a set are equal")
    return found


def _check_hashes(items: list[Any]) -> None:
    """Raise ValueError where a set of these would take too long: those of one hash are compared each with each.

    Whoever writes numbers can choose their hashes, which Python salts for texts alone. Powers of two share theirs by
    dozens, and pass.
    """
    compared = sum(len(list(alike)) ** 2 for _, alike in groupby(sorted(map(hash, items))))
    if compared > _COMPARED * len(items):
        raise ValueError(f"{len(items)} keys or elements share so few hashes that reading them would take too long")


FAST = Reading(strict_map_key=True)  # refuses maps with keys that are neither text nor bytes
CAREFUL = Reading(strict_map_key=False, object_pairs_hook=_map_of)


def _read_moment(kind: Any, data: bytes) -> Any:
    return kind.fromisoformat(data[1:].decode("ascii")).replace(fold=data[0])


def _read_decimal(data: bytes) -> Decimal:
    from decimal import Decimal

    return Decimal(data.decode("ascii"))


def _read_uuid(data: bytes) -> UUID:
    from uuid import UUID

    return UUID(bytes=data)


def _fraction_of(parts: list[Any]) -> Fraction:
    from fractions import Fraction

    numerator, denominator = parts
    if type(numerator) is not int or type(denominator) is not int:
        raise ValueError("a fraction of other things than integers")
    if numerator.bit_length() + denominator.bit_length() > _FRACTION_BITS:
        raise ValueError("a fraction of more than 64 KiB")  # its reduction takes quadratic time
    without_cache()
    return Fraction(numerator, denominator)


def _read_path(data: bytes) -> PurePath:
    import pathlib

    kind = (pathlib.Path, pathlib.PurePosixPath, pathlib.PureWindowsPath)[data[0]]
    return kind(data[1:].decode("utf-8", "surrogatepass"))


def _numpy_of(parts: list[Any]) -> Any:
    descr, shape, raw = parts
    try:
        import numpy as np
    except ImportError:
        raise CheckpointMismatch(
            "a result is a numpy value, and numpy is not installed here", "pip install numpy"
        ) from None
    if type(descr) not in (str, list) or type(shape) is not list or type(raw) is not bytes:
        raise ValueError("a numpy value without dtype, shape or bytes")
    dtype = np.lib.format.descr_to_dtype(descr)
    _check_shape(shape, dtype, len(raw))
    # A bytearray, as results are writable when they are made (a copy would lose the padding of records).
    # Not np.zeros for those without bytes: it makes <U1 of <U0.
    return np.ndarray(shape, dtype, bytearray(raw)) if raw else np.ndarray(shape, dtype)


def _check_shape(shape: list[Any], dtype: Any, size: int) -> None:
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("a numpy shape that is none")
    # Without its zeros: (2**40, 0) has no elements, but becomes 2**40 lists on its way to JSON.
    extent = math.prod(max(1, length) for length in shape)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != size or extent > max(size, 1 << 16):
        raise ValueError("a numpy value of the wrong size")


_READERS: dict[int, Callable[[bytes], Any]] = {
    Ext.INT: lambda data: int.from_bytes(data, "big", signed=True),
    Ext.COMPLEX: lambda data: complex(*struct.unpack(">dd", data)),
    Ext.DATETIME: functools.partial(_read_moment, dt.datetime),
    Ext.DATE: lambda data: dt.date.fromisoformat(data.decode("ascii")),
    Ext.TIME: functools.partial(_read_moment, dt.time),
    Ext.TIMEDELTA: lambda data: dt.timedelta(*struct.unpack(">iii", data)),
    Ext.DECIMAL: _read_decimal,
    Ext.UUID: _read_uuid,
    Ext.PATH: _read_path,
}
_READERS_OF_ARRAYS: dict[int, Callable[[list[Any]], Any]] = {
    Ext.TUPLE: tuple,
    Ext.SET: lambda items: _set_of(items, set),
    Ext.FROZENSET: lambda items: _set_of(items, frozenset),
    Ext.FRACTION: _fraction_of,
    Ext.ARRAY: _numpy_of,
    Ext.SCALAR: lambda parts: _numpy_of(parts)[()],
}


# --- how deep a value is ----------------------------------------------------------------------------------------------


_CONTAINERS = frozenset((list, dict, tuple, set, frozenset))
_NOT_OPENING = bytes(
    byte for byte in range(256) if not (0x80 <= byte <= 0x9F or 0xC7 <= byte <= 0xC9 or 0xD4 <= byte <= 0xDF)
)


def is_deeper(packed: bytes | memoryview, value: Any, depth: int) -> bool:
    """Whether a value, and its bytes, are nested in more levels than `depth`."""
    # The bytes that may open a container bound the depth, at a nanosecond each: most values are done here.
    if len(packed) <= depth or len(bytes(packed).translate(None, _NOT_OPENING)) <= depth:
        return False
    level = [value]
    for _ in range(depth):
        level = [inner for outer in level for inner in _containers(outer)]
        if not level:
            return False
    return True


def _containers(outer: Any) -> list[Any]:
    if type(outer) not in _CONTAINERS:
        return []
    inner = outer.values() if type(outer) is dict else outer
    return [] if _CONTAINERS.isdisjoint(map(type, inner)) else [item for item in inner if type(item) in _CONTAINERS]


# --- what a value will weigh -----------------------------------------------------------------------------------------


_NESTED = frozenset((Ext.TUPLE, Ext.SET, Ext.FROZENSET, Ext.FRACTION, Ext.ARRAY, Ext.SCALAR))


def _fixed(byte: int) -> tuple[int, int, int]:
    """(bytes to the next token, estimated bytes of the object, values that follow less this one) for a first byte.

    The step is 0 where a length follows.
    """
    for low, high, step, weight, values in (
        (0x00, 0x7F, 1, 8, 0),
        (0x80, 0x80, 1, 88, 0),
        (0x81, 0x8F, 1, 250 + 72 * (byte & 15), 2 * (byte & 15)),
        (0x90, 0x9F, 1, 88, byte & 15),
        (0xA0, 0xBF, 1 + (byte & 31), 80 + (byte & 31), 0),
        (0xC4, 0xC9, 0, 0, 0),
        (0xCA, 0xCA, 5, 32, 0),
        (0xCB, 0xCB, 9, 32, 0),
        (0xCC, 0xCF, 1 + (1 << (byte & 3)), 40, 0),
        (0xD0, 0xD3, 1 + (1 << (byte & 3)), 40, 0),
        (0xD4, 0xDF, 0, 0, 0),
        (0xE0, 0xFF, 1, 40, 0),
    ):
        if low <= byte <= high:
            return step, weight, values - 1
    return 1, 8, -1  # nil, the booleans, and the byte that is never used


_FIXED = tuple(_fixed(byte) for byte in range(256))
# First byte of a token with a length: (bytes of that length, the kind of token).
_VARIABLE = {
    **{0xC4 + n: (1 << n, "bin") for n in range(3)},
    **{0xC7 + n: (1 << n, "ext") for n in range(3)},
    **{0xD4 + n: (0, "ext") for n in range(5)},
    **{0xD9 + n: (1 << n, "str") for n in range(3)},
    **{0xDC + n: (2 << n, "array") for n in range(2)},
    **{0xDE + n: (2 << n, "map") for n in range(2)},
}


def _check_memory(data: bytes | memoryview) -> None:
    """Raise CheckpointDamaged if unpacking `data` would take more than about MAX_MEMORY, or if it is not one value.

    64 MiB of empty maps would be 6 GiB of dicts, and msgpack limits each length but not their sum. The tokens are
    walked in Python, some 0.1 µs each, without building anything.
    """
    at, total, open_values, end = 0, 0, 1, len(data)
    # Every value still open takes a byte or more: lengths that were only announced are found out at once.
    while 0 < open_values <= end - at and total <= MAX_MEMORY:
        step, weight, values = _FIXED[data[at]]
        if not step:
            step, weight, values = _measure(data, at)
        at += step
        total += weight
        open_values += values
    if total > MAX_MEMORY:
        raise CheckpointDamaged(f"a value would take more than {MAX_MEMORY >> 20} MiB of memory when read")
    if open_values or at != end:
        raise CheckpointDamaged("a value in the checkpoint does not end where its bytes do")


def _measure(data: bytes | memoryview, at: int) -> tuple[int, int, int]:
    width, kind = _VARIABLE[data[at]]
    start = at + 1 + width
    length = int.from_bytes(data[at + 1 : start], "big") if width else 1 << (data[at] - 0xD4)
    if kind == "array":
        return 1 + width, 88, length - 1
    if kind == "map":
        return 1 + width, 250 + 72 * length, 2 * length - 1
    if kind == "str":
        # One character outside of Latin-1 makes every character of its string take up to four bytes.
        wide = 1 if bytes(data[start : start + length]).isascii() else 4
        return 1 + width + length, 80 + wide * length, -1
    if kind == "bin":
        return 1 + width + length, 48 + length, -1
    if start < len(data) and data[start] in _NESTED:
        return 2 + width, 256 + 2 * length, 0
    return 2 + width + length, 256 + 2 * length, -1
