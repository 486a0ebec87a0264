"""The digest of the source that a function's results depend on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli_kit import environment

from batchmill.worker.function import parse
from batchmill.worker.source_digest import source_digest

FILES = {
    "f.py": "from package.deep import value\nimport helper as h, other\n\ndef work(item): return value(item)\n",
    "helper.py": "if True: import further\n",
    "other.py": "",
    "further.py": "",
    "start.py": "def up(): ...\n",
    "package/__init__.py": "",
    "package/deep.py": "def value(item): return item\n",
    "strange.py": "",
}


def digest(place: Path, text: str = "f.py:work", init: str | None = None, **changed: str) -> str:
    for name, source in {
        **FILES,
        **{name.replace("__", "/") + ".py": source for name, source in changed.items()},
    }.items():
        (place / name).parent.mkdir(exist_ok=True, parents=True)
        (place / name).write_text(source)
    return source_digest(parse(text, str(place)), init, str(place))


@pytest.mark.parametrize("name", ["f", "helper", "other", "further", "package__deep"])
def test_it_covers_what_is_imported_from_beside_the_function(name: str, tmp_path: Path) -> None:
    before = digest(tmp_path)
    source = FILES[name.replace("__", "/") + ".py"]
    assert digest(tmp_path, **{name: f"{source}# edited\n"}) != before
    assert digest(tmp_path) == before


def test_neither_other_files_count_nor_where_they_lie(tmp_path: Path) -> None:
    before = digest(tmp_path / "a")
    assert digest(tmp_path / "a", strange="edited = True\n", start="edited = True\n") == before
    assert digest(tmp_path / "b") == before


def test_an_initializer_counts(tmp_path: Path) -> None:
    before = digest(tmp_path, init="start:up")
    assert before != digest(tmp_path)
    assert digest(tmp_path, init="start:up", start="def up(): return 1\n") != before


def test_what_has_no_source_has_none(tmp_path: Path) -> None:
    assert digest(tmp_path, "math:sqrt") == ""
    assert digest(tmp_path, "json:dumps") != ""


NOTEBOOK = """
from batchmill.worker.function import of_callable
from batchmill.worker.source_digest import source_digest

FACTOR = {factor}

class Kept:
    def get(self, item): return part(item)

def part(item): return item + {added}

def work(item): return [Kept().get(i) for i in item]

def unrelated(): return {unrelated}

print(source_digest(of_callable(work), None, "/"))
"""


def test_of_a_function_without_a_file_it_covers_what_that_names(tmp_path: Path) -> None:
    def said(**values: int) -> str:
        code = NOTEBOOK.format(**{"factor": 1, "added": 1, "unrelated": 1, **values})
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment()
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    first = said()
    assert len(first) == 33
    assert said(unrelated=2) == first
    assert said(added=2) != first
