"""Facts about the house itself, read from its syntax trees: who imports whom, what each module owns, how long it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENGINE = ROOT / "engine" / "batchmill"
CLI = ROOT / "cli" / "batchmill_cli"

README = (ROOT / "README.md").read_text()


def layers() -> dict[str, list[str]]:
    """The rows of the README's table of modules, the lowest first: a module imports only what stands before it."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", README.partition("## The house")[2], re.MULTILINE)
    return {layer: re.findall(r"`(\w+)`", modules) for layer, modules in reversed(rows)}


TABLE = layers()
ORDER = [name for modules in TABLE.values() for name in modules]
PURE = [name for layer, modules in TABLE.items() if layer.startswith(("values", "pure")) for name in modules]
MODULES = {path.stem: path for path in sorted(ENGINE.glob("*.py"))}
COMMANDS = {path.stem: path for path in sorted(CLI.glob("*.py"))}
SOURCES = sorted([*MODULES.values(), *COMMANDS.values()])

# What these get as arguments instead: clocks, sizes, bytes.
EFFECTS = {"os", "time", "multiprocessing", "concurrent", "subprocess", "signal", "socket", "shutil"}
NAMES_SIGNALS = {"errors", "text"}
MAX_LINES = 50  # of a function, without its docstring


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), str(path))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that an import in `tree` may load, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide from this test"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(tree: ast.AST) -> set[str]:
    return {name.partition(".")[0] for name in imports(tree)}


def siblings(tree: ast.AST) -> set[str]:
    """The modules of the engine that `tree` imports; `import batchmill`, or a name from it, is its front door."""
    found = set()
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"batchmill.{name}" for name in names] if node.module == "batchmill" else [node.module or ""]
        for package, _, rest in (name.partition(".") for name in names):
            if package == "batchmill":
                module = rest.partition(".")[0]
                found.add(module if module in ORDER else "__init__")
    return found


def calls(tree: ast.AST) -> set[str]:
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def attributes(tree: ast.AST) -> set[str]:
    return {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }


def long_functions(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[1:] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body
            lines = (node.end_lineno or 0) - first[0].lineno + 1
            if lines > MAX_LINES:
                found.append(f"{node.name}: {lines} lines")
    return found


def test_every_module_is_in_the_table_and_every_entry_is_a_module() -> None:
    assert len(PURE) > 20, "the README's table was not read"
    assert len(ORDER) == len(set(ORDER))
    assert set(MODULES) - set(ORDER) == set()
    assert set(ORDER) - set(MODULES) == set()


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards_only(name: str) -> None:
    assert name in ORDER, "which layer is it in?"
    below = set(ORDER[: ORDER.index(name)])
    assert siblings(tree_of(MODULES[name])) - below == set()


@pytest.mark.parametrize("name", MODULES)
def test_the_engine_knows_nothing_of_the_command_line(name: str) -> None:
    allowed = {"batchmill_cli"} if name == "__main__" else set()
    assert packages(tree_of(MODULES[name])) & {"click", "batchmill_cli"} == allowed


@pytest.mark.parametrize("name", MODULES)
def test_psutil_is_used_by_resources_alone(name: str) -> None:
    assert ("psutil" in packages(tree_of(MODULES[name]))) == (name == "resources")


@pytest.mark.parametrize("name", MODULES)
def test_the_engine_prints_nothing(name: str) -> None:
    tree = tree_of(MODULES[name])
    assert "print" not in calls(tree)
    assert {"sys.stdout.write", "sys.stderr.write", "sys.stdout", "sys.stderr"} & attributes(tree) == set()


@pytest.mark.parametrize("name", [name for name in PURE if name in MODULES])
def test_the_lowest_layers_touch_no_file_clock_or_process(name: str) -> None:
    tree = tree_of(MODULES[name])
    assert packages(tree) & EFFECTS == ({"signal"} if name in NAMES_SIGNALS else set())
    assert "open" not in calls(tree)
    assert {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"} & attributes(tree) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_a_module_begins_with_a_sentence_that_says_what_it_is_for(path: Path) -> None:
    first = (ast.get_docstring(tree_of(path)) or "").partition("\n\n")[0]
    assert re.match(r"[A-Z].{20,}[.:]", first, re.DOTALL)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_no_function_is_longer_than_a_screen(path: Path) -> None:
    assert long_functions(tree_of(path)) == []


def test_the_checks_see_what_they_look_for() -> None:
    bad = ast.parse("def f():\n  from batchmill import pool\n  import click.core\n  print(os.name)\n  open('x')")
    assert siblings(bad) == {"pool"}
    assert {"click", "batchmill"} == packages(bad)
    assert {"print", "open"} == calls(bad)
    assert siblings(ast.parse("import batchmill.batch as r")) == {"batch"}
    assert siblings(ast.parse("import batchmill")) == siblings(ast.parse("from batchmill import map")) == {"__init__"}
    assert long_functions(ast.parse("def f():\n" + "  x = 1\n" * 51)) == ["f: 51 lines"]
    assert long_functions(ast.parse("def f():\n  '''" + "\n" * 60 + "'''\n  x = 1\n")) == []
