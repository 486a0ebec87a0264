"""What tests of scarcity share: users with few processes, cgroups, mounts, what must come out."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_kit import Ended, running, until, witnessed

LACKING = 71


def under(*words: str, at: Path, before: Callable[[], None] | None = None, wrapper: Sequence[str] = ()) -> Ended:
    """Run these words to their end, of which nothing may be left; `before` sets limits."""
    with running(*words, cwd=at, command=wrapper, before=before) as run:
        ended = run.end()
        run.assert_gone()
    return ended


def limited(which: int, most: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(which, (most, most))


def assert_fair(ended: Ended, at: Path, results: int) -> None:
    """It ended well, and whole, or because something was lacking, with the reason and a remedy in its last line."""
    lines = ended.err.splitlines()
    if ended.status == 0:
        assert not lines
        assert len((at / "out").read_bytes().splitlines()) == results
        assert max(Counter(witnessed(at)).values(), default=1) == 1
        return
    assert ended.status == LACKING, ended.err
    assert all(line.startswith("Only ") for line in lines[:-1]), ended.err
    assert re.fullmatch("batchmill: .+: .+; .+", lines[-1]), ended.err


def can_be_somebody() -> bool:
    """Whether `as_somebody` works here."""
    return os.geteuid() == 0 and shutil.which("setpriv") is not None


def as_somebody(processes: int) -> list[str]:
    """What runs a command as a user who has no other process, and may have so many of them and of threads.

    Root may have any number. The user may read what root may: the interpreter can be anywhere.
    """
    user = f"{60_000 + os.getpid() % 4_000}"
    may_read = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
    words = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", *may_read]
    return [*words, "prlimit", f"--nproc={processes}"]


def with_mounts(script: str) -> list[str]:
    """What runs a command where this script has mounted something, in a name space of its own."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, timeout=60).returncode != 0:
        pytest.skip("mounting needs privileges")
    return ["unshare", "-m", "sh", "-c", f'{script}; exec "$@"', "sh"]


@contextmanager
def cgroup(controller: str, limit: str, value: int) -> Iterator[Callable[[], None]]:
    """What has a process enter a group of its own in which this limit holds (cgroups of version 1)."""
    group = Path("/sys/fs/cgroup") / controller / f"batchmill-test-{os.getpid()}"
    if not (group.parent / "cgroup.procs").exists() or not os.access(group.parent, os.W_OK):
        pytest.skip(f"needs a cgroup of its own with the {controller} controller (version 1)")
    group.mkdir()

    def enter() -> None:
        (group / "cgroup.procs").write_text("0")

    try:
        (group / limit).write_text(f"{value}")
        yield enter
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "the group to be empty")
        group.rmdir()
