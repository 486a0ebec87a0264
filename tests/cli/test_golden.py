"""Checkpoints that released versions have written are read, and gone on with, by this one.

A folder of tests/data for each version, with `make.sh`, which made it. They are never made again.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_kit import batchmill as program
from tree_kit import TESTS

import batchmill

VERSIONS = sorted(path.name for path in (TESTS / "data").iterdir())


@pytest.fixture(params=VERSIONS)
def work(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of what a version left."""
    shutil.copytree(TESTS / "data" / request.param, tmp_path / "work")
    (tmp_path / "work" / "f.txt").rename(tmp_path / "work" / "f.py")
    return tmp_path / "work"


def rich(work: Path, n: int) -> Any:
    """What the function of `values.ckpt` returns."""
    spec = importlib.util.spec_from_file_location("golden_functions", work / "f.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.rich(n)


def test_results_failures_and_what_happened_are_read(work: Path) -> None:
    assert program("results", "run.ckpt", cwd=work).stdout == (work / "run.jsonl").read_text()
    assert program("failures", "run.ckpt", "--items", cwd=work).stdout == (work / "failed.jsonl").read_text()
    status = json.loads(program("status", "run.ckpt", "--json", cwd=work).stdout)
    assert (status["done"], status["failed"], len(status["runs"])) == (35, 5, 2)
    assert program("verify", "run.ckpt", cwd=work).returncode == 0
    assert "5x ValueError" in program("failures", "run.ckpt", cwd=work).stdout
    assert program("report", "run.ckpt", "-o", "run.html", cwd=work).returncode == 0
    assert [json.loads(line)["id"] for line in program("results", "exec.ckpt", cwd=work).stdout.splitlines()] == [
        "alpha", "beta", "gamma",
    ]  # fmt: skip


def test_values_of_all_kinds_are_what_they_were(work: Path) -> None:
    with batchmill.open_checkpoint(str(work / "values.ckpt")) as found:
        results = [outcome.result for outcome in found.outcomes()]
    expected = [rich(work, n) for n in range(27)]
    assert results == expected
    assert [type(result) for result in results] == [type(value) for value in expected]


def test_a_run_goes_on_with_it(work: Path) -> None:
    (work / "items.jsonl").write_text((work / "items.jsonl").read_text() + '{"id": "new", "n": 100}\n')
    ended = program("run", "f.py:work", "items.jsonl", "-c", "run.ckpt", "--resume", "--json", cwd=work)
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["skipped"], report["completed"], report["failed"]) == (1, 35, 1, 5), ended.stderr


def test_one_that_a_crash_cut_short_goes_on_too(work: Path) -> None:
    data = (work / "run.ckpt").read_bytes()
    (work / "run.ckpt").write_bytes(data[:-200])
    ended = program("run", "f.py:work", "items.jsonl", "-c", "run.ckpt", "--resume", "--json", cwd=work)
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["skipped"] + report["completed"], report["failed"]) == (1, 35, 5), ended.stderr
