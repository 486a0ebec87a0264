"""Owns `run --dry-run`: what a run would do, said without doing it. Never starts a lane or changes a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batchmill.settings import Settings


def describe(function: str, inputs: Sequence[str], settings: Settings, options: Mapping[str, Any]) -> str:
    """The plan as text; raises what the run itself would raise before its first item."""
    from batchmill.batch import Batch
    from batchmill.resources import worker_count

    batch = Batch(
        function,
        inputs,
        settings=settings,
        checkpoint=options["checkpoint"],
        output=options["output"],
        no_checkpoint=options["no_checkpoint"],
    )
    workers, source = worker_count(settings.workers)
    lines = [
        f"function   {function}",
        f"input      {', '.join(inputs[:5])}{' …' if len(inputs) > 5 else ''}",
        f"workers    {workers} ({source})",
        *_checkpoint(batch.checkpoint_path, settings),
        f"output     {options['output'] or 'none; `batchmill results` collects it from the checkpoint'}",
        "nothing was run",
    ]
    return "\n".join(lines)


def _checkpoint(path: str | None, settings: Settings) -> Iterator[str]:
    if not path:
        yield "checkpoint none: nothing is kept"
    elif not os.path.exists(path):
        yield f"checkpoint {path} (new)"
    else:
        from batchmill.results import open_checkpoint

        with open_checkpoint(path) as results:
            status = results.status()
        yield f"checkpoint {path} ({status.done} done, {status.failed} failed; {_fate(settings)})"


def _fate(settings: Settings) -> str:
    if settings.resume:
        return "would be continued"
    return "would be moved aside" if settings.fresh else "is in the way: --resume or --fresh"
