"""Taking the shape of outcomes, in workers.

Columns must be known before the first row is written. So outcomes are looked at twice: workers take the shape of each
frame's, in any order, and all shapes together are that of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.output.kinds import of_column
from batchmill.output.ordering import RenderJob, in_order
from batchmill.output.shape import MOST_FIELDS, Rank, Shape, fields_of


class ShapeJob(NamedTuple):
    """Frames whose outcomes' shape is to be taken; they are of the ordering with that number."""

    frames: RenderJob
    ordering: int


def shape_of(job: ShapeJob) -> Shape:
    """The shape of the outcomes that are to be written of some frames."""
    frames, shape = job.frames, Shape()
    blocks = [OutcomeBlock(part.payload) for part in frames.parts]
    places: list[list[tuple[int, int]]] = [[] for _ in blocks]
    for position, number, index in in_order(frames.parts, blocks, frames.low, frames.high):
        places[number].append((position, index))
    for block, found in zip(blocks, places):
        shape += _of_block(block, found, job)
    return shape


def _of_block(block: OutcomeBlock, places: Sequence[tuple[int, int]], job: ShapeJob) -> Shape:
    failures = block.failures
    ok = [(position, index) for position, index in places if index not in failures]
    results = [block.result(index) for _, index in ok]
    fields: dict[str, Rank] = {}
    known: set[tuple[str, ...]] = set()  # names of fields that came together: mostly they are the same in all maps
    maps, others, ids, has_own_ids = [], [], block.ids, False
    for (position, index), result in zip(ok, results):
        if fields_of(result) is None:
            others.append(result)
            continue
        maps.append(result)
        names = tuple(result)
        if names not in known:
            known.add(names)
            for place, name in enumerate(names):
                fields.setdefault(name, (job.ordering, position, place))
        has_own_ids = has_own_ids or ("id" in result and not _is_same(result["id"], ids[index]))
    is_wide = len(fields) > MOST_FIELDS
    shape = Shape(
        {} if is_wide else fields,
        others=any(result is not None for result in others),
        has_own_ids=has_own_ids,
        is_wide=is_wide,
        has_empty=any(type(result) is dict and not result for result in results),
    )
    if job.frames.format != "parquet":
        return shape
    return replace(
        shape,
        kinds={name: of_column([result.get(name) for result in maps]) for name in shape.fields},
        id=of_column([ids[index] for _, index in places]),
        result=of_column(results if is_wide else others),
    )


def _is_same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)
