"""How the workers of a run come up: the first alone, then the rest, and when to give up."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable

from batchmill.errors import BatchmillError, FunctionFailed, FunctionStarved, OutOfResources, WorkersLost
from batchmill.pool.base import Worker, WorkerPool
from batchmill.system.scarcity import lack_in, lacking, out_of_memory
from batchmill.text import describe_exit, option, plural
from batchmill.worker.main import Ready

SERVER_LOST = 255  # the exit status that multiprocessing invents where the fork server died
KILLED = -signal.SIGKILL
PROOF = 3  # machines on which an import must fail, before any succeeds, to end the run: one may lack a package
IN_A_ROW = 5  # workers in a row that may die while starting
_STILL_IMPORTING = 10.0  # seconds


def not_started(error: OSError, what: str, remedy: str = "") -> WorkersLost:
    """The error of a run that cannot have the workers it needs; `what` says how many there can be, `remedy` what else
    helps."""
    said = f"{what} can be started"
    found = lacking(error, said) or WorkersLost(f"{said}: {error}")
    found.remedy = "; ".join(filter(None, (found.remedy, remedy)))
    return found


def not_imported(patience: float) -> FunctionFailed:
    """The error of a function whose import took longer than `patience` seconds."""
    return FunctionFailed(
        f"the function's module was not imported within {patience:g} s",
        f"give more with {option('start_timeout')}, or look at what it does when imported",
    )


def died_importing(code: int | None) -> FunctionFailed:
    """The error of a function whose import was the end of a worker, with that exit status."""
    said = f"a worker {describe_exit(code)} while importing the function, reading its arguments or in init"
    return FunctionFailed(said, "try it with `batchmill try`")


class Startup:
    """Starts workers, and raises FunctionFailed or WorkersLost where that has no hope. `patience` is seconds.

    `any_ready` says whether a worker was ever up: then the function can be imported.
    """

    def __init__(self, pool: WorkerPool, patience: float, message: Callable[[str], None]) -> None:
        self._pool = pool
        self._patience = patience
        self._message = message
        self._died: Counter[str] = Counter()  # in a row, by machine
        self._unfit_machines: set[str] = set()
        self._told = False
        self._asked: float | None = None  # when the first worker was to start, if that had to wait
        self.any_ready = any(worker.ready for worker in pool.workers.values())  # a pool may be warm

    def start_first(self) -> None:
        """Start the first worker, where a slot is free: it shows whether the function can be imported."""
        for slot in self._pool.vacant()[:1]:
            self._start(slot)

    def start_missing(self) -> None:
        """Start a worker in every slot that is free, once the first one was up."""
        for slot in self._pool.vacant() if self.any_ready else ():
            if not self._start(slot):
                break

    def _start(self, slot: int) -> bool:
        """Start a worker in a free slot. False: go on with fewer, or not yet, where the loop would have to wait."""
        try:
            if not self._pool.may_start():
                self._asked = self._asked or time.monotonic()
                return False
            self._pool.start(slot)
        except OSError as error:
            if not self._pool.workers:
                raise not_started(error, "no worker") from error
            self._go_on_with_fewer(lack_in(error))
            return False
        return True

    def _go_on_with_fewer(self, why: str) -> None:
        if len(self._pool.workers) == self._pool.size:
            return  # it was one too many already
        self._pool.size = len(self._pool.workers)
        self._message(f"Only {plural(self._pool.size, 'worker')} could be started: {why}")

    def shrink(self, why: str) -> None:
        """Go on with one worker fewer."""
        self._pool.shrink()
        self._message(f"Only {plural(self._pool.size, 'worker')} from now on: {why}")

    def unheard(self) -> None:
        """A worker was lost because nothing in this process could serve it: there is no memory for as many."""
        if self._pool.size == 1:
            raise out_of_memory("no worker can be heard")
        self.shrink("there is no memory to serve more")

    def greet(self, worker: Worker, ready: Ready) -> None:
        """A worker says that it is up, or why it never will be."""
        if isinstance(ready.error, (FunctionStarved, OutOfResources)):
            self._starved(worker, ready.error)
        elif ready.error is not None:
            self._unfit(worker, ready.error)
        else:
            worker.ready = self.any_ready = True
            self._died[self._pool.machine_name(worker)] = 0

    def died(self, worker: Worker, memory: str | None = None) -> None:
        """A worker died before it was up; `memory` says what points to that as the cause."""
        code, machine = worker.executor.exitcode, self._pool.machine_name(worker)
        self._died[machine] += 1
        if code == KILLED and memory is not None:
            self._starved(worker, out_of_memory(f"a worker {describe_exit(code)} while starting"))
        elif worker.unstarted:
            self._unfit(worker, OutOfResources(f"no worker can be started: {worker.unstarted}", _remedy()))
        elif not self.any_ready and code != SERVER_LOST:
            self._unfit(worker, died_importing(code))
        elif self._died[machine] > IN_A_ROW:
            how = describe_exit(code)
            said = f"{self._died[machine]} workers in a row died while starting; the last one {how}"
            self._unfit(worker, OutOfResources(said, _remedy()))

    def _unfit(self, worker: Worker, error: BatchmillError) -> None:
        """A worker cannot come up. Before the first one did, that may be the function's fault: PROOF machines show
        it."""
        machine = self._pool.machine_name(worker)
        self._unfit_machines.add(machine)
        is_proven = type(error) is not FunctionFailed or len(self._unfit_machines) >= PROOF
        found = error if is_proven and not (self.any_ready or worker.unstarted) else self._pool.unfit(worker, error)
        if found is error and machine:
            raise type(error)(f"on {machine}: {error.message}", error.remedy)
        if found is not None:
            raise found

    def _starved(self, worker: Worker, error: BatchmillError) -> None:
        """A worker cannot come up for want of something: if there are others on this machine, they do the work."""
        others = (other for other in self._pool.workers.values() if other is not worker)
        if self._pool.machine_name(worker) or not any(other.ready for other in others):
            self._unfit(worker, error)
        else:
            self._pool.give_up(worker)
            self._go_on_with_fewer(error.message.splitlines()[-1])

    def watch(self, now: float) -> None:
        """Look at how long the first import takes, at `now` (monotonic seconds)."""
        if self.any_ready:
            return
        begun = [worker.started for worker in self._pool.workers.values()] or [self._asked or now]
        for waited in (now - moment for moment in begun):
            if waited > self._patience:
                raise not_imported(self._patience)
            if waited > _STILL_IMPORTING and not self._told:
                self._told = True
                self._message(f"Still importing the function's module after {waited:.0f} s")


def _remedy() -> str:
    fewer = f"fewer workers with {option('workers')}"
    return f"see what limits memory and processes there (ulimit -a, a container's own), or give {fewer}"
