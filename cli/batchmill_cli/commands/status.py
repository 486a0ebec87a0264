"""`batchmill status`: how a run stands or ended, as text or JSON."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from batchmill.text import escape, format_clock, format_rate, format_size, name_some, plural
from batchmill_cli.options.click_options import Command, Option
from batchmill_cli.options.command_lines import program_name, run_again
from batchmill_cli.options.paths import CHECKPOINT
from batchmill_cli.running.report import (
    UNKNOWN,
    NextSteps,
    moment,
    next_steps,
    no_report,
    percent,
    removed,
    render,
    report_object,
    span,
)
from batchmill_cli.terminal import stdio
from batchmill_cli.terminal.json_output import as_json
from batchmill_cli.terminal.quoting import quote
from batchmill_cli.terminal.remedies import reading

if TYPE_CHECKING:
    from batchmill.output.results import Status

OPTIONS = [
    Option("--runs", group="Output", is_flag=True, help="Each run on a line: when, how long, how much, how it ended."),
    Option("--json", group="Output", is_flag=True, help="One object per checkpoint; with --runs, per run."),
]
# By the name of the verdict's kind. A run that was killed leaves the last one unfinished: nothing to do about that.
MOST_HOSTS = 8
TROUBLE = {
    "CRASH_DAMAGE": "its end is damaged, as by a power failure",
    "CORRUPT": "it is damaged",
}


@click.command(
    "status",
    cls=Command,
    params=OPTIONS,
    examples=(
        "batchmill status items.score.ckpt",
        "batchmill status *.ckpt --json | jq .done",
    ),
)
@click.argument("checkpoints", nargs=-1, required=True, type=CHECKPOINT, metavar="CHECKPOINT...")
def command(checkpoints: tuple[str, ...], runs: bool, json: bool) -> int:
    """How a run stands or ended, live or dead.

    It only reads, and takes no lock: ask as often as you like while a batch runs. Exit 0, whatever the run came to.
    """
    from batchmill.output.results import open_checkpoint

    with reading(checkpoints):
        for number, path in enumerate(checkpoints):
            with open_checkpoint(path) as results:
                status, reports = results.status(), results.reports()
            if runs:
                from batchmill_cli.commands.status_runs import lines, objects

                as_text = lines(status, reports, named=len(checkpoints) > 1)
                found = map(as_json, objects(status, reports)) if json else as_text
                stdio.print_data("\n".join(found))
            elif json:
                stdio.print_data(as_json(as_object(status)))
            else:
                stdio.print_data(("\n" if number else "") + "\n".join(describe(status, time.time())))
    return 0


def as_object(status: Status) -> dict[str, Any]:
    """The status as `--json` gives it."""
    counts = ("done", "failed", "total", "estimate")
    facts = {name: getattr(status, name) for name in ("path", "size", "meta", "runs", "live", *counts)}
    facts |= {name: getattr(status, name) for name in ("sample", "verdict", "hosts", "older_source", "removed")}
    return {**facts, "report": report_object(status.report) if status.report else None}


def describe(status: Status, now: float) -> Iterator[str]:
    """The status as lines of text: live, killed or ended; the counts; what to type next."""
    yield f"{escape(status.path, 300)}: {_life(status)}"
    if status.runs:
        run = status.runs[-1]
        yield f"{'command' if 'command' in run else 'function':9} {escape(str(run.get('function', '?')), 200)}"
        if run.get("input"):
            yield f"input     {escape(name_some(run['input'], most=10), 500)}"
    yield f"{'holds' if status.report else 'items':9} {_counts(status)}"
    if status.live and status.tried:
        yield f"speed     {_speed(status, now)}"
    if status.sample and not status.report:
        yield f"machine   {_sample(status.sample)}"
    if len(status.hosts) > 1 or (status.runs and "cluster" in status.runs[-1]):
        yield f"where     {_hosts(status)}"
    trouble = TROUBLE.get(status.verdict.kind.name) if status.verdict else None
    said = f"; {trouble}: `{program_name(absolute=False)} verify` says more" if trouble else ""
    yield f"file      {format_size(status.size)}, {plural(len(status.runs), 'run')}{said}"
    if status.older_source and not status.report:  # which says it
        yield f"note      {plural(status.older_source, 'result')} of other source than the last run's: --rerun-older"
    if status.removed and not status.report:
        yield f"note      {removed(status.removed)}"
    if status.report:
        yield from ("", "last report:")
        yield render(status.report, _commands(status), str(status.runs[-1].get("host", "?")))
    else:
        yield from next_steps(_commands(status))


def _life(status: Status) -> str:
    if status.live is not None:
        if not status.live.pid:
            return "running, just begun"
        return f"running since {moment(status.live.started)} (pid {status.live.pid} on {escape(status.live.host, 60)})"
    if not status.runs:
        return "nothing was run yet"
    if status.report is not None:
        return f"not running, the last run ended {moment(status.report.ended)}"
    run = status.runs[-1]
    who = f"pid {run.get('pid', '?')} on {escape(str(run.get('host', '?')), 60)}"
    since = moment(run.get("started", 0.0))
    return f"not running; the last run ({who}, started {since}) ended without a report: {no_report(run)}"


def _total(status: Status) -> int | None:
    """Items of the input, or about how many of a shard, where what the checkpoint holds can be held against it: not
    where it holds others too."""
    total = status.estimate if status.total is None else status.total
    return total if total is not None and total >= status.done + status.failed else None


def _counts(status: Status) -> str:
    counts = f"{status.done} done, {status.failed} failed"
    if status.report:  # which has the input's counts; other items may be in the checkpoint as well
        return counts
    total, about = _total(status), "about " if status.total is None else ""
    if not total:
        return f"{counts}, {UNKNOWN} yet" if status.live else f"{counts}, {UNKNOWN}"
    return f"{about}{total} total, {counts}, {percent((status.done + status.failed) / total)}"


def _speed(status: Status, now: float) -> str:
    """Of this run's items alone, since its start."""
    seconds = max(now - status.runs[-1].get("started", now), 0.001)
    rate, total = status.tried / seconds, _total(status)
    left = f", ETA {format_clock((total - status.done - status.failed) / rate)}" if total else ""
    return f"{format_rate(rate)} items/s for {span(seconds)}{left}"


def _hosts(status: Status) -> str:
    """Where the items ran: the hosts, the busiest first."""
    named = [f"{escape(host, 60)} {items}" for host, items in list(status.hosts.items())[:MOST_HOSTS]]
    more = len(status.hosts) - MOST_HOSTS
    return ", ".join([*named, *([f"and {more} more"] if more > 0 else [])])


def _sample(sample: Mapping[str, Any]) -> str:
    count, cpu, rss = (sample.get(name, 0) for name in ("workers", "cpu_percent", "rss"))
    workers = plural(count, "worker")
    if sample.get("machines"):
        workers = f"{plural(sample['machines'], 'worker')} with {plural(count, 'thread')}"
    return f"{workers}, cpu {cpu:.0f}%, rss {format_size(rss)} at {moment(sample['time'])}"


def _commands(status: Status) -> NextSteps:
    """What to type next: continue what is not finished and not running; what failed; the results so far."""
    absolute = not stdio.is_terminal(1)
    program = program_name(absolute=absolute)
    path = quote(os.path.abspath(status.path) if absolute else status.path)
    is_over = status.live is not None or (status.report is not None and status.report.exit_code == 0)
    return NextSteps(
        resume="" if is_over or not status.runs else run_again(status.runs[-1], status.path, absolute=absolute),
        show=f"{program} failures {path}" if status.failed else "",
        collect=f"{program} results {path} -o FILE" if status.done else "",
    )
