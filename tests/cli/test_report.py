"""The report's text and JSON: what a person reads first, and what can be copied from it."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from batchmill.model import FailureExample, FailureGroup, Report
from batchmill_cli.running.report import NextSteps, is_shown, news, percent, render, report_object, resume_command, span
from batchmill_cli.terminal.json_output import as_json


def report(**changes: Any) -> Report:
    fields: dict[str, Any] = {
        "started": 1_790_000_000.0, "ended": 1_790_002_474.0, "total": 5000, "completed": 897, "skipped": 4100,
        "failed": 3, "remaining": 0, "changed": 0, "repeated": 0, "blank": 0, "older_source": 0, "seconds": 2474.0,
        "cpu_seconds": 18926.0, "peak_rss": 3328599654, "workers": 8, "stopped": "", "exit_code": 1,
        "function": "job:crunch", "checkpoint": "nightly.ckpt",
        "failures": (
            FailureGroup("Timeout", 1, (FailureExample("c02", 9, "after 60s"),)),
            FailureGroup("ValueError", 2, (FailureExample("a17", 17, "bad header\nmore"), FailureExample(18, 18, ""))),
        ),
    }  # fmt: skip
    return Report(**{**fields, **changes})


GOOD = {"failed": 0, "completed": 900, "exit_code": 0, "failures": ()}


def test_the_first_line_is_the_news() -> None:
    first = render(report(), NextSteps(), "host7").splitlines()[0]
    assert first == "batchmill: 3 of 5000 items failed (exit 1) - nightly.ckpt on host7"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (GOOD, "all 5000 items done"),
        ({**GOOD, "total": 0, "completed": 0, "skipped": 0}, "no items in the input"),
        ({**GOOD, "stopped": "limit", "exit_code": 3}, "stopped by --limit, 5000 of 5000 items done"),
        ({"stopped": "SIGINT", "exit_code": 130}, "ended by SIGINT, 4997 of 5000 items done, 3 failed"),
        (
            {"stopped": "max-failures", "settings": {"max_failures": 3}, "exit_code": 3},
            "stopped by --max-failures, 4997 of 5000 items done, 3 failed",
        ),
        (
            {"stopped": "max-failures", "settings": {"max_failures": "auto"}, "exit_code": 3, "completed": 0},
            "stopped: the first 3 items all failed, 4100 of 5000 items done",
        ),
        ({"total": 1, "completed": 0, "skipped": 0, "failed": 1}, "1 of 1 item failed"),
        ({**GOOD, "total": 1, "completed": 1, "skipped": 0}, "1 item done"),
    ],
)
def test_the_news_names_what_ended_the_run(changes: dict[str, Any], said: str) -> None:
    assert news(report(**changes)) == said


def test_every_number_is_there() -> None:
    text = render(report(), NextSteps(), "host7")
    assert "5000 total, 897 completed, 4100 skipped (done before), 3 failed, 0 left" in text
    assert "99.9%" in text
    assert "(41m14s), 8 workers, 0.36 items/s" in text
    assert "cpu 765% (5h15m), peak rss 3.1G" in text


def test_failures_are_grouped_the_commonest_first_and_named() -> None:
    lines = render(report(), NextSteps(), "h").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("errors"))
    assert lines[start : start + 5] == [
        "errors    2x ValueError",
        "             id a17 (line 17): bad header",
        "             id 18 (line 18)",
        "          1x Timeout",
        "             id c02 (line 9): after 60s",
    ]


def test_many_types_of_failure_do_not_flood_a_mail() -> None:
    examples = tuple(FailureExample(n, n, "bad") for n in range(5))
    groups = tuple(FailureGroup(f"Error{n}", 9, examples) for n in range(50))
    lines = render(report(failures=groups), NextSteps(), "h").splitlines()
    assert len(lines) < 35
    assert any(line.endswith("and 40 more types") for line in lines)


def test_what_comes_from_items_cannot_steer_a_terminal() -> None:
    nasty = "\x1b[2Jid\r\n\x00\u202e\ud800"
    failures = (FailureGroup(nasty, 1, (FailureExample(nasty, 1, nasty),)),)
    text = render(report(failures=failures, warnings=(nasty,), checkpoint=nasty), NextSteps(), nasty)
    assert all(char == "\n" or char.isprintable() for char in text)


def test_the_commands_that_continue_show_and_collect_are_printed() -> None:
    commands = NextSteps("batchmill run x --resume", "batchmill failures c", "batchmill results c -o FILE")
    lines = render(report(), commands, "h").splitlines()
    assert lines[-3:] == [
        "continue  batchmill run x --resume",
        "show      batchmill failures c",
        "collect   batchmill results c -o FILE",
    ]


def test_an_output_that_is_not_under_its_name_is_named_before_the_commands() -> None:
    lines = render(report(), NextSteps(output="out.jsonl.partial", collect="batchmill results c"), "h").splitlines()
    assert lines[-2:] == ["output    out.jsonl.partial", "collect   batchmill results c"]


def test_a_success_rate_is_not_said_of_nothing() -> None:
    nothing = report(**{**GOOD, "completed": 0, "skipped": 0})
    assert "success   -" in render(nothing, NextSteps(), "h").splitlines()
    assert report_object(nothing)["success_rate"] is None
    assert "success   99.9%" in render(report(), NextSteps(), "h").splitlines()


def test_a_run_that_kept_nothing_has_a_headline_without_a_gap() -> None:
    first = render(report(checkpoint=None), NextSteps(), "host7").splitlines()[0]
    assert first == "batchmill: 3 of 5000 items failed (exit 1) on host7"


def test_a_traceback_in_a_warning_stays_lines_and_is_indented() -> None:
    text = render(
        report(warnings=("Stopped: all failed; the last one: Traceback\n  File x\nE: a\x1b",)), NextSteps(), "h"
    )
    assert "note      Stopped: all failed; the last one: Traceback\n              File x\n            E: a\\x1b" in text
    assert "\\x0a" not in text


def test_repeats_and_warnings_are_notes() -> None:
    assert "note      1 repeated id, each its own item" in render(report(repeated=1), NextSteps(), "h")
    text = render(report(repeated=2, warnings=("7 changed items kept their old result",), **GOOD), NextSteps(), "h")
    assert "note      2 repeated ids, each its own item\n          7 changed items kept" in text


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100.0%"), (0.9999, "99.9%"), (0.0, "0.0%"), (0.5, "50.0%"), (2 / 3, "66.7%")]
)
def test_a_hundred_percent_is_said_only_when_it_is_true(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.123, "0.12s"), (59.94, "59.9s"), (61, "1m01s"), (3599.4, "59m59s"), (7500, "2h05m")]
)
def test_lengths_of_time_are_short(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize("code", [0, 1, 2, 3, 65, 73, 74, 75, 78, 130, 143])
def test_a_crontab_line_that_succeeds_says_nothing(code: int) -> None:
    assert is_shown(code, terminal=False, verbose=False, quiet=False) == (code != 0)
    assert is_shown(code, terminal=True, verbose=False, quiet=False)
    assert is_shown(code, terminal=False, verbose=True, quiet=False)
    assert is_shown(code, terminal=True, verbose=False, quiet=True) == (code not in (0, 1, 3, 75))


def test_the_command_that_continues_is_the_same_line_for_a_shell() -> None:
    arguments = ["run", "my dir/f.py:g", "it's.jsonl", "--set", "x=[1, 2]", "--fresh"]
    command = resume_command(arguments)
    assert shlex.split(command) == ["batchmill", *arguments[:-1], "--resume"]


def test_resume_is_not_said_twice() -> None:
    assert resume_command(["run", "f:g", "--resume", "x"]) == "batchmill run f:g x --resume"
    assert resume_command(["run", "f:g", "x", "--fresh-if-finished", "--resume"]) == "batchmill run f:g x --resume"
    many = ["run", "f:g", "--fresh-if-finished", *(f"x{number}" for number in range(1000))]
    assert resume_command(many) == "the same command with --resume, without --fresh-if-finished"


def test_resume_goes_before_the_end_of_options() -> None:
    assert resume_command(["run", "f:g", "--", "-x.jsonl"]) == "batchmill run f:g --resume -- -x.jsonl"


def test_a_mail_says_where_to_run_the_command() -> None:
    command = resume_command(["run", "f:g", "x"], directory="/srv/my job")
    assert command == "cd '/srv/my job' && batchmill run f:g x --resume"


def test_the_json_report_is_strict_json_whatever_the_ids_are() -> None:
    failures = (FailureGroup("E", 1, (FailureExample((1, b"x", float("nan")), 1, "\ud800"),)),)
    loaded = json.loads(as_json(report_object(report(failures=failures))), parse_constant=pytest.fail)
    assert loaded["completed"] == 897
    assert loaded["rate"] == pytest.approx(900 / 2474)
    assert loaded["failures"][0]["examples"][0]["id"] == [1, "eA==", None]
