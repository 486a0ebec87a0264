"""Odd files, as people have them: what batchmill, pandas, polars and DuckDB make of each, without any option.

Prints the table in the manual (cli/README.md). Needs the extra `dev`.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from batchmill.input.compression import zstd

ROWS: list[tuple[str, ...]] = [("1", "é"), ("2", "b")]
CSV = "id,t\n1,é\n2,b\n"
SAME = "def same(item):\n    return item\n"


class Odd(NamedTuple):
    """A file: what it is, its name and bytes, and the cells that a person sees in it; None where nothing right can be
    read."""

    what: str
    name: str
    data: bytes
    rows: list[tuple[str, ...]] | None = ROWS


def odd_files() -> Iterator[Odd]:
    """All of them."""
    text = CSV.encode()
    yield Odd("plain UTF-8", "a.csv", text)
    yield Odd("with a byte order mark", "a.csv", b"\xef\xbb\xbf" + text)
    yield Odd("UTF-16 with a mark", "a.csv", CSV.encode("utf-16"))
    yield Odd("cp1252", "a.csv", CSV.encode("cp1252"))
    yield Odd("lines that end with CR LF", "a.csv", CSV.replace("\n", "\r\n").encode())
    yield Odd("lines that end with CR", "a.csv", CSV.replace("\n", "\r").encode())
    yield Odd("no newline at the end", "a.csv", text[:-1])
    yield Odd("blank lines before the header", "a.csv", b"\n\n" + text)
    yield Odd("gzip, called .csv", "a.csv", gzip.compress(text))
    members = gzip.compress(text[:9]) + gzip.compress(text[9:])
    yield Odd("gzip in two members, zeros behind", "a.csv.gz", members + bytes(512))
    yield Odd("bzip2", "a.csv.bz2", bz2.compress(text))
    yield Odd("xz", "a.csv.xz", lzma.compress(text))
    yield Odd("zstd in two frames", "a.csv.zst", zstd().compress(text[:9]) + zstd().compress(text[9:]))
    yield Odd("gzip cut short", "a.csv.gz", gzip.compress(text * 50)[:-30], None)
    yield Odd("semicolons", "a.csv", CSV.replace(",", ";").encode())
    yield Odd("tabs, called .tsv", "a.tsv", CSV.replace(",", "\t").encode())
    yield Odd("quoted newlines and quotes", "a.csv", b'id,t\n1,"a\n""b"""\n2,b\n', [("1", 'a\n"b"'), ("2", "b")])
    yield Odd("a quote that nothing closes", "a.csv", b'id,t\n1,"a\n2,b\n3,c\n', [("2", "b"), ("3", "c")])
    yield Odd("a quote inside of a cell", "a.csv", b'id,t\n1,5" disk\n2,b\n', [("1", '5" disk'), ("2", "b")])
    yield Odd("a row too short, one too long", "a.csv", b"id,t\n1\n2,b\n3,c,d\n", [("2", "b")])
    yield Odd("a column twice", "a.csv", b"id,id\n1,2\n", [("1", "2")])
    yield Odd("a column without a name", "a.csv", b"id,\n1,2\n", [("1", "2")])
    yield Odd("leading zeros, NA, 1e5", "a.csv", b"id,t\n007,NA\n1e5,b\n", [("007", "NA"), ("1e5", "b")])
    yield Odd("a header alone", "a.csv", b"id,t\n", [])
    yield Odd("empty", "a.csv", b"", [])
    yield Odd("bytes that are no UTF-8 in one row", "a.csv", b"id,t\n1,\xff\n2,b\n", [("2", "b")])
    yield Odd("Excel, called .csv", "a.csv", b"PK\x03\x04\x14\0[Content_Types].xml" + bytes(50), None)
    yield Odd("JSON lines, one broken", "a.jsonl", b'{"id": "2", "t": "b"}\n{"id": \n', [("2", "b")])
    yield Odd("a JSON array over lines, called .jsonl", "a.jsonl", b'[\n{"id": "1"}\n]\n', None)
    yield Odd("Parquet cut short", "a.parquet", b"PAR1" + bytes(100), None)


def cell(value: Any) -> str:
    """A cell as a person sees it."""
    return "" if value is None or value != value else str(value)


class Told(Exception):
    """Read, with a word for what is not as it should be."""


def by_batchmill(path: Path) -> list[tuple[str, ...]]:
    (path.parent / "f.py").write_text(SAME)
    command = [sys.executable, "-m", "batchmill", "run", "f.py:same", path.name, "--no-checkpoint", "-o", "-"]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode not in (0, 1):
        raise ValueError(done.stderr.splitlines()[0].removeprefix("batchmill: "))
    rows = [tuple(map(cell, json.loads(line)["result"].values())) for line in done.stdout.splitlines()]
    if done.returncode or done.stderr:
        raise Told(rows)
    return rows


def by_pandas(path: Path) -> list[tuple[str, ...]]:
    import pandas as pd

    reader = {".tsv": pd.read_table, ".jsonl": lambda p: pd.read_json(p, lines=True), ".parquet": pd.read_parquet}
    read: Callable[..., Any] = reader.get(path.suffix, pd.read_csv)
    return [tuple(map(cell, row)) for row in read(path).itertuples(index=False)]


def by_polars(path: Path) -> list[tuple[str, ...]]:
    import polars as pl

    reader = {".tsv": lambda p: pl.read_csv(p, separator="\t"), ".jsonl": pl.read_ndjson, ".parquet": pl.read_parquet}
    read: Callable[..., Any] = reader.get(path.suffix, pl.read_csv)
    return [tuple(map(cell, row)) for row in read(path).iter_rows()]


def by_duckdb(path: Path) -> list[tuple[str, ...]]:
    import duckdb

    return [tuple(map(cell, row)) for row in duckdb.sql(f"select * from '{path}'").fetchall()]


def verdict(read: Callable[[Path], list[tuple[str, ...]]], path: Path, rows: list[tuple[str, ...]] | None) -> str:
    """What becomes of a file, in a word."""
    try:
        found = read(path)
    except Told as told:
        if told.args[0] == rows:
            return "right, and told"
        return "the rest right, and told" if set(told.args[0]) <= set(rows or ()) else "read otherwise, and told"
    except Exception:
        return "refused"
    return "right" if found == rows else "**read otherwise, silently**"


def main() -> None:
    readers = {"batchmill": by_batchmill, "pandas": by_pandas, "polars": by_polars, "DuckDB": by_duckdb}
    print("| a file | " + " | ".join(readers) + " |\n|---|" + "---|" * len(readers))
    for odd in odd_files():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / odd.name
            path.write_bytes(odd.data)
            found = (verdict(read, path, odd.rows) for read in readers.values())
            print("|", odd.what, "|", " | ".join(found), "|", flush=True)


if __name__ == "__main__":
    main()
