"""How many items there are is said to be unknown wherever it is, and in the same words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_kit import batchmill, shell

from batchmill.batch.progress import Progress
from batchmill.errors import ItemsFailed
from batchmill.model import Report


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """Where a batch of items out of a pipe was stopped by its limit."""
    (tmp_path / "f.py").write_text("def ident(line):\n    return line\n")
    ended = shell(
        "seq 100000 | $BM run f.py:ident - --format lines -c x.ckpt --limit 3 --metrics m.prom -o out.jsonl", tmp_path
    )
    assert ended.returncode == 3
    first, *rest = ended.stderr.splitlines()
    assert first.startswith("batchmill: stopped by --limit, 3 items (total not known) done (exit 3)")
    assert "items     total not known, 3 completed, 0 skipped (done before), 0 failed" in rest
    return tmp_path


def test_who_reads_the_checkpoint_of_a_pipe_that_was_not_read_to_its_end_knows_no_total(stopped: Path) -> None:
    said = batchmill("status", "x.ckpt", cwd=stopped).stdout
    assert "3 items (total not known) done" in said
    found = json.loads(batchmill("status", "x.ckpt", "--json", cwd=stopped).stdout)
    assert (found["total"], found["estimate"]) == (None, None)
    assert (found["report"]["total"], found["report"]["remaining"], found["report"]["completed"]) == (None, None, 3)
    metrics = (stopped / "m.prom").read_text()
    assert "batchmill_items_total" in metrics
    assert "input_items" not in metrics
    assert "remaining_items" not in metrics
    assert batchmill("report", "x.ckpt", "-o", "x.html", cwd=stopped).returncode == 0
    page = (stopped / "x.html").read_text()
    assert "total not known" in page
    assert 'class="bar"' not in page
    assert batchmill("verify", "x.ckpt", cwd=stopped).returncode == 0


def test_a_small_file_is_counted_though_the_run_stops_before_its_end(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def ident(line):\n    return line\n")
    (tmp_path / "in.txt").write_text("".join(f"{n}\n" for n in range(1000)))
    ended = batchmill("run", "f.py:ident", "in.txt", "-c", "x.ckpt", "--limit", "3", "--shard", "1/1", cwd=tmp_path)
    assert ended.stderr.startswith("batchmill: stopped by --limit, 3 of 1000 items done (exit 3)")
    shard = batchmill("run", "f.py:ident", "in.txt", "-c", "y.ckpt", "--limit", "3", "--shard", "1/4", cwd=tmp_path)
    assert "3 items (total not known) done" in shard.stderr
    assert json.loads(batchmill("status", "y.ckpt", "--json", cwd=tmp_path).stdout)["estimate"] == 250


def progress(shards: int, total: int | None) -> Progress:
    return Progress(
        total=lambda: total, before=lambda: (0, 0), append=lambda *frame: None, on_progress=None, interval=1.0,
        shards=shards,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shards", "total", "line"),
    [(1, 1000, "0/1000 0.0%"), (4, 1000, "0/~250 0.0%"), (4, None, "0 done"), (1, None, "0 done")],
)
def test_the_progress_line_of_a_shard_says_about_how_many_there_are(shards: int, total: int | None, line: str) -> None:
    assert str(progress(shards, total).snapshot()).startswith(f"{line} | ")


def test_an_estimate_is_never_reached() -> None:
    shard = progress(4, 1000)
    shard.ok = 300
    assert str(shard.snapshot()).startswith("300/~300 99.9%")


def test_failures_are_counted_though_nobody_knows_of_how_many() -> None:
    report: Report = progress(1, None).report(
        None, changed=0, repeated=0, older_source=0, workers=1, stopped="limit", exit_code=3, function="f",
        checkpoint=None,
    )  # fmt: skip
    object.__setattr__(report, "failed", 2)
    with pytest.raises(ItemsFailed, match=r"^2 items failed"):
        report.raise_for_failures()
