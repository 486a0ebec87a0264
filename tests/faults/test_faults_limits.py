"""Faults of scarcity: few processes, threads, open files, little memory, room or shared memory. Fewer workers, or one
true line; never a hang, an internal error, or an item that is charged with it.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest
from fault_kit import CHECKPOINT, PROGRAM, committed, numbered, prepare, write_items
from limit_kit import LACKING, as_somebody, assert_fair, can_be_somebody, cgroup, limited, under, with_mounts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")

ITEMS = 20
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


# Processes and threads


@pytest.fixture
def shared(place: Path) -> Path:
    """A place where another user may write."""
    if not can_be_somebody():
        pytest.skip("only root can become another user, by setpriv")
    place.chmod(0o777)
    return place


@pytest.mark.sampled(4)
@pytest.mark.parametrize("processes", [1, 2, 3, 4, 5, 6, 8, 11, 14])
def test_row_29_few_processes_are_fewer_workers_or_one_line(processes: int, shared: Path) -> None:
    assert_fair(under(*RUN, *SOME, at=shared, wrapper=as_somebody(processes)), shared, ITEMS)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("processes", [2, 5, 6, 8, 11, 14, 18])
def test_few_processes_for_commands_are_fewer_workers_or_one_line(processes: int, shared: Path) -> None:
    words = (*EXEC, "-o", "out", "-j", "4", "--", "true")
    assert_fair(under(*words, at=shared, wrapper=as_somebody(processes)), shared, ITEMS)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("processes", [6, 9, 11, 12, 14, 20])
def test_scripts_that_fork_are_run_by_fewer_workers_and_cost_no_item(processes: int, shared: Path) -> None:
    words = (*EXEC, "-o", "out", "-j", "4", "--shell", "echo {} | cat")
    assert_fair(under(*words, at=shared, wrapper=as_somebody(processes)), shared, ITEMS)


def test_commands_that_leave_no_process_to_those_of_others_cost_no_item(shared: Path) -> None:
    # Two workers and one process for their commands, each of which takes longer than a short patience.
    words = (*EXEC, "-o", "out", "-j", "2", "--limit", "4", "--chunk-size", "1", "--stdin", "--", "sleep", "4")
    ended = under(*words, at=shared, wrapper=as_somebody(11))
    assert ended.status in (0, 3), ended.err
    assert "cannot be run" not in ended.err


@pytest.mark.parametrize("processes", [5, 6, 9, 12])
def test_an_initializer_that_needs_a_thread_makes_do_with_fewer_workers(processes: int, shared: Path) -> None:
    ended = under(*RUN, *SOME, "--init", "starts_a_thread", at=shared, wrapper=as_somebody(processes))
    if ended.status == 78:  # not even the first worker had one
        assert "RuntimeError: can't start new thread" in ended.err.splitlines()[-1]
    else:
        assert_fair(ended, shared, ITEMS)


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


@pytest.mark.parametrize("processes", [6, 10, 15])
def test_few_processes_in_a_cgroup_are_fewer_workers_or_one_line(processes: int, place: Path) -> None:
    with cgroup("pids", "pids.max", processes) as enter:
        assert_fair(under(*RUN, *SOME, at=place, before=enter), place, ITEMS)


# Open files, memory, sizes


@pytest.mark.sampled(4)
@pytest.mark.parametrize("files", [6, 9, 12, 15, 16, 18, 20, 24, 32])
@pytest.mark.parametrize("words", [(*RUN, *SOME), (*EXEC, "-o", "out", "-j", "4", "--", "true")], ids=["run", "exec"])
def test_row_29_few_open_files_are_fewer_workers_or_one_line(words: tuple[str, ...], files: int, place: Path) -> None:
    assert_fair(under(*words, at=place, before=limited(resource.RLIMIT_NOFILE, files)), place, ITEMS)


@pytest.mark.parametrize("mebibytes", [40, 60, 80, 90, 98, 120, 200, 400])
def test_little_address_space_is_fewer_workers_or_one_line(mebibytes: int, place: Path) -> None:
    assert_fair(under(*RUN, *SOME, at=place, before=limited(resource.RLIMIT_AS, mebibytes << 20)), place, ITEMS)


def test_a_first_worker_that_is_killed_for_memory_is_one_line(place: Path) -> None:
    (place / "g.py").write_text("from f import work\nheld = bytearray(200 << 20)\n")
    with cgroup("memory", "memory.limit_in_bytes", 100 << 20) as enter:
        ended = under(PROGRAM, "run", "g.py:work", "items.jsonl", *SOME, at=place, before=enter)
    assert ended.status == LACKING
    (line,) = ended.err.splitlines()
    assert "was killed by SIGKILL while starting: most likely, there is not enough memory" in line


TAKES = "import os, sys\nlen(os.urandom(1 << 20) * int(sys.argv[1]))"


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("run", "g.py:work", "items.jsonl"), "the worker (pid "),
        (("exec", "items.jsonl", "--", sys.executable, "-S", "-c", TAKES, "{mebibytes}"), "killed by SIGKILL, likely"),
    ],
    ids=["run", "exec"],
)
def test_of_items_that_fit_alone_but_not_together_none_fails_with_the_one_that_fits_nowhere(
    words: tuple[str, ...], cause: str, place: Path
) -> None:
    (place / "g.py").write_text(
        "import os\ndef work(item): return len(bytes(os.urandom(1 << 20)) * item['mebibytes'])\n"
    )
    write_items(place / "items.jsonl", [{"id": f"i{n}", "mebibytes": 300 if n == 9 else 16} for n in range(ITEMS)])
    options = ("-c", CHECKPOINT, "-j", "4", "--chunk-size", "1")
    with cgroup("memory", "memory.limit_in_bytes", 100 << 20) as enter:
        ended = under(PROGRAM, *words[:2], *options, *words[2:], at=place, before=enter)
    assert ended.status == 1, ended.err
    assert {id for id, outcome in committed(place).items() if not outcome.ok} == {"i9"}, ended.err
    assert f"id i9 (line 10): {cause}" in ended.err
    assert "likely out of memory" in ended.err


@pytest.mark.sampled(4)
@pytest.mark.parametrize("size", [1, 100, 1000, 5000, 20_000])
@pytest.mark.parametrize("kept", [("--no-checkpoint",), ("-c", "x.ckpt")], ids=["none", "checkpoint"])
def test_files_that_may_not_grow_are_one_line(kept: tuple[str, ...], size: int, place: Path) -> None:
    # What is said goes through a pipe: in a file, it would be cut too.
    script = f'prlimit --fsize={size} "$@" 2>&1 >/dev/null | cat >&2'
    ended = under("sh", "-c", script, "sh", *RUN, *kept, "-o", "out", at=place)
    lines = ended.err.splitlines()
    assert len(lines) <= 1
    assert all("File too large" in line or "files may not be as large" in line for line in lines), ended.err
    # The last frames are written after the output.
    assert (place / "out").read_text().count("\n") == 20 if (place / "out").exists() else lines


# Room


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


@pytest.mark.parametrize("files", [6, 7, 8])
def test_a_file_that_cannot_be_opened_for_want_of_descriptors_is_told_so(files: int, place: Path) -> None:
    words = (*RUN, "-c", "x.ckpt", "-o", "out", "-j", "1")
    assert under(*words, "--limit", "3", at=place).status == 3
    ended = under(*words, "--resume", at=place, before=limited(resource.RLIMIT_NOFILE, files))
    assert ended.status == LACKING
    assert "no more files can be open; raise the limit (ulimit -n)" in ended.err.splitlines()[-1]
