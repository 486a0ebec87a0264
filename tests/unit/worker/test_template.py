"""Placeholders: an item in, the words of a command out."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from batchmill.errors import InvalidUsage, ItemFailed
from batchmill.worker.template import Grammar, Task, Template

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


TEXT, FIELDS = Grammar(with_fields=False), Grammar(with_fields=True)


def filled(*words: str, item: object = "", raw: bytes = b"", number: int = 1, grammar: Grammar = FIELDS) -> list[str]:
    template = Template(words, grammar)
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


@pytest.mark.parametrize(
    "word", ["{print $1}", "${HOME}", "{ }", "[0-9]{4}", "{}"[:1], "a{b,c}", "{1..3}", "{{.Name}}"]
)
def test_what_only_looks_like_a_placeholder_stays(word: str) -> None:
    assert not Template([word], FIELDS).has_placeholder
    assert filled(word) == [word]


def test_items_that_are_text_have_no_fields() -> None:
    assert filled("{name}", "{}", item="x", grammar=TEXT) == ["{name}", "x"]


def test_braces_can_be_written_by_doubling_them() -> None:
    words = ["{{}}", "{{n}}", "{{{}}}", "{{1}}", '{"a":{"b":{}}}', "{{json .}}"]
    assert filled(*words, item={"n": 1}, raw=b"x") == ["{}", "{n}", "{{}}", "{1}", '{"a":{"b":x}}', "{{json .}}"]


def test_any_column_can_be_named_and_nothing_else_that_looks_like_a_name() -> None:
    columns = ["Sample ID", "n", "a{b}", "%"]
    grammar = Grammar(with_fields=True, columns=columns)
    item = {"Sample ID": "a b", "n": "2", "a{b}": "c", "%": "d"}
    assert filled("{Sample ID}-{n}", '{"a{b}"}', '{"%"}', "${n}", "{print $1}", item=item, grammar=grammar) == [
        "a b-2", "c", "d", "${n}", "{print $1}"]  # fmt: skip
    with pytest.raises(InvalidUsage, match="names no column") as raised:
        Template(["{N}"], grammar)
    assert "{{N}} is the text" in raised.value.remedy
    assert filled('{"Sample ID"}', item={"Sample ID": 5}) == ["5"]


@pytest.mark.parametrize("word", ["{1}", "x/{2}", "{-1}", "{1.}", "{2/}", "{..}", "{+/}", "{##}", "{= s/x/y/ =}"])
def test_placeholders_of_gnu_parallel_that_are_none_here_are_refused(word: str) -> None:
    with pytest.raises(InvalidUsage, match="is no placeholder of batchmill") as raised:
        Template(["-o", word], TEXT)
    assert "{{" in raised.value.remedy


def test_the_number_of_the_worker() -> None:
    assert filled("{%}", grammar=Grammar(with_fields=False, worker=3)) == ["3"]


def test_a_nul_is_in_no_argument() -> None:
    with pytest.raises(ItemFailed, match="NUL"):
        filled("{n}", item={"n": "a\0b"})


def test_names_that_are_not_utf_8_come_through() -> None:
    raw = b"caf\xe9"
    assert Template(["{}"], TEXT).fill(Task(raw.decode("utf-8", "surrogateescape"), raw, 1)) == [raw]
