"""The checkpoint file of a run: create, lock, recover, append, sync, close.

    append --write at the tracked end--> committed --sync thread: fdatasync--> durable --> `synced` in later frames

Frames are written at the end that this process keeps track of, never at the end the file happens to have: a tail that
recovery has cut, or that someone else has added, must not end up between frames. One thread syncs; the caller's thread
is the only one that appends. Below this: `frames` (the format), `files.storage` (system calls), `reader`, `recovery`.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from batchmill.checkpoint.frames import HEAD_SIZE, FileHeader, FrameRef, FrameType, frame_bytes
from batchmill.checkpoint.moved_aside import with_moved
from batchmill.checkpoint.name_lock import Name, holding, in_the_way
from batchmill.checkpoint.reader import read_payload
from batchmill.checkpoint.recovery import Found, OnFrame, examine, first_bytes
from batchmill.errors import CheckpointRefused, CheckpointUnwritable
from batchmill.files.atomic_file import save_beside
from batchmill.files.storage import Disk, chunks_of, is_same_file, write_all
from batchmill.system import threads
from batchmill.system.scarcity import limit_met
from batchmill.text import option

OnError = Callable[[CheckpointUnwritable], None]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TICK = 1.0  # seconds, at most, between two looks at whether the file is still ours


class Checkpoint:
    """A checkpoint open for writing; holds its lock until `close`. One thread appends; `sync` may be called from any.

    `path` is absolute, `meta` the map of frame 0. `recovery` is one sentence about what opening had to repair, or None.
    Get one from `create`, `open` or `temporary`.
    """

    def __init__(
        self,
        fd: int,
        path: str,
        header: FileHeader,
        meta: dict[str, Any],
        tail: tuple[int, int],
        *,
        interval: float | None,
        on_error: OnError | None,
        disk: Disk,
        named: bool = True,
    ) -> None:
        self.path = path
        self.meta = meta
        self.recovery: str | None = None
        self.moved: str | None = None
        self._fd = fd
        self._header = header
        self._disk = disk
        self._named = named
        self._on_error = on_error
        # (end, next seq) is one value: an interrupt between two stores could otherwise repeat a seq.
        self._tail = tail
        self._synced = tail[0]
        self._since = 0.0  # monotonic time of the oldest unsynced byte
        self._writing = False
        self._syncing = False
        self._closing = False
        self._sync_allowed = True
        self._failure: CheckpointUnwritable | None = None
        self._failure_seen = False
        self._state = threading.Condition(threading.RLock())
        self._interval = interval
        self._thread: threading.Thread | None = None
        if named and interval is not None:
            try:
                self._thread = threads.start(self._keep_synced, "sync")
            except BaseException:
                os.close(fd)
                raise

    @classmethod
    def create(
        cls,
        path: str,
        meta: Mapping[str, Any],
        *,
        interval: float | None = 1.0,
        on_error: OnError | None = None,
        disk: Disk | None = None,
    ) -> Checkpoint:
        """A new checkpoint at `path`, as `begin` makes one under a name that is held.

        Raises CheckpointRefused where there is one with outcomes, and as `holding` and `Reader` do.
        """

        def begin(name: Name) -> Checkpoint:
            if name.is_taken:
                raise in_the_way(name.path)
            return cls.begin(name, meta, interval=interval, on_error=on_error)

        return holding(path, begin, disk)

    @classmethod
    def begin(
        cls,
        name: Name,
        meta: Mapping[str, Any],
        *,
        keep: int | None = None,
        interval: float | None = 1.0,
        on_error: OnError | None = None,
    ) -> Checkpoint:
        """A new checkpoint, locked and durable before it has the name. A file that has it is replaced, or with `keep`
        moved aside (`moved`): `keep` of those stay.

        `interval`: seconds that a committed frame may stay unsynced (None: until `sync`, `close` or the cap);
        `on_error` is called, from the sync thread, with an error met there, which the next `append` or `close` raises.
        Raises as `Name.put`.
        """
        header, meta = FileHeader(os.urandom(16)), with_moved(meta, name.fd, keep)
        parts = first_bytes(header, meta)
        fd, moved = name.put(parts, keep)
        tail = (sum(map(len, parts)), 1)
        self = cls(fd, name.path, header, meta, tail, interval=interval, on_error=on_error, disk=name.disk)
        self.moved = moved
        return self

    @classmethod
    def open(
        cls,
        path: str,
        *,
        interval: float | None = 1.0,
        on_frame: OnFrame | None = None,
        on_error: OnError | None = None,
        disk: Disk | None = None,
    ) -> Checkpoint:
        """An existing checkpoint at `path`, scanned and repaired by `examine`; raises as that and as `holding`."""

        def resume(name: Name) -> Checkpoint:
            return cls.resume(name, examine(name, on_frame), interval=interval, on_error=on_error)

        return holding(path, resume, disk)

    @classmethod
    def resume(
        cls, name: Name, found: Found, *, interval: float | None = 1.0, on_error: OnError | None = None
    ) -> Checkpoint:
        """The checkpoint that has the name, after `found` was found in it: its lock is the Checkpoint's from now on."""
        tail = (found.verdict.offset, found.verdict.frames)
        fd = name.take()
        self = cls(fd, name.path, found.header, found.meta, tail, interval=interval, on_error=on_error, disk=name.disk)
        self.recovery = found.repaired
        return self

    @classmethod
    def temporary(cls, meta: Mapping[str, Any], *, disk: Disk | None = None) -> Checkpoint:
        """A checkpoint without a name, a lock or syncs, that goes when it is closed (for `--no-checkpoint`)."""
        header, disk = FileHeader(os.urandom(16)), disk or Disk()
        parts = first_bytes(header, meta)
        try:
            fd, name = tempfile.mkstemp(prefix="batchmill-", suffix=".ckpt")
            os.unlink(name)
            write_all(disk, fd, parts, 0)
        except OSError as error:
            said = f"cannot write a temporary file in {tempfile.tempdir or 'any directory for them'}"
            remedy = f"point TMPDIR at a directory with room, or give {option('checkpoint', 'FILE')}"
            raise limit_met(error, said) or CheckpointRefused(f"{said}: {error.strerror}", remedy) from error
        tail = (sum(map(len, parts)), 1)
        return cls(fd, name, header, dict(meta), tail, interval=None, on_error=None, disk=disk, named=False)

    @property
    def end(self) -> int:
        """Bytes committed: the offset at which the next frame will start."""
        return self._tail[0]

    @property
    def frames(self) -> int:
        """Frames committed, which is the seq of the next one."""
        return self._tail[1]

    @property
    def synced(self) -> int:
        """Bytes known to be durable (of a temporary checkpoint: none ever are)."""
        return self._synced

    def fileno(self) -> int:
        """The descriptor, for a forked worker to close first thing."""
        return self._fd

    def append(self, type: FrameType, payload: bytes) -> FrameRef:
        """Commit one frame; raises CheckpointUnwritable, from then on at every call, and nothing of it is in the file.

        Waits for the sync thread while the cap's worth of bytes (8 MiB) is unsynced.
        """
        with self._state:
            self._wait_for_room()
            self._look(pending=(type, payload))
            self._raise_failure()
            end, seq = self._tail
            head, crc = frame_bytes(self._header.seed, seq, self._synced, type, payload)
            self._writing = True  # until the tail is moved, bytes after it are ours to cut (an interrupt may come here)
            self._write((head, payload, crc), end)
            ref = FrameRef(seq, end + HEAD_SIZE, len(payload), type)
            if end == self._synced:
                self._since = time.monotonic()
            self._tail = (ref.end, seq + 1)
            self._writing = False
            if self._is_urgent(end):
                self._state.notify_all()
        return ref

    def read(self, ref: FrameRef) -> bytes:
        """The payload of a frame; raises CheckpointDamaged where it is not what was written."""
        return read_payload(self._fd, self._header, ref, self.path)

    def sync(self) -> None:
        """Make all that is committed durable before returning; raises CheckpointUnwritable."""
        self._sync_once()
        self._raise_failure()

    def close(self) -> None:
        """Make all durable, give the lock back, close. Raises CheckpointUnwritable unless `append` or `sync` did."""
        fd = self._fd
        if fd < 0:
            return
        self._stop_thread()
        self._look()
        self._sync_once()
        self._fd = -1
        try:
            self._disk.close(fd)
        except OSError as error:
            self._fail(self._unwritable(error), sync_allowed=False)
        if self._failure and not self._failure_seen:
            self._raise_failure()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # Writing

    def _write(self, parts: tuple[bytes, ...], end: int) -> None:
        try:
            write_all(self._disk, self._fd, parts, end)
        except OSError as error:
            full = error.errno in _FULL
            if full:  # after EIO nothing more is tried on this descriptor: the next opening cuts what is torn
                self._cut(end)
            self._fail(self._unwritable(error), sync_allowed=full)
            self._raise_failure()

    def _cut(self, end: int) -> None:
        try:
            self._disk.truncate(self._fd, end)
            self._writing = False
        except OSError:
            pass  # the next opening does it

    def _wait_for_room(self) -> None:
        while self._named and self._failure is None and self.end - self._synced >= self._header.cap:
            if self._thread is None:
                self._sync_once()
            else:
                self._state.wait()

    def _look(self, pending: tuple[FrameType, bytes] | None = None) -> None:
        """Fail if the file is not, or not as, this process left it; what is in hand is then saved beside it."""
        if self._failure or not self._named:
            return
        if self._writing:
            self._cut(self.end)
        try:
            status = os.fstat(self._fd)
        except OSError as error:
            self._fail(self._unwritable(error), sync_allowed=False)
            return
        if status.st_nlink == 0:
            what = "was deleted"
        elif not is_same_file(status, self.path):
            what = "was moved or replaced"
        elif status.st_size != self.end:
            what = f"was changed by another program (it has {status.st_size} bytes instead of {self.end})"
        else:
            return
        saved = self._rescue(status.st_size, pending)
        self._fail(CheckpointUnwritable(f"{self.path} {what} during the run", saved), sync_allowed=False)

    def _rescue(self, size: int, pending: tuple[FrameType, bytes] | None) -> str:
        end, seq = self._tail

        def parts() -> Iterable[bytes]:
            yield from chunks_of(self._fd, 0, min(size, end))
            if pending and size >= end:
                head, crc = frame_bytes(self._header.seed, seq, 0, pending[0], pending[1])
                yield from (head, pending[1], crc)

        try:
            saved = save_beside(self.path, "rescued", parts, self._disk)
        except (CheckpointRefused, OSError) as error:
            return f"saving what is left of it failed as well ({error})"
        return f"what is left of it was saved: continue with {option('resume', True)} {option('checkpoint', saved)}"

    # Syncing

    def _is_urgent(self, before: int) -> bool:
        return before == self._synced or self.end - self._synced >= self._header.cap // 2

    def _seconds_to_sync(self) -> float | None:
        """Seconds until a sync is due (0: now), or None where all is durable."""
        unsynced = self.end - self._synced
        if not unsynced or self._interval is None:
            return None
        if unsynced >= self._header.cap // 2:  # not the whole cap: writing goes on during the sync
            return 0.0
        return max(0.0, self._since + self._interval - time.monotonic())

    def _keep_synced(self) -> None:
        """The sync thread: syncs when due, looks at the file at every tick."""
        tick = min(max(self._interval or 0.0, 0.05), _TICK)
        while True:
            with self._state:
                due = self._seconds_to_sync()
                if due != 0.0 and not self._closing:
                    self._state.wait(tick if due is None else min(tick, due))
                if self._closing or self._failure:
                    return
                self._look()
                due = self._seconds_to_sync()
            if due == 0.0:
                self._sync_once()

    def _sync_once(self) -> None:
        """One fdatasync, unless all is durable. `synced` moves to what was committed before it began, no further."""
        with self._state:
            while self._syncing:
                self._state.wait()
            target = self.end
            if not self._named or not self._sync_allowed or target == self._synced:
                return
            self._syncing, began = True, time.monotonic()
        try:
            self._disk.sync(self._fd)
            self._synced, self._since = target, began
        except OSError as error:
            # The kernel marks the pages clean after a failed fsync: a second one that succeeds would prove nothing.
            self._fail(self._unwritable(error), sync_allowed=False)
        finally:
            with self._state:
                self._syncing = False
                self._state.notify_all()

    def _stop_thread(self) -> None:
        with self._state:
            self._closing = True
            self._state.notify_all()
        if self._thread is not None:
            self._thread.join()

    # Failing

    def _unwritable(self, error: OSError) -> CheckpointUnwritable:
        remedy = "make room" if error.errno in _FULL else "check the disk"
        return CheckpointUnwritable(
            f"cannot write {self.path}: {error.strerror}", f"{remedy}, then continue with {option('resume', True)}"
        )

    def _fail(self, failure: CheckpointUnwritable, *, sync_allowed: bool) -> None:
        with self._state:
            self._sync_allowed = self._sync_allowed and sync_allowed
            if self._failure is None:
                self._failure = failure
            self._state.notify_all()
        if self._on_error and threading.current_thread() is self._thread:
            self._on_error(failure)

    def _raise_failure(self) -> None:
        if self._failure:
            self._failure_seen = True
            raise self._failure
