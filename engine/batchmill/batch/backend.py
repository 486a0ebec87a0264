"""This machine as the place where a batch has its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from batchmill.plan import Plan
from batchmill.pool.forkserver import default_start_method
from batchmill.pool.local import LocalPool
from batchmill.pool.worker_limits import WorkerLimits
from batchmill.scheduler.backend import PRELOADED, Opened, Wanted
from batchmill.scheduler.rendering import OutputMaker
from batchmill.system.machine import Monitor, machine, raise_descriptor_limit, versions, worker_count


class LocalBackend:
    """This machine. `warn` takes a line for people; `foreign` as for LocalPool."""

    def __init__(self, plan: Plan, warn: Callable[[str], None], foreign: Iterable[int] = ()) -> None:
        self._plan = plan
        self._foreign = foreign
        wanted, _ = worker_count(plan.settings.workers)
        self.workers = raise_descriptor_limit(wanted)
        if self.workers < wanted:
            warn(f"Only {self.workers} of {wanted} workers fit under the limit of open files (ulimit -n)")

    def facts(self) -> dict[str, Any]:
        return {"workers": self.workers, "machine": machine(), "versions": versions()}

    def open(self, wanted: Wanted) -> Opened:
        plan, settings = self._plan, self._plan.settings
        inherited = settings.start_method == "fork" and wanted.keep >= 0
        pool = LocalPool(
            plan.worker_setup(self.workers, run=wanted.run, close=(wanted.keep,) if inherited else ()),
            plan.arguments(),
            self.workers,
            wanted.put,
            start_method=settings.start_method,
            output=wanted.prints,
            lock=wanted.lock,
            foreign=self._foreign,
        )
        limits = WorkerLimits(pool, plan.watched, wanted.tick, wanted.say)
        return Opened(pool, OutputMaker(pool, wanted.output), limits, Monitor())

    def preloads(self) -> str:
        method = self._plan.settings.start_method or default_start_method()
        return PRELOADED if method == "forkserver" else f"Imported in each worker (start method {method})"

    def hosts(self) -> dict[str, str] | None:
        return None

    def close(self) -> None:
        pass
