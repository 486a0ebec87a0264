"""Pickles whose large buffers stand beside them, and are there once for all processes that read them.

    Pickled       a pickle (protocol 5) and its buffers, such as those of arrays; itself pickled, it hands them on
    MappedPickle  all of that in a file without a name, which a reader maps; what a numpy.memmap shows is mapped from
                  its own file, and nowhere else
    MappedItem    the same for an item on its way to a worker of this machine, which opens it by number

What is made of a mapped buffer is read-only.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import pickle
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from pickle import PickleBuffer
from typing import Any, NamedTuple

from batchmill.files.anonymous_file import new_file
from batchmill.files.storage import write_whole

LEAST = 64 << 10  # bytes of a buffer that stands beside its pickle
LARGE = 4 << 20  # bytes of an item that is worth a file
MOST_ITEMS = 64  # that have files at the same time: each has a descriptor
_ALIGNED = 64
_FROM_MEMMAP = "r", "r+", "w+"  # modes in which a memmap shows what its file has

_MAIN = b"main__"  # in a pickle that names something of the main module
_dumps, _loads = pickle.dumps, pickle.loads  # bound here: the user's code may replace it in its module


class Pickled:
    """`data` is unpickled with `buffers`."""

    __slots__ = ("buffers", "data")

    def __init__(self, data: bytes, buffers: Iterable[Any] = ()) -> None:
        self.data = data
        self.buffers = list(buffers)

    @classmethod
    def of(cls, value: Any, pickler: Callable[..., Any] | None = None, *, is_whole: bool = False) -> Pickled:
        """`value` as one; `pickler` makes another one than pickle's. `is_whole`: no buffers stand beside it. Raises
        what pickling it raises."""
        file, buffers = io.BytesIO(), list[pickle.PickleBuffer]()

        def is_small(buffer: pickle.PickleBuffer) -> bool:
            try:
                small = buffer.raw().nbytes < LEAST
            except BufferError:  # in pieces
                small = True
            if is_whole or small:
                return True
            buffers.append(buffer)
            return False

        (pickler or Pickler)(file, protocol=5, buffer_callback=is_small).dump(value)
        return cls(file.getvalue(), buffers)

    @property
    def size(self) -> int:
        """Bytes, in all."""
        return len(self.data) + sum(memoryview(buffer).nbytes for buffer in self.buffers)

    def loads(self) -> Any:
        """The value; raises what unpickling it raises."""
        return _loads(self.data, buffers=self.buffers)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol < 5:
            return Pickled, (self.data, [bytes(memoryview(buffer)) for buffer in self.buffers])
        return Pickled, (self.data, [pickle.PickleBuffer(buffer) for buffer in self.buffers])


class Pickler(pickle.Pickler):
    """Pickle's own, which does not copy the buffer of a numpy.memmap."""

    def reducer_override(self, value: Any) -> Any:
        """How a value is pickled; NotImplemented: as ever."""
        return memmap_reduced(value)


def memmap_reduced(value: Any) -> Any:
    """How a numpy.memmap is pickled: as an array, for of a subclass the buffer would be copied. NotImplemented for all
    else."""
    np = sys.modules.get("numpy")
    if np is None or type(value) is not np.memmap or value.dtype.hasobject:
        return NotImplemented
    return np.asarray(value).__reduce_ex__(5)


class _Section(NamedTuple):
    """Where a buffer is: in the file at `path`, or in the nameless one."""

    start: int
    size: int
    path: str | None = None


class MappedPickle:
    """A value in a file that its readers map. Raises OSError where there can be no such file."""

    def __init__(self, pickled: Pickled) -> None:
        self._descriptor = new_file()
        self._close = weakref.finalize(self, os.close, self._descriptor)
        write_whole(self._descriptor, pickled.data)
        self._length, end = len(pickled.data), len(pickled.data)
        self._sections: list[_Section] = []
        for buffer in pickled.buffers:
            raw = pickle.PickleBuffer(buffer).raw()
            section = _of_memmap(raw)
            if section is None:
                gap = -end % _ALIGNED
                write_whole(self._descriptor, bytes(gap))
                write_whole(self._descriptor, raw)
                section = _Section(end + gap, raw.nbytes)
                end += gap + raw.nbytes
            self._sections.append(section)

    @property
    def parts(self) -> tuple[int, list[_Section]]:
        """What a reader needs to know beside the descriptor."""
        return self._length, self._sections

    def fileno(self) -> int:
        """The descriptor of the file."""
        return self._descriptor

    def loads(self) -> Any:
        """The value; raises what unpickling it raises."""
        return read_mapped(self._descriptor, *self.parts)

    def close(self) -> None:
        """Let go of the file; what was read from it stays."""
        self._close()


def read_mapped(descriptor: int, length: int, sections: Sequence[_Section]) -> Any:
    """The value of a MappedPickle, whose `parts` these are."""
    view = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    buffers = [view[start : start + size] if path is None else _mapped(path, start, size)
               for start, size, path in sections]  # fmt: skip
    return _loads(view[:length], buffers=buffers)


def _mapped(path: str, start: int, size: int) -> memoryview:
    before = start % mmap.ALLOCATIONGRANULARITY
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), before + size, offset=start - before, access=mmap.ACCESS_READ)
    return memoryview(mapped)[before:]


def _of_memmap(raw: memoryview) -> _Section | None:
    """Where the bytes are in the file of a numpy.memmap, of which they are a part; None where they are of none."""
    np, root = sys.modules.get("numpy"), raw.obj
    if np is None or not isinstance(root, np.ndarray):
        return None
    at = root.__array_interface__["data"][0]
    while isinstance(root.base, np.ndarray):
        root = root.base
    if not isinstance(root, np.memmap) or root.mode not in _FROM_MEMMAP or not isinstance(root.base, mmap.mmap):
        return None
    path, start = root.filename, root.offset + at - root.__array_interface__["data"][0]
    try:
        is_there = path is not None and os.stat(path).st_size >= start + raw.nbytes
    except OSError:
        is_there = False
    return _Section(start, raw.nbytes, os.fspath(path)) if is_there else None


class MappedItem(bytes):
    """The pickle of a large item. Its bytes are not those of the pickle, but a digest of them: what it is known by."""

    _there = 0

    def __new__(cls, pickled: Pickled) -> MappedItem:
        digest = hashlib.blake2b(pickled.data, digest_size=16)
        for buffer in pickled.buffers:
            digest.update(pickle.PickleBuffer(buffer).raw())
        found = super().__new__(cls, digest.digest())
        found._mapped = MappedPickle(pickled)
        MappedItem._there += 1
        return found

    _mapped: MappedPickle

    def __del__(self) -> None:
        MappedItem._there -= 1

    @classmethod
    def has_room(cls) -> bool:
        """Whether there may be one more."""
        return sys.platform == "linux" and cls._there < MOST_ITEMS

    def __reduce__(self) -> tuple[Any, ...]:
        return _ItemElsewhere, (bytes(self), os.getpid(), self._mapped.fileno(), *self._mapped.parts)


class _ItemElsewhere(bytes):
    """A MappedItem in a worker. Its file is open in the program as long as the worker has not answered for it."""

    _where: tuple[Any, ...]

    def __new__(cls, digest: bytes, pid: int, descriptor: int, *parts: Any) -> _ItemElsewhere:
        found = super().__new__(cls, digest)
        found._where = (pid, descriptor, *parts)
        return found

    def loads(self) -> Any:
        pid, descriptor, *parts = self._where
        with open(f"/proc/{pid}/fd/{descriptor}", "rb") as file:
            return read_mapped(file.fileno(), *parts)


def packed_item(item: Any, is_shared: bool = False, pickle: Callable[..., Pickled] = Pickled.of) -> bytes:
    """An item for a worker; `is_shared`: that is on this machine. `pickle` makes a Pickled of it, with buffers beside
    it or `is_whole`. Raises what pickling it raises."""
    data = _plain(item)
    if data is not None:
        return data
    pickled = pickle(item)
    if is_shared and pickled.size >= LARGE and MappedItem.has_room():
        try:
            return MappedItem(pickled)
        except OSError:
            pass  # no descriptor is left, or no memory: the worker may have more
    return pickled.data if not pickled.buffers else pickle(item, is_whole=True).data


def _plain(item: Any) -> bytes | None:
    """A small item as pickle itself packs it, in a tenth of the time; None where that may not do: large, of the main
    module, or refused."""
    buffers: list[PickleBuffer] = []
    try:
        data = _dumps(item, 5, buffer_callback=buffers.append)
        if buffers:
            is_large = sum(buffer.raw().nbytes for buffer in buffers) >= LARGE
            data = b"" if is_large else _dumps(item, 5)
    except Exception:  # said once more where it counts
        return None
    return data if 0 < len(data) < LARGE and _MAIN not in data else None


def is_digest(record: bytes) -> bool:
    """Whether that is no pickle, but the digest of one."""
    return isinstance(record, _ItemElsewhere)


def read_item(record: bytes) -> Any:
    """The item of `packed_item`, in a worker; raises what unpickling it raises."""
    return record.loads() if isinstance(record, _ItemElsewhere) else _loads(record)
