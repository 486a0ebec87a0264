"""The list of commands, each of which is imported only when it is called."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import click

from batchmill.importing import without_collection
from batchmill_cli.options.click_options import EPILOG, SETTINGS, Command, Context, general
from batchmill_cli.terminal import stdio

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# name -> the first line of its help. The module is batchmill_cli.commands.<name>, but for
# those in _MODULES, whose name would be a keyword.
COMMANDS = {
    "run": "Call a Python function on every item, on every core.",
    "exec": "Run a command for every item, on every core.",
    "try": "Call it on one item, here: its result, or the full traceback.",
    "bench": "Find the worker count that suits a function and its input.",
    "status": "How a run stands or ended, live or dead.",
    "results": "Collect the results out of checkpoints.",
    "failures": "What failed and why; or the failed items themselves.",
    "report": "What happened in a checkpoint's runs, as one HTML page.",
    "verify": "Check a checkpoint for damage; rescue what is readable.",
    "demo": "A real batch on a real input, no files needed.",
    "completion": "Teach bash, zsh or fish to complete batchmill's command lines.",
}
_MODULES = {"try": "try_one"}
EXAMPLES = (
    "batchmill run score.py:score items.jsonl -o scores.jsonl",
    "batchmill run score.py:score items.jsonl -o scores.jsonl --resume",
)


class Program(click.Group):
    """The group of all commands. `verbose` is set by `-v`, for the message that ends the program."""

    context_class = Context

    verbose = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now, or None."""
        if cmd_name not in COMMANDS:
            return None
        with without_collection():
            command = importlib.import_module(f"batchmill_cli.commands.{_MODULES.get(cmd_name, cmd_name)}").command
        return command if isinstance(command, Command) else None

    def invoke(self, ctx: click.Context) -> object:
        """As click does: a command is called, and the engine speaks of options as they are written here."""
        from batchmill.text import speak_command_line  # help does not pay for it

        speak_command_line()
        return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that `args` name; raises UsageError with the nearest name."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from batchmill.text import nearest  # help does not pay for it

            raise click.UsageError(f"No such command {name!r}, {nearest(name, COMMANDS, 'there are')}", ctx)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; without any argument the help goes to stderr, and the status says that nothing was done."""
        if not args and not ctx.resilient_parsing:
            stdio.tell(ctx.get_help())
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands from the table, without importing any of them; options once a dash is typed."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return found or click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples and the place where more is said."""
        with formatter.section("Examples"):
            formatter.write("".join(f"  {line}\n" for line in EXAMPLES))
        formatter.write(f"\n{EPILOG}\n")


program = Program(
    name="batchmill",
    help="Crunch CPU-heavy batches on every core, survive whatever happens, pick up where it stopped.",
    params=[*general()],
    context_settings=SETTINGS,
    options_metavar="",
    add_help_option=False,
    subcommand_metavar="COMMAND ...",
    no_args_is_help=False,
)
