"""When a run ends because lanes do not come up, and when it goes on without the machine they are on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from batchmill.errors import BatchmillError, FunctionFailed, InvalidUsage, LanesLost
from batchmill.pool.base import Lane, Lanes
from batchmill.pool.startup import IN_A_ROW, PROOF, Starts
from batchmill.worker.main import Ready

MISSING = FunctionFailed("importing f.py raised ModuleNotFoundError", "look")


class Machines(Lanes):
    """Lanes of which each is on a machine of its own, named by its slot; what was left out."""

    def __init__(self) -> None:
        super().__init__(9, lambda event: None, [0] * 99)
        self.left_out: list[int] = []

    def place(self, lane: Lane) -> str:
        return f"machine {lane.slot}"

    def unfit(self, lane: Lane, error: BatchmillError) -> BatchmillError | None:
        self.left_out.append(lane.slot)
        return None


def lane(slot: int, exitcode: int | None = None) -> Lane:
    return Lane(slot, cast("Any", SimpleNamespace(exitcode=exitcode)))


def starts(lanes: Lanes) -> Starts:
    return Starts(lanes, 60.0, lambda text: None)


def test_an_import_that_fails_on_one_machine_is_tried_on_another() -> None:
    lanes = Machines()
    begun = starts(lanes)
    assert not begun.greet(lane(0), Ready(1, "", MISSING))
    assert begun.greet(lane(1), Ready(1, "", None))
    assert not begun.greet(lane(2), Ready(1, "", MISSING))
    assert lanes.left_out == [0, 2]


def test_an_import_that_fails_wherever_it_is_tried_ends_the_run_and_says_where() -> None:
    lanes = Machines()
    begun = starts(lanes)
    for slot in range(PROOF - 1):
        begun.greet(lane(slot), Ready(1, "", MISSING))
    with pytest.raises(FunctionFailed, match=rf"on machine {PROOF - 1}: importing f.py raised"):
        begun.greet(lane(PROOF - 1), Ready(1, "", MISSING))


def test_what_is_wrong_with_the_call_is_wrong_everywhere() -> None:
    lanes = Machines()
    with pytest.raises(InvalidUsage):
        starts(lanes).greet(lane(0), Ready(1, "", InvalidUsage("no such argument")))
    assert lanes.left_out == []


def test_on_one_machine_the_first_failure_ends_the_run() -> None:
    begun = starts(Lanes(2, lambda event: None, [0] * 99))
    with pytest.raises(FunctionFailed, match=r"^importing f\.py raised"):
        begun.greet(lane(0), Ready(1, "", MISSING))


def test_lanes_that_die_while_they_start_are_counted_for_each_machine() -> None:
    lanes = Machines()
    begun = starts(lanes)
    begun.greet(lane(5), Ready(1, "", None))
    for _ in range(IN_A_ROW):
        begun.died(lane(0, -9))
        begun.died(lane(1, -9))
    assert lanes.left_out == []
    begun.died(lane(1, -9))
    assert lanes.left_out == [1]


def test_on_one_machine_they_end_the_run() -> None:
    begun = starts(Lanes(2, lambda event: None, [0] * 99))
    begun.greet(lane(0), Ready(1, "", None))
    for _ in range(IN_A_ROW):
        begun.died(lane(1, -9))
    with pytest.raises(LanesLost, match="6 workers in a row died while starting; the last one was killed by SIGKILL"):
        begun.died(lane(1, -9))
