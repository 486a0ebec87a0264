"""Functions that batches of the tests call in their workers: small, and quick to import. Tests nothing."""

from __future__ import annotations

import os
import time
from typing import Any

factor = 1


def square(x: int) -> int:
    return x * x


def name_of(item: Any) -> str:
    return type(item).__name__


def identity(item: Any) -> Any:
    return item


def scaled(x: int, by: int = 1) -> int:
    return x * by * factor


def first(by: Any, x: Any, **kwargs: Any) -> Any:
    return by, x


def keyword(item: Any, **kwargs: Any) -> Any:
    return item


def set_factor() -> None:
    global factor
    factor = 100


def fail_on_negative(x: int) -> int:
    if x < 0:
        raise ValueError(f"{x} is negative")
    return x


def witness(path: str) -> str:
    """Appends to the file at `path`, so that calls can be counted from outside."""
    with open(path, "ab", buffering=0) as file:
        file.write(b"x")
    return path


def fail_twice(path: str) -> list[Any]:
    """Fails until the file at `path` has been written to twice; its name, and how often it was written to."""
    witness(path)
    tries = os.path.getsize(path)
    if tries < 3:
        raise ValueError(f"try {tries}")
    return [os.path.basename(path), tries]


def slow(x: int) -> int:
    time.sleep(0.05)
    return x


class Volatile:
    """Goes to a worker, and cannot be taken apart there."""

    def __reduce__(self) -> Any:
        if hasattr(self, "there"):
            raise RuntimeError("what is it?")
        return _there, ()


def _there() -> Volatile:
    found = Volatile()
    found.there = True  # type: ignore[attr-defined]
    return found


class Unreadable:
    """An item that can be pickled and not unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def stay(path: str) -> None:
    """Appends to the file at `path`, and does not end."""
    witness(path)
    time.sleep(1000)


def written_down(item: list[Any]) -> int:
    """Appends the item's number to the file `ran` in its directory; waits for the file `go` there if it is to."""
    directory, number, waits = item
    ran = os.open(os.path.join(directory, "ran"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(ran, b"%d\n" % number)
    os.close(ran)
    while waits and not os.path.exists(os.path.join(directory, "go")):
        time.sleep(0.01)
    time.sleep(0.005)
    return int(number)


def fail(item: Any) -> Any:
    raise ValueError("no")
