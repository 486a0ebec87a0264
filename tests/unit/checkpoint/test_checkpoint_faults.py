"""Rows of the fault matrix, at the level of the checkpoint: what damage, crashes, full disks and rivals may not do."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from checkpoint_kit import (
    FULL,
    HEADER,
    Built,
    FailingDisk,
    ForgetfulDisk,
    PhysicalEndDisk,
    QuickDisk,
    RecordingDisk,
    UnlockedDisk,
    build,
    in_child,
    outcomes_payload,
    power_loss,
    pread_of,
    read_frames,
    scan_bytes,
    small_file,
)
from cli_kit import PEAK_MIB
from process_kit import start

from batchmill.checkpoint import frames as framing
from batchmill.checkpoint.frames import FILE_MAGIC, HEADER_SIZE, FileHeader, FrameType, Kind, Verdict, find_frames
from batchmill.checkpoint.reader import Reader, exists_with_outcomes
from batchmill.checkpoint.salvage import find_seed, salvage, verify
from batchmill.checkpoint.writer import Checkpoint
from batchmill.codec.outcomes import pack_map
from batchmill.errors import (
    BatchmillError,
    CheckpointBusy,
    CheckpointDamaged,
    CheckpointMismatch,
    CheckpointRefused,
    CheckpointUnwritable,
)
from batchmill.files.storage import Disk

META = {"function": "tasks:score"}
OUTCOMES = FrameType.OUTCOMES


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "x.ckpt")


def judge(data: bytes, built: Built) -> Verdict | None:
    """The verdict on a damaged copy (None: the file header is refused), after checking what holds for every damage.

    No frame is shown that was not written, and what is called repairable costs nothing that was promised.
    """
    try:
        header = FileHeader.unpack(data)
    except CheckpointDamaged:
        return None
    frames, verdict = scan_bytes(data, header)
    assert frames == built.frames[: len(frames)]
    if verdict.kind is not Kind.CORRUPT:
        assert verdict.offset >= built.watermark
    return verdict


# Row 4: cut at every byte, resume, append, cut again


def cut_resume_append_cut(path: str, disk: Disk, cuts: range | None = None) -> None:
    built = build([b"%d" % i * 5 for i in range(6)])
    first = built.refs[0].end
    for cut in cuts or range(first, len(built.data)):
        Path(path).write_bytes(built.data[:cut])
        whole = [payload for ref, (_, _, payload) in zip(built.refs, built.frames) if ref.end <= cut]
        with Checkpoint.open(path, interval=None, disk=disk) as checkpoint:
            at_a_border = cut in {ref.end for ref in built.refs}
            assert (checkpoint.recovery is None) == at_a_border
            checkpoint.append(OUTCOMES, b"x")
            checkpoint.append(OUTCOMES, b"a longer one, to be cut")
        if not at_a_border:
            assert checkpoint.recovery is not None
            assert f"{cut - max(ref.end for ref in built.refs if ref.end <= cut)} byte" in checkpoint.recovery
        os.truncate(path, os.path.getsize(path) - 1 - cut % 20)
        with Checkpoint.open(path, interval=None, disk=disk) as checkpoint:
            assert "an unfinished write" in (checkpoint.recovery or "")
        assert [payload for _, payload in read_frames(path)] == [*whole, b"x"]


def test_row_4_a_file_cut_at_any_byte_is_torn_and_goes_on(path: str) -> None:
    cut_resume_append_cut(path, QuickDisk())


def test_row_4_is_red_when_frames_are_written_at_the_physical_end(path: str) -> None:
    with pytest.raises((AssertionError, BatchmillError)):
        cut_resume_append_cut(path, PhysicalEndDisk())


@pytest.mark.parametrize("cut", range(1, HEADER_SIZE + 32, 7))
def test_row_4_a_file_cut_within_its_first_frame_is_refused_untouched(path: str, cut: int) -> None:
    data = small_file().data[:cut]
    Path(path).write_bytes(data)
    with pytest.raises(CheckpointDamaged):
        Checkpoint.open(path, disk=QuickDisk())
    assert Path(path).read_bytes() == data


# Row 5: flip every bit


def flip_every_bit(built: Built, step: int = 1) -> None:
    data = bytearray(built.data)
    for bit in range(0, 8 * len(data), step):
        data[bit // 8] ^= 1 << bit % 8
        verdict = judge(bytes(data), built)
        data[bit // 8] ^= 1 << bit % 8
        assert verdict is None or verdict.kind not in (Kind.CLEAN, Kind.TORN), bit


def test_row_5_no_flipped_bit_passes_for_clean_or_torn() -> None:
    flip_every_bit(small_file())


@pytest.fixture
def no_payload_crc(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = framing._Window.payload

    def unchecked(*args: object) -> tuple[bytes, bool]:
        return checked(*args)[0], True  # type: ignore[arg-type]

    monkeypatch.setattr(framing._Window, "payload", unchecked)


@pytest.mark.usefixtures("no_payload_crc")
def test_row_5_is_red_without_the_payload_crc() -> None:
    with pytest.raises(AssertionError):
        flip_every_bit(small_file(), step=5)


def test_row_5_a_flipped_bit_below_the_watermark_leaves_the_file_untouched(path: str) -> None:
    built = small_file()
    for at in range(HEADER_SIZE, built.watermark, 97):
        data = built.data[:at] + bytes([built.data[at] ^ 4]) + built.data[at + 1 :]
        Path(path).write_bytes(data)
        with pytest.raises(CheckpointDamaged, match=r"damaged.*verify --salvage"):
            Checkpoint.open(path, disk=QuickDisk())
        assert Path(path).read_bytes() == data
        assert verify(path, contents=False).ok is False if at > built.refs[0].end else True


# Row 6: delete or insert a byte anywhere; line ends converted


def salvaged_seqs(data: bytes) -> set[int]:
    try:
        seed: int | None = FileHeader.unpack(data).seed
    except CheckpointDamaged:
        seed = find_seed(pread_of(data), len(data))
    assert seed is not None
    return {ref.seq for ref, _ in find_frames(pread_of(data), len(data), seed, 0)}


def test_row_6_a_byte_deleted_or_inserted_anywhere_costs_two_frames_at_most() -> None:
    built = small_file(size=5)
    for at in range(len(built.data)):
        for changed in (
            built.data[:at] + built.data[at + 1 :],
            built.data[:at] + bytes([at * 7 % 256]) + built.data[at:],
        ):
            if changed == built.data:
                continue
            verdict = judge(changed, built)
            assert verdict is None or verdict.kind is not Kind.CLEAN, at
            if verdict is None or verdict.kind is Kind.CORRUPT:
                assert len(salvaged_seqs(changed)) >= 38, at


@pytest.mark.parametrize("at", [0, 7, 20, 35, 36, 50, 70, 80, 300, 900, 1500])
def test_row_6_salvage_writes_a_clean_file_after_a_lost_byte(path: str, at: int) -> None:
    built = small_file()
    Path(path).write_bytes(built.data[:at] + built.data[at + 1 :])
    saved = salvage(path, disk=QuickDisk(), contents=False)
    frames = [(ref.seq, int(ref.type), payload) for ref, payload in read_frames(saved.path)]
    right = [frame for frame in frames if frame in built.frames]
    assert saved.kept >= 38
    assert len(right) == saved.kept
    assert verify(saved.path).verdict.kind is Kind.CLEAN
    Checkpoint.open(saved.path, disk=QuickDisk()).close()


def test_row_6_a_file_sent_through_a_line_end_conversion_is_refused(path: str) -> None:
    data = small_file().data + FILE_MAGIC
    for changed in (data.replace(b"\r\n", b"\n"), data.replace(b"\n", b"\r\n"), data.decode("latin-1").encode()):
        Path(path).write_bytes(changed)
        with pytest.raises(CheckpointDamaged):
            Checkpoint.open(path, disk=QuickDisk())


# Row 7: a sector or a page zeroed


def zero_windows(window: int) -> None:
    built = small_file(60, size=150)
    kinds = set()
    for at in range(HEADER_SIZE, len(built.data), 61):
        if at < built.watermark and at + window > built.refs[-1].start:
            continue  # known limit: no frame is left that could say what was promised
        data = built.data[:at] + bytes(min(window, len(built.data) - at)) + built.data[at + window :]
        verdict = judge(data, built)
        assert verdict is not None
        assert (verdict.kind is Kind.CORRUPT) == (verdict.offset < built.watermark), at
        kinds.add(verdict.kind)
    assert {Kind.CORRUPT, Kind.CRASH_DAMAGE} <= kinds


@pytest.mark.parametrize("window", [512, 4096])
def test_row_7_zeroed_blocks_are_refused_below_the_watermark_and_repaired_above(window: int) -> None:
    zero_windows(window)


@pytest.mark.usefixtures("no_payload_crc")
def test_row_7_is_red_without_the_payload_crc() -> None:
    with pytest.raises(AssertionError):
        zero_windows(512)


def test_row_7_what_a_repair_cuts_is_kept_in_a_file_of_its_own(path: str) -> None:
    built = small_file()
    at = built.refs[-2].offset
    Path(path).write_bytes(built.data[:at] + bytes(8) + built.data[at + 8 :])
    for number in ("", ".2"):
        with Checkpoint.open(path, interval=None, disk=QuickDisk()) as checkpoint:
            assert checkpoint.recovery is not None
            assert f"x.damaged{number}, and its items run again" in checkpoint.recovery
            assert "88 bytes" in checkpoint.recovery
            assert checkpoint.frames == 38
            checkpoint.append(OUTCOMES, b"12345678")
            ref = checkpoint.append(OUTCOMES, b"12345678")
        kept = Path(path.replace(".ckpt", f".damaged{number}"))
        assert len(kept.read_bytes()) == 88
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert [payload for _, payload in read_frames(path)][38:] == [b"12345678"] * 2
        data = bytearray(Path(path).read_bytes())
        data[ref.start - 44 + 33] ^= 1  # the frame before it
        Path(path).write_bytes(data)


# Row 8: the power goes; any subset of unsynced sectors is lost


def power_losses(path: str, make: Callable[[], RecordingDisk], rounds: int) -> None:
    """Write, lose power, open, write on, lose power again: what was durable stays, and nothing wrong is shown."""
    for number in range(rounds):
        rng = random.Random(number)
        disk = make()
        checkpoint = Checkpoint.create(path, META, interval=None, disk=disk)
        image = Path(path).read_bytes()
        written = [pack_map(META)]
        durable = 1
        disk.log.clear()
        for _ in range(3):
            for _ in range(rng.randrange(1, 12)):
                if rng.random() < 0.3:
                    checkpoint.sync()
                    durable = checkpoint.frames
                written.append(rng.choice((rng.randbytes, bytes))(rng.randrange(1, 1500)))
                checkpoint.append(OUTCOMES, written[-1])
            log = [done for done in disk.log if done.fd == checkpoint.fileno()]
            os.close(checkpoint.fileno())
            checkpoint._fd = -1
            image = power_loss(log, image, rng)
            header = FileHeader.unpack(image)
            frames, verdict = scan_bytes(image, header)
            assert verdict.kind is not Kind.CORRUPT, (number, verdict)
            assert len(frames) >= durable, (number, verdict)
            assert [payload for _, _, payload in frames] == written[: len(frames)], number
            Path(path).write_bytes(image)
            disk.log.clear()  # what the recovery does is lost or kept with what follows it
            checkpoint = Checkpoint.open(path, interval=None, disk=disk)
            written = written[: len(frames)]
            durable = len(frames)
        checkpoint.close()
        assert verify(path).verdict.kind is Kind.CLEAN
        os.unlink(path)
        Path(path.replace(".ckpt", ".damaged")).unlink(missing_ok=True)
        for extra in Path(path).parent.glob("x.damaged.*"):
            extra.unlink()


def test_row_8_nothing_durable_is_lost_with_the_power(path: str) -> None:
    power_losses(path, RecordingDisk, 400)


def test_row_8_is_red_without_fsync(path: str) -> None:
    with pytest.raises((AssertionError, BatchmillError)):
        power_losses(path, ForgetfulDisk, 400)


def test_row_8_an_opening_judges_what_is_on_the_disk_and_not_what_is_in_the_cache(path: str) -> None:
    calls: list[str] = []

    class Watching(QuickDisk):
        def sync(self, fd: int) -> None:
            calls.append("sync")

        def forget(self, fd: int, offset: int) -> None:
            calls.append(f"forget from {offset}")

    Path(path).write_bytes(small_file().data)
    with Checkpoint.open(path, interval=None, disk=Watching(), on_frame=lambda ref, _: calls.append("frame")):
        assert calls[:3] == ["sync", "forget from 0", "frame"]


def test_row_8_a_cut_is_on_the_disk_before_anything_is_written_after_it(path: str) -> None:
    Path(path).write_bytes(small_file().data[:-3])
    disk = RecordingDisk()
    with Checkpoint.open(path, interval=None, disk=disk) as checkpoint:
        checkpoint.append(OUTCOMES, b"work")
    assert [done.verb for done in disk.log] == ["sync", "truncate", "sync", "write", "sync"]


# Row 9: foreign, repeated, swapped frames


def test_row_9_frames_of_another_file_or_another_place_are_never_accepted() -> None:
    built = small_file()
    foreign = small_file(seed=2)._replace(data=build([b"foreign"] * 39, header=FileHeader(bytes(16))).data)
    pieces = [built.data[ref.start : ref.end] for ref in built.refs]
    stranger = foreign.data[HEADER_SIZE + 44 : HEADER_SIZE + 88]
    rng = random.Random(3)
    for _ in range(1500):
        order = list(pieces)
        at, other = rng.randrange(40), rng.randrange(40)
        match rng.randrange(5):
            case 0:
                order[at], order[other] = order[other], order[at]
            case 1:
                order.insert(at, order[other])
            case 2:
                order.pop(rng.randrange(39))
            case 3:
                order[at] = stranger
            case 4:
                order.insert(at, stranger)
        changed = built.data[:HEADER_SIZE] + b"".join(order)
        if changed == built.data:
            continue
        verdict = judge(changed, built)
        assert verdict is not None
        assert verdict.kind not in (Kind.CLEAN, Kind.TORN)


# Row 10: what may stand at the checkpoint's name


@pytest.mark.parametrize("content", [b"\x89", FILE_MAGIC, bytes(36), bytes(4096), HEADER.pack()[:35], HEADER.pack()])
def test_row_10_a_fragment_or_zeros_are_refused_untouched(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    for attempt in (Checkpoint.open, Reader, exists_with_outcomes, salvage, lambda p: Checkpoint.create(p, META)):
        with pytest.raises(CheckpointDamaged):
            attempt(path)
    assert Path(path).read_bytes() == content
    assert os.listdir(os.path.dirname(path)) == ["x.ckpt"]


def test_row_10_an_empty_file_is_replaced_by_a_new_checkpoint(path: str) -> None:
    Path(path).touch()
    Checkpoint.create(path, META, disk=QuickDisk()).close()
    assert verify(path, contents=False).ok


@pytest.mark.parametrize("kind", ["fifo", "directory", "symlink", "device"])
def test_row_10_what_is_no_regular_file_is_refused_without_a_hang(tmp_path: Path, path: str, kind: str) -> None:
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "directory":
            os.mkdir(path)
        case "symlink":
            Checkpoint.create(str(tmp_path / "real.ckpt"), META, disk=QuickDisk()).close()
            os.symlink(tmp_path / "real.ckpt", path)
        case "device":
            path = "/dev/zero"
    for attempt in (Checkpoint.open, Reader, exists_with_outcomes, salvage, lambda p: Checkpoint.create(p, META)):
        with pytest.raises(CheckpointRefused):
            attempt(path)


# Row 11: newer version, unknown flag


@pytest.mark.parametrize("header", [HEADER._replace(version=2), HEADER._replace(flags=4)])
def test_row_11_a_newer_format_is_refused_untouched(path: str, header: FileHeader) -> None:
    data = header.pack() + small_file().data[HEADER_SIZE:]
    Path(path).write_bytes(data)
    before = os.stat(path)
    for attempt in (Checkpoint.open, Reader, exists_with_outcomes, salvage, lambda p: Checkpoint.create(p, META)):
        with pytest.raises(CheckpointMismatch, match="newer"):
            attempt(path)
    after = os.stat(path)
    assert Path(path).read_bytes() == data
    assert (before.st_mtime_ns, before.st_ino, before.st_size) == (after.st_mtime_ns, after.st_ino, after.st_size)
    assert os.listdir(os.path.dirname(path)) == ["x.ckpt"]


# Rows 12 to 14: the disk is full, writing fails, syncing fails


FILL = """
import sys
from batchmill.checkpoint.writer import Checkpoint
from batchmill.errors import CheckpointUnwritable
from batchmill.checkpoint.frames import FrameType
if sys.argv[2] != "-":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
checkpoint = Checkpoint.create(sys.argv[1], {"a": 1})
done = 0
try:
    while True:
        checkpoint.append(FrameType.OUTCOMES, bytes(1000))
        done += 1
except CheckpointUnwritable as error:
    checkpoint.close()
    print(done, error)
    sys.exit(error.exit_code)
"""


def test_row_12_at_a_file_size_limit_what_is_committed_stays_and_the_run_goes_on_later(path: str) -> None:
    ended = in_child(FILL, path, "65536")
    done, message = ended.stdout.split(" ", 1)
    assert (ended.returncode, done) == (74, "63")
    assert "File too large; make room, then continue with resume=True" in message
    with Checkpoint.open(path, disk=QuickDisk()) as checkpoint:
        assert (checkpoint.frames, checkpoint.recovery) == (64, None)
        checkpoint.append(OUTCOMES, bytes(1000))
    assert verify(path, contents=False).ok


TINY_FILE_SYSTEM = """
set -e
mount -t tmpfs -o size=64k tmpfs "$2"
code=0
"$1" -c "$3" "$2/x.ckpt" - || code=$?
"$1" -c "
from batchmill.checkpoint.salvage import verify
print(verify('$2/x.ckpt').verdict)"
exit $code
"""


def test_row_12_on_a_full_disk_what_is_committed_stays(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, timeout=60).returncode != 0:
        pytest.skip("mounting a small file system needs privileges")
    command = ["unshare", "-m", "sh", "-c", TINY_FILE_SYSTEM, "sh", sys.executable, str(tmp_path), FILL]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 74, ended.stderr
    filled, verdict = ended.stdout.splitlines()
    assert "No space left on device; make room" in filled
    assert verdict == f"clean: {int(filled.split()[0]) + 1} frames"


@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize("taken", [0, 1, 50, 131])
def test_row_12_a_frame_that_did_not_fit_is_taken_back_and_no_other_is_accepted(
    path: str, error: int, taken: int
) -> None:
    disk = FailingDisk("write", error, lambda call: call == 3, taken)
    checkpoint = Checkpoint.create(path, META, interval=None, disk=disk)
    disk.armed = True
    checkpoint.append(OUTCOMES, b"one" * 30)
    checkpoint.append(OUTCOMES, b"two" * 30)
    for _ in range(2):
        with pytest.raises(CheckpointUnwritable, match="make room"):
            checkpoint.append(OUTCOMES, b"three" * 20)
    assert os.path.getsize(path) == checkpoint.end
    checkpoint.close()
    assert disk.calls[-3:] == ["truncate", "sync", "close"]
    assert [payload for _, payload in read_frames(path)][1:] == [b"one" * 30, b"two" * 30]
    assert verify(path, contents=False).ok


def test_row_12_a_directory_without_room_refuses_the_new_checkpoint_and_leaves_nothing(path: str) -> None:
    disk = FailingDisk("write", errno.ENOSPC, lambda call: True)
    disk.armed = True
    with pytest.raises(CheckpointRefused, match="No space left"):
        Checkpoint.create(path, META, disk=disk)
    assert os.listdir(os.path.dirname(path)) == []


@pytest.mark.parametrize("taken", [0, 20])
def test_row_13_after_a_write_error_nothing_more_is_tried_on_the_descriptor(path: str, taken: int) -> None:
    disk = FailingDisk("write", errno.EIO, lambda call: call == 2, taken)
    checkpoint = Checkpoint.create(path, META, interval=None, disk=disk)
    disk.armed = True
    checkpoint.append(OUTCOMES, b"one")
    with pytest.raises(CheckpointUnwritable, match="check the disk"):
        checkpoint.append(OUTCOMES, b"two")
    with pytest.raises(CheckpointUnwritable):
        checkpoint.sync()
    checkpoint.close()
    assert disk.calls[disk.failed_at :] == ["close"]
    assert [payload for _, payload in read_frames(path)][1:] == [b"one"]


@pytest.mark.parametrize("most", [1, 7, 33])
def test_row_13_a_write_that_takes_only_a_part_is_carried_on(path: str, most: int) -> None:
    class Slow(QuickDisk):
        def write(self, fd: int, parts: Sequence[bytes | memoryview], offset: int) -> int:
            return super().write(fd, [b"".join(parts)[:most]], offset)

    with Checkpoint.create(path, META, interval=None, disk=Slow()) as checkpoint:
        for payload in (b"one", b"", b"three" * 20):
            checkpoint.append(OUTCOMES, payload)
    assert [payload for _, payload in read_frames(path)][1:] == [b"one", b"", b"three" * 20]


def test_row_14_a_failed_sync_is_never_tried_again(path: str) -> None:
    disk = FailingDisk("sync", errno.EIO, lambda call: call == 1)
    checkpoint = Checkpoint.create(path, META, interval=None, disk=disk)
    disk.armed = True
    checkpoint.append(OUTCOMES, b"one")
    for attempt in (checkpoint.sync, checkpoint.sync, lambda: checkpoint.append(OUTCOMES, b"two")):
        with pytest.raises(CheckpointUnwritable, match="cannot write"):
            attempt()
    checkpoint.close()
    assert disk.calls == ["write", "sync", "close"]


def test_row_14_a_failed_sync_of_the_thread_reaches_the_caller_both_ways(path: str) -> None:
    disk = FailingDisk("sync", errno.EIO, lambda call: call == 1)
    told: list[CheckpointUnwritable] = []
    heard = threading.Event()

    def on_error(error: CheckpointUnwritable) -> None:
        told.append(error)
        heard.set()

    checkpoint = Checkpoint.create(path, META, interval=0.01, on_error=on_error, disk=disk)
    disk.armed = True
    checkpoint.append(OUTCOMES, b"one")
    assert heard.wait(20)
    with pytest.raises(CheckpointUnwritable) as caught:
        checkpoint.append(OUTCOMES, b"two")
    assert told == [caught.value]
    checkpoint.close()
    assert disk.calls.count("sync") == 1


@pytest.mark.parametrize("verb", ["sync", "close"])
def test_row_14_an_error_met_only_at_the_close_is_raised_there(path: str, verb: str) -> None:
    disk = FailingDisk(verb, errno.EIO, lambda call: call == 1)
    checkpoint = Checkpoint.create(path, META, interval=None, disk=disk)
    disk.armed = True
    checkpoint.append(OUTCOMES, b"one")
    with pytest.raises(CheckpointUnwritable):
        checkpoint.close()
    assert disk.calls == ["write", "sync", "close"]
    checkpoint.close()


def test_row_14_an_error_while_the_file_is_opened_is_74_and_changes_nothing(path: str) -> None:
    Path(path).write_bytes(small_file().data[:-3])
    disk = FailingDisk("sync", errno.EIO, lambda call: call == 1)
    disk.armed = True
    with pytest.raises(CheckpointUnwritable, match="cannot sync"):
        Checkpoint.open(path, disk=disk)
    assert Path(path).read_bytes() == small_file().data[:-3]


# Row 15: someone else deletes, replaces, truncates or appends to the file during the run


def meddle(how: str, path: str) -> None:
    match how:
        case "delete":
            os.unlink(path)
        case "move":
            os.rename(path, path + ".old")
        case "replace":
            Path(path + ".new").write_bytes(Path(path).read_bytes())
            os.rename(path + ".new", path)
        case "truncate":
            os.truncate(path, 200)
        case "empty":
            os.truncate(path, 0)
        case "append":
            with open(path, "ab") as file:
                file.write(b"oops\n")


MEDDLING = ["delete", "move", "replace", "truncate", "empty", "append"]


@pytest.mark.parametrize("how", MEDDLING)
def test_row_15_meddling_is_noticed_within_a_tick_even_when_nothing_is_written(path: str, how: str) -> None:
    heard = threading.Event()
    checkpoint = Checkpoint.create(path, META, interval=0.05, on_error=lambda _: heard.set(), disk=QuickDisk())
    checkpoint.append(OUTCOMES, b"work" * 50)
    checkpoint.append(OUTCOMES, b"more")
    meddle(how, path)
    assert heard.wait(20)
    with pytest.raises(CheckpointUnwritable, match=f"during the run; {'' if how == 'empty' else 'what is left'}"):
        checkpoint.append(OUTCOMES, b"late")
    checkpoint.close()


@pytest.mark.parametrize("how", ["delete", "move", "replace", "append"])
def test_row_15_everything_in_hand_is_saved_beside_it(path: str, how: str) -> None:
    checkpoint = Checkpoint.create(path, META, interval=None, disk=QuickDisk())
    checkpoint.append(OUTCOMES, b"work" * 50)
    meddle(how, path)
    with pytest.raises(CheckpointUnwritable, match=r"resume=True checkpoint=.*x\.rescued"):
        checkpoint.append(OUTCOMES, b"in hand")
    checkpoint.close()
    rescued = path.replace(".ckpt", ".rescued")
    with Checkpoint.open(rescued, disk=QuickDisk()) as checkpoint:
        assert (checkpoint.recovery, checkpoint.meta) == (None, META)
    assert [payload for _, payload in read_frames(rescued)][1:] == [b"work" * 50, b"in hand"]


def test_row_15_a_truncated_file_is_not_filled_up_with_a_hole(path: str) -> None:
    checkpoint = Checkpoint.create(path, META, interval=None, disk=QuickDisk())
    checkpoint.append(OUTCOMES, b"work" * 50)
    os.truncate(path, 0)
    with pytest.raises(CheckpointUnwritable, match="changed by another program"):
        checkpoint.append(OUTCOMES, b"in hand")
    assert os.path.getsize(path) == 0
    checkpoint.close()


def test_row_15_a_checkpoint_deleted_at_the_very_end_is_noticed_by_close(path: str) -> None:
    checkpoint = Checkpoint.create(path, META, interval=None, disk=QuickDisk())
    checkpoint.append(OUTCOMES, b"work")
    os.unlink(path)
    with pytest.raises(CheckpointUnwritable, match="was deleted"):
        checkpoint.close()
    assert [payload for _, payload in read_frames(path.replace(".ckpt", ".rescued"))][1:] == [b"work"]


# Row 16: no permission, no directory, no locks, no links


def test_row_16_a_missing_directory_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match=r"No such file or directory; .*with checkpoint"):
        Checkpoint.create(str(tmp_path / "none" / "x.ckpt"), META)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointRefused, match="Not a directory"):
        Checkpoint.create(str(tmp_path / "file" / "x.ckpt"), META)


FORBIDDEN = """
import os, sys
from batchmill.checkpoint.reader import Reader
from batchmill.checkpoint.writer import Checkpoint
from batchmill.errors import BatchmillError
import batchmill.codec.outcomes, msgpack
if os.getuid() == 0:
    os.setuid(65534)
create = lambda path: Checkpoint.create(path, {})
for attempt, name in ((create, "new"), (Checkpoint.open, "x"), (Reader, "x")):
    try:
        attempt(f"{sys.argv[1]}/{name}.ckpt")
    except BatchmillError as error:
        print(error.exit_code, error)
"""


def test_row_16_no_permission_is_73() -> None:
    # Not under tmp_path: its parents are closed to other users, and root must become one for a permission to count.
    directory = Path("/tmp") / f"batchmill-test-{os.getpid()}"
    directory.mkdir(0o755)
    try:
        Checkpoint.create(str(directory / "x.ckpt"), META, disk=QuickDisk()).close()
        os.chmod(directory / "x.ckpt", 0)
        os.chmod(directory, 0o555)
        ended = in_child(FORBIDDEN, str(directory))
    finally:
        os.chmod(directory, 0o755)
        shutil.rmtree(directory)
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["73", "73", "73"], ended.stderr
    assert all("Permission denied" in line for line in lines)


@pytest.mark.parametrize(("verb", "word"), [("lock", "locks"), ("link", "hard links")])
def test_row_16_a_file_system_without_locks_or_links_is_named(path: str, verb: str, word: str) -> None:
    class Poor(QuickDisk):
        def lock(self, fd: int) -> None:
            if verb == "lock":
                raise OSError(errno.ENOLCK, "No locks available")
            super().lock(fd)

        def link(self, temporary: str, path: str) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

    with pytest.raises(
        CheckpointRefused, match=rf"the \S+ file system of .* has no {word}.*local disk with checkpoint"
    ):
        Checkpoint.create(path, META, disk=Poor())
    assert os.listdir(os.path.dirname(path)) == []


# Rows 17 and 18: several runs at once, and one right after a kill


RACE = """
import os, sys
from batchmill.checkpoint.writer import Checkpoint
from batchmill.codec.outcomes import pack_map
from batchmill.errors import BatchmillError
from batchmill.checkpoint.frames import FrameType
path, count, verb = sys.argv[1], int(sys.argv[2]), sys.argv[3]
go, end = os.pipe(), os.pipe()
children = []
for _ in range(count):
    child = os.fork()
    if not child:
        os.close(go[1])
        os.close(end[1])
        os.read(go[0], 1)
        try:
            checkpoint = Checkpoint.create(path, {}) if verb == "create" else Checkpoint.open(path)
            checkpoint.append(FrameType.RUN, pack_map({"pid": os.getpid(), "host": "h", "started": 0.0}))
            checkpoint.append(FrameType.OUTCOMES, b"work")
            os.read(end[0], 1)  # until the others have ended
            checkpoint.close()
            os._exit(0)
        except BatchmillError as error:
            os._exit(error.exit_code)
    children.append(child)
os.close(go[1])
codes = []
for _ in children:
    if len(codes) == count - 1:
        os.close(end[1])
    _, status = os.wait()
    codes.append(os.waitstatus_to_exitcode(status))
print(*sorted(codes))
"""


@pytest.mark.parametrize("count", [2, 20])
@pytest.mark.parametrize("verb", ["create", "open"])
def test_row_17_of_several_runs_at_once_one_gets_the_checkpoint(path: str, count: int, verb: str) -> None:
    if verb == "open":
        Checkpoint.create(path, META, disk=QuickDisk()).close()
    ended = in_child(RACE, path, str(count), verb)
    assert ended.stdout.split() == ["0"] + ["75"] * (count - 1), ended.stderr
    assert verify(path).runs == 1
    assert os.listdir(os.path.dirname(path)) == ["x.ckpt"]


def test_row_17_a_file_moved_aside_between_opening_and_locking_is_not_written_to(path: str) -> None:
    class Slow(QuickDisk):
        def lock(self, fd: int) -> None:
            if not os.path.exists(path + ".old"):
                os.rename(path, path + ".old")
                shutil.copy(path + ".old", path)
            super().lock(fd)

    Checkpoint.create(path, META, disk=QuickDisk()).close()
    with Checkpoint.open(path, interval=None, disk=Slow()) as checkpoint:
        checkpoint.append(OUTCOMES, b"work")
    assert [verify(name).frames for name in (path, path + ".old")] == [2, 1]


def two_openings(path: str, disk: Disk) -> None:
    with Checkpoint.create(path, META, interval=None, disk=disk), pytest.raises(CheckpointBusy):
        Checkpoint.open(path, interval=None, disk=disk).close()


def test_row_17_is_red_without_the_lock(path: str) -> None:
    two_openings(path, QuickDisk())
    os.unlink(path)
    with pytest.raises(pytest.fail.Exception):
        two_openings(path, UnlockedDisk())


def test_row_17_another_descriptor_closed_in_the_process_does_not_give_the_lock_away(path: str) -> None:
    with Checkpoint.create(path, META, interval=None, disk=QuickDisk()):
        os.close(os.open(path, os.O_RDWR))
        with pytest.raises(CheckpointBusy):
            Checkpoint.open(path)


HOLD = """
import sys, time
from batchmill.checkpoint.writer import Checkpoint
from batchmill.checkpoint.frames import FrameType
checkpoint = Checkpoint.create(sys.argv[1], {})
for number in range(100):
    checkpoint.append(FrameType.OUTCOMES, b"%d" % number)
print("ready", flush=True)
time.sleep(60)
"""


def test_row_18_after_a_kill_the_lock_is_free_and_nothing_committed_is_gone(path: str) -> None:
    holder = start([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"ready\n"
    with pytest.raises(CheckpointBusy):
        Checkpoint.open(path)
    holder.kill()
    holder.wait(20)
    with Checkpoint.open(path, disk=QuickDisk()) as checkpoint:
        assert checkpoint.frames == 101


# Row 19: right checksums, hostile payloads


HOSTILE = {
    "depth": b"\x81\xa1a" + b"\x91" * 2000 + b"\xc0",
    "maps": b"\x81\xa1a\xdd" + (60 << 20).to_bytes(4, "big") + b"\x80" * (60 << 20),
    "nested lists": b"\x81\xa1a\xdd" + (600).to_bytes(4, "big") + (b"\xdc\xff\xff" + b"\x90" * 65535) * 600,
    "pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0dtouch /tmp/ha!\x85R.",
    "a promise of 4 GiB": b"\x81\xa1a\xc6\xff\xff\xff\xff",
    "no map": b"\x93\x01\x02\x03",
    "keys": b"\x81\x01\x02",
    "nothing": b"",
    "extension": b"\x81\xa1a\xc7\x03\x55abc",
}

OPEN_ALL = f"""
import sys
from batchmill.checkpoint.reader import Reader, exists_with_outcomes
from batchmill.checkpoint.writer import Checkpoint
from batchmill.errors import CheckpointDamaged
for attempt in (Checkpoint.open, Reader, exists_with_outcomes):
    try:
        attempt(sys.argv[1])
        print("opened")
    except CheckpointDamaged as error:
        print(error.exit_code)
print({PEAK_MIB})
"""


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", HOSTILE)
def test_row_19_a_hostile_meta_with_right_checksums_is_damage_in_bounded_memory(path: str, name: str) -> None:
    head, crc = framing.frame_bytes(HEADER.seed, 0, 0, FrameType.META, HOSTILE[name])
    Path(path).write_bytes(HEADER.pack() + head + HOSTILE[name] + crc)
    ended = in_child(OPEN_ALL, path)
    *codes, rss = ended.stdout.split()
    assert codes == ["65", "65", "65"], ended.stderr
    assert int(rss) < 512


@pytest.mark.parametrize("name", ["depth", "pickle", "no map", "nothing"])
def test_row_19_a_hostile_run_frame_does_not_hide_that_the_file_is_busy(path: str, name: str) -> None:
    with Checkpoint.create(path, META, interval=None, disk=QuickDisk()) as checkpoint:
        checkpoint.append(FrameType.RUN, HOSTILE[name])
        with pytest.raises(CheckpointBusy, match="another run;"):
            Checkpoint.open(path)
        with Reader(path) as reader:
            holder = reader.live()
        assert holder is not None
        assert holder.pid == 0


def test_row_19_a_hostile_outcome_frame_is_counted_and_not_unpacked(path: str) -> None:
    with Checkpoint.create(path, META, interval=None, disk=QuickDisk()) as checkpoint:
        checkpoint.append(OUTCOMES, HOSTILE["depth"])
        checkpoint.append(OUTCOMES, outcomes_payload(0, [1, 2])[:120] + HOSTILE["depth"])
    assert verify(path).outcomes == 2


def test_row_19_a_hostile_seq_cannot_make_salvage_fill_the_disk(path: str) -> None:
    head, crc = framing.frame_bytes(HEADER.seed, 2**63, 0, FrameType.OUTCOMES, b"")
    Path(path).write_bytes(small_file().data + head + crc)
    with pytest.raises(CheckpointDamaged, match="salvaged"):
        salvage(path)
    assert os.listdir(os.path.dirname(path)) == ["x.ckpt"]
