"""Owns a chunk's reply: its columns while it grows, the frame it becomes, an exception as text. Never calls user code
but the methods of an exception, and survives those.
"""

from __future__ import annotations

import traceback
from array import array
from collections.abc import Callable, Sequence
from itertools import islice
from operator import lt, sub
from typing import Any, NamedTuple

from batchmill.codec import MASKED, NIL, Head, pack_outcomes
from batchmill.formats import BadItem, Format, checksum, digest_block
from batchmill.model import Chunk, FailureExample, ItemError

MAX_KEPT_ITEM = 64 << 10  # bytes of a failed item that are kept beside its error
MAX_MESSAGE = 8 << 10  # characters of an error's message
MAX_TRACEBACK = 48 << 10
MAX_OUTCOME = (64 << 20) - (256 << 10)  # bytes of a packed result, and its item if that is kept
_EXAMPLES = 5  # failed items named per error type

Group = tuple[str, int, tuple[FailureExample, ...]]


class Tally(NamedTuple):
    """What the parent must know of a reply without opening it.

    `lines` records of the chunk were covered. `recovered` counts the outcomes here that replace a failed one. `low` and
    `high` are the least and greatest id where all ids are of one type and strictly increase (else None): so repeated
    ids can be ruled out without keeping any.
    """

    serial: int
    lines: int
    items: int
    ok: int
    failed: int
    blank: int
    recovered: int
    seconds: float
    low: Any
    high: Any
    groups: tuple[Group, ...]


class Reply:
    """The outcomes of one chunk, in the order of its records. `size` is about how many bytes they take."""

    def __init__(self) -> None:
        self.ids: list[Any] = []
        self.results: list[bytes] = []
        self.failures: list[tuple[int, str, str, str, bytes | None]] = []
        self.contents = array("I")
        self.ends: list[float] = []  # when the first item began, then when each ended
        self.passed: list[int] = []  # offsets of records without an outcome here
        self.offsets: Sequence[int] = ()  # of those with one; known when it is closed
        self.raws: list[bytes] = []
        self.size = 0
        self.blank = 0
        self.masked = False

    def adders(self, begun: float) -> tuple[Callable[..., None], ...]:
        """What the hot loop calls for each item: with its id, its content's checksum, its packed result if it is ok
        (`size` grows by its length), and the moment it ended."""
        self.ends.append(begun)
        return self.ids.append, self.contents.append, self.results.append, self.ends.append

    def mask(self, offset: int) -> None:
        """The record at `offset` is not to be run."""
        self.masked = True
        self.passed.append(offset)

    def pass_over(self, offset: int, is_blank: bool) -> None:
        """The record at `offset` is no item: blank, or of another shard."""
        self.blank += is_blank
        self.passed.append(offset)

    def refuse(self, bad: BadItem | None, verdict: ItemError | None) -> ItemError:
        """Why a record is failed without being run: it was condemned, or it is no item."""
        if verdict is None:
            assert bad is not None
            return ItemError(bad.type, bad.message)
        self.masked = True  # what is kept of a record that is too long must not be taken for its block
        return verdict

    def keep(self, raw: bytes, outcome: bytes | ItemError) -> bytes | ItemError:
        """Keep the item beside its outcome; that becomes an error where both together are too large."""
        self.raws.append(raw)
        self.size += len(raw)
        if isinstance(outcome, ItemError) or len(outcome) + len(raw) <= MAX_OUTCOME:
            return outcome
        sentence = "the result and its item are larger than 64 MiB packed: write a file, return its path"
        return ItemError("ValueError", sentence)

    def fail(self, error: ItemError, raw: bytes) -> None:
        """The next outcome is this error; the item's bytes are kept where they are not too many."""
        kept = raw if len(raw) <= MAX_KEPT_ITEM else None
        self.failures.append((len(self.results), error.type, error.message, error.traceback, kept))
        self.results.append(NIL)
        self.size += len(error.message) + len(error.traceback) + len(kept or b"")

    def close(self, chunk: Chunk, block: bytes, format: Format | None, head: Head) -> tuple[bytes, Tally]:
        """The OUTCOMES payload and its tally. `block` is the part of the chunk's data that was covered; `head` has what
        only the lane knows (lane, run, generation, lines, pid, times, shard)."""
        items, failed = len(self.ids), len(self.failures)
        lines = format.line_offsets(block) if format is not None else None
        self.offsets = _without(head.lines, self.passed)
        replaced = self._replaced(chunk)
        head = head._replace(
            flags=MASKED if self.masked else 0,
            input=chunk.input,
            items=items,
            ok=items - failed,
            failed=failed,
            blank=self.blank,
            first=chunk.first,
            line=chunk.line,
            size=len(block),
            first_crc=checksum(_first(block, format), chunk.header),
            digest=digest_block(block, chunk.header),
        )
        payload = pack_outcomes(
            head,
            self.ids,
            self.results,
            self.failures,
            array("f", map(sub, islice(self.ends, 1, None), self.ends)),
            self.contents,
            self.offsets if self.passed else None,
            self._attempts(chunk, replaced),
            replaced,
            self.raws or None,
            None if lines is None else [lines[offset] for offset in self.offsets],
        )
        recovered = sum(1 for _, _, _, attempts in replaced if attempts)
        tally = Tally(
            0, head.lines, items, items - failed, failed, self.blank, recovered, head.seconds,
            *_span(self.ids), self._groups(chunk.line, lines or range(head.lines)),
        )  # fmt: skip
        return payload, tally

    def _replaced(self, chunk: Chunk) -> list[tuple[int, int, int, int]]:
        """(index here, frame seq, index there, attempts before) of the outcomes that these replace."""
        earlier = chunk.earlier
        if not earlier:
            return []
        return [(place, *earlier[offset]) for place, offset in enumerate(self.offsets) if offset in earlier]

    def _attempts(self, chunk: Chunk, replaced: list[tuple[int, int, int, int]]) -> list[tuple[int, int]]:
        """(index here, attempts) of the outcomes that took more than one, crashes among them."""
        if not chunk.crashes:
            return [(place, attempts + 1) for place, _, _, attempts in replaced if attempts]
        before = replaced[0][3] if replaced else 0
        attempts = before + chunk.crashes + (chunk.verdict is None)  # a condemned record was not run once more
        return [(0, attempts)] if self.ids and attempts > 1 else []

    def _groups(self, line: int, lines: Sequence[int]) -> tuple[Group, ...]:
        groups: dict[str, list[Any]] = {}
        for place, type, message, _, _ in self.failures:
            group = groups.setdefault(type, [0, []])
            group[0] += 1
            if len(group[1]) < _EXAMPLES:
                group[1].append(FailureExample(self.ids[place], line + lines[self.offsets[place]], message))
        return tuple((type, count, tuple(examples)) for type, (count, examples) in groups.items())


def _without(count: int, passed: list[int]) -> Sequence[int]:
    """The numbers below `count` that are not among `passed`."""
    if not passed:
        return range(count)
    out = set(passed)
    return array("I", (offset for offset in range(count) if offset not in out))


def _first(block: bytes, format: Format | None) -> bytes:
    """The first record of a block, without its separator."""
    end = format.marks(block).find(format.separator) if format is not None else -1
    return block if end < 0 else block[:end]


def _span(ids: list[Any]) -> tuple[Any, Any]:
    if set(map(type, ids)) not in ({int}, {str}):
        return None, None
    return (ids[0], ids[-1]) if all(map(lt, ids, ids[1:])) else (None, None)


class ItemFailed(Exception):
    """Raised on an item by a callable of ours, which knows itself all that is to be said: `error`."""

    def __init__(self, error: ItemError) -> None:
        super().__init__(error.message)
        self.error = error


def describe(error: BaseException) -> ItemError:
    """An exception as text of bounded length, whatever its methods do."""
    if isinstance(error, ItemFailed):
        return error.error
    message = _told(lambda: str(error), "(its message cannot be read)")
    return ItemError(_told(lambda: type(error).__name__, "Exception"), message, _trace(error))


def _told(read: Callable[[], str], otherwise: str) -> str:
    try:
        return _bounded(str.__str__(read()), MAX_MESSAGE)  # of a subclass of str, no method is called
    except BaseException:
        return otherwise


def _trace(error: BaseException) -> str:
    try:
        # The first frame is ours.
        shown = error.__traceback__.tb_next if error.__traceback__ is not None else None
        lines = traceback.TracebackException(type(error), error, shown, limit=-40, compact=True).format()
        text, size = [], 0
        for line in lines:
            text.append(_bounded(line, MAX_MESSAGE))
            size += len(text[-1])
            if size > MAX_TRACEBACK:
                break
        return _bounded("".join(text), MAX_TRACEBACK)
    except BaseException:
        return ""


def _bounded(text: str, limit: int) -> str:
    # Lone surrogates would make the text unreadable for other readers of the file.
    text = text if len(text) <= limit else f"{text[:limit]} ... ({len(text)} characters)"
    return text.encode("utf-8", "backslashreplace").decode()
