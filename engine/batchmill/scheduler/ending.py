"""The end of what still runs when a run is to end: a word where the workers can be told one, some time, then a kill.

    stop ---- the grace ----> ask ---- kill_after ----> kill        a signal; asked to insist, both come at once
    the time is up            ask ---- kill_after ----> cut off     what is killed is charged to nobody, and runs again

Workers that run functions cannot be asked: their items are killed.
"""

from __future__ import annotations

from collections.abc import Callable

from batchmill.pool.base import Worker, WorkerPool
from batchmill.text import plural

_SLACK = 0.1  # seconds that a worker may take to answer when what it ran has ended


class Ending:
    """How far the end has come. `grace` is the seconds that what runs may take after a signal; `say` takes a line."""

    def __init__(self, pool: WorkerPool, grace: float, say: Callable[[str], None]) -> None:
        self._pool = pool
        self._grace = max(grace - pool.kill_after, grace / 2)
        self._say = say
        self._deadline: float | None = None
        self._kill_at: float | None = None
        self._is_asked = False
        self.killed = False

    def begin(self, now: float) -> None:
        """Let what runs go on for the grace."""
        self._deadline = now + self._grace

    def wait_on(self) -> None:
        """What runs has another end than that of the grace."""
        self._deadline = None

    def look(self, now: float) -> None:
        """Do what is due at `now` (monotonic seconds)."""
        if self._kill_at is not None and now > self._kill_at and not self.killed:
            self.kill()
        if self._kill_at is None and self._deadline is not None and now > self._deadline:
            self.end(now)

    def end(self, now: float) -> None:
        """End what runs: with a word before, where there can be one, and the second time without."""
        if self._pool.kill_after and self._kill_at is None:
            self._kill_at = now + self._pool.kill_after + _SLACK
            self._ask()
        else:
            self.kill()

    def kill(self) -> None:
        """Kill all workers."""
        self.killed = True
        for worker in list(self._pool.workers.values()):
            self._pool.give_up(worker)

    # The time is up

    def ask(self, nothing_done: bool) -> None:
        """Have workers end what they run: it runs again. `nothing_done`: no item has ended in time."""
        if not self._is_asked:
            self._tell(self._busy(), nothing_done)
            self._ask()

    def cut_off(self, nothing_done: bool) -> None:
        """Kill the workers that still run items."""
        busy = self._busy()
        if not self._is_asked:
            self._tell(busy, nothing_done)
        for worker in busy:
            self._pool.give_up(worker)

    def _ask(self) -> None:
        self._is_asked = True
        for worker in self._busy():
            self._pool.ask_to_end(worker)

    def _busy(self) -> list[Worker]:
        """The workers that run items."""
        workers = self._pool.workers.values()
        return [worker for worker in workers if any(tag[0] != "render" for tag in worker.outstanding)]

    def _tell(self, busy: list[Worker], nothing_done: bool) -> None:
        running = sum(1 for worker in busy if self._pool.running(worker))
        if running:
            was = "was" if running == 1 else "were"
            remedy = "; none ended in time: give more" if nothing_done else ""
            self._say(
                f"{plural(running, 'item')} {was} still running when the time was up, and stopped to be run"
                f" again{remedy}"
            )
