"""Faults of being told to stop: Ctrl-C at a terminal, TERM and HUP to the parent, to its group, to everybody."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
from fault_kit import (
    CHECKPOINT,
    PROGRAM,
    Run,
    assert_gone,
    at_terminal,
    committed,
    finish,
    lines_of,
    numbered,
    prepare,
    running,
    strikes,
    undisturbed,
    until,
    witnessed,
)
from process_kit import processes, send

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")

RUN = ("f.py:work", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", "-j", "2")
STUCK = ("f.py:stuck", "items.jsonl", "-c", CHECKPOINT, "-j", "2")
INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def with_a_gate(cwd: Path) -> bytes:
    """Items of which all but six wait for the file `go`, which is not there; the output they come to undisturbed."""
    (cwd / "go").touch()
    items = [{**item, "waits": item["n"] >= 6} for item in numbered(40)]
    expected = undisturbed(prepare(cwd, items))
    (cwd / "go").unlink()
    return expected


# Row 33


def test_row_33_ctrl_c_once_drains_and_ends_by_sigint(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(1000, sleep=0.1))
    with at_terminal(*RUN, cwd=tmp_path) as terminal:
        until(lambda: len(witnessed(tmp_path)) >= 4, "some items", terminal.pid)
        terminal.press(b"\x03")
        assert terminal.end() == -INT
        assert_gone(terminal.pid)
        assert b"Traceback" not in terminal.seen
    assert set(witnessed(tmp_path)) == set(committed(tmp_path))
    assert len(committed(tmp_path)) < 1000


@pytest.mark.parametrize(("presses", "pause"), [(2, 1.2), (20, 0.1)])
def test_row_33_ctrl_c_again_kills_workers_inside_c_code(presses: int, pause: float, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(4))
    with at_terminal(*STUCK, "--grace", "5m", cwd=tmp_path) as terminal:
        until(lambda: len(witnessed(tmp_path)) == 2, "two workers inside C code", terminal.pid)
        terminal.press(b"\x03")
        terminal.read_until(lambda seen: b"Stopping: " in seen)
        for _ in range(presses - 1):
            time.sleep(pause)
            if not processes(terminal.pid):
                break
            terminal.press(b"\x03")
        assert terminal.end() == -INT
        assert_gone(terminal.pid)
        assert b"Traceback" not in terminal.seen
    assert committed(tmp_path) == {}


# Row 34


@pytest.mark.parametrize("number", [TERM, HUP])
def test_row_34_what_does_not_end_within_the_grace_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(4))
    with running(*STUCK, "--grace", "0.3s", cwd=tmp_path) as run:
        run.until(lambda: len(witnessed(tmp_path)) == 2, "two workers inside C code")
        run.signal(number)
        ended = run.end()
        run.assert_gone()
    assert ended.status == -number
    assert f"ended by {number.name}" in ended.err
    assert "Traceback" not in ended.err
    assert strikes(tmp_path) == 0


def test_row_34_hup_under_nohup_is_ignored(tmp_path: Path) -> None:
    expected = with_a_gate(tmp_path)
    with running(*RUN, cwd=tmp_path, command=("nohup", PROGRAM, "run")) as run:
        run.until(lambda: len(witnessed(tmp_path)) == 8, "six items, and two that wait")
        send(HUP, run.all())
        (tmp_path / "go").touch()
        ended = run.end()
        run.assert_gone()
    assert ended.status == 0, ended.err
    assert (tmp_path / "out.jsonl").read_bytes() == expected
    assert sorted(witnessed(tmp_path)) == sorted(committed(tmp_path))


@pytest.mark.parametrize("whom", ["parent", "all"])
@pytest.mark.parametrize("number", [TERM, HUP])
def test_row_34_a_signal_during_start_up_ends_it_without_a_trace(
    number: signal.Signals, whom: str, tmp_path: Path
) -> None:
    prepare(tmp_path, numbered(4))
    for delay in (0.0, 0.12, 0.25):
        with running(*STUCK, "--grace", "0.2s", "--resume", cwd=tmp_path) as run:
            time.sleep(delay)
            send(number, run.all() if whom == "all" else [run.pid])
            ended = run.end()
            run.assert_gone()
        assert ended.status == -number, (delay, ended.err)
        assert "Traceback" not in ended.err, (delay, ended.err)


@pytest.mark.parametrize("number", [TERM, HUP])
def test_row_34_a_signal_before_the_run_begins_leaves_no_temporary_file(number: signal.Signals, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(1))
    os.mkfifo(tmp_path / "never.py")  # what reads this function waits
    with (
        tempfile.TemporaryDirectory(dir="/tmp", prefix="bm-") as short,
        running("never.py:f", "items.jsonl", cwd=tmp_path, TMPDIR=short) as run,
    ):
        run.until(lambda: len(run.all()) > 1, "the fork server")
        run.signal(number)
        assert run.end().status == -number
        run.assert_gone()
        assert list(Path(short).iterdir()) == []


# Row 41


def reach(run: Run, whom: str, number: signal.Signals) -> None:
    """Send a signal to the parent, to its process group, or to every process of the run."""
    if whom == "group":
        os.killpg(run.pid, number)
    else:
        send(number, run.all() if whom == "all" else [run.pid])


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("whom", "times"), [("parent", 1), ("group", 1), ("all", 1), ("all", 2)])
@pytest.mark.parametrize("number", [TERM, HUP, INT])
def test_row_41_a_signal_drains_whoever_gets_it(number: signal.Signals, whom: str, times: int, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(1000, sleep=0.1))
    with running(*RUN, cwd=tmp_path) as run:
        run.until(lambda: len(witnessed(tmp_path)) >= 4, "some items")
        for _ in range(times):
            reach(run, whom, number)
            time.sleep(0.05)
        ended = run.end()
        run.assert_gone()
    assert ended.status == -number
    assert f"ended by {number.name}" in ended.err
    assert "Traceback" not in ended.err
    assert "resource_tracker" not in ended.err
    done = committed(tmp_path)
    assert sorted(witnessed(tmp_path)) == sorted(done), "what was started is committed, and nothing twice"
    assert len(done) < 1000
    assert strikes(tmp_path) == 0


def test_row_41_a_stopped_run_continues_to_the_undisturbed_output(tmp_path: Path) -> None:
    expected = with_a_gate(tmp_path)
    with running(*RUN, "-v", cwd=tmp_path) as run:
        run.until(lambda: len(witnessed(tmp_path)) == 8, "six items, and two that wait")
        reach(run, "all", TERM)
        run.until(lambda: b"Stopping: " in run.said(), "the run to hear it")
        (tmp_path / "go").touch()
        assert run.end().status == -TERM
    before = set(committed(tmp_path))
    assert not (tmp_path / "out.jsonl").exists()
    seen = len(witnessed(tmp_path))
    ended = finish(*RUN, "--resume", cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert not set(witnessed(tmp_path)[seen:]) & before
    assert (tmp_path / "out.jsonl").read_bytes() == expected
    assert len(lines_of(tmp_path / "out.jsonl")) == 40


SLOW = ("f.py:work", "items.jsonl", "--no-checkpoint", "--preload", "slow_module")


def test_a_module_that_takes_long_to_preload_keeps_no_signal_waiting(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(4))
    (tmp_path / "slow_module.py").write_text("import time\nopen('importing', 'w').close()\ntime.sleep(1000)\n")
    with running(*SLOW, cwd=tmp_path, PYTHONPATH=str(tmp_path)) as run:
        run.until((tmp_path / "importing").exists, "the import")
        run.signal(TERM)
        assert run.end().status == -TERM
        run.assert_gone()


def test_a_module_that_takes_too_long_to_preload_ends_the_run_as_an_import_does(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(4))
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(1000)\n")
    ended = finish(*SLOW, "--start-timeout", "0.5s", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert ended.status == 78
    assert "was not imported within 0.5 s; give more with --start-timeout" in ended.err
