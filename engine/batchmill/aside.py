"""Owns where a checkpoint goes that is moved aside: its second name, and those of the ones kept before. Never the first
name, which another file gets from `holding` afterwards.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from batchmill.disk import NO_SUPPORT, Disk, is_same_file, open_regular, remove, share_lock, sibling, unsupported
from batchmill.errors import CheckpointRefused
from batchmill.reader import busy, refuse_live


def second_name(path: str, keep: int, disk: Disk) -> str:
    """Give the file at `path`, whose name is held, the name `NAME.1.ckpt` too; that is returned.

    The one that had it becomes `.2` and so on; the oldest beyond `keep` goes. Each step is one rename, so that a crash
    loses nothing but, at most, the number of an old one, and each file is locked while it is moved. Raises
    CheckpointBusy (a run holds one of them) and CheckpointRefused.
    """
    names = [sibling(path, str(number), os.path.splitext(path)[1]) for number in range(1, keep + 1)]
    if is_same_file(os.stat(path), names[0]):  # a run was killed before it gave the first name to a file of its own
        return names[0]
    used = next((i for i, name in enumerate(names) if not os.path.lexists(name)), keep)
    for name in names[:used]:
        refuse_live(name)
    try:
        for number in range(min(used, keep - 1), 0, -1):
            _move(names[number - 1], names[number], disk)
        _link(path, names[0], disk)
        disk.sync_directory(path)  # before the first name is another file's
    except OSError as error:
        raise _immovable(path, error) from error
    return names[0]


def _link(path: str, name: str, disk: Disk) -> None:
    """One rename replaces what has the name, as `link` does not."""
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(name)}.{secrets.token_hex(6)}.tmp")
    try:
        disk.link(path, temporary)
        with _unused(name):
            disk.rename(temporary, name)
    finally:
        remove(temporary)


def _move(old: str, new: str, disk: Disk) -> None:
    with _unused(new), _unused(old):
        disk.rename(old, new)


@contextmanager
def _unused(path: str) -> Iterator[None]:
    """Nobody can begin to use the checkpoint at `path`, if there is one; raises CheckpointBusy where a run does."""
    try:
        fd = open_regular(path)
    except FileNotFoundError:
        yield
        return
    try:
        if not share_lock(fd):
            raise busy(fd, path)
        yield
    finally:
        os.close(fd)


def _immovable(path: str, error: OSError) -> CheckpointRefused:
    if error.errno in NO_SUPPORT:
        return unsupported(path, "hard links", error)
    return CheckpointRefused(f"cannot move {path} aside: {error.strerror}", "name another file with -c")
