"""How a bench is shown: findings as a table, as one JSON object, as CSV and Markdown."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from batchmill.benchmark import scaling
from batchmill.benchmark.benchmark import Findings
from batchmill.benchmark.scaling import Bound, Cell, Fit
from batchmill.system import machine
from batchmill.text import escape, format_rate, format_size, plural
from batchmill_cli.running.report import span
from batchmill_cli.terminal.json_output import as_json

HEADINGS = (
    "",
    "workers",
    "chunk",
    "batch",
    "items/s",
    "spread",
    "speed-up",
    "efficiency",
    "cpu",
    "peak rss",
    "start-up",
)
CSV_FIELDS = (
    *("workers", "chunk_size", "batch_size", "items_per_second", "spread", "speedup", "speedup_error", "efficiency"),
    *("cpu_percent", "peak_rss", "startup_seconds", "rounds", "chosen"),
)


def best_of(found: Findings) -> Cell | None:
    """The chosen cell; None where nothing was measured."""
    return scaling.choose(found.measured) if found.measured else None


def fit_of(found: Findings) -> Fit | None:
    """The law fitted to the cells of the chosen sizes."""
    best = best_of(found)
    return scaling.fit(cell for cell in found.measured if best is not None and cell.sizes == best.sizes)


def bound_of(found: Findings) -> Bound | None:
    """What set the answer; None where fewer than two counts were measured."""
    if len({cell.workers for cell in found.measured}) < 2:
        return None
    return scaling.bound(found.measured, found.cores, found.unfit)


def doubts_of(found: Findings) -> list[str]:
    """What spoils the measurement, and what is odd about the items."""
    doubts = scaling.doubts(found.measured, found.cores)
    if found.failed and found.failure:
        line, kind, message = found.failure
        what = f"{escape(kind, 60)}: {escape(message, 160)}"
        doubts.append(f"{plural(found.failed, 'sampled item')} failed, the one on line {line} with {what}")
    if found.differs:
        few, many = found.differs.workers
        line = found.sample.line_of(found.differs.first)
        items = plural(found.differs.items, "item")
        doubts.append(f"results differ between {few} and {many} workers: {items}, the first on line {line}")
    if found.unsteady:
        line = found.sample.line_of(found.unsteady.first)
        items = plural(found.unsteady.items, "item")
        doubts.append(f"results differ from call to call: {items}, the first on line {line} (a clock, random numbers?)")
    return doubts


# Text


def table(found: Findings) -> list[str]:
    """The cells as aligned lines, the chosen one marked."""
    rows = [list(HEADINGS), *(_row(cell, found) for cell in found.measured)]
    for column, values in ((3, [c.batch_size for c in found.cells]), (2, [c.chunk_size for c in found.cells])):
        if not any(values):
            rows = [[*row[:column], *row[column + 1 :]] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths)).rstrip() for row in rows]


def _row(cell: Cell, found: Findings) -> list[str]:
    base = scaling.base_of(cell, found.measured)
    ratio = scaling.speedup(cell, base)
    error = "" if not ratio.error else f" ± {ratio.error:.2f}"
    return [
        "*" if cell == best_of(found) else "",
        str(cell.workers),
        "auto" if cell.chunk_size is None else str(cell.chunk_size),
        "-" if cell.batch_size is None else str(cell.batch_size),
        format_rate(cell.rate),
        "?" if cell.spread is None else f"{100 * cell.spread:.1f}%",
        f"{ratio.times:.2f}{error}",
        f"{100 * ratio.efficiency:.0f}%",
        f"{cell.cpu_percent:.0f}%",
        format_size(cell.peak_rss),
        span(cell.startup),
    ]


def closing(found: Findings, command: str) -> Iterator[str]:
    """What stands below the table: doubts, what set the answer, the answer, the command to copy."""
    best, bound = best_of(found), bound_of(found)
    yield from (f"warning  {doubt}" for doubt in doubts_of(found))
    if best is None:
        return
    if bound is not None:
        yield f"bound    {bound.sentence}"
    yield f"answer   {scaling.answer(found.measured, fit_of(found))}"
    yield f"run      {command}"


def about(found: Findings) -> str:
    """What was measured, on what, in one line."""
    schedule, rounds = found.schedule, max((len(cell.rounds) for cell in found.cells), default=0)
    times = f", {schedule.passes} times a round" if schedule is not None and schedule.passes > 1 else ""
    items = plural(schedule.records if schedule else 0, "item")
    cores = plural(found.cores, "usable core")
    return f"{items}{times}; {plural(rounds, 'round')}, interleaved; {cores} ({found.cores_from})"


# Data


def as_object(found: Findings, subject: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The findings as one JSON object, of which `subject` says what was measured; seconds and bytes."""
    best, fitted, bound = best_of(found), fit_of(found), bound_of(found)
    schedule = found.schedule
    return {
        **subject,
        "partial": bool(found.stopped),
        "stopped": found.stopped,
        "sample": {
            "items": schedule.records if schedule else 0,
            "passes": schedule.passes if schedule else 0,
            "rounds": schedule.rounds if schedule else 0,
            "read": found.sample.read,
            "whole_input_read": found.sample.whole,
            "failed": found.failed,
        },
        "cells": [_cell_object(cell, found) for cell in found.measured],
        "best": None
        if best is None
        else {"workers": best.workers, "chunk_size": best.chunk_size, "batch_size": best.batch_size},
        "fastest": scaling.fastest(found.measured).workers if best is not None else None,
        "fit": None if fitted is None else _fit_object(fitted),
        "bound": None if bound is None else {"kind": bound.kind, "sentence": bound.sentence},
        "answer": scaling.answer(found.measured, fitted) if best is not None else None,
        "agree": found.differs is None,
        "left_out_for_memory": list(found.unfit),
        "warnings": doubts_of(found),
        "machine": {**machine.machine(), **machine.versions(), "load": os.getloadavg()[0]},
        "command": command if best is not None else None,
    }


def _fit_object(fitted: Fit) -> dict[str, Any]:
    return {
        "law": "Universal Scalability Law",
        "contention": fitted.contention,
        "coherency": fitted.coherency,
        "single": fitted.single,
        "peak_workers": None if math.isinf(fitted.peak) else fitted.peak,
    }


def _cell_object(cell: Cell, found: Findings) -> dict[str, Any]:
    ratio = scaling.speedup(cell, scaling.base_of(cell, found.measured))
    return {
        "workers": cell.workers,
        "chunk_size": cell.chunk_size or "auto",
        "batch_size": cell.batch_size,
        "items_per_second": cell.rate,
        "spread": cell.spread,
        "speedup": ratio.times,
        "speedup_error": ratio.error,
        "efficiency": ratio.efficiency,
        "cpu_percent": cell.cpu_percent,
        "cpu_seconds_per_item": cell.cpu_per_item,
        "peak_rss": cell.peak_rss,
        "startup_seconds": cell.startup,
        "rounds": [
            {
                "round": r.number,
                "seconds": r.seconds,
                "items": r.items,
                "failed": r.failed,
                "items_per_second": r.rate,
                "cpu_seconds": r.cpu_seconds,
                "peak_rss": r.peak_rss,
                "elsewhere_cpu_seconds": r.elsewhere,
            }
            for r in cell.rounds
        ],
    }


def as_file(name: str, found: Findings, shown: dict[str, Any]) -> str:
    """The text of a file of that name, by its suffix: .json, .csv or .md."""
    if name.endswith(".json"):
        return as_json(shown) + "\n"
    if name.endswith(".csv"):
        return _as_csv(found, shown)
    return _as_markdown(found, shown)


def _as_csv(found: Findings, shown: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for cell, values in zip(found.measured, shown["cells"]):
        writer.writerow({**values, "rounds": len(cell.rounds), "chosen": int(cell == best_of(found))})
    return text.getvalue()


def _as_markdown(found: Findings, shown: dict[str, Any]) -> str:
    rows = [_row(cell, found) for cell in found.measured]
    lines = ["|" + "|".join(f" {name} " for name in HEADINGS) + "|", "|" + "---|" * len(HEADINGS)]
    lines += ["|" + "|".join(f" {text} " for text in row) + "|" for row in rows]
    lines += ["", about(found) + (" (not complete)" if shown["partial"] else "")]
    lines += ["", *(f"- {line}" for line in closing(found, f"`{shown['command']}`"))]
    return "\n".join(lines) + "\n"
