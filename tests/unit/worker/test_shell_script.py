"""Scripts for a shell: an item's text arrives unchanged, whatever it holds, and never becomes part of the script."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from shell_fuzz_kit import case

from batchmill.errors import InvalidUsage, ItemFailed
from batchmill.worker.shell_script import ShellScript
from batchmill.worker.template import Grammar, Task

TEXT = Grammar(with_fields=False)
NASTY = "a'b $(touch pwned) `touch pwned` \"; touch pwned; \n*${HOME}\\\\ #"
SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]
# "^" is where the value is to come.
SCRIPTS = {
    "printf %s {}": "^",
    "printf '%s' {}; : \"it's\"": "^",
    'printf %s "$(printf %s {})"': "^",
    "(printf %s {}) | cat": "^",
    'printf %s "<{}>"': "<^>",
    'printf %s "\\"{}\\""': '"^"',
    "printf %s 'a '{}' b'": "a ^ b",
    "cat <<E\n<{}>\nE": "<^>\n",
    "cat <<-E | cat\n\tit's {}\n\tE\nprintf %s {}": "it's ^\n^",
    "f() { printf %s {} $1; }; f x; set -- y; printf %s {} $1": "^x^y",
    "# it's {}\nprintf %s {} # it's": "^",
    'printf %s "$(printf %s "{}")"': "^",
    "case {} in a*) printf %s {};; esac": "^",
    'x={}; printf %s "$x"': "^",
    "printf %s \\\n{}": "^",
    "printf '%s' '`' {}": "`^",
}
REFUSED = {
    "printf '[%s]' '{}'": "inside single quotes",
    "printf %s `printf %s {}`": "inside backquotes",
    "cat <<'E'\n{}\nE": "a here-document whose end is quoted",
    "cat <<E\n$(echo {})\nE": "in a here-document, behind a command",
    'printf %s "${HOME:+{}}"': "inside ${...}",
    "echo \\{}": "behind a \\",
    "echo ${}": "behind a $",
    "echo $'a' {}": "behind $'",
    "echo $(case a in a) echo {};; esac)": "behind `case` inside parentheses",
}


def run(shell: str, words: list[bytes], at: Path) -> str:
    done = subprocess.run([shell, "-c", *words], capture_output=True, cwd=at, timeout=60, check=True)
    return done.stdout.decode()


@pytest.mark.parametrize("shell", SHELLS)
def test_an_item_arrives_as_it_is_in_any_quotes(shell: str, tmp_path: Path) -> None:
    for script, expected in SCRIPTS.items():
        words = ShellScript(script, TEXT).fill(Task(NASTY, b"", 1))
        assert run(shell, words, tmp_path) == expected.replace("^", NASTY), script
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", REFUSED)
def test_where_nothing_can_stand_or_shells_differ_it_is_refused(script: str) -> None:
    with pytest.raises(InvalidUsage) as raised:
        ShellScript(script, TEXT)
    assert REFUSED[script] in raised.value.message
    assert raised.value.remedy


@pytest.mark.parametrize(
    "script", ["echo $(( {} + 1 ))", 'echo $(("{}" + 1))', "[[ {} -eq 3 ]]", "a[{}]=1", "(( {} ))"]
)
def test_in_arithmetic_an_item_must_be_a_number_for_shells_read_values_there(script: str) -> None:
    compiled = ShellScript(script, TEXT)
    assert compiled.fill(Task("-41", b"", 1))[-1] == b"-41"
    with pytest.raises(ItemFailed, match="is no whole number"):
        compiled.fill(Task("a[$(touch pwned)]", b"", 1))


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_shown_as_one_could_type_it(shell: str, tmp_path: Path) -> None:
    script = 'printf "%s|" {} "<{}>"; cat <<E\n{}\nE'
    shown = ShellScript(script, TEXT).shown(Task(NASTY, b"", 1))
    assert run(shell, [shown.encode()], tmp_path) == f"{NASTY}|<{NASTY}>|{NASTY}\n"


def test_scripts_at_random_neither_change_an_item_nor_run_it(tmp_path: Path) -> None:
    """A sample of `bench/fuzz.py --target shell`."""
    assert [odd for number in range(60) for odd in case(number, 7, tmp_path)] == []
