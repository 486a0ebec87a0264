"""Where the workers of a batch are: here, unless it was asked for a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from batchmill.output.writer import OutputWriter
from batchmill.plan import Plan
from batchmill.pool.base import Event, WorkerPool
from batchmill.pool.local import LocalPool
from batchmill.pool.worker_limits import Limits, WorkerLimits
from batchmill.scheduler.rendering import OutputMaker
from batchmill.system.machine import Monitor, machine, raise_descriptor_limit, versions, worker_count


class Backend(Protocol):
    """Where workers are, how many, and who looks after them."""

    @property
    def workers(self) -> int:
        """How many workers there are; on a cluster the most there were, and before there are any, what was found."""

    def facts(self) -> dict[str, Any]:
        """What the RUN frame says of it."""

    def pool(
        self, run: int, put: Callable[[Event], None], output: int | None, lock: int | None, keep: int
    ) -> WorkerPool:
        """The workers of run number `run`; see Pool. `keep` is a descriptor that no worker may hold, or -1."""

    def output_maker(self, output: OutputWriter | None) -> OutputMaker:
        """Who makes the output of that run."""

    def limits(self, tick: float, message: Callable[[str], None]) -> Limits:
        """The limits on those workers."""

    def monitor(self) -> Monitor:
        """CPU and memory of the parent and those workers."""

    def places(self) -> dict[str, str] | None:
        """On which host each worker is, as far as that was not known at the last call; None: no news."""

    def close(self) -> None:
        """Let go of the site; the workers are closed."""


class LocalBackend:
    """This machine. `warn` takes a line for people; `foreign` as for Pool."""

    def __init__(self, plan: Plan, warn: Callable[[str], None], foreign: Iterable[int] = ()) -> None:
        self._plan = plan
        self._foreign = foreign
        wanted, _ = worker_count(plan.settings.workers)
        self.workers = raise_descriptor_limit(wanted)
        if self.workers < wanted:
            warn(f"Only {self.workers} of {wanted} workers fit under the limit of open files (ulimit -n)")

    def facts(self) -> dict[str, Any]:
        return {"workers": self.workers, "machine": machine(), "versions": versions()}

    def pool(
        self, run: int, put: Callable[[Event], None], output: int | None, lock: int | None, keep: int
    ) -> WorkerPool:
        plan, settings = self._plan, self._plan.settings
        inherited = settings.start_method == "fork" and keep >= 0
        setup = plan.worker_setup(self.workers, run=run, close=(keep,) if inherited else ())
        self._pool = LocalPool(
            setup,
            dict(plan.kwargs),
            self.workers,
            put,
            start_method=settings.start_method,
            preload=settings.preload,
            output=output,
            lock=lock,
            foreign=self._foreign,
        )
        return self._pool

    def output_maker(self, output: OutputWriter | None) -> OutputMaker:
        return OutputMaker(self._pool, output)

    def limits(self, tick: float, message: Callable[[str], None]) -> Limits:
        return WorkerLimits(self._pool, self._plan.watched, tick, message)

    def monitor(self) -> Monitor:
        return Monitor()

    def places(self) -> dict[str, str] | None:
        return None

    def close(self) -> None:
        pass
