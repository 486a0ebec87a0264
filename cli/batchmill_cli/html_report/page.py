"""The page of a timeline: one HTML document that needs nothing else.

What comes from data is escaped in `markup`; the page allows itself no script, no address and no file of any kind.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batchmill.checkpoint.frames import Kind
from batchmill.checkpoint.timeline import Slow, Timeline, TimelineRun
from batchmill.failure_groups import Alike, TypeGroup, commonest
from batchmill.settings import Settings
from batchmill.text import format_rate, format_size, option_name, plural, where
from batchmill.version import __version__
from batchmill_cli.html_report import figures
from batchmill_cli.html_report.markup import Column, Markup, details, facts, join, lines, plain, table, tag
from batchmill_cli.html_report.plots import share, short_time
from batchmill_cli.html_report.style import ICONS, STYLE, SYMBOLS
from batchmill_cli.running.report import UNKNOWN, cause, first_line, moment, news, no_report, percent, show_id, span
from batchmill_cli.terminal.json_output import as_json

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
FIRST_RUNS, LAST_RUNS = 5, 35  # rows of the table of runs
MOST_TYPES = 20
MOST_ALIKE = 8  # of each type
TRACE_LINES, TRACE_COLUMNS = 30, 240
MOST_INPUTS = 3
USUAL = ("progress_interval",)  # of settings: the command line always sets it


def render(timeline: Timeline) -> str:
    """The whole document."""
    title = _title(timeline)
    head = tag(
        "head", Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="referrer" content="no-referrer">'),
        tag("title", f"{title} - batchmill report"), tag("style", Markup(STYLE)),
    )  # fmt: skip
    body = tag("body", Markup(SYMBOLS), _header(timeline, title), tag("main", *_sections(timeline)), _footer(timeline))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _sections(timeline: Timeline) -> Iterator[Markup]:
    yield _totals(timeline)
    if timeline.workers and timeline.seconds > 0:
        yield _course(timeline)
    if timeline.durations.count:
        yield tag("section", tag("h2", "Items"), _quantiles(timeline), figures.durations(timeline), _slowest(timeline))
    if timeline.failures:
        yield _failures(timeline)
    if timeline.runs:
        yield _runs(timeline)
        yield _settings(timeline)


# Top and bottom


def _title(timeline: Timeline) -> str:
    function = timeline.last.facts.get("function") if timeline.last else None
    return str(function or timeline.meta.get("function") or os.path.basename(timeline.path))


def _header(timeline: Timeline, title: str) -> Markup:
    inputs = timeline.last.facts.get("input") if timeline.last else None
    shown = [os.path.basename(name.rstrip("/")) or name for name in map(str, inputs or ())]
    more = f" and {len(shown) - MOST_INPUTS} more" if len(shown) > MOST_INPUTS else ""
    on = f"on {', '.join(shown[:MOST_INPUTS])}{more} · " if shown else ""
    kind, words = _state(timeline)
    icon = Markup(
        '<svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="9" fill="none"'
        f' stroke="currentColor" stroke-width="1.6"/>{ICONS[kind]}</svg>'
    )
    return tag(
        "header", tag("p", "batchmill report", class_="eyebrow"), tag("h1", plain(title, 200)),
        tag("p", on, "checkpoint ", tag("code", plain(os.path.basename(timeline.path), 200)), class_="soft"),
        tag("p", icon, tag("span", words), class_=f"state {kind}"),
    )  # fmt: skip


def _state(timeline: Timeline) -> tuple[str, str]:
    """How it stands: the name of an icon, and the sentence beside it."""
    last, now = timeline.last, moment(timeline.as_of)
    if timeline.live is not None:
        since = f" since {moment(timeline.live.started)}" if timeline.live.pid and not timeline.is_new else ""
        return "on", f"Still running{since}: this is how it stood at {now}"
    if last is None:
        return "odd", "Nothing was run yet"
    if last.report is None:
        sign = f"its last sign of life was {moment(last.ended)}"
        return "bad", f"Run {last.number} ended without a report ({no_report(last.facts)}), {sign}"
    said, code = news(last.report), last.report.exit_code
    why = f": {first_line(last.report.error)}" if last.report.error else ""
    sentence = f"{said[:1].upper()}{said[1:]} (exit {code}){why}"
    return "good" if code == 0 else "odd" if last.report.stopped else "bad", sentence


def _footer(timeline: Timeline) -> Markup:
    read = f"{plural(timeline.frames, 'frame')}, {format_size(timeline.size)}"
    zone = time.strftime("%Z", time.localtime(timeline.as_of))
    return tag(
        "footer", tag("p", "Read from ", tag("code", plain(os.path.abspath(timeline.path), 500)), f" ({read}) at"
        f" {moment(timeline.as_of)} {zone} by batchmill {__version__}. Times are local to where this page was made."),
    )  # fmt: skip


# Sections


def _totals(timeline: Timeline) -> Markup:
    left = max(0, timeline.total - timeline.done - timeline.failed) if timeline.total is not None else None
    tiles = tag("dl", *(_tile(*tile) for tile in _tiles(timeline, left)), class_="tiles")
    return tag("section", tag("h2", "Totals"), tiles, _bar(timeline, left), *_notes(timeline))


def _tile(name: str, value: object, note: object = "", kind: str | None = None) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value, tag("small", note) if note else ""), class_=kind)


def _tiles(timeline: Timeline, left: int | None) -> Iterator[tuple[Any, ...]]:
    known = timeline.done + timeline.failed
    yield "Done", f"{timeline.done:,}", _of(timeline)
    share_failed = f"{percent(timeline.failed / known)} of those tried" if known and timeline.failed else ""
    yield "Failed", f"{timeline.failed:,}", share_failed, "bad" if timeline.failed else None
    if left:
        yield "Left", f"{left:,}", ""
    if not timeline.runs:
        return
    runs = plural(len(timeline.runs), "run")
    yield "Time worked", span(timeline.seconds), f"in {runs}"
    tried = sum(run.items for run in timeline.runs)
    if timeline.seconds:
        yield (
            "Throughput",
            f"{format_rate(tried / timeline.seconds)}/s",
            f"{tried:,} outcomes" + (", retries included" if timeline.replaced else ""),
        )
    yield "Workers busy", percent(figures.busy_share(timeline)), plural(len(timeline.workers), "worker")
    reports = [run.report for run in timeline.runs if run.report]
    rss = max([*(report.peak_rss for report in reports), *(int(rss) for _, _, rss, _ in timeline.usage)], default=0)
    if reports:
        partly = "" if len(reports) == len(timeline.runs) else "of runs that ended with a report"
        yield "CPU time", span(sum(report.cpu_seconds for report in reports)), partly
    if rss:
        yield "Peak memory", format_size(rss), "all processes"


def _of(timeline: Timeline) -> str:
    if timeline.total is not None:
        return f"of {timeline.total:,}"
    estimate = timeline.last.estimate if timeline.last else None
    return UNKNOWN if estimate is None else f"of about {estimate:,}"


def _bar(timeline: Timeline, left: int | None) -> Markup:
    known = timeline.done + timeline.failed
    if left is None or not known + left:
        return Markup("")
    total = known + left
    about = f"{timeline.done} done, {timeline.failed} failed" + (f", {left} left" if left else "")
    ok, failed = timeline.done / total, timeline.failed / total
    failed = max(failed, 0.002) if failed else 0.0
    return tag(
        "svg", tag("title", about), tag("rect", class_="ok", x="0", width=share(ok), height="10"),
        tag("rect", class_="failed", x=share(min(ok, 1 - failed)), width=share(failed), height="10"),
        class_="bar", role="img", aria_label=about,
    )  # fmt: skip


def _notes(timeline: Timeline) -> Iterator[Markup]:
    said = []
    if timeline.verdict.kind is Kind.CRASH_DAMAGE:
        said.append(
            "The checkpoint's end is damaged, as by a power failure:"
            f" {plural(timeline.verdict.bytes, 'byte')} after byte {timeline.verdict.offset:,} are left out here."
            " `batchmill verify` says more."
        )
    elif timeline.verdict.kind is Kind.TORN and timeline.live is None:
        said.append("The last frame was cut short when the run was killed; what it held runs again.")
    if timeline.is_new:
        said.append("A new run has just begun, and has not said anything yet.")
    if timeline.removed:
        said.append(f"{plural(timeline.removed, 'outcome')} of items that INPUT no longer has are left out.")
    if timeline.replaced:
        said.append(f"{plural(timeline.replaced, 'outcome')} of earlier tries were replaced by later ones.")
    if not timeline.done + timeline.failed:
        said.append("There is no outcome yet.")
    if said:
        yield tag("p", join(said, " "), class_="soft small")
    report = timeline.last.report if timeline.last else None
    warnings = (*report.warnings, *report.notes) if report else ()
    for warning in warnings[:10]:
        yield tag("p", "Note: ", plain(warning, 400), class_="soft small")


def _course(timeline: Timeline) -> Markup:
    joined = " Runs are laid end to end, without the time between them." if len(timeline.runs) > 1 else ""
    about = f"The horizontal axis is the time worked, {span(timeline.seconds)}.{joined}"
    parts = [*figures.over_time(timeline), figures.workers(timeline)]
    return tag("section", tag("h2", "Over time"), tag("p", about, class_="soft small"), *parts)


def _quantiles(timeline: Timeline) -> Markup:
    seen = timeline.durations
    text = (
        f"Half of all tries took less than {short_time(seen.quantile(0.5))}, 99 % less than"
        f" {short_time(seen.quantile(0.99))}; the longest {short_time(seen.longest)}. Together"
        f" {span(seen.sum)} in {seen.count:,} {'try' if seen.count == 1 else 'tries'}."
    )
    return tag("p", text, class_="soft small")


def _slowest(timeline: Timeline) -> Markup:
    rows = [
        (
            tag("code", plain(show_id(slow.id))), _line(slow), short_time(slow.seconds),
            "ok" if slow.ok else tag("span", "failed", class_="no"), slow.attempts,
            slow.worker, slow.run, span(slow.at),
        )
        for slow in timeline.slowest
    ]  # fmt: skip
    columns = [
        Column("id", is_number=False), Column("line"), Column("took"), Column("outcome", is_number=False),
        Column("tries"), Column("worker"), Column("run"), Column("at"),
    ]  # fmt: skip
    return join([tag("h3", "The slowest"), table("The slowest tries, the longest first", columns, rows, is_seen=False)])


def _line(slow: Slow) -> int | Markup:
    return join([f"{slow.line} of ", tag("code", plain(slow.file, 200))]) if slow.file else slow.line


def _failures(timeline: Timeline) -> Markup:
    shown = list(timeline.failures.items())[:MOST_TYPES]
    more = len(timeline.failures) - len(shown)
    rest = f" The {MOST_TYPES} commonest types are shown, {more} more are not." if more > 0 else ""
    about = (
        f"{plural(timeline.failed, 'item')} failed, by type; messages that differ in numbers alone are taken together."
        f"{rest} "
    )
    hint = join([about, tag("code", "batchmill failures"), " names all of them."])
    groups = (part for name, group in shown for part in _failure(name, group))
    return tag("section", tag("h2", "Failures"), tag("p", hint, class_="soft small"), *groups)


def _failure(name: str, group: TypeGroup) -> Iterator[Markup]:
    yield tag("h3", plain(name, 120), " ", tag("small", f"{group.count:,} ×"))
    ordered = [alike for _, alike in commonest(group.alike)]
    columns = [Column("items"), Column("message", is_number=False), Column("for example", is_number=False)]
    rows = [
        (alike.count, tag("span", plain(alike.examples[0].message or "(no message)", 200)), _examples(alike))
        for alike in ordered[:MOST_ALIKE]
    ]
    more = len(ordered) - len(rows)
    rest = f", and {more} more kinds of message" if more > 0 else ""
    yield table(f"{name}, by message{rest}", columns, rows, kind="messages", is_seen=more > 0)
    if group.traceback.strip():
        trace = tag("pre", lines(group.traceback, TRACE_LINES, TRACE_COLUMNS), tabindex="0")
        yield details("Traceback of the first", trace)


def _examples(alike: Alike) -> Markup:
    named = (
        join([tag("code", plain(show_id(each.id))), f" ({where(each.line, each.file)})"]) for each in alike.examples[:3]
    )
    more = alike.count - min(3, len(alike.examples))
    return join([join(named, ", "), f" and {more:,} more" if more > 0 else ""])


def _runs(timeline: Timeline) -> Markup:
    cut = len(timeline.runs) - FIRST_RUNS - LAST_RUNS
    shown = [*timeline.runs[:FIRST_RUNS], *timeline.runs[-LAST_RUNS:]] if cut > 0 else timeline.runs
    numbers = map(Column, ("took", "tried", "failed", "items/s", "workers", "crashes"))
    began, ended, where = (Column(name, is_number=False) for name in ("began", "ended", "on"))
    columns = [Column("run"), began, *numbers, ended, where]
    left_out = f"; {cut} in the middle are left out" if cut > 0 else ""
    rows = [_run_row(timeline, run) for run in shown]
    return tag(
        "section",
        tag("h2", "Runs"),
        table(f"{plural(len(timeline.runs), 'run')}{left_out}", columns, rows, is_seen=cut > 0),
    )


def _run_row(timeline: Timeline, run: TimelineRun) -> Sequence[object]:
    rate = format_rate(run.items / run.seconds) if run.seconds else "-"
    pid, host = run.facts.get("pid", "?"), run.facts.get("host", "?")
    workers, began = run.facts.get("workers", "?"), tag("span", moment(run.started), class_="whole")
    return (
        run.number, began, span(run.seconds), f"{run.items:,}", f"{run.failed:,}", rate, workers,
        run.strikes, _ending(timeline, run), plain(f"{host}, pid {pid}", 80),
    )  # fmt: skip


def _ending(timeline: Timeline, run: TimelineRun) -> Markup:
    if run.report is None:
        is_running = timeline.live is not None and not timeline.is_new and run is timeline.last
        return plain("running") if is_running else tag("span", "no report", class_="no")
    stopped, code = run.report.stopped, run.report.exit_code
    return plain(f"{cause(stopped) if stopped else 'finished'} (exit {code})", 80)


# Settings and the machine


def _settings(timeline: Timeline) -> Markup:
    assert timeline.last is not None
    last = timeline.last.facts
    kept = last.get("settings")
    settings: Mapping[str, Any] = kept if isinstance(kept, Mapping) else {}
    defaults = Settings().as_dict()
    changed = [(name, value) for name, value in settings.items() if name not in USUAL and value != defaults.get(name)]
    chosen = facts((option_name(name), tag("code", shown(value))) for name, value in changed)
    everything = facts((option_name(name), tag("code", shown(value))) for name, value in settings.items())
    of_which = f" of run {timeline.last.number}" if len(timeline.runs) > 1 else ""
    return tag(
        "section", tag("h2", f"Settings and machine{of_which}"),
        chosen if changed else tag("p", "All settings were the default ones.", class_="soft small"),
        details(f"All {len(settings)} settings", everything) if settings else "",
        tag("h3", "Batch"), facts(_batch(timeline, last)), *_machine(last),
    )  # fmt: skip


def shown(value: object) -> Markup:
    """A setting's value."""
    text = value if isinstance(value, str) else as_json(value)
    return plain(text, 300)


def _batch(timeline: Timeline, last: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "function", tag("code", plain(timeline.meta.get("function", "?"), 200))
    if last.get("path"):
        yield "file", tag("code", plain(last["path"], 300))
    inputs = [str(name) for name in last.get("input") or ()]
    if inputs:
        more = f" and {len(inputs) - MOST_INPUTS} more" if len(inputs) > MOST_INPUTS else ""
        yield "input", join([join([tag("code", plain(name, 200)) for name in inputs[:MOST_INPUTS]], ", "), more])
    yield "format", timeline.meta.get("format", "?")
    yield "ids", timeline.meta.get("id_rule", "?")
    if last.get("directory"):
        yield "directory", tag("code", plain(last["directory"], 300))


def _machine(last: Mapping[str, Any]) -> Iterator[Markup]:
    machine, versions = last.get("machine"), last.get("versions")
    if isinstance(machine, Mapping):
        memory = machine.get("memory")
        pairs = [
            ("host", last.get("host", "?")),
            ("system", machine.get("system", "?")),
            ("processor", machine.get("cpu", "?")),
            ("usable cores", f"{machine.get('cores', '?')} ({machine.get('cores_from', '?')})"),
            ("memory", format_size(memory) if isinstance(memory, (int, float)) else "?"),
        ]
        yield join([tag("h3", "Machine"), facts(pairs)])
    if isinstance(versions, Mapping):
        pairs = [(str(name), str(value)) for name, value in list(versions.items())[:20]]
        yield join([tag("h3", "Versions"), facts(pairs)])
