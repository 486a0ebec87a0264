"""Owns `batchmill run`: from options to a Batch, and from its Report to what is said. Never does a batch's work."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Any

import click

from batchmill.errors import CheckpointBusy, InvalidUsage
from batchmill.model import Report
from batchmill.settings import FORMATS, OUTPUT_FORMATS, START_METHODS, Settings, parse_duration
from batchmill_cli import streams
from batchmill_cli.options import Choice, Command, Option, Whole, given, is_verbose, parse_set
from batchmill_cli.program import program_name
from batchmill_cli.progress import MODES, REDRAW_SECONDS, Screen, choose_mode
from batchmill_cli.relay import Relay
from batchmill_cli.report import Commands, as_json, is_shown, render, report_object, results, resume_command

EVERYDAY, INPUT, WORKERS = "Everyday", "Input", "Workers"
STOPPED = 3  # by design: --limit, --max-failures
CHECKPOINT, LIMITS, OUTPUT, CRON = "Checkpoint", "Limits", "Output", "Progress and stopping"

OPTIONS = [
    Option("-c", "--checkpoint", group=EVERYDAY, metavar="FILE",
           help="What remembers which items are done. [INPUT.FUNCTION.ckpt, here]"),
    Option("--resume", group=EVERYDAY, env=False, is_flag=True,
           help="Continue the checkpoint; start one where there is none."),
    Option("-o", "--output", group=EVERYDAY, metavar="FILE|-", help="Write the results there, in input order."),
    Option("-j", "--workers", group=EVERYDAY, metavar="N|N%|auto", help="Worker processes. [auto: one a usable core]"),
    Option("--set", group=EVERYDAY, env=False, multiple=True, metavar="KEY=VALUE",
           help="An argument for the function, JSON or text; repeatable."),
    Option("-n", "--dry-run", group=EVERYDAY, env=False, is_flag=True, help="Say what would be done, do nothing."),
    Option("--format", group=INPUT, type=Choice(FORMATS), metavar="NAME",
           help="jsonl, lines, files (each INPUT is an item). [auto: by suffix]"),
    Option("--id-field", group=INPUT, metavar="NAME", help="The field that identifies an item. [id]"),
    Option("--limit", group=INPUT, type=Whole(), help="Stop after N items not done before (exit 3)."),
    Option("--shard", group=INPUT, metavar="I/N", help="Only the I-th of N parts of the items: for job arrays."),
    Option("--with-item", group=INPUT, is_flag=True, help="Keep each item beside its result."),
    Option("--init", group=WORKERS, metavar="NAME", help="Call NAME (or MODULE:NAME) once in each worker."),
    Option("--chunk-size", group=WORKERS, metavar="N|auto", help="Items sent together. [auto: by time]"),
    Option("--window", group=WORKERS, type=Whole(), help=f"Chunks in flight per worker. [{Settings.window}]"),
    Option("--preload", group=WORKERS, env=False, multiple=True, metavar="MODULE",
           help="Import it once, shared by all workers; repeatable."),
    Option("--start-method", group=WORKERS, type=Choice(START_METHODS), metavar="NAME",
           help="How workers start: forkserver, spawn or fork."),
    Option("--start-timeout", group=WORKERS, metavar="DUR", help="For importing the function. [5m]"),
    Option("--worker-output", group=WORKERS, metavar="FILE", help="For prints of the function: stderr, none, FILE."),
    Option("--fresh", group=CHECKPOINT, env=False, is_flag=True,
           help="Begin anew; move an old checkpoint to NAME.1.ckpt."),
    Option("--fresh-if-finished", group=CHECKPOINT, is_flag=True,
           help="With --resume: begin anew after a finished batch."),
    Option("--keep", group=CHECKPOINT, type=Whole(), help=f"Checkpoints moved aside to keep. [{Settings.keep}]"),
    Option("--no-retry-failed", group=CHECKPOINT, is_flag=True, help="Do not run failed items again."),
    Option("--rerun-changed", group=CHECKPOINT, is_flag=True, help="Run done items whose content changed."),
    Option("--accept-changes", group=CHECKPOINT, is_flag=True,
           help="Continue with another function, --set or format."),
    Option("--checkpoint-interval", group=CHECKPOINT, metavar="DUR", help="Between syncs to the disk. [1s]"),
    Option("--no-checkpoint", group=CHECKPOINT, is_flag=True, help="Keep nothing: a run that dies is lost."),
    Option("--output-format", group=OUTPUT, type=Choice(OUTPUT_FORMATS), metavar="NAME",
           help="jsonl or msgpack. [jsonl]"),
    Option("--json", group=OUTPUT, is_flag=True, help="Print the report as one JSON object on stdout."),
    Option("-q", "--quiet", group=OUTPUT, is_flag=True, help="Only what needs a person: not exit 1, 3 or 75."),
    Option("--progress", group=CRON, type=Choice(MODES), metavar="NAME", default="auto",
           help="line, log or none. [auto: a line on a terminal]"),
    Option("--progress-interval", group=CRON, metavar="DUR", help="Between lines. [0.1s; log: 30s]"),
    Option("--timeout", group=LIMITS, metavar="DUR", help="Fail an item that takes longer; kill it if need be."),
    Option("--retries", group=LIMITS, type=Whole(), help=f"More tries for an item that fails. [{Settings.retries}]"),
    Option("--retry-delay", group=LIMITS, metavar="DUR", help="Before the second try; doubles with each. [1s]"),
    Option("--crash-retries", group=LIMITS, type=Whole(),
           help=f"Tries after the first, for an item that kills its worker. [{Settings.crash_retries}]"),
    Option("--max-failures", group=LIMITS, metavar="auto|none|N|N%",
           help="Stop (exit 3) at so many. [auto: if the first 100 all fail]"),
    Option("--allow-failures", group=LIMITS, metavar="N|N%", help="Exit 0 with no more than so many. [0]"),
    Option("--worker-memory", group=LIMITS, metavar="SIZE", help="Replace a worker that holds more, such as 2G."),
    Option("--min-free-memory", group=LIMITS, metavar="SIZE", help="Hand out less while less than this is free."),
    Option("--max-items-per-worker", group=LIMITS, type=Whole(), help="Replace a worker after N items."),
    Option("--grace", group=CRON, metavar="DUR", help="For finishing after Ctrl-C or TERM. [10s]"),
]  # fmt: skip


@dataclass(frozen=True)
class Manner:
    """How this run talks: taken from the options and the terminal, once."""

    verbose: bool
    quiet: bool
    json: bool
    terminal: bool
    mode: str
    interval: float | None

    @classmethod
    def of(cls, options: Mapping[str, Any], *, verbose: bool) -> Manner:
        """The manner that these options ask for on this terminal; raises InvalidUsage."""
        if verbose and options["quiet"]:
            raise InvalidUsage("-q and -v exclude each other", "leave one of them out")
        terminal = streams.is_terminal(2)
        # Results that stream to the same screen would be torn by a progress line.
        shared = options["output"] == "-" and streams.is_terminal(1)
        mode = choose_mode(options["progress"], terminal=terminal and not shared, verbose=verbose,
                           quiet=options["quiet"], environ=os.environ)  # fmt: skip
        interval = options["progress_interval"]
        return cls(verbose=verbose, quiet=options["quiet"], json=options["json"], terminal=terminal, mode=mode,
                   interval=None if interval is None else parse_duration(interval))  # fmt: skip

    @property
    def is_silent(self) -> bool:
        """Whether messages wait until it is known that something went wrong."""
        return self.quiet or not (self.terminal or self.verbose or self.mode == "log")


@dataclass(frozen=True)
class Ended:
    """What is left of a run: its report, the checkpoint's path (None: none was kept), and messages not yet shown."""

    report: Report
    checkpoint: str | None
    held: tuple[str, ...]


def settings_of(options: Mapping[str, Any]) -> Settings:
    """The Settings that these options ask for; raises InvalidUsage."""
    names = {field.name for field in fields(Settings)}
    values = {name: value for name, value in given(options).items() if name in names}
    if "set" in values:
        values["set"] = parse_set(values["set"])
    if options.get("no_retry_failed"):
        values["retry_failed"] = False
    # The screen keeps --progress-interval itself: USR1 asks for a line in between.
    values["progress_interval"] = REDRAW_SECONDS
    return Settings.of(values)


def check_together(options: Mapping[str, Any]) -> None:
    """Raise InvalidUsage for options that exclude each other, where Settings does not know them."""
    if options["json"] and options["output"] == "-":
        raise InvalidUsage("--json and -o - both want stdout", "write the results to a file")
    if options["no_checkpoint"]:
        for name in ("checkpoint", "resume", "fresh"):
            if options[name]:
                raise InvalidUsage(f"--no-checkpoint and --{name} exclude each other", "leave one of them out")


@click.command(
    "run",
    cls=Command,
    params=OPTIONS,
    context_settings={"auto_envvar_prefix": "BATCHMILL_RUN"},
    examples=(
        "batchmill run score.py:score items.jsonl -o scores.jsonl",
        "batchmill run mypackage.tasks:crunch big.jsonl -c crunch.ckpt --resume -j 8",
    ),
)
@click.argument("function")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.pass_context
def command(context: click.Context, /, function: str, inputs: tuple[str, ...], **options: Any) -> int:
    """Call a Python function on every item of the input, on every core.

    FUNCTION is path/file.py:NAME or package.module:NAME; INPUT are files, or - for stdin. DUR is 30, 30s, 250ms or
    1h30m. Defaults are in [ ]. Options can also be set as BATCHMILL_RUN_<OPTION>, such as BATCHMILL_RUN_WORKERS=8; but
    not --resume, --fresh, --dry-run and -v, nor those that may be repeated: --set and --preload.
    """
    try:
        check_together(options)
        manner = Manner.of(options, verbose=is_verbose(context))
        settings = settings_of(options)
    except InvalidUsage as error:
        raise _named(error, context) from None
    if options["dry_run"]:
        from batchmill_cli.dry_run import describe

        streams.print_data(describe(function, inputs, settings, options))
        return 0
    ended = crunch(function, inputs, settings, options, manner)
    return close(ended, next_commands(ended, options, manner), manner)


def _named(error: InvalidUsage, context: click.Context) -> InvalidUsage:
    """The error, naming the environment's variable where the refused option came from there."""
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if source is click.core.ParameterSource.ENVIRONMENT and error.message.startswith(param.opts[-1] + " "):
            return InvalidUsage(f"{error.message} (from BATCHMILL_RUN_{(param.name or '').upper()})", error.remedy)
    return error


def crunch(
    function: str, inputs: Sequence[str], settings: Settings, options: Mapping[str, Any], manner: Manner
) -> Ended:
    """Run the batch with its progress on stderr."""
    from batchmill.batch import Batch
    from batchmill.resources import worker_count
    from batchmill.signals import Watch, deaf

    screen = Screen(manner.mode, manner.interval, hold=manner.is_silent)
    if manner.verbose:
        screen.say("{} workers ({})".format(*worker_count(settings.workers)))
    with ExitStack() as stack:
        relay = None
        if manner.mode == "line" and settings.worker_output == "stderr":
            relay = stack.enter_context(Relay(screen.pass_on))
        stack.callback(screen.finish)
        batch = Batch(
            function,
            inputs,
            settings=settings,
            checkpoint=options["checkpoint"],
            output=options["output"],
            no_checkpoint=options["no_checkpoint"],
            worker_output_fd=relay.fd if relay else None,
        )

        def stop(number: int, insist: bool) -> None:
            batch.stop(signal.Signals(number).name, insist=insist)

        try:
            with Watch(stop, screen.ask):
                report = batch.run(on_progress=screen.update, on_message=screen.say)
            if report.stopped.startswith("SIG"):
                deaf()  # one Ctrl-C too many must not cost the report
        except BrokenPipeError:
            if options["output"] != "-":
                raise
            raise streams.PipeClosed from None
        except CheckpointBusy as busy:
            if manner.quiet:
                raise click.exceptions.Exit(busy.exit_code) from None
            raise
        except BaseException:
            screen.finish()
            screen.release()
            raise
        screen.finish(batch.snapshot())
    return Ended(report, batch.checkpoint_path, tuple(screen.held))


def close(ended: Ended, commands: Commands, manner: Manner) -> int:
    """Say what is to be said at the end; the exit status."""
    report = ended.report
    if is_shown(report.exit_code, terminal=manner.terminal, verbose=manner.verbose, quiet=manner.quiet):
        # Every warning was a message too: those already shown are not repeated, those held come with the report.
        path = os.path.relpath(ended.checkpoint) if ended.checkpoint and manner.terminal else ended.checkpoint
        shown = replace(report, warnings=ended.held, checkpoint=path)
        streams.tell(render(shown, commands, socket.gethostname()))
    if manner.json:
        streams.print_data(as_json(report_object(report)))
    return report.exit_code


def next_commands(ended: Ended, options: Mapping[str, Any], manner: Manner) -> Commands:
    """What to type next after this run, as the shell would take it."""
    report, checkpoint, target = ended.report, ended.checkpoint, options["output"]
    partial = _partial(report, target)
    output = (os.path.relpath(partial) if manner.terminal else partial) if partial else ""
    if not checkpoint:
        return Commands(output=output)
    program = program_name(absolute=not manner.terminal)
    directory = None if manner.terminal else os.getcwd()
    path = shlex.quote(os.path.relpath(checkpoint) if manner.terminal else checkpoint)
    lacking = not target or (target != "-" and report.stopped)  # what was asked for is not there, or not under its name
    return Commands(
        output=output,
        resume=resume_command(sys.argv[1:], program, directory) if report.exit_code != 0 else "",
        show=f"{program} failures {path}" if report.failed else "",
        collect=f"{program} results {path}{_into(options)}" if lacking and results(report) else "",
    )


def _partial(report: Report, target: str | None) -> str | None:
    """Where the output of a run is that ended early: beside the name that it will have; None where there is none."""
    if report.exit_code != STOPPED or target in (None, "-"):
        return None
    name = f"{os.path.realpath(str(target))}.partial"
    return name if os.path.exists(name) else None


def _into(options: Mapping[str, Any]) -> str:
    """The options of `results` that give what this run was asked for."""
    chosen = options.get("output_format")
    style = f" --output-format {chosen}" if chosen else ""
    return f"{style} -o {shlex.quote(options['output']) if options['output'] else 'FILE'}"
