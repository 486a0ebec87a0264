"""The end of tests that hang: such a test fails, what it started is killed, and all other tests run.

pytest-timeout ends a test by an exception in the main thread (`timeout` in pyproject.toml). Where that ends nothing,
for the test hangs in C code, in a `finally` or in a fixture's end, its whole process of pytest ends a minute later. The
process that distributes the tests counts the test as failed, kills what is left behind and starts another one.

pytest's own plugin `faulthandler` is off: it has the same timer, and stops it when a test has failed.
"""

from __future__ import annotations

import faulthandler
import os
import uuid
from collections.abc import Generator
from typing import IO, Any

import pytest
from process_kit import born_with, kill
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

MARK = "TEST_PROCESS"  # in the environment of all that the tests of one process of pytest start

_stderr = pytest.StashKey[IO[str]]()


def mark_of(workerinput: dict[str, Any]) -> str:
    """What tells one process of pytest from the others, on one machine."""
    return f"{workerinput['testrunuid']}-{workerinput['workerid']}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The one setting of this plugin."""
    parser.addini("timeout_more", "seconds for a test to end after pytest-timeout's exception", default="60")


def limit_of(item: pytest.Item) -> float:
    """Seconds after which the process of this test ends; 0: never."""
    config = item.config
    marker = item.get_closest_marker("timeout")
    seconds = float(marker.args[0] if marker else config.getoption("timeout") or config.getini("timeout") or 0)
    return seconds + float(config.getini("timeout_more")) if seconds and not config.getoption("usepdb") else 0.0


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep a way to the true stderr, and mark what the tests will start."""
    config.stash[_stderr] = os.fdopen(os.dup(2), "w")
    faulthandler.enable(config.stash[_stderr])
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        os.environ[MARK] = mark_of(workerinput)
    elif not config.getoption("numprocesses", None):
        os.environ[MARK] = uuid.uuid4().hex


def pytest_unconfigure(config: pytest.Config) -> None:
    """Without other processes of pytest, this one kills what its tests left behind."""
    faulthandler.disable()
    config.stash[_stderr].close()
    if MARK in os.environ and not hasattr(config, "workerinput"):
        kill(lambda: born_with(f"{MARK}={os.environ[MARK]}"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End this process where the test, with its fixtures, does not end. A thread of C does it: no lock is needed."""
    if limit := limit_of(item):
        faulthandler.dump_traceback_later(limit, exit=True, file=item.config.stash[_stderr])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    """Kill what a process of pytest left behind."""
    kill(lambda: born_with(f"{MARK}={mark_of(node.workerinput)}"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """How the tests are distributed."""
    return Files(config, log) if config.getvalue("dist") == "loadfile" else None


class Files(LoadFileScheduling):  # type: ignore[misc]
    """As `--dist=loadfile`, but the test with which a process of pytest ended is not run again, to end the next one."""

    def remove_node(self, node: WorkerController) -> str | None:
        """The test that it was running, None where it had none to run."""
        units = self.assigned_work[node].values()
        running = next(((unit, name) for unit in units for name, is_done in unit.items() if not is_done), None)
        if running is not None:
            unit, name = running
            unit[name] = True
        super().remove_node(node)
        return running and running[1]
