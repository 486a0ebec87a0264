"""Facts about `make test-pythons`: which versions it looks for, and what its table says of them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import pythons
from debian_root import DebianRoot

PROJECT = tomllib.loads((pythons.TREE / "pyproject.toml").read_text())["project"]
RUNS = f"{sys.version_info.major}.{sys.version_info.minor}"

EXAMPLES = """
import pytest
def test_passes(): pass
def test_fails(): raise ValueError
@pytest.mark.skip(reason="no moon")
def test_is_skipped(): pass
@pytest.fixture
def broken(): raise ValueError
def test_has_no_start(broken): pass
"""


def test_every_version_that_is_claimed_is_tested() -> None:
    assert pythons.claimed()[0] == PROJECT["requires-python"].removeprefix(">=")
    assert RUNS in pythons.claimed()


def test_a_version_is_found_in_pyenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("3.97.9", "3.97.10", "3.9.7"):
        program = tmp_path / "versions" / name / "bin" / "python3.97"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\necho {program} {name}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    found = pythons.find("3.97", DebianRoot(tmp_path / "sid"))
    assert (found.version, found.root) == ("3.97.10", None)


def test_a_shim_for_a_version_that_is_not_there_is_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = tmp_path / "python3.97"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))  # where debootstrap is not either
    with pytest.raises(pythons.Missing, match=f"{shim} cannot make a virtual environment"):
        pythons.find("3.97", DebianRoot(tmp_path / "sid"))
    shim.unlink()
    with pytest.raises(pythons.Missing, match="neither on PATH nor in pyenv; Debian's needs root and debootstrap"):
        pythons.find("3.97", DebianRoot(tmp_path / "sid"))


def test_the_table_says_what_passed_and_why_the_rest_did_not(tmp_path: Path) -> None:
    (tmp_path / "test_examples.py").write_text(EXAMPLES)
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=report.xml"], cwd=tmp_path,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip
    tested = pythons.Row("3.12.1", "/bin/python3.12", "ok")
    pythons.read_report(tmp_path / "report.xml", tested)
    said = pythons.table([tested, pythons.Row("3.14", note="not found: nowhere")]).splitlines()
    assert said[1].split() == ["3.12.1", "ok", "1", "2", "1", "0.0", "/bin/python3.12"]
    assert said[2].endswith("-: not found: nowhere")
    assert said[3:] == [
        "failed: test_examples::test_fails (3.12.1)",
        "failed: test_examples::test_has_no_start (3.12.1)",
        "skipped: no moon (3.12.1)",
    ]
    assert not tested.is_good
