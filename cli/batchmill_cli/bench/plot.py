"""The picture of a bench: points with errors, the ideal, the fitted law; beside it batch sizes, where several were
measured. Needs matplotlib, which is an extra; never measures.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from importlib.util import find_spec
from math import inf
from typing import Any
from xml.sax.saxutils import escape

from batchmill.benchmark import scaling
from batchmill.benchmark.benchmark import Findings
from batchmill.benchmark.scaling import Cell, Fit
from batchmill.errors import InvalidUsage
from batchmill.text import plural
from batchmill_cli.bench import files
from batchmill_cli.bench.table import best_of, fit_of

_INK, _GREY, _PALE = "#000000", "#555555", "#999999"  # told apart in grey, and by their strokes
_SALT = "batchmill"  # the same findings give the same SVG


def check() -> None:
    """Raise InvalidUsage where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise InvalidUsage("--plot needs matplotlib, which is not installed", "pip install 'batchmill[plot]'")


def draw(path: str, found: Findings, function: str) -> None:
    """Draw the curve of the chosen sizes, and the rates of all batch sizes with the chosen number of workers, into an
    .svg or .png file; raises OutputLost."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    best, fitted = best_of(found), fit_of(found)
    assert best is not None
    curve = sorted((c for c in found.measured if c.sizes == best.sizes), key=lambda cell: cell.workers)
    batches = batches_of(found.measured, best)
    kind = path.rpartition(".")[2]
    with mpl.rc_context({"svg.hashsalt": _SALT, "svg.fonttype": "none", "font.size": 10}):
        panels = 2 if batches else 1
        figure = Figure(figsize=(6.4 * panels, 4.2), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        _paint(axes[0], curve, best, fitted, function)
        if batches:
            _paint_batches(axes[1], batches, best)
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    data = stream.getvalue()
    words = describe(curve, best, fitted, batches)
    files.write(path, _described(data, function, words) if kind == "svg" else data)


def batches_of(cells: Iterable[Cell], best: Cell) -> list[Cell]:
    """The cells that differ from the chosen one in their batch size alone, smallest first; none where there is no
    other."""
    found = [c for c in cells if (c.workers, c.chunk_size) == (best.workers, best.chunk_size)]
    found.sort(key=lambda cell: cell.batch_size if isinstance(cell.batch_size, int) else inf)
    return found if len(found) > 1 else []


def _paint(axes: Any, curve: list[Cell], best: Cell, fitted: Fit | None, function: str) -> None:
    counts, rates = [cell.workers for cell in curve], [cell.rate for cell in curve]
    errors = [cell.rate * (cell.error or 0.0) for cell in curve]
    least, most = curve[0], counts[-1]
    steps = [least.workers + (most - least.workers) * step / 200 for step in range(201)]
    axes.plot([least.workers, most], [least.rate, least.rate * most / least.workers], color=_PALE, linestyle=":",
              label="ideal")  # fmt: skip
    if fitted is not None:
        axes.plot(steps, [fitted.rate(n) for n in steps], color=_GREY, linestyle="--",
                  label=f"fitted: {100 * fitted.contention:.3g}% serial")  # fmt: skip
    axes.errorbar(counts, rates, errors, color=_INK, marker="o", linestyle="none", capsize=4, label="measured")
    axes.plot([best.workers], [best.rate], color=_INK, marker="o", markersize=14, fillstyle="none", linestyle="none",
              label=f"chosen: {best.workers}")  # fmt: skip
    axes.set(xlabel="workers", ylabel="items per second", title=function, xticks=counts)
    axes.set_ylim(0, 1.15 * max(rates))
    axes.legend(frameon=False)


def _paint_batches(axes: Any, cells: list[Cell], best: Cell) -> None:
    fixed = [cell for cell in cells if isinstance(cell.batch_size, int)]
    for found in cells:
        if found not in fixed:
            axes.axhline(found.rate, color=_GREY, linestyle="--", label=str(found.batch_size))
    sizes, rates = [cell.batch_size for cell in fixed], [cell.rate for cell in fixed]
    errors = [cell.rate * (cell.error or 0.0) for cell in fixed]
    axes.errorbar(sizes, rates, errors, color=_INK, marker="o", linestyle="none", capsize=4, label="measured")
    if best in fixed:
        axes.plot([best.batch_size], [best.rate], color=_INK, marker="o", markersize=14, fillstyle="none",
                  linestyle="none", label=f"chosen: {best.batch_size}")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set(xlabel="batch size", ylabel="items per second", title=plural(best.workers, "worker"))
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(0, 1.15 * max(cell.rate for cell in cells))
    axes.legend(frameon=False)


def describe(curve: list[Cell], best: Cell, fitted: Fit | None, batches: list[Cell]) -> str:
    """What the picture shows, in words."""
    points = "; ".join(f"{cell.workers} workers {cell.rate:.4g}" for cell in curve)
    sizes = "; ".join(f"batch size {cell.batch_size} {cell.rate:.4g}" for cell in batches)
    beside = f" With {plural(best.workers, 'worker')}: {sizes}. Chosen: {best.batch_size}." if batches else ""
    return f"Items per second: {points}. Chosen: {best.workers}. {scaling.answer(curve, fitted)}.{beside}"


def _described(svg: bytes, title: str, description: str) -> bytes:
    """The SVG with a text alternative, for who cannot see it."""
    words = f"<title>{escape(title)}</title>\n <desc>{escape(description)}</desc>"
    text = re.sub(r"(<svg\b[^>]*)>", lambda found: f'{found[1]} role="img">\n {words}', svg.decode(), count=1)
    return text.encode()
