"""Files without a name, in memory where the system has that: no other program can open them, and nothing is left."""

from __future__ import annotations

import os

from batchmill.files.storage import write_whole


def new_file() -> int:
    """A descriptor of an empty file, to read and write. Raises OSError."""
    try:
        return os.memfd_create("batchmill")
    except AttributeError:  # no Linux
        return _named_for_a_moment()
    except OSError as error:  # a sandbox that forbids it, or no descriptor is left
        try:
            return _named_for_a_moment()
        except FileNotFoundError:  # which is what `tempfile` says of any reason
            raise error from None


def _named_for_a_moment() -> int:
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def file_with(data: bytes) -> int:
    """A descriptor of a file to read these bytes from. Raises OSError."""
    descriptor = new_file()
    try:
        write_whole(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
