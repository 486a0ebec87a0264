"""What the fault tests share: real runs in sessions of their own, the witness, and the oracle.

The oracle of every fault: A what was committed before it is in the output, with the same bytes; B it does not run
again; C no process of the run is left; D the output after resuming is that of an undisturbed run, byte for byte; E the
exit status and one plain line name the cause. The witness is a side file to which each item appends its id first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint_kit import read_frames
from cli_kit import Terminal, environment
from process_kit import command_line, processes, sweep

from batchmill import Outcome, open_checkpoint
from batchmill.checkpoint.frames import FrameType
from batchmill.errors import BatchmillError

PROGRAM = str(Path(sys.executable).parent / "batchmill")
LIMIT = 60.0  # seconds after which a run or a wait is given up
LINGER = 15.0  # seconds for what is left of a run to end: 2 are promised, a loaded machine may be slow to show it
METHODS = ("forkserver", "spawn", "fork")
CHECKPOINT = "run.ckpt"

FUNCTIONS = '''
import ctypes, fcntl, os, time


def note(*words):
    """One line in the witness, in one write."""
    witness = os.open("witness", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(witness, (" ".join(map(str, words)) + "\\n").encode())
    os.close(witness)


def work(item):
    note(item["id"])
    time.sleep(item.get("sleep", 0))
    while item.get("waits") and not os.path.exists("go"):
        time.sleep(0.01)
    return {"n": item["n"], "square": item["n"] ** 2, "text": item.get("text")}


def stuck(item):
    """C code that never lets go of the interpreter."""
    note(item["id"])
    ctypes.PyDLL(None).sleep(1000)


def gated(item):
    """Runs until somebody makes the file `go`."""
    note(item["id"])
    while not os.path.exists("go"):
        time.sleep(0.01)
    return item["n"]


def alone(item):
    """Notes TWICE where another process is running the same item: the lock dies with its holder."""
    lock = os.open(f"lock-{item['id']}", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note("TWICE", item["id"], os.getpid())
    note("start", item["id"], os.getpid())
    time.sleep(item.get("sleep", 0))
    note("end", item["id"], os.getpid())
    os.close(lock)
    return item["n"]


def deadly(item):
    note(item["id"])
    do = item.get("do")
    if do == "exit":
        os._exit(7)
    if do == "segfault":
        ctypes.string_at(0)
    if do == "abort":
        os.abort()
    time.sleep(item.get("sleep", 0))
    return item["n"]


def big(item):
    note(item["id"])
    return f"{item['n']:04d}" * 500


def picky(item):
    note(item["id"])
    if item["n"] % 5 == 3 and not os.path.exists("mended"):
        raise ValueError(f"bad {item['n']}")
    return item["n"]


def ident(item):
    """The whole item: shows which occurrence of an id ran."""
    note(item["id"], item.get("v"))
    return item
'''


def prepare(directory: Path, items: Iterable[Mapping[str, Any]] = ()) -> Path:
    """Put `f.py` and `items.jsonl` into a directory; returns the directory."""
    (directory / "f.py").write_text(FUNCTIONS)
    write_items(directory / "items.jsonl", items)
    return directory


def write_items(path: Path, items: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


def numbered(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Items i0, i1, ... with their number `n` and the same further fields."""
    return [{"id": f"i{n}", "n": n, **fields} for n in range(count)]


# Processes


def until(ready: Callable[[], Any], what: str, session: int = 0, limit: float = LIMIT) -> None:
    """Wait until `ready()` is true; AssertionError after `limit` seconds, or where all of `session` ended before."""
    deadline = time.monotonic() + limit
    look = 0
    while not ready():
        look += 1
        if session and not look % 50 and not processes(session):
            assert ready(), f"all processes ended before: {what}"
            return
        assert time.monotonic() < deadline, f"not within {limit:g} s: {what}"
        time.sleep(0.01)


def assert_gone(session: int) -> None:
    """Oracle C: no process of the session is left, or not for long."""
    try:
        until(lambda: not processes(session), "the end of all processes", limit=LINGER)
    except AssertionError:
        raise AssertionError(f"left: {[command_line(pid) for pid in processes(session)]}") from None


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit status (-N: died of signal N) and what it said."""

    status: int
    out: str
    err: str


class Run:
    """The program, started in a session of its own, with its output in files: nothing it leaves can block a test."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        stdin: int = subprocess.DEVNULL,
        command: Sequence[str] = (PROGRAM, "run"),
        before: Callable[[], None] | None = None,
        **env: str,
    ) -> None:
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self.process = subprocess.Popen(
            [*command, *arguments], cwd=cwd, env=environment(**env), stdin=stdin, stdout=self._out, stderr=self._err,
            start_new_session=True, preexec_fn=before,
        )  # fmt: skip
        self.pid = self.process.pid

    def signal(self, number: int) -> None:
        """Send a signal to the parent process alone."""
        self.process.send_signal(number)

    def all(self) -> list[int]:
        """Every process of the run."""
        return processes(self.pid)

    def until(self, ready: Callable[[], Any], what: str) -> None:
        """Wait until `ready()` is true; AssertionError where the run ends before."""
        until(ready, what, self.pid)

    def said(self) -> bytes:
        """What is on its stderr so far."""
        return os.pread(self._err.fileno(), 1 << 20, 0)  # its position is the program's

    def printed(self) -> bytes:
        """What is on its stdout so far."""
        return os.pread(self._out.fileno(), 1 << 20, 0)

    def end(self) -> Ended:
        """Wait for the end of the parent process."""
        status = self.process.wait(LIMIT)
        said = []
        for file in (self._out, self._err):
            file.seek(0)
            said.append(file.read().decode("utf-8", "replace"))
        return Ended(status, *said)

    def assert_gone(self) -> None:
        """Oracle C: every process of the run ends."""
        assert_gone(self.pid)

    def close(self) -> None:
        """End what is left, by id."""
        sweep(self.pid)
        self.process.wait(LIMIT)
        if self.process.stdin:
            self.process.stdin.close()
        self._out.close()
        self._err.close()


@contextmanager
def running(*arguments: str, cwd: Path, **options: Any) -> Iterator[Run]:
    """A Run; whatever happens in the block, none of its processes outlives it."""
    run = Run(*arguments, cwd=cwd, **options)
    try:
        yield run
    finally:
        run.close()


@contextmanager
def at_terminal(*arguments: str, cwd: Path) -> Iterator[Terminal]:
    """A run in a pty, as a person has it; none of its processes outlives the block."""
    terminal = Terminal(["run", *arguments], cwd, command=[PROGRAM])
    try:
        yield terminal
    finally:
        sweep(terminal.pid)


def finish(*arguments: str, cwd: Path, **options: Any) -> Ended:
    """Run the program to its end; no process of it may be left then."""
    with running(*arguments, cwd=cwd, **options) as run:
        ended = run.end()
        run.assert_gone()
        # An import or a run that was given up shows the user's own.
        assert "Traceback" not in ended.err or ended.status in (3, 78), ended.err
        return ended


# The oracle


def witnessed(directory: Path) -> list[str]:
    """The lines of the witness, in order."""
    path = directory / "witness"
    return path.read_text().splitlines() if path.exists() else []


def committed(directory: Path, name: str = CHECKPOINT) -> dict[Any, Outcome]:
    """Every committed outcome by id; empty where there is no readable checkpoint yet."""
    try:
        with open_checkpoint(directory / name, removed=True) as results:
            return {outcome.id: outcome for outcome in results.outcomes()}
    except BatchmillError:
        return {}


def strikes(directory: Path, name: str = CHECKPOINT) -> int:
    """How many crashes items were blamed for."""
    return sum(ref.type == FrameType.STRIKE for ref, _ in read_frames(str(directory / name)))


def lines_of(path: Path) -> list[Any]:
    """The objects in a jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def results_of(path: Path) -> dict[str, Any]:
    """Results by id; every id must occur once."""
    objects = lines_of(path)
    assert max(Counter(str(o["id"]) for o in objects).values(), default=1) == 1
    return {o["id"]: o["result"] for o in objects}


def undisturbed(directory: Path, function: str = "work", *arguments: str) -> bytes:
    """The output of a run that nothing disturbs, with a checkpoint and a witness of its own."""
    ended = finish(
        f"f.py:{function}",
        "items.jsonl",
        "-c",
        "undisturbed.ckpt",
        "-o",
        "undisturbed.jsonl",
        *arguments,
        cwd=directory,
    )
    assert (ended.status, ended.err) == (0, "")
    os.rename(directory / "witness", directory / "witness.undisturbed")
    return (directory / "undisturbed.jsonl").read_bytes()
