"""The plots of a timeline: over time, by worker, by duration, each with the table behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from batchmill.checkpoint.timeline import ENDINGS, Timeline, TimelineWorker
from batchmill.text import format_rate, format_size, plural
from batchmill_cli.html_report.markup import Column, Markup, details, join, table, tag, thinned
from batchmill_cli.html_report.plots import (
    WIDE,
    Line,
    Mark,
    Plot,
    Tick,
    binary_ticks,
    box,
    clock_ticks,
    log_ticks,
    polyline,
    round_ticks,
    short_count,
    short_time,
    steps,
)
from batchmill_cli.running.report import percent, span

MOST_STEPS = 120
MOST_CUTS = 30  # runs whose beginning is marked
MOST_STRIPS = 48  # rows of workers; beyond that, neighbours share one
LEVELS = (0.05, 0.5, 0.9)  # shares of a bin of time from which on a worker is drawn as a little, partly, fully busy
MARK_SPACE = 0.011  # of the width, for each mark
SIGNS = {"died": "crashed", "killed": "killed by a limit", "recycled": "replaced as planned"}
BAR_GAP = 2.0


def over_time(timeline: Timeline) -> Iterator[Markup]:
    """Throughput, CPU and memory over the time worked."""
    yield _throughput(timeline)
    if timeline.usage:
        yield _cpu(timeline)
        yield _memory(timeline)


def _figure(plot: Plot, heading: str, note: str, legend: Sequence[Markup], behind: Markup) -> Markup:
    shown = tag("ul", *legend, class_="legend") if legend else ""
    head = tag("h3", heading, " ", tag("small", note))
    return tag("figure", head, shown, plot.svg(), details("Table", behind))


def _sample(kind: str, text: str) -> Markup:
    """An entry of a legend: a swatch drawn as the plot draws it."""
    shape = "M0 7h14" if kind.startswith("curve") else "M0 2h14v10h-14z"
    return tag("li", tag("svg", tag("path", class_=kind, d=shape), class_="key", aria_hidden="true"), text)


def _cuts(timeline: Timeline, *, named: bool = False) -> list[Line]:
    """Where the second run and those after it begin."""
    if timeline.seconds <= 0 or len(timeline.runs) > MOST_CUTS + 1:
        return []
    return [Line(run.at / timeline.seconds, f"run {run.number}" if named else "") for run in timeline.runs[1:]]


def _coarse(bins: Sequence[float], factor: int) -> list[float]:
    return [sum(bins[begin : begin + factor]) for begin in range(0, len(bins), factor)]


def _throughput(timeline: Timeline) -> Markup:
    count = max(len(timeline.ok_bins), len(timeline.failed_bins), 1)
    factor = -(-count // MOST_STEPS)
    width = min(timeline.width * factor, timeline.seconds) or timeline.width
    failed = _rates(timeline.failed_bins, factor, width, timeline.seconds)
    ok = _rates(timeline.ok_bins, factor, width, timeline.seconds)
    tried = [good + bad for good, bad in zip(ok, [*failed, *[0.0] * len(ok)])] or [0.0]
    ticks = round_ticks(max(tried))
    top, height, wide = ticks[-1], 150.0, WIDE * width / (timeline.seconds or width)
    average = sum(run.items for run in timeline.runs) / timeline.seconds if timeline.seconds else 0.0
    plot = Plot(
        "throughput", "Items per second over the time worked",
        f"{format_rate(average)} items per second on average, {format_rate(max(tried))} at most in"
        f" {short_time(width)}.", height, clock_ticks(timeline.seconds),
        [Tick(value / top, short_count(value)) for value in ticks], lines=_cuts(timeline, named=True),
    )  # fmt: skip
    plot.add("area", steps(tried, wide, top, height))
    plot.add("area bad", steps(failed, wide, top, height))
    rows = [
        (span(at * width), format_rate(tried[at]), format_rate(failed[at] if at < len(failed) else 0.0))
        for at in thinned(len(tried))
    ]
    columns = [Column("at"), Column("items/s"), Column("of which failed")]
    legend = [_sample("area", "tried"), _sample("area bad", "of which failed")] if any(failed) else []
    behind = table(f"Items per second, in steps of {short_time(width)}", columns, rows)
    return _figure(plot, "Throughput", "items per second", legend, behind)


def _rates(bins: Sequence[float], factor: int, width: float, seconds: float) -> list[float]:
    """Amounts as amounts per second. The last bin may be a short one: less than half of one joins the one before."""
    amounts = _coarse(bins, factor)
    if not amounts:
        return []
    rates = [amount / width for amount in amounts]
    rest = seconds - (len(amounts) - 1) * width
    if rest < width / 2 and len(amounts) > 1:
        rates[-2:] = [(amounts[-2] + amounts[-1]) / (width + max(rest, 0.0))] * 2
    elif rest < width:
        rates[-1] = amounts[-1] / rest
    return rates


def _cpu(timeline: Timeline) -> Markup:
    points = [(at, percent_of_core / 100) for at, percent_of_core, *_ in timeline.usage]
    workers = max((int(run.facts.get("workers") or 0) for run in timeline.runs), default=0)
    ticks = round_ticks(max(workers, *(0.95 * value for _, value in points)), 3)  # just above is as good as at
    top, height = ticks[-1], 90.0
    mean = sum(value for _, value in points) / len(points)
    plot = Plot(
        "cpu", "CPU over the time worked",
        f"On average {mean:.1f} cores in use by {plural(workers, 'worker')} and their parent.", height,
        clock_ticks(timeline.seconds), [Tick(value / top, f"{value:g}") for value in ticks], lines=_cuts(timeline),
        levels=[(workers / top, plural(workers, "worker"))] if workers else [],
    )  # fmt: skip
    for part in _by_run(timeline, points):
        plot.add("curve", polyline(part, top, height))
    rows = [(span(points[n][0]), f"{points[n][1]:.2f}") for n in thinned(len(points))]
    behind = table("Cores in use by all workers and their parent", [Column("at"), Column("cores")], rows)
    return _figure(plot, "CPU", "cores in use", [], behind)


def _memory(timeline: Timeline) -> Markup:
    ticks = binary_ticks(max(rss for _, _, rss, _ in timeline.usage), 3)
    top, height = ticks[-1], 90.0
    peak = max(rss for _, _, rss, _ in timeline.usage)
    plot = Plot(
        "memory", "Resident memory over the time worked",
        f"{format_size(peak)} at most in a sample, of which"
        f" {format_size(max(parent for *_, parent in timeline.usage))} in the parent.", height,
        clock_ticks(timeline.seconds), [Tick(value / top, _round_size(value)) for value in ticks],
        lines=_cuts(timeline),
    )  # fmt: skip
    for part in _by_run(timeline, [(at, rss) for at, _, rss, _ in timeline.usage]):
        plot.add("curve", polyline(part, top, height))
    for part in _by_run(timeline, [(at, parent) for at, _, _, parent in timeline.usage]):
        plot.add("curve second", polyline(part, top, height))
    rows = [
        (span(timeline.usage[n][0]), format_size(timeline.usage[n][2]), format_size(timeline.usage[n][3]))
        for n in thinned(len(timeline.usage))
    ]
    legend = [_sample("curve", "workers and parent"), _sample("curve second", "parent alone")]
    behind = table("Resident bytes", [Column("at"), Column("all"), Column("parent")], rows)
    return _figure(plot, "Memory", "resident, shared pages counted in each process", legend, behind)


def _round_size(size: float) -> str:
    return format_size(size).replace(".0G", "G") if size else "0"


def _by_run(timeline: Timeline, points: Sequence[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    """The points of each run by themselves, as shares of the width: nothing was measured between runs."""
    ends = [run.at for run in timeline.runs[1:]] + [math.inf]
    part: list[tuple[float, float]] = []
    for at, value in points:
        while at > ends[0] and len(ends) > 1:
            yield part
            part, ends = [], ends[1:]
        part.append((at / timeline.seconds if timeline.seconds else 0.0, value))
    yield part


# Workers


def workers(timeline: Timeline) -> Markup:
    """What each worker did when, and where its process ended."""
    groups = _groups(list(timeline.workers.items()))
    pitch = 22 if len(groups) <= 8 else 16 if len(groups) <= 24 else 11
    rows = len(groups)
    every = 1 if pitch > 12 else 4
    plot = Plot(
        "workers", "Workers over the time worked", _about_workers(timeline), float(rows * pitch),
        clock_ticks(timeline.seconds),
        [Tick(1 - (n + 0.5) / rows, _name(group)) for n, group in enumerate(groups) if n % every == 0],
        lines=_cuts(timeline),
    )  # fmt: skip
    factor = -(-max((len(worker.busy.bins()) for worker in timeline.workers.values()), default=1) // MOST_STEPS)
    width = timeline.width * factor
    paths: dict[str, list[str]] = {"track": [], "b1": [], "b2": [], "b3": []}
    marks: list[Mark] = []
    for row, group in enumerate(groups):
        top = row * pitch + 2.0
        paths["track"].append(box(0, top, WIDE, pitch - 4.0))
        for level, begin, end in _stretches(_shares(group, factor, width, timeline.seconds)):
            if level:
                scale = WIDE * width / timeline.seconds
                wide = min(end * scale, WIDE) - begin * scale
                paths[f"b{level}"].append(box(begin * scale, top, wide, pitch - 4.0))
        marks += _marks(timeline, group, row * pitch + pitch / 2)
    for kind, boxes in paths.items():
        plot.add(kind, join(map(Markup, boxes)))
    plot.marks = marks
    return _figure(
        plot, "Workers", "one row per worker: how busy it was", _worker_legend(marks), _worker_table(timeline)
    )


def _groups(pairs: Sequence[tuple[int, TimelineWorker]]) -> list[list[tuple[int, TimelineWorker]]]:
    size = max(1, -(-len(pairs) // MOST_STRIPS))
    return [list(pairs[begin : begin + size]) for begin in range(0, len(pairs), size)]


def _name(group: Sequence[tuple[int, TimelineWorker]]) -> str:
    first, last = group[0][0], group[-1][0]
    return str(first) if first == last else f"{first}–{last}"


def _about_workers(timeline: Timeline) -> str:
    ended = {kind: int(sum(sum(worker.ends[kind].bins()) for worker in timeline.workers.values())) for kind in ENDINGS}
    said = ", ".join(f"{count} {SIGNS[kind]}" for kind, count in ended.items() if count)
    busy = f"{plural(len(timeline.workers), 'worker')}, busy {percent(busy_share(timeline))} of the time"
    return f"{busy}. Processes: {said or 'none replaced'}."


def busy_share(timeline: Timeline) -> float:
    """The share of the workers' time in which they worked."""
    there = len(timeline.workers) * timeline.seconds
    return min(1.0, sum(worker.seconds for worker in timeline.workers.values()) / there) if there else 0.0


def _shares(group: Sequence[tuple[int, TimelineWorker]], factor: int, width: float, seconds: float) -> list[float]:
    """How busy the workers of a row were in each bin, 0 to 1."""
    columns = [_coarse(worker.busy.bins(), factor) for _, worker in group]
    count = max(map(len, columns), default=0)
    shares = []
    for at in range(count):
        there = min(width, max(seconds - at * width, width / 100)) * len(group)
        shares.append(sum(column[at] for column in columns if at < len(column)) / there)
    return shares


def _stretches(shares: Sequence[float]) -> Iterator[tuple[int, int, int]]:
    """(level, first bin, bin after the last) of neighbours that look alike."""
    levels = [sum(share >= bound for bound in LEVELS) for share in shares]
    begin = 0
    for at in range(1, len(levels) + 1):
        if at == len(levels) or levels[at] != levels[begin]:
            yield levels[begin], begin, at
            begin = at


def _marks(timeline: Timeline, group: Sequence[tuple[int, TimelineWorker]], y: float) -> list[Mark]:
    """One mark for all ends of a kind that would overlap; the worst last, on top."""
    if not timeline.seconds:
        return []
    marks = []
    for kind in ENDINGS:
        found = {
            round((at + 0.5) * timeline.width / timeline.seconds / MARK_SPACE)
            for _, worker in group
            for at, count in enumerate(worker.ends[kind].bins())
            if count
        }
        marks += [Mark(kind, min(column * MARK_SPACE, 1.0), y) for column in sorted(found)]
    return marks


def _worker_legend(marks: Sequence[Mark]) -> list[Markup]:
    used = {mark.symbol for mark in marks}
    signs = [
        tag("li", tag("svg", tag("use", href=f"#{kind}", x="7", y="7"), aria_hidden="true"), said)
        for kind, said in SIGNS.items()
        if kind in used
    ]
    shades = (("track", "idle"), ("b1", "a little"), ("b2", "partly"), ("b3", "busy"))
    return [*(_sample(kind, said) for kind, said in shades), *signs]


def _worker_table(timeline: Timeline) -> Markup:
    columns = [Column(name) for name in ("worker", "items", "failed", "busy", "share", "processes")]
    chosen = thinned(len(timeline.workers))
    rows = []
    for at, (name, worker) in enumerate(timeline.workers.items()):
        if at in chosen:
            why = ", ".join(f"{count} {kind}" for kind, count in worker.ended.most_common(5))
            busy = percent(min(1.0, worker.seconds / timeline.seconds)) if timeline.seconds else "-"
            rows.append((name, worker.items, worker.failed, span(worker.seconds), busy, worker.processes, why))
    return table("Workers, over all runs", [*columns, Column("replaced because", is_number=False)], rows)


# Durations


def durations(timeline: Timeline) -> Markup:
    """How long items took, on a logarithmic scale."""
    seen = timeline.durations
    rough = list(seen.bins(10))
    decades = math.log10(rough[-1].high / rough[0].low)
    bins = list(seen.bins(10 if decades > 1.5 else 20 if decades > 0.7 else 40))
    low, high = bins[0].low, bins[-1].high
    ticks = round_ticks(max(bin.items for bin in bins))
    top, height, wide = ticks[-1], 150.0, WIDE / len(bins)
    quantiles = [(name, seen.quantile(share)) for name, share in (("median", 0.5), ("90 %", 0.9), ("99 %", 0.99))]
    said = ", ".join(f"{name} {short_time(value)}" for name, value in quantiles)
    plot = Plot(
        "durations", "Seconds per item, on a logarithmic scale", f"{said}, longest {short_time(seen.longest)}.", height,
        log_ticks(low, high), [Tick(value / top, short_count(value)) for value in ticks],
        lines=[Line(math.log(max(value, low) / low) / math.log(high / low), name) for name, value in quantiles],
    )  # fmt: skip
    for at, bin in enumerate(bins):
        if bin.items:
            tall = max(height * bin.items / top, 1.5)
            gap = min(BAR_GAP, wide / 5)
            hint = f"{short_time(bin.low)} to {short_time(bin.high)}: {plural(bin.items, 'item')}"
            plot.add("bars", box(at * wide + gap / 2, height - tall, wide - gap, tall), hint)
    rows = [(short_time(bin.low), short_time(bin.high), bin.items, percent(bin.items / seen.count)) for bin in bins]
    columns = [Column("from"), Column("to"), Column("items"), Column("share")]
    return _figure(
        plot, "How long items took", "number of items, by seconds", [], table("Items by seconds", columns, rows)
    )
