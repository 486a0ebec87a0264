"""What becomes of a record that no worker may open again: how a later run knows it, and whose it is."""

from __future__ import annotations

import zlib

import pytest

from batchmill.codec.ids import digest_block
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import SEALED
from batchmill.errors import ItemError
from batchmill.input.formats import IdRule
from batchmill.input.items import ItemReader
from batchmill.model import Chunk, Earlier
from batchmill.worker.sealer import Sealer

VERDICT = ItemError("WorkerDied", "it killed its reader")


def sealed(chunk: Chunk, format: str | None, shard: tuple[int, int] | None = None) -> OutcomeBlock:
    reader = ItemReader(format, IdRule(None), shard, ids_needed=True)
    payload, _ = Sealer(reader, shard, 1, keeps_items=False).outcome(
        chunk._replace(condemned=VERDICT, sealed=True), worker=0, generation=1
    )
    return OutcomeBlock(payload)


@pytest.mark.parametrize("format", [None, "lines"])
def test_it_is_known_by_its_bytes(format: str | None) -> None:
    record = b"\x80\x05 no pickle"
    block = sealed(Chunk(7, 8, 0, 1, record if format else (record,)), format)
    assert (block.ids, block.head.flags & SEALED) == ([7], SEALED)
    assert (block.head.first_crc, block.head.digest) == (zlib.crc32(record), digest_block(record))


def test_it_belongs_to_the_shard_of_its_position_but_stays_where_it_has_an_outcome() -> None:
    earlier = {0: Earlier(4, 0, 2, sealed=True)}
    for first in range(8):
        chunk = Chunk(first, first + 1, 0, 1, b"x")
        assert sum(len(sealed(chunk, "lines", (n, 2))) for n in (1, 2)) == 1
        assert sealed(chunk._replace(earlier=earlier), "lines", (1, 2)).supersedes == [(0, 4, 0, 2)]
