"""Facts about a checkpoint's timeline: of runs that ended, live and were killed, of old, torn and hostile files."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from timeline_kit import ZERO, Writer

from batchmill.checkpoint.frames import FrameType, Kind
from batchmill.checkpoint.histogram import MOST_BINS
from batchmill.checkpoint.reader import Reader
from batchmill.checkpoint.timeline_reader import MOST_MESSAGES, MOST_TYPES, MOST_WORKERS, SLOWEST, read_timeline
from batchmill.codec.outcomes import pack_map
from batchmill.errors import CheckpointDamaged, InputMissing
from batchmill.model import FailureExample


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "x.ckpt")


def test_runs_are_laid_end_to_end_without_the_pauses_between_them(writer: Writer) -> None:
    writer.run(0)
    writer.outcomes(1, [1.0] * 4)
    writer.end(10, stopped="limit")
    writer.run(5000)  # an hour later, killed after its last chunk
    writer.outcomes(5001, [2.0] * 3)
    writer.run(9000)
    writer.outcomes(9000, [0.5] * 2, failures={1: ("ValueError", "bad")})
    writer.end(9002)
    timeline = writer.timeline()
    assert [(run.at, run.seconds, run.items, run.failed) for run in timeline.runs] == [
        (0.0, 10.0, 4, 0), (10.0, 7.0, 3, 0), (17.0, 2.0, 2, 1),
    ]  # fmt: skip
    assert [run.report is None for run in timeline.runs] == [False, True, False]
    assert (timeline.seconds, timeline.done, timeline.failed, timeline.total, timeline.live) == (19.0, 8, 1, 50, None)
    assert sum(timeline.ok_bins) == pytest.approx(8)
    assert sum(timeline.ok_bins[int(10 / timeline.width) : int(17 / timeline.width)]) == pytest.approx(3)
    assert sum(timeline.failed_bins) == pytest.approx(1)


def test_what_was_tried_again_counts_once_and_only_its_last_failure_is_told(writer: Writer) -> None:
    writer.run(0)
    failures = {0: ("ValueError", "block 17"), 1: ("ValueError", "block 18"), 2: ("KeyError", "k")}
    seq = writer.outcomes(0, [1.0] * 5, failures=failures)
    writer.outcomes(5, [1.0, 1.0], failures={1: ("OSError", "gone")}, replaces=[(0, seq, 0, 1), (1, seq, 2, 1)])
    timeline = writer.timeline()
    assert (timeline.done, timeline.failed, timeline.replaced) == (3, 2, 2)
    told = {name: [(alike.count, alike.examples[0]) for alike in group.alike.values()]
            for name, group in timeline.failures.items()}  # fmt: skip
    assert told == {
        "ValueError": [(1, FailureExample("id1", 2, "block 18"))], "OSError": [(1, FailureExample("id6", 7, "gone"))],
    }  # fmt: skip
    assert timeline.failures["OSError"].traceback == "Traceback of gone"


def test_messages_that_differ_in_numbers_alone_are_taken_together(writer: Writer) -> None:
    writer.run(0)
    messages = [f"no block {n} at 0x7f{n:02x}" for n in range(20)] + ["disk full"]
    writer.outcomes(0, [0.1] * 21, failures={n: ("E", message) for n, message in enumerate(messages)})
    (group,) = writer.timeline().failures.values()
    assert [(alike.count, len(alike.examples)) for alike in group.alike.values()] == [(20, 5), (1, 1)]


def test_the_story_of_any_number_of_errors_stays_small(writer: Writer) -> None:
    writer.run(0)
    for begin in range(0, 300, 100):
        kinds = {n: (f"Error{'abcdefghij'[n // 10]}{begin}{'x' * n}", "m") for n in range(100)}
        writer.outcomes(begin, [0.1] * 100, failures=kinds)
    words = {n: ("Same", "w" * (n + 1)) for n in range(190)}
    writer.outcomes(400, [0.1] * 190, failures=words)
    timeline = writer.timeline()
    assert len(timeline.failures) == MOST_TYPES + 1
    assert sum(group.count for group in timeline.failures.values()) == timeline.failed == 490
    assert all(len(group.alike) <= MOST_MESSAGES + 1 for group in timeline.failures.values())


def test_the_slowest_are_named_with_what_became_of_them(writer: Writer) -> None:
    writer.run(0)
    writer.outcomes(0, [0.5] * 30, worker=1)
    writer.outcomes(20, [0.25, 9.0, 7.0], failures={1: ("E", "m")}, worker=3)
    slowest = writer.timeline().slowest
    assert len(slowest) == SLOWEST
    assert [(slow.id, slow.line, slow.seconds, slow.ok, slow.worker) for slow in slowest[:2]] == [
        ("id31", 32, 9.0, False, 3), ("id32", 33, 7.0, True, 3),
    ]  # fmt: skip
    assert slowest[1].at == pytest.approx(29.25)
    assert {slow.seconds for slow in slowest[2:]} == {0.5}


def test_workers_are_told_apart_with_their_processes_and_why_these_ended(writer: Writer) -> None:
    writer.run(0, workers=2)
    writer.outcomes(0, [4.0], worker=0, pid=10)
    writer.outcomes(6, [4.0], worker=0, pid=11)
    writer.outcomes(0, [10.0], worker=1, pid=12)
    ends = [[ZERO + 5, 0, 10, -6, "died"], [ZERO + 9, 0, 11, 0, "recycled"], [ZERO + 9, 1, 12, -9, "Timeout"]]
    writer.sample(10, ends=ends, more_ends=2)
    timeline = writer.timeline()
    zero, one = timeline.workers[0], timeline.workers[1]
    assert (zero.items, zero.processes, zero.seconds) == (2, 2, 8.0)
    assert zero.ended == {"died": 1, "recycled": 1}
    assert one.ended == {"Timeout": 1}
    assert zero.ends["died"].bins()[int(5 / timeline.width)] == 1
    assert sum(one.ends["killed"].bins()) == 1
    assert sum(zero.busy.bins()[int(4.5 / timeline.width) : int(5.5 / timeline.width)]) == 0.0


def test_a_live_run_is_told_up_to_now(writer: Writer) -> None:
    writer.run(0)
    writer.outcomes(1, [1.0])
    timeline = read_timeline(writer.file.path, clock=lambda: ZERO + 100)
    assert timeline.live is not None
    assert (timeline.seconds, timeline.is_new) == (100.0, False)
    writer.end(120)
    new = read_timeline(writer.file.path, clock=lambda: ZERO + 200)  # the lock is held by one who has said nothing yet
    assert new.is_new
    assert new.seconds == 120.0
    assert writer.timeline().live is None


def test_a_checkpoint_without_a_run_or_an_outcome_has_a_story_too(writer: Writer) -> None:
    assert writer.timeline().runs == ()


def test_a_run_without_an_outcome_has_a_story_too(writer: Writer) -> None:
    writer.run(0)
    timeline = writer.timeline()
    assert (len(timeline.runs), timeline.seconds, timeline.durations.count, timeline.slowest) == (1, 0.0, 0, ())


def test_frames_of_an_older_batchmill_are_read(writer: Writer) -> None:
    writer.file.append(FrameType.RUN, pack_map({"run": 1, "started": ZERO}))
    writer.number = 1
    writer.outcomes(0, [1.0])
    writer.file.append(FrameType.SAMPLE, pack_map({"time": ZERO + 1}))
    writer.file.append(FrameType.STRIKE, pack_map({"position": 0, "count": 1, "exit": -6}))
    timeline = writer.timeline()
    assert (timeline.done, timeline.usage, timeline.runs[0].strikes) == (1, (), 1)


def test_what_a_later_batchmill_adds_is_passed_over(writer: Writer) -> None:
    writer.run(0, weather="fine")
    writer.sample(1, moon="full")
    writer.outcomes(0, [1.0])
    assert writer.timeline().done == 1


def test_results_are_never_read(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.run(0)
    for _ in range(5):
        seq = writer.outcomes(0, [1.0] * 3, failures={0: ("E", "m")}, size=1 << 20)
    writer.outcomes(9, [1.0] * 3, size=1 << 20, replaces=[(0, seq, 0, 1)])
    sizes: list[int] = []
    read_at = Reader.read_at

    def counting(reader: Reader, offset: int, size: int) -> bytes:
        data = read_at(reader, offset, size)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(Reader, "read_at", counting)
    writer.file.sync()
    writer.end(20)
    timeline = writer.timeline()
    assert (timeline.done, timeline.failed, os.path.getsize(writer.file.path) > 12 << 20) == (13, 4, True)
    assert sum(sizes) < 1 << 18


def test_a_torn_end_is_left_out(writer: Writer) -> None:
    writer.run(0)
    writer.outcomes(0, [1.0])
    writer.outcomes(2, [1.0])
    writer.file.close()
    os.truncate(writer.file.path, writer.file.end - 5)
    timeline = read_timeline(writer.file.path)
    assert (timeline.done, timeline.verdict.kind) == (1, Kind.TORN)


@pytest.mark.parametrize("where", [60, 1000, 20_000])  # head, ids, results
def test_an_end_that_a_power_failure_damaged_is_left_out(writer: Writer, where: int) -> None:
    writer.run(0)
    writer.outcomes(0, [1.0])
    end = writer.file.end
    writer.outcomes(2, [1.0] * 300, size=100)
    writer.file.close()
    with open(writer.file.path, "r+b") as file:  # some of the payload was lost, the frame's head was not
        file.seek(end + where)
        file.write(bytes(min(60, writer.file.end - end - where - 4)))
    timeline = read_timeline(writer.file.path)
    assert (timeline.done, timeline.verdict.kind) == (1, Kind.CRASH_DAMAGE)


def test_damage_that_no_crash_explains_is_an_error(writer: Writer) -> None:
    writer.run(0)
    begin = writer.file.end
    writer.outcomes(0, [1.0])
    writer.file.sync()
    writer.outcomes(2, [1.0])
    writer.file.close()
    with open(writer.file.path, "r+b") as file:
        file.seek(begin + 4)
        file.write(b"\xff\xff")
    with pytest.raises(CheckpointDamaged, match=r"x\.ckpt is damaged at byte"):
        read_timeline(writer.file.path)


@pytest.mark.parametrize(
    "frame",
    [
        (FrameType.RUN, {"started": ZERO}),
        (FrameType.RUN, {"run": "one"}),
        (FrameType.SAMPLE, {"time": "noon"}),
        (FrameType.SAMPLE, {"time": ZERO, "ends": [[1, 2]]}),
        (FrameType.SAMPLE, {"time": ZERO, "ends": [["a", "b", 1, 1, []]]}),
        (FrameType.END, {"run": 1}),
        (FrameType.END, {"run": 1, "report": {"failures": [], "warnings": []}}),
    ],
)
def test_a_frame_that_does_not_hold_what_it_should_is_damage(writer: Writer, frame: tuple[FrameType, Any]) -> None:
    writer.run(0)
    writer.file.append(frame[0], pack_map(frame[1]))
    with pytest.raises(CheckpointDamaged, match=r"x\.ckpt: "):
        writer.timeline()


def test_numbers_that_no_run_could_have_written_do_no_harm(writer: Writer) -> None:
    writer.run(0)
    writer.outcomes(0, [math.nan, -1.0, math.inf, 2.0], took=math.nan)
    writer.outcomes(1e300, [1.0], took=1e300)
    writer.outcomes(-1e9, [1.0], worker=65535, took=-5.0)
    writer.sample(1e12, cpu_percent=math.inf)
    writer.sample(1, cpu_percent=-math.inf, parent_rss=math.nan)
    timeline = writer.timeline()
    assert timeline.usage == ((0.0, 0.0, 1000.0, 300.0), (1.0, 0.0, 1000.0, 0.0))
    assert timeline.durations.count == 3
    assert timeline.done == 6
    assert list(timeline.workers) == [0, MOST_WORKERS - 1]
    assert [slow.seconds for slow in timeline.slowest] == [2.0, 1.0, 1.0]
    assert len(timeline.ok_bins) <= MOST_BINS


def test_a_checkpoint_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputMissing):
        read_timeline(str(tmp_path / "none.ckpt"))
