"""Facts about signals, with real ones: sent to ourselves or to a process of their own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from process_kit import start

from batchmill.batch.signals import Watch
from batchmill.worker.bootstrap import STOPPING

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Heard:
    """A Watch whose calls are written down, and whose clock stands still until moved."""

    def __init__(self, reader_gone: bool = True) -> None:
        self.calls: list[Any] = []
        self.clock = Clock()
        self.watch = Watch(
            lambda signum, insist: self.calls.append((signal.Signals(signum).name, insist)),
            lambda: self.calls.append("status"),
            self.clock,
            lambda: reader_gone,
        )

    def after(self, seconds: float, signum: int) -> None:
        self.clock.now += seconds
        signal.raise_signal(signum)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    found = {signum: signal.getsignal(signum) for signum in HANDLED}
    yield
    for signum, handler in found.items():
        signal.signal(signum, handler)


def child(code: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("signum", STOPPING)
def test_the_first_asks_and_one_a_second_later_insists(signum: signal.Signals) -> None:
    heard = Heard()
    with heard.watch:
        heard.after(0, signum)
        heard.after(1.0, signum)
    assert heard.calls == [(signum.name, False), (signum.name, True)]
    assert heard.watch.signum == signum


def test_two_within_a_second_count_as_one_also_when_they_differ() -> None:
    heard = Heard()
    with heard.watch:
        heard.after(0, signal.SIGTERM)
        heard.after(0.4, signal.SIGTERM)
        heard.after(0.59, signal.SIGHUP)
        assert heard.calls == [("SIGTERM", False)]
        heard.after(0.01, signal.SIGINT)
    assert heard.calls == [("SIGTERM", False), ("SIGINT", True)]
    assert heard.watch.signum == signal.SIGTERM


def test_every_later_one_insists_again() -> None:
    heard = Heard()
    with heard.watch:
        for seconds in (0, 2, 0, 0):
            heard.after(seconds, signal.SIGINT)
    assert [insist for _, insist in heard.calls] == [False, True, True, True]


def test_a_reader_that_left_asks_once_and_never_insists() -> None:
    heard = Heard()
    with heard.watch:
        for _ in range(3):
            heard.after(2, signal.SIGPIPE)
        assert heard.calls == [("SIGPIPE", False)]
        heard.after(2, signal.SIGINT)
    assert heard.calls == [("SIGPIPE", False), ("SIGINT", False)]
    assert heard.watch.signum == signal.SIGPIPE


def test_a_pipe_signal_that_is_not_about_our_output_stops_nothing() -> None:
    heard = Heard(reader_gone=False)
    with heard.watch:
        heard.after(0, signal.SIGPIPE)
    assert heard.calls == []
    assert heard.watch.signum is None


def test_usr1_asks_for_status_and_nothing_else() -> None:
    heard = Heard()
    with heard.watch:
        heard.after(0, signal.SIGUSR1)
        heard.after(5, signal.SIGUSR1)
    assert heard.calls == ["status", "status"]


def test_what_was_ignored_stays_ignored() -> None:
    heard = Heard()
    for signum in STOPPING:
        signal.signal(signum, signal.SIG_IGN)
    with heard.watch:
        for signum in STOPPING:
            heard.after(5, signum)
    assert heard.calls == []
    assert all(signal.getsignal(signum) is signal.SIG_IGN for signum in STOPPING)


def test_handlers_are_restored_also_after_an_error() -> None:
    before = [signal.getsignal(signum) for signum in HANDLED]
    with contextlib.suppress(KeyError), Heard().watch:
        assert all(signal.getsignal(signum) not in before for signum in HANDLED)
        raise KeyError
    assert [signal.getsignal(signum) for signum in HANDLED] == before


def test_outside_the_main_thread_nothing_is_touched() -> None:
    before = [signal.getsignal(signum) for signum in HANDLED]
    seen: list[Any] = []

    def elsewhere() -> None:
        with Heard().watch:
            seen.append([signal.getsignal(signum) for signum in HANDLED])

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(30)
    assert seen == [before]


@pytest.mark.parametrize("signum", [*STOPPING, signal.SIGPIPE])
@pytest.mark.parametrize("before", ["", "signal.signal(n, signal.SIG_IGN);", "signal.pthread_sigmask(0, {n});"])
def test_a_process_dies_of_the_signal_itself(signum: signal.Signals, before: str) -> None:
    code = f"import signal; n = {int(signum)}; {before} from batchmill_cli.main import _leave; _leave(128 + n)"
    assert child(code).returncode == -signum


WAITING = """
import queue, sys
from batchmill.batch.signals import Watch
from batchmill_cli.main import _leave
heard = queue.SimpleQueue()
with Watch(lambda signum, insist: heard.put(signum), lambda: heard.put(0)):
    print("ready", flush=True)
    while True:
        try:
            if signum := heard.get(timeout=0.2):  # a signal just before it waits would not wake it
                break
            print("status", flush=True)
        except queue.Empty:
            pass
_leave(128 + signum)
"""


@pytest.mark.parametrize("signum", STOPPING)
def test_a_waiting_process_hears_status_and_stop(signum: signal.Signals) -> None:
    process = start([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == "status\n"
    process.send_signal(signum)
    assert process.wait(30) == -signum


def test_nohup_keeps_a_hangup_from_us() -> None:
    command = ["nohup", sys.executable, "-c", WAITING]
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == "status\n"
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM


PIPES = """
import os, sys
from batchmill.batch.signals import Watch
heard = []
with Watch(lambda signum, insist: heard.append((signum, insist)), lambda: None):
    reading, writing = os.pipe()
    os.close(reading)
    for descriptor in (writing, 1):
        if descriptor == 1 and sys.argv[1] == "stdout":
            sys.stdin.readline()
        try:
            os.write(descriptor, b"x")
        except BrokenPipeError:
            pass
        sys.stderr.write(repr(heard))
"""


def test_only_our_own_output_counts_as_a_reader_that_left() -> None:
    assert child(PIPES, "other").stderr == "[][]"
    process = start(
        [sys.executable, "-c", PIPES, "stdout"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, said = process.communicate("go\n", timeout=30)
    assert said.endswith(f"[({int(signal.SIGPIPE)}, False)]")
