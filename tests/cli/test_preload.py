"""What is preloaded is imported once, from beside the function; workers have threads and numbers of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_kit import batchmill

BESIDE = """
import os
import numpy as np
HOME, CAP = os.getpid(), os.environ.get("OMP_NUM_THREADS")
FREE, CHOSEN = np.random.default_rng(), np.random.default_rng(42)
print("imported")
"""
WORK = """
import os, random
def work(_):
    import beside, numpy as np
    own = [float(np.random.rand()), float(beside.FREE.random()), random.random()]
    return [own, float(beside.CHOSEN.random()), beside.HOME, beside.CAP == os.environ["OMP_NUM_THREADS"]]
"""
RUN = ("run", "../work.py:work", "../in.txt", "--no-checkpoint", "--workers", "2", "-o", "-")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory that is not the function's."""
    for name, text in {"beside.py": BESIDE, "work.py": WORK, "in.txt": "1\n2\n3\n4\n"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def test_a_module_beside_the_function_is_imported_once_and_workers_differ(place: Path) -> None:
    found = batchmill(*RUN, "--preload", "beside", "--max-items-per-worker", "1", cwd=place)
    assert (found.returncode, found.stderr.count("imported")) == (0, 1), found.stderr
    results = [json.loads(line)["result"] for line in found.stdout.splitlines()]
    for numbers in zip(*(own for own, *_ in results)):
        assert len(set(numbers)) == 4
    (same,) = {tuple(rest) for _, *rest in results}
    assert same[2] is True


@pytest.mark.parametrize(
    ("module", "text", "code", "said"),
    [
        ("wrong", "raise ValueError('it is wrong')", 78, "--preload wrong: its import raised ValueError:"),
        ("ends", "import sys; sys.exit(3)", 78, "--preload ends: its import exited with SystemExit:"),
        ("nowhere", None, 2, "--preload nowhere: there is no module 'nowhere'; name one in "),
    ],
)
def test_a_module_that_cannot_be_preloaded_is_one_error(
    module: str, text: str | None, code: int, said: str, place: Path
) -> None:
    if text is not None:
        (place.parent / f"{module}.py").write_text(text)
    found = batchmill(*RUN, "--preload", module, cwd=place)
    assert found.returncode == code
    assert found.stderr.count(said) == 1, found.stderr
    assert "importlib" not in found.stderr


def test_what_is_said_of_sharing_is_true(place: Path) -> None:
    found = batchmill(*RUN, "--preload", "beside", "--start-method", "fork", "-v", cwd=place)
    assert "Imported in each worker (start method fork): beside" in found.stderr
    assert found.stderr.count("imported\n") == 2
