"""Faults of ending: whatever an item does or leaves behind, its worker ends, and the run with it, by any method."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from endings_kit import ENDINGS, GUILTY, INNOCENT, ORPHANS
from fault_kit import METHODS, Ended, Run, lines_of, running, until, witnessed
from process_kit import born_with, command_line, kill


class Case:
    """A batch of one item of each kind, in `directory`; each takes `then` seconds after what it does."""

    def __init__(self, directory: Path, method: str, then: float) -> None:
        self.directory = directory
        self.innocent = INNOCENT if method == "fork" else (*INNOCENT, *ORPHANS)
        self.mark = f"BM_MARK={uuid.uuid4()}"
        kinds = (*self.innocent, *GUILTY)
        (directory / "f.py").write_text(ENDINGS)
        (directory / "items.jsonl").write_text("".join(json.dumps({"id": kind, "then": then}) + "\n" for kind in kinds))
        self.command = ["f.py:work", "items.jsonl", "-c", "run.ckpt", "-o", "out.jsonl", "--grace", "1s"]
        self.command += ["--start-method", method, "--crash-retries", "0", "-j", str(len(kinds))]

    def run(self, *options: str, when: Callable[[Run], None] | None = None) -> Ended:
        """Run it, and see that nothing of it is left: in no session, and whoever is its parent now."""
        name, _, value = self.mark.partition("=")
        try:
            with running(*self.command, *options, cwd=self.directory, **{name: value}) as run:
                if when is not None:
                    when(run)
                ended = run.end()
                run.assert_gone()
            until(lambda: not born_with(self.mark), f"the end of {[*map(command_line, born_with(self.mark))]}")
        finally:
            kill(lambda: born_with(self.mark))
        assert "Traceback" not in ended.err, ended.err
        return ended

    def results(self) -> set[str]:
        return {line["result"] for line in lines_of(self.directory / "out.jsonl")}

    def all_are_at_it(self) -> bool:
        """Whether every item does what it is there for, or has done it."""
        seen = set(witnessed(self.directory))
        return seen >= {*(f"done {kind}" for kind in self.innocent), *GUILTY}


@pytest.mark.parametrize("method", METHODS)
def test_at_the_end_of_a_run_nothing_that_an_item_left_keeps_it(method: str, tmp_path: Path) -> None:
    case = Case(tmp_path, method, 0.0)
    ended = case.run("--timeout", "3s")
    assert (ended.status, case.results()) == (1, set(case.innocent)), ended.err


@pytest.mark.parametrize("method", METHODS)
def test_in_the_middle_of_a_run_a_worker_that_is_done_ends_with_all_it_has_left(method: str, tmp_path: Path) -> None:
    case = Case(tmp_path, method, 0.0)
    ended = case.run("--timeout", "3s", "--max-items-per-worker", "1", "-j", "2")
    assert (ended.status, case.results()) == (1, set(case.innocent)), ended.err


@pytest.mark.parametrize("method", METHODS)
def test_at_its_time_out_an_item_ends_whatever_it_did_before(method: str, tmp_path: Path) -> None:
    case = Case(tmp_path, method, 1000.0)
    ended = case.run("--timeout", "2s", "--max-failures", "none")
    assert (ended.status, case.results()) == (1, set()), ended.err


@pytest.mark.sampled(4)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("method", METHODS)
def test_a_signal_ends_the_run_whatever_its_items_do(method: str, number: signal.Signals, tmp_path: Path) -> None:
    case = Case(tmp_path, method, 1000.0)

    def stop(run: Run) -> None:
        run.until(case.all_are_at_it, "all items to be at it")
        run.signal(number)

    ended = case.run("--crash-retries", "5", when=stop)
    assert ended.status == -number, ended.err
