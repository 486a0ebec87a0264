"""Faults that pass: items that fail now and then, how often they are tried, and how many failures a run takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cli_kit import environment
from fault_kit import (
    CHECKPOINT,
    LIMIT,
    PROGRAM,
    committed,
    finish,
    lines_of,
    prepare,
    running,
    strikes,
    witnessed,
)

from batchmill import Outcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")

FLAKY = '''
import ctypes, os, signal, time
from f import note


def tries_of(item):
    """How often the item was called, this time included."""
    with open(f"tries-{item['id']}", "ab") as file:
        file.write(b"x")
        return file.tell()


def flaky(item):
    """Does in try n what the n-th word of `do` says; beyond them it succeeds."""
    tries = tries_of(item)
    note(item["id"], tries)
    words = item.get("do", [])
    do = words[tries - 1] if tries <= len(words) else "succeed"
    if do == "raise" and not os.path.exists("mended"):
        raise ValueError(f"try {tries}")
    if do == "exit":
        os._exit(7)
    if do == "hang":
        while True:
            time.sleep(0.001)
    if do == "stick":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        ctypes.PyDLL(None).sleep(1000)
    return item["n"]
'''
RAISE, EXIT, HANG, STICK = "raise", "exit", "hang", "stick"


def flaky(cwd: Path, count: int, do: dict[int, list[str]], **fields: Any) -> list[dict[str, Any]]:
    """`count` items, of which those in `do` misbehave as it says."""
    items = [{"id": f"i{n}", "n": n, **({"do": do[n]} if n in do else {}), **fields} for n in range(count)]
    prepare(cwd, items)
    (cwd / "g.py").write_text(FLAKY)
    return items


def command(*arguments: str, output: str = "out.jsonl") -> tuple[str, ...]:
    return ("g.py:flaky", "items.jsonl", "-c", CHECKPOINT, "-o", output, *arguments)


def tries(cwd: Path) -> Counter[str]:
    """How often each item was called."""
    return Counter(line.split()[0] for line in witnessed(cwd))


def asked(cwd: Path, *arguments: str) -> str:
    """What another command says."""
    return subprocess.run(
        [PROGRAM, *arguments], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=True
    ).stdout


def failed(outcomes: dict[Any, Outcome]) -> set[Any]:
    return {id for id, outcome in outcomes.items() if not outcome.ok}


def everything(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": item["id"], "result": item["n"]} for item in items]


def test_an_item_that_succeeds_at_its_third_try_is_done_and_nobody_speaks_of_its_failures(tmp_path: Path) -> None:
    items = flaky(tmp_path, 30, {4: [RAISE, RAISE], 17: [RAISE], 29: [RAISE, RAISE]})
    ended = finish(*command("--retries", "2", "--retry-delay", "10ms", "-j", "2"), cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert tries(tmp_path) == {item["id"]: {"i4": 3, "i17": 2, "i29": 3}.get(item["id"], 1) for item in items}
    outcomes = committed(tmp_path)
    assert {id: outcome.attempts for id, outcome in outcomes.items()} == dict(tries(tmp_path))
    assert lines_of(tmp_path / "out.jsonl") == everything(items)
    collected = [json.loads(line) for line in asked(tmp_path, "results", CHECKPOINT).splitlines()]
    assert collected == everything(items)
    assert asked(tmp_path, "failures", CHECKPOINT, "--json") == ""
    assert asked(tmp_path, "failures", CHECKPOINT, "--items") == ""
    assert "0 failed" in asked(tmp_path, "status", CHECKPOINT)


def test_an_item_that_never_succeeds_is_failed_once_and_everybody_agrees(tmp_path: Path) -> None:
    items = flaky(tmp_path, 30, {4: [RAISE] * 9, 17: [RAISE]})
    ended = finish(*command("--retries", "2", "--retry-delay", "0", "-j", "2", "--json"), cwd=tmp_path)
    assert ended.status == 1
    report = json.loads(ended.out)
    assert (report["total"], report["completed"], report["failed"], report["remaining"]) == (30, 29, 1, 0)
    assert report["repeated"] == 0, "a second try is no second occurrence"
    assert [(group["type"], group["count"]) for group in report["failures"]] == [("ValueError", 1)]
    assert [example["id"] for example in report["failures"][0]["examples"]] == ["i4"]
    assert report["failures"][0]["examples"][0]["message"] == "try 3"
    assert tries(tmp_path)["i4"] == 3
    (failure,) = [json.loads(line) for line in asked(tmp_path, "failures", CHECKPOINT, "--json").splitlines()]
    assert (failure["id"], failure["line"], failure["attempts"]) == ("i4", 5, 3)
    assert failure["error"]["message"] == "try 3"
    assert [json.loads(line) for line in asked(tmp_path, "failures", CHECKPOINT, "--items").splitlines()] == [items[4]]
    assert lines_of(tmp_path / "out.jsonl") == [line for line in everything(items) if line["id"] != "i4"]
    assert "1 failed" in asked(tmp_path, "status", CHECKPOINT)


def test_an_item_that_waits_holds_up_nobody_and_a_kill_meanwhile_costs_nothing(tmp_path: Path) -> None:
    items = flaky(tmp_path, 30, {6: [RAISE], 7: [RAISE], 20: [RAISE, RAISE]})
    with running(*command("--retries", "2", "--retry-delay", "1h", "-j", "2", output="-"), cwd=tmp_path) as run:
        run.until(lambda: len(committed(tmp_path)) == 30, "everybody's first try")
        run.until(lambda: os.fstat(run._out.fileno()).st_size, "the output before the first that waits")
        run.signal(signal.SIGKILL)
        ended = run.end()
        run.assert_gone()
    assert failed(committed(tmp_path)) == {"i6", "i7", "i20"}
    streamed = [json.loads(line) for line in ended.out.splitlines()]
    assert streamed == everything(items)[: len(streamed)]
    assert 1 <= len(streamed) <= 6
    again = finish(*command("--retries", "2", "--retry-delay", "0", "-j", "2", "--resume"), cwd=tmp_path)
    assert (again.status, again.err) == (0, "")
    assert tries(tmp_path) == {item["id"]: {"i6": 2, "i7": 2, "i20": 3}.get(item["id"], 1) for item in items}
    assert {id: outcome.attempts for id, outcome in committed(tmp_path).items()} == dict(tries(tmp_path))
    assert lines_of(tmp_path / "out.jsonl") == everything(items)


def test_a_signal_ends_the_wait_for_the_next_try(tmp_path: Path) -> None:
    flaky(tmp_path, 5, {2: [RAISE]})
    with running(*command("--retries", "1", "--retry-delay", "1h", "-j", "2"), cwd=tmp_path) as run:
        run.until(lambda: len(committed(tmp_path)) == 5, "everybody's first try")
        run.signal(signal.SIGTERM)
        ended = run.end()
        run.assert_gone()
    assert ended.status == -signal.SIGTERM
    assert failed(committed(tmp_path)) == {"i2"}


@pytest.mark.parametrize("output", ["-", "out.jsonl"])
def test_the_output_keeps_the_order_of_the_input_whoever_was_late(output: str, tmp_path: Path) -> None:
    items = flaky(tmp_path, 60, {n: [RAISE] * (1 + n % 3) for n in range(0, 60, 7)})
    ended = finish(*command("--retries", "3", "--retry-delay", "5ms", "-j", "2", output=output), cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    text = ended.out if output == "-" else (tmp_path / output).read_text()
    assert [json.loads(line) for line in text.splitlines()] == everything(items)


def test_an_item_too_large_to_be_kept_is_tried_again_all_the_same(tmp_path: Path) -> None:
    items = flaky(tmp_path, 4, {1: [RAISE], 2: [RAISE, RAISE]}, text="x" * 100_000)
    ended = finish(*command("--retries", "2", "--retry-delay", "0", "-j", "2"), cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert lines_of(tmp_path / "out.jsonl") == everything(items)
    assert tries(tmp_path) == {"i0": 1, "i1": 2, "i2": 3, "i3": 1}


def test_crashes_and_time_outs_have_their_own_tries(tmp_path: Path) -> None:
    items = flaky(
        tmp_path,
        12,
        {
            1: [HANG, RAISE],  # a time-out is a failure as any other
            4: [STICK],  # also one that cost the worker
            6: [EXIT, EXIT],  # crashes have had their tries: --retries adds none
            8: [EXIT],  # one crash, then well
            10: [STICK, EXIT],  # killed, tried again, and only then the first crash
        },
    )
    options = ("--retries", "2", "--retry-delay", "0", "--timeout", "2s", "--chunk-size", "1", "-j", "2")
    ended = finish(*command(*options), cwd=tmp_path)
    assert ended.status == 1
    outcomes = committed(tmp_path)
    assert failed(outcomes) == {"i6"}
    error = outcomes["i6"].error
    assert error is not None
    assert error.type == "WorkerDied"
    expected = {"i1": 3, "i4": 2, "i6": 2, "i8": 2, "i10": 3}
    assert tries(tmp_path) == {item["id"]: expected.get(item["id"], 1) for item in items}
    assert {id: outcome.attempts for id, outcome in outcomes.items()} == dict(tries(tmp_path))
    assert strikes(tmp_path) == 6
    assert lines_of(tmp_path / "out.jsonl") == [line for line in everything(items) if line["id"] != "i6"]


# --max-failures and --allow-failures


def mended(cwd: Path) -> None:
    (cwd / "mended").touch()


@pytest.mark.parametrize("size", ["1", "auto"])
def test_a_run_in_which_the_first_hundred_all_fail_stops_and_shows_why(size: str, tmp_path: Path) -> None:
    items = flaky(tmp_path, 3000, {n: [RAISE] * 9 for n in range(3000)})
    ended = finish(*command("-j", "2", "--chunk-size", size), cwd=tmp_path)
    assert ended.status == 3
    assert "batchmill: stopped: the first " in ended.err
    assert "items all failed" in ended.err
    assert "ValueError: try 1" in ended.err
    assert 100 <= len(committed(tmp_path)) < 3000
    assert not (tmp_path / "out.jsonl").exists()
    assert (tmp_path / "out.jsonl.partial").read_text() == ""
    mended(tmp_path)
    again = finish(*command("-j", "2", "--resume"), cwd=tmp_path)
    assert (again.status, again.err) == (0, "")
    assert lines_of(tmp_path / "out.jsonl") == everything(items)


def test_one_success_is_enough_to_go_on(tmp_path: Path) -> None:
    flaky(tmp_path, 150, {n: [RAISE] for n in range(1, 150)})
    ended = finish(*command("-j", "1"), cwd=tmp_path)
    assert ended.status == 1
    assert len(failed(committed(tmp_path))) == 149


def test_with_none_all_may_fail(tmp_path: Path) -> None:
    flaky(tmp_path, 150, {n: [RAISE] for n in range(150)})
    assert finish(*command("-j", "2", "--max-failures", "none"), cwd=tmp_path).status == 1
    assert len(failed(committed(tmp_path))) == 150


@pytest.mark.parametrize(("most", "count"), [("3", 3), ("10%", 11)])
def test_a_run_stops_at_so_many_failures_and_continues(most: str, count: int, tmp_path: Path) -> None:
    items = flaky(tmp_path, 300, {n: [RAISE] for n in range(5, 300, 5)})
    ended = finish(*command("-j", "1", "--chunk-size", "1", "--max-failures", most), cwd=tmp_path)
    assert ended.status == 3
    assert f"(--max-failures {most})" in ended.err
    assert "ValueError: try 1" in ended.err
    assert "in flaky" in ended.err, "where it was raised"
    partial = lines_of(tmp_path / "out.jsonl.partial")
    outcomes = committed(tmp_path)
    assert len(failed(outcomes)) >= count
    assert len(outcomes) < 300
    assert partial == [line for line in everything(items) if line["id"] in outcomes and outcomes[line["id"]].ok]
    mended(tmp_path)
    again = finish(*command("-j", "2", "--resume"), cwd=tmp_path)
    assert (again.status, again.err) == (0, "")
    assert lines_of(tmp_path / "out.jsonl") == everything(items)
    assert {id for id, count in tries(tmp_path).items() if count > 1} == failed(outcomes)


def test_an_item_that_will_be_tried_again_is_no_failure_yet(tmp_path: Path) -> None:
    items = flaky(tmp_path, 20, {n: [RAISE] for n in range(3, 20, 4)})
    options = ("--max-failures", "1", "--retries", "1", "--retry-delay", "10ms", "-j", "2")
    ended = finish(*command(*options), cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert lines_of(tmp_path / "out.jsonl") == everything(items)


@pytest.mark.parametrize(("allowed", "status"), [("3", 0), ("2", 1), ("10%", 0), ("9%", 1)])
def test_as_many_failures_as_allowed_are_a_success(allowed: str, status: int, tmp_path: Path) -> None:
    flaky(tmp_path, 30, {n: [RAISE] for n in (3, 7, 20)})
    ended = finish(*command("-j", "2", "--allow-failures", allowed), cwd=tmp_path)
    assert ended.status == status
    assert (ended.err == "") == (status == 0)
    assert len(lines_of(tmp_path / "out.jsonl")) == 27
    assert len(failed(committed(tmp_path))) == 3
