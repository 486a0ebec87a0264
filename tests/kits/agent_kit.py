"""What the tests of workers elsewhere share: a real agent in a process of its own, without Dask."""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from batchmill.cluster.protocol import LEASE, PULSE, AgentSetup, framed, pack, pickled, read_message, unpack
from batchmill.cluster.remote_pool import Machine
from batchmill.files.mapped_pickle import Pickled
from batchmill.model import Chunk
from batchmill.settings import Settings
from batchmill.worker import records
from batchmill.worker.function import FunctionSpec
from batchmill.worker.main import WorkerSetup
from batchmill.worker.records import ChunkJob

LIMIT = 30.0


class NullCheckpoint:
    """A Link that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[list[Any]] = []

    def send(self, message: bytes) -> None:
        self.sent.append(unpack(message))

    def close(self) -> None:
        pass


class AgentProcess:
    """A real agent, born with PYTHONSAFEPATH as a host has it; as a Link, the way to it."""

    def __init__(self, setup: AgentSetup) -> None:
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "batchmill.cluster.agent"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**environ, "PYTHONSAFEPATH": "1"},
        )  # fmt: skip
        self.send(pickle.dumps(environ))
        self.send(pickle.dumps(setup))

    def send(self, message: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(framed(message))
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended, which who reads sees

    def close(self) -> None:
        if self.process.stdin is not None:
            try:
                self.process.stdin.close()
            except OSError:
                pass

    def read(self) -> bytes | None:
        """The next message; None at its end."""
        assert self.process.stdout is not None
        return read_message(self.process.stdout.read)

    def listen(self, machine: Machine) -> None:
        """Pass on what it says; at its end the machine is lost."""
        while (message := self.read()) is not None:
            machine.receive(message)
        machine.lose("its agent ended")

    def end(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait(LIMIT)
        self.close()


class Agent:
    """An agent with the function `work` of `source`, spoken to by messages alone; what it says is kept, in order."""

    def __init__(
        self,
        folder: Path,
        source: str,
        *,
        pool: int = 2,
        init: str | None = None,
        files: dict[str, dict[str, bytes]] | None = None,
        lease: float = LEASE,
        **limits: Any,
    ) -> None:
        self.path = folder / "items.py"
        self.path.write_text(source)
        spec = FunctionSpec("file", "items", "work", path=str(self.path), directory=str(folder))
        worker = WorkerSetup(
            spec=spec, init=init, format="jsonl", id_field=None, shard=None, with_item=False, run=1, ids_needed=True,
            environ={}, directory=str(folder), is_silent=False,
        )  # fmt: skip
        self.agent = AgentProcess(
            AgentSetup(range(pool), worker, Pickled.of(({}, {})), Settings(**limits), files or {}, lease)
        )
        self.process = self.agent.process
        self.said: list[list[Any]] = []
        self._new: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._numbers: dict[int, int] = {}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while (message := self.agent.read()) is not None:
            self._new.put(unpack(message))

    def send(self, *message: Any) -> None:
        """Send it a message."""
        self.agent.send(pack(*message))

    def pulse(self) -> None:
        """Tell it that the run is still there."""
        self.agent.send(PULSE)

    def run(self, slot: int, serial: int, *items: str, alone: bool = False) -> None:
        """Have a worker run a chunk of those lines."""
        data = "".join(f"{item}\n" for item in items).encode()
        chunk = Chunk(serial * 100, 1, 0, len(items), data, alone=alone)
        number = self._numbers[slot] = self._numbers.get(slot, 0) + 1
        order = pickled(records.run_chunk, (ChunkJob(serial, 0.0, 1, chunk),))
        self.send("submit", slot, number, order)

    def until(self, word: str, *rest: Any, limit: float = LIMIT) -> list[Any]:
        """The next message that begins like that; raises queue.Empty where none comes within `limit` seconds."""
        deadline = time.monotonic() + limit
        while True:
            message = self._new.get(timeout=max(0.01, deadline - time.monotonic()))
            self.said.append(message)
            if message[: 1 + len(rest)] == [word, *rest]:
                return message

    def until_running(self, slot: int, serial: int) -> None:
        """Wait until a record of that chunk is on the board of a worker."""
        while True:
            board = self.until("board")[1]
            if any(at == slot and number >> records.RECORD_BITS == serial for at, number, *_ in board):
                return

    def records(self, slot: int) -> int:
        """How many records the next reply of a worker covers."""
        return int(pickle.loads(self.until("reply", slot)[3]).records)

    def start(self, *slots: int) -> None:
        """Start workers, and wait until they are up."""
        for slot in slots:
            self.send("start", slot)
        waiting = set(slots)
        while waiting:
            waiting.discard(self.until("reply")[1])

    def is_silent(self, word: str, seconds: float = 0.4) -> bool:
        """Whether no such message comes for so long."""
        try:
            self.until(word, limit=seconds)
        except queue.Empty:
            return True
        return False

    def close(self) -> None:
        """End it; the rest is by SIGKILL."""
        self.agent.close()
        try:
            self.process.wait(LIMIT)
        finally:
            self.agent.end()
            self._thread.join(LIMIT)
