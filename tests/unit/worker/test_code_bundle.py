"""What goes along to another machine with a function, and where it is put there."""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from batchmill.errors import InvalidUsage
from batchmill.worker import code_bundle
from batchmill.worker.code_bundle import anchored, collect, deliver, located, settled
from batchmill.worker.function import FunctionSpec, of_callable, parse


def write(directory: Path, files: dict[str, str]) -> Path:
    """Files by their paths."""
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def printed_by(*arguments: str, cwd: Path | None = None, input: bytes = b"") -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, *arguments]
    ended = subprocess.run(command, cwd=cwd, input=input, stdout=subprocess.PIPE, timeout=60, check=True)
    return ended.stdout.decode()


def result(spec: FunctionSpec, call: str) -> str:
    """What an interpreter that knows only the spec's directory prints for an expression on its module."""
    code = f"import sys; sys.path.insert(0, {str(spec.directory)!r}); import {spec.module}; print({spec.module}.{call})"
    return printed_by("-I", "-c", code).strip()


BEGIN = "import more\n\ndef begin():\n    pass\n"


def names(*specs: object) -> set[str]:
    """The files that go along, where all are of one directory."""
    (files,) = collect(*specs).values()
    return set(files)


# --- what goes along --------------------------------------------------------------------------------------------------


def test_a_file_takes_along_what_it_imports_from_beside_it_and_what_that_imports(tmp_path: Path) -> None:
    score = "import helper, json, numpy\nfrom batchmill import run\n\n"
    score += "def score(x):\n    from late import f\n    return f(x)\n"
    write(tmp_path, {"score.py": score, "helper.py": "import deeper\n", "deeper.py": "import helper\n"})
    write(tmp_path, {"late.py": "def f(x):\n    return x\n", "unused.py": ""})
    assert names(parse("score.py:score", str(tmp_path))) == {"score.py", "helper.py", "deeper.py", "late.py"}


def test_a_package_goes_whole_and_only_its_python_files(tmp_path: Path) -> None:
    score = "from common import x\n\ndef score(x):\n    return x\n"
    write(tmp_path, {"tasks/__init__.py": "", "tasks/score.py": score, "common.py": "x = 1\n"})
    write(tmp_path, {"tasks/deep/more.py": "", "other/__init__.py": ""})
    (tmp_path / "tasks" / "data.bin").write_bytes(b"1")
    assert names(parse("tasks.score:score", str(tmp_path))) == {
        "tasks/__init__.py", "tasks/score.py", "tasks/deep/more.py", "common.py",
    }  # fmt: skip


@pytest.mark.parametrize("score", ["tasks/score.py", "score.py"])
def test_a_package_without_init_goes_whole_as_well(score: str, tmp_path: Path) -> None:
    write(tmp_path, {score: "import lib.util\n\ndef score(x):\n    return lib.util.by * x\n"})
    write(tmp_path, {"lib/util.py": "by = 2\n", "lib/deep/more.py": "", "lib/.venv/own.py": ""})
    found = names(parse(f"{score.removesuffix('.py').replace('/', '.')}:score", str(tmp_path)))
    assert found == {score, "lib/util.py", "lib/deep/more.py"}


def test_what_cannot_be_read_is_left_behind(tmp_path: Path) -> None:
    write(tmp_path, {"tasks/__init__.py": "", "tasks/score.py": "def score(x):\n    return x\n"})
    for name in (".#score.py", "old.py"):  # the first is what Emacs leaves beside a file that is being edited
        (tmp_path / "tasks" / name).symlink_to("nowhere")
    os.mkfifo(tmp_path / "tasks" / "pipe.py")
    assert names(parse("tasks.score:score", str(tmp_path))) == {"tasks/__init__.py", "tasks/score.py"}


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write(tmp_path, {"tasks/__init__.py": "", "tasks/score.py": "def score(x):\n    return x\n", "far/away.py": ""})
    (tmp_path / "tasks" / "near").symlink_to(tmp_path / "far")
    (tmp_path / "tasks" / "self").symlink_to(".")
    assert {"tasks/score.py", "tasks/near/away.py"} <= names(parse("tasks.score:score", str(tmp_path)))


@pytest.mark.parametrize("init", ["setup:begin", "setup.py:begin"])
def test_the_module_of_an_initializer_goes_along(init: str, tmp_path: Path) -> None:
    write(tmp_path, {"score.py": "def score(x):\n    return x\n", "setup.py": BEGIN, "more.py": ""})
    spec = parse("score.py:score", str(tmp_path))
    assert names(spec, located(init, spec, str(tmp_path))) == {"score.py", "setup.py", "more.py"}
    assert located("begin", spec, str(tmp_path)) == "begin"
    assert located(None, spec, str(tmp_path)) is None


@pytest.mark.parametrize("init", ["setup:begin", "there/setup.py:begin"])
def test_an_initializer_elsewhere_has_a_directory_of_its_own(init: str, tmp_path: Path) -> None:
    where = tmp_path / "there" if "/" in init else tmp_path
    write(tmp_path, {"src/score.py": "import common\n\ndef score(x):\n    return x\n", "src/common.py": ""})
    write(where, {"setup.py": BEGIN, "more.py": "import common\n", "common.py": "shadowed = True\n"})
    spec = parse("src/score.py:score", str(tmp_path))
    assert {
        directory: set(files) for directory, files in collect(spec, located(init, spec, str(tmp_path))).items()
    } == {
        str(tmp_path / "src"): {"score.py", "common.py"},
        str(where): {"setup.py", "more.py"},
    }


def test_an_initializer_is_looked_for_beside_the_function_first(tmp_path: Path) -> None:
    write(tmp_path, {"src/score.py": "def score(x):\n    return x\n", "src/setup.py": BEGIN, "setup.py": BEGIN})
    found = located("setup:begin", parse("src/score.py:score", str(tmp_path)), str(tmp_path))
    assert isinstance(found, FunctionSpec)
    assert found.directory == str(tmp_path / "src")


def test_what_cannot_be_parsed_goes_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, {"score.py": "import broken\n\ndef score(x):\n    return x\n", "broken.py": "def (\n"})
    assert collect(parse("score.py:score", str(tmp_path)))[str(tmp_path)]["broken.py"] == b"def (\n"


def test_modules_too_large_to_be_sent_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"score.py": "import large\n\ndef score(x):\n    return x\n", "large.py": "#" * 2000})
    monkeypatch.setattr(code_bundle, "MOST", 1000)
    with pytest.raises(InvalidUsage, match=r"score\.py:score are too large to be sent"):
        collect(parse("score.py:score", str(tmp_path)))


def test_a_function_of_an_installed_module_takes_nothing_along() -> None:
    for function in (os.path.basename, pytest.fixture):
        spec = anchored(of_callable(function))
        assert spec.directory is None
        assert collect(spec) == {}


@pytest.mark.parametrize("package", ["own_tasks", "own_namespace"])
def test_a_function_of_ones_own_module_is_found_beside_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{package}/score.py": "def score(x):\n    return x\n"}
    if package == "own_tasks":
        files[f"{package}/__init__.py"] = "from own_tasks.score import score as begin\n"
    write(tmp_path, files)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module(f"{package}.score")
    spec = anchored(of_callable(module.score))
    assert spec.directory == os.path.realpath(tmp_path)
    assert names(spec) == set(files)
    if package == "own_tasks":
        assert anchored(FunctionSpec("module", package, "begin")).directory == spec.directory


def resolve_in(cwd: Path, spec: FunctionSpec, init: FunctionSpec) -> str:
    """The names of what a fresh process finds for a function and its initializer."""
    code = "import pickle, sys; from batchmill.worker.loader import resolve; "
    code += "found = resolve(*pickle.load(sys.stdin.buffer)); print(found.function.__name__, found.init.__name__)"
    payload = pickle.dumps((spec, init))
    return printed_by("-c", code, cwd=cwd, input=payload).strip()


# --- where it is put --------------------------------------------------------------------------------------------------


def settle(spec: FunctionSpec, folder: Path) -> FunctionSpec:
    """The spec where its files were brought to a folder."""
    return settled(spec, deliver(collect(spec), str(folder)))


def test_where_the_same_files_lie_they_are_used_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, {"score.py": "def score(x):\n    return x\n"})
    spec = parse("score.py:score", str(tmp_path))
    there = tmp_path / "there"
    there.mkdir()
    assert settle(spec, there) == spec
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
    found = settled(spec, deliver(files, str(there)))
    assert found.directory is not None
    assert Path(found.directory).parent == there
    assert found == replace(spec, directory=found.directory, path=os.path.join(found.directory, "score.py"))
    assert result(found, "score(21)") == "42"


@pytest.mark.parametrize("init", [True, False])
def test_a_package_keeps_its_folders(init: bool, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, {"tasks/score.py": "from tasks.by import by\n\ndef score(x):\n    return by * x\n"})
    write(here, {"tasks/by.py": "by = 2\n", **({"tasks/__init__.py": ""} if init else {})})
    spec = parse("tasks.score:score", str(here))
    files = collect(spec)
    (here / "tasks" / "by.py").unlink()
    found = settled(spec, deliver(files, str(there)))
    code = f"import sys; sys.path.insert(0, {found.directory!r}); from tasks.score import score; print(score(4))"
    assert printed_by("-I", "-c", code) == "8\n"


def test_function_and_initializer_of_two_directories_are_put_side_by_side(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, {"src/score.py": "def score(x):\n    return x\n", "setup.py": BEGIN, "more.py": ""})
    spec = parse("src/score.py:score", str(here))
    init = located("setup:begin", spec, str(here))
    files = collect(spec, init)
    shutil.rmtree(here)
    places = deliver(files, str(there))
    found, begin = settled(spec, places), settled(init, places)
    assert isinstance(begin, FunctionSpec)
    assert resolve_in(tmp_path, found, begin) == "score begin"
