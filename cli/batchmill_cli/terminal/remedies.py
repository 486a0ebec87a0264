"""The frame of commands that read checkpoints: none is written over, and errors have a remedy that these commands
have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.files.conflicts import Use


def streams_in_use(*, data: bool, passes: bool = False) -> list[Use]:
    """Standard output and error as files that are written, wherever they were sent.

    `data` says that stdout gets ours, `passes` that it gets what commands print.
    """
    from batchmill.files.conflicts import STREAMS, Access, Use

    access = Access.WRITTEN if data else Access.APPENDED if passes else Access.TOLD
    return [Use("stdout", 1, access, STREAMS), Use("stderr", 2, Access.TOLD, STREAMS)]


def written_to(output: str | None) -> list[Use]:
    """The file of -o, where it is one."""
    from batchmill.files.atomic_file import descriptor_of
    from batchmill.files.conflicts import STREAMS, Access, Use

    if output is None or output == "-":
        return []
    return [Use("-o", output, Access.WRITTEN, STREAMS if descriptor_of(output) in (1, 2) else "")]


@contextmanager
def reading(checkpoints: Iterable[str], *writes: Use, data: bool = True) -> Iterator[None]:
    """Refuse what would write over one of the checkpoints: `writes`, and stdout, which has `data` or nothing.

    What is raised in the block proposes nothing that only `run` has: its `-c`.
    """
    from batchmill.errors import CheckpointDamaged, CheckpointMismatch, CheckpointRefused
    from batchmill.files.conflicts import Access, Use, check

    check([*(Use("the checkpoint", path, Access.READ) for path in checkpoints), *streams_in_use(data=data), *writes])
    try:
        yield
    except (CheckpointDamaged, CheckpointMismatch, CheckpointRefused) as error:
        remedy = error.remedy.replace(", or name another file with -c", "")
        raise type(error)(error.message, remedy.replace("name another file with -c", "check the path")) from None
