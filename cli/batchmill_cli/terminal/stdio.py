"""The three standard descriptors as this program uses them.

stdout is data: a write that fails there is an error of its own kind, so that lost output can never end in status 0.
stderr is for people: a write that fails there is dropped, so that a closed terminal can never hurt a run.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

if TYPE_CHECKING:
    from typing_extensions import Buffer

STALL_SECONDS = 1.0


class PipeClosed(Exception):
    """The reader of stdout went away: not an error, but the end (as SIGPIPE means it)."""


def reopen_standard() -> None:
    """Give descriptors 0 to 2 a file where the caller closed them, so that no file of ours ever gets these numbers.

    0 and 1 are opened the wrong way round on purpose: reading a closed stdin and writing to a closed stdout must stay
    errors, and not become an empty input and a silent success. `sys.stdin` stays None, for who asks.
    """
    for fd, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDWR)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free number, which is `fd`
            os.set_inheritable(fd, True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def write_all(fd: int, data: bytes) -> bool:
    """Write everything to `fd`; False when it cannot be (the rest is dropped).

    A terminal is sometimes left non-blocking by a program that shares it: a short wait, then the rest is dropped.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            if not select.select([], [fd], [], STALL_SECONDS)[1]:
                return False
        except (OSError, ValueError):
            return False
    return True


def tell(text: str) -> None:
    """Say `text` and a line end on stderr."""
    write_all(2, f"{text}\n".encode("utf-8", "backslashreplace"))


def remark(sentence: str) -> None:
    """Say a sentence of ours on stderr."""
    tell(f"batchmill: {sentence}")


def is_terminal(fd: int) -> bool:
    """Whether descriptor `fd` is a terminal."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


class _Stdout(io.RawIOBase):
    """Descriptor 1 with errors of its own kind, so that they are not taken for those of a file being read.

    Once it has failed it takes what is left and drops it: the buffer in front of it writes again when it is let go, and
    Python 3.13 (3.11 with -X dev) prints what that raises.
    """

    _is_lost = False

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        if self._is_lost:
            return len(bytes(data))
        try:
            return os.write(1, data)
        except BlockingIOError:
            select.select([], [1], [])
            return 0
        except OSError as error:
            self._is_lost = True
            raise (PipeClosed() if isinstance(error, BrokenPipeError) else output_lost(error)) from None


def output_lost(error: OSError) -> Exception:
    """The error that says that stdout could not be written."""
    from batchmill.errors import OutputLost

    reason = "it is closed" if error.errno == errno.EBADF else error.strerror or str(error)
    return OutputLost(f"stdout cannot be written: {reason}", "nothing in the checkpoint is lost")


class _Screen(_Stdout):
    """Descriptor 1 as a terminal: whole lines, in which nothing moves the cursor or turns the direction of text."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = b""

    def write(self, data: Buffer, /) -> int:
        lines, newline, self._rest = (self._rest + bytes(data)).rpartition(b"\n")
        self._show(lines + newline)
        return len(bytes(data))

    def _show(self, lines: bytes) -> None:
        from batchmill.text import harmless

        view = memoryview(harmless(lines))
        while view:
            view = view[super().write(view) :]

    def flush(self) -> None:
        """Show an unfinished last line too."""
        rest, self._rest = self._rest, b""
        self._show(rest)
        super().flush()


@contextmanager
def stdout(*, text: bool = True) -> Iterator[BinaryIO]:
    """Stdout as a binary file, whole at the end of the block; raises PipeClosed or OutputLost.

    On a terminal what is written there is made harmless, if it is `text` (or JSON).
    """
    raw = _Screen() if text and is_terminal(1) else _Stdout()
    out = io.BufferedWriter(raw, 1 << 16)
    yield cast("BinaryIO", out)
    flush(out)
    raw.flush()


def flush(out: io.BufferedWriter[Any]) -> None:
    """Write out what is buffered, also to a stdout that somebody made non-blocking."""
    while True:
        try:
            return out.flush()
        except BlockingIOError:
            continue


def print_data(text: str) -> None:
    """Print `text` and a line end on stdout; raises PipeClosed or OutputLost."""
    with stdout() as out:
        out.write(f"{text}\n".encode("utf-8", "backslashreplace"))
