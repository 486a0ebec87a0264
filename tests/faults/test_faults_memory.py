"""Faults of memory: items that leak, that take all there is, a machine without any; and workers replaced by count."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fault_kit import (
    CHECKPOINT,
    committed,
    finish,
    lines_of,
    numbered,
    prepare,
    strikes,
    witnessed,
)

import batchmill
from batchmill.pool import worker_limits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")

GREEDY = '''
import os, resource, signal, time
from f import note

MB = 1 << 20
kept = []


def work(item):
    note("start", item["id"], os.getpid())
    try:
        return globals()[item.get("do", "plain")](item)
    finally:
        note("end", item["id"], os.getpid())


def plain(item):
    time.sleep(item.get("sleep", 0))
    return item["n"]


def leak(item):
    """Leaks, and stops growing between --worker-memory and what is far above it."""
    if len(kept) < 10:
        kept.append(bytearray(8 * MB))
    else:
        time.sleep(0.3)
    return item["n"]


def eat(item):
    """Takes 800 MB bit by bit, and keeps them."""
    eaten = []
    while len(eaten) < 100:
        eaten.append(bytearray(8 * MB))
        time.sleep(0.002)
    time.sleep(1000)


def limited(item):
    resource.setrlimit(resource.RLIMIT_AS, (1024 * MB, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return len(bytearray(4096 * MB))


def killed(item):
    """As the kernel, or a person, would do it."""
    os.kill(os.getpid(), signal.SIGKILL)
'''


def batch(cwd: Path, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    prepare(cwd, items)
    (cwd / "g.py").write_text(GREEDY)
    return items


def command(*arguments: str) -> tuple[str, ...]:
    return ("g.py:work", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", *arguments)


def starts(cwd: Path) -> list[tuple[str, str]]:
    """(id, pid) of every call, in order."""
    return [(id, pid) for what, id, pid in map(str.split, witnessed(cwd)) if what == "start"]


def runs(cwd: Path) -> Counter[str]:
    return Counter(id for id, _ in starts(cwd))


def per_worker(cwd: Path) -> list[int]:
    """How many items each worker ran."""
    return list(Counter(pid for _, pid in starts(cwd)).values())


def all_done(cwd: Path, items: list[dict[str, Any]], *failing: str) -> None:
    """Exactly those failed; the others were run once and are in the output in order."""
    outcomes = committed(cwd)
    assert {id for id, outcome in outcomes.items() if not outcome.ok} == set(failing)
    assert len(outcomes) == len(items)
    expected = [{"id": item["id"], "result": item["n"]} for item in items if item["id"] not in failing]
    assert lines_of(cwd / "out.jsonl") == expected
    assert {id: count for id, count in runs(cwd).items() if count != 1 and id not in failing} == {}


@pytest.mark.parametrize(("most", "size"), [(1, "auto"), (1, "7"), (5, "auto"), (5, "1")])
def test_no_worker_runs_more_items_than_it_may(most: int, size: str, tmp_path: Path) -> None:
    items = batch(tmp_path, numbered(13 if most == 1 else 40))
    ended = finish(*command("-j", "2", "--max-items-per-worker", str(most), "--chunk-size", size), cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    all_done(tmp_path, items)
    assert max(per_worker(tmp_path)) <= most
    assert len(per_worker(tmp_path)) >= len(items) / most


def test_a_worker_that_leaks_is_replaced_between_items_and_nobody_fails(tmp_path: Path) -> None:
    items = batch(tmp_path, numbered(44, do="leak"))
    ended = finish(*command("-j", "2", "--worker-memory", "90M"), cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    all_done(tmp_path, items)
    assert len(per_worker(tmp_path)) > 2, "workers were replaced"
    assert strikes(tmp_path) == 0
    assert {outcome.attempts for outcome in committed(tmp_path).values()} == {1}


def test_row_28_a_worker_far_above_its_memory_is_killed_and_its_item_named(tmp_path: Path) -> None:
    items = numbered(20)
    items[9] = {"id": "eat", "n": 9, "do": "eat"}
    batch(tmp_path, items)
    ended = finish(*command("-j", "2", "--worker-memory", "200M", "--chunk-size", "1"), cwd=tmp_path)
    assert ended.status == 1
    assert "id eat (line 10): killed: its worker (pid " in ended.err
    all_done(tmp_path, items, "eat")
    assert runs(tmp_path)["eat"] == 1
    outcome = committed(tmp_path)["eat"]
    assert outcome.error is not None
    assert outcome.error.type == "OutOfMemory"
    assert f"(pid {dict(starts(tmp_path))['eat']}) held " in outcome.error.message
    assert outcome.error.message.endswith("(--worker-memory 200M)")
    assert outcome.attempts == 1
    assert strikes(tmp_path) == 1


def test_row_28_an_item_that_cannot_get_memory_fails_and_the_worker_goes_on(tmp_path: Path) -> None:
    items = numbered(30)
    items[9] = {"id": "limited", "n": 9, "do": "limited"}
    batch(tmp_path, items)
    ended = finish(*command("-j", "1"), cwd=tmp_path)
    assert ended.status == 1
    all_done(tmp_path, items, "limited")
    assert "MemoryError" in ended.err
    assert len(per_worker(tmp_path)) == 1


def test_an_item_whose_worker_is_killed_from_outside_again_and_again_is_charged_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = numbered(8)
    items[3] = {"id": "killed", "n": 3, "do": "killed"}
    batch(tmp_path, items)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker_limits, "oom_kills", lambda: 0)  # where memory is short, it is charged at once
    monkeypatch.setattr(worker_limits, "available_memory", lambda: 1 << 40)
    report = batchmill.run(
        "g.py:work", "items.jsonl", checkpoint=CHECKPOINT, output="out.jsonl", workers=2, chunk_size=1
    )
    assert report.exit_code == 1
    all_done(tmp_path, items, "killed")
    error = committed(tmp_path)["killed"].error
    assert error is not None
    assert "was killed by SIGKILL while running it, 2 times" in error.message
    assert "memory" not in error.message
    assert runs(tmp_path)["killed"] == 12, "ten times it is somebody else's doing, then come its strikes"
    assert strikes(tmp_path) == 2


def test_without_free_memory_one_worker_at_a_time_goes_on(tmp_path: Path) -> None:
    items = batch(tmp_path, numbered(40, sleep=0.01))
    ended = finish(*command("-j", "3", "--min-free-memory", "1000T", "--chunk-size", "2"), cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    all_done(tmp_path, items)
    running: set[str] = set()
    for what, id, _ in map(str.split, witnessed(tmp_path)):
        if what == "start":
            assert not running, f"{id} began while {running} ran"
            running.add(id)
        else:
            running.remove(id)


def test_the_kernel_would_take_a_worker_before_the_parent(tmp_path: Path) -> None:
    (tmp_path / "victim.py").write_text(
        "def score(item):\n    return [adjusted('self'), adjusted(item['id'])]\n"
        "def adjusted(who):\n    return int(open(f'/proc/{who}/oom_score_adj').read())\n"
    )
    program = "import os, batchmill; print(*batchmill.map('victim.py:score', [{'id': os.getpid()}], workers=1)[0])"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    worker, parent = map(int, ended.stdout.split())
    assert worker > parent
