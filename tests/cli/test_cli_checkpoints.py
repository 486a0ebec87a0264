"""status, results, failures, verify and try on real checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import msgpack
import pytest
from cli_kit import batchmill, shell

FUNCTIONS = """
import datetime

def picky(item):
    if item["n"] % 10 == 3:
        raise ValueError(f"bad header in {item['n'] % 20}")
    if item["n"] == 7:
        raise KeyError("seven")
    return item["n"]

def chatty(item):
    print("hello")
    return {"when": datetime.date(2026, 1, 2), "n": item["n"]}

def leaves(item):
    raise SystemExit(3)
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "f.py").write_text(FUNCTIONS)
    (tmp_path / "items.jsonl").write_text("".join(f'{{"id": "i{n}", "n": {n}}}\n' for n in range(50)))
    assert batchmill("run", "f.py:picky", "items.jsonl", "-c", "x.ckpt", "-q", cwd=tmp_path).returncode == 1
    return tmp_path


def test_status_as_json_is_one_object_a_checkpoint(work: Path) -> None:
    lines = batchmill("status", "x.ckpt", "x.ckpt", "--json", cwd=work).stdout.splitlines()
    assert len(lines) == 2
    status = json.loads(lines[0])
    assert (status["done"], status["failed"], status["total"], status["live"]) == (44, 6, 50, None)
    assert status["report"]["exit_code"] == 1


@pytest.mark.parametrize("command", ["status", "results", "failures", "verify"])
def test_a_checkpoint_that_is_not_there_is_named(command: str, work: Path) -> None:
    ended = batchmill(command, "nothing.ckpt", cwd=work)
    assert ended.returncode == 66
    assert "nothing.ckpt" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["status", "results", "failures", "verify"])
def test_a_file_that_is_no_checkpoint_is_named(command: str, work: Path) -> None:
    ended = batchmill(command, "items.jsonl", cwd=work)
    assert ended.returncode == 65
    assert ended.stderr == "batchmill: items.jsonl is not a checkpoint; check the path\n"


def test_what_cannot_be_rescued_is_said_once(work: Path) -> None:
    ended = batchmill("verify", "items.jsonl", "--salvage", cwd=work)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (65, 1)


def test_results_are_one_object_an_item_in_input_order(work: Path) -> None:
    ended = batchmill("results", "x.ckpt", cwd=work)
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert found == [{"id": f"i{n}", "result": n} for n in range(50) if n % 10 != 3 and n != 7]


def test_all_adds_the_failed_in_their_places(work: Path) -> None:
    found = [json.loads(line) for line in batchmill("results", "x.ckpt", "--all", cwd=work).stdout.splitlines()]
    assert [entry["id"] for entry in found] == [f"i{n}" for n in range(50)]
    assert found[3]["error"] == {"type": "ValueError", "message": "bad header in 3"}


def test_results_go_to_a_file_and_as_msgpack(work: Path) -> None:
    ended = batchmill("results", "x.ckpt", "-o", "out.bin", "--output-format", "msgpack", cwd=work)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert next(iter(msgpack.Unpacker((work / "out.bin").open("rb")))) == {"id": "i0", "result": 0}


def test_several_checkpoints_come_one_after_another(work: Path) -> None:
    assert len(batchmill("results", "x.ckpt", "x.ckpt", cwd=work).stdout.splitlines()) == 88


@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
def test_results_that_get_lost_are_74(where: str, work: Path) -> None:
    assert shell(f"$BM results x.ckpt {where}", work).returncode == 74
    assert shell(f"$BM failures x.ckpt {where}", work).returncode == 74
    assert shell(f"$BM status x.ckpt {where}", work).returncode == 74


def test_failures_are_grouped_by_type_and_message(work: Path) -> None:
    lines = batchmill("failures", "x.ckpt", cwd=work).stdout.splitlines()
    assert lines[0] == "6 failed"
    assert "5x ValueError" in lines
    assert "  3x bad header in 3" in lines
    assert "     id i3 (line 4), i23 (line 24), i43 (line 44)" in lines
    assert any("Traceback" in line for line in lines)


def test_failures_as_json_have_the_traceback(work: Path) -> None:
    found = [json.loads(line) for line in batchmill("failures", "x.ckpt", "--json", cwd=work).stdout.splitlines()]
    assert [entry["id"] for entry in found] == ["i3", "i7", "i13", "i23", "i33", "i43"]
    assert set(found[0]) == {"id", "line", "error", "attempts", "seconds"}
    assert found[0]["error"]["message"] == "bad header in 3"
    assert "picky" in found[0]["error"]["traceback"]


def test_the_failed_items_are_ready_to_be_an_input(work: Path) -> None:
    ended = shell("$BM failures x.ckpt --items | $BM run f.py:chatty - --format jsonl -c y.ckpt -o - 2>/dev/null", work)
    assert [json.loads(line)["id"] for line in ended.stdout.splitlines()] == ["i3", "i7", "i13", "i23", "i33", "i43"]


def test_nothing_failed_is_said_too(work: Path) -> None:
    batchmill("run", "f.py:chatty", "items.jsonl", "-c", "ok.ckpt", cwd=work)
    assert batchmill("failures", "ok.ckpt", cwd=work).stdout == "nothing failed\n"


def test_a_whole_checkpoint_is_verified(work: Path) -> None:
    ended = batchmill("verify", "x.ckpt", cwd=work)
    assert ended.returncode == 0
    assert ended.stdout.startswith("x.ckpt: clean")
    assert "50 outcomes" in ended.stdout
    assert json.loads(batchmill("verify", "x.ckpt", "--json", cwd=work).stdout)["ok"] is True


def test_a_damaged_checkpoint_is_65_and_can_be_salvaged(work: Path) -> None:
    data = bytearray((work / "x.ckpt").read_bytes())
    data[len(data) // 2] ^= 1
    (work / "x.ckpt").write_bytes(data)
    ended = batchmill("verify", "x.ckpt", cwd=work)
    assert ended.returncode == 65
    assert "damage" in ended.stdout
    assert batchmill("verify", "x.ckpt", "--salvage", cwd=work).returncode == 65
    assert bytes(data) == (work / "x.ckpt").read_bytes()
    assert batchmill("verify", "x.salvaged.ckpt", cwd=work).returncode == 0


def test_try_prints_the_result_and_keeps_nothing(work: Path) -> None:
    before = sorted(path.name for path in work.iterdir() if path.name != "__pycache__")
    ended = batchmill("try", "f.py:chatty", "items.jsonl", cwd=work)
    assert (ended.returncode, ended.stderr) == (0, "hello\n")
    assert json.loads(ended.stdout) == {"when": "2026-01-02", "n": 0}
    assert sorted(path.name for path in work.iterdir() if path.name != "__pycache__") == before


@pytest.mark.parametrize("which", [["--id", "i13"], ["--line", "14"]])
def test_try_finds_an_item_and_shows_the_full_traceback(which: list[str], work: Path) -> None:
    ended = batchmill("try", "f.py:picky", "items.jsonl", *which, cwd=work)
    assert (ended.returncode, ended.stdout) == (1, "")
    lines = ended.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "f.py" in lines[1]
    assert lines[-1] == "ValueError: bad header in 13"


def test_try_takes_sys_exit_for_a_failure(work: Path) -> None:
    ended = batchmill("try", "f.py:leaves", "items.jsonl", cwd=work)
    assert ended.returncode == 1
    assert "SystemExit: 3" in ended.stderr


def test_try_says_when_there_is_no_such_item(work: Path) -> None:
    assert batchmill("try", "f.py:picky", "items.jsonl", "--id", "nobody", cwd=work).returncode in (2, 65, 66)


def test_breakpoint_works_in_try(work: Path) -> None:
    (work / "b.py").write_text("def f(item):\n    breakpoint()\n    return item['n']\n")
    ended = batchmill("try", "b.py:f", "items.jsonl", "--line", "6", cwd=work, input=b"p item['n'] + 100\nc\n")
    assert ended.returncode == 0
    assert "105" in ended.stderr
    assert ended.stdout == "5\n"


# --- results of another input ----------------------------------------------------------------------------------------


def test_what_is_no_regular_file_gives_a_checkpoint_no_name(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(FUNCTIONS)
    (tmp_path / "a.jsonl").write_text('{"id": 1, "n": 1}\n')
    run = "$BM run f.py:picky --format jsonl --resume"
    for command in (f"{run} <(cat a.jsonl)", f"{run} /dev/stdin < a.jsonl", f"{run} a.jsonl /dev/null"):
        refused = shell(command, tmp_path)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "is no regular file: it gives the checkpoint no name; give -c FILE, or --no-checkpoint" in refused.stderr
    assert not list(tmp_path.glob("*.ckpt"))
    kept = shell(f"{run} <(cat a.jsonl) -c a.ckpt -o -", tmp_path)
    assert (kept.stdout, kept.stderr) == ('{"id": 1, "result": 1}\n', "")


def test_results_that_are_all_of_another_input_are_told_at_exit_0(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(FUNCTIONS)
    for name, factor in (("a.jsonl", 1), ("b.jsonl", 10)):
        (tmp_path / name).write_text("".join(f'{{"id": {n}, "n": {n * factor}}}\n' for n in (1, 2)))
    assert batchmill("run", "f.py:picky", "a.jsonl", "-c", "x.ckpt", cwd=tmp_path).stderr == ""
    command = ("run", "f.py:picky", "b.jsonl", "-c", "x.ckpt", "--resume")
    ended = batchmill(*command, cwd=tmp_path)
    kept = "2 changed items kept their old result; --rerun-changed runs them again"
    said = f"batchmill: All that was done is of a.jsonl, not b.jsonl: {kept}, and -c FILE keeps this batch apart\n"
    assert (ended.returncode, ended.stderr) == (0, said)
    assert batchmill(*command, cwd=tmp_path).stderr == f"batchmill: {kept}\n"
    assert batchmill(*command, "--rerun-changed", "-q", cwd=tmp_path).stderr == ""


# --- lines of several INPUTs -----------------------------------------------------------------------------------------


def test_a_line_has_the_name_of_its_file_wherever_there_are_several(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(FUNCTIONS)
    (tmp_path / "a.jsonl").write_text('{"id": 1, "n": 1}\n{\n')
    (tmp_path / "b.jsonl").write_text('{"id": 2, "n": 2}\n[\n')
    both, one = ("a.jsonl", "b.jsonl", "-c", "x.ckpt", "--json"), ("b.jsonl", "-c", "y.ckpt", "--json")
    mail, told = (batchmill("run", "f.py:picky", *inputs, cwd=tmp_path) for inputs in (both, one))
    [group] = json.loads(mail.stdout)["failures"]
    assert [(each["line"], each["file"]) for each in group["examples"]] == [(2, "a.jsonl"), (2, "b.jsonl")]
    assert batchmill("report", "x.ckpt", "-o", "x.html", cwd=tmp_path).returncode == 0
    texts = [mail.stderr, (tmp_path / "x.html").read_text()]
    texts += [batchmill(command, "x.ckpt", cwd=tmp_path).stdout for command in ("status", "failures")]
    assert all("(line 2 of a.jsonl)" in text and "(line 2 of b.jsonl)" in text for text in texts)
    lines = [json.loads(line) for line in batchmill("failures", "x.ckpt", "--json", cwd=tmp_path).stdout.splitlines()]
    assert [line["file"] for line in lines] == ["a.jsonl", "b.jsonl"]
    assert "(line 2)" in told.stderr
    apart = batchmill("failures", "x.ckpt", "y.ckpt", cwd=tmp_path).stdout
    assert f"(line 2 of {tmp_path / 'b.jsonl'})" in apart


def test_a_checkpoint_of_another_input_is_not_offered_to_be_continued(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(FUNCTIONS)
    for number in (1, 2):
        (tmp_path / f"part.{number}.jsonl").write_text(f'{{"id": {number}, "n": {number}}}\n')
    assert batchmill("run", "f.py:picky", "part.1.jsonl", cwd=tmp_path).returncode == 0
    for options in ((), ("--dry-run",)):
        refused = batchmill("run", "f.py:picky", "part.2.jsonl", *options, cwd=tmp_path)
        belongs = f"part.picky.ckpt exists, and belongs to another batch: input {tmp_path}/part.1.jsonl, not "
        assert (refused.returncode, belongs in refused.stderr, "--resume" in refused.stderr) == (73, True, False)
    assert "--resume continues it" in batchmill("run", "f.py:picky", "part.1.jsonl", cwd=tmp_path).stderr


def test_the_line_that_continues_a_nightly_job_runs_what_failed_and_keeps_the_rest(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(FUNCTIONS)
    (tmp_path / "a.jsonl").write_text("".join(f'{{"id": {n}, "n": {n}}}\n' for n in (1, 3)))
    nightly = "$BM run f.py:picky a.jsonl --resume --fresh-if-finished"
    mail = shell(nightly, tmp_path)
    assert mail.returncode == 1
    [line] = [line for line in mail.stderr.splitlines() if line.startswith("continue ")]
    report = json.loads(shell(f"{line.removeprefix('continue')} --json", tmp_path).stdout)
    assert (report["skipped"], report["failed"]) == (1, 1)
    mail = shell("$BM run f.py:picky a.jsonl --resume", tmp_path, BATCHMILL_RUN_FRESH_IF_FINISHED="1")
    [line] = [line for line in mail.stderr.splitlines() if line.startswith("continue ")]
    again = shell(f"{line.removeprefix('continue')} --json", tmp_path, BATCHMILL_RUN_FRESH_IF_FINISHED="1")
    report = json.loads(again.stdout)
    assert (report["skipped"], report["failed"]) == (1, 1)
