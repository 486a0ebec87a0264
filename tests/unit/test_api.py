"""run, stream and map, with real workers: few items, one or two workers."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import work_kit
from process_kit import start

import batchmill
from batchmill.errors import CheckpointMismatch, InputMissing, InvalidUsage
from batchmill.pool import forkserver


def outcomes(checkpoint: Path, all: bool = True) -> list[batchmill.Outcome]:
    with batchmill.open_checkpoint(checkpoint) as results:
        return list(results.outcomes(all))


def run_script(directory: Path, source: str, *args: str) -> subprocess.CompletedProcess[str]:
    """A script of its own, as people write them."""
    script = directory / "script.py"
    script.write_text(source)
    return subprocess.run(
        [sys.executable, str(script), *args], capture_output=True, text=True, timeout=60, cwd=directory, check=False
    )


class Counted:
    """An iterable that counts how many items were pulled from it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pulled = 0

    def __iter__(self) -> Iterator[int]:
        for item in range(self.count):
            self.pulled += 1
            yield item


# --- run -------------------------------------------------------------------------------------------------------------


def test_a_run_reports_what_became_of_the_items(tmp_path: Path) -> None:
    report = batchmill.run(work_kit.fail_on_negative, [3, -1, 4, -1, 5], checkpoint=tmp_path / "c.ckpt", workers=2)
    assert (report.total, report.completed, report.failed, report.skipped, report.exit_code) == (5, 3, 2, 0, 1)
    assert (report.repeated, report.stopped) == (1, "")
    (group,) = report.failures
    assert (group.type, group.count, group.examples[0].message) == ("ValueError", 2, "-1 is negative")


def test_failed_items_raise_only_when_the_report_is_asked_to() -> None:
    report = batchmill.run(work_kit.fail_on_negative, [1, -2], workers=1)
    with pytest.raises(batchmill.ItemsFailed, match="1 of 2 items failed: ValueError: -2 is negative"):
        report.raise_for_failures()
    batchmill.run(work_kit.fail_on_negative, [1, 2], workers=1).raise_for_failures()


def test_a_run_that_is_resumed_does_what_is_left(tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.ckpt"
    batchmill.run(work_kit.fail_on_negative, [1, 2, -3], checkpoint=checkpoint, workers=1)
    report = batchmill.run(work_kit.fail_on_negative, [0, 1, 2, -3], checkpoint=checkpoint, resume=True, workers=1)
    assert (report.completed, report.skipped, report.failed) == (1, 2, 1)
    assert [outcome.id for outcome in outcomes(checkpoint)] == [0, 1, 2, -3]


def test_a_checkpoint_that_exists_is_not_touched_without_a_word(tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.ckpt"
    batchmill.run(work_kit.square, [1], checkpoint=checkpoint, workers=1)
    before = checkpoint.read_bytes()
    with pytest.raises(batchmill.CheckpointExists, match="resume=True"):
        batchmill.run(work_kit.square, [2], checkpoint=checkpoint, workers=1)
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_belongs_to_its_function(tmp_path: Path) -> None:
    batchmill.run(work_kit.square, [1], checkpoint=tmp_path / "c.ckpt", workers=1)
    with pytest.raises(CheckpointMismatch, match="work_kit:square, not work_kit:slow"):
        batchmill.run(work_kit.slow, [1], checkpoint=tmp_path / "c.ckpt", resume=True, workers=1)


def test_a_function_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def score(x):\n    return x + 1\n")
    report = batchmill.run(f"{tmp_path}/score.py:score", [1, 2], checkpoint=tmp_path / "c.ckpt", workers=1)
    assert report.function == "score.py:score"
    assert [outcome.result for outcome in outcomes(tmp_path / "c.ckpt")] == [2, 3]


def test_a_path_of_items_is_an_input(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": "a"}\n{"id": "b"}\n')
    report = batchmill.run(
        work_kit.identity,
        tmp_path / "in.jsonl",
        checkpoint=tmp_path / "c.ckpt",
        output=tmp_path / "out.jsonl",
        workers=1,
    )
    assert report.completed == 2
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == [{"id": "a", "result": {"id": "a"}}, {"id": "b", "result": {"id": "b"}}]


def test_an_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"none\.jsonl"):
        batchmill.run(work_kit.square, str(tmp_path / "none.jsonl"), workers=1)


def test_keyword_arguments_and_the_initializer_reach_the_worker() -> None:
    assert batchmill.map(work_kit.scaled, [1, 2], kwargs={"by": 3}, init=work_kit.set_factor, workers=1) == [300, 600]


def test_no_items_are_no_work() -> None:
    report = batchmill.run(work_kit.square, [], workers=1)
    assert (report.total, report.exit_code) == (0, 0)


def test_a_run_works_in_a_thread_that_is_not_the_main_one() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(batchmill.map(work_kit.square, range(5), workers=1)))
    thread.start()
    thread.join(60)
    assert found == [[0, 1, 4, 9, 16]]


def test_two_runs_at_once_do_not_disturb_each_other() -> None:
    found: dict[int, Any] = {}

    def work(number: int) -> None:
        found[number] = batchmill.map(work_kit.scaled, range(20), kwargs={"by": number}, workers=1)

    threads = [threading.Thread(target=work, args=(number,)) for number in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {by: [by * x for x in range(20)] for by in (2, 3)}


def test_runs_that_start_at_once_leave_the_environment_as_it_was(tmp_path: Path) -> None:
    script = """
        import os, subprocess, threading
        import batchmill

        def python_variables(item=None):
            known_to_a_child = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout.splitlines()
            known = [f"{name}={value}" for name, value in os.environ.items()]
            return [sorted(line for line in lines if line.startswith("PYTHON")) for lines in (known, known_to_a_child)]

        def run():
            together.wait()
            found.extend(batchmill.map(python_variables, [1], workers=1, start_method=method))

        if __name__ == "__main__":
            os.environ["PYTHONWARNINGS"] = "default"
            before = python_variables()
            for method in ("spawn", "forkserver", "fork"):
                # A process forked while another thread holds a lock has it for ever: one at a time is all there is.
                count = 1 if method == "fork" else 4
                found, together = [], threading.Barrier(count)
                threads = [threading.Thread(target=run) for _ in range(count)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(60)
                assert found == [before] * count, (method, before, found)
                assert python_variables() == before, (method, before, python_variables())
    """
    ended = run_script(tmp_path, textwrap.dedent(script))
    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_the_iterable_raises_is_raised_after_the_work_before_it_is_committed(tmp_path: Path) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise RuntimeError("the database is gone")

    with pytest.raises(RuntimeError, match="the database is gone"):
        batchmill.run(work_kit.square, items(), checkpoint=tmp_path / "c.ckpt", workers=1)
    assert [outcome.result for outcome in outcomes(tmp_path / "c.ckpt")] == [0, 1, 4, 9, 16]


def test_handlers_of_signals_are_left_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)]
    batchmill.run(work_kit.square, [1], workers=1)
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)]
    assert after == before


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [batchmill.run, batchmill.stream, batchmill.map])
def test_an_unknown_setting_is_refused_with_the_nearest_name(call: Any) -> None:
    with pytest.raises(ValueError, match="unknown setting 'worker'; did you mean 'workers'"):
        call(work_kit.square, [1], worker=2)


def test_settings_and_fields_go_together() -> None:
    settings = batchmill.Settings(workers=2, chunk_size=1)
    report = batchmill.run(work_kit.square, range(3), settings=settings, workers=1)
    assert (report.settings["workers"], report.settings["chunk_size"]) == (1, 1)


def test_resume_in_the_settings_counts(tmp_path: Path) -> None:
    settings = batchmill.Settings(resume=True)
    for skipped in (0, 1):
        report = batchmill.run(work_kit.square, [1], checkpoint=tmp_path / "c.ckpt", settings=settings, workers=1)
        assert report.skipped == skipped


@pytest.mark.parametrize("value", [0, "many", -1])
def test_a_setting_out_of_range_is_refused_before_anything_starts(value: Any) -> None:
    with pytest.raises(ValueError, match="workers="):
        batchmill.run(work_kit.square, [1], workers=value)


def test_an_async_function_is_refused() -> None:
    async def fetch(item: Any) -> None: ...

    with pytest.raises(InvalidUsage, match="async"):
        batchmill.run(fetch, [1], workers=1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        *(({name: 5}, f"{name}=5 cannot be called") for name in ("id", "init", "on_progress", "on_message")),
        *(({name: 5}, f"{name}=5 is no path; give the path of a file") for name in ("checkpoint", "output")),
        ({"kwargs": [1]}, "kwargs=[1] is no mapping; give parameter names and their values"),
        ({"name": 5}, "name=5 is no name; give a text"),
        ({"settings": {"workers": 1}}, "settings={'workers': 1} is no Settings; give batchmill.Settings(...)"),
        ({"timeout": "30 sec"}, "timeout='30 sec' is not a duration; write 30, 30s"),
        ({"max_failures": None}, "max_failures=None is no value; give 'none', or leave it out"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_starts(wrong: Any, said: str, tmp_path: Path) -> None:
    items = Counted(3)
    with pytest.raises(InvalidUsage, match=re.escape(said)):
        batchmill.run(work_kit.square, items, **{"checkpoint": tmp_path / "c.ckpt", **wrong})
    assert (items.pulled, list(tmp_path.iterdir())) == (0, [])


@pytest.mark.parametrize("items", [None, 5, b"abc"])
def test_what_is_no_items_is_refused(items: Any) -> None:
    with pytest.raises(InvalidUsage, match="give a list or another iterable, or a path"):
        batchmill.map(work_kit.square, items, workers=1)


def test_an_error_is_of_python_in_its_words_and_its_traceback(tmp_path: Path) -> None:
    """It names arguments, not options of the command line, and nobody needs to see where it was found."""
    path = tmp_path / "c.ckpt"
    batchmill.run(work_kit.square, [1], checkpoint=path, workers=1)

    def again(**more: Any) -> list[str]:
        try:
            batchmill.run(work_kit.square, [1], checkpoint=path, workers=1, **more)
        except batchmill.BatchmillError as error:
            frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
            return [type(error).__name__, str(error), *frames]
        return []

    name, said, *frames = again()
    assert (name, frames) == ("CheckpointExists", ["again", "run"])
    assert said.endswith(
        "resume=True continues it, fresh=True moves it aside and begins anew, checkpoint=FILE names another"
    )
    name, said, *_ = again(resume=True, kwargs={"by": 1})
    assert name == "CheckpointMismatch"
    assert "kwargs nothing, not by=1; checkpoint=FILE names another" in said
    assert "--" not in said


def test_a_failure_brings_what_happened_in_the_worker() -> None:
    with pytest.raises(batchmill.ItemsFailed, match=r"^item 0 failed: ValueError: -1 is negative") as caught:
        batchmill.map(work_kit.fail_on_negative, [-1], workers=1)
    assert caught.value.error is not None
    assert caught.value.error.type == "ValueError"
    assert "in fail_on_negative" in "".join(traceback.format_exception(caught.value))


def test_an_id_callable_for_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidUsage, match="id callable"):
        batchmill.run(work_kit.square, str(tmp_path / "in.jsonl"), id=str, workers=1)


# --- functions -------------------------------------------------------------------------------------------------------


def test_lambdas_closures_and_partials_run() -> None:
    base = 10
    assert batchmill.map(lambda x: x + base, [1, 2], workers=1) == [11, 12]
    assert batchmill.map(functools.partial(pow, 2), [3, 4], workers=1) == [8, 16]


def test_a_lambda_with_a_checkpoint_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidUsage, match="name="):
        batchmill.run(lambda x: x, [1], checkpoint=tmp_path / "c.ckpt", workers=1)
    batchmill.run(lambda x: x, [1], checkpoint=tmp_path / "c.ckpt", workers=1, name="same")
    report = batchmill.run(lambda x: x, [1], checkpoint=tmp_path / "c.ckpt", workers=1, name="same", resume=True)
    assert report.skipped == 1


def test_functions_and_items_of_the_script_itself_run(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
import batchmill
from dataclasses import dataclass

@dataclass
class Point:
    x: int

def area(point):
    return point.x * scale()

def scale():
    return 10

if __name__ == "__main__":
    print(batchmill.map(area, [Point(1), Point(2)], workers=1))
    report = batchmill.run(area, [Point(1)], checkpoint="c.ckpt", workers=1)
    print(report.function, report.completed, report.failed)
""",
    )
    assert done.stderr == ""
    assert done.stdout == "[10, 20]\nscript.py:area 1 0\n"


def test_a_script_without_a_main_guard_gets_one_clear_error(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
import batchmill

def square(x):
    return x * x

batchmill.run(square, range(3), workers=2)
""",
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert 'put what starts the batch under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


# --- ids and items ---------------------------------------------------------------------------------------------------


def test_an_id_can_be_a_field_or_a_callable(tmp_path: Path) -> None:
    items = [{"key": "a", "v": 1}, {"key": "b", "v": 2}]
    batchmill.run(work_kit.identity, items, checkpoint=tmp_path / "1.ckpt", id="key", workers=1)
    batchmill.run(work_kit.identity, items, checkpoint=tmp_path / "2.ckpt", id=lambda item: item["v"] * 10, workers=1)
    assert [outcome.id for outcome in outcomes(tmp_path / "1.ckpt")] == ["a", "b"]
    assert [outcome.id for outcome in outcomes(tmp_path / "2.ckpt")] == [10, 20]


def test_items_with_given_ids_are_resumed_by_them(tmp_path: Path) -> None:
    def run(items: list[Any]) -> batchmill.Report:
        return batchmill.run(
            work_kit.name_of, items, checkpoint=tmp_path / "c.ckpt", id=lambda item: item[0], workers=1, resume=True
        )

    run([("a", {1, 2}), ("b", object)])
    report = run([("b", object), ("c", None), ("a", {1, 2})])
    assert (report.skipped, report.completed) == (2, 1)


def test_items_that_cannot_be_sent_or_read_fail_alone(tmp_path: Path) -> None:
    items = [1, threading.Lock(), work_kit.Unreadable(), 4]
    report = batchmill.run(work_kit.name_of, items, checkpoint=tmp_path / "c.ckpt", workers=1)
    assert (report.completed, report.failed) == (2, 2)
    messages = [outcome.error.message for outcome in outcomes(tmp_path / "c.ckpt") if outcome.error]
    assert "cannot be sent to a worker" in messages[0]
    assert "cannot be read in a worker" in messages[1]


def test_an_item_without_an_id_fails_with_a_checkpoint_and_runs_without(tmp_path: Path) -> None:
    report = batchmill.run(work_kit.name_of, [work_kit.Volatile()], checkpoint=tmp_path / "c.ckpt", workers=1)
    assert (report.failed, report.failures[0].type) == (1, "RuntimeError")
    assert "give run(..., id=...)" in report.failures[0].examples[0].message
    assert batchmill.map(work_kit.name_of, [work_kit.Volatile()], workers=1) == ["Volatile"]


# --- stream ----------------------------------------------------------------------------------------------------------


def test_outcomes_come_as_they_complete() -> None:
    with batchmill.stream(work_kit.fail_on_negative, [1, -2, 3], workers=2) as stream:
        found = list(stream)
    assert sorted((outcome.id, outcome.ok) for outcome in found) == [(-2, False), (1, True), (3, True)]
    assert stream.report is not None
    assert (stream.report.completed, stream.report.failed) == (2, 1)


def test_items_are_pulled_no_further_ahead_than_the_window() -> None:
    items = Counted(100)
    with batchmill.stream(work_kit.slow, items, workers=1, window=2, chunk_size=1) as stream:
        for seen, _ in enumerate(stream, 1):
            # One chunk runs, one waits in its worker, one has been pulled and not handed out.
            assert items.pulled <= seen + 4
            if seen == 5:
                break
    assert items.pulled <= 10


def test_a_slow_reader_holds_the_batch_back() -> None:
    items = Counted(2000)
    with batchmill.stream(work_kit.square, items, workers=1, chunk_size=1) as stream:
        next(iter(stream))
        time.sleep(0.5)
        assert items.pulled < 100


def test_leaving_a_stream_stops_the_batch() -> None:
    items = Counted(50_000)
    with batchmill.stream(work_kit.square, items, workers=1, chunk_size=5) as stream:
        next(iter(stream))
    pulled = items.pulled
    assert stream.report is not None
    assert stream.report.stopped == "left"
    time.sleep(0.1)
    assert items.pulled == pulled


def test_an_error_inside_the_block_stops_the_batch_and_goes_on() -> None:
    class Enough(Exception):
        pass

    stream = batchmill.stream(work_kit.slow, Counted(200), workers=1)

    def read() -> None:
        with stream:
            next(iter(stream))
            raise Enough

    with pytest.raises(Enough):
        read()
    assert stream.report is not None


def test_what_ends_a_batch_is_raised_where_the_stream_is_read() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError("the database is gone")

    with batchmill.stream(work_kit.square, items(), workers=1) as stream:
        found = iter(stream)
        assert next(found).result == 1
        with pytest.raises(RuntimeError, match="the database is gone"):
            next(found)


def test_a_stream_that_was_read_to_its_end_is_empty() -> None:
    with batchmill.stream(work_kit.square, [1, 2], workers=1) as stream:
        assert len(list(stream)) == 2
        assert list(stream) == []


def test_a_stream_outside_of_a_with_block_is_refused() -> None:
    with pytest.raises(InvalidUsage, match="with"):
        next(iter(batchmill.stream(work_kit.square, [1], workers=1)))


def test_a_stream_keeps_its_checkpoint(tmp_path: Path) -> None:
    with batchmill.stream(work_kit.square, range(4), checkpoint=tmp_path / "c.ckpt", workers=1) as stream:
        assert len(list(stream)) == 4
    with batchmill.stream(work_kit.square, range(6), checkpoint=tmp_path / "c.ckpt", resume=True, workers=1) as stream:
        assert [outcome.id for outcome in stream] == [4, 5]


def test_a_stream_gives_an_item_that_is_retried_once_with_its_last_outcome(tmp_path: Path) -> None:
    items = [str(tmp_path / "a")]
    with batchmill.stream(work_kit.fail_twice, items, workers=1, retries=3, retry_delay=0) as stream:
        found = [(outcome.ok, outcome.result, outcome.attempts) for outcome in stream]
    assert found == [(True, ["a", 3], 3)]


# --- map -------------------------------------------------------------------------------------------------------------


def test_a_map_gives_results_in_the_order_of_items() -> None:
    items = list(range(50, 0, -1))
    assert batchmill.map(work_kit.square, items, workers=2, chunk_size=3) == [x * x for x in items]


def test_results_that_nobody_keeps_come_back_as_they_were(tmp_path: Path) -> None:
    source = """
import batchmill, collections, dataclasses, enum, json, os
@dataclasses.dataclass
class Job: n: int
class Colour(enum.Enum): RED = 1
class Own:
    def __init__(self, n): self.n = n
Point = collections.namedtuple("Point", "x y")
class Unreadable:
    def __reduce__(self): return read, (os.getpid(),)
def read(pid):
    assert pid == os.getpid(), "not in this process"
def work(n):
    found = [Job(1), Colour.RED, Own(2), Point(1, 2), [Own(3)], lambda: 4, {1.5: {2}}, 5, (i for i in ()), Unreadable()]
    return found[n]
if __name__ == "__main__":
    found = batchmill.map(work, range(8), workers=1)
    assert found[:2] == [Job(1), Colour.RED] and type(found[2]) is Own and type(found[3]) is Point
    assert (found[4][0].n, found[5](), found[6], found[7]) == (3, 4, {1.5: {2}}, 5)
    with batchmill.stream(work, [0, 8, 9], workers=1, id=str, chunk_size=3) as outcomes:
        print(json.dumps([[one.ok, one.error and one.error.message] for one in outcomes]))
    report = batchmill.run(work, [2] * 5000, checkpoint="kept.ckpt", workers=1)
    print(report.failed < 5000, report.stopped, report.failures[0].examples[0].message)
    try: batchmill.map(work, [9], workers=1)
    except batchmill.ItemsFailed as error: print(error.message)
"""
    found = run_script(tmp_path, source)
    assert found.returncode == 0, found.stderr
    outcomes, *rest = found.stdout.splitlines()
    first, generator, unreadable = json.loads(outcomes)
    assert first == [True, None], found.stderr
    assert "return list(...) of it (nor can it be pickled" in generator[1]
    assert unreadable == [False, "the result cannot be read in this process: not in this process"]
    assert rest == [
        "True max-failures a result of type 'Own' cannot be kept;"
        " make its class a dataclass, or return vars(...) of it",
        "item 0 failed: AssertionError: the result cannot be read in this process: not in this process",
    ]


def test_a_map_raises_at_the_first_failure_and_stops() -> None:
    items = Counted(50_000)

    def flagged() -> Iterator[int]:
        for item in items:
            yield -1 if item == 7 else item

    with pytest.raises(batchmill.ItemsFailed, match=re.escape("item 7 failed: ValueError: -1 is negative")):
        batchmill.map(work_kit.fail_on_negative, flagged(), workers=1, chunk_size=2)
    assert items.pulled < 1000


def test_a_map_retries_before_it_raises_and_keeps_the_order(tmp_path: Path) -> None:
    for name in "bcd":
        (tmp_path / name).write_text("xx")
    items = [str(tmp_path / name) for name in "abcd"]
    found = batchmill.map(work_kit.fail_twice, items, workers=1, chunk_size=2, retries=2, retry_delay=0)
    assert found == [["a", 3], ["b", 3], ["c", 3], ["d", 3]]


# --- progress and interrupts -----------------------------------------------------------------------------------------


def test_progress_is_told_in_snapshots_whose_text_is_the_line() -> None:
    seen: list[batchmill.Snapshot] = []
    batchmill.run(work_kit.slow, range(10), workers=1, on_progress=seen.append, progress_interval=0.05)
    assert seen
    assert all(isinstance(snapshot, batchmill.Snapshot) for snapshot in seen)
    assert re.fullmatch(r"\d+/10 \d+\.\d% \| 0 failed \| [\d.]+/s( \| ETA [\d:]+)? \| 1w( cpu .*)?", str(seen[-1]))
    assert [snapshot.done for snapshot in seen] == sorted(snapshot.done for snapshot in seen)


INTERRUPTED = """
import os, signal, sys, threading, time
import batchmill

def work(x):
    with open("witness", "a") as file:
        print(x, file=file)
    time.sleep(0.01)
    return x

def interrupt(delay):
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGINT)

if __name__ == "__main__":
    try:
        threading.Thread(target=interrupt, args=[float(sys.argv[1])]).start()
        batchmill.run(work, range(1000), checkpoint="c.ckpt", workers=2, chunk_size=1, grace=40)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.08, 0.1, 0.15, 0.3, 0.5])
def test_whenever_an_interrupt_comes_no_item_that_ran_is_lost(delay: float, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(INTERRUPTED)
    done = subprocess.run(
        [sys.executable, "script.py", str(delay)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
    # CPython dies of SIGINT where a KeyboardInterrupt, though caught, came within an `exec` of text, as in a dataclass.
    assert done.returncode in (0, -signal.SIGINT)
    witness = tmp_path / "witness"
    ran = witness.read_text().split() if witness.exists() else []
    found = []
    if (tmp_path / "c.ckpt").exists():
        with batchmill.open_checkpoint(tmp_path / "c.ckpt") as results:
            found = [str(outcome.result) for outcome in results.outcomes()]
    assert sorted(found) == sorted(ran)


def test_an_interrupt_drains_commits_and_is_raised_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import time
import batchmill

def work(x):
    print(x, flush=True)
    time.sleep(0.05)
    return x

if __name__ == "__main__":
    try:
        batchmill.run(work, range(10_000), checkpoint="c.ckpt", workers=2, chunk_size=2)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
    )
    child = start(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert child.stderr is not None
    assert child.stderr.readline().strip().isdecimal()  # what workers print goes to stderr
    os.kill(child.pid, signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    assert (out, child.returncode) == ("interrupted\n", 0)
    with batchmill.open_checkpoint(tmp_path / "c.ckpt") as results:
        found = list(results.outcomes())
        status = results.status()
    assert found
    assert all(outcome.ok for outcome in found)
    assert (status.live, status.is_finished) == (None, False)
    assert status.report is not None
    assert (status.report.stopped, status.report.completed) == ("SIGINT", len(found))


def test_a_worker_forked_from_a_program_does_not_mind_what_that_has_closed_meanwhile(tmp_path: Path) -> None:
    script = """
        import os
        import batchmill

        def items():
            os.close(opened)  # it was there when the batch began
            yield from range(3)

        if __name__ == "__main__":
            opened = os.open(os.devnull, os.O_RDONLY)
            print(batchmill.map(str, items(), workers=1, start_method="fork"))
    """
    ended = run_script(tmp_path, textwrap.dedent(script))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "['0', '1', '2']\n", "")


def test_arguments_that_cannot_be_sent_leave_no_server_behind() -> None:
    with pytest.raises(InvalidUsage, match="kwargs cannot be sent to workers"):
        batchmill.map(work_kit.square, [1], kwargs={"lock": threading.Lock()})
    assert forkserver._servers == {}


@pytest.mark.parametrize(
    "items",
    [[3, 0], ["a", ""], [{"n": 1, "t": (1, "x")}, {"n": 0}], [b"\xff", 2**70]],
    ids=["int", "str", "map", "odd"],
)
def test_a_failed_item_is_given_back_as_it_was_and_can_be_run_again(tmp_path: Path, items: list[Any]) -> None:
    checkpoint = tmp_path / "c.ckpt"
    report = batchmill.run(work_kit.fail, items, checkpoint=checkpoint, workers=1, progress=False)
    assert report.failed == 2
    with batchmill.open_checkpoint(checkpoint) as results:
        failed = [outcome.item for outcome in results.failures()]
    assert failed == items
    assert batchmill.map(repr, failed, workers=1) == list(map(repr, items))


def test_a_failed_item_of_a_file_is_what_the_function_was_called_with(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('a,b\n1,"x\ny"\n')
    (tmp_path / "in.jsonl").write_text('{"id": 1, "n": [1.5]}\nno json\n')
    for name, expected in (("in.csv", [{"a": "1", "b": "x\ny"}]), ("in.jsonl", [{"id": 1, "n": [1.5]}, None])):
        with batchmill.stream(work_kit.fail, str(tmp_path / name), workers=1) as stream:
            outcomes = sorted(stream, key=lambda outcome: outcome.line)
        assert [outcome.item for outcome in outcomes] == expected
        assert all(outcome.raw for outcome in outcomes)
