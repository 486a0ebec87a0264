"""`batchmill report`: a checkpoint's timeline as a page in a file."""

from __future__ import annotations

import click

from batchmill_cli.options.click_options import Command, Option
from batchmill_cli.options.paths import CHECKPOINT, FILE
from batchmill_cli.terminal import stdio
from batchmill_cli.terminal.remedies import reading, written_to

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

    Totals, throughput, CPU, memory and workers over time, slow and failed items, settings and machine. The page needs
    no network and runs no script; a live checkpoint gives how it stands now.
    """
    from batchmill.checkpoint.timeline_reader import read_timeline
    from batchmill.files.atomic_file import replacing
    from batchmill_cli.html_report.page import render

    is_stdout = output == "-"
    with reading([checkpoint], *written_to(output), data=is_stdout):
        page = render(read_timeline(checkpoint))
    with stdio.stdout() if is_stdout else replacing(output) as file:
        file.write(page.encode("utf-8", "backslashreplace"))
    return 0
