"""Failed items given back as they were, whatever their size, and run again."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_kit import batchmill, shell

LARGE = "x" * 200_000  # more than a checkpoint keeps of an item
FUNCTIONS = """
def fails(item):
    raise ValueError("no")


def length(item):
    return len(item if isinstance(item, str) else item["text"])
"""
INPUTS: dict[str, Callable[[], str]] = {
    "a.jsonl": lambda: "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(["a", LARGE, "b"])),
    "a.txt": lambda: f"first\n{LARGE}\nlast\n",
    "a.csv": lambda: f'id,text\n1,"two\nlines"\n2,"{LARGE}\n"\n3,z\n',
    "a.tsv": lambda: f"id\ttext\n1\t{LARGE}\n2\tb\n",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "f.py").write_text(FUNCTIONS)
    return tmp_path


def failing(place: Path, name: str, *options: str) -> None:
    ended = batchmill("run", "f.py:fails", name, "-c", "x.ckpt", *options, cwd=place)
    assert ended.returncode == 1, ended.stderr


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "gz"])
@pytest.mark.sampled(4)
def test_they_are_the_input_again_byte_for_byte_and_can_be_run(name: str, is_packed: bool, place: Path) -> None:
    data = INPUTS[name]()
    (place / name).write_text(data)
    if is_packed:
        (place / f"{name}.gz").write_bytes(gzip.compress(data.encode()))
        (place / name).unlink()
    failing(place, f"{name}.gz" if is_packed else name)
    ended = batchmill("failures", "x.ckpt", "--items", cwd=place)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == data
    (place / f"again.{name}").write_text(ended.stdout)
    again = batchmill("run", "f.py:length", f"again.{name}", "--no-checkpoint", "-o", "-", cwd=place)
    assert again.returncode == 0
    lengths = [json.loads(line)["result"] for line in again.stdout.splitlines()]
    assert max(lengths) in (200_000, 200_001)
    assert len(lengths) == data.count("\n") - (2 if name == "a.csv" else 0) - (name in ("a.csv", "a.tsv"))


def test_an_item_beyond_the_largest_is_given_back_too(place: Path) -> None:
    data = f"first\n{'y' * (65 << 20)}\nlast\n"
    (place / "a.txt").write_text(data)
    failing(place, "a.txt")
    assert shell("$BM failures x.ckpt --items | cmp - a.txt", place).returncode == 0


def test_what_is_not_there_any_more_is_named_and_the_rest_given_back(place: Path) -> None:
    (place / "a.txt").write_text(INPUTS["a.txt"]())
    failing(place, "a.txt")
    (place / "a.txt").write_text(f"first\n{LARGE}y\nlast\n")
    ended = batchmill("failures", "x.ckpt", "--items", cwd=place)
    assert (ended.returncode, ended.stdout) == (66, "first\nlast\n")
    assert "1 failed item cannot be given back: id " in ended.stderr
    assert "(line 2): " in ended.stderr
    assert "a.txt has another item there now" in ended.stderr
    assert shell("cat a.txt | $BM run f.py:fails - --format lines -c y.ckpt", place).returncode == 1
    ended = batchmill("failures", "y.ckpt", "--items", cwd=place)
    assert (ended.returncode, ended.stdout) == (66, "first\nlast\n")
    assert "its INPUT was a pipe" in ended.stderr


def test_an_input_that_cannot_be_unpacked_any_more_is_named(place: Path) -> None:
    data = f"first\n{'y' * (65 << 20)}\nlast\n"
    (place / "a.txt.gz").write_bytes(whole := gzip.compress(data.encode(), 1))
    failing(place, "a.txt.gz")
    (place / "a.txt.gz").write_bytes(whole[:1000] + bytes(len(whole) - 1000))
    ended = batchmill("failures", "x.ckpt", "--items", cwd=place)
    assert (ended.returncode, ended.stdout) == (66, "first\nlast\n")
    assert "a.txt.gz cannot be read: " in ended.stderr


def test_items_of_python_are_lines_of_json(place: Path) -> None:
    (place / "p.py").write_text(
        "import batchmill\nfrom f import fails\n\nif __name__ == '__main__':\n"
        "    items = [1, 'two\\n', {'a': [None, 3.5]}, 'x' * 200000]\n"
        "    batchmill.run(fails, items, checkpoint='p.ckpt')\n"
    )
    assert shell("$MINE p.py", place, MINE=sys.executable).returncode == 0
    ended = batchmill("failures", "p.ckpt", "--items", cwd=place)
    assert ended.stdout == '1\n"two\\n"\n{"a": [null, 3.5]}\n'
    assert ended.returncode == 66
    assert "it was an item of Python, above 64 KiB" in ended.stderr
