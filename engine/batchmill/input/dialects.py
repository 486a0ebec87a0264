"""The dialect of a table: what stands between cells, what keeps one together, its encoding, what names its columns.

A dialect that is not the usual one is part of the format's name, in the words of the options that ask for it
(`csv --delimiter ';'`): that is what a checkpoint keeps, and how a worker knows it.
"""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from batchmill.errors import InvalidUsage
from batchmill.settings import NO_QUOTE
from batchmill.text import option, read_names, write_names
from batchmill.value_class import value_class

UTF8 = "utf-8"
_WORDS = {"tab": "\t", "\\t": "\t", "space": " "}  # for characters that a shell makes hard to give
_ALIEN = 0xDC00  # and the byte: how a byte that its encoding does not have stands in the text: as no UTF-8
HANDLER = "batchmill.alien"  # the name of the codecs' error handler that puts it there, and makes it that byte again


@value_class
class Dialect:
    """How a table is written. `quote` is "" where quotes are characters like others, `encoding` as Python calls it.

    `skip_lines` lines come before the header. `columns` are the names of all columns where there is no `header`; else
    of those that are wanted, in that order: all where there are none.
    """

    delimiter: str = ","
    quote: str = '"'
    encoding: str = UTF8
    skip_lines: int = 0
    header: bool = True
    columns: tuple[str, ...] = ()

    def words(self, usual: Dialect) -> list[str]:
        """The options that ask for this dialect where another would be `usual`."""
        words: list[str] = []
        if self.delimiter != usual.delimiter:
            words += ["--delimiter", "tab" if self.delimiter == "\t" else self.delimiter]
        if self.quote != usual.quote:
            words += ["--quote", self.quote or NO_QUOTE]
        if self.encoding != usual.encoding:
            words += ["--encoding", self.encoding]
        if self.skip_lines:
            words += ["--skip-lines", str(self.skip_lines)]
        if not self.header:
            words.append("--no-header")
        if self.columns:
            words += ["--columns", write_names(self.columns)]
        return words


def dialect_of(words: Sequence[str], usual: Dialect) -> Dialect:
    """The dialect that such options ask for; raises ValueError for any other words."""
    rest, found = iter(words), usual
    for word in rest:
        if word == "--no-header":
            found = replace(found, header=False)
            continue
        value = next(rest, None)
        if value is None:
            raise ValueError(word)
        found = replace(found, **_READ[word](value)) if word in _READ else _unknown(word)
    return found


def _unknown(word: str) -> Dialect:
    raise ValueError(word)


_READ: Mapping[str, Any] = {
    "--delimiter": lambda text: {"delimiter": _WORDS.get(text, text)},
    "--quote": lambda text: {"quote": "" if text == NO_QUOTE else text},
    "--encoding": lambda text: {"encoding": text},
    "--skip-lines": lambda text: {"skip_lines": int(text)},
    "--columns": lambda text: {"columns": read_names(text)},
}


def asked_for(
    usual: Dialect,
    *,
    delimiter: str | None,
    quote: str,
    encoding: str | None,
    skip_lines: int,
    header: bool,
    columns: tuple[str, ...],
) -> Dialect:
    """The usual dialect, changed by what was asked for; raises InvalidUsage for what cannot be."""
    dialect = Dialect(
        delimiter=usual.delimiter if delimiter is None else _one("delimiter", _WORDS.get(delimiter, delimiter)),
        quote="" if quote == NO_QUOTE else _one("quote", quote),
        encoding=UTF8 if encoding is None else _encoding(encoding),
        skip_lines=skip_lines,
        header=header,
        columns=columns,
    )
    if dialect.delimiter == dialect.quote:
        raise InvalidUsage(
            f"{option('delimiter')} and {option('quote')} are both {dialect.quote!r}", "give two characters"
        )
    return dialect


def _one(setting: str, text: str) -> str:
    if len(text) != 1 or not text.isascii() or text in "\0\r\n":
        other = "" if setting == "delimiter" else ", or none"
        examples = "';', '|' or tab" if setting == "delimiter" else '"\'"'
        raise InvalidUsage(
            f"{option(setting, repr(text))} is not one ASCII character", f"give one, such as {examples}{other}"
        )
    return text


def _encoding(name: str) -> str:
    remedy = "give a name that Python knows, such as cp1252, latin-1, utf-16, shift_jis or gb18030"
    try:
        found = codecs.lookup(name)
        if not found._is_text_encoding or "a".encode(found.name).decode(found.name) != "a":
            raise LookupError
        codecs.getincrementaldecoder(found.name)
    except (LookupError, UnicodeError, ValueError):
        raise InvalidUsage(f"{option('encoding', repr(name))} is not known", remedy) from None
    return UTF8 if found.name == "utf-8-sig" else found.name  # a mark is never text


def in_name(base: str, words: Sequence[str]) -> str:
    """The name of a format that is asked for with such options."""
    return shlex.join([base, *words])


# --- encodings ---


def _alien(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeDecodeError):
        return "".join(chr(_ALIEN | byte) for byte in error.object[error.start : error.end]), error.end
    if isinstance(error, UnicodeEncodeError):
        found = error.object[error.start : error.end]
        if all(_ALIEN <= ord(char) <= _ALIEN | 0xFF for char in found):
            return bytes(ord(char) & 0xFF for char in found), error.end
    raise error


codecs.register_error(HANDLER, _alien)


def why_no_text(error: UnicodeDecodeError, encoding: str) -> str:
    """Why bytes are not of that encoding, once they were made UTF-8."""
    if encoding == UTF8:
        return f"not valid UTF-8: {error.reason} at byte {error.start}"
    text = error.object[error.start :].decode("utf-8", "surrogatepass")
    return f"not valid {encoding}: it has nothing for byte 0x{ord(text[0]) & 0xFF:02x}"


def in_encoding(data: bytes, encoding: str) -> bytes:
    """UTF-8 in that encoding, with the bytes that it does not have as they were; what it has no bytes for stays UTF-8.

    Of a part of a text alone: without a mark.
    """
    if encoding == UTF8:
        return data
    try:
        return data.decode("utf-8", "surrogatepass").encode(encoding, HANDLER)
    except UnicodeError:
        return data
