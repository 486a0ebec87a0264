"""`batchmill completion`: prints the script that teaches a shell this program's words."""

from __future__ import annotations

import click

from batchmill_cli.options.click_options import Choice, Command
from batchmill_cli.terminal import stdio

SHELLS = ("bash", "zsh", "fish")


@click.command(
    "completion",
    cls=Command,
    examples=(
        'eval "$(batchmill completion bash)"    # in ~/.bashrc; zsh alike, after compinit',
        "batchmill completion fish > ~/.config/fish/completions/batchmill.fish",
    ),
)
@click.argument("shell", type=Choice(SHELLS), metavar="|".join(SHELLS))
def command(shell: str) -> int:
    """Teach bash, zsh or fish to complete batchmill's command lines.

    Prints a script for the shell. It completes commands, options and their words; files for INPUT, checkpoints for
    CHECKPOINT; and for FUNCTION the functions of its file, which is read and never imported. bash must be 4.4 or newer.
    """
    from batchmill_cli.options.completion import SCRIPTS

    stdio.print_data(SCRIPTS[shell].rstrip())
    return 0
