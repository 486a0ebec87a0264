"""Keys and elements that differ and would be equal once they are kept are refused by name; others are kept exact."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import fractions
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import numpy as np
import pytest

import batchmill
from batchmill.codec.codes import Ext
from batchmill.codec.ids import fingerprint, kept_id
from batchmill.codec.pack import Packing, pack_result, pack_value
from batchmill.codec.unpack import unpack_value
from batchmill.errors import CheckpointDamaged


class Cat(enum.Enum):
    A = 1
    NAME = "n"
    PAIR = (1, 2)


class Dog(enum.Enum):
    A = 1
    NAME = "n"
    PAIR = (1, 2)


class Cow(enum.Enum):
    A = 1.0


class Itself(str):
    """A text that is equal to itself alone."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Number(int):
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Place(tuple[int, ...]):
    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


@dataclasses.dataclass(frozen=True)
class Circle:
    r: int


@dataclasses.dataclass(frozen=True)
class Sphere:
    r: int


class Point(NamedTuple):
    x: int
    y: int


class Headers(Mapping[str, int]):
    """A mapping that may have a key twice, as those of HTTP libraries."""

    def __init__(self, *pairs: tuple[str, int]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._pairs)

    def __getitem__(self, key: str) -> int:
        return next(value for name, value in self._pairs if name == key)


# Both in the hour that comes twice: of two zones, they are never equal.
BERLIN, PARIS = (dt.datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo(f"Europe/{name}")) for name in ("Berlin", "Paris"))
A, B = "<Cat.A: 1>", "<Dog.A: 1>"

EQUAL: dict[str, tuple[Any, str]] = {
    "two enums as keys": ({Cat.A: "cat", Dog.A: "dog"}, f"the keys {A} and {B} become equal (1): return a list of"),
    "enums of text": ({Cat.NAME: 1, Dog.NAME: 2}, "the keys <Cat.NAME: 'n'> and <Dog.NAME: 'n'> become equal ('n')"),
    "enums of tuples": ({Cat.PAIR: 1, Dog.PAIR: 2}, "become equal ((1, 2))"),
    "an enum and its value": ({Cat.A: 1, 1: 2}, f"the keys {A} and 1 become equal (1)"),
    "an enum and a text": ({"n": 1, Cat.NAME: 2}, "the keys 'n' and <Cat.NAME: 'n'> become equal ('n')"),
    "an enum and true": ({Cat.A: 1, True: 2}, f"the keys {A} and True become equal"),
    "an enum of 1 and one of 1.0": ({Cat.A: 1, Cow.A: 2}, "become equal (1.0)"),
    "elements of a set": ({Cat.A, Dog.A}, "become equal (1): return a list"),
    "elements of a frozenset": (frozenset({Cat.A, 1}), "become equal (1)"),
    "inside of tuples": ({(0, Cat.A): 1, (0, Dog.A): 2}, "become equal ((0, 1))"),
    "inside of named tuples": ({Point(0, Cat.A), (0, Dog.A)}, "become equal ((0, 1))"),  # type: ignore[arg-type]
    "sets in a set": ({frozenset({Cat.A}), frozenset({Dog.A})}, "become equal (frozenset({1}))"),
    "deep in a result": ([({"x": ({Cat.A: 1, Dog.A: 2},)},)], f"the keys {A} and {B} become equal"),
    "in a dataclass": (Circle({Cat.A, Dog.A}), "become equal (1)"),  # type: ignore[arg-type]
    "texts with an equality of their own": ({Itself("a"): 1, Itself("a"): 2}, "the keys 'a' and 'a' become equal"),
    "numbers with one": ({Number(5), Number(5)}, "the elements 5 and 5 become equal (5)"),
    "tuples with one": ({Place((1, 2)), (1, 2)}, "become equal ((1, 2))"),
    "clocks set back": ({BERLIN: 1, PARIS: 2}, "tzinfo=datetime.timezone(datetime.timedelta(seconds=7200"),
    "a set of them": ({BERLIN, PARIS}, "zoneinfo.ZoneInfo(key='Europe/Paris')"),
    "dataclasses as elements": ({Circle(1), Sphere(1)}, "(r=1) becomes a dict, which cannot be one: return a list"),
    "a dataclass as a key": ({Circle(1): 1}, "the key Circle(r=1) becomes a dict, which cannot be one"),
    "in a large result": ([0] * 100_000 + [{Cat.NAME: 1, Dog.NAME: 2}], "become equal ('n')"),
}


@pytest.mark.parametrize("name", EQUAL)
def test_what_would_become_equal_is_refused_by_name(name: str) -> None:
    value, sentence = EQUAL[name]
    for result in (value, [value], {"k": value}, (value,)):
        with pytest.raises(ValueError, match="cannot be kept") as caught:
            pack_result(result)
        assert sentence in str(caught.value)


def test_a_result_that_was_refused_leaves_the_next_one_alone() -> None:
    packing = Packing()
    for value, _ in EQUAL.values():
        with pytest.raises(ValueError):
            packing.result(value)
        for good in ({"a": 1}, {1: 2, None: 3}, {Cat.A: 1}, {Cat.NAME: 1, "m": 2}):
            assert len(unpack_value(packing.result(good))) == len(good)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({Cat.A: 1, "1": 2, 2: 3}, {1: 1, "1": 2, 2: 3}),
        ({Cat.A, "1", (1,), Point(1, 2)}, {1, "1", (1,), (1, 2)}),
        ({1: "a", "1": "b", None: "c", "None": "d", b"1": "e"}, None),
        ({0.5: 1, "0.5": 2, Fraction(1, 3): 3}, None),
        (dict.fromkeys((BERLIN.replace(hour=12), PARIS.replace(hour=13)), 1), None),
        ({np.str_("a"): 1, np.str_("a\0"): 2}, {"a": 1, "a\0": 2}),
        ([np.bytes_(b"a\0\0"), np.str_("\0")], [b"a\0\0", "\0"]),
        ({2**i for i in range(2000)}, None),
        ({2.0**i for i in range(-1074, 1024)}, None),
        ({-1, -2, 2**61 - 2, 2**61 - 1, 0}, None),
        ({complex(i % 60, i // 60) for i in range(3600)}, None),
        (Headers(("a", 1), ("b", 2)), {"a": 1, "b": 2}),
    ],
)
def test_what_stays_different_is_kept(value: Any, kept: Any) -> None:
    assert unpack_value(pack_result(value)) == (value if kept is None else kept)


def test_a_mapping_that_would_be_shorter_is_refused() -> None:
    with pytest.raises(TypeError, match="a Headers of 2 entries cannot be kept: as a dict it has 1; return a list of"):
        pack_result([Headers(("a", 1), ("a", 2))])


def test_a_value_whose_text_cannot_be_had_is_refused_all_the_same() -> None:
    class Mute(Itself):
        __slots__ = ()

        def __repr__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(ValueError, match="the keys a Mute and a Mute become equal"):
        pack_result({Mute("a"): 1, Mute("a"): 2})


# --- what others wrote -----------------------------------------------------------------------------------------------


def array_of(*parts: bytes) -> bytes:
    return b"\xdd" + len(parts).to_bytes(4, "big") + b"".join(parts)


def extension(code: int, data: bytes) -> bytes:
    packed: bytes = msgpack.packb(msgpack.ExtType(code, data))
    return packed


P = 2**61 - 1  # the hash of an integer is its rest of this
MANY = 20_000  # compared each with each: 200,000,000 times


def colliding(make: Callable[[int], Any]) -> list[bytes]:
    return [pack_value(make(i)) for i in range(1, MANY)]


COLLIDING: dict[str, Callable[[], bytes]] = {
    "a set of integers": lambda: extension(Ext.SET, array_of(*colliding(lambda i: i * P))),
    "a frozenset": lambda: extension(Ext.FROZENSET, array_of(*colliding(lambda i: -2 - i * P))),
    "uuids": lambda: extension(Ext.SET, array_of(*colliding(lambda i: UUID(int=i * P + 7)))),
    "fractions": lambda: extension(Ext.SET, array_of(*colliding(lambda i: Fraction(i * P + 1, 2)))),
    "tuples of fractions": lambda: extension(Ext.SET, array_of(*colliding(lambda i: (Fraction(i * P + 1, 2), "a")))),
    "keys of a map": lambda: b"\xdf" + (MANY - 1).to_bytes(4, "big") + b"\0".join(colliding(lambda i: i * P)) + b"\0",
    "in a tuple": lambda: extension(Ext.TUPLE, b"\x91" + COLLIDING["keys of a map"]()),
    "in a list": lambda: b"\x92\xc0" + COLLIDING["a set of integers"](),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", COLLIDING)
def test_numbers_of_one_hash_are_damage_and_not_hours(name: str) -> None:
    with pytest.raises(CheckpointDamaged, match="too long"):
        unpack_value(COLLIDING[name]())


def test_fractions_are_read_without_the_cache_that_python_has_of_their_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one hash would be compared with all in it, in however small sets they are. Before 3.12 there is none."""
    looked_up: list[int] = []

    def plain(numerator: int, denominator: int) -> int:
        return hash((numerator, denominator))

    def cached(numerator: int, denominator: int) -> int:
        looked_up.append(numerator)
        return plain(numerator, denominator)

    cached.__wrapped__ = plain  # type: ignore[attr-defined]
    monkeypatch.setattr(fractions, "_hash_algorithm", cached, raising=False)
    value = [{Fraction(n, 3), (Fraction(n, 5),)} for n in range(1, 40)]
    data, damaged = pack_value(value), b"\x92" + pack_value({Fraction(1, 3)}) + b"\xc1"
    looked_up.clear()
    for carefully in (False, True):
        assert len(unpack_value(data, carefully=carefully)) == 39
        with pytest.raises(CheckpointDamaged):
            unpack_value(damaged)
    assert not looked_up
    assert fractions._hash_algorithm is cached  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "data",
    [
        extension(Ext.SET, b"\x92\x01\x01"),
        extension(Ext.FROZENSET, b"\x92\x01\xc3"),
        b"\x82\x01\xc0\x01\xc0",
        b"\x82\x01\xc0\xc3\xc0",
        extension(Ext.TUPLE, b"\x91\x82\x01\xc0\x01\xc0"),
        b"\x92" + b"\x82\x01\xc0\x01\xc0" + b"\x80",
    ],
)
def test_a_key_or_an_element_that_is_there_twice_is_damage(data: bytes) -> None:
    with pytest.raises(CheckpointDamaged, match="are equal"):
        unpack_value(data)


# --- ids and items ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", [frozenset({Cat.A, Dog.A}), {Cat.NAME: 1, Dog.NAME: 2}, {Circle(1): 1}, {Cat.A, 1}])
def test_an_id_that_would_be_shorter_is_refused(id: Any) -> None:
    with pytest.raises(ValueError, match="this id cannot be kept, it does not read back: the "):
        kept_id(id)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Cat.A, Dog.A),
        (Circle(1), Sphere(1)),
        ([Circle(1), Sphere(1)], [Sphere(1), Circle(1)]),
        ({"a": (Cat.A,)}, {"a": (Dog.A,)}),
        ({Cat.A: 1}, {Dog.A: 1}),
        ({Cat.A}, {Dog.A}),
        (Circle(Cat.A), Circle(Dog.A)),  # type: ignore[arg-type]
        (Circle(1), {"r": 1}),
        (1, 1.0),
        (1, True),
        ({"a": 1}, {"a": True}),
        ((1,), [1]),
    ],
)
def test_items_of_different_classes_are_different_items(one: Any, other: Any) -> None:
    assert fingerprint(one)[1] != fingerprint(other)[1]
    assert fingerprint(one) == fingerprint(one)


def test_the_mark_of_a_plain_item_is_its_canonical_form() -> None:
    for item in ({"b": (1, {2}), "a": None}, "text", [Point(1, 2)], {1: 2}):
        raw, mark = fingerprint(item)
        assert raw == mark
        assert unpack_value(raw) == item


def test_an_item_nested_as_deeply_as_any_has_a_mark() -> None:
    item: Any = Circle(1)
    for _ in range(400):
        item = [item]
    assert fingerprint(item)[1]


def boxed(item: Any) -> dict[Any, Any]:
    return {Cat.A: item, Dog.A: item} if item == 2 else {Cat.A: item}


def radius(item: Any) -> str:
    if isinstance(item, Circle):
        raise ValueError("round")
    return type(item).__name__


def test_the_item_whose_result_would_be_shorter_fails_and_no_other(tmp_path: Path) -> None:
    report = batchmill.run(boxed, [1, 2, 3], checkpoint=tmp_path / "c.ckpt", workers=1)
    assert (report.completed, report.failed) == (2, 1)
    assert "become equal (1)" in report.failures[0].examples[0].message
    with batchmill.open_checkpoint(tmp_path / "c.ckpt") as results:
        assert [outcome.result for outcome in results.outcomes(all=False)] == [{1: 1}, {1: 3}]


def test_an_id_that_cannot_be_kept_costs_its_item_alone(tmp_path: Path) -> None:
    ids = [1, {Circle(1): 1}, frozenset({Cat.A, Dog.A}), (1, 2)]
    report = batchmill.run(abs, range(4), id=ids.__getitem__, checkpoint=tmp_path / "c.ckpt", workers=1)
    assert (report.completed, report.failed) == (2, 2)


def test_a_failed_item_never_gets_the_result_of_another_class(tmp_path: Path) -> None:
    items = [Circle(1), Sphere(1)]
    for resume, order in ((False, items), (True, items), (True, items[::-1])):
        report = batchmill.run(radius, order, checkpoint=tmp_path / "c.ckpt", resume=resume, workers=1)
        assert (report.completed + report.skipped, report.failed) == (1, 1)
    with batchmill.open_checkpoint(tmp_path / "c.ckpt") as results:
        assert [outcome.result for outcome in results.outcomes(all=False)] == ["Sphere"]


def test_ids_are_told_apart_by_type_when_a_batch_is_continued(tmp_path: Path) -> None:
    items = [1, 1.0, True, "1"]
    batchmill.run(repr, items, checkpoint=tmp_path / "c.ckpt", workers=1)
    report = batchmill.run(repr, items[::-1], checkpoint=tmp_path / "c.ckpt", resume=True, workers=1)
    assert (report.skipped, report.changed) == (4, 0)
    with batchmill.open_checkpoint(tmp_path / "c.ckpt") as results:
        assert [outcome.result for outcome in results.outcomes()] == [repr(item) for item in items[::-1]]
