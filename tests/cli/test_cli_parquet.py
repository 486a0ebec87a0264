"""Parquet through the real program: rows in, killed and resumed, failures back, directories, damage, exact types."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cli_kit import batchmill
from fault_kit import CHECKPOINT, committed, finish, lines_of, running, witnessed

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")

WORK = """
import os, time


def note(item):
    witness = os.open("witness", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(witness, b"%d\\n" % item["id"])
    os.close(witness)
    time.sleep(float(os.environ.get("PAUSE", 0)))
    if item["n"] % 10 == 7 and not os.path.exists("mended"):
        raise ValueError("no good")
    return {"n": item["n"], "s": item["s"]}


def same(item):
    return item


def said(item):
    return repr(item)


def framed(frame):
    if (frame["id"] == 7).any():
        raise ValueError("no good")
    return [f"{n} {frame.dtypes['gap']} {frame.dtypes['t']}" for n in frame["id"]]


def refused(item):
    raise ValueError(item["id"])
"""


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    (tmp_path / "w.py").write_text(WORK)
    return tmp_path


def write(path: Path, ids: list[int], *, group: int = 16, **more: Any) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    columns = {"id": ids, "n": pa.array(ids, pa.int32()), "s": pa.array([f"x{n}" for n in ids]).dictionary_encode()}
    pq.write_table(pa.table({**columns, **more}), path, row_group_size=group)


def ran(cwd: Path) -> list[int]:
    found = [int(id) for id in witnessed(cwd)]
    (cwd / "witness").unlink(missing_ok=True)
    return sorted(found)


def test_a_killed_batch_goes_on_where_it_was_and_failed_rows_are_an_input(cwd: Path) -> None:
    write(cwd / "t.parquet", list(range(100)))
    run = ("w.py:note", "t.parquet", "-c", CHECKPOINT, "--resume", "-o", "out.parquet", "-j", "2")
    with running(*run, cwd=cwd, PAUSE="0.01") as killed:
        killed.until(lambda: len(witnessed(cwd)) >= 30, "thirty items")
        killed.signal(signal.SIGKILL)
        killed.end()
        killed.assert_gone()
    done = {int(id) for id in committed(cwd)}
    ran(cwd)
    assert finish(*run, cwd=cwd).status == 1
    assert not set(ran(cwd)) & {n for n in done if n % 10 != 7}
    table = pq.read_table(cwd / "out.parquet")
    assert table.to_pylist() == [{"id": n, "n": n, "s": f"x{n}"} for n in range(100) if n % 10 != 7]
    assert batchmill("failures", CHECKPOINT, "--items", "-o", "again.parquet", cwd=cwd).returncode == 0
    failed = [{"id": n, "n": n, "s": f"x{n}"} for n in range(7, 100, 10)]
    assert pq.read_table(cwd / "again.parquet").to_pylist() == failed
    lines = batchmill("failures", CHECKPOINT, "--items", cwd=cwd)
    assert [json.loads(line) for line in lines.stdout.splitlines()] == failed
    assert "-o FILE.parquet keeps the types" in lines.stderr
    shown = [json.loads(line) for line in batchmill("failures", CHECKPOINT, "--json", cwd=cwd).stdout.splitlines()]
    assert [(one["id"], one["line"]) for one in shown][:2] == [(7, 8), (17, 18)]
    (cwd / "mended").touch()
    again = batchmill("run", "w.py:note", "again.parquet", "--no-checkpoint", "-o", "-", cwd=cwd)
    assert [json.loads(line)["id"] for line in again.stdout.splitlines()] == [row["id"] for row in failed]


def test_a_file_that_was_written_again_is_matched_row_by_row(cwd: Path) -> None:
    (cwd / "mended").touch()
    write(cwd / "t.parquet", list(range(40)))
    run = ("run", "w.py:note", "t.parquet", "-c", CHECKPOINT, "--resume")
    assert batchmill(*run, cwd=cwd).returncode == 0
    ran(cwd)
    write(cwd / "t.parquet", [41, *range(39, -1, -1)], group=7)
    assert batchmill(*run, cwd=cwd).returncode == 0
    assert ran(cwd) == [41]
    changed = [f"x{n}" if n != 3 else "new" for n in range(40)]
    write(cwd / "t.parquet", list(range(40)), s=changed)
    seen = json.loads(batchmill(*run, "-n", "--json", "--rerun-changed", cwd=cwd).stdout)
    assert (seen["total"], seen["to_do"], seen["first"][0]["id"]) == (40, 1, 3)
    assert batchmill(*run, "--rerun-changed", cwd=cwd).returncode == 0
    assert ran(cwd) == [3]


def test_directories_columns_shards_and_one_row_alone(cwd: Path) -> None:
    write(cwd / "d" / "b.parquet", [3, 4])
    write(cwd / "d" / "a.parquet", [1, 2])
    write(cwd / "d" / "k=1" / "c.parquet", [5])
    (cwd / "d" / "_SUCCESS").touch()
    (cwd / "d" / ".hidden.parquet").touch()
    run = ("run", "w.py:same", "d", "-o", "-")
    done = batchmill(*run, "--columns", "s,id", cwd=cwd)
    found = [json.loads(line)["result"] for line in done.stdout.splitlines()]
    assert found == [{"s": f"x{n}", "id": n} for n in (1, 2, 3, 4, 5)]
    assert "d/k=1/c.parquet: what stands in the names of directories (name=value) is no column" in done.stderr
    assert (cwd / "d.same.ckpt").exists()
    shards = (("--shard", f"{n}/2", "--id-field", "id", "--no-checkpoint") for n in (1, 2))
    parts = [batchmill(*run, *shard, cwd=cwd).stdout for shard in shards]
    assert sorted(json.loads(line)["id"] for part in parts for line in part.splitlines()) == [1, 2, 3, 4, 5]
    assert json.loads(batchmill("try", "w.py:same", "d", "--id", "4", cwd=cwd).stdout)["n"] == 4
    echoed = batchmill("exec", "d/a.parquet", "--no-checkpoint", "-j", "1", "--", "echo", "{s}", cwd=cwd)
    assert echoed.stdout == "x1\nx2\n"
    measured = batchmill("bench", "w.py:same", "d", "-j", "1", "--seconds", "2", "--json", cwd=cwd)
    assert measured.returncode in (0, 3)
    for arguments, said in (
        (("d", "--columns", "idd"), "has no column 'idd' (--columns)"),
        (("d", "--id-field", "nn"), "has no column 'nn' (--id-field)"),
        (("-", "--format", "parquet", "-c", "x.ckpt"), "Parquet is read from files alone"),
        (("d", "--delimiter", ";"), "--delimiter is for tables"),
        (("d", "-o", "d/a.parquet"), "-o d/a.parquet is the same file as INPUT d/a.parquet"),
    ):
        refused = batchmill("run", "w.py:same", *arguments, cwd=cwd)
        assert (refused.returncode, refused.stderr.count("\n"), said in refused.stderr) == (2, 1, True), refused.stderr


def test_damage_costs_its_rows_and_what_is_no_file_of_rows_is_told(cwd: Path) -> None:
    write(cwd / "t.parquet", list(range(32)), group=16, text=[os.urandom(40).hex() for _ in range(32)])
    data = bytearray((cwd / "t.parquet").read_bytes())
    at = pq.ParquetFile(cwd / "t.parquet").metadata.row_group(1).column(3).data_page_offset
    data[at : at + 60] = bytes(60)
    (cwd / "t.parquet").write_bytes(data)
    done = batchmill("run", "w.py:same", "t.parquet", "-c", CHECKPOINT, "-o", "out.jsonl", cwd=cwd)
    assert done.returncode == 1
    assert [line["id"] for line in lines_of(cwd / "out.jsonl")] == list(range(16))
    assert "16x UnreadableRow" in done.stderr
    lost = batchmill("failures", CHECKPOINT, "--items", cwd=cwd)
    assert (lost.returncode, "16 failed items cannot be given back" in lost.stderr) == (66, True)
    (cwd / "cut.parquet").write_bytes(data[:-100])
    cut = batchmill("run", "w.py:same", "cut.parquet", cwd=cwd)
    assert (cut.returncode, cut.stderr.count("\n"), "cut.parquet is no whole Parquet file" in cut.stderr) == (
        65,
        1,
        True,
    )


ZONE = dt.timezone(dt.timedelta(hours=-5))


def test_types_are_exact_in_and_out(cwd: Path) -> None:
    moment = dt.datetime(2020, 1, 2, 3, 4, 5, 678901)
    columns = {
        "id": pa.array([1, 2]),
        "decimal": pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)),
        "zoned": pa.array([moment.replace(tzinfo=dt.UTC), None], pa.timestamp("us", "-05:00")),
        "nano": pa.array([moment, None], pa.timestamp("ns")),
        "nested": pa.array([{"a": [1, None], "b": {"c": "é"}}, None]),
        "pairs": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        "coded": pa.array(["x", None]).dictionary_encode(),
        "bytes": pa.array([b"\xff", None]),
        "date": pa.array([dt.date(2020, 2, 29), None]),
        "span": pa.array([dt.timedelta(1, 2, 3), None], pa.duration("us")),
        "none": pa.nulls(2),
        "big": pa.array([2**64 - 1, None], pa.uint64()),
    }
    pq.write_table(pa.table(columns), cwd / "t.parquet")
    done = batchmill("run", "w.py:said", "t.parquet", "-c", CHECKPOINT, "-o", "-", cwd=cwd)
    item = json.loads(done.stdout.splitlines()[0])["result"]
    for said in (
        "Decimal('1.50')",
        "'pairs': [('k', 1)]",
        "'nested': {'a': [1, None], 'b': {'c': 'é'}}",
        "'coded': 'x'",
    ):
        assert said in item
    assert f"'nano': {moment!r}" in item
    done = batchmill("run", "w.py:same", "t.parquet", "-c", "x", "-o", "out.parquet", cwd=cwd)
    assert (done.returncode, "Column pairs: the values in it are of no one kind" in done.stderr) == (0, True)
    table = pq.read_table(cwd / "out.parquet")
    assert table.column_names == list(columns)
    first, second = table.to_pylist()
    assert set(second.values()) == {2, None}
    assert first["zoned"] == moment.replace(tzinfo=dt.UTC)
    assert str(table.schema.field("zoned").type) == "timestamp[us, tz=-05:00]"
    for name in ("decimal", "nested", "coded", "bytes", "date", "span", "none", "big"):
        assert first[name] == columns[name][0].as_py(), name
    assert batchmill("run", "w.py:refused", "t.parquet", "-c", "y", cwd=cwd).returncode == 1
    assert batchmill("failures", "y", "--items", "-o", "again.parquet", cwd=cwd).returncode == 0
    assert pq.read_table(cwd / "again.parquet").equals(pq.read_table(cwd / "t.parquet"))


def test_frames_have_the_types_of_the_file_and_a_bad_row_fails_alone(cwd: Path) -> None:
    gap = pa.array([None] * 16 + list(range(24)), pa.int8())
    write(cwd / "t.parquet", list(range(40)), gap=gap, t=pa.array(range(40), pa.timestamp("ns")))
    words = ("w.py:framed", "t.parquet", "-c", CHECKPOINT, "-o", "out.jsonl", "-j", "2", "--batch-size", "6")
    ended = finish(*words, "--batch-format", "pandas", cwd=cwd)
    assert (ended.status, "id 7 (line 8): no good" in ended.err) == (1, True), ended.err
    expected = [f"{n} float64 datetime64[ns]" for n in range(40) if n != 7]
    assert [one["result"] for one in lines_of(cwd / "out.jsonl")] == expected
    tried = batchmill("try", *words[:2], *words[-2:], "--batch-format", "pandas", "--line", "20", cwd=cwd)
    assert json.loads(tried.stdout) == "19 float64 datetime64[ns]"
