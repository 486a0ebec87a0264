"""Failed items as a file: the bytes of an INPUT, or rows as Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from batchmill.codec.pack import pack_value
from batchmill.codec.unpack import unpack_value
from batchmill.errors import InvalidUsage, OutputLost
from batchmill.input.formats import Format
from batchmill.input.parquet_rows import types_of
from batchmill.input.rewrite import as_input
from batchmill.output.by_name import format_of_output
from batchmill.output.columns import Asked, Column, TableStyle
from batchmill.output.kinds import NULL, Kind, in_kind, of_column, together
from batchmill.output.sinks import check_format, open_target
from batchmill.output.target import Target
from batchmill.text import option

_ROWS = 5000  # looked at together


def write_items(
    path: str, format: Format | None, kept: Callable[[], Iterable[bytes]], inputs: Iterable[str] = ()
) -> None:
    """Write items, as the checkpoint keeps them (`kept` gives them, each time anew), to a file that has its name when
    it is whole. Rows have the types that they have in `inputs`. Raises OutputLost, InvalidUsage."""
    is_parquet = format_of_output(path, "auto") == "parquet"
    if is_parquet and (format is None or format.wanted is None):
        remedy = "give it another suffix"
        raise InvalidUsage(f"{option('output', path)}: only items that were rows of Parquet are written so", remedy)
    check_format(path, "parquet" if is_parquet else "raw")
    target = open_target(path, "parquet" if is_parquet else "raw")
    try:
        if is_parquet:
            assert format is not None
            assert format.wanted is not None
            _write_rows(target, kept, types_of(inputs, format.wanted))
        else:
            for part in as_input(format, kept):
                target.write(part)
        target.close("whole")
    except OSError as error:
        raise OutputLost(f"cannot write {path}: {error.strerror}", "check its path") from None
    finally:
        target.close("nothing")


def _write_rows(target: Target, kept: Callable[[], Iterable[bytes]], types: dict[str, bytes]) -> None:
    from batchmill.output.parquet import batch_of, fits

    kinds: dict[str, Kind] = {}
    typed = {name: ["arrow", type] for name, type in types.items()}
    for rows in _parts(kept()):
        for name in dict.fromkeys(name for row in rows for name in row):
            column = [row.get(name) for row in rows]
            kinds[name] = together(kinds.get(name, NULL), of_column(column))
            if name in typed and not fits(column, typed[name]):
                del typed[name]
    kinds.update((name, kind) for name, kind in typed.items() if name in kinds)
    table = TableStyle(tuple(Column(name, "field", name, kind) for name, kind in kinds.items()))
    target.begin(Asked("parquet"), table)
    for rows in _parts(kept()):
        cells = ([in_kind(row.get(column.of), column.kind) for column in table.columns] for row in rows)
        target.write(batch_of(b"".join(map(pack_value, cells)), table))


def _parts(kept: Iterable[bytes]) -> Iterable[list[dict[str, Any]]]:
    found = iter(kept)
    while part := [unpack_value(row) for row in islice(found, _ROWS)]:
        yield part
