"""`batchmill exec`: a command on every item."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import click

from batchmill.errors import InvalidUsage
from batchmill_cli.options.batch import OPTIONS, check_together, named, settings_of
from batchmill_cli.options.click_options import Option, WithCommand, command_of, is_verbose
from batchmill_cli.options.command import (
    COMMAND_OPTIONS,
    NAMES,
    PASSING_NAMES,
    PASSING_OPTIONS,
    lists_note,
    passing,
    spec_of,
    with_lines,
)
from batchmill_cli.options.paths import FILE
from batchmill_cli.running.batch import Presentation, close, next_commands, run_batch
from batchmill_cli.terminal import stdio

# Of `run`, what is about Python, or about workers that hold the user's own code and memory.
_NOT_HERE = {
    *("set", "set_env", "init", "end", "log_level", "preload", "start_method", "start_timeout", "worker_output"),
    *("worker_memory", "max_items_per_worker", "rerun_older", "batch_format"),
}
# What asks for a checkpoint, or for none.
_OF_CHECKPOINT = ("checkpoint", "no_checkpoint", "resume", "fresh", "fresh_if_finished", "wait")
_TEXTS = {
    "checkpoint": "What remembers which items are done. [INPUT.PROGRAM.ckpt, here; of stdin none]",
    "output": "Write the results there, in input order. [pass on what commands print]",
    "accept_changes": "Continue with another command or format.",
    "batch_size": "Give a command up to N items, as xargs -n; a word with {} in it comes once for each.",
    "timeout": "Fail a command that takes longer: SIGTERM, then SIGKILL.",
    "crash_retries": "Tries after the first, for an item that kills its worker. [1]",
}


def _options() -> list[Option]:
    """The options of `run` that make sense here, in its order, and our own behind those of their group."""
    inherited = [option for option in OPTIONS if option.name not in _NOT_HERE]
    return [_with_text(option) for option in [*inherited, *COMMAND_OPTIONS, *PASSING_OPTIONS]]


def _with_text(option: Option) -> Option:
    text = _TEXTS.get(option.name or "")
    if text is None:
        return option
    changed = copy.copy(option)
    changed.help = text
    return changed


@click.command(
    "exec",
    cls=WithCommand,
    instead="--shell",
    params=_options(),
    context_settings={"auto_envvar_prefix": "BATCHMILL_EXEC"},
    examples=(
        "batchmill exec photos.list -- convert {} -resize 50% small/{/.}.webp",
        "batchmill exec urls.jsonl -o out.jsonl --shell 'curl -s {url} | wc -c'",
    ),
)
@click.argument("inputs", nargs=-1, type=FILE, metavar="[INPUT...]")
@click.pass_context
def command(context: click.Context, /, inputs: tuple[str, ...], **options: Any) -> int:
    """Run a command for every item, on every core.

    INPUT are files; without one, the lines of stdin are the items. In COMMAND, {} is the item, {.} without its
    extension, {/} its last part, {//} its directory, {/.} both, {#} its number, {%} its worker's, {NAME} a field of a
    JSON or CSV item; {{}} is {}. Where none is, the item is the last argument. A status other than 0, or a signal,
    fails the item. Options can also be set as BATCHMILL_EXEC_<OPTION>; but not --shell, --resume, --fresh, --dry-run
    and -v.
    """
    from batchmill.worker.passthrough import Passing

    own = {name: options.pop(name) for name in (*NAMES, *PASSING_NAMES)}
    inputs = inputs or ("-",)
    passes = options["output"] is None and not options["json"]
    is_one_off = "-" in inputs and not any(options[name] for name in _OF_CHECKPOINT)
    options["no_checkpoint"] = options["no_checkpoint"] or is_one_off
    try:
        check_together(options)
        manner = Presentation.of(options, verbose=is_verbose(context), prints=passes)
        settings = settings_of(with_lines(options, own, inputs))
        spec = spec_of(command_of(context), own, is_raw=settings.output_format == "raw")
        if own["no_split"] and settings.batch_size is None:
            raise InvalidUsage("--no-split is for commands of many items", "give --batch-size N as well")
        spec = passing(spec, own, passes=passes)
    except InvalidUsage as error:
        raise named(error, context) from None
    if options["dry_run"]:
        from batchmill_cli.running.dry_run import describe

        stdio.print_data(describe(spec, inputs, settings, options))
        return 0
    note = lists_note(inputs, {**options, "format": settings.format})
    if is_one_off and manner.verbose:
        note = "No checkpoint is kept of items from stdin: -c FILE keeps one"
    if not passes:
        return _close(run_batch(spec, inputs, settings, options, manner, note=note), options, manner)
    with Passing() as passed:
        ended = run_batch(spec, inputs, settings, options, manner, passing=passed, note=note)
        passed.check()
        if passed.is_unread:
            raise stdio.PipeClosed
        return _close(ended, options, manner)


def _close(ended: Any, options: Mapping[str, Any], manner: Presentation) -> int:
    return close(ended, next_commands(ended, options, manner), manner)
