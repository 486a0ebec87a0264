"""`batchmill run`: a function on every item."""

from __future__ import annotations

from typing import Any

import click

from batchmill.errors import InvalidUsage
from batchmill_cli.options.batch import CLUSTER_OPTIONS, OPTIONS, check_together, named, settings_of
from batchmill_cli.options.click_options import Command, is_verbose
from batchmill_cli.options.paths import FILE, FUNCTION
from batchmill_cli.running.batch import Presentation, close, next_commands, run_batch
from batchmill_cli.terminal import stdio


@click.command(
    "run",
    cls=Command,
    params=[*OPTIONS, *CLUSTER_OPTIONS],  # click adds to the list
    context_settings={"auto_envvar_prefix": "BATCHMILL_RUN"},
    examples=(
        "batchmill run score.py:score items.jsonl -o scores.jsonl",
        "batchmill run mypackage.tasks:crunch big.jsonl -c crunch.ckpt --resume -j 8",
    ),
)
@click.argument("function", type=FUNCTION)
@click.argument("inputs", nargs=-1, required=True, type=FILE, metavar="INPUT...")
@click.pass_context
def command(context: click.Context, /, function: str, inputs: tuple[str, ...], **options: Any) -> int:
    """Call a Python function on every item, on every core.

    FUNCTION is path/file.py:NAME or package.module:NAME; INPUT are files, or - for stdin. DUR is 30, 30s, 250ms or
    1h30m. Defaults are in [ ]. Options can also be set as BATCHMILL_RUN_<OPTION>, such as BATCHMILL_RUN_WORKERS=8; but
    not --resume, --fresh, --dry-run and -v, nor those that may be repeated: --set, --set-env and --preload.
    """
    try:
        check_together(options)
        manner = Presentation.of(options, verbose=is_verbose(context))
        settings = settings_of(options)
    except InvalidUsage as error:
        raise named(error, context) from None
    if options["dry_run"]:
        from batchmill_cli.running.dry_run import describe

        stdio.print_data(describe(function, inputs, settings, options))
        return 0
    ended = run_batch(function, inputs, settings, options, manner)
    return close(ended, next_commands(ended, options, manner), manner)
