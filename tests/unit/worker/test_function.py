"""Facts about FUNCTION: what a text or a callable means, and what a worker makes of it (in processes of their own)."""

from __future__ import annotations

import base64
import functools
import json
import math
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchmill.errors import BatchmillError, FunctionFailed, InputMissing, InvalidUsage, UnknownFunction
from batchmill.worker.function import FunctionSpec, of_callable, parse

WORKER = """
import base64, json, os, pickle, sys
from batchmill.errors import BatchmillError
from batchmill.worker.loader import resolve
spec, init = pickle.loads(base64.b64decode(sys.argv[1]))
try:
    found = resolve(spec, init)
    function = found.function
    answer = eval(sys.argv[2])
except BatchmillError as error:
    answer = {"error": type(error).__name__, "message": error.message, "remedy": error.remedy}
sys.__stdout__.write(json.dumps(answer))
"""


def write(folder: Path, name: str, source: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


def python(*args: str, cwd: Path | str = "/") -> str:
    done = subprocess.run([sys.executable, *args], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def worker(spec: FunctionSpec, ask: str, init: str | FunctionSpec | None = None, cwd: Path | str = "/") -> Any:
    """What a fresh process answers to the expression `ask` after resolving; `found` and `function` are there."""
    payload = base64.b64encode(pickle.dumps((spec, init))).decode()
    return json.loads(python("-c", WORKER, payload, ask, cwd=cwd))


def refused(kind: type[BatchmillError], action: Callable[[], object]) -> BatchmillError:
    with pytest.raises(kind) as caught:
        action()
    assert type(caught.value) is kind
    return caught.value


# ---- texts


def test_a_path_is_a_file_and_anything_else_a_module(tmp_path: Path) -> None:
    path = write(tmp_path, "score.py", "def crunch(item): ...")
    write(tmp_path, "pkg/__init__.py", "")
    write(tmp_path, "pkg/tools.py", "class Box:\n    def lid(self): ...")
    assert parse("score.py:crunch", str(tmp_path)) == FunctionSpec(
        "file", "score", "crunch", path=str(path), directory=str(tmp_path)
    )
    spec = parse("pkg.tools:Box.lid", str(tmp_path))
    assert spec == FunctionSpec("module", "pkg.tools", "Box.lid", directory=str(tmp_path))
    assert parse(f"{path}:crunch", "/").identity == "score:crunch"
    assert parse("./score.py:crunch", str(tmp_path)).display == "score.py:crunch"
    assert spec.identity == spec.display == "pkg.tools:Box.lid"


def test_a_slash_makes_a_file_of_any_name(tmp_path: Path) -> None:
    path = write(tmp_path, "bin/score", "def crunch(item): return item")
    spec = parse("bin/score:crunch", str(tmp_path))
    assert (spec.kind, spec.path) == ("file", str(path))
    assert worker(spec, "function(7)") == 7


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("score", "write score.py:NAME; functions in it: crunch, main"),
        ("score.py", "write score.py:NAME; functions in it: crunch, main"),
        ("score.py:", "write score.py:NAME; functions in it: crunch, main"),
        ("score.py::main", "write score.py:main"),
        ("score.py:main()", "write score.py:main"),
        ("score.py:Box:lid", "write score.py:Box.lid"),
        ("pkg.tools.run", "write pkg.tools:run"),
        ("a:b:c", "write a:b.c"),
        (":main", "write FILE.py:main"),
        ("", "write FILE.py:NAME"),
        ("nowhere", "write nowhere:NAME"),
        ("my-score:main", "write my-score.py:main"),
        ("score.py:9", "write score.py:NAME; functions in it: crunch, main"),
    ],
)
def test_a_malformed_text_is_answered_with_the_corrected_form(tmp_path: Path, text: str, remedy: str) -> None:
    write(tmp_path, "score.py", "def crunch(item): ...\ndef _private(): ...\ndef main(): ...")
    write(tmp_path, "my-score.py", "def main(): ...")
    write(tmp_path, "pkg/__init__.py", "")
    error = refused(UnknownFunction, lambda: parse(text, str(tmp_path)))
    assert error.exit_code == 2
    assert error.remedy == remedy
    assert repr(text) in error.message


def test_a_missing_file_is_66_and_names_the_one_meant(tmp_path: Path) -> None:
    write(tmp_path, "src/scores.py", "")
    error = refused(InputMissing, lambda: parse("src/score.py:f", str(tmp_path)))
    assert (error.exit_code, error.remedy) == (66, "did you mean src/scores.py?")
    assert "no directory 'lib'" in refused(InputMissing, lambda: parse("lib/score.py:f", str(tmp_path))).remedy
    assert "is not a file" in refused(InputMissing, lambda: parse("./src:f", str(tmp_path))).message


def test_a_name_that_is_surely_not_there_is_refused_with_close_names(tmp_path: Path) -> None:
    write(tmp_path, "score.py", "def crunch(item):\n    def inner(): ...\n")
    assert "did you mean crunch?" in str(refused(UnknownFunction, lambda: parse("score.py:crumch", str(tmp_path))))
    assert "functions in it: crunch" in str(refused(UnknownFunction, lambda: parse("score:inner", str(tmp_path))))


@pytest.mark.parametrize(
    "source",
    [
        "from math import sqrt as wanted",
        "import wanted.part",
        "wanted = len",
        "wanted: object = len",
        "if True:\n    def wanted(): ...",
        "try:\n    import x\nexcept ImportError:\n    wanted = None",
        "with open('/dev/null') as wanted: pass",
        "for wanted in (len,): pass",
        "[wanted := len]",
        "def other():\n    global wanted\n    wanted = len",
        "match len:\n    case wanted: pass",
        "from math import *",
        "globals()['wan' + 'ted'] = len",
        "exec('wanted = len')",
        "def __getattr__(name): return len",
        "import sys\nsetattr(sys.modules[__name__], 'wanted', len)",
    ],
)
def test_whatever_may_bind_the_name_is_left_to_the_worker(tmp_path: Path, source: str) -> None:
    write(tmp_path, "score.py", source)
    assert parse("score.py:wanted", str(tmp_path)).name == "wanted"


def test_a_syntax_error_is_78_with_its_line_in_file_and_module(tmp_path: Path) -> None:
    write(tmp_path, "score.py", "x = 1\ndef crunch(:\n")
    for text in ("score.py:crunch", "score:crunch"):
        error = refused(FunctionFailed, lambda text=text: parse(text, str(tmp_path)))  # type: ignore[misc]
        assert error.exit_code == 78
        assert "score.py has a syntax error in line 2" in error.message
    (tmp_path / "nul.py").write_bytes(b"x = '\0'")
    refused(FunctionFailed, lambda: parse("nul.py:x", str(tmp_path)))


def test_a_missing_module_is_refused_and_the_close_one_named(tmp_path: Path) -> None:
    write(tmp_path, "scores.py", "")
    error = refused(UnknownFunction, lambda: parse("scoer:f", str(tmp_path)))
    assert error.remedy == "did you mean scores:f?"
    assert "write zzz.py:f" in refused(UnknownFunction, lambda: parse("zzz:f", str(tmp_path))).remedy


def test_parsing_runs_nothing_of_the_users(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    for name in ("score.py", "pkg/__init__.py", "pkg/tools.py"):
        write(tmp_path, name, f"open({str(witness)!r}, 'w')\ndef crunch(item): ...")
    before = set(sys.modules)
    for text in ("score.py:crunch", "score:crunch", "pkg.tools:crunch", "pkg.other:crunch"):
        parse(text, str(tmp_path))
    assert not witness.exists()
    assert not {name for name in set(sys.modules) - before if name.startswith(("score", "pkg"))}


def test_installed_and_builtin_modules_are_found(tmp_path: Path) -> None:
    for text in ("math:sqrt", "json:loads", "os.path:basename", "msgpack:packb"):
        assert parse(text, str(tmp_path)).identity == text
    assert worker(parse("os.path:basename", str(tmp_path)), "function('/a/b')") == "b"


# ---- workers


def test_a_worker_finds_siblings_classes_and_init_in_one_module(tmp_path: Path) -> None:
    write(tmp_path, "helper.py", "FACTOR = 3")
    write(
        tmp_path,
        "score.py",
        """
        import pickle
        import helper
        READY = 0
        class Point:
            def __init__(self, x): self.x = x
        def setup():
            global READY
            READY += 1
        def crunch(item):
            return [item * helper.FACTOR, READY, pickle.loads(pickle.dumps(Point(item))).x, __name__]
        """,
    )
    for text in ("score.py:crunch", "score:crunch"):
        for init in ("setup", "score:setup"):
            assert worker(parse(text, str(tmp_path)), "[found.init(), function(5)][1]", init) == [15, 1, 5, "score"]


@pytest.mark.parametrize("name", ["engine", "worker", "model", "json", "msgpack", "batchmill", "os", "pickle"])
@pytest.mark.parametrize("suffix", ["", ".py"])
def test_a_users_module_wins_whatever_it_is_called(tmp_path: Path, name: str, suffix: str) -> None:
    source = """
    import pickle as jar
    class Point: x = 4
    DONE = []
    def setup(): DONE.append(1)
    def crunch(item): return [item, Point.x, DONE, __file__]
    """
    path = write(tmp_path, f"{name}.py", source)
    spec = parse(f"{name}{suffix}:crunch", str(tmp_path))
    ask = "[found.init(), pickle.loads(pickle.dumps(function))(1), json.loads('[2]'), resolve.__module__]"
    answer = worker(spec, ask, "setup")
    assert answer[1:3] == [[1, 4, [1], str(path)], [2]]
    assert spec.identity == f"{name}:crunch"


def test_functions_import_the_users_engine_cli_and_model(tmp_path: Path) -> None:
    for name in ("engine", "cli", "model", "click", "msgpack"):
        write(tmp_path, f"{name}.py", "MINE = True")
    write(
        tmp_path, "score.py", "import engine, cli, model\ndef crunch(item): return engine.MINE + cli.MINE + model.MINE"
    )
    assert worker(parse("score.py:crunch", str(tmp_path)), "function(0)") == 3


def test_packages_are_imported_from_the_working_directory_with_relative_imports(tmp_path: Path) -> None:
    write(tmp_path, "pkg/__init__.py", "")
    write(tmp_path, "pkg/base.py", "def double(x): return 2 * x")
    write(tmp_path, "pkg/tools.py", "from .base import double\nclass Box:\n    lid = staticmethod(double)")
    assert worker(parse("pkg.tools:Box.lid", str(tmp_path)), "function(4)") == 8
    answer = worker(parse("pkg.tolls:crunch", str(tmp_path)), "0")
    assert (answer["error"], answer["remedy"]) == ("UnknownFunction", "did you mean pkg.tools:crunch?")
    answer = worker(FunctionSpec("module", "pkg.tools", "Box.lit", directory=str(tmp_path)), "0")
    assert (answer["error"], answer["remedy"]) == ("UnknownFunction", "did you mean lid?")


def test_init_may_lie_in_another_module_or_file(tmp_path: Path) -> None:
    write(tmp_path, "lib/state.py", "VALUE = []\ndef setup(): VALUE.append(9)")
    write(tmp_path, "lib/score.py", "import state\ndef crunch(item): return state.VALUE")
    spec = parse("lib/score.py:crunch", str(tmp_path))
    for init in ("state:setup", "lib/state.py:setup", parse("lib/state.py:setup", str(tmp_path))):
        assert worker(spec, "[found.init(), function(0)][1]", init, cwd=tmp_path) == [9]
    assert worker(spec, "0", "state:setpu", cwd=tmp_path)["remedy"] == "did you mean setup?"
    assert worker(spec, "0", "crumch", cwd=tmp_path)["error"] == "UnknownFunction"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise ValueError('boom')", "ValueError: boom"),
        ("import sys\nsys.exit(3)", "exited with SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import not_there_at_all", "No module named 'not_there_at_all'"),
        ("class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E", "E"),
    ],
)
def test_an_import_that_raises_ends_in_the_last_lines_of_its_traceback(tmp_path: Path, source: str, words: str) -> None:
    write(tmp_path, "score.py", f"crunch = len\n{source}")
    for text in ("score.py:crunch", "score:crunch"):
        answer = worker(parse(text, str(tmp_path)), "0")
        assert answer["error"] == "FunctionFailed"
        assert words in answer["message"]
        assert "score" in answer["message"].splitlines()[0]
        assert len(answer["message"].splitlines()) <= 6


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("async def crunch(item): ...", "async"),
        ("async def crunch(item): yield 1", "async"),
        ("def crunch(item): yield 1", "generator"),
        ("class Job:\n    def __call__(self, item): yield 1\ncrunch = Job()", "generator"),
        ("import functools\nasync def work(a, b): ...\ncrunch = functools.partial(work, 1)", "async"),
        ("crunch = 7", "is int, not a function"),
    ],
)
def test_what_cannot_be_called_for_a_result_is_refused_with_a_sentence(tmp_path: Path, source: str, words: str) -> None:
    write(tmp_path, "score.py", source)
    answer = worker(parse("score.py:crunch", str(tmp_path)), "0")
    assert answer["error"] == "InvalidUsage"
    assert words in answer["message"]
    assert answer["remedy"]


def test_classes_partials_and_objects_can_be_functions(tmp_path: Path) -> None:
    write(
        tmp_path,
        "score.py",
        """
        import functools
        class Job:
            def __init__(self, x=0): self.x = x
            def __call__(self, item): return item + 1
        job, part = Job(), functools.partial(pow, 2)
        """,
    )
    assert worker(parse("score.py:Job", str(tmp_path)), "function(3).x") == 3
    assert worker(parse("score.py:job", str(tmp_path)), "function(3)") == 4
    assert worker(parse("score.py:part", str(tmp_path)), "function(3)") == 8


def test_the_source_that_runs_is_the_file_s_even_if_edited_within_a_second(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        path = write(tmp_path, "score.py", f"def crunch(item): return {number}")
        os.utime(path, (10**9, 10**9))  # same size, same second: a cached .pyc would pass for current
        assert worker(parse("score.py:crunch", str(tmp_path)), "function(0)") == number


def test_a_file_that_has_gone_meanwhile_is_missing_input(tmp_path: Path) -> None:
    path = write(tmp_path, "score.py", "def crunch(item): ...")
    spec = parse("score.py:crunch", str(tmp_path))
    path.unlink()
    assert worker(spec, "0")["error"] == "InputMissing"


def test_a_link_to_a_script_finds_the_siblings_of_the_real_one(tmp_path: Path) -> None:
    write(tmp_path, "real/helper.py", "X = 1")
    target = write(tmp_path, "real/score.py", "import helper\ndef crunch(item): return helper.X")
    (tmp_path / "linked.py").symlink_to(target)
    spec = parse("linked.py:crunch", str(tmp_path))
    assert (spec.identity, worker(spec, "function(0)")) == ("linked:crunch", 1)


# ---- callables


class Case:
    def method(self, item: object) -> object:
        return item

    @classmethod
    def make(cls, item: object) -> object:
        return item


async def later(item: object) -> None: ...


def test_importable_callables_go_by_name() -> None:
    here = __name__
    assert of_callable(math.sqrt) == FunctionSpec("module", "math", "sqrt")
    assert of_callable(str.upper).identity == "builtins:str.upper"
    assert of_callable(Case.make).identity == f"{here}:Case.make"
    assert of_callable(Case).identity == f"{here}:Case"
    assert of_callable(python).blob is None
    assert of_callable(python, name="mine").identity == "mine"
    assert worker(of_callable(math.sqrt), "function(9)") == 3
    assert worker(of_callable(json.dumps), "function([1])") == "[1]"


def test_what_has_no_name_goes_by_value_and_says_so() -> None:
    offset = 4

    def local(item: int) -> int:
        return item + offset

    unnamed: list[tuple[Callable[..., Any], int]] = [
        (lambda item: item + offset, 7),
        (functools.partial(pow, 2), 8),
        (Case().method, 3),
    ]
    for function, expected in unnamed:
        spec = of_callable(function)
        assert (spec.kind, worker(spec, "function(3)", cwd=Path(__file__).parent)) == ("pickle", expected)
    assert of_callable(local).identity.endswith("local")
    assert of_callable(local).named
    assert not of_callable(unnamed[0][0]).named
    assert of_callable(unnamed[1][0]).identity == "builtins:pow"
    named = of_callable(unnamed[0][0], name="plus")
    assert (named.named, named.identity, named.display) == (True, "plus", "plus")


def test_without_cloudpickle_a_lambda_is_refused_with_two_ways_out(tmp_path: Path) -> None:
    write(tmp_path, "cloudpickle.py", "raise ImportError")
    code = "from batchmill.worker.function import of_callable\n"
    code += "try: of_callable(lambda x: x)\nexcept ValueError as e: print(e)"
    said = python("-c", code, cwd=tmp_path)
    assert "pip install 'batchmill[cloudpickle]'" in said
    assert "module" in said


def test_unfit_and_unpicklable_callables_are_refused_in_the_parent() -> None:
    lock = __import__("threading").Lock()
    assert "async" in refused(InvalidUsage, lambda: of_callable(later)).message
    assert "cannot be sent" in refused(InvalidUsage, lambda: of_callable(lambda item: lock)).message
    assert "not a function" in refused(InvalidUsage, lambda: of_callable(7)).message  # type: ignore[arg-type]


SCRIPT = """
import base64, pickle, sys
from batchmill.worker.function import of_callable
class Item:
    def __init__(self, x): self.x = x
def crunch(item): return item.x * 2
if __name__ == "__main__":
    for function in (crunch, lambda item: item):
        spec = of_callable(function)
        print(spec.identity, spec.kind, base64.b64encode(pickle.dumps(spec)).decode())
    print(base64.b64encode(pickle.dumps(Item(21))).decode())
"""


@pytest.mark.parametrize("how", [("score.py",), ("-m", "score"), ("-m", "pkg.score"), ("-m", "pkg")])
def test_functions_of_a_script_run_with_items_of_its_own_classes(tmp_path: Path, how: tuple[str, ...]) -> None:
    for name in ("score.py", "pkg/__init__.py", "pkg/score.py", "pkg/__main__.py"):
        write(tmp_path, name, "" if name.endswith("__init__.py") else SCRIPT)
    first, second, item = python(*how, cwd=tmp_path).splitlines()
    identity, _, blob = first.split()
    module = {"score.py": "score", "pkg": "pkg.__main__"}.get(how[-1], how[-1])
    assert identity == f"{module}:crunch"
    assert second.split()[1] == "pickle"
    spec = pickle.loads(base64.b64decode(blob))
    assert spec.main
    assert worker(spec, f"function(pickle.loads(base64.b64decode('{item}')))", cwd=tmp_path) == 42


def test_a_function_typed_into_python_goes_by_value() -> None:
    code = (
        "from batchmill.worker.function import of_callable\n"
        "def f(x): return x\ns = of_callable(f)\nprint(s.kind, s.identity)"
    )
    assert python("-c", code).split() == ["pickle", "__main__:f"]


def test_a_script_runs_in_a_real_fork_server_worker(tmp_path: Path) -> None:
    write(
        tmp_path,
        "script.py",
        """
        import multiprocessing, sys, types
        from concurrent.futures import ProcessPoolExecutor
        import workers
        from batchmill.worker.function import of_callable
        def crunch(item): return item * item
        if __name__ == "__main__":
            spec = of_callable(crunch)
            sys.modules["__main__"] = types.ModuleType("__main__")
            context = multiprocessing.get_context("forkserver")
            with ProcessPoolExecutor(1, context, workers.start, (spec,)) as worker:
                print(worker.submit(workers.call, 12).result(timeout=30))
        """,
    )
    write(
        tmp_path,
        "workers.py",
        """
        from batchmill.worker.loader import resolve
        def start(spec):
            global found
            found = resolve(spec)
        def call(item): return found.function(item)
        """,
    )
    assert python("script.py", cwd=tmp_path).strip() == "144"
