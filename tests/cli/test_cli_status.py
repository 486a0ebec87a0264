"""`batchmill status` of runs that live, ended and were killed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_kit import PROGRAM, batchmill, environment, shell, wait_for_outcomes
from process_kit import start

import batchmill as engine
from batchmill.batch.progress import Progress
from batchmill.checkpoint.frames import FrameType
from batchmill.checkpoint.reader import Reader
from batchmill.settings import Settings
from batchmill_cli.options.command_lines import run_again

FUNCTIONS = """
import time

def picky(item):
    if item["n"] % 10 == 3:
        raise ValueError("three")
    return item["n"]

def slow(item, seconds=0.05):
    time.sleep(seconds)
    if item["n"] == 3:
        raise ValueError("three")
    return item["n"]
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f.py").write_text(FUNCTIONS)
    (tmp_path / "items.jsonl").write_text("".join(f'{{"id": "i{n}", "n": {n}}}\n' for n in range(50)))
    (tmp_path / "many.jsonl").write_text("".join(f'{{"id": "i{n}", "n": {n}}}\n' for n in range(5000)))
    return tmp_path


def status(path: str, cwd: Path) -> str:
    ended = batchmill("status", path, cwd=cwd)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "frame" not in ended.stdout
    return ended.stdout


@contextmanager
def running(work: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [*PROGRAM, "run", "sub/f.py:slow", "many.jsonl", "-c", "x.ckpt", "-j", "2", *options]
    run = start(command, cwd=work, env=environment(), stderr=subprocess.DEVNULL)
    try:
        wait_for_outcomes(work / "x.ckpt")
        yield run
    finally:
        run.kill()
        run.wait(timeout=60)


def command_of(label: str, text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{label} ")]
    return line.split(maxsplit=1)[1]


def test_an_ended_run_is_shown_with_its_counts_and_its_whole_report(work: Path) -> None:
    batchmill("run", "sub/f.py:picky", "items.jsonl", "-c", "x.ckpt", "-q", cwd=work)
    text = status("x.ckpt", work)
    assert text.startswith("x.ckpt: not running, the last run ended 20")
    assert "holds     45 done, 5 failed" in text
    assert "batchmill: 5 of 50 items failed (exit 1)" in text
    assert "50 total, 45 completed" in text
    assert "5x ValueError" in text
    assert shell(command_of("collect", text).replace("FILE", "all.jsonl"), work).returncode == 0
    assert "5x ValueError" in shell(command_of("show", text), work).stdout


def test_a_finished_batch_is_not_to_be_continued(work: Path) -> None:
    (work / "items.jsonl").write_text('{"id": 1, "n": 1}\n')
    batchmill("run", "sub/f.py:picky", "items.jsonl", "-c", "x.ckpt", cwd=work)
    assert "continue" not in status("x.ckpt", work)


def test_a_live_run_has_a_speed_and_an_end_in_sight(work: Path) -> None:
    with running(work) as run:
        text = status("x.ckpt", work)
        assert re.match(rf"x\.ckpt: running since [-0-9 :]+ \(pid {run.pid} on ", text)
        assert "function  f.py:slow" in text
        assert "input     many.jsonl" in text
        assert re.search(r"^speed     [\d.]+ items/s for ", text, re.MULTILINE)
        assert "continue" not in text
        assert "collect" in text


def test_the_counts_of_a_live_run_never_contradict_each_other(work: Path) -> None:
    with running(work):
        deadline, found = time.monotonic() + 60, None
        while found is None and time.monotonic() < deadline:  # the total comes with the first sample
            text = status("x.ckpt", work)
            assert len(re.findall(r"\d+ done", text)) == 1
            found = re.search(r"items     (\d+) total, (\d+) done, (\d+) failed, ([\d.]+)%", text)
    assert found is not None
    total, done, failed, share = map(float, found.groups())
    assert total == 5000
    assert share == pytest.approx(100 * (done + failed) / total, abs=0.051)
    assert re.search(r"^machine   2 workers, cpu \d+%, rss ", text, re.MULTILINE)


def test_a_run_that_could_not_report_says_which_error_ended_it(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "report", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.run(abs, [1, -2], checkpoint=str(work / "x.ckpt"), workers=1)
    text = status("x.ckpt", work)
    assert text.splitlines()[0].endswith("ended without a report: ZeroDivisionError: division by zero")
    assert "2 done, 0 failed" in text


def test_a_killed_run_is_said_to_be_and_the_command_that_continues_it_works(work: Path) -> None:
    with running(work, "--set", "seconds=0.02", "--timeout", "1m") as run:
        run.send_signal(signal.SIGKILL)
        run.wait(timeout=60)
        text = status("x.ckpt", work)
    first = text.splitlines()[0]
    assert f"(pid {run.pid} on " in first
    assert first.endswith("ended without a report: it was killed, or could not write one")
    done = json.loads(batchmill("status", "x.ckpt", "--json", cwd=work).stdout)["done"]
    again = command_of("continue", text)
    assert "--timeout 60" in again
    (work / "many.jsonl").write_text("".join(f'{{"id": "i{n}", "n": {n}}}\n' for n in range(done + 10)))
    ended = shell(again, Path("/"))
    assert ended.returncode == 1  # item 3 fails
    assert f"{done} skipped (done before)" in ended.stderr


def test_what_was_sampled_in_an_earlier_run_is_not_said_of_a_later_one(work: Path) -> None:
    batchmill("run", "sub/f.py:slow", "items.jsonl", "-c", "x.ckpt", "--limit", "5", cwd=work)
    with running(work, "--resume", "--set", "seconds=60", "--accept-changes") as run:
        now = wait_for_run(run.pid, work)
    assert now["total"] in (None, 5000)
    assert now["done"] == 4


def wait_for_run(pid: int, work: Path) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        now: dict[str, Any] = json.loads(batchmill("status", "x.ckpt", "--json", cwd=work).stdout)
        if now["live"] and now["live"]["pid"] == pid:
            return now
    raise AssertionError(f"process {pid} does not hold x.ckpt")


def test_damage_that_a_power_failure_left_is_not_called_clean(work: Path) -> None:
    with running(work, "--checkpoint-interval", "1h") as run:
        run.send_signal(signal.SIGKILL)
        run.wait(timeout=60)
    assert "damaged" not in status("x.ckpt", work)
    with Reader(str(work / "x.ckpt")) as reader:
        *_, last = (ref for ref, _ in reader.frames() if ref.type == FrameType.OUTCOMES)
    with (work / "x.ckpt").open("r+b") as file:
        file.seek(last.offset + last.length // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    assert "its end is damaged, as by a power failure" in status("x.ckpt", work)


def test_the_command_that_continues_has_the_settings_of_the_run() -> None:
    settings = Settings(
        workers=3, set={"a": [1], "b": "5", "c": "x y"}, shard=(1, 2), retry_failed=False, with_item=True,
        preload=("m",), id_field="k", limit=9, resume=True, retry_delay=2.5,
    )  # fmt: skip
    run = {"function": "tasks:f", "input": ["-odd.jsonl"], "settings": settings.as_dict(), "directory": "/srv"}
    words = run_again(run, "/srv/x.ckpt", absolute=True).partition(" run ")[2]
    assert words == (
        "tasks:f ./-odd.jsonl --id-field k --shard 1/2 --with-item --workers 3 --set 'a=[1]' --set 'b=\"5\"'"
        " --set 'c=x y' --preload m --no-retry-failed --retry-delay 2.5 -c /srv/x.ckpt --resume"
    )
    assert run_again({**run, "output": "a b.jsonl"}, "/srv/x.ckpt", absolute=True).endswith("-o 'a b.jsonl' --resume")
    assert run_again({**run, "input": []}, "/srv/x.ckpt", absolute=True) == ""


def test_a_run_that_an_error_ended_is_not_called_killed(work: Path) -> None:
    (work / "g.py").write_text("raise ValueError('not today')\n\n\ndef f(item):\n    return item\n")
    ended = batchmill("run", "g.py:f", "items.jsonl", "-c", "x.ckpt", "-o", "out.jsonl", cwd=work)
    assert ended.returncode == 78
    text = status("x.ckpt", work)
    assert "ended by an error, 0 of " in text
    assert json.loads(batchmill("status", "x.ckpt", "--json", cwd=work).stdout)["report"]["exit_code"] == 78
    assert command_of("continue", text).endswith("-o out.jsonl --resume")
