"""`batchmill report`: which checkpoints give a page, what is on it, and that nothing in them can break it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from checkpoint_kit import read_frames
from cli_kit import EVIL, PROGRAM, batchmill, environment, wait_for_outcomes
from process_kit import start
from timeline_kit import ZERO, Writer

from batchmill.checkpoint.frames import FrameType
from batchmill.checkpoint.timeline_reader import read_timeline
from batchmill.codec.outcomes import pack_map
from batchmill_cli.html_report.page import render

FUNCTIONS = """
import time

def picky(item):
    if item["n"] % 10 == 3:
        raise ValueError(f"<b>bad & worse</b> {item['n']}")
    return item["n"]

def slow(item):
    time.sleep(0.05)
    return item["n"]
"""
HEADINGS = ["Totals", "Over time", "Items", "Failures", "Runs", "Settings and machine"]


@pytest.fixture(scope="module")
def ended_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a checkpoint, x.ckpt, of a run of 50 items of which 5 failed."""
    work = tmp_path_factory.mktemp("ended")
    (work / "f.py").write_text(FUNCTIONS)
    (work / "items.jsonl").write_text("".join(f'{{"id": "i{n}", "n": {n}}}\n' for n in range(50)))
    assert batchmill("run", "f.py:picky", "items.jsonl", "-c", "x.ckpt", "-q", cwd=work).returncode == 1
    return work


@pytest.fixture
def work(ended_run: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(ended_run, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    return tmp_path


def body(page: str) -> ET.Element:
    """The page's body; a ParseError where its markup is not whole."""
    found = page[page.index("<body>") : page.index("</body>") + len("</body>")]
    return ET.fromstring(re.sub(r"<br>", "<br/>", found))


def words(element: ET.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def test_a_run_that_ended_becomes_a_page_with_all_its_parts(work: Path) -> None:
    ended = batchmill("report", "x.ckpt", "-o", "x.html", cwd=work)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    page = (work / "x.html").read_text()
    assert batchmill("report", "x.ckpt", "-o", "-", cwd=work).stdout[:200] == page[:200]
    root = body(page)
    assert [words(found) for found in root.iter("h2")] == HEADINGS
    text = words(root)
    assert "5 of 50 items failed (exit 1)" in text
    assert re.search(r"<b>bad & worse</b> [0-4]?3", text)  # the first one that was committed
    assert "Done 45 of 50 Failed 5 " in text
    assert f"python {platform.python_version()}" in text
    assert sorted(path.name for path in work.iterdir()) == ["f.py", "items.jsonl", "x.ckpt", "x.html"]


def test_every_plot_is_told_in_words_and_has_its_table(work: Path) -> None:
    root = body(batchmill("report", "x.ckpt", "-o", "-", cwd=work).stdout)
    figures = list(root.iter("figure"))
    assert len(figures) >= 3
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for figure in figures:
        (plot,) = [svg for svg in figure.iter("svg") if svg.get("role") == "img"]
        title, about = (plot.get("aria-labelledby") or "").split()
        assert {title, about} <= set(ids)
        assert [words(plot[0]) != "", words(plot[1]) != "", plot[0].tag, plot[1].tag] == [True, True, "title", "desc"]
        (behind,) = figure.iter("details")
        assert len(list(behind.iter("tr"))) >= 2
        assert [th.get("scope") for th in behind.iter("th")].count(None) == 0


def test_nothing_in_a_checkpoint_becomes_markup(work: Path) -> None:
    writer = Writer(work / "evil.ckpt")
    writer.run(0, function=EVIL, input=[EVIL], settings={EVIL: EVIL, "set": {EVIL: 1}}, directory=EVIL, host=EVIL,
               machine={"cpu": EVIL, "memory": EVIL}, versions={EVIL: EVIL}, path=EVIL)  # fmt: skip
    writer.outcomes(0, [1.0] * 3, failures={0: (EVIL, EVIL)})
    writer.sample(3, ends=[[ZERO + 1, 0, 1, None, EVIL]])
    page = render(writer.timeline())
    root = body(page)
    assert {element.tag for element in root.iter()} & {"script", "img", "style", "iframe", "a", "form"} == set()
    assert [name for element in root.iter() for name in element.attrib if name.startswith("on")] == []
    assert page.count("<script") == page.count("<img") == 0
    assert page.count("</style>") == page.count("</title>") - page.count("<title", page.index("<body")) == 1
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "<script>window.caught" in words(root)
    assert re.findall(r"(?:https?:)?//[\w.]", page) == []


def test_a_live_run_is_said_to_be_running(work: Path) -> None:
    (work / "many.jsonl").write_text("".join(f'{{"id": "i{n}", "n": {n}}}\n' for n in range(5000)))
    command = [*PROGRAM, "run", "f.py:slow", "many.jsonl", "-c", "y.ckpt", "-j", "2"]
    run = start(command, cwd=work, env=environment(), stderr=subprocess.DEVNULL)
    try:
        wait_for_outcomes(work / "y.ckpt")
        live = batchmill("report", "y.ckpt", "-o", "-", cwd=work)
        run.send_signal(signal.SIGKILL)
        run.wait(timeout=60)
        killed = batchmill("report", "y.ckpt", "-o", "-", cwd=work)
    finally:
        run.kill()
        run.wait(timeout=60)
    assert re.search(r"Still running since [-0-9: ]+: this is how it stood at ", words(body(live.stdout)))
    assert "Run 1 ended without a report (it was killed" in words(body(killed.stdout))


def test_a_checkpoint_without_outcomes_gives_a_page_that_says_so(work: Path) -> None:
    writer = Writer(work / "y.ckpt")
    writer.run(0)
    text = words(body(render(writer.timeline())))
    assert "There is no outcome yet" in text
    assert "Runs" in text


@pytest.mark.parametrize("seconds", [[0.0], [1e-9, 1e9], [0.001] * 1000, [3.0, 3.01]])
def test_any_spread_of_seconds_can_be_drawn(work: Path, seconds: list[float]) -> None:
    writer = Writer(work / "y.ckpt")
    writer.run(0)
    writer.outcomes(0, seconds)
    page = render(writer.timeline())
    assert "nan" not in page.replace("unterminated", "")
    assert re.findall(r"\binf\b", page) == []
    assert "How long items took" in words(body(page))


def test_many_runs_workers_and_failures_make_a_page_below_half_a_megabyte(work: Path) -> None:
    writer = Writer(work / "y.ckpt")
    for number in range(60):
        writer.run(number * 1000, settings={"workers": 300}, workers=300)
        for worker in range(0, 300, 7):
            failures = {n: (f"Error{'abcdefghijklmnopqrstuvwxyz'[n]}", "word " * 30 + "x" * worker) for n in range(20)}
            writer.outcomes(number * 1000 + worker, [worker + 0.01] * 20, failures=failures, worker=worker, pid=number)
            writer.sample(number * 1000 + worker, ends=[[ZERO + number * 1000 + worker, worker, 1, 0, "recycled"]])
    page = render(writer.timeline())
    assert len(page.encode()) < 500_000
    assert "in the middle are left out" in words(body(page))


def test_a_torn_end_and_one_that_a_power_failure_damaged_are_mentioned(work: Path) -> None:
    with open(work / "x.ckpt", "ab") as file:
        file.write(b"\xf7BM")
    torn = batchmill("report", "x.ckpt", "-o", "-", cwd=work)
    assert (torn.returncode, torn.stderr) == (0, "")
    assert "The last frame was cut short" in words(body(torn.stdout))
    with open(work / "x.ckpt", "ab") as file:
        file.write(b"F" + b"garbage" * 20)
    damaged = batchmill("report", "x.ckpt", "-o", "-", cwd=work)
    assert damaged.returncode == 0
    assert "end is damaged, as by a power failure" in words(body(damaged.stdout))


def test_a_damaged_checkpoint_is_refused_and_an_older_page_left_alone(work: Path) -> None:
    (ref, *_) = [ref for ref, _ in read_frames(str(work / "x.ckpt")) if ref.type == FrameType.OUTCOMES]
    with open(work / "x.ckpt", "r+b") as file:
        file.seek(ref.start + 5)
        file.write(b"\xff\xff")
    (work / "x.html").write_text("the page of yesterday")
    ended = batchmill("report", "x.ckpt", "-o", "x.html", cwd=work)
    assert ended.returncode == 65
    assert "verify --salvage" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert (work / "x.html").read_text() == "the page of yesterday"
    assert sorted(path.name for path in work.iterdir()) == ["f.py", "items.jsonl", "x.ckpt", "x.html"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("none.ckpt", "-o", "x.html"), 66, "none.ckpt: no such checkpoint; check its path"),
        (("items.jsonl", "-o", "x.html"), 65, "items.jsonl is not a checkpoint; check the path"),
        (("x.ckpt", "-o", "x.ckpt"), 2, "is the same file as the checkpoint x.ckpt"),
        (("x.ckpt", "-o", "none/x.html"), 74, "cannot write none/x.html: No such file or directory"),
        (("x.ckpt",), 2, "Missing option '-o'"),
    ],
)
def test_what_cannot_be_is_one_line_that_says_why(work: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    size = os.path.getsize(work / "x.ckpt")
    ended = batchmill("report", *arguments, cwd=work)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (code, 1)
    assert said in ended.stderr
    assert os.path.getsize(work / "x.ckpt") == size
    assert not (work / "x.html").exists()


def test_a_later_run_frame_of_the_same_run_begins_no_new_one(work: Path) -> None:
    writer = Writer(work / "y.ckpt")
    writer.run(0)
    writer.file.append(FrameType.RUN, pack_map({"run": 1, "source": "abc"}))
    writer.outcomes(0, [1.0])
    writer.file.close()
    (run,) = read_timeline(str(work / "y.ckpt")).runs
    assert run.facts["source"] == "abc"
