"""How a Python value becomes msgpack bytes.

It never keeps what cannot be read back exact.

The forms are those of `unpack`. A dataclass or another model becomes a map, a namedtuple a tuple, an Enum its value; a
subclass of str, int, float, list or dict becomes its base. An aware datetime keeps its UTC offset, not its zone's name.
So values that differ may become equal. Where a converter may do that it says so (`merging`), and the bytes are then
read back carefully: keys or elements that became equal are refused, for one of them would be lost.
"""

from __future__ import annotations

import datetime as dt
import functools
import struct
import sys
import threading
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn

from msgpack import ExtType, Packer, Timestamp, Unpacker

from batchmill.codec.codes import Ext
from batchmill.codec.merging import culprit
from batchmill.codec.models import fields_of, fields_reader
from batchmill.codec.unpack import (
    FAST,
    MAX_DEPTH,
    MAX_EXT_DEPTH,
    MAX_RANGE,
    UNWEIGHED,
    is_deeper,
    reason,
    unpack_value,
)
from batchmill.errors import BatchmillError, ResultNotKept

if TYPE_CHECKING:
    import pathlib

# A frame's payload is at most 64 MiB; what is held back is room for the head, the id and the columns beside a result.
MAX_PACKED = (64 << 20) - (256 << 10)
_SMALL = 64 << 10  # bytes that are read back at once

NATIVE = frozenset((type(None), bool, int, float, str, bytes, bytearray, list, dict, ExtType, Timestamp))
PLAIN = frozenset((type(None), bool, int, float, str))  # what reads back exactly without trying
_DEEP = f"this result is nested too deeply to be kept (the limit is {MAX_DEPTH} levels, {MAX_EXT_DEPTH} of tuples)"

_Convert = Callable[[Any, "_Level"], Any]


# --- packing ---------------------------------------------------------------------------------------------------------


class _Notes:
    """What came along in a packing: `merging`, a value of a kind of which two that differ may have become equal;
    `classes`, one whose class is lost though no plain value is equal to it; `lossy`, one that is kept as another value.
    """

    __slots__ = ("classes", "lossy", "merging")

    def __init__(self) -> None:
        self.merging = self.classes = self.lossy = False


class _Level:
    """One Packer per level of nested extension types: a Packer cannot be entered again while its `default` runs."""

    __slots__ = ("_next", "depth", "notes", "pack")

    def __init__(self, depth: int, notes: _Notes) -> None:
        self.depth = depth
        self.notes = notes
        self._next: _Level | None = None
        # strict_types, or tuples and IntEnums would silently come back as lists and ints of another kind.
        self.pack: Callable[[Any], bytes] = Packer(
            strict_types=True, default=self.convert, unicode_errors="surrogatepass"
        ).pack

    def deeper(self) -> _Level:
        if self._next is None:
            if self.depth >= MAX_EXT_DEPTH:
                raise ValueError(_DEEP)
            self._next = _Level(self.depth + 1, self.notes)
        return self._next

    def convert(self, value: Any) -> Any:
        """Something msgpack packs natively; it asks once per value, so the steps are all taken here."""
        for _ in range(MAX_EXT_DEPTH):
            kind: Any = type(value)
            value = _converter(kind)(value, self)
            kind = type(value)
            if kind in NATIVE and not (kind is int and not -(2**63) <= value < 2**64):
                return value
        raise ValueError(_DEEP)


class Packing:
    """The packers and the reader of one thread: they are not safe to share, and making one costs more than a result."""

    def __init__(self) -> None:
        self._is_careful = False
        self._renew()

    def _renew(self) -> None:
        self.notes = _Notes()
        self.level = _Level(0, self.notes)
        self._pack = self.level.pack
        reader = Unpacker(**FAST.options)
        self._feed: Callable[[bytes], None] = reader.feed
        self._unpack: Callable[[], Any] = reader.unpack

    def value(self, value: Any) -> bytes:
        """The msgpack bytes of a value; raises what `pack_value` raises."""
        kind = type(value)
        if kind is bytes and _SMALL < len(value) < 1 << 32:  # without the copies that a Packer makes
            return b"".join((struct.pack(">BI", 0xC6, len(value)), value))
        if kind is ExtType and _SMALL < len(value.data) < 1 << 32:
            return b"".join((struct.pack(">BIb", 0xC9, len(value.data), value.code), value.data))
        try:
            packed = self._pack(value)
        except RecursionError:
            raise ValueError(_DEEP) from None
        except ValueError as error:
            if "recursion limit" in str(error):
                raise ValueError(_DEEP) from None
            raise
        if len(packed) > UNWEIGHED:
            notes = self.notes
            self._renew()  # a Packer's buffer never shrinks
            for name in notes.__slots__:
                setattr(self.notes, name, getattr(notes, name))
        return packed

    def result(self, value: Any) -> bytes:
        is_plain = type(value) in PLAIN
        if is_plain and len(packed := self._pack(value)) <= _SMALL:
            return packed
        packed = self.value(value)
        if len(packed) > MAX_PACKED:
            raise ValueError(too_large(len(packed)))
        if not is_plain:
            self._prove(packed, value)
        return packed

    def _prove(self, packed: bytes, value: Any) -> None:
        """Raise ValueError unless the bytes read back, as many as they were."""
        if self._is_careful or self.notes.merging or len(packed) > _SMALL:
            kept = self._read_slowly(packed, value)
        else:
            try:
                self._feed(packed)
                kept = self._unpack()
            except BaseException as error:
                self._renew()  # the reader is left in the middle of the value
                if not isinstance(error, Exception):
                    raise
                self.notes.merging = True
                kept = self._read_slowly(packed, value)
                self._is_careful = True  # where one has keys that are no text, those to come mostly have such too
        if len(packed) > MAX_DEPTH and is_deeper(packed, kept, MAX_DEPTH):
            raise ValueError(_DEEP)

    def _read_slowly(self, packed: bytes, value: Any) -> Any:
        carefully, self.notes.merging = self._is_careful or self.notes.merging, False
        try:
            return unpack_value(packed, carefully=carefully)
        except BatchmillError as error:
            raise ValueError(unkept("result", value, error)) from None


def too_large(size: int) -> str:
    """Why a result of so many bytes cannot be kept."""
    shown = f"{size / (1 << 20):.0f} MiB"
    return f"a result must stay below 64 MiB packed, this one has {shown}: write a file, return its path"


class _Local(threading.local):
    """A Packing for each thread that asks. A lookup takes longer than packing a number: a worker holds its own."""

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


def unkept(what: str, value: Any, error: Exception) -> str:
    """Why a value cannot be kept: `error` came when it was read back."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    why = culprit(value, lambda part: unpack_value(pack_value(part), carefully=True)) or reason(cause)
    return f"this {what} cannot be kept, it does not read back: {why}"


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


def _pack_moment(code: int, value: dt.datetime | dt.time, level: _Level) -> ExtType:
    if value.tzinfo is not None and type(value.tzinfo) is not dt.timezone:
        # One clock time of two zones differs while they are set back, whatever the offsets.
        level.notes.lossy = level.notes.merging = True
    text, offset = value.isoformat(), value.utcoffset()
    # CPython reads an offset of less than a second as none, and a zone may need a date to know its offset.
    lost = value.tzinfo is not None and (
        offset is None or (offset.microseconds and type(value).fromisoformat(text).utcoffset() != offset)
    )
    if lost:
        raise ResultNotKept(f"the zone of the {type(value).__name__} {text} cannot be kept; return its isoformat()")
    return ExtType(code, bytes((value.fold,)) + text.encode())


def _pack_path(value: pathlib.PurePath, level: _Level) -> ExtType:
    import pathlib

    kind = 0 if isinstance(value, pathlib.Path) else 2 if isinstance(value, pathlib.PureWindowsPath) else 1
    return ExtType(Ext.PATH, bytes((kind,)) + str(value).encode("utf-8", "surrogatepass"))


def _pack_enum(value: Enum, level: _Level) -> Any:
    level.notes.lossy = level.notes.classes = True
    return value.value


def _pack_model(value: Any, level: _Level) -> Any:
    level.notes.lossy = level.notes.classes = True
    return fields_of(value)


def _pack_deque(value: deque[Any], level: _Level) -> ExtType:
    return ExtType(Ext.DEQUE, level.deeper().pack([value.maxlen, *value]))


def _pack_range(value: range, level: _Level) -> ExtType:
    if value[MAX_RANGE:]:
        raise ResultNotKept(f"a range of more than {MAX_RANGE} numbers cannot be kept; return its start, stop and step")
    return ExtType(Ext.RANGE, level.deeper().pack([value.start, value.stop, value.step]))


def _pack_machine_array(value: array[Any], level: _Level) -> ExtType:
    swapped = value[:]
    if sys.byteorder == "little":
        swapped.byteswap()
    return ExtType(Ext.MACHINE_ARRAY, level.deeper().pack([value.typecode, swapped.tobytes()]))


def _pack_moment_of_pandas(value: Any, level: _Level) -> ExtType:
    from batchmill.codec.table_forms import parts_of_moment

    code = Ext.TIMESTAMP if type(value).__name__ == "Timestamp" else Ext.DURATION
    return ExtType(code, level.deeper().pack(parts_of_moment(value)))


def _pack_table(value: Any, level: _Level) -> ExtType:
    from batchmill.codec.table_forms import parts_of_table

    return ExtType(Ext.TABLE, level.deeper().pack(parts_of_table(value)))


def _pack_numpy(value: Any, level: _Level) -> Any:
    np, dtype = sys.modules["numpy"], value.dtype
    if isinstance(value, (str, bytes)) and value[-1:] in ("\0", b"\0"):  # numpy takes them for padding
        return str.__str__(value) if isinstance(value, str) else memoryview(value).tobytes()
    descr = dtype.str if dtype.fields is None else np.lib.format.dtype_to_descr(dtype)
    if dtype.hasobject or np.lib.format.descr_to_dtype(descr) != dtype:
        raise ResultNotKept(
            f"a numpy value of dtype {dtype} cannot be kept; return a list, or an array of plain numbers"
        )
    code = Ext.ARRAY if isinstance(value, np.ndarray) else Ext.SCALAR
    pack = level.deeper().pack
    if value.nbytes > _SMALL and isinstance(value, np.ndarray):  # without the copies that a Packer makes
        raw = np.ascontiguousarray(value).reshape(-1).view("u1")
        opening = b"\x93" + pack(descr) + pack(list(value.shape))
        return ExtType(code, b"".join((opening, struct.pack(">BI", 0xC6, value.nbytes), raw)))
    raw = value.tobytes() if dtype.itemsize else b""  # numpy.str_("") has no size, but four bytes
    return ExtType(code, pack([descr, list(value.shape), raw]))


_EXACT: dict[type, _Convert] = {
    int: _pack_int,  # only those that msgpack has no room for come here
    tuple: _pack_tuple,
    deque: _pack_deque,
    range: _pack_range,
    array: _pack_machine_array,
    set: _pack_set,
    frozenset: _pack_set,
    complex: lambda value, _: ExtType(Ext.COMPLEX, struct.pack(">dd", value.real, value.imag)),
    dt.datetime: lambda value, level: _pack_moment(Ext.DATETIME, value, level),
    dt.date: lambda value, _: ExtType(Ext.DATE, value.isoformat().encode()),
    dt.time: lambda value, level: _pack_moment(Ext.TIME, value, level),
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
    "pandas.Timestamp": _pack_moment_of_pandas,
    "pandas.Timedelta": _pack_moment_of_pandas,
    "pandas._libs.tslibs.nattype.NaTType": lambda value, _: ExtType(Ext.NAT, b""),
    "pandas.DataFrame": _pack_table,
    "pandas.Series": _pack_table,
    "pyarrow.Table": _pack_table,
}
# Subclasses of datetime, Decimal and the like are not here: pandas.Timestamp is one, and would lose its nanoseconds.
# Equality may be theirs alone (a text that is equal to itself only): as plain values they can be equal.
_BASES: tuple[tuple[type, _Convert], ...] = (
    (Enum, _pack_enum),
    (str, lambda value, _: str.__str__(value)),
    (int, lambda value, _: int.__int__(value)),
    (float, lambda value, _: float.__float__(value)),
    (bytes, lambda value, _: memoryview(value).tobytes()),
    (bytearray, lambda value, _: memoryview(value).tobytes()),
    (tuple, lambda value, level: _pack_tuple(_all_of(value, tuple), level)),
    (list, lambda value, _: _all_of(value, list)),
    (set, lambda value, level: _pack_set(_all_of(value, set), level)),
    (frozenset, lambda value, level: _pack_set(_all_of(value, frozenset), level)),
    (Mapping, lambda value, _: _all_of(value, dict)),
)


def _all_of(value: Any, kind: Any) -> Any:
    """A relative of `kind` as that; raises TypeError where it has more in it than that can hold."""
    kept = kind(value)
    if len(kept) != len(value):
        name, less = type(value).__name__, f"as a {kind.__name__} it has {len(kept)}"
        raise ResultNotKept(f"a {name} of {len(value)} entries cannot be kept: {less}; return a list of them")
    return kept


def _merging(convert: _Convert) -> _Convert:
    """`convert`, for kinds of which two that differ may become equal."""

    def converted(value: Any, level: _Level) -> Any:
        level.notes.lossy = level.notes.merging = True
        return convert(value, level)

    return converted


@functools.lru_cache(maxsize=512)  # by type; bounded, as a function may make classes as it goes
def _converter(kind: Any) -> _Convert:
    if kind in _EXACT:
        return _EXACT[kind]
    np: Any = sys.modules.get("numpy")
    if np is not None and (kind in (np.ndarray, np.memmap) or issubclass(kind, np.generic)):
        return _pack_numpy if kind.__module__ == "numpy" else _merging(_pack_numpy)
    for name, convert in _EXACT_ONCE_IMPORTED.items():
        if kind is imported(name):
            return convert
    if issubclass(kind, imported("pandas.Index") or ()) and kind.__module__.partition(".")[0] == "pandas":
        return _pack_table
    for base, convert in ((imported("pathlib.PurePath") or (), _pack_path), *_BASES):
        if issubclass(kind, base):
            return convert if convert is _pack_path else _merging(convert)
    return _pack_model if fields_reader(kind) is not None else _refuse


def _refuse(value: Any, level: _Level) -> NoReturn:
    name = type(value).__name__
    raise ResultNotKept(f"a result of type {name!r} cannot be kept; {_instead(value)}")


def _instead(value: Any) -> str:
    """What could be returned in place of it."""
    if hasattr(type(value), "__next__"):
        return "return list(...) of it"
    for name in ("to_dict", "to_pydict", "tolist"):
        if callable(getattr(type(value), name, None)):
            return f"return its {name}()"
    own = getattr(value, "__dict__", None)
    if own and not isinstance(value, type) and not callable(value):
        return "make its class a dataclass, or return vars(...) of it"
    return "return a dict, list, text or number, or write a file and return its path"


def current() -> Packing:
    """The Packing of this thread."""
    return _local.packing


_local = _Local()


def imported(name: str) -> Any:
    """The class with that dotted name, such as "decimal.Decimal"; None while its module is not imported.

    No value can be of that class then; importing decimal, fractions, uuid and pathlib to find that out would take as
    long as starting a worker.
    """
    module, _, own = name.rpartition(".")
    return getattr(sys.modules.get(module), own, None)
