"""The agent of a run inside a node (a Dask worker): starts it, passes messages on, ends it.

It never looks into a message.

    client --open_session--> Host --stdin/stdout--> agent.main
    client --exchange(messages)--> ... <--messages--

Dask's tasks run in threads that cannot be killed, or in daemonic processes that may have no children; the agent is a
process of its own. It dies with the node (its stdin ends), and when the run has not asked for so long that it must be
gone or cut off (LEASE): the run waits that long before it has anything run elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any

from batchmill.cluster.protocol import LEASE, PULSE, framed, read_message
from batchmill.system.interpreter import command
from batchmill.version import __version__

HANDLER = "batchmill_exchange"
_BEAT = 1.0  # seconds between two pulses
_FAREWELL = 3.0  # seconds for the agent to end when this node does, and for its run to hear of it
_MOST = 8 << 20  # bytes in an answer, unless a single message is larger

_hosts: dict[str, AgentHost] = {}


class AgentHost:
    """One agent, in a node's process. `loop` is the node's."""

    def __init__(self, session: str, setup: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self._session = session
        self._loop = loop
        self._arrived = asyncio.Event()
        self._messages: deque[bytes] = deque()
        self._size = 0  # bytes in them
        self._room = threading.Condition()
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._asked = time.monotonic()
        self._is_abandoned = False
        self._next_beat = 0.0
        self._parted = asyncio.Event()  # the run has said that it knows of the agent's end
        self.is_leaving = False
        self.is_over = False
        self._process = subprocess.Popen(
            command("cluster.agent", "main"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the node's; should that end, so does the agent
        )
        self._requests.put(pickle.dumps(dict(os.environ)))
        self._requests.put(setup)
        for work in (self._write, self._read, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def _write(self) -> None:
        assert self._process.stdin is not None
        try:
            while (request := self._requests.get()) is not None:
                self._process.stdin.write(framed(request))
                self._process.stdin.flush()
        except OSError:
            pass  # it has ended, which _read sees
        finally:
            try:
                self._process.stdin.close()
            except OSError:
                pass

    def _read(self) -> None:
        """Take what the agent says; while nobody asks for what there is, it has to wait."""
        assert self._process.stdout is not None
        while (message := read_message(self._process.stdout.read)) is not None:
            with self._room:
                self._room.wait_for(lambda: self._size < _MOST or self._is_abandoned)
                self._messages.append(message)
                self._size += len(message)
            self._notify()
        self._process.wait()
        self.is_over = True
        self._requests.put(None)
        self._notify()

    def _notify(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:
            pass  # the node is closing

    def _watch(self) -> None:
        """End the agent when nobody has asked for it for too long, and let go of it."""
        while time.monotonic() - self._asked < LEASE:
            time.sleep(LEASE / 10)
        _hosts.pop(self._session, None)
        with self._room:
            self._is_abandoned = True
            self._room.notify()
        self._requests.put(None)  # an agent that hangs ends by itself: it has a lease too
        try:
            self._process.wait(LEASE)
        except subprocess.TimeoutExpired:
            self._process.kill()

    async def exchange(self, requests: list[bytes], wait: float) -> dict[str, Any]:
        """Send messages to the agent; then those it has sent, waiting for them at most `wait` seconds (0: none)."""
        self._asked = time.monotonic()
        if self._asked >= self._next_beat:
            self._next_beat = self._asked + _BEAT
            self._requests.put(PULSE)
        for request in requests:
            self._requests.put(request)
        if wait and not (self._messages or self.is_over):
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), wait)
            except TimeoutError:
                pass
        # Asked first: when it is over, nothing comes after what is taken.
        is_over = self.is_over
        messages = self._take() if wait else []
        over = is_over and wait > 0 and not self._messages
        return {
            "messages": messages,
            "over": over,
            "status": self._process.returncode if over else None,
            "leaving": self.is_leaving,
        }

    def part(self) -> None:
        """The run knows that there will be no more."""
        self._parted.set()

    async def leave(self) -> None:
        """The node is closing: end the agent, and give the run a moment to hear of it."""
        self.is_leaving = True
        self._requests.put(None)
        try:
            await asyncio.wait_for(self._parted.wait(), _FAREWELL)
        except TimeoutError:
            pass

    def _take(self) -> list[bytes]:
        taken: list[bytes] = []
        size = 0
        with self._room:
            while self._messages and (not taken or size + len(self._messages[0]) <= _MOST):
                taken.append(self._messages.popleft())
                size += len(taken[-1])
            self._size -= size
            self._room.notify()
        return taken


# What a client calls


def describe() -> dict[str, Any]:
    """What a client must know of this node before it sends anything."""
    return {
        "batchmill": __version__,
        "python": sys.version.split()[0],
        "implementation": sys.implementation.name,
        "host": os.uname().nodename,
    }


async def open_session(session: str, setup: bytes, dask_worker: Any) -> None:
    """Start an agent in this worker."""
    if HANDLER not in dask_worker.handlers:
        dask_worker.handlers[HANDLER] = exchange
        await dask_worker.plugin_add(_farewell(), name=HANDLER)
    _hosts[session] = AgentHost(session, setup, asyncio.get_running_loop())


def _farewell() -> Any:
    """A plugin for the node, which says goodbye to all runs when that closes."""
    from distributed import WorkerPlugin

    class Farewell(WorkerPlugin):  # type: ignore[misc]
        async def teardown(self, worker: Any) -> None:
            await asyncio.gather(*(host.leave() for host in _hosts.values()))

    return Farewell()


async def exchange(
    session: str, requests: list[bytes] | tuple[bytes, ...] = (), wait: float = 0.0, parting: bool = False
) -> dict[str, Any]:
    """See AgentHost.exchange.

    The answer has `messages`; `over` once there will be no more, and then the exit `status` of the agent (None where it
    was given up); `leaving` when the node is closing, and has therefore ended it. `parting` says that an answer with
    `over` has arrived: a node that is closing waits for it, since it takes its connections down with it.
    """
    host = _hosts.get(session)
    if host is not None and parting:
        _hosts.pop(session).part()
    if host is None or parting:
        return {"messages": [], "over": True, "status": None, "leaving": False}
    return await host.exchange(list(requests), wait)
