"""Parts of local files that workers read by themselves, so that the parent need not hand on their bytes.

The parent reads such a file to know where its records end, and keeps nothing. A worker opens it by its path, and takes
what it reads only if the file is the one that the parent has open, and as it was then. Else the parent reads: its own
descriptor leads to the same file, whatever became of the path, and a file that has grown is as it was up to there. What
does not hold as many whole records as before ends the batch (`formats.block_of`): nothing is run that no one has read.
"""

from __future__ import annotations

import io
import os
from os import (  # bound here: items may replace them in their module
    O_CLOEXEC,
    O_NONBLOCK,
    O_RDONLY,
    close,
    fstat,
    pread,
)
from os import open as open_file
from typing import NamedTuple

from batchmill.errors import InputBroken


class FileState(NamedTuple):
    """A file as it was when the parent opened it: what a worker has of it."""

    path: str
    device: int
    inode: int
    size: int
    modified: int
    changed: int
    begin: int  # where records begin

    def read(self, start: int, size: int) -> tuple[bytes, bytes]:
        """As RangeFile.read."""
        descriptor = open_file(self.path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
        try:
            found = _read(descriptor, start, size, self.begin, self.path)
            if state_of(descriptor) != self[1:6]:
                raise InputBroken(f"{self.path} was changed while the batch ran")
        finally:
            close(descriptor)
        return found


class OpenFile:
    """A file that is open in the parent, for as long as there are ranges of it. It travels as its FileState. `begin` is
    where records begin in it; `is_left_to_parent`: the parent reads it for the workers too."""

    def __init__(self, name: str) -> None:
        """Raises OSError."""
        self.raw = io.FileIO(name)
        self.begin = 0
        self.is_left_to_parent = False
        self.path = os.path.abspath(name)
        self._state = state_of(self.raw.fileno())
        self.size = self._state[2]

    def read(self, start: int, size: int) -> tuple[bytes, bytes]:
        """As RangeFile.read."""
        return _read(self.raw.fileno(), start, size, self.begin, self.path)

    def leave_to_parent(self) -> str:
        """A worker could not read it, or found it changed; what to tell people of that, once."""
        is_news, self.is_left_to_parent = not self.is_left_to_parent, True
        _, _, size, modified, _ = state_of(self.raw.fileno())
        if is_news and modified != self._state[3] and size <= self.size:
            return f"{self.path} was changed while the batch runs: what is in it now counts"
        return ""

    def __reduce__(self) -> tuple[type[FileState], tuple[str | int, ...]]:
        return FileState, (self.path, *self._state, self.begin)

    def __del__(self) -> None:
        raw = getattr(self, "raw", None)  # there is none where it could not be opened
        if raw is not None:
            raw.close()


def state_of(descriptor: int) -> tuple[int, int, int, int, int]:
    """What tells whether an open file is the same, and as it was."""
    status = fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(descriptor: int, start: int, size: int, begin: int, path: str) -> tuple[bytes, bytes]:
    before = pread(descriptor, 1, start - 1) if start > begin else b""
    block = pread(descriptor, size, start)
    while 0 < len(block) < size and (more := pread(descriptor, size - len(block), start + len(block))):
        block += more
    if len(block) < size:
        raise InputBroken(f"{path} was cut short while the batch ran", "write it again, and run the batch once more")
    return before, block
