"""The worker: what a worker answers for a chunk, item by item, and when it stops."""

from __future__ import annotations

import datetime as dt
import enum
import pathlib
import pickle
import threading
import time
import uuid
import zlib
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from work_kit import Volatile
from worker_kit import answered, chunk_of, run_chunk, worker

from batchmill.codec.ids import digest_block, id_key
from batchmill.codec.outcome_block import OutcomeBlock, outcomes
from batchmill.codec.outcomes import MASKED
from batchmill.errors import ItemError
from batchmill.model import Chunk, Earlier
from batchmill.worker import records
from batchmill.worker.records import RECORD_BITS, ChunkJob
from batchmill.worker.reply import KilledForMemory, Postponed


def raising(item: Any) -> Any:
    if item == "bad":
        raise ValueError("this item is bad")
    return item


def pickles(*items: Any, ids: tuple[Any, ...] | None = None, first: int = 0) -> Chunk:
    return Chunk(first, first + 1, 0, len(items), tuple(map(pickle.dumps, items)), ids=ids)


def test_each_record_has_its_id_result_content_and_position() -> None:
    data = b'{"id": 1, "v": 2}\n\n {"id": "x", "v": 3} \n'
    with worker(lambda item: item["v"] * 10):
        block, summary = run_chunk(chunk_of(data, first=100, line=7, input=2))
    found = [(position, o.id, o.result, o.line, o.input) for position, o in outcomes(block)]
    assert found == [(100, 1, 20, 7, 2), (102, "x", 30, 9, 2)]
    assert list(block.contents) == [zlib.crc32(raw) for raw in (b'{"id": 1, "v": 2}', b'{"id": "x", "v": 3}')]
    assert (summary.records, summary.items, summary.ok, summary.failed, summary.blank) == (3, 2, 2, 0, 1)


def test_a_head_says_which_bytes_the_reply_stands_for() -> None:
    data = b"1\n2\n3\n"
    with worker(run=4) as board:
        board[1] = (1 << RECORD_BITS) + 2 + 1
        block, _ = run_chunk(chunk_of(data), generation=3)
    head = block.head
    assert (head.run, head.generation, head.records, head.size) == (4, 3, 2, 4)
    assert (head.digest, head.first_crc) == (digest_block(b"1\n2\n"), zlib.crc32(b"1"))


def test_an_exception_fails_its_item_and_no_other() -> None:
    with worker(raising, format="lines"):
        block, summary = run_chunk(chunk_of(b"a\nbad\nc", format="lines"))
    found = [outcome for _, outcome in outcomes(block)]
    assert [outcome.ok for outcome in found] == [True, False, True]
    error = found[1].error
    assert error is not None
    assert (error.type, error.message) == ("ValueError", "this item is bad")
    assert error.traceback.splitlines()[1].strip().startswith("File")
    assert str(Path(records.__file__).parent) not in error.traceback
    assert found[1].raw == b"bad"
    assert (summary.groups[0].type, summary.groups[0].count) == ("ValueError", 1)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, RecursionError])
def test_whatever_an_item_raises_costs_only_that_item(kind: type[BaseException]) -> None:
    def end(item: Any) -> None:
        raise kind("ended")

    with worker(end):
        block, _ = run_chunk(chunk_of(b"1\n2\n"))
    assert [failure.type for failure in block.failures.values()] == [kind.__name__] * 2


def test_an_error_whose_message_raises_is_still_an_error() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no message")

    def fail(item: Any) -> None:
        raise Broken

    with worker(fail):
        block, _ = run_chunk(chunk_of(b"1\n"))
    assert block.failures[0].type == "Broken"
    assert "cannot be read" in block.failures[0].message


def test_a_message_of_any_length_and_letters_is_bounded_and_readable() -> None:
    def fail(item: Any) -> None:
        raise ValueError("\ud800" + "x" * 100_000)

    with worker(fail):
        block, _ = run_chunk(chunk_of(b"1\n"))
    failure = block.failures[0]
    assert len(failure.message) < 10_000
    assert len(failure.traceback) < 60_000
    assert failure.message.startswith("\\ud800")


def test_a_record_that_does_not_parse_is_a_failed_item_with_its_line() -> None:
    with worker(raising):
        block, summary = run_chunk(chunk_of(b'1\n{"a":\n3\n', line=11))
    assert [outcome.ok for _, outcome in outcomes(block)] == [True, False, True]
    assert summary.groups[0].examples[0].line == 12


def test_a_failed_item_above_the_limit_is_not_kept() -> None:
    with worker(lambda item: 1 / 0, format="lines"):
        block, _ = run_chunk(chunk_of(b"x" * 65_536 + b"\n" + b"y" * 65_537, format="lines"))
    assert [failure.raw is None for failure in block.failures.values()] == [False, True]


def test_keyword_arguments_reach_the_function() -> None:
    with worker(lambda item, factor: item * factor, kwargs={"factor": 3}):
        assert run_chunk(chunk_of(b"2\n"))[0].results == [6]


def test_the_item_is_kept_beside_its_result_when_asked_for() -> None:
    with worker(with_item=True):
        block, _ = run_chunk(chunk_of(b" 1 \n\n2\n"))
    assert block.items == [b"1", b"2"]


# --- when a worker stops ---------------------------------------------------------------------------------------------


def test_a_worker_stops_before_the_record_that_the_limit_forbids() -> None:
    with worker() as board:
        board[1] = (5 << RECORD_BITS) + 3
        block, summary = run_chunk(chunk_of(b"1\n2\n3\n4\n"), serial=5)
    assert (block.ids, summary.records) == ([1, 2], 2)


def test_a_limit_of_nothing_stops_a_worker_at_once() -> None:
    with worker() as board:
        board[1] = 0
        _, summary = run_chunk(chunk_of(b"1\n2\n"), serial=5)
    assert (summary.records, summary.items) == (0, 0)


@pytest.mark.parametrize("skip", [b"\0\1\1\1", b"\0\0\1\1", b"\1\1\1\1", b"\0\1\1\0"])
def test_masked_records_behind_the_limit_are_not_covered(skip: bytes) -> None:
    """What was taken back has gone elsewhere, whether it was to run or not."""
    with worker() as board:
        board[1] = (1 << RECORD_BITS) + 2 + 1
        _, summary = run_chunk(chunk_of(b"1\n2\n3\n4\n")._replace(skip=skip))
    assert summary.records == 2


def test_the_limit_may_be_lowered_while_an_item_runs() -> None:
    def work(item: int) -> int:
        if item == 2:
            board[1] = 0
        return item

    with worker(work) as board:
        block, summary = run_chunk(chunk_of(b"1\n2\n3\n4\n"))
    assert (block.ids, summary.records) == ([1, 2], 2)


def test_the_board_names_the_record_that_runs_and_is_cleared_after() -> None:
    seen = []

    with worker(lambda item: seen.append(board[0])) as board:
        run_chunk(chunk_of(b"1\n\n3\n"), serial=9)
        assert board[0] == 0
    assert seen == [(9 << RECORD_BITS) + 1, (9 << RECORD_BITS) + 3]


def test_a_worker_returns_what_it_has_when_its_time_is_over() -> None:
    with worker(lambda item: time.sleep(0.02)):
        _, summary = run_chunk(chunk_of(b"1\n2\n3\n4\n"), seconds=0.001)
    assert (summary.records, summary.items) == (1, 1)


def test_a_worker_returns_what_it_has_when_the_reply_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_REPLY", 1000)
    with worker(lambda item: "x" * 400):
        assert run_chunk(chunk_of(b"1\n2\n3\n4\n5\n"))[1].records == 3


# --- masks, verdicts, retries ----------------------------------------------------------------------------------------


def test_masked_records_are_not_run_and_the_frame_says_so() -> None:
    with worker():
        block, summary = run_chunk(chunk_of(b"1\n2\n3\n")._replace(skip=b"\0\1\0"))
    assert (block.ids, list(block.offsets), summary.records) == ([1, 3], [0, 2], 3)
    assert block.head.flags & MASKED


def test_a_condemned_record_fails_without_being_run() -> None:
    calls: list[Any] = []
    verdict = ItemError("WorkerDied", "the worker died twice")
    with worker(calls.append):
        block, summary = run_chunk(chunk_of(b'{"id": 3}\n')._replace(condemned=verdict))
    assert calls == []
    assert (block.ids, summary.failed) == ([3], 1)
    assert block.failures[0].message == "the worker died twice"


def test_an_outcome_replaces_the_earlier_one_and_counts_the_attempt() -> None:
    chunk = chunk_of(b"1\n2\n3\n")._replace(earlier={0: Earlier(40, 5, 2), 2: Earlier(41, 0, 0)})
    with worker():
        block, _ = run_chunk(chunk)
    assert block.supersedes == [(0, 40, 5, 2), (2, 41, 0, 0)]
    assert block.attempts == {0: 3}


@pytest.mark.parametrize(
    ("data", "span"),
    [
        (b"1\n2\n9\n", (1, 9)),
        (b'"a"\n"b"\n', ("a", "b")),
        (b"1\n1\n", (None, None)),
        (b"9\n2\n1\n", (1, 9)),
        (b"2\n1\n3\n", (None, None)),
        (b'1\n"2"\n', (None, None)),
        (b"1.0\n2.0\n", (None, None)),
        (b"\n", (None, None)),
    ],
)
def test_the_tally_has_the_least_and_greatest_id_where_they_are_in_order(data: bytes, span: tuple[Any, Any]) -> None:
    with worker():
        _, summary = run_chunk(chunk_of(data))
    assert (summary.low, summary.high) == span


def test_a_scan_tells_ids_and_contents_and_runs_nothing() -> None:
    calls: list[Any] = []
    data = b'{"id": 1}\n\n{"id": "1"}\nnot json\n'
    with worker(calls.append):
        scan = records.scan_chunk(ChunkJob(1, 0.0, 1, chunk_of(data))).scan
        block, _ = run_chunk(chunk_of(data))
    assert len(calls) == 2
    assert [key for key in scan.keys if key is not None] == [id_key(id) for id in block.ids]
    assert scan.keys[1] is None
    assert [scan.contents[i] for i in (0, 2, 3)] == list(block.contents)


# --- Python items ----------------------------------------------------------------------------------------------------


def test_a_python_item_has_the_id_that_a_json_item_would_have() -> None:
    with worker(format=None):
        block, _ = run_chunk(pickles({"id": 7, "x": 1}, "name", 12))
    assert block.ids == [7, "name", 12]


def test_equal_dicts_have_equal_ids_whatever_the_order_of_their_keys() -> None:
    with worker(format=None):
        block, _ = run_chunk(pickles({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}))
    assert block.ids[0] == block.ids[1]


def test_an_id_that_was_given_is_the_id() -> None:
    with worker(format=None):
        block, _ = run_chunk(pickles("x", "y", ids=(("tuple", 1), None)))
    assert block.ids == [("tuple", 1), None]


def test_an_id_that_cannot_be_kept_fails_its_item() -> None:
    with worker(format=None):
        block, _ = run_chunk(pickles("x", "y", ids=(ItemError("ValueError", "the id cannot be kept"), 2)))
    assert list(block.failures) == [0]
    assert block.failures[0].message == "the id cannot be kept"


def test_an_item_that_can_have_no_id_fails_where_one_is_needed() -> None:
    with worker(lambda item: 1, format=None):
        block, _ = run_chunk(pickles(Volatile(), 2))
    assert [failure.type for failure in block.failures.values()] == ["RuntimeError"]
    assert "what is it?: give run(..., id=...)" in block.failures[0].message


def test_an_item_that_can_have_no_id_is_known_by_its_position_where_none_is_needed() -> None:
    with worker(lambda item: 1, format=None, ids_needed=False):
        block, _ = run_chunk(pickles(Volatile(), Volatile(), first=40))
    assert (block.ids, block.head.failed) == ([40, 41], 0)


def test_an_item_that_cannot_be_unpickled_fails_alone() -> None:
    data = (pickle.dumps(1), b"no pickle", pickle.dumps(3))
    with worker(format=None):
        block, _ = run_chunk(pickles(1, 2, 3)._replace(data=data))
    assert list(block.failures) == [1]
    assert "cannot be read in a worker" in block.failures[1].message


def test_an_item_that_could_not_be_pickled_fails_with_that_error() -> None:
    error = ItemError("TypeError", "the item cannot be sent to a worker: cannot pickle a lock")
    with worker(format=None):
        block, _ = run_chunk(pickles(1, 2)._replace(data=(pickle.dumps(1), error)))
    assert block.failures[1].message == error.message


# --- results ---------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Score:
    name: str
    value: float


RESULTS = [
    (None, None),
    (True, True),
    (10**40, 10**40),
    (-(2**70), -(2**70)),
    (b"bytes", b"bytes"),
    ((1, (2, "x")), (1, (2, "x"))),
    ({1, 2}, {1, 2}),
    (frozenset("ab"), frozenset("ab")),
    (1 + 2j, 1 + 2j),
    (dt.datetime(2024, 2, 29, 12, 30, 1, 5, dt.UTC), dt.datetime(2024, 2, 29, 12, 30, 1, 5, dt.UTC)),
    (dt.date(2024, 2, 29), dt.date(2024, 2, 29)),
    (dt.time(1, 2, 3), dt.time(1, 2, 3)),
    (dt.timedelta(days=-1, microseconds=3), dt.timedelta(days=-1, microseconds=3)),
    (Decimal("1.10"), Decimal("1.10")),
    (Fraction(2, 3), Fraction(2, 3)),
    (uuid.UUID(int=5), uuid.UUID(int=5)),
    (pathlib.Path("/a/b"), pathlib.Path("/a/b")),
    (Score("n", 1.5), {"name": "n", "value": 1.5}),
    (Point(1, 2), (1, 2)),
    (Colour.RED, "red"),
    ({"nested": [(1,), {2: "int key"}]}, {"nested": [(1,), {2: "int key"}]}),
]


@pytest.mark.parametrize(("result", "read"), RESULTS, ids=[type(result).__name__ for result, _ in RESULTS])
def test_a_result_is_read_back_as_the_design_says(result: Any, read: Any) -> None:
    with worker(lambda item: result):
        block, _ = run_chunk(chunk_of(b"1\n"))
    assert block.failures == {}
    assert (block.result(0), type(block.result(0))) == (read, type(read))


@pytest.mark.parametrize("result", [object(), threading.Lock(), lambda: 1, [iter([])]])
def test_a_result_that_cannot_be_kept_fails_its_item_and_names_the_type(result: Any) -> None:
    with worker(lambda item: result):
        block, _ = run_chunk(chunk_of(b"1\n"))
    inner = result[0] if isinstance(result, list) else result
    assert type(inner).__name__ in block.failures[0].message


def test_an_item_that_cannot_be_run_for_now_is_handed_back_and_so_is_what_is_behind_it() -> None:
    def work(item: Any) -> int:
        if item == 2:
            raise Postponed("no more processes")
        return int(item)

    with worker(work, with_item=True):
        answer = answered(chunk_of(b"1\n2\n3\n"))
        ((payload, summary),) = answer.parts
        assert (answer.records, answer.lack, answer.trouble) == (1, "no more processes", "")
        assert (summary.items, [outcome.result for _, outcome in outcomes(OutcomeBlock(payload))]) == (1, [1])
        assert answered(chunk_of(b"2\n")).records == 0
        assert answered(chunk_of(b"3\n")).lack == ""


def test_what_is_killed_for_memory_is_handed_back_and_fails_only_where_it_was_alone() -> None:
    def work(item: Any) -> int:
        if item == 2:
            raise KilledForMemory(ItemError("Signal", "killed"))
        return int(item)

    with worker(work):
        answer = answered(chunk_of(b"1\n2\n3\n"))
        assert (answer.records, answer.suspect, answer.lack) == (1, True, "")
        answer = records.run_chunk(ChunkJob(2, 0.0, 1, chunk_of(b"2\n3\n"), is_alone=True))
        ((_, summary),) = answer.parts
        assert (answer.records, answer.suspect, summary.ok, summary.failed) == (2, False, 1, 1)
