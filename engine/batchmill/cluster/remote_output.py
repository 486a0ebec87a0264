"""What items elsewhere print, on its way from there to a descriptor here.

Only its own thread waits for a reader.

    Prints (in an agent) --output--> Printer.print --queue--> thread --write--> terminal, file or pipe
      ^                                                         |
      '---------------------------- ack ------------------------'

A terminal may be held, a pipe be full: then agents get no acknowledgement, send no more than ROOM messages each, and
the items that print more have to wait. So the queue needs no bound of its own.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

ROOM = 16  # messages of prints that an agent may have on their way
PATIENCE = 3.0  # seconds without a reader after which the rest is given up, at the end
_MESSAGE = 1 << 16  # bytes of prints in a message
_PIECE = 1 << 12  # bytes written at a time: a reader that is slow shows as one


class Printer:
    """Writes to a copy of `descriptor`, in order, what it is given."""

    def __init__(self, descriptor: int) -> None:
        self._queue: queue.SimpleQueue[tuple[bytes, Callable[[], None]] | None] = queue.SimpleQueue()
        self._pieces = 0  # written
        self._is_given_up = False
        try:
            self._descriptor = os.dup(descriptor)  # another may have the number when it is closed
        except OSError:
            self._descriptor = -1  # closed from the start: nobody listens
        self._thread = threading.Thread(target=self._run, name="prints", daemon=True)
        self._thread.start()

    def print(self, data: bytes, then: Callable[[], None]) -> None:
        """Have it written, and `then` called in a thread of its own; returns at once."""
        self._queue.put((data, then))

    def _run(self) -> None:
        while (found := self._queue.get()) is not None:
            data, then = found
            self._write(data)
            then()
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view and not self._is_given_up:
                view = view[os.write(self._descriptor, view[:_PIECE]) :]
                self._pieces += 1
        except OSError:
            pass  # nobody listens any more

    def close(self) -> None:
        """Let what was given be written as long as somebody reads; nothing more is given."""
        self._queue.put(None)
        while self._thread.is_alive():
            written = self._pieces
            self._thread.join(PATIENCE)
            if self._pieces == written:
                break
        self._is_given_up = True


class Printed(NamedTuple):
    """What items have printed."""

    data: bytes


class Prints:
    """What is written to `descriptor` comes to the inbox as Printed, as long as there is `room`: who prints more waits.

    Room is to be released when the run has printed it.
    """

    def __init__(self, inbox: queue.SimpleQueue[Any]) -> None:
        self._inbox = inbox
        self._reader, self.descriptor = os.pipe()
        self.room = threading.Semaphore(ROOM)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while data := os.read(self._reader, _MESSAGE):
            self.room.acquire()
            self._inbox.put(Printed(data))

    @property
    def is_open(self) -> bool:
        """Whether there may be more: somebody has the descriptor."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Nothing more is written here, and acknowledged: there is room for what is left in the pipe."""
        os.close(self.descriptor)
        self.room.release(ROOM)
