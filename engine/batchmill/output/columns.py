"""The columns of an output that is a table: which there are, what they are called, where each has its cells from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from batchmill.errors import InvalidUsage
from batchmill.output.kinds import JSON, NULL, TEXT, Kind, has_json
from batchmill.output.shape import Shape
from batchmill.text import name_some, option

FORMATS = ("csv", "tsv", "sqlite", "parquet")
TEXTS = ("csv", "tsv")


class Column(NamedTuple):
    """A column: its name, and what of an outcome stands in it: the word for it, or the field `of` of its result. The
    `whole` result, or the `rest`: a result without fields."""

    name: str
    what: str
    of: str = ""
    kind: Kind = TEXT


class TableStyle(NamedTuple):
    """How outcomes become rows: in which columns; with `guard`, no cell is a formula to a spreadsheet."""

    columns: tuple[Column, ...]
    guard: bool = True


class Asked(NamedTuple):
    """What was asked of an output: its format, the failed items too, items beside their results; the columns that were
    `chosen` (none: all there are), `guard` as above, and a byte order mark in front."""

    format: str
    all: bool = False
    with_item: bool = False
    chosen: tuple[str, ...] = ()
    guard: bool = True
    mark: bool = False

    @property
    def is_table(self) -> bool:
        """Whether it has columns."""
        return self.format in FORMATS


def table_of(asked: Asked, shape: Shape | None = None) -> TableStyle:
    """The columns for results of that shape, of those that were chosen where some were; without a shape nothing is
    known of the results, and they are in one column unless some were chosen."""
    columns = _own(asked) if shape is None else _columns(asked, shape)
    if asked.chosen:
        known = {column.name: column for column in columns}
        columns = [known.get(name) or _chosen(name) for name in asked.chosen]
        if not any(column.what == "field" for column in columns):
            columns = [_chosen("result") if column.what == "rest" else column for column in columns]
    return TableStyle(tuple(columns), asked.guard)


def _chosen(name: str) -> Column:
    """A column that was chosen, and is none of all there are."""
    return Column(name, "whole", kind=JSON) if name == "result" else Column(name, "field", name, NULL)


def unknown(asked: Asked, shape: Shape) -> list[str]:
    """Columns that were chosen, and no result has."""
    known = {"result", *(column.name for column in _columns(asked, shape))}
    return [name for name in asked.chosen if name not in known] if shape.fields or shape.others else []


def in_json(table: TableStyle) -> Iterator[str]:
    """What to tell people of columns whose values are of several kinds."""
    names = [column.name for column in table.columns if has_json(column.kind) and column.what != "item"]
    if names:
        column, each = ("Column", "it") if len(names) == 1 else ("Columns", "them")
        yield f"{column} {name_some(names)}: the values in {each} are of no one kind, and JSON, each as text"


def check_asked(asked: Asked) -> None:
    """Raise InvalidUsage for what only a table has, where the output is none."""
    words = {"output_columns": bool(asked.chosen), "formula_guard": not asked.guard, "bom": asked.mark}
    for word, is_asked in words.items():
        of = FORMATS if word == "output_columns" else TEXTS
        if is_asked and asked.format not in of:
            remedy = f"leave it out, or give {option('output_format', of[0])}"
            raise InvalidUsage(f"{option(word)} is for {', '.join(of)}, and the output is {asked.format}", remedy)


def without_field(names: list[str]) -> Iterator[str]:
    """What to tell people of columns that were chosen, and no result has."""
    if names:
        are, they = ("is", "its column is") if len(names) == 1 else ("are", "their columns are")
        yield f"No result has {name_some(names)}, which {are} among {option('output_columns')}: {they} empty"


def _columns(asked: Asked, shape: Shape) -> list[Column]:
    fields = [name for name in shape.names() if name != "id" or shape.has_own_ids]
    has_result = shape.others or not fields
    own = [column for column in _own(asked) if has_result or column.what != "whole"]
    named = list(_named(asked, fields, {_folded(asked, column.name) for column in own}, shape))
    has_maps = shape.is_wide or (shape.has_empty and not fields)
    kinds = {"id": shape.id, "whole": JSON if has_maps else shape.result}
    own = [column._replace(kind=kinds.get(column.what, column.kind)) for column in own]
    own = [column._replace(what="rest") if named and column.what == "whole" else column for column in own]
    at = 2 if asked.format == "sqlite" else 1
    return [*own[:at], *named, *own[at:]]


def _named(asked: Asked, fields: list[str], taken: set[str], shape: Shape) -> Iterator[Column]:
    """The columns of fields, each with a name of its own."""
    own = frozenset(taken)
    for of in fields:
        name = f"result_{of}" if _folded(asked, of) in own else of
        numbered = (f"{name}_{number}" for number in count(2))
        while _folded(asked, name) in taken:
            name = next(numbered)
        taken.add(_folded(asked, name))
        yield Column(name, "field", of, shape.kinds.get(of, NULL))


def _folded(asked: Asked, name: str) -> str:
    """What must differ of two names: to a database, more than their capitals."""
    return name.lower() if asked.format == "sqlite" else name


def _own(asked: Asked) -> list[Column]:
    """The columns that are not fields; those stand before the result."""
    own = [Column("id", "id", kind=JSON)]
    if asked.format == "sqlite":
        own += [Column("ok", "ok"), Column("result", "whole")]
        own += [Column(name, name) for name in ("error", "seconds", "attempts")]
    else:
        own.append(Column("result", "whole", kind=JSON))
        own += [Column(name, name) for name in ("error_type", "error_message")] if asked.all else []
    return [*own, Column("item", "item", kind=JSON)] if asked.with_item else own
