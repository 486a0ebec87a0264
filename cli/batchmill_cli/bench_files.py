"""Owns the files of a bench: whether they can be written, and writing them whole or not at all. Never knows what is in
them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence

from batchmill.errors import InvalidUsage, OutputLost

SHEETS = (".json", ".csv", ".md")
PLOTS = (".svg", ".png")


def check(path: str | None, suffixes: Sequence[str], option: str) -> None:
    """Raise InvalidUsage for a name of another kind, and OutputLost where no such file can be made."""
    if path is None:
        return
    if not path.endswith(tuple(suffixes)):
        raise InvalidUsage(f"{option} {path} is none of {', '.join(suffixes)}", "end the name with one of them")
    if os.path.isdir(path):
        raise OutputLost(f"cannot write {path}: it is a directory", f"check the path given to {option}")
    temporary = _beside(path)
    try:
        with open(temporary, "xb"):
            pass
        os.unlink(temporary)
    except OSError as error:
        raise OutputLost(f"cannot write {path}: {error.strerror}", f"check the path given to {option}") from None


def write(path: str, text: str | bytes) -> None:
    """Put a whole file in the place of the one before; raises OutputLost."""
    temporary = _beside(path)
    try:
        with open(temporary, "xb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
        os.replace(temporary, os.path.realpath(path))
    except OSError as error:
        raise OutputLost(f"cannot write {path}: {error.strerror}", "the table on stdout has it all") from None
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _beside(path: str) -> str:
    real = os.path.realpath(path)
    return os.path.join(os.path.dirname(real), f".{os.path.basename(real)}.{secrets.token_hex(4)}")
