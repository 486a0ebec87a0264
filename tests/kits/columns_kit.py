"""Outcomes and their shape, without a batch."""

from __future__ import annotations

from typing import Any

from batchmill.checkpoint.index import Piece
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import NIL, Head, pack_outcomes
from batchmill.codec.pack import pack_result
from batchmill.output.columns import Asked
from batchmill.output.ordering import Part, RenderJob
from batchmill.output.shape import Shape
from batchmill.output.survey import ShapeJob, shape_of

FAILED = object()


def payload_of(*results: Any) -> bytes:
    """An outcome each, whose ids are their numbers; FAILED fails."""
    failures = [(n, "E", "bad", "", None) for n, result in enumerate(results) if result is FAILED]
    items, failed = len(results), len(failures)
    head = Head(records=items, items=items, ok=items - failed, failed=failed)
    packed = [NIL if result is FAILED else pack_result(result) for result in results]
    return pack_outcomes(head, list(range(items)), packed, failures, [0.5] * items, [0] * items)


def shaped(payload: bytes, asked: Asked, first: int = 0) -> Shape:
    count = len(OutcomeBlock(payload))
    part = Part(0, payload, (Piece(0, first, first + count, 0, first),))
    return shape_of(ShapeJob(RenderJob(0, 1 << 40, (part,), asked.format, False, False), 0))
