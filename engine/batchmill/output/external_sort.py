"""Putting outcomes in order whose frames are mixed item by item: what workers do for it.

    frames --sort--> runs of lines in order, cut into pages --(`spool`)--> slices of all runs --merge--> output bytes

Each frame is decoded and rendered once, however its items are spread, and each line is moved twice: time grows with the
items. A page is little-endian: u32 lines | u64 bytes after this head | u64 position of its first line, then u64
position per line, u32 length per line, and the lines.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.unsaid import NOTHING, Unsaid
from batchmill.output.ordering import RenderJob, in_order, render_job, rendered
from batchmill.output.survey import ShapeJob, shape_of

PAGE = 16 << 10  # bytes of lines in a page, unless one line is longer
_HEAD = struct.Struct("<IQQ")

Lines = Callable[[OutcomeBlock, list[int], RenderJob], tuple[list[bytes], Unsaid]]


class SortJob(NamedTuple):
    """Frames whose lines are to be put in order, as a run."""

    frames: RenderJob


class MergeJob(NamedTuple):
    """The lines at positions [low, high): pages of each run that has some, in the order of runs. `like` is a job for
    the same output."""

    low: int
    high: int
    pages: tuple[bytes, ...]
    like: RenderJob | None = None


Work = RenderJob | SortJob | MergeJob | ShapeJob


class Page(NamedTuple):
    """Where a page of a run lies: its first line's position, offset and size in bytes."""

    position: int
    offset: int
    size: int


def fulfil(job: Work) -> tuple[bytes, Unsaid]:
    """What a job asks for, and what of it could not be said."""
    if isinstance(job, SortJob):
        return sort(job, lines_of)
    if isinstance(job, MergeJob):
        return _whole(b"".join(merge(job)), job.like), NOTHING
    if isinstance(job, ShapeJob):
        return shape_of(job).pack(), NOTHING
    data, unsaid = render_job(job)
    return _whole(data, job), unsaid


def _whole(data: bytes, job: RenderJob | None) -> bytes:
    """What goes to the output of a job's rows."""
    if job is None or job.format != "parquet" or job.table is None:
        return data
    from batchmill.output.parquet import batch_of

    return batch_of(data, job.table)


def lines_of(block: OutcomeBlock, indices: list[int], job: RenderJob) -> tuple[list[bytes], Unsaid]:
    """The output of each of some outcomes by itself; nothing for those that are left out."""
    wanted = indices if job.all or not block.head.failed else [i for i in indices if i not in block.failures]
    if job.format != "jsonl":
        found = [rendered(block, [index], job) for index in wanted]
        lines, unsaid = [line for line, _ in found], sum((more for _, more in found), NOTHING)
    else:
        text, unsaid = rendered(block, wanted, job)
        lines = [line + b"\n" for line in text.split(b"\n")[:-1]]
    if len(wanted) == len(indices):
        return lines, unsaid
    by_index = dict(zip(wanted, lines))
    return [by_index.get(index, b"") for index in indices], unsaid


def sort(job: SortJob, lines_of: Lines) -> tuple[bytes, Unsaid]:
    """A run: the lines of frames in order, as pages one after another."""
    frames = job.frames
    blocks = [OutcomeBlock(part.payload) for part in frames.parts]
    ordered = in_order(frames.parts, blocks, frames.low, frames.high)
    wanted: list[list[int]] = [[] for _ in blocks]
    for _, number, index in ordered:
        wanted[number].append(index)
    lines, unsaid = [], NOTHING
    for block, indices in zip(blocks, wanted):
        found, more = lines_of(block, indices, frames)
        lines.append(iter(found))
        unsaid += more
    positioned = ((position, next(lines[number])) for position, number, _ in ordered)
    return b"".join(_paged((position, line) for position, line in positioned if line)), unsaid


def _paged(positioned: Iterator[tuple[int, bytes]]) -> Iterator[bytes]:
    positions, lines, size = array("Q"), list[bytes](), 0
    for position, line in positioned:
        if lines and size + len(line) > PAGE:
            yield from _page(positions, lines)
            positions, lines, size = array("Q"), [], 0
        positions.append(position)
        lines.append(line)
        size += len(line)
    if lines:
        yield from _page(positions, lines)


def _page(positions: array[int], lines: list[bytes]) -> Iterator[bytes]:
    lengths = array("I", map(len, lines))
    data = b"".join(lines)
    yield _HEAD.pack(len(lines), 12 * len(lines) + len(data), positions[0])
    yield _little(positions).tobytes()
    yield _little(lengths).tobytes()
    yield data


def _little(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def pages(run: bytes) -> Iterator[Page]:
    """The pages of a run."""
    offset = 0
    while offset < len(run):
        _, size, position = _HEAD.unpack_from(run, offset)
        yield Page(position, offset, _HEAD.size + size)
        offset += _HEAD.size + size


def merge(job: MergeJob) -> list[bytes]:
    """The lines of a slice, in order; those at one position by the order of their runs."""
    positions: list[int] = []
    lines: list[bytes] = []
    for run in job.pages:
        for page in pages(run):
            for position, line in _lines_at(run, page.offset):
                if job.low <= position < job.high:
                    positions.append(position)
                    lines.append(line)
    return [lines[number] for number in sorted(range(len(lines)), key=positions.__getitem__)]


def _lines_at(run: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """(position, line) of all lines of the page there."""
    count, _, _ = _HEAD.unpack_from(run, offset)
    at = offset + _HEAD.size
    positions, lengths = array("Q", run[at : at + 8 * count]), array("I", run[at + 8 * count : at + 12 * count])
    at += 12 * count
    for position, length in zip(_little(positions), _little(lengths)):
        yield position, run[at : at + length]
        at += length
