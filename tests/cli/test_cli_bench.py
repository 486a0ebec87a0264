"""`batchmill bench` as a program, on real workers: what it prints, writes, refuses and leaves behind. No speeds."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_kit import PROGRAM, Terminal, batchmill, environment
from process_kit import start

from batchmill.benchmark import scaling
from batchmill.benchmark.benchmark import Findings
from batchmill.benchmark.sample import Sample
from batchmill.benchmark.scaling import Cell, Fit, Round
from batchmill.errors import InvalidUsage
from batchmill_cli.bench import plot

WORK = """
import os, time
def nap(item):
    time.sleep(0.002)
    return item["id"]
def long_nap(item):
    time.sleep(0.01)
def threads(item):
    time.sleep(0.002)
    return os.environ["OMP_NUM_THREADS"] if item["id"] > 3 else 0
def moody(item):
    time.sleep(0.002)
    if item["id"] == 7:
        raise ValueError("seven")
    if item["id"] == 9:
        os._exit(5)
    return time.time_ns() if item["id"] == 5 else 0
def many(items):
    assert len(items) in (1, 8), len(items)
    time.sleep(0.004)
    return [item["id"] for item in items]
def broken():
    pass
def bye():
    open("ended", "a").write(f"{os.getpid()} ")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "work.py").write_text(WORK)
    for name, count in (("items", 100), ("few", 12)):
        (folder / f"{name}.jsonl").write_text("".join(f'{{"id": {n}}}\n' for n in range(1, count + 1)))
    return folder


@pytest.fixture(scope="module")
def naps(place: Path) -> subprocess.CompletedProcess[str]:
    return batchmill("bench", "work.py:nap", "items.jsonl", "-j", "1,2", "--sample", "50", "-o", "naps.json", "--json",
                     "--end", "bye", cwd=place)  # fmt: skip


def measured(**changes: Any) -> Findings:
    """Findings without a measurement."""
    law = Fit(0.1, 0, 10)
    cells = tuple(
        Cell(n, None, tuple(Round(k, 10 / law.rate(n) + k / 100, 10, 0, 1.0, 10**6) for k in range(3)))
        for n in (1, 2, 4)
    )
    values = {"cells": cells, "cores": 4, "cores_from": "test", "sample": Sample((), 0, True), "schedule": None}
    return Findings(**{**values, **changes})


def test_the_object_has_cells_the_choice_the_fit_and_the_machine(naps: subprocess.CompletedProcess[str]) -> None:
    assert naps.returncode == 0, naps.stderr
    found = json.loads(naps.stdout)
    assert [cell["workers"] for cell in found["cells"]] == [1, 2]
    for cell in found["cells"]:
        assert cell["chunk_size"] == "auto"
        assert {r["items"] for r in cell["rounds"]} == {found["sample"]["items"] * found["sample"]["passes"]}
        assert cell["items_per_second"] > 0
        assert cell["startup_seconds"] > 0
        assert cell["peak_rss"] > 10**6
    assert found["cells"][0]["speedup"] == 1
    assert found["best"]["workers"] in (1, 2)
    assert found["fit"]["coherency"] == 0
    assert found["machine"]["cores"] >= 1
    assert (found["partial"], found["agree"], found["sample"]["failed"]) == (False, True, 0)


def test_the_file_holds_the_same_and_nothing_else_is_left(naps: subprocess.CompletedProcess[str], place: Path) -> None:
    written, shown = json.loads((place / "naps.json").read_text()), json.loads(naps.stdout)
    written["machine"].pop("load")
    shown["machine"].pop("load")
    assert written == shown
    left = {path.name for path in place.iterdir()}
    assert {name for name in left if name.endswith((".ckpt", ".partial")) or name.startswith(".")} == set()


def test_each_worker_has_an_end(naps: subprocess.CompletedProcess[str], place: Path) -> None:
    ended = (place / "ended").read_text().split()
    assert len(ended) == len(set(ended)) >= 2
    assert "--end bye" in json.loads(naps.stdout)["command"]


def test_it_is_said_beforehand_how_often_items_run(naps: subprocess.CompletedProcess[str]) -> None:
    first, second = naps.stderr.splitlines()[:2]
    assert "run again and again" in first
    sample = json.loads(naps.stdout)["sample"]
    assert f"up to {sample['passes'] * sample['rounds']} times" in second


def test_the_command_to_copy_runs(naps: subprocess.CompletedProcess[str], place: Path) -> None:
    words = shlex.split(json.loads(naps.stdout)["command"])
    words = words[words.index("run") :]
    assert words[:3] == ["run", "work.py:nap", "items.jsonl"]
    assert words[3:] == ["--end", "bye", "-j", words[-1]]
    assert batchmill(*words, "-n", cwd=place).returncode == 0


def test_workers_have_the_environment_that_a_run_gives_them_and_results_are_compared(place: Path) -> None:
    ended = batchmill(
        "bench", "work.py:threads", "items.jsonl", "-j", "1,2", "--sample", "20", "--chunk-size", "4",
        cwd=place, env={"PYTHON_CPU_COUNT": "2"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("with one core, all counts have one thread")
    assert "results differ between 1 and 2 workers: " in ended.stdout
    assert "chunk" in ended.stdout.splitlines()[1]
    command = ended.stdout.splitlines()[-1]
    assert command.endswith("--chunk-size 4")


def test_batch_sizes_are_an_axis_and_the_answer_names_one(place: Path) -> None:
    sizes = ("--batch-size", "1,8", "--sample", "32", "--seconds", "30", "--json")
    ended = batchmill("bench", "work.py:many", "items.jsonl", "-j", "1", *sizes, cwd=place)
    found = json.loads(ended.stdout)
    assert (ended.returncode, found["sample"]["failed"]) == (0, 0), ended.stderr
    assert [(cell["workers"], cell["batch_size"]) for cell in found["cells"]] == [(1, 1), (1, 8)]
    assert found["best"] == {"workers": 1, "chunk_size": None, "batch_size": 8}
    assert "batch size 8" in found["answer"]
    assert found["command"].endswith("-j 1 --batch-size 8")
    ended = batchmill("bench", "work.py:many", "items.jsonl", "--batch-size", "0", cwd=place)
    assert (ended.returncode, ended.stderr) == (
        2,
        "batchmill: --batch-size '0' is no list of batch sizes; write 1,16,auto\n",
    )


def test_failing_dying_and_changing_items_are_named_and_the_rest_is_measured(place: Path) -> None:
    ended = batchmill(
        "bench", "work.py:moody", "few.jsonl", "-j", "1,2", "--sample", "12", "-o", "moody.csv",
        cwd=place,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "2 sampled items failed, the one on line 7 with ValueError: seven" in ended.stdout
    assert "results differ from call to call: 1 item, the first on line 5" in ended.stdout
    assert "between" not in ended.stdout
    rows = list(csv.DictReader((place / "moody.csv").open()))
    assert [row["workers"] for row in rows] == ["1", "2"]
    assert sum(int(row["chosen"]) for row in rows) == 1


def test_a_file_that_cannot_be_written_any_more_costs_neither_the_survey_nor_the_table(place: Path) -> None:
    (place / "gone").mkdir()
    (place / "careless.py").write_text("import shutil\ndef f(item): shutil.rmtree('gone', ignore_errors=True)\n")
    ended = batchmill(
        "bench", "careless.py:f", "items.jsonl", "-j", "1,2", "--sample", "20", "-o", "gone/table.csv", cwd=place
    )
    assert (ended.returncode, ended.stderr.count("cannot write gone/table.csv")) == (74, 1)
    assert "run careless.py:f items.jsonl -j" in ended.stdout


def test_ctrl_c_prints_what_is_done_marks_the_file_and_dies_of_the_signal(place: Path) -> None:
    terminal = Terminal(
        ["bench", "work.py:long_nap", "items.jsonl", "-j", "1,2", "--sample", "100", "-o", "cut.json"], place
    )
    terminal.read_until(lambda seen: b"round 1/" in seen)
    terminal.press(b"\x03")
    assert terminal.end() == -signal.SIGINT
    assert b"not complete: ended by SIGINT" in terminal.seen
    written = json.loads((place / "cut.json").read_text())
    assert (written["partial"], written["stopped"]) == (True, "SIGINT")
    assert written["cells"]


def test_ctrl_c_while_workers_start_ends_it_too(place: Path) -> None:
    (place / "slow.py").write_text("import time\ntime.sleep(30)\ndef f(item): pass\n")
    process = start(
        [*PROGRAM, "bench", "slow.py:f", "items.jsonl", "--seconds", "30"], cwd=place, env=environment(),
        stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == -signal.SIGINT


def test_a_time_in_which_nothing_could_be_measured_is_no_success(place: Path) -> None:
    ended = batchmill("bench", "work.py:nap", "items.jsonl", "-j", "1", "--seconds", "10ms", cwd=place)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert "give more --seconds" in ended.stderr


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["-j", "0"], "-j '0'", 2),
        (["-j", "1..9999"], "1 to 1024", 2),
        (["--seconds", "0"], "--seconds 0", 2),
        (["--sample", "0"], "--sample 0", 2),
        (["--chunk-size", "x"], "--chunk-size 'x'", 2),
        (["-o", "x.txt"], "-o x.txt is none of .json, .csv, .md", 2),
        (["--plot", "x.pdf"], "--plot x.pdf is none of .svg, .png", 2),
        (["-o", "no/such.json"], "cannot write no/such.json", 74),
        (["--set", "x"], "--set 'x'", 2),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    place: Path, arguments: list[str], said: str, status: int
) -> None:
    ended = batchmill("bench", "work.py:nap", "items.jsonl", *arguments, cwd=place)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("function", "input", "status", "said"),
    [
        ("work.py:nobody", "items.jsonl", 2, "nobody"),
        ("work.py:nap", "missing.jsonl", 66, "missing.jsonl"),
        ("work.py:nap", "empty.jsonl", 66, "no items"),
        ("fails.py:f", "items.jsonl", 78, "not today"),
    ],
)
def test_what_a_run_refuses_is_refused(place: Path, function: str, input: str, status: int, said: str) -> None:
    (place / "empty.jsonl").write_text("\n\n")
    (place / "fails.py").write_text("def f(item): pass\nraise RuntimeError('not today')\n")
    ended = batchmill("bench", function, input, "-q", cwd=place)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert said in ended.stderr


# The picture


def test_the_picture_has_a_text_alternative_and_every_part(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = measured()
    path = tmp_path / "curve.svg"
    plot.draw(str(path), found, "<work.py>:f & co")
    text = path.read_text()
    best = scaling.choose(found.measured)
    assert "<title>&lt;work.py&gt;:f &amp; co</title>" in text
    assert f"Chosen: {best.workers}." in text[text.index("<desc>") : text.index("</desc>")]
    assert all(word in text for word in ("ideal", "fitted", "measured", f"chosen: {best.workers}"))
    plot.draw(str(tmp_path / "again.svg"), found, "<work.py>:f & co")
    assert (tmp_path / "again.svg").read_text() == text


def test_batch_sizes_stand_beside_the_curve(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    cells = [
        Cell(n, None, tuple(Round(k, 10 / rate + k / 100, 10, 0, 1.0, 10**6) for k in range(3)), batch_size=size)
        for n, size, rate in ((1, 1, 5), (1, 64, 20), (1, "auto", 18), (2, 1, 9), (2, 64, 39), (2, "auto", 35))
    ]
    found = measured(cells=tuple(cells))
    plot.draw(str(tmp_path / "sizes.svg"), found, "f")
    text = (tmp_path / "sizes.svg").read_text()
    assert all(word in text for word in (">batch size<", ">2 workers<", ">chosen: 64<", ">auto<", ">chosen: 2<"))
    assert re.search(
        r"With 2 workers: batch size 1 \S+; batch size 64 \S+; batch size auto \S+ Chosen: 64.</desc>", text
    )


def test_the_picture_may_be_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot.draw(str(tmp_path / "curve.png"), measured(), "f")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    with pytest.raises(InvalidUsage, match=r"pip install 'batchmill\[plot\]'"):
        plot.check()


def test_the_markdown_has_a_row_for_each_cell_and_the_answer() -> None:
    from batchmill_cli.bench.table import as_file, as_object

    found = measured(stopped="seconds")
    text = as_file("x.md", found, as_object(found, {"function": "f", "input": ["i"]}, "batchmill run f i -j 4"))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3
    assert len({row.count("|") for row in rows}) == 1
    assert "`batchmill run f i -j 4`" in text
    assert "(not complete)" in text
