"""Checkpoints whose checksums are right and whose contents are not: exit 65 with one line, or read; never more."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cli_kit import batchmill as program
from cli_kit import environment
from fuzz_kit import Frame, colliding, commands, file_of, frames_of, nested, resuming
from tree_kit import BENCH

from batchmill.checkpoint.frames import FrameRef, FrameType
from batchmill.checkpoint.history import History
from batchmill.checkpoint.payloads import check, read_map
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import Head, pack_map, pack_outcomes, read_head
from batchmill.codec.pack import pack_value
from batchmill.errors import CheckpointDamaged

META, RUN, OUTCOMES, SAMPLE, STRIKE, END, ORDER = FrameType.META, *list(FrameType)[2:]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("malformed")
    (folder / "f.py").write_text("def work(item, k=None):\n    return 7 // item['n']\n")
    (folder / "jsonl.jsonl").write_text("".join(f'{{"id": "i{n}", "n": {n}}}\n' for n in range(4)))
    ended = program(*resuming("good.ckpt", "jsonl"), "-q", cwd=folder)
    assert ended.returncode == 1, ended.stderr
    assert frames_of(folder / "good.ckpt")[FIRST].type == OUTCOMES
    return folder


def replaced(good: list[Frame], type: FrameType, change: Callable[[dict[str, Any]], object]) -> list[Frame]:
    """With every frame of that type changed."""
    frames = []
    for frame in good:
        if frame.type == type:
            values = msgpack.unpackb(frame.payload, strict_map_key=False)
            made = change(values)
            frame = Frame(frame.type, made if isinstance(made, bytes) else pack_map(values))
        frames.append(frame)
    return frames


def added(*frames: tuple[FrameType, Any]) -> Callable[[list[Frame]], list[Frame]]:
    return lambda good: [*good, *(Frame(t, v if isinstance(v, bytes) else pack_value(v)) for t, v in frames)]


def outcomes(count: int = 1, *, ids: Any = None, results: list[bytes] | None = None, **more: Any) -> bytes:
    """An OUTCOMES payload of ok items; what is in `more` goes to the head or the columns."""
    head = {name: more.pop(name) for name in list(more) if name in Head._fields and name != "seconds"}
    return pack_outcomes(
        Head(records=count, items=count, ok=count)._replace(**head),
        list(range(count)) if ids is None else ids,
        results or [pack_value(None)] * count,
        seconds=more.pop("seconds", [0.0] * count),
        contents=[0] * count,
        **more,
    )


def order(**changes: Any) -> dict[str, Any]:
    return {"generation": 2, "from": 1, "blocks": [], "items": [], **changes}


FIRST = 3  # the seq of the first OUTCOMES frame of a run: META, RUN and its source are before it
BAD: dict[str, Callable[[list[Frame]], list[Frame]]] = {
    "META is a list": lambda good: [Frame(META, b"\x90"), *good[1:]],
    "META has a number for a function": lambda good: replaced(good, META, lambda m: m.update(function=7)),
    "META has a text for inputs": lambda good: replaced(good, META, lambda m: m.update(input="x")),
    "META is of another time": lambda good: replaced(good, META, lambda m: m.update(created=float("inf"))),
    "META is 600 levels deep": lambda good: replaced(good, META, lambda m: m.update(set={"k": nested(600)})),
    "META holds numbers of one hash": lambda good: [
        Frame(META, b"\x81\xa3set\x81\xa1k" + colliding(20_000)),
        *good[1:],
    ],
    "RUN has no number": lambda good: replaced(good, RUN, lambda m: m.pop("run")),
    "RUN is number -1": lambda good: replaced(good, RUN, lambda m: m.update(run=-1)),
    "RUN began at noon": lambda good: replaced(good, RUN, lambda m: m.update(started="noon")),
    "RUN began beyond any calendar": lambda good: replaced(good, RUN, lambda m: m.update(started=1e300)),
    "RUN has a list of settings": lambda good: replaced(good, RUN, lambda m: m.update(settings=[1])),
    "RUN has settings that are maps": lambda good: replaced(good, RUN, lambda m: m.update(settings={"limit": {}})),
    "RUN has a command without words": lambda good: replaced(good, RUN, lambda m: m.update(command={"shell": True})),
    "RUN has places that are numbers": lambda good: replaced(good, RUN, lambda m: m.update(places={"0": 1})),
    "RUN has a process id of 80 bits": lambda good: replaced(good, RUN, lambda m: pack_value({**m, "pid": 2**80})),
    "RUN removes what is not there": added((RUN, {"run": 1, "removed": [[FIRST, 0, 99, 0]]})),
    "RUN removes one thing twice": added((RUN, {"run": 1, "removed": [[FIRST, 0, 1, 0], [FIRST, 0, 1, 0]]})),
    "RUN removes more failures than there are": added((RUN, {"run": 1, "removed": [[FIRST, 0, 1, 9]]})),
    "RUN removes what was replaced": added(
        (OUTCOMES, outcomes(1, supersedes=[(0, FIRST, 1, 0)])), (RUN, {"run": 1, "removed": [[FIRST, 1, 1, 0]]})
    ),
    "SAMPLE has no time": lambda good: replaced(good, SAMPLE, lambda m: m.pop("time")),
    "SAMPLE has ends that are none": lambda good: replaced(good, SAMPLE, lambda m: m.update(ends=[[1, 2]])),
    "SAMPLE counts a text": lambda good: replaced(good, SAMPLE, lambda m: m.update(workers="two")),
    "END has no report": lambda good: replaced(good, END, lambda m: m.pop("report")),
    "END has a report of -3 items": lambda good: replaced(good, END, lambda m: m["report"].update(total=-3)),
    "END has failures that are texts": lambda good: replaced(good, END, lambda m: m["report"].update(failures=["x"])),
    "END ended with status 4096": lambda good: replaced(good, END, lambda m: m["report"].update(exit_code=4096)),
    "STRIKE is a number": added((STRIKE, 5)),
    "ORDER is of nothing": added((ORDER, {})),
    "ORDER has a negative generation": added((ORDER, order(generation=-1))),
    "ORDER names what is not there": added((ORDER, order(items=[[FIRST, 0, 9, 0]]))),
    "ORDER lies beyond any input": added((ORDER, order(blocks=[[FIRST, 2**62]]))),
    "ORDER places one thing nine times": added((ORDER, order(items=[[FIRST, 0, 1, n] for n in range(9)]))),
    "OUTCOMES is empty": added((OUTCOMES, b"")),
    "OUTCOMES is a map": added((OUTCOMES, {"a": 1})),
    "OUTCOMES has more items than records": added((OUTCOMES, outcomes(3, records=2))),
    "OUTCOMES lies beyond any input": added((OUTCOMES, outcomes(1, first=2**63))),
    "OUTCOMES is of generation 4294967295": added((OUTCOMES, outcomes(1, generation=2**32 - 1))),
    "OUTCOMES has ids for others": added((OUTCOMES, outcomes(1, ids=[1, 2, 3]))),
    "OUTCOMES has results for others": added((OUTCOMES, outcomes(2, results=[pack_value(1)]))),
    "OUTCOMES has seconds for others": added((OUTCOMES, outcomes(2, seconds=[1.0]))),
    "OUTCOMES has places outside": added((OUTCOMES, outcomes(2, offsets=[0, 7]))),
    "OUTCOMES has one place twice": added((OUTCOMES, outcomes(3, offsets=[0, 2, 2]))),
    "OUTCOMES failed without a failure": added((OUTCOMES, outcomes(2, ok=1, failed=1))),
    "OUTCOMES was tried -4 times": added((OUTCOMES, outcomes(1, attempts=[(0, -4)]))),
    "OUTCOMES replaces itself": added((OUTCOMES, outcomes(1, supersedes=[(0, 99, 0, 1)]))),
    "OUTCOMES replaces what is not there": added((OUTCOMES, outcomes(1, supersedes=[(0, FIRST, 99, 1)]))),
    "two OUTCOMES replace one another": added(
        (OUTCOMES, outcomes(1, supersedes=[(0, FIRST, 1, 0)])), (OUTCOMES, outcomes(1, supersedes=[(0, FIRST, 1, 0)]))
    ),
    "an id is 600 levels deep": added((OUTCOMES, outcomes(1, ids=[nested(600)]))),
    "a result is 1,000 levels deep": added((OUTCOMES, outcomes(1, results=[b"\x91" * 1000 + b"\x90"]))),
    "a result is a set of numbers of one hash": added((OUTCOMES, outcomes(1, results=[colliding(150_000)]))),
    "a result is no value": added((OUTCOMES, outcomes(1, results=[b"\xc1"]))),
    "GAP is not empty": added((FrameType.GAP, b"abc")),
}


def is_refused(ended: subprocess.CompletedProcess[str]) -> bool:
    told = [line for line in ended.stderr.splitlines() if line.startswith("batchmill: ")]
    return ended.returncode == 65 and len(told) == 1 and "Traceback" not in ended.stderr


def test_a_block_with_another_number_of_records_than_its_digest_is_of_is_not_taken_for_it(work: Path) -> None:
    frames = frames_of(work / "good.ckpt")
    head, ids = read_head(frames[FIRST].payload), OutcomeBlock(frames[FIRST].payload).ids
    more = head.items + 1
    longer = pack_outcomes(
        head._replace(records=head.records + 1, items=more, ok=head.items, failed=1),
        [*ids, "more"],
        [*[pack_value(1)] * head.items, pack_value(None)],
        [(head.items, "E", "m", "t", b"{}")],
        [0.0] * more,
        [0] * more,
    )
    (work / "x.ckpt").write_bytes(file_of([*frames[:FIRST], Frame(OUTCOMES, longer)]))
    ended = program(*resuming("x.ckpt", "jsonl"), cwd=work)
    assert (ended.returncode in (0, 1, 65), "internal" in ended.stderr) == (True, False), ended.stderr


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", BAD)
def test_contents_that_cannot_be_are_65_in_one_line(name: str, work: Path) -> None:
    (work / "x.ckpt").write_bytes(file_of(BAD[name](frames_of(work / "good.ckpt"))))
    ended = program("verify", "x.ckpt", cwd=work)
    assert (ended.returncode, "Traceback" in ended.stderr) == (65, False), ended.stderr
    for words in (["results", "x.ckpt", "--all"], resuming("x.ckpt", "jsonl")):
        ended = program(*words, cwd=work)
        assert is_refused(ended) or ended.returncode in (0, 1), (words, ended)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["META has a text for inputs", "OUTCOMES replaces itself"])
@pytest.mark.parametrize("number", range(19))
def test_every_command_refuses_them_alike(name: str, number: int, work: Path) -> None:
    (work / "y.ckpt").write_bytes(file_of(BAD[name](frames_of(work / "good.ckpt"))))
    (work / "y.salvaged.ckpt").unlink(missing_ok=True)
    words = list(commands("y.ckpt", "jsonl"))[number]
    ended = program(*words, cwd=work)
    assert ended.returncode == 65, (words, ended)
    assert is_refused(ended) or words[0] == "verify"


def test_what_is_salvaged_lacks_the_wrong_frames_alone(work: Path) -> None:
    good = frames_of(work / "good.ckpt")
    frames = [*good, Frame(OUTCOMES, outcomes(2, offsets=[0, 7])), Frame(END, pack_map({"run": -1})), good[-1]]
    (work / "s.ckpt").write_bytes(file_of(frames))
    ended = program("verify", "s.ckpt", "--salvage", cwd=work)
    assert ended.returncode == 65
    assert "2 frames with right checksums and wrong contents" in ended.stdout
    assert f"frame {len(good)}: an outcome frame has items at positions that are not its own" in ended.stdout
    saved = frames_of(work / "s.salvaged.ckpt")
    assert saved == [*good, Frame(FrameType.GAP, b""), Frame(FrameType.GAP, b""), good[-1]]
    assert program("verify", "s.salvaged.ckpt", cwd=work).returncode == 0
    told = json.loads(program("verify", "s.ckpt", "--json", cwd=work).stdout)
    assert (told["ok"], [wrong["seq"] for wrong in told["wrong"]]) == (False, [len(good), len(good) + 1])


def test_a_wrong_meta_is_lost_and_the_rest_is_saved(work: Path) -> None:
    good = frames_of(work / "good.ckpt")
    (work / "m.ckpt").write_bytes(file_of([Frame(META, pack_map({"input": 5})), *good[1:]]))
    ended = program("verify", "m.ckpt", "--salvage", cwd=work)
    assert (ended.returncode, "--accept-changes" in ended.stdout) == (65, True)
    assert frames_of(work / "m.salvaged.ckpt")[1:] == good[1:]


@pytest.mark.parametrize("type", [META, RUN, SAMPLE, STRIKE, END])
def test_fields_that_a_later_version_adds_are_left_alone(type: FrameType, work: Path) -> None:
    good = frames_of(work / "good.ckpt")
    for frame in good:
        if frame.type == type:
            values = {**read_map(type, frame.payload), "moon": {"full": [1, None]}}
            assert read_map(type, pack_map(values)) == values
    frames = replaced(good, type, lambda m: m.update(moon=b"\0"))
    (work / "n.ckpt").write_bytes(file_of(frames))
    assert program("verify", "n.ckpt", cwd=work).returncode == 0
    assert program("status", "n.ckpt", "--json", cwd=work).returncode == 0


def test_a_frame_is_looked_at_as_a_whole() -> None:
    with pytest.raises(CheckpointDamaged, match="cannot be read"):
        check(END, pack_map({"run": 1}) + b"\0")
    check(OUTCOMES, outcomes(3))
    with pytest.raises(CheckpointDamaged):
        check(OUTCOMES, outcomes(1, results=[b"\xc1"]))
    many = [pack_value("x" * 1_000_000)] * 4
    check(OUTCOMES, outcomes(4, results=many))
    with pytest.raises(CheckpointDamaged):
        check(OUTCOMES, outcomes(5, results=[*many, b"\xc7\x01\x63x"]))


def test_a_frame_that_does_not_fit_changes_nothing() -> None:
    history = History()
    for seq, payload in enumerate((outcomes(3), outcomes(1, supersedes=[(0, 0, 2, 0)]))):
        history.take(ref(seq, OUTCOMES, payload), payload)
    before = (history.index.items, history.index.failed, dict(history.index.replaced), len(history.index))
    for seq, payload in (
        (2, outcomes(2, supersedes=[(0, 0, 1, 0), (1, 0, 2, 0)])),
        (2, outcomes(2, supersedes=[(0, 0, 1, 0), (1, 0, 1, 0)])),
        (2, outcomes(1, supersedes=[(0, 0, 1, 3)])),
        (2, outcomes(1, supersedes=[(0, 2, 0, 0)])),
    ):
        with pytest.raises(CheckpointDamaged):
            history.take(ref(seq, OUTCOMES, payload), payload)
    assert before == (history.index.items, history.index.failed, dict(history.index.replaced), len(history.index))


def ref(seq: int, type: FrameType, payload: bytes) -> FrameRef:
    return FrameRef(seq, 36, len(payload), type)


def test_a_thousand_orderings_one_after_another_are_read(work: Path) -> None:
    orders = [(ORDER, order(generation=n, **{"from": 100})) for n in range(2, 3000)]
    (work / "o.ckpt").write_bytes(file_of(added(*orders)(frames_of(work / "good.ckpt"))))
    found, expected = (program("results", name, "--all", cwd=work).stdout for name in ("o.ckpt", "good.ckpt"))
    assert found == expected


# --- what nobody thought of -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1])
def test_changed_contents_never_hurt_a_command(seed: int) -> None:
    words = [sys.executable, str(BENCH / "fuzz.py"), "--seed", str(seed), "--seconds", "5"]
    ended = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=110, check=False)
    assert (ended.returncode, "0 commands that did what they should not" in ended.stdout) == (0, True), ended.stdout
