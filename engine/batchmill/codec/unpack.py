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
    79    pandas.Timestamp    a msgpack array: int64, its unit, and if there is one its zone: a name, or seconds
    80    pandas.Timedelta    a msgpack array: int64, its unit
    81    pandas.NaT          nothing
    82    deque               a msgpack array: its greatest length or nil, then its elements
    83    range               a msgpack array: start, stop, step
    84    array.array         a msgpack array: its type code, the bytes in big-endian order
    85    DataFrame, Series, Index of pandas, Table of pyarrow
                              a msgpack array: its kind, an Arrow IPC stream, what that does not say

An aware datetime keeps its UTC offset, not its zone's name. A dataclass becomes a map, a namedtuple a tuple, an Enum
its value; a subclass of str, int, float, list or dict becomes its base. A model of pydantic or attrs becomes a map.

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
import sys
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from msgpack import Unpacker, unpackb

from batchmill.codec.codes import Ext
from batchmill.codec.hashing import with_cache, without_cache
from batchmill.codec.weight import MAX_MEMORY, check_memory
from batchmill.errors import BatchmillError, CheckpointDamaged, CheckpointMismatch

if TYPE_CHECKING:
    from decimal import Decimal
    from fractions import Fraction
    from pathlib import PurePath
    from uuid import UUID

MAX_DEPTH = 500  # of lists and maps: json's encoder and recursive converters stay below Python's limit of 1000
MAX_EXT_DEPTH = 100  # tuples and sets in each other: two Python frames a level
# One byte of msgpack becomes at most about 90 bytes of Python objects (an empty map): up to this size no value can
# exceed MAX_MEMORY, and it need not be weighed.
UNWEIGHED = MAX_MEMORY // 100
_FEW = 16  # keys or elements that may be compared each with each
_COMPARED = 64  # comparisons for each of more
_FRACTION_BITS = 8 * (64 << 10)
MAX_RANGE = 1 << 16  # numbers: in JSON it becomes a list of them


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


def unpack_all(data: bytes) -> list[Any]:
    """The values of msgpack bytes one after another, each as of `unpack_value`; the bytes are our own."""
    unpacker = Unpacker(max_buffer_size=len(data), **FAST.options)
    unpacker.feed(data)
    try:
        return list(unpacker)
    except BatchmillError:
        raise
    except Exception:  # as above: a key that is no text, mostly
        return list(_one_by_one(data))
    finally:
        with_cache()


def _one_by_one(data: bytes) -> Iterator[Any]:
    unpacker, at = Unpacker(max_buffer_size=len(data)), 0
    unpacker.feed(data)
    while at < len(data):
        unpacker.skip()
        end = unpacker.tell()
        yield unpack_value(data[at:end])
        at = end


def read_value(data: bytes | memoryview, *, carefully: bool = False) -> tuple[Any, bool]:
    """As `unpack_value`, and whether the keys of each map in it are of one type."""
    if len(data) > UNWEIGHED:
        check_memory(data)
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


def _deque_of(parts: list[Any]) -> deque[Any]:
    most, *items = parts
    if most is not None and (type(most) is not int or most < len(items)):
        raise ValueError("a deque longer than it can be")
    return deque(items, most)


def range_of(parts: list[Any]) -> range:
    """The range from its start to its stop by its step; raises ValueError for one that is too long."""
    if list(map(type, parts)) != [int, int, int]:
        raise ValueError("a range of other things than integers")
    found = range(*parts)
    if found[MAX_RANGE:]:
        raise ValueError(f"a range of more than {MAX_RANGE} numbers")
    return found


def _machine_array_of(parts: list[Any]) -> array[Any]:
    code, raw = parts
    if type(code) is not str or len(code) != 1 or type(raw) is not bytes:
        raise ValueError("an array without its type code or bytes")
    return machine_array(code, raw)


def machine_array(code: str, raw: bytes) -> array[Any]:
    """The array of bytes in big-endian order."""
    found = array(code, raw)
    if sys.byteorder == "little":
        found.byteswap()
    return found


def _moment_of(kind: str, parts: list[Any]) -> Any:
    from batchmill.codec.table_forms import moment_of

    return moment_of(parts, kind)


def _nat_of(data: bytes) -> Any:
    try:
        from pandas import NaT
    except ImportError:
        raise CheckpointMismatch(
            "a result is a value of pandas, and pandas is not installed here", "pip install pandas"
        ) from None
    return NaT


def _table_of(parts: list[Any]) -> Any:
    from batchmill.codec.table_forms import table_of

    return table_of(parts)


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
    Ext.NAT: _nat_of,
}
_READERS_OF_ARRAYS: dict[int, Callable[[list[Any]], Any]] = {
    Ext.TUPLE: tuple,
    Ext.SET: lambda items: _set_of(items, set),
    Ext.FROZENSET: lambda items: _set_of(items, frozenset),
    Ext.FRACTION: _fraction_of,
    Ext.ARRAY: _numpy_of,
    Ext.SCALAR: lambda parts: _numpy_of(parts)[()],
    Ext.TIMESTAMP: functools.partial(_moment_of, "Timestamp"),
    Ext.DURATION: functools.partial(_moment_of, "Timedelta"),
    Ext.DEQUE: _deque_of,
    Ext.RANGE: range_of,
    Ext.MACHINE_ARRAY: _machine_array_of,
    Ext.TABLE: _table_of,
}


# --- how deep a value is ----------------------------------------------------------------------------------------------


_CONTAINERS = frozenset((list, dict, tuple, set, frozenset, deque))
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
