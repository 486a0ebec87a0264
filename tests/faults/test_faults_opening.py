"""Faults of records that hurt whoever opens them, before any function is called: they are held to all limits, fail
alone, and are not opened again once they are condemned: by no worker, no scan, no retry.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cli_kit import environment
from fault_kit import CHECKPOINT, PROGRAM, committed, finish, lines_of, strikes, witnessed, write_items

from batchmill import Outcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")

LIMIT = 90  # seconds

POISON = '''
import ctypes, os, signal, sys, time
from dataclasses import dataclass, field

HERE = os.getcwd()


def note(*words):
    witness = os.open(os.path.join(HERE, "witness"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(witness, (" ".join(map(str, words)) + "\\n").encode())
    os.close(witness)


def work(item):
    note("ran", getattr(item, "n", item))
    return getattr(item, "result", 1)


class Poison:
    """Does its worst when it is unpickled."""
    n = "poison"

    def __init__(self, do):
        self.do = do

    def __setstate__(self, state):
        note("opened", state["do"])
        self.__dict__ = state
        globals()[state["do"]]()

def exits():
    os._exit(7)

def segfaults():
    ctypes.string_at(0)

def leaves():
    sys.exit("leaving")

def is_interrupted():
    raise KeyboardInterrupt

def loops():
    while True:
        pass

def swallows():
    while True:
        try:
            loops()
        except BaseException:
            pass

def holds_the_interpreter():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.PyDLL(None).sleep(1000)

def eats_memory():
    kept = []
    while len(kept) < 100:
        kept.append(bytearray(8 << 20))
        time.sleep(0.002)
    time.sleep(1000)

def closes():
    os.closerange(3, 256)
    note("closed")

def alarm():
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    time.sleep(1000)

def boom(*_):
    raise RuntimeError("hostile")


class Sent:
    """Cannot be sent."""
    def __init__(self, error):
        self.error = error
    def __reduce__(self):
        raise self.error

@dataclass
class Unset:
    n = "poison"
    id: int = 3
    unset: int = field(init=False)

class Hostile(dict):
    """Raises when it is looked at, but not when it is pickled."""
    n = "poison"
    def __reduce__(self):
        return (Hostile, ())
    def items(self):
        boom()
    __eq__ = __hash__ = get = keys = __iter__ = __getitem__ = lambda *_: sys.exit("looked at")

class Property:
    """Lies about what it is."""
    n = "poison"
    def __reduce__(self):
        return (Property, ())
    @property
    def __class__(self):
        boom()

class Final:
    """Does its worst when it is no more."""
    n = "poison"
    def __init__(self, do):
        self.do = do
    def __reduce__(self):
        return (Final, (self.do,))
    def __del__(self):
        if os.getpid() != int(os.environ["PARENT"]):
            globals()[self.do]()
'''

SCRIPT = """
import json, os, sys
os.environ["PARENT"] = str(os.getpid())
import batchmill, p

if __name__ == "__main__":
    poison, options = eval(sys.argv[1], vars(p)), json.loads(sys.argv[2])
    items = [*range(100, 112), poison, *range(112, 124)]
    if options.pop("with_id", False):
        options["id"] = lambda item: getattr(item, "n", item)
    report = batchmill.run(p.work, items, workers=2, **options)
    print(json.dumps([report.exit_code, report.completed, report.skipped, report.failed]))
"""

AT, INNOCENT = 12, [*range(100, 124)]


def run(cwd: Path, poison: str, **options: Any) -> list[int]:
    """Exit code, items completed, skipped and failed of a batch with one poisonous item among others."""
    (cwd / "p.py").write_text(POISON)
    (cwd / "script.py").write_text(SCRIPT)
    words = [sys.executable, "script.py", poison, json.dumps({"checkpoint": CHECKPOINT, **options})]
    done = subprocess.run(
        words, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[int] = json.loads(done.stdout)
    return found


def the_failed(cwd: Path, id: Any = AT) -> Outcome:
    """The oracle: the poisonous item alone is failed, and it is the one."""
    found = committed(cwd)
    assert {id for id, outcome in found.items() if outcome.ok} == set(INNOCENT)
    (failed,) = (outcome for outcome in found.values() if not outcome.ok)
    assert (failed.id, failed.line) == (id, AT + 1)
    return failed


def counted(cwd: Path) -> Counter[str]:
    """How often each item was opened and run so far; forgotten then."""
    found = Counter(witnessed(cwd))
    (cwd / "witness").unlink(missing_ok=True)
    return found


# Python items whose unpickling hurts


KILLING = {  # error type, words, how often it was opened
    "exits": ("WorkerDied", "exited with status 7 while reading it, 2 times", 2),
    "segfaults": ("WorkerDied", "was killed by SIGSEGV while reading it, 2 times", 2),
    "alarm": ("WorkerDied", "was killed by SIGALRM while reading it, 2 times", 2),
    "swallows": ("Timeout", "killed after ", 1),
    "holds_the_interpreter": ("Timeout", "killed after ", 1),
    "eats_memory": ("OutOfMemory", "(--worker-memory 200M)", 1),
}
LIMITS: dict[str, dict[str, Any]] = {
    "swallows": {"timeout": 0.3},
    "holds_the_interpreter": {"timeout": 0.3},
    "loops": {"timeout": 0.3},
    "eats_memory": {"worker_memory": "200M"},
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("do", KILLING)
def test_an_item_that_kills_whoever_reads_it_is_failed_and_not_read_again(do: str, tmp_path: Path) -> None:
    kind, words, times = KILLING[do]
    limits = LIMITS.get(do, {})
    assert run(tmp_path, f"Poison({do!r})", chunk_size=1, **limits) == [1, 24, 0, 1]
    failed = the_failed(tmp_path)
    assert failed.error is not None
    assert (failed.error.type, words in failed.error.message) == (kind, True), failed
    assert failed.attempts == times
    assert strikes(tmp_path) == times
    seen = counted(tmp_path)
    assert seen == {f"opened {do}": times, **{f"ran {n}": 1 for n in INNOCENT}}
    # Nor in later runs, but once where failed items are to be tried again.
    assert run(tmp_path, f"Poison({do!r})", resume=True, **limits) == [1, 0, 24, 1]
    assert the_failed(tmp_path).attempts == times + 1
    assert counted(tmp_path) == {f"opened {do}": 1}


def test_an_item_that_kills_its_reader_is_not_tried_again_as_a_failed_one_is(tmp_path: Path) -> None:
    options: dict[str, Any] = {"timeout": 0.3, "retries": 3, "retry_delay": 0.01}
    assert run(tmp_path, "Poison('swallows')", **options) == [1, 24, 0, 1]
    the_failed(tmp_path)
    assert counted(tmp_path)["opened swallows"] == 1
    assert run(tmp_path, "Poison('swallows')", resume=True, retry_failed=False, **options) == [1, 0, 24, 1]
    the_failed(tmp_path)
    assert counted(tmp_path) == {}, "known by its bytes"


def test_what_the_caller_calls_it_is_its_id(tmp_path: Path) -> None:
    assert run(tmp_path, "Poison('exits')", with_id=True, crash_retries=3) == [1, 24, 0, 1]
    assert the_failed(tmp_path, "poison").attempts == 4
    assert counted(tmp_path)["opened exits"] == 4


RAISING = {
    "Poison('leaves')": ("SystemExit", "the item cannot be read in a worker: leaving"),
    "Poison('is_interrupted')": ("KeyboardInterrupt", "the item cannot be read in a worker"),
    "Poison('loops')": ("Timeout", "the item cannot be read in a worker: timed out after 0.3 s"),
    "Sent(ValueError('no'))": ("ValueError", "the item cannot be sent to a worker: no"),
    "Sent(SystemExit(3))": ("SystemExit", "the item cannot be sent to a worker: 3"),
    "Sent(KeyboardInterrupt())": ("KeyboardInterrupt", "the item cannot be sent to a worker"),
    "Unset()": ("AttributeError", "no id can be made of this item: 'Unset' object has no attribute 'unset'"),
    "Hostile()": ("", ""),
    "Property()": ("RuntimeError", "hostile"),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("poison", RAISING)
def test_whatever_an_item_raises_on_its_way_to_the_function_is_its_error(poison: str, tmp_path: Path) -> None:
    kind, words = RAISING[poison]
    assert run(tmp_path, poison, timeout=0.3) == [1, 24, 0, 1]
    error = the_failed(tmp_path).error
    assert error is not None
    assert error.type == kind or not kind, error
    assert words in error.message
    assert strikes(tmp_path) == 0, "no worker was lost"
    assert counted(tmp_path) - Counter(f"ran {n}" for n in INNOCENT) <= Counter([f"opened {poison[8:-2]}"])
    assert run(tmp_path, poison, timeout=0.3, resume=True) == [1, 0, 24, 1]
    the_failed(tmp_path)


def test_an_item_without_an_id_runs_where_none_is_needed(tmp_path: Path) -> None:
    assert run(tmp_path, "Unset()", checkpoint=None) == [0, 25, 0, 0]
    assert run(tmp_path, "Unset()", with_id=False, id="id", checkpoint=None)[0] == 1  # numbers have no field


@pytest.mark.parametrize("do", ["exits", "closes"])
def test_an_item_that_hurts_when_it_is_forgotten_is_the_one_that_fails(do: str, tmp_path: Path) -> None:
    assert run(tmp_path, f"Final({do!r})", with_id=True) == [1, 24, 0, 1]
    the_failed(tmp_path, "poison")


@pytest.mark.parametrize("do", ["boom", "leaves"])
def test_what_a_finalizer_raises_is_heard_by_nobody(do: str, tmp_path: Path) -> None:
    assert run(tmp_path, f"Final({do!r})", with_id=True) == [0, 25, 0, 0]


# All of them together


MIXED = """
from p import *

def act(item):
    globals()[item.do]()

class Hashed:
    def __init__(self, do):
        self.do = do
    def __hash__(self, *_):
        act(self)

class Equal(Hashed):
    __eq__ = Hashed.__hash__
    def __hash__(self):
        return 5

class Read(Hashed):
    @property
    def result(self):
        act(self)
    def __hash__(self):
        return 6

def look(item):
    return [item in {5}, getattr(item, "result", 1)]
"""

MIXED_SCRIPT = """
import json, os, sys
os.environ["PARENT"] = str(os.getpid())
import batchmill, m

if __name__ == "__main__":
    words = json.loads(sys.argv[1])
    poison = [eval(one, vars(m)) for one in words]
    names = {id(one): name for one, name in zip(poison, words)}  # they are not to be asked
    items = [item for n, one in enumerate(poison) for item in (100 + 2 * n, one, 101 + 2 * n)]
    options = {"checkpoint": "run.ckpt", "timeout": 0.5, "crash_retries": 0, "workers": 2}
    report = batchmill.run(m.look, items, id=lambda item: names.get(id(item), item), **options)
    print(json.dumps([report.exit_code, report.completed, report.failed]))
"""

MIXTURE = {
    "Poison('boom')": "RuntimeError: the item cannot be read in a worker: hostile",
    "Poison('exits')": "WorkerDied: exited with status 7 while reading it",
    "Poison('alarm')": "WorkerDied: was killed by SIGALRM while reading it",
    "Sent(ValueError('no'))": "ValueError: the item cannot be sent to a worker: no",
    "Sent(SystemExit(3))": "SystemExit: the item cannot be sent to a worker: 3",
    "Hashed('boom')": "RuntimeError: hostile",
    "Hashed('segfaults')": "WorkerDied: was killed by SIGSEGV",
    "Equal('leaves')": "SystemExit: leaving",
    "Equal('is_interrupted')": "KeyboardInterrupt: ",
    "Read('exits')": "WorkerDied: exited with status 7",
    "Read('swallows')": "Timeout: killed after",
    "Read('alarm')": "WorkerDied: was killed by SIGALRM",
    "Read('boom')": "RuntimeError: hostile",
    "Final('exits')": "WorkerDied: exited with status 7",
}


def test_of_a_mixture_exactly_the_poisonous_items_fail_each_with_its_cause(tmp_path: Path) -> None:
    for name, text in (("p.py", POISON), ("m.py", MIXED), ("script.py", MIXED_SCRIPT)):
        (tmp_path / name).write_text(text)
    words = [sys.executable, "script.py", json.dumps([*MIXTURE])]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [1, 2 * len(MIXTURE), len(MIXTURE)], done.stderr
    failed = {id: outcome.error for id, outcome in committed(tmp_path).items() if outcome.error is not None}
    assert failed.keys() == MIXTURE.keys()
    for poison, cause in MIXTURE.items():
        kind, _, message = cause.partition(": ")
        assert (failed[poison].type, message in failed[poison].message) == (kind, True), failed[poison]


# Lines that hurt


DEEP = """
import resource, sys
sys.setrecursionlimit(10**6)
resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))

def ident(item):
    return item["id"]
"""


def lines(cwd: Path, *poison: str, first: int = 0) -> None:
    """Ten items, the poison, ten items."""
    (cwd / "f.py").write_text(DEEP)
    around = [f'{{"id": "i{n}"}}' for n in range(first, first + 20)]
    (cwd / "items.jsonl").write_text("".join(f"{line}\n" for line in [*around[:10], *poison, *around[10:]]))


def read(cwd: Path, *options: str, json: str = "json") -> dict[Any, Outcome]:
    """The failed items of a run."""
    arguments = ("f.py:ident", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", "-j", "2", *options)
    ended = finish(*arguments, cwd=cwd, BATCHMILL_JSON=json)
    failed = {id: outcome for id, outcome in committed(cwd).items() if not outcome.ok}
    assert ended.status == (1 if failed else 0), ended.err
    return failed


@pytest.mark.parametrize("parser", ["json", ""])
def test_a_line_that_kills_whoever_parses_it_is_failed_at_its_position(parser: str, tmp_path: Path) -> None:
    lines(tmp_path, "[" * 100_000)
    failed = read(tmp_path, json=parser)
    (error,) = (outcome.error for outcome in failed.values())
    assert error is not None
    assert [line["id"] for line in lines_of(tmp_path / "out.jsonl")] == [f"i{n}" for n in range(20)]
    if error.type == "WorkerDied":  # since 3.12, json counts for itself how deep it is
        assert list(failed) == [10]
        assert "was killed by SIGSEGV while reading it, 2 times" in error.message
        assert strikes(tmp_path) == 2
    else:
        assert (error.type, strikes(tmp_path)) == ("JSONDecodeError", 0)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="since 3.12, json counts for itself how deep it is")
def test_a_line_that_kills_its_reader_is_found_again_without_being_read(tmp_path: Path) -> None:
    lines(tmp_path, "[" * 100_000)
    assert list(read(tmp_path)) == [10]
    before = strikes(tmp_path)
    assert list(read(tmp_path, "--resume", "--no-retry-failed")) == [10]
    (tmp_path / "items.jsonl").write_text('{"id": "i77"}\n' + (tmp_path / "items.jsonl").read_text())
    assert list(read(tmp_path, "--resume", "--no-retry-failed")) == [10]
    assert strikes(tmp_path) == before
    assert len(committed(tmp_path)) == 22
    assert len(read(tmp_path, "--resume")) == 1
    assert strikes(tmp_path) == before + 1


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="since 3.12, json counts for itself how deep it is")
@pytest.mark.parametrize("chunk", ["1", "40"])
def test_a_line_that_kills_who_scans_it_at_resume_is_failed_too(chunk: str, tmp_path: Path) -> None:
    lines(tmp_path)
    assert read(tmp_path) == {}
    done = (tmp_path / "items.jsonl").read_text().splitlines()
    moved = [*done[::-1], "[" * 100_000, '{"id": "i50"}']
    (tmp_path / "items.jsonl").write_text("".join(f"{line}\n" for line in moved))
    (failed,) = read(tmp_path, "--resume", "--chunk-size", chunk).values()
    assert (failed.id, failed.line, strikes(tmp_path)) == (20, 21, 2)
    assert len(committed(tmp_path)) == 22
    assert read(tmp_path, "--resume", "--no-retry-failed").keys() == {20}
    assert strikes(tmp_path) == 2


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="since 3.12, json counts for itself how deep it is")
@pytest.mark.parametrize("with_item", [True, False])
def test_one_shard_alone_has_the_line_that_kills_its_reader(with_item: bool, tmp_path: Path) -> None:
    lines(tmp_path, "[" * 60_000)
    options = ["--with-item"] if with_item else []
    failed = []
    for shard in ("1/2", "2/2"):
        failed.append(read(tmp_path, "--fresh", "--shard", shard, *options))
        assert read(tmp_path, "--resume", "--no-retry-failed", "--shard", shard, *options).keys() == failed[-1].keys()
        assert strikes(tmp_path) == 2, "neither of them reads it again"
    assert sorted(len(one) for one in failed) == [0, 1]


LARGE = "[" + "[]," * 10_000_000 + "[]]"  # 30 MB that become 600 and more


@pytest.mark.parametrize("parser", ["json", ""])
def test_memory_is_limited_from_the_moment_a_line_is_read(parser: str, tmp_path: Path) -> None:
    lines(tmp_path, LARGE)
    (failed,) = read(tmp_path, "--worker-memory", "150M", json=parser).values()
    assert failed.error is not None
    assert (failed.id, failed.error.type, failed.attempts) == (10, "OutOfMemory", 1)
    # And while it is scanned.
    lines(tmp_path, first=100)
    assert read(tmp_path, "--fresh") == {}
    text = (tmp_path / "items.jsonl").read_text().splitlines()
    (tmp_path / "items.jsonl").write_text("".join(f"{line}\n" for line in [*text[::-1], LARGE]))
    (failed,) = read(tmp_path, "--resume", "--worker-memory", "150M", json=parser).values()
    assert failed.error is not None
    assert (failed.id, failed.error.type, failed.attempts) == (20, "OutOfMemory", 1)


def test_time_is_limited_from_the_moment_a_line_is_read(tmp_path: Path) -> None:
    """Once it was read it is too late for it, however fast the function is."""
    lines(tmp_path, LARGE)
    (failed,) = read(tmp_path, "--timeout", "0.05s").values()
    assert failed.error is not None
    assert (failed.id, failed.error.type) == (10, "Timeout")


# What is too large


def test_an_id_and_a_result_that_are_too_much_together_are_one_failed_item(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def ident(item):\n    return item\n")
    items: list[dict[str, Any]] = [{"id": 1}, {"id": "a" * (62 << 20)}, {"id": 2}]
    write_items(tmp_path / "items.jsonl", items)
    (failed,) = read(tmp_path).values()
    assert failed.error is not None
    assert failed.error.type == "ItemTooLarge"
    assert failed.id == items[1]["id"]
    assert [line["id"] for line in lines_of(tmp_path / "out.jsonl")] == [1, 2]
    assert finish(CHECKPOINT, cwd=tmp_path, command=(PROGRAM, "verify")).status == 0


def test_results_that_are_too_much_for_one_frame_are_all_kept(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def ident(item):\n    return 'x' * int(item['size'] * (1 << 20))\n")
    sizes = [3.9, 0.05, 63.7, 1, 3.9, 63.7, 2]
    write_items(tmp_path / "items.jsonl", [{"id": n, "size": size} for n, size in enumerate(sizes)])
    assert read(tmp_path, "--chunk-size", "7") == {}
    assert [len(line["result"]) for line in lines_of(tmp_path / "out.jsonl")] == [int(s * (1 << 20)) for s in sizes]


def test_errors_of_more_types_than_anyone_can_read_are_counted(tmp_path: Path) -> None:
    source = "def ident(item):\n    raise type(f'E{item[\"id\"]}', (Exception,), {})('x' * 8000)\n"
    (tmp_path / "f.py").write_text(source)
    write_items(tmp_path / "items.jsonl", [{"id": n} for n in range(3000)])
    arguments = ("f.py:ident", "items.jsonl", "-c", CHECKPOINT, "-j", "2", "--max-failures", "100%")
    ended = finish(*arguments, cwd=tmp_path)
    assert ended.status == 1, ended.err
    assert "2900x other types" in ended.err
    assert len(ended.err) < 20_000
    assert len(committed(tmp_path)) == 3000
