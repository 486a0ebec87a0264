"""Results of checkpoints, written to a file or a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import IO

from batchmill.files.conflicts import Access, Use, check, descriptor_in
from batchmill.output.by_name import AUTO, format_of_output
from batchmill.output.columns import FORMATS, Asked, check_asked
from batchmill.output.merged import Written
from batchmill.output.results import of_left_out, open_checkpoint
from batchmill.output.sinks import check_format
from batchmill.output.target import STDOUT
from batchmill.text import option


def write_results(
    paths: Sequence[str],
    out: IO[bytes] | str,
    *,
    format: str = AUTO,
    all: bool = False,
    removed: bool = False,
    columns: Sequence[str] = (),
    formula_guard: bool = True,
    bom: bool = False,
    on_message: Callable[[str], None] | None = None,
) -> int:
    """Write the results of checkpoints to a binary file object, or to a path (by renaming).

    Checkpoints of one input (shards) are merged in its order; others come one after the other. Items kept beside their
    results are written too; results of items that the last complete input did not have with `removed` alone, else
    `on_message` is told how many they are. Of a table, `columns` are those that are wanted (none: all), `formula_guard`
    keeps text from being a formula to a spreadsheet, `bom` puts a byte order mark in front. Returns the bytes written.
    Raises OutputLost, InvalidUsage where it would write over a checkpoint, and as `open_checkpoint` does.
    """
    format = format_of_output(out if isinstance(out, str) else STDOUT, format)
    check_format(out if isinstance(out, str) else STDOUT, format)
    check([*(Use("the checkpoint", path, Access.READ) for path in paths), *_used(out)])
    with ExitStack() as stack:
        opened = [stack.enter_context(open_checkpoint(path, removed=removed)) for path in paths]
        # A table has its columns before the first row is known; elsewhere, items are where they were kept.
        with_item = format not in FORMATS or any(results.keeps_items for results in opened)
        asked = Asked(format, all, with_item, tuple(columns), formula_guard, bom)
        check_asked(asked)
        written = Written(opened, asked)
        if isinstance(out, str):
            written.to_file(out)
        else:
            written.to(out.write)
    if on_message is not None:
        left_out = sum(sum(results.left_out[: 1 + all]) for results in opened)
        for sentence in (*written.sentences, *of_left_out(left_out, "outcome" if all else "result")):
            on_message(sentence)
    return written.bytes


def _used(out: IO[bytes] | str) -> list[Use]:
    where = out if isinstance(out, str) else descriptor_in(out)
    return [] if where is None else [Use(option("output"), where, Access.WRITTEN)]
