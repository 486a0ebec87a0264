"""Options of the commands that read checkpoints."""

from __future__ import annotations

from batchmill_cli.options.click_options import Option

WITH_REMOVED = Option(
    "--with-removed",
    group="Output",
    is_flag=True,
    help="Also those of items that INPUT no longer had when a run last read it to its end.",
)
