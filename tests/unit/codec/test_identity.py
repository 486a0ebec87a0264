"""What any Python value is: a digest by value, the same in every process, and another one for another value."""

from __future__ import annotations

import collections
import functools
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchmill.codec.identity import digest_of, kept


class Own:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def method(self) -> None: ...


@dataclass
class Point:
    x: int
    y: int = field(init=False)


class Slots:
    __slots__ = ("a",)

    def __init__(self, a: Any) -> None:
        self.a = a


def closure(value: Any) -> Callable[[], Any]:
    return lambda: value


def cyclic(value: int) -> list[Any]:
    found: list[Any] = [value]
    found.append(found)
    return found


VALUES: list[Callable[[], Any]] = [
    lambda: Own(a=1),
    lambda: Own(a=2),
    lambda: Own(a=True),
    lambda: Own(a=1, b=Own(c=[1, {"x"}])),
    lambda: Own(a=1, b=Own(c=[1, {"y"}])),
    lambda: Point(1),
    lambda: Point(2),
    lambda: Slots(1),
    lambda: Slots("1"),
    lambda: Slots(math.nan),
    lambda: [Own(a=1)],
    lambda: (Own(a=1),),
    lambda: collections.defaultdict(list, {"a": [1]}),
    lambda: collections.defaultdict(int, {"a": [1]}),
    lambda: functools.partial(int, base=2),
    lambda: functools.partial(int, base=3),
    lambda: closure(1),
    lambda: closure(2),
    lambda: closure,
    lambda: len,
    lambda: [].append,
    lambda: Own(a=1).method,
    lambda: Own,
    lambda: np.arange(6.0),
    lambda: np.arange(6.0).reshape(2, 3),
    lambda: np.arange(6),
    lambda: np.array([1, Own(a=1)], dtype=object),
    lambda: np.random.default_rng(1),
    lambda: np.random.default_rng(2),
    lambda: pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
    lambda: pd.DataFrame({"a": [1, 2], "b": ["x", "z"]}),
    lambda: cyclic(1),
    lambda: cyclic(2),
    lambda: math,
]


def test_equal_values_have_one_digest_and_others_another() -> None:
    first, second = ([digest_of(make()) for make in VALUES] for _ in range(2))
    assert first == second
    assert len(set(first)) == len(VALUES)


def test_neither_order_nor_sharing_nor_use_makes_another_value() -> None:
    part = Own(x="y" * 3)
    assert digest_of([part, part]) == digest_of([Own(x="yyy"), Own(x="".join("yyy"))])
    assert digest_of(Own(a=1, b=2)) == digest_of(Own(b=2, a=1))
    frame, used = (pd.DataFrame({"a": [1.5, 2], "b": ["x", "y"]}) for _ in range(2))
    used.sum(numeric_only=True), used["a"], used.T, used.loc[0]
    assert digest_of(Own(frame=frame)) == digest_of(Own(frame=used))
    assert digest_of(np.ones((3, 4))) == digest_of(np.asfortranarray(np.ones((3, 4))))


def test_a_digest_is_the_same_in_every_process() -> None:
    script = (
        "from batchmill.codec.identity import digest_of\n"
        "class Own:\n"
        "    def __init__(self): self.names = {'a', 'b', 'c', 'd', 1, None, (1, 2)}\n"
        "print(digest_of([Own(), Own, lambda x: x + 1]).hex())"
    )
    run = functools.partial(subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    found = {run(env={"PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")}
    assert len(found) == 1
    assert len(found.pop()) == 33


def test_what_cannot_be_taken_apart_has_no_digest() -> None:
    with pytest.raises(TypeError, match="generator"):
        digest_of(Own(a=(x for x in "ab")))
    deep: list[Any] = [Own()]
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deeply"):
        digest_of(deep)


def test_small_values_are_kept_themselves_and_others_as_what_they_are() -> None:
    assert kept({"a": 1}) == {"a": 1}
    assert kept(b"x" * 10**6) == kept(bytearray(b"x" * 10**6).replace(b"y", b"")).replace("bytearray", "bytes")
    assert kept(Own(a=1)).startswith("Own ")
    assert kept(closure).startswith("closure ")
    assert kept(np.zeros(10**5)) != kept(np.ones(10**5))
    assert len(kept(np.zeros(10**5))) < 60
