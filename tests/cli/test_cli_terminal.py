"""The real program in a pty: the progress line, what stands above it, and Ctrl-C."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path

import pytest
from cli_kit import PROGRAM, PROGRAM_THAT_SAYS_UP, Terminal, batchmill, screen_rows
from fault_kit import until
from process_kit import is_running, processes

from batchmill.batch.signals import INSIST_AFTER

FUNCTIONS = """
import time

def slow(item, seconds=0.05):
    time.sleep(seconds)
    return item

def stay(item):
    print("begun", flush=True)
    time.sleep(600)

def loud(item):
    print("item", item, "x" * 60, flush=True)
    time.sleep(0.02)
    return item
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "f.py").write_text(FUNCTIONS)
    (tmp_path / "items.jsonl").write_text("".join(f"{n}\n" for n in range(30)))
    (tmp_path / "many.jsonl").write_text("".join(f"{n}\n" for n in range(5000)))
    return tmp_path


def test_the_line_is_rewritten_in_place_and_the_report_stands_alone(work: Path) -> None:
    terminal = Terminal(["run", "f.py:slow", "items.jsonl", "-j", "2"], work)
    assert terminal.end() == 0
    assert b"/30 " in terminal.seen
    rows = [row for row in screen_rows(terminal.seen, 100) if row]
    assert rows[0].startswith("batchmill: all 30 items done (exit 0)")
    assert not any("| 0 failed |" in row for row in rows)
    assert b"\x1b" not in terminal.seen


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_the_line_is_never_wider_than_the_terminal(columns: int, work: Path) -> None:
    terminal = Terminal(["run", "f.py:slow", "items.jsonl", "-q", "--progress", "line"], work, columns=columns)
    assert terminal.end() == 0
    assert b"\r" in terminal.seen
    assert all(len(piece) < columns for line in terminal.seen.split(b"\n") for piece in line.split(b"\r"))


def test_the_line_follows_a_window_that_is_resized(work: Path) -> None:
    terminal = Terminal(["run", "f.py:slow", "many.jsonl", "-j", "2", "--set", "seconds=0.1"], work)
    terminal.read_until(lambda seen: b"2w" in seen)
    terminal.resize(30)
    before = len(terminal.seen)
    terminal.read_until(lambda seen: seen[before:].count(b"\r") > 4)
    drawn = [piece for line in terminal.seen[before:].split(b"\n") for piece in line.split(b"\r")][2:]
    assert drawn
    assert all(len(piece) < 30 for piece in drawn)
    terminal.resize(100)
    before = len(terminal.seen)
    terminal.read_until(lambda seen: b"2w" in seen[before:])
    terminal.press(b"\x03")
    assert terminal.end() == -signal.SIGINT


def test_no_colour_and_ci_change_what_they_are_for(work: Path) -> None:
    plain = Terminal(["run", "f.py:slow", "items.jsonl"], work, NO_COLOR="1")
    assert plain.end() == 0
    assert b"| 0 failed |" in plain.seen  # a line without colours is no colour
    recorded = Terminal(["run", "f.py:slow", "items.jsonl", "-c", "x.ckpt"], work, CI="true")
    assert recorded.end() == 0
    assert b"\r" not in recorded.seen.replace(b"\r\n", b"\n")
    assert b"30/30 100.0%" in recorded.seen


def test_what_workers_print_stands_in_whole_lines_above_the_line(work: Path) -> None:
    terminal = Terminal(["run", "f.py:loud", "items.jsonl", "-j", "2"], work)
    assert terminal.end() == 0
    rows = screen_rows(terminal.seen, 100)
    assert sorted(row for row in rows if row.startswith("item ")) == sorted(f"item {n} {'x' * 60}" for n in range(30))


def test_a_dumb_terminal_gets_whole_lines(work: Path) -> None:
    terminal = Terminal(["run", "f.py:slow", "items.jsonl", "--progress-interval", "0.2"], work, TERM="dumb")
    assert terminal.end() == 0
    assert b"\r" not in terminal.seen.replace(b"\r\n", b"\n")
    assert b"/30 " in terminal.seen


def test_a_resumed_run_first_says_so(work: Path) -> None:
    batchmill("run", "f.py:slow", "items.jsonl", "-c", "x.ckpt", "--limit", "12", cwd=work)
    terminal = Terminal(["run", "f.py:slow", "items.jsonl", "-c", "x.ckpt", "--resume"], work)
    assert terminal.end() == 0
    assert b"Resuming from checkpoint: 12/30 done, 0 failed" in terminal.seen.splitlines()[0]


@pytest.mark.parametrize("presses", [1, 20])
def test_ctrl_c_drains_reports_and_dies_of_sigint(presses: int, work: Path) -> None:
    terminal = Terminal(["run", "f.py:slow", "many.jsonl", "-c", "x.ckpt", "-j", "2"], work)
    terminal.read_until(lambda seen: b"/s | " in seen and b" 0.0% " not in seen.rpartition(b"\r")[2])
    born = processes(terminal.pid)
    for _ in range(presses):
        terminal.press(b"\x03")
        time.sleep(0.01)
    assert terminal.end() == -signal.SIGINT
    assert b"ended by SIGINT" in terminal.seen
    assert b"Traceback" not in terminal.seen
    assert b"--resume" in terminal.seen
    until(lambda: not any(map(is_running, born)), "the end of all its processes")


def test_after_ctrl_c_the_output_that_was_asked_for_can_be_collected(work: Path) -> None:
    terminal = Terminal(["run", "f.py:slow", "many.jsonl", "-c", "x.ckpt", "-o", "my out.jsonl"], work)
    terminal.read_until(lambda seen: b"/s | " in seen and b" 0.0% " not in seen.rpartition(b"\r")[2])
    terminal.press(b"\x03")
    assert terminal.end() == -signal.SIGINT
    assert b"results x.ckpt -o 'my out.jsonl'" in terminal.seen
    assert b"partial" not in terminal.seen


def test_ctrl_c_again_kills_what_does_not_end(work: Path) -> None:
    terminal = Terminal(["run", "f.py:stay", "items.jsonl", "--grace", "5m", "-j", "2"], work)
    terminal.read_until(lambda seen: seen.count(b"begun") == 2)
    terminal.press(b"\x03")
    terminal.read_until(lambda seen: b"Stopping: " in seen)
    time.sleep(INSIST_AFTER + 0.2)
    terminal.press(b"\x03")
    assert terminal.end() == -signal.SIGINT
    assert b"Traceback" not in terminal.seen


def test_ctrl_c_at_any_moment_of_the_start_leaves_no_traceback(work: Path) -> None:
    for step in range(8):
        command = ["run", "f.py:slow", "many.jsonl", "-c", f"{step}.ckpt"]
        terminal = Terminal(command, work, command=PROGRAM_THAT_SAYS_UP)
        terminal.read_until(lambda seen: b"up" in seen)  # before that, Python itself shows a traceback
        time.sleep(step * 0.07)
        terminal.press(b"\x03")
        assert terminal.end() == -signal.SIGINT
        assert b"Traceback" not in terminal.seen


def test_a_run_in_the_background_does_not_draw(work: Path) -> None:
    command = ["bash", "-i", "-c", f"set -m; {shlex.join(PROGRAM)} run f.py:slow items.jsonl & wait"]
    terminal = Terminal([], work, command=command)
    assert terminal.end() == 0
    assert b"| 0 failed |" not in terminal.seen
    assert b"all 30 items done" in terminal.seen
