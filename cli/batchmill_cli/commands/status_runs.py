"""`batchmill status --runs`: the runs of a checkpoint, each on a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from batchmill.text import escape
from batchmill_cli.running.report import moment, no_report, span

if TYPE_CHECKING:
    from batchmill.model import Report
    from batchmill.output.results import Status


def objects(status: Status, reports: Mapping[int, Report]) -> Iterator[dict[str, Any]]:
    """Each run as an object: null for what is not known of one without a report."""
    for run in status.runs:
        number = run.get("run")
        report = reports.get(number) if isinstance(number, int) else None
        facts = {name: getattr(report, name, None) for name in ("ended", "seconds", "completed", "failed", "skipped")}
        ends = {name: getattr(report, name, None) for name in ("remaining", "stopped", "exit_code")}
        start = {"run": number, "started": run.get("started"), "host": run.get("host")}
        yield {"path": status.path, **start, **facts, **ends, "how": _how(status, run, report)}


def lines(status: Status, reports: Mapping[int, Report], *, named: bool) -> Iterator[str]:
    """The same for people, below a line of headings; with the checkpoint's name where there are several."""
    if named:
        yield f"{escape(status.path, 300)}:"
    yield f"{'run':>4}  {'started':19}  {'time':>8}  {'ok':>9}  {'failed':>8}  {'done before':>11}  how it ended"
    for run in objects(status, reports):
        known = run["seconds"] is not None
        time = span(run["seconds"]) if known else "-"
        counts = [str(run[name]) if known else "-" for name in ("completed", "failed", "skipped")]
        start = moment(run["started"] or 0.0)
        yield "{:>4}  {}  {:>8}  {:>9}  {:>8}  {:>11}  {}".format(run["run"], start, time, *counts, run["how"])


def _how(status: Status, run: Mapping[str, Any], report: Report | None) -> str:
    if report is not None:
        by = f"{escape(report.stopped, 60)}, " if report.stopped else ""
        return f"{by}exit {report.exit_code}"
    if status.live is not None and run is status.runs[-1]:
        return "it runs"
    return escape(no_report(run), 200)
