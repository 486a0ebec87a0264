"""What races for one checkpoint have in common: the options, what is there before, and the oracle. Runs nothing.

The oracle: each command ends with 0, 73 or 75, for a reason that is true; nothing ran twice in one checkpoint, and what
was in any checkpoint at any time is there, under its name or under that to which it was moved.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from checkpoint_kit import outcomes_payload

from batchmill.checkpoint.frames import HEADER_SIZE, FrameType
from batchmill.checkpoint.reader import Reader
from batchmill.checkpoint.writer import Checkpoint
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import pack_map
from batchmill.model import Report, report_map

CHECKPOINT = "x.ckpt"
META = {"function": "f", "id_rule": "field id"}
ITEMS = [f"i{number}" for number in range(8)]
GONE = (1 << 22) + 1  # the id of no process
KEEP = 99  # more than there are commands: whatever is moved aside stays

_FRESH = {"fresh": True, "keep": KEEP}
_NIGHTLY = {"resume": True, "fresh_if_finished": True, "keep": KEEP}
CHOICES: Mapping[str, dict[str, Any]] = {
    "neither": {},
    "neither, waiting": {"wait": 100.0},
    "resume": {"resume": True},
    "resume, waiting": {"resume": True, "wait": 100.0},
    "fresh": _FRESH,
    "fresh, waiting": {**_FRESH, "wait": 100.0},
    "nightly": _NIGHTLY,
    "nightly, waiting": {**_NIGHTLY, "wait": 100.0},
}
STATES = ("none", "empty", "no outcomes", "unfinished", "torn", "damaged tail", "damaged", "finished")

Told = dict[str, Any]  # what a command tells of itself: choice, status, error, file, ran, said


def end(run: int, stopped: str) -> bytes:
    """What the END frame of a run holds."""
    report = Report(
        started=0.0, ended=0.0, total=len(ITEMS), completed=0, skipped=0, failed=0, remaining=0, changed=0, repeated=0,
        blank=0, older_source=0, seconds=0.0, cpu_seconds=0.0, peak_rss=0, workers=1, stopped=stopped, exit_code=0,
        function="f", checkpoint=None,
    )  # fmt: skip
    return pack_map({"run": run, "report": report_map(report)})


def put(folder: Path, state: str) -> bytes:
    """Leave what an earlier run may have left; returns what of it must not be lost."""
    path = folder / CHECKPOINT
    if state == "none":
        return b""
    if state == "empty":
        path.touch()
        return b""
    with Checkpoint.create(str(path), META, interval=None) as checkpoint:
        checkpoint.append(
            FrameType.RUN, pack_map({"run": 1, "pid": GONE, "host": socket.gethostname(), "started": 0.0})
        )
        if state == "no outcomes":
            return b""
        for number, item in enumerate(ITEMS if state == "finished" else ITEMS[:3]):
            checkpoint.append(FrameType.OUTCOMES, outcomes_payload(number, [item]))
            checkpoint.sync()  # else damage passes for what a crash leaves
        if state == "finished":
            checkpoint.append(FrameType.END, end(1, ""))
    data = path.read_bytes()
    tail = {"torn": data[-30:-20], "damaged tail": bytes(range(200))}.get(state, b"")
    if state == "damaged":
        at = len(data) // 2
        data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    path.write_bytes(data + tail)
    return data


def ids_in(payload: bytes) -> list[str]:
    """The ids in a frame of outcomes, none in another."""
    try:
        return OutcomeBlock(payload).ids
    except Exception:
        return []


def judge(folder: Path, state: str, before: bytes) -> Counter[int]:
    """Hold what all commands told, and what they left, against the oracle; how many ended with which status."""
    told = [json.loads(line) for line in (folder / "witness").read_text().splitlines()]
    for one in told:
        assert is_true(one, state), one
    files = {path.name: path.read_bytes() for path in folder.glob("*.ckpt")}
    if before:
        assert any(data.startswith(before) for data in files.values()), "the first checkpoint is gone"
    assert {path.name for path in folder.iterdir()} - set(files) <= {"witness", "x.damaged"}
    moved = sum("checkpoint is" in said for one in told for said in one["said"])
    assert len(files) == moved + (CHECKPOINT in files)
    ran = [(one["file"], item) for one in told for item in one["ran"]]
    assert sorted(found_in(folder, files, before)) == sorted(ran), "lost, or twice"
    assert max(Counter(ran).values(), default=1) == 1, "twice"
    return Counter(one["status"] for one in told)


def found_in(folder: Path, files: Iterable[str], before: bytes) -> list[tuple[str, str]]:
    """(the file's header, item) of every outcome that was not there before."""
    found = []
    for name in files:
        data = (folder / name).read_bytes()
        known = len(before) if data.startswith(before) else 0
        with Reader(str(folder / name)) as reader:
            for ref, payload in reader.frames(payloads=True):
                if ref.offset >= known:
                    found += [(data[:HEADER_SIZE].hex(), item) for item in ids_in(payload)]
    return found


def is_true(one: Told, state: str) -> bool:
    """Whether a command ended as it may, and told the reason."""
    choice: str = one["choice"]
    error: str = one.get("error", "")
    match one["status"]:
        case 0:
            return not error
        case 73:
            return choice.startswith("neither") and "exists; resume=True continues it" in error
        case 75:
            busy = "x.ckpt is in use by another run" in error and f"process {GONE}" not in error
            return busy and not choice.endswith("waiting")
        case 65:
            return state == "damaged" and not choice.startswith("fresh") and "is damaged" in error
    return False
