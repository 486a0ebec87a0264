"""Placeholders: an item in, the words of a command out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from batchmill.errors import ItemFailed
from batchmill.worker.template import Task, Template, exposed_placeholder

PATHS = [
    "a",
    "a.b",
    "a.b.c",
    "/a",
    "/a/b.c",
    "d/e.f/g",
    ".x",
    "d/.x",
    "a/b/",
    "/",
    "x y.z",
    "./a.tar.gz",
    "//a",
    "a//b",
]
PLACES = ["{}", "{.}", "{/}", "{//}", "{/.}"]


def filled(*words: str, item: object = "", raw: bytes = b"", number: int = 1, fields: bool = True) -> list[str]:
    template = Template(words, with_fields=fields)
    return [word.decode() for word in template.fill(Task(item, raw, number))]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("d/a.tar.gz", ["d/a.tar.gz", "d/a.tar", "a.tar.gz", "d", "a.tar"]),
        ("a", ["a", "a", "a", ".", "a"]),
        ("/a", ["/a", "/a", "a", "/", "a"]),
        ("d.e/f", ["d.e/f", "d.e/f", "f", "d.e", "f"]),
        (".x", [".x", "", ".x", ".", ""]),
    ],
)
def test_parts_of_a_path(path: str, expected: list[str]) -> None:
    assert filled(*PLACES, item=path) == expected


@pytest.mark.skipif(shutil.which("parallel") is None, reason="GNU parallel is not installed")
def test_parts_of_a_path_are_those_of_gnu_parallel() -> None:
    lines = "".join(f"{path}\n" for path in PATHS)
    command = ["parallel", "--will-cite", "-k", "-j1", "printf '%s\\t' {} {.} {/} {//} {/.}; echo"]
    theirs = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60, check=True).stdout
    assert ["\t".join([*filled(*PLACES, item=path), ""]) for path in PATHS] == theirs.splitlines()


def test_several_in_a_word_and_words_without_any() -> None:
    assert filled("out/{#}-{/.}.gz", "-9", item="d/a.b", number=7) == ["out/7-a.gz", "-9"]


def test_an_item_that_is_no_text_is_its_record() -> None:
    assert filled("{}", item={"n": 1}, raw=b'{"n":  1}') == ['{"n":  1}']


def test_fields_are_text_as_it_is_and_anything_else_as_json() -> None:
    item = {"name": "a b", "n": 1, "none": None, "list": [1, "ü"], "x.y": 2}
    words = ["{name}", "{n}", "{none}", "{list}", "{x.y}"]
    assert filled(*words, item=item) == ["a b", "1", "null", '[1, "ü"]', "2"]


@pytest.mark.parametrize("item", [{"b": 1}, "text", 5, [1], None])
def test_an_item_without_the_field_fails(item: object) -> None:
    with pytest.raises(ItemFailed, match="no field 'a'"):
        filled("{a}", item=item)


@pytest.mark.parametrize("word", ["{print $1}", "${HOME}", "{ }", "{1}", "{}}"[:1], "a{b,c}"])
def test_what_only_looks_like_a_placeholder_stays(word: str) -> None:
    assert not Template([word], with_fields=True).has_placeholder
    assert filled(word) == [word]


def test_items_that_are_text_have_no_fields() -> None:
    assert filled("{name}", "{}", item="x", fields=False) == ["{name}", "x"]


def test_for_a_shell_values_are_quoted() -> None:
    nasty = "a'b $(touch x) \"; rm *\n`y`\\"
    (script,) = Template(["printf %s {}"], with_fields=False, quoted=True).fill(Task(nasty, b"", 1))
    shown = subprocess.run(["/bin/sh", "-c", script], capture_output=True, timeout=60, check=True).stdout
    assert shown.decode() == nasty


NASTY = "a'b $(touch pwned) `touch pwned` \"; touch pwned; \n\\"


@pytest.mark.parametrize(
    "script",
    [
        'printf "[%s]" "{}"',
        "printf '[%s]' '{}'",
        "printf %s `printf %s {}`",
        "cat <<E\n{}\nE",
        'printf %s "${HOME:+{}}"',
        'echo "a\\" {}"',
        "echo \\{}",
        "echo \"$(printf '{}')\"",
    ],
)
def test_where_a_value_would_be_code_the_placeholder_is_refused(script: str) -> None:
    assert exposed_placeholder(script, with_fields=False) == "{}"


@pytest.mark.parametrize(
    "script",
    [
        "printf %s {}",
        "printf '%s' {}; echo \"it's\"",
        'printf %s "$(printf %s {})"',
        "(printf %s {}) | cat",
        'echo \\" >/dev/null; printf %s {}',
        "echo '`' >/dev/null; printf %s {}",
    ],
)
def test_elsewhere_a_value_is_text_whatever_it_holds(script: str, tmp_path: Path) -> None:
    assert exposed_placeholder(script, with_fields=False) is None
    (filled,) = Template([script], with_fields=False, quoted=True).fill(Task(NASTY, b"", 1))
    shown = subprocess.run(
        ["/bin/sh", "-c", filled], capture_output=True, cwd=tmp_path, timeout=60, check=True
    ).stdout.decode()
    assert NASTY.rstrip("\n") in shown
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_not_utf_8_come_through() -> None:
    raw = b"caf\xe9"
    assert Template(["{}"], with_fields=False).fill(Task(raw.decode("utf-8", "surrogateescape"), raw, 1)) == [raw]
