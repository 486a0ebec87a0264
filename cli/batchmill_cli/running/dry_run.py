"""`run --dry-run`: what a run would do, as text or as one JSON object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batchmill.settings import Settings
from batchmill.text import escape, name_some, plural
from batchmill_cli.running.report import first_line, show_id
from batchmill_cli.terminal import stdio
from batchmill_cli.terminal.json_output import as_json, fields_of

if TYPE_CHECKING:
    from batchmill.batch.dry_run import DryRun
    from batchmill.worker.command import CommandSpec

FATES = {
    "new": "new",
    "continued": "would be continued",
    "moved aside": "would be moved aside, the batch begun anew",
}


def describe(function: str | CommandSpec, inputs: Sequence[str], settings: Settings, options: Mapping[str, Any]) -> str:
    """What would be done; raises what the run itself would raise before its first item."""
    from batchmill.batch.dry_run import preview
    from batchmill.plan import make_plan
    from batchmill_cli.running.batch import others

    asked = {name: options[name] for name in ("checkpoint", "output", "no_checkpoint")}
    plan = make_plan(function, inputs, settings=settings, others=others(options, data=True), **asked)
    seen = preview(plan, stdio.remark)
    if options["json"]:
        what, name = _called(function)
        return as_json({what: name, "input": inputs, "output": options["output"], **fields_of(seen)})
    return "\n".join(_lines(function, inputs, seen, options["output"], _workers(seen, settings)))


def _lines(
    function: str | CommandSpec, inputs: Sequence[str], seen: DryRun, output: str | None, workers: str
) -> Iterator[str]:
    yield "{:10} {}".format(*_called(function))
    yield f"input      {escape(name_some(inputs), 1000)} ({seen.format})"
    yield f"items      {seen.total} total, {seen.done} done, {seen.failed} failed, {seen.to_do} to do"
    yield from (f"           {line}" for line in _details(inputs, seen))
    for number, item in enumerate(seen.first):
        command = f": {item.command}" if item.command else ""
        place = f"(line {item.line}{_input(inputs, seen, item.input)})"
        yield f"{'' if number else 'first':10} {show_id(item.id)} {place}{command}"
    if seen.to_do > len(seen.first):
        yield f"           and {seen.to_do - len(seen.first)} more"
    yield f"workers    {workers} ({escape(seen.workers_from, 200)})"
    if seen.checkpoint is None:
        yield "checkpoint none: nothing is kept"
    else:
        yield f"checkpoint {escape(seen.checkpoint, 300)} ({FATES[seen.fate]})"
    collected = "`batchmill results` collects it from the checkpoint" if seen.checkpoint else "results are thrown away"
    if not isinstance(function, str):
        collected = "what the commands print is passed on"
    yield f"output     {escape(output, 300) if output else f'none; {collected}'}"
    yield "nothing was run"


def _workers(seen: DryRun, settings: Settings) -> str:
    """How many workers there would be: how many a cluster has is not known before."""
    if not settings.cluster_name:
        return str(seen.workers)
    if seen.workers:
        return f"at most {seen.workers}"
    return "all there are" if settings.workers == "auto" else f"{settings.workers} of all there are"


def _called(function: str | CommandSpec) -> tuple[str, str]:
    """What is called on each item, and its name."""
    return ("function", escape(function)) if isinstance(function, str) else ("command", escape(function.display, 1000))


def _details(inputs: Sequence[str], seen: DryRun) -> Iterator[str]:
    if seen.failed:
        yield "the failed ones " + ("run again" if seen.retry_failed else "stay as they are (--no-retry-failed)")
    if seen.changed:
        yield f"{plural(seen.changed, 'done item')} changed, and would keep the old result; --rerun-changed runs them"
    if seen.older:
        were, them = ("result was", "it") if seen.older == 1 else ("results were", "them")
        yield f"{seen.older} {were} made by other source than there is now; --rerun-older runs {them} again"
    if seen.renumbered:
        yield "items stand at other places than before: {#} may be that of an item done earlier"
    if seen.first_unreadable is not None:
        bad = seen.first_unreadable
        more = "; the first is" if seen.unreadable > 1 else ":"
        yield f"{plural(seen.unreadable, 'line')} that cannot be read as an item would fail{more}"
        yield f"  line {bad.line}{_input(inputs, seen, bad.input)}: {first_line(bad.message)}"
    if seen.blank:
        yield f"{plural(seen.blank, 'blank line')} passed over"
    if seen.left:
        yield f"{seen.left} more would be left (--limit)"


def _input(inputs: Sequence[str], seen: DryRun, number: int) -> str:
    """Which INPUT a line is of, where that is a question."""
    return f" of {escape(inputs[number], 100)}" if len(inputs) > 1 and seen.format != "files" else ""
