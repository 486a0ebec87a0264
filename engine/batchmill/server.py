"""Owns the fork server that lanes come from: what it is born with, and when it starts. Never starts a lane.

It takes as long to start as all of the parent's own imports; a program that knows early that it will need lanes calls
`start` first, and both go on at once.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker, util
from typing import Any

from batchmill.signals import held

# What every lane would import again: our code for it, the executor's, and what unpickling the board needs.
_PRELOAD = [
    "batchmill.safe_path",
    "batchmill.worker",
    "concurrent.futures.process",
    "multiprocessing.popen_forkserver",
    "multiprocessing.sharedctypes",
    "orjson",  # where it is installed
]
_LONG_DIRECTORY = 60  # bytes; multiprocessing adds about 40
birth = threading.RLock()  # what a child is born with is this whole process's: one at a time


def default_start_method() -> str:
    """Forkserver wherever there is one: fork after threads deadlocks, spawn is ten times slower."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def start(preload: Sequence[str] = ()) -> None:
    """Have the fork server run, with `preload` imported if it was not running yet. Raises OSError."""
    start_tracker()
    with held(), environment():
        multiprocessing.set_forkserver_preload([*_PRELOAD, *preload])
        forkserver.ensure_running()


def start_tracker() -> None:
    """Have multiprocessing's resource tracker run before any signal is held for what starts after it.

    Starting it ends with letting INT and TERM in again, whoever held them: a fork server started in the same breath
    then died of the TERM that `timeout` and systemd send to everybody, and with it every running item.
    """
    _shorten_temporary_directory()
    with held(), environment():
        resource_tracker.ensure_running()


def _shorten_temporary_directory() -> None:
    """Let multiprocessing's sockets lie in /tmp where TMPDIR is too long a name for a socket (108 bytes on Linux)."""
    config: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if config.get("tempdir") is None and len(os.fsencode(tempfile.gettempdir())) > _LONG_DIRECTORY:
        config["tempdir"] = tempfile.mkdtemp(prefix="pymp-", dir="/tmp")
        util.Finalize(None, shutil.rmtree, args=(config["tempdir"], True), exitpriority=-100)


@contextmanager
def environment() -> Iterator[None]:
    """What multiprocessing's own helper processes are born with; lanes get the parent's environment (worker.start).

    PYTHONSAFEPATH: not even a user's module named like a standard one is met by the fork server. And after a
    kill -9 the resource tracker clears up semaphores, as it should, but must not talk about it.

    Only the C library's environment changes, for one thread at a time, and never os.environ: a run in another thread
    takes that of its lanes from there meanwhile.
    """
    quiet = "ignore:resource_tracker"
    own = {"PYTHONSAFEPATH": "1", "PYTHONWARNINGS": ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), quiet)))}
    with birth:
        for name, value in own.items():
            os.putenv(name, value)
        try:
            yield
        finally:
            for name in own:
                if name in os.environ:
                    os.putenv(name, os.environ[name])
                else:
                    os.unsetenv(name)
