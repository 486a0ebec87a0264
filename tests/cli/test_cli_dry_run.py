"""`run --dry-run`: it says what the run then does, and changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_kit import PROGRAM, batchmill, environment
from fault_kit import until
from process_kit import start

FUNCTIONS = """
import os, time

def picky(item):
    if item["n"] % 10 == 3:
        raise ValueError("three")
    return item["n"]

def gated(item):
    open("begun", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
"""
RUN = ("run", "f.py:picky", "items.jsonl", "-c", "x.ckpt")


def write_items(path: Path, numbers: list[int], first: int = 0) -> None:
    path.write_text("".join(f'{{"id": "i{n}", "n": {n}}}\n' for n in numbers))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "f.py").write_text(FUNCTIONS)
    write_items(tmp_path / "items.jsonl", list(range(50)))
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def planned(work: Path, *options: str) -> dict[str, Any]:
    before = files(work)
    ended = batchmill(*RUN, "-n", "--json", *options, cwd=work)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert files(work) == before
    (line,) = ended.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def ran(work: Path, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(batchmill(*RUN, "--json", *options, cwd=work).stdout)
    return found


def counts(plan: dict[str, Any]) -> tuple[int, ...]:
    return tuple(plan[name] for name in ("total", "done", "failed", "to_do"))


def test_a_dry_run_says_what_would_be_done_and_does_nothing(work: Path) -> None:
    before = files(work)
    ended = batchmill(*RUN, "-n", cwd=work)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert "items      50 total, 0 done, 0 failed, 50 to do" in lines
    assert "first      i0 (line 1)" in lines
    assert any(line.startswith("workers    ") and line.endswith(")") for line in lines)
    assert f"checkpoint {work / 'x.ckpt'} (new)" in lines
    assert lines[-1] == "nothing was run"
    assert files(work) == before


def test_what_is_done_failed_and_to_do_is_what_the_run_then_finds(work: Path) -> None:
    batchmill(*RUN, "--limit", "20", cwd=work)
    plan = planned(work, "--resume")
    assert counts(plan) == (50, 18, 2, 32)
    assert plan["first"][:3] == [{"id": f"i{n}", "line": n + 1, "input": 0, "command": ""} for n in (3, 13, 20)]
    report = ran(work, "--resume")
    assert (report["skipped"], report["completed"] + report["failed"]) == (18, 32)


def test_failed_items_stay_as_they_are_if_asked_to(work: Path) -> None:
    batchmill(*RUN, "--limit", "20", cwd=work)
    assert counts(planned(work, "--resume", "--no-retry-failed")) == (50, 18, 2, 30)


def test_a_limit_and_a_shard_are_respected(work: Path) -> None:
    plan = planned(work, "--limit", "7")
    assert (plan["to_do"], plan["left"]) == (7, 43)
    shards = [planned(work, "--shard", f"{n}/3") for n in (1, 2, 3)]
    assert sum(shard["total"] for shard in shards) == 50
    assert all(shard["total"] == shard["to_do"] < 50 for shard in shards)


def test_ids_are_a_multiset_wherever_they_stand_in_the_input(work: Path) -> None:
    write_items(work / "items.jsonl", [1, 1, 2, 4])
    batchmill(*RUN, cwd=work)
    write_items(work / "items.jsonl", [4, 1, 5, 1, 1, 2])
    plan = planned(work, "--resume")
    assert counts(plan) == (6, 4, 0, 2)
    assert [item["id"] for item in plan["first"]] == ["i5", "i1"]
    assert ran(work, "--resume")["skipped"] == 4


def test_changed_items_are_counted_and_run_if_asked_to(work: Path) -> None:
    batchmill(*RUN, cwd=work)
    text = (work / "items.jsonl").read_text()
    (work / "items.jsonl").write_text(text.replace('"n": 20}', '"n": 120}').replace('"n": 21}', '"n": 121}'))
    plan = planned(work, "--resume")
    assert (*counts(plan), plan["changed"]) == (50, 45, 5, 5, 2)
    plan = planned(work, "--resume", "--rerun-changed")
    assert (*counts(plan), plan["changed"]) == (50, 43, 5, 7, 0)
    assert ran(work, "--resume", "--rerun-changed")["skipped"] == 43


def test_all_of_the_input_is_parsed(work: Path) -> None:
    with (work / "items.jsonl").open("a") as file:
        file.write("{x\n\n[1, 2\n")
    plan = planned(work)
    assert (plan["total"], plan["unreadable"], plan["blank"]) == (52, 2, 1)
    assert (plan["first_unreadable"]["line"], plan["first_unreadable"]["input"]) == (51, 0)
    assert "JSON" in plan["first_unreadable"]["message"]
    lines = batchmill(*RUN, "items.jsonl", "-n", cwd=work).stdout.splitlines()
    assert any(line.strip().startswith("line 51 of items.jsonl: ") for line in lines)
    assert ran(work)["total"] == 52
    (work / "items.jsonl").write_text('a,b\n"x\n\n",1\n2,3,4\n')  # the first row takes three lines
    assert planned(work, "--format", "csv", "-c", "y.ckpt")["first_unreadable"]["line"] == 5


def test_compressed_input_and_stdin_are_read_to_their_end(work: Path) -> None:
    data = (work / "items.jsonl").read_bytes()
    subprocess.run(["gzip", "items.jsonl"], cwd=work, check=True, timeout=30)
    for name, stdin in (("items.jsonl.gz", None), ("-", data)):
        command = ("run", "f.py:picky", name, "--format", "jsonl", "-c", "x.ckpt", "-n", "--json")
        assert json.loads(batchmill(*command, cwd=work, input=stdin).stdout)["total"] == 50


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["f.py:picky", "nothing.jsonl", "-c", "x.ckpt"], 66, "nothing.jsonl"),
        (["g.py:picky", "items.jsonl", "-c", "x.ckpt"], 66, "g.py"),
        (["f.py:nothing", "items.jsonl", "-c", "x.ckpt"], 2, "nothing"),
        (["f.py:picky", "items.jsonl", "-c", "x.ckpt"], 73, "--resume"),
        (["f.py:gated", "items.jsonl", "-c", "x.ckpt", "--resume"], 78, "f:gated"),
        (["f.py:picky", "items.jsonl", "-c", "no/x.ckpt"], 73, "no/x.ckpt"),
        (["f.py:picky", "items.jsonl", "-c", "y.ckpt", "-o", "no/o.jsonl"], 74, "no/o.jsonl"),
        (["f.py:picky", "items.jsonl", "-c", "y.ckpt", "-o", "."], 74, "directory"),
        (["f.py:picky", "items.jsonl", "-c", "f.py"], 2, "f.py"),
        (["f.py:picky", "items.jsonl", "-c", "notes.txt"], 65, "notes.txt"),
    ],
)
def test_it_ends_like_the_run_would(options: list[str], status: int, said: str, work: Path) -> None:
    (work / "notes.txt").write_text("not a checkpoint")
    batchmill(*RUN, cwd=work)
    for command in (options, [*options, "-n"]):
        ended = batchmill("run", *command, cwd=work)
        assert (ended.returncode, ended.stdout) == (status, "")
        assert said in ended.stderr


def test_a_checkpoint_without_outcomes_is_not_in_the_way(work: Path) -> None:
    (work / "items.jsonl").write_text("")
    batchmill(*RUN, cwd=work)
    write_items(work / "items.jsonl", [1])
    assert planned(work)["fate"] == "new"
    (work / "x.ckpt").write_bytes(b"")
    assert planned(work)["fate"] == "new"


def test_what_becomes_of_the_checkpoint_is_said(work: Path) -> None:
    batchmill(*RUN, "--limit", "20", cwd=work)
    assert planned(work, "--resume", "--fresh-if-finished")["fate"] == "continued"
    fresh = planned(work, "--fresh")
    assert (fresh["fate"], *counts(fresh)) == ("moved aside", 50, 0, 0, 50)
    batchmill(*RUN, "--resume", cwd=work)
    assert planned(work, "--resume", "--fresh-if-finished")["fate"] == "moved aside"
    assert planned(work, "--resume")["fate"] == "continued"


def test_a_torn_checkpoint_counts_as_far_as_it_is_whole_and_stays_torn(work: Path) -> None:
    batchmill(*RUN, cwd=work)
    os.truncate(work / "x.ckpt", (work / "x.ckpt").stat().st_size - 5)
    assert counts(planned(work, "--resume")) == (50, 45, 5, 5)


def test_a_damaged_checkpoint_is_65(work: Path) -> None:
    batchmill(*RUN, cwd=work)
    data = bytearray((work / "x.ckpt").read_bytes())
    data[len(data) // 2] ^= 1
    (work / "x.ckpt").write_bytes(data)
    assert batchmill(*RUN, "--resume", "-n", cwd=work).returncode == 65


def test_a_checkpoint_in_use_is_75(work: Path) -> None:
    command = ["run", "f.py:gated", "items.jsonl", "-c", "x.ckpt", "-j", "1"]
    run = start([*PROGRAM, *command], cwd=work, env=environment(), stderr=subprocess.PIPE)
    try:
        until((work / "begun").exists, "an item to run")
        ended = batchmill(*command, "--resume", "-n", cwd=work)
        assert ended.returncode == 75
        assert str(run.pid) in ended.stderr
    finally:
        (work / "go").touch()
        run.communicate(timeout=60)
    assert run.returncode == 0


def test_files_and_lines_are_counted_too(work: Path) -> None:
    command = ("run", "f.py:picky", "-n", "--json", "--no-checkpoint")
    found = json.loads(batchmill(*command, "f.py", "items.jsonl", "--format", "files", cwd=work).stdout)
    assert (found["total"], found["checkpoint"], found["fate"]) == (2, None, "none")
    assert [item["id"] for item in found["first"]] == ["f.py", "items.jsonl"]
    assert json.loads(batchmill(*command, "items.jsonl", "--format", "lines", cwd=work).stdout)["total"] == 50


def test_a_dry_run_of_a_command_says_where_its_output_goes_and_which_line_of_a_table_is_bad(work: Path) -> None:
    (work / "t.csv").write_text('id,t\n1,"two\nlines"\n2,"x"y\n')
    ended = batchmill("exec", "t.csv", "--no-checkpoint", "--dry-run", "--", "echo", "{id}", cwd=work)
    assert "output     none; what the commands print is passed on" in ended.stdout
    assert "  line 4: text follows the quote that closes a cell" in ended.stdout
