"""Owns the files of a bench: whether they can be written, and writing them. Never knows what is in them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from batchmill.errors import InvalidUsage, OutputLost

SHEETS = (".json", ".csv", ".md")
PLOTS = (".svg", ".png")


def check(path: str | None, suffixes: Sequence[str], option: str) -> None:
    """Raise InvalidUsage for a name of another kind, and OutputLost where no such file can be made."""
    from batchmill.disk import open_output, remove

    if path is None:
        return
    if not path.endswith(tuple(suffixes)):
        raise InvalidUsage(f"{option} {path} is none of {', '.join(suffixes)}", "end the name with one of them")
    try:
        place = open_output(path)
    except OSError as error:
        raise OutputLost(f"cannot write {path}: {error.strerror}", f"check the path given to {option}") from None
    os.close(place.fd)
    if place.temporary is not None:
        remove(place.temporary)


def write(path: str, text: str | bytes) -> None:
    """Put a whole file in the place of the one before; raises OutputLost."""
    from batchmill.disk import replacing

    with replacing(path, "the table on stdout has it all") as file:
        file.write(text.encode() if isinstance(text, str) else text)
