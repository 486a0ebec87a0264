"""The making of a run's output: which worker makes what, and what is to be made again.

    Output --next_job--> [fill] --submit--> worker ... [made] --> Output, which puts it in order
                             ^                  |
                             '---- [lost] <-----' that died over it

Where items run on this machine, their workers make the output between chunks. Where they run on others, workers of its
own do (LocalOutputMaker): what is to be made is in the checkpoint, which is here, and all of it would go there and
back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from batchmill.codec.unsaid import Unsaid
from batchmill.errors import WorkersLost
from batchmill.files.mapped_pickle import Pickled
from batchmill.output.external_sort import Work, fulfil
from batchmill.output.writer import OutputWriter
from batchmill.pool.base import Event, Worker, WorkerPool
from batchmill.pool.local import LocalPool
from batchmill.pool.startup import not_started
from batchmill.text import describe_exit
from batchmill.worker.main import Ready, WorkerSetup

_TURN = 16  # jobs handed out before the loop looks at what has come back
_WINDOW = 2  # jobs that a worker of a LocalOutputMaker has at a time
_IN_A_ROW = 5  # workers that may die over output before any is made, beyond one of each


class Due(NamedTuple):
    """Something to be done in the loop's thread."""

    action: Callable[[], None]


class OutputMaker:
    """Has what `output` jobs made by `workers`, those that run the items. Without an output there is nothing to
    do."""

    def __init__(self, pool: WorkerPool, output: OutputWriter | None) -> None:
        self._pool = pool
        self._output = output
        self._out: dict[int, tuple[Worker, Work]] = {}
        self._again: list[tuple[int, Work]] = []

    @property
    def is_busy(self) -> bool:
        """Whether a worker is making something."""
        return bool(self._out)

    @property
    def is_done(self) -> bool:
        """Whether all that can be made now is written."""
        return self._output is None or (self._output.is_done and not self._out and not self._again)

    @property
    def is_unread(self) -> bool:
        """Whether what is written has no reader any more."""
        return self._output is not None and self._output.is_unread

    @property
    def needs_worker(self) -> bool:
        """Whether a worker that runs items is to be started for output alone."""
        return not self.is_done

    @property
    def is_deserted(self) -> bool:
        """Whether there is no worker that could make anything."""
        return not self._pool.workers and not self._pool.dying

    def finish(self) -> None:
        """Every outcome has come: what is left is to be made."""
        if self._output is not None:
            self._output.finish()

    def fill(self, has_room: Callable[[Worker], bool]) -> bool:
        """Have workers that have room make what there is, the idlest first; whether there may be more for them."""
        if self.is_done:
            return False
        for _ in range(_TURN):
            free = filter(has_room, self._pool.workers.values())
            worker = min(free, key=lambda worker: len(worker.outstanding), default=None)
            found = self._next() if worker is not None else None
            if worker is None or found is None:
                return False
            number, work = found
            self._out[number] = (worker, work)
            self._pool.submit(worker, ("render", number), fulfil, work)
        return True

    def _next(self) -> tuple[int, Work] | None:
        if self._again:
            return self._again.pop()
        return None if self._output is None else self._output.next_job()

    def made(self, number: int, data: bytes, unsaid: Unsaid) -> None:
        """A worker has made job `number`."""
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

    def lost(self, worker: Worker) -> None:
        """A worker is dead: what it had goes to another."""
        for number in [number for number, (at, _) in self._out.items() if at is worker]:
            self._again.append((number, self._out.pop(number)[1]))

    def look(self) -> None:
        """See to workers of its own, if it has any."""

    def close(self) -> None:
        """End workers of its own, if it has any."""


class LocalOutputMaker(OutputMaker):
    """Has it made by `size` workers of its own on this machine, which start when there is something to make.

    `setup` is that of the run's workers. What its workers answer comes to `put` as Due. Raises WorkersLost where none
    can be started, or they die again and again.
    """

    _pool: LocalPool

    def __init__(self, setup: WorkerSetup, size: int, put: Callable[[Any], None], output: OutputWriter | None) -> None:
        setup = replace(setup, spec=None, init=None, end=None, preload=(), is_silent=True)
        super().__init__(
            LocalPool(setup, Pickled.of(({}, {})), size, lambda event: put(Due(partial(self._answered, event)))), output
        )
        self._died = 0

    @property
    def needs_worker(self) -> bool:
        return False

    @property
    def is_deserted(self) -> bool:
        """Never: its workers are started again."""
        return False

    def fill(self, has_room: Callable[[Worker], bool]) -> bool:
        """As OutputMaker.fill, by its own workers: `has_room` is of those that run items, and does not matter."""
        if not self.is_done:
            self._start_missing()
        return super().fill(lambda worker: worker.ready and len(worker.outstanding) < _WINDOW)

    def _start_missing(self) -> None:
        for slot in self._pool.vacant():
            try:
                self._pool.start(slot)
            except OSError as error:
                if not self._pool.workers:
                    raise not_started(error, "no worker for the output") from error
                self._pool.size = len(self._pool.workers)

    def _answered(self, event: Event) -> None:
        kind, number = event.tag
        answer = self._pool.heard(event)
        if answer is None:
            return
        if kind == "hello":
            self._greet(event.worker, answer)
        else:
            self.made(number, *answer)
            self._died = 0

    def _greet(self, worker: Worker, ready: Ready) -> None:
        if ready.error is not None:
            raise ready.error
        worker.ready = True

    def look(self) -> None:
        for worker in self._pool.gone():
            self.lost(worker)
            self._died += 1
            if self._died > self._pool.size + _IN_A_ROW:
                how = describe_exit(worker.executor.exitcode)
                sentence = f"{self._died} workers in a row died making the output; the last one {how}"
                raise WorkersLost(sentence, "`batchmill results` makes it from the checkpoint")

    def close(self) -> None:
        self._pool.close(0.0)
