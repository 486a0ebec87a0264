"""The output of a run: in input order, as far as it is settled, whole or not at all."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from checkpoint_kit import Shelf, outcomes_payload
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.checkpoint.index import Piece
from batchmill.errors import OutputLost
from batchmill.output.columns import Asked
from batchmill.output.ordering import render_job
from batchmill.output.writer import Frontier, OutputWriter


class Press:
    """An Output with the frames it reads; renders what is due at once."""

    def __init__(self, target: str, gone: dict[int, set[int]] | None = None) -> None:
        self.frames: dict[int, bytes] = {}
        self.output = OutputWriter(target, Asked("jsonl"), Shelf(self.frames.__getitem__, gone))

    def commit(self, seq: int, first: int, ids: list[Any], *, settled: bool = True) -> None:
        self.frames[seq] = outcomes_payload(first, ids)
        self.output.add(Piece(0, first, first + len(ids), seq))
        if settled:
            self.output.settle(first, first + len(ids))

    def jobs(self) -> list[Any]:
        found = []
        while (job := self.output.next_job()) is not None:
            found.append(job)
        return found

    def render(self) -> None:
        for number, job in self.jobs():
            self.output.rendered(number, *render_job(job))


def ids_of(data: bytes) -> list[Any]:
    return [json.loads(line)["id"] for line in data.splitlines()]


@contextmanager
def stdout_is(descriptor: int) -> Iterator[None]:
    """Descriptor 1 is another one for a while (pytest has its own ideas of it before and after)."""
    kept = os.dup(1)
    os.dup2(descriptor, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def caught(path: Path) -> Iterator[Callable[[], list[Any]]]:
    """Gives what tells the ids that were written to stdout so far."""
    with (path / "stdout").open("wb") as file, stdout_is(file.fileno()):
        yield lambda: ids_of((path / "stdout").read_bytes())


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_there_only_when_it_is_whole(tmp_path: Path) -> None:
    press = Press(str(tmp_path / "out"))
    press.commit(1, 0, ["a"])
    press.output.finish()
    press.render()
    assert not (tmp_path / "out").exists()
    assert press.output.close("whole") == str(tmp_path / "out")
    assert ids_of((tmp_path / "out").read_bytes()) == ["a"]
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(("keep", "left"), [("partial", ["out.partial"]), ("nothing", [])])
def test_a_run_that_ended_early_leaves_a_partial_file_or_none(tmp_path: Path, keep: str, left: list[str]) -> None:
    press = Press(str(tmp_path / "out"))
    press.output.close(keep)
    assert os.listdir(tmp_path) == left


def test_a_file_that_was_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    press = Press(str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "old"
    press.output.close("nothing")
    assert (tmp_path / "out").read_text() == "old"


def test_an_output_is_closed_once(tmp_path: Path) -> None:
    press = Press(str(tmp_path / "out"))
    assert press.output.close("whole") is not None
    assert press.output.close("nothing") is None
    assert (tmp_path / "out").exists()


def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(OutputLost, match="cannot write"):
        Press(str(tmp_path / "no" / "such" / "out"))


def test_frames_in_any_order_are_written_in_input_order(tmp_path: Path) -> None:
    press = Press(str(tmp_path / "out"))
    for seq, first in enumerate(random.Random(5).sample(range(0, 60, 3), 20)):
        press.commit(seq, first, [first, first + 1, first + 2])
    press.output.finish()
    press.render()
    press.output.close("whole")
    assert ids_of((tmp_path / "out").read_bytes()) == list(range(60))


def test_stretches_that_come_back_in_any_order_are_written_in_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchmill.output.ordering._POSITIONS", 4)
    press = Press(str(tmp_path / "out"))
    for seq in range(10):
        press.commit(seq, 3 * seq, [3 * seq, 3 * seq + 1, 3 * seq + 2])
    press.output.finish()
    jobs = press.jobs()
    assert len(jobs) > 3
    assert not press.output.is_done
    for number, job in reversed(jobs):
        press.output.rendered(number, *render_job(job))
    assert press.output.is_done
    press.output.close("whole")
    assert ids_of((tmp_path / "out").read_bytes()) == list(range(30))


def test_an_outcome_that_was_replaced_is_written_once(tmp_path: Path) -> None:
    press = Press(str(tmp_path / "out"), gone={1: {1}})
    press.commit(1, 0, ["a", "old", "c"])
    press.commit(2, 1, ["new"])
    press.output.finish()
    press.render()
    press.output.close("whole")
    assert ids_of((tmp_path / "out").read_bytes()) == ["a", "new", "c"]


def test_nothing_is_due_in_a_file_before_its_end(tmp_path: Path) -> None:
    press = Press(str(tmp_path / "out"))
    press.commit(1, 0, ["a"])
    assert press.output.next_job() is None
    assert press.output.is_done
    press.output.close("nothing")


# --- stdout ----------------------------------------------------------------------------------------------------------


def test_stdout_gets_what_is_settled_without_a_gap(tmp_path: Path) -> None:
    press = Press("-")
    with caught(tmp_path) as written:
        press.commit(1, 3, ["d", "e"])
        press.render()
        assert written() == []
        press.commit(2, 0, ["a", "b", "c"])
        press.render()
        assert written() == list("abcde")


def test_records_without_an_outcome_close_a_gap_too(tmp_path: Path) -> None:
    press = Press("-")
    with caught(tmp_path) as written:
        press.commit(1, 3, ["d"])
        press.output.settle(0, 3)
        press.render()
        assert written() == ["d"]


def test_a_piece_across_the_frontier_is_written_in_two_parts(tmp_path: Path) -> None:
    press = Press("-")
    with caught(tmp_path) as written:
        press.commit(1, 0, ["a", "b", "c", "d"], settled=False)
        press.output.settle(0, 2)
        press.render()
        assert written() == ["a", "b"]
        press.output.settle(2, 4)
        press.render()
        assert written() == ["a", "b", "c", "d"]


def test_single_outcomes_across_the_frontier_are_written_in_two_parts(tmp_path: Path) -> None:
    press = Press("-")
    press.frames[1] = outcomes_payload(100, list("wxabyz"))
    press.output.add(Piece(0, 0, 2, 1, start=2))
    with caught(tmp_path) as written:
        for first, expected in enumerate((["a"], ["a", "b"])):
            press.output.settle(first, first + 1)
            press.render()
            assert written() == expected


def test_the_end_writes_what_is_left_behind_a_gap(tmp_path: Path) -> None:
    press = Press("-")
    with caught(tmp_path) as written:
        press.commit(1, 5, ["f"])
        press.output.finish()
        press.render()
        assert written() == ["f"]


def test_a_reader_that_has_gone_is_noticed_and_nothing_more_is_written() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    press = Press("-")
    with stdout_is(writer):
        for seq in (0, 1):
            press.commit(seq, seq, ["a"])
            press.render()
    os.close(writer)
    assert press.output.is_unread


def test_a_full_device_is_said() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    press = Press("-")
    press.commit(1, 0, ["a"])
    with stdout_is(full), pytest.raises(OutputLost, match="cannot write stdout: No space left"):
        press.render()
    os.close(full)


def test_a_stdout_that_does_not_block_gets_everything() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    press, found = Press("-"), bytearray()
    for seq in range(40):
        press.commit(seq, 500 * seq, [f"{seq} {i} {'x' * 30}" for i in range(500)])

    def read() -> None:
        while block := os.read(reader, 1 << 16):
            found.extend(block)

    thread = threading.Thread(target=read)
    thread.start()
    with stdout_is(writer):
        press.render()
    os.close(writer)
    thread.join(60)
    os.close(reader)
    assert len(ids_of(bytes(found))) == 20_000


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 6), max_size=30), st.randoms(use_true_random=False))
def test_the_frontier_is_the_end_of_what_is_settled_from_the_start(sizes: list[int], rng: random.Random) -> None:
    ranges, position = [], 0
    for size in sizes:
        ranges.append((position, position + size))
        position += size
    rng.shuffle(ranges)
    frontier, settled = Frontier(), set()
    for first, end in ranges:
        frontier.settle(first, end)
        settled |= set(range(first, end))
        gap = next(i for i in range(position + 1) if i not in settled)
        assert frontier.position == gap
