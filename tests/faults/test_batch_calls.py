"""Many items in a call: the output is the same for every size, whatever fails, is killed, or is shared out.

(Poison in a call is in test_faults_items.)
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from cli_kit import batchmill
from fault_kit import CHECKPOINT, committed, finish, running, write_items

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")

PICKY = """
import os, time

def works(items):
    time.sleep(len(items) / 2000)
    if os.path.exists("slow"):
        time.sleep(0.2)
    for item in items:
        if item["n"] % 10 == 7:
            raise ValueError(f"no {item['n']}")
    return [{"twice": 2 * item["n"]} for item in items]
"""


def words(size: int | str | None, *options: str) -> tuple[str, ...]:
    batch = ("--batch-size", str(size)) if size is not None else ()
    return ("f.py:works", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", *batch, *options)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "f.py").write_text(PICKY)
    write_items(tmp_path / "items.jsonl", [{"id": f"i{n}", "n": n} for n in range(200)])
    return tmp_path


EXPECTED = b"".join(b'{"id": "i%d", "result": {"twice": %d}}\n' % (n, 2 * n) for n in range(200) if n % 10 != 7)


@pytest.mark.parametrize(("size", "workers"), [*itertools.product([1, 7, 64, "auto"], [1, 2])])
@pytest.mark.sampled(4)
def test_the_output_is_the_same_for_every_size(size: int | str, workers: int, place: Path) -> None:
    ended = finish(*words(size, "-j", str(workers)), cwd=place)
    assert ended.status == 1, ended.err
    assert "20 of 200 items failed" in ended.err
    assert (place / "out.jsonl").read_bytes() == EXPECTED


def test_a_batch_that_is_killed_is_resumed_with_another_size(place: Path) -> None:
    (place / "slow").touch()
    with running(*words(8, "-j", "2"), cwd=place) as run:
        run.until(
            lambda: (place / CHECKPOINT).stat().st_size > 2500 if (place / CHECKPOINT).exists() else False, "some"
        )
        run.signal(signal.SIGKILL)
        run.end()
    (place / "slow").unlink()
    ended = finish(*words(64, "-j", "2", "--resume"), cwd=place)
    assert (ended.status, (place / "out.jsonl").read_bytes()) == (1, EXPECTED), ended.err
    status = json.loads(batchmill("status", CHECKPOINT, "--json", cwd=place).stdout)
    assert (status["done"], status["failed"], status["total"]) == (180, 20, 200)


def test_shards_limits_retries_and_recycled_workers_see_items_as_ever(place: Path) -> None:
    for shard in ("1/2", "2/2"):
        ended = finish(*words(16, "--shard", shard, "--resume", "--max-items-per-worker", "40"), cwd=place)
        assert ended.status == 1, ended.err
    assert batchmill("results", CHECKPOINT, cwd=place).stdout.encode() == EXPECTED
    os.unlink(place / CHECKPOINT)
    ended = finish(*words(16, "--limit", "50", "--retries", "1", "--retry-delay", "0"), cwd=place)
    assert ended.status == 3, ended.err
    status = json.loads(batchmill("status", CHECKPOINT, "--json", cwd=place).stdout)
    assert (status["done"] + status["failed"], status["failed"]) == (50, 5)
    assert [outcome.attempts for outcome in committed(place).values() if not outcome.ok] == [2] * 5


def test_try_calls_it_with_a_list_of_one(place: Path) -> None:
    tried = ("try", "f.py:works", "items.jsonl", "--batch-size", "64", "--id")
    assert json.loads(batchmill(*tried, "i3", cwd=place).stdout) == {"twice": 6}
    assert "ValueError: no 7" in batchmill(*tried, "i7", cwd=place).stderr


def test_what_is_wrong_with_the_options_is_one_line(place: Path) -> None:
    ended = batchmill("run", *words(None, "--batch-format", "pandas"), cwd=place)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "batchmill: --batch-format pandas is for calls of many items; give --batch-size auto as well\n"
    )
    ended = batchmill("run", *words(0), cwd=place)
    assert ended.stderr == (
        "batchmill: --batch-size 0 is out of range; give 'auto' or a whole number, 1 to 1000000\n"
    ), ended.stderr


def test_a_size_that_is_found_out_grows_though_a_call_takes_longer_than_a_chunk(place: Path) -> None:
    (place / "slow.py").write_text(
        "import time\n\ndef slow(items):\n    time.sleep(0.1)\n    return [len(items)] * len(items)\n"
    )
    words = ("slow.py:slow", "items.jsonl", "--no-checkpoint", "-j", "1", "--batch-size", "auto", "-o", "-")
    ended = finish(*words, cwd=place)
    assert ended.status == 0, ended.err
    assert max(json.loads(line)["result"] for line in ended.out.splitlines()) >= 2
