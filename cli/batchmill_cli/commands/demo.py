"""`batchmill demo`: a real batch on files that every Python has."""

from __future__ import annotations

import heapq
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from typing import Any

import click

from batchmill.settings import Settings
from batchmill.text import escape
from batchmill_cli.options.click_options import Command, Option, Whole, given
from batchmill_cli.options.command_lines import program_name
from batchmill_cli.options.paths import CHECKPOINT
from batchmill_cli.running.batch import Presentation, close, run_batch
from batchmill_cli.running.report import NextSteps, results
from batchmill_cli.terminal import stdio
from batchmill_cli.terminal.quoting import join, quote

FUNCTION = "batchmill_cli.commands.demo_work:examine"
LEFT_OUT = ("site-packages", "dist-packages", "__pycache__")
MOST_COMPLEX = 5

OPTIONS = [
    Option("-j", "--workers", group="Options", metavar="N|N%|auto", help="Worker processes. [auto: one a usable core]"),
    Option("-c", "--checkpoint", group="Options", type=CHECKPOINT, default="demo.ckpt", metavar="FILE",
           help="What remembers which files are done. [demo.ckpt, here]"),
    Option("--limit", group="Options", type=Whole(), help="Stop after N files that were not yet done."),
]  # fmt: skip


@click.command("demo", cls=Command, params=OPTIONS, examples=("batchmill demo", "batchmill demo -j 2 --limit 200"))
def command(checkpoint: str, **options: Any) -> int:
    """A real batch on a real input, no files needed.

    Every .py file of this Python's standard library is an item: it is parsed, its branches are counted, and it is
    compressed twice. Interrupt it with Ctrl-C and run it again: it goes on where it was.
    """
    root = sysconfig.get_path("stdlib")
    files = list(sources(root))
    say = stdio.tell
    say(f"{len(files)} files of {root}: parse, count branches, compress. Ctrl-C stops it; again, and it resumes.")
    asked = {"output": None, "quiet": False, "json": False, "progress": "auto", "progress_interval": None}
    manner = Presentation.of(asked, verbose=True)
    settings = Settings.of(
        {**given(options), "format": "files", "resume": True, "fresh_if_finished": True, "progress_interval": 0.1}
    )
    ended = run_batch(FUNCTION, files, settings, {**asked, "checkpoint": checkpoint, "no_checkpoint": False},
                       manner)  # fmt: skip
    again = join(["demo", *sys.argv[sys.argv.index("demo") + 1 :]])
    program, path = program_name(absolute=False), quote(checkpoint)
    commands = NextSteps(
        resume=f"{program} {again}" if ended.report.exit_code else "",
        show=f"{program} failures {path}" if ended.report.failed else "",
        collect=f"{program} results {path} -o FILE" if results(ended.report) else "",
    )
    status = close(ended, commands, manner)
    if status == 0:
        stdio.print_data("\n".join(most_complex(checkpoint, root)))
        say(f"To see it resume: run `{program} {again}` again, press Ctrl-C half-way, and run it once more.")
    return status


def sources(root: str) -> Iterator[str]:
    """The .py files below `root`, sorted, without what was installed beside the standard library."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        yield from (os.path.join(folder, name) for name in sorted(names) if name.endswith(".py"))


def most_complex(checkpoint: str, root: str) -> Iterator[str]:
    """The most complex files as lines of text, read back from the checkpoint."""
    from batchmill.output.results import open_checkpoint

    rated = ((outcome.result.get("complexity", 0), str(outcome.id), outcome.result)
             for outcome in open_checkpoint(checkpoint).outcomes() if outcome.ok)  # fmt: skip
    top: Sequence[tuple[int, str, dict[str, Any]]] = heapq.nlargest(MOST_COMPLEX, rated, key=lambda row: row[:2])
    yield "the most complex files of the standard library:"
    yield f"{'complexity':>10} {'nodes':>8} {'lines':>7} {'zlib':>6}  file"
    for complexity, path, facts in top:
        name = escape(os.path.relpath(path, root), 100)
        yield f"{complexity:>10} {facts['nodes']:>8} {facts['lines']:>7} {facts['zlib']:>6.0%}  {name}"
