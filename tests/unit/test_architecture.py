"""Facts about the house itself, read from its syntax trees: which room imports which, and how long functions are.

The rules are in the docstrings of the rooms (engine/batchmill/*/__init__.py): their line `May import: ...`, and their
`__all__`, the modules that other rooms may use.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from tree_kit import ROOT

from batchmill.settings import Settings

TREES = {"batchmill": ROOT / "engine" / "batchmill", "batchmill_cli": ROOT / "cli" / "batchmill_cli"}

# Modules that stand in no room. The ground may be imported by all; the rest join the rooms.
GROUND = {
    "settings",
    "settings_fields",
    "model",
    "errors",
    "failure_groups",
    "text",
    "version",
    "importing",
    "secrecy",
    "value_class",
}
DOORS = {"__init__", "__main__", "api", "roles", "arguments", "plan", "main", "group", "prewarm"}
PLAN_MAY_IMPORT = {"ground", "system", "files", "codec", "input", "checkpoint", "worker", "output"}

# What these get as arguments instead: clocks, sizes, bytes.
EFFECTS = {"os", "time", "multiprocessing", "concurrent", "subprocess", "signal", "socket", "shutil"}
_PURE = {
    "codec": "codes hashing ids json_form merging models outcomes pack table_forms unpack unsaid weight",
    "input": "fast_json formats json_choice rewrite tables",
    "checkpoint": "frames history histogram index matching payloads",
    "worker": "outline reply template",
    "output": "external_sort json_lines ordering rows",
    "pool": "watchdog",
    "scheduler": "chunk_size in_flight retries run_limits",
    "benchmark": "agreement scaling schedule",
    "batch": "duplicate_ids",
}
PURE = [*sorted(GROUND), *(f"{room}.{name}" for room, names in _PURE.items() for name in names.split())]
NAMES_ONLY = {
    "errors": {"signal"},
    "text": {"signal"},
    "importing": set(),
}  # what they use of EFFECTS: names of signals
# Where what is said is for a command line alone, or for a program alone, or is a part of a format's name.
ONE_TONGUE = {"plan", "input.dialects", "input.formats", "worker.command", "worker.template", "worker.passthrough",
              "cluster.dask_client", "benchmark.schedule", "benchmark.scaling", "batch.following"}  # fmt: skip
MAX_LINES = 50  # of a function, without its docstring


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), str(path))


def named(path: Path, package: str) -> str:
    """`room.module`, or `module` where it stands in none."""
    return ".".join(path.relative_to(TREES[package]).with_suffix("").parts)


MODULES = {
    package: {named(path, package): path for path in sorted(root.rglob("*.py"))} for package, root in TREES.items()
}
ROOMS = {
    package: {name.partition(".")[0]: path for name, path in modules.items() if name.endswith(".__init__")}
    for package, modules in MODULES.items()
}
EVERY = [(package, name) for package, modules in MODULES.items() for name in modules]


def room_of(name: str) -> str:
    room, dot, _ = name.rpartition(".")
    return room if dot else "ground" if name in GROUND else name


def may_import(package: str, room: str) -> set[str]:
    rule = re.search(r"^May import: ([^.]+)\.$", ast.get_docstring(tree_of(ROOMS[package][room])) or "", re.MULTILINE)
    assert rule is not None, f"{room} does not say what it may import"
    return {name.strip() for name in rule[1].split(",")}


def listed(package: str, room: str) -> set[str]:
    """The modules of a room that others may use."""
    for node in tree_of(ROOMS[package][room]).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


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


def used(tree: ast.AST, package: str, modules: Mapping[str, object]) -> set[str]:
    """The modules of a package that `tree` imports."""
    names = {name.removeprefix(f"{package}.") for name in imports(tree) if name.startswith(f"{package}.")}
    return names & set(modules)


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


def test_every_module_stands_in_a_room_or_is_known_by_name() -> None:
    for package, modules in MODULES.items():
        alone = {name for name in modules if "." not in name}
        assert alone <= GROUND | DOORS, package
    assert len(ROOMS["batchmill"]) == 12
    assert {name for name in PURE if name not in MODULES["batchmill"]} == set()


@pytest.mark.parametrize("package", MODULES)
def test_a_room_imports_nothing_itself_and_lists_modules_that_it_has(package: str) -> None:
    for room, path in ROOMS[package].items():
        assert list(imports(tree_of(path))) == [], room
        assert {f"{room}.{name}" for name in listed(package, room)} <= set(MODULES[package])


@pytest.mark.parametrize("package", MODULES)
def test_a_room_lists_no_module_that_nobody_outside_uses(package: str) -> None:
    everywhere = {
        (room_of(name) if own == package else own, module)
        for own, modules in MODULES.items()
        for name, path in modules.items()
        for module in used(tree_of(path), package, MODULES[package])
    }
    for room in ROOMS[package]:
        wanted = {name.partition(".")[2] for user, name in everywhere if room_of(name) == room and user != room}
        assert listed(package, room) == wanted - {"__init__"}, room


@pytest.mark.parametrize("package", MODULES)
def test_rooms_import_only_what_they_say_and_in_no_circle(package: str) -> None:
    rules = {room: may_import(package, room) for room in ROOMS[package]}
    TopologicalSorter(rules).prepare()  # raises CycleError
    for room, allowed in rules.items():
        for name, path in MODULES[package].items():
            if room_of(name) == room:
                found = {room_of(module) for module in used(tree_of(path), package, MODULES[package])}
                assert found - {room} <= allowed, name


def test_the_ground_imports_the_ground_alone_and_a_plan_what_lies_below_the_pool() -> None:
    modules = MODULES["batchmill"]
    for name in modules:
        found = {room_of(module) for module in used(tree_of(modules[name]), "batchmill", modules)}
        if name in GROUND:
            assert found <= {"ground"}, name
        elif name == "plan":
            assert found <= PLAN_MAY_IMPORT


@pytest.mark.parametrize("package", MODULES)
def test_no_module_imports_one_that_imports_it(package: str) -> None:
    modules = MODULES[package]
    graph = {name: used(tree_of(path), package, modules) - {name} for name, path in modules.items()}
    TopologicalSorter(graph).prepare()


def test_the_command_line_uses_what_the_engines_rooms_list() -> None:
    modules = MODULES["batchmill"]
    for name, path in MODULES["batchmill_cli"].items():
        for module in used(tree_of(path), "batchmill", modules):
            room, dot, inner = module.partition(".")
            assert not dot or inner in listed("batchmill", room), f"{name} imports {module}"


@pytest.mark.parametrize("name", MODULES["batchmill"])
def test_the_engine_knows_nothing_of_the_command_line(name: str) -> None:
    allowed = {"batchmill_cli"} if name == "__main__" else set()
    assert packages(tree_of(MODULES["batchmill"][name])) & {"click", "batchmill_cli"} == allowed


@pytest.mark.parametrize("name", MODULES["batchmill"])
def test_psutil_is_used_by_one_module_alone(name: str) -> None:
    assert ("psutil" in packages(tree_of(MODULES["batchmill"][name]))) == (name == "system.machine")


@pytest.mark.parametrize("name", MODULES["batchmill"])
def test_the_engine_prints_nothing(name: str) -> None:
    tree = tree_of(MODULES["batchmill"][name])
    assert "print" not in calls(tree)
    may = {"sys.stderr.write", "sys.stderr"} if name == "batch.progress_line" else set()  # for who asks for it
    assert {"sys.stdout.write", "sys.stderr.write", "sys.stdout", "sys.stderr"} & attributes(tree) <= may


def texts(tree: ast.AST) -> set[str]:
    """What may be said: all texts but docstrings."""
    nodes = list(ast.walk(tree))
    told = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told
    }


@pytest.mark.parametrize("name", [name for name in MODULES["batchmill"] if name not in ONE_TONGUE])
def test_an_option_is_called_as_whoever_is_told_writes_it(name: str) -> None:
    """By `text.option`: a program in Python is not told of `--resume`, nor a shell of `resume=True`."""
    options = "|".join(field.name.replace("_", "-") for field in dataclasses.fields(Settings))
    written = re.compile(rf"--({options})(?![\w-])|\b({options.replace('-', '_')})=(True|'|FILE)")
    assert [text for text in texts(tree_of(MODULES["batchmill"][name])) if written.search(text)] == []


@pytest.mark.parametrize("name", PURE)
def test_what_is_pure_touches_no_file_clock_or_process(name: str) -> None:
    tree = tree_of(MODULES["batchmill"][name])
    assert packages(tree) & EFFECTS <= NAMES_ONLY.get(name, set())
    assert "open" not in calls(tree)
    assert {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"} & attributes(tree) == set()


@pytest.mark.parametrize(("package", "name"), EVERY)
def test_a_module_begins_with_a_sentence_that_says_what_it_is_for(package: str, name: str) -> None:
    first = (ast.get_docstring(tree_of(MODULES[package][name])) or "").partition("\n\n")[0]
    assert re.match(r"[A-Z`].{20,}[.:]", first, re.DOTALL)


@pytest.mark.parametrize(("package", "name"), EVERY)
def test_no_function_is_longer_than_a_screen(package: str, name: str) -> None:
    assert long_functions(tree_of(MODULES[package][name])) == []


def public_methods(tree: ast.Module) -> Iterator[tuple[str, str, bool]]:
    """(class, method, whether it has a docstring) of public classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)) and not method.name.startswith("_"):
                    yield node.name, method.name, ast.get_docstring(method) is not None


@pytest.mark.parametrize("package", MODULES)
def test_a_public_method_says_what_it_does_unless_it_overrides_one_that_does(package: str) -> None:
    engine = [found for path in MODULES["batchmill"].values() for found in public_methods(tree_of(path))]
    told = {method for _, method, is_told in engine if is_told}
    for name, path in MODULES[package].items():
        for owner, method, is_told in public_methods(tree_of(path)):
            assert is_told or method in told, f"{name}: {owner}.{method}"


def test_the_checks_see_what_they_look_for() -> None:
    bad = ast.parse("def f():\n  from batchmill.pool import base\n  import click.core\n  print(os.name)\n  open('x')")
    assert used(bad, "batchmill", MODULES["batchmill"]) == {"pool.base"}
    assert packages(bad) == {"click", "batchmill"}
    assert calls(bad) == {"print", "open"}
    assert used(ast.parse("import batchmill.batch.commit as r"), "batchmill", MODULES["batchmill"]) == {"batch.commit"}
    assert room_of("pool.base") == "pool"
    assert (room_of("model"), room_of("plan")) == ("ground", "plan")
    assert "codec" in may_import("batchmill", "input")
    assert "pack" in listed("batchmill", "codec")
    assert long_functions(ast.parse("def f():\n" + "  x = 1\n" * 51)) == ["f: 51 lines"]
    assert long_functions(ast.parse("def f():\n  '''" + "\n" * 60 + "'''\n  x = 1\n")) == []
