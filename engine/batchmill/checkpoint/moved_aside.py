"""Where a checkpoint goes that is moved aside: its second name, and those of the ones moved before.

It never takes a name from another file; nor the first name, which `name_lock` gives to the next one.

A checkpoint knows what was moved aside before it was begun: its META has a list, the newest first, of [file id, size].
By that the file at NAME.1.ckpt is known from another batch's (a shard's) of that name, from a copy, and from one that
somebody continued since. Those are in the way, and stay as they are.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from batchmill.checkpoint.frames import HEADER_SIZE, FileHeader
from batchmill.checkpoint.reader import busy, read_meta, refuse_live
from batchmill.errors import BatchmillError, CheckpointRefused
from batchmill.files.storage import (
    NO_SUPPORT,
    Disk,
    another_file,
    is_same_file,
    names_aside,
    open_regular,
    read_at,
    share_lock,
    unsupported,
)
from batchmill.text import option

_KEY = "aside"
_MOST = 16  # entries of the list, unless more are kept

Moved = list[tuple[str, int]]


def with_moved(meta: Mapping[str, Any], fd: int | None, keep: int | None) -> dict[str, Any]:
    """The META of a checkpoint that takes the name of the open file (None: there is none), which is moved aside with
    `keep`, and replaced without.
    """
    moved = [] if fd is None else _moved_before(fd)
    if fd is not None and keep is not None:
        moved = [_facts(fd), *moved][: max(keep, _MOST)]
    return {**meta, **({_KEY: [list(facts) for facts in moved]} if moved else {})}


def second_name(path: str, fd: int, keep: int, disk: Disk) -> str:
    """Give the file at `path`, whose name is held by `fd`, the name `NAME.1.ckpt` too; that is returned.

    The one that had it becomes `.2` and so on; the oldest beyond `keep` goes. No step replaces a file, a crash loses no
    more than the number of an old one, and each file is locked while it is moved. Raises CheckpointBusy (a run holds
    one of them) and CheckpointRefused (another file is in the way: nothing was changed).
    """
    names = names_aside(path, keep)[:keep]
    try:
        if is_same_file(os.fstat(fd), names[0]):  # a run was killed before it gave the first name to a file of its own
            return names[0]
        moved = _moved_before(fd)
        _end_moves(names, moved, disk)
        used = _used(path, names, moved)
        if used == keep:
            _drop(names[-1], disk)
        for number in range(min(used, keep - 1), 0, -1):
            _move(names[number - 1], names[number], disk)
        disk.link(path, names[0])
        disk.sync_directory(path)  # before the first name is another file's
    except FileExistsError as error:
        raise _in_the_way(path, error.filename2 or names[0]) from None
    except OSError as error:
        raise _immovable(path, error) from error
    return names[0]


def refuse_strangers(path: str, keep: int) -> None:
    """Raise what `second_name` would, for the checkpoint at `path`: CheckpointRefused, CheckpointBusy."""
    names = names_aside(path, keep)[:keep]
    fd = open_regular(path)
    try:
        if not is_same_file(os.fstat(fd), names[0]):
            _used(path, names, _moved_before(fd))
    finally:
        os.close(fd)


def _used(path: str, names: Sequence[str], moved: Moved) -> int:
    """How many of the names are taken without a gap, each by a checkpoint that was moved aside before; raises."""
    used = next((i for i, name in enumerate(names) if not os.path.lexists(name)), len(names))
    for name in names[:used]:
        if not _is_among(moved, name):
            raise _in_the_way(path, name)
        refuse_live(name)
    return used


def _in_the_way(path: str, name: str) -> CheckpointRefused:
    root, extension = os.path.splitext(name)
    names = (f"{root}.kept{number or ''}{extension}" for number in range(10**6))
    free = next(name for name in names if not os.path.lexists(name))
    another = option("checkpoint", "FILE")
    return CheckpointRefused(
        f"{name} is in the way: it was not moved there from {os.path.basename(path)}, or was used since",
        f"{another} names another checkpoint; or move it: mv {shlex.quote(name)} {shlex.quote(free)}",
    )


def _immovable(path: str, error: OSError) -> CheckpointRefused:
    if error.errno in NO_SUPPORT:
        return unsupported(path, "hard links", error)
    return CheckpointRefused(f"cannot move {path} aside: {error.strerror}", another_file())


# What was moved


def _facts(fd: int) -> tuple[str, int]:
    """What tells a checkpoint, and whether it was used since; raises CheckpointDamaged."""
    return FileHeader.unpack(read_at(fd, 0, HEADER_SIZE)).id.hex(), os.fstat(fd).st_size


def _moved_before(fd: int) -> Moved:
    """The list in the META of an open checkpoint; empty where there is none."""
    try:
        found = read_meta(fd, FileHeader.unpack(read_at(fd, 0, HEADER_SIZE)), "")[_KEY]
        return [(id, size) for id, size in found if isinstance(id, str) and isinstance(size, int)]
    except (BatchmillError, KeyError, TypeError, ValueError):
        return []


def _is_among(moved: Moved, name: str) -> bool:
    try:
        fd = open_regular(name)
    except (OSError, CheckpointRefused):
        return False
    try:
        return _facts(fd) in moved
    except BatchmillError:
        return False
    finally:
        os.close(fd)


# Moves


def _end_moves(names: Sequence[str], moved: Moved, disk: Disk) -> None:
    """End a move in whose middle a run was killed: the file has both names then."""
    for old, new in pairwise(names):
        if _is_among(moved, old) and is_same_file(os.stat(old), new):
            _drop(old, disk)


def _move(old: str, new: str, disk: Disk) -> None:
    """By a link first: a rename would replace what is there."""
    with _unused(old) as fd:
        disk.link(old, new)
        _unlink(fd, old, disk)


def _drop(name: str, disk: Disk) -> None:
    with _unused(name) as fd:
        _unlink(fd, name, disk)


def _unlink(fd: int, name: str, disk: Disk) -> None:
    if is_same_file(os.fstat(fd), name):
        disk.unlink(name)


@contextmanager
def _unused(path: str) -> Iterator[int]:
    """Nobody can begin to use the checkpoint at `path`, whose descriptor is given; raises CheckpointBusy where a run
    does already.
    """
    fd = open_regular(path)
    try:
        if not share_lock(fd):
            raise busy(fd, path)
        yield fd
    finally:
        os.close(fd)
