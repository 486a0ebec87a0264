"""Closed, full and broken standard streams: never status 0 with lost output, never a file on descriptor 1 or 2."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import work_kit
from cli_kit import PROGRAM, environment, shell
from process_kit import start

import batchmill

FULL = "batchmill: stdout cannot be written: No space left on device; nothing in the checkpoint is lost"
WRITER = """
from batchmill_cli import group, main
from batchmill_cli.terminal import stdio
group.Program.invoke = lambda *a: stdio.print_data("x" * 1000000)
main.entry()
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)


def writer(stdout: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, "run"]
    return start(command, env=environment(), stdout=stdout, stderr=subprocess.PIPE)


@pytest.mark.parametrize("command", ["$BM --help", "$BM --version", "$BM run --help"])
def test_help_that_nobody_can_read_is_not_a_success(command: str, tmp_path: Path) -> None:
    assert shell(f"{command} >&-", tmp_path).returncode == 74
    full = shell(f"{command} >/dev/full", tmp_path)
    assert full.returncode == 74
    assert (
        full.stderr
        == "batchmill: stdout cannot be written: No space left on device; nothing in the checkpoint is lost\n"
    )


def test_data_on_a_full_disk_is_74_and_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        child = writer(stdout=full.fileno())
        _, said = child.communicate(timeout=60)
    assert child.returncode == 74
    assert said.decode() == f"{FULL}\n"


def test_a_reader_that_goes_away_ends_it_quietly_by_sigpipe() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    child = writer(stdout=write_end)
    os.close(write_end)
    _, said = child.communicate(timeout=60)
    assert (child.returncode, said) == (-signal.SIGPIPE, b"")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the checkpoint `c.ckpt` of a run with results and failures."""
    directory = tmp_path_factory.mktemp("done")
    batchmill.run(work_kit.fail_on_negative, [1, 2, -3], checkpoint=directory / "c.ckpt", workers=1)
    return directory


@pytest.mark.sampled(4)
@pytest.mark.parametrize("command", ["--version", "run --help", "status c.ckpt", "results c.ckpt", "failures c.ckpt"])
@pytest.mark.parametrize(("target", "status"), [("", -signal.SIGPIPE), (">/dev/full", 74), (">&-", 74)])
def test_output_that_is_lost_is_said_once(command: str, target: str, status: int, done: Path) -> None:
    """What a file raises while it is let go, Python 3.13 shows always, older ones in development mode."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end) as unread:
        ended = subprocess.run(
            ["sh", "-c", f"exec {sys.executable} -X dev -m batchmill {command} {target}"], cwd=done, env=environment(),
            stdout=unread, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert ended.returncode == status
    assert len(ended.stderr.splitlines()) == (0 if status < 0 else 1), ended.stderr


def test_a_slow_non_blocking_reader_gets_everything() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    child = writer(stdout=write_end)
    os.close(write_end)
    with open(read_end, "rb") as reader:
        assert len(reader.read()) == 1000001
    child.communicate(timeout=60)
    assert child.returncode == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-", ">&- 2>&-"])
def test_no_file_ever_lands_on_a_standard_descriptor(closed: str, tmp_path: Path) -> None:
    script = (
        "import os; from batchmill_cli.terminal import stdio; stdio.reopen_standard();"
        f"fd = os.open({str(tmp_path / 'mine')!r}, os.O_CREAT | os.O_WRONLY); os.write(fd, str(fd).encode())"
    )
    shell(f"{sys.executable} -c {script!r} {closed}".replace('"', '"'), tmp_path)
    assert int((tmp_path / "mine").read_text()) > 2


def test_a_closed_stderr_changes_nothing_else(tmp_path: Path) -> None:
    assert shell("$BM --version 2>&-", tmp_path).stdout.startswith("batchmill ")
    assert shell("$BM nonsense 2>&-", tmp_path).returncode == 2
    assert shell("$BM nonsense 2>/dev/full", tmp_path).returncode == 2


def test_an_internal_error_is_70_one_line_and_its_traceback_only_with_v() -> None:
    script = "from batchmill_cli import group, main; group.Program.invoke = lambda *a: 1 / 0; main.entry()"
    plain = subprocess.run(
        [sys.executable, "-c", script, "run"], capture_output=True, text=True, timeout=60, check=False
    )
    assert plain.returncode == 70
    assert plain.stderr.startswith("batchmill: internal error: ZeroDivisionError: division by zero; run it with -v")
    assert len(plain.stderr.splitlines()) == 1
    told = subprocess.run(
        [sys.executable, "-c", script, "-v", "run"], capture_output=True, text=True, timeout=60, check=False
    )
    assert told.returncode == 70
    assert "Traceback" in told.stderr


def test_ctrl_c_before_anything_runs_dies_of_sigint_without_a_word() -> None:
    script = (
        "from batchmill_cli import group, main\n"
        "def interrupted(*a): raise KeyboardInterrupt\n"
        "group.Program.invoke = interrupted; main.entry()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, "run"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


def test_the_program_is_found_under_both_names(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("batchmill")
    for command in ([str(script)], PROGRAM):
        ended = subprocess.run(
            [*command, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.stdout.startswith("batchmill ")
