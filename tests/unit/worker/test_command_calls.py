"""Commands of many items: what each item has of one, which commands are made where there is no room, and scripts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from batchmill.errors import InvalidUsage, ItemFailed
from batchmill.worker.command import CommandSpec
from batchmill.worker.command_calls import CommandCalls
from batchmill.worker.command_runner import CommandRunner
from batchmill.worker.reply import Starved
from batchmill.worker.shell_items import ShellItems
from batchmill.worker.template import Grammar, Task, Template

TEXT = Grammar(with_fields=False)
NASTY = ["a'b $(touch pwned) `touch pwned`", '"; touch pwned; \n*', "", "-n"]
COUNTS = ("sh", "-c", 'for i; do printf "%s\\n" "$#"; done', "x")


def tasks(items: Sequence[str]) -> list[Task]:
    return [Task(item, item.encode(), number, item) for number, item in enumerate(items, 1)]


def calls(words: Sequence[str] = COUNTS, *, timeout: float | None = None, **asked: Any) -> CommandCalls:
    spec = CommandSpec(tuple(words), many=True, **asked).check("null")
    return CommandCalls(CommandRunner(spec, "null", os.environb, timeout, None), splits=spec.splits)


def told(outcomes: Sequence[dict[str, Any] | ItemFailed]) -> list[Any]:
    return [one.error.message if isinstance(one, ItemFailed) else one["stdout"] for one in outcomes]


def test_where_there_is_no_room_a_command_gets_fewer_items_and_one_too_long_fails_alone() -> None:
    found = told(list(calls()(tasks(["x" * 100_000] * 64))))
    assert set(found) < {f"{n}\n" for n in range(1, 33)}, "no command of 6 MB"
    assert len(found) == 64
    found = told(list(calls()(tasks(["a", "x" * 200_000, "b", "c"]))))
    assert (found[0], found[2:]) == ("1\n", ["2\n", "2\n"])
    assert "Argument list too long" in found[1]


def test_what_no_command_can_be_given_fails_alone_and_is_in_none() -> None:
    assert told(list(calls()(tasks(["a", "b\0", "c"])))) == [
        "2\n", "there is a NUL in it, and no program can be given one; use --stdin", "2\n",
    ]  # fmt: skip
    found = told(list(calls(("cat",), stdin=True)(tasks(["a", "b\nc", "d"]))))
    assert (found[0], found[2]) == ("a\n", "d\n")
    assert found[1].startswith("there is a line break in it, and --stdin gives items one a line")


def test_a_command_that_fails_raises_and_without_splits_fails_all_of_its_items() -> None:
    with pytest.raises(ItemFailed, match="exit status 1"):
        list(calls(("false",))(tasks("abc")))
    assert told(list(calls(("false",))(tasks("a")))) == ["exit status 1"]
    assert told(list(calls(("false",), splits=False)(tasks("abc")))) == ["exit status 1"] * 3
    slow = calls(("sh", "-c", "exec sleep 60"), splits=False, timeout=0.1)
    assert told(list(slow(tasks("ab")))) == ["timed out after 0.1 s"] * 2
    script = "echo 'sh: 1: Cannot fork' >&2; exit 2"
    with pytest.raises(Starved):
        list(calls((script,), shell=True)(tasks("ab")))


def test_output_is_shared_out_as_bytes_where_a_line_is_none_and_what_is_cut_is_not() -> None:
    assert told(list(calls(("printf", "\\377\\na"))(tasks("ab")))) == [b"\xff\n", "a"]
    assert told(list(calls(("printf", "a\\n\\nb\\n"))(tasks("abc")))) == ["a\n", "\n", "b\n"]
    first, second = calls(("printf", "aaa\\nbbb\\n"), keep=3)(tasks("ab"))
    assert isinstance(first, dict)
    assert (first["stdout"], first["stdout_dropped"], first["stdout_of"]) == ("aaa\nbb", 2, 2)
    assert isinstance(second, dict)
    assert (second["stdout"], second["stdout_of"], "stdout_dropped" in second) == ("", 2, False)


def test_a_word_with_a_placeholder_comes_once_an_item() -> None:
    words = Template(["cmd", "{}", "-w{%}", "x{.}y{#}", "{{}}"], Grammar(with_fields=False, worker=7))
    assert words.fill(*tasks(["a.b", "c"])) == [b"cmd", b"a.b", b"c", b"-w7", b"xay1", b"xcy2", b"{}"]


@pytest.mark.parametrize(
    "script",
    [
        "printf '<%s>' {}",
        "printf '<%s>' \"{}\"",
        "printf '<%s>'",
        "for i in {}; do printf '<%s>' \"$i\"; done",
        "for i; do printf '<%s>' \"$i\"; done",
        "printf '<%s>' \"$@\"; : '{print $1}'",
        "(printf '<%s>' {})",
        ": # it's\nprintf '<%s>' {} # {{}}",
    ],
)
def test_a_script_has_all_items_as_they_are(script: str, tmp_path: Path) -> None:
    words = ShellItems(script, TEXT, last=True).fill(*tasks(NASTY))
    done = subprocess.run(["sh", "-c", *words], capture_output=True, cwd=tmp_path, timeout=60, check=True)
    assert done.stdout.decode() == "".join(f"<{item}>" for item in NASTY)
    assert not list(tmp_path.iterdir())
    shown = ShellItems(script, TEXT, last=True).shown(*tasks(NASTY))
    assert subprocess.run(["sh", "-c", shown], capture_output=True, timeout=60, check=True).stdout == done.stdout


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("cat > {}", "no one file to redirect to"),
        ("x={}; echo $x", "no word of its own"),
        ("echo a{}", "no word of its own"),
        ('echo "a {}"', "no word of its own"),
        ("cat <<E\n{}\nE", "no word of its own"),
        ("echo $((1 + {} ))", "no word of its own"),
        ("mv {} {.}", "two lists"),
        ("awk '{}'", "inside single quotes"),
    ],
)
def test_a_script_that_cannot_have_many_items_is_refused_with_what_to_write(script: str, why: str) -> None:
    with pytest.raises(InvalidUsage, match=why) as raised:
        ShellItems(script, TEXT, last=True)
    assert 'for item in "$@"' in (raised.value.remedy or "")
