"""The end of what still runs: asked first where it can be, then killed."""

from __future__ import annotations

from typing import Any

from batchmill.pool.base import Worker, WorkerPool
from batchmill.scheduler.ending import Ending


class Pool(WorkerPool):
    """One busy worker; what happens to it is in `seen`."""

    def __init__(self, kill_after: float) -> None:
        super().__init__(1, lambda event: None, [0] * 5)
        self.kill_after = kill_after
        worker: Any = Worker(0, None)  # type: ignore[arg-type]
        worker.outstanding.append(("run", 1))
        self.workers[0] = worker
        self.seen: list[str] = []

    def running(self, worker: Worker) -> tuple[int, int] | None:
        return 1, 0

    def ask_to_end(self, worker: Worker) -> None:
        self.seen.append("asked")

    def give_up(self, worker: Worker) -> None:
        self.seen.append("killed")


def test_after_the_grace_it_is_asked_and_then_killed_within_it() -> None:
    pool = Pool(2.0)
    ending = Ending(pool, 10.0, lambda line: None)
    ending.begin(100.0)
    seen = []
    for now in (107.9, 108.1, 110.0, 110.3):
        ending.look(now)
        seen.append(list(pool.seen))
    assert seen == [[], ["asked"], ["asked"], ["asked", "killed"]]
    assert ending.killed


def test_asked_to_insist_it_is_asked_at_once_and_killed_at_the_next_time() -> None:
    pool = Pool(2.0)
    ending = Ending(pool, 10.0, lambda line: None)
    ending.begin(100.0)
    ending.end(101.0)
    assert (pool.seen, ending.killed) == (["asked"], False)
    ending.end(102.0)
    assert (pool.seen, ending.killed) == (["asked", "killed"], True)


def test_what_cannot_be_asked_is_killed() -> None:
    pool = Pool(0.0)
    Ending(pool, 10.0, lambda line: None).end(1.0)
    assert pool.seen == ["killed"]


def test_when_the_time_is_up_what_runs_is_told_of_once() -> None:
    pool, said = Pool(1.0), list[str]()
    ending = Ending(pool, 10.0, said.append)
    ending.ask(nothing_done=True)
    ending.ask(nothing_done=True)
    ending.cut_off(nothing_done=True)
    assert pool.seen == ["asked", "killed"]
    assert said == ["1 item was still running when the time was up, and stopped to be run again; none ended in time:"
                    " give more"]  # fmt: skip
    assert not ending.killed
