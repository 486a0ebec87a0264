"""Owns the agent of a run inside a Dask worker: starts it, passes messages on, ends it. Never looks into a message.

    client --open_session--> Host --stdin/stdout--> `python -m batchmill.agent`
    client --exchange(messages)--> ... <--messages--

Dask's tasks run in threads that cannot be killed, or in daemonic processes that may have no children; the agent is a
process of its own. It dies with the worker (its stdin ends), and when the run has not asked for so long that it must be
gone or cut off (LEASE): then nothing it was running can be running elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import queue
import subprocess
import sys
import threading
import time
from typing import Any

from batchmill.version import __version__
from batchmill.wire import framed, read_message

HANDLER = "batchmill_exchange"
LEASE = 15.0  # seconds that an agent lives on without being asked
_MOST = 8 << 20  # bytes in an answer, unless a single message is larger

_hosts: dict[str, Host] = {}


class Host:
    """One agent, in a worker's process. `loop` is the worker's."""

    def __init__(self, setup: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arrived = asyncio.Event()
        self._messages: list[bytes] = []
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._asked = time.monotonic()
        self.is_over = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "batchmill.agent"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
        )
        self._orders.put(setup)
        for work in (self._write, self._read, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def _write(self) -> None:
        assert self._process.stdin is not None
        try:
            while (order := self._orders.get()) is not None:
                self._process.stdin.write(framed(order))
                self._process.stdin.flush()
        except OSError:
            pass  # it has ended, which _read sees
        finally:
            try:
                self._process.stdin.close()
            except OSError:
                pass

    def _read(self) -> None:
        assert self._process.stdout is not None
        while (message := read_message(self._process.stdout.read)) is not None:
            self._messages.append(message)
            self._notify()
        self.is_over = True
        self._orders.put(None)
        self._process.wait()
        self._notify()

    def _notify(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:
            pass  # the worker is closing

    def _watch(self) -> None:
        """End the agent when nobody has asked for it for too long."""
        while not self.is_over:
            time.sleep(LEASE / 10)
            if time.monotonic() - self._asked > LEASE:
                self.end()

    async def exchange(self, orders: list[bytes], wait: float) -> list[bytes]:
        """Send messages to the agent; then those it has sent, waiting for them at most `wait` seconds."""
        self._asked = time.monotonic()
        for order in orders:
            self._orders.put(order)
        if wait and not self._messages and not self.is_over:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), wait)
            except asyncio.TimeoutError:
                pass
            self._asked = time.monotonic()
        return self._take() if wait else []

    def _take(self) -> list[bytes]:
        count, size = 0, 0
        for message in list(self._messages):
            if count and size + len(message) > _MOST:
                break
            count, size = count + 1, size + len(message)
        taken = self._messages[:count]
        del self._messages[:count]
        return taken

    def end(self) -> None:
        """Have the agent end, with its lanes."""
        self._orders.put(None)


def _environment() -> dict[str, str]:
    """The agent imports this batchmill, whatever lies in its working directory."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


# What a client calls


def describe() -> dict[str, Any]:
    """What a client must know of this worker before it sends anything."""
    return {
        "batchmill": __version__,
        "python": sys.version.split()[0],
        "implementation": sys.implementation.name,
        "host": os.uname().nodename,
    }


def open_session(session: str, setup: bytes, dask_worker: Any) -> None:
    """Start an agent in this worker."""
    dask_worker.handlers[HANDLER] = exchange
    _hosts[session] = Host(setup, asyncio.get_running_loop())


async def exchange(session: str, orders: list[bytes] | tuple[bytes, ...] = (), wait: float = 0.0) -> dict[str, Any]:
    """See Host.exchange. The answer has `messages`, and `over` once there will be no more."""
    host = _hosts.get(session)
    if host is None:
        return {"messages": [], "over": True}
    messages = await host.exchange(list(orders), wait)
    over = host.is_over and wait > 0 and not messages
    if over:
        _hosts.pop(session, None)
    return {"messages": messages, "over": over}
