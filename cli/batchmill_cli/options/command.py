"""The options that say which command runs on an item, and the CommandSpec they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidUsage
from batchmill.settings import parse_duration, parse_size
from batchmill_cli.options.batch import EVERYDAY, INPUT, LIMITS, OUTPUT
from batchmill_cli.options.click_options import Option

if TYPE_CHECKING:
    from batchmill.worker.command import CommandSpec

KEEP, KEEP_RAW = 1 << 20, 16 << 20  # bytes of a command's stdout, and of its stderr, that are kept

COMMAND_OPTIONS = [
    Option("--shell", group=EVERYDAY, env=False, metavar="TEXT",
           help="In place of -- COMMAND: for /bin/sh; the item is quoted in it."),
    Option("--shell-program", group=EVERYDAY, metavar="PROGRAM", help="The shell of --shell, such as bash. [/bin/sh]"),
    Option("--stdin", group=INPUT, is_flag=True, help="Give the command the item on stdin, as a line."),
    Option("--kill-after", group=LIMITS, metavar="DUR",
           help="Between SIGTERM and SIGKILL, for all that a command started. [1s]"),
    Option("--ok-exit", group=LIMITS, metavar="N,N", help="Exit statuses that are no failure. [0]"),
    Option("--keep-output", group=OUTPUT, metavar="SIZE",
           help="Kept of stdout and of stderr, each. [1M; for raw 16M]"),
]  # fmt: skip
NAMES = tuple(str(option.name) for option in COMMAND_OPTIONS)


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
        kill_after=KILL_AFTER if own["kill_after"] is None else parse_duration(own["kill_after"]),
    )


def statuses(text: str) -> tuple[int, ...]:
    """Exit statuses from `0,1`; raises InvalidUsage."""
    numbers = [int(word) if word.strip().isdecimal() else -1 for word in text.split(",")]
    if not all(0 <= number <= 255 for number in numbers):
        raise InvalidUsage(f"--ok-exit {text!r} is out of range", "give numbers from 0 to 255, such as 0,1")
    return tuple(dict.fromkeys(numbers))


def with_lines(options: Mapping[str, Any], inputs: Sequence[str]) -> dict[str, Any]:
    """The options; what stdin holds are lines unless something else is said."""
    is_open = "-" in inputs and options["format"] in (None, "auto")
    return {**options, "format": "lines"} if is_open else dict(options)
