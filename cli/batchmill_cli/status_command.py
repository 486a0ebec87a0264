"""Owns `batchmill status`: how a run stands or ended, as text or JSON. Never takes the checkpoint's lock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from batchmill.export import escape
from batchmill.model import format_rate, format_size
from batchmill_cli import streams
from batchmill_cli.options import Command, Option
from batchmill_cli.report import Commands, as_json, moment, render, report_object, span

if TYPE_CHECKING:
    from batchmill.results import Status

OPTIONS = [Option("--json", group="Output", is_flag=True, help="One object per checkpoint.")]


@click.command(
    "status",
    cls=Command,
    params=OPTIONS,
    examples=("batchmill status items.score.ckpt", "batchmill status *.ckpt --json | jq .done"),
)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
def command(checkpoints: tuple[str, ...], json: bool) -> int:
    """How a run stands or ended, live or dead."""
    from batchmill.results import open_checkpoint

    for number, path in enumerate(checkpoints):
        with open_checkpoint(path) as results:
            status = results.status()
        if json:
            streams.print_data(as_json(as_object(status)))
        else:
            streams.print_data(("\n" if number else "") + "\n".join(describe(status)))
    return 0


def as_object(status: Status) -> dict[str, Any]:
    """The status as `--json` gives it."""
    names = ("path", "size", "meta", "runs", "live", "done", "failed", "total", "sample", "verdict")
    facts = {name: getattr(status, name) for name in names}
    return {**facts, "report": report_object(status.report) if status.report else None}


def describe(status: Status) -> Iterator[str]:
    """The status as lines of text: live or dead, the counts, the last sample, the last report in full."""
    yield f"{escape(status.path, 300)}: {_life(status)}"
    total = "?" if status.total is None else status.total
    yield f"items     {total} total, {status.done} done, {status.failed} failed"
    runs = "1 run" if len(status.runs) == 1 else f"{len(status.runs)} runs"
    yield f"file      {format_size(status.size)}, {runs}, {status.verdict}"
    if status.sample:
        yield f"sample    {_sample(status.sample)}"
    if status.report:
        yield from ("", "last report:", render(status.report, Commands(), str(status.runs[-1].get("host", "?"))))


def _life(status: Status) -> str:
    if status.live is None:
        return "not running"
    who = f"pid {status.live.pid} on {escape(status.live.host, 60)}" if status.live.pid else "just begun"
    since = f" since {moment(status.live.started)}" if status.live.pid else ""
    return f"running{since} ({who})"


def _sample(sample: Mapping[str, Any]) -> str:
    rate = f" {format_rate(sample['rate'])} items/s," if "rate" in sample else ""
    return (
        f"{moment(sample['time'])}: {span(sample['elapsed'])} into the run, {sample['done']} done,{rate}"
        f" {sample['workers']} workers, cpu {sample['cpu_percent']:.0f}%, rss {format_size(sample['rss'])}"
    )
