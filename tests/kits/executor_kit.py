"""Items, results and initializers that raise or end their process at each step of their way. Tests nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

PROGRAM = os.getpid()  # in the program that imports this first, and in no worker by the start method forkserver


def fail() -> None:
    raise RuntimeError("by design")


def end() -> None:
    os._exit(3)


DEEDS: dict[str, Callable[[], None]] = {"raises": fail, "exits": end}


class Step:
    """Something that does `deed` where it is pickled or unpickled: the n-th time, so that it gets to where it is to."""

    def __init__(self, at: str, deed: str) -> None:
        self.at, self.deed = at, deed

    def __reduce__(self) -> tuple[Any, ...]:
        if self.at == "pickled":
            DEEDS[self.deed]()
        return _unpickled, (self.at, self.deed, os.getpid())


def _unpickled(at: str, deed: str, made_in: int) -> Step:
    is_there = {"unpickled": True, "unpickled in the program": os.getpid() != made_in}.get(at, False)
    if is_there:
        DEEDS[deed]()
    return Step(at, deed)


class Unpicklable(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second

    def __reduce__(self) -> Any:
        raise RuntimeError("by design")


def work(cell: tuple[str, str, Any]) -> Any:
    """What the cell says, in the function or with its result."""
    where, deed, _ = cell
    if where == "function":
        DEEDS[deed]()
    if where == "exception":
        raise Unpicklable("said", "unsaid")
    if where.startswith("result "):
        return Step(where.removeprefix("result "), deed)
    return where


def make(where: str, deed: str) -> tuple[str, str, Any]:
    """The item of a cell."""
    step = Step(where.removeprefix("argument "), deed) if where.startswith("argument ") else None
    return where, deed, step
