"""Ids, errors and names that attack a terminal: whatever a command prints there is inert."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Terminal, batchmill, shell

from batchmill.text import harmless
from batchmill_cli.terminal.quoting import quote

NASTY = "x\x1b[2J\x1b]0;gone\x07\r\b\x00\x9b31m\x7f\u202egnp\u2066\u200f\u2028\ufeffy"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
FUNCTIONS = f"""
NASTY = {NASTY!r}

class Odd(Exception):
    pass

Odd.__qualname__ = Odd.__name__ = "Odd" + NASTY.replace(chr(0), "")

def nasty(item):
    if item["n"] % 2:
        raise Odd(NASTY + "\\n" + NASTY)
    return NASTY
"""
RUN = ("run", "f.py:nasty", "items.jsonl", "-c", "x.ckpt")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "f.py").write_text(FUNCTIONS)
    items = [{"id": f"{NASTY}{n}", "n": n} for n in range(4)]
    raw = [json.dumps(item, ensure_ascii=n < 2) for n, item in enumerate(items)]
    bad = '{"id": "\x9b31m' + NASTY.replace("\x00", "")
    lone = '{"id": "\\udc9b\\ud800", "n": 1}'  # JSON can say what no encoding can
    text = "\n".join([*raw, lone, bad]) + "\n"
    (folder / "items.jsonl").write_bytes(text.encode() + b"\x9b2J\xff\n")
    assert batchmill(*RUN, "-q", cwd=folder).returncode == 1
    return folder


def shown(work: Path, *arguments: str, command: Sequence[str] | None = None, status: int = 0) -> str:
    more: dict[str, Any] = {} if command is None else {"command": command}
    terminal = Terminal(arguments, work, **more)
    assert terminal.end() == status, terminal.seen
    text = terminal.seen.decode("utf-8")
    return text.replace("\r\n", "\n")


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["status", "x.ckpt"], 0),
        (["failures", "x.ckpt"], 0),
        (["failures", "x.ckpt", "--json"], 0),
        (["failures", "x.ckpt", "--items"], 0),
        (["results", "x.ckpt"], 0),
        (["results", "x.ckpt", "--all"], 0),
        (["verify", "x.ckpt"], 0),
        (["try", "f.py:nasty", "items.jsonl", "--line", "1"], 0),
        (["try", "f.py:nasty", "items.jsonl", "--line", "2"], 1),
        (["try", "f.py:nasty", "items.jsonl", "--line", "6"], 2),
        (["try", "f.py:nasty", "items.jsonl", "--id", "no" + NASTY.replace("\x00", "")], 2),
        ([*RUN, "-n", "--resume"], 0),
        ([*RUN, "-c", "y.ckpt", "--fresh", "--progress", "none"], 1),
        ([*RUN, "-c", "z.ckpt", "-o", "-", "--fresh"], 1),
        (["run", "f.py:" + NASTY.replace("\x00", ""), "items.jsonl"], 2),
        (["run", "f.py:nasty", NASTY.replace("\x00", "") + ".jsonl"], 66),
        (["status", NASTY.replace("\x00", "")], 66),
        ([NASTY.replace("\x00", "")], 2),
    ],
)
def test_nothing_that_a_terminal_obeys_is_printed(arguments: list[str], status: int, work: Path) -> None:
    text = shown(work, *arguments, status=status)
    assert text
    assert UNSAFE.findall(text) == []


def test_in_a_pipe_the_data_is_as_it_was(work: Path) -> None:
    lines = batchmill("results", "x.ckpt", cwd=work).stdout.split("\n")[:-1]
    assert [json.loads(line)["result"] for line in lines] == [NASTY, NASTY]
    screen = [line for line in shown(work, "results", "x.ckpt").split("\n") if line]
    assert [json.loads(line) for line in screen] == [json.loads(line) for line in lines]


def test_commands_to_copy_are_harmless_to_look_at_and_do_what_they_say(work: Path) -> None:
    name = "od d\x1b[2J'\\\u202e.ckpt"
    text = shown(work, "run", "f.py:nasty", "items.jsonl", "-c", name, "--progress", "none", status=1)
    assert UNSAFE.findall(text) == []
    (show,) = re.findall(r"^show +\S+(?: -m batchmill)? (.*)$", text, re.MULTILINE)
    ended = shell(f"$BM {show}", work)
    assert (ended.returncode, "failed" in ended.stdout) == (0, True)


@pytest.mark.parametrize(
    "name", ["plain", "two words", "a'b", "a\x1bb", os.fsdecode(b"\xff\xfe x"), "\u202eé", "tab\t"]
)
def test_a_quoted_word_is_that_word_to_a_shell(name: str, tmp_path: Path) -> None:
    word = quote(name)
    assert UNSAFE.findall(word) == []
    ended = shell(f"printf %s {word} > out", tmp_path)
    assert ended.returncode == 0
    assert os.fsdecode((tmp_path / "out").read_bytes()) == name


def test_lines_stay_lines() -> None:
    assert harmless(b'{"a": "b"}\n\tc\n') == b'{"a": "b"}\n\tc\n'
    assert harmless("\x9b\u202e\r\n".encode() + b"\xff") == b"\\u009b\\u202e\\u000d\n\\xff"
