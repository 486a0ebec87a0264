"""The workers of this machine: a worker process and its executor each.

A worker is one worker process behind a ProcessPoolExecutor of its own (max_workers=1): when a worker dies its executor
breaks, and that costs this worker alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from batchmill.files.mapped_pickle import Pickled
from batchmill.pool import forkserver
from batchmill.pool.base import Event, Worker, WorkerPool
from batchmill.pool.executor import SingleProcessExecutor
from batchmill.pool.forkserver import NOTHING, Preload
from batchmill.pool.processes import Inherited, Origin
from batchmill.system.children import kill_marked, mark_of
from batchmill.worker import main
from batchmill.worker.board import Board
from batchmill.worker.command import CommandSpec
from batchmill.worker.main import WorkerSetup, folder_of
from batchmill.worker.records import ALARM, COLUMNS, COMMAND, LIMIT, NO_LIMIT, OVERDUE
from batchmill.worker.shared import SharedPickle

_PATIENCE = 0.25  # seconds that signals may have to wait while a fork server starts


def _preload_of(setup: WorkerSetup) -> Preload:
    """What the server imports: from beside the function, with the caps on threads that hold in workers."""
    if not setup.preload:
        return NOTHING
    capped = tuple((name, value) for name, value in sorted(setup.environ.items()) if os.environ.get(name) != value)
    return Preload(setup.preload, (folder_of(setup),), capped)


class LocalPool(WorkerPool):
    """The workers of a run on this machine.

    `arguments` are those of the function and of init, pickled; `output` is a descriptor that workers write to in place
    of stderr, `lock` one that workers lock to pass on what commands print (`passthrough`). By the start method fork,
    workers inherit the program's own descriptors, `foreign`.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        arguments: Pickled,
        size: int,
        put: Callable[[Event], None],
        *,
        start_method: str | None = None,
        output: int | None = None,
        lock: int | None = None,
        foreign: Iterable[int] = (),
    ) -> None:
        self.start_method = start_method or forkserver.default_start_method()
        self._given_all = SharedPickle(Pickled.of((setup, arguments)))
        self._shared = Board(COLUMNS * size)
        super().__init__(size, put, self._shared.numbers)
        self._is_open = True
        self._mark = setup.mark
        self.kill_after = setup.spec.kill_after if isinstance(setup.spec, CommandSpec) else 0.0
        stdout = None if lock is None else 1
        self._foreign = frozenset(foreign) - {output, lock}
        self._given = [output, lock, stdout]
        # Last, for what is raised before would leave a server that nobody ends.
        self._server = None if self.start_method == "fork" else forkserver.borrow(_preload_of(setup))

    def may_start(self) -> bool:
        """Modules that are preloaded may take their time."""
        return self._server is None or self._server.is_up(_PATIENCE)

    def start(self, slot: int) -> Worker:
        for column in range(COLUMNS):
            self._board[COLUMNS * slot + column] = NO_LIMIT if column == LIMIT else 0
        is_fork = self.start_method == "fork"
        given = [one if one is None or is_fork else Inherited(one) for one in self._given]
        name = f"batchmill worker {slot}"
        origin = Origin(self.start_method, self._server, name, self._foreign, adopts=bool(self._mark))
        executor = SingleProcessExecutor(origin, main.start, (self._shared, slot, self._given_all, given))
        worker = Worker(slot, executor)
        hello = executor.start(main.hello)
        worker.outstanding.append(("hello", 0))
        self._listen(worker, ("hello", 0), hello)
        worker.pid = executor.pid
        self.workers[slot] = worker
        return worker

    def gone(self) -> Iterator[Worker]:
        for worker in super().gone():
            self._end_command(worker)
            yield worker

    def _end_command(self, worker: Worker) -> None:
        """A worker that was killed from outside has left its command running, perhaps in a group or session of its own.
        The fork server ends that, as its own child now; but it may be gone as well."""
        if self._board[COLUMNS * worker.slot + COMMAND]:
            kill_marked(mark_of(self._mark, worker.slot))

    def close(self, patience: float) -> None:
        """Also all that workers have left behind."""
        super().close(patience)
        if self._is_open:
            self._is_open = False
            self._board = list(self._board)
            self._shared.close()
            self._given_all.close()
            if self._server is not None:
                forkserver.give_back(self._server)

    def ask_to_end(self, worker: Worker) -> None:
        self.lower(worker, 0, 0)
        self._alarm(worker)

    def ask_to_raise(self, worker: Worker, number: int) -> None:
        """Have the worker raise Timeout in the record with that number, if it is still at it."""
        self._board[COLUMNS * worker.slot + OVERDUE] = number
        self._alarm(worker)

    @staticmethod
    def _alarm(worker: Worker) -> None:
        try:
            os.kill(worker.pid, ALARM)
        except OSError:
            pass  # it died just now: an Event will tell
