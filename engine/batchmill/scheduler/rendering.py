"""The making of a run's output: which lane makes what, and what is to be made again.

    Output --next_order--> [fill] --submit--> lane ... [made] --> Output, which puts it in order
                             ^                  |
                             '---- [lost] <-----' that died over it

Where items run on this machine, their lanes make the output between chunks. Where they run on others, lanes of its own
do (OwnDesk): what is to be made is in the checkpoint, which is here, and all of it would go there and back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from batchmill.codec.unsaid import Unsaid
from batchmill.errors import LanesLost
from batchmill.output.external_sort import Work, fulfil
from batchmill.output.writer import Output
from batchmill.pool.base import Event, Lane, Lanes
from batchmill.pool.local import Pool
from batchmill.pool.startup import not_started
from batchmill.text import describe_exit
from batchmill.worker.main import LaneSetup, Ready

_TURN = 16  # orders handed out before the loop looks at what has come back
_WINDOW = 2  # orders that a lane of a desk of its own has at a time
_IN_A_ROW = 5  # lanes that may die over output before any is made, beyond one of each


class Due(NamedTuple):
    """Something to be done in the loop's thread."""

    action: Callable[[], None]


class Desk:
    """Has what `output` orders made by `lanes`, those that run the items. Without an output there is nothing to do."""

    def __init__(self, lanes: Lanes, output: Output | None) -> None:
        self._lanes = lanes
        self._output = output
        self._out: dict[int, tuple[Lane, Work]] = {}
        self._again: list[tuple[int, Work]] = []

    @property
    def is_busy(self) -> bool:
        """Whether a lane is making something."""
        return bool(self._out)

    @property
    def is_done(self) -> bool:
        """Whether all that can be made now is written."""
        return self._output is None or (self._output.is_done and not self._out and not self._again)

    @property
    def is_unread(self) -> bool:
        """Whether nobody reads what is written any more."""
        return self._output is not None and self._output.is_unread

    @property
    def needs_lane(self) -> bool:
        """Whether a lane that runs items is to be started for output alone."""
        return not self.is_done

    @property
    def is_deserted(self) -> bool:
        """Whether there is no lane that could make anything."""
        return not self._lanes.lanes and not self._lanes.dying

    def finish(self) -> None:
        """Every outcome has come: what is left is to be made."""
        if self._output is not None:
            self._output.finish()

    def fill(self, has_room: Callable[[Lane], bool]) -> bool:
        """Have lanes that have room make what there is, the idlest first; whether there may be more for them."""
        if self.is_done:
            return False
        for _ in range(_TURN):
            free = filter(has_room, self._lanes.lanes.values())
            lane = min(free, key=lambda lane: len(lane.outstanding), default=None)
            found = self._next() if lane is not None else None
            if lane is None or found is None:
                return False
            number, work = found
            self._out[number] = (lane, work)
            self._lanes.submit(lane, ("render", number), fulfil, work)
        return True

    def _next(self) -> tuple[int, Work] | None:
        if self._again:
            return self._again.pop()
        return None if self._output is None else self._output.next_order()

    def made(self, number: int, data: bytes, unsaid: Unsaid) -> None:
        """A lane has made order `number`."""
        if self._out.pop(number, None) is not None and self._output is not None:
            self._output.rendered(number, data, unsaid)

    def make_one_here(self) -> bool:
        """Make what is next in this thread; whether there was anything."""
        found = self._next()
        if found is None or self._output is None:
            return False
        number, work = found
        self._output.rendered(number, *fulfil(work))
        return True

    def lost(self, lane: Lane) -> None:
        """A lane is dead: what it had goes to another."""
        for number in [number for number, (at, _) in self._out.items() if at is lane]:
            self._again.append((number, self._out.pop(number)[1]))

    def look(self) -> None:
        """See to lanes of its own, if it has any."""

    def close(self) -> None:
        """End lanes of its own, if it has any."""


class OwnDesk(Desk):
    """Has it made by `size` lanes of its own on this machine, which start when there is something to make.

    `setup` is that of the run's lanes. What its lanes answer comes to `put` as Due. Raises LanesLost where none can be
    started, or they die again and again.
    """

    _lanes: Pool

    def __init__(self, setup: LaneSetup, size: int, put: Callable[[Any], None], output: Output | None) -> None:
        setup = replace(setup, spec=None, init=None, preload=(), is_silent=True)
        super().__init__(Pool(setup, {}, size, lambda event: put(Due(partial(self._answered, event)))), output)
        self._died = 0

    @property
    def needs_lane(self) -> bool:
        """See Desk.needs_lane."""
        return False

    @property
    def is_deserted(self) -> bool:
        """See Desk.is_deserted: its lanes are started again."""
        return False

    def fill(self, has_room: Callable[[Lane], bool]) -> bool:
        """See Desk.fill: there is room in its own lanes, whatever those of the items are at."""
        if not self.is_done:
            self._start_missing()
        return super().fill(lambda lane: lane.ready and len(lane.outstanding) < _WINDOW)

    def _start_missing(self) -> None:
        for slot in self._lanes.vacant():
            try:
                self._lanes.start(slot)
            except OSError as error:
                if not self._lanes.lanes:
                    raise not_started(error, "no worker for the output") from error
                self._lanes.size = len(self._lanes.lanes)

    def _answered(self, event: Event) -> None:
        lane, (kind, number) = event.lane, event.tag
        self._lanes.answered(lane, event.tag)
        if lane.lost:
            return  # what it had goes to another when it is gone
        error = event.future.exception()
        if isinstance(error, RuntimeError):  # it died, of memory perhaps
            self._lanes.broke(lane)
        elif kind == "hello":
            self._greet(lane, event.future.result())
        else:
            self.made(number, *event.future.result())
            self._died = 0

    def _greet(self, lane: Lane, ready: Ready) -> None:
        if ready.error is not None:
            raise ready.error
        lane.ready = True

    def look(self) -> None:
        """See Desk.look."""
        for lane in self._lanes.gone():
            self.lost(lane)
            self._died += 1
            if self._died > self._lanes.size + _IN_A_ROW:
                how = describe_exit(lane.executor.exitcode)
                sentence = f"{self._died} workers in a row died making the output; the last one {how}"
                raise LanesLost(sentence, "`batchmill results` makes it from the checkpoint")

    def close(self) -> None:
        """See Desk.close."""
        self._lanes.close(0.0)
