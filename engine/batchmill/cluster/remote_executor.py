"""The futures of what a worker elsewhere was given.

The loop's calls come in its own thread, answers and ends in another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from batchmill.cluster.protocol import Death, pickled


class RemoteExecutor:
    """The way to the worker in `slot` of an agent, to which `send` takes messages. See base.Executor."""

    def __init__(self, send: Callable[..., None], slot: int) -> None:
        self._send = send
        self._slot = slot
        self._futures: dict[int, Future[Any]] = {}
        self._next = 0
        self._killed = False
        self.pid = 0
        self.is_dead = False
        self.death = Death()
        self.lowered = self.seen = 0  # limits sent, and seen: each counted in one thread

    @property
    def exitcode(self) -> int | None:
        return self.death.code

    @property
    def is_disconnected(self) -> bool:
        return self.death.disconnected

    @property
    def is_over(self) -> bool:
        return self.is_dead

    @property
    def is_deaf(self) -> bool:
        return False

    def expect(self) -> Future[Any]:
        """The future of the next number."""
        future: Future[Any] = Future()
        self._futures[self._next] = future
        self._next += 1
        return future

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        if self.is_dead:
            raise RuntimeError("the worker is gone")
        number, future = self._next, self.expect()
        self._send("submit", self._slot, number, pickled(function, arguments))
        if self.is_dead:  # meanwhile, in another thread
            self.fail()
        return future

    def answer(self, number: int, result: Any) -> None:
        """What the call `number` returned has come."""
        future = self._futures.pop(number, None)
        if future is not None:
            future.set_result(result)

    def fail(self) -> None:
        """Nothing more will come."""
        while self._futures:
            try:
                _, future = self._futures.popitem()
            except KeyError:  # another thread took it
                return
            future.set_exception(RuntimeError("the worker is gone"))

    def shutdown(self) -> None:
        self._send("end", self._slot)

    def kill(self) -> None:
        if not (self._killed or self.is_dead):
            self._killed = True
            self._send("kill", self._slot)

    def wait(self, seconds: float) -> None:
        time.sleep(min(0.01, max(0.0, seconds)))

    def close(self) -> None:
        pass
