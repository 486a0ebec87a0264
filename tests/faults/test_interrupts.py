"""Whatever is raised around a batch in Python: it stops, keeps what ran, lets go of all it had, raises just that."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import work_kit
from cli_kit import environment
from fault_kit import until
from process_kit import parent_of, started

import batchmill

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are read from /proc")


class Boom(Exception):
    """What a handler of the tests raises."""


class Fatal(BaseException):
    """What few handlers catch."""


DOORS = ("run", "stream", "map")
RAISED = (Boom("boom"), Fatal("fatal"), KeyboardInterrupt(), SystemExit(3), GeneratorExit())


class Batch:
    """A batch whose items write themselves down; those from the `gate` on wait for the file `go`."""

    def __init__(self, directory: Path, count: int = 300, gate: int = 300, grace: str = "20s") -> None:
        self.directory = directory
        self.checkpoint = directory / "c.ckpt"
        self.items = [[str(directory), number, number >= gate] for number in range(count)]
        self.options: dict[str, Any] = {"workers": 2, "grace": grace, "chunk_size": 1, "progress_interval": 0.05}

    def call(self, door: str, **more: Any) -> Any:
        """Run it through one of the doors of the API, from the beginning or where it was left."""
        kept: dict[str, Any] = {"checkpoint": self.checkpoint, "resume": True, "id": lambda item: item[1]}
        if door == "run":
            return batchmill.run(work_kit.written_down, more.pop("items", self.items), **kept, **self.options, **more)
        if door == "map":
            return batchmill.map(work_kit.written_down, more.pop("items", self.items), **self.options, **more)
        with batchmill.stream(work_kit.written_down, self.items, **kept, **self.options, **more) as outcomes:
            return [outcome.result for outcome in outcomes]

    @property
    def ran(self) -> list[int]:
        """The items that ran, sorted, each as often as it did."""
        path = self.directory / "ran"
        return sorted(map(int, path.read_text().split())) if path.exists() else []

    @property
    def committed(self) -> list[int]:
        """The items whose results are in the checkpoint."""
        with batchmill.open_checkpoint(self.checkpoint) as results:
            return sorted(outcome.result for outcome in results.outcomes(all=False))

    def assert_left_in_order(self, door: str) -> None:
        """What ran is committed, nothing of ours is left, and the next batch of this process does the rest."""
        assert_nothing_left()
        (self.directory / "go").touch()
        if door == "map":
            return
        assert self.ran == self.committed
        assert len(self.ran) < len(self.items), "it was not stopped"
        report = self.call("run")
        assert (report.completed + report.skipped, report.failed) == (len(self.items), 0)
        assert self.ran == list(range(len(self.items))), "nothing ran twice"


def assert_nothing_left() -> None:
    names = ("batchmill", "QueueFeeder", "ExecutorManager")
    until(
        lambda: not [t for t in threading.enumerate() if t.name.startswith(names)], "the end of our threads", limit=20
    )
    until(lambda: not workers(), "the end of our workers")


def workers() -> list[int]:
    """The workers of this process: children of its fork server, or of its own, that work on a board."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        grandparent = parent_of(parent_of(int(name)))
        if os.getpid() in (parent_of(int(name)), grandparent) and os.getpid() != int(name):
            try:
                leads = os.getpgid(int(name)) == int(name)  # a worker has a group of its own; its servers do not
            except OSError:
                continue
            found += [int(name)] if leads else []
    return found


@contextmanager
def raising(number: int, error: BaseException) -> Iterator[None]:
    """A handler for a signal that raises."""

    def handler(signum: int, frame: object) -> None:
        raise error

    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def meanwhile(action: Callable[[], object]) -> Iterator[None]:
    """Do something in another thread."""
    thread = threading.Thread(target=action, name="meanwhile")
    thread.start()
    try:
        yield
    finally:
        thread.join(60)


def raised_by(action: Callable[[], object]) -> BaseException:
    try:
        action()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def raise_in(thread: int | None, kind: type[BaseException]) -> None:
    """Have an exception raised in a thread, as debuggers and libraries for time-outs do."""
    assert thread is not None
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind)) == 1


# --- in the thread that waits ----------------------------------------------------------------------------------------


@pytest.mark.sampled(6)
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_what_a_signal_handler_raises_comes_out_when_all_is_in_order(
    door: str, error: BaseException, tmp_path: Path
) -> None:
    batch = Batch(tmp_path, gate=10)

    def send() -> None:
        until(lambda: len(batch.ran) >= 12, "ten items, and two that wait")
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.3)  # while it is waited for those two
        (tmp_path / "go").touch()

    with raising(signal.SIGUSR1, error), meanwhile(send):
        assert raised_by(lambda: batch.call(door)) is error
    batch.assert_left_in_order(door)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("where", ["the main thread", "another thread"])
def test_what_another_thread_raises_in_this_one_comes_out_too(door: str, where: str, tmp_path: Path) -> None:
    batch, found = Batch(tmp_path), []

    def work() -> None:
        found.append(raised_by(lambda: batch.call(door)))

    if where == "the main thread":
        caller = threading.get_ident()

        def interrupt() -> None:
            until(lambda: len(batch.ran) >= 4, "some items")
            raise_in(caller, Boom)

        with meanwhile(interrupt):
            work()
    else:
        with meanwhile(work):
            (thread,) = [thread.ident for thread in threading.enumerate() if thread.name == "meanwhile"]
            until(lambda: len(batch.ran) >= 4, "some items")
            raise_in(thread, Boom)
    assert [type(error) for error in found] == [Boom]
    batch.assert_left_in_order(door)


@pytest.mark.parametrize("door", DOORS)
def test_a_second_one_a_second_later_does_not_wait_for_what_never_ends(door: str, tmp_path: Path) -> None:
    batch, error = Batch(tmp_path, gate=0, grace="10m"), Boom()

    def send() -> None:
        until(lambda: len(batch.ran) == 2, "two items that never end")
        for pause in (0.3, 0.3, 1.0, 0.3):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(pause)

    with raising(signal.SIGUSR1, error), meanwhile(send):
        assert raised_by(lambda: batch.call(door)) is error
    assert_nothing_left()
    if door != "map":
        assert batch.committed == []


def test_ctrl_c_goes_before_another_exception(tmp_path: Path) -> None:
    batch, kinds = Batch(tmp_path, gate=0), [signal.SIGUSR1, signal.SIGINT]

    def send() -> None:
        until(lambda: len(batch.ran) == 2, "two items that wait")
        for number in kinds:
            os.kill(os.getpid(), number)
            time.sleep(0.3)
        (tmp_path / "go").touch()

    with raising(signal.SIGUSR1, Boom()), meanwhile(send):
        assert isinstance(raised_by(lambda: batch.call("run")), KeyboardInterrupt)
    batch.assert_left_in_order("run")


@pytest.mark.parametrize("door", DOORS)
def test_a_storm_of_exceptions_leaves_nothing_behind(door: str, tmp_path: Path) -> None:
    batch, stop = Batch(tmp_path), threading.Event()

    def inside(frame: Any) -> bool:
        while frame is not None and not frame.f_code.co_filename.endswith(("own_thread.py", "api.py")):
            frame = frame.f_back
        return frame is not None

    def handler(signum: int, frame: object) -> None:
        if inside(frame):
            raise Boom

    def storm() -> None:
        until(lambda: len(batch.ran) >= 2, "some items")
        while not stop.wait(0.0005):
            os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with meanwhile(storm):
            assert isinstance(raised_by(lambda: batch.call(door)), Boom)
            stop.set()
    finally:
        stop.set()
        signal.signal(signal.SIGUSR1, before)
    assert_nothing_left()
    if door != "map":
        assert set(batch.committed) <= set(batch.ran)
        (tmp_path / "go").touch()
        assert batch.call("run").exit_code == 0


# --- in a callback, in the items, in the block of a stream -----------------------------------------------------------


@pytest.mark.sampled(6)
@pytest.mark.parametrize("listener", ["on_progress", "on_message"])
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_what_a_listener_raises_comes_out(listener: str, error: BaseException, tmp_path: Path) -> None:
    batch = Batch(tmp_path)
    batchmill.run(work_kit.written_down, batch.items[:1], checkpoint=batch.checkpoint, id=lambda item: item[1])

    def listen(said: Any) -> None:  # on_message hears that it resumes
        if listener == "on_message" or said.done > 4:
            raise error

    listening: dict[str, Any] = {listener: listen}
    assert raised_by(lambda: batch.call("run", **listening)) is error
    batch.assert_left_in_order("run")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("door", ["run", "map"])
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_what_the_iterable_raises_comes_out(door: str, error: BaseException, tmp_path: Path) -> None:
    batch = Batch(tmp_path)

    def items() -> Iterator[Any]:
        yield from batch.items[:10]
        raise error

    found = raised_by(lambda: batch.call(door, items=items()))
    # A generator makes a RuntimeError of StopIteration alone.
    assert found is error
    batch.assert_left_in_order(door)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_what_leaves_the_block_of_a_stream_comes_out(error: BaseException, tmp_path: Path) -> None:
    batch = Batch(tmp_path)

    def read() -> None:
        with batchmill.stream(
            work_kit.written_down, batch.items, checkpoint=batch.checkpoint, id=lambda item: item[1], **batch.options
        ) as outcomes:
            for number, _ in enumerate(outcomes):
                if number == 3:
                    raise error

    assert raised_by(read) is error
    batch.assert_left_in_order("stream")


def test_a_generator_around_a_stream_that_is_closed_ends_it(tmp_path: Path) -> None:
    batch = Batch(tmp_path)

    def results() -> Iterator[Any]:
        with batchmill.stream(
            work_kit.written_down, batch.items, checkpoint=batch.checkpoint, id=lambda item: item[1], **batch.options
        ) as outcomes:
            yield from outcomes

    reading = results()
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    batch.assert_left_in_order("stream")


def test_a_stream_that_is_entered_and_let_go_of_ends_too(tmp_path: Path) -> None:
    batch = Batch(tmp_path)
    entered = batchmill.stream(
        work_kit.written_down, batch.items, checkpoint=batch.checkpoint, id=lambda item: item[1], **batch.options
    ).__enter__()
    next(iter(entered))
    del entered
    batch.assert_left_in_order("stream")


# --- at any moment ---------------------------------------------------------------------------------------------------

INTERRUPTED = """
import os, signal, sys, threading, time

def item(seconds):
    time.sleep(seconds)
    return seconds

def nobody_else():
    # A thread of the program takes the signal: the one that waits is not woken up by it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    while True:
        time.sleep(100)

if __name__ == "__main__":
    door, elsewhere = sys.argv[1:]
    if elsewhere == "elsewhere":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        threading.Thread(target=nobody_else, daemon=True).start()
    import batchmill
    try:
        print("up", flush=True)
        if door == "run":
            batchmill.run(item, [30.0] * 10, workers=2, grace="0.1s")
        elif door == "map":
            batchmill.map(item, [30.0] * 10, workers=2, grace="0.1s")
        else:
            with batchmill.stream(item, [30.0] * 10, workers=2, grace="0.1s") as outcomes:
                for _ in outcomes:
                    pass
    except KeyboardInterrupt:
        sys.exit("interrupted")
"""


@pytest.mark.sampled(4)
@pytest.mark.parametrize("elsewhere", ["here", "elsewhere"])
@pytest.mark.parametrize("door", DOORS)
def test_ctrl_c_is_never_lost_while_workers_start(door: str, elsewhere: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(INTERRUPTED)
    for delay in (0.0, 0.03, 0.06, 0.1, 0.15, 0.25, 0.5):
        with started(
            [sys.executable, "script.py", door, elsewhere], cwd=tmp_path, env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "up\n"
                time.sleep(delay)
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=25)  # an item takes longer
            finally:
                process.kill()
        assert (process.returncode, said) == (1, "interrupted\n"), delay


def test_ctrl_c_while_a_name_is_imported_comes_at_once(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("import os, time\nos.write(1, b'up')\ntime.sleep(1000)\n")
    script = "from batchmill.importing import attribute\nattribute('endless', 'name')"
    with started(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.read(2) == "up"
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert said.splitlines()[-1] == "KeyboardInterrupt"


def test_a_module_that_is_being_imported_can_import_us(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text("from batchmill import run, Settings\nimport batchmill\nname = batchmill.map\n")
    command = [sys.executable, "-c", "import user; print(user.name.__name__, user.run.__name__)"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("map run\n", "")


def test_what_is_being_imported_twice_at_once_does_not_hang(tmp_path: Path) -> None:
    """The user's module has a name that an import of ours wants: an error of its own, as without us, and no hang."""
    (tmp_path / "msgpack.py").write_text("import batchmill\nbatchmill.run\n")
    command = [sys.executable, "-c", textwrap.dedent("import msgpack")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, "msgpack.py" in done.stderr, "Error: " in done.stderr) == (1, True, True), done.stderr
