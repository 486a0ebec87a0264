"""Commands as processes of a worker: their streams, their time, and that none outlives it."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_kit import until
from process_kit import is_running, start

from batchmill.errors import ItemFailed
from batchmill.system.children import send
from batchmill.worker import child_process, command_runner
from batchmill.worker.child_process import PIECE, Capture, CommandEnd, CommandProcesses, NotStarted
from batchmill.worker.command import CommandSpec
from batchmill.worker.command_runner import CommandRunner
from batchmill.worker.reply import KilledForMemory, NoProcessLeft, Postponed
from batchmill.worker.template import Task

MIB = 1 << 20


@pytest.fixture
def commands() -> Iterator[CommandProcesses]:
    runner = CommandProcesses(os.environb)
    yield runner
    runner._group.kill()


def run(
    commands: CommandProcesses,
    script: str,
    *,
    timeout: float | None = None,
    stdin: bytes | None = None,
    keep: int = MIB,
    whole: bool = False,
) -> tuple[CommandEnd, Capture, Capture]:
    out, err = Capture(keep, whole), Capture(keep, whole)
    words = [b"sh", b"-c", script.encode()]
    return commands.run("/bin/sh", words, stdin=stdin, captures=(out, err), timeout=timeout), out, err


def test_both_streams_and_the_status(commands: CommandProcesses) -> None:
    ended, out, err = run(commands, "echo out; echo err >&2; exit 3")
    assert (os.waitstatus_to_exitcode(ended.status), bytes(out.kept), bytes(err.kept)) == (3, b"out\n", b"err\n")
    assert not ended.overdue


def test_much_on_both_streams_neither_blocks_nor_fills_memory(commands: CommandProcesses) -> None:
    script = f"head -c {5 * MIB} /dev/zero; head -c {3 * MIB} /dev/zero >&2; echo end >&2"
    _, out, err = run(commands, script, keep=1000)
    assert (len(out.kept), out.dropped, len(err.kept)) == (1000, 5 * MIB - 1000, 1000)
    assert err.tail.endswith(b"\0end\n")


def test_what_was_not_kept_is_whole_in_a_file(commands: CommandProcesses) -> None:
    _, out, _ = run(commands, f"seq {PIECE}", keep=100, whole=True)
    assert b"".join(out.pieces()) == "".join(f"{n}\n" for n in range(1, PIECE + 1)).encode()
    out.close()


def test_stdin_is_empty_or_the_bytes_given_however_many(commands: CommandProcesses) -> None:
    assert bytes(run(commands, "wc -c")[1].kept).split() == [b"0"]
    assert bytes(run(commands, "wc -c", stdin=bytes(3 * MIB))[1].kept).split() == [str(3 * MIB).encode()]
    assert bytes(run(commands, "true", stdin=bytes(3 * MIB))[1].kept) == b""


def test_a_process_left_in_the_background_is_not_waited_for(commands: CommandProcesses) -> None:
    begun = time.monotonic()
    _, out, _ = run(commands, "echo here; (sleep 60; echo late) & echo $!")
    assert time.monotonic() - begun < 30
    here, pid = bytes(out.kept).split()
    assert here == b"here"
    commands._group.kill()
    until(lambda: not is_running(int(pid)), "the end of what was left in the background", limit=15)


def test_one_that_never_stops_printing_in_the_background_is_not_waited_for(commands: CommandProcesses) -> None:
    _, out, _ = run(commands, "yes & echo $! >&2", keep=10)
    assert len(out.kept) <= 10


def test_a_command_that_closes_its_streams_is_waited_for(commands: CommandProcesses, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    run(commands, f"exec >&- 2>&-; sleep 0.3; touch {mark}")
    assert mark.exists()


def test_when_its_time_is_up_it_gets_a_term_and_its_group_a_kill(commands: CommandProcesses) -> None:
    script = 'trap "echo last words; exit 5" TERM; (trap "" TERM; sleep 60) & echo $!; sleep 60 & wait'
    ended, out, _ = run(commands, script, timeout=4)  # by then the traps are there
    pid, *words = bytes(out.kept).split(b"\n", 1)
    assert ended.overdue
    assert words == [b"last words\n"]
    until(lambda: not is_running(int(pid)), "the end of the group", limit=15)
    assert bytes(run(commands, "echo on")[1].kept) == b"on\n"  # with a new keeper


@pytest.mark.parametrize("script", ['trap "" TERM; while :; do :; done', "kill -STOP $$", "exec >&- 2>&-; sleep 60"])
def test_nothing_keeps_a_command_alive_after_its_time(commands: CommandProcesses, script: str) -> None:
    ended, _, _ = run(commands, script, timeout=0.2)
    assert ended.overdue
    assert os.WIFSIGNALED(ended.status)


def test_each_process_of_a_command_hears_one_term(commands: CommandProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the group or not; two that come at once are one to the kernel, so they come one after the other here."""

    def slowly(*arguments: Any) -> None:
        send(*arguments)
        time.sleep(0.1)

    monkeypatch.setattr("batchmill.worker.command_group.send", slowly)
    loop = "while :; do sleep 0.05; done"
    far = f"setsid sh -c \"trap 'echo far' TERM; {loop}\" &"
    _, out, _ = run(commands, f"{far} trap 'echo near' TERM; {loop}", timeout=0.5)
    assert sorted(bytes(out.kept).split()) == [b"far", b"near"]


def test_a_command_that_kills_its_group_costs_itself_alone(commands: CommandProcesses) -> None:
    ended, _, _ = run(commands, "kill -9 0")
    assert os.waitstatus_to_exitcode(ended.status) == -signal.SIGKILL
    assert bytes(run(commands, "echo on")[1].kept) == b"on\n"
    assert os.waitstatus_to_exitcode(run(commands, "kill 0")[0].status) == -signal.SIGTERM


def test_without_pidfds_all_is_the_same(commands: CommandProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchmill.worker.child_process.pidfd_open", lambda pid: None)
    ended, out, _ = run(commands, f"seq {PIECE}; exit 4", keep=10)
    assert (os.waitstatus_to_exitcode(ended.status), bytes(out.kept)) == (4, b"1\n2\n3\n4\n5\n")
    assert bytes(run(commands, "echo here; sleep 60 &")[1].kept) == b"here\n"
    assert run(commands, "sleep 60", timeout=0.2)[0].overdue


def test_signals_that_python_ignores_are_not_ignored_by_a_command(commands: CommandProcesses) -> None:
    assert os.waitstatus_to_exitcode(run(commands, "kill -PIPE $$; exit 1")[0].status) == -signal.SIGPIPE
    assert os.waitstatus_to_exitcode(run(commands, "kill -INT $$; exit 1")[0].status) == -signal.SIGINT


def test_a_script_that_names_no_interpreter_is_the_shells(commands: CommandProcesses, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('echo "$1"\n')
    script.chmod(0o755)
    out, err = Capture(MIB, False), Capture(MIB, False)
    commands.run(str(script), [b"script", b"x y"], stdin=None, captures=(out, err), timeout=None)
    assert bytes(out.kept) == b"x y\n"


def test_what_cannot_be_started_leaves_no_descriptor_open(commands: CommandProcesses) -> None:
    run(commands, "true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(NotStarted, match="No such file"):
            commands.run("/no/such", [b"x"], stdin=b"", captures=(Capture(1, False), Capture(1, False)), timeout=None)
        run(commands, "true", stdin=b"x", timeout=5)
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_command_outlives_the_process_that_runs_it(tmp_path: Path) -> None:
    script = "echo $$ > pid; sleep 60 & wait"
    program = (
        "import os; from batchmill.worker.child_process import Capture, CommandProcesses\n"
        f"CommandProcesses(os.environb).run('/bin/sh', [b'sh', b'-c', {script.encode()!r}], stdin=None,"
        " captures=(Capture(9, False), Capture(9, False)), timeout=None)"
    )
    worker = start([sys.executable, "-c", program], cwd=tmp_path)
    try:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), "the command")
    finally:
        worker.kill()
        worker.wait(60)
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not is_running(pid), "the end of the command", limit=15)


@pytest.mark.parametrize(("number", "raised"), [(errno.EAGAIN, Postponed), (errno.ENOENT, ItemFailed)])
def test_a_command_that_finds_no_process_is_not_its_items_fault(
    number: int, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **__: object) -> None:
        raise NotStarted(OSError(number, os.strerror(number)))

    monkeypatch.setattr(CommandProcesses, "run", run)
    runner = CommandRunner(CommandSpec(("true", "{}")), "lines", os.environb, None, None)
    with pytest.raises(raised):
        runner(Task("a", b"a", 1))


def test_a_script_needs_a_shell_that_can_fork(
    commands: CommandProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sh").write_text('#!/bin/sh\ncase $2 in *"|"*) exit 2;; esac\nexec /bin/sh "$@"\n')
    (tmp_path / "sh").chmod(0o700)
    monkeypatch.setattr(child_process, "SHELL", str(tmp_path / "sh"))
    commands.check()
    with pytest.raises(NotStarted):
        commands.check(forks=True)


def test_a_command_that_finds_no_process_runs_again_and_then_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_runner, "_PAUSES", (0.0, 0.0))
    script = "echo x >> tries; echo 'sh: 1: Cannot fork' >&2; [ $(wc -l < tries) -gt {} ]"
    runner = CommandRunner(CommandSpec((script,), shell=True), "lines", os.environb, None, None)
    assert runner(Task("2", b"2", 1))["exit"] == 0
    with pytest.raises(NoProcessLeft, match="Cannot fork"):
        runner(Task("9", b"9", 1))


@pytest.mark.parametrize("script", ["kill -9 $$", "sh -c 'kill -9 $$'; exit"])
def test_a_command_that_is_killed_is_out_of_memory_where_the_kernel_says_so(
    script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = iter([4, 5, 5])
    monkeypatch.setattr(command_runner, "oom_kills", lambda: next(kills))
    runner = CommandRunner(CommandSpec((f"{script} # {{}}",), shell=True), "lines", os.environb, None, None)
    with pytest.raises(KilledForMemory, match="likely out of memory"):
        runner(Task("a", b"a", 1))
    with pytest.raises(ItemFailed) as raised:
        runner(Task("a", b"a", 1))
    assert not isinstance(raised.value, KilledForMemory), "that was another time"
