"""What a worker is to everybody else: what it was given, how far it is, its limit and its end.

    start --> starting --hello--> ready --retire--> retiring --(all answered)--.
                 |                  |                  |                       v
                 '------------------+------------------'--broke, give_up--> lost --gone--> (the slot is free)

This is the one life of a worker, here, on an agent's node and for those who use a pool in part. All moves but one are
methods of WorkerPool; `ready` is set by who hears the hello, and knows what the worker must be able to do.
Where workers live is for subclasses to say: `local` has them on this machine, `cluster.remote_pool` on others. Whatever
a worker answers comes as an Event to `put`, which goes to `heard`. A worker is `gone` only when its process is
confirmed dead: till then nothing it was running may run elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from batchmill.errors import BatchmillError
from batchmill.text import in_words
from batchmill.worker import main
from batchmill.worker.records import CALL, COLUMNS, LIMIT, NO_LIMIT, OPENED, RECORD_BITS

LATE = 3.0  # seconds after which a broken executor's thread is not waited for any more
_MASK = (1 << RECORD_BITS) - 1
_MOMENT = 0.05  # seconds that a process may take from closing its files to being dead


class Event(NamedTuple):
    """A worker's answer: `future` holds what the call `tag` returned or raised."""

    worker: Worker
    tag: Any
    future: Future[Any]


class Executor(Protocol):
    """One worker process, and the way to have it call something."""

    @property
    def pid(self) -> int:
        """The process, on its own machine; 0 while that is not known."""

    @property
    def is_dead(self) -> bool:
        """Whether the process is confirmed to have ended."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it: only then may anyone ask for the exit code."""

    @property
    def is_disconnected(self) -> bool:
        """Whether the process was found alive though it could not be reached any more: an item closed its pipes."""

    @property
    def is_deaf(self) -> bool:
        """Whether its calls would wait for ever: what serves it in this process has ended, for want of memory."""

    @property
    def exitcode(self) -> int | None:
        """The worker's exit status, -N for signal N, 255 where its fork server died; None where nobody knows."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """As concurrent.futures.Executor.submit; raises RuntimeError where it is broken."""

    def shutdown(self) -> None:
        """Let the worker end when it has nothing more to do; returns at once."""

    def kill(self) -> None:
        """Kill the worker and all that its items started, at once."""

    def wait(self, seconds: float) -> None:
        """Wait for the process to be dead, at most so long."""

    def close(self) -> None:
        """Let go of what is kept of a dead process."""


class Worker:
    """One worker process in slot `slot`. `outstanding` holds the tags it has not answered."""

    def __init__(self, slot: int, executor: Executor) -> None:
        self.slot = slot
        self.executor = executor
        self.outstanding: list[Any] = []
        self.ready = False
        self.lost = False
        self.lowered = False
        self.retiring = False
        self.disconnected = False
        self.deaf = False  # it was given up because it could not be heard any more: nobody is charged
        self.raised = ""  # what came out of it where no item was at work
        self.alone = 0  # the serial of the chunk for which all of its machine was cleared
        self.machine_lost = ""  # the name of its machine, if that was lost with all its workers
        self.is_moving = False  # its board is that of a moment ago, and it got on since: told of workers elsewhere only
        self.is_spared = False  # it is known not to have ended because of what it had: nobody is charged
        self.unstarted = ""  # why its process could not be started, where that was found out later
        self.items = 0  # answered for, in all
        self.rss = 0  # bytes, when it was last looked at
        self.pid = 0
        self.started = time.monotonic()
        self.busy_since = 0.0  # when it was last given something while it had nothing else
        self.lost_at = 0.0
        self.ends_since: float | None = None  # when it was told to call what is to be called at its end


class WorkerPool:
    """The workers of a run, by slot. `put` takes Events, from any thread. `board` has COLUMNS numbers per slot."""

    def __init__(self, size: int, put: Callable[[Event], None], board: memoryview[int] | list[int]) -> None:
        self.size = size
        self.workers: dict[int, Worker] = {}
        self._put = put
        self._board = board
        self._dying: list[Worker] = []

    def start(self, slot: int) -> Worker:
        """Start a worker in a free slot; its `hello` comes as an Event with the tag ("hello", 0). Raises OSError."""
        raise NotImplementedError

    def may_start(self) -> bool:
        """Whether a start would not keep the caller waiting for long. Raises OSError where none is possible."""
        return True

    def vacant(self) -> list[int]:
        """The slots in which a worker can be started now."""
        if len(self.workers) + len(self._dying) >= self.size:
            return []
        dying = {worker.slot for worker in self._dying}
        return [slot for slot in range(self.size) if slot not in self.workers and slot not in dying]

    def submit(self, worker: Worker, tag: Any, function: Callable[..., Any], *arguments: Any) -> bool:
        """Have the worker call `function`; False where the worker turns out to be broken (an Event will tell)."""
        if worker.lowered and not worker.outstanding:
            self.lift(worker)
        if not worker.outstanding:
            worker.busy_since = time.monotonic()
        worker.outstanding.append(tag)
        try:
            future = worker.executor.submit(function, *arguments)
        except RuntimeError as error:  # BrokenProcessPool is one
            future = Future()
            future.set_exception(error)
        self._listen(worker, tag, future)
        return not future.done() or future.exception() is None

    def _listen(self, worker: Worker, tag: Any, future: Future[Any]) -> None:
        future.add_done_callback(lambda done: self._put(Event(worker, tag, done)))

    def heard(self, event: Event, *, of_items: bool = False) -> Any:
        """What a call has returned. None where nothing will come of the worker any more, if only because of how this
        call ended: what it had is taken care of when it is `gone`.

        Where the call raised something though the process lives, `of_items` it was left behind by an item, and the
        worker is spoiled; else it is a defect of ours, and raised.
        """
        worker, tag = event.worker, event.tag
        if tag in worker.outstanding:
            worker.outstanding.remove(tag)
            worker.busy_since = time.monotonic()
        if worker.lost:
            return None
        error = event.future.exception()
        if error is None:
            return event.future.result()
        if isinstance(error, RuntimeError):  # BrokenProcessPool is one
            self.broke(worker)
        elif of_items:
            self.spoiled(worker, in_words(error))
        else:
            raise error
        return None

    # The board

    def running(self, worker: Worker) -> tuple[int, int] | None:
        """(serial, offset) of the record that the worker is running, or was when it died; None between chunks."""
        number = self.number(worker)
        return (number >> RECORD_BITS, (number & _MASK) - 1) if number else None

    def number(self, worker: Worker) -> int:
        """The board's number of the record that the worker is running; 0 between chunks."""
        return self._board[COLUMNS * worker.slot]

    def call(self, worker: Worker) -> int:
        """The board's number of the first record of the call that covers several; 0 where none runs, or of one."""
        return self._board[COLUMNS * worker.slot + CALL]

    def first_of_call(self, worker: Worker) -> int | None:
        """The offset of that record, where the worker runs a call of several or did when it died; else None."""
        number = self.call(worker)
        return (number & _MASK) - 1 if number and number < self.number(worker) else None

    def opened(self, worker: Worker) -> int:
        """The board's number of the last record that the worker has opened to run it."""
        return self._board[COLUMNS * worker.slot + OPENED]

    def was_opened(self, worker: Worker, serial: int, offset: int) -> bool:
        """Whether record `offset` of chunk `serial` is the last one that the worker has opened to run it."""
        return self.opened(worker) == _number(serial, offset)

    def has_begun(self, worker: Worker, serial: int) -> bool:
        """Whether the worker has been at a record of chunk `serial`, as far as the board still tells."""
        return serial in (self.number(worker) >> RECORD_BITS, self.opened(worker) >> RECORD_BITS)

    def lower(self, worker: Worker, serial: int, offset: int) -> None:
        """Forbid the worker to start record `offset` of chunk `serial` or any later one, till all it has is
        answered."""
        limit = COLUMNS * worker.slot + LIMIT
        self._board[limit] = min(_number(serial, offset), self._board[limit])
        worker.lowered = True

    def lift(self, worker: Worker) -> None:
        """Let the worker start anything again: it has answered all that the limit was for."""
        self._board[COLUMNS * worker.slot + LIMIT] = NO_LIMIT
        worker.lowered = False

    kill_after = 0.0  # seconds that a worker may take to end what it runs, once it was asked to; 0: it cannot be asked

    def ask_to_end(self, worker: Worker) -> None:
        """Have the worker end what it runs, which is no item's fault, and answer what it has."""

    def unfit(self, worker: Worker, error: BatchmillError) -> BatchmillError | None:
        """A worker cannot come up, for that reason, though others have: what is to end the run, None to go on
        without."""
        return error

    calls_end = False  # whether something is to be called at the end of a worker that has nothing more to do
    ends_within = 0.0  # seconds that this may take

    isolates = False  # whether workers see to it themselves that a chunk which is to be alone is

    def shrink(self) -> None:
        """Go on with one worker fewer."""
        self.size -= 1
        if len(self.workers) > self.size:
            self.retire(self.workers[max(self.workers)])

    def machine_name(self, worker: Worker) -> str:
        """The machine that the worker is on; "" is this one."""
        return ""

    @property
    def round_trip(self) -> float:
        """Seconds that a message takes there and back, beyond what it takes on this machine."""
        return 0.0

    def has_seen(self, worker: Worker) -> bool:
        """Whether a worker that was up a moment after its limit was lowered is known to have seen it."""
        return True

    # Ends

    def kill(self, worker: Worker) -> None:
        """Kill the worker and all that its items started, at once."""
        worker.lowered = True
        self._board[COLUMNS * worker.slot + LIMIT] = 0
        worker.executor.kill()

    def broke(self, worker: Worker) -> None:
        """The worker's executor is broken, and ends its process if that is still there: `gone` says when."""
        if not worker.lost:
            self._let_go(worker)

    def spoiled(self, worker: Worker, trouble: str) -> None:
        """Something was raised in the worker where no item was at work, but one has left it behind: kill it."""
        worker.raised = trouble
        self.give_up(worker)

    def give_up(self, worker: Worker) -> None:
        """Kill the worker; `gone` says when its slot is free."""
        if worker.lost:
            return
        self._let_go(worker)
        self.kill(worker)

    def _let_go(self, worker: Worker) -> None:
        worker.lost = True
        worker.lost_at = time.monotonic()
        self._dying.append(worker)
        self.workers.pop(worker.slot, None)

    def retire(self, worker: Worker) -> None:
        """Give the worker nothing more; when it has answered all it has, it ends by itself and its slot becomes
        free."""
        worker.retiring = True
        self.lower(worker, 0, 0)
        if worker.outstanding or worker.lost:
            return
        if self._is_to_end(worker):
            self._note_end(worker)
            self.submit(worker, ("end", 0), main.end)
            return
        self._let_go(worker)
        worker.executor.shutdown()

    def _is_to_end(self, worker: Worker) -> bool:
        return self.calls_end and worker.ready and worker.ends_since is None

    def _note_end(self, worker: Worker) -> None:
        worker.ends_since = time.monotonic()
        worker.is_spared = True

    def end_idle(self) -> list[Future[main.Ended]]:
        """Have the workers that have nothing to do call what is to be called at their end; nothing is given to them
        after it."""
        found: list[Future[main.Ended]] = []
        for worker in self.workers.values():
            if not worker.outstanding and self._is_to_end(worker):
                self._note_end(worker)
                with suppress(RuntimeError):  # it broke just now
                    found.append(worker.executor.submit(main.end))
        return found

    def gone(self) -> Iterator[Worker]:
        """The workers given up whose process is dead and whose executor has come to rest since the last call."""
        for worker in [worker for worker in self.workers.values() if worker.executor.is_deaf]:
            worker.deaf = worker.is_spared = True
            self.give_up(worker)
        for worker in list(self.workers.values()):
            if worker.ends_since is not None and time.monotonic() - worker.ends_since > self.ends_within:
                self.give_up(worker)
        for worker in list(self._dying):
            late = time.monotonic() - worker.lost_at > LATE
            if not worker.executor.is_dead:
                if late:
                    worker.executor.kill()
                continue
            if worker.executor.is_over or late:
                self._dying.remove(worker)
                worker.disconnected = worker.executor.is_disconnected
                worker.executor.close()
                yield worker

    @property
    def dying(self) -> int:
        """Workers given up that are not confirmed dead yet."""
        return len(self._dying)

    @property
    def pids(self) -> list[int]:
        """The workers' processes, as far as they are on this machine."""
        return [worker.pid for worker in self.workers.values()]

    def dismiss(self) -> None:
        """Let all workers end when they are idle; returns at once. `close` waits for them."""
        for worker in (*self.workers.values(), *self._dying):
            worker.executor.shutdown()

    def close(self, patience: float) -> None:
        """End all workers: those that are idle by themselves, the rest by SIGKILL after `patience` seconds."""
        workers = [*self.workers.values(), *self._dying]
        self.dismiss()
        deadline = time.monotonic() + patience
        for worker in workers:
            while not worker.executor.is_dead and time.monotonic() < deadline:
                worker.executor.wait(deadline - time.monotonic())
        for worker in workers:
            worker.executor.kill()
        for worker in workers:
            worker.executor.wait(_MOMENT)  # what a worker holds is free when it is dead, not when it is killed
            worker.executor.close()
        self.workers.clear()
        self._dying.clear()


def _number(serial: int, offset: int) -> int:
    """What stands for record `offset` of chunk `serial` on the board."""
    return (serial << RECORD_BITS) + 1 + offset
