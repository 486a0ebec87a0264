"""Outcomes of frames that are mixed item by item: the same bytes as the plain way gives, each frame read once."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint_kit import QuickDisk, Shelf, outcomes_payload
from worker_kit import play

from batchmill.checkpoint.index import Piece
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.unsaid import Unsaid
from batchmill.errors import OutputLost
from batchmill.output import external_sort, json_lines, layout, rows, spool, writer
from batchmill.output.collect import write_results
from batchmill.output.columns import Asked, table_of
from batchmill.output.external_sort import MergeJob, Page, SortJob, fulfil, pages
from batchmill.output.layout import Layout
from batchmill.output.ordering import RenderJob
from batchmill.output.results import Results, open_checkpoint
from batchmill.output.spool import Spool
from batchmill.output.writer import OutputWriter

ITEMS = 1500
FORMATS = ("jsonl", "msgpack", "csv", "sqlite")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is mixed is scattered, in many small runs, pages and slices."""
    monkeypatch.setattr(layout, "_FREE", 0)
    monkeypatch.setattr(layout, "_WINDOW", 64)
    monkeypatch.setattr(layout, "_SINGLE", 1000)
    monkeypatch.setattr(spool, "_UNIT", 20_000)
    monkeypatch.setattr(spool, "PAGE", 500)
    monkeypatch.setattr(external_sort, "PAGE", 500)


@pytest.fixture
def sorts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The frames that were sorted, by seq."""
    seen: list[int] = []
    sort = external_sort.sort

    def watched(job: SortJob, *rest: Any) -> Any:
        seen.extend(part.seq for part in job.frames.parts)
        return sort(job, *rest)

    monkeypatch.setattr(external_sort, "sort", watched)
    monkeypatch.setattr("batchmill.output.results.sort", watched)
    return seen


def work(item: dict[str, Any]) -> Any:
    if item["bad"]:
        raise ValueError(f"item {item['id']}\nis bad")
    return item.get("v", [item["id"], 'a "b",\nc'])


def again(item: dict[str, Any]) -> Any:
    return work({**item, "bad": item["bad"] > 1})


@pytest.fixture(scope="module")
def tangled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a checkpoint of four orderings, and an input in a fifth: some failed, some replaced."""
    path, rng = tmp_path_factory.mktemp("tangled"), random.Random(11)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchmill.checkpoint.writer.Disk", QuickDisk)
        items = [{"id": rng.choice([number, number // 9, str(number)]), "bad": 0} for number in range(ITEMS)]
        for item in rng.sample(items, 60):
            item["bad"] = rng.choice((1, 2))

        def run(function: Callable[[Any], Any], **settings: Any) -> None:
            (path / "in.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
            assert play(function, [path / "in.jsonl"], path / "c.ckpt", chunk_size=7, **settings)

        run(work)
        items = items[ITEMS // 2 :] + items[: ITEMS // 2]
        rng.shuffle(items)
        run(work, retry_failed=False)
        items.reverse()
        for item in rng.sample(items, 40):
            item["v"] = float("nan")
        run(again, rerun_changed=True)
        middle = items[300:1200]
        rng.shuffle(middle)
        items[300:1200] = middle
        items[900:900] = [{"id": f"new {number}", "bad": 0} for number in range(50)]
        run(again)
        rng.shuffle(items)
        (path / "in.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def plain_way(results: Results, format: str, all: bool) -> bytes:
    """The output, as every single outcome's place says."""
    index, found = results._history.index, []
    render = rows.render if format in ("csv", "sqlite") else json_lines.render
    for number in range(len(index)):
        row = index.row(number)
        block = OutcomeBlock(results.payload(row.seq))
        for place, offset in enumerate(block.offsets):
            if place not in index.gone.get(row.seq, ()):
                where = index.position_of((row.seq, place), offset)
                options: dict[str, Any] = {"with_item": format not in ("csv", "sqlite"), "source": "jsonl"}
                data = render(block, [place], format=format, all=all, **options)[0]
                found.append((*where, row.seq, place, data))
    opening = rows.opening(Asked(format, all), table_of(Asked(format, all)))
    return opening + b"".join(data for *_, data in sorted(found))


def rows_of(path: Path) -> list[Any]:
    with sqlite3.connect(path) as database:
        return [*database.execute("SELECT * FROM items ORDER BY rowid")]


def written(checkpoint: Path, format: str, all: bool) -> Any:
    if format == "sqlite":
        write_results([str(checkpoint)], str(checkpoint.parent / "out.db"), format=format, all=all)
        return rows_of(checkpoint.parent / "out.db")
    out = io.BytesIO()
    write_results([str(checkpoint)], out, format=format, all=all)
    return out.getvalue()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("all", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_results_are_what_the_plain_way_gives(tangled: Path, sorts: list[int], format: str, all: bool) -> None:
    with open_checkpoint(tangled / "c.ckpt") as results:
        expected: Any = plain_way(results, format, all)
    if format == "sqlite":
        import msgpack

        unpacker = msgpack.Unpacker()
        unpacker.feed(expected)
        expected = [tuple(row) for row in unpacker]
    assert written(tangled / "c.ckpt", format, all) == expected
    assert len(sorts) > 100


def test_outcomes_and_failures_are_the_same_scattered_or_not(tangled: Path, request: pytest.FixtureRequest) -> None:
    with open_checkpoint(tangled / "c.ckpt") as results:
        expected = repr([*results.outcomes()]), repr([*results.outcomes(all=False)]), repr([*results.failures()])
    request.getfixturevalue("small")
    sorts = request.getfixturevalue("sorts")
    with open_checkpoint(tangled / "c.ckpt") as results:
        assert (repr([*results.outcomes()]), repr([*results.outcomes(all=False)])) == expected[:2]
        assert len(sorts) > 200
        assert repr([*results.failures()]) == expected[2]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("format", FORMATS)
def test_a_run_s_output_is_in_the_order_of_its_input(
    tangled: Path, tmp_path: Path, format: str, sorts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchmill.checkpoint.writer.Disk", QuickDisk)
    shutil.copy(tangled / "c.ckpt", tmp_path / "c.ckpt")
    settings: dict[str, Any] = {"retry_failed": False, "output_format": format, "chunk_size": 7}
    played = play(again, [tangled / "in.jsonl"], tmp_path / "c.ckpt", output=tmp_path / "out", **settings)
    assert played is not None
    assert not played.calls
    found = rows_of(tmp_path / "out") if format == "sqlite" else (tmp_path / "out").read_bytes()
    # The database of `results` has failed items too.
    expected = written(tmp_path / "c.ckpt", format, all=False)
    assert found == expected
    assert len(sorts) > 200
    if format == "jsonl":
        lines = [json.loads(line) for line in (tangled / "in.jsonl").read_text().splitlines()]
        ids = [json.dumps(json.loads(line)["id"]) for line in (tmp_path / "out").read_text().splitlines()]
        position = {json.dumps(line["id"]): number for number, line in enumerate(lines)}
        once = {id for id, count in Counter(json.dumps(line["id"]) for line in lines).items() if count == 1}
        assert [position[id] for id in ids if id in once] == sorted(position[id] for id in ids if id in once)


def shuffled(frames: int = 40, held: int = 25) -> tuple[dict[int, bytes], list[Piece]]:
    """Frames, and their outcomes as pieces in another order: results must be the numbers from 0 on."""
    order = random.Random(7).sample(range(frames * held), frames * held)
    payloads = {seq: outcomes_payload(0, order[seq * held : (seq + 1) * held]) for seq in range(frames)}
    pieces = [
        Piece(3, order[seq * held + place], order[seq * held + place] + 1, seq, 0, place)
        for seq in range(frames)
        for place in range(held)
    ]
    return payloads, random.Random(8).sample(pieces, len(pieces))


def order_of(low: int, high: int, parts: Any) -> RenderJob:
    return RenderJob(low, high, parts, "jsonl", all=False, with_item=False)


@pytest.mark.usefixtures("small")
def test_each_frame_is_read_once_and_slices_are_bounded() -> None:
    payloads, pieces = shuffled(400)
    read: Counter[int] = Counter()

    def payload(seq: int) -> bytes:
        read[seq] += 1
        return payloads[seq]

    shelf = Shelf(payload)
    shelf.extent = Shelf(payloads.__getitem__).extent  # type: ignore[method-assign]
    made = Layout(shelf, order_of)
    for piece in pieces:
        made.add(piece)
    sizes: list[int] = []

    def watched(job: Any) -> tuple[bytes, Unsaid]:
        if isinstance(job, MergeJob):
            sizes.append(sum(map(len, job.pages)))
        return fulfil(job)

    text = b"".join(data for data, _ in made.made(watched))
    assert [json.loads(line)["id"] for line in text.splitlines()] == [*range(10_000)]
    assert set(read.values()) == {1}
    assert len(sizes) > 1
    assert max(sizes) < 20_000 + 40 * 800  # a slice, and a page of each run


@pytest.mark.usefixtures("small")
def test_nothing_is_merged_before_all_is_sorted(tmp_path: Path) -> None:
    payloads, pieces = shuffled()
    out = OutputWriter(str(tmp_path / "out"), Asked("jsonl"), Shelf(payloads.__getitem__))
    for piece in pieces:
        out.add(piece)
    out.finish()
    jobs: list[Any] = []
    while (job := out.next_job()) is not None:
        jobs.append(job)
    assert {type(job) for _, job in jobs} == {SortJob}
    assert not out.is_done
    for number, job in reversed(jobs):
        out.rendered(number, *fulfil(job))
    while (job := out.next_job()) is not None:
        out.rendered(job[0], *fulfil(job[1]))
    assert out.is_over
    out.close("whole")
    assert os.listdir(tmp_path) == ["out"]
    assert [json.loads(line)["id"] for line in (tmp_path / "out").read_bytes().splitlines()] == [*range(1000)]


@pytest.mark.usefixtures("small")
def test_a_mixed_stream_comes_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_FREE", 500)
    text: list[bytes] = []
    payloads, pieces = shuffled()
    out = OutputWriter("-", Asked("jsonl"), Shelf(payloads.__getitem__))
    monkeypatch.setattr(out._target, "write", text.append)
    counts = []
    for piece in sorted(pieces):
        out.add(piece)
        out.settle(piece.low, piece.high)
        while (job := out.next_job()) is not None:
            out.rendered(job[0], *fulfil(job[1]))
        counts.append(b"".join(text).count(b"\n"))
    assert counts[0] == 1
    assert 1 < counts[-1] < 100
    out.finish()
    while (job := out.next_job()) is not None:
        out.rendered(job[0], *fulfil(job[1]))
    assert out.is_over
    assert [json.loads(line)["id"] for line in b"".join(text).splitlines()] == [*range(1000)]


def test_a_few_that_moved_are_not_scattered() -> None:
    payloads = {seq: outcomes_payload(10 * seq, range(10 * seq, 10 * seq + 10)) for seq in range(10)}
    made = Layout(Shelf(payloads.__getitem__), order_of)
    for seq in range(10):
        made.add(Piece(1, 10 * seq, 10 * seq + 10, seq))
    made.add(Piece(1, 100, 101, 4, 0, 3))
    assert {type(job) for job in made.jobs()} == {RenderJob}


@pytest.mark.usefixtures("small")
def test_no_room_for_the_temporary_file_is_an_output_lost(tmp_path: Path) -> None:
    payloads, pieces = shuffled()
    made = Layout(Shelf(payloads.__getitem__), order_of, str(tmp_path / "none"))
    for piece in pieces:
        made.add(piece)
    with pytest.raises(OutputLost, match="temporary file"):
        [*made.made(fulfil)]


def test_a_spool_gives_lines_of_one_position_in_the_order_of_runs(tmp_path: Path) -> None:
    held = Spool(str(tmp_path), 1)
    for run in range(3):
        data = b"".join(external_sort._paged(iter([(5, b"a%d\n" % run), (5, b"b%d\n" % run), (9, b"c%d\n" % run)])))
        assert [*pages(data)] == [Page(5, 0, len(data))]
        held.add(data)
    made = b"".join(fulfil(job)[0] for job in held.slices(0, 10))
    held.close()
    assert made.split() == [b"a0", b"b0", b"a1", b"b1", b"a2", b"b2", b"c0", b"c1", b"c2"]
    assert os.listdir(tmp_path) == []
