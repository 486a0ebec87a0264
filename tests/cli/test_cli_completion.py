"""`batchmill completion`: the Tab key in real shells, each in a pty."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_kit import Terminal, batchmill, environment

BIN = Path(sys.executable).parent
DUMP = b"\x18\x01"  # Ctrl-X Ctrl-A, bound to: write the line to the file "line"
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        'bind -x \'"\\C-x\\C-a": printf %s "$READLINE_LINE" > .line && mv .line line\'\n',
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -U compinit; compinit -u -D\n"
        "dump() { print -rn -- $BUFFER > .line && mv .line line; print -n . > /dev/tty }\n"
        "zle -N dump; bindkey '^X^A' dump\n",
    ),
    "fish": (
        ["fish", "--private", "--no-config", "-i"],
        "bind \\cx\\ca 'commandline | string collect > .line && mv .line line'\n",
    ),
}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    source = "raise SystemExit('imported')\ndef score(item): pass\ndef second(item): pass\ndef _own(): pass\n"
    (tmp_path / "pkg").mkdir()
    for name in ("score.py", "my own.py", "pkg/tasks.py"):
        (tmp_path / name).write_text(source)
    for name in ("items.jsonl", "night.ckpt", "other.txt"):
        (tmp_path / name).touch()
    return tmp_path


class Shell:
    """An interactive shell that has been taught batchmill's words."""

    def __init__(self, name: str, work: Path) -> None:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
        command, setup = SHELLS[name]
        script = batchmill("completion", name).stdout
        (work / "setup").write_text(setup + script + "echo re''ady\n")
        self.work = work
        self.terminal = Terminal([], work, command=command, PATH=f"{BIN}:/usr/bin:/bin", HOME=str(work), PS1="$ ")
        self.terminal.press(b"source ./setup\r")
        self.terminal.read_until(lambda seen: b"ready" in seen)

    def complete(self, line: str) -> str:
        """What the line is after Tab."""
        found = self.work / "line"
        found.unlink(missing_ok=True)
        self.terminal.press(b"\x15" + line.encode() + b"\t" + DUMP)
        self.terminal.read_until(lambda _: found.exists())
        return found.read_text().rstrip("\n")

    def end(self) -> None:
        self.terminal.press(b"\x15exit\r")
        self.terminal.end()


RUN = "batchmill run score.py:score items.jsonl"
LINES = [
    ("batchmill stat", "batchmill status "),
    ("batchmill run sc", "batchmill run score.py:"),
    ("batchmill run score.py:sc", "batchmill run score.py:score "),
    ("batchmill run pkg/tasks.py:se", "batchmill run pkg/tasks.py:second "),
    ("batchmill run pkg.t", "batchmill run pkg.tasks:"),
    ("batchmill run pkg.tasks:se", "batchmill run pkg.tasks:second "),
    ("batchmill run my", "batchmill run my\\ own.py:"),
    ("batchmill run score.py:score it", "batchmill run score.py:score items.jsonl "),
    (f"{RUN} --form", f"{RUN} --format "),
    (f"{RUN} --format js", f"{RUN} --format jsonl "),
    (f"{RUN} --format=js", f"{RUN} --format=jsonl "),
    (f"{RUN} -c ni", f"{RUN} -c night.ckpt "),
    (f"{RUN} --output=oth", f"{RUN} --output=other.txt "),
    ("batchmill status ni", "batchmill status night.ckpt "),
    ("batchmill results night.ckpt ./ni", "batchmill results night.ckpt ./night.ckpt "),
    ("batchmill completion z", "batchmill completion zsh "),
]  # fmt: skip


@pytest.mark.parametrize("name", SHELLS)
def test_tab_completes(name: str, work: Path) -> None:
    shell = Shell(name, work)
    try:
        assert [shell.complete(line) for line, _ in LINES] == [completed for _, completed in LINES]
    finally:
        shell.end()


def test_completing_imports_neither_the_parts_of_a_run_nor_user_code(work: Path) -> None:
    script = (
        "import sys; from batchmill_cli.main import _complete;"
        "sys.argv[1:] = ['batchmill run score.py:s', 's']; _complete('bash');"
        "print([m for m in sys.modules if m in ('psutil', 'multiprocessing', 'score')"
        " or m.startswith('concurrent')], file=sys.stderr)"
    )
    env = environment(_BATCHMILL_COMPLETE="bash")
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=work, env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "word\tscore\t\nword\tsecond\t\n"
    assert ended.stderr == "[]\n"


@pytest.mark.parametrize("line", ["batchmill run no.py:", "batchmill run -j ", "batchmill run --zz"])
def test_where_there_is_nothing_to_complete_nothing_is_said(line: str, work: Path) -> None:
    ended = batchmill(line, "", cwd=work, env={"_BATCHMILL_COMPLETE": "bash"})
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "", "")


@pytest.mark.parametrize("name", SHELLS)
def test_the_script_is_printed_for_each_shell_and_no_other(name: str) -> None:
    ended = batchmill("completion", name)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "_BATCHMILL_COMPLETE" in ended.stdout
    wrong = batchmill("completion", "f" + name)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert name in wrong.stderr
