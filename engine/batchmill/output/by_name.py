"""What the name of an output says of it: its format, and whether it is compressed."""

from __future__ import annotations

import bz2
import lzma
import os
import zlib
from collections.abc import Callable
from typing import Protocol

from batchmill.errors import InvalidUsage
from batchmill.input.compression import zstd
from batchmill.text import option

AUTO = "auto"
_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".msgpack": "msgpack",
    ".db": "sqlite",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".parquet": "parquet",
}
WHOLE = {"sqlite": "a database", "parquet": "a Parquet file"}  # what is no stream of bytes
_UNKNOWN = (".xlsx", ".zip")  # what somebody may expect, and would not get


class Packer(Protocol):
    """What compresses."""

    def compress(self, data: bytes) -> bytes:
        """What is to be written now."""

    def flush(self) -> bytes:
        """What is to be written at the end."""


_PACKERS: dict[str, Callable[[], Packer]] = {
    ".gz": lambda: zlib.compressobj(wbits=16 + zlib.MAX_WBITS),
    ".bz2": bz2.BZ2Compressor,
    ".xz": lambda: lzma.LZMACompressor(preset=1),  # more would keep the batch waiting
    ".zst": lambda: zstd().ZstdCompressor(),
}


def format_of_output(name: str | None, asked: str) -> str:
    """The format of the output `name` (a path, "-", None: none): by its suffix, or as `asked` (not AUTO).

    Raises InvalidUsage where the two contradict each other, or the suffix promises what is not written. Raw output is
    whatever results are: any name will do, but that of a database.
    """
    stem, packed = os.path.splitext((name or "").lower())
    suffix = os.path.splitext(stem)[1] if packed in _PACKERS else packed
    expected = _FORMATS.get(suffix)
    format = expected or "jsonl" if asked == AUTO else asked
    if suffix in _UNKNOWN and asked == AUTO:
        remedy = "name a .jsonl, .csv, .tsv, .msgpack, .parquet or .db file, or say what is to be in this one with "
        remedy += option("output_format")
        raise InvalidUsage(f"{option('output', name)}: no {suffix} is written", remedy)
    if expected not in (None, format) and (format != "raw" or expected in WHOLE):
        remedy = f"name another file, or give {option('output_format', expected)}"
        raise InvalidUsage(f"{option('output', name)} is no name for {option('output_format', format)}", remedy)
    if format in WHOLE and packed in _PACKERS:
        said = f"{option('output', name)}: {WHOLE[format]} is not written compressed"
        raise InvalidUsage(said, f"leave {packed} out of its name")
    if packed == ".zst":
        _check_zstd(name or "")
    return format


def _check_zstd(name: str) -> None:
    try:
        zstd()
    except ImportError:
        remedy = "pip install 'batchmill[zstd]', or name a .gz or .xz file"
        raise InvalidUsage(
            f"{option('output', name)}: to compress with zstd takes Python 3.14 or an extra", remedy
        ) from None


def packer_for(name: str) -> Packer | None:
    """What compresses an output of that name, None where it is not to be."""
    make = _PACKERS.get(os.path.splitext(name.lower())[1])
    return None if make is None else make()
