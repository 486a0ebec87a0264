"""A run that an error ends says how far it came, in its checkpoint too, and can be continued."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli_kit import batchmill, environment

FUNCTIONS = """
import os, time

def work(item):
    return item["n"]

def in_the_way(item):
    os.makedirs("out.jsonl", exist_ok=True)
    return item["n"]

def slow(item):
    while item["n"] == 9 and not os.path.exists("go"):
        time.sleep(0.01)
    return item["n"]
"""

# The program with a defect: the fourth time that something is committed.
BROKEN = """
import itertools, sys
from batchmill import recorder
times, commit = itertools.count(1), recorder.Recorder.commit
def broken(*arguments):
    if next(times) == 4:
        raise ZeroDivisionError("a defect")
    return commit(*arguments)
recorder.Recorder.commit = broken
from batchmill_cli import main
main.entry()
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "f.py").write_text(FUNCTIONS)
    (tmp_path / "items.jsonl").write_text("".join(f'{{"id": {n}, "n": {n}}}\n' for n in range(500)))
    return tmp_path


def broken(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BROKEN, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=60, check=False)


RUN = ("run", "f.py:work", "items.jsonl", "-c", "x.ckpt", "-o", "out.jsonl")


def test_a_defect_of_ours_ends_a_run_that_is_told_as_it_was(work: Path) -> None:
    ended = broken(*RUN, cwd=work)
    assert ended.returncode == 70
    news, *_, last = ended.stderr.splitlines()
    assert news.startswith("batchmill: ended by an error, ")
    assert "of 500 items done (exit 70)" in news
    assert "continue " in ended.stderr
    assert last.startswith("batchmill: internal error: ZeroDivisionError: a defect; run it with -v")
    told = batchmill("status", "x.ckpt", cwd=work).stdout
    assert "killed" not in told
    assert "ended by an error" in told
    assert "error     ZeroDivisionError: a defect" in told
    assert "(exit 70)" in told
    report = json.loads(batchmill("status", "x.ckpt", "--json", cwd=work).stdout)["report"]
    assert (report["stopped"], report["exit_code"], report["error"]) == ("error", 70, "ZeroDivisionError: a defect")
    page = batchmill("report", "x.ckpt", "-o", "-", cwd=work).stdout
    assert "ZeroDivisionError: a defect" in page
    assert "Killed" not in page


def test_it_keeps_what_was_committed_and_goes_on_from_there(work: Path) -> None:
    broken(*RUN, cwd=work)
    kept = batchmill("results", "x.ckpt", cwd=work).stdout.splitlines()
    assert 3 <= len(kept) < 500
    ended = batchmill(*RUN, "--resume", "--json", cwd=work)
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["skipped"]) == (0, len(kept))
    assert len((work / "out.jsonl").read_text().splitlines()) == 500


def test_items_that_run_when_an_error_comes_are_waited_for_and_kept(work: Path) -> None:
    """As at a signal: the items of the other worker have ended, and are committed."""
    command = ("run", "f.py:slow", "items.jsonl", "-c", "x.ckpt", "-j", "2", "--chunk-size", "1", "--grace", "50s")
    with subprocess.Popen(
        [sys.executable, "-c", BROKEN.replace("== 4", "== 20"), *command], cwd=work, env=environment(), text=True,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)  # for item 9
            (work / "go").touch()
            assert process.wait(60) == 70
        finally:
            process.kill()
    assert '{"id": 9, "result": 9}' in batchmill("results", "x.ckpt", cwd=work).stdout.splitlines()


def test_an_output_that_cannot_have_its_name_is_no_success_in_the_checkpoint(work: Path) -> None:
    ended = batchmill("run", "f.py:in_the_way", *RUN[2:], cwd=work)
    assert ended.returncode == 74, ended.stderr
    report = json.loads(batchmill("status", "x.ckpt", "--json", cwd=work).stdout)["report"]
    assert (report["stopped"], report["exit_code"]) == ("error", 74)
    assert "out.jsonl" in report["error"]


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("--set", "nope=1"), 2, "unexpected keyword argument"),
        (("--init", "missing"), 2, "missing"),
        (("--worker-output", "none/such/file"), 74, "none/such/file"),
    ],
)
def test_what_a_worker_finds_wrong_is_no_kill(options: tuple[str, ...], status: int, said: str, work: Path) -> None:
    ended = batchmill(*RUN, *options, cwd=work)
    assert ended.returncode == status, ended.stderr
    assert len(ended.stderr.splitlines()) == 1, "nothing was done that a report could tell of"
    told = batchmill("status", "x.ckpt", cwd=work).stdout
    assert "killed" not in told
    if "last report" in told:
        assert f"(exit {status})" in told
        assert said in told


def test_a_stream_that_is_left_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import batchmill\n"
        "if __name__ == '__main__':\n"
        "    with batchmill.stream(str, range(1000), checkpoint='x.ckpt', workers=1) as outcomes:\n"
        "        next(iter(outcomes))\n"
    )
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment(), timeout=60, check=True)
    told = batchmill("status", "x.ckpt", cwd=tmp_path).stdout
    assert "ended by the program that read its outcomes" in told
    assert "--left" not in told
