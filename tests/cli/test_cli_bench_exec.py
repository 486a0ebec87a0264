"""`batchmill bench --exec`: worker counts for a command per item, on the real program. No speeds."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Terminal, batchmill

from batchmill.codec.outcome_block import Failure
from batchmill.worker.command import essence

# Times, memory and stderr differ from call to call, which must not count; "c" fails.
SCRIPT = 'echo "$1 $2" >> log.txt; echo "$1 $2"; echo $$ >&2; [ "$1" != c ] || exit 3'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "words.txt").write_text("a\n\nb\nc\n")
    (folder / "two.txt").write_text("a\nb\n")
    (folder / "empty.txt").write_text("\n")
    return folder


@pytest.fixture(scope="module")
def told(place: Path) -> subprocess.CompletedProcess[str]:
    """A bench in which every item runs many times."""
    return batchmill("bench", "--exec", "words.txt", "-j", "1,2", "--sample", "3", "--chunk-size", "2", "--json",
                     "-o", "told.csv", "--keep-output", "1K", "--", "sh", "-c", SCRIPT, "sh", "{}", "{#}",
                     cwd=place)  # fmt: skip


def warnings(found: dict[str, Any]) -> str:
    return "\n".join(found["warnings"])


def test_each_count_is_measured_and_what_was_asked_is_said(told: subprocess.CompletedProcess[str], place: Path) -> None:
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert [cell["workers"] for cell in found["cells"]] == [1, 2]
    assert (found["function"], found["input"]) == (None, ["words.txt"])
    assert shlex.split(found["exec"]) == ["sh", "-c", SCRIPT, "sh", "{}", "{#}"]
    assert len((place / "told.csv").read_text().splitlines()) == 3
    assert not list(place.glob("*.ckpt"))


def test_what_differs_by_nature_is_no_disagreement_and_failures_are_named(
    told: subprocess.CompletedProcess[str],
) -> None:
    found = json.loads(told.stdout)
    assert found["sample"]["rounds"] > 1
    assert found["agree"]
    assert "differ from call" not in warnings(found)
    assert "1 sampled item failed, the one on line 4 with ExitStatus: exit status 3" in warnings(found)


def test_the_line_to_copy_is_the_exec_that_was_measured(told: subprocess.CompletedProcess[str], place: Path) -> None:
    measured = set((place / "log.txt").read_text().splitlines())
    (place / "log.txt").unlink()
    words = shlex.split(json.loads(told.stdout)["command"])
    words = words[words.index("exec") :]
    assert words[:4] == ["exec", "words.txt", "--keep-output", "1K"]
    assert words[words.index("-j") + 2 : words.index("--")] == ["--chunk-size", "2"]
    ended = batchmill(*words, cwd=place)
    assert (ended.returncode, sorted(ended.stdout.splitlines())) == (1, ["a 1", "b 3", "c 4"])
    assert set((place / "log.txt").read_text().splitlines()) == measured
    (place / "words.sh.ckpt").unlink()


def test_batch_sizes_are_an_axis_of_commands_too(place: Path) -> None:
    words = ("words.txt", "-j", "1", "--batch-size", "1,3", "--no-split", "--sample", "3", "--json")
    ended = batchmill("bench", "--exec", *words, "--", "sh", "-c", 'echo "$# $*"', "x", cwd=place)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert [cell["batch_size"] for cell in found["cells"]] == [1, 3]
    assert found["agree"]
    assert "differ from call" not in warnings(found), "whose the output is, nobody can tell"
    assert "--no-split -j 1 --batch-size" in found["command"]


def test_cpu_and_memory_are_those_of_the_commands_too(place: Path) -> None:
    program = "held = b'x' * 10**8; sum(range(10**6))"
    ended = batchmill("bench", "--exec", "words.txt", "-j", "1", "--sample", "2", "--json",
                      "--", sys.executable, "-S", "-c", program, cwd=place)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    (cell,) = json.loads(ended.stdout)["cells"]
    assert cell["peak_rss"] > 10**8
    assert cell["cpu_seconds_per_item"] > 0.01


def test_items_from_stdin_through_a_pipeline_whose_output_changes(place: Path) -> None:
    ended = batchmill("bench", "--exec", "-j", "1", "--sample", "2", "--shell", "echo {} $$ | cat",
                      cwd=place, input=b"one\ntwo words\n")  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "results differ from call to call: 2 items, the first on line 1" in ended.stdout
    assert ended.stdout.splitlines()[-1].endswith("exec -c echo.ckpt -j 1 --shell 'echo {} $$ | cat'")


def test_a_command_that_takes_too_long_is_a_failed_item(place: Path) -> None:
    ended = batchmill("bench", "--exec", "two.txt", "-j", "1", "--sample", "2", "--timeout", "500ms",
                      "--shell", "[ {} = a ] || sleep 60", cwd=place)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "1 sampled item failed, the one on line 2 with Timeout: timed out after 0.5 s" in ended.stdout


def test_ctrl_c_prints_what_is_done_and_dies_of_the_signal(place: Path) -> None:
    words = ["bench", "--exec", "words.txt", "-j", "1,2", "--sample", "3", "-o", "cut.json"]
    terminal = Terminal([*words, "--shell", "sleep 0.2; echo {}"], place)
    terminal.read_until(lambda seen: b"round 1/" in seen)
    terminal.press(b"\x03")
    assert terminal.end() == -signal.SIGINT
    assert b"not complete: ended by SIGINT" in terminal.seen
    assert json.loads((place / "cut.json").read_text())["stopped"] == "SIGINT"


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--exec", "words.txt", "sh", "{}"], 2, "write: batchmill bench --exec words.txt -- sh '{}'"),
        (["--exec", "words.txt", "--"], 2, "there is no command behind --"),
        (["words.txt", "--", "sh", "{}"], 2, "a command needs --exec; write: batchmill bench --exec words.txt -- sh"),
        (["--exec", "words.txt", "--shell", "true", "--", "sh"], 2, "--shell and -- both give a command"),
        (["--exec", "words.txt", "--set", "a=1", "--", "sh"], 2, "--set is for a FUNCTION"),
        (["work.py:f", "words.txt", "--stdin"], 2, "--stdin is for --exec"),
        (["--exec", "words.txt", "--ok-exit", "256", "--", "sh"], 2, "--ok-exit '256' is out of range"),
        (["--exec", "words.txt", "--", "nosuchprogram", "{}"], 66, "there is no program 'nosuchprogram'"),
        (["--exec", "missing.txt", "--", "sh", "{}"], 66, "missing.txt"),
        (["--exec", "empty.txt", "--", "sh", "{}"], 66, "no items"),
    ],
)
def test_what_cannot_work_is_refused(place: Path, words: list[str], status: int, said: str) -> None:
    ended = batchmill("bench", "-q", *words, cwd=place)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert said in ended.stderr.replace("bench -q", "bench").replace("--exec -q", "--exec")
    assert len(ended.stderr.splitlines()) == 1


def test_the_essence_of_a_command_is_how_it_ended_and_its_stdout() -> None:
    first = {"exit": 0, "stdout": "x", "stderr": "1", "user_seconds": 0.1, "system_seconds": 0.1, "peak_rss": 10**6}
    assert essence(first) == essence({**first, "stderr": "2", "user_seconds": 0.2, "peak_rss": None})
    for change in ({"exit": 1}, {"stdout": "y"}, {"stdout_dropped": 5}):
        assert essence(first) != essence({**first, **change})


def test_the_essence_of_a_failed_command_is_its_status() -> None:
    def failed(message: str) -> Failure:
        return Failure(0, "ExitStatus", message, "", None)

    assert essence(failed("exit status 3: at 10:15")) == essence(failed("exit status 3: at 10:16"))
    assert essence(failed("exit status 3: no")) != essence(failed("exit status 4: no"))
