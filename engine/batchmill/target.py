"""Owns an output while it is written: bytes to stdout or a file, rows to a database; a name is for whole ones only.
Never renders an outcome.
"""

from __future__ import annotations

import errno
import os
import select
from typing import Any

from msgpack import Unpacker

from batchmill.disk import Place, open_output
from batchmill.errors import InvalidUsage, OutputLost
from batchmill.rows import TABLE
from batchmill.scarcity import limit_met

STDOUT = "-"


def check_format(name: str | None, format: str) -> None:
    """Raise InvalidUsage where nothing of that format can be written there. `name` is a path, "-", or None for none."""
    if format != "sqlite":
        return
    if name == STDOUT:
        raise InvalidUsage("a database cannot be written to stdout", "give -o FILE with --output-format sqlite")
    try:
        import sqlite3  # noqa: F401 - some builds of Python go without
    except ImportError:
        raise InvalidUsage("this Python was built without sqlite3", "give another --output-format") from None


def open_target(name: str, format: str, columns: tuple[str, ...], opening: bytes) -> Target:
    """Where output goes: "-" or a path. `opening` is what comes before all else, `columns` those of a database.

    Raises OutputLost.
    """
    if name == STDOUT:
        return Target(name, Place(1, None, name), opening)
    try:
        place = open_output(name)
        return Database(name, place, columns) if format == "sqlite" else Target(name, place, opening)
    except OSError as error:
        said = f"cannot write {name}"
        lost = limit_met(error, said) or OutputLost(f"{said}: {error.strerror}", "check the path given to -o")
        raise lost from None


def check_target(name: str, format: str) -> None:
    """Raise OutputLost where `name` (a path, or "-") cannot be written. Nothing is left there.

    A FIFO or a device is not tried: its reader would see an end.
    """
    is_special = os.path.exists(name) and not (os.path.isfile(name) or os.path.isdir(name))
    if name != STDOUT and not (is_special and format != "sqlite"):
        open_target(name, format, ("id",), b"").close("nothing")


class Target:
    """Bytes on their way to stdout or to a file that has no name yet."""

    def __init__(self, name: str, place: Place, opening: bytes = b"") -> None:
        self._name = name
        self._place = place
        self._opening = opening
        self._is_open = place.fd != 1

    def write(self, data: bytes) -> None:
        """Write all of it; raises OSError."""
        rest, self._opening = memoryview(self._opening + data if self._opening else data), b""
        while rest:
            try:
                rest = rest[os.write(self._place.fd, rest) :]
            except BlockingIOError:  # somebody made stdout non-blocking
                select.select([], [self._place.fd], [])

    def close(self, keep: str) -> str | None:
        """Give the file its name (`keep` "whole"), or `.partial` behind it ("partial"), or none: once. Returns it."""
        if not self._is_open:
            return None
        self._is_open = False
        temporary, path = self._place.temporary, self._place.path
        name = {"whole": path, "partial": f"{path}.partial"}.get(keep)
        try:
            self._end(is_kept=name is not None)
            if temporary is None:
                return None if name is None else path
            if name is None:
                os.unlink(temporary)
            else:
                os.replace(temporary, name)
        except OSError as error:
            if temporary is not None:
                forget(temporary)
            raise OutputLost(f"cannot write {self._name}: {error.strerror}", "the checkpoint is complete") from None
        return name

    def _end(self, is_kept: bool) -> None:
        """Close what is open."""
        os.close(self._place.fd)


class Database(Target):
    """Rows on their way to the one table of a database that has no name yet. Raises OSError as files do."""

    def __init__(self, name: str, place: Place, columns: tuple[str, ...]) -> None:
        super().__init__(name, place)
        os.close(place.fd)
        if place.temporary is None:
            raise OSError(errno.EINVAL, "a database needs a regular file")
        try:
            _refuse_journal(place.path)
            self._connection = _connect(place.temporary, columns)
        except BaseException:
            forget(place.temporary)
            raise
        self._insert = f"INSERT INTO {TABLE} VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - our own words

    def write(self, data: bytes) -> None:
        """Add rows: msgpack arrays, one after another; raises OSError."""
        import sqlite3

        rows = Unpacker(max_buffer_size=len(data) or 1)
        rows.feed(data)
        try:
            self._connection.executemany(self._insert, rows)
        except sqlite3.Error as error:
            raise OSError(errno.EIO, str(error)) from None

    def _end(self, is_kept: bool) -> None:
        import sqlite3

        try:
            if is_kept:
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise OSError(errno.EIO, str(error)) from None
        finally:
            self._connection.close()


def _connect(path: str, columns: tuple[str, ...]) -> Any:
    """A new database at `path`, in one transaction. No journal: the file has no name before it is whole."""
    import sqlite3

    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "BEGIN",
            f"CREATE TABLE {TABLE} ({', '.join(columns)})",  # without types: a value stays what it is
        ):
            connection.execute(statement)
    except sqlite3.Error as error:
        raise OSError(errno.EIO, str(error)) from None
    return connection


def _refuse_journal(path: str) -> None:
    """A database that replaced one in use would have that one's journal played back into it."""
    for suffix in ("-wal", "-journal"):
        if os.path.exists(path + suffix):
            raise OSError(errno.EBUSY, f"the database is in use ({path}{suffix} is there)")


def forget(path: str) -> None:
    """Remove a file, if it is there and can be."""
    try:
        os.unlink(path)
    except OSError:
        pass
