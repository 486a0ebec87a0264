"""What a lane is to everybody else: what it was given, how far it is, its limit and its end.

    Lanes --start--> Lane --hello--> ready --submit*--> events --...--> lost --gone--> (a new lane takes the slot)

Where lanes live is for subclasses to say: `pool` has them on this machine, `remote` on others. Whatever a lane answers
comes as an Event to `put`. A lane is `gone` only when its process is confirmed dead: till then nothing it was running
may run elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from batchmill.errors import BatchmillError
from batchmill.worker.records import COLUMNS, LIMIT, NO_LIMIT, OPENED, RECORD_BITS

LATE = 3.0  # seconds after which a broken executor's thread is not waited for any more
_MASK = (1 << RECORD_BITS) - 1
_MOMENT = 0.05  # seconds that a process may take from closing its files to being dead


class Event(NamedTuple):
    """A lane's answer: `future` holds what the call `tag` returned or raised."""

    lane: Lane
    tag: Any
    future: Future[Any]


class Executor(Protocol):
    """One worker process, and the way to have it call something."""

    @property
    def pid(self) -> int:
        """The process, on its own machine; 0 while that is not known."""

    @property
    def is_dead(self) -> bool:
        """Whether the process is confirmed to have ended."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it: only then may anyone ask for the exit code."""

    @property
    def is_disconnected(self) -> bool:
        """Whether the process was found alive though it could not be reached any more: an item closed its pipes."""

    @property
    def exitcode(self) -> int | None:
        """The worker's exit status, -N for signal N, 255 where its fork server died; None where nobody knows."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """As concurrent.futures.Executor.submit; raises RuntimeError where it is broken."""

    def shutdown(self) -> None:
        """Let the worker end when it has nothing more to do; returns at once."""

    def kill(self) -> None:
        """Kill the worker and all that its items started, at once."""

    def wait(self, seconds: float) -> None:
        """Wait for the process to be dead, at most so long."""

    def close(self) -> None:
        """Let go of what is kept of a dead process."""


class Lane:
    """One worker process in slot `slot`. `outstanding` holds the tags it has not answered."""

    def __init__(self, slot: int, executor: Executor) -> None:
        self.slot = slot
        self.executor = executor
        self.outstanding: list[Any] = []
        self.ready = False
        self.lost = False
        self.lowered = False
        self.retiring = False
        self.disconnected = False
        self.raised = ""  # what came out of it where no item was at work
        self.alone = 0  # the serial of the chunk for which all of its machine was cleared
        self.machine_lost = ""  # the name of its machine, if that was lost with all its lanes
        self.is_moving = False  # its board is that of a moment ago, and it got on since: told of lanes elsewhere only
        self.is_spared = False  # it is known not to have ended because of what it had: nobody is charged
        self.unstarted = ""  # why its process could not be started, where that was found out later
        self.items = 0  # answered for, in all
        self.rss = 0  # bytes, when it was last looked at
        self.pid = 0
        self.started = time.monotonic()
        self.busy_since = 0.0  # when it was last given something while it had nothing else
        self.lost_at = 0.0


class Lanes:
    """The lanes of a run, by slot. `put` takes Events, from any thread. `board` has COLUMNS numbers per slot."""

    def __init__(self, size: int, put: Callable[[Event], None], board: memoryview[int] | list[int]) -> None:
        self.size = size
        self.lanes: dict[int, Lane] = {}
        self._put = put
        self._board = board
        self._dying: list[Lane] = []

    def start(self, slot: int) -> Lane:
        """Start a lane in a free slot; its `hello` comes as an Event with the tag ("hello", 0). Raises OSError."""
        raise NotImplementedError

    def may_start(self) -> bool:
        """Whether a start would not keep the caller waiting for long. Raises OSError where none is possible."""
        return True

    def vacant(self) -> list[int]:
        """The slots in which a lane can be started now."""
        if len(self.lanes) + len(self._dying) >= self.size:
            return []
        dying = {lane.slot for lane in self._dying}
        return [slot for slot in range(self.size) if slot not in self.lanes and slot not in dying]

    def submit(self, lane: Lane, tag: Any, function: Callable[..., Any], *arguments: Any) -> bool:
        """Have the lane call `function`; False where the lane turns out to be broken (an Event will tell)."""
        if lane.lowered and not lane.outstanding:
            self.lift(lane)
        if not lane.outstanding:
            lane.busy_since = time.monotonic()
        lane.outstanding.append(tag)
        try:
            future = lane.executor.submit(function, *arguments)
        except RuntimeError as error:  # BrokenProcessPool is one
            future = Future()
            future.set_exception(error)
        self._listen(lane, tag, future)
        return not future.done() or future.exception() is None

    def _listen(self, lane: Lane, tag: Any, future: Future[Any]) -> None:
        future.add_done_callback(lambda done: self._put(Event(lane, tag, done)))

    def answered(self, lane: Lane, tag: Any) -> None:
        """Note that an Event for `tag` has come."""
        if tag in lane.outstanding:
            lane.outstanding.remove(tag)
            lane.busy_since = time.monotonic()

    # The board

    def running(self, lane: Lane) -> tuple[int, int] | None:
        """(serial, offset) of the record that the lane is running, or was when it died; None between chunks."""
        number = self.number(lane)
        return (number >> RECORD_BITS, (number & _MASK) - 1) if number else None

    def number(self, lane: Lane) -> int:
        """The board's number of the record that the lane is running; 0 between chunks."""
        return self._board[COLUMNS * lane.slot]

    def opened(self, lane: Lane) -> int:
        """The board's number of the last record that the lane has opened to run it."""
        return self._board[COLUMNS * lane.slot + OPENED]

    def was_opened(self, lane: Lane, serial: int, offset: int) -> bool:
        """Whether record `offset` of chunk `serial` is the last one that the lane has opened to run it."""
        return self.opened(lane) == _number(serial, offset)

    def has_begun(self, lane: Lane, serial: int) -> bool:
        """Whether the lane has been at a record of chunk `serial`, as far as the board still tells."""
        return serial in (self.number(lane) >> RECORD_BITS, self.opened(lane) >> RECORD_BITS)

    def lower(self, lane: Lane, serial: int, offset: int) -> None:
        """Forbid the lane to start record `offset` of chunk `serial` or any later one, till all it has is answered."""
        limit = COLUMNS * lane.slot + LIMIT
        self._board[limit] = min(_number(serial, offset), self._board[limit])
        lane.lowered = True

    def lift(self, lane: Lane) -> None:
        """Let the lane start anything again: it has answered all that the limit was for."""
        self._board[COLUMNS * lane.slot + LIMIT] = NO_LIMIT
        lane.lowered = False

    def unfit(self, lane: Lane, error: BatchmillError) -> BatchmillError | None:
        """A lane cannot come up, for that reason, though others have: what is to end the run, None to go on without."""
        return error

    isolates = False  # whether lanes see to it themselves that a chunk which is to be alone is

    def shrink(self) -> None:
        """Go on with one lane fewer."""
        self.size -= 1
        if len(self.lanes) > self.size:
            self.retire(self.lanes[max(self.lanes)])

    def place(self, lane: Lane) -> str:
        """The machine that the lane is on; "" is this one."""
        return ""

    @property
    def round_trip(self) -> float:
        """Seconds that a message takes there and back, beyond what it takes on this machine."""
        return 0.0

    def has_seen(self, lane: Lane) -> bool:
        """Whether a lane that was up a moment after its limit was lowered is known to have seen it."""
        return True

    # Ends

    def kill(self, lane: Lane) -> None:
        """Kill the lane's worker and all that its items started, at once."""
        lane.lowered = True
        self._board[COLUMNS * lane.slot + LIMIT] = 0
        lane.executor.kill()

    def broke(self, lane: Lane) -> None:
        """The lane's executor is broken, and ends its process if that is still there: `gone` says when."""
        if not lane.lost:
            self._let_go(lane)

    def spoiled(self, lane: Lane, trouble: str) -> None:
        """Something was raised in the lane where no item was at work, but one has left it behind: kill it."""
        lane.raised = trouble
        self.give_up(lane)

    def give_up(self, lane: Lane) -> None:
        """Kill the lane; `gone` says when its slot is free."""
        if lane.lost:
            return
        self._let_go(lane)
        self.kill(lane)

    def _let_go(self, lane: Lane) -> None:
        lane.lost = True
        lane.lost_at = time.monotonic()
        self._dying.append(lane)
        self.lanes.pop(lane.slot, None)

    def retire(self, lane: Lane) -> None:
        """Give the lane nothing more; when it has answered all it has, it ends by itself and its slot becomes free."""
        lane.retiring = True
        self.lower(lane, 0, 0)
        if not lane.outstanding and not lane.lost:
            self._let_go(lane)
            lane.executor.shutdown()

    def gone(self) -> Iterator[Lane]:
        """The lanes given up whose process is dead and whose executor has come to rest since the last call."""
        for lane in list(self._dying):
            late = time.monotonic() - lane.lost_at > LATE
            if not lane.executor.is_dead:
                if late:
                    lane.executor.kill()
                continue
            if lane.executor.is_over or late:
                self._dying.remove(lane)
                lane.disconnected = lane.executor.is_disconnected
                lane.executor.close()
                yield lane

    @property
    def dying(self) -> int:
        """Lanes given up that are not confirmed dead yet."""
        return len(self._dying)

    @property
    def pids(self) -> list[int]:
        """The workers' processes, as far as they are on this machine."""
        return [lane.pid for lane in self.lanes.values()]

    def dismiss(self) -> None:
        """Let all lanes end when they are idle; returns at once. `close` waits for them."""
        for lane in (*self.lanes.values(), *self._dying):
            lane.executor.shutdown()

    def close(self, patience: float) -> None:
        """End all lanes: those that are idle by themselves, the rest by SIGKILL after `patience` seconds."""
        lanes = [*self.lanes.values(), *self._dying]
        self.dismiss()
        deadline = time.monotonic() + patience
        for lane in lanes:
            while not lane.executor.is_dead and time.monotonic() < deadline:
                lane.executor.wait(deadline - time.monotonic())
        for lane in lanes:
            lane.executor.kill()
        for lane in lanes:
            lane.executor.wait(_MOMENT)  # what a lane holds is free when it is dead, not when it is killed
            lane.executor.close()
        self.lanes.clear()
        self._dying.clear()


def _number(serial: int, offset: int) -> int:
    """What stands for record `offset` of chunk `serial` on the board."""
    return (serial << RECORD_BITS) + 1 + offset
