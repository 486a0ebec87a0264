"""What a run says at its end: a Report as text or as one JSON object.

The first line is the news, for a mail's reader; the last lines are the commands to copy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batchmill.codec.json_form import shown
from batchmill.errors import is_signal
from batchmill.model import FailureGroup, Report, StopReason
from batchmill.text import escape, format_rate, format_size, plural, where
from batchmill.value_class import value_class
from batchmill_cli.options.command_lines import LONGEST_COMMAND
from batchmill_cli.terminal.json_output import fields_of
from batchmill_cli.terminal.quoting import join, quote

UNKNOWN = "total not known"
MOST_GROUPS = 10
MOST_EXAMPLES = 10
ID_COLUMNS = 60
MESSAGE_COLUMNS = 160
# Nothing for a person to do: failures are listed in the checkpoint, the next run of the crontab continues.
ROUTINE = (0, 1, 3, 75)

_CAUSES: Mapping[str, str] = {
    StopReason.ERROR: "ended by an error",
    StopReason.STOP: "stopped by the program",
    StopReason.LEFT: "ended by the program that read its outcomes",
    StopReason.OUTPUT: "ended: its output could not be written",
}


@value_class
class NextSteps:
    """What to type next, ready for a shell: continue, show the failures, collect the results ("" where it is moot).

    `output` says where the results are, where that is not where they were asked for.
    """

    resume: str = ""
    show: str = ""
    collect: str = ""
    output: str = ""


def is_shown(exit_code: int, *, terminal: bool, verbose: bool, quiet: bool) -> bool:
    """Whether the report is printed: on a terminal, with -v, or when not all is well; with -q for a person only."""
    if quiet:
        return exit_code not in ROUTINE
    return terminal or verbose or exit_code != 0


def render(report: Report, commands: NextSteps, host: str) -> str:
    """The report as text: the news, the numbers, the failures by type, what to type next."""
    lines = [f"batchmill: {news(report)} (exit {report.exit_code}){_where(report, host)}"]
    lines += _facts(report)
    lines += _section("error", list(indented(report.error, 500)))
    lines += _section("errors", list(_failures(report.failures)))
    lines += _section("note", list(_notes(report)))
    lines += next_steps(commands)
    return "\n".join(lines)


def next_steps(commands: NextSteps) -> list[str]:
    """What to type next, as lines of text."""
    steps = (
        ("output", commands.output),
        ("continue", commands.resume),
        ("show", commands.show),
        ("collect", commands.collect),
    )
    return [line for label, text in steps for line in _section(label, [text] if text else [])]


def news(report: Report) -> str:
    """The one thing to know about the run."""
    if report.stopped == StopReason.MAX_FAILURES and report.settings.get("max_failures") == "auto":
        # Those that failed in an earlier run, and were left so, have no examples.
        now = sum(group.count for group in report.failures if group.examples)
        first = f"the first {now} items all failed" if now > 1 else "the first item failed"
        return f"stopped: {first}, {of_total(results(report), report)} done"
    if report.stopped:
        failed = f", {report.failed} failed" if report.failed else ""
        return f"{cause(report.stopped)}, {of_total(results(report), report)} done{failed}"
    if report.failed:
        return f"{of_total(report.failed, report)} failed"
    if report.total == 1:
        return "1 item done"
    return f"all {report.total} items done" if report.total else "no items in the input"


def of_total(count: int, report: Report) -> str:
    """So many items, of how many."""
    if report.total is None:
        return f"{plural(count, 'item')} ({UNKNOWN})"
    return f"{count} of {plural(report.total, 'item')}"


def cause(stopped: str) -> str:
    """What ended a run early, in words; `stopped` as a Report has it."""
    if is_signal(stopped):
        return f"ended by {stopped}"
    return _CAUSES.get(stopped) or f"stopped by --{stopped}"


def no_report(run: Mapping[str, Any]) -> str:
    """Why a run that is over has no report; `run` is what was written down of it."""
    return first_line(run["error"]) if run.get("error") else "it was killed, or could not write one"


def results(report: Report) -> int:
    """Items of the input that have an ok result now."""
    return report.completed + report.skipped


def percent(share: float) -> str:
    """A share in percent, rounded; but 100.0% is said only when it is true, as the progress line does."""
    return f"{100 * (share if share >= 1 else min(share, 0.999)):.1f}%"


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
    text = _local(when)
    same = since is not None and text[:10] == _local(since)[:10]
    return text[11:] if same else text


def _local(when: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
    except (OverflowError, ValueError, OSError):  # what no clock can have told
        return "????-??-?? ??:??:??"


def _where(report: Report, host: str) -> str:
    return (f" - {escape(report.checkpoint, 200)}" if report.checkpoint else "") + f" on {escape(host, 60)}"


def _facts(report: Report) -> Iterator[str]:
    yield (
        f"{'run':9} {moment(report.started)} - {moment(report.ended, report.started)}"
        f" ({span(report.seconds)}), {plural(report.workers, 'worker')}, {format_rate(report.rate)} items/s"
    )
    total = UNKNOWN if report.total is None else f"{report.total} total"
    left = "" if report.remaining is None else f", {report.remaining} left"
    yield (
        f"{'items':9} {total}, {report.completed} completed, {report.skipped} skipped (done before),"
        f" {report.failed} failed{left}"
    )
    yield f"{'success':9} {percent(report.success_rate) if _is_tried(report) else '-'}"
    share = 100 * report.cpu_seconds / report.seconds if report.seconds > 0 else 0.0
    yield f"{'machine':9} cpu {share:.0f}% ({span(report.cpu_seconds)}), peak rss {format_size(report.peak_rss)}"


def _is_tried(report: Report) -> bool:
    return bool(results(report) or report.failed)


def _failures(groups: Sequence[FailureGroup]) -> Iterator[str]:
    """The failures by type, the commonest first, with a few of each named."""
    left = MOST_EXAMPLES
    ordered = sorted(groups, key=lambda group: -group.count)
    for group in ordered[:MOST_GROUPS]:
        yield f"{group.count}x {escape(group.type, MESSAGE_COLUMNS)}"
        for example in group.examples[: max(left, 0)]:
            message = first_line(example.message)
            yield f"   id {show_id(example.id)} ({where(example.line, example.file)}){': ' if message else ''}{message}"
        left -= len(group.examples)
    if len(ordered) > MOST_GROUPS:
        yield f"and {len(ordered) - MOST_GROUPS} more types"


def _notes(report: Report) -> Iterator[str]:
    # Changed items and older source are among the warnings.
    if report.repeated:
        yield f"{plural(report.repeated, 'repeated id')}, each its own item"
    if report.blank:
        yield f"{plural(report.blank, 'blank line')} passed over"
    if report.split_calls:
        yield f"{plural(report.split_calls, 'call')} of many items failed; each of their items was called by itself"
    if report.settings.get("batch_size") == "auto" and report.batch_size:
        yield f"--batch-size auto came to {report.batch_size}"
    if report.removed:
        yield removed(report.removed)
    for warning in (*report.warnings, *report.notes):
        yield from indented(warning, 500)


def removed(count: int) -> str:
    """That the checkpoint has so many outcomes of items that INPUT no longer has."""
    return f"{plural(count, 'more outcome')} of items that INPUT no longer has: `results --with-removed`"


def indented(text: str, columns: int) -> Iterator[str]:
    """A message as harmless lines, those after its first indented: it may end in a traceback."""
    for number, line in enumerate(text.splitlines()):
        yield ("  " if number else "") + escape(line, columns)


def _section(label: str, lines: Sequence[str]) -> list[str]:
    return [f"{label if number == 0 else '':9} {line}" for number, line in enumerate(lines)]


def show_id(id: Any) -> str:
    """An id as one short, harmless text."""
    return escape(id if isinstance(id, str) else shown(id), ID_COLUMNS)


def first_line(message: str) -> str:
    """The first line of an error's message, harmless and short."""
    return escape(message.strip().partition("\n")[0].rstrip("\r"), MESSAGE_COLUMNS)


def resume_command(arguments: Sequence[str], program: str = "batchmill", directory: str | None = None) -> str:
    """The very command line again, continuing: `arguments` are those after the program's name ("run", …).

    What begins anew is left out, be it an option or the environment's. `directory` is named where the reader may be
    elsewhere (a mail). A line that is too long to be copied is told in words.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [word for word in arguments[:end] if word not in ("--fresh", "--fresh-if-finished", "--resume")]
    words = [*options, "--resume", *arguments[end:]]
    variable = f"BATCHMILL_{arguments[0].upper()}_FRESH_IF_FINISHED" if arguments else ""
    command = f"{f'env -u {variable} ' if variable in os.environ else ''}{program} {join(words)}"
    if len(command) > LONGEST_COMMAND:
        anew = ", without --fresh-if-finished" if "--fresh-if-finished" in arguments[:end] else ""
        return f"the same command with --resume{anew}{f' in {directory}' if directory else ''}"
    return f"cd {quote(directory)} && {command}" if directory else command


def report_object(report: Report) -> dict[str, Any]:
    """The report as `--json` gives it; the success rate is null where nothing was tried."""
    share = report.success_rate if _is_tried(report) else None
    return {**fields_of(report), "rate": report.rate, "success_rate": share}
