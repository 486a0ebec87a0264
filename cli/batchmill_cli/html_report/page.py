"""The page of a story: one HTML document that needs nothing else.

What comes from data is escaped in `markup`; the page allows itself no script, no address and no file of any kind.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batchmill.checkpoint.frames import Kind
from batchmill.checkpoint.story import AlikeTold, FailureTold, RunTold, Story
from batchmill.settings import Settings
from batchmill.text import format_rate, format_size, plural
from batchmill.version import __version__
from batchmill_cli.html_report import figures
from batchmill_cli.html_report.markup import Column, Markup, details, facts, join, lines, plain, table, tag
from batchmill_cli.html_report.plots import share, short_time
from batchmill_cli.html_report.style import ICONS, STYLE, SYMBOLS
from batchmill_cli.running.report import cause, first_line, moment, news, no_report, percent, show_id, span
from batchmill_cli.terminal.json_output import as_json

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
FIRST_RUNS, LAST_RUNS = 5, 35  # rows of the table of runs
MOST_TYPES = 20
MOST_ALIKE = 8  # of each type
TRACE_LINES, TRACE_COLUMNS = 30, 240
MOST_INPUTS = 3
USUAL = ("progress_interval",)  # of settings: the command line always sets it


def render(story: Story) -> str:
    """The whole document."""
    title = _title(story)
    head = tag(
        "head", Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="referrer" content="no-referrer">'),
        tag("title", f"{title} - batchmill report"), tag("style", Markup(STYLE)),
    )  # fmt: skip
    body = tag("body", Markup(SYMBOLS), _header(story, title), tag("main", *_sections(story)), _footer(story))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _sections(story: Story) -> Iterator[Markup]:
    yield _totals(story)
    if story.workers and story.seconds > 0:
        yield _course(story)
    if story.durations.count:
        yield tag("section", tag("h2", "Items"), _quantiles(story), figures.durations(story), _slowest(story))
    if story.failures:
        yield _failures(story)
    if story.runs:
        yield _runs(story)
        yield _settings(story)


# Top and bottom


def _title(story: Story) -> str:
    function = story.last.facts.get("function") if story.last else None
    return str(function or story.meta.get("function") or os.path.basename(story.path))


def _header(story: Story, title: str) -> Markup:
    inputs = story.last.facts.get("input") if story.last else None
    shown = [os.path.basename(name.rstrip("/")) or name for name in map(str, inputs or ())]
    more = f" and {len(shown) - MOST_INPUTS} more" if len(shown) > MOST_INPUTS else ""
    on = f"on {', '.join(shown[:MOST_INPUTS])}{more} · " if shown else ""
    kind, words = _state(story)
    icon = Markup(
        '<svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="9" fill="none"'
        f' stroke="currentColor" stroke-width="1.6"/>{ICONS[kind]}</svg>'
    )
    return tag(
        "header", tag("p", "batchmill report", class_="eyebrow"), tag("h1", plain(title, 200)),
        tag("p", on, "checkpoint ", tag("code", plain(os.path.basename(story.path), 200)), class_="soft"),
        tag("p", icon, tag("span", words), class_=f"state {kind}"),
    )  # fmt: skip


def _state(story: Story) -> tuple[str, str]:
    """How it stands: the name of an icon, and the sentence beside it."""
    last, now = story.last, moment(story.as_of)
    if story.live is not None:
        since = f" since {moment(story.live.started)}" if story.live.pid and not story.is_new else ""
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


def _footer(story: Story) -> Markup:
    read = f"{plural(story.frames, 'frame')}, {format_size(story.size)}"
    zone = time.strftime("%Z", time.localtime(story.as_of))
    return tag(
        "footer", tag("p", "Read from ", tag("code", plain(os.path.abspath(story.path), 500)), f" ({read}) at"
        f" {moment(story.as_of)} {zone} by batchmill {__version__}. Times are local to where this page was made."),
    )  # fmt: skip


# Sections


def _totals(story: Story) -> Markup:
    left = max(0, story.total - story.done - story.failed) if story.total is not None else None
    tiles = tag("dl", *(_tile(*tile) for tile in _tiles(story, left)), class_="tiles")
    return tag("section", tag("h2", "Totals"), tiles, _bar(story, left), *_notes(story))


def _tile(name: str, value: object, note: object = "", kind: str | None = None) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value, tag("small", note) if note else ""), class_=kind)


def _tiles(story: Story, left: int | None) -> Iterator[tuple[Any, ...]]:
    known = story.done + story.failed
    yield "Done", f"{story.done:,}", f"of {story.total:,}" if story.total is not None else "total not known"
    share_failed = f"{percent(story.failed / known)} of those tried" if known and story.failed else ""
    yield "Failed", f"{story.failed:,}", share_failed, "bad" if story.failed else None
    if left:
        yield "Left", f"{left:,}", ""
    if not story.runs:
        return
    runs = plural(len(story.runs), "run")
    yield "Time worked", span(story.seconds), f"in {runs}"
    tried = sum(run.items for run in story.runs)
    if story.seconds:
        yield (
            "Throughput",
            f"{format_rate(tried / story.seconds)}/s",
            f"{tried:,} outcomes" + (", retries included" if story.replaced else ""),
        )
    yield "Workers busy", percent(figures.busy_share(story)), plural(len(story.workers), "worker")
    reports = [run.report for run in story.runs if run.report]
    rss = max([*(report.peak_rss for report in reports), *(int(rss) for _, _, rss, _ in story.usage)], default=0)
    if reports:
        partly = "" if len(reports) == len(story.runs) else "of runs that ended with a report"
        yield "CPU time", span(sum(report.cpu_seconds for report in reports)), partly
    if rss:
        yield "Peak memory", format_size(rss), "all processes"


def _bar(story: Story, left: int | None) -> Markup:
    known = story.done + story.failed
    total = known + (left or 0)
    if not total:
        return Markup("")
    about = f"{story.done} done, {story.failed} failed" + (f", {left} left" if left else "")
    ok, failed = story.done / total, story.failed / total
    failed = max(failed, 0.002) if failed else 0.0
    return tag(
        "svg", tag("title", about), tag("rect", class_="ok", x="0", width=share(ok), height="10"),
        tag("rect", class_="failed", x=share(min(ok, 1 - failed)), width=share(failed), height="10"),
        class_="bar", role="img", aria_label=about,
    )  # fmt: skip


def _notes(story: Story) -> Iterator[Markup]:
    said = []
    if story.verdict.kind is Kind.CRASH_DAMAGE:
        said.append(
            f"The checkpoint's end is damaged, as by a power failure: {plural(story.verdict.bytes, 'byte')} after byte"
            f" {story.verdict.offset:,} are left out here. `batchmill verify` says more."
        )
    elif story.verdict.kind is Kind.TORN and story.live is None:
        said.append("The last frame was cut short when the run was killed; what it held runs again.")
    if story.is_new:
        said.append("A new run has just begun, and has not said anything yet.")
    if story.replaced:
        said.append(f"{plural(story.replaced, 'outcome')} of earlier tries were replaced by later ones.")
    if not story.done + story.failed:
        said.append("There is no outcome yet.")
    if said:
        yield tag("p", join(said, " "), class_="soft small")
    warnings = story.last.report.warnings if story.last and story.last.report else ()
    for warning in warnings[:10]:
        yield tag("p", "Note: ", plain(warning, 400), class_="soft small")


def _course(story: Story) -> Markup:
    joined = " Runs are laid end to end, without the time between them." if len(story.runs) > 1 else ""
    about = f"The horizontal axis is the time worked, {span(story.seconds)}.{joined}"
    parts = [*figures.over_time(story), figures.workers(story)]
    return tag("section", tag("h2", "Over time"), tag("p", about, class_="soft small"), *parts)


def _quantiles(story: Story) -> Markup:
    seen = story.durations
    text = (
        f"Half of all tries took less than {short_time(seen.quantile(0.5))}, 99 % less than"
        f" {short_time(seen.quantile(0.99))}; the longest {short_time(seen.longest)}. Together"
        f" {span(seen.sum)} in {seen.count:,} {'try' if seen.count == 1 else 'tries'}."
    )
    return tag("p", text, class_="soft small")


def _slowest(story: Story) -> Markup:
    rows = [
        (
            tag("code", plain(show_id(slow.id))), slow.line, short_time(slow.seconds),
            "ok" if slow.ok else tag("span", "failed", class_="no"), slow.attempts,
            slow.worker, slow.run, span(slow.at),
        )
        for slow in story.slowest
    ]  # fmt: skip
    columns = [
        Column("id", is_number=False), Column("line"), Column("took"), Column("outcome", is_number=False),
        Column("tries"), Column("worker"), Column("run"), Column("at"),
    ]  # fmt: skip
    return join([tag("h3", "The slowest"), table("The slowest tries, the longest first", columns, rows, is_seen=False)])


def _failures(story: Story) -> Markup:
    shown = list(story.failures.items())[:MOST_TYPES]
    more = len(story.failures) - len(shown)
    rest = f" The {MOST_TYPES} commonest types are shown, {more} more are not." if more > 0 else ""
    about = (
        f"{plural(story.failed, 'item')} failed, by type; messages that differ in numbers alone are taken together."
        f"{rest} "
    )
    hint = join([about, tag("code", "batchmill failures"), " names all of them."])
    groups = (part for name, group in shown for part in _failure(name, group))
    return tag("section", tag("h2", "Failures"), tag("p", hint, class_="soft small"), *groups)


def _failure(name: str, group: FailureTold) -> Iterator[Markup]:
    yield tag("h3", plain(name, 120), " ", tag("small", f"{group.count:,} ×"))
    ordered = sorted(group.alike.values(), key=lambda alike: -alike.count)
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


def _examples(alike: AlikeTold) -> Markup:
    named = (join([tag("code", plain(show_id(each.id))), f" (line {each.line})"]) for each in alike.examples[:3])
    more = alike.count - min(3, len(alike.examples))
    return join([join(named, ", "), f" and {more:,} more" if more > 0 else ""])


def _runs(story: Story) -> Markup:
    cut = len(story.runs) - FIRST_RUNS - LAST_RUNS
    shown = [*story.runs[:FIRST_RUNS], *story.runs[-LAST_RUNS:]] if cut > 0 else story.runs
    numbers = map(Column, ("took", "tried", "failed", "items/s", "workers", "crashes"))
    began, ended, where = (Column(name, is_number=False) for name in ("began", "ended", "on"))
    columns = [Column("run"), began, *numbers, ended, where]
    left_out = f"; {cut} in the middle are left out" if cut > 0 else ""
    rows = [_run_row(story, run) for run in shown]
    return tag(
        "section",
        tag("h2", "Runs"),
        table(f"{plural(len(story.runs), 'run')}{left_out}", columns, rows, is_seen=cut > 0),
    )


def _run_row(story: Story, run: RunTold) -> Sequence[object]:
    rate = format_rate(run.items / run.seconds) if run.seconds else "-"
    pid, host = run.facts.get("pid", "?"), run.facts.get("host", "?")
    workers, began = run.facts.get("workers", "?"), tag("span", moment(run.started), class_="whole")
    return (
        run.number, began, span(run.seconds), f"{run.items:,}", f"{run.failed:,}", rate, workers,
        run.strikes, _ending(story, run), plain(f"{host}, pid {pid}", 80),
    )  # fmt: skip


def _ending(story: Story, run: RunTold) -> Markup:
    if run.report is None:
        is_running = story.live is not None and not story.is_new and run is story.last
        return plain("running") if is_running else tag("span", "no report", class_="no")
    stopped, code = run.report.stopped, run.report.exit_code
    return plain(f"{cause(stopped) if stopped else 'finished'} (exit {code})", 80)


# Settings and the machine


def _settings(story: Story) -> Markup:
    assert story.last is not None
    last = story.last.facts
    kept = last.get("settings")
    settings: Mapping[str, Any] = kept if isinstance(kept, Mapping) else {}
    defaults = Settings().as_dict()
    changed = [(name, value) for name, value in settings.items() if name not in USUAL and value != defaults.get(name)]
    chosen = facts((option(name), tag("code", shown(value))) for name, value in changed)
    everything = facts((option(name), tag("code", shown(value))) for name, value in settings.items())
    of_which = f" of run {story.last.number}" if len(story.runs) > 1 else ""
    return tag(
        "section", tag("h2", f"Settings and machine{of_which}"),
        chosen if changed else tag("p", "All settings were the default ones.", class_="soft small"),
        details(f"All {len(settings)} settings", everything) if settings else "",
        tag("h3", "Batch"), facts(_batch(story, last)), *_machine(last),
    )  # fmt: skip


def option(name: str) -> str:
    """A setting's name as the command line spells it."""
    return "--" + str(name).replace("_", "-")


def shown(value: object) -> Markup:
    """A setting's value."""
    text = value if isinstance(value, str) else as_json(value)
    return plain(text, 300)


def _batch(story: Story, last: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "function", tag("code", plain(story.meta.get("function", "?"), 200))
    if last.get("path"):
        yield "file", tag("code", plain(last["path"], 300))
    inputs = [str(name) for name in last.get("input") or ()]
    if inputs:
        more = f" and {len(inputs) - MOST_INPUTS} more" if len(inputs) > MOST_INPUTS else ""
        yield "input", join([join([tag("code", plain(name, 200)) for name in inputs[:MOST_INPUTS]], ", "), more])
    yield "format", story.meta.get("format", "?")
    yield "ids", story.meta.get("id_rule", "?")
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
