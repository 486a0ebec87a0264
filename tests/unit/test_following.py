"""A run from Python can be seen, stopped from another thread, and interrupted; it says how far it came."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from work_kit import square

import batchmill
from batchmill.batch import progress_line
from batchmill.batch.progress_line import ProgressLine, line_for
from batchmill.errors import InvalidUsage
from batchmill.model import Snapshot


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_line, "FIRST", 0.0)


def once(act: Callable[[], Any]) -> Callable[[Snapshot], None]:
    """A listener that acts when something is done, in another thread."""
    is_left = iter([True])

    def listen(snapshot: Snapshot) -> None:
        if snapshot.done and next(is_left, False):
            thread = threading.Thread(target=act)
            thread.start()
            thread.join(60)

    return listen


def test_the_last_snapshot_comes_always_and_the_line_for_who_asks(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Snapshot] = []
    assert batchmill.map(square, range(5), workers=1, progress=True, on_progress=seen.append) == [0, 1, 4, 9, 16]
    assert (seen[-1].done, seen[-1].total) == (5, 5)
    assert capsys.readouterr().err.splitlines()[-1] == str(seen[-1])
    with batchmill.stream(square, range(5), workers=1, on_progress=seen.append) as outcomes:
        assert len(list(outcomes)) == 5
    assert seen[-1].done == 5
    assert capsys.readouterr().err == ""


def test_on_a_terminal_the_line_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert line_for("auto") is None  # a program, which nobody talks to
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
        line = line_for("auto")
        assert line is not None
        shown = ProgressLine(line)
        snapshots = [Snapshot(done, 9, 0, 0, 1.0, 2.0, 3.0, 1) for done in (1, 9)]
        shown.tell(snapshots[0])
        shown.close(snapshots[1])
    written = os.read(master, 4096).decode()
    os.close(master)
    assert written.startswith("\r1/9 ")
    assert written.count("\r9/9 ") == 1
    assert written.endswith("\r\n")


def test_a_progress_that_is_none_is_refused() -> None:
    progress: Any = "often"
    with pytest.raises(InvalidUsage, match="progress='often' is no choice"):
        batchmill.map(square, [1], progress=progress)


def test_a_batch_is_stopped_from_another_thread(tmp_path: Path) -> None:
    options: dict[str, Any] = {"workers": 1, "progress_interval": 0.02}
    report = batchmill.run(
        square, itertools.count(), checkpoint=tmp_path / "c.ckpt", on_progress=once(batchmill.stop), **options
    )
    assert (report.stopped, report.exit_code, report.failed) == ("stop", 3, 0)
    assert repr(report).startswith(f"<Report of work_kit:square: {report.completed} ok, 0 failed, ")
    assert len(repr(report)) < 200
    with pytest.raises(batchmill.Stopped, match=r"the map was stopped \(stop\) when \d+ items were done"):
        batchmill.map(square, itertools.count(), on_progress=once(batchmill.stop), **options)
    with batchmill.stream(square, itertools.count(), **options) as outcomes:
        read = 0
        for _ in outcomes:
            read += 1
            outcomes.stop()
    assert outcomes.report is not None
    assert (outcomes.report.stopped, outcomes.report.completed) == ("stop", read)
    assert batchmill.stop() == 0


def test_an_interrupt_says_what_was_kept(tmp_path: Path) -> None:
    def interrupt() -> Callable[[Snapshot], None]:
        return once(lambda: os.kill(os.getpid(), signal.SIGINT))

    options: dict[str, Any] = {"workers": 1, "progress_interval": 0.02}
    with pytest.raises(KeyboardInterrupt) as caught:
        batchmill.run(square, itertools.count(), checkpoint=tmp_path / "c.ckpt", on_progress=interrupt(), **options)
    (note,) = caught.value.__notes__
    assert note.endswith(f"are done, and kept in {tmp_path / 'c.ckpt'}: resume=True continues")
    with pytest.raises(KeyboardInterrupt) as caught:
        batchmill.map(square, itertools.count(), on_progress=interrupt(), **options)
    (note,) = caught.value.__notes__
    assert note.endswith("are done; nothing is kept, for no checkpoint was given")
