"""New files that get their name only once they are whole: -o, metrics, reports, new checkpoints.

It never follows a link to a place of its own choosing, and never takes what another program made.

    .NAME.RANDOM.tmp, locked --write--> sync --rename--> NAME --is it still this file?--> sync the directory

The temporary name is random and made exclusively, in the directory of the target. Its file is locked (flock) as long as
the process that writes it lives, in whatever container or session that is: one that has such a name, with the check sum
that is part of it, and no lock was left behind by a process that was killed, and the next writer of NAME removes it.
Where a file system has no locks nothing is ever removed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from batchmill.errors import CheckpointRefused, OutputLost
from batchmill.files.storage import NO_SUPPORT, Disk, is_same_file, remove, sibling, uncreatable, unsupported, write_all
from batchmill.system.scarcity import limit_met
from batchmill.text import option

_TRIES = 100
_LONGEST = 180  # bytes of NAME in a temporary name: file systems allow 255 in all
_RANDOM = re.compile(r"([0-9a-f]{16})([0-9a-f]{8})\.tmp")


class Draft:
    """A file being written: `fd` is open for that, `temporary` its name until it gets `path` (or another) by `publish`.

    Without a temporary name it is what `path` stands for already (a device, a FIFO, a descriptor of this process), and
    is written to as it is. Every method raises OSError as the system does. Get one from `open_draft` or `open_output`.
    """

    def __init__(self, fd: int, path: str, temporary: str | None, disk: Disk) -> None:
        self.fd = fd
        self.path = path
        self.temporary = temporary
        self._disk = disk

    def publish(self, path: str | None = None, *, replace: bool = True, durable: bool = True) -> None:
        """Give the file its name, and have it on the disk under that (unless `durable` is False).

        Raises FileExistsError without `replace`, and OSError where another program took the file or the name.
        """
        if self.temporary is None:
            return
        path = path or self.path
        if durable:
            self._disk.sync(self.fd)
        self._expect(self.temporary, f"another program took its temporary file {self.temporary} away")
        if replace:
            self._disk.rename(self.temporary, path)
        else:
            self._disk.link(self.temporary, path)
        self._expect(path, "another program replaced it at the same moment")
        _remove_own(self.fd, self.temporary)
        if durable:
            self._disk.sync_directory(path)

    def _expect(self, path: str, otherwise: str) -> None:
        """Raise unless `path` names this very file."""
        if not is_same_file(os.fstat(self.fd), path):
            raise OSError(errno.ESTALE, otherwise)

    def detach(self) -> int:
        """The descriptor, which is the caller's to close from now on."""
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        """Let go of the file, and remove its temporary name where it still has that. Again: nothing."""
        if self.fd < 0:
            return
        if self.temporary is not None:
            _remove_own(self.fd, self.temporary)
        os.close(self.detach())


def open_draft(path: str, disk: Disk | None = None, *, mode: int = 0o666) -> Draft:
    """A new file for the place of `path`, which is not looked at. What killed processes left of the same is removed."""
    disk = disk or Disk()
    folder, name = os.path.split(path)
    sweep(path, disk)
    for _ in range(_TRIES):
        temporary = os.path.join(folder, _temporary_name(name))
        with suppress(FileExistsError):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            draft = Draft(os.open(temporary, flags, mode), path, temporary, disk)
            if _is_locked_by(disk, draft.fd) and is_same_file(os.fstat(draft.fd), temporary):
                return draft
            draft.close()  # whoever sweeps took it for a leftover, in the moment before it was locked
    raise FileExistsError(errno.EEXIST, f"no temporary name is free in {folder or '.'}")


def _temporary_name(name: str) -> str:
    random = os.urandom(8).hex()
    return f".{_stem(name)}.{random}{_check_sum(name, random)}.tmp"


def _stem(name: str) -> str:
    return os.fsencode(name)[:_LONGEST].decode("utf-8", "replace")


def _check_sum(name: str, random: str) -> str:
    data = os.fsencode(name) + random.encode()
    return hashlib.blake2b(data, digest_size=4, person=b"batchmill").hexdigest()


def _is_temporary_name(entry: str, name: str) -> bool:
    """Whether a directory's entry is a temporary name made for `name`."""
    start = f".{_stem(name)}."
    found = _RANDOM.fullmatch(entry[len(start) :]) if entry.startswith(start) else None
    return found is not None and found[2] == _check_sum(name, found[1])


def _is_locked_by(disk: Disk, fd: int) -> bool:
    """Whether this opening has the file's lock now, or there are no locks (then nobody removes it either)."""
    try:
        disk.lock(fd)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def sweep(path: str, disk: Disk, held: int | None = None) -> None:
    """Remove what processes that were killed left of drafts for `path`.

    `held` is the locked file that has that name: one of its other names may be such a leftover.
    """
    folder, name = os.path.split(path)
    try:
        entries = os.listdir(folder or ".")
    except OSError:
        return
    for entry in entries:
        if _is_temporary_name(entry, name):
            with suppress(OSError):  # gone already, another user's, no locks here
                _sweep_one(os.path.join(folder, entry), disk, held)


def _sweep_one(path: str, disk: Disk, held: int | None) -> None:
    if held is not None and is_same_file(os.fstat(held), path):
        remove(path)
        return
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            disk.lock(fd)
            _remove_own(fd, path)
    finally:
        os.close(fd)


def _remove_own(fd: int, path: str) -> None:
    """Remove a name, if it is that of the open file."""
    if is_same_file(os.fstat(fd), path):
        remove(path)


# Outputs


def open_output(path: str) -> Draft:
    """What to write output for `path` to; raises OSError.

    A symbolic link stays, and what it leads to is replaced. A device or a FIFO is written to as it is: a rename would
    put a file in its place (in that of /dev/null, for root). So is a descriptor of this process (/dev/stdout,
    /dev/fd/3): what is in its file already belongs to whoever opened it.
    """
    if not path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    descriptor = descriptor_of(path)
    if descriptor is not None:
        return Draft(_duplicate(descriptor), path, None, Disk())
    target = _followed(path)
    status = os.stat(target) if os.path.lexists(target) else None
    if path.endswith("/") or (status and stat.S_ISDIR(status.st_mode)):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if status and not stat.S_ISREG(status.st_mode):
        return Draft(open_at_once(target), target, None, Disk())
    draft = _open_beside(target)
    if status and status.st_uid == os.geteuid():
        with suppress(OSError):  # a private file stays private, where the file system knows modes at all
            os.fchmod(draft.fd, stat.S_IMODE(status.st_mode) & 0o777)
    return draft


def open_at_once(path: str, flags: int = 0) -> int:
    """A descriptor to write to `path`, as it is; raises OSError. The reader of a FIFO is not waited for."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | flags, 0o666)
    except OSError as error:
        raise OSError(error.errno, "no program reads from it") if error.errno == errno.ENXIO else error from None
    os.set_blocking(fd, True)
    return fd


def _open_beside(target: str) -> Draft:
    try:
        return open_draft(target)
    except PermissionError as error:
        raise PermissionError(error.errno, f"no permission to make files in {os.path.dirname(target)}") from None


def _followed(path: str) -> str:
    """Where the symbolic links at the end of a path lead to.

    Not through one that another user made where all may write: the rule of Linux' protected_symlinks, which a rename
    would get round.
    """
    for _ in range(40):
        if not os.path.islink(path):
            return os.path.realpath(path)
        folder = os.path.dirname(path) or "."
        around, link = os.stat(folder), os.lstat(path)
        everybodys = around.st_mode & stat.S_ISVTX and around.st_mode & stat.S_IWOTH
        if everybodys and link.st_uid not in (os.geteuid(), around.st_uid):
            raise PermissionError(errno.EACCES, "it is another user's symbolic link in a directory that all may write")
        path = os.path.join(folder, os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def descriptor_of(path: str) -> int | None:
    """The number of the descriptor of this process that a path stands for: /dev/stdout, /dev/fd/3, /proc/self/fd/3."""
    own = ("/dev/fd", os.path.realpath("/proc/self/fd"), os.path.realpath("/proc/thread-self/fd"))
    for _ in range(40):
        folder, name = os.path.split(path)
        if name.isdecimal() and os.path.realpath(folder) in own:
            return int(name)
        if not os.path.islink(path):
            return None
        path = os.path.join(folder, os.readlink(path))
    return None


def _duplicate(descriptor: int) -> int:
    """A descriptor of the same opening; raises OSError unless it was handed to this process and can be written to."""
    is_own = fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC  # opened in here, for something else
    if is_own or fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


@contextmanager
def replacing(path: str, remedy: str = "", *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A file to write to that becomes `path`, whole, when the block ends without an error; raises OutputLost."""
    draft: Draft | None = None
    try:
        draft = open_output(path)
        with open(draft.fd, "wb", closefd=False) as file:
            yield file
        draft.publish(durable=durable)
    except OSError as error:
        said = f"cannot write {path}"
        remedy = remedy or f"check the path given to {option('output')}"
        raise limit_met(error, said) or OutputLost(f"{said}: {error.strerror}", remedy) from None
    finally:
        if draft is not None:
            draft.close()


# Checkpoints


def create_whole(
    path: str,
    parts: Iterable[bytes],
    *,
    disk: Disk,
    replace: bool = False,
    prepare: Callable[[int], None] | None = None,
) -> int:
    """A new file that has its name only once it is whole and on disk; returns its descriptor, 0600, open for writing.

    Raises FileExistsError where `path` exists and `replace` is False, CheckpointRefused where the directory or its file
    system does not allow it. `prepare` gets the descriptor before the name is given (to lock it).
    """
    try:
        draft = open_draft(path, disk, mode=0o600)
    except OSError as error:
        raise uncreatable(path, error) from error
    try:
        _fill(disk, draft.fd, path, parts)
        if prepare:
            prepare(draft.fd)
        _give_name(draft, path, replace)
        return draft.detach()
    finally:
        draft.close()


def save_beside(path: str, suffix: str, parts: Callable[[], Iterable[bytes]], disk: Disk) -> str:
    """Write `parts` to NAME.suffix next to `path` (.2, .3, ... where taken; nothing is replaced); returns the name."""
    for number in range(1, 1000):
        name = sibling(path, suffix) if number == 1 else f"{sibling(path, suffix)}.{number}"
        if os.path.lexists(name):
            continue
        try:
            os.close(create_whole(name, parts(), disk=disk))
        except FileExistsError:
            continue
        return name
    raise CheckpointRefused(f"there are a thousand {sibling(path, suffix)} files", "move them away")


def _fill(disk: Disk, fd: int, path: str, parts: Iterable[bytes]) -> None:
    offset = 0
    try:
        for part in parts:
            write_all(disk, fd, [part], offset)
            offset += len(part)
    except OSError as error:
        raise uncreatable(path, error) from error


def _give_name(draft: Draft, path: str, replace: bool) -> None:
    try:
        draft.publish(replace=replace)
    except FileExistsError:
        raise
    except OSError as error:
        if not replace and error.errno in NO_SUPPORT:
            raise unsupported(path, "hard links", error) from error
        raise uncreatable(path, error) from error
