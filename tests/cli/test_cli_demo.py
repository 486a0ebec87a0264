"""The demo: honest work on real files, and the whole command on a few of them."""

from __future__ import annotations

import ast
import lzma
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from batchmill.output.results import open_checkpoint
from batchmill_cli.commands.demo import most_complex, sources
from batchmill_cli.commands.demo_work import examine


def test_every_way_through_the_code_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "def f(a):\n    if a and (b or c):\n        for x in y: pass\n    return [z for z in a if z]\n"
    )
    facts = examine(str(tmp_path / "a.py"))
    assert facts["complexity"] == 1 + 1 + 2 + 1 + 2
    assert (facts["functions"], facts["lines"], facts["parses"]) == (1, 4, True)


@pytest.mark.parametrize("source", [b"def (", b"\x00", b"\xff\xfe bad", b"(" * 5000])
def test_a_file_that_is_not_python_is_a_result(source: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_bytes(source)
    assert examine(str(tmp_path / "bad.py"))["parses"] is False


def test_an_empty_file_is_python(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_bytes(b"")
    assert examine(str(tmp_path / "empty.py"))["complexity"] == 1


def test_the_work_is_honest() -> None:
    source = Path(ast.__file__).read_bytes()
    facts = examine(ast.__file__)
    assert facts["nodes"] == sum(1 for _ in ast.walk(ast.parse(source)))
    assert facts["lzma"] == round(len(lzma.compress(source, preset=6)) / len(source), 3)


def test_the_items_are_the_standard_library_alone() -> None:
    files = list(sources(sysconfig.get_path("stdlib")))
    assert len(files) > 500
    assert len(set(files)) == len(files)
    assert all(name.endswith(".py") and "site-packages" not in name for name in files)


def test_the_demo_stops_goes_on_and_tells_what_it_found(tmp_path: Path) -> None:
    root = sysconfig.get_path("stdlib")
    for done in (4, 8):
        demo = [sys.executable, "-m", "batchmill", "demo", "-j", "2", "--limit", "4"]
        ended = subprocess.run(demo, cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert ended.returncode == 3, ended.stderr
        assert "demo -j 2 --limit 4" in ended.stderr  # what continues it
        with open_checkpoint(tmp_path / "demo.ckpt") as results:
            assert sum(outcome.ok for outcome in results.outcomes()) == done
    assert len(list(most_complex(str(tmp_path / "demo.ckpt"), root))) == 2 + 5
