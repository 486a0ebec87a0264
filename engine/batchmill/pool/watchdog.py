"""When a running item has taken too long.

Time is counted in the loop's own ticks, each at most `longest_tick`: a machine that was suspended, or a parent that was
stopped, must not count against an item (engine/README.md#time-outs). It begins when the board first shows the item.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Action(Enum):
    """What is to be done about an item that takes too long."""

    RAISE = "raise"  # ask the worker to raise in the item, so that its traceback tells where it was
    KILL = "kill"


class Overdue(NamedTuple):
    """The call whose last item has board number `number`, on worker `slot`, has taken `seconds`."""

    slot: int
    number: int
    action: Action
    seconds: float


@dataclass(slots=True)
class _Watch:
    call: tuple[int, int]
    seconds: float = 0.0
    raised: bool = False


class Watchdog:
    """Watches the board. After `timeout` seconds an item is asked to raise, `patience` later its worker is killed."""

    def __init__(self, timeout: float, patience: float, longest_tick: float) -> None:
        self._timeout = timeout
        self._patience = patience
        self._longest_tick = longest_tick
        self._watched: dict[int, _Watch] = {}
        self._last: float | None = None

    def look(self, now: float, board: Iterable[tuple[int, int, int]]) -> list[Overdue]:
        """`board` has (slot, number of the running item, that of the first item of its call, 0 where it is alone there)
        of every worker that runs one; what is to be done now."""
        tick = 0.0 if self._last is None else min(max(0.0, now - self._last), self._longest_tick)
        self._last = now
        found, watched = [], {}
        for slot, number, first in board:
            watch = self._watched.get(slot)
            if watch is None or watch.call != (number, first):
                watch = _Watch((number, first))
            else:
                watch.seconds += tick
            watched[slot] = watch
            action = self._action(watch)
            if action is not None:
                found.append(Overdue(slot, number, action, watch.seconds))
        self._watched = watched
        return found

    def _action(self, watch: _Watch) -> Action | None:
        if watch.seconds >= self._timeout + self._patience:
            return Action.KILL
        if watch.seconds >= self._timeout and not watch.raised:
            watch.raised = True
            return Action.RAISE
        return None
