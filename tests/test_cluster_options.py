"""Options of a run on a real Dask cluster, and what is refused before anything begins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fault_kit import CHECKPOINT, finish, numbered, prepare

pytest.importorskip("distributed", reason="the extra dask is not installed")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc"),
    pytest.mark.xdist_group("cluster"),
]

WORK = ("f.py:work", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl")
NOWHERE = "tcp://127.0.0.1:1"  # no scheduler is there


# --- refusals --------------------------------------------------------------------------------------------------------


def test_modules_too_large_to_be_sent_are_refused_before_a_checkpoint_is_moved_aside(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3))
    assert finish(*WORK, cwd=tmp_path).status == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "large").mkdir()
    with (tmp_path / "large" / "data.py").open("w") as file:
        file.truncate(65 << 20)
    (tmp_path / "f.py").write_text(f"import large\n{before['f.py'].decode()}")
    ended = finish(*WORK, "--fresh", "--cluster", NOWHERE, cwd=tmp_path)
    assert ended.status == 2, ended.err
    assert "too large to be sent" in ended.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == {
        **before,
        "f.py": (tmp_path / "f.py").read_bytes(),
    }
