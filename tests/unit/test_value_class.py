"""Value classes: equal, hashed and shown as dataclasses are."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from functools import cached_property

import pytest

from batchmill.value_class import frozen_value_class, value_class


@value_class
class Point:
    x: int
    y: int = 0
    note: str = field(default="", compare=False, repr=False)


@frozen_value_class
class Fixed:
    name: str
    parts: tuple[int, ...] = ()


@frozen_value_class
class Longer(Fixed):
    more: int = 1


@value_class
class Caching:
    text: str

    @cached_property
    def upper(self) -> str:
        return self.text.upper()

    def __repr__(self) -> str:
        return f"<{self.text}>"


@dataclass(frozen=True)
class Standard:
    x: int
    y: int = 0
    note: str = field(default="", compare=False, repr=False)


def test_values_are_equal_hashed_shown_and_replaced_as_those_of_a_dataclass() -> None:
    assert Point(1, 2, "a") == Point(1, 2, "b") != Point(1, 3)
    assert hash(Point(1, 2, "a")) == hash(Point(1, 2, "b"))
    assert repr(Point(1, 2)) == repr(Standard(1, 2)).replace("Standard", "Point")
    others: list[object] = [Fixed("1"), (1, 0), None]
    assert Point(1) not in others
    assert replace(Point(1, 2), y=5) == Point(1, 5)
    assert [one.name for one in fields(Point)] == [one.name for one in fields(Standard)]
    assert Fixed("a") != Longer("a")


@pytest.mark.parametrize("value", [Point(1, 2, "n"), Fixed("a", (1,)), Longer("a", (), 2), Caching("t")])
def test_values_are_pickled(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value


def test_what_users_hold_cannot_be_changed_and_what_a_class_defines_itself_stays() -> None:
    with pytest.raises(FrozenInstanceError):
        Fixed("a").name = "b"  # type: ignore[misc]
    assert not hasattr(Fixed("a"), "__dict__")
    assert (Caching("t").upper, repr(Caching("t"))) == ("T", "<t>")
