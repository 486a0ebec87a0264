"""Output formats through the real program: CSV and SQLite equal to what Python reads, whole or not there."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import os
import resource
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cli_kit import LIMIT, PROGRAM, batchmill, environment

from batchmill import Outcome, open_checkpoint
from batchmill.input.compression import zstd

WORK = """
def work(item):
    n = item["n"]
    if n % 7 == 3:
        raise ValueError(f"=bad {n}")
    return [f"text {n}", n, n / 2, {"n": n}, None, "=1+1", b"raw"][n % 7]


def wide(item):
    return "x" * 2000
"""
COUNT = 300


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a batch that is done, some of its items failed."""
    cwd = tmp_path_factory.mktemp("outputs")
    (cwd / "w.py").write_text(WORK)
    (cwd / "items.jsonl").write_text("".join(json.dumps({"id": f"i{n}", "n": n}) + "\n" for n in range(COUNT)))
    ended = batchmill("run", "w.py:work", "items.jsonl", "-c", "c.ckpt", "-o", "run.csv", cwd=cwd)
    assert ended.returncode == 1
    return cwd


def outcomes(cwd: Path) -> list[Outcome]:
    with open_checkpoint(str(cwd / "c.ckpt")) as results:
        return list(results.outcomes())


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def cell(value: Any) -> str:
    text = (
        value if isinstance(value, str) else "" if value is None else json.dumps(value) if value != b"raw" else "cmF3"
    )
    return f"'{text}" if text.startswith("=") else text


def test_csv_of_a_run_and_of_its_checkpoint_are_the_same_and_hold_the_results_in_order(done: Path) -> None:
    shown = batchmill("results", "c.ckpt", "--output-format", "csv", cwd=done)
    assert (shown.returncode, shown.stdout) == (0, (done / "run.csv").read_text())
    expected = [[o.id, cell(o.result)] for o in outcomes(done) if o.ok]
    assert table(done / "run.csv") == [["id", "result"], *expected]


def test_csv_of_all_items_has_columns_for_errors(done: Path) -> None:
    assert batchmill("results", "c.ckpt", "--output-format", "csv", "--all", "-o", "all.csv", cwd=done).returncode == 0
    rows = table(done / "all.csv")
    assert rows[0] == ["id", "result", "error_type", "error_message"]
    assert rows[4] == ["i3", "", "ValueError", "'=bad 3"]
    assert len(rows) == COUNT + 1


def test_a_database_equals_the_results_in_python(done: Path) -> None:
    arguments = ("results", "c.ckpt", "--output-format", "sqlite", "--all", "-o", "all.db")
    assert batchmill(*arguments, cwd=done).returncode == 0
    with closing(sqlite3.connect(done / "all.db")) as database:
        rows = database.execute("SELECT id, ok, result, error, seconds, attempts FROM items ORDER BY rowid").fetchall()
    for found, outcome in zip(rows, outcomes(done)):
        result = json.dumps(outcome.result) if isinstance(outcome.result, dict) else outcome.result
        error = f"{outcome.error.type}: {outcome.error.message}" if outcome.error else None
        assert found == (outcome.id, outcome.ok, result, error, outcome.seconds, outcome.attempts)
    assert len(rows) == COUNT


def test_a_run_writes_its_database_and_one_that_was_there_is_replaced_whole(done: Path) -> None:
    run = ("run", "w.py:work", "items.jsonl", "-c", "c.ckpt", "--resume", "--no-retry-failed")
    for _ in range(2):
        assert batchmill(*run, "-o", "run.db", "--output-format", "sqlite", cwd=done).returncode == 1
        with closing(sqlite3.connect(done / "run.db")) as database:
            [(count,)] = database.execute("SELECT count(*) FROM items WHERE ok")
        assert count == sum(o.ok for o in outcomes(done))
    assert not [name for name in os.listdir(done) if name.endswith((".tmp", "-journal"))]


def test_a_limited_run_leaves_a_partial_output_of_its_format(done: Path) -> None:
    run = ("run", "w.py:wide", "items.jsonl", "-c", "limited.ckpt", "--limit", "10")
    assert batchmill(*run, "-o", "limited.db", "--output-format", "sqlite", cwd=done).returncode == 3
    assert not (done / "limited.db").exists()
    with closing(sqlite3.connect(done / "limited.db.partial")) as database:
        assert database.execute("SELECT count(*) FROM items").fetchone() == (10,)


def test_csv_streams_to_stdout_with_one_header_be_there_items_or_not(done: Path) -> None:
    run = ("run", "w.py:wide", "-", "--format", "jsonl", "--no-checkpoint", "-o", "-", "--output-format", "csv")
    assert batchmill(*run, cwd=done, input=b"").stdout == "id,result\n"
    streamed = batchmill(
        *run, cwd=done, input=b"".join(b"%d\n" % n for n in range(50)), env={"BATCHMILL_RUN_WORKERS": "2"}
    )
    assert streamed.stdout == "id,result\n" + "".join(f"{n},{'x' * 2000}\n" for n in range(50))


@pytest.mark.parametrize(
    "command", [("results", "c.ckpt"), ("run", "w.py:work", "items.jsonl", "-c", "new.ckpt", "-o", "-")]
)
def test_a_database_to_stdout_is_refused_in_one_line_before_anything_starts(
    done: Path, command: tuple[str, ...]
) -> None:
    refused = batchmill(*command, "--output-format", "sqlite", cwd=done)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "give -o FILE" in refused.stderr
    assert not (done / "new.ckpt").exists()
    misspelt = batchmill(*command, "--output-format", "sqlit", cwd=done)
    assert misspelt.returncode == 2
    assert "did you mean 'sqlite'?" in misspelt.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a file's size stands in for a full disk")
@pytest.mark.parametrize("format", ["csv", "sqlite"])
def test_a_disk_that_is_full_midway_leaves_no_file_and_what_was_there(done: Path, format: str) -> None:
    assert batchmill("run", "w.py:wide", "items.jsonl", "-c", "wide.ckpt", "--resume", cwd=done).returncode == 0
    (done / "full.out").write_text("old")
    before = set(os.listdir(done))
    ended = subprocess.run(
        [*PROGRAM, "results", "wide.ckpt", "-o", "full.out", "--output-format", format], cwd=done, env=environment(),
        capture_output=True, text=True, timeout=LIMIT, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert (ended.returncode, ended.stderr.count("\n")) == (74, 1), ended.stderr
    assert "cannot write full.out" in ended.stderr
    assert (done / "full.out").read_text() == "old"
    assert set(os.listdir(done)) == before


def test_items_kept_beside_results_are_a_column(done: Path) -> None:
    (done / "t.csv").write_text('id,n\n1,"a\nb"\n')
    (done / "echo.py").write_text("def echo(item):\n    return item['n']\n")
    run = ("run", "echo.py:echo", "t.csv", "-c", "t.ckpt", "--with-item", "-o", "t.out", "--output-format", "csv")
    assert batchmill(*run, cwd=done).returncode == 0
    assert table(done / "t.out") == [["id", "result", "item"], ["1", "a\nb", '{"id": "1", "n": "a\\nb"}']]
    assert batchmill("results", "t.ckpt", "--output-format", "csv", cwd=done).stdout == (done / "t.out").read_text()


def test_the_suffix_of_an_output_chooses_its_format_and_packing(done: Path) -> None:
    plain = batchmill("results", "c.ckpt", cwd=done).stdout
    for name in ("r.jsonl.gz", "r.jsonl.xz", "r.jsonl.zst", "r.db"):
        assert batchmill("results", "c.ckpt", "-o", name, cwd=done).returncode == 0
    assert gzip.decompress((done / "r.jsonl.gz").read_bytes()).decode() == plain
    assert lzma.decompress((done / "r.jsonl.xz").read_bytes()).decode() == plain
    assert zstd().decompress((done / "r.jsonl.zst").read_bytes()).decode() == plain
    assert (done / "r.db").read_bytes().startswith(b"SQLite format 3")
    refused = batchmill("results", "c.ckpt", "-o", "run.csv", "--output-format", "jsonl", cwd=done)
    assert (refused.returncode, "is no name for --output-format jsonl" in refused.stderr) == (2, True)
    run = ("run", "w.py:work", "items.jsonl", "--no-checkpoint")
    assert batchmill(*run, "-o", "run.csv.gz", cwd=done).returncode in (0, 1)
    assert gzip.decompress((done / "run.csv.gz").read_bytes()) == (done / "run.csv").read_bytes()
    assert batchmill(*run, "-o", "run.csv.gz", "--output-format", "jsonl", cwd=done).returncode == 2


def test_results_with_fields_become_columns_that_others_read(done: Path) -> None:
    (done / "f.py").write_text(
        "def f(n):\n    return {'n': n, 'half': n / 2, 'word': 'é;' * (n % 3)} if n % 5 else {'late': [n]}\n"
    )
    (done / "n.jsonl").write_text("".join(f"{n}\n" for n in range(1, 41)))
    run = ("run", "f.py:f", "n.jsonl", "-c", "f.ckpt", "--chunk-size", "7")
    assert batchmill(*run, "-o", "f.csv", cwd=done).returncode == 0
    for arguments in (("-o", "f.tsv"), ("-o", "f.db"), ("-o", "x.csv", "--bom", "--output-columns", "id,late,none")):
        ended = batchmill("results", "f.ckpt", *arguments, cwd=done)
        assert ended.returncode == 0
    assert "No result has none, which is among --output-columns: its column is empty" in ended.stderr
    header, *rows = table(done / "f.csv")
    assert header == ["id", "n", "half", "word", "late"]
    assert rows[:2] + rows[4:5] == [
        ["1", "1", "0.5", "é;", ""],
        ["2", "2", "1.0", "é;é;", ""],
        ["5", "", "", "", "[5]"],
    ]
    assert [line.split("\t") for line in (done / "f.tsv").read_text().splitlines()] == [header, *rows]
    assert (done / "x.csv").read_bytes().startswith(b"\xef\xbb\xbfid,late,none\n1,,\n")
    with closing(sqlite3.connect(done / "f.db")) as database:
        assert database.execute("SELECT sum(n), sum(half), count(late) FROM items").fetchone() == (640, 320.0, 8)
    streamed = batchmill(*run, "--resume", "-o", "-", "--output-format", "csv", cwd=done)
    assert streamed.stdout == (done / "f.csv").read_text()
    refused = batchmill(*run, "--resume", "-o", "f.jsonl", "--output-columns", "n", cwd=done)
    assert (refused.returncode, "--output-columns is for csv, tsv" in refused.stderr) == (2, True)


def test_what_commands_gave_is_columns_too(done: Path) -> None:
    ended = batchmill("exec", "-o", "e.csv", "--no-checkpoint", "--", "echo", "{}", cwd=done, input=b"a\nb\n")
    assert ended.returncode == 0
    header, *rows = table(done / "e.csv")
    assert header[:3] == ["id", "exit", "stdout"]
    assert [row[:3] for row in rows] == [["a", "0", "a\n"], ["b", "0", "b\n"]]
