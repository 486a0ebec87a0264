"""Owns what a run says at its end: a Report as text or as one JSON object. Never prints and never reads a file.

The first line is the news, for a mail's reader; the last lines are the commands to copy.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

from batchmill.export import escape
from batchmill.model import FailureGroup, Report, format_rate, format_size

MOST_GROUPS = 10
MOST_EXAMPLES = 10
ID_COLUMNS = 60
MESSAGE_COLUMNS = 160
# Nothing for a person to do: failures are listed in the checkpoint, the next run of the crontab continues.
ROUTINE = (0, 1, 3, 75)


@dataclass(frozen=True)
class Commands:
    """What to type next, ready for a shell: continue, show the failures, collect the results ("" where it is moot)."""

    resume: str = ""
    show: str = ""
    collect: str = ""


def is_shown(exit_code: int, *, terminal: bool, verbose: bool, quiet: bool) -> bool:
    """Whether the report is printed: on a terminal, with -v, or when not all is well; with -q for a person only."""
    if quiet:
        return exit_code not in ROUTINE
    return terminal or verbose or exit_code != 0


def render(report: Report, commands: Commands, host: str) -> str:
    """The report as text: the news, the numbers, the failures by type, what to type next."""
    lines = [f"batchmill: {news(report)} (exit {report.exit_code}){_where(report, host)}"]
    lines += _facts(report)
    lines += _section("errors", list(_failures(report.failures)))
    lines += _section("note", list(_notes(report)))
    for label, command in (("continue", commands.resume), ("show", commands.show), ("collect", commands.collect)):
        lines += _section(label, [command] if command else [])
    return "\n".join(lines)


def news(report: Report) -> str:
    """The one thing to know about the run."""
    done = report.completed + report.skipped
    if report.stopped:
        cause = f"ended by {report.stopped}" if report.stopped.startswith("SIG") else f"stopped by --{report.stopped}"
        failed = f", {report.failed} failed" if report.failed else ""
        return f"{cause}, {done} of {report.total} items done{failed}"
    if report.failed:
        return f"{report.failed} of {report.total} items failed"
    return f"all {report.total} items done" if report.total else "no items in the input"


def percent(share: float) -> str:
    """A share in percent, rounded down: 100% is said only when it is true."""
    return f"{math.floor(share * 1000 + 1e-9) / 10:.1f}%"


def span(seconds: float) -> str:
    """A length of time as `0.42s`, `41m14s` or `2h05m`."""
    if seconds < 60:
        return f"{seconds:.2f}s" if seconds < 10 else f"{seconds:.1f}s"
    whole = int(seconds + 0.5)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole // 60 % 60:02d}m"


def moment(when: float, since: float | None = None) -> str:
    """Local date and time; the time alone where the date is that of `since`."""
    text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
    same = since is not None and text[:10] == time.strftime("%Y-%m-%d", time.localtime(since))
    return text[11:] if same else text


def _where(report: Report, host: str) -> str:
    return f" - {escape(report.checkpoint, 200)} on {escape(host, 60)}" if report.checkpoint else f" - on {host}"


def _facts(report: Report) -> Iterator[str]:
    workers = f"{report.workers} worker" + ("" if report.workers == 1 else "s")
    yield (
        f"{'run':9} {moment(report.started)} - {moment(report.ended, report.started)}"
        f" ({span(report.seconds)}), {workers}, {format_rate(report.rate)} items/s"
    )
    yield (
        f"{'items':9} {report.total} total, {report.completed} completed, {report.skipped} skipped (done before),"
        f" {report.failed} failed, {report.remaining} left"
    )
    yield f"{'success':9} {percent(report.success_rate)}"
    share = 100 * report.cpu_seconds / report.seconds if report.seconds > 0 else 0.0
    yield f"{'machine':9} cpu {share:.0f}% ({span(report.cpu_seconds)}), peak rss {format_size(report.peak_rss)}"


def _failures(groups: Sequence[FailureGroup]) -> Iterator[str]:
    """The failures by type, the commonest first, with a few of each named."""
    left = MOST_EXAMPLES
    ordered = sorted(groups, key=lambda group: -group.count)
    for group in ordered[:MOST_GROUPS]:
        yield f"{group.count}x {escape(group.type, MESSAGE_COLUMNS)}"
        for example in group.examples[: max(left, 0)]:
            message = first_line(example.message)
            yield f"   id {show_id(example.id)} (line {example.line}){': ' if message else ''}{message}"
        left -= len(group.examples)
    if len(ordered) > MOST_GROUPS:
        yield f"and {len(ordered) - MOST_GROUPS} more types"


def _notes(report: Report) -> Iterator[str]:
    # Changed items and older source are among the warnings.
    counted = (
        (report.repeated, "repeated ids, each its own item"),
        (report.blank, "blank lines passed over"),
    )
    yield from (f"{count} {text}" for count, text in counted if count)
    for warning in report.warnings:
        yield from (escape(line, 500) for line in warning.splitlines())


def _section(label: str, lines: Sequence[str]) -> list[str]:
    return [f"{label if number == 0 else '':9} {line}" for number, line in enumerate(lines)]


def show_id(id: Any) -> str:
    """An id as one short, harmless text."""
    return escape(id if isinstance(id, str) else repr(id), ID_COLUMNS)


def first_line(message: str) -> str:
    """The first line of an error's message, harmless and short."""
    return escape(message.strip().partition("\n")[0].rstrip("\r"), MESSAGE_COLUMNS)


def resume_command(arguments: Sequence[str], program: str = "batchmill", directory: str | None = None) -> str:
    """The very command line again, continuing: `arguments` are those after the program's name ("run", …).

    `directory` is named where the reader may be elsewhere (a mail).
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [word for word in arguments[:end] if word not in ("--fresh", "--resume")]
    words = [*options, "--resume", *arguments[end:]]
    command = f"{program} {shlex.join(words)}"
    return f"cd {shlex.quote(directory)} && {command}" if directory else command


def as_json(value: Any) -> str:
    """Any value of ours as one line of strict JSON: non-finite numbers are null, other types their text."""
    return json.dumps(_plain(value), allow_nan=False)


def report_object(report: Report) -> dict[str, Any]:
    """The report as `--json` gives it."""
    return {**_fields(report), "rate": report.rate, "success_rate": report.success_rate}


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        value = _fields(value)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
