"""Passing messages to one agent in a node (a Dask worker), and its messages back.

It never looks into a message.

    Link.talk --ask(requests), ask(wait)--> host.exchange ... --> Parting: why it ended, and whether the agent has

All of it runs in the event loop of the Dask client, but `send` and `close`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from batchmill.text import describe_exit

POLL = 2.0  # seconds that a question for messages waits for one
SILENCE = 10.0  # seconds without an answer after which a node, or the scheduler, counts as lost
HANGS = 60.0  # an agent that sends nothing for this many seconds hangs: it has something to send each second
ENDING = 4.0  # seconds for an agent to end when it is told to
_MOST = 8 << 20  # bytes in one message to a node, unless a single one is larger

Call = Callable[..., Coroutine[Any, Any, dict[str, Any]]]  # of host.exchange


class Parting(NamedTuple):
    """Why an agent is not talked to any more.

    `is_over`: it has ended, with its workers. `is_suspicious`: what it was running may be the cause.
    """

    why: str
    is_over: bool = False
    is_suspicious: bool = True


class Broken(Exception):
    """The way to an agent is no more; says why."""


class AgentConnection:
    """What is sent goes in order, as much at a time as has come together. See remote_pool.Link.

    `asked` is when the agent was last asked for anything, in monotonic seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Call) -> None:
        self._loop = loop
        self._call = call
        self._requests: deque[bytes] = deque()
        self._ready = asyncio.Event()
        self._is_closing = False
        self._departure: asyncio.Future[Parting] = loop.create_future()
        self._leaving: Parting | None = None  # the node has said so
        self.asked = time.monotonic()

    def send(self, message: bytes) -> None:
        self._requests.append(message)
        self._wake()

    def close(self) -> None:
        self._is_closing = True
        self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:
            pass  # the client is closed

    def depart(self, why: str) -> None:
        """Let `talk` end: the node is known to be going, whatever runs there."""
        if not self._departure.done():
            self._departure.set_result(Parting(why, is_suspicious=False))

    async def talk(self, take: Callable[[bytes], None]) -> Parting:
        """Pass messages to and fro until the agent has ended, cannot be reached, or its node goes; why."""
        sending = asyncio.ensure_future(self._deliver())
        receiving = asyncio.ensure_future(self._receive(take))
        ends: list[asyncio.Future[Any]] = [sending, receiving, self._departure]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._departure.done():
                return self._departure.result()
            if not receiving.done():
                sending.result()  # it ends before the other only where it breaks, or the link is closed
            return await receiving
        except Broken as error:
            return self._leaving or Parting(str(error))
        finally:
            sending.cancel()
            receiving.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)
            self._requests.clear()

    async def _deliver(self) -> None:
        """Send what there is, until closed."""
        while self._requests or not self._is_closing:
            self._ready.clear()
            if not self._requests:
                await self._ready.wait()
            batch: list[bytes] = []
            size = 0
            while self._requests and (not batch or size + len(self._requests[0]) <= _MOST):
                batch.append(self._requests.popleft())
                size += len(batch[-1])
            if batch:
                await self._ask(requests=batch)

    async def _receive(self, take: Callable[[bytes], None]) -> Parting:
        """Take what comes, until there is no more."""
        heard = time.monotonic()
        while True:
            answer = await self._ask(POLL + SILENCE, wait=POLL)
            for message in answer["messages"]:
                take(message)
                heard = time.monotonic()
            if answer["leaving"]:
                self._leaving = Parting("it is leaving the cluster", answer["over"], is_suspicious=False)
            if answer["over"]:
                await self._part()
                return self._leaving or _ended(answer["status"])
            if time.monotonic() - heard > HANGS:
                return Parting(f"its agent has said nothing for {HANGS:g} s")

    async def _ask(self, patience: float | None = None, **message: Any) -> dict[str, Any]:
        self.asked = time.monotonic()
        try:
            return await asyncio.wait_for(self._call(**message), patience)
        except TimeoutError:
            raise Broken(f"it has not answered for {SILENCE:g} s") from None
        except OSError:  # distributed's own is one
            raise Broken("its connection was closed") from None
        except Exception as error:  # whatever it was there, or at the scheduler
            raise Broken(f"{type(error).__name__}: {error}") from error

    async def _part(self) -> None:
        """Say that the agent's end is known: its node may be waiting for that."""
        try:
            await self._ask(POLL, parting=True)
        except Broken:
            pass  # the node has gone too

    async def leave(self, message: bytes, take: Callable[[bytes], None]) -> bool:
        """Send a last message, which ends the agent, and take what it still says; whether it is known to have ended."""
        deadline = time.monotonic() + ENDING
        requests = [message]
        try:
            while time.monotonic() < deadline:
                answer = await self._ask(POLL, requests=requests, wait=POLL / 2)
                for said in answer["messages"]:
                    take(said)
                if answer["over"]:
                    await self._part()
                    return True
                requests = []
        except Broken:
            pass
        return False


def _ended(status: int | None) -> Parting:
    """How an agent ended: its exit status, None where its host had given it up."""
    if status is None:
        return Parting("it was not asked for too long, and has ended what it ran", is_over=True, is_suspicious=False)
    return Parting(f"its agent {describe_exit(status)}", is_over=True)
