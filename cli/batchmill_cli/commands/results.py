"""`batchmill results`: which checkpoints, where to, in which form."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from batchmill.settings import OUTPUT_FORMATS
from batchmill_cli.options.batch import of_run, settings_of
from batchmill_cli.options.click_options import Choice, Command, Option
from batchmill_cli.options.paths import CHECKPOINT, FILE
from batchmill_cli.options.reading import WITH_REMOVED
from batchmill_cli.terminal import stdio
from batchmill_cli.terminal.remedies import reading, written_to

OPTIONS = [
    Option("-o", "--output", group="Output", type=FILE, default="-", metavar="FILE|-", help="Where to. [-: stdout]"),
    Option(
        "--output-format",
        group="Output",
        type=Choice(OUTPUT_FORMATS),
        metavar="NAME",
        default="auto",
        help="jsonl, csv, tsv, msgpack, sqlite (table `items`), parquet, raw: what commands printed. [auto: by suffix]",
    ),
    *of_run("Output", "output_columns", "no_formula_guard", "bom"),
    Option("--all", group="Output", is_flag=True, help="The failed items too, each with its error."),
    WITH_REMOVED,
]


@click.command(
    "results",
    cls=Command,
    params=OPTIONS,
    examples=(
        "batchmill results items.score.ckpt -o scores.jsonl",
        "batchmill results a.ckpt b.ckpt --all --output-format sqlite -o scores.db",
    ),
)
@click.argument("checkpoints", nargs=-1, required=True, type=CHECKPOINT, metavar="CHECKPOINT...")
def command(
    checkpoints: tuple[str, ...], output: str, output_format: str, all: bool, with_removed: bool, **options: Any
) -> int:
    """Collect the results out of checkpoints.

    One object per item, {"id": …, "result": …}, in input order; live checkpoints give what they have so far. In tables,
    each field of the results is a column, and in CSV and TSV, text that a spreadsheet would run as a formula has a '
    before it.
    """
    from batchmill.output.collect import write_results

    settings = settings_of({"output_format": output_format, **options})
    write = partial(
        write_results,
        format=settings.output_format,
        all=all,
        removed=with_removed,
        columns=settings.output_columns,
        formula_guard=settings.formula_guard,
        bom=settings.bom,
        on_message=stdio.tell,
    )
    if output != "-":
        with reading(checkpoints, *written_to(output), data=False):
            write(checkpoints, output)
        return 0
    with reading(checkpoints), stdio.stdout(text=output_format != "msgpack") as out:
        write(checkpoints, out)
    return 0
