"""Owns the errors of commands that read checkpoints: with a remedy that these commands have. Never reads one itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reading() -> Iterator[None]:
    """What is raised in the block proposes nothing that only `run` has: its `-c`."""
    from batchmill.errors import CheckpointDamaged, CheckpointMismatch, CheckpointRefused

    try:
        yield
    except (CheckpointDamaged, CheckpointMismatch, CheckpointRefused) as error:
        remedy = error.remedy.replace(", or name another file with -c", "")
        raise type(error)(error.message, remedy.replace("name another file with -c", "check the path")) from None
