"""The options of the commands that run a batch, and what they make together."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import click

from batchmill.errors import InvalidUsage
from batchmill.settings import (
    BATCH_FORMATS,
    FOREVER,
    FORMATS,
    LOG_LEVELS,
    OUTPUT_FORMATS,
    START_METHODS,
    Settings,
    parse_duration,
)
from batchmill_cli.options import paths
from batchmill_cli.options.click_options import Choice, Option, Whole, arguments_of, given

MODES = ("auto", "line", "log", "none")
REDRAW_SECONDS = 0.1


EVERYDAY, INPUT, WORKERS = "Everyday", "Input", "Workers"
CHECKPOINT, LIMITS, OUTPUT, CRON = "Checkpoint", "Limits", "Output", "Progress and stopping"
CLUSTER = "Cluster"


TABLE = ("format", "delimiter", "quote", "encoding", "skip_lines", "no_header", "columns")  # of an INPUT


def is_wait(text: str) -> bool:
    """Whether a word behind --wait is its value."""
    try:
        return text == FOREVER or parse_duration(text) >= 0
    except InvalidUsage:
        return False


OPTIONS = [
    Option("-c", "--checkpoint", group=EVERYDAY, type=paths.CHECKPOINT, metavar="FILE",
           help="What remembers which items are done. [INPUT.FUNCTION.ckpt, here]"),
    Option("--resume", group=EVERYDAY, env=False, is_flag=True,
           help="Continue the checkpoint; start one where there is none."),
    Option("-o", "--output", group=EVERYDAY, type=paths.FILE, metavar="FILE|-",
           help="Write the results there, in input order."),
    Option("-j", "--workers", group=EVERYDAY, metavar="N|N%|auto", help="Worker processes. [auto: one a usable core]"),
    Option("--set", group=EVERYDAY, env=False, multiple=True, metavar="KEY=VALUE",
           help="An argument for the function, JSON or text; repeatable."),
    Option("--set-env", group=EVERYDAY, env=False, multiple=True, metavar="KEY=VARIABLE",
           help="The same from the environment, for secrets: its value is kept nowhere."),
    Option("-n", "--dry-run", group=EVERYDAY, env=False, is_flag=True, help="Say what would be done, do nothing."),
    Option("--format", group=INPUT, type=Choice(FORMATS), metavar="NAME",
           help="jsonl, csv, tsv, lines, null, parquet, files (each INPUT an item). [auto: by suffix]"),
    Option("--delimiter", group=INPUT, metavar="C", help="Between cells of a table: ';', '|', tab. [, or tab]"),
    Option("--quote", group=INPUT, metavar="C|none",
           help='What keeps cells of a table together; with none, quotes are text. ["]'),
    Option("--encoding", group=INPUT, metavar="NAME", help="Of a table's text, such as cp1252. [utf-8]"),
    Option("--skip-lines", group=INPUT, type=Whole(), help="Lines before a table's header. [0]"),
    Option("--no-header", group=INPUT, is_flag=True, help="A table's first row is an item: column_1, column_2, ..."),
    Option("--columns", group=INPUT, metavar="A,B,C",
           help="Those columns of a table or of Parquet alone; with --no-header, their names."),
    Option("--follow-links", group=INPUT, is_flag=True,
           help="With --format files: what is behind links to directories, too."),
    Option("--id-field", group=INPUT, metavar="NAME", help="The field or column that identifies an item. [id]"),
    Option("--limit", group=INPUT, type=Whole(), help="Stop after N items not done before (exit 3)."),
    Option("--shard", group=INPUT, metavar="I/N", help="Only the I-th of N parts of the items: for job arrays."),
    Option("--with-item", group=INPUT, is_flag=True, help="Keep each item beside its result."),
    Option("--init", group=WORKERS, metavar="NAME", help="Call NAME (or MODULE:NAME) once in each worker."),
    Option("--end", group=WORKERS, metavar="NAME", help="Call it in each worker that has nothing more to do."),
    Option("--log-level", group=WORKERS, type=Choice(LOG_LEVELS), metavar="LEVEL",
           help="What functions log from this level on. [warning]"),
    Option("--chunk-size", group=WORKERS, metavar="N|auto", help="Items sent together. [auto: by time]"),
    Option("--batch-size", group=WORKERS, metavar="N|auto",
           help="Call the function on lists of up to N items; it returns a list of results."),
    Option("--batch-format", group=WORKERS, type=Choice(BATCH_FORMATS), metavar="NAME",
           help="What it is called with: list, pandas (DataFrame), arrow (Table). [list]"),
    Option("--window", group=WORKERS, type=Whole(), help=f"Chunks in flight per worker. [{Settings.window}]"),
    Option("--preload", group=WORKERS, env=False, multiple=True, metavar="MODULE",
           help="Import it once, shared by all workers; repeatable."),
    Option("--start-method", group=WORKERS, type=Choice(START_METHODS), metavar="NAME",
           help="How workers start: forkserver, spawn or fork."),
    Option("--start-timeout", group=WORKERS, metavar="DUR", help="For importing the function. [5m]"),
    Option("--worker-output", group=WORKERS, type=paths.FILE, metavar="FILE",
           help="For prints of the function: stderr, none, FILE. [stderr]"),
    Option("--fresh", group=CHECKPOINT, env=False, is_flag=True,
           help="Begin anew; move an old checkpoint to NAME.1.ckpt."),
    Option("--fresh-if-finished", group=CHECKPOINT, is_flag=True,
           help="With --resume: begin anew after a finished batch."),
    Option("--keep", group=CHECKPOINT, type=Whole(), help=f"Checkpoints moved aside to keep. [{Settings.keep}]"),
    Option("--no-retry-failed", group=CHECKPOINT, is_flag=True, help="Do not run failed items again."),
    Option("--rerun-changed", group=CHECKPOINT, is_flag=True, help="Run done items whose content changed."),
    Option("--rerun-older", group=CHECKPOINT, is_flag=True, help="Run items done by other code than now."),
    Option("--accept-changes", group=CHECKPOINT, is_flag=True,
           help="Continue with another function, --set or format."),
    Option("--checkpoint-interval", group=CHECKPOINT, metavar="DUR", help="Between syncs to the disk. [1s]"),
    Option("--no-checkpoint", group=CHECKPOINT, is_flag=True, help="Keep nothing: a run that dies is lost."),
    Option("--output-format", group=OUTPUT, type=Choice(OUTPUT_FORMATS), metavar="NAME",
           help="jsonl, csv, tsv, msgpack, sqlite (table `items`), parquet, raw: text as it is. [auto: by suffix]"),
    Option("--output-columns", group=OUTPUT, metavar="A,B,C",
           help="Those columns of a table alone. [id, and each field of the results]"),
    Option("--no-formula-guard", group=OUTPUT, is_flag=True,
           help="In CSV and TSV, text that begins as a formula does is left as it is."),
    Option("--bom", group=OUTPUT, is_flag=True, help="Begin CSV and TSV with a byte order mark, for Excel."),
    Option("--json", group=OUTPUT, is_flag=True, help="Print the report as one JSON object on stdout."),
    Option("-q", "--quiet", group=OUTPUT, is_flag=True, help="Only what needs a person: not exit 1, 3 or 75."),
    Option("--timeout", group=LIMITS, metavar="DUR", help="Fail an item that takes longer; kill it if need be."),
    Option("--retries", group=LIMITS, type=Whole(), help=f"More tries for an item that fails. [{Settings.retries}]"),
    Option("--retry-delay", group=LIMITS, metavar="DUR", help="Before the second try; doubles with each. [1s]"),
    Option("--crash-retries", group=LIMITS, type=Whole(),
           help=f"Tries after the first, for an item that kills its worker. [{Settings.crash_retries}]"),
    Option("--max-failures", group=LIMITS, metavar="auto|none|N|N%",
           help="Stop (exit 3) at so many. [auto: if the first 100 all fail]"),
    Option("--now", group=LIMITS, is_flag=True, help="At --max-failures, end what is still running."),
    Option("--allow-failures", group=LIMITS, metavar="N|N%", help="Exit 0 with no more than so many. [0]"),
    Option("--worker-memory", group=LIMITS, metavar="SIZE", help="Replace a worker that holds more, such as 2G."),
    Option("--min-free-memory", group=LIMITS, metavar="SIZE", help="Hand out less while less than this is free."),
    Option("--max-items-per-worker", group=LIMITS, type=Whole(), help="Replace a worker after N items."),
    Option("--progress", group=CRON, type=Choice(MODES), metavar="NAME", default="auto",
           help="line, log or none. [auto: a line on a terminal]"),
    Option("--progress-interval", group=CRON, metavar="DUR", help="Between lines. [0.1s; log: 30s]"),
    Option("--log", group=CRON, type=paths.FILE, metavar="FILE",
           help="Add all that is said to FILE, with times: beside the mail."),
    Option("--metrics", group=CRON, type=paths.FILE, metavar="FILE.prom",
           help="Keep metrics for Prometheus there (node_exporter's textfile collector)."),
    Option("--wait", group=CRON, metavar="[DUR]", is_flag=False, flag_value=FOREVER, may_take=is_wait,
           help="Wait for a run that holds the checkpoint; without DUR, for ever. [exit 75]"),
    Option("--time-limit", group=CRON, metavar="DUR",
           help="Be over within it (exit 3); --resume continues."),
    Option("--grace", group=CRON, metavar="DUR", help="For finishing after Ctrl-C or TERM. [10s]"),
]  # fmt: skip

# Of `run` alone: where a batch's functions may run.
CLUSTER_OPTIONS = [
    Option("--cluster", group=CLUSTER, metavar="ADDRESS",
           help="Run on the workers of a Dask cluster: tcp://HOST:8786, tls://HOST:8786."),
    Option("--cluster-file", group=CLUSTER, type=paths.FILE, metavar="FILE",
           help="The same, with the scheduler's own file (dask scheduler --scheduler-file)."),
    Option("--tls-ca-file", group=CLUSTER, type=paths.FILE, metavar="FILE", help="The authority of a tls:// cluster."),
    Option("--tls-cert", group=CLUSTER, type=paths.FILE, metavar="FILE", help="Our certificate for it."),
    Option("--tls-key", group=CLUSTER, type=paths.FILE, metavar="FILE", help="The certificate's private key."),
]  # fmt: skip


def of_run(group: str, *names: str) -> list[Option]:
    """Options of `run`, for another command: those parameters, under a heading of its own."""
    return [under(group, option) for option in OPTIONS if option.name in names]


def under(group: str, option: Option) -> Option:
    """The same option under another heading."""
    moved = copy.copy(option)
    moved.group = group
    return moved


def settings_of(options: Mapping[str, Any]) -> Settings:
    """The Settings that these options ask for; raises InvalidUsage."""
    names = {field.name for field in fields(Settings)}
    values = {name: value for name, value in given(options).items() if name in names}
    values |= arguments_of(values)
    values |= {name: False for name in ("retry_failed", "header", "formula_guard") if options.get(f"no_{name}")}
    # The screen keeps --progress-interval itself: USR1 asks for a line in between.
    values["progress_interval"] = REDRAW_SECONDS
    return Settings.of(values)


def check_together(options: Mapping[str, Any]) -> None:
    """Raise InvalidUsage for options that exclude each other, where Settings does not know them."""
    if options["json"] and options["output"] == "-":
        raise InvalidUsage("--json and -o - both want stdout", "write the results to a file")
    if options["no_checkpoint"]:
        for name in ("checkpoint", "resume", "fresh", "wait"):
            if options[name]:
                raise InvalidUsage(f"--no-checkpoint and --{name} exclude each other", "leave one of them out")


def named(error: InvalidUsage, context: click.Context) -> InvalidUsage:
    """The error, naming the environment's variable where the refused option came from there."""
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if source is click.core.ParameterSource.ENVIRONMENT and error.message.startswith(param.opts[-1] + " "):
            variable = f"{context.auto_envvar_prefix}_{(param.name or '').upper()}"
            return InvalidUsage(f"{error.message} (from {variable})", error.remedy)
    return error
