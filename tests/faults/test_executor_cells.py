"""What CPython's own executor tests do to an argument, a function, a result, an exception and an initializer, at each
step: the item fails, all others have their results, and the program goes on."""

from __future__ import annotations

import pytest
from executor_kit import DEEDS, end, fail, make, work

import batchmill

CELLS = {
    ("argument pickled", "raises"): ("RuntimeError", "the item cannot be sent to a worker: by design"),
    ("argument unpickled", "raises"): ("RuntimeError", "the item cannot be read in a worker: by design"),
    ("argument unpickled", "exits"): ("WorkerDied", "exited with status 3"),
    ("function", "raises"): ("RuntimeError", "by design"),
    ("function", "exits"): ("WorkerDied", "exited with status 3"),
    ("exception", "raises"): ("Unpicklable", "said"),
    ("result pickled", "raises"): ("ResultNotKept", "nor can it be pickled: by design"),
    ("result pickled", "exits"): ("WorkerDied", "exited with status 3"),
    ("result unpickled", "raises"): ("ResultNotKept", "nor can it be pickled: by design"),
    ("result unpickled", "exits"): ("WorkerDied", "exited with status 3"),
    ("result unpickled in the program", "raises"): ("RuntimeError", "the result cannot be read in this process"),
}


def test_at_whatever_step_an_item_fails_only_it_does() -> None:
    items = [item for cell in CELLS for item in (make(*cell), make("innocent", ""))]
    with batchmill.stream(work, items, workers=2, crash_retries=0, max_failures="none", id=str) as stream:
        found = {outcome.line - 1: outcome for outcome in stream}
    assert sorted(found) == list(range(len(items)))
    for number, (cell, (type, said)) in enumerate(CELLS.items()):
        error, beside = found[2 * number].error, found[2 * number + 1]
        assert error is not None, cell
        assert error.type == type, cell
        assert said in error.message, cell
        assert (beside.ok, beside.result) == (True, "innocent"), cell


@pytest.mark.parametrize("deed", DEEDS)
def test_an_initializer_that_fails_is_one_error(deed: str) -> None:
    with pytest.raises(batchmill.BatchmillError) as caught:
        batchmill.map(abs, [1, 2], init=fail if deed == "raises" else end, workers=2)
    assert isinstance(caught.value, (batchmill.FunctionFailed, batchmill.WorkersLost))
    assert batchmill.map(abs, [-1], workers=1) == [1]


def test_a_map_raises_the_error_with_its_traceback() -> None:
    with pytest.raises(batchmill.ItemsFailed, match="RuntimeError: by design") as caught:
        batchmill.map(work, [make("innocent", ""), make("function", "raises")], workers=1)
    assert caught.value.error is not None
    assert "in fail" in caught.value.error.traceback
