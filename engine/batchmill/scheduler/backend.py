"""What a run asks of the place where its workers are: this machine, or a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from batchmill.output.writer import OutputWriter
from batchmill.pool.base import Event, WorkerPool
from batchmill.pool.worker_limits import Limits
from batchmill.scheduler.rendering import OutputMaker
from batchmill.system.machine import Monitor


class Opened(NamedTuple):
    """The workers of a run, and who looks after them."""

    pool: WorkerPool
    output_maker: OutputMaker
    limits: Limits
    monitor: Monitor


PRELOADED = "Preloading once, shared by all workers"


class Wanted(NamedTuple):
    """What the workers of run number `run` are to do beside running items: `put` takes their Events, from any thread,
    `say` a line for people; `output` is to be made.

    `prints` is a descriptor that they write to in place of stderr, `lock` one that they lock to pass on what commands
    print, `keep` one that none of them may hold, or -1. Their limits are looked at every `tick` seconds.
    """

    run: int
    put: Callable[[Event], None]
    say: Callable[[str], None]
    tick: float
    output: OutputWriter | None = None
    prints: int | None = None
    lock: int | None = None
    keep: int = -1


class Backend(Protocol):
    """Where workers are, and how many."""

    @property
    def workers(self) -> int:
        """How many workers there are; on a cluster the most there were, and before there are any, what was found."""

    def facts(self) -> dict[str, Any]:
        """What the RUN frame says of it."""

    def open(self, wanted: Wanted) -> Opened:
        """The workers of a run; once."""

    def preloads(self) -> str:
        """What becomes of modules that are to be preloaded, in words."""

    def hosts(self) -> dict[str, str] | None:
        """On which host each worker is, as far as that was not known at the last call; None: no news."""

    def close(self) -> None:
        """Let go of the backend; the workers are closed."""
