"""Results: reading checkpoints, whole, live and several at once; what failed; how they stand."""

from __future__ import annotations

import io
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgpack
import pytest
from checkpoint_kit import QuickDisk
from worker_kit import Stage, play

import batchmill
from batchmill.checkpoint.frames import FrameType
from batchmill.checkpoint.writer import Checkpoint
from batchmill.codec.outcomes import Head, pack_map, pack_outcomes
from batchmill.codec.pack import pack_value
from batchmill.errors import CheckpointDamaged, InputMissing, OutputLost


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchmill.checkpoint.writer.Disk", QuickDisk)


def work(item: Any) -> Any:
    """Fails for every id that ends in 3; what it returns JSON cannot always say."""
    if item["id"] % 10 == 3:
        raise ValueError(f"item {item['id']} is bad")
    return item.get("v", item["id"] * 2)


def make(path: Path, ids: Any, name: str = "c.ckpt", **settings: Any) -> Path:
    source = path / f"{name}.jsonl"
    source.write_text("".join(json.dumps({"id": id} if isinstance(id, int) else id) + "\n" for id in ids))
    settings.setdefault("chunk_size", 4)
    played = play(work, [source], path / name, **settings)
    assert played is not None
    return path / name


def written(*paths: Path, **options: Any) -> list[Any]:
    out = io.BytesIO()
    size = batchmill.write_results([str(path) for path in paths], out, **options)
    assert size == len(out.getvalue())
    return [json.loads(line) for line in out.getvalue().splitlines()]


# --- outcomes --------------------------------------------------------------------------------------------------------


def test_outcomes_are_in_input_order_with_all_that_is_known(tmp_path: Path) -> None:
    with batchmill.open_checkpoint(make(tmp_path, range(10))) as results:
        found = list(results.outcomes())
    assert [(outcome.id, outcome.ok, outcome.line, outcome.attempts) for outcome in found] == [
        (id, id != 3, id + 1, 1) for id in range(10)
    ]
    assert [outcome.result for outcome in found if outcome.ok] == [2 * id for id in range(10) if id != 3]
    error = found[3].error
    assert error is not None
    assert (error.type, error.message, found[3].item) == ("ValueError", "item 3 is bad", {"id": 3})
    assert "Traceback" in error.traceback


def test_ok_outcomes_can_be_had_alone(tmp_path: Path) -> None:
    with batchmill.open_checkpoint(make(tmp_path, range(10))) as results:
        assert [outcome.id for outcome in results.outcomes(all=False)] == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_outcomes_can_be_read_again_and_side_by_side(tmp_path: Path) -> None:
    with batchmill.open_checkpoint(make(tmp_path, range(10))) as results:
        pairs = list(zip(results.outcomes(), results.outcomes()))
    assert len(pairs) == 10
    assert all(a == b for a, b in pairs)


def test_failures_are_in_input_order_after_retries_too(tmp_path: Path) -> None:
    make(tmp_path, [13, 1, 2, 33, 4, 5, 3, 7, 23])
    path = make(tmp_path, [1, 13, 2, 33, 3, 4, 5, 7, 23], chunk_size=2)
    with batchmill.open_checkpoint(path) as results:
        failed = [(outcome.id, outcome.attempts) for outcome in results.failures()]
    assert failed == [(13, 2), (33, 2), (3, 2), (23, 2)]


def test_an_item_that_is_ok_by_now_is_no_failure(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": 1}\n{"id": 3}\n')
    play(work, [source], tmp_path / "c.ckpt", chunk_size=2)
    play(lambda item: "ok", [source], tmp_path / "c.ckpt", chunk_size=2)
    with batchmill.open_checkpoint(tmp_path / "c.ckpt") as results:
        assert list(results.failures()) == []
        assert [outcome.result for outcome in results.outcomes()] == [2, "ok"]


# --- writing ---------------------------------------------------------------------------------------------------------


def test_several_checkpoints_are_written_one_after_the_other(tmp_path: Path) -> None:
    paths = [make(tmp_path, range(first, first + 3), f"{first}.ckpt") for first in (20, 0)]
    assert [line["id"] for line in written(*paths)] == [20, 21, 22, 0, 1, 2]


def test_failed_items_are_written_when_asked_for_with_what_they_were(tmp_path: Path) -> None:
    path = make(tmp_path, range(2, 5))
    assert written(path) == [{"id": 2, "result": 4}, {"id": 4, "result": 8}]
    error = {"type": "ValueError", "message": "item 3 is bad"}
    assert written(path, all=True)[1] == {"id": 3, "error": error, "item": {"id": 3}}


def test_items_kept_beside_their_results_are_written(tmp_path: Path) -> None:
    path = make(tmp_path, [{"id": 1, "v": "x"}], with_item=True)
    assert written(path) == [{"id": 1, "result": "x", "item": {"id": 1, "v": "x"}}]


def test_msgpack_is_one_map_after_another(tmp_path: Path) -> None:
    out = io.BytesIO()
    batchmill.write_results([str(make(tmp_path, range(3)))], out, format="msgpack")
    out.seek(0)
    assert list(msgpack.Unpacker(out)) == [{"id": id, "result": 2 * id} for id in range(3)]


def test_numbers_that_json_cannot_say_are_counted_in_one_message(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("1\n2\n")
    play(lambda item: float("nan"), [source], tmp_path / "c.ckpt")
    messages: list[str] = []
    assert [line["result"] for line in written(tmp_path / "c.ckpt", on_message=messages.append)] == [None, None]
    assert messages == ["2 numbers that JSON cannot say (NaN, infinity) were written as null"]


def test_a_path_is_written_by_renaming(tmp_path: Path) -> None:
    path = make(tmp_path, range(3))
    batchmill.write_results([str(path)], str(tmp_path / "out.jsonl"))
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_a_path_stays_as_it_was_when_a_checkpoint_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("old")
    with pytest.raises(InputMissing):
        batchmill.write_results([str(make(tmp_path, range(3))), str(tmp_path / "none")], str(tmp_path / "out.jsonl"))
    assert (tmp_path / "out.jsonl").read_text() == "old"
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_a_path_that_cannot_be_written_is_an_output_lost(tmp_path: Path) -> None:
    with pytest.raises(OutputLost):
        batchmill.write_results([str(make(tmp_path, range(3)))], str(tmp_path / "no" / "out"))


# --- status ----------------------------------------------------------------------------------------------------------


def test_the_status_of_a_finished_run(tmp_path: Path) -> None:
    path = make(tmp_path, range(10))
    with batchmill.open_checkpoint(path) as results:
        status = results.status()
    assert (status.done, status.failed, status.total, status.live) == (9, 1, 10, None)
    assert status.is_finished
    assert status.size == path.stat().st_size
    assert status.meta["format"] == "jsonl"
    assert [run["run"] for run in status.runs] == [1]
    assert status.report is not None
    assert (status.report.completed, status.report.failed, status.report.failures[0].type) == (9, 1, "ValueError")


def test_the_status_of_a_run_that_was_killed(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"id": {id}}}\n' for id in range(10)))
    assert play(work, [source], tmp_path / "c.ckpt", chunk_size=2, until=3) is None
    with batchmill.open_checkpoint(tmp_path / "c.ckpt") as results:
        status = results.status()
    assert (status.done, status.failed, status.report, status.live, status.is_finished) == (5, 1, None, None, False)


def test_a_live_checkpoint_is_read_as_it_was_when_it_was_opened(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"id": {id}}}\n' for id in range(4)))
    with ExitStack() as stack:
        stage = Stage(work, [source], tmp_path / "c.ckpt", stack, chunk_size=2)
        chunk = stage.work_queue.next()
        assert chunk is not None
        stage.answer(stage.job(chunk, 0))
        results = stack.enter_context(batchmill.open_checkpoint(tmp_path / "c.ckpt"))
        chunk = stage.work_queue.next()
        assert chunk is not None
        stage.answer(stage.job(chunk, 0))
        assert [outcome.id for outcome in results.outcomes()] == [0, 1]
        status = results.status()
        assert status.live is not None
        assert (status.live.pid, status.is_finished, status.report) == (os.getpid(), False, None)


def test_runs_are_listed_in_order(tmp_path: Path) -> None:
    for ids in (range(3), range(5), range(5)):
        path = make(tmp_path, ids)
    with batchmill.open_checkpoint(path) as results:
        status = results.status()
    assert [run["run"] for run in status.runs] == [1, 2, 3]
    assert (status.done, status.failed) == (4, 1)


# --- what is no checkpoint -------------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="no such checkpoint"):
        batchmill.open_checkpoint(tmp_path / "none.ckpt")


def test_another_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("something else" * 50)
    with pytest.raises(CheckpointDamaged):
        batchmill.open_checkpoint(tmp_path / "a.txt")


def test_a_checkpoint_without_outcomes_has_none(tmp_path: Path) -> None:
    with batchmill.open_checkpoint(make(tmp_path, [])) as results:
        assert (list(results.outcomes()), list(results.failures())) == ([], [])
        assert (results.status().done, results.status().total) == (0, 0)


def test_a_checkpoint_can_be_closed_twice(tmp_path: Path) -> None:
    results = batchmill.open_checkpoint(make(tmp_path, range(2)))
    results.close()
    results.close()


# --- where items ran -------------------------------------------------------------------------------------------------


def outcomes_on(worker: int, run: int, first: int, count: int) -> bytes:
    """An OUTCOMES payload of one worker."""
    head = Head(worker=worker, run=run, first=first, records=count, items=count, ok=count)
    ids = list(range(first, first + count))
    return pack_outcomes(head, ids, [pack_value(1)] * count, [], [0.0] * count, [0] * count)


def test_items_are_counted_by_the_host_of_their_worker_and_by_none_where_that_is_not_known(tmp_path: Path) -> None:
    checkpoint = Checkpoint.create(str(tmp_path / "c.ckpt"), {})
    for type, payload in [
        (FrameType.RUN, pack_map({"run": 1, "host": "home", "cluster": "tcp://s:1"})),
        (FrameType.RUN, pack_map({"run": 1, "places": {"0": "a", "1": "a"}})),
        (FrameType.OUTCOMES, outcomes_on(0, 1, 0, 4)),
        (FrameType.OUTCOMES, outcomes_on(1, 1, 4, 3)),
        (FrameType.RUN, pack_map({"run": 1, "places": {"2": "b"}})),
        (FrameType.RUN, pack_map({"run": 1, "source": "digest"})),
        (FrameType.OUTCOMES, outcomes_on(2, 1, 7, 5)),
        (FrameType.OUTCOMES, outcomes_on(9, 1, 12, 1)),
        (FrameType.RUN, pack_map({"run": 2, "host": "home"})),
        (FrameType.OUTCOMES, outcomes_on(0, 2, 13, 2)),
    ]:
        checkpoint.append(type, payload)
    checkpoint.close()
    with batchmill.open_checkpoint(tmp_path / "c.ckpt") as results:
        assert list(results.status().hosts.items()) == [("a", 7), ("b", 5), ("home", 2), ("?", 1)]
