"""CPython's table of crashes of executors (test_concurrent_futures: test_deadlock, test_init), with our outcomes.

A cell is one bad object in one place: it costs its item, with the true reason, and all others are done, in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pickle_kit as kit
import pytest

import batchmill

DIED = {kit.process_exit: "exited with status 4", kit.crash: "was killed by SIGSEGV"}
RAISED = {kit.error: ("RuntimeError", "raised on purpose"), kit.system_exit: ("SystemExit", "3")}
EVERY: tuple[Callable[[], Any], ...] = (*RAISED, *DIED)

# name of the cell -> the item, and what its error says: its type, and a part of its message
Cell = tuple[Any, tuple[str, str]]


def told(what: Callable[[], Any], prefix: str = "") -> tuple[str, str]:
    return ("WorkerDied", DIED[what]) if what in DIED else (RAISED[what][0], prefix + RAISED[what][1])


def cells_of_items() -> Iterable[tuple[str, Cell]]:
    sent, read = "the item cannot be sent to a worker: ", "the item cannot be read in a worker: "
    for what in RAISED:  # what crashes here takes the program with it
        yield f"argument pickled: {what.__name__}", (kit.AlwaysAtPickle(what), told(what, sent))
    for what in EVERY:
        yield f"argument unpickled: {what.__name__}", (kit.AtUnpickle(what), told(what, read))
        yield f"call: {what.__name__}", (("call", what, 0), told(what))
    for what in (*RAISED, kit.fine):  # an exception is told where it is raised, and never pickled
        yield f"exception: {what.__name__}", (("error", what, 0), ("InError", ""))


def cells_of_results() -> Iterable[tuple[str, Cell]]:
    """Of results that are given back: they are pickled in a worker, and read there before they leave it."""
    for what in EVERY:
        error = ("ResultNotKept", "nor can it be pickled: raised on purpose") if what is kit.error else told(what)
        yield f"result pickled: {what.__name__}", (("result pickled", what, os.getpid()), error)
        yield f"result unpickled: {what.__name__}", (("result unpickled", what, 0), error)


def outcomes(cells: dict[str, Cell], **more: Any) -> dict[Any, batchmill.Outcome]:
    items = [("good", n) for n in range(20)]
    bad = [(name, item) for name, (item, _) in cells.items()]
    mixed = [pair for n, good in enumerate(items) for pair in (good, *bad[n :: len(items)])]
    names = iter([name if name != "good" else n for name, n in mixed])
    with batchmill.stream(kit.work, [item for _, item in mixed], workers=2, crash_retries=0, max_failures="none",
                          id=lambda item: next(names), **more) as found:  # fmt: skip
        seen = {outcome.id: outcome for outcome in found}
    assert len(seen) == len(mixed)
    assert [seen[n].result for n in range(20)] == list(range(20))
    return seen


def unlike(cells: dict[str, Cell], seen: dict[Any, batchmill.Outcome]) -> dict[str, Any]:
    """The cells whose outcome is not what it should be."""
    found = {}
    for name, (_, (type, message)) in cells.items():
        error = seen[name].error
        if error is None or error.type != type or message not in error.message:
            found[name] = error or seen[name].result
    return found


def test_whatever_an_item_does_at_any_step_costs_that_item_alone(tmp_path: Path) -> None:
    cells = dict(cells_of_items())
    assert unlike(cells, outcomes(cells, checkpoint=tmp_path / "c.ckpt")) == {}


def test_whatever_a_result_does_on_its_way_back_costs_that_item_alone() -> None:
    cells = dict(cells_of_results())
    assert unlike(cells, outcomes(cells)) == {}


@pytest.mark.parametrize("what", EVERY)
def test_an_initializer_that_fails_is_one_error(what: Callable[[], Any]) -> None:
    with pytest.raises(batchmill.BatchmillError) as caught:
        batchmill.map(kit.work, range(10), init=what, workers=2)
    expected = DIED.get(what) or " ".join(RAISED[what])
    assert all(word in str(caught.value) for word in expected.split()), caught.value
    assert isinstance(caught.value, batchmill.FunctionFailed)


@pytest.mark.parametrize("what", EVERY)
def test_arguments_that_fail_in_a_worker_are_one_error(what: Callable[[], Any]) -> None:
    with pytest.raises(batchmill.BatchmillError) as caught:
        batchmill.map(kit.work, range(10), kwargs={"by": kit.AtUnpickle(what)}, workers=2)
    assert isinstance(caught.value, batchmill.FunctionFailed)


def test_an_error_brings_its_traceback_and_results_their_order() -> None:
    """test_process_pool: test_traceback, test_map, test_map_exception."""
    assert batchmill.map(kit.work, list(range(200, 0, -1)), workers=2) == list(range(200, 0, -1))
    with pytest.raises(batchmill.ItemsFailed) as caught:
        batchmill.map(kit.work, [1, ("call", kit.error, 0)], workers=2)
    assert caught.value.error is not None
    assert "raise RuntimeError(" in caught.value.error.traceback
    assert "item 1 failed: RuntimeError: raised on purpose" in caught.value.message
