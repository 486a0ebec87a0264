"""What RUN and SAMPLE frames say of the machine and of the workers that ended."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgpack
import psutil
from checkpoint_kit import read_frames
from cli_kit import batchmill

from batchmill.batch.progress import MOST_ENDS, Progress
from batchmill.checkpoint.frames import FrameType
from batchmill.codec.outcomes import unpack_map
from batchmill.system.machine import machine
from batchmill.version import __version__

FUNCTIONS = """
import os, time

def fragile(item):
    if item["n"] == 5:
        os.abort()
    if item["n"] == 6:
        os.kill(os.getpid(), 19)  # a stopped process does not hear that it is to raise
    return item["n"]
"""


def maps(path: Path, kind: FrameType) -> list[dict[str, Any]]:
    return [unpack_map(payload) for ref, payload in read_frames(str(path)) if ref.type == kind]


def progress(frames: list[dict[str, Any]]) -> Progress:
    return Progress(
        total=lambda: 100, before=lambda: (0, 0), append=lambda _, payload: frames.append(unpack_map(payload)),
        on_progress=None, interval=1.0, shards=1,
    )  # fmt: skip


def test_a_run_says_what_it_is_on_and_why_each_worker_was_replaced(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(FUNCTIONS)
    (tmp_path / "items.jsonl").write_text("".join(f'{{"id": {n}, "n": {n}}}\n' for n in range(40)))
    limits = ("--timeout", "2", "--max-items-per-worker", "8", "--crash-retries", "0", "-j", "2")
    ended = batchmill("run", "f.py:fragile", "items.jsonl", "-c", "x.ckpt", "-q", *limits, cwd=tmp_path)
    assert ended.returncode == 1
    run = maps(tmp_path / "x.ckpt", FrameType.RUN)[0]
    assert run["machine"]["memory"] == psutil.virtual_memory().total
    assert run["machine"]["system"] == f"{os.uname().sysname} {os.uname().release}"
    assert 1 <= run["machine"]["cores"] <= (os.cpu_count() or 1)
    assert run["versions"]["batchmill"] == __version__
    assert run["versions"]["msgpack"] == ".".join(map(str, msgpack.version))
    ends = [end for sample in maps(tmp_path / "x.ckpt", FrameType.SAMPLE) for end in sample.get("ends", ())]
    assert Counter(why for *_, why in ends)["died"] == 1
    assert Counter(why for *_, why in ends)["Timeout"] == 1
    assert Counter(why for *_, why in ends)["recycled"] >= 2
    assert [(worker in {0, 1}, exit) for _, worker, _, exit, why in ends if why == "died"] == [(True, -6)]
    assert all(run["started"] <= when <= time.time() for when, *_ in ends)


def test_a_machine_without_a_name_for_its_processor_still_has_one(tmp_path: Path) -> None:
    assert machine(root=str(tmp_path))["cpu"] == os.uname().machine


def test_samples_are_close_together_at_first_and_ten_seconds_apart_later() -> None:
    frames: list[dict[str, Any]] = []
    begun = time.monotonic()
    sampled = progress(frames)
    counts = []
    for until in (30, 300, 3600):
        frames.clear()
        for tenth in range(int(10 * until * 0.9), 10 * until):
            sampled.tick(begun + tenth / 10, [], 2)
        counts.append(len(frames))
    assert counts[0] in (3, 4)  # one a second
    assert counts[1] in range(9, 12)  # 1 % of the time so far
    assert counts[2] == 36  # every ten seconds


def test_a_sample_names_so_many_ends_and_counts_the_others() -> None:
    sampled = progress([])
    for pid in range(MOST_ENDS + 7):
        sampled.worker_ended(1, pid, 0, "recycled")
    first, second = sampled.sample(), sampled.sample()
    assert (len(first["ends"]), first["more_ends"]) == (MOST_ENDS, 7)
    assert first["ends"][3][1:] == [1, 3, 0, "recycled"]
    assert {"ends", "more_ends"} & second.keys() == set()
