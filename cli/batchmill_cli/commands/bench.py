"""`batchmill bench`: from options to a survey, and what is said of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from batchmill.errors import InvalidUsage, OutputLost, is_signal, status_of_signal
from batchmill.model import StopReason
from batchmill.settings import parse_duration
from batchmill.text import plural
from batchmill_cli.bench import files
from batchmill_cli.bench.subject import Subject, command_options
from batchmill_cli.options.batch import TABLE, of_run
from batchmill_cli.options.click_options import Option, Whole, WithCommand, command_of
from batchmill_cli.options.paths import FILE
from batchmill_cli.options.paths import FUNCTION as FUNCTION_NAME
from batchmill_cli.running.progress import fit, may_draw, redraw, terminal_width, wipe
from batchmill_cli.terminal import stdio
from batchmill_cli.terminal.json_output import as_json
from batchmill_cli.terminal.remedies import streams_in_use

if TYPE_CHECKING:
    from batchmill.benchmark.benchmark import Findings
    from batchmill.benchmark.sample import Sample
    from batchmill.benchmark.schedule import Asked, Schedule, Step

MOST_SAMPLED = 10**6
TIME_OVER = 3  # before every count was measured
EVERYDAY, FUNCTION, COMMAND, OUTPUT = "Everyday", "Function and input", "Command", "Output"

OPTIONS = [
    Option("--exec", group=EVERYDAY, is_flag=True, help="Measure a command per item, as `exec` runs it."),
    Option("-j", "--workers", group=EVERYDAY, metavar="COUNTS",
           help="Worker counts: 1,2,4,8 or 1..8. [1, 2, 4, ... usable cores]"),
    Option("--seconds", group=EVERYDAY, metavar="DUR", default="60", help="For the whole of it. [60]"),
    Option("--sample", group=EVERYDAY, type=Whole(), help="Items of a round. [so many that a round takes seconds]"),
    Option("--chunk-size", group=EVERYDAY, metavar="SIZES", help="Chunk sizes to compare: 1,16,auto. [auto]"),
    Option("--batch-size", group=EVERYDAY, metavar="SIZES",
           help="Items in a call to compare: 1,16,auto, of a function of many items."),
    Option("-o", "--output", group=OUTPUT, type=FILE, metavar="FILE", help="Write a .json, .csv or .md file too."),
    Option("--plot", group=OUTPUT, type=FILE, metavar="FILE", help="Draw the curve into a .svg or .png file."),
    Option("--json", group=OUTPUT, is_flag=True, help="Print one JSON object in place of the table."),
    Option("-q", "--quiet", group=OUTPUT, is_flag=True, help="Say nothing on stderr but errors."),
    *of_run(FUNCTION, "set", "set_env", "init", "end", *TABLE, "timeout", "window", "preload"),
    *of_run(FUNCTION, "start_method", "start_timeout", "batch_format"),
    Option("--worker-output", group=FUNCTION, type=FILE, metavar="FILE",
           help="For prints of the function: stderr, none, FILE. [none]"),
    *command_options(COMMAND),
]  # fmt: skip


class FunctionOrCommand(WithCommand):
    """`bench FUNCTION INPUT...`, or `bench --exec [INPUT...] -- COMMAND ARGS...`."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """A command stands in FUNCTION's place, and its items may come from stdin."""
        params = super().get_params(ctx)
        if not self.has_command(ctx):
            return params
        return [*(param for param in params if not isinstance(param, click.Argument)), _argument(required=False)]

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Both ways."""
        formatter.write_usage(ctx.command_path, "[OPTIONS] FUNCTION INPUT...")
        formatter.write_usage(ctx.command_path, "--exec [OPTIONS] [INPUT...] -- COMMAND ARGS...", " " * len("Usage: "))


def _argument(*, required: bool) -> click.Argument:
    return click.Argument(["inputs"], nargs=-1, required=required, type=FILE, metavar="INPUT...")


@click.command(
    "bench",
    cls=FunctionOrCommand,
    instead="--shell",
    only_with="--exec",
    params=[click.Argument(["function"], type=FUNCTION_NAME), _argument(required=True), *OPTIONS],
    examples=(
        "batchmill bench score.py:score items.jsonl -j 1..8 --plot workers.svg",
        "batchmill bench --exec photos.list -- convert {} -resize 50% small/{/.}.webp",
    ),
)
@click.pass_context
def command(context: click.Context, /, inputs: tuple[str, ...], function: str | None = None, **options: Any) -> int:
    """Find the worker count that suits a function and its input.

    The same sample of the items runs with every count of workers, in interleaved rounds: each item runs many times, so
    let FUNCTION, or COMMAND, be one that may. Results are compared (of commands: status and stdout) and thrown away,
    and no checkpoint is opened. The answer is the smallest count within 5% of the fastest.
    """
    from batchmill.batch.signals import Watch, deaf
    from batchmill.benchmark.benchmark import Benchmark

    subject, asked = Subject.of(function, command_of(context), inputs, options), asked_of(options)
    plan = subject.plan([*streams_in_use(data=True), *files.uses(options)])
    files.check(options["output"], files.SHEETS, "-o")
    files.check(options["plot"], files.PLOTS, "--plot")
    if options["plot"]:
        from batchmill_cli.bench import plot

        plot.check()
    bench, talk = Benchmark(plan, asked), Talk(subject)
    talk.warn_beforehand(asked)

    def stop(number: int, insist: bool) -> None:
        bench.stop(signal.Signals(number).name, insist=insist)

    try:
        with Watch(stop, talk.ask):
            found = bench.run(on_message=talk.say, on_schedule=talk.show_schedule, on_step=talk.show_step)
        if is_signal(found.stopped):
            deaf()  # one Ctrl-C too many must not cost what was measured
    finally:
        talk.wipe()
    talk.show(found)
    return status_of(found)


def asked_of(options: Mapping[str, Any]) -> Asked:
    """Which cells are asked for, and for how long; raises InvalidUsage."""
    from batchmill.benchmark.schedule import Asked, parse_batch_sizes, parse_chunk_sizes, parse_counts
    from batchmill.system.machine import usable_cores

    seconds, sample = parse_duration(options["seconds"]), options["sample"]
    if not seconds:
        raise InvalidUsage("--seconds 0 is no time", "give a duration above 0")
    if sample is not None and (not isinstance(sample, int) or not 1 <= sample <= MOST_SAMPLED):
        raise InvalidUsage(f"--sample {sample!r} is out of range", f"give a whole number, 1 to {MOST_SAMPLED}")
    counts = parse_counts(options["workers"], usable_cores()[0])
    chunks, batches = parse_chunk_sizes(options["chunk_size"]), parse_batch_sizes(options["batch_size"])
    return Asked(counts, chunks, seconds, sample, batches)


def status_of(found: Findings) -> int:
    """0; 3 where time was over before every count was measured; above 128 for a signal."""
    if is_signal(found.stopped):
        return status_of_signal(found.stopped)
    return TIME_OVER if found.stopped else 0


class Talk:
    """What is said while a bench runs, on stderr, and what it leaves: the table, the files."""

    def __init__(self, subject: Subject) -> None:
        options = subject.options
        self._subject = subject
        self._options = options
        self._drawn = 0
        self._asked = False
        self._draws = stdio.is_terminal(2) and not options["quiet"] and options["worker_output"] in (None, "none")

    def ask(self) -> None:
        """USR1: say at the next step where it stands. Only sets a flag."""
        self._asked = True

    def say(self, message: str) -> None:
        """One line for a person."""
        if not self._options["quiet"]:
            self.wipe()
            stdio.tell(message)

    def wipe(self) -> None:
        """Clear the progress line."""
        if self._drawn:
            stdio.write_all(2, wipe(self._drawn, terminal_width(2)).encode())
            self._drawn = 0

    def warn_beforehand(self, asked: Asked) -> None:
        """Before anything runs: that items will run again and again."""
        cells = plural(asked.cells, "cell")
        counts = ", ".join(map(str, asked.counts))
        self.say(f"{cells} to measure ({counts} workers) in {asked.seconds:g} s; sampled items run again and again")

    def show_schedule(self, sample: Sample, schedule: Schedule) -> None:
        """Before the first round: how often each item will run."""
        of = f"{sample.read}" if sample.whole else f"the first {sample.read}"
        times = schedule.passes * schedule.rounds
        self.say(
            f"{schedule.records} of {of} records: each will run up to {times} times for each cell "
            f"({plural(schedule.rounds, 'round')}, {schedule.passes} in each)"
        )

    def show_step(self, found: Findings, step: Step) -> None:
        """A cell is done: the progress line, and the file again."""
        with suppress(OutputLost):  # tried again at the end, which says so
            self._write(found, durable=False)  # a disk at work would be part of what is measured next
        cell = step.cell
        line = f"round {step.round}/{step.rounds} | {plural(cell.workers, 'worker')} {cell.rate:.4g}/s"
        line += f" | {step.left:.0f} s left"
        if self._asked:
            self._asked = False
            self.say(line)
        if self._draws and may_draw(2):
            width = terminal_width(2)
            line = fit(line, width)
            stdio.write_all(2, redraw(line, self._drawn, width).encode())
            self._drawn = len(line)

    def show(self, found: Findings) -> None:
        """The end: the table or the object on stdout, then the files; raises OutputLost."""
        from batchmill_cli.bench.table import as_object, best_of

        line = self._subject.line(best_of(found))
        if self._options["json"]:
            stdio.print_data(as_json(as_object(found, self._subject.as_dict(), line)))
        elif found.measured:
            stdio.print_data("\n".join(self._lines(found, line)))
        self._write(found)
        if self._options["plot"] and found.measured:
            from batchmill_cli.bench import plot

            plot.draw(self._options["plot"], found, self._subject.title)
        if not found.measured and not is_signal(found.stopped):
            stdio.tell("batchmill: the time was over before anything was measured; give more --seconds")

    def _lines(self, found: Findings, line: str) -> Iterator[str]:
        from batchmill_cli.bench.table import about, closing, table

        yield about(found)
        yield from table(found)
        if found.stopped:
            yield "not complete: " + (
                "time was over" if found.stopped == StopReason.SECONDS else f"ended by {found.stopped}"
            )
        yield from closing(found, line)

    def _write(self, found: Findings, *, durable: bool = True) -> None:
        from batchmill_cli.bench.table import as_file, as_object, best_of

        path = self._options["output"]
        if path:
            shown = as_object(found, self._subject.as_dict(), self._subject.line(best_of(found)))
            files.write(path, as_file(path, found, shown), durable=durable)
