"""What a bench is of, a function or a command: its Settings, its plan, the line to copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidUsage
from batchmill.text import option_name
from batchmill.value_class import value_class
from batchmill_cli.options.batch import TABLE, settings_of, under
from batchmill_cli.options.click_options import Option, given
from batchmill_cli.options.command import COMMAND_OPTIONS, NAMES, spec_of, with_lines
from batchmill_cli.options.command_lines import as_arguments, program_name, retold
from batchmill_cli.terminal.quoting import join

if TYPE_CHECKING:
    from batchmill.benchmark.scaling import Cell
    from batchmill.files.conflicts import Use
    from batchmill.plan import Plan
    from batchmill.worker.command import CommandSpec

OF_BOTH = (*TABLE, "timeout", "window")
OF_FUNCTIONS = (
    "set", "set_env", "init", "end", "preload", "start_method", "start_timeout", "worker_output", "batch_format",
)  # fmt: skip


def command_options(group: str) -> list[Option]:
    """The options of `exec` that say what runs, below that heading."""
    options = [under(group, option) for option in COMMAND_OPTIONS]
    for option in options:
        if option.name == "keep_output":
            option.help = "Kept of stdout and of stderr, each. [1M]"
    return options


@value_class
class Subject:
    """A FUNCTION, or the command of a spec, on INPUTs as they were given. `options` are those of the command line."""

    work: str | CommandSpec
    inputs: Sequence[str]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, function: str | None, words: Sequence[str], inputs: Sequence[str],
           options: Mapping[str, Any]) -> Subject:  # fmt: skip
        """Of the function, or without one of the command; raises InvalidUsage for options of the other."""
        foreign, needed = (OF_FUNCTIONS, "a FUNCTION") if function is None else (NAMES, "--exec")
        for name in foreign:
            if given({name: options[name]}):
                raise InvalidUsage(
                    f"{option_name(name)} is for {needed}", f"leave out {option_name(name)}, or give {needed}"
                )
        return cls(function or spec_of(words, options), inputs, options)

    @property
    def title(self) -> str:
        """What runs, as people know it."""
        return self.work if isinstance(self.work, str) else self.work.display

    @property
    def _name(self) -> str:
        return self.work.rpartition(":")[2] if isinstance(self.work, str) else self.work.name

    def plan(self, others: Iterable[Use] = ()) -> Plan:
        """What is to be measured, checked; raises BatchmillError. `others` are the files that a bench writes."""
        from batchmill.plan import make_plan

        inputs, options = self.inputs, self.options
        if not isinstance(self.work, str):
            inputs = inputs or ("-",)
            options = with_lines(options, options, inputs)
        asked = given({name: options[name] for name in (*OF_BOTH, *OF_FUNCTIONS)})
        batched = {} if options.get("batch_size") is None else {"batch_size": "auto"}  # each cell says how many
        settings = settings_of({"worker_output": "none", **batched, **asked})
        return make_plan(self.work, inputs, settings=settings, no_checkpoint=True, others=others)

    def as_dict(self) -> dict[str, Any]:
        """For the JSON object: `function` or `exec`."""
        kind = "function" if isinstance(self.work, str) else "exec"
        return {"function": None, kind: self.title, "input": list(self.inputs)}

    def line(self, best: Cell | None) -> str:
        """The run with the answer, as a command to copy; "" without one."""
        return f"{program_name(absolute=False)} {join(retold(list(self._words(best))))}" if best is not None else ""

    def _words(self, best: Cell) -> Iterator[str]:
        is_function = isinstance(self.work, str)
        yield from ("run", self.work) if isinstance(self.work, str) else ("exec",)
        yield from as_arguments(self.inputs)
        for name in (*OF_BOTH, *(OF_FUNCTIONS if is_function else NAMES)):
            if name != "shell":
                yield from _option(name, self.options[name])
        if not self.inputs or "-" in self.inputs:  # which give a checkpoint no name
            yield from ("-c", f"{self._name}.ckpt")
        yield from ("-j", str(best.workers))
        yield from () if best.chunk_size is None else ("--chunk-size", str(best.chunk_size))
        yield from () if best.batch_size is None else ("--batch-size", str(best.batch_size))
        if not isinstance(self.work, str):
            yield from ("--shell" if self.work.shell else "--", *self.work.words)


def _option(name: str, value: Any) -> Iterator[str]:
    """The words that give an option, as often as it was given."""
    if value is True:
        yield option_name(name)
    elif value is not None and value is not False:
        for text in value if isinstance(value, (tuple, list)) else [value]:
            yield from (option_name(name), str(text))
