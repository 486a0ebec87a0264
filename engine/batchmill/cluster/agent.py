"""The workers of one machine for a run elsewhere: `python -m batchmill.cluster.agent`.

    stdin: messages --> [requests] --> LocalPool ... Event --> [answers] --> stdout: messages    (`protocol` has them)

The same LocalPool and WorkerLimits as on one machine work here, so that time-outs, memory limits and what a dead worker
is charged with are as exact, and do not wait for a network. The agent ends, with all its workers, when stdin does, or
when nothing came from there for so long that the run may have its items run elsewhere.
"""

from __future__ import annotations

import os
import pickle
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple

from batchmill.cluster.protocol import PULSE, AgentSetup, Death, framed, pack, read_message, unpack
from batchmill.cluster.remote_output import Printed, Prints
from batchmill.cluster.waiting_calls import Call, WaitingCalls
from batchmill.errors import ItemError
from batchmill.pool import forkserver
from batchmill.pool.base import Event, Worker
from batchmill.pool.local import LocalPool
from batchmill.pool.processes import PATIENCE
from batchmill.pool.worker_limits import WorkerLimits
from batchmill.system.machine import Monitor, raise_descriptor_limit, thread_caps, usable_cores
from batchmill.text import speak_command_line
from batchmill.worker.code_bundle import deliver, settled
from batchmill.worker.main import WorkerSetup

TICK = 0.05  # seconds between looks at the workers
BOARD = 0.1  # seconds between looks at the board: a worker that is at the same item in two of them is reported
CALM = 0.5  # seconds between reports of a board on which all workers make progress
USAGE = 1.0  # seconds between looks at CPU and memory
SEEN = 0.002  # seconds after which a lowered limit is sure to have been seen by a running worker
_LAST = 3.0  # seconds for what is to be cleared up when the run is gone
_TURN = 100  # messages dealt with before the next look at the workers


_Numbers = tuple[int, int, int]  # of the record at hand, of the last one opened, and of the first of its call


class Lease:
    """Whether the run was heard of lately. Counted in the agent's own ticks: while it was stopped itself it heard
    nothing (engine/README.md#time-outs). `renew` is for any thread."""

    def __init__(self, seconds: float, now: float) -> None:
        self._seconds = seconds
        self._last = now
        self._silent = 0.0

    def renew(self) -> None:
        """The run was heard of."""
        self._silent = 0.0

    def is_over(self, now: float) -> bool:
        """Whether it was not for all the seconds; to be asked at every tick."""
        self._silent += min(now - self._last, 2 * TICK)
        self._last = now
        return self._silent > self._seconds


class Request(NamedTuple):
    """A message from the run."""

    words: list[Any]


class _AgentPool(LocalPool):
    """A pool whose limits and retirements are the run's to decide: there may be something on its way to a worker."""

    def __init__(self, ask: Callable[[Worker], None], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._ask = ask

    def lift(self, worker: Worker) -> None:
        """Not here, but where the run's next call comes in: what still waits came before the limit, which is for it
        too."""

    def retire(self, worker: Worker) -> None:
        self._ask(worker)


class Agent:
    """The workers of this machine; `send` takes messages to the run, `inbox` has Requests and what Workers answer."""

    def __init__(
        self,
        setup: AgentSetup,
        folder: str,
        environ: Mapping[str, str],
        send: Callable[..., None],
        inbox: queue.SimpleQueue[Any],
    ) -> None:
        self._send = send
        self._inbox = inbox
        self._prints = None if setup.worker.is_silent else Prints(inbox)
        self._cores = usable_cores()[0]
        raise_descriptor_limit(len(setup.slots))
        self._pool = _AgentPool(
            self._ask_to_retire,
            at_home(setup, folder, self._cores, environ),
            setup.arguments,
            setup.slots.stop,
            inbox.put,
            start_method=setup.limits.start_method,
            output=None if self._prints is None else self._prints.descriptor,
        )
        self._limits = WorkerLimits(self._pool, setup.limits, TICK, self._say)
        self.lease = Lease(setup.lease, time.monotonic())
        self._monitor = Monitor()
        self._asked: set[Worker] = set()
        self._lowered: list[tuple[float, Worker]] = []
        self._calls = WaitingCalls(self._pool, lambda serial: send("alone", serial))
        self._next_board = self._next_usage = self._next_calm = 0.0
        self._patience_at_end = PATIENCE
        self._usage: tuple[float, int, bool] = (0.0, 0, False)
        self._seen: dict[int, _Numbers] = {}  # by slot, at the last look at the board
        self._told: dict[int, _Numbers] = {}  # and at the last report of it
        self._told_held: set[tuple[int, _Numbers]] | None = None  # those that stood still; None: report anew
        self.is_over = False
        self._requests: Mapping[str, Callable[..., None]] = {
            "start": self._start,
            "submit": self._take_in,
            "lower": self._lower,
            "kill": self._kill,
            "end": self._end,
            "go": self._calls.go,
            "ack": self._ack,
            "bye": self._bye,
            "stop": self._stop,
        }

    # Requests

    def run(self) -> None:
        """Serve until the run says `bye`, or its end of the pipe is closed."""
        try:
            while not self.is_over:
                self._take(self._patience())
                self._tick(time.monotonic())
        finally:
            self._pool.close(self._patience_at_end if self.is_over else 0.0)
        if self._prints is not None:
            self._pass_on(self._prints)

    def _pass_on(self, prints: Prints) -> None:
        """All workers have ended: what they printed last is still on its way."""
        prints.close()
        deadline = time.monotonic() + PATIENCE
        while not self._inbox.empty() or (prints.is_open and time.monotonic() < deadline):
            try:
                found = self._inbox.get(timeout=TICK)
            except queue.Empty:
                continue
            if isinstance(found, Printed):
                self._handle(found)

    def _patience(self) -> float:
        return SEEN if self._lowered else min(TICK, self._limits.tick or TICK)

    def _take(self, seconds: float) -> None:
        try:
            self._handle(self._inbox.get(timeout=seconds))
            for _ in range(_TURN):
                self._handle(self._inbox.get_nowait())
        except queue.Empty:
            pass

    def _handle(self, found: Any) -> None:
        if isinstance(found, Event):
            self._answer(found)
        elif isinstance(found, Printed):
            self._send("output", found.data)
        else:
            self._requests[found.words[0]](*found.words[1:])

    def _start(self, slot: int) -> None:
        try:
            worker = self._pool.start(slot)
        except OSError as error:
            self._send("gone", slot, 0, 0, 0, Death(unstarted=str(error)))
            return
        self._send("started", slot, worker.pid)

    def _take_in(self, slot: int, number: int, call: bytes) -> None:
        worker = self._pool.workers.get(slot)
        if worker is not None and worker.lowered:
            LocalPool.lift(
                self._pool, worker
            )  # the run sends a worker with a limit nothing before all it had was answered
        self._calls.add(Call(slot, number, pickle.loads(call)))

    def _lower(self, slot: int, serial: int, offset: int) -> None:
        worker = self._pool.workers.get(slot)
        if worker is not None:
            self._pool.lower(worker, serial, offset)
            self._lowered.append((time.monotonic() + SEEN, worker))

    def _kill(self, slot: int) -> None:
        if slot in self._pool.workers:
            self._pool.give_up(self._pool.workers[slot])

    def _end(self, slot: int) -> None:
        worker = self._pool.workers.get(slot)
        if worker is not None:
            LocalPool.retire(self._pool, worker)

    def _ack(self) -> None:
        """The run has printed an output."""
        if self._prints is not None:
            self._prints.room.release()

    def _bye(self) -> None:
        self.is_over = True

    def _stop(self) -> None:
        """What workers are running may begin elsewhere at any moment; or there is no run any more."""
        self.is_over, self._patience_at_end = True, 0.0

    # Answers

    def _answer(self, event: Event) -> None:
        worker = event.worker
        answer = self._pool.heard(event, of_items=True)
        if answer is None:
            return
        number = 0 if event.tag == ("hello", 0) else event.tag
        self._send("reply", worker.slot, number, pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
        self._calls.answered(worker.slot, number)

    def _ask_to_retire(self, worker: Worker) -> None:
        if worker not in self._asked:
            self._asked.add(worker)
            self._send("retire", worker.slot)

    def _say(self, text: str) -> None:
        self._send("message", text)

    # Ticks

    def _tick(self, now: float) -> None:
        if self.lease.is_over(now):
            self._stop()
        self._limits.look(now)
        for worker in self._pool.gone():
            self._gone(worker)
        while self._lowered and self._lowered[0][0] <= now:
            worker = self._lowered.pop(0)[1]
            self._send("lowered", *self._standing(worker))
        if now >= self._next_usage:
            self._next_usage = now + USAGE
            self._look_at_usage()
        if now >= self._next_board:
            self._next_board = now + BOARD
            self._look_at_board(now)

    def _look_at_usage(self) -> None:
        usage = self._monitor.sample(self._pool.pids)
        short = not self._limits.has_memory
        self._usage = (self._monitor.cpu_seconds, usage.rss, short)
        self._told_held = None

    def _look_at_board(self, now: float) -> None:
        """Report the board when a worker begins to stand still or stops doing so, for the run may act on that; else now
        and then. Each report costs both machines as much as a chunk does."""
        board = {standing[0]: standing[1:] for standing in map(self._standing, self._pool.workers.values())}
        held = board.items() & self._seen.items()
        self._seen = board
        if held != self._told_held or (board != self._told and now >= self._next_calm):
            self._told, self._told_held, self._next_calm = board, held, now + CALM
            standings = [(slot, *numbers) for slot, numbers in board.items()]
            self._send("board", standings, [slot for slot, _ in board.items() - held], *self._usage)

    def _standing(self, worker: Worker) -> tuple[int, int, int, int]:
        return worker.slot, self._pool.number(worker), self._pool.opened(worker), self._pool.call(worker)

    def _gone(self, worker: Worker) -> None:
        code = worker.executor.exitcode
        error: ItemError | None = self._limits.killed_for(worker, code)
        memory = self._limits.memory_trouble(worker) if error is None else None
        told = None if error is None else (error.type, error.message)
        self._send(
            "gone", *self._standing(worker), Death(code, worker.disconnected, told, memory, raised=worker.raised)
        )
        self._limits.forget(worker)
        self._asked.discard(worker)
        self._lowered = [one for one in self._lowered if one[1] is not worker]  # its slot will be another's
        self._calls.forget(worker)


def at_home(setup: AgentSetup, folder: str, cores: int, environ: Mapping[str, str]) -> WorkerSetup:
    """The setup of a worker as it holds on this machine: the environment, its copies of the user's modules in `folder`.

    The working directory is the run's, where there is one of that name here.
    """
    worker, folders = setup.worker, deliver(setup.files, folder)
    return replace(
        worker,
        spec=settled(worker.spec, folders),
        init=settled(worker.init, folders),
        end=settled(worker.end, folders),
        script=settled(worker.script, folders),
        environ={**thread_caps(len(setup.slots), cores, environ), **environ},
        directory=worker.directory if os.path.isdir(worker.directory) else folder,
        close=(),
    )


def _read_requests(source: BinaryIO, inbox: queue.SimpleQueue[Any], lease: Lease) -> None:
    while (message := read_message(source.read)) is not None:
        lease.renew()
        if message != PULSE:
            inbox.put(Request(unpack(message)))
    inbox.put(Request(["stop"]))
    time.sleep(_LAST)  # no worker outlives this process: not even one that hangs is waited for
    os._exit(0)


def main() -> None:
    """Serve the run at the other ends of stdin and stdout."""
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    environ, data = read_message(source.read), read_message(source.read)
    if environ is None or data is None:
        return
    setup: AgentSetup = pickle.loads(data)
    if setup.worker.is_command_line:
        speak_command_line()
    if not setup.worker.preload:
        forkserver.prestart()
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def send(*message: Any) -> None:
        view = memoryview(framed(pack(*message)))
        while view:
            view = view[target.write(view) or 0 :]

    try:
        with tempfile.TemporaryDirectory(prefix="batchmill-") as folder:
            agent = Agent(setup, folder, pickle.loads(environ), send, inbox)
            threading.Thread(target=_read_requests, args=(source, inbox, agent.lease), daemon=True).start()
            send("up", os.getpid())
            agent.run()
    except BrokenPipeError:
        pass  # the run, or the node between us, is gone
    except (OSError, MemoryError) as error:  # no room in its temporary directory, no descriptors, no memory, …
        send("unfit", f"{type(error).__name__}: {error}")
    except Exception as error:
        import traceback

        send("broken", "".join(traceback.format_exception(error)))


if __name__ == "__main__":
    main()
