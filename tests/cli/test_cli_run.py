"""`batchmill run` in pipes: exit statuses, what is on stdout and stderr, and the ways on."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_kit import PROGRAM, batchmill, environment, shell, wait_for_outcomes
from fault_kit import until
from process_kit import is_running, processes, send, start

FUNCTIONS = """
import os, sys, time

def double(item):
    return {"twice": item["n"] * 2}

def picky(item):
    if item["n"] % 10 == 3:
        raise ValueError(f"bad header in {item['n']}")
    return item["n"]

def slow(item, seconds=0.05):
    time.sleep(seconds)
    return item["n"]

def gated(item):
    open("begun", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
    return item["n"]

def loud(item):
    print("to stdout", item["n"])
    print("to stderr", item["n"], file=sys.stderr)
    return item["n"]

def seven(item, power=1, mode=""):
    return [item["n"] ** power, mode]
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "f.py").write_text(FUNCTIONS)
    write_items(tmp_path / "items.jsonl", 50)
    return tmp_path


def write_items(path: Path, count: int) -> None:
    path.write_text("".join(f'{{"id": "i{n}", "n": {n}}}\n' for n in range(count)))


def test_a_run_that_succeeds_in_a_crontab_says_nothing_at_all(work: Path) -> None:
    ended = batchmill("run", "f.py:double", "items.jsonl", "-o", "out.jsonl", cwd=work)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    lines = (work / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"id": f"i{n}", "result": {"twice": 2 * n}} for n in range(50)]


def test_a_resumed_run_that_succeeds_says_nothing_either(work: Path) -> None:
    command = ("run", "f.py:double", "items.jsonl", "-c", "x.ckpt")
    assert batchmill(*command, "--limit", "20", cwd=work).returncode == 3
    ended = batchmill(*command, "--resume", cwd=work)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_failures_make_a_mail_whose_first_line_is_the_news(work: Path) -> None:
    ended = batchmill("run", "f.py:picky", "items.jsonl", "-c", "x.ckpt", cwd=work)
    assert (ended.returncode, ended.stdout) == (1, "")
    lines = ended.stderr.splitlines()
    assert lines[0].startswith("batchmill: 5 of 50 items failed (exit 1) - ")
    assert any("50 total, 45 completed, 0 skipped (done before), 5 failed, 0 left" in line for line in lines)
    assert any("5x ValueError" in line for line in lines)
    assert any("id i3 (line 4): bad header in 3" in line for line in lines)
    assert len(lines) < 25


def test_the_printed_commands_work_as_they_stand(work: Path) -> None:
    ended = batchmill("run", "f.py:picky", "items.jsonl", "-c", "my x.ckpt", cwd=work)
    printed = dict(line.split(maxsplit=1) for line in ended.stderr.splitlines() if line[:4] in ("cont", "show", "coll"))
    again = shell(printed["continue"], Path("/"))
    assert again.returncode == 1
    assert "45 skipped (done before), 5 failed" in again.stderr
    assert "5x ValueError" in shell(printed["show"], work).stdout
    assert shell(printed["collect"].replace("FILE", "all.jsonl"), work).returncode == 0
    assert len((work / "all.jsonl").read_text().splitlines()) == 45


def lines_by_label(said: str) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in said.splitlines() if line[:1].isalpha() and " " in line)


def test_a_run_that_ended_early_says_where_its_output_is(work: Path) -> None:
    ended = batchmill("run", "f.py:double", "items.jsonl", "-o", "out.jsonl", "--limit", "5", cwd=work)
    said = lines_by_label(ended.stderr)
    assert (ended.returncode, said["output"]) == (3, str(work / "out.jsonl.partial"))
    assert len(Path(said["output"]).read_text().splitlines()) == 5
    assert shell(f"cd {work} && {said['collect']}", work).returncode == 0
    assert (work / "out.jsonl").read_text() == Path(said["output"]).read_text()


def test_nothing_is_proposed_to_be_collected_where_there_is_nothing(work: Path) -> None:
    (work / "items.jsonl").write_text('{"id": 3, "n": 3}\n')
    said = lines_by_label(batchmill("run", "f.py:picky", "items.jsonl", cwd=work).stderr)
    assert "collect" not in said
    assert "show" in said


def test_the_program_is_named_as_it_can_be_called_from_anywhere(work: Path) -> None:
    link = work / "bin" / "batchmill"
    link.parent.mkdir()
    link.write_text(f"#!{sys.executable}\nfrom batchmill_cli.main import entry\nentry()\n")
    link.chmod(0o755)
    command = "run f.py:picky items.jsonl --fresh"
    by_path = lines_by_label(shell(f"bin/batchmill {command}", work).stderr)
    assert by_path["show"].startswith(f"{link} failures ")
    by_name = lines_by_label(shell(f"batchmill {command}", work, PATH=f"{link.parent}:{os.environ['PATH']}").stderr)
    assert by_name["show"].startswith("batchmill failures ")


def test_fresh_moves_no_checkpoint_aside_for_an_output_that_cannot_be_written(work: Path) -> None:
    batchmill("run", "f.py:double", "items.jsonl", "-c", "x.ckpt", cwd=work)
    kept = (work / "x.ckpt").read_bytes()
    for output in ("no/out.jsonl", "."):
        ended = batchmill("run", "f.py:double", "items.jsonl", "-c", "x.ckpt", "--fresh", "-o", output, cwd=work)
        assert (ended.returncode, ended.stderr.count("\n")) == (74, 1)
        assert f"cannot write {output}" in ended.stderr
    assert [path.name for path in work.glob("*.ckpt")] == ["x.ckpt"]
    assert (work / "x.ckpt").read_bytes() == kept


def test_quiet_says_nothing_of_failures_and_keeps_the_status(work: Path) -> None:
    ended = batchmill("run", "f.py:picky", "items.jsonl", "-q", cwd=work)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "")


def test_verbose_shows_the_report_the_workers_source_and_a_progress_line(work: Path) -> None:
    ended = batchmill("run", "f.py:double", "items.jsonl", "-v", cwd=work)
    assert ended.returncode == 0
    assert "batchmill: all 50 items done (exit 0)" in ended.stderr
    assert " workers (" in ended.stderr
    assert "50/50 100.0% | 0 failed" in ended.stderr
    assert "\r" not in ended.stderr
    assert "\x1b" not in ended.stderr


def test_json_is_one_object_on_stdout(work: Path) -> None:
    ended = batchmill("run", "f.py:picky", "items.jsonl", "--json", cwd=work)
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["exit_code"]) == (1, 1)
    assert (report["total"], report["completed"], report["failed"]) == (50, 45, 5)
    assert report["failures"][0]["type"] == "ValueError"
    assert report["success_rate"] == pytest.approx(0.9)


def test_results_stream_to_stdout_and_nothing_else_does(work: Path) -> None:
    ended = batchmill("run", "f.py:loud", "items.jsonl", "-o", "-", cwd=work)
    assert [json.loads(line)["result"] for line in ended.stdout.splitlines()] == list(range(50))
    assert "to stdout 7" in ended.stderr
    assert "to stderr 7" in ended.stderr


def test_arguments_reach_the_function_as_json_or_text(work: Path) -> None:
    batchmill("run", "f.py:seven", "items.jsonl", "-o", "o", "--set", "power=2", "--set", "mode=x y", cwd=work)
    assert json.loads((work / "o").read_text().splitlines()[7])["result"] == [49, "x y"]


def test_an_option_can_come_from_the_environment_and_the_command_line_wins(work: Path) -> None:
    env = {"BATCHMILL_RUN_CHECKPOINT": "env.ckpt", "BATCHMILL_RUN_OUTPUT": "env.jsonl"}
    assert batchmill("run", "f.py:double", "items.jsonl", "-o", "mine.jsonl", cwd=work, env=env).returncode == 0
    assert {path.name for path in work.iterdir()} >= {"env.ckpt", "mine.jsonl"}
    assert not (work / "env.jsonl").exists()


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["f.py:nothing", "items.jsonl"], 2, "nothing"),
        (["f.py", "items.jsonl"], 2, "double"),
        (["g.py:double", "items.jsonl"], 66, "g.py"),
        (["f.py:double", "missing.jsonl"], 66, "missing.jsonl"),
        (["f.py:double", "items.dat"], 2, "--format"),
        (["f.py:double", "items.jsonl", "-c", "no/such/dir/x.ckpt"], 73, "x.ckpt"),
        (["f.py:double", "-"], 2, "--format"),
        (["f.py:double", "-", "--format", "jsonl"], 2, "-c"),
        (["broken.py:f", "items.jsonl"], 78, "ZeroDivisionError"),
    ],
)
def test_what_cannot_start_is_named_before_any_item_runs(
    arguments: list[str], status: int, said: str, work: Path
) -> None:
    (work / "items.dat").write_text("1\n")
    (work / "broken.py").write_text("1 / 0\ndef f(item): pass\n")
    ended = batchmill("run", *arguments, cwd=work)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert ended.stderr.startswith("batchmill: ")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr or status == 78


def test_a_checkpoint_that_exists_is_not_touched_without_a_word(work: Path) -> None:
    assert batchmill("run", "f.py:double", "items.jsonl", cwd=work).returncode == 0
    (path,) = work.glob("*.ckpt")
    before = path.read_bytes()
    ended = batchmill("run", "f.py:double", "items.jsonl", cwd=work)
    assert ended.returncode == 73
    assert all(name in ended.stderr for name in ("--resume", "--fresh"))
    assert path.read_bytes() == before


def test_a_second_run_on_the_same_checkpoint_is_75_and_silent_with_q(work: Path) -> None:
    command = ["run", "f.py:gated", "items.jsonl", "-c", "x.ckpt", "-j", "1"]
    first = start([*PROGRAM, *command], cwd=work, env=environment(), stderr=subprocess.PIPE)
    try:
        until((work / "begun").exists, "the first to run")
        second = batchmill(*command, "--resume", cwd=work)
        assert second.returncode == 75
        assert str(first.pid) in second.stderr
        quiet = batchmill(*command, "--resume", "-q", cwd=work)
        assert (quiet.returncode, quiet.stderr) == (75, "")
    finally:
        (work / "go").touch()
        first.communicate(timeout=60)
    assert first.returncode == 0


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")])
def test_a_signal_drains_reports_and_is_what_the_process_dies_of(number: signal.Signals, name: str, work: Path) -> None:
    write_items(work / "items.jsonl", 2000)
    command = ["run", "f.py:slow", "items.jsonl", "-c", "x.ckpt"]
    run = start([*PROGRAM, *command], cwd=work, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for_outcomes(work / "x.ckpt")
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == -number
    assert f"ended by {name}" in said
    assert "continue" in said
    assert "Traceback" not in said
    done = json.loads(batchmill("status", "x.ckpt", "--json", cwd=work).stdout)
    assert done["live"] is None
    assert 0 < done["done"] < 2000


@pytest.mark.sampled(4)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("whom", ["group", "all"])
def test_signals_to_every_process_twice_at_once_drain_as_one(number: signal.Signals, whom: str, work: Path) -> None:
    write_items(work / "items.jsonl", 2000)
    run = start(
        [*PROGRAM, "run", "f.py:slow", "items.jsonl", "-c", "x.ckpt"], cwd=work, env=environment(),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_outcomes(work / "x.ckpt")
    born = processes(run.pid)
    for _ in range(2):
        if whom == "group":
            os.killpg(run.pid, number)
        else:
            send(number, born)
    _, said = run.communicate(timeout=60)
    assert run.returncode == -number
    assert "Traceback" not in said
    assert " 0 failed" in said
    until(lambda: not any(map(is_running, born)), "the end of all its processes")


def test_a_hangup_under_nohup_is_ignored(work: Path) -> None:
    command = ["nohup", *PROGRAM, "run", "f.py:gated", "items.jsonl", "-c", "x.ckpt"]
    run = start(
        command, cwd=work, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until((work / "begun").exists, "an item to run")
    assert run.poll() is None
    run.send_signal(signal.SIGHUP)
    (work / "go").touch()
    run.communicate(timeout=60)
    assert run.returncode == 0


def test_term_at_any_moment_of_the_start_is_what_it_dies_of(work: Path) -> None:
    for step in range(8):
        command = [*PROGRAM, "run", "f.py:slow", "items.jsonl", "-c", f"{step}.ckpt", "--set", "seconds=1"]
        run = start(command, cwd=work, env=environment(), stderr=subprocess.PIPE, text=True)
        time.sleep(0.05 + step * 0.06)
        run.terminate()
        _, said = run.communicate(timeout=60)
        assert (run.returncode, "Traceback" in said) == (-signal.SIGTERM, False), said


def test_a_reader_that_goes_away_ends_the_run_by_sigpipe_with_a_right_checkpoint(work: Path) -> None:
    write_items(work / "items.jsonl", 20000)
    ended = shell("$BM run f.py:double items.jsonl -o - -c x.ckpt | head -1; echo ${PIPESTATUS[0]}", work)
    first, status = ended.stdout.splitlines()
    assert json.loads(first) == {"id": "i0", "result": {"twice": 0}}
    assert status in ("141", "0")  # 0 where all of it fitted into the pipe before head went away
    assert "Traceback" not in ended.stderr
    assert batchmill("verify", "x.ckpt", cwd=work).returncode == 0


@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
def test_lost_output_is_never_a_success_and_the_checkpoint_is_right(where: str, work: Path) -> None:
    assert shell(f"$BM run f.py:double items.jsonl -o - -c x.ckpt {where}", work).returncode == 74
    assert shell(f"$BM run f.py:double items.jsonl --json -c y.ckpt {where}", work).returncode == 74
    assert batchmill("verify", "x.ckpt", "y.ckpt", cwd=work).returncode == 0
    assert len(batchmill("results", "y.ckpt", cwd=work).stdout.splitlines()) == 50


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_hurt_nobody(closed: str, work: Path) -> None:
    assert shell(f"$BM run f.py:loud items.jsonl -c x.ckpt {closed}", work).returncode == 0
    assert len(batchmill("results", "x.ckpt", cwd=work).stdout.splitlines()) == 50


def test_an_empty_environment_and_another_directory_are_enough(work: Path) -> None:
    command = [*PROGRAM, "run", str(work / "f.py:double"), str(work / "items.jsonl"), "-c", str(work / "x.ckpt")]
    ended = subprocess.run(["env", "-i", *command], cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_stdin_is_an_input(work: Path) -> None:
    ended = shell("head -3 items.jsonl | $BM run f.py:double - --format jsonl -c x.ckpt -o -", work)
    assert ended.returncode == 0
    assert len(ended.stdout.splitlines()) == 3


def test_a_closed_stdin_is_not_an_empty_input(work: Path) -> None:
    assert shell("$BM run f.py:double - --format jsonl -c x.ckpt <&-", work).returncode not in (0, 70)


def test_usr1_shows_one_whole_line(work: Path) -> None:
    write_items(work / "items.jsonl", 2000)
    run = start(
        [*PROGRAM, "run", "f.py:slow", "items.jsonl", "-c", "x.ckpt"], cwd=work, env=environment(),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stderr is not None
    try:
        wait_for_outcomes(work / "x.ckpt")
        run.send_signal(signal.SIGUSR1)
        assert "failed | " in run.stderr.readline()
    finally:
        run.terminate()
        run.communicate(timeout=60)


def test_ids_that_would_steer_a_terminal_are_escaped_in_the_report(work: Path) -> None:
    nasty = "=cmd()\x1b[2J\r\n\x00\u202e" + "x" * 100_000
    (work / "items.jsonl").write_text(json.dumps({"id": nasty, "n": 3}) + "\n")
    ended = batchmill("run", "f.py:picky", "items.jsonl", "-c", "x.ckpt", cwd=work)
    shown = batchmill("failures", "x.ckpt", cwd=work).stdout
    assert all(char == "\n" or char.isprintable() for char in ended.stderr + shown)
    assert json.loads(batchmill("failures", "x.ckpt", "--json", cwd=work).stdout)["id"] == nasty


def test_users_modules_with_our_names_are_theirs_and_ours_are_ours(work: Path) -> None:
    for name in ("engine", "cli", "model", "msgpack", "click"):
        (work / f"{name}.py").write_text("mine = True\n")
    (work / "f.py").write_text(
        "import engine, cli, model\ndef f(item): return engine.mine and cli.mine and model.mine\n"
    )
    ended = batchmill("run", "f.py:f", "items.jsonl", "-o", "o", cwd=work)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads((work / "o").read_text().splitlines()[0])["result"] is True


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_nothing_is_left_in_the_temporary_directory(method: str, work: Path) -> None:
    (work / "tmp").mkdir()
    command = ("run", "f.py:double", "items.jsonl", "--start-method", method)
    assert batchmill(*command, cwd=work, env={"TMPDIR": str(work / "tmp")}).returncode == 0
    assert os.listdir(work / "tmp") == []


def test_a_temporary_directory_with_a_long_name_is_no_hindrance(work: Path) -> None:
    long = work / ("long" * 25)
    long.mkdir()
    assert batchmill("run", "f.py:double", "items.jsonl", cwd=work, env={"TMPDIR": str(long)}).returncode == 0
    assert os.listdir(long) == []


def test_the_words_of_a_mail_are_quoted_for_a_shell(work: Path) -> None:
    (work / "it's here.jsonl").write_text('{"id": 1, "n": 3}\n')
    ended = batchmill("run", "f.py:picky", "it's here.jsonl", cwd=work)
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("continue")]
    assert "it's here.jsonl" in shlex.split(line)
