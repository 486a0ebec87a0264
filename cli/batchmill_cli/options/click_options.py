"""How options look in help and how their texts become values.

Options are declared as lists of `Option`, grouped under headings; nothing here knows what they are for.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from batchmill_cli.terminal import stdio

SETTINGS: dict[str, Any] = {"max_content_width": 110}
EPILOG = "`batchmill COMMAND --help` has the options of a command."
GENERAL = "General"
_LEAST_TEXT = 30  # columns for an option's help beside its names


if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # generic since click 8.3 only


class Option(click.Option):
    """An option with the `group` under whose heading the help lists it; `env=False` keeps it out of the environment.

    Where it `may_take` some values, it has `flag_value` without one: the next word is its value only if it can be.
    """

    def __init__(
        self,
        *names: str,
        group: str = GENERAL,
        env: bool = True,
        may_take: Callable[[str], bool] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(list(names), allow_from_autoenv=env, **attributes)
        self.group = group
        self.may_take = may_take


class Formatter(click.HelpFormatter):
    """Help as wide as the terminal, down to 30 columns: click would not go below 50."""

    def __init__(self, width: int | None = None, max_width: int | None = None, **attributes: Any) -> None:
        columns = shutil.get_terminal_size().columns
        fitted = max(min(columns, max_width or columns) - 2, 30)
        super().__init__(width=width or fitted, max_width=max_width, **attributes)


class Context(click.Context):
    """click's, with help of our width."""

    formatter_class = Formatter


class Command(click.Command):
    """A command whose help lists its options by group and ends with `examples`."""

    context_class = Context

    def __init__(self, name: str, *, examples: Sequence[str] = (), **attributes: Any) -> None:
        settings = {**SETTINGS, **attributes.pop("context_settings", {})}
        params = [*attributes.pop("params", ()), *general()]
        super().__init__(name, params=params, context_settings=settings, add_help_option=False, **attributes)
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, which would take the word behind an option for its value whatever it is."""
        end = args.index("--") if "--" in args else len(args)
        for param in self.params:
            if isinstance(param, Option) and param.may_take is not None:
                found = [at for at, word in enumerate(args[: end - 1]) if word in param.opts]
                for at in found:
                    if not param.may_take(args[at + 1]):
                        args[at] += f"={param.flag_value}"
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings, in the order in which the groups first appear."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, Option) else None
            if record is not None:
                groups.setdefault(getattr(param, "group", GENERAL), []).append(record)
        # One column for all groups, so that the eye finds it again: click would align each group by itself.
        width = max(len(names) for records in groups.values() for names, _ in records)
        is_narrow = formatter.width < width + _LEAST_TEXT  # then each text goes below its names
        for heading, records in groups.items():
            with formatter.section(heading):
                rows = [(names.ljust(0 if is_narrow else width), text) for names, text in records]
                formatter.write_dl(rows, col_max=4 if is_narrow else width + 2)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are: click would fold them."""
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}\n" for line in self.examples))


class WithCommand(Command):
    """A command of ours whose line ends in somebody else's: `-- COMMAND ARGS...`, which `command_of` has.

    click never sees what follows the first `--`. An option of `instead` makes it needless, and stands in its place.
    Where there is a flag `only_with`, a line without it is as any other.
    """

    def __init__(self, name: str, *, instead: str, only_with: str | None = None, **attributes: Any) -> None:
        super().__init__(name, **attributes)
        self._instead = instead
        self._only_with = only_with

    def has_command(self, ctx: click.Context) -> bool:
        """Whether the line, once parsed, is one that ends in a command."""
        return _COMMAND in ctx.meta

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, without the command; raises InvalidUsage, with the line corrected, where there is none."""
        from batchmill.errors import InvalidUsage

        at = args.index("--") if "--" in args else len(args)
        command = tuple(args[at + 1 :])
        if self._only_with and self._only_with not in args[:at]:
            if command and not os.path.exists(command[0]) and shutil.which(command[0]):
                from batchmill.secrecy import mask_words

                line = shlex.join([self._only_with, *mask_words(args)])
                raise InvalidUsage(f"a command needs {self._only_with}", f"write: {ctx.command_path} {line}")
            return super().parse_args(ctx, args)
        has_other = any(word == self._instead or word.startswith(f"{self._instead}=") for word in args[:at])
        if command and has_other:
            raise InvalidUsage(f"{self._instead} and -- both give a command", "leave one of them out")
        if not (command or has_other or ctx.resilient_parsing or {"-h", "--help", "--version"} & set(args[:at])):
            what = "there is no command behind --" if at < len(args) else "there is no -- before the command"
            raise InvalidUsage(what, f"write: {ctx.command_path} {_with_dashes(args[:at])}")
        _refuse_sources(command, ctx.command_path)
        ctx.meta[_COMMAND] = command
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """With what comes behind the options and arguments."""
        return [*super().collect_usage_pieces(ctx), "-- COMMAND ARGS..."]


def _refuse_sources(command: Sequence[str], path: str) -> None:
    """Refuse GNU parallel's way to give items behind the command: they would be arguments, and nothing would run."""
    from batchmill.errors import InvalidUsage
    from batchmill.secrecy import mask_words

    marks = [at for at, word in enumerate(command) if re.fullmatch(r":{3,4}\+?", word)]
    if not marks:
        return
    at, shown = marks[0], mask_words(command)
    program, items = shlex.join(shown[:at]), shlex.join(shown[at + 1 :])
    line = f"{path} {items} -- {program}" if "::::" in command[at] else f"printf '%s\\n' {items} | {path} -- {program}"
    raise InvalidUsage(f"{command[at]} is GNU parallel's: items come from files or stdin here", f"write: {line}")


_COMMAND = "batchmill.worker.command"


def command_of(context: click.Context) -> tuple[str, ...]:
    """The words behind `--`; none where the line has no command."""
    words: tuple[str, ...] = context.meta.get(_COMMAND, ())
    return words


def _with_dashes(args: Sequence[str]) -> str:
    """The line as it was probably meant: `--` stands before the first word that is a program and no file."""
    from batchmill.secrecy import mask_words

    shown = mask_words(args)
    for at, word in enumerate(args):
        is_program = "{" in word or (not os.path.exists(word) and shutil.which(word) is not None)
        if is_program and not word.startswith("-"):
            return shlex.join([*shown[:at], "--", *shown[at:]])
    return " ".join([shlex.join(shown), "-- PROGRAM {}"]).strip()


class Choice(ParamType):
    """One word of a few; a wrong one is answered with the nearest."""

    name = "choice"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The words, as help shows them."""
        return "|".join(self.words)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The words that begin so."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word itself; raises InvalidUsage for any other."""
        if value in self.words:
            return str(value)
        from batchmill.errors import InvalidUsage
        from batchmill.text import nearest

        option = param.opts[-1] if param is not None else "value"
        raise InvalidUsage(f"{option} {value!r} is unknown", nearest(str(value), self.words))


class Whole(ParamType):
    """A whole number; anything else is left as it is, for Settings to refuse with the range."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """An int where the text is one."""
        digits = value[1:] if isinstance(value, str) and value.startswith("-") else value
        return int(value) if isinstance(digits, str) and digits.isdecimal() else value


def general() -> list[Option]:
    """The options that every command has."""
    return [
        verbose(),
        Option("--version", is_flag=True, expose_value=False, is_eager=True, env=False, callback=_show_version,
               help="Show the version and exit."),
        Option("-h", "--help", is_flag=True, expose_value=False, is_eager=True, env=False, callback=_show_help,
               help="Show this help and exit."),
    ]  # fmt: skip


# Not click's own: its echo takes a closed stdout for a success, and other errors there for bugs.
def _show_version(context: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from batchmill import __version__

        stdio.print_data(f"batchmill {__version__}")
        context.exit()


def _show_help(context: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        stdio.print_data(context.get_help())
        context.exit()


def verbose() -> Option:
    """The option `-v`, everywhere."""
    return Option("-v", "--verbose", is_flag=True, expose_value=False, env=False, callback=_be_verbose,
                  help="Say more: report and progress in a log too.")  # fmt: skip


def _be_verbose(context: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        vars(context.find_root().command)["verbose"] = True


def is_verbose(context: click.Context) -> bool:
    """Whether `-v` was given, before or after the command's name."""
    return bool(getattr(context.find_root().command, "verbose", False))


def arguments_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of --set and --set-env that were given, as Settings has them; raises InvalidUsage."""
    values: dict[str, Any] = {}
    if options.get("set"):
        values["set"] = parse_set(options["set"])
    if options.get("set_env"):
        values["set_env"] = _parse_set_env(options["set_env"])
    return values


def _parse_set_env(pairs: Iterable[str]) -> dict[str, str]:
    from batchmill.errors import InvalidUsage

    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, variable = pair.partition("=")
        if not equals:  # which may be the secret itself, and is not said
            raise InvalidUsage("--set-env names no variable", "write --set-env KEY=VARIABLE")
        if key in values:
            raise InvalidUsage(f"--set-env {key} is given twice", "leave one of them out")
        values[key] = variable
    return values


def parse_set(pairs: Iterable[str]) -> dict[str, Any]:
    """`KEY=VALUE` texts as a mapping; VALUE is JSON where it parses, else the text. Raises InvalidUsage."""
    from batchmill.errors import InvalidUsage
    from batchmill.secrecy import is_secret

    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            name = re.match(r"\w*", pair)[0]  # type: ignore[index]
            shown = f"{name}***" if is_secret(name) and name != pair else pair
            raise InvalidUsage(f"--set {shown!r} has no value", "write --set KEY=VALUE")
        if key in values:
            raise InvalidUsage(f"--set {key} is given twice", "leave one of them out")
        values[key] = _json_or_text(text)
    return values


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> NoReturn:
    # json takes NaN and Infinity, JSON does not: `--set mode=NaN` is the text.
    raise ValueError(name)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given: without those that are None, False or empty, so that defaults stay in one place."""
    return {name: value for name, value in options.items() if value is not None and value is not False and value != ()}
