"""`batchmill exec`: a command per item, by the real program in pipes and in a pty."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_kit import PROGRAM, Terminal, batchmill, environment, shell
from fault_kit import running, until
from process_kit import is_running

from batchmill import open_checkpoint
from batchmill.system.machine import thread_caps

CAPS = thread_caps(1, 1, {})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "n.txt").write_text("".join(f"{n}\n" for n in range(1, 7)))
    return tmp_path


def objects(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_commands_that_print_are_passed_on_and_those_that_fail_are_named(place: Path) -> None:
    script = 'echo "out $1"; echo "err $1" >&2; [ $1 != 4 ] || { echo "bad luck" >&2; exit 3; }'
    ended = batchmill("exec", "n.txt", "--", "sh", "-c", script, "x", "{}", cwd=place)
    assert ended.returncode == 1
    assert sorted(ended.stdout.splitlines()) == [f"out {n}" for n in range(1, 7)]
    assert {f"err {n}" for n in range(1, 7)} <= set(ended.stderr.splitlines())
    assert "id 4 (line 4): exit status 3: bad luck" in ended.stderr
    shown = batchmill("failures", "n.sh.ckpt", cwd=place).stdout
    assert "1x ExitStatus" in shown
    assert "    | err 4\n    | bad luck\n" in shown
    (failed,) = objects(batchmill("failures", "n.sh.ckpt", "--json", cwd=place).stdout)
    assert failed["error"]["message"] == "exit status 3: bad luck"
    again = batchmill("exec", "n.txt", "--resume", "--", "sh", "-c", script, "x", "{}", cwd=place)
    assert (again.returncode, again.stdout) == (1, "out 4\n")


def test_results_say_how_each_command_ended(place: Path) -> None:
    script = (
        r'case $1 in 1) printf "\377";; 2) exit 1;; 3) kill -SEGV $$;; 4) head -c 3000 /dev/zero;; esac; echo $1 >&2'
    )
    words = ["--ok-exit", "0,1", "--keep-output", "1K", "-o", "out.jsonl", "--", "sh", "-c", script, "x"]
    ended = batchmill("exec", "n.txt", *words, cwd=place)
    assert (ended.returncode, ended.stdout) == (1, "")
    found = {entry["id"]: entry["result"] for entry in objects((place / "out.jsonl").read_text())}
    assert list(found) == ["1", "2", "4", "5", "6"]
    assert list(found["5"]) == ["exit", "stdout", "stderr", "user_seconds", "system_seconds", "peak_rss"]
    assert (found["5"]["exit"], found["5"]["stdout"], found["5"]["stderr"]) == (0, "", "5\n")
    assert base64.b64decode(found["1"]["stdout"]) == b"\xff"
    assert found["2"]["exit"] == 1
    assert (found["4"]["stdout"], found["4"]["stdout_dropped"]) == ("\0" * 1024, 3000 - 1024)
    assert "id 3 (line 3): killed by SIGSEGV" in ended.stderr
    (failed,) = objects(batchmill("failures", "n.sh.ckpt", "--json", cwd=place).stdout)
    assert (failed["result"]["exit"], failed["result"]["stdout"]) == (-11, "")
    for format, has_it in (("jsonl", '"result": {"exit": -11'), ("csv", "\n3,-11,")):
        assert has_it in batchmill("results", "n.sh.ckpt", "--all", "--output-format", format, cwd=place).stdout


def test_the_time_and_memory_of_a_command_are_its_own(place: Path) -> None:
    (place / "a.txt").write_text("held = b'x' * 10**8; sum(range(10**6))\npass\n")
    words = ["-j", "1", "-o", "-", "--", sys.executable, "-S", "-c"]
    large, small = (entry["result"] for entry in objects(batchmill("exec", "a.txt", *words, cwd=place).stdout))
    assert 0.01 < large["user_seconds"] < 30
    assert 100_000_000 < large["peak_rss"] < 200_000_000
    assert small["peak_rss"] is None  # the kernel counts no less than the worker's own


def test_raw_output_is_what_was_printed_in_input_order(place: Path) -> None:
    script = "sleep 0.0$((7 - $1)); seq $1"
    expected = "".join(f"{n}\n" for top in range(1, 7) for n in range(1, top + 1))
    ended = batchmill(
        "exec",
        "n.txt",
        "-o",
        "-",
        "--output-format",
        "raw",
        "--chunk-size",
        "1",
        "--",
        "sh",
        "-c",
        script,
        "x",
        cwd=place,
    )
    assert (ended.returncode, ended.stdout) == (0, expected)
    assert batchmill("results", "n.sh.ckpt", "--output-format", "raw", cwd=place).stdout == expected


def test_raw_output_is_never_cut_without_a_word(place: Path) -> None:
    (place / "1.txt").write_text("100\n")
    words = ["1.txt", "--keep-output", "10", "-c", "x.ckpt"]
    ended = batchmill("exec", *words, "-o", "-", "--output-format", "raw", "--", "seq", cwd=place)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "more than --keep-output 10" in ended.stderr
    batchmill("exec", *words, "--fresh", "--json", "--", "seq", cwd=place)
    ended = batchmill("results", "x.ckpt", "--output-format", "raw", cwd=place)
    assert ended.stdout == "1\n2\n3\n4\n5\n"
    assert "1 output is cut off" in ended.stderr


def test_arguments_reach_the_program_as_they_are(place: Path) -> None:
    nasty = ["a b", "$(touch evil)", "'; touch evil; '", '"', "*", "-n", "é", "\\n"]
    (place / "nasty.txt").write_text("".join(f"{line}\n" for line in nasty))
    base = ["exec", "nasty.txt", "--no-checkpoint", "-o", "-"]
    plain = batchmill(*base, "--", "printf", "[%s]", "--{}", cwd=place)
    assert [entry["result"]["stdout"] for entry in objects(plain.stdout)] == [f"[--{line}]" for line in nasty]
    quoted = batchmill(*base, "--shell", "printf '%s\\n' {} | cat", cwd=place)
    assert [entry["result"]["stdout"] for entry in objects(quoted.stdout)] == [f"{line}\n" for line in nasty]
    assert not (place / "evil").exists()


def test_the_lines_of_stdin_are_the_items(place: Path) -> None:
    ended = batchmill("exec", "--no-checkpoint", "-j", "1", "--", "echo", "<{}>", "{#}", input=b"a\nb\n", cwd=place)
    assert (ended.returncode, ended.stdout) == (0, "<a> 1\n<b> 2\n")
    ended = batchmill("exec", "-v", "--", "echo", input=b"a\n", cwd=place)
    assert (ended.returncode, ended.stdout, os.listdir(place)) == (0, "a\n", ["n.txt"])
    assert "No checkpoint is kept of items from stdin: -c FILE keeps one" in ended.stderr
    ended = batchmill("exec", "--resume", "--", "echo", input=b"a\n", cwd=place)
    assert (ended.returncode, "give -c FILE, or --no-checkpoint" in ended.stderr) == (2, True)


def test_the_prompt_comes_back_at_once_and_what_is_left_in_the_background_ends(place: Path) -> None:
    script = "setsid -f sh -c 'echo $$ > pid; exec sleep 900' >/dev/null 2>&1 </dev/null; until [ -s pid ]; do :; done"
    done = shell(f'echo 1 | $BM exec --shell "{script.replace("$", chr(92) + "$")}; : {{}}" | cat', place)
    assert (done.returncode, done.stderr) == (0, "")
    pid = int((place / "pid").read_text())
    until(lambda: not is_running(pid), "the end of what was left in the background", limit=15)


def test_an_item_can_be_fed_on_stdin_and_else_stdin_is_empty(place: Path) -> None:
    items = [{"id": 1, "n": [1, 2]}, {"id": 2, "text": "x" * 100_000}]
    (place / "a.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    ended = batchmill("exec", "a.jsonl", "--stdin", "-o", "-", "--output-format", "raw", "--", "cat", cwd=place)
    assert objects(ended.stdout) == items
    ended = batchmill("exec", "a.jsonl", "-o", "-", "--output-format", "raw", "--", "sh", "-c", "wc -c", cwd=place)
    assert ended.stdout.split() == ["0", "0"]


def test_fields_of_json_items(place: Path) -> None:
    (place / "a.jsonl").write_text('{"id": 1, "w": "a b", "n": 2}\n{"id": 2}\n')
    ended = batchmill("exec", "a.jsonl", "-o", "-", "--output-format", "raw", "--", "echo", "{w}/{n}", cwd=place)
    assert (ended.returncode, ended.stdout) == (1, "a b/2\n")
    assert "MissingField" in ended.stderr
    assert "the item has no field 'w'" in ended.stderr


def test_a_command_has_its_callers_environment_and_what_is_said_of_its_item(place: Path) -> None:
    (place / "t.csv").write_text("Sample ID,n\na b,2\nc,3\n")
    words = "exec t.csv --no-checkpoint -j1 -o out --output-format raw --shell-program bash --shell"
    script = 'env | grep -v ^PATH; printf "%s<%s>" {Sample ID} "{n}${BASH_VERSION:+bash}"'
    done = shell(f"env -i PATH=$PATH $BM {words} '{script}'", place)
    assert done.returncode == 0, done.stderr
    text = (place / "out").read_text()
    ours = {"ATTEMPT=1", "WORKER=0", "POSITION=0", "POSITION=1"}
    assert ours < set(re.findall("BATCHMILL_(.*)", text))
    assert text.count("a b<2bash>") == text.count("c<3bash>") == 1
    assert set(re.findall("^(?!BATCHMILL_)(\\w+)=", text, re.MULTILINE)) <= {*CAPS, "PWD", "SHLVL", "_", "OLDPWD"}


def test_files_are_compressed_beside_themselves(place: Path) -> None:
    (place / "d").mkdir()
    texts = {f"d/{n} x.txt": f"{n}\n" * 1000 for n in range(5)}
    for name, text in texts.items():
        (place / name).write_text(text)
    ended = batchmill("exec", "--format", "files", "d", "--", "gzip", "-9", cwd=place)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert {name: gzip.decompress((place / f"{name}.gz").read_bytes()).decode() for name in texts} == texts


def test_awk_and_its_braces(place: Path) -> None:
    (place / "a.txt").write_text("1 2\n3 4\n")
    ended = batchmill("exec", "--no-checkpoint", "a.txt", "--stdin", "-j1", "--", "awk", "{print $2}", cwd=place)
    assert ended.stdout == "2\n4\n"


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_program_that_crashes_is_a_failed_item_with_its_signal(place: Path) -> None:
    (place / "c.c").write_text("#include <stdlib.h>\nint main(int n, char **v) { if (*v[1] == '2') abort(); }")
    subprocess.run(["cc", "-o", "c", "c.c"], cwd=place, timeout=60, check=True)
    ended = batchmill("exec", "n.txt", "--json", "--", "./c", cwd=place)
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["completed"], report["failed"]) == (1, 5, 1)
    assert report["failures"][0]["examples"][0] == {"id": "2", "line": 2, "message": "killed by SIGABRT", "file": ""}


def test_what_is_printed_is_whole_and_never_mixed(place: Path) -> None:
    script = r"head -c 2000000 /dev/zero | tr '\0' $1; echo; sleep 0.01; echo end $1"
    ended = batchmill("exec", "n.txt", "-j", "3", "--keep-output", "1K", "--", "sh", "-c", script, "x", cwd=place)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0
    assert [len(line) for line in lines] == [2_000_000, 5] * 6
    assert sorted(line[0] * 2_000_000 for line in lines[0::2]) == sorted(lines[0::2])
    assert lines[1::2] == [f"end {line[0]}" for line in lines[0::2]]


def test_lines_are_tagged_passed_on_as_they_come_and_each_command_is_said_first(place: Path) -> None:
    script = "echo a; echo b >&2; until [ -e go ]; do sleep 0.02; done; printf c"
    words = [
        "exec",
        "n.txt",
        "--no-checkpoint",
        "--limit",
        "1",
        "--tag",
        "--line-buffer",
        "-t",
        "--",
        "sh",
        "-c",
        script,
    ]
    with running(*words[1:], cwd=place, command=[*PROGRAM, "exec"]) as run:
        run.until(lambda: run.printed() == b"1\ta\n" and b"1\tb\n" in run.said(), "what it has printed so far")
        (place / "go").touch()
        ended = run.end()
    assert ended.out == "1\ta\n1\tc\n"
    assert ended.err.splitlines()[0] == shlex.join([*words[-3:], "1"])
    whole = batchmill("exec", "n.txt", "--no-checkpoint", "--tag", "--limit", "1", "--", "printf", "a\n%s", cwd=place)
    assert whole.stdout == "1\ta\n1\t1\n"


def test_at_the_last_failure_allowed_what_runs_is_ended_now(place: Path) -> None:
    script = "case $1 in 1) touch begun; exec sleep 900;; 2) until [ -e begun ]; do sleep 0.02; done; exit 1;; esac"
    words = ["n.txt", "-j", "2", "--max-failures", "1", "--now", "--", "sh", "-c", script, "x"]
    assert batchmill("exec", *words, cwd=place).returncode == 3
    with open_checkpoint(place / "n.sh.ckpt") as results:
        assert "1" not in {outcome.id for outcome in results.outcomes()}


def test_output_that_is_lost_is_never_a_success(place: Path) -> None:
    for script, code in (("> /dev/full", 74), (">&-", 74), ("| :", None)):
        ended = shell(f"$BM exec n.txt --resume -- echo {script}; exit ${{PIPESTATUS[0]}}", cwd=place)
        assert ended.returncode == (141 if code is None else code), ended.stderr
        assert ended.stdout == ""
        assert "Traceback" not in ended.stderr
    assert sorted(batchmill("exec", "n.txt", "--resume", "-j1", "--", "echo", cwd=place).stdout.split()) == list(
        "123456"
    )


def test_time_ends_a_command_and_all_it_started(place: Path) -> None:
    script = "[ $1 != 3 ] || { sleep 60 & echo $! > pid; wait; }"
    ended = batchmill("exec", "n.txt", "--timeout", "3s", "--", "sh", "-c", script, "x", cwd=place)
    assert ended.returncode == 1
    assert "id 3 (line 3): timed out after 3 s" in ended.stderr
    pid = int((place / "pid").read_text())
    until(lambda: not is_running(pid), "the end of what the command started", limit=15)


def test_a_command_that_fails_now_and_then_is_tried_again(place: Path) -> None:
    script = "[ $1 != 2 ] || [ -e again ] || { touch again; exit 1; }"
    words = ["--retries", "2", "--retry-delay", "10ms", "--json", "--", "sh", "-c", script, "x"]
    report = json.loads(batchmill("exec", "n.txt", *words, cwd=place).stdout)
    assert (report["completed"], report["failed"]) == (6, 0)
    with open_checkpoint(place / "n.sh.ckpt") as results:
        assert {outcome.id: outcome.attempts for outcome in results.outcomes()}["2"] == 2


def test_a_checkpoint_belongs_to_its_command(place: Path) -> None:
    assert batchmill("exec", "n.txt", "-c", "a.ckpt", "--json", "--", "true", "{}", cwd=place).returncode == 0
    for words in (["--", "true", "x{}"], ["--stdin", "--", "true", "{}"], ["--shell", "true {}"]):
        ended = batchmill("exec", "n.txt", "-c", "a.ckpt", "--resume", *words, cwd=place)
        assert ended.returncode == 78
        assert "command true '{}'" in ended.stderr
        assert " not " in ended.stderr
    status = batchmill("status", "a.ckpt", cwd=place).stdout
    assert "command   true '{}'" in status
    assert (
        batchmill("exec", "n.txt", "-c", "a.ckpt", "--resume", "--accept-changes", "--", "true", cwd=place).returncode
        == 0
    )


def test_status_names_the_command_that_continues(place: Path) -> None:
    words = ["exec", "n.txt", "-c", "a.ckpt", "--ok-exit", "0,2", "--limit", "2", "--", "sh", "-c", "echo a b; exit 2"]
    assert batchmill(*words, cwd=place).returncode == 3
    status = batchmill("status", "a.ckpt", cwd=place).stdout
    (line,) = [line for line in status.splitlines() if line.startswith("continue")]
    done = subprocess.run(
        ["sh", "-c", line.removeprefix("continue")], cwd="/", capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"a b\n" * 4)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["n.txt", "gzip", "-9", "{}"], 2, "write: batchmill exec n.txt -- gzip -9 '{}'"),
        (["n.txt"], 2, "write: batchmill exec n.txt -- PROGRAM {}"),
        ([], 2, "write: batchmill exec -- PROGRAM {}"),
        (["n.txt", "--"], 2, "there is no command behind --"),
        (["n.txt", "--", ""], 2, "the command is empty"),
        (["n.txt", "--shell", "x", "--", "y"], 2, "--shell and -- both give a command"),
        (["n.txt", "--", "gzpi"], 66, "there is no program 'gzpi' on PATH; did you mean gzip?"),
        (["n.txt", "--", "./no"], 66, "./no does not exist"),
        (["n.txt", "--", "./n.txt"], 66, "./n.txt cannot be executed; name a program, or: chmod +x ./n.txt"),
        (["n.txt", "--", "echo", ":::", "a", "b c"], 2, "write: printf '%s\\n' a 'b c' | batchmill exec -- echo"),
        (["-0", "--format", "csv", "--", "true"], 2, "-0 and --format csv exclude each other"),
        (["n.txt", "-o", "out", "--tag", "--", "true"], 2, "--tag is for what is passed on"),
        (["n.txt", "--", "echo", "{1}"], 2, "{1} is no placeholder of batchmill; write {}"),
        (["n.txt", "--shell", "echo '{}'"], 2, "stands inside single quotes in --shell; end them before it"),
        (["n.txt", "--ok-exit", "0,300", "--", "true"], 2, "--ok-exit '0,300' is out of range"),
        (["n.txt", "--keep-output", "1G", "--", "true"], 2, "--keep-output 1G is out of range"),
        (["no.txt", "--", "true"], 66, "no.txt"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_line_before_anything_starts(
    place: Path, arguments: list[str], code: int, said: str
) -> None:
    ended = batchmill("exec", *arguments, cwd=place)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert os.listdir(place) == ["n.txt"]


def test_a_program_that_the_item_names_is_looked_up_for_each(place: Path) -> None:
    (place / "p.txt").write_text("echo\nno-such-program\n")
    ended = batchmill("exec", "p.txt", "--", "{}", "x", cwd=place)
    assert (ended.returncode, ended.stdout) == (1, "x\n")
    assert "no-such-program cannot be run: No such file or directory" in ended.stderr


def test_options_come_from_the_environment_too(place: Path) -> None:
    env = {"BATCHMILL_EXEC_OK_EXIT": "1", "BATCHMILL_EXEC_CHECKPOINT": "env.ckpt"}
    assert batchmill("exec", "n.txt", "--", "false", cwd=place, env=env).returncode == 0
    assert (place / "env.ckpt").exists()
    ended = batchmill("exec", "n.txt", "--", "true", cwd=place, env={"BATCHMILL_EXEC_WORKERS": "none"})
    assert ended.returncode == 2
    assert "(from BATCHMILL_EXEC_WORKERS)" in ended.stderr


def test_a_dry_run_names_the_command_and_runs_none(place: Path) -> None:
    ended = batchmill("exec", "n.txt", "--dry-run", "--", "touch", "{}", cwd=place)
    assert "command    touch '{}'" in ended.stdout
    assert "6 to do" in ended.stdout
    assert "first      1 (line 1): touch 1\n           2 (line 2): touch 2\n" in ended.stdout
    shown = batchmill("exec", "n.txt", "--dry-run", "--shell", 'echo "<{}>" && rm {}.x', cwd=place).stdout
    assert 'first      1 (line 1): echo "<1>" && rm 1.x\n' in shown
    assert os.listdir(place) == ["n.txt"]


def test_at_a_terminal_what_is_printed_is_not_torn_by_a_progress_line(place: Path) -> None:
    terminal = Terminal(["exec", "n.txt", "--", "sh", "-c", "sleep 0.2; echo line $1", "x", "{}"], place)
    assert terminal.end() == 0
    lines = terminal.seen.decode().split("\r\n")
    assert sorted(lines[:6]) == [f"line {n}" for n in range(1, 7)]
    assert "all 6 items done" in terminal.seen.decode()


def test_with_output_in_a_file_a_terminal_has_the_progress_line_and_what_commands_complain_of(place: Path) -> None:
    words = ["-c", "$BM exec n.txt -- sh -c 'sleep 0.2; echo out; echo complaint $1 >&2' x {} > out"]
    terminal = Terminal(words, place, command=["bash"], BM=f"{sys.executable} -m batchmill")
    assert terminal.end() == 0
    assert (place / "out").read_text() == "out\n" * 6
    assert b"/6 " in terminal.seen
    assert terminal.seen.count(b"complaint ") == 6


def test_ctrl_c_lets_running_commands_end(place: Path) -> None:
    script = "touch begun-$1; until [ -e go ]; do sleep 0.05; done; touch ended-$1"
    terminal = Terminal(["exec", "n.txt", "-j", "2", "--", "sh", "-c", script, "x", "{}"], place)
    try:
        until(lambda: len(list(place.glob("begun-*"))) == 2, "two running commands")
        terminal.press(b"\x03")
        terminal.read_until(lambda seen: b"Stopping: " in seen)
    finally:
        (place / "go").touch()
        status = terminal.end()
    assert status == -2
    done = len(list(place.glob("ended-*")))
    assert done == 2
    with open_checkpoint(place / "n.sh.ckpt") as results:
        assert sum(outcome.ok for outcome in results.outcomes()) == done


def test_names_of_files_are_bytes_in_lists_ended_by_nul_or_by_newlines(place: Path) -> None:
    for end, options in ((b"\0", ["-0"]), (b"\n", [])):
        (place / "list").write_bytes(b"caf\xe9" + end + "café".encode() + end)
        script = f"$BM exec {' '.join(options)} --no-checkpoint -o out.jsonl -- printf %s < list; $BM exec"
        script += f" {' '.join(options)} -c {len(options)}.ckpt -- false < list"
        done = shell(script, place)
        assert (place / "out.jsonl").read_text().splitlines()[0].startswith('{"id": "caf\\\\udce9"')
        assert "In 1 item, what is no valid Unicode" in done.stderr
        given_back = subprocess.run(
            [*PROGRAM, "failures", "--items", f"{len(options)}.ckpt"], cwd=place, capture_output=True, timeout=60,
            check=True, env=environment(),
        )  # fmt: skip
        assert given_back.stdout == (place / "list").read_bytes()
