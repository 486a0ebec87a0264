"""Where in this run's input the outcomes of earlier runs are, as far as they were found in it.

A new generation (see `index`) begins where one is found at another position than before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchmill.checkpoint.index import Index, Piece, Row, add_piece
from batchmill.model import Entry

ORDER_LIMIT = 5000  # moved blocks and items after which an ORDER frame is due


class Positions:
    """`pieces` are the outcomes that were found since the caller last cleared them, at positions of `generation`.

    `handed`, which the caller keeps, is the position up to which work was handed out.
    """

    def __init__(self, index: Index) -> None:
        self.pieces: list[Piece] = []
        self.generation = index.generation
        self.handed = 0
        self._index = index
        self._base = index.generation
        self._offsets: dict[int, Sequence[int]] = {}  # by seq, of frames whose items are not at consecutive positions
        self._blocks: list[tuple[int, int]] = []
        self._items: list[Piece] = []
        self._from: int | None = None
        self._kept = 0  # the position up to which outcomes were found where they were before

    @property
    def have_moved(self) -> bool:
        """Whether something that is done was found at another position than before."""
        return self.generation > self._base

    def note_offsets(self, seq: int, offsets: Sequence[int]) -> None:
        """At which offsets from its first position a frame's outcomes were recorded: known before `put` has one."""
        if not isinstance(offsets, range):
            self._offsets[seq] = offsets

    def put_block(self, row: Row, first: int) -> None:
        """All outcomes of a frame were found, in one piece, from position `first` on."""
        if self._index.position_of_block(row) != (self.generation, first):
            self._note_move(first)
            self._blocks.append((row.seq, first))
        else:
            self._kept = max(self._kept, first + row.records)
        self.pieces.append(Piece(self.generation, first, first + row.records, row.seq, first - row.first))

    def put(self, entry: Entry, position: int) -> None:
        """An outcome was found at a position."""
        stays = self._position_of(entry) == (self.generation, position)
        if not stays:
            self._note_move(position)
        piece = Piece(self.generation, position, position + 1, entry[0], 0, entry[1])
        add_piece(self.pieces, piece)
        if stays:
            self._kept = max(self._kept, position + 1)
        else:
            add_piece(self._items, piece)

    def _position_of(self, entry: Entry) -> tuple[int, int]:
        offsets = self._offsets.get(entry[0])
        return self._index.position_of(entry, entry[1] if offsets is None else offsets[entry[1]])

    def _note_move(self, position: int) -> None:
        # What was handed out under the old generation stays in its place, even if it comes back after this; and so
        # does what was found in its place already, behind records that were held back or whose scan took longer.
        if self._from is None:
            self._from = max(position, self.handed, self._kept)
            self.generation = self._base + 1

    def orders(self, all: bool = False) -> Iterator[dict[str, object]]:
        """The ORDER frames that are due (or, with `all`, what there is for one), each of bounded size."""
        while (moved := len(self._blocks) + len(self._items)) and (all or moved >= ORDER_LIMIT):
            first, self._from = self._from, -1
            blocks, self._blocks = self._blocks[:ORDER_LIMIT], self._blocks[ORDER_LIMIT:]
            items, self._items = self._items[:ORDER_LIMIT], self._items[ORDER_LIMIT:]
            yield {
                "generation": self.generation,
                "from": None if first == -1 else first,
                "blocks": [list(block) for block in blocks],
                "items": [[p.seq, p.start, p.high - p.low, p.low] for p in items],
            }
