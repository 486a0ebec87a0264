"""Faults of what items leave behind in their worker: alarms, hooks, replaced functions, another directory. They cost at
most the item that left them, by name; results do not depend on what ran before in the same process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fault_kit import CHECKPOINT, METHODS, Ended, committed, finish, lines_of, write_items

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")

LEAVING = '''
import _thread, builtins, contextlib, ctypes, gc, os, pickle, signal, sys, threading, time, warnings
from os import chdir  # bound before any item ran


def boom(*_, **__):
    raise RuntimeError("left behind")


def work(item):
    if "do" in item:
        globals()[item["do"]]()
    time.sleep(item.get("sleep", 0))
    return [item["n"], os.getcwd(), len("abc"), sys.getrecursionlimit()]


def armed(item):
    """Sets an alarm and does not cancel it, as many do."""
    signal.signal(signal.SIGALRM, boom)
    signal.setitimer(signal.ITIMER_REAL, 0.0002)
    return item["n"]


# Alarms

def late_alarm():
    signal.signal(signal.SIGALRM, boom)
    signal.setitimer(signal.ITIMER_REAL, 0.02)

def ticks():
    signal.signal(signal.SIGALRM, boom)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)

def ticks_in_cpu_time():
    signal.signal(signal.SIGPROF, boom)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)

def deadly_alarm():
    """Without a handler: it ends the process."""
    signal.setitimer(signal.ITIMER_REAL, 0.02)

def c_alarm():
    ctypes.CDLL(None).ualarm(20000, 20000)

# Hooks

def trace():
    sys.settrace(boom)

def profile():
    sys.setprofile(boom)

def audit():
    sys.addaudithook(boom)

def garbage():
    gc.callbacks.append(boom)
    gc.set_threshold(1)

class Dying:
    def __del__(self):
        boom()

def finalizer():
    sys.unraisablehook = boom
    dying = Dying()
    dying.itself = dying

def excepthooks():
    sys.excepthook = threading.excepthook = boom
    threading.Thread(target=boom).start()

def warning():
    warnings.simplefilter("error")

# Replaced

def no_len():
    del builtins.len

def another_isinstance():
    builtins.isinstance = boom

def no_import():
    builtins.__import__ = boom

def clocks():
    time.time = time.monotonic = time.perf_counter = boom

def functions_of_os():
    os.chdir = boom

def pickles():
    pickle.loads = pickle.dumps = boom

# The process

def shallow():
    sys.setrecursionlimit(40)

def moves():
    os.chdir("/")

def moves_by_name():
    chdir("/")

def moves_by_descriptor():
    os.fchdir(os.open("/", os.O_RDONLY))

def moves_in_a_context():
    global kept
    kept = contextlib.chdir("/")
    kept.__enter__()

def moves_and_raises():
    os.chdir("/")
    boom()

def moves_to_nowhere():
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")

def no_streams():
    sys.stdout = sys.stderr = None

# From another thread

def interrupted_later():
    signal.signal(signal.SIGALRM, boom)
    threading.Timer(0.02, lambda: _thread.interrupt_main(signal.SIGALRM)).start()
'''

ITEMS, AT = 60, 25


def prepared(cwd: Path, do: str, sleep: float) -> list[dict[str, Any]]:
    """Items of which one leaves something behind; its id says what."""
    (cwd / "l.py").write_text(LEAVING)
    items = [{"id": f"i{n}", "n": n, "sleep": sleep} for n in range(ITEMS)]
    items[AT] = {"id": do, "n": AT, "do": do, "sleep": sleep}
    write_items(cwd / "items.jsonl", items)
    return items


def run(cwd: Path, *options: str, function: str = "work") -> Ended:
    arguments = ("items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", "-j", "1", "--worker-output", "none")
    return finish(f"l.py:{function}", *arguments, *options, cwd=cwd)


def judged(cwd: Path, do: str, ended: Ended) -> dict[str, Any]:
    """The oracle: at most the item that left something behind is failed, and named; the others know nothing of it.

    Gives its error, by type and message, if there is one.
    """
    found = committed(cwd)
    failed = {id: outcome.error for id, outcome in found.items() if outcome.error is not None}
    assert len(found) == ITEMS
    assert set(failed) <= {do}, ended.err
    assert ended.status == (1 if failed else 0), ended.err
    assert f"id {do} (line {AT + 1})" in ended.err or not failed
    here = [str(cwd), 3, sys.getrecursionlimit()]
    others = [line["result"][1:] for line in lines_of(cwd / "out.jsonl") if line["id"] != do]
    assert others == [here] * (ITEMS - 1)
    return {id: (error.type, error.message) for id, error in failed.items() if error is not None}


CHARGED = {  # what is always found out, and in which words
    "trace": "left behind",
    "profile": "left behind",
    "no_len": "'len' is not defined",
    "another_isinstance": "left behind",
    "audit": "could not answer for what was left behind in it",
    "moves_and_raises": "left behind",
    "moves_to_nowhere": "No such file",
}
QUIET = [
    "late_alarm",
    "ticks",
    "ticks_in_cpu_time",
    "deadly_alarm",
    "c_alarm",
    "garbage",
    "finalizer",
    "excepthooks",
    "warning",
    "no_import",
    "clocks",
    "functions_of_os",
    "pickles",
    "shallow",
    "moves",
    "moves_by_name",
    "moves_by_descriptor",
    "moves_in_a_context",
    "no_streams",
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("size", ["20", "1"])
@pytest.mark.parametrize("do", [*CHARGED, *QUIET])
def test_what_an_item_leaves_behind_costs_itself_at_most(do: str, size: str, tmp_path: Path) -> None:
    prepared(tmp_path, do, sleep=0.0)
    errors = judged(tmp_path, do, run(tmp_path, "--chunk-size", size))
    if do in CHARGED:
        assert CHARGED[do] in errors[do][1]


@pytest.mark.parametrize("do", ["late_alarm", "ticks", "deadly_alarm", "ticks_in_cpu_time", "trace", "moves"])
def test_neither_do_others_notice_that_take_longer(do: str, tmp_path: Path) -> None:
    prepared(tmp_path, do, sleep=0.006)
    judged(tmp_path, do, run(tmp_path, "--chunk-size", "20"))


def test_what_comes_from_another_thread_costs_one_item(tmp_path: Path) -> None:
    """Whom it meets is left to chance; the run goes on."""
    prepared(tmp_path, "interrupted_later", sleep=0.004)
    ended = run(tmp_path, "--chunk-size", "20")
    found = committed(tmp_path)
    failed = [outcome.error for outcome in found.values() if outcome.error is not None]
    assert (len(found), ended.status, len(failed) <= 1) == (ITEMS, 1 if failed else 0, True), ended.err
    assert all("left behind" in error.message for error in failed)


@pytest.mark.parametrize("method", METHODS)
def test_an_alarm_that_every_item_sets_ends_no_run(method: str, tmp_path: Path) -> None:
    (tmp_path / "l.py").write_text(LEAVING)
    write_items(tmp_path / "items.jsonl", [{"id": n, "n": n} for n in range(5000)])
    ended = run(tmp_path, "--start-method", method, "--max-failures", "100%", function="armed")
    found = committed(tmp_path)
    errors = [outcome.error for outcome in found.values() if outcome.error is not None]
    assert set(found) == set(range(5000))
    assert ended.status == (1 if errors else 0), ended.err
    assert {error.type for error in errors} <= {"RuntimeError"}
    assert [o.result for o in found.values() if o.ok] == [id for id, o in found.items() if o.ok]


def test_what_init_has_set_is_what_all_items_begin_with(tmp_path: Path) -> None:
    (tmp_path / "l.py").write_text(LEAVING + INIT)
    (tmp_path / "scratch").mkdir()
    items: Sequence[dict[str, Any]] = [{"id": n, "n": n, **({"do": "moves"} if n % 5 == 2 else {})} for n in range(20)]
    write_items(tmp_path / "items.jsonl", items)
    assert run(tmp_path, "--init", "settle", "--chunk-size", "7").status == 0
    results = [outcome.result for _, outcome in sorted(committed(tmp_path).items())]
    scratch = str(tmp_path / "scratch")
    expected = [[n, "/" if n % 5 == 2 else scratch, 3, 4321] for n in range(20)]
    assert results == expected


INIT = """
def settle():
    os.chdir("scratch")
    sys.setrecursionlimit(4321)
"""


def test_results_do_not_depend_on_how_items_are_cut_into_chunks(tmp_path: Path) -> None:
    """An item that leaves the directory, then one that reads a file by its name."""
    (tmp_path / "l.py").write_text(LEAVING + READING)
    (tmp_path / "here.txt").write_text("here")
    write_items(tmp_path / "items.jsonl", [{"id": n, "n": n} for n in range(30)])
    outputs = set()
    for size in ("1", "2", "7", "30"):
        options = ("--chunk-size", size, "--fresh")
        assert run(tmp_path, *options, function="reads").status == 0
        outputs.add((tmp_path / "out.jsonl").read_bytes())
    assert [json.loads(line)["result"] for line in outputs.pop().splitlines()] == ["here"] * 30
    assert outputs == set()


READING = """
def reads(item):
    found = open("here.txt").read()
    os.chdir(("/", "/tmp")[item["n"] % 2])
    return found
"""


def test_a_worker_that_raised_where_no_item_was_at_work_answers_what_it_has(tmp_path: Path) -> None:
    """Its finished items are not run again, and nothing more is run in it."""
    (tmp_path / "l.py").write_text(LEAVING + NOTING)
    items = [{"id": n, "n": n, **({"do": "another_isinstance"} if n == 12 else {})} for n in range(30)]
    write_items(tmp_path / "items.jsonl", items)
    ended = run(tmp_path, "--chunk-size", "30", function="noted")
    found = committed(tmp_path)
    assert ended.status == 1
    assert [id for id, outcome in found.items() if not outcome.ok] == [12]
    runs = [line.split() for line in (tmp_path / "witness").read_text().splitlines()]
    assert sorted(int(n) for n, _ in runs) == list(range(30)), "each ran once"
    assert len({pid for n, pid in runs if int(n) <= 12}) == 1
    assert {pid for n, pid in runs if int(n) <= 12}.isdisjoint(pid for n, pid in runs if int(n) > 12)


NOTING = """
def noted(item):
    with open(os.path.join(HERE, "witness"), "a") as file:
        file.write(f"{item['n']} {os.getpid()}\\n")
    return work(item)

HERE = os.getcwd()
"""


def test_a_forked_worker_is_guarded_as_others_are(tmp_path: Path) -> None:
    prepared(tmp_path, "trace", sleep=0.0)
    judged(tmp_path, "trace", run(tmp_path, "--chunk-size", "20", "--start-method", "fork"))
    assert os.listdir(tmp_path).count("out.jsonl") == 1
