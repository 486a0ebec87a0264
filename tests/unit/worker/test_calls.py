"""A worker whose function takes many items in a call: which calls it makes, and what becomes of each item."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from worker_kit import answered, chunk_of, run_chunk, worker

from batchmill.codec.outcome_block import OutcomeBlock, outcomes
from batchmill.errors import ItemError
from batchmill.worker.batch_size import BatchSize
from batchmill.worker.call_results import take_results, taking
from batchmill.worker.records import CALL, LIMIT, RECORD_BITS
from batchmill.worker.reply import Postponed

SERIAL = 1
BASE = (SERIAL << RECORD_BITS) + 1


def block(*numbers: int | str) -> bytes:
    return b"".join(json.dumps({"id": n}).encode() + b"\n" if isinstance(n, int) else n.encode() for n in numbers)


class Recorder:
    """A function that notes the ids that it is called with, and then does what `then` does."""

    def __init__(self, then: Callable[[list[int]], Any]) -> None:
        self.calls: list[list[int]] = []
        self._then = then

    def __call__(self, items: list[dict[str, int]]) -> Any:
        ids = [item["id"] for item in items]
        self.calls.append(ids)
        return self._then(ids)


def told(block: OutcomeBlock) -> list[tuple[Any, Any]]:
    return [(one.id, one.result if one.error is None else one.error.message) for _, one in outcomes(block)]


def picky(ids: list[int]) -> list[int]:
    if 3 in ids:
        raise ValueError("three")
    return [10 * id for id in ids]


def test_a_call_covers_the_items_that_are_to_run_and_no_others() -> None:
    function = Recorder(lambda ids: [10 * id for id in ids])
    chunk = chunk_of(block(1, 2, "no json\n", 3, "\n", 4, 5))._replace(skip=bytes([0, 1, 0, 0, 0, 0, 0]))
    with worker(function, batch_size=3):
        block_, summary = run_chunk(chunk)
    assert function.calls == [[1, 3, 4], [5]]
    assert [result for id, result in told(block_) if isinstance(id, int)] == [10, 30, 40, 50]
    assert (summary.records, summary.items, summary.failed, summary.blank) == (7, 5, 1, 1)
    assert list(block_.offsets) == [0, 2, 3, 5, 6]


def test_a_call_that_raises_costs_its_items_another_try_by_themselves() -> None:
    function = Recorder(picky)
    with worker(function, batch_size=4):
        answer = answered(chunk_of(block(1, 2, 3, 4, 5)))
    assert function.calls == [[1, 2, 3, 4], [1], [2], [3], [4], [5]]
    assert told(OutcomeBlock(answer.parts[0][0])) == [(1, 10), (2, 20), (3, "three"), (4, 40), (5, 50)]
    assert (answer.splits, answer.batch_size) == (1, 4)


@pytest.mark.parametrize("returned", [[1], [1, 2, 3], 7, "ab", {"a": 1, "b": 2}, None])
def test_another_number_of_results_and_what_is_none_fail_the_call_and_then_the_items(returned: Any) -> None:
    function = Recorder(lambda ids: returned if len(ids) > 1 else ids)
    with worker(function, batch_size=2):
        block_, _ = run_chunk(chunk_of(block(1, 2)))
    assert function.calls == [[1, 2], [1], [2]]
    assert told(block_) == [(1, 1), (2, 2)]
    with worker(lambda items: returned if returned != [1] else [], batch_size=1):
        block_, summary = run_chunk(chunk_of(block(1)))
    assert summary.failed == 1
    assert "result" in told(block_)[0][1]


def test_results_that_came_before_a_generator_raised_are_not_made_again() -> None:
    def each(ids: list[int]) -> Iterator[int]:
        for id in ids:
            if id == 3:
                raise KeyError("three")
            yield id

    function = Recorder(each)
    with worker(function, batch_size=5):
        block_, _ = run_chunk(chunk_of(block(1, 2, 3, 4)))
    assert function.calls == [[1, 2, 3, 4], [3], [4]]
    assert told(block_) == [(1, 1), (2, 2), (3, "'three'"), (4, 4)]


def test_an_exception_in_place_of_a_result_and_one_that_cannot_be_kept_fail_their_items_alone() -> None:
    function = Recorder(lambda ids: [ids[0], OSError("gone"), lambda: 0, ids[3]])
    with worker(function, batch_size=4):
        block_, _ = run_chunk(chunk_of(block(1, 2, 3, 4)))
    assert function.calls == [[1, 2, 3, 4]]
    assert [result for _, result in told(block_)][::3] == [1, 4]
    errors = {one.id: one.error for _, one in outcomes(block_) if one.error is not None}
    assert errors[2] == ItemError("OSError", "gone", errors[2].traceback)
    assert "'function' cannot be kept" in errors[3].message
    with worker(lambda items: [OSError("gone")], batch_size=1):
        block_, _ = run_chunk(chunk_of(block(2)))
    assert [one.error for _, one in outcomes(block_)] == [errors[2]]


def test_the_seconds_of_an_item_are_those_of_the_call_by_its_items() -> None:
    with worker(lambda items: items, batch_size=4):
        block_, _ = run_chunk(chunk_of(block(1, 2, 3, 4)))
    assert len(set(block_.seconds)) == 1 or max(block_.seconds) - min(block_.seconds) < 1e-6


def test_while_a_call_runs_the_board_has_its_first_and_its_last_record() -> None:
    seen = []

    def look(items: list[Any]) -> list[Any]:
        seen.append((board[0] - BASE, board[CALL] - BASE if board[CALL] else None))
        return items

    with worker(look, batch_size=3) as board:
        run_chunk(chunk_of(block(1, 2, 3, 4)), serial=SERIAL)
        assert (board[0], board[CALL]) == (0, 0)
    assert seen == [(2, 0), (3, None)], "of a call of one it is not said"


@dataclass
class Looks:
    """A result that looks at the board while it is packed."""

    look: ClassVar[Callable[[], None]]
    n: int

    def __getattribute__(self, name: str) -> Any:
        if name == "n":
            Looks.look()
        return super().__getattribute__(name)


def test_results_are_packed_before_a_call_of_several_is_over() -> None:
    seen = []
    with worker(lambda items: [Looks(item["id"]) for item in items], batch_size=3) as board:
        Looks.look = staticmethod(lambda: seen.append(board[CALL] - BASE))
        block_, _ = run_chunk(chunk_of(block(1, 2, 3)), serial=SERIAL)
    assert set(seen) == {0}, "whom its packing kills is charged when it is packed by itself"
    assert [result for _, result in told(block_)] == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_what_is_taken_back_while_records_are_opened_is_not_called_and_what_was_begun_is() -> None:
    function = Recorder(picky)
    with worker(function, batch_size=3) as board:
        board[LIMIT] = BASE + 4
        answer = answered(chunk_of(block(10, 11, 12, 13, 14, 15)), serial=SERIAL)
    assert (answer.records, function.calls) == (4, [[10, 11, 12], [13]])


def test_what_is_taken_back_while_a_call_runs_is_not_called_by_itself_when_the_call_fails() -> None:
    def lowers(ids: list[int]) -> list[int]:
        if len(ids) > 1:
            board[LIMIT] = BASE + 2
            raise ValueError
        return ids

    function = Recorder(lowers)
    with worker(function, batch_size=4) as board:
        answer = answered(chunk_of(block(10, 11, 12, 13)), serial=SERIAL)
    assert (answer.records, function.calls) == (2, [[10, 11, 12, 13], [10], [11]])


@pytest.mark.parametrize("behind", ["\n", "no json\n", 13])
@pytest.mark.parametrize("after", [(), (14,)])
def test_nor_is_what_is_not_run_answered_for_when_it_was_taken_back(behind: int | str, after: tuple[int, ...]) -> None:
    """Blank, no item, masked: behind what is called by itself, and before what is not called any more."""

    def lowers(ids: list[int]) -> list[int]:
        if len(ids) > 1:
            raise ValueError
        if ids == [11]:
            board[LIMIT] = BASE + 2
        return ids

    skip = bytes([0, 0, behind == 13, behind == 13] + [0] * len(after))
    with worker(Recorder(lowers), batch_size=5) as board:
        answer = answered(chunk_of(block(10, 11, behind, behind, *after))._replace(skip=skip), serial=SERIAL)
    assert answer.records == 2


def test_results_that_came_before_no_more_could_be_run_are_kept() -> None:
    def scarce(ids: list[int]) -> Iterator[int]:
        for id in ids:
            if id == 3:
                raise Postponed("no process")
            if len(ids) > 1 and 11 in ids:
                raise ValueError
            yield 10 * id

    with worker(Recorder(scarce), batch_size=4):
        answer = answered(chunk_of(block(1, "no json\n", 2, 3, 4)))
        assert (answer.records, answer.lack, answer.splits) == (3, "no process", 0)
        assert [result for id, result in told(OutcomeBlock(answer.parts[0][0])) if isinstance(id, int)] == [10, 20]
    with worker(Recorder(scarce), batch_size=4):
        answer = answered(chunk_of(block(10, 11, 3, 4)))
    assert (answer.records, answer.lack, answer.splits) == (2, "no process", 1)
    assert told(OutcomeBlock(answer.parts[0][0])) == [(10, 100), (11, 110)]


def test_records_of_a_call_that_ended_its_worker_are_called_one_by_one() -> None:
    function = Recorder(lambda ids: ids)
    with worker(function, batch_size=3):
        run_chunk(chunk_of(block(1, 2, 3, 4))._replace(single=True))
    assert function.calls == [[1], [2], [3], [4]]


@pytest.mark.parametrize(
    "returned",
    [
        [1, 2], (1, 2), iter([1, 2]), np.array([1, 2]), np.ones((2, 3)), pd.Series([1, 2]),
        pd.DataFrame({"a": [1, 2]}), pa.table({"a": [1, 2]}), pa.array([1, 2]),
    ],
)  # fmt: skip
def test_whatever_has_a_first_axis_is_a_list_of_results(returned: Any) -> None:
    into: list[Any] = []
    take_results(returned, 2, into)
    assert len(into) == 2
    if hasattr(returned, "columns") or hasattr(returned, "to_pylist"):
        assert into in ([{"a": 1}, {"a": 2}], [1, 2])


def test_items_come_as_a_frame_or_a_table_where_that_is_asked() -> None:
    items = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert taking(lambda frame: frame["a"].sum(), "pandas")(items) == 3
    assert taking(lambda table: table.column("b").to_pylist(), "arrow")(items) == ["x", "y"]
    with pytest.raises(TypeError, match="an item is a str"):
        taking(len, "pandas")(["a"])


def test_a_size_that_is_found_out_grows_while_that_pays_and_stays_there() -> None:
    def found(rate: Callable[[int], float], most: float = 1.0) -> int:
        size = BatchSize(None)
        for _ in range(200):
            size.seen(size.size, size.size / rate(size.size), most)
        return size.size

    assert found(lambda size: min(size, 64) * 100.0) in (64, 128)
    assert found(lambda size: 1000.0) == 1, "no call is better for being larger"
    assert found(lambda size: size * 100.0 if size != 8 else 400.0) >= 64, "one size may be slow by chance"
    assert found(lambda size: size * 100.0, most=0.005) == 1, "a call of 0.01 s is too long as it is"


def test_a_size_that_is_found_out_stays_where_twice_the_items_may_take_too_much_memory() -> None:
    def found(memory: int | None) -> int:
        held = 0
        size = BatchSize(None, memory, lambda: held)
        for _ in range(200):
            held = max(held, 100 + size.size)  # a byte an item, beside what was there before
            size.seen(size.size, 0.01, 1.0)
        return size.size

    assert found(400) == 256, "which took 356 bytes; 512 items would have taken 612"
    assert found(100) == 1
    assert found(None) > 400
