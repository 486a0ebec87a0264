"""The ledger: each move of its table, each move that is none, and that no sequence of moves loses a record."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from batchmill.errors import IllegalMove, ItemError
from batchmill.input import formats
from batchmill.model import Chunk
from batchmill.scheduler.in_flight import ChunkState, InFlight, Strike

divide = partial(formats.divide, format=formats.FORMATS["lines"])
VERDICT = ItemError("WorkerDied", "the worker died")


def chunk(first: int, records: int, **more: Any) -> Chunk:
    data = b"".join(b"record %d\n" % (first + i) for i in range(records))
    return Chunk(first, first + 1, 0, records, data, **more)


def lines(chunk: Chunk) -> list[int]:
    """The positions of a chunk's records, as their bytes tell."""
    assert isinstance(chunk.data, bytes)
    found = [int(record.split()[1]) for record in formats.split_records(chunk.data, b"\n")]
    assert found == list(range(chunk.first, chunk.first + chunk.records))
    return found


def waiting(in_flight: InFlight) -> list[list[int]]:
    return [lines(chunk) for chunk in in_flight._ready]


def drain(in_flight: InFlight) -> None:
    while in_flight.take(100):
        pass


def state_of(in_flight: InFlight) -> Any:
    kept = {name: value for name, value in vars(in_flight).items() if name != "divide"}
    return copy.deepcopy(kept)


# --- legal moves -----------------------------------------------------------------------------------------------------


def test_a_flight_that_returned_all_is_over() -> None:
    in_flight = InFlight(divide)
    flight = in_flight.hand(chunk(0, 5), worker=0)
    assert in_flight.returned(flight.serial, 5).records == 5
    assert (len(in_flight), in_flight.ready) == (0, 0)


def test_what_a_flight_did_not_return_waits_first_in_line() -> None:
    in_flight = InFlight(divide)
    flight = in_flight.hand(chunk(0, 5), worker=0)
    in_flight.put(chunk(5, 2))
    in_flight.returned(flight.serial, 2)
    assert waiting(in_flight) == [[2, 3, 4], [5, 6]]


def test_a_suspect_that_a_flight_did_not_return_is_to_run_alone() -> None:
    in_flight = InFlight(divide)
    flight = in_flight.hand(chunk(0, 5), worker=0)
    in_flight.returned(flight.serial, 2, suspect=True)
    assert [(piece.first, piece.records, piece.alone) for piece in in_flight._ready] == [(2, 1, True), (3, 2, False)]


def test_a_flight_that_returned_nothing_waits_as_it_was() -> None:
    in_flight = InFlight(divide)
    sent = chunk(0, 5)
    flight = in_flight.hand(sent, worker=0)
    in_flight.returned(flight.serial, 0)
    assert in_flight.take(9) == sent


def test_a_shortened_flight_keeps_its_head_and_the_rest_waits_first_in_line() -> None:
    in_flight = InFlight(divide)
    flight = in_flight.hand(chunk(0, 5), worker=0)
    in_flight.put(chunk(5, 1))
    in_flight.shorten(flight.serial, 3)
    assert (flight.state, lines(flight.chunk)) == (ChunkState.SHORT, [0, 1, 2])
    assert waiting(in_flight) == [[3, 4], [5]]


def test_a_short_flight_can_be_shortened_further() -> None:
    in_flight = InFlight(divide)
    flight = in_flight.hand(chunk(0, 5), worker=0)
    in_flight.shorten(flight.serial, 3)
    in_flight.shorten(flight.serial, 1)
    assert (flight.state, lines(flight.chunk)) == (ChunkState.SHORT, [0])
    assert waiting(in_flight) == [[1, 2], [3, 4]]


def test_a_flight_shortened_to_nothing_stays_until_its_worker_answers() -> None:
    in_flight = InFlight(divide)
    flight = in_flight.hand(chunk(0, 5), worker=0)
    in_flight.shorten(flight.serial, 0)
    assert (len(in_flight), waiting(in_flight)) == (1, [[0, 1, 2, 3, 4]])
    in_flight.returned(flight.serial, 0)
    assert (len(in_flight), waiting(in_flight)) == (0, [[0, 1, 2, 3, 4]])


def test_a_short_flight_returns_only_what_was_left_to_it() -> None:
    in_flight = InFlight(divide)
    flight = in_flight.hand(chunk(0, 5), worker=0)
    in_flight.shorten(flight.serial, 3)
    in_flight.returned(flight.serial, 2)
    assert waiting(in_flight) == [[2], [3, 4]]


@pytest.mark.parametrize(
    ("suspect", "pieces"),
    [(0, [[0], [1, 2, 3]]), (2, [[0, 1], [2], [3]]), (3, [[0, 1, 2], [3]])],
)
def test_the_suspect_of_a_lost_flight_waits_alone(suspect: int, pieces: list[list[int]]) -> None:
    in_flight = InFlight(divide)
    flight = in_flight.hand(chunk(0, 4), worker=0)
    assert in_flight.lost(flight.serial, suspect) == Strike(suspect, 1)
    assert waiting(in_flight) == pieces


def test_a_lost_short_flight_gives_back_what_was_left_to_it() -> None:
    in_flight = InFlight(divide)
    flight = in_flight.hand(chunk(0, 4), worker=0)
    in_flight.shorten(flight.serial, 2)
    assert in_flight.lost(flight.serial, 1) == Strike(1, 1)
    assert waiting(in_flight) == [[0], [1], [2, 3]]


def test_a_record_published_after_it_was_taken_back_is_no_suspect() -> None:
    """A worker publishes a record, and only then looks at the limit: dying in between is not that record's doing."""
    in_flight = InFlight(divide)
    flight = in_flight.hand(chunk(0, 4), worker=0)
    in_flight.shorten(flight.serial, 2)
    assert in_flight.lost(flight.serial, 2) is None
    assert waiting(in_flight) == [[0, 1], [2, 3]]


def test_nobody_is_charged_for_a_worker_that_did_not_die_of_its_work() -> None:
    in_flight = InFlight(divide)
    flight = in_flight.hand(chunk(0, 4), worker=0)
    assert in_flight.lost(flight.serial, 2, blame=False) is None
    assert waiting(in_flight) == [[0, 1, 2, 3]]


def test_a_chunk_lost_twice_without_a_suspect_goes_record_by_record() -> None:
    in_flight = InFlight(divide)
    taken: Chunk | None = chunk(0, 3)
    for _ in range(2):
        assert taken is not None
        assert in_flight.lost(in_flight.hand(taken, worker=0).serial, None) is None
        assert waiting(in_flight) == [[0, 1, 2]]
        taken = in_flight.take(100)
    assert taken is not None
    assert lines(taken) == [0]
    assert waiting(in_flight) == [[1, 2]]


def test_a_single_record_lost_without_a_suspect_is_the_suspect() -> None:
    in_flight = InFlight(divide)
    assert in_flight.lost(in_flight.hand(chunk(7, 1), worker=0).serial, None) == Strike(7, 1)


def test_strikes_follow_a_record_by_its_position() -> None:
    in_flight = InFlight(divide)
    first = in_flight.lost(in_flight.hand(chunk(0, 4), worker=0).serial, 2)
    drain(in_flight)
    second = in_flight.lost(in_flight.hand(chunk(2, 1), worker=1).serial, 0)
    assert (first, second) == (Strike(2, 1), Strike(2, 2))


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_record_is_condemned_by_the_strike_after_its_last_retry(retries: int) -> None:
    in_flight = InFlight(divide, crash_retries=retries)
    assert [in_flight.condemned(Strike(0, count)) for count in range(1, 6)] == [
        count > retries for count in range(1, 6)
    ]


def test_a_condemned_record_comes_out_with_its_verdict_and_no_other_does() -> None:
    in_flight = InFlight(divide)
    in_flight.lost(in_flight.hand(chunk(0, 3), worker=0).serial, 1)
    in_flight.condemn(1, VERDICT)
    taken = [in_flight.take(10) for _ in range(3)]
    assert [piece.condemned if piece else None for piece in taken] == [None, VERDICT, None]


def test_a_condemned_record_that_is_tried_again_begins_anew() -> None:
    in_flight = InFlight(divide, crash_retries=0)
    for _ in range(2):
        assert in_flight.lost(in_flight.hand(chunk(3, 1), worker=0).serial, 0) == Strike(3, 1)
        in_flight.condemn(3, VERDICT)
        drain(in_flight)


def test_chunks_are_cut_to_what_was_asked_for() -> None:
    in_flight = InFlight(divide)
    in_flight.put(chunk(0, 5))
    sizes = [in_flight.take(2), in_flight.take(2), in_flight.take(2), in_flight.take(2)]
    assert [piece.records if piece else None for piece in sizes] == [2, 2, 1, None]


@pytest.mark.parametrize(
    ("items", "pieces"),
    [(1, [[0, 1, 2], [3, 4], [5, 6, 7]]), (2, [[0, 1, 2, 3, 4], [5, 6, 7]]), (3, [[0, 1, 2, 3, 4, 5, 6, 7]])],
)
def test_records_that_are_done_ride_along_and_are_not_counted(items: int, pieces: list[list[int]]) -> None:
    """Thousands of done records must not cost a chunk each where chunks are of one item."""
    in_flight = InFlight(divide)
    in_flight.put(chunk(0, 8, skip=b"\1\1\0\1\0\0\1\1"))
    taken = []
    while (piece := in_flight.take(items)) is not None:
        taken.append(lines(piece))
    assert taken == pieces


def test_the_only_record_to_run_is_the_suspect_of_a_worker_that_died_without_one() -> None:
    in_flight = InFlight(divide)
    flight = in_flight.hand(chunk(10, 4, skip=b"\1\1\0\1"), worker=0)
    assert in_flight.lost(flight.serial, None) == Strike(12, 1)
    assert waiting(in_flight) == [[10, 11], [12], [13]]


def test_the_flights_of_a_worker_are_listed_oldest_first() -> None:
    in_flight = InFlight(divide)
    serials = [in_flight.hand(chunk(i, 1), worker=i % 2).serial for i in range(4)]
    assert [flight.serial for flight in in_flight.on_worker(1)] == serials[1::2]


@pytest.mark.parametrize(
    ("suspect", "pieces"),
    [
        (0, [[0], [1], [2, 3], [4, 5, 6, 7], [8, 9]]),
        (3, [[0, 1, 2], [3], [4], [5, 6], [7, 8, 9]]),
        (9, [[0, 1, 2, 3, 4, 5, 6, 7, 8], [9]]),
        (10, [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]),
    ],
)
def test_what_was_lost_with_its_machine_waits_from_the_suspect_on_to_run_alone(
    suspect: int, pieces: list[list[int]]
) -> None:
    in_flight = InFlight(divide)
    flight = in_flight.hand(chunk(0, 10)._replace(losses=1), worker=0)
    in_flight.put(chunk(10, 1))
    in_flight.suspect(flight.serial, suspect)
    assert waiting(in_flight) == [*pieces, [10]]
    assert [piece.alone for piece in in_flight._ready] == [
        lines(piece)[0] in range(suspect, 10) for piece in in_flight._ready
    ]
    assert len(in_flight) == 0


def test_what_was_lost_with_its_machine_for_the_first_time_runs_again_as_it_was() -> None:
    """Machines go for many reasons: to run alone there would keep all of one busy."""
    in_flight = InFlight(divide)
    in_flight.suspect(in_flight.hand(chunk(0, 3), worker=0).serial, 1)
    assert waiting(in_flight) == [[0, 1, 2]]
    taken = in_flight.take(9)
    assert taken is not None
    assert not taken.alone
    in_flight.suspect(in_flight.hand(taken, worker=0).serial, 1)
    assert waiting(in_flight) == [[0], [1], [2]]
    assert [piece.alone for piece in in_flight._ready] == [False, True, True]


def test_a_record_that_was_alone_stays_so_after_its_strike() -> None:
    in_flight = InFlight(divide)
    in_flight.suspect(in_flight.hand(chunk(0, 3)._replace(losses=1), worker=0).serial, 1)
    assert in_flight.take(9) == chunk(0, 1)._replace(losses=1)
    alone = in_flight.take(9)
    assert alone is not None
    assert in_flight.lost(in_flight.hand(alone, worker=0).serial, 0) == Strike(1, 1)
    assert waiting(in_flight) == [[1], [2]]
    assert [(piece.alone, piece.crashes) for piece in in_flight._ready] == [(True, 1), (True, 0)]


# --- illegal moves ---------------------------------------------------------------------------------------------------

ILLEGAL: dict[str, Callable[[InFlight, int, int], object]] = {
    "returned, of a flight that is over": lambda in_flight, over, _: in_flight.returned(over, 1),
    "shorten, of a flight that is over": lambda in_flight, over, _: in_flight.shorten(over, 1),
    "lost, of a flight that is over": lambda in_flight, over, _: in_flight.lost(over, 0),
    "returned, of a flight that never was": lambda in_flight, _, __: in_flight.returned(99, 1),
    "shorten, of a flight that never was": lambda in_flight, _, __: in_flight.shorten(99, 1),
    "suspect, of a flight that is over": lambda in_flight, over, _: in_flight.suspect(over, 0),
    "suspect, of a flight that never was": lambda in_flight, _, __: in_flight.suspect(99, 0),
    "lost, of a flight that never was": lambda in_flight, _, __: in_flight.lost(99, 0),
    "returned, more than was handed out": lambda in_flight, _, live: in_flight.returned(live, 5),
    "returned, less than nothing": lambda in_flight, _, live: in_flight.returned(live, -1),
    "shorten, to what it has": lambda in_flight, _, live: in_flight.shorten(live, 4),
    "shorten, to more than it has": lambda in_flight, _, live: in_flight.shorten(live, 5),
    "shorten, to less than nothing": lambda in_flight, _, live: in_flight.shorten(live, -1),
    "lost, at a record before it": lambda in_flight, _, live: in_flight.lost(live, -1),
    "lost, at a record behind it": lambda in_flight, _, live: in_flight.lost(live, 4),
    "condemn, of a record that does not wait": lambda in_flight, _, __: in_flight.condemn(99, VERDICT),
    "condemn, of a record that does not wait alone": lambda in_flight, _, __: in_flight.condemn(20, VERDICT),
}


@pytest.mark.parametrize("move", ILLEGAL.values(), ids=ILLEGAL)
def test_an_illegal_move_raises_and_leaves_all_as_it_was(move: Callable[[InFlight, int, int], object]) -> None:
    in_flight = InFlight(divide)
    over = in_flight.hand(chunk(0, 2), worker=0).serial
    in_flight.returned(over, 2)
    live = in_flight.hand(chunk(10, 4), worker=0).serial
    in_flight.put(chunk(20, 3))
    before = state_of(in_flight)
    with pytest.raises(IllegalMove):
        move(in_flight, over, live)
    assert state_of(in_flight) == before


def test_a_short_flight_cannot_return_what_was_taken_back() -> None:
    in_flight = InFlight(divide)
    flight = in_flight.hand(chunk(0, 4), worker=0)
    in_flight.shorten(flight.serial, 2)
    before = state_of(in_flight)
    with pytest.raises(IllegalMove):
        in_flight.returned(flight.serial, 3)
    assert state_of(in_flight) == before


# --- any moves -------------------------------------------------------------------------------------------------------


class LedgerMachine(RuleBasedStateMachine):
    """Every record is in exactly one place: waiting, in flight, or done; whatever happens to workers."""

    serials: Bundle[int] = Bundle("serials")
    CRASH_RETRIES = 2

    def __init__(self) -> None:
        super().__init__()
        self.in_flight = InFlight(divide, crash_retries=self.CRASH_RETRIES)
        self.known = 0
        self.done: list[int] = []
        self.strikes: dict[int, int] = {}
        self.condemned: set[int] = set()

    @initialize(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4))
    def fill(self, sizes: list[int]) -> None:
        for size in sizes:
            self.put(size)

    @rule(size=st.integers(1, 6))
    def put(self, size: int) -> None:
        self.in_flight.put(chunk(self.known, size))
        self.known += size

    @rule(target=serials, size=st.integers(1, 8), worker=st.integers(0, 3))
    def hand(self, size: int, worker: int) -> Any:
        taken = self.in_flight.take(size)
        if taken is None:
            return multiple()
        assert 1 <= taken.records <= size
        return self.in_flight.hand(taken, worker).serial

    @rule(serial=consumes(serials), share=st.floats(0, 1))
    def answer(self, serial: int, share: float) -> None:
        flight = self._flight(serial)
        records = round(share * flight.chunk.records)
        assert self.in_flight.returned(serial, records) is flight.chunk
        self.done += lines(flight.chunk)[:records]

    @rule(target=serials, serial=consumes(serials), share=st.floats(0, 0.999))
    def shorten(self, serial: int, share: float) -> int:
        records = self._flight(serial).chunk.records
        if records:
            self.in_flight.shorten(serial, int(share * records))
        return serial

    @rule(serial=consumes(serials), share=st.none() | st.floats(0, 0.999), blame=st.booleans())
    def lose(self, serial: int, share: float | None, blame: bool) -> None:
        records = self._flight(serial).chunk.records
        suspect = None if share is None or not records else int(share * records)
        strike = self.in_flight.lost(serial, suspect, blame=blame)
        if strike is None:
            return
        assert blame
        self.strikes[strike.first] = self.strikes.get(strike.first, 0) + 1
        assert strike.count == self.strikes[strike.first]
        is_last = strike.count > self.CRASH_RETRIES or strike.first in self.condemned
        assert self.in_flight.condemned(strike) == is_last
        if self.in_flight.condemned(strike):
            self.in_flight.condemn(strike.first, VERDICT)
            self.condemned.add(strike.first)
            del self.strikes[strike.first]

    @rule(serial=consumes(serials), share=st.floats(0, 1))
    def lose_the_machine(self, serial: int, share: float) -> None:
        self.in_flight.suspect(serial, int(share * self._flight(serial).chunk.records))

    def _flight(self, serial: int) -> Any:
        return next(flight for flight in self.in_flight if flight.serial == serial)

    @invariant()
    def every_record_is_in_exactly_one_place(self) -> None:
        waiting = [line for chunk in self.in_flight._ready for line in lines(chunk)]
        flying = [line for flight in self.in_flight for line in lines(flight.chunk)]
        assert sorted(waiting + flying + self.done) == list(range(self.known))

    @invariant()
    def only_condemned_records_have_a_verdict(self) -> None:
        chunks = [*self.in_flight._ready, *(flight.chunk for flight in self.in_flight)]
        judged = {line for chunk in chunks if chunk.condemned for line in lines(chunk)}
        assert judged == self.condemned.difference(self.done)

    @invariant()
    def no_chunk_that_waits_is_empty(self) -> None:
        assert all(chunk.records for chunk in self.in_flight._ready)


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestNoRecordIsLostOrDoubled = LedgerMachine.TestCase
