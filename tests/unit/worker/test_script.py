"""What a program's own script defines reaches workers, whatever the function is."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import batchmill.worker
from batchmill.errors import UnknownFunction
from batchmill.worker.outline import Outline
from batchmill.worker.sending import pickled

HELPER = """
def width(point):
    return point.x

def times(item, point):
    return item * point.x

def scaled(by, point):
    return by * point.x
"""

SCRIPT = """
import functools, multiprocessing, os, sys
from dataclasses import dataclass

import batchmill
import helper

with open("imports", "a") as file:
    print(__name__, file=file)


@dataclass
class Point:
    x: int

    def times(self, other):
        return self.x * other.x if isinstance(other, Point) else "another Point"


def height(point):
    return point.x * 10


def nested(count):
    return batchmill.map(abs, range(count), workers=1)


def in_a_child(connection):
    connection.send(batchmill.map(height, [Point(4)], workers=1))


def batches():
    def guarded_by_a_function(point):
        return point.x + 1

    points, one = [Point(1), Point(2)], {"workers": 1}
    assert batchmill.map(helper.width, points, **one) == [1, 2]
    assert batchmill.map("helper:width", points, start_method="spawn", **one) == [1, 2]
    assert batchmill.map(lambda point: point.x, points, **one) == [1, 2]
    assert batchmill.map(functools.partial(helper.scaled, 3), points, **one) == [3, 6]
    assert batchmill.map(Point(5).times, points, **one) == [5, 10]
    assert batchmill.map(helper.times, [1, 2], kwargs={"point": Point(7)}, **one) == [7, 14]
    assert batchmill.map(guarded_by_a_function, points, **one) == [2, 3]
    assert batchmill.map(height, points, **one) == [10, 20]


if __name__ == "__main__":
    def under_the_guard(point):
        return point.x + 100

    batches()
    assert batchmill.map(under_the_guard, [Point(1)], workers=1) == [101]
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=in_a_child, args=(theirs,))
    child.start()
    assert ours.recv() == [40]
    child.join(60)
    try:
        batchmill.map(nested, [3], workers=1)
    except batchmill.ItemsFailed as error:
        assert "an item starts a batch of its own" in error.message, error
    assert batchmill.map(helper.width, [], **{"workers": 1}) == []
    os.remove("imports")
    assert batchmill.map(abs, [-1, -2], workers=1) == [1, 2]
    assert not os.path.exists("imports")  # nothing of the script was asked for
    assert batchmill.map(helper.width, [Point(1)] * 1000, workers=1) == [1] * 1000
    print(open("imports").read().split())
"""


def test_what_a_script_defines_is_the_same_in_workers_whatever_the_function_is(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert (ended.stderr, ended.stdout) == ("", "['script']\n")


NOTEBOOK = """
import dataclasses, functools

import batchmill

@dataclasses.dataclass
class Point:
    x: int

def moved(point):
    return Point(point.x + 1) if isinstance(point, Point) else "another Point"

def batches():
    class Inner:
        x = 5
    one = {"workers": 1}
    (found,) = batchmill.map(moved, [Point(1)], **one)
    assert found == Point(2), found
    assert batchmill.map("helper:width", [Point(3), Inner()], start_method="spawn", **one) == [3, 5]
    assert batchmill.map("helper:times", [2], kwargs={"point": Point(7)}, **one) == [14]
    assert batchmill.map(lambda call: call(), [lambda: 8, functools.partial(int, "9")], **one) == [8, 9]
    try:
        batchmill.map(moved, [open("helper.py")], **one)
    except batchmill.ItemsFailed as error:
        assert "cannot be sent to a worker: cannot pickle" in error.message, error

batches()
print("well")
"""


def test_what_no_worker_can_import_goes_by_value(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text(HELPER)
    command = [sys.executable, "-c", NOTEBOOK]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert (ended.stderr, ended.stdout) == ("", "well\n")


def test_items_by_value_need_cloudpickle_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "batchmill.worker.by_value", None)
    monkeypatch.delattr(batchmill.worker, "by_value", raising=False)
    with pytest.raises(pickle.PicklingError, match=r"move it to the top level of a module, or: pip install"):
        pickled(lambda: 1)


@pytest.mark.parametrize("guard", ['__name__ == "__main__"', '"__main__" == __name__'])
def test_what_only_the_guard_defines_is_not_there_for_workers_and_that_is_said(guard: str) -> None:
    outline = Outline.of(f"if {guard}:\n    def f(): ...\nelse:\n    def g(): ...\n".encode(), "s.py")
    outline.require("g", "s.py")
    with pytest.raises(UnknownFunction, match=r"s\.py defines 'f' under `if __name__"):
        outline.require("f", "s.py")
    Outline.of(f"def f(): ...\nif {guard}:\n    f = f\n".encode(), "s.py").require("f", "s.py")
