"""`batchmill verify`: the verdict on a checkpoint as text and exit status."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING

import click

from batchmill.errors import InvalidUsage
from batchmill.text import escape, format_size, plural
from batchmill_cli.options.click_options import Command, Option
from batchmill_cli.options.paths import CHECKPOINT
from batchmill_cli.running.report import show_id
from batchmill_cli.terminal import stdio
from batchmill_cli.terminal.json_output import as_json
from batchmill_cli.terminal.remedies import reading

if TYPE_CHECKING:
    from batchmill.checkpoint.salvage import Lost, Place, Salvaged, Verification

DAMAGED = 65
MOST_IDS = 1000
MOST_WRONG = 10
# By the name of the verdict's kind.
WHAT_NEXT = {
    "TORN": "a run that was killed leaves this; the next run cuts it off and goes on",
    "CRASH_DAMAGE": "a power failure can leave this; the next run sets the rest aside and goes on. --salvage first"
    " keeps what is readable in it",
    "CORRUPT": "no crash leaves this; --salvage writes a new file with all that is readable",
}

OPTIONS = [
    Option("--salvage", group="Rescue", is_flag=True,
           help="Write every readable frame to NAME.salvaged.ckpt; the damaged file stays as it is."),
    Option("--compact", group="Rescue", type=CHECKPOINT, metavar="NAME",
           help="Write it anew without what was superseded; the old file stays as it is."),
    Option("--json", group="Output", is_flag=True, help="One object per checkpoint."),
]  # fmt: skip


@click.command(
    "verify",
    cls=Command,
    params=OPTIONS,
    examples=(
        "batchmill verify items.score.ckpt",
        "batchmill verify items.score.ckpt --salvage",
    ),
)
@click.argument("checkpoints", nargs=-1, required=True, type=CHECKPOINT, metavar="CHECKPOINT...")
def command(checkpoints: tuple[str, ...], salvage: bool, compact: str | None, json: bool) -> int:
    """Check a checkpoint for damage; rescue what is readable.

    Exit 0: all is as it was written, up to an unfinished last frame at most, as a killed run leaves it. Exit 65: it is
    damaged.
    """
    from batchmill.checkpoint.salvage import salvaged_name
    from batchmill.files.conflicts import Access, Use

    if compact is not None and (salvage or len(checkpoints) > 1):
        raise InvalidUsage("--compact takes one checkpoint, and no --salvage", "give them one by one")
    made = [Use("the salvaged checkpoint", salvaged_name(path), Access.MADE) for path in checkpoints if salvage]
    made += [Use("--compact", compact, Access.MADE)] if compact is not None else []
    with reading(checkpoints, *made):
        damaged = [path for path in checkpoints if not check(path, salvage, json)]
        if compact is not None and not damaged:
            _compact(checkpoints[0], compact, json)
    return DAMAGED if damaged else 0


def _compact(path: str, out: str, json: bool) -> None:
    from batchmill.checkpoint.compaction import compact

    made = compact(path, out)
    kept = f"{format_size(made.size)} of {format_size(made.before)}"
    said = f"wrote {escape(out, 300)}: {kept}, without {plural(made.dropped, 'superseded outcome')}"
    stdio.print_data(as_json(made) if json else said)


def check(path: str, salvage: bool, json: bool) -> bool:
    """Say how one checkpoint is, and rescue it if asked to; whether it is undamaged."""
    from batchmill.checkpoint.frames import Kind
    from batchmill.checkpoint.salvage import verify
    from batchmill.errors import CheckpointDamaged, InputMissing

    found = trouble = None
    try:
        found = verify(path)
        stdio.print_data(as_json(_object(found)) if json else "\n".join(describe(found)))
    except FileNotFoundError:
        raise InputMissing(f"{path}: no such checkpoint", "check its path") from None
    except CheckpointDamaged as error:
        if not salvage:
            raise
        trouble = error
    if salvage:
        _rescue(path, json)
    if trouble is not None:  # had it hindered the rescue too, that would have raised it
        stdio.tell(f"batchmill: {escape(trouble.message, 1000)}")
    return found is not None and found.verdict.kind in (Kind.CLEAN, Kind.TORN) and not found.wrong


def _rescue(path: str, json: bool) -> None:
    from batchmill.checkpoint.salvage import salvage

    rescued = salvage(path)
    stdio.print_data(as_json(rescued) if json else "\n".join(describe_rescue(rescued)))


def _object(found: Verification) -> dict[str, object]:
    return {**{one.name: getattr(found, one.name) for one in fields(found)}, "ok": found.ok}


def describe(found: Verification) -> Iterator[str]:
    """The verdict as lines of text."""
    live = f", written now by pid {found.live.pid} on {escape(found.live.host, 60)}" if found.live else ""
    yield f"{escape(found.path, 300)}: {escape(str(found.verdict), 500)}"
    yield f"  {plural(found.outcomes, 'outcome')} in {format_size(found.size)}{live}"
    if found.live is None and found.verdict.kind.name in WHAT_NEXT:
        yield f"  {WHAT_NEXT[found.verdict.kind.name]}"
    if found.wrong:
        frames = plural(len(found.wrong), "frame")
        yield f"  {frames} with right checksums and wrong contents, as no batchmill writes them:"
        yield from (f"    frame {wrong.seq}: {escape(wrong.reason, 300)}" for wrong in found.wrong[:MOST_WRONG])
        more = len(found.wrong) - MOST_WRONG
        yield from [f"    and {more} more"] if more > 0 else []
        yield "  --salvage writes a new file without them"


def describe_rescue(rescued: Salvaged) -> Iterator[str]:
    """What was saved and what is gone, as lines of text."""
    yield f"wrote {escape(rescued.path, 300)}: {plural(rescued.kept, 'frame')}"
    if rescued.meta_lost:
        yield "  gone: frame 0, which said what the checkpoint belongs to; --accept-changes continues it"
    for lost in rescued.lost:
        yield from _describe_lost(lost)
    if rescued.tail:
        yield f"  gone: {plural(rescued.tail, 'byte')} at the end"


def _describe_lost(lost: Lost) -> Iterator[str]:
    frames = f"frame {lost.first}" if lost.first == lost.last else f"frames {lost.first} to {lost.last}"
    yield f"  gone: {frames}, {_between(lost.before, lost.after)}"
    if lost.ids:
        more = f" and {len(lost.ids) - MOST_IDS} more" if len(lost.ids) > MOST_IDS else ""
        yield f"    ids as far as they can be made out: {', '.join(map(show_id, lost.ids[:MOST_IDS]))}{more}"


def _between(before: Place | None, after: Place | None) -> str:
    low = f"after line {before.first + before.lines}" if before else "from the first line on"
    high = f"before line {after.first + 1}" if after else "to the end"
    return f"{low}, {high} (lines in the order they were read)"
