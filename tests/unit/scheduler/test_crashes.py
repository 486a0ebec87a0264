"""What becomes of the chunks of workers that were lost with their machine, or killed for want of memory: which run
again alone, and who is charged.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from batchmill.input import formats
from batchmill.model import Chunk
from batchmill.pool.base import Worker, WorkerPool
from batchmill.pool.worker_limits import WorkerLimits
from batchmill.scheduler.crashes import CrashHandler
from batchmill.scheduler.in_flight import InFlight
from batchmill.worker.records import COLUMNS, RECORD_BITS

divide = partial(formats.divide, format=formats.FORMATS["lines"])


class Machines:
    """Workers of two machines, with a real ledger; what was refunded and charged."""

    def __init__(self, crash_retries: int = 1) -> None:
        self.board = [0] * COLUMNS * 2
        self.in_flight = InFlight(divide, crash_retries)
        self.refunded = 0
        self.strikes: list[dict[str, Any]] = []
        pool = WorkerPool(2, lambda event: None, self.board)
        guard = cast(
            "WorkerLimits",
            SimpleNamespace(killed_for=lambda worker, code: None, memory_trouble=lambda worker: "little"),
        )
        self.losses = CrashHandler(pool, self.in_flight, guard, self._refund, self.strikes.append)
        self.workers = pool

    def _refund(self, items: int) -> None:
        self.refunded += items

    def hand(self, chunk: Chunk | None = None, worker: int = 0) -> int:
        """Hand out a chunk, or what waits first; its serial."""
        found = chunk or self.in_flight.take(100)
        assert found is not None
        return self.in_flight.hand(found, worker).serial

    def lose(
        self, at: tuple[int, int] | None, alone: int = 0, slot: int = 0, *, stopped: bool = False, spared: bool = False
    ) -> None:
        """The machine of worker `slot` is lost while that runs record `at`: (serial, offset)."""
        worker = Worker(slot, cast("Any", SimpleNamespace(exitcode=None)))
        worker.machine_lost, worker.alone, worker.is_spared = "tcp://a:1", alone, spared
        self.board[COLUMNS * slot] = 0 if at is None else (at[0] << RECORD_BITS) + at[1] + 1
        self.losses.take_back(worker, stopped=stopped)
        assert self.losses.why(worker) == "machine lost"

    def kill(self, at: tuple[int, int]) -> None:
        """The worker in slot 0 is killed for want of memory while it runs record `at`: (serial, offset)."""
        self.board[0] = (at[0] << RECORD_BITS) + at[1] + 1
        self.losses.take_back(Worker(0, cast("Any", SimpleNamespace(exitcode=-9))), stopped=False)

    @property
    def waiting(self) -> list[tuple[int, int, bool]]:
        """(first record, records, to run alone) of what waits."""
        return [(chunk.first, chunk.records, chunk.alone) for chunk in self.in_flight._ready]


def chunk(first: int, records: int, losses: int = 1) -> Chunk:
    """A chunk that was lost before, most likely for no fault of its own."""
    return Chunk(first, first + 1, 0, records, b"x\n" * records, losses=losses)


def test_what_may_have_been_running_runs_alone_next_and_nobody_is_charged() -> None:
    machines = Machines()
    serial = machines.hand(chunk(0, 4))
    machines.hand(chunk(4, 2))
    machines.lose((serial, 2))
    assert machines.waiting == [(0, 2, False), (2, 1, True), (3, 1, True), (4, 1, True), (5, 1, True)]
    assert (machines.refunded, machines.strikes) == (6, [])


def test_what_is_lost_for_the_first_time_is_no_suspect_yet() -> None:
    machines = Machines()
    serial = machines.hand(chunk(0, 4, losses=0))
    machines.lose((serial, 2))
    assert machines.waiting == [(0, 4, False)]
    assert (machines.refunded, machines.strikes) == (4, [])


def test_a_machine_that_left_or_was_cut_off_leaves_no_suspects() -> None:
    machines = Machines()
    alone = machines.hand(chunk(0, 1)._replace(alone=True))
    machines.lose((alone, 0), alone=alone, spared=True)
    assert machines.waiting == [(0, 1, True)]
    assert machines.strikes == []


def test_where_nothing_was_heard_of_the_first_chunk_its_first_record_may_have_been_running() -> None:
    machines = Machines()
    machines.hand(chunk(0, 2))
    machines.lose(None)
    assert machines.waiting == [(0, 1, True), (1, 1, True)]


def test_what_was_answered_before_the_last_word_is_no_suspect() -> None:
    machines = Machines()
    machines.hand(chunk(0, 3))
    later = machines.hand(chunk(3, 1))
    machines.lose((later, 0))
    assert machines.waiting == [(0, 3, False), (3, 1, True)]


def test_beside_a_chunk_that_was_alone_nothing_is_suspect() -> None:
    machines = Machines()
    alone = machines.hand(chunk(0, 1)._replace(alone=True), worker=0)
    other = machines.hand(chunk(1, 3), worker=1)
    machines.lose((other, 1), alone=alone, slot=1)
    assert machines.waiting == [(1, 3, False)]
    assert machines.strikes == []


def test_a_record_that_was_alone_each_time_a_machine_was_lost_fails_after_its_strikes() -> None:
    machines = Machines(crash_retries=1)
    machines.lose((machines.hand(chunk(7, 1)), 0))
    for count in (1, 2):
        alone = machines.hand()
        machines.lose((alone, 0), alone=alone)
        assert machines.strikes[-1] == {"position": 7, "count": count, "exit": None}
    condemned = machines.in_flight.take(1)
    assert condemned is not None
    assert condemned.condemned is not None
    assert condemned.condemned.type == "WorkerDied"
    assert "tcp://a:1 was lost while running it and nothing else, 2 times" in condemned.condemned.message
    assert not condemned.sealed, "it is opened once more, for its own id"
    assert condemned.alone
    machines.lose((opening := machines.hand(condemned), 0), alone=opening)
    sealed = machines.in_flight.take(1)
    assert sealed is not None
    assert (sealed.sealed, sealed.condemned) == (True, condemned.condemned)


def test_several_records_that_were_alone_together_are_told_apart_before_one_is_charged() -> None:
    machines = Machines()
    alone = machines.hand(chunk(0, 4)._replace(alone=True))
    machines.lose((alone, 1), alone=alone)
    assert machines.waiting == [(0, 1, True), (1, 1, True), (2, 1, True), (3, 1, True)]
    assert machines.strikes == []


def test_nobody_is_suspect_once_the_run_is_stopped() -> None:
    machines = Machines()
    serial = machines.hand(chunk(0, 3))
    machines.lose((serial, 1), stopped=True)
    assert machines.waiting == [(0, 3, False)]
    assert machines.refunded == 3


def test_who_is_killed_for_want_of_memory_beside_others_runs_alone_before_it_is_charged() -> None:
    machines = Machines(crash_retries=0)
    other = machines.hand(chunk(3, 1), worker=1)
    machines.kill((machines.hand(chunk(0, 3)), 1))
    assert machines.waiting == [(0, 1, False), (1, 1, True), (2, 1, False)]
    machines.hand(worker=1)
    assert machines.in_flight.is_to_wait, "what is to be alone is next"
    machines.in_flight.returned(other, 1)
    machines.in_flight.returned(other + 2, 1)
    assert not machines.in_flight.is_to_wait
    alone = machines.hand()
    assert machines.in_flight.is_to_wait, "it is in the air"
    assert machines.strikes == []
    machines.kill((alone, 0))
    assert machines.strikes == [{"position": 1, "count": 1, "exit": -9}]


def test_the_only_worker_is_charged_at_once() -> None:
    machines = Machines()
    machines.workers.size = 1
    machines.kill((machines.hand(chunk(0, 3)), 1))
    assert [strike["position"] for strike in machines.strikes] == [1]


def test_as_many_as_there_are_workers_that_did_no_harm_alone_are_a_worker_too_many() -> None:
    machines = Machines()
    found = []
    for first, is_well in enumerate((True, True, True, False, True, True)):
        machines.kill((machines.hand(chunk(first, 1)), 0))
        alone = machines.in_flight.returned(machines.hand(), 1)
        found.append(machines.losses.survived(alone, is_well=is_well))
    assert found == [False, True, False, False, False, True]
