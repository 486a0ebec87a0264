"""Who has a checkpoint's name: the lock on the file under it, and each change of which file that is.

It never looks into a file for more than whether it is in the way and whose it is.

    hold: open -> lock -> is it still the file under the name? --no--> begin again
            | no file                 | yes: nobody else changes what is under the name now
            v                         v
    put: link, replacing nothing    put: rename over it; it was replaced, or has got its second name before
            | another was faster --> begin again

Every run comes to its checkpoint this way, so that of any number of them at once each sees the name as one before or
after it left it. A file is locked before it has the name, and what is moved is locked while it is: a name is never
without an owner between two runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

from batchmill.checkpoint.moved_aside import second_name
from batchmill.checkpoint.reader import busy, exists_with_outcomes
from batchmill.errors import CheckpointBusy, CheckpointExists
from batchmill.files.atomic_file import create_whole, sweep
from batchmill.files.storage import Disk, is_same_file, open_regular, try_lock
from batchmill.text import option

_T = TypeVar("_T")
_TRIES = 100  # each means that another run put a file of its own under the name meanwhile


class _Overtaken(Exception):
    """Another run changed which file has the name, between our look at it and our hold on it."""


class Name:
    """A checkpoint's name, held: nobody else puts a file under it or takes it away.

    `fd` is the locked file that has it, None where there is none: then another run may still be the first to `put` one.
    Get one from `holding`, which gives it back.
    """

    def __init__(self, path: str, fd: int | None, disk: Disk) -> None:
        self.path = path
        self.fd = fd
        self.disk = disk

    @property
    def is_taken(self) -> bool:
        """Whether its file holds outcomes, or damage that may hide some; raises as `exists_with_outcomes`."""
        return self.fd is not None and exists_with_outcomes(self.path)

    def take(self) -> int:
        """The descriptor of its file, and with it the lock, which is the caller's from now on."""
        fd, self.fd = self.fd, None
        assert fd is not None
        return fd

    def put(self, parts: Iterable[bytes], keep: int | None = None) -> tuple[int, str | None]:
        """Give the name to a new file, whole and durable before; returns its locked descriptor.

        The file that has the name is replaced, or with `keep` moved aside, to the second name that is returned.
        Raises CheckpointRefused (nothing was changed, or no more than the number of one kept before) and, where a
        checkpoint that would have to be moved is in use, CheckpointBusy.
        """
        aside: list[str] = []

        def prepare(fd: int) -> None:
            busy_unless_locked(self.disk, fd, self.path)
            if self.fd is not None and keep is not None:
                aside.append(second_name(self.path, self.fd, keep, self.disk))

        try:
            fd = create_whole(self.path, parts, disk=self.disk, replace=self.fd is not None, prepare=prepare)
        except FileExistsError:
            raise _Overtaken from None
        return fd, aside[0] if aside else None


def holding(path: str, act: Callable[[Name], _T], disk: Disk | None = None) -> _T:
    """What `act` makes of the name while it is held; `act` is called again where another run was faster to put a file
    under a name that had none.

    Raises CheckpointBusy (a run holds the name) and CheckpointRefused (what has it is no file, or cannot be locked).
    """
    path, disk = os.path.abspath(path), disk or Disk()
    for _ in range(_TRIES):
        name = None
        try:
            name = Name(path, _locked(path, disk), disk)
            return act(name)
        except _Overtaken:
            pass
        finally:
            if name is not None and name.fd is not None:
                os.close(name.fd)
    raise CheckpointBusy(f"{path} is being replaced again and again", "see what else uses it")


def _locked(path: str, disk: Disk) -> int | None:
    """The locked descriptor of the file at `path`, None where there is none."""
    try:
        fd = open_regular(path, write=True)
    except FileNotFoundError:
        return None
    try:
        busy_unless_locked(disk, fd, path)
        _raise_unless_there(fd, path)
        sweep(path, disk, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _raise_unless_there(fd: int, path: str) -> None:
    if not is_same_file(os.fstat(fd), path):
        raise _Overtaken


def busy_unless_locked(disk: Disk, fd: int, path: str) -> None:
    """Take the lock, or raise CheckpointBusy, CheckpointRefused."""
    if not try_lock(disk, fd, path):
        raise busy(fd, path)


def in_the_way(path: str) -> CheckpointExists:
    """The error for a checkpoint that exists where nothing says what to do with it."""
    another = f"{option('checkpoint', 'FILE')} names another"
    remedy = f"{option('resume', True)} continues it, {option('fresh', True)} moves it aside and begins anew, {another}"
    return CheckpointExists(f"{path} exists", remedy)
