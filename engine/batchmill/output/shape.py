"""What results look like as a table: which fields they have, of which kinds. Shapes add up, in any order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from batchmill.codec.pack import pack_value
from batchmill.codec.unpack import unpack_value
from batchmill.output.kinds import NULL, Kind, together
from batchmill.value_class import value_class

_TEXT = frozenset({str})
MOST_FIELDS = 1000  # columns; a map of more is data of another kind
Rank = tuple[int, ...]  # where a field first came: the ordering, the position in it, the place in its map


@value_class
class Shape:
    """Fields of results by where they first came, and `kinds` of their values, of ids and of results without fields,
    where these are asked for. `others` says that some result is no map, `has_own_ids` that the field `id` of some is
    not its item's id, `is_wide` that there are too many fields for columns, `has_empty` that some map has no field."""

    fields: Mapping[str, Rank] = field(default_factory=dict)
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    id: Kind = field(default_factory=lambda: NULL)
    result: Kind = field(default_factory=lambda: NULL)
    others: bool = False
    has_own_ids: bool = False
    is_wide: bool = False
    has_empty: bool = False

    def __add__(self, other: Shape) -> Shape:
        fields = dict(self.fields)
        for name, rank in other.fields.items():
            fields[name] = min(rank, fields.get(name, rank))
        is_wide = self.is_wide or other.is_wide or len(fields) > MOST_FIELDS
        names = self.kinds.keys() | other.kinds.keys()
        kinds = {name: together(self.kinds.get(name, NULL), other.kinds.get(name, NULL)) for name in names}
        return Shape(
            {} if is_wide else fields,
            {} if is_wide else kinds,
            together(self.id, other.id),
            together(self.result, other.result),
            self.others or other.others,
            self.has_own_ids or other.has_own_ids,
            is_wide,
            self.has_empty or other.has_empty,
        )

    def names(self) -> list[str]:
        """The fields, in order."""
        return sorted(self.fields, key=self.fields.__getitem__)

    def pack(self) -> bytes:
        """It as bytes, for `unpack`."""
        fields = {name: list(rank) for name, rank in self.fields.items()}
        flags = [self.others, self.has_own_ids, self.is_wide, self.has_empty]
        return pack_value([fields, dict(self.kinds), self.id, self.result, flags])

    @classmethod
    def unpack(cls, data: bytes) -> Shape:
        """What `pack` made bytes of."""
        fields, kinds, id, result, flags = unpack_value(data)
        return cls({name: tuple(rank) for name, rank in fields.items()}, kinds, id, result, *flags)


def fields_of(result: Any) -> dict[str, Any] | None:
    """A result that is a map whose keys can be names of columns; None for any other."""
    return result if type(result) is dict and _TEXT.issuperset(map(type, result)) else None
