"""Results that only our own processes see, for callers who get them back at once: what msgpack has no exact form for is
pickled.

Such a pickle goes from a worker to the program that started it, in a pipe. It is never read from a file: `unpack` does
not know its code.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

from msgpack import ExtType, packb, unpackb

from batchmill.codec.hashing import with_cache
from batchmill.codec.outcome_block import OutcomeBlock, outcomes
from batchmill.codec.pack import MAX_PACKED, PLAIN, Packing, too_large
from batchmill.codec.unpack import UNWEIGHED, Reading
from batchmill.errors import ItemError
from batchmill.model import Outcome
from batchmill.text import describe

_PICKLE = 120


class OwnPacking(Packing):
    """Packs results as they are: exact where msgpack is, else pickled."""

    def result(self, value: Any) -> bytes:
        if type(value) in PLAIN:
            return super().result(value)
        self.notes.lossy = False
        packed, refused = b"", None
        try:
            packed = super().result(value)
            if not self.notes.lossy:
                return packed
        except (TypeError, ValueError) as error:
            refused = error
        try:
            return _pickled(value)
        except Exception as error:
            if refused is None:
                return packed
            if isinstance(refused, TypeError):
                refused.args = (f"{refused} (nor can it be pickled: {error})",)
            raise refused from None


def _pickled(value: Any) -> bytes:
    data = _dumps(value)
    if len(data) > MAX_PACKED:
        raise ValueError(too_large(len(data)))
    pickle.loads(data)
    packed: bytes = packb(ExtType(_PICKLE, data))
    return packed


def _dumps(value: Any) -> bytes:
    file = io.BytesIO()
    try:
        _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    except Exception:
        try:
            import cloudpickle
        except ImportError:
            cloudpickle = None
        if cloudpickle is None:
            raise
        return bytes(cloudpickle.dumps(value))
    return file.getvalue()


class _Pickler(pickle.Pickler):
    """Names what the script itself defines as the program does: there, it is the main module."""

    def reducer_override(self, value: Any) -> Any:
        home = getattr(value, "__module__", None) if isinstance(value, type) else None
        if home is None or home == "__main__" or sys.modules.get(home) is not sys.modules.get("__main__"):
            return NotImplemented
        return _of_main, (value.__qualname__,)


def _of_main(name: str) -> Any:
    found: Any = sys.modules["__main__"]
    for part in name.split("."):
        found = getattr(found, part)
    return found


class _Unreadable:
    """Stands for a result that could be pickled in a worker, and not be read here."""

    def __init__(self, error: BaseException) -> None:
        self.error = describe(error)


class _Reading(Reading):
    def _extension(self, code: int, data: bytes) -> Any:
        if code != _PICKLE:
            return super()._extension(code, data)
        try:
            return pickle.loads(data)
        except Exception as error:
            return _Unreadable(error)


_OWN = _Reading(strict_map_key=False)


class _Results:
    """The results of a block: all read at once, unless they are too large for that."""

    def __init__(self, block: OutcomeBlock) -> None:
        self._block = block

    @cached_property
    def _all(self) -> list[Any] | None:
        if self._block.head.results_size > UNWEIGHED:
            return None
        found: list[Any] = self._read(self._block.region)
        return found

    def _read(self, packed: memoryview) -> Any:
        try:
            return unpackb(packed, **_OWN.options)
        finally:
            with_cache()

    def of(self, index: int) -> Any:
        return self._read(self._block.packed(index)) if self._all is None else self._all[index]


def own_outcomes(block: OutcomeBlock, picks: Iterable[int] | None = None) -> Iterator[tuple[int, Outcome]]:
    """`outcomes`, of a block that one of our own workers has just made."""
    for position, outcome in outcomes(block, picks, _Results(block).of):
        if type(outcome.result) is _Unreadable:
            why: ItemError = outcome.result.error
            error = replace(why, message=f"the result cannot be read in this process: {why.message}")
            yield position, replace(outcome, ok=False, result=None, error=error)
        else:
            yield position, outcome
