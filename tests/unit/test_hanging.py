"""Facts about a test that hangs: it costs itself, not the suite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from process_kit import is_running
from tree_kit import ROOT, TESTS

PROJECT = ROOT / "pyproject.toml"

HANGING = """
import subprocess, sys
import pytest

CHILD = [sys.executable, "-c", "import time; time.sleep(1000)"]

def test_before():
    pass

@pytest.mark.timeout(1)
def test_that_hangs():
    with subprocess.Popen(CHILD, start_new_session=True) as child:
        with open("child", "w") as file:
            file.write(str(child.pid))
        child.wait()

def test_after():
    pass

@pytest.fixture
def hanging_at_its_end():
    yield
    subprocess.Popen(CHILD).wait()

@pytest.mark.timeout(1)
def test_whose_fixture_hangs_once_it_has_failed(hanging_at_its_end):
    raise ValueError

def test_last():
    pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what a process left behind is read from /proc")
def test_all_others_run_and_what_it_started_is_killed(tmp_path: Path) -> None:
    (tmp_path / "tests" / "kits").mkdir(parents=True)
    for name in ("conftest.py", "kits/hang_kit.py", "kits/process_kit.py", "kits/sample_kit.py"):
        shutil.copy(TESTS / name, tmp_path / "tests" / name)
    shutil.copy(PROJECT, tmp_path)
    (tmp_path / "tests" / "test_hanging.py").write_text(HANGING)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "TEST_PROCESS"))}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "1", "-o", "timeout_more=1"], cwd=tmp_path, env=environ,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    said = ended.stdout
    assert ended.returncode == 1, said
    assert "crashed while running 'tests/test_hanging.py::test_that_hangs'" in said
    assert "crashed while running 'tests/test_hanging.py::test_whose_fixture_hangs_once_it_has_failed'" in said
    assert "3 failed, 3 passed" in said, said
    assert not is_running(int((tmp_path / "child").read_text()))
