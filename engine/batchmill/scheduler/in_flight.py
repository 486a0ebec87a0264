"""Which chunks are in flight, on which worker, and what is to be handed out again.

A chunk in flight (a flight) moves by this table; any other event raises IllegalMove and leaves everything as it was:

    state      event      next      and then
    HANDED     returned   over      records not done go back to the front of the queue; a suspect, to run alone
    HANDED     shorten    SHORT     the records from `at` on go back to the front of the queue
    SHORT      shorten    SHORT     the same, further down
    SHORT      returned   over      as above; what was taken back is no longer its business
    HANDED     lost       over      the suspect gets a strike; everything goes back, the suspect alone
    SHORT      lost       over      the same
    HANDED     suspect    over      everything goes back; the second time, to run alone from the suspect on
    SHORT      suspect    over      the same
    HANDED     isolate    over      everything goes back; the suspect is to run alone
    SHORT      isolate    over      the same
    HANDED     split      over      everything goes back; the records of a call are to be called one by one
    SHORT      split      over      the same

Blame (engine/README.md#blame): the record on the board gets the strike. A worker that died with no record on the board,
or with all of its machine, counts against its chunk; the second time the chunk's records go one by one.

A chunk whose ids are to be read (`scan`) is a flight like any other, and waits in a queue of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from batchmill.errors import IllegalMove, ItemError
from batchmill.model import Chunk
from batchmill.value_class import value_class

Divide = Callable[[Chunk, int], tuple[Chunk, Chunk]]


class ChunkState(Enum):
    """Where a flight stands."""

    HANDED = "handed"
    SHORT = "short"


@dataclass(slots=True)
class Flight:
    """A chunk handed to worker `worker` under the number `serial`."""

    serial: int
    worker: int
    chunk: Chunk
    state: ChunkState = ChunkState.HANDED


@value_class
class Strike:
    """A crash that the record at position `first` of the input is blamed for; `count` is how many it has now."""

    first: int
    count: int


class InFlight:
    """The chunks in flight and those to be handed out before any new input.

    `divide` splits a chunk in two (formats.divide with the separator bound). A record whose strikes exceed
    `crash_retries` comes out of the queue condemned: with an error instead of a run. It is opened once more for its id
    alone; one that did not survive being opened, or costs a worker even so, is sealed: nobody opens it again.
    """

    def __init__(self, divide: Divide, crash_retries: int = 1) -> None:
        self.divide = divide
        self._crash_retries = crash_retries
        self._ready: deque[Chunk] = deque()
        self._scans: deque[Chunk] = deque()
        self._flights: dict[int, Flight] = {}
        self._strikes: dict[int, int] = {}
        self._next_serial = 1

    # What is to be handed out

    @property
    def ready(self) -> int:
        """Chunks waiting to be handed out (again)."""
        return len(self._ready)

    @property
    def is_scanning(self) -> bool:
        """Whether there are ids to be read, or being read."""
        return bool(self._scans) or any(flight.chunk.scan for flight in self)

    def put(self, chunk: Chunk) -> None:
        """Queue a chunk behind the others of its kind."""
        self._queue(chunk).append(chunk)

    def put_first(self, chunk: Chunk) -> None:
        """Queue a chunk before the others of its kind."""
        self._queue(chunk).appendleft(chunk)

    def _queue(self, chunk: Chunk) -> deque[Chunk]:
        return self._scans if chunk.scan else self._ready

    @property
    def is_alone(self) -> bool:
        """Whether a chunk that is to run alone is in the air."""
        return any(flight.chunk.alone for flight in self)

    @property
    def is_to_wait(self) -> bool:
        """Whether nothing is to be handed out now: such a chunk is in the air, or the next, and others still are."""
        is_next = bool(self._ready) and self._ready[0].alone
        return self.is_alone or (is_next and bool(self._flights))

    def take_scan(self) -> Chunk | None:
        """The next chunk whose ids are to be read; None where none waits."""
        if not self._scans:
            return None
        chunk = self._scans.popleft()
        return self._cut(chunk, 1) if chunk.losses > 1 else chunk

    def take(self, records: int) -> Chunk | None:
        """The next waiting chunk, cut to at most `records` records that are to run; None where none waits."""
        if not self._ready:
            return None
        chunk = self._ready.popleft()
        return self._cut(chunk, _reach(chunk, 1 if chunk.losses > 1 else records))

    def _cut(self, chunk: Chunk, at: int) -> Chunk:
        """The first `at` records of a chunk; the rest waits again, first in line."""
        if at < chunk.records:
            chunk, rest = self.divide(chunk, at)
            self.put_first(rest)
        return chunk

    # Flights

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(self._flights.values())

    def has(self, serial: int) -> bool:
        """Whether that flight is still in the air."""
        return serial in self._flights

    def on_worker(self, worker: int) -> list[Flight]:
        """The flights on a worker, oldest first."""
        return [flight for flight in self._flights.values() if flight.worker == worker]

    def hand(self, chunk: Chunk, worker: int) -> Flight:
        """Record that `chunk` goes to `worker`; the flight's serial names it from now on."""
        flight = Flight(self._next_serial, worker, chunk)
        self._flights[flight.serial] = flight
        self._next_serial += 1
        return flight

    def returned(self, serial: int, records: int, *, suspect: bool = False) -> Chunk:
        """The worker answered for the first `records` records of flight `serial`; the rest waits again, first in
        line; with `suspect`, the first of those to run alone."""
        flight = self._flight(serial)
        chunk = flight.chunk
        if not 0 <= records <= chunk.records:
            raise IllegalMove(f"flight {serial} of {chunk.records} records returned {records}")
        del self._flights[serial]
        if records < chunk.records:
            rest = chunk if records == 0 else self.divide(chunk, records)[1]
            self._set_apart(rest, 0, _to_be_alone) if suspect else self.put_first(rest)
        return chunk

    def shorten(self, serial: int, at: int) -> None:
        """Take the records from offset `at` on back from flight `serial`; its worker is known not to start them."""
        flight = self._flight(serial)
        chunk = flight.chunk
        if not 0 <= at < chunk.records:
            raise IllegalMove(f"flight {serial} of {chunk.records} records cannot be shortened to {at}")
        if at == 0:
            # An empty flight stays until its worker answers: only then may the worker be given more.
            flight.chunk, rest = chunk._replace(records=0, data=chunk.data[:0], skip=None, earlier=None), chunk
        else:
            flight.chunk, rest = self.divide(chunk, at)
        flight.state = ChunkState.SHORT
        self.put_first(rest)

    def lost(self, serial: int, suspect: int | None, *, blame: bool = True) -> Strike | None:
        """The worker of flight `serial` is gone; `suspect` is the offset of the record it was running, if it was.

        Everything waits again, first in line, the suspect alone. With `blame` False (the worker did not die of what it
        ran) nobody is charged.
        """
        flight = self._flight(serial)
        chunk = flight.chunk
        if suspect is not None and not 0 <= suspect < chunk.records:
            if suspect < 0 or flight.state is not ChunkState.SHORT:
                raise IllegalMove(f"flight {serial} of {chunk.records} records was lost at record {suspect}")
            # Published before its worker saw that it was taken back: it was not started, here.
            blame = False
        del self._flights[serial]
        if chunk.records == 0:
            return None
        if not blame:
            self.put_first(chunk)
            return None
        if suspect is None and chunk.to_open > 1:
            self.put_first(chunk._replace(losses=chunk.losses + 1))
            return None
        if suspect is None:
            suspect = max(0, chunk.skip.find(0)) if chunk.skip is not None else 0
        return self._strike(chunk, suspect)

    def suspect(self, serial: int, offset: int) -> None:
        """The machine of flight `serial` was lost, and one of its records from `offset` on may be why.

        Everything waits again, first in line. Machines go for many reasons, and to run alone keeps a whole one busy:
        only what was lost before (or was alone already) does, in pieces of 1, 1, 2, 4, …: most likely it was the first.
        """
        flight = self._flight(serial)
        chunk = flight.chunk
        del self._flights[serial]
        if not (chunk.losses or chunk.alone) and chunk.records:
            self.put_first(chunk._replace(losses=1))
            return
        for cut in doubling(offset, chunk.records) if offset < chunk.records else ():
            chunk, rest = self.divide(chunk, cut) if cut else (chunk._replace(records=0), chunk)
            self.put_first(rest._replace(alone=True))
        if chunk.records:
            self.put_first(chunk)

    def isolate(self, serial: int, suspect: int | None) -> None:
        """The worker of flight `serial` died of what ran there, or of what ran beside it: nobody is charged yet.

        Everything waits again, first in line, the suspect to run alone; all of the chunk, where it is not known.
        """
        flight = self._flight(serial)
        chunk = flight.chunk
        del self._flights[serial]
        if suspect is None:
            self.put_first(chunk._replace(alone=bool(chunk.records)))
        elif suspect < chunk.records:
            self._set_apart(chunk, suspect, _to_be_alone)
        elif chunk.records:
            self.put_first(chunk)  # it had been taken back

    def split(self, serial: int, first: int, last: int) -> None:
        """The worker of flight `serial` is gone; it was at a call of the records at offsets `first` to `last`.

        Everything waits again, first in line, those records to be called one by one: nobody is charged yet.
        """
        flight = self._flight(serial)
        chunk = flight.chunk
        del self._flights[serial]
        last = min(last, chunk.records - 1)  # what was taken back behind them is no longer its business
        if first > last:
            raise IllegalMove(f"flight {serial} of {chunk.records} records was lost at a call from record {first} on")
        before, rest = self.divide(chunk, first) if first else (None, chunk)
        call, after = self.divide(rest, last - first + 1) if last < chunk.records - 1 else (rest, None)
        for piece in (after, call._replace(single=True), before):
            if piece is not None:
                self.put_first(piece)

    def _strike(self, chunk: Chunk, offset: int) -> Strike:
        first = chunk.first + offset
        count = self._strikes[first] = self._strikes.get(first, 0) + 1
        self._set_apart(chunk, offset, lambda record: record._replace(crashes=record.crashes + 1))
        return Strike(first, count)

    def _set_apart(self, chunk: Chunk, offset: int, mark: Callable[[Chunk], Chunk]) -> None:
        """Let a chunk wait again, first in line, the record at `offset` as a chunk of its own, marked."""
        before, rest = self.divide(chunk, offset) if offset else (None, chunk)
        record, after = self.divide(rest, 1) if rest.records > 1 else (rest, None)
        for piece in (after, mark(record), before):
            if piece is not None:
                self.put_first(piece)

    def condemned(self, strike: Strike) -> bool:
        """Whether the record has had its last try."""
        if strike.count > self._crash_retries:
            return True
        found = self._waiting(strike.first)
        return found is not None and (found[0][found[1]].condemned is not None or found[0][found[1]].was_sealed)

    def condemn(self, first: int, error: ItemError, *, sealed: bool = False) -> None:
        """Have the waiting record at position `first` failed with `error`, and not run; `sealed`: nor opened.

        One that was condemned already keeps its error, and is sealed.
        """
        found = self._waiting(first)
        if found is None:
            raise IllegalMove(f"no record waits at position {first}")
        queue, index = found
        chunk = queue[index]
        queue[index] = chunk._replace(
            condemned=chunk.condemned or error, sealed=sealed or chunk.scan or chunk.condemned is not None
        )
        self._strikes.pop(first, None)  # tried again (--retries), it begins anew

    def _waiting(self, first: int) -> tuple[deque[Chunk], int] | None:
        """Where the record at position `first` waits alone: its queue, and the place in it."""
        for queue in (self._ready, self._scans):
            for index, chunk in enumerate(queue):
                if chunk.first == first and chunk.records == 1:
                    return queue, index
        return None

    def _flight(self, serial: int) -> Flight:
        try:
            return self._flights[serial]
        except KeyError:
            raise IllegalMove(f"flight {serial} is over, or never was") from None


def _to_be_alone(record: Chunk) -> Chunk:
    return record._replace(alone=True)


def doubling(at: int, records: int) -> list[int]:
    """Where records from `at` on are cut into pieces of 1, 1, 2, 4, …: from the end."""
    cuts, size = [at], 1
    while cuts[-1] + size < records:
        cuts.append(cuts[-1] + size)
        size = cuts[-1] - at
    return cuts[::-1]


def _reach(chunk: Chunk, items: int) -> int:
    """How many of a chunk's records have `items` among them that are to run; all, where none are behind those.

    Else a few items to run among thousands that are done would cost a chunk and a frame for each of the thousands.
    """
    if chunk.skip is None:
        return items
    end = -1
    for _ in range(items):
        end = chunk.skip.find(0, end + 1)
        if end < 0:
            return chunk.records
    return end + 1 if 0 in chunk.skip[end + 1 :] else chunk.records
