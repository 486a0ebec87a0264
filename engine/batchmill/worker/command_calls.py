"""A command that covers several items: which commands are made of them, and what each item has of how one ended.

    items --unfit--> those a command can have --halved while there is no room--> commands --> a map an item

What an item has of it: its status and peak memory, an equal part of its times, and of what it printed a line, if there
are as many lines as items. Else nobody can tell whose it is: the first item has it all, and in each `stdout_of` (or
`stderr_of`, of which nobody ever can) says of how many items' command it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from batchmill.errors import ItemError, ItemFailed
from batchmill.worker.command_runner import CommandRunner, TooManyArguments, text_of
from batchmill.worker.reply import Starved
from batchmill.worker.template import Task

Outcome = dict[str, Any] | ItemFailed


class CommandCalls:
    """Runs a command on Tasks. A command of several that fails raises ItemFailed, which has them run by themselves; or
    it fails them all, where it does not `splits`."""

    def __init__(self, runner: CommandRunner, *, splits: bool) -> None:
        self._runner = runner
        self._splits = splits

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """The result of each, or why it failed, as they come; raises as CommandRunner does."""
        unfit = [self._runner.unfit(task) for task in tasks]
        outcomes = self._outcomes([task for task, why in zip(tasks, unfit) if why is None])
        for why in unfit:
            yield next(outcomes) if why is None else why

    def _outcomes(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Of items that a command can have: of those that have no room in one, by two."""
        try:
            yield from self._of_one_command(tasks)
        except TooManyArguments:
            middle = len(tasks) // 2
            yield from self._outcomes(tasks[:middle])
            yield from self._outcomes(tasks[middle:])

    def _of_one_command(self, tasks: Sequence[Task]) -> Sequence[Outcome]:
        try:
            return _shared_out(self._runner.run(tasks), len(tasks))
        except ItemFailed as failed:
            if len(tasks) == 1 and not isinstance(failed, Starved):
                return [failed]
            if self._splits or isinstance(failed, TooManyArguments):
                raise
            others = ItemFailed(ItemError(failed.error.type, failed.error.message, failed.error.traceback))
            return [failed, *[others] * (len(tasks) - 1)]


def _shared_out(result: dict[str, Any], count: int) -> list[Outcome]:
    """What each of `count` items has of the map of their command."""
    if count == 1:
        return [result]
    result["user_seconds"] /= count
    result["system_seconds"] /= count
    shares = [dict(result) for _ in range(count)]
    for stream in ("stdout", "stderr"):
        is_cut = f"{stream}_dropped" in result
        lines = _lines(result[stream]) if stream == "stdout" and not is_cut else []
        if len(lines) == count:
            for share, line in zip(shares, lines):
                share[stream] = line
        elif result[stream] or is_cut:
            for share in shares:
                share[f"{stream}_of"] = count
            for share in shares[1:]:
                share[stream] = ""
                share.pop(f"{stream}_dropped", None)
    return list(shares)


def _lines(text: str | bytes) -> list[str | bytes]:
    data = text.encode() if isinstance(text, str) else text
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return [text_of(line) for line in lines if line]
