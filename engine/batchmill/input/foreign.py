"""Files that other programs write and batchmill does not read: what they are, and the line that converts them."""

from __future__ import annotations

import os
from shlex import quote

from batchmill.text import option
from batchmill.value_class import value_class


@value_class
class Foreign:
    """A kind of file: what it `is`, the suffixes that it has, the bytes that it begins with, Python code that converts
    it (`{old}` into `{new}`, which has the suffix `makes`), and the packages that the code needs."""

    what: str
    suffixes: tuple[str, ...] = ()
    magics: tuple[bytes, ...] = ()
    code: str = ""
    makes: str = ""
    needs: str = ""

    def remedy(self, name: str) -> str:
        """What to do with the file `name` (`-`: stdin)."""
        if not self.code:
            return "unpack or convert it first"
        old = "FILE" if name == "-" else name
        stem = old
        for suffix in self.suffixes:
            stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) else stem
        code = self.code.format(old=repr(old), new=repr(stem + self.makes))
        return f"try `python3 -c {quote(code)}` (pip install {self.needs})"


_EXCEL = "import pandas; pandas.read_excel({old}).to_csv({new}, index=False)"
_ARROW = "p.write_table({read}({{old}}), {{new}})"
KINDS = (
    Foreign("an Excel workbook", (".xlsx", ".xlsm", ".ods"), (), _EXCEL, ".csv", "pandas openpyxl odfpy"),
    Foreign("an old Excel workbook", (".xls",), (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",), _EXCEL, ".csv", "pandas xlrd"),
    Foreign("an Avro file", (".avro",), (b"Obj\x01",),
            "import polars; polars.read_avro({old}).write_parquet({new})", ".parquet", "polars"),
    Foreign("an ORC file", (".orc",), (b"ORC\n", b"ORC\x08"),
            "import pyarrow.orc as o, pyarrow.parquet as p; " + _ARROW.format(read="o.read_table"), ".parquet",
            "pyarrow"),
    Foreign("an Arrow file", (".arrow", ".feather"), (b"ARROW1", b"FEA1"),
            "import pyarrow.feather as f, pyarrow.parquet as p; " + _ARROW.format(read="f.read_table"), ".parquet",
            "pyarrow"),
    Foreign("an XML document", (".xml",), (b"<?xml",),
            "import pandas; pandas.read_xml({old}).to_json({new}, orient='records', lines=True)", ".jsonl",
            "pandas lxml"),
    Foreign("a zip archive", (".zip",), (b"PK\x03\x04",)),
    Foreign("an SQLite database", (), (b"SQLite format 3\0",),
            "import pandas, sqlite3; t = pandas.read_sql('SELECT * FROM a_table', sqlite3.connect({old})); "
            "t.to_csv({new}, index=False)",
            ".csv", "pandas"),
    Foreign("a PDF document", (".pdf",), (b"%PDF-",)),
    Foreign("compressed with lz4", (".lz4",), (b"\x04\x22\x4d\x18",)),
    Foreign("compressed with lzma", (".lzma",), (b"]\0\0",)),
    Foreign("compressed with compress", (".z",), (b"\x1f\x9d",)),
    Foreign("a 7z archive", (".7z",), (b"7z\xbc\xaf\x27\x1c",)),
)  # fmt: skip
_OF_ZIP = {b"[Content_Types].xml": KINDS[0], b"mimetypeapplication/vnd.oasis": KINDS[0]}
PARQUET = b"PAR1"


def by_name(name: str) -> Foreign | None:
    """What a file is by its name, if that is no format."""
    return next((kind for kind in KINDS if kind.suffixes and name.lower().endswith(kind.suffixes)), None)


def by_bytes(head: bytes, *, is_text: bool) -> Foreign | None:
    """What a file is that begins so. With `is_text`, XML is text as any other."""
    for mark, kind in _OF_ZIP.items():
        if head.startswith(b"PK\x03\x04") and mark in head[:2000]:
            return kind
    found = next((kind for kind in KINDS if kind.magics and head.startswith(kind.magics)), None)
    return None if found is not None and is_text and ".xml" in found.suffixes else found


def remedy_for_parquet(name: str) -> str:
    """What to do with a Parquet file that is called something else, or is in a pipe."""
    if name == "-" or (os.path.exists(name) and not os.path.isfile(name)):
        return "write it to a file: `cat > FILE.parquet`; then give FILE.parquet as INPUT"
    return f"give {option('format', 'parquet')}"
