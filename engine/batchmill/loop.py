"""Owns the loop that keeps lanes busy and commits what they answer. Joins the parts; never knows
a format or an option.

    intake --job--> [fill] --submit--> lane ... Event --> [replied] --append--> checkpoint
       ^                                 |                     |--> tracker (counts), output, sink
       |                                 |--> [lane gone] --> ledger: the chunk runs again, the suspect alone
       '--- what came back undone -------'--> [take back] : from a lane that is held up, for one that is idle

One thread, one queue. Lanes, the feeder, the sync thread and signals put things on it; nothing else touches the state.
"""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

from batchmill import worker
from batchmill.chunking import Pace
from batchmill.errors import CheckpointUnwritable, FunctionFailed, LanesLost
from batchmill.intake import Intake
from batchmill.ledger import Flight, Ledger, Strike
from batchmill.model import Chunk, ItemError
from batchmill.output import Output
from batchmill.pool import Event, Lane, Pool
from batchmill.reply import Tally
from batchmill.tracker import Tracker
from batchmill.worker import Order, Ready

TICK = 0.1  # seconds between looks at what sends no events
SOON = 0.002  # after which a lowered limit is sure to have been seen
BRISK = 0.02  # between looks while lanes wait for input, or for a dead one to be gone
HELD_UP = 0.005  # seconds a lane must have been at its chunk before anything is taken back from it
LANE_STARTS = 5  # lanes in a row that may die while starting
KILLS = 10  # times a record may be on the board of a lane that somebody else killed, before it is charged
_STILL_IMPORTING = 10.0


class Stop(NamedTuple):
    """A request to stop: `reason` is a signal's name or "limit"; `insist` kills what is running."""

    reason: str
    insist: bool


class Wake(NamedTuple):
    """New input may be there."""


@dataclass
class _TakeBack:
    """A limit that was lowered, and is not known yet to have been seen in time."""

    lane: Lane
    flight: Flight
    at: int
    due: float


class Loop:
    """Runs until the intake is over, or asked to stop.

    `commit` appends an outcome frame and tells everyone who must know. `grace` and `start_timeout` are seconds.
    """

    def __init__(
        self,
        *,
        pool: Pool,
        events: queue.SimpleQueue[Any],
        intake: Intake,
        ledger: Ledger,
        pace: Pace,
        tracker: Tracker,
        output: Output | None,
        commit: Callable[[Chunk, bytes, Tally], None],
        strike: Callable[[dict[str, Any]], None],
        generation: Callable[[], int],
        on_ready: Callable[[str], None],
        on_message: Callable[[str], None],
        window: int,
        grace: float,
        start_timeout: float,
    ) -> None:
        self._pool = pool
        self._events = events
        self._intake = intake
        self._ledger = ledger
        self._pace = pace
        self._tracker = tracker
        self._output = output
        self._commit = commit
        self._strike = strike
        self._generation = generation
        self._on_ready = on_ready
        self._on_message = on_message
        self._window = window
        self._grace = grace
        self._start_timeout = start_timeout
        self._scans: dict[int, tuple[Lane, Chunk]] = {}
        self._renders: dict[int, tuple[Lane, Any]] = {}
        self._rerender: list[tuple[int, Any]] = []
        self._next_tag = 0
        self._any_ready = False
        self._failed_starts = 0
        self._told_importing = False
        self._kills: dict[int, int] = {}
        self._take_back: _TakeBack | None = None
        self._deadline: float | None = None
        self._killed = False
        self.stopped = ""
        self.error: BaseException | None = None

    # The loop

    def run(self) -> None:
        """Keep the lanes busy until all is done. What ends the run early is in `stopped` or `error`."""
        while not self._is_finished():
            if not self._stopping:
                self._fill()
            for event in self._wait():
                self._handle(event)
            self._tick()

    @property
    def _stopping(self) -> bool:
        return bool(self.stopped)

    def _is_finished(self) -> bool:
        busy = len(self._ledger) or self._scans or self._pool.dying
        if self._stopping:
            if self.stopped == "limit" and self._output is not None:
                return not busy and not self._renders and self._finish_output()
            return self._killed or not (busy or self._renders)
        if busy or self._renders or self._rerender:
            return False
        if self._intake.is_limited:
            self._intake.probe_end()
            if not self._intake.is_over:
                self.stopped = "limit"
                return self._finish_output()
        return self._intake.is_over and self._finish_output()

    def _finish_output(self) -> bool:
        if self._output is None:
            return True
        self._output.finish()
        if self._output.is_done and not self._renders and not self._rerender:
            return True
        if self._stopping:
            self._fill_renders()
        return False

    def _wait(self) -> list[Any]:
        """The events that are there, or come within a tick."""
        events = []
        try:
            events.append(self._events.get(timeout=self._patience()))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            return events

    def _patience(self) -> float:
        if self._take_back is not None:
            return SOON
        idle = any(lane.ready and not lane.outstanding for lane in self._pool.lanes.values())
        return BRISK if self._pool.dying or idle else TICK

    def _handle(self, event: Any) -> None:
        if isinstance(event, Event):
            self._answered(event)
        elif isinstance(event, Stop):
            self._stop(event)
        elif isinstance(event, CheckpointUnwritable):
            raise event

    # Handing out

    def _fill(self) -> None:
        """Give every lane with room something to do, the idlest first."""
        while True:
            room = [lane for lane in self._pool.lanes.values() if self._has_room(lane)]
            if not room:
                break
            lane = min(room, key=lambda lane: len(lane.outstanding))
            if not self._give(lane):
                self._plan_take_back()
                break
        if not self._pool.lanes and not self._pool.dying and self._has_work():
            self._start_lane(0)

    def _has_room(self, lane: Lane) -> bool:
        if not lane.ready or len(lane.outstanding) >= self._window:
            return False
        return not (lane.lowered and lane.outstanding)

    def _has_work(self) -> bool:
        """Whether there is something to start the first lane for."""
        if self._rerender or (self._output is not None and not self._output.is_done):
            return True
        job = self._next_job()
        if job is None:
            return False
        self._put_back(job)
        return True

    def _next_job(self) -> Any:
        try:
            starved = not len(self._ledger)
            return self._intake.next(starved)
        except Exception as error:
            # The input broke: what came before it is still done, and committed; then the error is raised.
            self._intake.end()
            self.error = self.error or error
            return None

    def _put_back(self, job: Any) -> None:
        if job.scan:
            self._intake.scan_lost(job.chunk)
        else:
            self._intake.refund(job.chunk.to_run)
            self._ledger.put_first(job.chunk)

    def _give(self, lane: Lane) -> bool:
        if self._fill_render(lane):
            return True
        job = self._next_job()
        if job is None:
            return False
        if job.scan:
            tag = self._tag()
            self._scans[tag] = (lane, job.chunk)
            self._pool.submit(lane, ("scan", tag), worker.scan_chunk, job.chunk)
            return True
        flight = self._ledger.hand(job.chunk, lane.slot)
        order = Order(flight.serial, self._pace.slice, self._generation(), job.chunk)
        self._pool.submit(lane, ("run", flight.serial), worker.run_chunk, order)
        return True

    def _fill_render(self, lane: Lane) -> bool:
        if self._output is None:
            return False
        found = self._rerender.pop() if self._rerender else self._output.next_order()
        if found is None:
            return False
        number, order = found
        self._renders[number] = (lane, order)
        self._pool.submit(lane, ("render", number), worker.render, order)
        return True

    def _fill_renders(self) -> None:
        for lane in self._pool.lanes.values():
            while self._has_room(lane) and self._fill_render(lane):
                pass

    def _tag(self) -> int:
        self._next_tag += 1
        return self._next_tag

    # Answers

    def _answered(self, event: Event) -> None:
        lane, (kind, number) = event.lane, event.tag if event.tag != "hello" else ("hello", 0)
        self._pool.answered(lane, event.tag)
        if lane.lost:
            return  # its flights are taken care of when it is gone
        error = event.future.exception()
        if error is not None:
            self._broken(lane, error)
        elif kind == "hello":
            self._ready(lane, event.future.result())
        elif kind == "run":
            self._replied(event.future)
        elif kind == "scan":
            _, chunk = self._scans.pop(number)
            if not self._stopping:
                self._intake.scanned(chunk, event.future.result())
        else:
            self._renders.pop(number)
            assert self._output is not None
            self._output.rendered(number, *event.future.result())

    def _replied(self, future: Future[tuple[bytes, Tally]]) -> None:
        payload, tally = future.result()
        chunk = self._ledger.returned(tally.serial, tally.lines)
        if self._take_back is not None and self._take_back.flight.serial == tally.serial:
            self._take_back = None
        self._intake.refund(chunk.to_run - tally.items)
        self._pace.seen(tally.items, tally.seconds)
        if tally.lines:
            self._commit(chunk, payload, tally)

    # Lanes

    def _start_lane(self, slot: int) -> None:
        try:
            self._pool.start(slot)
        except OSError as error:
            remedy = "close other programs, or give fewer workers with -j"
            if not self._pool.lanes:
                raise LanesLost(f"no worker can be started: {error}", remedy) from error
            self._on_message(f"Only {len(self._pool.lanes)} workers could be started: {error}")
            self._pool.size = len(self._pool.lanes)

    def _ready(self, lane: Lane, ready: Ready) -> None:
        if ready.error is not None:
            raise ready.error
        lane.ready = True
        self._failed_starts = 0
        if not self._any_ready:
            self._any_ready = True
            self._on_ready(ready.source)
            # Only now: an import that fails is one error, not as many as there are lanes.
            for slot in range(self._pool.size):
                if slot not in self._pool.lanes and not self._stopping:
                    self._start_lane(slot)

    def _broken(self, lane: Lane, error: BaseException) -> None:
        """The lane's process died, or its executor did; what it was running is known once it is gone."""
        if not isinstance(error, RuntimeError):  # BrokenProcessPool is one; anything else is a defect of ours
            raise error
        self._pool.give_up(lane)

    def _gone(self, lane: Lane) -> None:
        """A lane is confirmed dead: its chunks run again, and another lane takes its place."""
        code = lane.executor.exitcode
        if not lane.ready and not self._stopping:
            self._died_starting(code)
        running = self._pool.running(lane)
        for flight in sorted(self._ledger.on_lane(lane.slot), key=lambda flight: -flight.serial):
            self._flight_lost(flight, running, code)
        for tag in [tag for tag, (at, _) in self._scans.items() if at is lane]:
            self._intake.scan_lost(self._scans.pop(tag)[1])
        for number in [number for number, (at, _) in self._renders.items() if at is lane]:
            self._rerender.append((number, self._renders.pop(number)[1]))
        if self._take_back is not None and self._take_back.lane is lane:
            self._take_back = None
        if not self._stopping and lane.slot < self._pool.size:
            self._start_lane(lane.slot)

    def _died_starting(self, code: int | None) -> None:
        self._failed_starts += 1
        how = describe_exit(code)
        if not self._any_ready and code != 255:
            raise FunctionFailed(f"a worker {how} while importing the function", "try it with `batchmill try`")
        if self._failed_starts > LANE_STARTS:
            raise LanesLost(f"{self._failed_starts} workers in a row died while starting; the last one {how}")

    def _flight_lost(self, flight: Flight, running: tuple[int, int] | None, code: int | None) -> None:
        self._intake.refund(flight.chunk.to_run)
        is_current = running is not None and running[0] == flight.serial
        offset = running[1] if running is not None and is_current else None
        oldest = min(other.serial for other in self._ledger.on_lane(flight.lane))
        concerned = is_current or (running is None and flight.serial == oldest)
        blame = concerned and not self._stopping and self._is_its_own_death(flight, offset, code)
        strike = self._ledger.lost(flight.serial, offset, blame=blame)
        if strike is None:
            return
        self._strike({"position": strike.first, "count": strike.count, "exit": code})
        if self._ledger.condemned(strike):
            self._ledger.condemn(strike.first, _verdict(strike, code))

    def _is_its_own_death(self, flight: Flight, offset: int | None, code: int | None) -> bool:
        """Whether a lane's death may be laid to the record it was running.

        255: its fork server died. None: nobody knows. SIGKILL: someone else's, unless it happens again and again.
        """
        if code in (None, 255):
            return False
        if code != -signal.SIGKILL:
            return True
        first = flight.chunk.first + (offset or 0)
        self._kills[first] = self._kills.get(first, 0) + 1
        return self._kills[first] > KILLS

    # Taking back

    def _plan_take_back(self) -> None:
        """A lane is idle and nothing is left for it: find a lane that is held up, and what it has not started."""
        if self._take_back is not None or not len(self._ledger):
            return
        if any(lane.outstanding for lane in self._pool.lanes.values()) and not self._idle_lanes():
            return
        best: tuple[int, Lane, Flight, int] | None = None
        for flight in self._ledger:
            lane = self._pool.lanes.get(flight.lane)
            if lane is None or not flight.chunk.records:
                continue
            found = self._not_started(lane, flight)
            if found is not None and (best is None or found[0] > best[0]):
                best = (found[0], lane, flight, found[1])
        if best is not None:
            _, lane, flight, at = best
            self._pool.lower(lane, flight.serial, at)
            self._take_back = _TakeBack(lane, flight, at, time.monotonic() + SOON)

    def _idle_lanes(self) -> bool:
        return any(lane.ready and not lane.outstanding for lane in self._pool.lanes.values())

    def _not_started(self, lane: Lane, flight: Flight) -> tuple[int, int] | None:
        """(records to take back, from which offset on) of a flight; None where there is nothing worth it."""
        running = self._pool.running(lane)
        if running is None or time.monotonic() - lane.busy_since < HELD_UP:
            return None
        serial, offset = running
        if serial < flight.serial:
            return flight.chunk.records, 0
        if serial > flight.serial:
            return None
        left = flight.chunk.records - offset - 1
        return ((left + 1) // 2, flight.chunk.records - (left + 1) // 2) if left else None

    def _check_take_back(self) -> None:
        """A tick after the limit was lowered: what the lane has not started by now, it never will."""
        back = self._take_back
        if back is None or time.monotonic() < back.due:
            return
        running = self._pool.running(back.lane)
        if running is None:
            return  # between records, or its reply is on the way: look again
        serial, offset = running
        if serial == back.flight.serial and offset >= back.at:
            back.at = offset + 1  # it published that one before it could see the limit
            if back.at >= back.flight.chunk.records:
                self._take_back = None
            return
        self._take_back = None
        if serial <= back.flight.serial and back.at < back.flight.chunk.records:
            chunk = back.flight.chunk
            self._ledger.shorten(back.flight.serial, back.at)
            self._intake.refund(chunk.to_run - back.flight.chunk.to_run)

    # Ticks and ends

    def _tick(self) -> None:
        self._check_take_back()
        for lane in self._pool.gone():
            self._gone(lane)
        now = time.monotonic()
        if not self._any_ready:
            self._watch_first_import(now)
        if self._deadline is not None and now > self._deadline and not self._killed:
            self._kill_all()
        self._tracker.tick(now, self._pool.pids, len(self._pool.lanes))

    def _watch_first_import(self, now: float) -> None:
        for lane in self._pool.lanes.values():
            waited = now - lane.started
            if waited > self._start_timeout:
                raise FunctionFailed(
                    f"the function's module was not imported within {self._start_timeout:g} s",
                    "give more with --start-timeout, or look at what it does when imported",
                )
            if waited > _STILL_IMPORTING and not self._told_importing:
                self._told_importing = True
                self._on_message(f"Still importing the function's module after {waited:.0f} s")

    def _stop(self, request: Stop) -> None:
        if request.insist and self._stopping:
            self._kill_all()
        if self._stopping:
            return
        self.stopped = request.reason
        self._deadline = time.monotonic() + self._grace
        running = sum(1 for lane in self._pool.lanes.values() if self._pool.running(lane))
        if running and request.reason != "SIGPIPE":
            which = "1 item" if running == 1 else f"{running} items"
            self._on_message(f"Stopping: waiting up to {self._grace:g} s for {which}; once more stops at once")
        for lane in list(self._pool.lanes.values()):
            self._pool.lower(lane, 0, 0)
            if not lane.ready:
                self._pool.give_up(lane)

    def _kill_all(self) -> None:
        self._killed = True
        for lane in list(self._pool.lanes.values()):
            self._pool.give_up(lane)

    def interrupt(self) -> None:
        """KeyboardInterrupt in the loop's own thread: the first drains, the next one kills."""
        self._stop(Stop("SIGINT", insist=self._stopping))


def describe_exit(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "died"
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _verdict(strike: Strike, code: int | None) -> ItemError:
    times = "" if strike.count == 1 else f", {strike.count} times"
    return ItemError("WorkerDied", f"the worker {describe_exit(code)} while running this item{times}")
