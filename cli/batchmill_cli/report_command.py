"""Owns `batchmill report`: a checkpoint's story as a page in a file. Never takes the checkpoint's lock."""

from __future__ import annotations

import click

from batchmill_cli import streams
from batchmill_cli.options import Command, Option
from batchmill_cli.places import CHECKPOINT, FILE
from batchmill_cli.reading import reading, written_to

OPTIONS = [
    Option("-o", "--output", group="Output", type=FILE, required=True, metavar="FILE|-", help="The page; - is stdout."),
]


@click.command(
    "report",
    cls=Command,
    params=OPTIONS,
    examples=(
        "batchmill report items.score.ckpt -o report.html",
        "batchmill report items.score.ckpt -o - | ssh www 'cat > runs/today.html'",
    ),
)
@click.argument("checkpoint", type=CHECKPOINT, metavar="CHECKPOINT")
def command(checkpoint: str, output: str) -> int:
    """What happened in a checkpoint's runs, as one HTML page.

    Totals, throughput, CPU, memory and lanes over time, slow and failed items, settings and machine. The page needs
    no network and runs no script; a live checkpoint gives how it stands now.
    """
    from batchmill.atomic import replacing
    from batchmill.teller import read_story
    from batchmill_cli.page import render

    is_stdout = output == "-"
    with reading([checkpoint], *written_to(output), data=is_stdout):
        page = render(read_story(checkpoint))
    with streams.stdout() if is_stdout else replacing(output) as file:
        file.write(page.encode("utf-8", "backslashreplace"))
    return 0
