"""What is preloaded is imported once, from beside the function; workers have threads and numbers of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_kit import batchmill
from process_kit import LIMIT, started

BESIDE = """
import os, random
import numpy as np
OWN, SEEDED = random.Random(), random.Random()
SEEDED.seed(7)
HOME, CAP = os.getpid(), os.environ.get("OMP_NUM_THREADS")
FREE, CHOSEN = np.random.default_rng(), np.random.default_rng(42)
print("imported")
"""
WORK = """
import os, random
def work(_):
    import beside, numpy as np
    own = [float(np.random.rand()), float(beside.FREE.random()), random.random(), beside.OWN.random()]
    chosen = [float(beside.CHOSEN.random()), beside.SEEDED.random()]
    return [own, chosen, beside.HOME, beside.CAP == os.environ["OMP_NUM_THREADS"]]
"""
FORKED = """
import random
import batchmill, numpy as np
CHOSEN = np.random.default_rng(3)

def numbers(_):
    return np.random.rand(), random.random(), CHOSEN.random()

if __name__ == "__main__":
    found = batchmill.map(numbers, range(4), workers=1, max_items_per_worker=1, start_method="fork")
    print([len(set(column)) for column in zip(*found)])
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
    assert all(rest == results[0][1:] for _, *rest in results)
    assert results[0][-1] is True


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


def test_workers_forked_from_a_program_have_random_numbers_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(FORKED)
    with started([sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate(timeout=LIMIT)[0] == "[4, 4, 1]\n"
