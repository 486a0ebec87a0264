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
from batchmill.scheduler.in_flight import Ledger, State, Strike

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


def waiting(ledger: Ledger) -> list[list[int]]:
    return [lines(chunk) for chunk in ledger._ready]


def drain(ledger: Ledger) -> None:
    while ledger.take(100):
        pass


def state_of(ledger: Ledger) -> Any:
    kept = {name: value for name, value in vars(ledger).items() if name != "divide"}
    return copy.deepcopy(kept)


# --- legal moves -----------------------------------------------------------------------------------------------------


def test_a_flight_that_returned_all_is_over() -> None:
    ledger = Ledger(divide)
    flight = ledger.hand(chunk(0, 5), worker=0)
    assert ledger.returned(flight.serial, 5).records == 5
    assert (len(ledger), ledger.ready) == (0, 0)


def test_what_a_flight_did_not_return_waits_first_in_line() -> None:
    ledger = Ledger(divide)
    flight = ledger.hand(chunk(0, 5), worker=0)
    ledger.put(chunk(5, 2))
    ledger.returned(flight.serial, 2)
    assert waiting(ledger) == [[2, 3, 4], [5, 6]]


def test_a_flight_that_returned_nothing_waits_as_it_was() -> None:
    ledger = Ledger(divide)
    sent = chunk(0, 5)
    flight = ledger.hand(sent, worker=0)
    ledger.returned(flight.serial, 0)
    assert ledger.take(9) == sent


def test_a_shortened_flight_keeps_its_head_and_the_rest_waits_first_in_line() -> None:
    ledger = Ledger(divide)
    flight = ledger.hand(chunk(0, 5), worker=0)
    ledger.put(chunk(5, 1))
    ledger.shorten(flight.serial, 3)
    assert (flight.state, lines(flight.chunk)) == (State.SHORT, [0, 1, 2])
    assert waiting(ledger) == [[3, 4], [5]]


def test_a_short_flight_can_be_shortened_further() -> None:
    ledger = Ledger(divide)
    flight = ledger.hand(chunk(0, 5), worker=0)
    ledger.shorten(flight.serial, 3)
    ledger.shorten(flight.serial, 1)
    assert (flight.state, lines(flight.chunk)) == (State.SHORT, [0])
    assert waiting(ledger) == [[1, 2], [3, 4]]


def test_a_flight_shortened_to_nothing_stays_until_its_worker_answers() -> None:
    ledger = Ledger(divide)
    flight = ledger.hand(chunk(0, 5), worker=0)
    ledger.shorten(flight.serial, 0)
    assert (len(ledger), waiting(ledger)) == (1, [[0, 1, 2, 3, 4]])
    ledger.returned(flight.serial, 0)
    assert (len(ledger), waiting(ledger)) == (0, [[0, 1, 2, 3, 4]])


def test_a_short_flight_returns_only_what_was_left_to_it() -> None:
    ledger = Ledger(divide)
    flight = ledger.hand(chunk(0, 5), worker=0)
    ledger.shorten(flight.serial, 3)
    ledger.returned(flight.serial, 2)
    assert waiting(ledger) == [[2], [3, 4]]


@pytest.mark.parametrize(
    ("suspect", "pieces"),
    [(0, [[0], [1, 2, 3]]), (2, [[0, 1], [2], [3]]), (3, [[0, 1, 2], [3]])],
)
def test_the_suspect_of_a_lost_flight_waits_alone(suspect: int, pieces: list[list[int]]) -> None:
    ledger = Ledger(divide)
    flight = ledger.hand(chunk(0, 4), worker=0)
    assert ledger.lost(flight.serial, suspect) == Strike(suspect, 1)
    assert waiting(ledger) == pieces


def test_a_lost_short_flight_gives_back_what_was_left_to_it() -> None:
    ledger = Ledger(divide)
    flight = ledger.hand(chunk(0, 4), worker=0)
    ledger.shorten(flight.serial, 2)
    assert ledger.lost(flight.serial, 1) == Strike(1, 1)
    assert waiting(ledger) == [[0], [1], [2, 3]]


def test_a_record_published_after_it_was_taken_back_is_no_suspect() -> None:
    """A worker publishes a record, and only then looks at the limit: dying in between is not that record's doing."""
    ledger = Ledger(divide)
    flight = ledger.hand(chunk(0, 4), worker=0)
    ledger.shorten(flight.serial, 2)
    assert ledger.lost(flight.serial, 2) is None
    assert waiting(ledger) == [[0, 1], [2, 3]]


def test_nobody_is_charged_for_a_worker_that_did_not_die_of_its_work() -> None:
    ledger = Ledger(divide)
    flight = ledger.hand(chunk(0, 4), worker=0)
    assert ledger.lost(flight.serial, 2, blame=False) is None
    assert waiting(ledger) == [[0, 1, 2, 3]]


def test_a_chunk_lost_twice_without_a_suspect_goes_record_by_record() -> None:
    ledger = Ledger(divide)
    taken: Chunk | None = chunk(0, 3)
    for _ in range(2):
        assert taken is not None
        assert ledger.lost(ledger.hand(taken, worker=0).serial, None) is None
        assert waiting(ledger) == [[0, 1, 2]]
        taken = ledger.take(100)
    assert taken is not None
    assert lines(taken) == [0]
    assert waiting(ledger) == [[1, 2]]


def test_a_single_record_lost_without_a_suspect_is_the_suspect() -> None:
    ledger = Ledger(divide)
    assert ledger.lost(ledger.hand(chunk(7, 1), worker=0).serial, None) == Strike(7, 1)


def test_strikes_follow_a_record_by_its_position() -> None:
    ledger = Ledger(divide)
    first = ledger.lost(ledger.hand(chunk(0, 4), worker=0).serial, 2)
    drain(ledger)
    second = ledger.lost(ledger.hand(chunk(2, 1), worker=1).serial, 0)
    assert (first, second) == (Strike(2, 1), Strike(2, 2))


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_record_is_condemned_by_the_strike_after_its_last_retry(retries: int) -> None:
    ledger = Ledger(divide, crash_retries=retries)
    assert [ledger.condemned(Strike(0, count)) for count in range(1, 6)] == [count > retries for count in range(1, 6)]


def test_a_condemned_record_comes_out_with_its_verdict_and_no_other_does() -> None:
    ledger = Ledger(divide)
    ledger.lost(ledger.hand(chunk(0, 3), worker=0).serial, 1)
    ledger.condemn(1, VERDICT)
    taken = [ledger.take(10) for _ in range(3)]
    assert [piece.verdict if piece else None for piece in taken] == [None, VERDICT, None]


def test_a_condemned_record_that_is_tried_again_begins_anew() -> None:
    ledger = Ledger(divide, crash_retries=0)
    for _ in range(2):
        assert ledger.lost(ledger.hand(chunk(3, 1), worker=0).serial, 0) == Strike(3, 1)
        ledger.condemn(3, VERDICT)
        drain(ledger)


def test_chunks_are_cut_to_what_was_asked_for() -> None:
    ledger = Ledger(divide)
    ledger.put(chunk(0, 5))
    sizes = [ledger.take(2), ledger.take(2), ledger.take(2), ledger.take(2)]
    assert [piece.records if piece else None for piece in sizes] == [2, 2, 1, None]


@pytest.mark.parametrize(
    ("items", "pieces"),
    [(1, [[0, 1, 2], [3, 4], [5, 6, 7]]), (2, [[0, 1, 2, 3, 4], [5, 6, 7]]), (3, [[0, 1, 2, 3, 4, 5, 6, 7]])],
)
def test_records_that_are_done_ride_along_and_are_not_counted(items: int, pieces: list[list[int]]) -> None:
    """Thousands of done records must not cost a chunk each where chunks are of one item."""
    ledger = Ledger(divide)
    ledger.put(chunk(0, 8, skip=b"\1\1\0\1\0\0\1\1"))
    taken = []
    while (piece := ledger.take(items)) is not None:
        taken.append(lines(piece))
    assert taken == pieces


def test_the_only_record_to_run_is_the_suspect_of_a_worker_that_died_without_one() -> None:
    ledger = Ledger(divide)
    flight = ledger.hand(chunk(10, 4, skip=b"\1\1\0\1"), worker=0)
    assert ledger.lost(flight.serial, None) == Strike(12, 1)
    assert waiting(ledger) == [[10, 11], [12], [13]]


def test_the_flights_of_a_worker_are_listed_oldest_first() -> None:
    ledger = Ledger(divide)
    serials = [ledger.hand(chunk(i, 1), worker=i % 2).serial for i in range(4)]
    assert [flight.serial for flight in ledger.on_worker(1)] == serials[1::2]


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
    ledger = Ledger(divide)
    flight = ledger.hand(chunk(0, 10)._replace(losses=1), worker=0)
    ledger.put(chunk(10, 1))
    ledger.suspect(flight.serial, suspect)
    assert waiting(ledger) == [*pieces, [10]]
    assert [piece.alone for piece in ledger._ready] == [
        lines(piece)[0] in range(suspect, 10) for piece in ledger._ready
    ]
    assert len(ledger) == 0


def test_what_was_lost_with_its_machine_for_the_first_time_runs_again_as_it_was() -> None:
    """Machines go for many reasons: to run alone there would keep all of one busy."""
    ledger = Ledger(divide)
    ledger.suspect(ledger.hand(chunk(0, 3), worker=0).serial, 1)
    assert waiting(ledger) == [[0, 1, 2]]
    taken = ledger.take(9)
    assert taken is not None
    assert not taken.alone
    ledger.suspect(ledger.hand(taken, worker=0).serial, 1)
    assert waiting(ledger) == [[0], [1], [2]]
    assert [piece.alone for piece in ledger._ready] == [False, True, True]


def test_a_record_that_was_alone_stays_so_after_its_strike() -> None:
    ledger = Ledger(divide)
    ledger.suspect(ledger.hand(chunk(0, 3)._replace(losses=1), worker=0).serial, 1)
    assert ledger.take(9) == chunk(0, 1)._replace(losses=1)
    alone = ledger.take(9)
    assert alone is not None
    assert ledger.lost(ledger.hand(alone, worker=0).serial, 0) == Strike(1, 1)
    assert waiting(ledger) == [[1], [2]]
    assert [(piece.alone, piece.crashes) for piece in ledger._ready] == [(True, 1), (True, 0)]


# --- illegal moves ---------------------------------------------------------------------------------------------------

ILLEGAL: dict[str, Callable[[Ledger, int, int], object]] = {
    "returned, of a flight that is over": lambda ledger, over, _: ledger.returned(over, 1),
    "shorten, of a flight that is over": lambda ledger, over, _: ledger.shorten(over, 1),
    "lost, of a flight that is over": lambda ledger, over, _: ledger.lost(over, 0),
    "returned, of a flight that never was": lambda ledger, _, __: ledger.returned(99, 1),
    "shorten, of a flight that never was": lambda ledger, _, __: ledger.shorten(99, 1),
    "suspect, of a flight that is over": lambda ledger, over, _: ledger.suspect(over, 0),
    "suspect, of a flight that never was": lambda ledger, _, __: ledger.suspect(99, 0),
    "lost, of a flight that never was": lambda ledger, _, __: ledger.lost(99, 0),
    "returned, more than was handed out": lambda ledger, _, live: ledger.returned(live, 5),
    "returned, less than nothing": lambda ledger, _, live: ledger.returned(live, -1),
    "shorten, to what it has": lambda ledger, _, live: ledger.shorten(live, 4),
    "shorten, to more than it has": lambda ledger, _, live: ledger.shorten(live, 5),
    "shorten, to less than nothing": lambda ledger, _, live: ledger.shorten(live, -1),
    "lost, at a record before it": lambda ledger, _, live: ledger.lost(live, -1),
    "lost, at a record behind it": lambda ledger, _, live: ledger.lost(live, 4),
    "condemn, of a record that does not wait": lambda ledger, _, __: ledger.condemn(99, VERDICT),
    "condemn, of a record that does not wait alone": lambda ledger, _, __: ledger.condemn(20, VERDICT),
}


@pytest.mark.parametrize("move", ILLEGAL.values(), ids=ILLEGAL)
def test_an_illegal_move_raises_and_leaves_all_as_it_was(move: Callable[[Ledger, int, int], object]) -> None:
    ledger = Ledger(divide)
    over = ledger.hand(chunk(0, 2), worker=0).serial
    ledger.returned(over, 2)
    live = ledger.hand(chunk(10, 4), worker=0).serial
    ledger.put(chunk(20, 3))
    before = state_of(ledger)
    with pytest.raises(IllegalMove):
        move(ledger, over, live)
    assert state_of(ledger) == before


def test_a_short_flight_cannot_return_what_was_taken_back() -> None:
    ledger = Ledger(divide)
    flight = ledger.hand(chunk(0, 4), worker=0)
    ledger.shorten(flight.serial, 2)
    before = state_of(ledger)
    with pytest.raises(IllegalMove):
        ledger.returned(flight.serial, 3)
    assert state_of(ledger) == before


# --- any moves -------------------------------------------------------------------------------------------------------


class LedgerMachine(RuleBasedStateMachine):
    """Every record is in exactly one place: waiting, in flight, or done; whatever happens to workers."""

    serials: Bundle[int] = Bundle("serials")
    CRASH_RETRIES = 2

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(divide, crash_retries=self.CRASH_RETRIES)
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
        self.ledger.put(chunk(self.known, size))
        self.known += size

    @rule(target=serials, size=st.integers(1, 8), worker=st.integers(0, 3))
    def hand(self, size: int, worker: int) -> Any:
        taken = self.ledger.take(size)
        if taken is None:
            return multiple()
        assert 1 <= taken.records <= size
        return self.ledger.hand(taken, worker).serial

    @rule(serial=consumes(serials), share=st.floats(0, 1))
    def answer(self, serial: int, share: float) -> None:
        flight = self._flight(serial)
        records = round(share * flight.chunk.records)
        assert self.ledger.returned(serial, records) is flight.chunk
        self.done += lines(flight.chunk)[:records]

    @rule(target=serials, serial=consumes(serials), share=st.floats(0, 0.999))
    def shorten(self, serial: int, share: float) -> int:
        records = self._flight(serial).chunk.records
        if records:
            self.ledger.shorten(serial, int(share * records))
        return serial

    @rule(serial=consumes(serials), share=st.none() | st.floats(0, 0.999), blame=st.booleans())
    def lose(self, serial: int, share: float | None, blame: bool) -> None:
        records = self._flight(serial).chunk.records
        suspect = None if share is None or not records else int(share * records)
        strike = self.ledger.lost(serial, suspect, blame=blame)
        if strike is None:
            return
        assert blame
        self.strikes[strike.first] = self.strikes.get(strike.first, 0) + 1
        assert strike.count == self.strikes[strike.first]
        assert self.ledger.condemned(strike) == (strike.count > self.CRASH_RETRIES)
        if self.ledger.condemned(strike):
            self.ledger.condemn(strike.first, VERDICT)
            self.condemned.add(strike.first)
            del self.strikes[strike.first]

    @rule(serial=consumes(serials), share=st.floats(0, 1))
    def lose_the_machine(self, serial: int, share: float) -> None:
        self.ledger.suspect(serial, int(share * self._flight(serial).chunk.records))

    def _flight(self, serial: int) -> Any:
        return next(flight for flight in self.ledger if flight.serial == serial)

    @invariant()
    def every_record_is_in_exactly_one_place(self) -> None:
        waiting = [line for chunk in self.ledger._ready for line in lines(chunk)]
        flying = [line for flight in self.ledger for line in lines(flight.chunk)]
        assert sorted(waiting + flying + self.done) == list(range(self.known))

    @invariant()
    def only_condemned_records_have_a_verdict(self) -> None:
        chunks = [*self.ledger._ready, *(flight.chunk for flight in self.ledger)]
        judged = {line for chunk in chunks if chunk.verdict for line in lines(chunk)}
        assert judged == self.condemned.difference(self.done)

    @invariant()
    def no_chunk_that_waits_is_empty(self) -> None:
        assert all(chunk.records for chunk in self.ledger._ready)


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestNoRecordIsLostOrDoubled = LedgerMachine.TestCase
