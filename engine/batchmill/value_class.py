"""`value_class`: dataclasses that cost little where a process starts.

`dataclass` writes the text of each method and compiles it, six of them for a frozen class: that was a fifth of what
all imports of this program take. Only `__init__` needs it. The others are written once, here, for every class.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, TypeVar, dataclass_transform

Class = TypeVar("Class", bound=type)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value_class(written: Class) -> Class:
    """A dataclass whose values are equal, hashed and shown by their fields; with slots, if it caches no property.

    That nobody assigns to a field is left to the type checker.
    """
    return _made(written, frozen=False)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen_value_class(written: Class) -> Class:
    """The same for values that users hold: to assign to a field raises FrozenInstanceError."""
    return _made(written, frozen=True)


def _made(written: Class, *, frozen: bool) -> Class:
    """The class with all methods that it does not have itself."""
    slots = not any(isinstance(member, cached_property) for member in vars(written).values())
    made: Any = dataclass(frozen=frozen, slots=slots, eq=False, repr=False)(written)
    for name, method in _METHODS.items():
        if name not in vars(written):
            setattr(made, name, method)
    return made  # type: ignore[no-any-return]


def _compared(value: Any) -> tuple[object, ...]:
    return tuple(getattr(value, one.name) for one in fields(value) if one.compare)


def _equal(self: Any, other: Any) -> bool:
    return _compared(self) == _compared(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(_compared(self))


def _shown(self: Any) -> str:
    shown = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr)
    return f"{type(self).__qualname__}({shown})"


_METHODS = {"__eq__": _equal, "__hash__": _hash, "__repr__": _shown}
