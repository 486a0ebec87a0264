"""One look at the first bytes of an INPUT, and what follows from it: its bytes unpacked, as UTF-8, in lines.

The only place that knows bytes which are not what they are taken for, whatever the INPUT is called and wherever it
comes from. What can be read is read (gzip, bzip2, xz, zstd; UTF-16 and UTF-32 with a mark; lines that end with a
carriage return alone); what cannot is refused, with what makes it readable.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import chain
from shlex import quote

from batchmill.errors import InvalidUsage
from batchmill.input.by_suffix import as_lines_of_json
from batchmill.input.compression import UNREADABLE, compression_of, unpacked
from batchmill.input.dialects import HANDLER, UTF8
from batchmill.input.foreign import PARQUET, by_bytes, remedy_for_parquet
from batchmill.input.formats import Format
from batchmill.text import option

LOOK = 64 << 10  # bytes that are looked at, at most
BOM = b"\xef\xbb\xbf"
_ENCODINGS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
              codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip  # UTF-32 first: its mark begins as that of UTF-16 does


def cleaned(blocks: Iterator[bytes], name: str, format: Format) -> Iterator[bytes]:
    """The bytes of the INPUT `name` (`-`: stdin), which come as `blocks`, as that format wants them.

    Raises what reading raises (UNREADABLE, InputBroken), behind all that came before it; InvalidUsage for what cannot
    be of the format.
    """
    head, blocks = _begun(blocks, format.separator)
    compression = compression_of(head, name)
    while compression is not None:
        head, blocks = _begun(unpacked(compression, chain((head,), blocks), name), format.separator)
        compression = compression_of(head)
    if format.separator == b"\n":
        encoding, errors = _encoding(head, format)
        if encoding != UTF8:
            head, blocks = _begun(_recoded(chain((head,), blocks), encoding, errors), format.separator)
        _refuse(head, name, format)
        if b"\r" in head and b"\n" not in head:
            head, blocks = head.replace(b"\r", b"\n"), (block.replace(b"\r", b"\n") for block in blocks)
    first = [head.removeprefix(BOM)]
    del head  # a block is not to be held for as long as others come
    if first[0]:
        yield first.pop()
    yield from blocks


def _begun(blocks: Iterator[bytes], separator: bytes) -> tuple[bytes, Iterator[bytes]]:
    """The beginning, up to where a record may end or a look's length, and what follows: be it an error."""
    head = b""
    try:
        while len(head) < LOOK and separator not in head and (block := next(blocks, b"")):
            head += block
    except UNREADABLE as error:
        return head, _raising(error)
    return head, blocks


def _raising(error: Exception) -> Iterator[bytes]:
    raise error
    yield b""  # makes it an iterator


def _encoding(head: bytes, format: Format) -> tuple[str, str]:
    """The encoding of bytes that begin so, and how it is read where they are not of it: by a mark, else as asked."""
    for mark, encoding in _ENCODINGS.items():
        if head.startswith(mark):
            return encoding, "surrogatepass"
    is_marked = format.table is None or head.startswith(BOM)
    return (UTF8 if is_marked or format.table is None else format.table.dialect.encoding), HANDLER


def _recoded(blocks: Iterator[bytes], encoding: str, errors: str) -> Iterator[bytes]:
    """Text as UTF-8. What is no text of that encoding is no UTF-8 then, where it stands, and fails its record."""
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    try:
        for block in chain(blocks, (b"",)):
            if text := decoder.decode(block, final=not block):
                yield text.encode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise EOFError(f"it is no {encoding.upper()} text: {error.reason}") from None


def _refuse(head: bytes, name: str, format: Format) -> None:
    """Raise InvalidUsage for bytes that hold no text, or one document where there should be a record a line."""
    shown = "stdin" if name == "-" else name
    if head.startswith(PARQUET):
        raise InvalidUsage(f"{shown} is a Parquet file, and no text", remedy_for_parquet(name))
    foreign = by_bytes(head, is_text=format.name == "lines")
    if foreign is not None:
        raise InvalidUsage(f"{shown} is {foreign.what}, not {format.base}", foreign.remedy(name))
    nuls = head.count(b"\0")
    if nuls and (b"\n" not in head or (nuls > 1 and nuls * 10 > len(head))):
        remedy = _remedy_for_nuls(head, name, format)
        raise InvalidUsage(f"{shown} holds NUL bytes, and is no text as {format.name} is", remedy)
    first = head.lstrip().partition(b"\n")[0].rstrip()
    if format.name == "jsonl" and (first in (b"{", b"[") or (first.startswith(b"[") and first.endswith(b","))):
        command = as_lines_of_json("" if name == "-" else name, "." if first == b"{" else ".[]")
        raise InvalidUsage(f"{shown} is a JSON document over several lines, not an item a line", f"try `{command}`")


def _remedy_for_nuls(head: bytes, name: str, format: Format) -> str:
    if b"\n" not in head:
        return f"give {option('format', 'null')} if NULs end its items, else convert it to text"
    file = "" if name == "-" else f" {quote(name)}"
    for encoding, zeros in (("utf-16le", head[1::2]), ("utf-16be", head[::2])):
        if 2 * zeros.count(b"\0") > len(zeros) and 4 * (head.count(b"\0") - zeros.count(b"\0")) < len(zeros):
            if format.table is not None:
                return f"it looks like UTF-16 without a mark: {option('encoding', encoding)} reads it"
            return f"it looks like UTF-16 without a mark: `iconv -f {encoding} -t utf-8{file}` makes it text"
    return "convert it to text"


def is_as_it_is(head: bytes, format: Format) -> bool:
    """Whether `cleaned` gives the bytes of a file that begins so as they are, but for a mark at their beginning."""
    if compression_of(head) is not None:
        return False
    is_text = format.separator == b"\n"
    return not is_text or (_encoding(head, format)[0] == UTF8 and (b"\r" not in head or b"\n" in head))


def is_plain(head: bytes) -> bool:
    """Whether a file that begins so is neither packed nor to be recoded."""
    return compression_of(head) is None and not head.startswith(tuple(_ENCODINGS))
