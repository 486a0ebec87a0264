"""The limits and the monitor of workers elsewhere: what their agents say of them."""

from __future__ import annotations

from typing import Any

from batchmill.cluster.remote_pool import RemotePool
from batchmill.errors import ItemError
from batchmill.model import Usage
from batchmill.pool.base import Worker
from batchmill.pool.worker_limits import Limits
from batchmill.system.machine import Monitor


class RemoteLimits(Limits):
    """The limits on workers elsewhere: the agents see to them, and say what came of it."""

    def __init__(self, pool: RemotePool, most_items: int | None) -> None:
        super().__init__(pool, most_items)
        self._pool = pool

    def look(self, now: float) -> None:
        """The agents do."""

    @property
    def tick(self) -> float | None:
        return None

    def killed_for(self, worker: Worker, code: int | None) -> ItemError | None:
        error = RemotePool.executor(worker).death.error
        return None if error is None else ItemError(*error)

    def memory_trouble(self, worker: Worker) -> str | None:
        return RemotePool.executor(worker).death.memory

    def forget(self, worker: Worker) -> None:
        pass

    def may_have_more(self, worker: Worker) -> bool:
        machine = self._pool.machine_of(worker)
        if not machine.is_short:
            return True
        return not any(other.outstanding for slot, other in self._pool.workers.items() if slot in machine.slots)


class RemoteMonitor(Monitor):
    """CPU and memory of the parent, and of all agents and their workers, as they last said."""

    def __init__(self, pool: RemotePool) -> None:
        self._remote = pool
        super().__init__()

    def sample(self, pids: Any) -> Usage:
        machines, (then, before) = self._remote.machines, self._last
        usage = super().sample(())
        self.cpu_seconds += self._remote.lost_cpu + sum(machine.cpu_seconds for machine in machines)
        rss = usage.rss + sum(machine.rss for machine in machines)
        self.peak_rss = max(self.peak_rss, rss)
        now = self._clock()
        percent = 100 * (self.cpu_seconds - before) / (now - then) if now > then else 0.0
        self._last = (now, self.cpu_seconds)
        return Usage(max(0.0, percent), rss, usage.parent_rss, usage.load, len(machines))
