"""What a function's annotations say is never evaluated: they may name what only a type checker imports, or run code.

Before Python 3.14 they are evaluated by `def` itself, unless the module says `from __future__ import annotations`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from cli_kit import batchmill as program

import batchmill
from batchmill.errors import InvalidUsage

SOURCE = """
import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nowhere import Missing


def evaluated():
    raise SystemExit("annotations were evaluated")


def plain(item: Missing, by: evaluated() = 1) -> evaluated():
    return helper(item) * by


def helper(item: Missing) -> evaluated():
    return item


def setup() -> evaluated():
    pass


def wrapping(function: Missing) -> evaluated():
    @functools.wraps(function)
    def wrapper(*args: evaluated(), **kwargs: Missing) -> Missing:
        return function(*args, **kwargs)

    return wrapper


class Kept:
    def __init__(self, by: Missing = 1) -> evaluated():
        self.by = by

    def __call__(self, item: Missing) -> evaluated():
        return helper(item) * self.by

    def method(self, item: Missing) -> evaluated():
        return helper(item) * self.by

    @classmethod
    def of_class(cls, item: Missing) -> evaluated():
        return helper(item)

    @staticmethod
    def static(item: Missing) -> evaluated():
        return helper(item)


class Number(int):
    def __new__(cls, item: Missing) -> evaluated():
        return int(item)


decorated = wrapping(plain)
part = functools.partial(plain, by=1)
cached = functools.lru_cache(plain)
kept = Kept()
method = kept.method
of_class = Kept.of_class
static = Kept.static
"""
SOURCE = SOURCE if sys.version_info >= (3, 14) else f"from __future__ import annotations\n{SOURCE}"
KINDS = ("plain", "decorated", "part", "cached", "kept", "method", "of_class", "static", "Number")


def typed_in(source: str) -> dict[str, Any]:
    """The names of a source that no worker can import, as of a notebook's cell."""
    names: dict[str, Any] = {"__name__": "typed_in"}
    exec(compile(source, "<cell>", "exec", dont_inherit=True), names)
    return names


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_function_found_by_name(kind: str, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SOURCE)
    assert batchmill.map(f"{tmp_path}/score.py:{kind}", [1, 2], init="setup", workers=1) == [1, 2]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cached"])  # whose cache nothing can send
def test_of_a_function_sent_by_value(kind: str) -> None:
    names = typed_in(SOURCE)
    assert batchmill.map(names[kind], [1, 2], init=names["setup"], workers=1) == [1, 2]


def test_a_function_sent_by_value_still_has_them() -> None:
    names = typed_in("def asks(item: int) -> str: return [str(word) for word in asks.__annotations__.values()]")
    assert batchmill.map(names["asks"], [1], workers=1) == [["<class 'int'>", "<class 'str'>"]]


def test_arguments_are_checked_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SOURCE)
    with pytest.raises(InvalidUsage, match=r"unexpected keyword argument 'times'.* what kwargs can name: by"):
        batchmill.map(f"{tmp_path}/score.py:plain", [1], kwargs={"times": 2}, workers=1)


@pytest.mark.parametrize("command", ["run -o - --no-checkpoint", "try"])
def test_on_the_command_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SOURCE)
    (tmp_path / "items.txt").write_text("1\n2\n")
    name, *options = command.split()
    ended = program(name, "score.py:plain", "items.txt", *options, cwd=tmp_path)
    assert "evaluated" not in ended.stderr
    assert ended.returncode == 0, ended.stderr
