"""The bytes of one INPUT that were read and not yet taken, and where its records end in them."""

from __future__ import annotations

from batchmill.input.tables import Table


class Buffer:
    """`data`, of which all before `offset` was taken; `offset` is where a record begins.

    `marks` is as long as `data`, and has a separator only where a record ends for certain (formats.py). Nobody knows
    yet where records end behind `open`, -1 where there is no such place: a quoted cell begins there.
    """

    def __init__(self, table: Table | None = None) -> None:
        self._table = table
        self.data = self.marks = b""
        self.offset = 0
        self.open = -1

    def __len__(self) -> int:
        return len(self.data) - self.offset

    def add(self, block: bytes) -> None:
        """Bytes that follow."""
        if self._table is None:
            self.data = self.marks = self.data[self.offset :] + block
        elif self.open >= 0 and self._table.stays_open(self.data, self.open, block):
            self.data = self.data[self.offset :] + block
            self.marks = self.marks[self.offset :] + block.replace(b"\n", b" ")
            self.open -= self.offset
        else:
            self.data = self.data[self.offset :] + block
            self.marks, self.open = self._table.scan(self.data, more=True)
        self.offset = 0

    def end(self) -> bool:
        """Nothing follows: whether that tells of more records that end here."""
        if self._table is None or self.open < 0:
            return False
        self._begin_at(self.offset, more=False)
        return True

    def skip_to(self, end: int) -> bytes:
        """Let go of what comes before `end`, where a record begins, wherever one began before; what was let go."""
        gone = self.data[self.offset : end]
        self._begin_at(end, more=True)
        return gone

    def _begin_at(self, start: int, *, more: bool) -> None:
        self.data, self.offset = self.data[start:], 0
        if self._table is None:
            self.marks = self.data
        else:
            self.marks, self.open = self._table.scan(self.data, more=more)
