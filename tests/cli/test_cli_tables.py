"""Tables and NUL-separated text through the real program: results, failures, kill -9 and resuming, refusals."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import batchmill, shell
from fault_kit import CHECKPOINT, committed, finish, lines_of, running, witnessed

from batchmill.input.compression import zstd

WORK = """
import os, time


def note(item):
    witness = os.open("witness", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(witness, (item["id"] + "\\n").encode())
    os.close(witness)
    time.sleep(float(item.get("sleep") or 0))
    if item["n"] == "bad" and not os.path.exists("mended"):
        raise ValueError("no good")
    return [item["n"], item["text"]]


def same(item):
    return item
"""
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd().compress,
}


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    (tmp_path / "w.py").write_text(WORK)
    return tmp_path


def table(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def numbered(count: int, **fields: Any) -> list[dict[str, Any]]:
    texts = ("plain", 'quo"ted', "two\nlines", "a,b\tc")
    return [{"id": str(n), "n": f"{n}", "text": texts[n % 4], **fields} for n in range(count)]


def ran(cwd: Path) -> list[str]:
    found = witnessed(cwd)
    (cwd / "witness").unlink(missing_ok=True)
    return sorted(found, key=int)


def test_a_table_goes_in_and_its_rows_come_out_in_order(cwd: Path) -> None:
    items = numbered(50)
    for name, delimiter in (("t.csv.gz", ","), ("t.tsv.zst", "\t"), ("t.csv.bz2", ",")):
        (cwd / name).write_bytes(COMPRESSORS[Path(name).suffix](table(items, delimiter)))
        done = batchmill("run", "w.py:same", name, "-c", f"{name}.ckpt", "-o", "-", cwd=cwd)
        assert (done.returncode, done.stderr) == (0, "")
        assert [json.loads(line) for line in done.stdout.splitlines()] == [{"id": i["id"], "result": i} for i in items]


def test_a_table_comes_by_stdin(cwd: Path) -> None:
    arguments = ("run", "w.py:same", "-", "--no-checkpoint", "-o", "-")
    done = batchmill(*arguments, "--format", "csv", cwd=cwd, input=b'\xef\xbb\xbfid,t\r\n1,"a\nb"\r\n')
    assert (done.returncode, json.loads(done.stdout)) == (0, {"id": "1", "result": {"id": "1", "t": "a\nb"}})
    twice = batchmill(*arguments, "--format", "csv", cwd=cwd, input=b"id,id\n1,2\n")
    assert (twice.returncode, json.loads(twice.stdout)["result"]) == (0, {"id": "1", "id_2": "2"})
    assert twice.stderr == "batchmill: stdin: columns without a name of their own are called id_2\n"
    unnamed = batchmill(*arguments, cwd=cwd, input=b"")
    assert unnamed.returncode == 2
    assert "give --format jsonl, csv, tsv, lines, null, parquet or files" in unnamed.stderr


def test_what_cannot_be_a_table_is_refused_in_one_line_before_anything_starts(cwd: Path) -> None:
    (cwd / "good.csv").write_bytes(table(numbered(3)))
    (cwd / "open.csv").write_text('id,"n\n1,2\n')
    for arguments, message in (
        (["good.csv", "open.csv"], "open.csv: the header cannot be read: a quote opens a cell"),
        (["good.csv", "--columns", "id,m"], "good.csv has no column 'm' (--columns); known: id, n, text"),
        (["good.csv", "--columns", "n", "--id-field", "id"], "--id-field 'id' is not among --columns; add it there"),
        (["good.csv", "--id-field", "txt"], "good.csv has no column 'txt' (--id-field); did you mean 'text'?"),
        (["good.csv", "--format", "cvs"], "did you mean 'csv'?"),
    ):
        refused = batchmill("run", "w.py:note", *arguments, cwd=cwd)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert message in refused.stderr
    assert not (cwd / "witness").exists()
    assert not list(cwd.glob("*.ckpt"))


def test_bad_rows_are_failed_items_with_their_line_and_the_others_are_done(cwd: Path) -> None:
    (cwd / "t.csv").write_bytes(b'id,n,text\n1,a,"x\n\ny"\n2,b\n3,bad,"=1\n"\n\xff,,\n4,c,z\n5,d,"open\n6,e,f\n')
    done = batchmill("run", "w.py:note", "t.csv", "-c", CHECKPOINT, cwd=cwd)
    assert done.returncode == 1
    shown = batchmill("failures", CHECKPOINT, "--json", cwd=cwd)
    assert [(f["line"], f["error"]["type"]) for f in map(json.loads, shown.stdout.splitlines())] == [
        (5, "BadRow"),
        (6, "ValueError"),
        (8, "UnicodeDecodeError"),
        (10, "BadRow"),
    ]
    assert ran(cwd) == ["1", "3", "4", "6"]


def test_failed_rows_are_an_input_of_their_own(cwd: Path) -> None:
    items = [{**item, "n": "bad" if n % 3 else "ok"} for n, item in enumerate(numbered(20))]
    (cwd / "t.csv").write_bytes(table(items))
    assert batchmill("run", "w.py:note", "t.csv", "-c", CHECKPOINT, cwd=cwd).returncode == 1
    ran(cwd)
    (cwd / "again.csv").write_text(batchmill("failures", CHECKPOINT, "--items", cwd=cwd).stdout)
    (cwd / "mended").touch()
    done = batchmill("run", "w.py:note", "again.csv", "-c", "again.ckpt", "-o", "out.jsonl", cwd=cwd)
    assert done.returncode == 0
    assert [o["result"] for o in lines_of(cwd / "out.jsonl")] == [[i["n"], i["text"]] for i in items if i["n"] == "bad"]


def test_a_table_of_another_dialect_goes_in_and_its_failed_rows_come_back_in_it(cwd: Path) -> None:
    (cwd / "t.csv").write_bytes(b"from: x\n\n1;bad;\x80\n'2';ok;'a;\nb'\n")
    dialect = ("--delimiter", ";", "--quote", "'", "--encoding", "cp1252", "--no-header", "--columns", "id,n,text")
    run = ("run", "w.py:note", "-o", "out.jsonl", *dialect)
    assert batchmill(*run, "t.csv", "--skip-lines", "1", cwd=cwd).returncode == 1
    assert lines_of(cwd / "out.jsonl") == [{"id": "2", "result": ["ok", "a;\nb"]}]
    failed = shell("$BM failures t.note.ckpt --items > again.csv", cwd)
    assert (cwd / "again.csv").read_bytes() == b"1;bad;\x80\n"
    assert failed.stderr == f"batchmill: read them with --format {shlex.join(['csv', *dialect])}\n"
    (cwd / "mended").touch()
    assert batchmill(*run, "again.csv", cwd=cwd).returncode == 0
    assert lines_of(cwd / "out.jsonl") == [{"id": "1", "result": ["bad", "€"]}]


def test_a_table_that_is_all_in_one_column_names_the_delimiter_wherever_it_is_looked_at(cwd: Path) -> None:
    (cwd / "t.csv").write_text("id;n;text\n1;2;3\n")
    for command in (("run", "-n"), ("try",), ("run", "--no-checkpoint")):
        told = batchmill(*command, "w.py:same", "t.csv", cwd=cwd)
        assert (told.returncode, told.stderr) == (
            0,
            "batchmill: t.csv: all of it is one column; --delimiter ';' makes 3 of it\n",
        )


def test_null_items_may_hold_newlines(cwd: Path) -> None:
    (cwd / "names").write_bytes(b"a\nb\0\0c\n")
    done = batchmill("run", "w.py:same", "names", "--format", "null", "-c", CHECKPOINT, "-o", "-", cwd=cwd)
    assert [json.loads(line)["result"] for line in done.stdout.splitlines()] == ["a\nb", "c\n"]


def test_a_row_is_tried_by_its_line_or_id(cwd: Path) -> None:
    (cwd / "t.csv").write_bytes(table(numbered(5)))
    assert json.loads(batchmill("try", "w.py:same", "t.csv", "--line", "6", cwd=cwd).stdout)["id"] == "3"
    assert json.loads(batchmill("try", "w.py:same", "t.csv", "--id", "2", cwd=cwd).stdout)["text"] == "two\nlines"


@pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")
@pytest.mark.parametrize("format", ["csv", "tsv", "null"])
def test_a_killed_batch_goes_on_where_it_was_though_the_input_was_shuffled_and_grew(cwd: Path, format: str) -> None:
    items = numbered(60, sleep="0.01")
    delimiter = "\t" if format == "tsv" else ","

    def put(items: list[dict[str, Any]]) -> None:
        rows = table(items, delimiter) if format != "null" else b"".join(i["id"].encode() + b"\0" for i in items)
        (cwd / "t.in").write_bytes(rows)

    if format == "null":
        as_table = "dict(id=item, n=item, text='', sleep=0.01)"
        (cwd / "w.py").write_text(f"{WORK}\n_note = note\ndef note(item): _note({as_table})\n")
    put(items)
    run = ("w.py:note", "t.in", "--format", format, "-c", CHECKPOINT, "--resume", "-o", "out.jsonl", "-j", "2")
    with running(*run, cwd=cwd) as killed:
        killed.until(lambda: len(witnessed(cwd)) >= 20, "twenty items")
        killed.signal(signal.SIGKILL)
        killed.end()
        killed.assert_gone()
    done = set(committed(cwd))
    ran(cwd)
    more = [*items, {**items[0], "id": "60", "n": "60"}]
    random.Random(1).shuffle(more)
    put(more[1:])
    assert finish(*run, cwd=cwd).status == 0
    again = ran(cwd)
    assert again == sorted({item["id"] for item in more[1:]} - done, key=int)
    assert [o["id"] for o in lines_of(cwd / "out.jsonl")] == [item["id"] for item in more[1:]]
    assert finish(*run, cwd=cwd).status == 0
    assert ran(cwd) == []
