"""Whose a checkpoint is: a function and its arguments are what they are by value, in a run and in its resume."""

from __future__ import annotations

import functools
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import work_kit
from process_kit import LIMIT, started

import batchmill
from batchmill.checkpoint.resume import check_identity
from batchmill.errors import CheckpointMismatch, InvalidUsage
from batchmill.input.formats import IdRule
from batchmill.input.items import ItemReader
from batchmill.model import Chunk
from batchmill.plan import make_plan
from batchmill.settings import Settings


class Model:
    def __init__(self, by: Any) -> None:
        self.by = by

    def scaled(self, item: Any) -> Any:
        return item * self.by

    def __call__(self, item: Any) -> Any:
        return item * self.by


class Wrapper:
    """An object with the name of what it wraps."""

    def __init__(self, function: Callable[..., Any], by: Any) -> None:
        functools.update_wrapper(self, function)
        self.by = by

    def __call__(self, item: Any) -> Any:
        return item


def multiply(by: Any) -> Callable[[Any], Any]:
    def scaled(item: Any) -> Any:
        return item * by

    return scaled


def with_default(by: Any) -> Callable[..., Any]:
    def scaled(item: Any, times: Any = by) -> Any:
        return item * times

    return scaled


def bare(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def wrapper(item: Any) -> Any:
        return function(item)

    return wrapper


PARTIALS = """
import functools, operator, sys
import batchmill

class Scale:
    def __init__(self, by):
        self.by = {by, "a", "b", "c"}

    def __call__(self, item):
        return max(by for by in self.by if isinstance(by, int)) * item["n"]

def scale(by, item, plus=0):
    return by * item["n"] + plus

if __name__ == "__main__":
    functions = [Scale(2), functools.partial(scale, 2), functools.partial(scale, 1, plus=5), operator.itemgetter("n")]
    for number, function in enumerate(functions):
        name, items = f"{number}.ckpt", [{"id": n, "n": n} for n in (1, 2)]
        report = batchmill.run(function, items, checkpoint=name, resume=True, workers=1)
        assert report.skipped == int(sys.argv[1]), report
        with batchmill.open_checkpoint(name) as results:
            assert [outcome.result for outcome in results.outcomes()] == [[2, 4], [2, 4], [6, 7], [1, 2]][number]
    try:
        batchmill.run(Scale(3), items, checkpoint="0.ckpt", resume=True)
    except batchmill.CheckpointMismatch as error:
        assert "self=Scale" in error.message and "name=" in error.remedy, error
        print("well")
"""


def differences(one: Any, other: Any, *, named: str | None = None, **of_one: Any) -> str:
    """What a checkpoint of `one` says to `other`: each a function, or its keyword arguments; "" where they are one."""

    def facts(given: Any) -> tuple[Any, Any]:
        function, kwargs = (given, None) if callable(given) else (work_kit.scaled, given)
        plan = make_plan(function, items=[1], checkpoint="x.ckpt", kwargs=kwargs, name=named)
        return plan.meta(), plan.secrets

    (theirs, _), (ours, secrets) = facts(one), facts(other)
    try:
        check_identity("x.ckpt", theirs, ours, Settings(), secrets)
    except CheckpointMismatch as error:
        return error.message.removeprefix("x.ckpt belongs to another batch: ")
    return ""


@pytest.mark.parametrize(
    "make",
    [
        multiply,
        with_default,
        lambda by: Model(by).scaled,
        Model,
        lambda by: Wrapper(work_kit.square, by),
        lambda by: functools.partial(work_kit.first, by),
        lambda by: functools.partial(work_kit.first, 1, more=by),
        lambda by: functools.partial(Model(by), 1),
    ],
)
def test_functions_of_one_name_are_told_apart_by_the_values_in_them(make: Callable[[Any], Any]) -> None:
    for by in (2, "x", np.ones(3), Model({"a": {1, 2}}), None):
        assert differences(make(by), make(by)) == ""
        assert differences(make(by), make(10)).startswith("values in the function ")
        assert differences(make(by), make(10), named="scaled") == ""
    assert "by=2, not by=10" in differences(multiply(2), multiply(10))


def test_wrappers_that_do_not_name_what_they_wrap_are_told_apart() -> None:
    square, slow = bare(work_kit.square), bare(work_kit.slow)
    assert differences(square, bare(work_kit.square)) == ""
    assert "function=square" in differences(square, slow)
    assert differences(bare(bare(work_kit.square)), bare(square)) == ""
    assert differences(bare(bare(work_kit.square)), bare(slow)) != ""


def test_functions_in_a_function_are_their_module_and_name() -> None:
    for make in (bare, Model, lambda function: functools.partial(work_kit.first, function)):
        for one, other in ((json.loads, pickle.loads), (json.dumps, pickle.dumps), (work_kit.slow, work_kit.square)):
            assert differences(make(one), make(one)) == ""
            assert differences(make(one), make(other)).startswith("values in the function ")


def test_a_partial_of_keywords_is_its_function_with_arguments() -> None:
    partial = functools.partial(functools.partial(work_kit.scaled, by=2), by=3)
    plan = make_plan(partial, items=[1], checkpoint="x.ckpt", kwargs={"more": 4})
    assert (plan.spec.identity, plan.kwargs) == ("work_kit:scaled", {"by": 3, "more": 4})
    assert differences(partial, {"by": 3}) == ""
    assert differences(partial, functools.partial(work_kit.scaled, by=4)) == "kwargs by=3, not by=4"


def test_partials_and_objects_are_continued_by_another_program(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PARTIALS)
    for skipped in ("0", "2"):
        command = [sys.executable, str(script), skipped]
        with started(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
            assert (process.communicate(timeout=LIMIT)[0], process.returncode) == ("well\n", 0)


def local_object(by: Any) -> Any:
    class Local:
        def __call__(self, item: Any) -> Any:
            return item * by

    return Local()


@pytest.mark.parametrize("unnamed", [lambda x: x, functools.partial(lambda by, x: x, 2), local_object(3)])
def test_what_has_no_name_of_its_own_asks_for_one(unnamed: Any) -> None:
    with pytest.raises(InvalidUsage, match="give name="):
        make_plan(unnamed, items=[1], checkpoint="x.ckpt")
    make_plan(unnamed, items=[1], checkpoint="x.ckpt", name="given")


def test_arguments_are_compared_by_value_whatever_they_are() -> None:
    for make in (
        lambda: np.ones(3),
        lambda: Model(1),
        lambda: float("nan"),
        lambda: {"a": 1, "b": {2}},
        lambda: [np.ones(2)],
    ):
        assert differences({"by": make()}, {"by": make()}) == ""
        assert differences({"by": make()}, {"by": 7}) != ""
    assert differences({"by": 1}, {"by": True}) == "kwargs by=1, not by=True"
    assert differences({"by": 1}, {"by": 1.0}) == "kwargs by=1, not by=1.0"
    assert differences({"by": {"a": 1, "b": 2}}, {"by": {"b": 2, "a": 1}}) == ""
    assert differences({"by": Model(1)}, {"by": Model(2)}).startswith("kwargs by=Model ")
    assert differences({"by": np.zeros(9)}, {"by": np.ones(9)}).startswith("kwargs by=")


def test_secrets_in_a_function_are_compared_and_not_kept() -> None:
    def ask(token: str) -> Callable[[Any], Any]:
        return lambda item: (item, token)

    def named(token: str) -> Callable[[Any], Any]:
        def function(item: Any) -> Any:
            return item, token

        return function

    assert differences(named("sesame-1"), named("sesame-1")) == ""
    assert "token" in differences(named("sesame-1"), named("sesame-2"))
    assert "sesame" not in differences(named("sesame-1"), named("sesame-2"))
    assert "sesame" not in str(make_plan(named("sesame-1"), items=[1], checkpoint="x.ckpt").meta())
    assert "sesame" not in str(make_plan(ask("sesame-1"), items=[1], checkpoint="x.ckpt", name="f").meta())


def test_large_arguments_are_not_copied_into_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.ckpt"
    for skipped in (0, 2):
        report = batchmill.run(work_kit.keyword, [1, 2], checkpoint=path, resume=True, workers=1,
                               kwargs={"table": np.zeros(10**6), "raw": b"x" * 10**6})  # fmt: skip
        assert report.skipped == skipped
    assert path.stat().st_size < 20_000


# --- items -----------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    id: Any
    x: int


@dataclass
class Item:
    id: Any
    x: Any = None
    unset: int = field(init=False)

    @property
    def double(self) -> int:
        return 2 * int(self.id)


def understood(item: Any, id_field: str | None = None) -> tuple[Any, int, str]:
    """The id, the content checksum and the error of an item, as a worker understands it."""
    reader = ItemReader(None, IdRule(id_field), None, ids_needed=True)
    data = pickle.dumps(item)
    found = reader.identify(Chunk(5, 6, 0, 1, (data,)), 0, data)
    assert found is not None
    id, _, _, content, bad = found
    return id, content, "" if bad is None else bad.message


@pytest.mark.parametrize(
    ("item", "id_field", "id"),
    [
        ({"id": 1, "other": Model(1)}, None, 1),
        ({"id": "a", "other": Item(1)}, None, "a"),
        ({"id": np.int64(7)}, None, 7),
        ({"id": np.float32(0.5)}, None, 0.5),
        ({"key": np.int8(3), "other": Model(1)}, "key", 3),
        (np.int64(7), None, 7),
        (Row(4, 5), "id", 4),
        (Row(np.int64(4), 5), "id", 4),
        (Item("b"), "id", "b"),
        (Item(4), "double", 8),
    ],
)
def test_an_id_is_an_id_whatever_else_the_item_is(item: Any, id_field: str | None, id: Any) -> None:
    found, _, error = understood(item, id_field)
    assert (found, type(found), error) == (id, type(id), "")


def test_a_field_that_is_no_id_fails_its_item() -> None:
    for item in (Row([1], 5), Item(None), [1, 2], "text", Model(1), {"id": Model(1)}):
        assert "'id' (id)" in understood(item, "id")[2]


@pytest.mark.parametrize("make", [Model, Item, lambda x: Item(1, Model(x)), lambda x: {"id": 1, "x": Model(x)}])
def test_objects_are_known_by_value_and_their_changes_are_seen(make: Callable[[Any], Any]) -> None:
    assert understood(make(1)) == understood(make(1))
    (one, before, _), (_, after, _) = understood(make(1)), understood(make(2))
    assert before != after
    assert one == 1 or len(one) == 32


def test_an_item_that_cannot_be_known_asks_for_an_id() -> None:
    id, _, error = understood(work_kit.Volatile())
    assert id == 5
    assert error == "no id can be made of this item: what is it?: give run(..., id=...)"


def test_a_changed_object_runs_again_where_that_is_asked_for(tmp_path: Path) -> None:
    def run(*values: int) -> batchmill.Report:
        items = [{"id": n, "model": Model(value)} for n, value in enumerate(values)]
        return batchmill.run(
            work_kit.name_of, items, checkpoint=tmp_path / "c", resume=True, rerun_changed=True, workers=1
        )

    assert run(1, 2, 3).completed == 3
    report = run(1, 20, 3)
    assert (report.completed, report.skipped) == (1, 2)
