"""Facts about the bytes of a checkpoint: layout, scanning in bounded memory, verdicts, finding frames after damage."""

from __future__ import annotations

import random
import re
from zlib import crc32

import pytest
from checkpoint_kit import HEADER, build, pread_of, scan_bytes, small_file
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.checkpoint import frames as framing
from batchmill.checkpoint.frames import (
    CAP,
    HEADER_SIZE,
    MAX_FRAME,
    OVERHEAD,
    FileHeader,
    FileScan,
    FrameRef,
    FrameType,
    Kind,
    find_damaged_frames,
    find_frames,
    frame_bytes,
    payload_of,
)
from batchmill.checkpoint.salvage import find_seed
from batchmill.errors import CheckpointDamaged, CheckpointMismatch
from batchmill.model import MAX_PAYLOAD

payload_lists = st.lists(st.binary(max_size=300), max_size=12)


def test_the_worked_example_of_the_format_page_is_a_clean_file() -> None:
    rows = re.findall(r"^    [0-9a-f]{4}  ([0-9a-f ]+)$", framing.__doc__ or "", re.MULTILINE)
    data = bytes.fromhex("".join(rows))
    header = FileHeader.unpack(data)
    frames, verdict = scan_bytes(data, header)
    assert header == FileHeader(bytes(range(16)))
    assert frames == [(0, FrameType.META, b"\x81\xa1a\x01")]
    assert verdict.kind is Kind.CLEAN


def test_the_sizes_of_the_format_page_are_those_of_the_code() -> None:
    assert len(HEADER.pack()) == HEADER_SIZE == 36
    head, crc = frame_bytes(HEADER.seed, 0, 0, FrameType.RUN, b"")
    assert (len(head), len(crc)) == (32, 4)
    assert OVERHEAD == 36
    assert MAX_FRAME == MAX_PAYLOAD + OVERHEAD


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1))
def test_a_file_header_survives_packing(id: bytes, cap: int) -> None:
    header = FileHeader(id, cap)
    assert FileHeader.unpack(header.pack() + b"more") == header


def test_no_bit_of_the_file_header_can_change_unseen() -> None:
    data = HEADER.pack()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CheckpointDamaged):
            FileHeader.unpack(bytes(flipped))


@pytest.mark.parametrize("cut", range(36))
def test_a_file_header_cut_short_is_damage(cut: int) -> None:
    with pytest.raises(CheckpointDamaged):
        FileHeader.unpack(HEADER.pack()[:cut])


@pytest.mark.parametrize(
    "header", [HEADER._replace(version=2), HEADER._replace(flags=1), HEADER._replace(flags=0x8000)]
)
def test_a_newer_version_or_an_unknown_feature_is_refused_as_newer(header: FileHeader) -> None:
    with pytest.raises(CheckpointMismatch, match="newer batchmill"):
        FileHeader.unpack(header.pack())


@settings(deadline=None, max_examples=100)
@given(payload_lists, st.integers(0, 6))
def test_every_file_written_is_read_back_as_it_was(payloads: list[bytes], sync_every: int) -> None:
    built = build(payloads, sync_every=sync_every)
    frames, verdict = scan_bytes(built.data)
    assert frames == built.frames
    assert (verdict.kind, verdict.offset, verdict.bytes, verdict.later) == (Kind.CLEAN, len(built.data), 0, 0)
    assert verdict.synced == built.watermark


@settings(deadline=None, max_examples=100)
@given(payload_lists, st.data())
def test_whatever_happens_to_the_bytes_no_wrong_frame_is_shown(payloads: list[bytes], data: st.DataObject) -> None:
    built = build(payloads, sync_every=2)
    begin = data.draw(st.integers(HEADER_SIZE, len(built.data)))
    end = data.draw(st.integers(begin, len(built.data)))
    changed = built.data[:begin] + data.draw(st.binary(max_size=80)) + built.data[end:]
    frames, verdict = scan_bytes(changed)
    assert frames == built.frames[: len(frames)]
    if changed[HEADER_SIZE : len(built.data)] == built.data[HEADER_SIZE:]:
        assert len(frames) == len(built.frames)
    elif verdict.kind is Kind.CLEAN:
        assert built.data.startswith(changed)  # cut at the end of a frame: the known limit


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=2000))
def test_no_bytes_at_all_make_a_scan_fail(rest: bytes) -> None:
    _, verdict = scan_bytes(HEADER.pack() + rest)
    assert verdict.offset + verdict.bytes == HEADER_SIZE + len(rest)


def test_a_file_without_frames_is_corrupt_because_meta_was_synced_before_it_had_a_name() -> None:
    assert scan_bytes(HEADER.pack())[1].kind is Kind.CORRUPT


def test_damage_in_the_first_frame_is_corrupt_for_the_same_reason() -> None:
    built = small_file(1)
    for cut in range(HEADER_SIZE + 1, len(built.data)):
        assert scan_bytes(built.data[:cut])[1].kind is Kind.CORRUPT, cut
    assert scan_bytes(HEADER.pack() + bytes(600))[1].kind is Kind.CORRUPT


def test_a_frame_that_seems_cut_short_is_not_torn_when_another_follows_it() -> None:
    built = build([bytes(500), b"more"])
    at = built.refs[1].offset
    frames, verdict = scan_bytes(built.data[:at] + built.data[at + 300 :])
    assert (len(frames), verdict.kind, verdict.later) == (1, Kind.CRASH_DAMAGE, 1)


def test_a_frame_cut_short_is_torn() -> None:
    built = small_file()
    for cut in range(built.refs[-1].start + 1, len(built.data)):
        assert scan_bytes(built.data[:cut])[1].kind is Kind.TORN, cut


def test_a_tail_of_zeros_is_torn() -> None:
    built = small_file()
    assert scan_bytes(built.data + bytes(5000))[1].kind is Kind.TORN
    assert scan_bytes(built.data + bytes(5))[1].kind is Kind.TORN


def test_a_full_length_tail_with_a_wrong_payload_is_crash_damage_and_not_torn() -> None:
    built = small_file()
    frames, verdict = scan_bytes(built.data[:-5] + b"?" + built.data[-4:])
    assert (verdict.kind, verdict.offset, verdict.bytes) == (Kind.CRASH_DAMAGE, built.refs[-1].start, 44)
    assert len(frames) == 39


def test_a_later_frame_that_says_the_damaged_bytes_were_synced_makes_it_corrupt() -> None:
    promised, open_end = small_file(sync_every=5), small_file(sync_every=0)
    at = promised.refs[20].offset
    for built, kind in ((promised, Kind.CORRUPT), (open_end, Kind.CRASH_DAMAGE)):
        verdict = scan_bytes(built.data[:at] + b"????" + built.data[at + 4 :])[1]
        assert (verdict.kind, verdict.frames, verdict.later) == (kind, 20, 19)


def test_a_missing_repeated_or_swapped_frame_is_corrupt_even_where_nothing_was_promised() -> None:
    built = small_file(sync_every=0)
    a, b, c = (built.data[built.refs[i].start : built.refs[i].end] for i in (10, 11, 12))
    before, after = built.data[: built.refs[10].start], built.data[built.refs[12].end :]
    for middle in (a + c, a + b + b + c, b + a + c, a + a, c):
        assert scan_bytes(before + middle + after)[1].kind is Kind.CORRUPT


def test_more_damage_than_a_crash_can_leave_is_corrupt() -> None:
    built = small_file(3)
    size = len(built.data) + CAP + MAX_FRAME + 1
    scan = FileScan(lambda at, n: built.data[at : at + n].ljust(min(n, size - at), b"\0"), size, HEADER)
    assert scan.run().kind is Kind.CORRUPT


def test_a_frame_type_of_another_version_is_not_believed() -> None:
    data = HEADER.pack() + b"".join(frame_bytes(HEADER.seed, 0, 0, 99, b""))
    assert scan_bytes(data)[1].frames == 0


def test_a_length_above_the_limit_is_not_believed_and_cannot_be_written() -> None:
    head = framing._HEAD.pack(framing.FRAME_MAGIC, MAX_PAYLOAD + 1, 0, 0, 1)
    data = HEADER.pack() + head + framing._CRC.pack(crc32(head, HEADER.seed))
    assert scan_bytes(data)[1].reason == "not a frame of this file"
    with pytest.raises(ValueError, match="larger than"):
        frame_bytes(HEADER.seed, 0, 0, 1, bytes(MAX_PAYLOAD + 1))


def test_a_scan_reads_at_most_a_mebibyte_at_once_however_large_the_frames() -> None:
    built = build([bytes(3_000_000), b"x" * 100, bytes(2_000_000)] * 3)
    asked: list[int] = []

    def pread(offset: int, size: int) -> bytes:
        asked.append(size)
        return built.data[offset : offset + size]

    shown = [len(first) for _, first in FileScan(pread, len(built.data), HEADER)]
    assert max(asked) <= 1 << 20
    assert sum(asked) < 1.5 * len(built.data)
    assert max(shown) == framing.PEEK


def test_a_scan_of_heads_leaves_payloads_unread() -> None:
    built = build([bytes(1_000_000)] * 20)
    asked: list[int] = []

    def pread(offset: int, size: int) -> bytes:
        asked.append(size)
        return built.data[offset : offset + size]

    scan = FileScan(pread, len(built.data), HEADER, verify=False, peek=10)
    assert [len(first) for _, first in scan][1:] == [10] * 20
    assert sum(asked) < 200_000
    assert scan.verdict is not None
    assert scan.verdict.kind is Kind.CLEAN


def test_frames_are_found_again_after_damage_at_any_place() -> None:
    built = small_file()
    rng = random.Random(2)
    for _ in range(100):
        at = rng.randrange(HEADER_SIZE, len(built.data))
        changed = built.data[:at] + rng.randbytes(rng.randrange(9)) + built.data[at + rng.randrange(9) :]
        found = {ref.seq for ref, _ in find_frames(pread_of(changed), len(changed), HEADER.seed, HEADER_SIZE)}
        assert len(found) >= 38
        assert found <= set(range(40))


def test_a_frame_with_a_good_head_and_a_bad_payload_is_found_as_damaged() -> None:
    built = small_file()
    at = built.refs[7].offset
    changed = built.data[:at] + b"????" + built.data[at + 4 :]
    assert list(find_damaged_frames(pread_of(changed), len(changed), HEADER.seed, 0)) == [built.refs[7]]


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=16, max_size=16))
def test_the_seed_of_a_lost_file_header_is_recovered_from_the_frames(id: bytes) -> None:
    header = FileHeader(id)
    data = build([b"one", b"two"], header=header).data[HEADER_SIZE:]
    assert find_seed(pread_of(data), len(data)) == header.seed


def test_one_frame_alone_does_not_settle_the_seed() -> None:
    data = build([]).data[HEADER_SIZE:]
    assert find_seed(pread_of(data), len(data)) is None


def test_a_payload_is_given_only_for_the_frame_that_was_asked_for() -> None:
    built = small_file()
    ref = built.refs[5]
    frame = built.data[ref.start : ref.end]
    assert payload_of(HEADER.seed, ref, frame) == built.frames[5][2]
    assert payload_of(HEADER.seed, ref._replace(seq=6), frame) is None
    assert payload_of(HEADER.seed + 1, ref, frame) is None
    assert payload_of(HEADER.seed, ref, frame[:-1]) is None
    assert payload_of(HEADER.seed, FrameRef(5, ref.offset, ref.length, FrameType.END), frame) is None
