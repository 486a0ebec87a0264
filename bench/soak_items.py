"""The rows about what records and functions do to their worker: each costs at most itself, and never the run.

They are rows 102, 103 and 105 of tests/README.md#the-fault-matrix.
"""

from __future__ import annotations

import math
import random

from fault_kit import METHODS, finish, numbered, strikes, witnessed

from soak_trial import ARGUMENTS, Benchmark, Fault, Trial, standing

ITEMS = 60
DEEP = "[" * 100_000  # with that recursion limit, reading it ends a worker of Python 3.11 and older
WIDE = f"[{'[],' * 2_000_000}[]]"  # takes more memory to read than a worker of that row may have
LIMITS = ("--worker-memory", "100M", "--timeout", "20s")

UNLIMITED = """
import sys
sys.setrecursionlimit(10**6)
"""
ALARM = """
import signal
_work = work

def _boom(*_):
    raise RuntimeError("left behind")

def work(item):
    if os.path.exists("armed"):
        signal.signal(signal.SIGALRM, _boom)
        signal.setitimer(signal.ITIMER_REAL, float(open("armed").read()))
    return _work(item)
"""
CHILDREN = """
import multiprocessing, signal, subprocess
_work = work

def work(item):
    fork = multiprocessing.get_context("fork")
    if item["n"] % 3 == 0:
        process = fork.Process(target=time.sleep, args=(60,))
        process.start()
        process.terminate()
        process.join()
        assert process.exitcode == -signal.SIGTERM
    elif item["n"] % 3 == 1:
        with fork.Pool(1) as pool:
            assert pool.map(abs, [-1]) == [1]
    else:
        child = subprocess.Popen(["sleep", "60"])
        child.send_signal(signal.SIGINT)
        assert child.wait() == -signal.SIGINT
    return _work(item)
"""


def _method(chance: random.Random) -> tuple[str, str]:
    return ("--start-method", chance.choice(METHODS))


def _append(bench: Benchmark, code: str) -> None:
    with open(bench.template / "f.py", "a") as file:
        file.write(code)


def _run(trial: Trial, statuses: tuple[int, ...], *arguments: str) -> None:
    """Run once; nothing that is committed may run again, and none of `numbered` may be without an outcome."""
    done, seen = {id for id, outcome in trial.done.items() if outcome.ok}, len(witnessed(trial.folder))
    ended = finish(*ARGUMENTS, *trial.bench.arguments, *arguments, cwd=trial.folder)
    ran = witnessed(trial.folder)[seen:]
    trial.bench.summary.items += len(ran)
    if ended.status not in statuses:
        trial.bench.breach("wrong", f"exit status {ended.status} ({trial.said[-1]}): {ended.err.strip()[-2000:]}")
    if again := done.intersection(ran):
        trial.bench.breach("again", f"committed, then run again ({trial.said[-1]}): {sorted(again)[:5]}", len(again))
    trial.done = standing(trial.folder)


def _may_be_charged(trial: Trial) -> None:
    """What ran so far had reason for strikes; what must come out at the end is that of a run without."""
    trial.charged = strikes(trial.folder)
    trial.done = {id: outcome for id, outcome in trial.done.items() if outcome.ok}


# D2


def prepare_unread(bench: Benchmark) -> None:
    bench.items(numbered(ITEMS, sleep=0.002))
    _append(bench, UNLIMITED)


def unread(trial: Trial, number: int) -> bool:
    """Records that kill their worker before the function is called, in two runs; then they are mended."""
    places = sorted(trial.chance.sample(range(ITEMS), trial.chance.randint(1, 3)))
    path, method = trial.folder / "items.jsonl", _method(trial.chance)
    healthy = path.read_text()
    lines = healthy.splitlines()
    for place in places:
        lines[place] = trial.chance.choice((DEEP, WIDE))
    path.write_text("\n".join(lines) + "\n")
    trial.said.append(f"unreadable at {places}, {method[1]}")
    for _ in range(2):
        _run(trial, (1,), *LIMITS, *method)
        trial.bench.summary.faults += len(places)
        failed = [outcome for outcome in trial.done.values() if not outcome.ok]
        if len(failed) != len(places) or len(trial.done) != ITEMS:
            said = f"{len(failed)} failed of {len(trial.done)}: {failed[:3]}"
            trial.bench.breach("wrong", f"not exactly those fail ({trial.said[-1]}): {said}"[:2000])
    path.write_text(healthy)
    trial.blamed = {id for id, outcome in trial.done.items() if not outcome.ok}
    _may_be_charged(trial)
    return True


# D3


def prepare_alarm(bench: Benchmark) -> None:
    bench.items(numbered(300))
    _append(bench, ALARM)


def late_alarm(trial: Trial, number: int) -> bool:
    """Every item sets an alarm that raises, and leaves it: whatever it meets, items may fail of it, and no more."""
    seconds = math.exp(trial.chance.uniform(math.log(0.0001), math.log(0.05)))
    (trial.folder / "armed").write_text(f"{seconds:.6f}")
    method = _method(trial.chance)
    trial.said.append(f"alarms after {seconds:.6f} s, {method[1]}")
    _run(trial, (0, 1), *method)
    trial.bench.summary.faults += 1
    failed = [outcome for outcome in trial.done.values() if not outcome.ok]
    strange = [outcome for outcome in failed if outcome.error is None or "left behind" not in outcome.error.message]
    if strange or len(trial.done) != 300:
        said = f"{len(trial.done)} outcomes; {[outcome.error for outcome in strange[:3]]}"
        trial.bench.breach("wrong", f"of another cause, or missing ({trial.said[-1]}): {said}"[:2000])
    (trial.folder / "armed").unlink()
    _may_be_charged(trial)
    return True


# D5


def prepare_children(bench: Benchmark) -> None:
    bench.items(numbered(ITEMS))
    _append(bench, CHILDREN)


def children(trial: Trial, number: int) -> bool:
    """A function that starts, terminates and joins children."""
    method = _method(trial.chance)
    trial.go(Fault(f"children, {method[1]}", arguments=method, counts=True))
    return True
