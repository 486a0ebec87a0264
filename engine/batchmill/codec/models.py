"""Objects that are their fields: dataclasses, and the models of pydantic, attrs and msgspec.

They are kept as maps.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any


def fields_of(value: Any) -> Any:
    """The fields of such an object, by name; of a pydantic RootModel, its root."""
    read = fields_reader(type(value))
    assert read is not None
    return read(value)


def fields_reader(kind: Any) -> Callable[[Any], Any] | None:
    """How the fields of objects of that class are read; None where it is no such class."""
    if dataclasses.is_dataclass(kind):
        return _of_dataclass
    if hasattr(kind, "__attrs_attrs__"):
        return _of_attrs
    if issubclass(kind, _class("pydantic.root_model", "RootModel")):
        return _of_root_model
    if issubclass(kind, (*_class("pydantic.main", "BaseModel"), *_class("pydantic.v1.main", "BaseModel"))):
        return dict
    return _of_struct if issubclass(kind, _class("msgspec", "Struct")) else None


def _class(module: str, name: str) -> tuple[type, ...]:
    """That class, in a tuple; an empty one while its module is not imported."""
    found = getattr(sys.modules.get(module), name, None)
    return () if found is None else (found,)


def _of_dataclass(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _of_attrs(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in type(value).__attrs_attrs__}


def _of_struct(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in type(value).__struct_fields__}


def _of_root_model(value: Any) -> Any:
    return value.root
