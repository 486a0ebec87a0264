"""What becomes of `batchmill exec` where GNU parallel was crashed; what became of that is in each docstring."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
from cli_kit import batchmill, shell
from fault_kit import LINGER, PROGRAM, committed, finish, running, until, witnessed
from process_kit import is_running, parent_of

EXEC = (PROGRAM, "exec")
NOTE = 'echo "$1" >> witness; '
COMMAND = ("--", "sh", "-c", NOTE + "sleep 0.1; echo done $1", "x", "{}")
NAME = "n.sh.ckpt"
RAW = ("-o", "out", "--output-format", "raw")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "n.txt").write_text("".join(f"{n}\n" for n in range(12)))
    return tmp_path


def outputs(place: Path) -> list[str]:
    return (place / "out").read_text().splitlines()


def test_kill_9_leaves_no_orphan_and_runs_nothing_twice_that_was_done(place: Path) -> None:
    """parallel: running jobs are orphaned, run to the end, and run a second time."""
    script = NOTE + "echo $$ >> pids; sleep 0.1; [ $1 -lt 5 ] || [ -e go ] || exec sleep 60; echo done $1"
    words = ("n.txt", *RAW, "-j", "2", "--chunk-size", "1", "--", "sh", "-c", script, "x")
    with running(*words, cwd=place, command=EXEC) as run:
        run.until(lambda: len(committed(place, NAME)) == 5 and len(witnessed(place)) == 7, "five done, two running")
        stuck = set(witnessed(place)) - set(committed(place, NAME))  # which ones depends on which worker was quicker
        run.signal(signal.SIGKILL)
        run.end()
        until(
            lambda: not any(is_running(int(pid)) for pid in (place / "pids").read_text().split()),
            "no command",
            limit=LINGER,
        )
        run.assert_gone()
    (place / "go").touch()
    assert finish(*words[:1], "--resume", *words[1:], cwd=place, command=EXEC).status == 0
    ran = Counter(witnessed(place))
    assert len(stuck) == 2
    assert ran == Counter([*map(str, range(12)), *stuck])
    assert outputs(place) == [f"done {n}" for n in range(12)]


def test_what_is_done_behind_a_slow_first_item_is_kept(place: Path) -> None:
    """parallel -k: 22 jobs finished, none in the joblog."""
    script = NOTE + "[ $1 != 0 ] || [ -e go ] || exec sleep 60; echo done $1"
    words = ("n.txt", *RAW, "-j", "2", "--chunk-size", "1", "--", "sh", "-c", script, "x")
    with running(*words, cwd=place, command=EXEC) as run:
        run.until(lambda: len(committed(place, NAME)) == 11, "all but the first")
        run.signal(signal.SIGKILL)
        run.end()
        run.assert_gone()
    (place / "go").touch()
    assert finish(*words[:1], "--resume", *words[1:], cwd=place, command=EXEC).status == 0
    assert Counter(witnessed(place)) == Counter([*map(str, range(12)), "0"])
    assert outputs(place) == [f"done {n}" for n in range(12)]


@pytest.mark.parametrize("share", [0.5, 0.7, 0.999])
def test_a_torn_checkpoint_loses_what_is_torn_off_and_says_so(place: Path, share: float) -> None:
    """parallel: items never run, with status 0; or the log must be mended by hand."""
    words = ("n.txt", *RAW, "-v", "--chunk-size", "1", "--", "sh", "-c", NOTE + "echo done $1", "x")
    assert finish(*words, cwd=place, command=EXEC).status == 0
    path = place / NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    ended = finish(*words[:1], "--resume", *words[1:], cwd=place, command=EXEC)
    assert ended.status == 0
    assert "an unfinished write of" in ended.err
    assert outputs(place) == [f"done {n}" for n in range(12)]


def test_an_item_inserted_at_the_head_runs_and_no_other(place: Path) -> None:
    """parallel: the new item never runs, the last one runs twice, status 0."""
    words = ("n.txt", *RAW, "--resume", "--", "sh", "-c", NOTE + "echo done $1", "x")
    assert finish(*words, cwd=place, command=EXEC).status == 0
    (place / "n.txt").write_text("new\n" + (place / "n.txt").read_text())
    assert finish(*words, cwd=place, command=EXEC).status == 0
    assert Counter(witnessed(place)) == Counter(["new", *map(str, range(12))])
    assert outputs(place)[:2] == ["done new", "done 0"]


def test_numbers_that_are_not_what_they_were_are_told(place: Path) -> None:
    """parallel: {#} of the new first job overwrites the file of the old one."""
    words = ("n.txt", "--resume", "--", "sh", "-c", 'echo "$1" > "$2"', "x", "{}", "{#}.out")
    assert finish(*words, cwd=place, command=EXEC).err == ""
    (place / "n.txt").write_text((place / "n.txt").read_text() + "last\n")
    assert finish(*words, cwd=place, command=EXEC).err == ""
    (place / "n.txt").write_text("new\n" + (place / "n.txt").read_text())
    assert "{#} may be that" in finish(*words[:1], "--dry-run", *words[1:], cwd=place, command=EXEC).out
    ended = finish(*words, cwd=place, command=EXEC)
    assert (ended.status, "{#} of what ran now may be that of an item done earlier" in ended.err) == (0, True)


def test_a_failed_item_is_not_done(place: Path) -> None:
    """parallel --resume: counted as done, and the second run exits 0."""
    words = ("n.txt", "--resume", "--", "sh", "-c", NOTE + "[ $1 != 3 ] || [ -e mended ]", "x")
    assert [finish(*words, cwd=place, command=EXEC).status for _ in range(2)] == [1, 1]
    (place / "mended").touch()
    assert finish(*words, cwd=place, command=EXEC).status == 0
    assert Counter(witnessed(place))["3"] == 3
    assert len(witnessed(place)) == 12 + 2


def test_half_an_output_is_none(place: Path) -> None:
    """parallel --results: a half-written file counts as done; items lost, status 0."""
    script = NOTE + "echo first; [ -e go ] || exec sleep 60; echo second"
    words = ("n.txt", *RAW, "--", "sh", "-c", script, "x")
    with running(*words, cwd=place, command=EXEC) as run:
        run.until(lambda: witnessed(place), "a command half-way")
        run.signal(signal.SIGKILL)
        run.end()
        run.assert_gone()
    (place / "go").touch()
    assert finish(*words[:1], "--resume", *words[1:], cwd=place, command=EXEC).status == 0
    assert outputs(place) == ["first", "second"] * 12


def test_a_full_disk_under_the_checkpoint_is_no_success(place: Path) -> None:
    """parallel --joblog: the write error is ignored, status 0."""
    ended = shell('ulimit -f 8; $BM exec n.txt -- sh -c "seq 1000"', cwd=place)
    assert ended.returncode == 74
    assert "cannot write" in ended.stderr or "cannot be written" in ended.stderr


def test_a_checkpoint_is_never_written_over_and_never_shared(place: Path) -> None:
    """parallel: the joblog is truncated silently; two runs share one, and jobs run twice."""
    words = ("--", "sh", "-c", NOTE + "[ $1 -lt 9 ] || until [ -e go ]; do sleep 0.05; done", "x")
    with running("n.txt", *words, cwd=place, command=EXEC) as run:
        run.until(lambda: committed(place, NAME), "the first outcome")
        assert finish("n.txt", "--resume", *words, cwd=place, command=EXEC).status == 75
        (place / "go").touch()
        assert run.end().status == 0
    kept = (place / NAME).read_bytes()
    ended = finish("n.txt", *words, cwd=place, command=EXEC)
    assert ended.status == 73
    assert "--resume" in ended.err
    assert (place / NAME).read_bytes() == kept
    assert Counter(witnessed(place)) == Counter(map(str, range(12)))


def test_a_hangup_is_no_success_and_nohup_is_obeyed(place: Path) -> None:
    """parallel: exit 0 after 12 of 40; nohup is defeated."""
    words = ("-j", "2", "--", "sh", "-c", NOTE + "[ $1 -lt 3 ] || until [ -e go ]; do sleep 0.05; done", "x")
    with running("n.txt", "-v", *words, cwd=place, command=EXEC) as run:
        run.until(lambda: len(witnessed(place)) == 5, "three commands, and two that wait")
        run.signal(signal.SIGHUP)
        run.until(lambda: b"Stopping: " in run.said(), "the run to hear it")
        (place / "go").touch()
        assert run.end().status == -signal.SIGHUP
        run.assert_gone()
    done = committed(place, NAME)
    assert len(done) == len(witnessed(place)) == 5  # what was running has ended, and is kept
    (place / "go").unlink()
    with running("n.txt", "--resume", *words, cwd=place, command=("nohup", *EXEC)) as run:
        run.until(lambda: len(witnessed(place)) == 7, "two more that wait")
        run.signal(signal.SIGHUP)
        (place / "go").touch()
        assert run.end().status == 0
    assert Counter(witnessed(place)) == Counter(map(str, range(12)))


def test_a_log_is_lines(place: Path) -> None:
    """parallel --eta: 6,938 bytes of CR-overwritten text for 4 jobs."""
    words = ("exec", "n.txt", "--json", "--progress", "log", "--progress-interval", "250ms", *COMMAND)
    ended = batchmill(*words, cwd=place)
    assert ended.returncode == 0
    assert 0 < len(ended.stderr.splitlines()) < 40
    assert "\r" not in ended.stderr
    assert "\x1b" not in ended.stderr


def test_what_made_a_group_of_its_own_ends_at_the_time_out_too(place: Path) -> None:
    """As `timeout` makes one for what it runs."""
    (place / "deaf").write_text("echo $$ > pid; trap '' TERM; sleep 900; sleep 900")
    ended = shell("echo deaf | $BM exec --no-checkpoint --timeout 1s -- timeout 900 sh", place)
    assert (ended.returncode, "timed out after 1 s" in ended.stderr) == (1, True), ended.stderr
    assert not is_running(int((place / "pid").read_text()))


# Whatever a command may start: in a session of its own, as a daemon, without our environment, as another user. When it
# runs again it fails if any of that is still there.
ROOTED = os.geteuid() == 0 and shutil.which("setpriv") is not None
OTHER_USER = "(setpriv --reuid=65534 --clear-groups setsid sh -c 'echo $$; exec sleep 900' >> pids &)"
LEAVES = f"""
if [ -e pids ]; then
    for pid in $(cat pids); do ! grep -q "^State:.[^ZX]" /proc/$pid/status 2>/dev/null || exit 9; done
    exit 0
fi
echo $PPID > worker
: > pids
setsid sh -c 'echo $$ >> pids; trap "" TERM; sleep 900 & sleep 900' &
(setsid sh -c 'echo $$ >> pids; exec sleep 900' &)
(setsid env -i /bin/sh -c 'echo $$ >> pids; exec /bin/sleep 900' &)
{OTHER_USER if ROOTED else ""}
until [ $(wc -l < pids) = {4 if ROOTED else 3} ]; do sleep 0.01; done
echo $$ >> pids
exec sleep 900
"""


def is_up(place: Path) -> bool:
    return (place / "pids").exists() and len((place / "pids").read_text().split()) == (5 if ROOTED else 4)


def are_gone(place: Path) -> bool:
    return not any(is_running(int(pid)) for pid in (place / "pids").read_text().split())


@pytest.mark.parametrize("killed", ["worker", "server and worker"])
def test_a_command_ends_with_its_worker_before_it_runs_again(killed: str, place: Path) -> None:
    """parallel: it runs on beside the second try. What has given up our environment is not found where nobody is left
    who has seen it start."""
    script = LEAVES.replace("env -i", "env") if "server" in killed else LEAVES
    (place / "n.txt").write_text("1\n")
    with running("n.txt", "-c", NAME, "-j", "1", "--", "sh", "-c", script, "x", cwd=place, command=EXEC) as run:
        run.until(lambda: is_up(place), "the command")
        worker = int((place / "worker").read_text())
        server = parent_of(worker)
        for pid in [server] * ("server" in killed) + [worker]:
            os.kill(pid, signal.SIGKILL)
        assert run.end().status == 0
        run.assert_gone()
    assert are_gone(place)


def test_a_command_whose_time_is_up_or_that_fails_is_gone_before_it_runs_again(place: Path) -> None:
    """parallel: what made a session of its own runs on beside the second try."""
    (place / "n.txt").write_text("1\n")
    fails = LEAVES.replace("exec sleep 900\n", "exit 3\n")
    for script, options in ((LEAVES, ["--timeout", "2s", "--kill-after", "100ms"]), (fails, ["--kill-after", "100ms"])):
        words = ("n.txt", "--no-checkpoint", "--retries", "1", "--retry-delay", "0", *options, "--", "sh", "-c", script)
        ended = finish(*words, cwd=place, command=EXEC)
        assert (ended.status, ended.err) == (0, "")
        assert are_gone(place)
        (place / "pids").unlink()


@pytest.mark.parametrize("killed", ["parent", "parent and server", "parent, server and worker"])
def test_nothing_of_a_command_outlives_batchmill(killed: str, place: Path) -> None:
    """parallel: whatever is not in the group of its job runs on."""
    script = LEAVES.replace("env -i", "env") if "worker" in killed else LEAVES
    (place / "n.txt").write_text("1\n")
    with running("n.txt", "-c", NAME, "-j", "1", "--", "sh", "-c", script, "x", cwd=place, command=EXEC) as run:
        run.until(lambda: is_up(place), "the command")
        worker = int((place / "worker").read_text())
        pids = [run.pid, *[parent_of(worker)] * ("server" in killed), *[worker] * ("worker" in killed)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        run.end()
        run.assert_gone()
        until(lambda: are_gone(place), "the end of all that the command has started", limit=LINGER)


CLEANS = """
trap 'echo heard $1 >> heard; exit 0' TERM
echo $1 >> begun
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize("end", ["TERM", "--time-limit"])
def test_commands_that_are_stopped_hear_a_term_first_and_run_again(end: str, place: Path) -> None:
    """As with parallel's --termseq; `trap ... TERM` never ran here."""
    options = ("--time-limit", "4s") if end == "--time-limit" else ("--grace", "2s")
    words = ("n.txt", "-j", "2", "--kill-after", "1s", *options, "--", "sh", "-c", CLEANS, "x")
    with running(*words, cwd=place, command=EXEC) as run:
        run.until(
            lambda: (place / "begun").exists() and len((place / "begun").read_text().split()) == 2, "two commands"
        )
        if end == "TERM":
            run.signal(signal.SIGTERM)
        ended = run.end()
        run.assert_gone()
    assert ended.status == (3 if end == "--time-limit" else -signal.SIGTERM), ended.err
    begun = (place / "begun").read_text().split()
    assert sorted((place / "heard").read_text().splitlines()) == sorted(f"heard {n}" for n in begun)
    assert not committed(place, NAME)
