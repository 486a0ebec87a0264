"""Owns passing messages to one agent in a Dask worker, and its messages back. Never looks into a message.

All of it runs in the event loop of the Dask client, but `send` and `close`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

POLL = 2.0  # seconds that a question for messages waits for one
SILENCE = 10.0  # seconds without an answer after which a worker, or the scheduler, counts as lost
HANGS = 60.0  # seconds without a word after which an agent does; it has something to say each second
_MOST = 8 << 20  # bytes in one message to a worker, unless a single order is larger

Call = Callable[..., Coroutine[Any, Any, dict[str, Any]]]  # of host.exchange


class Broken(Exception):
    """The way to an agent, or the agent, is no more; says why."""


class Link:
    """What is sent goes in order, as much at a time as has come together. See remote.Link."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Call) -> None:
        self._loop = loop
        self._call = call
        self._orders: deque[bytes] = deque()
        self._ready = asyncio.Event()
        self._is_closing = False

    def send(self, message: bytes) -> None:
        """See remote.Link."""
        self._orders.append(message)
        self._wake()

    def close(self) -> None:
        """See remote.Link."""
        self._is_closing = True
        self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:
            pass  # the client is closed

    async def talk(self, take: Callable[[bytes], None]) -> None:
        """Pass messages to and fro until the agent has ended; raises Broken where it cannot be reached."""
        sending = asyncio.ensure_future(self._deliver())
        receiving = asyncio.ensure_future(self._receive(take))
        try:
            await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            if not receiving.done():
                sending.result()
            await receiving
        finally:
            sending.cancel()
            receiving.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)

    async def _deliver(self) -> None:
        """Send what there is, until closed."""
        while self._orders or not self._is_closing:
            self._ready.clear()
            if not self._orders:
                await self._ready.wait()
            batch: list[bytes] = []
            size = 0
            while self._orders and (not batch or size + len(self._orders[0]) <= _MOST):
                batch.append(self._orders.popleft())
                size += len(batch[-1])
            if batch:
                await self._ask(orders=batch)

    async def _receive(self, take: Callable[[bytes], None]) -> None:
        """Take what comes, until the agent has ended."""
        heard = time.monotonic()
        while True:
            answer = await self._ask(POLL + SILENCE, wait=POLL)
            for message in answer["messages"]:
                take(message)
                heard = time.monotonic()
            if answer["over"]:
                return
            if time.monotonic() - heard > HANGS:
                raise Broken(f"its agent has said nothing for {HANGS:g} s")

    async def _ask(self, patience: float | None = None, **message: Any) -> dict[str, Any]:
        try:
            return await asyncio.wait_for(self._call(**message), patience)
        except asyncio.TimeoutError:
            raise Broken(f"it has not answered for {SILENCE:g} s") from None
        except OSError:  # distributed's own is one
            raise Broken("its connection was closed") from None
        except Exception as error:  # whatever it was there, or at the scheduler
            raise Broken(f"{type(error).__name__}: {error}") from error

    async def leave(self, message: bytes) -> None:
        """Send a last message, if that can be done soon: the agent is given up."""
        try:
            await asyncio.wait_for(self._call(orders=[message]), POLL)
        except Exception:
            pass  # as it seemed: it cannot be reached
