"""The pages: their commands work as printed, their links lead somewhere, and they name no file that is not there."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path

import process_kit
import pytest
from tree_kit import ROOT

import batchmill
from batchmill_cli.group import COMMANDS, program
from batchmill_cli.options.click_options import Option

PAGES = [
    *("README.md", "CHANGELOG.md", "cli/README.md", "engine/README.md", "engine/PYTHON.md", "tests/README.md"),
    *("bench/README.md", ".github/CONTRIBUTING.md"),
]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
MAIN = f"{URLS['Source']}/blob/main/"  # where a page that is also read elsewhere (the package index) links to

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INSTALLS = re.compile(r"make |pip |python3 -m venv |\.venv/bin/|batchmill demo")  # the demo has a test of its own
EXIT = re.compile(r"# exit (\d+)$")
LINK = re.compile(r"\[[^][]*\]\(([^() ]+)\)|^\[[^][]+\]: (\S+)$", re.MULTILINE)
FOLDERS = ("engine", "cli", "tests", "bench", ".github", ".ci")
ROOMS = {path.parent.name for path in ROOT.glob("engine/batchmill/*/__init__.py")}
CLI_ROOMS = {path.parent.name for path in ROOT.glob("cli/batchmill_cli/*/__init__.py")}
REFERENCE = re.compile(r"(\b[\w./-]*[A-Z]\w*\.md)(?:#([\w-]+))?")  # of code to a page
NAMED = re.compile(r"[\w.-]+(?:/[\w.-]+)+")


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def prose_of(page: str) -> str:
    """A page without its blocks."""
    return BLOCK.sub("", text_of(page))


def steps(page: str) -> list[tuple[str, list[str]]]:
    """(command, the lines printed below it) of every console block, and python blocks as files or programs."""
    found: list[tuple[str, list[str]]] = []
    for kind, body in BLOCK.findall(text_of(page)):
        if kind == "python":
            name = re.match(r"# (\w+\.py)\n", body)
            write = f"cat > {name[1] if name else 'program.py'} <<'EOF'\n{body}EOF"
            found.append((write if name else f"{write}\n{shlex.quote(sys.executable)} program.py", []))
        elif kind == "console":
            for line in body.splitlines():
                if line.startswith("$ "):
                    found.append((line[2:], []))
                else:
                    found[-1][1].append(line)
    return [(command, shown) for command, shown in found if not INSTALLS.match(command)]


def anchors(page: str) -> set[str]:
    """What a link can name of a page: its headings, as GitHub writes them."""
    heads = re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.replace("\\", "").lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", ["README.md", "cli/README.md", "engine/PYTHON.md"])
def test_every_command_of_a_page_does_what_is_printed_below_it(page: str, tmp_path: Path) -> None:
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    commands = steps(page)
    assert commands
    for command, shown in commands:
        out, err = tmp_path / "stdout", tmp_path / "stderr"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            started = process_kit.started(
                ["bash", "-c", command], cwd=tmp_path, env=environ, stdout=stdout, stderr=stderr
            )
            with started as process:
                status = process.wait(60)
        expected = EXIT.search(command)
        assert status == int(expected[1] if expected else 0), f"{command}\n{err.read_text()}"
        if shown:
            assert out.read_text().splitlines() == shown, command


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len(text_of("README.md").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages_and_headings_that_are_there(page: str) -> None:
    for link in (one or other for one, other in LINK.findall(prose_of(page))):
        inner = link.removeprefix(MAIN)
        if inner.startswith("https://"):
            assert not link.startswith(URLS["Source"]) or link.removeprefix(URLS["Source"]) in ("", "/issues"), link
            continue
        assert page != "README.md" or inner != link, f"{link}: the package index knows no relative links"
        name, _, anchor = inner.partition("#")
        base = ROOT if inner != link else (ROOT / page).parent
        target = (base / name).resolve() if name else ROOT / page
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors(str(target.relative_to(ROOT))), link


def candidates(name: str) -> list[Path]:
    """Where a file that a page names may be."""
    first = name.partition("/")[0]
    homes = {"": FOLDERS, "engine/batchmill": ROOMS, "cli/batchmill_cli": CLI_ROOMS}
    return [ROOT / home / name for home, folders in homes.items() if first in folders]


def is_there(place: Path) -> bool:
    return place.exists() or place.with_name(f"{place.name}.py").exists()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_no_file_that_is_not_there(page: str) -> None:
    quoted = re.findall(r"`([^`\n]+)`", prose_of(page))
    for name in (word for text in quoted for word in NAMED.findall(text)):
        if "*" in name or not (places := candidates(name.rstrip("."))):
            continue
        assert any(map(is_there, places)), f"{page} names {name}"
    tests = {path.name for path in (ROOT / "tests").rglob("*.py")}  # named without their folder
    assert set(re.findall(r"(?<![\w/])(?:test_\w+|\w+_kit)\.py", prose_of(page))) <= tests


def test_the_manual_has_every_command_and_every_option() -> None:
    manual = text_of("cli/README.md")
    manual = manual[: manual.index("\n## Coming from")]  # where options of other programs stand
    words = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", manual))
    for name in COMMANDS:
        command = program.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert f"`batchmill {name}" in manual
        for option in command.params:
            assert not isinstance(option, Option) or words & set(option.opts), f"{name} {option.opts}"


def test_pages_name_only_targets_that_make_has() -> None:
    targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):(?!=)", text_of("Makefile"), re.MULTILINE))
    known = {word for line in targets for word in line.split()}
    for page in PAGES:
        for said in re.findall(r"`make ([a-z -]+)", text_of(page)):
            assert set(said.split()) <= known, page


def test_the_fault_matrix_has_every_row_that_a_test_or_the_soak_is_named_for() -> None:
    matrix = set(re.findall(r"^\| (\d+) \|", text_of("tests/README.md"), re.MULTILINE))
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    soak = text_of("bench/soak_rows.py")
    named = {*re.findall(r"def test_row_(\d+)_", tests), *re.findall(r" Row\((\d+),", soak)}
    assert len(named) > 30
    assert named <= matrix


def test_what_code_refers_to_is_a_page_and_a_heading_that_is_there() -> None:
    paths = [path for folder in ("engine", "cli", "tests", "bench") for path in (ROOT / folder).rglob("*.py")]
    found = {match for path in paths for match in REFERENCE.findall(path.read_text()) if path != Path(__file__)}
    assert len(found) > 5
    for page, anchor in found:
        assert (ROOT / page).is_file(), page
        assert not anchor or anchor in anchors(page), f"{page}#{anchor}"


def test_every_row_of_the_engines_way_is_a_module() -> None:
    """The path of an item in engine/README.md is read module by module."""
    (way,) = (body for kind, body in BLOCK.findall(text_of("engine/README.md")) if body.startswith("input/streams"))
    modules = re.findall(r"^(\w+/\w+) ", way, re.MULTILINE)
    assert len(modules) > 10
    for module in modules:
        assert (ROOT / "engine/batchmill" / f"{module}.py").is_file(), module


def test_the_python_guide_has_every_public_name_and_every_setting() -> None:
    guide = text_of("engine/PYTHON.md")
    heads = {head.replace("\\", "") for head in re.findall(r"^### batchmill\.(\S+)$", guide, re.MULTILINE)}
    values = {name: getattr(batchmill, name) for name in batchmill.__all__}
    errors = {name for name, value in values.items() if isinstance(value, type) and issubclass(value, Exception)}
    errors -= {"BatchmillError"}
    assert heads == set(batchmill.__all__) - errors
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", guide[guide.index("### batchmill.BatchmillError") :], re.MULTILINE)
    assert set(re.findall(r"\w+", " ".join(rows))) == errors
    table = guide[guide.index("### batchmill.Settings") : guide.index("### batchmill.BatchmillError")]
    assert set(re.findall(r"`(\w+)=", table)) == {field.name for field in dataclasses.fields(batchmill.Settings)}
