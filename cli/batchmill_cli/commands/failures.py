"""`batchmill failures`: what failed and why, for people, programs, or as the next input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from batchmill.errors import InputMissing, InvalidUsage, ItemError
from batchmill.failure_groups import OTHER_MESSAGES, FailureGroups, TypeGroup, commonest
from batchmill.model import Outcome
from batchmill.text import escape, plural, where
from batchmill_cli.options.click_options import Command, Option
from batchmill_cli.options.paths import CHECKPOINT, FILE
from batchmill_cli.options.reading import WITH_REMOVED
from batchmill_cli.running.report import first_line, show_id
from batchmill_cli.terminal import stdio
from batchmill_cli.terminal.json_output import as_json
from batchmill_cli.terminal.remedies import reading, written_to

if TYPE_CHECKING:
    from batchmill.output.results import Results

MOST_MESSAGES = 10
MOST_LOST = 5  # failed items that are named because they cannot be given back
# Distinct messages counted apart per type. Messages that name their item are all distinct, and could be millions.
MOST_COUNTED = 1000

OPTIONS = [
    Option("--json", group="Output", is_flag=True, help="One object per failed item, with its traceback."),
    Option("--items", group="Output", is_flag=True, help="The failed items themselves, ready to be an input."),
    Option(
        "-o",
        "--output",
        group="Output",
        type=FILE,
        metavar="FILE",
        help="With --items: into that file; rows of Parquet into a .parquet one. [stdout]",
    ),
    WITH_REMOVED,
]


@click.command(
    "failures",
    cls=Command,
    params=OPTIONS,
    examples=(
        "batchmill failures items.score.ckpt",
        "batchmill failures items.score.ckpt --items > failed.jsonl",
    ),
)
@click.argument("checkpoints", nargs=-1, required=True, type=CHECKPOINT, metavar="CHECKPOINT...")
def command(checkpoints: tuple[str, ...], json: bool, items: bool, output: str | None, with_removed: bool) -> int:
    """What failed and why; or the failed items themselves.

    By error type and message, the commonest first, each with a traceback. Exit 0 whether anything failed or not; 66
    where an item is too large to have been kept, and its INPUT does not have it any more.
    """
    if json and items:
        raise InvalidUsage("--json and --items exclude each other", "leave one of them out")
    output = None if output == "-" else output
    if output is not None and not items:
        raise InvalidUsage("-o is for --items", "give both, or send stdout to a file")
    with reading(checkpoints, *written_to(output), data=output is None):
        return show(checkpoints, json, items, with_removed, output)


def show(checkpoints: Iterable[str], json: bool, items: bool, removed: bool, output: str | None = None) -> int:
    """Print what failed; the exit status."""
    from batchmill.output.results import of_left_out, open_checkpoint

    opened = [open_checkpoint(path, removed=removed) for path in checkpoints]
    if items:
        print_items(opened, output)
    elif json:
        with stdio.stdout() as out:
            for outcome in _named(opened):
                out.write(as_json(as_object(outcome)).encode() + b"\n")
    else:
        stdio.print_data("\n".join(render(group_by_type(_named(opened)))))
    for sentence in of_left_out(sum(results.left_out[1] for results in opened), "failure"):
        stdio.tell(sentence)
    return 0


def _named(checkpoints: Sequence[Results]) -> Iterator[Outcome]:
    """The failed items; those of checkpoints of different INPUTs with the names of these."""
    are_of_one = len({repr(results.input) for results in checkpoints}) == 1
    for results in checkpoints:
        files = () if are_of_one or results.source == "files" else results.input or ()
        for outcome in results.failures():
            is_named = outcome.file or outcome.input >= len(files)
            yield outcome if is_named else replace(outcome, file=files[outcome.input])


def print_items(checkpoints: Sequence[Results], output: str | None) -> None:
    """Print the failed items as they were, or write them to a file; raise InputMissing, naming them, if some cannot be
    given back."""
    from batchmill.input.rewrite import as_input
    from batchmill.output.failed_items import FailedItems

    format = checkpoints[0].format
    if any(results.format != format for results in checkpoints):
        raise InvalidUsage("the checkpoints' inputs are of different formats", "give them one by one")
    failed = [FailedItems(results) for results in checkpoints]
    kept = partial(chain.from_iterable, failed)
    if output is not None:
        from batchmill.output.items_file import write_items

        write_items(output, format, kept, [path for items in failed for path in items.inputs()])
    else:
        with stdio.stdout() as out:
            for part in as_input(format, kept):
                out.write(part)
    if format is not None and format.wanted is not None and not (output or "").endswith(".parquet"):
        stdio.tell("batchmill: they are JSON lines; -o FILE.parquet keeps the types of rows")
    elif format is not None and format.wanted is None and format.again != format.base:
        stdio.tell(f"batchmill: read them with --format {format.again}")
    lost = [one for items in failed for one in items.lost]
    if lost:
        named = "; ".join(f"id {show_id(one.id)} (line {one.line}): {escape(one.why, 300)}" for one in lost[:MOST_LOST])
        more = f"; and {len(lost) - MOST_LOST} more" if len(lost) > MOST_LOST else ""
        what = f"{plural(len(lost), 'failed item')} cannot be given back: {named}{more}"
        raise InputMissing(what, "`failures --json` names them all")


def as_object(outcome: Outcome) -> dict[str, Any]:
    """One failed item as `--json` gives it."""
    file = {"file": outcome.file} if outcome.file else {}
    left = {"result": outcome.result} if outcome.result is not None else {}  # of a command
    return {"id": outcome.id, "line": outcome.line, **file, "error": outcome.error, **left,
            "attempts": outcome.attempts, "seconds": outcome.seconds}  # fmt: skip


def group_by_type(failed: Iterable[Outcome]) -> FailureGroups:
    """The failed items by error type and the first line of the message."""
    groups = FailureGroups(key=str, shown=show_id, most_messages=MOST_COUNTED)
    for outcome in failed:
        error = outcome.error or ItemError("?", "")
        message = first_line(error.message)
        groups.add(error.type, message, outcome.id, outcome.line, error.traceback, file=outcome.file)
    return groups


def render(groups: FailureGroups) -> Iterator[str]:
    """The groups as lines of text, the commonest first."""
    total = sum(group.count for group in groups.types.values())
    yield f"{total} failed" if total else "nothing failed"
    for name, group in commonest(groups.types):
        yield ""
        yield f"{group.count}x {escape(name, 160)}"
        yield from _messages(group)
        for line in group.traceback.rstrip().splitlines():
            yield f"    | {escape(line, 500)}"


def _messages(group: TypeGroup) -> Iterator[str]:
    told_apart = [(message, alike) for message, alike in commonest(group.alike) if message is not OTHER_MESSAGES]
    for message, alike in told_apart[:MOST_MESSAGES]:
        more = alike.count - len(alike.examples)
        named = ", ".join(f"{example.id} ({where(example.line, example.file)})" for example in alike.examples)
        yield f"  {alike.count}x {message or '(no message)'}"
        yield f"     id {named}{f' and {more} more' if more else ''}"
    shown = sum(alike.count for _, alike in told_apart[:MOST_MESSAGES])
    if group.count > shown:
        yield f"  {group.count - shown} more with other messages; --json has them all"
