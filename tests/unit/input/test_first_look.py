"""What bytes are, going by the first of them: read right, or refused with what makes them readable; wherever cut."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_kit import shell
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.errors import InputBroken, InvalidUsage
from batchmill.input import compression
from batchmill.input.by_suffix import format_of
from batchmill.input.compression import UNREADABLE, zstd
from batchmill.input.first_look import cleaned
from batchmill.input.formats import FORMATS

TEXT = "id,n\n1,é\n2,\U0001f600\n"


SKIPPED = b"\x5e*M\x18\x03\0\0\0abc"  # a frame of zstd without content


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def read(data: bytes, name: str = "t.txt", format: str = "lines", size: int = 7) -> bytes:
    return b"".join(cleaned(pieces(data, size), name, FORMATS[format]))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.sampled_from([bytes, gzip.compress, bz2.compress, lzma.compress, zstd().compress]), st.integers(1, 60),
    st.integers(0, 3), st.sampled_from(["jsonl", "csv", "lines"]),
)  # fmt: skip
def test_encodings_and_packings_are_seen_through_whatever_the_name_and_wherever_it_is_cut(
    encoding: str, pack: type[bytes], size: int, zeros: int, format: str
) -> None:
    members = pack(TEXT.encode(encoding)) + (pack(b"") + bytes(4 * zeros) if pack is not bytes else b"")
    assert read(members, "t", format, size) == TEXT.encode()


def test_frames_without_content_and_what_no_module_unpacks(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = SKIPPED + zstd().compress(b"a\n") + SKIPPED + zstd().compress(b"b\n") + SKIPPED
    assert read(packed) == b"a\nb\n"
    with pytest.raises(OSError, match=r"zstd|Zstandard"):
        read(packed[:11] + b"(\xb5/\xfd" + b"junk" * 9)

    def missing() -> None:
        raise ImportError

    monkeypatch.setattr(compression, "zstd", missing)
    with pytest.raises(InvalidUsage, match="compressed with zstd, which needs") as refused:
        read(packed, "a b")
    assert "`zstd -dc 'a b' |`" in str(refused.value.remedy)


def test_bytes_with_a_big_endian_mark_are_read() -> None:
    assert read(b"\xfe\xff" + TEXT.encode("utf-16-be")) == TEXT.encode()


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_carriage_return_alone_ends_lines_where_nothing_else_does(size: int) -> None:
    assert read(b"a\rb\rc", size=size) == b"a\nb\nc"
    assert read(b"a\rb\r\nc\r\n", size=size) == b"a\rb\r\nc\r\n"


@pytest.mark.parametrize(
    ("data", "format", "message", "remedy"),
    [
        (TEXT.encode("utf-16-le"), "csv", "holds NUL bytes", "encoding='utf-16le' reads it"),
        (TEXT.encode("utf-16-be"), "jsonl", "holds NUL bytes", "`iconv -f utf-16be -t utf-8 'a b'` makes it text"),
        (b"file 1\0file 2\0", "lines", "holds NUL bytes", "give format='null'"),
        (b"\x7fELF\0\0\0\0\0\n", "lines", "holds NUL bytes", "convert it to text"),
        (b"PK\x03\x04abc", "csv", "is a zip archive", "unpack or convert it first"),
        (gzip.compress(b"%PDF-1.7\n", mtime=0), "lines", "is a PDF", "unpack or convert it first"),
        (b"PAR1\x15", "csv", "is a Parquet file", "give format='parquet'"),
        (b"PK\x03\x04\x14\0[Content_Types].xml", "csv", "is an Excel workbook", "pandas.read_excel("),
        (b"Obj\x01\x04", "jsonl", "is an Avro file", "polars.read_avro("),
        (b"]\0\0\x80\0", "csv", "is compressed with lzma", "unpack"),
        (b'<?xml version="1.0"?>\n<a/>', "csv", "is an XML document", "pandas.read_xml("),
        (b' \n{\r\n "a": 1\n}', "jsonl", "is a JSON document", "`jq -c '.' 'a b' > 'a b.jsonl'`"),
        (b'[{"a": 1},\n{}]', "jsonl", "is a JSON document", "`jq -c '.[]' 'a b' > 'a b.jsonl'`"),
    ],
)
def test_what_cannot_be_of_the_format_is_refused_with_what_helps(
    data: bytes, format: str, message: str, remedy: str
) -> None:
    with pytest.raises(InvalidUsage, match=r"^a b ") as refused:
        read(data, "a b", format)
    assert message in refused.value.message
    assert remedy in str(refused.value.remedy)


@pytest.mark.parametrize("data", [b"a\0b\n" + b"x" * 50, b"[1, 2]\n", b"{\n", b"", b"BZhang\n", b"\rB\n"])
def test_text_is_left_as_it_is(data: bytes) -> None:
    assert read(data) == data


@pytest.mark.parametrize(
    ("name", "data", "kept"),
    [
        ("t.gz", b"", b""),
        ("t.bz2", b"BZh9", b""),
        ("t", gzip.compress(TEXT.encode(), mtime=0)[:-4], TEXT.encode()),
        ("t", lzma.compress(TEXT.encode()) + b"junk", TEXT.encode()),
        ("t", gzip.compress(TEXT.encode(), mtime=0) + b"\0\0x", TEXT.encode()),
        ("t", zstd().compress(TEXT.encode()) + SKIPPED + b"xxxx", TEXT.encode()),
        ("t", zstd().compress(TEXT.encode())[:-1], TEXT.encode()[:-1]),
        ("t.zst", b"(\xb5", b""),
    ],
)
def test_what_is_cut_short_or_goes_on_is_an_error_behind_all_that_is_whole(name: str, data: bytes, kept: bytes) -> None:
    found: list[bytes] = []
    with pytest.raises(UNREADABLE) as broken:
        found.extend(cleaned(pieces(data, 1000), name, FORMATS["lines"]))
    assert b"".join(found) == kept
    assert isinstance(broken.value, InputBroken) == data.endswith((b"junk", b"x"))


def test_a_bomb_is_unpacked_piece_by_piece() -> None:
    packed = gzip.compress(b"\n" * (64 << 20))
    assert max(map(len, cleaned(iter([packed]), "t", FORMATS["lines"]))) <= 1 << 20


def test_the_line_that_converts_does_so_whatever_the_file_is_called(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    name = tmp_path / "it's $HOME.avro"
    polars.DataFrame({"n": [1, 2]}).write_avro(name)
    with pytest.raises(InvalidUsage, match="is an Avro file") as refused:
        format_of(str(name))
    command = re.search("`(.*)`", refused.value.remedy)
    assert command is not None
    assert shell(command[1].replace("python3", shlex.quote(sys.executable)), tmp_path).returncode == 0
    assert polars.read_parquet(name.with_suffix(".parquet"))["n"].to_list() == [1, 2]
    assert format_of("d/x.parquet") == "parquet"
    with pytest.raises(InvalidUsage, match=r"x\.xlsx is an Excel workbook"):
        format_of("x.xlsx")
