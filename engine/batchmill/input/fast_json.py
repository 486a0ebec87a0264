"""The fast way through JSON: orjson.

Imported by workers only, where it is installed. It never reads anything otherwise than the format's own `parse`, which
decides, and words the error, wherever the two could differ.

They differ in three ways. orjson refuses what json reads (NaN, Infinity, 1e999, lone surrogates, 1,025 levels): then
json is asked, as for every line that is not JSON. It makes floats of integers beyond 64 bits: a line that may hold 19
digits in a row, but for a fraction's, is read by json. It nests as deep as 1,024 where json stops at the interpreter's
recursion limit (before Python 3.12): what is nested deeper than 254 levels is read by json.
"""

from __future__ import annotations

from typing import Any

from orjson import JSONDecodeError, JSONEncodeError, dumps, loads

from batchmill.input.formats import FORMATS, Parse

_read_by_json = FORMATS["jsonl"].parser(b"")
_LONG_RUN = b"0" * 19
_SAMPLE = 4096  # bytes at the beginning of a block
_SYNTAX = b'{}[]",:0123456789'
_STRIDE = 6  # of 19 bytes in a row it meets at least three
_DIGITS = bytes(ord("0") if byte in b"0123456789" else ord(".") if byte in b"." else ord(" ") for byte in range(256))
_DEEP = 800  # levels; json's limit is the interpreter's 1,000, less the calls it stands in


def parse_of(block: bytes) -> Parse | None:
    """What to parse the records of a block with; None for the format's own way."""
    if _is_mostly_text(block):
        return None
    return _parse_with_care if may_hold_long_integers(block) else _parse


def _is_mostly_text(block: bytes) -> bool:
    """Whether strings are nearly all there is: json copies them as fast, and needs no second look at the digits."""
    sample = block[:_SAMPLE]
    return len(sample.translate(None, _SYNTAX)) > 0.9 * len(sample)


def may_hold_long_integers(block: bytes) -> bool:
    """Whether 19 digits in a row may begin a number in there. False for what only fractions and short numbers hold."""
    if b"000" not in block[::_STRIDE].translate(_DIGITS):
        return False
    digits = block.translate(_DIGITS)
    at = digits.find(_LONG_RUN)
    while at > 0 and digits[at - 1] == ord("."):
        at = digits.find(_LONG_RUN, digits.find(b" ", at))
    return at >= 0


def _parse(raw: bytes) -> Any:
    try:
        item = loads(raw)
    except JSONDecodeError:
        return _read_by_json(raw)
    return _read_by_json(raw) if len(raw) >= 2 * _DEEP and _is_deep(raw, item) else item


def _parse_with_care(raw: bytes) -> Any:
    return _read_by_json(raw) if may_hold_long_integers(raw) else _parse(raw)


def _is_deep(raw: bytes, item: Any) -> bool:
    if b"[" not in raw and raw.rfind(b"{") <= 0:  # many documents are flat, and counting takes ten times as long
        return False
    if raw.count(b"[") + raw.count(b"{") < _DEEP:
        return False
    try:
        dumps(item)
    except JSONEncodeError:  # it refuses more than 254 levels
        return True
    return False
