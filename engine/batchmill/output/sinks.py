"""Where an output is written: stdout, a file, a database; what is refused beforehand."""

from __future__ import annotations

import errno
import os
from typing import Any

from msgpack import Unpacker

from batchmill.errors import InvalidUsage, OutputLost
from batchmill.files.atomic_file import Draft, open_at_once, open_output
from batchmill.files.storage import Disk
from batchmill.input.pyarrow_extra import need_pyarrow
from batchmill.output.by_name import WHOLE, packer_for
from batchmill.output.columns import Asked, TableStyle
from batchmill.output.rows import TABLE
from batchmill.output.target import STDOUT, Target
from batchmill.system.scarcity import limit_met
from batchmill.text import option


def check_format(name: str | None, format: str) -> None:
    """Raise InvalidUsage where nothing of that format can be written there. `name` is a path, "-", or None for none."""
    if format not in WHOLE:
        return
    if name == STDOUT:
        raise InvalidUsage(
            f"{WHOLE[format]} cannot be written to stdout",
            f"give {option('output', 'FILE')} with {option('output_format', format)}",
        )
    if format == "parquet":
        need_pyarrow(option("output", name or ""))
        return
    try:
        import sqlite3  # noqa: F401 - some builds of Python go without
    except ImportError:
        raise InvalidUsage("this Python was built without sqlite3", f"give another {option('output_format')}") from None


def open_target(name: str, format: str) -> Target:
    """Where output goes: "-" or a path. Raises OutputLost."""
    if name == STDOUT:
        return Target(name, Draft(1, name, None, Disk()))
    try:
        draft = open_output(name)
        if format == "parquet":
            from batchmill.output.parquet import ParquetFile

            return ParquetFile(name, draft)
        return Database(name, draft) if format == "sqlite" else Target(name, draft, packer_for(name))
    except OSError as error:
        said, remedy = f"cannot write {name}", f"check the path given to {option('output')}"
        raise limit_met(error, said) or OutputLost(f"{said}: {error.strerror}", remedy) from None


def check_target(name: str, format: str) -> None:
    """Raise OutputLost where `name` (a path, or "-") cannot be written. Nothing is left there.

    A FIFO or a device is not tried: its reader would see an end.
    """
    is_special = os.path.exists(name) and not (os.path.isfile(name) or os.path.isdir(name))
    if name != STDOUT and not (is_special and format not in WHOLE):
        open_target(name, format).close("nothing")


def open_prints(name: str) -> int:
    """A descriptor that adds to the end of a file, made if need be, for what functions print; raises OutputLost."""
    try:
        return open_at_once(name, os.O_CREAT | os.O_APPEND)
    except OSError as error:
        said = f"cannot write {name}"
        remedy = f"check the path given to {option('worker_output')}"
        raise limit_met(error, said) or OutputLost(f"{said}: {error.strerror}", remedy) from None


class Database(Target):
    """Rows on their way to the one table of a database that has no name yet. Raises OSError as files do."""

    def __init__(self, name: str, draft: Draft) -> None:
        super().__init__(name, draft)
        try:
            if draft.temporary is None:
                raise OSError(errno.EINVAL, "a database needs a regular file")
            _refuse_journal(draft.path)
            self._connection = _connect(draft.temporary)
        except BaseException:
            draft.close()
            raise
        self._insert = ""

    def begin(self, asked: Asked, table: TableStyle) -> None:
        """Make the table, whose columns have no types: a value stays what it is."""
        import sqlite3

        names = ", ".join('"{}"'.format(_said(column.name).replace('"', '""')) for column in table.columns)
        self._insert = f"INSERT INTO {TABLE} VALUES ({', '.join('?' * len(table.columns))})"  # noqa: S608 - our own words
        try:
            self._connection.execute(f"CREATE TABLE {TABLE} ({names})")
        except sqlite3.Error as error:
            raise OSError(errno.EIO, str(error)) from None

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


def _said(name: str) -> str:
    """A name that a database takes."""
    return name.replace("\0", "\ufffd").encode("utf-8", "backslashreplace").decode()


def _connect(path: str) -> Any:
    """A new database in the empty file at `path`, in one transaction.

    No journal: the file has no name before it is whole. No locks: on NFS and macOS they would meet that of the Draft.
    """
    import sqlite3
    from urllib.parse import quote

    where = f"file:{quote(os.fsencode(os.path.abspath(path)))}?nolock=1"
    try:
        connection = sqlite3.connect(where, uri=True, isolation_level=None, check_same_thread=False)
        for statement in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "BEGIN"):
            connection.execute(statement)
    except sqlite3.Error as error:
        raise OSError(errno.EIO, str(error)) from None
    return connection


def _refuse_journal(path: str) -> None:
    """A database that replaced one in use would have that one's journal played back into it."""
    for suffix in ("-wal", "-journal"):
        if os.path.exists(path + suffix):
            raise OSError(errno.EBUSY, f"the database is in use ({path}{suffix} is there)")
