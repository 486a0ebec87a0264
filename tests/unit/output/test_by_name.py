"""The name of an output: which format it chooses, and which it refuses."""

from __future__ import annotations

import pytest

from batchmill.errors import InvalidUsage
from batchmill.output.by_name import format_of_output


@pytest.mark.parametrize(
    ("name", "asked", "format"),
    [
        (None, "auto", "jsonl"), ("-", "auto", "jsonl"), ("-", "csv", "csv"), ("out", "auto", "jsonl"),
        ("out.txt", "csv", "csv"), ("a.db/out", "auto", "jsonl"), ("out.csv", "auto", "csv"), ("OUT.CSV", "csv", "csv"),
        ("out.ndjson.xz", "auto", "jsonl"), ("out.csv.gz", "auto", "csv"), ("out.sqlite3", "auto", "sqlite"),
        ("out.msgpack.bz2", "auto", "msgpack"), ("out.gz", "auto", "jsonl"), ("out.csv", "raw", "raw"),
        ("out.tsv", "raw", "raw"), ("out.tsv", "auto", "tsv"), ("out.parquet", "auto", "parquet"),
        ("dir.csv/", "auto", "jsonl"),
    ],
)  # fmt: skip
def test_a_suffix_chooses_the_format(name: str | None, asked: str, format: str) -> None:
    assert format_of_output(name, asked) == format


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        (
            "out.csv",
            "jsonl",
            "output='out.csv' is no name for output_format='jsonl'; name another file, or give output_format='csv'",
        ),
        ("out.jsonl.gz", "csv", "output='out.jsonl.gz' is no name for output_format='csv'"),
        ("out.db", "raw", "output='out.db' is no name for output_format='raw'"),
        ("out.jsonl", "sqlite", "output='out.jsonl' is no name for output_format='sqlite'"),
        ("out.db.gz", "auto", "output='out.db.gz': a database is not written compressed; leave .gz out of its name"),
        ("out.tsv", "csv", "output='out.tsv' is no name for output_format='csv'"),
        ("out.parquet.gz", "auto", "output='out.parquet.gz': a Parquet file is not written compressed"),
        ("out.parquet", "raw", "output='out.parquet' is no name for output_format='raw'"),
        ("out.sqlite.zst", "auto", "output='out.sqlite.zst': a database is not written compressed"),
    ],
)
def test_a_name_that_says_something_else_is_refused(name: str, asked: str, said: str) -> None:
    with pytest.raises(InvalidUsage) as refused:
        format_of_output(name, asked)
    assert str(refused.value).startswith(said)
