"""`batchmill try`: one item in this process, for people who are writing the function."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import nullcontext, redirect_stdout
from typing import Any

import click

from batchmill.errors import BatchmillError, InvalidUsage
from batchmill.secrecy import hide
from batchmill.text import escape
from batchmill_cli.options.batch import TABLE, of_run, settings_of
from batchmill_cli.options.click_options import Command, Option, Whole
from batchmill_cli.options.paths import FILE, FUNCTION
from batchmill_cli.terminal import stdio
from batchmill_cli.terminal.remedies import streams_in_use

OPTIONS = [
    Option("--id", group="Which item", metavar="ID", help="The item with this id. [the first item]"),
    Option("--line", group="Which item", type=Whole(), help="The item on this line (or the N-th file)."),
    *of_run("Function", "set", "set_env", "batch_size", "batch_format"),
    Option("--init", group="Function", metavar="NAME", help="Call NAME (or MODULE:NAME) first."),
    Option("--end", group="Function", metavar="NAME", help="Call it at the end."),
    *of_run("Input", *TABLE, "id_field"),
]


@click.command(
    "try",
    cls=Command,
    params=OPTIONS,
    examples=(
        "batchmill try score.py:score items.jsonl",
        "batchmill try score.py:score items.jsonl --id a17",
    ),
)
@click.argument("function", type=FUNCTION)
@click.argument("inputs", nargs=-1, required=True, type=FILE, metavar="INPUT")
def command(function: str, inputs: tuple[str, ...], **options: Any) -> int:
    """Call it on one item, here: its result, or the full traceback.

    In this process, without a checkpoint: breakpoint() works in the function. What it prints goes to stderr where
    stdout is not a terminal.
    """
    item_id, line = options.pop("id"), options.pop("line")
    if item_id is not None and line is not None:
        raise InvalidUsage("--id and --line exclude each other", "leave one of them out")
    if line is not None and (not isinstance(line, int) or line < 1):
        raise InvalidUsage(f"--line {line!r} is out of range", "give a whole number, 1 or more")
    settings = settings_of(options)
    from batchmill.batch.trial import trial

    signal.signal(signal.SIGUSR1, signal.SIG_DFL)  # ours for a run, and what the function forks would have it
    try:
        with nullcontext() if stdio.is_terminal(1) else redirect_stdout(sys.stderr):
            used = streams_in_use(data=True)
            result = trial(function, inputs, settings, id=item_id, line=line, others=used, tell=stdio.remark)
    except (BatchmillError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the function's own, SystemExit too
        sys.stderr.flush()
        stdio.tell("\n".join(escape(line, 4000) for line in hide(traceback_of(error)).splitlines()))
        return 1
    stdio.print_data(as_output(result))
    return 0


def as_output(result: Any) -> str:
    """The result as `run -o` would write it; raises InvalidUsage for one that a run could not keep."""
    from batchmill.codec.outcomes import Head, pack_outcomes
    from batchmill.codec.pack import pack_result
    from batchmill.output.json_lines import render

    try:
        payload = pack_outcomes(Head(records=1, items=1, ok=1), [0], [pack_result(result)])
    except (TypeError, ValueError) as error:
        raise InvalidUsage(str(error), "a run would count this item as failed") from None
    line, unsaid = render(payload, format="jsonl", all=False, with_item=False)
    for sentence in unsaid.sentences():
        stdio.tell(f"batchmill: {sentence}")
    return line.decode().removeprefix('{"id": 0, "result": ').removesuffix("}\n")


def traceback_of(error: BaseException) -> str:
    """The full traceback, from the first frame that is not ours."""
    import batchmill
    import batchmill_cli

    ours = (os.path.dirname(batchmill.__file__), os.path.dirname(batchmill_cli.__file__))
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and frames.tb_frame.f_code.co_filename.startswith(ours):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))
