"""Faults of dying: kill -9 of the parent at any moment, with workers anywhere, and of the fork server."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from fault_kit import (
    CHECKPOINT,
    METHODS,
    Run,
    committed,
    finish,
    lines_of,
    numbered,
    prepare,
    results_of,
    running,
    strikes,
    undisturbed,
    witnessed,
)
from process_kit import is_fork_server, parent_of, send

from batchmill import Outcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")

RUN = ("f.py:work", "items.jsonl", "-c", CHECKPOINT, "--resume", "-o", "out.jsonl", "-j", "2")


def kill_at_random(cwd: Path, chance: random.Random, *arguments: str) -> None:
    """Start a run and kill its parent: after a random number of further items, or of milliseconds of its start."""
    further = chance.randint(0, 25)
    enough = len(witnessed(cwd)) + further
    with running(*RUN, *arguments, cwd=cwd) as run:
        if further:
            run.until(lambda: len(witnessed(cwd)) >= enough or run.process.poll() is not None, "further items")
        time.sleep(chance.uniform(0, 0.01 if further else 0.4))
        run.signal(signal.SIGKILL)
        run.end()
        run.assert_gone()


def same(now: Outcome, before: Outcome) -> bool:
    return (now.id, now.ok, now.result, now.seconds) == (before.id, before.ok, before.result, before.seconds)


def crash_and_resume(cwd: Path, kills: int, *arguments: str) -> None:
    seed = random.SystemRandom().randint(1, 10**6)
    print(f"seed {seed}")  # noqa: T201 - shown with a failure
    chance, expected = random.Random(seed), undisturbed(cwd)
    done: dict[str, Outcome] = {}
    for kill in range(kills):
        seen = len(witnessed(cwd))
        kill_at_random(cwd, chance, *arguments)
        assert not set(witnessed(cwd)[seen:]) & set(done), f"kill {kill}: committed items ran again (seed {seed})"
        now = committed(cwd)
        assert all(same(now[id], done[id]) for id in done), f"kill {kill}: a committed outcome changed (seed {seed})"
        done = now
    seen = len(witnessed(cwd))
    ended = finish(*RUN, *arguments, cwd=cwd)
    assert (ended.status, ended.err) == (0, ""), seed
    assert not set(witnessed(cwd)[seen:]) & set(done), seed
    assert (cwd / "out.jsonl").read_bytes() == expected, seed
    assert all(outcome.attempts == 1 for outcome in committed(cwd).values()), seed
    assert strikes(cwd) == 0
    assert not list(cwd.glob("*.tmp"))


def test_row_1_what_a_killed_run_left_of_its_output_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(20, waits=True))
    with running(*RUN, cwd=tmp_path) as run:
        run.until(lambda: list(tmp_path.glob(".out.jsonl.*.tmp")) and witnessed(tmp_path), "a temporary file")
        (left,) = tmp_path.glob(".out.jsonl.*.tmp")
        with running(*RUN, "-c", "other.ckpt", cwd=tmp_path) as other:
            other.until(lambda: len(list(tmp_path.glob(".out.jsonl.*.tmp"))) == 2, "another temporary file")
            assert left.exists(), "that of a run that lives was removed"
            other.signal(signal.SIGKILL)
            other.end()
            other.assert_gone()
        run.signal(signal.SIGKILL)
        run.end()
        run.assert_gone()
    assert left.exists()
    another = "0" if left.name[-5] != "0" else "1"
    others = {
        "out.2023.tmp",
        "out.jsonl.2023.tmp",
        f"out.jsonl.{run.pid}.tmp",
        left.name.replace(".out.jsonl", ".xout.jsonl"),
        left.name.removesuffix(f"{left.name[-5]}.tmp") + f"{another}.tmp",
    }
    for name in (*others, "go"):
        (tmp_path / name).touch()
    assert finish(*RUN, cwd=tmp_path).status == 0
    assert {path.name for path in tmp_path.glob("*.tmp*")} == others


def test_row_1_a_run_killed_twenty_times_ends_as_if_undisturbed(tmp_path: Path) -> None:
    crash_and_resume(prepare(tmp_path, numbered(300, sleep=0.004, text="x" * 50)), 20)


@pytest.mark.parametrize("method", METHODS)
def test_row_1_holds_for_every_start_method(method: str, tmp_path: Path) -> None:
    crash_and_resume(prepare(tmp_path, numbered(60, sleep=0.004)), 2, "--start-method", method)


@pytest.mark.parametrize("method", METHODS)
def test_row_32_no_worker_outlives_the_parent_not_even_inside_c_code(method: str, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3))
    arguments = ("f.py:stuck", "items.jsonl", "-c", CHECKPOINT, "--chunk-size", "1", "--start-method", method)
    with running(*arguments, "-j", "3", cwd=tmp_path) as run:
        run.until(lambda: len(witnessed(tmp_path)) == 3, "three workers inside C code")
        run.signal(signal.SIGKILL)
        run.end()
        run.assert_gone()


def test_row_32_what_an_item_started_dies_with_its_worker(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(1))
    (tmp_path / "g.py").write_text(
        "import f, subprocess\n\ndef child(item):\n    subprocess.Popen(['sleep', '1000'])\n    f.stuck(item)\n"
    )
    with running("g.py:child", "items.jsonl", "-c", CHECKPOINT, "-j", "1", cwd=tmp_path) as run:
        run.until(lambda: witnessed(tmp_path), "the item to run")
        run.signal(signal.SIGKILL)
        run.end()
        run.assert_gone()


@pytest.mark.parametrize("method", METHODS)
def test_row_18_the_lock_is_free_as_soon_as_the_parent_was_killed(method: str, tmp_path: Path) -> None:
    prepare(tmp_path, [{**item, "waits": item["n"] >= 6} for item in numbered(40)])
    arguments = (*RUN, "--start-method", method)
    with running(*arguments, cwd=tmp_path) as run:
        run.until(lambda: committed(tmp_path), "an outcome")
        run.signal(signal.SIGKILL)
        run.end()
        (tmp_path / "go").touch()
        with running(*arguments, cwd=tmp_path) as again:
            ended = again.end()
            again.assert_gone()
        run.assert_gone()
    assert (ended.status, ended.err) == (0, "")
    assert len(results_of(tmp_path / "out.jsonl")) == 40


def fork_servers_of(run: Run) -> list[int]:
    """The fork server, if it runs now."""
    return [pid for pid in run.all() if parent_of(pid) == run.pid and is_fork_server(pid)]


def test_row_40_a_killed_fork_server_costs_nothing_and_another_replaces_it(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(200, sleep=0.05))
    command = ("f.py:alone", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", "-j", "3")
    with running(*command, cwd=tmp_path) as run:
        run.until(lambda: sum(line.startswith("end") for line in witnessed(tmp_path)) >= 5, "some items")
        (server,) = fork_servers_of(run)
        workers = [pid for pid in run.all() if parent_of(pid) == server]
        os.kill(server, signal.SIGKILL)
        run.until(lambda: sum(line.startswith("end") for line in witnessed(tmp_path)) >= 25, "more of them")
        assert set(workers) <= set(run.all())
        os.kill(workers[0], signal.SIGKILL)
        run.until(lambda: fork_servers_of(run), "another fork server, for another worker")
        ended = run.end()
        run.assert_gone()
    assert (ended.status, ended.err) == (0, "")
    assert [o["result"] for o in lines_of(tmp_path / "out.jsonl")] == list(range(200))
    assert not [line for line in witnessed(tmp_path) if line.startswith("TWICE")]
    assert strikes(tmp_path) == 0
    assert all(outcome.attempts == 1 for outcome in committed(tmp_path).values())


def test_a_stopped_fork_server_is_replaced_when_a_worker_is_needed(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(100, sleep=0.05))
    command = ("f.py:alone", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", "-j", "2")
    with running(*command, cwd=tmp_path) as run:
        run.until(lambda: sum(line.startswith("end") for line in witnessed(tmp_path)) >= 5, "some items")
        (server,) = fork_servers_of(run)
        workers = [pid for pid in run.all() if parent_of(pid) == server]
        os.kill(server, signal.SIGSTOP)
        os.kill(workers[0], signal.SIGKILL)
        ended = run.end()
        run.assert_gone()
    assert (ended.status, ended.err) == (0, "")
    assert [o["result"] for o in lines_of(tmp_path / "out.jsonl")] == list(range(100))
    assert not [line for line in witnessed(tmp_path) if line.startswith("TWICE")]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_row_40_a_fork_server_killed_or_stopped_while_workers_start_is_replaced(
    signum: signal.Signals, tmp_path: Path
) -> None:
    prepare(tmp_path, numbered(6, sleep=0.01))
    for delay in (0.0, 0.02, 0.05, 0.08, 0.12):
        command = ("f.py:alone", "items.jsonl", "-c", f"{delay}.ckpt", "-o", "out.jsonl", "-j", "2")
        with running(*command, cwd=tmp_path) as run:
            run.until(lambda: fork_servers_of(run), "the fork server")
            time.sleep(delay)
            send(signum, fork_servers_of(run))
            ended = run.end()
            run.assert_gone()
        assert (ended.status, ended.err) == (0, ""), delay
        assert [o["result"] for o in lines_of(tmp_path / "out.jsonl")] == list(range(6))
    assert not [line for line in witnessed(tmp_path) if line.startswith("TWICE")]


def test_row_20_an_item_that_kills_its_worker_fails_alone_and_by_name(tmp_path: Path) -> None:
    items = numbered(40, sleep=0.01)
    for n, do in ((7, "exit"), (20, "segfault"), (33, "abort")):
        items[n]["do"] = do
    prepare(tmp_path, items)
    command = ("f.py:deadly", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", "-j", "2")
    ended = finish(*command, cwd=tmp_path)
    assert ended.status == 1, ended.err
    outcomes = committed(tmp_path)
    errors = {id: outcome.error for id, outcome in outcomes.items() if not outcome.ok}
    assert set(errors) == {"i7", "i20", "i33"}
    for id, cause in (("i7", "status 7"), ("i20", "SIGSEGV"), ("i33", "SIGABRT")):
        error = errors[id]
        assert error is not None
        assert error.type == "WorkerDied"
        assert cause in error.message
        assert f"id {id} (line {int(id[1:]) + 1})" in ended.err
        assert witnessed(tmp_path).count(id) == 2  # its strikes
    assert set(results_of(tmp_path / "out.jsonl")) == {item["id"] for item in items} - set(errors)


def test_row_20_what_was_committed_does_not_run_again_when_a_worker_dies(tmp_path: Path) -> None:
    items = numbered(30, sleep=0.02)
    items[15]["do"] = "segfault"
    prepare(tmp_path, items)
    command = ("f.py:deadly", "items.jsonl", "-c", CHECKPOINT, "-j", "2", "--chunk-size", "1")
    assert finish(*command, cwd=tmp_path).status == 1
    again = {id for id in committed(tmp_path) if witnessed(tmp_path).count(id) > 1}
    assert again == {"i15"}
