"""Help, version and wrong names: what a newcomer meets first."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cli_kit import batchmill, environment

from batchmill import __version__
from batchmill_cli.group import COMMANDS
from batchmill_cli.options.click_options import Command, Option


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command(flag: str) -> None:
    ended = batchmill(flag)
    assert ended.returncode == 0
    assert all(f"  {name} " in ended.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_two_examples(name: str) -> None:
    ended = batchmill(name, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split("Examples:")[1].count(f"batchmill {name}") == 2
    assert "--version" in ended.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_and_the_command_say_the_same(name: str) -> None:
    from batchmill_cli.group import program

    command = program.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert (command.help or "").split("\n\n")[0].replace("\n", " ") == COMMANDS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    from batchmill_cli.group import program

    command = program.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert [p.name for p in command.params if p.param_type_name == "option" and not getattr(p, "help", "")] == []


def test_help_is_narrow_enough_for_a_terminal_and_groups_the_options() -> None:
    text = batchmill("run", "--help", env={"COLUMNS": "80"}).stdout
    assert max(map(len, text.splitlines())) <= 80
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "Everyday:"
    assert len(headings) >= 6


@pytest.mark.sampled(4)
@pytest.mark.parametrize("columns", [36, 80])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_the_terminal(name: str, columns: int) -> None:
    text = batchmill(*filter(None, [name]), "--help", env={"COLUMNS": str(columns)}).stdout
    prose, _, examples = text.partition("Examples:")
    assert max(map(len, prose.splitlines())) <= min(columns, 110)
    assert max(map(len, examples.splitlines())) <= 82  # to be copied, so never folded
    assert "[INPUT." not in text.replace("[INPUT...]", "") or re.search(r"\[INPUT\.(FUNCTION|PROGRAM)\.ckpt,", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_example_of_the_help_is_a_command_line_that_parses(name: str) -> None:
    from batchmill_cli.group import program

    command = program.get_command(None, name)  # type: ignore[arg-type]
    assert isinstance(command, Command)
    for example in command.examples:
        words = shlex.split(example.replace('eval "$(', "").replace(')"', ""), comments=True)
        end = min((words.index(mark) for mark in ("|", ">") if mark in words), default=len(words))
        assert words[:2] == ["batchmill", name]
        command.make_context(name, words[2:end])


@pytest.mark.parametrize("name", ["run", "exec"])
def test_help_names_the_options_that_the_environment_cannot_set_and_no_other(name: str) -> None:
    from batchmill_cli.group import program

    command = program.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    shut = {p.opts[-1] for p in command.params if isinstance(p, Option) and not p.allow_from_autoenv}
    text = " ".join(batchmill(name, "--help").stdout.partition("Everyday:")[0].split())
    said = text.partition("; but not ")[2]
    assert set(re.findall(r"--[a-z-]+", said)) == shut - {"--verbose", "--version", "--help"}
    assert " -v" in said


@pytest.mark.parametrize("arguments", [["--version"], *([name, "--version"] for name in COMMANDS)])
def test_the_version_is_everywhere(arguments: list[str]) -> None:
    ended = batchmill(*arguments)
    assert (ended.returncode, ended.stdout) == (0, f"batchmill {__version__}\n")


def test_without_arguments_the_help_goes_to_stderr_and_the_status_is_2() -> None:
    ended = batchmill()
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Commands:" in ended.stderr


@pytest.mark.parametrize(("wrong", "right"), [("rnu", "'run'"), ("result", "'results'"), ("verfiy", "'verify'")])
def test_an_unknown_command_is_answered_with_the_nearest(wrong: str, right: str) -> None:
    ended = batchmill(wrong, "x")
    assert ended.returncode == 2
    assert f"did you mean {right}" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_missing_argument_is_one_line_that_names_it() -> None:
    ended = batchmill("run")
    assert ended.returncode == 2
    assert "FUNCTION" in ended.stderr
    assert "`batchmill run --help`" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_help_imports_neither_the_engine_nor_its_packages() -> None:
    script = (
        "import sys; from batchmill_cli.group import program; program.get_help(program.make_context('b', ['run']));"
        "print([m for m in sys.modules if m.split('.')[0] in ('psutil', 'msgpack', 'multiprocessing', 'concurrent')"
        " or m.startswith('batchmill.') and m not in ('batchmill.importing', 'batchmill.version')])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[]\n"


def test_modules_of_the_working_directory_are_not_taken_for_ours(tmp_path: Path) -> None:
    for name in ("click", "msgpack", "psutil", "batchmill_cli", "engine", "cli", "model"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    for start in (["-m", "batchmill"], ["-P", "-m", "batchmill"]):
        ended = subprocess.run(
            [sys.executable, *start, "run", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
            env=environment(), check=False,
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (0, "")
