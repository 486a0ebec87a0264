"""The bytes of one INPUT that were read and not yet taken, and where its records end in them."""

from __future__ import annotations

from batchmill.input.tables import Table


class Buffer:
    """`data`, of which all before `offset` was taken; `offset` is where a record begins.

    `marks` has a separator only where a record ends for certain (formats.py), at the same offset as `data`. Nobody
    knows yet where records end behind `open`, -1 where there is no such place: a quoted cell begins there. Blocks that
    cannot close it are held as they came, and are neither in `marks` nor looked at again: a quote that none closes
    would cost a copy of all behind it with each.
    """

    def __init__(self, table: Table | None = None) -> None:
        self._table = table
        self._data = self.marks = b""
        self._held: list[bytes] = []
        self._size = 0
        self.offset = 0
        self.open = -1

    def __len__(self) -> int:
        return self._size - self.offset

    @property
    def data(self) -> bytes:
        """All bytes that are here."""
        if self._held:
            self._data = b"".join((self._data, *self._held))
            self._held = []
        return self._data

    def add(self, block: bytes) -> None:
        """Bytes that follow."""
        if self.open >= 0 and self._table is not None and self._table.stays_open(self._size - self.open, block):
            self._held.append(block)
            self._size += len(block)
            return
        self._held.append(block)
        self._begin_at(self.offset, more=True)

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
        self._data, self._held = b"".join((memoryview(self._data)[start:], *self._held)), []
        self._size, self.offset = len(self._data), 0
        if self._table is None:
            self.marks = self._data
        else:
            self.marks, self.open = self._table.scan(self._data, more=more)
