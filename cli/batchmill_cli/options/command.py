"""The options that say which command runs on an item, and the CommandSpec they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidUsage
from batchmill.settings import parse_duration, parse_size
from batchmill.text import option_name
from batchmill_cli.options.batch import EVERYDAY, INPUT, LIMITS, OUTPUT, WORKERS
from batchmill_cli.options.click_options import Option

if TYPE_CHECKING:
    from batchmill.worker.command import CommandSpec

KEEP, KEEP_RAW = 1 << 20, 16 << 20  # bytes of a command's stdout, and of its stderr, that are kept

# Of `exec` alone: what is seen while commands run.
PASSING_OPTIONS = [
    Option("-t", "--trace", group=OUTPUT, is_flag=True, help="Say each command before it runs, on stderr."),
    Option("--tag", group=OUTPUT, is_flag=True, help="Begin each line that is passed on with the item's id."),
    Option("--line-buffer", group=OUTPUT, is_flag=True, help="Pass lines on as they come, not when a command ends."),
]
COMMAND_OPTIONS = [
    Option("--shell", group=EVERYDAY, env=False, metavar="TEXT",
           help="In place of -- COMMAND: for /bin/sh; no item becomes code in it."),
    Option("--shell-program", group=EVERYDAY, metavar="PROGRAM", help="The shell of --shell, such as bash. [/bin/sh]"),
    Option("-0", "--null", group=INPUT, is_flag=True, help="The same as --format null: for find -print0."),
    Option("--stdin", group=INPUT, is_flag=True, help="Give the command the item on stdin, as a line."),
    Option("--no-split", group=WORKERS, is_flag=True,
           help="With --batch-size: where a command fails, fail all its items; none is run by itself."),
    Option("--kill-after", group=LIMITS, metavar="DUR",
           help="Between SIGTERM and SIGKILL, for all that a command started. [1s]"),
    Option("--ok-exit", group=LIMITS, metavar="N,N", help="Exit statuses that are no failure. [0]"),
    Option("--keep-output", group=OUTPUT, metavar="SIZE",
           help="Kept of stdout and of stderr, each. [1M; for raw 16M]"),
]  # fmt: skip
NAMES = tuple(str(option.name) for option in COMMAND_OPTIONS)
PASSING_NAMES = tuple(str(option.name) for option in PASSING_OPTIONS)
FILES = 3  # INPUTs that may well have been meant as items themselves


def spec_of(words: Sequence[str], own: Mapping[str, Any], *, is_raw: bool = False) -> CommandSpec:
    """The command that is asked for, by its words or by --shell; raises InvalidUsage."""
    from batchmill.worker.child_process import KILL_AFTER
    from batchmill.worker.command import MAX_KEPT, CommandSpec

    if own["shell_program"] is not None and own["shell"] is None:
        raise InvalidUsage("--shell-program needs --shell", "give both, or the command behind --")
    keep = own["keep_output"]
    size = (KEEP_RAW if is_raw else KEEP) if keep is None else parse_size(keep)
    if size > MAX_KEPT:
        raise InvalidUsage(f"--keep-output {keep} is out of range", f"give 0 to {MAX_KEPT >> 20}M")
    return CommandSpec(
        words=(own["shell"],) if own["shell"] is not None else tuple(words),
        shell=own["shell"] is not None,
        stdin=own["stdin"],
        ok_exit=(0,) if own["ok_exit"] is None else statuses(own["ok_exit"]),
        keep=size,
        is_whole=is_raw,
        shell_program=own["shell_program"] or "",
        splits=not own["no_split"],
        kill_after=KILL_AFTER if own["kill_after"] is None else parse_duration(own["kill_after"]),
    )


def statuses(text: str) -> tuple[int, ...]:
    """Exit statuses from `0,1`; raises InvalidUsage."""
    numbers = [int(word) if word.strip().isdecimal() else -1 for word in text.split(",")]
    if not all(0 <= number <= 255 for number in numbers):
        raise InvalidUsage(f"--ok-exit {text!r} is out of range", "give numbers from 0 to 255, such as 0,1")
    return tuple(dict.fromkeys(numbers))


def with_lines(options: Mapping[str, Any], own: Mapping[str, Any], inputs: Sequence[str]) -> dict[str, Any]:
    """The options; what stdin holds are lines unless something else is said. Raises InvalidUsage."""
    is_open = options["format"] in (None, "auto")
    if own["null"]:
        if not is_open and options["format"] != "null":
            raise InvalidUsage(f"-0 and --format {options['format']} exclude each other", "leave one of them out")
        return {**options, "format": "null"}
    return {**options, "format": "lines"} if is_open and "-" in inputs else dict(options)


def passing(spec: CommandSpec, own: Mapping[str, Any], *, passes: bool) -> CommandSpec:
    """The command with what is to be seen of it; `passes` says that what it prints is passed on. Raises
    InvalidUsage."""
    for name in ("tag", "line_buffer"):
        if own[name] and not passes:
            raise InvalidUsage(f"{option_name(name)} is for what is passed on", "leave it out, or -o and --json")
    return replace(spec, **{name: own[name] for name in PASSING_NAMES})


def lists_note(inputs: Sequence[str], options: Mapping[str, Any]) -> str:
    """What is said where several files are read as lists and nobody asked for that; "" where there is nothing."""
    if len(inputs) < FILES or options["format"] not in (None, "auto"):
        return ""
    return f"The lines of {len(inputs)} files are the items; --format files runs the command once for each file"
