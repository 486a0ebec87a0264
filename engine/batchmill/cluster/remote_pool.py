"""Workers on other machines: a WorkerPool whose workers are an agent's.

    RemotePool --messages--> Machine --Link--> agent --> its LocalPool, its workers
         ^                                        |
         '------ futures, board, ends <-----------'

The loop's calls come in its own thread, an agent's messages in any other one. What must happen in the loop's thread is
kept till `gone` is called, at every turn of the loop.
"""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from batchmill.cluster.protocol import Death, pack, unpack
from batchmill.cluster.remote_executor import RemoteExecutor
from batchmill.cluster.remote_output import Printer
from batchmill.errors import BatchmillError, ClusterUnfit, WorkersLost
from batchmill.pool.base import Event, Worker, WorkerPool
from batchmill.text import plural
from batchmill.worker.records import CALL, COLUMNS, LIMIT, NO_LIMIT, OPENED


class Link(Protocol):
    """The way to an agent."""

    def send(self, message: bytes) -> None:
        """Send a message, in order; returns at once, and never raises."""

    def close(self) -> None:
        """Send nothing more when what was sent is there; returns at once."""


class Machine:
    """An agent and its workers, in `slots`. `name` is what people know it by, `host` where it is; a message takes
    `round_trip` seconds there and back."""

    def __init__(
        self, workers: RemotePool, name: str, host: str, link: Link, slots: range, *, round_trip: float
    ) -> None:
        self.name = name
        self.host = host
        self.slots = slots
        self.round_trip = round_trip
        self.spent: set[int] = set()  # slots in which no process can be started
        self.unfit: BatchmillError | None = None  # why it cannot work for this run
        self.is_up = False
        self.is_lost = False
        self.is_short = False  # of memory
        self.cpu_seconds = 0.0
        self.rss = 0
        self.alone = 0
        self._pool = workers
        self._link = link
        self._heard: Mapping[str, Callable[..., None]] = {
            "up": self._up,
            "started": self._started,
            "reply": self._reply,
            "alone": self._alone,
            "lowered": self._lowered,
            "board": self._board,
            "retire": self._retire,
            "gone": self._gone,
            "output": self._output,
            "message": self._message,
            "unfit": self._unfit,
            "broken": self._broken,
        }

    def send(self, *message: Any) -> None:
        """Send a message, unless the machine is lost."""
        if not self.is_lost:
            self._link.send(pack(*message))

    def receive(self, message: bytes) -> None:
        """A message of the agent has come, in order."""
        if self.is_lost:
            return
        word, *rest = unpack(message)
        self._heard[word](*rest)

    def lose(self, why: str, *, is_suspicious: bool = True) -> None:
        """The machine, or the way to it, is lost, with all its workers; `is_suspicious`: what ran may be the cause."""
        if not self.is_lost:
            self.is_lost = True
            self._pool.lose(self, why, is_suspicious and self.unfit is None)

    def refuse(self, error: BatchmillError) -> None:
        """It cannot work for this run: let its agent end."""
        self.unfit = self.unfit or error
        self.send("stop")
        self._link.close()

    def close(self) -> None:
        """Let the agent end."""
        self.send("bye")
        self._link.close()

    def _up(self, pid: int) -> None:
        self.is_up = True
        self._pool.wake()

    def _started(self, slot: int, pid: int) -> None:
        worker = self._pool.at(self, slot)
        if worker is not None:
            worker.pid = self._pool.executor(worker).pid = pid

    def _reply(self, slot: int, number: int, result: bytes) -> None:
        worker = self._pool.at(self, slot)
        if worker is not None:
            self._pool.executor(worker).answer(number, pickle.loads(result))

    def _alone(self, serial: int) -> None:
        self.alone = serial
        self.send("go", serial)

    def _lowered(self, *standing: int) -> None:
        worker = self._pool.at(self, standing[0])
        if worker is not None:
            self._pool.publish(self, [standing])
            self._pool.executor(worker).seen += 1

    def _board(
        self, standings: list[list[int]], moving: list[int], cpu_seconds: float, rss: int, is_short: bool
    ) -> None:
        self.cpu_seconds, self.rss, self.is_short = cpu_seconds, rss, is_short
        self._pool.publish(self, standings)
        for slot, *_ in standings:
            worker = self._pool.at(self, slot)
            if worker is not None:
                worker.is_moving = slot in moving

    def _retire(self, slot: int) -> None:
        worker = self._pool.at(self, slot)
        if worker is not None:
            self._pool.later(lambda: self._pool.retire(worker))

    def _gone(self, slot: int, number: int, opened: int, call: int, told: list[Any]) -> None:
        worker = self._pool.at(self, slot)
        if worker is not None:
            self._pool.publish(self, [(slot, number, opened, call)])
            death = self._pool.executor(worker).death = Death(*told)
            worker.unstarted, worker.raised = death.unstarted, death.raised
            self._pool.end(worker)

    def _output(self, data: bytes) -> None:
        self._pool.print(data, lambda: self.send("ack"))

    def _message(self, text: str) -> None:
        self._pool.later(lambda: self._pool.say(f"{self.name}: {text}"))

    def _unfit(self, text: str) -> None:
        self.refuse(ClusterUnfit(f"worker {self.name} cannot have workers: {text}", "look at what it lacks there"))

    def _broken(self, text: str) -> None:
        self._pool.fail(WorkersLost(f"the agent at {self.name} broke:\n{text}", "this is a defect of batchmill"))


class RemotePool(WorkerPool):
    """Workers on machines that come and go.

    `say` takes a line for people, `output` is a descriptor for what items print, `check` raises
    where no message can come any more. Only `add`, `reserve` and what Machine calls is for other threads. What ends a
    run that no machine can work for is raised by `gone`.
    """

    isolates = True  # agents do

    def __init__(
        self,
        put: Callable[[Any], None],
        wake: Any,
        say: Callable[[str], None],
        output: int | None = None,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._slots: list[int] = []  # the board
        super().__init__(0, put, self._slots)
        self._wake = wake
        self._printer = Printer(2 if output is None else output)
        self._machines: list[Machine] = []
        self._left: list[tuple[str, range]] = []  # host and slots of those that are no more
        self._by_slot: dict[int, Machine] = {}
        self._living: dict[int, Worker] = {}  # until their end was heard of
        self._later: deque[Callable[[], None]] = deque()
        self._failure: BatchmillError | None = None
        self._check = check
        self.say = say
        self.lost_cpu = 0.0
        self.was_used = False  # a worker came up, and was given something
        self.most = 0  # workers that there was room for at once
        self.is_closed = False

    # Machines

    def add(self, name: str, host: str, link: Link, slots: range, *, round_trip: float = 0.0) -> Machine:
        """A machine with room for workers in those slots; it has them when it says that it is up."""
        machine = Machine(self, name, host, link, slots, round_trip=round_trip)
        self._by_slot.update(dict.fromkeys(machine.slots, machine))
        self._machines.append(machine)
        self.size += len(slots)
        self.most = max(self.most, self.size)
        return machine

    def hosts(self, first: int = 0) -> list[tuple[int, str]]:
        """The slots that machines had so far, in the order in which they came, from the number `first` on, each with
        its host: that stays the same, whoever comes and goes."""
        if len(self._by_slot) == first:
            return []
        return [(slot, machine.host) for slot, machine in list(self._by_slot.items())[first:]]

    def reserve(self, host: str, workers: int) -> range:
        """New slots for a machine; or those of a machine of the same host that was lost, and has been dealt with."""
        taken = [worker.slot for worker in (*list(self.workers.values()), *list(self._dying))]
        for where, slots in self._left:
            if where == host and len(slots) == workers and not any(slot in slots for slot in taken):
                self.release(where, slots, again=True)
                return slots
        first = len(self._slots) // COLUMNS
        self._slots.extend([0] * COLUMNS * workers)
        return range(first, first + workers)

    def release(self, host: str, slots: range, *, again: bool = False) -> None:
        """Slots that were reserved are free for another machine of that host; or are taken `again`."""
        if again:
            self._left.remove((host, slots))
        else:
            self._left.append((host, slots))

    @property
    def machines(self) -> Sequence[Machine]:
        """Those that are there."""
        return tuple(machine for machine in list(self._machines) if not machine.is_lost)

    def machine_of(self, worker: Worker) -> Machine:
        """Where a worker is."""
        return self._by_slot[worker.slot]

    def lose(self, machine: Machine, why: str, is_suspicious: bool) -> None:
        """A machine is lost: so are its workers."""
        self.size -= len(machine.slots) - len(machine.spent)
        self.lost_cpu += machine.cpu_seconds
        self._machines.remove(machine)
        self.release(machine.host, machine.slots)
        if not self.is_closed and machine.unfit is None:
            self.later(lambda: self.say(f"Lost {machine.name}: {why}"))
        for worker in [worker for slot, worker in list(self._living.items()) if slot in machine.slots]:
            worker.machine_lost, worker.is_spared = machine.name, not is_suspicious
            worker.alone = machine.alone
            self.end(worker)
        self.wake()

    def wake(self) -> None:
        """Have the loop look at what is new."""
        self._put(self._wake)

    def fail(self, error: BatchmillError) -> None:
        """Have the run end with `error`."""
        self._failure = self._failure or error
        self.wake()

    def later(self, action: Callable[[], None]) -> None:
        """Have something done in the loop's thread."""
        self._later.append(action)
        self.wake()

    # Workers, for a machine

    def at(self, machine: Machine, slot: int) -> Worker | None:
        """The worker in that slot whose end was not heard of yet."""
        return self._living.get(slot) if slot in machine.slots else None

    @staticmethod
    def executor(worker: Worker) -> RemoteExecutor:
        """A worker's executor as what it is."""
        assert isinstance(worker.executor, RemoteExecutor)
        return worker.executor

    def publish(self, machine: Machine, standings: Sequence[Sequence[int]]) -> None:
        """What workers are at: for each its slot, the numbers of the record at hand, of the last one opened, and of the
        first of its call."""
        for slot, number, opened, call in standings:
            if slot in machine.slots and slot in self._living:
                self._board[COLUMNS * slot] = number
                self._board[COLUMNS * slot + OPENED] = opened
                self._board[COLUMNS * slot + CALL] = call

    def end(self, worker: Worker) -> None:
        """A worker is dead."""
        executor = self.executor(worker)
        self._living.pop(worker.slot, None)
        executor.is_dead = True
        executor.fail()

    def print(self, data: bytes, then: Callable[[], None]) -> None:
        """Items have printed; `then` is called when that is written."""
        self._printer.print(data, then)

    # Workers, for the loop

    def vacant(self) -> list[int]:
        if len(self.workers) + len(self._dying) >= self.size:
            return []
        taken = self.workers.keys() | {worker.slot for worker in self._dying}
        able = [machine for machine in self.machines if machine.is_up and machine.unfit is None]
        return [slot for one in able for slot in one.slots if slot not in taken and slot not in one.spent]

    def start(self, slot: int) -> Worker:
        machine = self._by_slot[slot]
        for column in range(COLUMNS):
            self._board[COLUMNS * slot + column] = NO_LIMIT if column == LIMIT else 0
        executor = RemoteExecutor(machine.send, slot)
        worker = Worker(slot, executor)
        tag = ("hello", 0)
        worker.outstanding.append(tag)
        worker.busy_since = time.monotonic()
        executor.expect().add_done_callback(lambda done: self._put(Event(worker, tag, done)))
        self.workers[slot] = self._living[slot] = worker
        machine.send("start", slot)
        if machine.is_lost:
            worker.machine_lost = machine.name
            self.end(worker)
        return worker

    def submit(self, worker: Worker, tag: Any, function: Callable[..., Any], *arguments: Any) -> bool:
        self.was_used = True
        return super().submit(worker, tag, function, *arguments)

    def lower(self, worker: Worker, serial: int, offset: int) -> None:
        super().lower(worker, serial, offset)
        executor = self.executor(worker)
        if not executor.is_dead:
            executor.lowered += 1
            self._by_slot[worker.slot].send("lower", worker.slot, serial, offset)

    def has_seen(self, worker: Worker) -> bool:
        executor = self.executor(worker)
        return executor.seen >= executor.lowered

    def machine_name(self, worker: Worker) -> str:
        return self.machine_of(worker).name

    def unfit(self, worker: Worker, error: BatchmillError) -> BatchmillError | None:
        """As WorkerPool.unfit: the run goes on without the slot, or without the machine."""
        machine = self.machine_of(worker)
        if worker.unstarted and any(slot in machine.slots for slot in self.workers):
            machine.spent.add(worker.slot)
            self.size -= 1
            able = plural(len(machine.slots) - len(machine.spent), "worker")
            self.say(f"Only {able} could be started on {machine.name}: {worker.unstarted}")
        elif machine.unfit is None:
            said = f"worker {machine.name} cannot work for this run: {error.message}"
            machine.refuse(ClusterUnfit(said, "install there what it lacks, or put it beside the function's file"))
        return None

    @property
    def round_trip(self) -> float:
        """The median of the machines'."""
        found = sorted(machine.round_trip for machine in self.machines)
        return found[len(found) // 2] if found else 0.0

    @property
    def pids(self) -> list[int]:
        """None: they are on other machines."""
        return []

    def gone(self) -> Iterator[Worker]:
        """As WorkerPool.gone; raises what ends the run."""
        self.catch_up()
        self._check()
        if self._failure is not None:
            raise self._failure
        for worker in list(self.workers.values()):
            if self.executor(worker).is_dead and not worker.outstanding:  # an idle one: nothing else would tell
                self.give_up(worker)
        yield from super().gone()

    def catch_up(self) -> None:
        """Do what other threads have left for the loop's so far."""
        for _ in range(len(self._later)):
            self._later.popleft()()

    def last_words(self) -> None:
        """No message will come any more: do what the last ones left, and wait for prints to be written."""
        self.catch_up()
        self._printer.close()

    def close(self, patience: float) -> None:
        self.is_closed = True
        for machine in self.machines:
            machine.close()
        self.workers.clear()
        self._dying.clear()
