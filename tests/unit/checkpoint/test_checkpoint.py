"""Facts about a checkpoint in ordinary life: created, locked, appended to, synced, reopened, read, moved aside."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_kit import QuickDisk, RecordingDisk, outcomes_payload, read_frames
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batchmill.checkpoint.frames import CAP, HEADER_SIZE, FrameRef, FrameType, Kind
from batchmill.checkpoint.name_lock import Name, holding
from batchmill.checkpoint.reader import Reader, exists_with_outcomes
from batchmill.checkpoint.salvage import salvage, verify
from batchmill.checkpoint.writer import Checkpoint
from batchmill.codec.outcomes import pack_map
from batchmill.errors import CheckpointBusy, CheckpointDamaged, CheckpointRefused
from batchmill.files.storage import Disk

META = {"function": "tasks:score", "set": {"table": {1: "one"}}}
OUTCOMES, RUN, SAMPLE = FrameType.OUTCOMES, FrameType.RUN, FrameType.SAMPLE


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "x.ckpt")


def quick(path: str) -> Checkpoint:
    return Checkpoint.create(path, META, interval=None, disk=QuickDisk())


def anew(path: str, keep: int, outcome: bytes = b"") -> str | None:
    """Begin anew over what is there; where that is now."""
    with begun_anew(path, keep, QuickDisk()) as checkpoint:
        checkpoint.append(OUTCOMES, outcome)
        return checkpoint.moved


def begun_anew(path: str, keep: int, disk: Disk) -> Checkpoint:
    def begin(name: Name) -> Checkpoint:
        return Checkpoint.begin(name, META, keep=keep if name.is_taken else None, interval=None)

    return holding(path, begin, disk)


def run_frame(pid: int = 4711) -> bytes:
    return pack_map({"run": 1, "pid": pid, "host": "box", "started": 0.0})


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def test_what_was_appended_is_read_back_from_the_same_a_new_and_a_reading_opening(path: str) -> None:
    payloads = [b"", b"one", bytes(100_000), random.Random(1).randbytes(3_000_000)]
    with Checkpoint.create(path, META) as checkpoint:
        refs = [checkpoint.append(OUTCOMES, payload) for payload in payloads]
        assert [checkpoint.read(ref) for ref in refs] == payloads
        assert (checkpoint.end, checkpoint.frames) == (os.path.getsize(path), 5)
    seen: list[tuple[FrameRef, bytes]] = []
    with Checkpoint.open(path, on_frame=lambda ref, shown: seen.append((ref, shown))) as checkpoint:
        assert (checkpoint.meta, checkpoint.recovery) == (META, None)
        assert [ref for ref, _ in seen[1:]] == refs
        assert [shown for _, shown in seen[1:]] == [payload[:256] for payload in payloads]
        assert [checkpoint.read(ref) for ref in refs] == payloads
    with Reader(path) as reader:
        assert reader.meta == META
        assert [data for _, data in reader.frames(payloads=True)][1:] == payloads
        assert [reader.payload(ref) for ref in refs] == payloads
    assert [data for _, data in read_frames(path)][1:] == payloads


def test_a_new_checkpoint_is_private_and_leaves_no_other_file(path: str) -> None:
    quick(path).close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(os.path.dirname(path)) == ["x.ckpt"]


def test_a_new_checkpoint_is_synced_before_it_has_its_name_and_its_directory_after(path: str) -> None:
    calls: list[str] = []

    class Watching(Disk):
        def sync(self, fd: int) -> None:
            calls.append(f"sync {os.path.exists(path)}")

        def link(self, temporary: str, path: str) -> None:
            calls.append("link")
            super().link(temporary, path)

        def sync_directory(self, path: str) -> None:
            calls.append("directory")

    Checkpoint.create(path, META, interval=None, disk=Watching()).close()
    assert calls == ["sync False", "link", "directory"]


def test_the_descriptor_does_not_reach_started_programs(path: str) -> None:
    with quick(path) as checkpoint:
        assert not os.get_inheritable(checkpoint.fileno())


def test_a_second_opening_is_refused_naming_the_holder(path: str) -> None:
    with quick(path) as checkpoint:
        checkpoint.append(RUN, run_frame())
        with pytest.raises(CheckpointBusy, match=r"process 4711 on box, since 19(70|69)-"):
            Checkpoint.open(path)
        with pytest.raises(CheckpointBusy, match="process 4711"):
            Checkpoint.create(path, META)
        with pytest.raises(CheckpointBusy, match="process 4711"):
            anew(path, 1)
    Checkpoint.open(path, disk=QuickDisk()).close()


def test_a_checkpoint_with_outcomes_is_never_replaced_by_a_new_one(path: str) -> None:
    with quick(path) as checkpoint:
        checkpoint.append(OUTCOMES, b"work")
    before = Path(path).read_bytes()
    with pytest.raises(CheckpointRefused, match=r"exists.*resume=True.*fresh=True"):
        quick(path)
    assert Path(path).read_bytes() == before
    assert exists_with_outcomes(path)


def test_a_checkpoint_without_outcomes_is_never_in_the_way(path: str) -> None:
    assert not exists_with_outcomes(path)
    with quick(path) as checkpoint:
        checkpoint.append(RUN, run_frame())
        first = Path(path).read_bytes()[:HEADER_SIZE]
    assert not exists_with_outcomes(path)
    with quick(path) as checkpoint:
        assert Path(path).read_bytes()[:HEADER_SIZE] != first
    Path(path).write_bytes(b"")
    assert not exists_with_outcomes(path)
    quick(path).close()


def test_a_damaged_checkpoint_counts_as_one_with_outcomes(path: str) -> None:
    with quick(path) as checkpoint:
        ref = checkpoint.append(OUTCOMES, b"work")
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: ref.start] + b"?" + data[ref.start + 1 :])
    assert exists_with_outcomes(path)


def test_a_live_checkpoint_can_be_read_and_says_who_writes_it(path: str) -> None:
    with quick(path) as checkpoint, Reader(path) as reader:
        holder = reader.live()
        assert holder is not None
        assert holder.pid == 0
        checkpoint.append(RUN, run_frame())
        checkpoint.append(OUTCOMES, b"work")
        holder = reader.live()
        assert holder is not None
        assert (holder.pid, holder.host, holder.started) == (4711, "box", 0.0)
        assert [ref.type for ref, _ in reader.frames()] == [FrameType.META, RUN, OUTCOMES]
    with Reader(path) as reader:
        assert reader.live() is None


def test_asking_whether_a_run_is_alive_does_not_turn_a_starting_run_away(path: str) -> None:
    quick(path).close()
    asking = os.open(path, os.O_RDONLY)

    class Starting(QuickDisk):
        def lock(self, fd: int) -> None:
            try:
                super().lock(fd)
            finally:
                fcntl.flock(asking, fcntl.LOCK_UN)

    fcntl.flock(asking, fcntl.LOCK_SH)
    Checkpoint.open(path, interval=None, disk=Starting()).close()
    os.close(asking)


def test_the_unfinished_last_frame_of_a_live_run_is_left_out_by_readers(path: str) -> None:
    with quick(path) as checkpoint:
        checkpoint.append(OUTCOMES, b"work")
        with open(path, "ab") as file:
            file.write(b"\xf7BMF half a fra")
        with Reader(path) as reader:
            assert len(list(reader.frames(payloads=True))) == 2
            assert reader.verdict is not None
            assert reader.verdict.kind is Kind.TORN
        assert verify(path, contents=False).ok
        os.truncate(path, checkpoint.end)


# Syncing


class SyncGate(QuickDisk):
    """Syncs that wait until they are let through."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.syncs = 0

    def sync(self, fd: int) -> None:
        self.syncs += 1
        self.started.release()
        assert self.gate.wait(30)


def test_a_committed_frame_becomes_durable_within_the_interval(path: str) -> None:
    with Checkpoint.create(path, META, interval=0.01, disk=QuickDisk()) as checkpoint:
        checkpoint.append(OUTCOMES, b"work")
        until(lambda: checkpoint.synced == checkpoint.end)


def test_half_the_cap_is_synced_at_once_however_long_the_interval(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchmill.checkpoint.writer._TICK", 3600.0)
    with Checkpoint.create(path, META, interval=3600, disk=QuickDisk()) as checkpoint:
        checkpoint.append(OUTCOMES, bytes(CAP // 2))
        until(lambda: checkpoint.synced == checkpoint.end)


def test_the_watermark_moves_only_to_what_was_written_before_the_sync_began(path: str) -> None:
    disk = SyncGate()
    checkpoint = Checkpoint.create(path, META, interval=0.0, disk=disk)
    assert disk.started.acquire(timeout=20)
    disk.gate.clear()
    first = checkpoint.append(OUTCOMES, b"before the sync")
    assert disk.started.acquire(timeout=20)
    checkpoint.append(OUTCOMES, b"during the sync")
    assert checkpoint.synced < first.end
    checkpoint._interval = 3600.0
    disk.gate.set()
    until(lambda: checkpoint.synced >= first.end)
    assert checkpoint.synced == first.end
    checkpoint.close()


def test_appending_waits_while_a_caps_worth_is_unsynced(path: str) -> None:
    disk = SyncGate()
    checkpoint = Checkpoint.create(path, META, interval=3600, disk=disk)
    disk.gate.clear()
    checkpoint.append(OUTCOMES, bytes(CAP))
    done = threading.Event()

    def append() -> None:
        checkpoint.append(OUTCOMES, b"one more")
        done.set()

    thread = threading.Thread(target=append)
    thread.start()
    assert not done.wait(0.2)
    disk.gate.set()
    assert done.wait(20)
    thread.join(20)
    checkpoint.close()


def test_close_and_sync_leave_nothing_unsynced(path: str) -> None:
    disk = RecordingDisk()
    checkpoint = Checkpoint.create(path, META, interval=None, disk=disk)
    checkpoint.append(OUTCOMES, b"work")
    checkpoint.sync()
    assert checkpoint.synced == checkpoint.end
    checkpoint.append(OUTCOMES, b"more")
    checkpoint.close()
    assert [done.verb for done in disk.log[-4:]] == ["write", "sync", "write", "sync"]


def test_nothing_is_synced_twice(path: str) -> None:
    disk = RecordingDisk()
    checkpoint = Checkpoint.create(path, META, interval=None, disk=disk)
    checkpoint.append(OUTCOMES, b"work")
    checkpoint.sync()
    checkpoint.sync()
    checkpoint.close()
    assert [done.verb for done in disk.log].count("sync") == 2  # one of them at creation


def test_a_temporary_checkpoint_has_no_name_and_no_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    disk = RecordingDisk()
    with Checkpoint.temporary(META, disk=disk) as checkpoint:
        refs = [checkpoint.append(OUTCOMES, bytes([i]) * 1_000_000) for i in range(20)]
        assert [checkpoint.read(ref)[0] for ref in refs] == list(range(20))
        assert os.listdir(tmp_path) == []
    assert "sync" not in [done.verb for done in disk.log]


def test_an_interrupt_in_the_middle_of_a_write_leaves_no_trace(path: str) -> None:
    class Interrupting(QuickDisk):
        armed = False

        def write(self, fd: int, parts: object, offset: int) -> int:
            taken = super().write(fd, parts, offset)  # type: ignore[arg-type]
            if self.armed:
                self.armed = False
                raise KeyboardInterrupt
            return taken

    disk = Interrupting()
    with Checkpoint.create(path, META, interval=None, disk=disk) as checkpoint:
        checkpoint.append(OUTCOMES, b"one")
        disk.armed = True
        with pytest.raises(KeyboardInterrupt):
            checkpoint.append(OUTCOMES, b"interrupted")
        checkpoint.append(OUTCOMES, b"two")
    assert [data for _, data in read_frames(path)][1:] == [b"one", b"two"]


# Moving aside


def outcome_in(path: Path) -> bytes:
    return [data for _, data in read_frames(str(path))][1]


def kept(directory: Path) -> dict[str, bytes]:
    """The outcome in each file of the directory, by the file's name without suffix."""
    return {path.stem: outcome_in(path) for path in sorted(directory.iterdir())}


def test_moving_aside_numbers_the_newest_one_and_keeps_so_many(tmp_path: Path, path: str) -> None:
    assert anew(path, 3, b"0") is None
    for number in range(1, 5):
        assert anew(path, 3, b"%d" % number) == str(tmp_path / "x.1.ckpt")
    assert kept(tmp_path) == {"x": b"4", "x.1": b"3", "x.2": b"2", "x.3": b"1"}


def test_moving_aside_loses_nothing_more_when_an_earlier_one_was_interrupted(tmp_path: Path, path: str) -> None:
    for number in range(4):
        anew(path, 3, b"%d" % number)
    os.unlink(tmp_path / "x.1.ckpt")  # as after a crash between two renames
    anew(path, 3, b"new")
    assert kept(tmp_path) == {"x": b"new", "x.1": b"3", "x.2": b"1", "x.3": b"0"}


class Killed(BaseException):
    """In place of SIGKILL: nothing is done after it."""


@pytest.mark.parametrize(("keep", "call"), [*((9, n) for n in range(1, 13)), *((2, n) for n in range(1, 11))])
def test_moving_aside_loses_nothing_wherever_it_is_killed(tmp_path: Path, path: str, call: int, keep: int) -> None:
    class Dying(QuickDisk):
        left = call

        def rename(self, old: str, new: str) -> None:
            self.count()
            super().rename(old, new)
            self.count()

        def link(self, temporary: str, path: str) -> None:
            self.count()
            super().link(temporary, path)
            self.count()

        def unlink(self, path: str) -> None:
            self.count()
            super().unlink(path)
            self.count()

        def count(self) -> None:
            self.left -= 1
            if not self.left:
                raise Killed

    for number in range(3):
        anew(path, keep, b"%d" % number)
    with pytest.raises(Killed):
        begun_anew(path, keep, Dying())
    anew(path, keep, b"new")
    assert sorted(kept(tmp_path).values()) == [b"0", b"1", b"2", b"new"][-keep - 1 :]


def test_a_file_that_is_begun_over_is_never_without_a_lock(path: str) -> None:
    seen: list[bool] = []

    class Watching(QuickDisk):
        def rename(self, old: str, new: str) -> None:
            self.look()
            super().rename(old, new)
            self.look()

        def link(self, temporary: str, path: str) -> None:
            self.look()
            super().link(temporary, path)
            self.look()

        def look(self) -> None:
            with pytest.raises(CheckpointBusy):
                Checkpoint.open(path)
            seen.append(os.path.exists(path))

    anew(path, 1, b"old")
    begun_anew(path, 1, Watching()).close()
    assert seen == [True] * 4


def test_a_kept_checkpoint_that_a_run_uses_is_not_moved(tmp_path: Path, path: str) -> None:
    anew(path, 2, b"old")
    anew(path, 2, b"new")
    with Checkpoint.open(str(tmp_path / "x.1.ckpt"), interval=None, disk=QuickDisk()), pytest.raises(CheckpointBusy):
        anew(path, 2)
    assert kept(tmp_path) == {"x": b"new", "x.1": b"old"}


# Verifying and salvaging


def test_verify_counts_what_is_there(path: str) -> None:
    with quick(path) as checkpoint:
        checkpoint.append(RUN, run_frame())
        checkpoint.append(OUTCOMES, outcomes_payload(0, ["a", "b", "c"]))
        checkpoint.append(OUTCOMES, outcomes_payload(3, ["d"]))
    found = verify(path, contents=False)
    assert (found.frames, found.outcomes, found.runs, found.ok) == (4, 4, 1, True)
    assert found.kinds == {"META": 1, "RUN": 1, "OUTCOMES": 2}
    assert (found.size, found.live) == (os.path.getsize(path), None)


def damaged_file(path: str) -> list[FrameRef]:
    with quick(path) as checkpoint:
        refs = [checkpoint.append(OUTCOMES, outcomes_payload(10 * i, [f"id{i}"] * 10)) for i in range(6)]
        checkpoint.sync()
        refs.append(checkpoint.append(OUTCOMES, outcomes_payload(60, ["last"])))
    return refs


def test_salvage_keeps_every_valid_frame_under_its_number_and_names_what_is_gone(path: str) -> None:
    refs = damaged_file(path)
    payloads = [data for _, data in read_frames(path)]
    data = bytearray(Path(path).read_bytes())
    data[refs[2].end - 6] ^= 1
    data[refs[3].start + 9] ^= 1
    Path(path).write_bytes(data)
    with pytest.raises(CheckpointDamaged, match=rf"byte {refs[2].start}.*3 frames before it, 3 after it.*--salvage"):
        Checkpoint.open(path)
    with pytest.raises(CheckpointDamaged):
        list(read_frames(path))
    saved = salvage(path, contents=False)
    assert (saved.kept, saved.meta_lost, saved.tail) == (6, False, 0)
    (lost,) = saved.lost
    assert (lost.first, lost.last) == (3, 4)
    assert lost.before is not None
    assert lost.after is not None
    assert lost.place is not None
    assert (lost.before.first, lost.after.first, lost.place.first, lost.ids) == (10, 40, 20, ("id2",) * 10)
    assert bytes(data) == Path(path).read_bytes()
    assert saved.path.endswith("x.salvaged.ckpt")
    with Checkpoint.open(saved.path, disk=QuickDisk()) as checkpoint:
        assert (checkpoint.meta, checkpoint.recovery, checkpoint.frames) == (META, None, 8)
        checkpoint.append(OUTCOMES, b"new")
    expected = [*payloads[:3], b"", b"", *payloads[5:], b"new"]
    assert [(ref.seq, data) for ref, data in read_frames(saved.path)] == list(enumerate(expected))
    with pytest.raises(CheckpointRefused, match="exists"):
        salvage(path)


def test_salvage_works_without_the_file_header_and_without_meta(path: str) -> None:
    refs = damaged_file(path)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[60:])
    with pytest.raises(CheckpointDamaged):
        Checkpoint.open(path)
    saved = salvage(path, contents=False)
    assert (saved.kept, saved.meta_lost) == (len(refs), True)
    with Checkpoint.open(saved.path, disk=QuickDisk()) as checkpoint:
        assert checkpoint.meta == {"lost": True}


def test_salvage_of_something_else_creates_nothing(path: str) -> None:
    Path(path).write_bytes(b"a letter to grandmother" * 100)
    with pytest.raises(CheckpointDamaged):
        salvage(path)
    assert os.listdir(os.path.dirname(path)) == ["x.ckpt"]


# Random commands against a list


class CheckpointModel(RuleBasedStateMachine):
    """A checkpoint, driven at random, agrees with a list at every opening."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.path = os.path.join(self.directory, "m.ckpt")
        self.checkpoint = quick(self.path)
        self.model = [(FrameType.META, pack_map(META))]
        self.refs: list[FrameRef] = []

    @rule(type=st.sampled_from(list(FrameType)[2:]), payload=st.binary(max_size=400))
    def append(self, type: FrameType, payload: bytes) -> None:
        self.refs.append(self.checkpoint.append(type, payload))
        self.model.append((type, payload))

    @rule()
    def sync(self) -> None:
        self.checkpoint.sync()
        assert self.checkpoint.synced == self.checkpoint.end

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        ref = data.draw(st.sampled_from(self.refs))
        assert self.checkpoint.read(ref) == self.model[ref.seq][1]

    @rule()
    def close_and_reopen(self) -> None:
        self.checkpoint.close()
        self._open(repaired=False)

    @rule(torn=st.binary(max_size=40), payload=st.binary(max_size=400))
    def kill_and_reopen(self, torn: bytes, payload: bytes) -> None:
        os.close(self.checkpoint.fileno())
        self.checkpoint._fd = -1
        with open(self.path, "ab") as file:
            file.write(torn)
        self._open(repaired=bool(torn))
        self.append(OUTCOMES, payload)

    @rule(cut=st.integers(1, 30))
    def kill_in_the_last_frame(self, cut: int) -> None:
        self.append(SAMPLE, b"torn")
        os.close(self.checkpoint.fileno())
        self.checkpoint._fd = -1
        os.truncate(self.path, self.checkpoint.end - cut)
        self.model.pop()
        self.refs.pop()
        self._open(repaired=True)

    def _open(self, *, repaired: bool) -> None:
        shown: list[tuple[int, bytes]] = []
        self.checkpoint = Checkpoint.open(
            self.path, interval=None, disk=QuickDisk(), on_frame=lambda ref, data: shown.append((ref.type, data))
        )
        assert shown == [(type, payload[:256]) for type, payload in self.model]
        assert (self.checkpoint.recovery is not None) == repaired

    @invariant()
    def the_file_ends_where_the_checkpoint_says(self) -> None:
        if hasattr(self, "checkpoint"):
            assert os.path.getsize(self.path) == self.checkpoint.end
            assert self.checkpoint.frames == len(self.model)

    def teardown(self) -> None:
        if hasattr(self, "checkpoint"):
            self.checkpoint.close()
            shutil.rmtree(self.directory)


TestCheckpointModel = CheckpointModel.TestCase
TestCheckpointModel.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
