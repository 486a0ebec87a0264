"""The system calls on files that must not be lost: open, lock, write, sync, link.

Everything that can fail on a disk goes through a `Disk`, which is handed in: tests record writes and inject errors
there, in the very calls that production makes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from batchmill.errors import BatchmillError, CheckpointRefused
from batchmill.system.scarcity import limit_met
from batchmill.text import option

# Seconds that a lock may be held by who only looks: `status` asks whether a run is alive, and a run that opened a file
# just before it was moved aside has the lock until it sees that.
_LOCK_PATIENCE = 0.3
NO_SUPPORT = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EMLINK}

_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.EOPNOTSUPP}  # file systems that write names down at once, or never say


class Disk:
    """The calls themselves; each raises OSError as the system does."""

    def write(self, fd: int, parts: Sequence[bytes | memoryview], offset: int) -> int:
        """Write `parts` at `offset`, in one call; the number of bytes taken may be fewer than there are."""
        if hasattr(os, "pwritev"):
            return os.pwritev(fd, parts, offset)
        os.lseek(fd, offset, os.SEEK_SET)  # older macOS
        return os.writev(fd, parts)

    def sync(self, fd: int) -> None:
        """Have everything written to `fd` on the disk itself before returning."""
        if sys.platform == "darwin":
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync there leaves it in the drive's cache
        else:
            os.fdatasync(fd)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file at `size`."""
        os.ftruncate(fd, size)

    def lock(self, fd: int) -> None:
        """Take the exclusive lock or raise BlockingIOError; it goes with the last descriptor of this opening.

        Not a POSIX lock: that one is dropped when any descriptor of the file is closed in the process, and lets a
        second run in the same process in.
        """
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def link(self, temporary: str, path: str) -> None:
        """Give the file its name; raises FileExistsError rather than replace one."""
        os.link(temporary, path, follow_symlinks=False)

    def rename(self, old: str, new: str) -> None:
        """Move, replacing what is at `new`."""
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        """Take a name from its file."""
        os.unlink(path)

    def sync_directory(self, path: str) -> None:
        """Have the names in the directory of `path` on the disk."""
        try:
            fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:  # it may be written to and not read: all there is, then
            return os.sync()
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in _NO_DIRECTORY_SYNC:
                raise
        finally:
            os.close(fd)

    def forget(self, fd: int, offset: int) -> None:
        """Drop what is cached from `offset` on, so that reading it again shows what the disk has."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, offset, 0, os.POSIX_FADV_DONTNEED)

    def close(self, fd: int) -> None:
        """Close; an error here (NFS, quotas) means that something written was lost."""
        os.close(fd)


def open_regular(path: str, *, write: bool = False) -> int:
    """A descriptor of an existing regular file; raises FileNotFoundError, and CheckpointRefused for anything else.

    O_NONBLOCK, because opening a FIFO would wait for ever; it means nothing for a regular file.
    """
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        if met := limit_met(error, f"cannot open {path}"):
            raise met from error
        why = "it is a symbolic link" if error.errno in (errno.ELOOP, errno.EMLINK) else error.strerror
        raise CheckpointRefused(f"cannot open {path}: {why}", another_file()) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CheckpointRefused(f"{path} is not a regular file", another_file())
    return fd


def remove(path: str) -> None:
    """Remove a file, if it is there and can be."""
    try:
        os.unlink(path)
    except OSError:
        pass


def read_at(fd: int, offset: int, size: int) -> bytes:
    """`size` bytes at `offset`; fewer only where the file ends."""
    data = os.pread(fd, size, offset)
    while len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def write_all(disk: Disk, fd: int, parts: Sequence[bytes], offset: int) -> None:
    """Write all of `parts` at `offset`; a write cut short is carried on, which then names the reason."""
    left: list[bytes | memoryview] = [part for part in parts if part]
    while left:
        taken = disk.write(fd, left, offset)
        if taken <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        offset += taken
        while left and taken >= len(left[0]):
            taken -= len(left.pop(0))
        if taken:
            left[0] = memoryview(left[0])[taken:]


def write_whole(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` where `fd` stands; somebody may have made it non-blocking. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])


def try_lock(disk: Disk, fd: int, path: str) -> bool:
    """Whether the exclusive lock was got; raises CheckpointRefused where the file system has none."""
    try:
        return _soon(lambda: disk.lock(fd))
    except OSError as error:
        raise unsupported(path, "locks", error) from error


def share_lock(fd: int) -> bool:
    """Whether no other opening of the file holds the exclusive lock; none can get it then until `fd` is closed."""
    return _soon(lambda: _share(fd))


def _soon(lock: Callable[[], None]) -> bool:
    """Whether a lock was got before long."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            lock()
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _share(fd: int) -> None:
    """Take the shared lock or raise BlockingIOError; where there are no locks, no run of ours holds one either."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass


def is_locked(fd: int) -> bool:
    """Whether another opening of the file holds the exclusive lock now."""
    try:
        _share(fd)
    except BlockingIOError:
        return True
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def is_held(path: str) -> bool:
    """Whether there is a file at `path`, and another opening of it holds the exclusive lock."""
    try:
        fd = open_regular(path)
    except (OSError, CheckpointRefused):
        return False
    try:
        return is_locked(fd)
    finally:
        os.close(fd)


def is_same_file(status: os.stat_result, path: str) -> bool:
    """Whether `path` names the file with this `os.fstat`; a path that cannot be looked at counts as unchanged."""
    try:
        at_path = os.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return os.path.samestat(at_path, status)


def sibling(path: str, suffix: str, extension: str = "") -> str:
    """The name of a file that belongs to the checkpoint `path`: `a/x.ckpt`, `damaged` -> `a/x.damaged`."""
    return f"{os.path.splitext(path)[0]}.{suffix}{extension}"


def names_aside(path: str, keep: int) -> list[str]:
    """The names that checkpoints moved aside from `path` get, the newest first: as many as are kept, or are there."""
    names: list[str] = []
    while len(names) < keep or os.path.lexists(names[-1]):
        names.append(sibling(path, str(len(names) + 1), os.path.splitext(path)[1]))
    return names


def chunks_of(fd: int, begin: int, end: int) -> Iterable[bytes]:
    """The bytes of an open file, 1 MiB at a time."""
    for offset in range(begin, end, 1 << 20):
        yield read_at(fd, offset, min(1 << 20, end - offset))


def file_system_of(path: str) -> str:
    """The type of the file system that holds `path` (`nfs4`), or "this" where the system does not tell."""
    best, kind = "", "this"
    try:
        where = os.path.realpath(os.path.dirname(path) or ".")
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                _, mounted, type, *_ = line.split(" ")
                inside = where == mounted or where.startswith(mounted.rstrip("/") + "/")
                if inside and len(mounted) >= len(best):
                    best, kind = mounted, type
    except OSError:
        pass
    return kind


def another_file() -> str:
    """The remedy where a checkpoint cannot be under its name."""
    return f"name another file with {option('checkpoint')}"


def uncreatable(path: str, error: OSError) -> BatchmillError:
    """The error for a file that cannot be made at `path`."""
    said = f"cannot create {path}"
    return limit_met(error, said) or CheckpointRefused(f"{said}: {error.strerror}", another_file())


def unsupported(path: str, what: str, error: OSError) -> CheckpointRefused:
    """The error for a file system that lacks `what` is needed of it (one of NO_SUPPORT)."""
    return CheckpointRefused(
        f"the {file_system_of(path)} file system of {path} has no {what} ({error.strerror})",
        f"name a file on a local disk with {option('checkpoint')}",
    )
