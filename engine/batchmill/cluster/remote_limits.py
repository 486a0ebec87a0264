"""The guard and the monitor of lanes elsewhere: what their agents say of them."""

from __future__ import annotations

from typing import Any

from batchmill.cluster.remote_pool import RemoteLanes
from batchmill.errors import ItemError
from batchmill.model import Usage
from batchmill.pool.base import Lane
from batchmill.pool.worker_limits import Guard
from batchmill.system.machine import Monitor


class RemoteGuard(Guard):
    """The limits on lanes elsewhere: the agents see to them, and say what came of it."""

    _pool: Any

    def look(self, now: float) -> None:
        """See Guard.look: the agents do."""

    @property
    def tick(self) -> float | None:
        """See Guard.tick."""
        return None

    def verdict(self, lane: Lane, code: int | None) -> ItemError | None:
        """See Guard.verdict."""
        error = RemoteLanes.executor(lane).death.error
        return None if error is None else ItemError(*error)

    def memory_trouble(self, lane: Lane) -> str | None:
        """See Guard.memory_trouble."""
        return RemoteLanes.executor(lane).death.memory

    def may_have_more(self, lane: Lane) -> bool:
        """See Guard.may_have_more, for each machine."""
        machine = self._pool.machine_of(lane)
        if not machine.is_short:
            return True
        return not any(other.outstanding for slot, other in self._pool.lanes.items() if slot in machine.slots)


class RemoteMonitor(Monitor):
    """CPU and memory of the parent, and of all agents and their lanes, as they last said."""

    def __init__(self, lanes: RemoteLanes) -> None:
        self._lanes_there = lanes
        super().__init__()

    def sample(self, pids: Any) -> Usage:
        """See Monitor.sample."""
        machines, (then, before) = self._lanes_there.machines, self._last
        usage = super().sample(())
        self.cpu_seconds += self._lanes_there.lost_cpu + sum(machine.cpu_seconds for machine in machines)
        rss = usage.rss + sum(machine.rss for machine in machines)
        self.peak_rss = max(self.peak_rss, rss)
        now = self._clock()
        percent = 100 * (self.cpu_seconds - before) / (now - then) if now > then else 0.0
        self._last = (now, self.cpu_seconds)
        return Usage(max(0.0, percent), rss, usage.parent_rss, usage.load, len(machines))
