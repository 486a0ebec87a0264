"""The table of the files that a command reads and writes: two uses of one file are refused where they would hurt,
and a run's own files are told from its items.

Which file a path names is a matter of identity, not of spelling: the inode of what is there, through links of every
kind and /dev/fd/N; for what is not there yet, the inode of its real directory, and its name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from enum import Enum

from batchmill.errors import InvalidUsage
from batchmill.value_class import value_class

STREAMS = "streams"  # the group of standard output and error: often they are one file

Identity = tuple[int, int] | tuple[int, int, str] | str


class Access(Enum):
    """What a command does with a file."""

    READ = "read"
    NAMED = "named for a purpose that nobody here knows"
    MADE = "made where no file is, replacing none"
    TOLD = "told what people may want to know"
    APPENDED = "written to at its end"
    WRITTEN = "replaced, or written over"


# What hurts beside each of them. What is told goes where the caller sent it, be it to an input: a refusal would too.
_HURTS = {
    Access.READ: {Access.APPENDED, Access.WRITTEN},
    Access.NAMED: {Access.WRITTEN},
    Access.MADE: {Access.APPENDED, Access.WRITTEN},
    Access.TOLD: {Access.WRITTEN},
    Access.APPENDED: {Access.READ, Access.MADE, Access.WRITTEN},
    Access.WRITTEN: set(Access),
}
_OWN = {Access.MADE, Access.TOLD, Access.APPENDED, Access.WRITTEN}


@value_class
class Use:
    """One row of the table: a `path` (or the number of a standard descriptor), what for (`role`, as people know it),
    and what is done with it. Uses of one `group` belong together, and never hurt each other.
    """

    role: str
    path: str | int
    access: Access
    group: str = ""

    @property
    def is_own(self) -> bool:
        """Whether it is the command itself that makes the file what it is."""
        return self.access in _OWN

    def hurts(self, other: Use) -> bool:
        """Whether this use and another one of the same file do not go together."""
        together = bool(self.group) and self.group == other.group
        return not together and other.access in _HURTS[self.access]

    def __str__(self) -> str:
        return self.role if isinstance(self.path, int) else f"{self.role} {self.path}"


def check(uses: Iterable[Use]) -> None:
    """Raise InvalidUsage where two of the uses are of one file and hurt each other, naming both."""
    seen: dict[Identity, dict[tuple[Access, str], Use]] = {}
    for use in uses:
        identity = identity_of(use.path)
        if identity is None:
            continue
        others = seen.setdefault(identity, {})
        for other in others.values():
            if use.hurts(other):
                first, second = (use, other) if use.is_own else (other, use)
                raise InvalidUsage(f"{first} is the same file as {second}", "name another file")
        others.setdefault((use.access, use.group), use)


def identity_of(path: str | int) -> Identity | None:
    """What tells a file from all others; None for what cannot be lost by writing to it (a terminal, a directory)."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None if isinstance(path, int) else _entry_of(path)
    if stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return status.st_dev, status.st_ino
    is_named_pipe = stat.S_ISFIFO(status.st_mode) and not isinstance(path, int)
    return (status.st_dev, status.st_ino) if is_named_pipe else None


def descriptor_in(file: object) -> int | None:
    """The descriptor of an open file, None for what is none, or has none."""
    try:
        return int(file.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError, TypeError, ValueError):
        return None


def _entry_of(path: str) -> Identity | None:
    """The identity that a file at `path` will have had before it is there: where it is, and how it is called."""
    try:
        real = os.path.realpath(path)
        status = os.stat(os.path.dirname(real))
    except ValueError:  # a NUL byte
        return None
    except OSError:
        return real
    return status.st_dev, status.st_ino, os.path.basename(real)


class OwnFiles:
    """The files that a command itself writes, where items may be files: those in `uses`.

    They stay its own while they are made, replaced or moved by it, and under other names too (links).
    """

    def __init__(self, uses: Iterable[Use] = ()) -> None:
        paths = [use.path for use in uses if use.is_own]
        self._files = {identity_of(path) for path in paths} - {None}
        self._files |= {_entry_of(path) for path in paths if isinstance(path, str)} - {None}
        self._inodes = {file[1] for file in self._files if isinstance(file, tuple) and len(file) == 2}

    def has(self, path: str) -> bool:
        """Whether `path` names one of these files."""
        if not self._files:
            return False
        found = identity_of(path)
        is_there = found is None or (isinstance(found, tuple) and len(found) == 2)  # else it is the entry already
        return found in self._files or (is_there and _entry_of(path) in self._files)

    def left_out(self, folder: str, entries: Iterable[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        """The entries of a directory without these files."""
        if not self._files:
            return iter(entries)
        here = os.stat(folder)
        return (entry for entry in entries if not self._has(entry, here))

    def _has(self, entry: os.DirEntry[str], folder: os.stat_result) -> bool:
        if (folder.st_dev, folder.st_ino, entry.name) in self._files:
            return True
        if entry.is_symlink():
            return self.has(entry.path)
        return entry.inode() in self._inodes and identity_of(entry.path) in self._files


NO_FILES = OwnFiles()
