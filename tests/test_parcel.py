"""What goes along to another machine with a function, and where it is put there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from batchmill import parcel
from batchmill.errors import InvalidUsage
from batchmill.function import FunctionSpec, of_callable, parse
from batchmill.parcel import anchored, collect, settle


def write(directory: Path, files: dict[str, str]) -> Path:
    """Files by their paths."""
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def result(spec: FunctionSpec, call: str) -> str:
    """What an interpreter that knows only the spec's directory prints for an expression on its module."""
    code = f"import sys; sys.path.insert(0, {str(spec.directory)!r}); import {spec.module}; print({spec.module}.{call})"
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


# --- what goes along --------------------------------------------------------------------------------------------------


def test_a_file_takes_along_what_it_imports_from_beside_it_and_what_that_imports(tmp_path: Path) -> None:
    score = "import helper, json, numpy\nfrom batchmill import run\n\n"
    score += "def score(x):\n    from late import f\n    return f(x)\n"
    write(tmp_path, {"score.py": score, "helper.py": "import deeper\n", "deeper.py": "import helper\n"})
    write(tmp_path, {"late.py": "def f(x):\n    return x\n", "unused.py": ""})
    assert set(collect(parse("score.py:score", str(tmp_path)))) == {"score.py", "helper.py", "deeper.py", "late.py"}


def test_a_package_goes_whole_and_only_its_python_files(tmp_path: Path) -> None:
    score = "from common import x\n\ndef score(x):\n    return x\n"
    write(tmp_path, {"tasks/__init__.py": "", "tasks/score.py": score, "common.py": "x = 1\n"})
    write(tmp_path, {"tasks/deep/more.py": "", "other/__init__.py": ""})
    (tmp_path / "tasks" / "data.bin").write_bytes(b"1")
    assert set(collect(parse("tasks.score:score", str(tmp_path)))) == {
        "tasks/__init__.py", "tasks/score.py", "tasks/deep/more.py", "common.py",
    }  # fmt: skip


def test_the_module_of_an_initializer_goes_along(tmp_path: Path) -> None:
    write(tmp_path, {"score.py": "def score(x):\n    return x\n", "setup.py": "import more\n", "more.py": ""})
    spec = parse("score.py:score", str(tmp_path))
    assert set(collect(spec, "setup:begin")) == {"score.py", "setup.py", "more.py"}
    assert set(collect(spec, "begin")) == {"score.py"}


def test_what_cannot_be_parsed_goes_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, {"score.py": "import broken\n\ndef score(x):\n    return x\n", "broken.py": "def (\n"})
    assert collect(parse("score.py:score", str(tmp_path)))["broken.py"] == b"def (\n"


def test_modules_too_large_to_be_sent_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"score.py": "import large\n\ndef score(x):\n    return x\n", "large.py": "#" * 2000})
    monkeypatch.setattr(parcel, "MOST", 1000)
    with pytest.raises(InvalidUsage, match=r"score\.py:score are too large to be sent"):
        collect(parse("score.py:score", str(tmp_path)))


def test_a_function_of_an_installed_module_takes_nothing_along() -> None:
    for function in (os.path.basename, pytest.fixture):
        spec = anchored(of_callable(function))
        assert spec.directory is None
        assert collect(spec) == {}


def test_a_function_of_ones_own_module_is_found_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"own_tasks/__init__.py": "", "own_tasks/score.py": "def score(x):\n    return x\n"})
    monkeypatch.syspath_prepend(str(tmp_path))
    import own_tasks.score  # type: ignore[import-not-found]

    spec = anchored(of_callable(own_tasks.score.score))
    assert spec.directory == os.path.realpath(tmp_path)
    assert set(collect(spec)) == {"own_tasks/__init__.py", "own_tasks/score.py"}


# --- where it is put --------------------------------------------------------------------------------------------------


def test_where_the_same_files_lie_they_are_used_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, {"score.py": "def score(x):\n    return x\n"})
    spec = parse("score.py:score", str(tmp_path))
    there = tmp_path / "there"
    there.mkdir()
    assert settle(spec, collect(spec), str(there)) == spec
    assert not any(there.iterdir())


@pytest.mark.parametrize("change", ["edited", "longer", "gone", "all gone"])
def test_where_one_file_differs_all_are_put_elsewhere(change: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    write(here, {"score.py": "import helper\n\ndef score(x):\n    return helper.by * x\n", "helper.py": "by = 2\n"})
    spec = parse("score.py:score", str(here))
    files = collect(spec)
    if change in ("gone", "all gone"):
        (here / "helper.py").unlink()
    else:
        (here / "helper.py").write_text("by = 3\n" if change == "edited" else "by = 2\n\n")
    if change == "all gone":
        (here / "score.py").unlink()
    settled = settle(spec, files, str(there))
    assert settled == replace(spec, directory=str(there), path=str(there / "score.py"))
    assert result(settled, "score(21)") == "42"


def test_a_package_keeps_its_folders(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    write(
        here,
        {"tasks/__init__.py": "", "tasks/score.py": "from tasks.by import by\n\ndef score(x):\n    return by * x\n"},
    )
    write(here, {"tasks/by.py": "by = 2\n"})
    spec = parse("tasks.score:score", str(here))
    files = collect(spec)
    (here / "tasks" / "by.py").unlink()
    assert result(settle(spec, files, str(there)), "score(4)") == "8"
