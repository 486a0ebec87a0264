"""The codes of msgpack's extension types; what each holds is in `unpack`."""

from __future__ import annotations

from enum import IntEnum


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
    TIMESTAMP = 79
    DURATION = 80
    NAT = 81
    DEQUE = 82
    RANGE = 83
    MACHINE_ARRAY = 84
    TABLE = 85


# Those whose payload is a msgpack array.
NESTED = frozenset(Ext) & frozenset(
    (Ext.TUPLE, Ext.SET, Ext.FROZENSET, Ext.FRACTION, Ext.ARRAY, Ext.SCALAR, Ext.TIMESTAMP, Ext.DURATION, Ext.DEQUE,
     Ext.RANGE, Ext.MACHINE_ARRAY, Ext.TABLE)
)  # fmt: skip
