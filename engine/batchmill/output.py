"""Owns the output of a run: outcomes in input order, made in the lanes, copied as bytes. Never opens an outcome.

Pieces come in as they are found or committed. To a file they are written at the end, under a temporary name; to stdout
as far as the input is settled without a gap. Stretches (ordering.py) are rendered by whichever lane is free, and
written in order.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Collection, Iterator

from batchmill import rows
from batchmill.errors import OutputLost
from batchmill.export import harmless
from batchmill.index import Piece
from batchmill.ordering import Part, RenderOrder, Stretch, stretches
from batchmill.target import STDOUT, forget, open_target


class Frontier:
    """Up to which position everything is settled, from ranges that come in any order."""

    def __init__(self) -> None:
        self.position = 0
        self._ahead: list[tuple[int, int]] = []

    def settle(self, first: int, end: int) -> None:
        """The records at [first, end) are settled."""
        heapq.heappush(self._ahead, (first, end))
        while self._ahead and self._ahead[0][0] <= self.position:
            self.position = max(self.position, heapq.heappop(self._ahead)[1])


class Output:
    """Where results go. `read` gives a frame's payload, `gone` the indices in it that were replaced.

    `target` is "-" or a path, `source` the format that items came in. Raises OutputLost where it cannot be written;
    `is_unread` says that nobody reads stdout any more.
    """

    def __init__(
        self,
        target: str,
        format: str,
        with_item: bool,
        read: Callable[[int], bytes],
        gone: Callable[[int], Collection[int]],
        *,
        source: str = "jsonl",
    ) -> None:
        self.target = target
        self._format = format
        self._with_item = with_item
        self._read = read
        self._gone = gone
        self._streams = target == STDOUT
        self._source = source
        columns = rows.columns(format, all=False, with_item=with_item)
        self._target = open_target(target, format, columns, rows.opening(format, all=False, with_item=with_item))
        self._pieces: list[Piece] = []
        self._frontier = Frontier()
        self._written = 0  # position up to which stretches were cut
        self._stretches: Iterator[Stretch] = iter(())
        self._finishing = False
        self._cut = 0
        self._next = 0
        self._rendered: dict[int, bytes] = {}
        self._exhausted = True
        self.odd = 0
        self.is_unread = False
        self._on_screen = self._streams and os.isatty(1) and format in ("jsonl", "csv")

    def add(self, piece: Piece) -> None:
        """Outcomes that are in the checkpoint now, at positions of this input."""
        heapq.heappush(self._pieces, piece._replace(generation=0))

    def settle(self, first: int, end: int) -> None:
        """Nothing more will come for the records at [first, end)."""
        if self._streams:
            self._frontier.settle(first, end)

    def finish(self) -> None:
        """Everything has come: write what there is."""
        if not self._finishing:
            self._finishing = True
            self._write(b"")  # what an output begins with, be there anything in it or not

    @property
    def is_done(self) -> bool:
        """Whether all that can be written now is."""
        return self._next == self._cut and self._exhausted and not self._due()

    @property
    def is_over(self) -> bool:
        """Whether everything has come, and is written."""
        return self._finishing and self.is_done

    def _due(self) -> bool:
        if not self._pieces:
            return False
        return self._finishing or (self._streams and self._pieces[0].low < self._frontier.position)

    def next_order(self) -> tuple[int, RenderOrder] | None:
        """The next stretch to render, numbered; None where none is due."""
        stretch = next(self._stretches, None)
        if stretch is None and self._due():
            self._stretches = self._advance()
            stretch = next(self._stretches, None)
        self._exhausted = stretch is None
        if stretch is None:
            return None
        parts = tuple(Part(piece, self._read(piece.seq), self._gone(piece.seq)) for piece in stretch.pieces)
        number, self._cut = self._cut, self._cut + 1
        return number, RenderOrder(stretch.low, stretch.high, parts, self._format, False, self._with_item, self._source)

    def _advance(self) -> Iterator[Stretch]:
        """The stretches up to the frontier; what reaches beyond it waits."""
        if self._finishing:
            due, self._pieces = self._pieces, []
            return stretches(due)
        end, due = self._frontier.position, []
        while self._pieces and self._pieces[0].low < end:
            piece = heapq.heappop(self._pieces)
            due.append(piece._replace(high=min(piece.high, end)))
            if piece.high > end:
                place = None if piece.place is None else piece.place + end - piece.low
                heapq.heappush(self._pieces, piece._replace(low=end, place=place))
        return stretches(due)

    def rendered(self, number: int, data: bytes, odd: int) -> None:
        """A lane has made stretch `number`: write it when its turn comes."""
        self.odd += odd
        if self.is_unread:
            return
        self._rendered[number] = data
        while self._next in self._rendered:
            self._write(self._rendered.pop(self._next))
            self._next += 1

    def _write(self, data: bytes) -> None:
        try:
            self._target.write(harmless(data) if self._on_screen else data)
        except BrokenPipeError:
            self.is_unread = True
        except OSError as error:
            # A stream is written while items run: the checkpoint is right then, but not complete.
            where, remedy = self.target, "the checkpoint is complete"
            if self._streams:
                where, remedy = "stdout", "nothing in the checkpoint is lost"
            raise OutputLost(f"cannot write {where}: {error.strerror}", remedy) from None

    def close(self, keep: str) -> str | None:
        """See Target.close. A whole file takes the place of a partial one too, of an earlier run that stopped."""
        name = self._target.close(keep)
        if name is not None and keep == "whole" and os.path.isfile(name):
            forget(f"{name}.partial")
        return name
