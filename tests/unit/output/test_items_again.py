"""Random items of every format fail, are given back as an INPUT, run again, and are what they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from checkpoint_kit import QuickDisk
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from worker_kit import play

from batchmill.errors import InvalidUsage
from batchmill.input.formats import format_named
from batchmill.input.rewrite import as_input
from batchmill.input.streams import choose_format, look_at
from batchmill.output.failed_items import FailedItems
from batchmill.output.results import open_checkpoint
from batchmill.settings import Settings

PIECES = st.lists(st.sampled_from([*'a1 ,"\t;é=\\{}[]:', '""', "id", '"b"', "\r"]), max_size=8).map("".join)
CELLS = st.lists(
    PIECES.map(lambda text: '"' + text.replace('"', '""') + '"') | st.sampled_from(["x", "", "a b"]), max_size=3
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
RECORDS = {
    "jsonl": st.lists(VALUES.map(json.dumps) | PIECES, max_size=8).map("\n".join),
    "lines": st.lists(PIECES, max_size=8).map("\n".join),
    "null": st.lists(PIECES | st.just("a\nb"), max_size=8).map("\0".join),
    "csv": st.lists(CELLS.map(",".join) | PIECES, max_size=8).map("\n".join),
    "tsv": st.lists(CELLS.map("\t".join) | PIECES, max_size=8).map("\n".join),
}
CASES = st.sampled_from(list(RECORDS)).flatmap(lambda name: st.tuples(st.just(name), RECORDS[name]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CASES, st.sampled_from(["", " --quote none"]), st.integers(0, 3), st.booleans(), st.integers(1, 5))
def test_items_that_failed_are_the_same_items_when_they_are_given_back(
    tmp_path: Path, case: tuple[str, str], quote: str, salt: int, is_kept: bool, chunk_size: int
) -> None:
    format, text = case
    header = {"csv": "a,b\n", "tsv": "a\tb\n"}.get(format, "")
    name = format + quote if header else format
    first, again, checkpoint = tmp_path / "first", tmp_path / "again", tmp_path / "c.ckpt"
    checkpoint.unlink(missing_ok=True)
    first.write_bytes((header + text).encode())
    read_as = format_named(choose_format([str(first)], Settings(**options_of(name))))
    with suppress_refusal():
        look_at(str(first), read_as)

    def fails(item: Any) -> bool:
        return bool(crc32(repr(item).encode()) + salt & 3)

    def work(item: Any) -> str:
        if fails(item):
            raise ValueError
        return repr(item)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchmill.checkpoint.writer.Disk", QuickDisk)
        played = play(work, [first], checkpoint, chunk_size=chunk_size, with_item=is_kept, **options_of(name))
        assert played is not None
        with open_checkpoint(checkpoint) as results:
            failed = FailedItems(results)
            data = b"".join(as_input(results.format, lambda: failed))
            assert not failed.lost
        again.write_bytes(data)
        with suppress_refusal():
            look_at(str(again), read_as)
        checkpoint.unlink()
        second = play(repr, [again], checkpoint, **options_of(name))
    assert second is not None
    assert [repr(item) for item in second.calls] == [repr(item) for item in played.calls if fails(item)]
    assert second.report.completed + second.report.failed >= played.report.failed * (format not in ("csv", "tsv"))


@contextmanager
def suppress_refusal() -> Iterator[None]:
    """What is refused at the first look, as no text of its format, is no example."""
    try:
        yield
    except InvalidUsage:
        reject()


def options_of(name: str) -> dict[str, Any]:
    """The settings that make a format of that name."""
    format, _, quote = name.partition(" --quote ")
    return {"format": format, **({"quote": quote} if quote else {})}
