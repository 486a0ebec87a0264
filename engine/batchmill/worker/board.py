"""Memory that the parent and its workers share: an array of 64-bit numbers. What they mean is in `records`."""

from __future__ import annotations

import mmap
import os
from multiprocessing.reduction import DupFd
from typing import Any

from batchmill.files.anonymous_file import new_file


class Board:
    """`numbers` are zeros at first. Sent to a worker while that is started, it is the same memory there."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._descriptor = new_file()
        os.ftruncate(self._descriptor, 8 * size)
        self._map(self._descriptor)

    def _map(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, 8 * self._size)
        self.numbers = memoryview(self._memory).cast("B").cast("q")

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (DupFd(self._descriptor), self._size)

    def fileno(self) -> int:
        """The descriptor of the memory."""
        return self._descriptor

    def close(self) -> None:
        """Let go of the memory: `numbers` cannot be used any more."""
        self.numbers.release()
        self._memory.close()
        os.close(self._descriptor)


def _attached(passed: Any, size: int) -> Board:
    board = Board.__new__(Board)
    board._size = size
    descriptor = passed.detach()
    board._map(descriptor)
    os.close(descriptor)
    return board
