"""The temporary file of lines that wait to be merged: runs in, slices out, in bounded memory.

The file has no name: it is gone with the process, whatever ends that.
"""

from __future__ import annotations

import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from math import isqrt

from batchmill.errors import OutputLost
from batchmill.files.storage import read_at, write_whole
from batchmill.output.external_sort import PAGE, MergeJob, pages

_UNIT = 4 << 20  # bytes of a run, and of a slice, unless there are gigabytes in all


def unit_of(total: int) -> int:
    """Bytes of a run and of a slice where there are about `total` in all.

    A slice takes a page too many of each run, at most: at this size, those are no more than the slice itself.
    """
    return max(_UNIT, isqrt(2 * PAGE * total))


class Spool:
    """Runs of lines, in a file in `folder` (None: where temporary files belong). Raises OutputLost."""

    def __init__(self, folder: str | None, unit: int) -> None:
        self._folder = folder or tempfile.gettempdir()
        self._unit = unit
        self._end = 0
        # Of each page: the position of its first line, and where it is. A run's pages are consecutive.
        self._positions = array("Q")
        self._offsets = array("Q")
        self._runs = [0]  # numbers of pages at which runs begin, and the end
        try:
            self._file = tempfile.TemporaryFile(prefix="batchmill-", dir=folder, buffering=0)  # noqa: SIM115 - see close
        except OSError as error:
            raise self._lost(error) from None

    def add(self, run: bytes) -> None:
        """Append a run: what comes in order of runs comes out so, where positions are equal."""
        try:
            write_whole(self._file.fileno(), run)
        except OSError as error:
            raise self._lost(error) from None
        for page in pages(run):
            self._positions.append(page.position)
            self._offsets.append(self._end + page.offset)
        self._end += len(run)
        self._runs.append(len(self._positions))

    def slices(self, low: int, high: int) -> Iterator[MergeJob]:
        """All lines, whose positions are in [low, high), as slices in order."""
        offsets = array("Q", [*self._offsets, self._end])
        cuts, size = [low], 0
        for number in sorted(range(len(self._positions)), key=self._positions.__getitem__):
            if size >= self._unit and self._positions[number] > cuts[-1]:
                cuts.append(self._positions[number])
                size = 0
            size += offsets[number + 1] - offsets[number]
        for begin, end in pairwise([*cuts, high]):
            yield MergeJob(begin, end, tuple(self._cut(offsets, begin, end)))

    def _cut(self, offsets: array[int], low: int, high: int) -> Iterator[bytes]:
        """The pages of each run that may have lines at [low, high)."""
        for begin, end in pairwise(self._runs):
            first = max(begin, bisect_left(self._positions, low, begin, end) - 1)
            last = bisect_left(self._positions, high, begin, end)
            if first < last:
                try:
                    yield read_at(self._file.fileno(), offsets[first], offsets[last] - offsets[first])
                except OSError as error:
                    raise self._lost(error) from None

    def _lost(self, error: OSError) -> OutputLost:
        return OutputLost(
            f"cannot write a temporary file in {self._folder}: {error.strerror}",
            "make room there; the checkpoint is complete, and `batchmill results` writes what is in it",
        )

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
