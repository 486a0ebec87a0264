"""The pipe through which workers print while a progress line is drawn.

Workers write to the pipe instead of stderr; a thread puts their lines, whole, above the progress line.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from batchmill.system import threads

PIECE = 1 << 16
LAST_WORDS_SECONDS = 1.0


class Relay:
    """A context manager: inside, lines written to descriptor `fd` come out of `write`, whole lines at a time."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._rest = b""
        self._read_end, self.fd = os.pipe()
        self._wake, self._stop = os.pipe()
        os.set_blocking(self._read_end, False)

    def __enter__(self) -> Relay:
        self._thread = threads.start(self._pump, "relay")
        return self

    def __exit__(self, *_: object) -> None:
        """Take what is in the pipe, then stop; not at its end: a process that an item left behind may keep it open."""
        os.close(self._stop)
        self._thread.join(LAST_WORDS_SECONDS)
        os.close(self.fd)

    def _pump(self) -> None:
        stopping = False
        while not stopping:
            ready = select.select([self._read_end, self._wake], [], [])[0]
            stopping = self._wake in ready
            while self._take():
                pass
        self._flush()
        os.close(self._read_end)
        os.close(self._wake)

    def _take(self) -> bool:
        """Read once; whether there may be more."""
        try:
            data = os.read(self._read_end, PIECE)
        except BlockingIOError:
            return False
        lines, newline, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest
        if newline:
            self._write(lines + newline)
        if len(self._rest) > PIECE:
            self._flush()
        return bool(data)

    def _flush(self) -> None:
        if self._rest:
            self._write(self._rest)
        self._rest = b""
