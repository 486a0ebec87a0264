"""The course of a batch on the command line, from Settings to what is said of its Report."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from batchmill.errors import CheckpointBusy, InvalidUsage, is_signal
from batchmill.importing import without_collection
from batchmill.model import Report, Snapshot, StopReason
from batchmill.settings import Settings, parse_duration
from batchmill.text import as_reported, escape, plural
from batchmill.value_class import value_class
from batchmill_cli import BEGAN
from batchmill_cli.options.command_lines import program_name, retold
from batchmill_cli.running.metrics import Metrics
from batchmill_cli.running.progress import Screen, choose_mode
from batchmill_cli.running.report import NextSteps, is_shown, render, report_object, results, resume_command
from batchmill_cli.running.worker_output import Relay
from batchmill_cli.terminal import stdio
from batchmill_cli.terminal.json_output import as_json
from batchmill_cli.terminal.quoting import join, quote
from batchmill_cli.terminal.remedies import streams_in_use

if TYPE_CHECKING:
    from batchmill.batch.batch import Batch
    from batchmill.files.conflicts import Use
    from batchmill.worker.command import CommandSpec
    from batchmill.worker.passthrough import Passing
    from batchmill_cli.running.log_file import LogFile

STOPPED = 3  # by design: --limit, --max-failures, --time-limit


@value_class
class Presentation:
    """How this run talks: taken from the options and the terminal, once."""

    verbose: bool
    quiet: bool
    json: bool
    terminal: bool
    mode: str
    interval: float | None

    @classmethod
    def of(cls, options: Mapping[str, Any], *, verbose: bool, prints: bool = False) -> Presentation:
        """The manner that these options ask for on this terminal; raises InvalidUsage.

        `prints` says that data goes to stdout while the batch runs.
        """
        if verbose and options["quiet"]:
            raise InvalidUsage("-q and -v exclude each other", "leave one of them out")
        terminal = stdio.is_terminal(2)
        # Results that stream to the same screen would be torn by a progress line.
        shared = (prints or options["output"] == "-") and stdio.is_terminal(1)
        mode = choose_mode(options["progress"], terminal=terminal and not shared, verbose=verbose,
                           quiet=options["quiet"], environ=os.environ)  # fmt: skip
        interval = options["progress_interval"]
        return cls(verbose=verbose, quiet=options["quiet"], json=options["json"], terminal=terminal, mode=mode,
                   interval=None if interval is None else parse_duration(interval))  # fmt: skip

    @property
    def is_silent(self) -> bool:
        """Whether messages wait until it is known that something went wrong."""
        return self.quiet or not (self.terminal or self.verbose or self.mode == "log")


@value_class
class Ended:
    """What is left of a run: its report, the checkpoint's path (None: none was kept), and messages not yet shown."""

    report: Report
    checkpoint: str | None
    held: tuple[str, ...]
    log: LogFile | None = None


def run_batch(
    function: str | CommandSpec,
    inputs: Sequence[str],
    settings: Settings,
    options: Mapping[str, Any],
    manner: Presentation,
    *,
    passing: Passing | None = None,
    note: str = "",
) -> Ended:
    """Run the batch with its progress on stderr. With `passing`, what its commands print is passed on; `note` is said
    first."""
    log = None
    if options.get("log"):
        from batchmill_cli.running.log_file import LogFile

        log = LogFile(options["log"], manner.interval)
    screen = Screen(manner.mode, manner.interval, hold=manner.is_silent, log=log)
    if log is None:
        return _run_batch(function, inputs, settings, options, manner, screen, passing, note)
    log.write(f"begins: {program_name(absolute=True)} {join(retold(sys.argv[1:]))} (in {os.getcwd()})")
    try:
        return replace(_run_batch(function, inputs, settings, options, manner, screen, passing, note), log=log)
    except BaseException as error:
        log.write(f"ends: {as_reported(error)}")
        raise


def _run_batch(  # noqa: PLR0917 - what run_batch takes, and its screen
    function: str | CommandSpec,
    inputs: Sequence[str],
    settings: Settings,
    options: Mapping[str, Any],
    manner: Presentation,
    screen: Screen,
    passing: Passing | None,
    note: str,
) -> Ended:
    with without_collection():
        from batchmill.batch.batch import Batch
        from batchmill.plan import make_plan
        from batchmill.system.machine import worker_count

    if manner.verbose and not settings.cluster_name:
        workers, source = worker_count(settings.workers)
        screen.say(f"{plural(workers, 'worker')} ({source})")
    if note:
        screen.say(note)
    with ExitStack() as stack:
        relay = None
        if manner.mode == "line" and settings.worker_output == "stderr":
            relay = stack.enter_context(Relay(screen.pass_on))
        stack.callback(screen.finish)
        plan = make_plan(
            function,
            inputs,
            settings=settings,
            checkpoint=options["checkpoint"],
            output=options["output"],
            no_checkpoint=options["no_checkpoint"],
            others=others(options, data=options["json"], passes=passing is not None),
        )
        batch = Batch(plan, worker_output_fd=relay.fd if relay else None, began=BEGAN, passing=passing)

        path = options.get("metrics")
        metrics = Metrics(path, batch, manner.interval, stdio.tell) if path else None
        try:
            report = _run(batch, screen, metrics, passing, quiet=manner.quiet, streams_out=options["output"] == "-")
        except Exception:
            _say_how_far(batch, options, manner)
            raise
        screen.finish(batch.snapshot())
        if metrics is not None:
            metrics.end(report)
    return Ended(report, batch.checkpoint_path, tuple(screen.held))


def others(options: Mapping[str, Any], *, data: bool, passes: bool = False) -> list[Use]:
    """The files that a run with these options writes beside its checkpoint and output; see `streams_in_use`."""
    from batchmill.files.conflicts import Access, Use

    metrics, log = options.get("metrics"), options.get("log")
    beside = [Use("--metrics", metrics, Access.WRITTEN)] if metrics else []
    beside += [Use("--log", log, Access.APPENDED)] if log else []
    return [*streams_in_use(data=data, passes=passes), *beside]


def _say_how_far(batch: Batch, options: Mapping[str, Any], manner: Presentation) -> None:
    """The report of a run that an error has ended, if it did anything; the error itself is said after it."""
    report = batch.report
    if report is not None and (results(report) or report.failed):
        ended = Ended(replace(report, error=""), batch.checkpoint_path, ())
        close(ended, next_commands(ended, options, manner), manner)


def _run(
    batch: Batch,
    screen: Screen,
    metrics: Metrics | None,
    passing: Passing | None,
    *,
    quiet: bool,
    streams_out: bool,
) -> Report:
    """Run the batch, and stop it when signals say so. What was held is shown before an error is."""
    from batchmill.batch.signals import Watch, deaf

    def stop(number: int, insist: bool) -> None:
        batch.stop(signal.Signals(number).name, insist=insist)

    def watch(snapshot: Snapshot) -> None:
        screen.update(snapshot)
        if metrics is not None:
            metrics.update(snapshot)
        if passing is not None and passing.trouble:
            batch.stop("SIGPIPE" if passing.is_unread else StopReason.OUTPUT)

    try:
        with Watch(stop, screen.ask), metrics or nullcontext():
            report = batch.run(on_progress=watch, on_message=screen.say)
        if is_signal(report.stopped):
            deaf()  # one Ctrl-C too many must not cost the report
    except BrokenPipeError:
        if not streams_out:
            raise
        raise stdio.PipeClosed from None
    except CheckpointBusy as busy:
        if quiet:
            raise click.exceptions.Exit(busy.exit_code) from None
        raise
    except BaseException:
        screen.finish()
        screen.release()
        raise
    return report


def close(ended: Ended, commands: NextSteps, manner: Presentation) -> int:
    """Say what is to be said at the end; the exit status."""
    report = ended.report
    if ended.log is not None:  # which has had all messages
        ended.log.write(render(replace(report, warnings=(), notes=()), commands, socket.gethostname()))
    if is_shown(report.exit_code, terminal=manner.terminal, verbose=manner.verbose, quiet=manner.quiet):
        # Every warning was a message too: those already shown are not repeated, those held come with the report.
        path = os.path.relpath(ended.checkpoint) if ended.checkpoint and manner.terminal else ended.checkpoint
        shown = replace(report, warnings=ended.held, notes=(), checkpoint=path)
        stdio.tell(render(shown, commands, socket.gethostname()))
    elif not manner.quiet:  # results that are not what they seem are told at exit 0 too
        for sentence in ended.held:
            if sentence in report.warnings:
                stdio.tell(f"batchmill: {escape(sentence, 1000)}")
    if manner.json:
        stdio.print_data(as_json(report_object(report)))
    return report.exit_code


def next_commands(ended: Ended, options: Mapping[str, Any], manner: Presentation) -> NextSteps:
    """What to type next after this run, as the shell would take it."""
    report, checkpoint, target = ended.report, ended.checkpoint, options["output"]
    partial = _partial(report, target)
    output = (os.path.relpath(partial) if manner.terminal else partial) if partial else ""
    if not checkpoint:
        return NextSteps(output=output)
    program = program_name(absolute=not manner.terminal)
    directory = None if manner.terminal else os.getcwd()
    path = quote(os.path.relpath(checkpoint) if manner.terminal else checkpoint)
    lacking = not target or (target != "-" and report.stopped)  # what was asked for is not there, or not under its name
    return NextSteps(
        output=output,
        resume=resume_command(retold(sys.argv[1:]), program, directory) if report.exit_code != 0 else "",
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
    return f"{style} -o {quote(options['output']) if options['output'] else 'FILE'}"
