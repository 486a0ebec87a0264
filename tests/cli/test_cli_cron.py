"""Unattended runs: what each ending mails, the manual's crontab, systemd and SLURM files, and where cores come from."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_kit import PROGRAM, PROGRAM_THAT_SAYS_UP, batchmill, environment, shell
from fault_kit import PROGRAM as SCRIPT
from fault_kit import numbered, prepare, running, witnessed, write_items
from tree_kit import ROOT

MANUAL = (ROOT / "cli" / "README.md").read_text()
SECTIONS = {text.partition("\n")[0]: text for text in MANUAL.split("\n## ")}
SECTION = SECTIONS["In cron"]
RUN = "run f.py:{} items.jsonl -c x.ckpt --resume"

# Shell after `batchmill`, exit status, and the beginning of the mail's first line ("" where nothing is sent). On a slow
# machine a short time is up before the items were counted.
ENDINGS: list[tuple[str, int, str | tuple[str, ...]]] = [
    (RUN.format("work"), 0, ""),
    (RUN.format("picky"), 1, "batchmill: 2 of 10 items failed (exit 1) - "),
    (RUN.format("work") + " --limit 3", 3, "batchmill: stopped by --limit, 3 of 10 items done (exit 3) - "),
    (RUN.format("picky") + " --max-failures 1", 3, "batchmill: stopped by --max-failures, "),
    (
        RUN.format("stuck") + " --time-limit 0.8",
        3,
        tuple(f"batchmill: stopped by --time-limit, 0 of {total} items done (exit 3) - " for total in (10, 0)),
    ),
    (RUN.format("nothing"), 2, "batchmill: f.py has no "),
    (RUN.format("work") + " --grace soon", 2, "batchmill: --grace 'soon' is not a duration; "),
    ("run f.py:work torn.jsonl.gz -c x.ckpt", 65, "batchmill: torn.jsonl.gz"),
    ("run f.py:work none.jsonl -c x.ckpt", 66, "batchmill: none.jsonl"),
    (RUN.format("work") + " -c no/x.ckpt", 73, "batchmill: cannot create "),
    (RUN.format("work") + " -o no/out.jsonl", 74, "batchmill: cannot write no/out.jsonl: "),
    ("run broken.py:work items.jsonl -c x.ckpt", 78, "batchmill: importing broken.py raised ZeroDivisionError:"),
]
ROUTINE = (0, 1, 3, 75)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "broken.py").write_text("1 / 0\n\n\ndef work(item):\n    return item\n")
    (tmp_path / "torn.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x01\x02")
    return prepare(tmp_path, numbered(10))


def as_cron(command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a line as cron does: /bin/sh, hardly any environment, no input, output into a pipe."""
    env = {"HOME": str(home), "LOGNAME": "nobody", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        ["/bin/sh", "-c", command], env=env, cwd=home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("command", "status", "news"), ENDINGS, ids=[f"{end[1]}-{n}" for n, end in enumerate(ENDINGS)])
def test_each_ending_sends_one_useful_mail_or_none(
    command: str, status: int, news: str | tuple[str, ...], work: Path
) -> None:
    line = f"cd {work} && {SCRIPT} {command}"
    mail = as_cron(line, Path("/"))
    assert mail.returncode == status, mail.stdout
    assert mail.stdout.startswith(news) if news else mail.stdout == ""
    assert len(mail.stdout.splitlines()) <= 15
    assert "\r" not in mail.stdout
    assert "\x1b" not in mail.stdout
    if "x.ckpt on " in mail.stdout.partition("\n")[0]:
        assert f"(exit {status}) - {work}/x.ckpt on {os.uname().nodename}\n" in mail.stdout
    (work / "x.ckpt").unlink(missing_ok=True)
    quiet = as_cron(f"{line} -q", Path("/")).stdout
    assert quiet == "" if status in ROUTINE else quiet.startswith(news)


def test_a_mail_names_the_failures_by_type_and_the_ways_on(work: Path) -> None:
    write_items(work / "items.jsonl", numbered(100))
    lines = as_cron(f"cd {work} && {SCRIPT} {RUN.format('picky')}", Path("/")).stdout.splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "] == [
        *("batchmill:", "run", "items", "success", "machine", "errors", "continue", "show", "collect"),
    ]
    assert "errors    20x ValueError" in lines
    assert sum(line.lstrip().startswith("id ") for line in lines) == 5
    assert (
        as_cron(next(line for line in lines if line.startswith("show")).split(maxsplit=1)[1], Path("/")).returncode == 0
    )


@pytest.mark.sampled(4)
@pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")
@pytest.mark.parametrize("delay", [0.0, 0.06, 0.12, 0.18, 0.24, 0.3])
def test_usr1_at_any_moment_of_the_start_does_no_harm(delay: float, work: Path) -> None:
    up = (*PROGRAM_THAT_SAYS_UP, "run")
    with running("f.py:gated", "items.jsonl", "-c", "x.ckpt", cwd=work, command=up) as run:
        run.until(lambda: b"up" in run.said(), "the program to understand signals")
        time.sleep(delay)
        assert run.process.poll() is None
        run.signal(signal.SIGUSR1)
        (work / "go").touch()
        assert run.end().status == 0
    assert len(witnessed(work)) == 10


# The manual's files


def block(kind: str) -> str:
    """The one block of that kind in the manual's section."""
    (found,) = re.findall(rf"```{kind}\n(.*?)```", SECTION, re.DOTALL)
    return str(found)


def test_the_crontab_line_of_the_manual_works_and_succeeds_in_silence(work: Path) -> None:
    line = block("crontab").splitlines()[1]
    match = re.fullmatch(r"30 1 \* \* \*  (.*)", line)
    assert match is not None
    assert "%" not in line, "cron takes it for a line end"
    shutil.copy(work / "f.py", work / "score.py")
    command = match[1].replace("/srv/scores", str(work)).replace("/opt/venv/bin/batchmill", SCRIPT)
    for _ in range(2):
        mail = as_cron(command.replace("score.py:score", "score.py:work"), Path("/"))
        assert (mail.returncode, mail.stdout) == (0, "")
    assert len((work / "scores.jsonl").read_text().splitlines()) == 10


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_units_of_the_manual_are_valid(work: Path) -> None:
    for unit in block("ini").split("# /etc/systemd/system/")[1:]:
        name, _, body = unit.partition("\n")
        body = body.replace("/srv/scores", str(work)).replace("/opt/venv/bin/batchmill", SCRIPT)
        (work / name).write_text(body)
    units = sorted(str(path) for path in work.glob("scores.*"))
    assert len(units) == 2
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=60)
    ours = [line for line in done.stderr.splitlines() if "scores" in line]
    assert (done.returncode, ours) == (0, [])
    assert "SuccessExitStatus=3 75" in (work / "scores.service").read_text()


def test_the_cluster_script_of_the_manual_runs_its_shards(work: Path) -> None:
    script = block("bash").replace("/scratch/scores", str(work)).replace("score.py:score", "f.py:work")
    script = script.replace("$task/8", "$task/2")
    (work / "job.sh").write_text(script)
    assert shell("bash -n job.sh", work).returncode == 0
    path = f"{Path(SCRIPT).parent}:{os.environ['PATH']}"
    for task in ("1", "2"):
        ended = shell("bash job.sh", work, PATH=path, SLURM_ARRAY_TASK_ID=task, SLURM_CPUS_PER_TASK="1")
        assert (ended.returncode, ended.stderr) == (0, "")
    merge = re.search(r"`(batchmill results [^`]*)`", SECTION)
    assert merge is not None
    assert shell(merge[1], work, PATH=path).returncode == 0
    assert len((work / "scores.jsonl").read_text().splitlines()) == 10


def test_the_manual_says_what_every_exit_status_means_here() -> None:
    statuses = re.findall(r"\b\d+\b", SECTIONS["Exit codes"].split("\n\n")[1])
    table = SECTION[SECTION.index("| exit |") :]
    assert {code for code in statuses if int(code) < 100} - set(re.findall(r"\b\d+\b", table)) == set()


# Cores


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"PYTHON_CPU_COUNT": "1"}, "1 worker (PYTHON_CPU_COUNT)"),
        ({"SLURM_CPUS_PER_TASK": "1", "PYTHON_CPU_COUNT": "5000"}, "1 worker (SLURM_CPUS_PER_TASK)"),
    ],
)
def test_v_names_what_the_number_of_workers_comes_from(env: dict[str, str], said: str, work: Path) -> None:
    ended = batchmill(*RUN.format("work").split(), "-v", cwd=work, env=env)
    assert ended.stderr.splitlines()[0] == said


def test_libraries_of_a_worker_get_its_share_of_the_cores(work: Path) -> None:
    (work / "f.py").write_text(
        "import os\nSEEN = os.environ.get('OMP_NUM_THREADS')\n\n\ndef work(item):\n    return SEEN\n"
    )
    kept = {name: value for name, value in environment().items() if not name.endswith("_NUM_THREADS")}
    for env, expected in (({}, "1"), ({"OMP_NUM_THREADS": "7"}, "7")):
        command = [*PROGRAM, *RUN.format("work").split(), "--fresh-if-finished", "-j", "64%", "-o", "-"]
        done = subprocess.run(
            command, cwd=work, env={**kept, **env, "PYTHON_CPU_COUNT": "1"}, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.count(f'"result": "{expected}"') == 10, done.stderr
