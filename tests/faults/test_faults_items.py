"""Faults of items: one that crashes, hangs, lies or litters costs itself alone, and is named with its cause."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fault_kit import (
    CHECKPOINT,
    METHODS,
    Ended,
    Run,
    committed,
    finish,
    lines_of,
    prepare,
    running,
    strikes,
    undisturbed,
    write_items,
)

from batchmill import Outcome
from batchmill.errors import ItemError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")

HOSTILE = '''
import ctypes, os, re, signal, subprocess, sys, threading, time

HERE = os.getcwd()


def path(name):
    return os.path.join(HERE, name)


def note(*words):
    witness = os.open(path("witness"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(witness, (" ".join(map(str, words)) + "\\n").encode())
    os.close(witness)


def wait_for(name):
    while not os.path.exists(path(name)):
        time.sleep(0.01)


def work(item):
    note(item["id"], os.getpid())
    if "do" in item:
        return globals()[item["do"]](item)
    time.sleep(item.get("sleep", 0))
    return item["n"]


# Crashes

def exits(item):
    os._exit(7)

def exits_well(item):
    os._exit(0)

def segfault(item):
    ctypes.string_at(0)

def abort(item):
    os.abort()

def crash_once(item):
    """Crashes the first time; then runs until somebody makes the file `go`."""
    if not os.path.exists(path("crashed")):
        open(path("crashed"), "x").close()
        os._exit(7)
    wait_for("go")
    return "second"

def patient(item):
    wait_for("crashed")
    wait_for("go")
    return "undisturbed"

def holds_pipes_and_exits(item):
    subprocess.Popen(["sleep", "1000"], close_fds=False)
    os._exit(7)

# Time

def holds_the_gil(item):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.PyDLL(None).sleep(1000)

def loops(item):
    while True:
        sum(range(100))

def regex(item):
    return re.match("(a+)+$", "a" * 60 + "b")

def swallows(item):
    while True:
        try:
            while True:
                time.sleep(0.001)
        except BaseException:
            pass

def ignores_signals(item):
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, lambda *_: None)
        except OSError:
            pass
    loops(item)

def puts_default_back(item):
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    loops(item)

def stops(item):
    os.kill(os.getpid(), signal.SIGSTOP)
    return "went on"

# Exceptions

class Picky(Exception):
    def __init__(self, first, second):
        super().__init__(first)

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")

class Locked(Exception):
    """Cannot be pickled."""
    def __init__(self):
        super().__init__("locked")
        self.lock = threading.Lock()

def picky(item):
    raise Picky("first", "second")

def mute(item):
    raise Mute

def locked(item):
    raise Locked

def wordy(item):
    raise ValueError("m" * (100 << 20))

def system_exit(item):
    sys.exit("leaving")

def keyboard_interrupt(item):
    raise KeyboardInterrupt

def generator_exit(item):
    raise GeneratorExit

def stop_iteration(item):
    next(iter(()))

def recursion(item):
    return recursion(item)

def odd_name(item):
    raise type("Odd" + "x" * 100000, (Exception,), {})("odd")

class Nameless(type):
    @property
    def __name__(cls):
        raise RuntimeError("no name")

class Numbered(type):
    __name__ = 5

def no_name(item):
    raise Nameless("Unnamed", (Exception,), {})("no name")

def number_name(item):
    raise Numbered("Unnamed", (Exception,), {})("numbered")

class Liar(str):
    def encode(self, *_):
        raise RuntimeError("not encoded")
    def __len__(self):
        return 10**18
    def __format__(self, _):
        raise RuntimeError("not formatted")

class Lying(Exception):
    def __str__(self):
        return Liar("lies")

def lying(item):
    raise Lying

def chain(item):
    error = None
    for n in range(300):
        try:
            raise ValueError(f"{n} " + "c" * 1000) from error
        except ValueError as caught:
            error = caught
    raise error

# Results

def a_lambda(item):
    return lambda: 1

def a_generator(item):
    return (n for n in range(3))

def deep(item):
    value = []
    for _ in range(5000):
        value = [value]
    return value

def huge(item):
    return bytes(200 << 20)

def int_keys(item):
    return {1: 2, "1": 3}

def big_int(item):
    return [2**70, -(2**70), 2**64]

def nan(item):
    return [float("nan"), float("-inf"), -0.0]

def surrogates(item):
    return "a" + chr(0xD800) + chr(0xDFFF) + "b"

def a_tuple(item):
    return (1, ("two", [3]), ())

def megabytes(item):
    """A result that no pipe holds."""
    wait_for("go")
    return "x" * (20 << 20)

# Litter

def closes(item):
    os.closerange(0, 256)
    return "closed"

def closes_and_stays(item):
    os.closerange(0, 256)
    time.sleep(1000)

def forks(item):
    return "child" if os.fork() == 0 else "parent"

def forks_and_raises(item):
    if os.fork() == 0:
        raise ValueError("in the child")
    return "parent"

def forks_and_waits(item):
    pid = os.fork()
    if pid == 0:
        sys.exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def moves_away(item):
    os.chdir("/")
    return os.getcwd()

def leaves_a_child(item):
    return subprocess.Popen(["sleep", "1000"]).pid > 0

def leaves_a_thread(item):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return "left"

def eats_memory(item):
    kept = []
    while len(kept) < 100:
        kept.append(bytearray(8 << 20))
        time.sleep(0.002)
    time.sleep(1000)

def prints(item):
    for _ in range(100):
        sys.stdout.write("p" * (1 << 20))
        sys.stderr.write("!")
    return "printed"
'''


def batch(cwd: Path, poison: Sequence[str], around: int = 5) -> list[dict[str, Any]]:
    """Poison items, named for what they do, each between `around` innocent ones; and the module."""
    items: list[dict[str, Any]] = []
    for do in [*poison, ""]:
        for _ in range(around):
            items.append({"id": f"i{len(items)}", "n": len(items)})
        if do:
            items.append({"id": f"{do}#{len(items)}" if poison.count(do) > 1 else do, "n": len(items), "do": do})
    return prepared(cwd, items)


def prepared(cwd: Path, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    prepare(cwd, items)
    (cwd / "h.py").write_text(HOSTILE)
    return items


def command(*arguments: str) -> tuple[str, ...]:
    return ("h.py:work", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", *arguments)


def calls(cwd: Path) -> list[tuple[str, int]]:
    """(id, pid) of every call of the function, in order."""
    words = [line.split() for line in (cwd / "witness").read_text().splitlines()]
    return [(id, int(pid)) for id, pid in words]


def runs(cwd: Path) -> Counter[str]:
    """How often each item was run."""
    return Counter(id for id, _ in calls(cwd))


@dataclass(frozen=True)
class After:
    """What a batch came to: how it ended, what was committed, and who failed why."""

    ended: Ended
    outcomes: dict[str, Outcome]

    @property
    def errors(self) -> dict[str, ItemError]:
        return {id: outcome.error for id, outcome in self.outcomes.items() if outcome.error is not None}

    def result(self, id: str) -> Any:
        assert self.outcomes[id].ok, self.outcomes[id]
        return self.outcomes[id].result


def judge(cwd: Path, items: list[dict[str, Any]], ended: Ended, failing: Iterable[str]) -> After:
    """The oracle: exactly those fail that must; everybody else is in the output, in order and with its own result."""
    after, failing = After(ended, committed(cwd)), set(failing)
    assert set(after.errors) == failing, ended.err
    assert ended.status == (1 if failing else 0), ended.err
    assert set(after.outcomes) == {item["id"] for item in items}
    found = lines_of(cwd / "out.jsonl")
    assert [line["id"] for line in found] == [item["id"] for item in items if item["id"] not in failing]
    results = {line["id"]: line["result"] for line in found}
    for item in items:
        if "do" not in item:
            assert results[item["id"]] == item["n"]
            assert after.outcomes[item["id"]].attempts == 1
    for id in failing:
        assert f"id {id} (line " in ended.err or len(failing) > 5  # five of a type are named
    return after


# Row 20


@pytest.mark.parametrize(
    ("method", "retries"), [("forkserver", 0), ("forkserver", 1), ("forkserver", 2), ("spawn", 1), ("fork", 1)]
)
def test_row_20_a_crash_fails_its_item_after_its_strikes_and_names_it(
    method: str, retries: int, tmp_path: Path
) -> None:
    causes = {"exits": "exited with status 7", "exits_well": "exited with status 0"}
    causes |= {"segfault": "was killed by SIGSEGV", "abort": "was killed by SIGABRT"}
    items = batch(tmp_path, list(causes))
    options = ("--start-method", method, "--crash-retries", str(retries), "--chunk-size", "1", "-j", "2")
    after = judge(tmp_path, items, finish(*command(*options), cwd=tmp_path), causes)
    tries = retries + 1
    for id, cause in causes.items():
        last_pid = [pid for called, pid in calls(tmp_path) if called == id][-1]
        assert after.errors[id].type == "WorkerDied"
        assert f"(pid {last_pid}) {cause}" in after.errors[id].message
        assert (f"{tries} times" in after.errors[id].message) == (tries > 1)
        assert after.outcomes[id].attempts == tries
    assert runs(tmp_path) == {item["id"]: tries if "do" in item else 1 for item in items}, "the others ran once each"
    assert strikes(tmp_path) == tries * len(causes)


def test_row_20_the_strike_is_in_the_file_before_the_item_runs_again_and_the_other_worker_does_not_notice(
    tmp_path: Path,
) -> None:
    items = [{"id": "patient", "n": 0, "do": "patient"}, {"id": "crash_once", "n": 1, "do": "crash_once"}]
    prepared(tmp_path, items)
    with running(*command("--chunk-size", "1", "-j", "2"), cwd=tmp_path) as run:
        run.until(lambda: runs(tmp_path)["crash_once"] == 2 if (tmp_path / "witness").exists() else False, "a retry")
        assert strikes(tmp_path) == 1
        (tmp_path / "go").touch()
        ended = run.end()
        run.assert_gone()
    after = judge(tmp_path, items, ended, [])
    assert runs(tmp_path) == {"patient": 1, "crash_once": 2}
    assert (after.result("patient"), after.result("crash_once")) == ("undisturbed", "second")
    assert (after.outcomes["patient"].attempts, after.outcomes["crash_once"].attempts) == (1, 2)


def test_row_20_chunk_mates_run_again_without_blame(tmp_path: Path) -> None:
    items = [{"id": f"i{n}", "n": n} for n in range(12)]
    items[6] = {"id": "segfault", "n": 6, "do": "segfault"}
    prepared(tmp_path, items)
    options = ("--chunk-size", "12", "-j", "1", "--crash-retries", "2")
    after = judge(tmp_path, items, finish(*command(*options), cwd=tmp_path), ["segfault"])
    assert after.outcomes["segfault"].attempts == 3
    assert strikes(tmp_path) == 3
    expected = {f"i{n}": 2 if n < 6 else 1 for n in range(12) if n != 6}
    assert runs(tmp_path) == {**expected, "segfault": 3}, "only what had run and was not committed runs again"


# Row 22


def is_writing(pid: int) -> bool:
    """Whether a process waits for room in a pipe."""
    try:
        return "pipe" in Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("method", METHODS)
def test_row_22_a_worker_killed_while_it_sends_a_large_result_is_replaced(method: str, tmp_path: Path) -> None:
    items = [{"id": "megabytes", "n": 0, "do": "megabytes"}, *({"id": f"i{n}", "n": n} for n in range(1, 12))]
    prepared(tmp_path, items)
    options = ("--start-method", method, "--chunk-size", "1", "-j", "2")
    with running(*command(*options), cwd=tmp_path) as run:
        run.until(lambda: len(committed(tmp_path)) == 11, "the others")
        pid = dict(calls(tmp_path))["megabytes"]
        run.signal(signal.SIGSTOP)
        (tmp_path / "go").touch()
        run.until(lambda: is_writing(pid), "the worker to fill the pipe")
        os.kill(pid, signal.SIGKILL)
        run.signal(signal.SIGCONT)
        ended = run.end()
        run.assert_gone()
    after = judge(tmp_path, items, ended, [])
    assert len(after.result("megabytes")) == 20 << 20
    assert runs(tmp_path) == {item["id"]: 2 if "do" in item else 1 for item in items}
    assert strikes(tmp_path) == 0


# Row 23


def said(run: Run) -> str:
    """What a run has said on stderr so far."""
    size = os.fstat(run._err.fileno()).st_size
    return os.pread(run._err.fileno(), size, 0).decode()


def test_row_23_a_stopped_worker_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    batch(tmp_path, ["stops"])
    with running(*command("--chunk-size", "1", "-j", "2", "-v"), cwd=tmp_path) as run:
        run.until(lambda: len(committed(tmp_path)) == 10 and "is stopped" in said(run), "the others, and a message")
        pid = dict(calls(tmp_path))["stops"]
        assert f"Worker {pid} is stopped; `kill -CONT {pid}` lets it go on (see --timeout)" in said(run)
        os.kill(pid, signal.SIGCONT)
        ended = run.end()
        run.assert_gone()
    assert said_once(ended.err, "is stopped")
    assert ended.status == 0
    assert committed(tmp_path)["stops"].result == "went on"
    assert set(runs(tmp_path).values()) == {1}


def said_once(text: str, words: str) -> bool:
    return text.count(words) == 1


# Rows 23 to 25, with a time-out


@pytest.mark.parametrize("method", METHODS)
def test_row_24_code_that_never_lets_go_of_the_interpreter_is_killed(method: str, tmp_path: Path) -> None:
    items = batch(tmp_path, ["holds_the_gil"])
    options = ("--timeout", "0.3s", "--start-method", method, "--chunk-size", "1", "-j", "2")
    after = judge(tmp_path, items, finish(*command(*options), cwd=tmp_path), ["holds_the_gil"])
    error = after.errors["holds_the_gil"]
    assert error.type == "Timeout"
    assert error.message.startswith("killed after ")
    assert error.message.endswith(f"(--timeout 0.3, pid {dict(calls(tmp_path))['holds_the_gil']})")
    assert after.outcomes["holds_the_gil"].attempts == 1
    assert set(runs(tmp_path).values()) == {1}, "what was killed for its time has no second try"
    assert strikes(tmp_path) == 1


def test_rows_23_and_25_whatever_hangs_is_ended_at_its_time_out(tmp_path: Path) -> None:
    raised, killed = ("loops", "regex"), ("swallows", "ignores_signals", "puts_default_back", "stops")
    items = batch(tmp_path, [*raised, *killed])
    options = ("--timeout", "2s", "--chunk-size", "1", "-j", "2")
    after = judge(tmp_path, items, finish(*command(*options), cwd=tmp_path), [*raised, *killed])
    assert {error.type for error in after.errors.values()} == {"Timeout"}
    for id in raised:
        assert after.errors[id].message == "timed out after 2 s"
        assert f"in {id}\n" in after.errors[id].traceback, "it says where it was"
    for id in killed:
        assert re.match(r"killed after \d", after.errors[id].message), after.errors[id]
    assert set(runs(tmp_path).values()) == {1}
    assert {outcome.attempts for outcome in after.outcomes.values()} == {1}


# Row 26


def test_row_26_an_exception_of_any_kind_costs_its_item_and_not_even_the_worker(tmp_path: Path) -> None:
    expected = {
        "picky": ("Picky", "first"),
        "mute": ("Mute", "cannot be read"),
        "locked": ("Locked", "locked"),
        "wordy": ("ValueError", "(104857600 characters)"),
        "system_exit": ("SystemExit", "leaving"),
        "keyboard_interrupt": ("KeyboardInterrupt", ""),
        "generator_exit": ("GeneratorExit", ""),
        "stop_iteration": ("StopIteration", ""),
        "recursion": ("RecursionError", "recursion"),
        "odd_name": ("Odd", "odd"),
        "no_name": ("", "no name"),
        "number_name": ("", "numbered"),
        "lying": ("Lying", ""),
        "chain": ("ValueError", "299 c"),
        "loops": ("Timeout", "timed out"),
    }
    items = batch(tmp_path, list(expected), around=2)
    ended = finish(*command("--timeout", "5s", "-j", "1"), cwd=tmp_path)
    after = judge(tmp_path, items, ended, expected)
    for id, (kind, words) in expected.items():
        error = after.errors[id]
        assert error.type.startswith(kind)
        assert words in error.message
        assert len(f"{error.type}{error.message}{error.traceback}".encode()) <= 64 << 10, id
    assert len(ended.err.encode()) < 16 << 10
    assert len({pid for _, pid in calls(tmp_path)}) == 1, "one worker did it all"
    assert set(runs(tmp_path).values()) == {1}


# Row 27


def test_row_27_a_result_is_kept_exact_or_fails_with_a_sentence(tmp_path: Path) -> None:
    sentences = {
        "a_lambda": "a result of type 'function' cannot be kept",
        "a_generator": "a result of type 'generator' cannot be kept",
        "deep": "nested too deeply",
        "huge": "a result must stay below 64 MiB packed, this one has 200 MiB",
    }
    kept = ("int_keys", "big_int", "nan", "surrogates", "a_tuple")
    items = batch(tmp_path, [*sentences, *kept], around=2)
    after = judge(tmp_path, items, finish(*command("-j", "2"), cwd=tmp_path), sentences)
    for id, sentence in sentences.items():
        assert sentence in after.errors[id].message
    assert after.result("int_keys") == {1: 2, "1": 3}
    assert after.result("big_int") == [2**70, -(2**70), 2**64]
    not_a_number, infinity, zero = after.result("nan")
    assert math.isnan(not_a_number)
    assert infinity == -math.inf
    assert math.copysign(1, zero) == -1
    assert after.result("surrogates") == "a\ud800\udfffb"
    assert after.result("a_tuple") == (1, ("two", [3]), ())
    assert (
        '"big_int", "result": [1180591620717411303424, -1180591620717411303424, 18446744073709551616]'
        in (tmp_path / "out.jsonl").read_text()
    )
    assert set(runs(tmp_path).values()) == {1}


# Row 30


FATAL = """
from h import *

def dies():
    note("init", os.getpid())
    os._exit(9)

def crashes():
    note("init", os.getpid())
    ctypes.string_at(0)

def is_well_once():
    note("init", os.getpid())
    try:
        open(path("first"), "x").close()
    except FileExistsError:
        os._exit(9)
"""


@pytest.mark.parametrize(("init", "how"), [("dies", "exited with status 9"), ("crashes", "was killed by SIGSEGV")])
def test_row_30_an_initializer_that_kills_its_worker_is_one_clear_error(init: str, how: str, tmp_path: Path) -> None:
    batch(tmp_path, [])
    (tmp_path / "g.py").write_text(FATAL)
    ended = finish("g.py:work", "items.jsonl", "-c", CHECKPOINT, "-j", "2", "--init", init, cwd=tmp_path)
    assert ended.status == 78
    assert how in ended.err
    assert ended.err.count("batchmill: ") == 1
    assert runs(tmp_path) == {"init": 1}, "no second try"


def test_row_30_workers_that_die_while_starting_are_not_started_for_ever(tmp_path: Path) -> None:
    items = [{"id": "patient", "n": 0, "do": "patient"}, {"id": "i1", "n": 1}]
    prepared(tmp_path, items)
    (tmp_path / "g.py").write_text(FATAL)
    options = ("-j", "2", "--init", "is_well_once", "--chunk-size", "1")
    ended = finish("g.py:work", "items.jsonl", "-c", CHECKPOINT, *options, cwd=tmp_path)
    assert ended.status not in (0, 1)
    assert "exited with status 9" in ended.err
    assert ended.err.count("batchmill: ") == 1
    assert runs(tmp_path)["init"] <= 10


# Row 31


@pytest.mark.parametrize("method", METHODS)
def test_row_31_what_an_item_litters_hurts_nobody(method: str, tmp_path: Path) -> None:
    results = {
        "forks": "parent",
        "forks_and_raises": "parent",
        "forks_and_waits": 3,
        "moves_away": "/",
        "leaves_a_child": True,
        "leaves_a_thread": "left",
    }
    items = batch(tmp_path, list(results))
    ended = finish(*command("--start-method", method, "-j", "2"), cwd=tmp_path)
    after = judge(tmp_path, items, ended, [])
    assert ended.err == ""
    assert {id: after.result(id) for id in results} == results
    assert set(runs(tmp_path).values()) == {1}, "a forked child never goes on with its parent's work"


def test_row_31_closed_descriptors_cost_the_item_that_closed_them(tmp_path: Path) -> None:
    poison = ["closes", "closes_and_stays"]
    items = batch(tmp_path, poison)
    after = judge(tmp_path, items, finish(*command("--chunk-size", "1", "-j", "2"), cwd=tmp_path), poison)
    for id in poison:
        assert "closed its connection (does the item close descriptors" in after.errors[id].message
        assert after.outcomes[id].attempts == 2
    assert runs(tmp_path) == {item["id"]: 2 if "do" in item else 1 for item in items}


def test_row_31_a_grandchild_that_holds_the_pipes_open_keeps_nobody_waiting(tmp_path: Path) -> None:
    items = batch(tmp_path, ["holds_pipes_and_exits"])
    after = judge(tmp_path, items, finish(*command("-j", "2"), cwd=tmp_path), ["holds_pipes_and_exits"])
    assert "exited with status 7" in after.errors["holds_pipes_and_exits"].message


@pytest.mark.parametrize("output", ["none", "prints.txt"])
def test_row_31_a_hundred_megabytes_of_prints_go_where_they_are_wanted(output: str, tmp_path: Path) -> None:
    items = batch(tmp_path, ["prints"])
    ended = finish(*command("-j", "2", "--worker-output", output), cwd=tmp_path)
    judge(tmp_path, items, ended, [])
    assert (ended.out, ended.err) == ("", "")
    if output != "none":
        assert os.path.getsize(tmp_path / output) == (100 << 20) + 100


# All of them together


KINDS = {
    "segfault": "was killed by SIGSEGV",
    "exits": "exited with status 7",
    "abort": "was killed by SIGABRT",
    "holds_the_gil": "killed after ",
    "loops": "timed out after 2 s",
    "eats_memory": "(--worker-memory 300M)",
    "picky": "first",
    "a_lambda": "a result of type 'function' cannot be kept",
    "stops": "killed after ",
    "closes": "closed its connection",
}


def test_of_two_thousand_items_with_twenty_poisonous_ones_exactly_those_fail(tmp_path: Path) -> None:
    items: list[dict[str, Any]] = [{"id": f"i{n}", "n": n} for n in range(2000)]
    for place, do in enumerate([*KINDS, *KINDS]):
        n = 60 + 97 * place
        items[n] = {"id": f"{do}#{n}", "n": n, "do": do}
    prepared(tmp_path, items)
    poison = {item["id"]: KINDS[item["do"]] for item in items if "do" in item}
    options = ("-j", "2", "--timeout", "2s", "--worker-memory", "300M")
    after = judge(tmp_path, items, finish(*command(*options), cwd=tmp_path), poison)
    assert len(poison) == 20
    for id, cause in poison.items():
        message = after.errors[id].message
        # A machine that is slow enough gets none of them to the limit of memory before the time is up.
        assert cause in message or (cause == KINDS["eats_memory"] and KINDS["loops"] in message), id
    assert "20 of 2000 items failed" in after.ended.err
    crashes = sum(after.outcomes[id].attempts for id in poison if id.split("#")[0] in ("segfault", "exits", "abort"))
    assert crashes == 12


def test_each_of_ten_poisons_in_a_call_of_64_fails_alone(tmp_path: Path) -> None:
    items: list[dict[str, Any]] = [{"id": f"i{n}", "n": n} for n in range(100)]
    for place, do in enumerate(KINDS):
        items[6 * place + 3] = {"id": do, "n": 6 * place + 3, "do": do}
    prepared(tmp_path, items)
    (tmp_path / "h.py").write_text(f"{HOSTILE}\n\ndef works(items):\n    return [work(item) for item in items]\n")
    words = ("h.py:works", *command("-j", "2", "--batch-size", "64", "--timeout", "2s", "--worker-memory", "300M")[1:])
    after = judge(tmp_path, items, finish(*words, cwd=tmp_path), KINDS)
    for id, cause in KINDS.items():
        message = after.errors[id].message
        assert cause in message or (cause == KINDS["eats_memory"] and KINDS["loops"] in message), message
    assert "of many items failed; each of their items was called by itself" in after.ended.err


def test_a_batch_with_poison_resumes_to_the_output_of_one_without(tmp_path: Path) -> None:
    """Oracle D: what failed is mended, the rest is not run again, and the output is as if nothing had been."""
    items = batch(tmp_path, ["segfault", "picky", "loops"])
    mended = [{"id": item["id"], "n": item["n"]} for item in items]
    judge(
        tmp_path, items, finish(*command("-j", "2", "--timeout", "0.3s"), cwd=tmp_path), ["segfault", "picky", "loops"]
    )
    os.rename(tmp_path / "witness", tmp_path / "witness.first")
    write_items(tmp_path / "items.jsonl", mended)
    assert finish(*command("-j", "2", "--timeout", "0.3s", "--resume"), cwd=tmp_path).status == 0
    assert set(runs(tmp_path)) == {"segfault", "picky", "loops"}
    (tmp_path / "f.py").write_text(HOSTILE)
    assert (tmp_path / "out.jsonl").read_bytes() == undisturbed(tmp_path)
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[5]) == {"id": "segfault", "result": 5}
