"""The way of one ordering's outcomes from their frames into its order: by stretches, or scattered first.

It never renders an outcome: whoever asks for jobs has them made.

    pieces --> [before] --stretches--> render
               [tangle] --frames--> sort --> spool --slices--> merge
               [after]  --stretches--> render

The tangle is the range of positions in which single outcomes are so mixed that stretches would decode their frames
again and again. Mostly there is none.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from types import TracebackType
from typing import Protocol

from batchmill.checkpoint.index import Extent, Piece
from batchmill.codec.unsaid import Unsaid
from batchmill.output.external_sort import SortJob, Work
from batchmill.output.ordering import Part, RenderJob, Stretch, stretches
from batchmill.output.spool import Spool, unit_of
from batchmill.output.survey import ShapeJob

_WINDOW = 1 << 14  # positions that are looked at together
_WASTE = 4  # a stretch may decode up to 4 times the items that it holds
_SINGLE = 128  # what a single outcome costs in a stretch, in items decoded, however small its frame is
_FREE = 2_000_000  # items decoded for single outcomes that are not worth a second thought
_END = 1 << 62  # beyond all positions
_SURVEYED = 8 << 20  # bytes of frames whose shape is taken at once
_MOST_FRAMES = 64
_LINE = 40  # bytes that an item takes up beside its result, while it is sorted


class Frames(Protocol):
    """Where frames are read from, by seq."""

    def payload(self, seq: int) -> bytes:
        """The payload; raises CheckpointDamaged."""

    def extent(self, seq: int) -> Extent:
        """How large it is."""

    def gone(self, seq: int) -> Collection[int]:
        """The indices of those that were replaced."""

    def moved(self, seq: int) -> Collection[int]:
        """The indices of those that count elsewhere than where the frame lies."""


Make = Callable[[int, int, tuple[Part, ...]], RenderJob]


def parts_of(stretch: Stretch, frames: Frames) -> tuple[Part, ...]:
    """A stretch's pieces by frame, each read once."""
    by_seq: dict[int, list[Piece]] = {}
    for piece in stretch.pieces:
        by_seq.setdefault(piece.seq, []).append(piece)
    return tuple(_part(seq, by_seq[seq], frames) for seq in sorted(by_seq))


def _part(seq: int, pieces: Iterable[Piece], frames: Frames, singles: array[int] | None = None) -> Part:
    pieces = tuple(pieces)
    moved = frames.moved(seq) if any(piece.start is None for piece in pieces) else ()
    # A set, where many are looked up.
    moved = frozenset(moved) if moved else ()
    return Part(seq, frames.payload(seq), pieces, frames.gone(seq), moved, singles or array("Q"))


class Layout:
    """Pieces of one ordering, and the work that puts them in order: `make` turns parts into a RenderJob.

    `folder` is where a temporary file may be (None: where such belong). A single outcome takes 24 bytes until it is
    its turn.
    """

    def __init__(self, frames: Frames, make: Make, folder: str | None = None) -> None:
        self._frames = frames
        self._make = make
        self._folder = folder
        self._pieces: list[Piece] = []
        self._singles: dict[int, array[int]] = {}  # seq -> (position, index, count), laid end to end
        self._sorting = 0  # runs that are not back yet
        self._spool: Spool | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to make that jobs were not asked for."""
        return bool(self._pieces or self._singles)

    def add(self, piece: Piece) -> None:
        """Outcomes at positions of this ordering."""
        if piece.start is None:
            self._pieces.append(piece._replace(generation=0))
            return
        singles = self._singles.get(piece.seq)
        if singles is None:
            singles = self._singles[piece.seq] = array("Q")
        singles.append(piece.low)
        singles.append(piece.start)
        singles.append(piece.high - piece.low)

    def jobs(self) -> Iterator[Work | None]:
        """What is to be made, in order; None: not before what a SortJob asked for was given to `sorted`.

        All but that is output, in order. Raises CheckpointDamaged, OutputLost. Once.
        """
        low, high = self._tangle()
        pieces, self._pieces = self._pieces, []
        yield from self._stretches([*_within(pieces, 0, low), *self._loose(0, low)])
        after = [*_within(pieces, high, _END), *self._loose(high, _END)]
        if low == high:
            self._singles = {}
            yield from self._stretches(after)
            return
        yield from self._sort([*_within(pieces, low, high)], low, high)
        while self._sorting:
            yield None
        assert self._spool is not None
        for job in self._spool.slices(low, high):
            yield job._replace(like=self._make(job.low, job.high, ()))
        self._spool.close()
        yield from self._stretches(after)

    def surveys(self, ordering: int = 0) -> Iterator[ShapeJob]:
        """What takes the shape of all outcomes, each frame once; what is to be made stays to be made."""
        by_seq: dict[int, list[Piece]] = {}
        for piece in self._pieces:
            by_seq.setdefault(piece.seq, []).append(piece)
        parts, held = list[Part](), 0
        for seq in sorted({*by_seq, *self._singles}):
            weight = self._weight(seq)
            if parts and (held + weight > _SURVEYED or len(parts) >= _MOST_FRAMES):
                yield ShapeJob(self._make(0, _END, tuple(parts)), ordering)
                parts, held = [], 0
            parts.append(_part(seq, by_seq.get(seq, ()), self._frames, self._singles.get(seq)))
            held += weight
        if parts:
            yield ShapeJob(self._make(0, _END, tuple(parts)), ordering)

    def sorted(self, run: bytes) -> None:
        """A run, as a SortJob asked for it: in the order of these. Raises OutputLost."""
        assert self._spool is not None
        self._spool.add(run)
        self._sorting -= 1

    def close(self) -> None:
        """Let go of what is held."""
        if self._spool is not None:
            self._spool.close()

    def __enter__(self) -> Layout:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def made(self, fulfil: Callable[[Work], tuple[bytes, Unsaid]]) -> Iterator[tuple[bytes, Unsaid]]:
        """All of it made here and now: output bytes, and what they could not say."""
        with self:
            for job in self.jobs():
                assert job is not None  # each run is back before the next job is asked for
                data, unsaid = fulfil(job)
                if isinstance(job, SortJob):
                    self.sorted(data)
                    data = b""
                yield data, unsaid

    def _stretches(self, pieces: Iterable[Piece]) -> Iterator[RenderJob]:
        for stretch in stretches(pieces, lambda seq: self._frames.extent(seq).size):
            yield self._make(stretch.low, stretch.high, parts_of(stretch, self._frames))

    def _tangle(self) -> tuple[int, int]:
        """The positions [low, high) that are better scattered than cut into stretches; (0, 0) where there are none."""
        windows: Counter[int] = Counter()
        cost = runs = 0
        for seq, singles in self._singles.items():
            positions = singles[::3]
            windows.update(position // _WINDOW for position in positions)
            runs += len(positions)
            cost += len(positions) * max(_SINGLE, self._frames.extent(seq).items)
        if cost <= _FREE:
            return 0, 0
        most = _WASTE * _WINDOW * runs / cost
        mixed = [number for number, count in windows.items() if count > most]
        return (min(mixed) * _WINDOW, (max(mixed) + 1) * _WINDOW) if mixed else (0, 0)

    def _loose(self, low: int, high: int) -> Iterator[Piece]:
        """The single outcomes at [low, high), as pieces: few, or all there are."""
        for seq, singles in self._singles.items():
            for position, index, count in zip(singles[::3], singles[1::3], singles[2::3]):
                if position < high and position + count > low:
                    yield from _within([Piece(0, position, position + count, seq, 0, index)], low, high)

    def _sort(self, pieces: Iterable[Piece], low: int, high: int) -> Iterator[SortJob]:
        """The frames of the tangle, each once, by seq."""
        by_seq: dict[int, list[Piece]] = {}
        for piece in pieces:
            by_seq.setdefault(piece.seq, []).append(piece)
        weights = {seq: self._weight(seq) for seq in sorted({*by_seq, *self._singles})}
        unit = unit_of(sum(weights.values()))
        self._spool = Spool(self._folder, unit)
        parts, held = list[Part](), 0
        for seq, weight in weights.items():
            if parts and held + weight > unit:
                yield self._run(low, high, tuple(parts))
                parts, held = [], 0
            parts.append(_part(seq, by_seq.pop(seq, ()), self._frames, self._singles.pop(seq, None)))
            held += weight
        if parts:
            yield self._run(low, high, tuple(parts))

    def _weight(self, seq: int) -> int:
        items, size = self._frames.extent(seq)
        return size + _LINE * items

    def _run(self, low: int, high: int, parts: tuple[Part, ...]) -> SortJob:
        self._sorting += 1
        return SortJob(self._make(low, high, parts))


def _within(pieces: Iterable[Piece], low: int, high: int) -> Iterator[Piece]:
    """The pieces as far as they lie at [low, high)."""
    for piece in pieces:
        first, end = max(low, piece.low), min(high, piece.high)
        if first < end:
            start = None if piece.start is None else piece.start + first - piece.low
            yield piece._replace(low=first, high=end, start=start)


def layouts_of(pieces: Iterable[Piece], frames: Frames, make: Make) -> Iterator[Layout]:
    """Outcomes in order: a layout for each ordering of the input, one after the other."""
    found: dict[int, Layout] = {}
    for piece in pieces:
        layout = found.get(piece.generation)
        if layout is None:
            layout = found[piece.generation] = Layout(frames, make)
        layout.add(piece)
    for generation in sorted(found):
        yield found.pop(generation)
