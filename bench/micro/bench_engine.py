"""The timings of the engine's inner parts, one block of tiny items at a time.

python -m pytest -c bench/micro/pytest.ini bench/micro        (--benchmark-save, --benchmark-compare: see its manual)
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from batchmill.checkpoint.frames import FileHeader, FileScan, FrameType, frame_bytes
from batchmill.checkpoint.index import Piece
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import Head, pack_outcomes, read_head
from batchmill.codec.pack import pack_result
from batchmill.input import formats
from batchmill.input.formats import FORMATS, IdRule
from batchmill.input.items import ItemReader
from batchmill.input.sources import ByteSource
from batchmill.model import Chunk
from batchmill.output.ordering import Part, RenderJob, render_job
from batchmill.scheduler.chunk_size import ChunkSizer
from batchmill.scheduler.in_flight import InFlight
from batchmill.scheduler.work_queue import WorkQueue

ITEMS = 5000
HEADER = FileHeader(bytes(range(16)))
BLOCK = b"".join(json.dumps({"id": number, "x": number * 3}).encode() + b"\n" for number in range(ITEMS))
CHUNK = Chunk(0, 1, 0, ITEMS, BLOCK)


def packed(failed: int = 0) -> bytes:
    """The payload of a chunk of integers."""
    head = Head(records=ITEMS, items=ITEMS, ok=ITEMS - failed, failed=failed, size=len(BLOCK))
    failures = [(place, "ValueError", "bad", "", b"{}") for place in range(failed)]
    results = [pack_result(number) for number in range(ITEMS)]
    return pack_outcomes(head, list(range(ITEMS)), results, failures, [1e-6] * ITEMS, [7] * ITEMS)


@pytest.fixture
def payload() -> bytes:
    return packed()


# Framing


def bench_a_frame_is_made(benchmark: BenchmarkFixture, payload: bytes) -> None:
    benchmark(frame_bytes, HEADER.seed, 1, 0, FrameType.OUTCOMES, payload)


def bench_a_file_of_100_frames_is_scanned(benchmark: BenchmarkFixture, payload: bytes) -> None:
    frames = (b"".join((head, payload, crc)) for head, crc in _frames(payload))
    data = HEADER.pack() + b"".join(frames)
    verdict = benchmark(lambda: FileScan(lambda at, size: data[at : at + size], len(data), HEADER).run())
    assert verdict.frames == 100


def _frames(payload: bytes) -> list[tuple[bytes, bytes]]:
    return [frame_bytes(HEADER.seed, seq, 0, FrameType.OUTCOMES, payload) for seq in range(100)]


# Codec


def bench_a_result_is_packed(benchmark: BenchmarkFixture) -> None:
    benchmark(pack_result, {"score": 0.5, "words": ["a", "b"], "count": 3})


def bench_a_block_is_packed(benchmark: BenchmarkFixture) -> None:
    benchmark(packed)


def bench_a_head_is_read(benchmark: BenchmarkFixture, payload: bytes) -> None:
    benchmark(read_head, payload)


def bench_a_block_s_ids_are_read(benchmark: BenchmarkFixture, payload: bytes) -> None:
    benchmark(lambda: OutcomeBlock(payload).ids)


# Formats, source


def bench_records_are_split(benchmark: BenchmarkFixture) -> None:
    benchmark(formats.split_records, BLOCK, b"\n")


def bench_a_block_is_cut(benchmark: BenchmarkFixture) -> None:
    benchmark(formats.cut, BLOCK, 0, ITEMS // 2, b"\n")


def bench_records_are_parsed_and_identified(benchmark: BenchmarkFixture) -> None:
    identifier = ItemReader("jsonl", IdRule(None), None, True)

    def identify() -> None:
        for offset, record in enumerate(identifier.records(CHUNK)):
            identifier.identify(CHUNK, offset, record)

    benchmark(identify)


def bench_a_file_is_cut_into_chunks(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_bytes(BLOCK * 20)

    def read() -> int:
        source = ByteSource([str(tmp_path / "items.jsonl")], FORMATS["jsonl"], lambda: None)
        while not source.ended:
            source.take(ITEMS)
        source.close()
        return source.position

    assert benchmark(read) == 20 * ITEMS


# What is handed out


def bench_a_chunk_s_size_is_found(benchmark: BenchmarkFixture) -> None:
    chunk_sizer = ChunkSizer(64)

    def step() -> None:
        size = chunk_sizer.next_size(1e6)
        chunk_sizer.seen(size, size * 1e-5)

    benchmark(step)


def bench_a_chunk_is_handed_out_and_returned(benchmark: BenchmarkFixture) -> None:
    in_flight = _in_flight()

    def step() -> None:
        flight = in_flight.hand(CHUNK, 0)
        in_flight.returned(flight.serial, ITEMS)

    benchmark(step)


def bench_a_chunk_is_taken_from_the_intake(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_bytes(BLOCK)

    def drain() -> int:
        in_flight, chunk_sizer = _in_flight(), ChunkSizer(2, fixed=50)
        source = ByteSource([str(tmp_path / "items.jsonl")], FORMATS["jsonl"], lambda: None)
        work_queue = WorkQueue(
            source,
            FORMATS["jsonl"],
            in_flight=in_flight,
            chunk_sizer=chunk_sizer,
            matcher=None,
            settled=lambda *_: None,
        )
        chunks = 0
        while work_queue.next() is not None:
            chunks += 1
        source.close()
        return chunks

    assert benchmark(drain) == ITEMS // 50


def _in_flight() -> InFlight:
    return InFlight(lambda chunk, at: formats.divide(chunk, at, formats.FORMATS["lines"]))


# Results


@pytest.mark.parametrize("format", ["jsonl", "msgpack"])
@pytest.mark.parametrize("failed", [0, 5])
def bench_a_block_becomes_output(benchmark: BenchmarkFixture, format: str, failed: int) -> None:
    part = Part(1, packed(failed), (Piece(0, 0, ITEMS, 1),))
    job = RenderJob(0, ITEMS, (part,), format, all=False, with_item=False)
    assert benchmark(render_job, job)[0]


def bench_two_interleaved_frames_become_output(benchmark: BenchmarkFixture, payload: bytes) -> None:
    parts = tuple(Part(seq, payload, (Piece(0, 0, ITEMS, seq),), range(seq, ITEMS, 2)) for seq in (0, 1))
    job = RenderJob(0, ITEMS, parts, "jsonl", all=False, with_item=False)
    assert benchmark(render_job, job)[0]
