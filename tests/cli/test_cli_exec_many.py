"""`batchmill exec --batch-size`: a command for many items, beside what xargs makes of the same line."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cli_kit import batchmill, shell
from fault_kit import PROGRAM, committed, finish, running, witnessed

EXEC = (PROGRAM, "exec")
NAME = "n.sh.ckpt"
# Notes its items, prints each, and fails where one of them is bad.
PICKY = 'echo "$*" >> calls; for i; do echo "<$i>"; done; for i; do [ $i != bad ] || { echo oh >&2; exit 3; }; done'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "n.txt").write_text("1\n2\nbad\n4\n5\n")
    return tmp_path


def results(place: Path, *words: str) -> list[dict[str, Any]]:
    ended = batchmill("exec", "n.txt", "--no-checkpoint", "-o", "-", *words, cwd=place)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line)["result"] for line in ended.stdout.splitlines()]


@pytest.mark.parametrize("words", ["echo a", "sh -c 'echo $#:$*' x"])
def test_a_command_gets_the_items_that_xargs_gives_it(words: str, place: Path) -> None:
    for size in (2, 5):
        line = f"seq 12 | {{}} {size} {{}} {words}"
        ours = shell(line.format(f"{PROGRAM} exec -j 1 --batch-size", "--"), place)
        assert ours.stdout == shell(line.format("xargs -n", ""), place).stdout, ours.stderr


def test_a_command_that_fails_costs_what_fails_by_itself(place: Path) -> None:
    ended = batchmill("exec", "n.txt", "-j", "1", "--batch-size", "4", "--", "sh", "-c", PICKY, "x", cwd=place)
    assert (ended.returncode, ended.stdout) == (1, "<1>\n<2>\n<bad>\n<4>\n<5>\n"), "nothing is passed on twice"
    assert "id bad (line 3): exit status 3: oh" in ended.stderr
    assert "1 call of many items failed; each of their items was called by itself" in ended.stderr
    assert (place / "calls").read_text() == "1 2 bad 4\n1\n2\nbad\n4\n5\n"
    done = committed(place, NAME)
    assert [id for id, outcome in done.items() if not outcome.ok] == ["bad"]
    assert [outcome.attempts for outcome in done.values()] == [1] * 5


def test_without_splits_all_items_of_a_command_that_fails_are_failed(place: Path) -> None:
    words = ("n.txt", "-j", "1", "--batch-size", "4", "--no-split", "--", "sh", "-c", PICKY, "x")
    ended = batchmill("exec", *words, cwd=place)
    assert (ended.returncode, ended.stdout) == (1, "<1>\n<2>\n<bad>\n<4>\n<5>\n")
    assert (place / "calls").read_text() == "1 2 bad 4\n5\n"
    assert [id for id, outcome in committed(place, NAME).items() if outcome.ok] == ["5"]
    (place / "n.txt").write_text("1\n2\n4\n5\n")
    ended = batchmill("exec", words[0], "--resume", *words[1:], cwd=place)
    assert (ended.returncode, (place / "calls").read_text().splitlines()[2:]) == (0, ["1 2 4"])
    ended = batchmill("exec", "n.txt", "--no-split", "--", "echo", cwd=place)
    assert ended.stderr == "batchmill: --no-split is for commands of many items; give --batch-size N as well\n"


def test_an_items_result_is_a_line_of_as_many_as_there_are_items_and_else_said_to_be_of_all(place: Path) -> None:
    many = ("-j", "1", "--batch-size", "4")
    echoed = results(place, *many, "--stdin", "--", "sed", "s/^/</")
    assert [one["stdout"] for one in echoed] == ["<1\n", "<2\n", "<bad\n", "<4\n", "<5\n"]
    assert not any("stdout_of" in one for one in echoed)
    counted = results(place, *many, "--stdin", "--", "sh", "-c", "wc -l; echo e >&2")
    assert [(one["stdout"], one.get("stdout_of")) for one in counted] == [("4\n", 4), *[("", 4)] * 3, ("1\n", None)]
    assert [(one["stderr"], one.get("stderr_of")) for one in counted] == [("e\n", 4), *[("", 4)] * 3, ("e\n", None)]
    silent = results(place, *many, "--", "true")
    assert [(one["stdout"], len(one)) for one in silent] == [("", 6)] * 5


def test_dry_runs_trace_tags_and_the_environment_tell_of_all_items(place: Path) -> None:
    script = 'echo $BATCHMILL_ITEMS $BATCHMILL_ID $BATCHMILL_POSITION "$@"'
    words = ("n.txt", "--no-checkpoint", "--batch-size", "3", "--shell", script)
    shown = batchmill("exec", "-n", *words, cwd=place).stdout
    assert f"first      1 (line 1): set -- 1 2 bad; {script}\n" in shown
    assert f"           2 (line 2)\n           bad (line 3)\n           4 (line 4): set -- 4 5; {script}\n" in shown
    ended = batchmill("exec", "-t", "--tag", "-j", "1", *words, cwd=place)
    assert ended.stdout == "1..bad\t3 1 0 1 2 bad\n4..5\t2 4 3 4 5\n"
    assert ended.stderr.splitlines() == [f"set -- 1 2 bad; {script}", f"set -- 4 5; {script}"]


def test_kill_9_and_resume_with_another_size_run_nothing_again_that_was_done(place: Path) -> None:
    (place / "n.txt").write_text("".join(f"{n}\n" for n in range(60)))
    script = (
        'for i; do echo "$i" >> witness; done; [ $1 -lt 20 ] || [ -e go ] || exec sleep 60; for i; do echo $i; done'
    )
    raw = ("-o", "out", "--output-format", "raw")
    words = ("n.txt", *raw, "-j", "2", "--chunk-size", "4", "--", "sh", "-c", script, "x")
    with running(*words[:1], "--batch-size", "4", *words[1:], cwd=place, command=EXEC) as run:
        run.until(lambda: len(committed(place, NAME)) == 20 and len(witnessed(place)) == 28, "20 done, 2 running")
        stuck = set(witnessed(place)) - set(committed(place, NAME))  # which ones depends on which worker was quicker
        run.signal(signal.SIGKILL)
        run.end()
    (place / "go").touch()
    ended = finish(*words[:1], "--resume", "--batch-size", "auto", *words[1:], cwd=place, command=EXEC)
    assert ended.status == 0, ended.err
    assert len(stuck) == 8
    assert Counter(witnessed(place)) == Counter([*map(str, range(60)), *stuck])
    assert (place / "out").read_text() == "".join(f"{n}\n" for n in range(60))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--", "{}", "x"], "{} is another program for each item; leave out --batch-size, or name one program"),
        (["--batch-format", "arrow", "--", "x"], "No such option '--batch-format'"),
        (["--shell", "mv {} {.}"], "{} and {.} are two lists, and a shell has one; write: for item in"),
    ],
)
def test_what_no_command_of_many_can_be_is_refused(words: list[str], said: str, place: Path) -> None:
    ended = batchmill("exec", "n.txt", "--batch-size", "2", *words, cwd=place)
    assert (ended.returncode, os.listdir(place)) == (2, ["n.txt"])
    assert ended.stderr.startswith(f"batchmill: {said}")
