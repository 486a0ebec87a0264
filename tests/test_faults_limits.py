"""Faults of scarcity: few processes, threads, open files, little memory, room or shared memory. Fewer workers, or one
true line; never a hang, an internal error, or an item that is charged with it.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from fault_kit import PROGRAM, Ended, numbered, prepare, running, until, witnessed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")

ITEMS = 20
LACKING = 71
RUN = (PROGRAM, "run", "f.py:work", "items.jsonl")
EXEC = (PROGRAM, "exec", "items.jsonl", "--format", "lines", "--no-checkpoint")
SOME = ("--no-checkpoint", "-o", "out", "-j", "4")
FUNCTIONS = """
import threading

def starts_a_thread():
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    prepare(tmp_path, numbered(ITEMS))
    with open(tmp_path / "f.py", "a") as file:
        file.write(FUNCTIONS)
    return tmp_path


def under(*words: str, at: Path, before: Callable[[], None] | None = None, wrapper: Sequence[str] = ()) -> Ended:
    """Run these words to their end, of which nothing may be left; `before` sets limits."""
    with running(*words, cwd=at, command=wrapper, before=before) as run:
        ended = run.end()
        run.assert_gone()
    return ended


def limited(which: int, most: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(which, (most, most))


def assert_fair(ended: Ended, at: Path, status: int | tuple[int, ...] = LACKING, results: int = ITEMS) -> None:
    """It ended well, and then whole, or with this status and the reason in its last line."""
    lines = ended.err.splitlines()
    assert "Traceback" not in ended.err
    if ended.status == 0:
        assert not lines
        assert len((at / "out").read_bytes().splitlines()) == results
        assert max(Counter(witnessed(at)).values(), default=1) == 1
        return
    assert ended.status in (status if isinstance(status, tuple) else (status,)), ended.err
    assert all(line.startswith("Only ") for line in lines[:-1]), ended.err
    assert lines[-1].startswith("batchmill: ")
    assert "; " in lines[-1], "no remedy"


# Processes and threads


def as_somebody(processes: int) -> list[str]:
    """What runs a command as a user who has no other process, and may have so many of them and of threads.

    Root may have any number. The user may read what root may: the interpreter can be anywhere.
    """
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user, by setpriv")
    user = f"{60_000 + os.getpid() % 4_000}"
    may_read = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
    words = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", *may_read]
    return [*words, "prlimit", f"--nproc={processes}"]


@pytest.fixture
def shared(place: Path) -> Path:
    """A place where another user may write."""
    place.chmod(0o777)
    return place


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 5, 6, 8, 11, 14])
def test_row_29_few_processes_are_fewer_workers_or_one_line(processes: int, shared: Path) -> None:
    assert_fair(under(*RUN, *SOME, at=shared, wrapper=as_somebody(processes)), shared)


@pytest.mark.parametrize("processes", [2, 5, 6, 8, 11, 14, 18])
def test_few_processes_for_commands_are_fewer_workers_or_one_line(processes: int, shared: Path) -> None:
    words = (*EXEC, "-o", "out", "-j", "4", "--", "true")
    assert_fair(under(*words, at=shared, wrapper=as_somebody(processes)), shared)


@pytest.mark.parametrize("processes", [5, 6, 9, 12])
def test_an_initializer_that_needs_a_thread_makes_do_with_fewer_workers(processes: int, shared: Path) -> None:
    ended = under(*RUN, *SOME, "--init", "starts_a_thread", at=shared, wrapper=as_somebody(processes))
    if ended.status == 78:  # not even the first worker had one
        assert "RuntimeError: can't start new thread" in ended.err.splitlines()[-1]
    else:
        assert_fair(ended, shared)


def test_bench_measures_all_workers_or_says_how_many_there_can_be(shared: Path) -> None:
    words = (PROGRAM, "bench", "f.py:work", "items.jsonl", "-j", "1,6", "--seconds", "1")
    ended = under(*words, at=shared, wrapper=as_somebody(9))
    assert ended.status == LACKING
    assert "of 6 workers can be started: no more processes or threads" in ended.err.splitlines()[-1]


MAP = """
import batchmill, f
if __name__ == "__main__":
    try:
        print(len(batchmill.map(f.work, [{"id": str(n), "n": n} for n in range(20)], workers=4)))
    except batchmill.errors.BatchmillError as error:
        print(error.exit_code, error)
"""


@pytest.mark.parametrize("processes", [1, 3, 6, 9])
def test_in_python_it_is_an_error_of_ours(processes: int, shared: Path) -> None:
    (shared / "main.py").write_text(MAP)
    ended = under(sys.executable, "main.py", at=shared, wrapper=as_somebody(processes))
    assert ended.err == ""
    assert ended.out.strip() == f"{ITEMS}" or ended.out.startswith(f"{LACKING} ")


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


@pytest.mark.parametrize("processes", [6, 10, 15])
def test_few_processes_in_a_cgroup_are_fewer_workers_or_one_line(processes: int, place: Path) -> None:
    with cgroup("pids", "pids.max", processes) as enter:
        assert_fair(under(*RUN, *SOME, at=place, before=enter), place)


# Open files, memory, sizes


@pytest.mark.parametrize("files", [6, 9, 12, 15, 16, 18, 20, 24, 32])
@pytest.mark.parametrize("words", [(*RUN, *SOME), (*EXEC, "-o", "out", "-j", "4", "--", "true")], ids=["run", "exec"])
def test_row_29_few_open_files_are_fewer_workers_or_one_line(words: tuple[str, ...], files: int, place: Path) -> None:
    assert_fair(under(*words, at=place, before=limited(resource.RLIMIT_NOFILE, files)), place)


@pytest.mark.parametrize("mebibytes", [40, 60, 80, 120, 200, 400])
def test_little_address_space_is_fewer_workers_or_one_line(mebibytes: int, place: Path) -> None:
    assert_fair(under(*RUN, *SOME, at=place, before=limited(resource.RLIMIT_AS, mebibytes << 20)), place)


def test_a_first_worker_that_is_killed_for_memory_is_one_line(place: Path) -> None:
    (place / "g.py").write_text("from f import work\nheld = bytearray(200 << 20)\n")
    with cgroup("memory", "memory.limit_in_bytes", 100 << 20) as enter:
        ended = under(PROGRAM, "run", "g.py:work", "items.jsonl", *SOME, at=place, before=enter)
    assert ended.status == LACKING
    (line,) = ended.err.splitlines()
    assert "was killed by SIGKILL while starting: most likely, there is not enough memory" in line


@pytest.mark.parametrize("size", [1, 100, 1000, 5000, 20_000])
@pytest.mark.parametrize("kept", [("--no-checkpoint",), ("-c", "x.ckpt")], ids=["none", "checkpoint"])
def test_files_that_may_not_grow_are_one_line(kept: tuple[str, ...], size: int, place: Path) -> None:
    # What is said goes through a pipe: in a file, it would be cut too.
    script = f'prlimit --fsize={size} "$@" 2>&1 >/dev/null | cat >&2'
    ended = under("sh", "-c", script, "sh", *RUN, *kept, "-o", "out", at=place)
    lines = ended.err.splitlines()
    assert len(lines) <= 1
    assert all("File too large" in line or "files may not be as large" in line for line in lines), ended.err
    assert (place / "out").exists() == (not lines)


# Room


def with_mounts(script: str) -> list[str]:
    """What runs a command where this script has mounted something, in a name space of its own."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        pytest.skip("mounting needs privileges")
    return ["unshare", "-m", "sh", "-c", f'{script}; exec "$@"', "sh"]


@pytest.mark.parametrize("options", ["size=4k", "ro", "nr_inodes=1"])
def test_shared_memory_that_is_full_or_closed_is_not_needed(options: str, place: Path) -> None:
    mounted = with_mounts(
        f"mount -t tmpfs -o {options} tmpfs /dev/shm; (head -c 8k /dev/zero > /dev/shm/x) 2>/dev/null"
    )
    ended = under(*RUN, *SOME, at=place, wrapper=mounted)
    assert (ended.status, ended.err) == (0, "")


@pytest.mark.parametrize("options", ["size=4k", "ro", "nr_inodes=1"])
def test_a_directory_for_temporary_files_that_is_full_or_closed_is_not_needed(options: str, place: Path) -> None:
    (place / "tmp").mkdir()
    mounted = with_mounts(
        f"mount -t tmpfs -o {options} tmpfs tmp; (head -c 8k /dev/zero > tmp/x) 2>/dev/null; export TMPDIR=$PWD/tmp"
    )
    ended = under(*RUN, "-c", "x.ckpt", "-o", "out", at=place, wrapper=mounted)
    assert (ended.status, ended.err) == (0, "")
    ended = under(*EXEC, "-j", "4", "--stdin", "--", "cat", at=place, wrapper=mounted)
    assert (ended.status, len(ended.out.splitlines())) == (0, ITEMS)


def test_output_of_a_command_that_finds_no_room_is_told_from_a_command_that_cannot_be_run(place: Path) -> None:
    (place / "tmp").mkdir()
    mounted = with_mounts("mount -t tmpfs -o size=256k tmpfs tmp; export TMPDIR=$PWD/tmp")
    ended = under(*EXEC, "--", "sh", "-c", "head -c 3000000 /dev/zero", at=place, wrapper=mounted)
    assert ended.status == 1
    assert "no room for what it prints, in a temporary file: No space left on device; point TMPDIR at" in ended.err


@pytest.mark.parametrize("words", [("--shell", "echo {}"), ("--", "echo", "{}")])
def test_an_item_too_long_for_an_argument_is_told_so_in_a_short_line(words: tuple[str, ...], place: Path) -> None:
    (place / "items.jsonl").write_text("x" * 200_000 + "\n")
    ended = under(*EXEC, *words, at=place)
    assert ended.status == 1
    (line,) = [line for line in ended.err.splitlines() if "cannot be run" in line]
    assert line.endswith("cannot be run: Argument list too long; --stdin gives the item on stdin")
