"""Which faults there are and which of them each row of the fault matrix (tests/README.md) puts together."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from checkpoint_kit import read_frames
from fault_kit import CHECKPOINT, Run, committed, numbered, witnessed
from process_kit import send

from batchmill.checkpoint.frames import CAP, HEAD_SIZE
from soak_items import children, late_alarm, prepare_alarm, prepare_children, prepare_unread, unread
from soak_starts import crowded, limited_runs, prepare_crowd, prepare_limited
from soak_trial import BROKEN_DISK, KILLED, LIMIT, Benchmark, Fault, Steps, Trial, mill, standing, stop_all, workers

WRITES = "pwritev,pwritev2"  # Python's pwritev is either
CALLS = f"{WRITES},fdatasync,fsync,ftruncate,flock,linkat,rename"  # what files/storage.py of the engine makes of files
FAILING = f"{WRITES},fdatasync,fsync,linkat,rename"
OFTEN = ("--checkpoint-interval", "50ms", "--chunk-size", "5")  # many frames and syncs in little time
KILLING_PAUSE = 0.2
MOST_HELD = 300 << 20  # bytes that a parent may hold while its disk stands still
WINDOW, SLOW_CHUNK, SLOW_ITEMS = 2, 10, 900


@dataclass(frozen=True)
class Row:
    """A row of the matrix: `prepare` sets up its Bench, `trial` is told its number and says whether there was one."""

    number: int
    title: str
    weight: float
    prepare: Callable[[Benchmark], None]
    trial: Callable[[Trial, int], bool]
    needs_strace: bool = False


# Faults


def kill_parent(most: float) -> Fault:
    """Kill -9 of the parent: after some further items, or within the first `most` seconds."""

    def steps(trial: Trial, run: Run) -> Steps:
        further = trial.chance.randint(0, 25)
        enough = len(witnessed(trial.folder)) + further
        while further and len(witnessed(trial.folder)) < enough:
            yield 0.01
        yield trial.chance.uniform(0, 0.01 if further else most)
        while not (pid := mill(run)):
            yield 0.01
        trial.hit()
        send(signal.SIGKILL, [pid])

    return Fault("kill -9 of the parent", steps=steps, statuses=(KILLED,))


def kill_workers(part: float) -> Fault:
    """Kill -9 of a random worker every 200 ms, until `part` of the items ran."""

    def steps(trial: Trial, run: Run) -> Steps:
        most = part * len((trial.folder / "items.jsonl").read_bytes().splitlines())
        while len(set(witnessed(trial.folder))) < most:
            yield KILLING_PAUSE
            # One that is still starting too, sometimes: but five of those in a row are an end by design.
            if witnessed(trial.folder) and (found := workers(run)):
                trial.hit()
                send(signal.SIGKILL, [trial.chance.choice(found)])

    return Fault("kill -9 of workers", steps=steps)


def stop_and_continue() -> Fault:
    """SIGSTOP of every process of the run for longer than --timeout, and SIGCONT."""

    def steps(trial: Trial, run: Run) -> Steps:
        while True:
            yield trial.chance.uniform(0.2, 1.0)
            trial.hit()
            stopped = stop_all(run)
            yield trial.chance.uniform(1.2, 2.5)
            # The parent first: the items on its board look as if they had taken all that time.
            send(signal.SIGCONT, [mill(run)] if mill(run) else [])
            yield trial.chance.uniform(0, 0.2)
            send(signal.SIGCONT, stopped)

    return Fault("stopped and continued", steps=steps, arguments=("--timeout", "1s"))


def jump_of_the_clock(faketime: Path, folder: Path, chance: random.Random) -> Fault:
    """The wall clock jumps by up to a year either way, again and again; the monotonic one goes on."""
    file = folder / "clock"
    file.write_text("+0")

    def steps(trial: Trial, run: Run) -> Steps:
        while True:
            yield chance.uniform(0.2, 0.6)
            trial.hit()
            file.write_text(f"{chance.randint(-365, 365):+d}d")

    # Not the program `faketime`: the time that it sets in the environment would hide that in the file.
    words = ("env", f"LD_PRELOAD={faketime}", f"FAKETIME_TIMESTAMP_FILE={file}")
    wrapper = (*words, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1")
    return Fault("jumps of the clock", steps=steps, wrapper=wrapper, arguments=("--timeout", "1s"))


def one_core() -> Fault:
    """All on one core (taskset's call, made by the run itself)."""
    core = min(os.sched_getaffinity(0))
    return Fault("one core", before=lambda: os.sched_setaffinity(0, {core}), counts=True)


def half_a_core(group: Path) -> Fault:
    """In a cgroup that may use half a core."""

    def enter() -> None:
        (group / "cgroup.procs").write_text("0")

    return Fault("half a core", before=enter, counts=True)


def kill_at(call: str, number: int) -> Fault:
    """SIGKILL of the process that makes a system call for the n-th time, before it is done."""
    name = f"SIGKILL at {call} no. {number}"
    return Fault(name, inject=f"{call}:signal=SIGKILL:when={number}", statuses=(KILLED,))


def failing(call: str, number: int, error: str, for_ever: bool) -> Fault:
    """An error from the n-th call on, or at that one alone."""
    when = f"{number}+" if for_ever else f"{number}"
    name = f"{error} at {call} no. {when}"
    return Fault(name, inject=f"{call}:error={error}:when={when}", statuses=BROKEN_DISK)


def slow_sync(seconds: float, when: str) -> Fault:
    """An fdatasync that takes long."""
    inject = f"fdatasync:delay_enter={int(seconds * 1e6)}:when={when}"
    return Fault(f"fdatasync no. {when} takes {seconds:g} s", inject=inject, counts=True)


# Rows 1, 2, 3 and 13: the parent and its file


def prepare_killed(bench: Benchmark) -> None:
    bench.items(numbered(300, sleep=0.004, text="x" * 50))


def killed(trial: Trial, number: int) -> bool:
    """Row 1: killed ten times, more often than it takes."""
    for _ in range(10):
        if trial.go(kill_parent(0.4)) != KILLED:
            break
    return True


def prepare_small(bench: Benchmark) -> None:
    bench.items(numbered(60, sleep=0.002, text="x" * 50), *OFTEN)


def every_call(
    bench: Benchmark, calls: str, prepare: Callable[[Trial], None] = lambda trial: None
) -> list[tuple[str, int]]:
    """(system call, n) for every one that a run makes, and two more, which then are not reached."""
    counts: dict[str, int] = {}

    def count(trial: Trial, number: int) -> bool:
        prepare(trial)
        counts.update(trial.counted(calls))
        return False

    bench.trial(0, count)
    return bench.order((call, n) for call, count in counts.items() for n in range(1, count + 3))


def prepare_calls(bench: Benchmark) -> None:
    prepare_small(bench)
    bench.points = every_call(bench, CALLS)


def killed_at_call(trial: Trial, number: int) -> bool:
    """Row 2."""
    if number >= len(trial.bench.points):
        return False
    trial.go(kill_at(*trial.bench.points[number]))
    return True


def prepare_torn(bench: Benchmark) -> None:
    prepare_small(bench)

    def half(trial: Trial, number: int) -> bool:
        def steps(trial: Trial, run: Run) -> Steps:
            while len(committed(trial.folder)) < 30:
                yield 0.01
            send(signal.SIGKILL, [mill(run)])

        trial.go(Fault("kill -9 half-way", steps=steps, statuses=(KILLED,)))
        for name in (CHECKPOINT, "witness"):
            (bench.template / name).write_bytes((trial.folder / name).read_bytes())
        return False

    bench.trial(0, half)
    bench.points = every_call(bench, CALLS, tear)


def tear(trial: Trial) -> None:
    """Leave a file as a crash may: its last frame cut short or damaged, or zeros behind it."""
    path = trial.folder / CHECKPOINT
    data, chance = path.read_bytes(), trial.chance
    last = max(ref.offset for ref, _ in read_frames(str(path))) - HEAD_SIZE
    place = chance.randrange(last + 1, len(data))
    how = chance.choice(("cut", "damaged", "zeros"))
    if how == "cut":
        path.write_bytes(data[:place])
    elif how == "damaged":
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :])
    else:
        path.write_bytes(data + bytes(chance.randrange(1, 5000)))
    left = standing(trial.folder)
    assert len(left) >= len(trial.done) - 5, f"{how} at {place}: more than a frame of 5 items is gone"
    trial.done = left
    trial.said.append(f"last frame {how} at {place} of {len(data)}")


def killed_recovering(trial: Trial, number: int) -> bool:
    """Row 3: a torn file, killed at the n-th call of its recovery, and once more at another one."""
    points = trial.bench.points
    if number >= len(points):
        return False
    tear(trial)
    trial.go(kill_at(*points[number]))
    trial.go(kill_at(*trial.chance.choice(points)))
    return True


def prepare_failing(bench: Benchmark) -> None:
    prepare_small(bench)
    points = [(*point, error, ever) for point in every_call(bench, FAILING) for error in ("ENOSPC", "EIO")
              for ever in (False, True)]  # fmt: skip
    bench.points = bench.order(points)


def failing_at_call(trial: Trial, number: int) -> bool:
    """Row 13."""
    if number >= len(trial.bench.points):
        return False
    trial.go(failing(*trial.bench.points[number]))
    return True


# Rows 21, 35, 39: workers, time and what is scarce


def prepare_twenty(bench: Benchmark) -> None:
    bench.items(numbered(300, sleep=0.02))


def prepare_clocks(bench: Benchmark) -> None:
    """The same, waiting in poll: libfaketime 0.9.10 makes Python's sleep raise EINVAL in a process with two clocks."""
    prepare_twenty(bench)
    function = bench.template / "f.py"
    text = function.read_text()
    sleep = 'note(item["id"])\n    time.sleep(item.get("sleep", 0))\n    while'
    assert sleep in text
    poll = 'note(item["id"])\n    __import__("select").poll().poll(item["sleep"] * 1000)\n    while'
    function.write_text(text.replace(sleep, poll))


def workers_killed(trial: Trial, number: int) -> bool:
    """Row 21."""
    trial.go(kill_workers(0.8))
    return True


def stopped(trial: Trial, number: int) -> bool:
    """Row 35, stops and jumps in turn."""
    if number % 3 == 2 and trial.means.faketime is not None:
        trial.go(jump_of_the_clock(trial.means.faketime, trial.folder, trial.chance))
    else:
        trial.go(stop_and_continue())
    return True


def prepare_scarce(bench: Benchmark) -> None:
    bench.items(numbered(SLOW_ITEMS, sleep=0.001, text="x" * 20_000), "--chunk-size", f"{SLOW_CHUNK}",
                "--window", f"{WINDOW}", "--checkpoint-interval", "50ms")  # fmt: skip


def scarce(trial: Trial, number: int) -> bool:
    """Row 39: a slow disk, one core and half a core in turn."""
    kinds: list[Callable[[Trial], None]] = [lambda trial: _ran(trial, one_core(), "4")]
    if trial.means.strace is not None:
        kinds.insert(0, slow_disk)
    if (group := trial.means.quota) is not None:
        kinds.append(lambda trial: _ran(trial, half_a_core(group), "4"))
    kinds[number % len(kinds)](trial)
    return True


def _ran(trial: Trial, fault: Fault, workers: str) -> None:
    trial.go(fault, Fault(f"{workers} workers", arguments=("-j", workers)), limit=2 * LIMIT)


@dataclass(frozen=True)
class _Sample:
    time: float
    size: int
    items: int
    memory: int


def slow_disk(trial: Trial) -> None:
    """While one sync takes long: commits go on up to the cap of unsynced bytes, then no more is handed out."""
    samples: list[_Sample] = []
    delay = trial.means.delay
    watching = Fault("watched", steps=lambda trial, run: _watch(trial, run, samples))
    trial.go(slow_sync(delay, "2"), watching, limit=LIMIT + 3 * delay)
    begun = [sample for sample in samples if 0 < sample.items < SLOW_ITEMS]
    stalls = [list(group) for _, group in itertools.groupby(begun, key=lambda sample: sample.size)]
    stall = max(stalls, key=lambda group: group[-1].time - group[0].time)
    stood, grown = stall[-1].time - stall[0].time, stall[-1].size - begun[0].size
    handed, memory = stall[-1].items - stall[0].items, max(sample.memory for sample in samples)
    about = f"commits stood still for {stood:.1f} s of {delay:g} s, after {grown:,} bytes"
    if stood < delay / 4 or not CAP // 2 <= grown <= 2 * CAP:
        trial.bench.breach("wrong", f"{about}: not at the cap of {CAP:,}")
    if handed > (most := 2 * (WINDOW + 1) * SLOW_CHUNK):
        trial.bench.breach("wrong", f"{about}; {handed} items were handed out meanwhile, not {most}")
    if memory > MOST_HELD:
        trial.bench.breach("wrong", f"{about}; the parent held {memory >> 20} MiB")


def _watch(trial: Trial, run: Run, samples: list[_Sample]) -> Steps:
    path = trial.folder / CHECKPOINT
    for count in itertools.count():
        size = path.stat().st_size if path.exists() else 0
        try:
            memory = psutil.Process(mill(run)).memory_info().rss if count % 10 == 0 else 0
        except psutil.Error:
            memory = 0
        samples.append(_Sample(time.monotonic(), size, len(witnessed(trial.folder)), memory))
        yield 0.02


# Row 43


def two_at_once(trial: Trial, number: int) -> bool:
    """Two faults at random, three times over."""
    for _ in range(3):
        makers = _makers(trial)
        pair = [make() for make in trial.chance.sample(makers, 2)]
        if trial.go(*pair, limit=LIMIT + 20) == 0:
            break
    return True


def _makers(trial: Trial) -> list[Callable[[], Fault]]:
    chance = trial.chance
    makers: list[Callable[[], Fault]] = [partial(kill_parent, 1.0), partial(kill_workers, 0.9), stop_and_continue]
    makers.append(one_core)
    if trial.means.strace is not None:
        calls = CALLS.split(",")
        makers += [
            lambda: kill_at(chance.choice(calls), chance.randint(1, 8)),
            lambda: failing(*_point(chance), chance.choice(("ENOSPC", "EIO")), chance.random() < 0.5),
            lambda: slow_sync(0.2, "2+"),
        ]
    return makers


def _point(chance: random.Random) -> tuple[str, int]:
    calls: Iterable[str] = FAILING.split(",")
    return chance.choice(list(calls)), chance.randint(1, 8)


def prepare_two(bench: Benchmark) -> None:
    bench.items(numbered(200, sleep=0.01, text="x" * 50), *OFTEN)


ROWS = (
    Row(1, "kill -9 of the parent", 5, prepare_killed, killed),
    Row(2, "kill at every checkpoint call", 4, prepare_calls, killed_at_call, needs_strace=True),
    Row(3, "the same during recovery", 3, prepare_torn, killed_recovering, needs_strace=True),
    Row(13, "ENOSPC, EIO at every call", 3, prepare_failing, failing_at_call, needs_strace=True),
    Row(17, "twenty commands at once", 3, prepare_crowd, crowded),
    Row(21, "kill -9 of workers", 2, prepare_twenty, workers_killed),
    Row(29, "few processes, files, little memory", 3, prepare_limited, limited_runs),
    Row(35, "stopped, clock jumps", 2, prepare_clocks, stopped),
    Row(39, "one core, half a core, slow disk", 2, prepare_scarce, scarce),
    Row(43, "two of these at random", 6, prepare_two, two_at_once),
    Row(102, "records that kill their reader", 2, prepare_unread, unread),
    Row(103, "alarms left behind", 2, prepare_alarm, late_alarm),
    Row(105, "children started and ended", 1, prepare_children, children),
)
