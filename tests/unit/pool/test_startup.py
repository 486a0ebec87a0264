"""When a run ends because workers do not come up, and when it goes on without the machine they are on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from batchmill.errors import BatchmillError, FunctionFailed, InvalidUsage, WorkersLost
from batchmill.pool.base import Worker, WorkerPool
from batchmill.pool.startup import IN_A_ROW, PROOF, Startup
from batchmill.worker.main import Ready

MISSING = FunctionFailed("importing f.py raised ModuleNotFoundError", "look")


class Machines(WorkerPool):
    """Workers of which each is on a machine of its own, named by its slot; what was left out."""

    def __init__(self) -> None:
        super().__init__(9, lambda event: None, [0] * 99)
        self.left_out: list[int] = []

    def machine_name(self, worker: Worker) -> str:
        return f"machine {worker.slot}"

    def unfit(self, worker: Worker, error: BatchmillError) -> BatchmillError | None:
        self.left_out.append(worker.slot)
        return None


def worker(slot: int, exitcode: int | None = None) -> Worker:
    return Worker(slot, cast("Any", SimpleNamespace(exitcode=exitcode)))


def starts(pool: WorkerPool) -> Startup:
    return Startup(pool, 60.0, lambda text: None)


def test_an_import_that_fails_on_one_machine_is_tried_on_another() -> None:
    pool = Machines()
    begun = starts(pool)
    begun.greet(worker(0), Ready(1, MISSING))
    begun.greet(worker(1), Ready(1, None))
    begun.greet(worker(2), Ready(1, MISSING))
    assert pool.left_out == [0, 2]


def test_an_import_that_fails_wherever_it_is_tried_ends_the_run_and_says_where() -> None:
    pool = Machines()
    begun = starts(pool)
    for slot in range(PROOF - 1):
        begun.greet(worker(slot), Ready(1, MISSING))
    with pytest.raises(FunctionFailed, match=rf"on machine {PROOF - 1}: importing f.py raised"):
        begun.greet(worker(PROOF - 1), Ready(1, MISSING))


def test_what_is_wrong_with_the_call_is_wrong_everywhere() -> None:
    pool = Machines()
    with pytest.raises(InvalidUsage):
        starts(pool).greet(worker(0), Ready(1, InvalidUsage("no such argument")))
    assert pool.left_out == []


def test_on_one_machine_the_first_failure_ends_the_run() -> None:
    begun = starts(WorkerPool(2, lambda event: None, [0] * 99))
    with pytest.raises(FunctionFailed, match=r"^importing f\.py raised"):
        begun.greet(worker(0), Ready(1, MISSING))


def test_workers_that_die_while_they_start_are_counted_for_each_machine() -> None:
    pool = Machines()
    begun = starts(pool)
    begun.greet(worker(5), Ready(1, None))
    for _ in range(IN_A_ROW):
        begun.died(worker(0, -9))
        begun.died(worker(1, -9))
    assert pool.left_out == []
    begun.died(worker(1, -9))
    assert pool.left_out == [1]


def test_on_one_machine_they_end_the_run() -> None:
    begun = starts(WorkerPool(2, lambda event: None, [0] * 99))
    begun.greet(worker(0), Ready(1, None))
    for _ in range(IN_A_ROW):
        begun.died(worker(1, -9))
    with pytest.raises(WorkersLost, match="6 workers in a row died while starting; the last one was killed by SIGKILL"):
        begun.died(worker(1, -9))
