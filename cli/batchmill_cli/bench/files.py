"""The files of a bench: whether they can be written, and writing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidUsage, OutputLost

if TYPE_CHECKING:
    from batchmill.files.conflicts import Use

SHEETS = (".json", ".csv", ".md")
PLOTS = (".svg", ".png")


def uses(options: Mapping[str, Any]) -> list[Use]:
    """The files that these options name, for the table of what is read and written."""
    from batchmill.files.conflicts import Access, Use

    named = {"-o": options["output"], "--plot": options["plot"]}
    return [Use(option, path, Access.WRITTEN) for option, path in named.items() if path is not None]


def check(path: str | None, suffixes: Sequence[str], option: str) -> None:
    """Raise InvalidUsage for a name of another kind, and OutputLost where no such file can be made."""
    from batchmill.files.atomic_file import open_output

    if path is None:
        return
    if not path.endswith(tuple(suffixes)):
        raise InvalidUsage(f"{option} {path} is none of {', '.join(suffixes)}", "end the name with one of them")
    try:
        open_output(path).close()
    except OSError as error:
        raise OutputLost(f"cannot write {path}: {error.strerror}", f"check the path given to {option}") from None


def write(path: str, text: str | bytes, *, durable: bool = True) -> None:
    """Put a whole file in the place of the one before; raises OutputLost.

    `durable` False does not wait for the disk.
    """
    from batchmill.files.atomic_file import replacing

    with replacing(path, "the table on stdout has it all", durable=durable) as file:
        file.write(text.encode() if isinstance(text, str) else text)
