"""How outcomes read outside of batchmill: as JSON lines, as msgpack, on a screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from batchmill.codec.json_form import Plain, chunks, encode, sound
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import NIL
from batchmill.codec.pack import pack_value
from batchmill.codec.unsaid import NOTHING, Unsaid
from batchmill.errors import CheckpointDamaged
from batchmill.input.formats import PLAIN_IDS, find_format
from batchmill.input.kept_items import kept_item

ABSENT = object()


def render(
    payload: bytes | memoryview | OutcomeBlock,
    picks: Sequence[int] | None = None,
    *,
    format: str,
    all: bool,
    with_item: bool,
    source: str = "jsonl",
) -> tuple[bytes, Unsaid]:
    """The output of an OUTCOMES payload (or its Block), and what of it is not what it was.

    `picks` are item indices in the order wanted; None: every item in its order. Failed items are left out unless `all`.
    `format` is "jsonl" (one object a line), "msgpack" (one map an item, one after another) or "raw" (see `_raw`). With
    `with_item` the item stands beside its outcome where it was kept: as its function saw it, `source` being the format
    it came in.
    Raises CheckpointDamaged for a payload that is none.
    """
    block = payload if isinstance(payload, OutcomeBlock) else OutcomeBlock(payload)
    order, items = chosen(block, picks, all), source if with_item else None
    try:
        if format == "raw":
            return _raw(block, order)
        if format == "msgpack":
            return b"".join(_packed_entry(block, index, items) for index in order), NOTHING
        return _lines(block, order, items)
    except RecursionError as error:
        raise CheckpointDamaged("a result is nested too deeply to be written") from error


def chosen(block: OutcomeBlock, picks: Sequence[int] | None, all: bool) -> Sequence[int]:
    """The item indices to write, in order."""
    order: Sequence[int] = range(len(block)) if picks is None else picks
    if all or not block.head.failed:
        return order
    failures = block.failures
    return [index for index in order if index not in failures]


# --- raw --------------------------------------------------------------------------------------------------------------


def _raw(block: OutcomeBlock, order: Iterable[int]) -> tuple[bytes, Unsaid]:
    """What commands printed, one after the other, nothing in between; a text or bytes as they are, else a JSON line."""
    pieces, cut, texts, plain = [], 0, 0, Plain()
    failures = block.failures
    for index in order:
        if index in failures:
            continue
        result, has_alike_keys = block.read(index)
        if isinstance(result, dict) and {"exit", "stdout"} <= result.keys():
            cut += "stdout_dropped" in result
            result = result["stdout"]
        if not isinstance(result, (str, bytes)):
            line = _line(result, has_alike_keys, plain)
            result = sound(line)
            texts += result != line
        try:
            pieces.append(result if isinstance(result, bytes) else result.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:  # half a pair stands for no byte
            pieces.append(result.encode("utf-8", "backslashreplace"))
            texts += 1
    return b"".join(pieces), Unsaid(outputs=cut, texts=texts) + plain.unsaid


# --- msgpack ---------------------------------------------------------------------------------------------------------


def _packed_entry(block: OutcomeBlock, index: int, items: str | None) -> bytes:
    item = ABSENT if items is None else item_of(block, index, items)
    failure, packed = block.failures.get(index), block.packed(index)
    columns = [b"\xa2id" + pack_value(block.ids[index])]
    if failure is None or packed != NIL:
        columns.append(b"\xa6result" + packed)
    if failure is not None:
        columns.append(b"\xa5error" + pack_value(_error(failure.type, failure.message)))
    if item is not ABSENT:
        columns.append(b"\xa4item" + pack_value(item))
    return b"".join((bytes((0x80 | len(columns),)), *columns))


def _error(type: str, message: str) -> dict[str, str]:
    return {"type": type, "message": message}


def item_of(block: OutcomeBlock, index: int, source: str) -> Any:
    """The item as its function saw it, `source` being the format it came in; ABSENT where it was not kept."""
    raw = block.raw(index)
    return ABSENT if raw is None else kept_item(source, raw)


# --- JSON lines ------------------------------------------------------------------------------------------------------


def _lines(block: OutcomeBlock, order: Sequence[int], items: str | None) -> tuple[bytes, Unsaid]:
    lines = _plain_lines(block, order) if items is None else None
    plain = Plain()
    if lines is None:
        # Of the formats of INPUT none has keys that are no text; Python items may.
        knows_items = items is None or find_format(items) is not None
        lines = [_line(*_entry(block, index, items, knows_items), plain) for index in order]
    try:
        return "".join(lines).encode(), plain.unsaid
    except UnicodeEncodeError:
        mended = list(map(sound, lines))
        texts = sum(line is not made for line, made in zip(lines, mended))
        return "".join(mended).encode(), plain.unsaid + Unsaid(texts=texts)


def _plain_lines(block: OutcomeBlock, order: Sequence[int]) -> list[str] | None:
    """The lines of ok items, at 1 µs each; None where one is not that simple, and all go the slower way."""
    ids, results, failures = block.ids, block.results, block.failures if block.head.failed else ()
    if results is None or not (block.has_alike_keys and PLAIN_IDS.issuperset(map(type, ids))):
        return None
    if failures and any(index in failures for index in order):
        return None
    try:
        return [
            f'{{"id": {id if type(id := ids[index]) is int else encode(id)}, '
            f'"result": {"".join(chunks(results[index], 0))}}}\n'
            for index in order
        ]
    except (TypeError, ValueError):
        return None


def _entry(block: OutcomeBlock, index: int, items: str | None, knows_items: bool) -> tuple[dict[str, Any], bool]:
    """What the line of an outcome says, and whether the keys of each map in it are of one type for sure."""
    failure, id, has_alike_keys = block.failures.get(index), block.ids[index], True
    entry = {"id": id}
    result, has_alike_keys = block.read(index)
    if failure is None or result is not None:
        entry["result"] = result
    if failure is not None:
        entry["error"] = _error(failure.type, failure.message)
    if items is not None and (item := item_of(block, index, items)) is not ABSENT:
        entry["item"] = item
    return entry, has_alike_keys and knows_items and type(id) in PLAIN_IDS


def _line(entry: Any, has_alike_keys: bool, plain: Plain) -> str:
    """A line; what JSON has no word for goes through `plain`, as do keys of several types, of which two may be one
    text."""
    if has_alike_keys:
        try:
            return encode(entry) + "\n"
        except (TypeError, ValueError):
            pass
    return encode(plain.of(entry)) + "\n"
