"""Compressed bytes, unpacked in bounded memory: one member after the other, up to the end."""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from shlex import quote
from typing import Any, Protocol

from batchmill.errors import InputBroken, InvalidUsage
from batchmill.value_class import value_class

UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, InputBroken)
_PART = 1 << 20  # bytes that are unpacked at once, at most


class _Unpacker(Protocol):
    """What bz2 and lzma have."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gunzip:
    """The same for gzip."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        part = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.needs_input = len(part) < max_length and not self._inner.unconsumed_tail
        return part


def zstd() -> Any:
    """The module that knows zstd; raises ImportError where there is none."""
    try:
        from compression import zstd as found  # of Python since 3.14
    except ImportError:
        from backports import zstd as found
    return found


class _Unzstd:
    """The same for a frame of zstd, or one that only takes up room, as some programs put before their own."""

    def __init__(self) -> None:
        module = zstd()
        self._inner, self._error = module.ZstdDecompressor(), module.ZstdError

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def needs_input(self) -> bool:
        return bool(self._inner.needs_input)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        try:
            return bytes(self._inner.decompress(data, max_length))
        except self._error as error:
            raise OSError(str(error)) from None


@value_class
class Compression:
    """A way to compress: its name, its suffix, the bytes that a member begins with and what tells them from text, what
    unpacks a member, and the command that unpacks what is whole of a file, and leaves out what is behind it."""

    name: str
    suffix: str
    magic: bytes
    begins: re.Pattern[bytes]
    unpacker: Callable[[], _Unpacker]
    command: str

    def goes_on(self, rest: bytes) -> bool:
        """Whether what comes behind a member is another one."""
        return rest.startswith(self.magic) or self.begins.match(rest) is not None


COMPRESSIONS = (
    Compression("gzip", ".gz", b"\x1f\x8b", re.compile(rb"\x1f\x8b"), _Gunzip, "gzip -dcq"),
    Compression(
        "bzip2", ".bz2", b"BZh", re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.BZ2Decompressor, "bzip2 -dcq"
    ),
    Compression(
        "xz", ".xz", b"\xfd7zXZ\0", re.compile(rb"\xfd7zXZ\0"), lzma.LZMADecompressor, "xz -dcq --single-stream"
    ),
    Compression("zstd", ".zst", b"(\xb5/\xfd", re.compile(rb"\(\xb5/\xfd|[\x50-\x5f]\x2aM\x18"), _Unzstd, "zstd -dcq"),
)


def compression_of(head: bytes, name: str = "") -> Compression | None:
    """How bytes that begin so are compressed; those of a file that is called so may be cut short at once."""
    for one in COMPRESSIONS:
        is_cut = name.lower().endswith(one.suffix) and head[: len(one.magic)] == one.magic[: len(head)]
        if is_cut or one.begins.match(head):
            return one
    return None


def unpacked(compression: Compression, blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """The bytes that were compressed, of all members; zeros between and behind them are padding. Raises EOFError for
    what is cut short, zlib.error, lzma.LZMAError or OSError for what is damaged, InputBroken for other bytes behind."""
    rest = b""
    while True:
        rest = yield from _member(_unpacker(compression, name), rest, blocks)
        while len(rest := rest.lstrip(b"\0")) < len(compression.magic) and (more := next(blocks, b"")):
            rest += more
        if not rest:
            return
        if not compression.goes_on(rest):
            shown, file = ("stdin", "") if name == "-" else (name, f" {quote(name)}")
            message = f"{shown} is whole, but there are other bytes behind its {compression.name} data"
            raise InputBroken(message, f"`{compression.command}{file} > FILE` leaves them out")


def _unpacker(compression: Compression, name: str) -> _Unpacker:
    try:
        return compression.unpacker()
    except ImportError:
        shown, file = ("stdin", "-") if name == "-" else (name, quote(name))
        remedy = f"pip install 'batchmill[zstd]', or give `zstd -dc {file} |` before it and - as INPUT"
        raise InvalidUsage(f"{shown} is compressed with zstd, which needs Python 3.14 or an extra", remedy) from None


def _member(unpacker: _Unpacker, data: bytes, blocks: Iterator[bytes]) -> Generator[bytes, None, bytes]:
    while not unpacker.eof:
        if part := unpacker.decompress(data, _PART):
            yield part
        data = b""
        if not unpacker.eof and unpacker.needs_input and not (data := next(blocks, b"")):
            raise EOFError("its compressed data ends too early")
    return unpacker.unused_data
