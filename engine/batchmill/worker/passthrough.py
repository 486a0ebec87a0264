"""Passing on what commands print, from the workers to our own stdout and stderr: whole, and never two at once.

A worker writes by itself, as soon as a command has ended, while it holds a lock that dies with it; the parent never
sees a byte of it, but learns what went wrong.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from batchmill.errors import OutputLost
from batchmill.files.anonymous_file import new_file
from batchmill.files.storage import write_whole

LONGEST_LINE = 1 << 20  # bytes of a line that are waited for


class Passing:
    """The parent's side: a context manager whose file `fileno()` goes to the workers, to lock and to write errors
    in."""

    def __init__(self) -> None:
        self._file = new_file()

    def __enter__(self) -> Passing:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def fileno(self) -> int:
        """The file's descriptor."""
        return self._file

    @property
    def trouble(self) -> int:
        """The number of the error that kept a worker from writing to stdout; 0 for none."""
        return int(os.pread(self._file, 16, 0) or 0)

    @property
    def is_unread(self) -> bool:
        """Whether nobody reads stdout any more."""
        return self.trouble == errno.EPIPE

    def check(self) -> None:
        """Raise OutputLost where a worker could not write, and not because nobody reads."""
        number = self.trouble
        if number and number != errno.EPIPE:
            remedy = "with --resume, the commands whose output is lost run again"
            raise OutputLost(f"stdout cannot be written: {_reason(number)}", remedy)


class Passer:
    """A worker's side. `lock` is the parent's file, `out` and `err` are where to write."""

    def __init__(self, lock: int, out: int, err: int) -> None:
        self._lock = lock
        self._out = out
        self._err = err

    def pass_on(self, out: Iterable[bytes], err: Iterable[bytes]) -> None:
        """Write both, when nobody else does; raises OutputLost where stdout cannot be written.

        stderr is for people: what cannot be written there is dropped, as everywhere.
        """
        with self._alone():
            try:
                for piece in err:
                    write_whole(self._err, piece)
            except OSError:
                pass
            try:
                for piece in out:
                    write_whole(self._out, piece)
            except OSError as error:
                os.pwrite(self._lock, b"%d" % (error.errno or errno.EIO), 0)
                raise OutputLost(f"stdout cannot be written: {_reason(error.errno or errno.EIO)}") from None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)


class LinesOn:
    """Passes a stream's lines on as they come, each with `tag` before it: `pass_on` is told pieces of whole lines."""

    def __init__(self, pass_on: Callable[[Iterable[bytes]], None], tag: bytes) -> None:
        self._pass_on = pass_on
        self._tag = tag
        self._rest = b""

    def add(self, data: bytes) -> None:
        """This comes next."""
        lines, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if newline:
            self._pass_on(tagged((lines + newline,), self._tag))
        if len(self._rest) > LONGEST_LINE:
            self.end()

    def end(self) -> None:
        """Nothing comes any more."""
        if self._rest:
            self._pass_on(tagged((self._rest + b"\n",), self._tag))
            self._rest = b""


def tagged(pieces: Iterable[bytes], tag: bytes) -> Iterator[bytes]:
    """The pieces of a text with a tag before each of its lines, which then all end; without a tag, as they are."""
    before = tag
    for piece in pieces:
        is_whole = piece.endswith(b"\n")
        yield before + piece.removesuffix(b"\n" if tag else b"").replace(b"\n", b"\n" + tag if tag else b"\n")
        if tag and is_whole:
            yield b"\n"
        before = tag if is_whole else b""
    if tag and before != tag:
        yield b"\n"


def _reason(number: int) -> str:
    return "it is closed" if number == errno.EBADF else os.strerror(number)
