"""Faults of --fresh: what is moved aside lands on no file that this batch did not move there itself."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_kit import batchmill as program
from cli_kit import shell

import batchmill
from batchmill.errors import CheckpointRefused

KEEP = ("--keep", "3")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "f.py").write_text("def ident(item):\n    return item\n")
    (tmp_path / "in.txt").write_text("1\n2\n3\n")
    return tmp_path


def run(work: Path, checkpoint: str, *options: str, items: str = "in.txt") -> tuple[int, str]:
    """A run over the items; its status and what it said."""
    ended = program("run", "f.py:ident", items, "-c", checkpoint, *options, cwd=work)
    return ended.returncode, ended.stderr


def contents(work: Path) -> dict[str, bytes | str]:
    """What every name in the directory stands for."""
    found: dict[str, bytes | str] = {}
    for path in sorted(work.iterdir()):
        mode = path.lstat().st_mode
        if path.name != "__pycache__":
            found[path.name] = path.read_bytes() if stat.S_ISREG(mode) else f"{oct(mode)}{list_of(path)}"
    return found


def list_of(path: Path) -> str:
    return os.readlink(path) if path.is_symlink() else str(sorted(os.listdir(path))) if path.is_dir() else ""


def results(work: Path, checkpoint: str) -> list[str]:
    with batchmill.open_checkpoint(work / checkpoint) as opened:
        return [outcome.result for outcome in opened.outcomes()]


def filled(work: Path, checkpoint: str, *items: str, options: tuple[str, ...] = ()) -> None:
    """A finished checkpoint with these items."""
    (work / "items.txt").write_text("".join(f"{item}\n" for item in items))
    assert run(work, checkpoint, *options, items="items.txt") == (0, "")


def test_the_checkpoints_of_shards_are_never_moved_onto(work: Path) -> None:
    for shard in ("1", "2"):
        assert run(work, f"s.{shard}.ckpt", "--shard", f"{shard}/2") == (0, "")
    assert run(work, "s.ckpt") == (0, "")
    before = contents(work)
    for options in (("--fresh",), ("--fresh", *KEEP), ("--resume", "--fresh-if-finished"), ("--fresh", "--dry-run")):
        status, said = run(work, "s.ckpt", *options)
        assert (status, said.count("\n")) == (73, 1)
        assert "s.1.ckpt is in the way" in said
        assert contents(work) == before


def test_the_remedy_works_when_it_is_pasted(work: Path) -> None:
    for name in ("it's s.1.ckpt", "it's s.ckpt"):
        assert run(work, name) == (0, "")
    (work / "it's s.1.kept.ckpt").write_text("mine")
    shard = (work / "it's s.1.ckpt").read_bytes()
    said = run(work, "it's s.ckpt", "--fresh")[1]
    line = said.strip().partition("or move it: ")[2]
    assert shell(line, Path("/")).returncode == 0
    assert run(work, "it's s.ckpt", "--fresh") == (0, "")
    assert shard in contents(work).values()
    assert (work / "it's s.1.kept.ckpt").read_text() == "mine"
    assert run(work, "another.ckpt", "--fresh") == (0, "")


def strangers() -> dict[str, Callable[[Path, Path], object]]:
    """What may stand in the way, by name; each made at the second path, the first is the checkpoint."""
    return {
        "text": lambda _, at: at.write_text("mine"),
        "empty": lambda _, at: at.touch(),
        "directory": lambda _, at: at.mkdir(),
        "link to the checkpoint": lambda checkpoint, at: at.symlink_to(checkpoint.name),
        "link to nothing": lambda _, at: at.symlink_to("nothing"),
        "fifo": lambda _, at: os.mkfifo(at),
        "copy": lambda checkpoint, at: shutil.copy2(checkpoint, at),
        "beginning of a checkpoint": lambda checkpoint, at: at.write_bytes(checkpoint.read_bytes()[:30]),
    }


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", strangers())
@pytest.mark.parametrize("name", ["x.1.ckpt", "x.2.ckpt"])
def test_nothing_that_was_not_moved_there_is_replaced_or_moved(work: Path, kind: str, name: str) -> None:
    filled(work, "x.ckpt", "old")
    if name == "x.2.ckpt":
        filled(work, "x.ckpt", "new", options=("--fresh",))
    strangers()[kind](work / "x.ckpt", work / name)
    before = contents(work)
    status, said = run(work, "x.ckpt", "--fresh", *KEEP)
    assert (status, contents(work)) == (73, before)
    assert f"{name} is in the way" in said


def test_what_lies_beyond_a_free_name_is_not_in_the_way(work: Path) -> None:
    filled(work, "x.ckpt", "old")
    (work / "x.2.ckpt").write_text("mine")
    filled(work, "x.ckpt", "new", options=("--fresh", *KEEP))
    assert results(work, "x.1.ckpt") == ["old"]
    assert (work / "x.2.ckpt").read_text() == "mine"


def test_a_checkpoint_that_was_moved_aside_and_continued_since_stays(work: Path) -> None:
    filled(work, "x.ckpt", "a")
    filled(work, "x.ckpt", "b", options=("--fresh",))
    filled(work, "x.1.ckpt", "a", "more", options=("--resume",))
    before = contents(work)
    assert run(work, "x.ckpt", "--fresh")[0] == 73
    assert contents(work) == before


def test_the_last_ones_are_kept_and_are_as_they_were(work: Path) -> None:
    made: list[bytes] = []
    for number in range(6):
        filled(work, "x.ckpt", str(number), options=("--fresh", *KEEP))
        made.append((work / "x.ckpt").read_bytes())
    kept = [(work / f"x.{number}.ckpt").read_bytes() for number in (1, 2, 3)]
    assert kept == [made[4], made[3], made[2]]
    filled(work, "x.ckpt", "6", options=("--fresh",))
    assert [(work / f"x.{number}.ckpt").read_bytes() for number in (1, 2, 3)] == [made[5], made[3], made[2]]
    filled(work, "x.ckpt", "7", options=("--fresh", *KEEP))
    assert [results(work, f"x.{number}.ckpt") for number in (1, 2, 3)] == [["6"], ["5"], ["3"]]
    assert sorted(work.glob("*.ckpt")) == [work / name for name in ("x.1.ckpt", "x.2.ckpt", "x.3.ckpt", "x.ckpt")]


def test_a_batch_goes_on_to_know_what_it_moved_when_its_folder_and_its_runs_change(work: Path) -> None:
    filled(work, "x.ckpt", "a")
    filled(work, "x.ckpt", "b", options=("--fresh",))
    filled(work, "x.ckpt", options=("--fresh",))  # no items: the next run replaces it
    filled(work, "x.ckpt", "c")
    filled(work, "x.ckpt", "c", "d", options=("--resume",))
    copy = work / "copy"
    copy.mkdir()
    for path in work.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    for folder in (work, copy):
        filled(folder, "x.ckpt", "e", options=("--fresh",))
        assert sorted(results(folder, "x.1.ckpt")) == ["c", "d"]


def test_a_damaged_checkpoint_that_was_moved_aside_is_known_too(work: Path) -> None:
    filled(work, "x.ckpt", *map(str, range(50)), options=("--chunk-size", "5"))
    data = bytearray((work / "x.ckpt").read_bytes())
    data[len(data) // 2] ^= 1
    (work / "x.ckpt").write_bytes(data)
    filled(work, "x.ckpt", "a", options=("--fresh", "--keep", "2"))
    assert (work / "x.1.ckpt").read_bytes() == data
    filled(work, "x.ckpt", "b", options=("--fresh", "--keep", "2"))
    assert (work / "x.2.ckpt").read_bytes() == data


def test_a_checkpoint_without_a_list_has_moved_nothing(work: Path) -> None:
    filled(work, "x.ckpt", "a")
    filled(work, "x.ckpt", "b", options=("--fresh",))
    (work / "x.ckpt").unlink()
    filled(work, "x.ckpt", "c")
    assert run(work, "x.ckpt", "--fresh")[0] == 73


def test_python_refuses_it_too(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    (work / "x.1.ckpt").write_text("mine")
    filled(work, "x.ckpt", "a")
    with pytest.raises(CheckpointRefused, match=r"x\.1\.ckpt is in the way"):
        batchmill.run("f.py:ident", ["a"], checkpoint="x.ckpt", fresh=True)
    assert (work / "x.1.ckpt").read_text() == "mine"


def test_status_still_reads_a_checkpoint_with_a_list(work: Path) -> None:
    filled(work, "x.ckpt", "a")
    filled(work, "x.ckpt", "b", options=("--fresh",))
    ended = program("status", "x.ckpt", "--json", cwd=work)
    assert len(json.loads(ended.stdout)["meta"]["aside"]) == 1
