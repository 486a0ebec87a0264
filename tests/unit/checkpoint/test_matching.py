"""Resume: the input held against what is done, on real checkpoints; and in what order the results then are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from checkpoint_kit import QuickDisk
from worker_kit import Played, play

from batchmill.checkpoint.matching import Matcher
from batchmill.codec.ids import id_key
from batchmill.output.results import open_checkpoint
from batchmill.scheduler import work_queue


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchmill.checkpoint.writer.Disk", QuickDisk)


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often ids were loaded: 0 where everything was found by block."""
    loaded: list[int] = []
    load = Matcher.load_ids

    def counted(self: Matcher) -> None:
        loaded.append(1)
        load(self)

    monkeypatch.setattr(Matcher, "load_ids", counted)
    return loaded


def item(id: Any, value: Any = 0) -> str:
    return json.dumps({"id": id, "v": value})


def items(ids: Sequence[Any]) -> list[str]:
    return [item(id) for id in ids]


class Benchmark:
    """An input, a checkpoint and an output, run again and again."""

    def __init__(self, directory: Path) -> None:
        self.input = directory / "in.jsonl"
        self.checkpoint = directory / "c.ckpt"
        self.output = directory / "out.jsonl"
        self.bad: set[Any] = set()

    def work(self, item: dict[str, Any]) -> Any:
        if item["id"] in self.bad:
            raise ValueError(f"bad {item['id']}")
        return [item["id"], item.get("v")]

    def run(self, lines: Sequence[str], *, closed: bool = True, **settings: Any) -> Played:
        self.input.write_text("\n".join(lines) + ("\n" if closed and lines else ""))
        settings.setdefault("chunk_size", 3)
        played = play(self.work, [self.input], self.checkpoint, output=self.output, **settings)
        assert played is not None
        return played

    def ran(self, lines: Sequence[str], **settings: Any) -> list[Any]:
        return [item["id"] for item in self.run(lines, **settings).calls]

    @property
    def results(self) -> list[Any]:
        """Ids of all outcomes, in the order of results."""
        with open_checkpoint(self.checkpoint) as results:
            return [outcome.id for outcome in results.outcomes()]

    @property
    def written(self) -> list[Any]:
        return [json.loads(line)["id"] for line in self.output.read_text().splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Benchmark:
    return Benchmark(tmp_path)


# --- by block --------------------------------------------------------------------------------------------------------


def test_nothing_runs_when_nothing_changed(bench: Benchmark, scans: list[int]) -> None:
    bench.run(items(range(20)))
    played = bench.run(items(range(20)))
    assert (played.calls, played.report.skipped, played.report.total, scans) == ([], 20, 20, [])


def test_lines_inserted_at_the_head_leave_the_blocks_behind_them_alone(bench: Benchmark, scans: list[int]) -> None:
    bench.run(items(range(30)))
    assert bench.ran(items(["a", "b", *range(30)])) == ["a", "b"]
    assert scans == []


def test_a_line_inserted_in_the_middle_runs_alone(bench: Benchmark) -> None:
    bench.run(items(range(30)))
    assert bench.ran(items([*range(16), "new", *range(16, 30)])) == ["new"]


def test_halves_that_changed_places_are_found_by_block(bench: Benchmark, scans: list[int]) -> None:
    bench.run(items(range(30)))
    assert bench.ran(items([*range(15, 30), *range(15)])) == []
    assert scans == []


def test_lines_taken_out_leave_the_others_done(bench: Benchmark) -> None:
    bench.run(items(range(30)))
    played = bench.run(items([i for i in range(30) if i % 7]))
    assert (played.calls, played.report.skipped) == ([], 25)


def test_lines_added_at_the_end_run(bench: Benchmark, scans: list[int]) -> None:
    bench.run(items(range(10)))
    assert bench.ran(items(range(13))) == [10, 11, 12]
    assert scans == []


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_a_last_line_without_a_newline_is_found_when_it_gets_one(bench: Benchmark, chunk_size: int) -> None:
    bench.run(items(range(7)), closed=False, chunk_size=chunk_size)
    assert bench.ran(items(range(9)), chunk_size=chunk_size) == [7, 8]


def test_a_last_line_that_grew_is_another_item(bench: Benchmark) -> None:
    bench.input.write_text("1\n23")
    play(repr, [bench.input], bench.checkpoint, chunk_size=5)
    bench.input.write_text("1\n234\n")
    played = play(repr, [bench.input], bench.checkpoint, chunk_size=5)
    assert played is not None
    assert played.calls == [234]


def test_carriage_returns_that_come_and_go_change_no_item(bench: Benchmark) -> None:
    bench.run(items(range(7)))
    bench.input.write_bytes(bench.input.read_bytes().replace(b"\n", b"\r\n"))
    played = play(bench.work, [bench.input], bench.checkpoint, chunk_size=3)
    assert played is not None
    assert (played.calls, played.report.skipped, played.report.changed) == ([], 7, 0)


def test_blank_lines_are_not_counted_as_items(bench: Benchmark) -> None:
    bench.run(["", *items(range(4)), "", ""])
    played = bench.run(["", *items(range(4)), "", "", ""])
    assert (played.calls, played.report.total, played.report.skipped) == ([], 4, 4)


# --- by item ---------------------------------------------------------------------------------------------------------


def test_an_input_in_another_order_is_still_done(bench: Benchmark) -> None:
    bench.run(items(range(20)))
    played = bench.run(items(range(19, -1, -1)))
    assert (played.calls, played.report.skipped) == ([], 20)


def test_a_new_occurrence_before_the_done_ones_runs_and_no_other_does(bench: Benchmark) -> None:
    """Matching by id alone would take `a` for `c`, and then run `b` a second time."""
    bench.run([item(1, "a"), item(1, "b")])
    played = bench.run([item(1, "c"), item(1, "a"), item(1, "b")])
    assert [call["v"] for call in played.calls] == ["c"]
    assert played.report.changed == 0


def test_repeated_items_are_done_as_often_as_they_were_run(bench: Benchmark) -> None:
    bench.run([item(1)] * 4, chunk_size=1)
    played = bench.run([item(1)] * 6, chunk_size=1)
    assert (len(played.calls), played.report.skipped) == (2, 4)


@pytest.mark.parametrize(("first", "second"), [(1, "1"), (1, 1.0), (1, True), ("a", "A")])
def test_an_id_of_another_type_is_another_item(bench: Benchmark, first: Any, second: Any) -> None:
    bench.run([item(first)])
    assert [id_key(id) for id in bench.ran([item(second), item(first)])] == [id_key(second)]


def test_a_done_item_whose_content_changed_keeps_its_result_and_is_counted(bench: Benchmark) -> None:
    bench.run([item(i, "old") for i in range(6)])
    played = bench.run([item(i, "new" if i in (2, 5) else "old") for i in range(6)])
    assert (played.calls, played.report.changed, played.report.skipped) == ([], 2, 6)
    assert any("2 changed items kept their old result" in message for message in played.messages)


def test_a_changed_item_runs_again_when_asked_to_and_its_result_is_replaced(bench: Benchmark) -> None:
    bench.run([item(i, "old") for i in range(6)])
    lines = [item(i, "new" if i in (2, 5) else "old") for i in range(6)]
    assert bench.ran(lines, rerun_changed=True) == [2, 5]
    with open_checkpoint(bench.checkpoint) as results:
        assert [outcome.result[1] for outcome in results.outcomes()] == ["old", "old", "new", "old", "old", "new"]
    assert bench.ran(lines, rerun_changed=True) == []


def test_a_failed_item_runs_again_and_its_outcome_is_replaced(bench: Benchmark) -> None:
    bench.bad = {2, 4}
    bench.run(items(range(7)))
    bench.bad = {4}
    assert bench.ran(items(range(7))) == [2, 4]
    with open_checkpoint(bench.checkpoint) as results:
        found = [(outcome.id, outcome.ok, outcome.attempts) for outcome in results.outcomes()]
    assert found == [(i, i != 4, 2 if i in (2, 4) else 1) for i in range(7)]


def test_a_failed_item_stays_failed_when_it_is_not_to_be_retried(bench: Benchmark) -> None:
    bench.bad = {2, 4}
    bench.run(items(range(7)))
    bench.bad = set()
    played = bench.run(items(range(7)), retry_failed=False)
    assert (played.calls, played.report.failed, played.report.skipped, played.report.exit_code) == ([], 2, 5, 1)


def test_an_item_that_failed_and_moved_is_retried_once(bench: Benchmark) -> None:
    bench.bad = {2}
    bench.run(items(range(7)))
    bench.bad = set()
    assert bench.ran(items([2, *range(2), *range(3, 7)])) == [2]
    assert bench.written == [2, 0, 1, 3, 4, 5, 6]


def test_two_records_of_one_content_do_not_share_an_outcome_that_was_retried(bench: Benchmark) -> None:
    """The first is found by its id, the second with its block: only one of them was ever run."""
    bench.bad = {1}
    bench.run(items([0, 1, 2, 3, 4, 5]))
    bench.bad = set()
    assert bench.ran(items([0, 1, 2, 3, 4, 5])) == [1]
    # The changed record at the head makes ids be loaded before the block with the other 1 comes.
    played = bench.run([item(3, "changed"), *items([1, 0, 1, 2, 4, 5])], chunk_size=3)
    assert [call["id"] for call in played.calls] == [1]


def test_a_second_record_runs_when_a_scan_has_taken_the_retried_outcome(
    bench: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.bad = {1}
    bench.run(items([0, 1, 2, 3, 4, 5]))
    bench.bad = set()
    bench.run(items([0, 1, 2, 3, 4, 5]))
    monkeypatch.setattr(work_queue, "_HELD", 0)
    played = bench.run(items([1, 0, 1, 2, 3, 4, 5]))
    assert [call["id"] for call in played.calls] == [1]
    assert len(bench.results) == 7


# --- the order of results --------------------------------------------------------------------------------------------


def test_results_follow_the_input_s_new_order(bench: Benchmark) -> None:
    bench.run(items(range(9)))
    bench.run(items([5, 4, 3, 8, 7, 6, 2, 1, 0]))
    assert bench.results == bench.written == [5, 4, 3, 8, 7, 6, 2, 1, 0]


def test_results_stay_in_order_when_records_move_before_blocks_that_do_not(bench: Benchmark) -> None:
    """The blocks are found first: what held-back records turn out to be later must not leave them behind."""
    bench.run(items(range(12)))
    bench.run(items([1, 0, *range(2, 12)]))
    assert bench.results == bench.written == [1, 0, *range(2, 12)]


def test_results_follow_one_order_after_another(bench: Benchmark) -> None:
    for order in ([0, 1, 2, 3, 4, 5], [3, 4, 5, 0, 1, 2], [5, 3, 4, 0, 1, 2], [0, 1, 2, 3, 4, 5], [9, 5, 0]):
        bench.run(items(order))
        assert bench.written == order
    assert bench.results == [1, 2, 3, 4, 9, 5, 0] or bench.results[-3:] == [9, 5, 0]


def test_what_is_no_longer_in_the_input_is_in_neither_output_nor_results_but_kept(bench: Benchmark) -> None:
    bench.run(items(range(6)))
    bench.run(items([4, 5]))
    assert bench.written == bench.results == [4, 5]
    with open_checkpoint(bench.checkpoint, removed=True) as found:
        assert sorted(outcome.id for outcome in found.outcomes()) == list(range(6))


def test_new_items_stand_between_the_old_ones(bench: Benchmark) -> None:
    bench.run(items(range(9)))
    bench.run(items([0, 1, 2, "x", 3, 4, "y", 5, 6, 7, 8, "z"]))
    assert bench.results == bench.written == [0, 1, 2, "x", 3, 4, "y", 5, 6, 7, 8, "z"]


def test_a_frame_whose_only_outcome_moved_can_be_read(bench: Benchmark) -> None:
    bench.run(items([0]), chunk_size=1)
    bench.run(items(["new", 0]), chunk_size=1)
    bench.run(items([0, "new"]), chunk_size=1)
    assert bench.results == [0, "new"]


def test_a_run_that_was_killed_before_it_wrote_its_order_leaves_all_results_readable(bench: Benchmark) -> None:
    bench.run(items(range(9)))
    bench.input.write_text("\n".join(items([8, 7, "x", 6, 5, 4, "y", *range(4)])) + "\n")
    assert play(bench.work, [bench.input], bench.checkpoint, chunk_size=1, until=1) is None
    assert sorted(map(str, bench.results)) == sorted([*"012345678", "x"])
    assert bench.ran(items([8, 7, "x", 6, 5, 4, "y", *range(4)])) == ["y"]
    assert bench.written == bench.results == [8, 7, "x", 6, 5, 4, "y", *range(4)]


# --- several inputs, shards ------------------------------------------------------------------------------------------


def test_inputs_in_another_order_are_still_done(tmp_path: Path) -> None:
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for number, path in enumerate(paths):
        path.write_text("\n".join(items(range(10 * number, 10 * number + 5))))
    first = play(lambda item: item["id"], paths, tmp_path / "c.ckpt", chunk_size=2)
    second = play(lambda item: item["id"], paths[::-1], tmp_path / "c.ckpt", chunk_size=2)
    assert first is not None
    assert second is not None
    assert ([call["id"] for call in first.calls], second.calls) == ([*range(5), *range(10, 15)], [])


def test_a_shard_resumes_on_its_own_items_only(bench: Benchmark) -> None:
    first = bench.ran(items(range(40)), shard="1/3")
    assert 0 < len(first) < 40
    assert bench.ran(items(range(40)), shard="1/3") == []
    rest = bench.ran(items(range(40)))
    assert sorted(first + rest) == list(range(40))


def test_the_limit_counts_items_and_the_next_run_takes_the_next_ones(bench: Benchmark) -> None:
    bench.input.write_text("\n".join(items(range(10))))
    assert play(bench.work, [bench.input], bench.checkpoint, chunk_size=2, until=2) is None
    assert bench.ran(items(range(10)), chunk_size=2) == [4, 5, 6, 7, 8, 9]


def test_a_file_whose_content_changed_runs_again_only_when_asked_to(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text(name)

    def run(**settings: Any) -> Played:
        played = play(str, [tmp_path / "in"], tmp_path / "c.ckpt", format="files", **settings)
        assert played is not None
        return played

    assert len(run().calls) == 3
    (tmp_path / "in" / "b").write_text("other")
    played = run()
    assert (played.calls, played.report.changed) == ([], 1)
    assert run(rerun_changed=True).calls == [str(tmp_path / "in" / "b")]
    assert run(rerun_changed=True).calls == []
