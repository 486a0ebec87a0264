"""What waits for the workers of an agent, in order, and what has the machine for itself.

A chunk that is to be alone waits till no worker is busy, and all behind it wait till it was answered for. The run is
told before it begins and after it has ended, and it begins when the run says that it knows: should the machine be lost
meanwhile, nothing else is to blame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from batchmill.pool.base import Worker, WorkerPool
from batchmill.worker.records import ChunkJob


class Call(NamedTuple):
    """A submission: the number by which it is answered, and what is to be called."""

    slot: int
    number: int
    call: tuple[Callable[..., Any], tuple[Any, ...]]

    @property
    def is_alone(self) -> bool:
        """Whether nothing else may run on this machine meanwhile."""
        job = self._job
        return job is not None and job.chunk.alone

    @property
    def serial(self) -> int:
        """The number of the chunk that is to be run."""
        return 0 if self._job is None else self._job.serial

    @property
    def _job(self) -> ChunkJob | None:
        arguments = self.call[1]
        return arguments[0] if arguments and isinstance(arguments[0], ChunkJob) else None


class WaitingCalls:
    """The calls for a pool's workers. `tell_alone` tells the run which chunk has the machine for itself; 0: none."""

    def __init__(self, pool: WorkerPool, tell_alone: Callable[[int], None]) -> None:
        self._pool = pool
        self._tell_alone = tell_alone
        self._waiting: deque[Call] = deque()
        self._alone: Call | None = None
        self._is_held = False  # till the run knows that nothing has the machine for itself any more

    def add(self, call: Call) -> None:
        """One more has come."""
        self._waiting.append(call)
        self.hand_out()

    def hand_out(self) -> None:
        """Give workers what may begin now."""
        while self._waiting and self._alone is None:
            busy = any(worker.outstanding for worker in self._pool.workers.values())
            if busy if self._waiting[0].is_alone else self._is_held:
                return
            call = self._waiting.popleft()
            if not call.is_alone:
                self._submit(call)
            elif call.slot in self._pool.workers:
                self._alone = call
                self._tell_alone(call.serial)

    def _submit(self, call: Call) -> None:
        worker = self._pool.workers.get(call.slot)
        if worker is not None:  # else it is gone, which the run was told
            function, arguments = call.call
            self._pool.submit(worker, call.number, function, *arguments)

    def go(self, serial: int) -> None:
        """The run knows that this chunk has the machine for itself, or (0) that none has any more."""
        if self._alone is not None and self._alone.serial == serial:
            self._submit(self._alone)
        elif not serial:
            self._is_held = False
            self.hand_out()

    def answered(self, slot: int, number: int) -> None:
        """A worker has answered a call."""
        self._end_alone(slot, number)
        self.hand_out()

    def forget(self, worker: Worker) -> None:
        """A worker is gone, and what it was to be given."""
        self._waiting = deque(call for call in self._waiting if call.slot != worker.slot)
        self._end_alone(worker.slot)
        self.hand_out()

    def _end_alone(self, slot: int, number: int | None = None) -> None:
        if self._alone is not None and self._alone.slot == slot and number in (None, self._alone.number):
            self._alone, self._is_held = None, True
            self._tell_alone(0)
