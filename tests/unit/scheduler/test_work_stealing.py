"""What the recaller takes from whom, and what it leaves alone."""

from __future__ import annotations

import sys
from typing import cast

import pytest
from tree_kit import BENCH

sys.path.insert(0, str(BENCH))

from batchmill.model import Chunk
from batchmill.pool.base import Worker
from batchmill.pool.local import LocalPool
from batchmill.scheduler.in_flight import InFlight
from batchmill.scheduler.work_stealing import HELD_UP, LOOK, RELIEFS, SOON, WorkStealer
from simulated_workers import divide

PATIENCE = 1.0


class Board:
    """A pool of which only the board counts: what each worker runs, and to where it was lowered."""

    def __init__(self, workers: int) -> None:
        self.workers = {slot: Worker(slot, None) for slot in range(workers)}  # type: ignore[arg-type]
        self.at: dict[int, tuple[int, int]] = {}
        self.lowered: list[tuple[int, int, int]] = []

    def running(self, worker: Worker) -> tuple[int, int] | None:
        return self.at.get(worker.slot)

    def has_seen(self, worker: Worker) -> bool:
        return True

    def lower(self, worker: Worker, serial: int, offset: int) -> None:
        worker.lowered = True
        self.lowered.append((worker.slot, serial, offset))


class House:
    def __init__(self, workers: int, chunks: dict[int, list[int]]) -> None:
        """`chunks` are the sizes of what each worker has."""
        self.board = Board(workers)
        self.in_flight = InFlight(divide)
        self.refunded = 0
        self.stealer = WorkStealer(cast("LocalPool", self.board), self.in_flight, self._refund)
        first = 0
        for worker, sizes in chunks.items():
            for size in sizes:
                self.in_flight.hand(Chunk(first, first + 1, 0, size, b""), worker)
                first += size

    def _refund(self, records: int) -> None:
        self.refunded += records

    def back(self) -> list[tuple[int, int]]:
        """(first, records) of what waits again."""
        taken = []
        while (chunk := self.in_flight.take(10**9)) is not None:
            taken.append((chunk.first, chunk.records))
        return taken


def test_a_worker_that_moves_is_not_relieved_though_its_board_stands_still() -> None:
    house = House(1, {0: [10]})
    house.board.at[0] = (1, 3)
    house.board.workers[0].is_moving = True
    for look in range(1, 10):
        house.stealer.look(look * (PATIENCE + LOOK), PATIENCE)
    assert house.board.lowered == []
    house.board.workers[0].is_moving = False
    for look in range(10, 12):
        house.stealer.look(look * (PATIENCE + LOOK), PATIENCE)
    assert house.board.lowered == [(0, 1, 4)]


def test_a_chunk_that_waits_behind_another_is_taken_back_whole() -> None:
    house = House(2, {0: [10, 10]})
    house.board.at[0] = (1, 3)
    house.stealer.plan(HELD_UP, idle=1)
    house.stealer.check(HELD_UP + SOON)
    assert house.board.lowered == [(0, 2, 0)]
    assert house.back() == [(10, 10)]
    assert house.refunded == 10


def test_of_the_chunk_that_runs_half_of_the_rest_is_taken_back() -> None:
    house = House(2, {0: [11]})
    house.board.at[0] = (1, 1)
    house.stealer.plan(HELD_UP, idle=1)
    house.stealer.check(HELD_UP + SOON)
    assert house.back() == [(6, 5)]


def test_what_the_worker_began_before_it_could_see_the_limit_stays_with_it() -> None:
    house = House(2, {0: [11]})
    house.board.at[0] = (1, 1)
    house.stealer.plan(HELD_UP, idle=1)
    house.board.at[0] = (1, 8)
    house.stealer.check(HELD_UP + SOON)
    assert house.back() == [(9, 2)]


def test_a_worker_that_shows_nothing_is_looked_at_again() -> None:
    house = House(2, {0: [11]})
    house.board.at[0] = (1, 1)
    house.stealer.plan(HELD_UP, idle=1)
    del house.board.at[0]
    house.stealer.check(HELD_UP + SOON)
    assert house.stealer.is_pending
    assert house.back() == []


def test_nothing_is_taken_back_of_an_answered_flight() -> None:
    house = House(2, {0: [11]})
    house.board.at[0] = (1, 1)
    house.stealer.plan(HELD_UP, idle=1)
    house.stealer.forget(house.board.workers[0], 1)
    house.stealer.check(HELD_UP + SOON)
    assert not house.stealer.is_pending
    assert house.back() == []


def test_as_many_workers_share_as_there_are_idle_ones() -> None:
    house = House(6, {worker: [10, 10 + worker] for worker in range(4)})
    house.board.at.update({worker: (2 * worker + 1, 0) for worker in range(4)})
    house.stealer.plan(HELD_UP, idle=2)
    house.stealer.plan(HELD_UP, idle=2)
    assert sorted(slot for slot, _, _ in house.board.lowered) == [2, 3]


def test_a_worker_that_has_just_begun_is_left_alone() -> None:
    house = House(2, {0: [10, 10]})
    house.board.at[0] = (1, 0)
    house.stealer.plan(HELD_UP / 2, idle=1)
    assert house.board.lowered == []


def relieved(house: House) -> None:
    house.stealer.look(0.0, PATIENCE)
    house.stealer.look(PATIENCE + LOOK, PATIENCE)
    house.stealer.check(PATIENCE + LOOK + SOON)


def test_a_straggler_is_relieved_of_all_behind_it_and_its_neighbours_go_one_by_one() -> None:
    house = House(1, {0: [10, 5]})
    house.board.at[0] = (1, 1)
    relieved(house)
    assert house.back() == [(2, 1), (3, 1), (4, 2), (6, 4), (10, 1), (11, 1), (12, 2), (14, 1)]
    assert house.refunded == 13


def test_a_worker_that_goes_on_is_no_straggler() -> None:
    house = House(1, {0: [10]})
    house.board.at[0] = (1, 1)
    house.stealer.look(0.0, PATIENCE)
    house.board.at[0] = (1, 2)
    house.stealer.look(PATIENCE + LOOK, PATIENCE)
    assert house.board.lowered == []


def test_a_worker_is_relieved_once_until_it_has_answered() -> None:
    house = House(1, {0: [10]})
    house.board.at[0] = (1, 1)
    relieved(house)
    house.stealer.look(2 * PATIENCE + 2 * LOOK, PATIENCE)
    assert house.board.lowered == [(0, 1, 2)]


@pytest.mark.parametrize("workers", [1, RELIEFS, 5 * RELIEFS])
def test_only_so_many_stragglers_are_relieved_at_a_time(workers: int) -> None:
    house = House(workers, {worker: [10] for worker in range(workers)})
    house.board.at.update({worker: (worker + 1, 0) for worker in range(workers)})
    relieved(house)
    assert len(house.board.lowered) == min(workers, RELIEFS)
