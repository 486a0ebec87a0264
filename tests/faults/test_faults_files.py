"""Faults of names: every file that a command reads, given as one that it writes, under every spelling."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from cli_kit import LIMIT, PROGRAM, environment, shell

import batchmill
from batchmill.errors import InvalidUsage
from batchmill.files.conflicts import Access, OwnFiles, Use, check

pytest.importorskip("prometheus_client", reason="--metrics needs the extra")

SOURCE = """
import json, os, helper


def ident(item):
    return item


def begin():
    pass


def path(item, table=None):
    return os.path.basename(item) + "\\n"
"""
ITEMS = "".join(f'{{"id": {n}}}\n' for n in range(5))

# What is read, by its role: the words that come before the options which write, and the file.
RUN = ("run", "f.py:ident", "in.jsonl", "--no-checkpoint")
READ: dict[str, tuple[tuple[str, ...], str]] = {
    "INPUT": (RUN, "in.jsonl"),
    "second INPUT": (("run", "f.py:ident", "in.jsonl", "more.jsonl", "--no-checkpoint"), "more.jsonl"),
    "FUNCTION": (RUN, "f.py"),
    "FUNCTION's module": (("run", "f:ident", "in.jsonl", "--no-checkpoint"), "f.py"),
    "a package": (("run", "p.g:ident", "in.jsonl", "--no-checkpoint"), "p/__init__.py"),
    "an imported module": (RUN, "helper.py"),
    "--init": ((*RUN, "--init", "i.py:begin"), "i.py"),
    "--preload": ((*RUN, "--preload", "helper"), "helper.py"),
    "--set": (("run", "f.py:path", "in.txt", "--no-checkpoint", "--set", "table=table.csv"), "table.csv"),
    "COMMAND's program": (("exec", "in.txt", "--no-checkpoint", "--", "./tool.sh"), "tool.sh"),
    "COMMAND's script": (("exec", "in.txt", "--no-checkpoint", "--", "sh", "tool.sh"), "tool.sh"),
    "COMMAND's option": (("exec", "in.txt", "--no-checkpoint", "--", "./tool.sh", "--table=table.csv"), "table.csv"),
    "--shell": (("exec", "in.txt", "--no-checkpoint", "--shell", "grep -f table.csv {} || true"), "table.csv"),
    "a listed file": (("run", "f.py:path", "in.txt", "more.jsonl", "--format", "files", "--no-checkpoint"), "in.txt"),
    "bench's INPUT": (("bench", "f.py:ident", "in.jsonl", "--seconds", "1"), "in.jsonl"),
    "bench's FUNCTION": (("bench", "f.py:ident", "in.jsonl", "--seconds", "1"), "f.py"),
    "bench's script": (("bench", "--exec", "in.txt", "--seconds", "1", "--", "sh", "tool.sh"), "tool.sh"),
    "results": (("results", "done.ckpt"), "done.ckpt"),
    "the second of results": (("results", "other.ckpt", "done.ckpt"), "done.ckpt"),
    "report": (("report", "done.ckpt"), "done.ckpt"),
}
# What is written: the options, with the file's name in place of {}; and the suffix that it must have.
WRITTEN: dict[str, tuple[tuple[str, ...], str]] = {
    "-o": (("-o", "{}"), ""),
    "-o's partial file": (("-o", "{stem}"), ".partial"),
    "the checkpoint": (("-c", "{}"), ""),
    "a checkpoint moved aside": (("-c", "{stem}.ckpt", "--fresh"), ".1.ckpt"),
    "--metrics": (("--metrics", "{}"), ".prom"),
    "--worker-output": (("--worker-output", "{}"), ""),
    "bench -o": (("-o", "{}"), ".md"),
    "--plot": (("--plot", "{}"), ".svg"),
}
OF_RUN = ("-o", "-o's partial file", "the checkpoint", "a checkpoint moved aside", "--metrics", "--worker-output")
OF_EXEC = tuple(name for name in OF_RUN if name != "--worker-output")  # a command's prints are its results


def written_by(words: Sequence[str]) -> tuple[str, ...]:
    """The names in WRITTEN that a command line can have."""
    return {
        "run": OF_RUN,
        "exec": OF_EXEC,
        "bench": ("bench -o", "--plot"),
        "results": ("-o",),
        "report": ("-o",),
    }[words[0]]


def pairs() -> Iterator[tuple[str, str, str]]:
    """All that is read with all that the same command writes (but for prints into what only a purpose unknown to us
    names), by one kind of link or the other; -o by both.
    """
    links = cycle(("hard link", "symbolic link"))
    for read, (words, _) in READ.items():
        for written in written_by(words):
            if not (read == "--set" and written == "--worker-output"):
                for _ in range(2 if written == "-o" else 1):
                    yield read, written, next(links)


def spellings() -> Iterator[tuple[str, str]]:
    """All spellings of an INPUT's directory and of a function's; of all others one, in turn."""
    some = ("{}", "./{}", "../here/{}", "{here}/{}", "sub/../{}", "//{here}/{}", "dir/{}")
    one = cycle(some)
    for read, (words, _) in READ.items():
        if words[0] != "bench":  # which writes to names of its own suffixes only
            yield from ((read, spelling) for spelling in (some if read in ("INPUT", "FUNCTION") else (next(one),)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all that commands read, to be copied."""
    folder = tmp_path_factory.mktemp("files")
    texts = {"f.py": SOURCE, "helper.py": "", "i.py": "def begin(): pass\n", "in.jsonl": ITEMS, "more.jsonl": ITEMS}
    texts |= {"in.txt": "in.jsonl\n", "table.csv": "a,b\n", "tool.sh": "#!/bin/sh\ntrue\n"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "tool.sh").chmod(0o755)
    (folder / "p").mkdir()
    (folder / "p" / "__init__.py").write_text("")
    (folder / "p" / "g.py").write_text(SOURCE)
    for name in ("done", "other"):
        assert run(("run", "f.py:ident", "in.jsonl", "-c", f"{name}.ckpt"), folder).returncode == 0
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path) -> Path:
    """A directory of its own like the prepared one."""
    place = tmp_path / "here"
    subprocess.run(["cp", "-a", prepared, place], check=True, timeout=LIMIT)
    return place


def run(words: Sequence[str], cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The program, to its end."""
    return subprocess.run(
        [*PROGRAM, *words], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False,
        **({"stdin": subprocess.DEVNULL} | options),
    )  # fmt: skip


def state(folder: Path) -> dict[str, tuple[bytes | str, int]]:
    """Every file below a directory: what is in it, and its inode. What Python compiled is nobody's."""
    found: dict[str, tuple[bytes | str, int]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            status = path.stat(follow_symlinks=False)
            found[str(path.relative_to(folder))] = (path.read_bytes(), status.st_ino)
    return found


def with_option(words: Sequence[str], option: Sequence[str], name: str, suffix: str) -> tuple[str, ...]:
    """The command line with an option that writes to `name`, which ends in the suffix."""
    stem = name.removesuffix(suffix) if suffix else name
    given = tuple(word.replace("{stem}", stem).replace("{}", name) for word in option)
    kept = [word for word in words if not ("-c" in option and word == "--no-checkpoint")]
    at = next((kept.index(word) for word in ("--shell", "--") if word in kept), len(kept))
    return (*kept[:at], *given, *kept[at:])


def assert_refused(ended: subprocess.CompletedProcess[str]) -> None:
    """Exit 2 and one line that names two roles."""
    assert ended.returncode == 2, ended.stderr
    assert "is the same file as" in ended.stderr
    assert ended.stderr.count("batchmill: ") == 1


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("read", "written", "link"), list(pairs()))
def test_no_command_writes_what_it_reads(read: str, written: str, link: str, place: Path) -> None:
    words, source = READ[read]
    option, suffix = WRITTEN[written]
    name = f"link{suffix}"
    if link == "hard link":
        os.link(place / source, place / name)
    else:
        (place / name).symlink_to(source)
    before = state(place)
    assert_refused(run(with_option(words, option, name, suffix), place))
    assert state(place) == before


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("read", "spelling"), list(spellings()))
def test_no_spelling_of_a_directory_hides_what_is_read(read: str, spelling: str, place: Path) -> None:
    (place / "sub").mkdir()
    (place / "dir").symlink_to("../here")
    words, source = READ[read]
    name = spelling.replace("{here}", str(place)).replace("{}", source)
    before = state(place)
    assert_refused(run(with_option(words, ("-o", "{}"), name, ""), place))
    assert state(place) == before


@pytest.mark.sampled(4)
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("read", [name for name, (words, _) in READ.items() if words[0] != "bench"])
def test_no_descriptor_hides_what_is_read(read: str, place: Path) -> None:
    words, source = READ[read]
    fd = os.open(place / source, os.O_WRONLY | os.O_APPEND)
    before = state(place)
    try:
        for where in ("/dev/fd", "/proc/self/fd")[: 2 if read == "INPUT" else 1]:
            assert_refused(run(with_option(words, ("-o", "{}"), f"{where}/{fd}", ""), place, pass_fds=(fd,)))
    finally:
        os.close(fd)
    assert state(place) == before


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    "options",
    [
        ("-o", "a", "-c", "a"),
        ("-o", "a", "-c", "a.partial"),
        ("-o", "a.prom", "--metrics", "a.prom"),
        ("-o", "a", "--metrics", "a.partial"),
        ("-o", "a", "--worker-output", "a"),
        ("-c", "a.prom", "--metrics", "a.prom"),
        ("-c", "a.ckpt", "-o", "a.1.ckpt"),
        ("-c", "a.ckpt", "-o", "a.1.ckpt", "--fresh"),
        ("-c", "a.ckpt", "-o", "a.3.ckpt", "--fresh", "--keep", "3"),
        ("-c", "a.ckpt", "-o", "a.damaged"),
        ("-c", "a.ckpt", "--worker-output", "a.rescued"),
        ("--worker-output", "a.prom", "--metrics", "a.prom"),
        ("-o", "sub/../a", "-c", "dir/a"),
        ("-o", "hanging", "-c", "a"),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_no_two_files_that_a_run_writes_are_one(options: tuple[str, ...], there: bool, place: Path) -> None:
    (place / "sub").mkdir()
    (place / "dir").symlink_to(".")
    (place / "hanging").symlink_to("dir/a")
    if there:
        (place / "a").write_text("mine")
        (place / "a.prom").write_text("mine")
    before = state(place)
    given = options if "-c" in options else (*options, "--no-checkpoint")
    assert_refused(run(("run", "f.py:ident", "in.jsonl", *given), place))
    assert state(place) == before


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "line",
    [
        "run f.py:ident - --format jsonl -c x.ckpt -o in.jsonl < in.jsonl",
        "run f.py:ident - --format jsonl -c in.jsonl < in.jsonl",
        "run f.py:ident /dev/stdin --format jsonl -c x.ckpt -o in.jsonl < in.jsonl",
        "run f.py:ident in.jsonl -c x.ckpt -o - >> in.jsonl",
        "run f.py:ident in.jsonl -c x.ckpt -o /dev/stdout >> in.jsonl",
        "run f.py:ident in.jsonl -c x.ckpt --json >> f.py",
        "run f.py:ident in.jsonl -c x.ckpt --dry-run >> in.jsonl",
        "run f.py:ident in.jsonl -c x.ckpt -o more.jsonl >> more.jsonl",
        "run f.py:ident in.jsonl -c more.jsonl -o - >> more.jsonl",
        "exec -c x.ckpt -- cat < in.txt >> in.txt",
        "exec in.txt -c x.ckpt -- cat >> in.txt",
        "try f.py:ident in.jsonl >> in.jsonl",
        "try f.py:ident in.jsonl >> f.py",
        "bench f.py:ident in.jsonl --seconds 1 >> in.jsonl",
        "demo -c f.ckpt >> f.ckpt",
        "status done.ckpt >> done.ckpt",
        "status other.ckpt done.ckpt --json >> done.ckpt",
        "failures done.ckpt --items >> done.ckpt",
        "results done.ckpt >> done.ckpt",
        "report done.ckpt -o - >> done.ckpt",
        "report done.ckpt -o /dev/stdout >> done.ckpt",
        "verify done.ckpt >> done.ckpt",
        "verify done.ckpt --salvage >> done.salvaged.ckpt",
        "verify done.ckpt done.salvaged.ckpt --salvage --json >> done.salvaged.ckpt",
    ],
)
def test_nothing_that_is_read_or_written_is_stdin_or_stdout_too(line: str, place: Path) -> None:
    for name in ("f.ckpt", "done.salvaged.ckpt"):
        (place / name).touch()
    before = state(place)
    assert_refused(shell(f"$BM {line}", place))
    assert state(place) == before


@pytest.mark.parametrize(
    "line",
    [
        "run f.py:ident in.jsonl in.jsonl -c x.ckpt -o out.jsonl > log 2>&1",
        "run f.py:ident in.jsonl -c x.ckpt -o - > out.jsonl 2>&1",
        "run f.py:ident in.jsonl -c x.ckpt -o /dev/stdout --worker-output log > out.jsonl 2>> log",
        "run f.py:ident in.jsonl -c x.ckpt -o /dev/null > /dev/null 2>&1 < /dev/null",
        "exec in.txt -c x.ckpt -- sh -c 'true {} >> log' log >> log 2>&1",
        "run f.py:ident more.jsonl -c more.ckpt -o more.out",
    ],
)
def test_what_does_not_hurt_is_not_refused(line: str, place: Path) -> None:
    ended = shell(f"$BM {line}", place)
    assert ended.returncode == 0, ended.stderr + "".join(p.read_text() for p in place.glob("log"))


def test_a_fifo_is_not_read_and_written_at_once(place: Path) -> None:
    os.mkfifo(place / "fifo")
    assert_refused(run(("run", "f.py:ident", "fifo", "--format", "jsonl", "--no-checkpoint", "-o", "fifo"), place))


def test_python_is_refused_as_the_command_line_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    before = state(place)
    os.link("in.jsonl", "link")
    with pytest.raises(InvalidUsage, match="is the same file as INPUT"):
        batchmill.run("f.py:ident", "in.jsonl", output="link")
    with pytest.raises(InvalidUsage, match="is the same file as FUNCTION"):
        batchmill.run("f.py:ident", [1], output="./f.py")
    with pytest.raises(InvalidUsage, match="is the same file as the checkpoint"):
        batchmill.run("f.py:ident", [1], output="x", checkpoint="x")
    with pytest.raises(InvalidUsage, match="is the same file as kwargs table"):
        batchmill.run("f.py:path", ["a"], kwargs={"table": Path("table.csv")}, output="table.csv")
    with open("in.txt") as items, pytest.raises(InvalidUsage, match="is the same file as the file of items"):
        batchmill.run("f.py:path", items, output="in.txt")
    with open("done.ckpt", "r+b") as out, pytest.raises(InvalidUsage, match="is the same file as the checkpoint"):
        batchmill.write_results(["done.ckpt"], out)
    os.unlink("link")
    assert state(place) == before


# A run's own files are never its items


def ids(place: Path, *options: str) -> list[str]:
    """What is an item, by the names that a run with these options gives."""
    ended = run(("run", "../f.py:path", "--format", "files", "--output-format", "raw", *options), place / "d")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.fixture
def folder(place: Path) -> Path:
    """A directory of items, with links to what runs there will make."""
    folder = place / "d"
    (folder / "below").mkdir(parents=True)
    for name in ("a", "b", "below/c"):
        (folder / name).write_text(name)
    for name in ("run.ckpt", "out", "out.partial", "x.prom", "prints"):
        (folder / "below" / f"link to {name}").symlink_to(f"../{name}")
    return folder


@pytest.mark.sampled(4)
@pytest.mark.parametrize("spelling", [".", "../d", "./below/..", "{}", "../link"])
def test_a_runs_own_files_are_never_its_items(place: Path, folder: Path, spelling: str) -> None:
    (place / "link").symlink_to("d")
    name = spelling.replace("{}", str(folder))
    options = ("-c", "run.ckpt", "--metrics", "x.prom", "--worker-output", "prints")
    command = ("run", "../f.py:path", name, "--format", "files", "-o", "out", "--output-format", "raw", *options)
    for more in ((), ("--limit", "1"), (), (), ("--fresh",), ("--fresh", "--keep", "2")):
        resume = () if "--fresh" in more else ("--resume",)
        ended = run((*command, *resume, *more), folder)
        assert ended.returncode in (0, 3), ended.stderr
        (folder / "prints").touch()
        if not (folder / "below" / "hard").exists():
            os.link(folder / "run.ckpt", folder / "below" / "hard")
        assert sorted((folder / "out").read_text().split("\n")) in (["", "a", "b", "c"], [""])
    assert sorted((folder / "out").read_text().split()) == ["a", "b", "c"]
    assert {path.name for path in folder.iterdir()} >= {"run.ckpt", "run.1.ckpt", "run.2.ckpt", "out", "x.prom"}


def test_a_command_on_a_directory_leaves_the_runs_own_files_alone(place: Path, folder: Path) -> None:
    line = "$BM exec . --format files -o out --metrics x.prom --resume -- sh -c 'echo mine >> {}' > log 2> errors"
    for _ in range(2):
        assert shell(line, folder).returncode == 0
    assert {path.read_text() for path in (folder / "a", folder / "b", folder / "below" / "c")} == {
        "amine\n",
        "bmine\n",
        "below/cmine\n",
    }
    assert (folder / "log").read_text() == ""
    assert (folder / "errors").read_text() == (
        "batchmill: 3 changed items kept their old result; --rerun-changed runs them again\n"
        "batchmill: 2 entries that are no files were left out (broken links, pipes, sockets)\n"
    )
    assert run(("verify", "d.sh.ckpt"), folder).returncode == 0


def test_a_command_told_of_the_runs_own_files_never_gets_them(place: Path, folder: Path) -> None:
    command = "$BM exec --format null -c run.ckpt -o out --resume -- sh -c 'echo mine >> {}'"
    assert shell(f"printf ./a | {command}", folder).returncode == 0
    before = (folder / "run.ckpt").read_bytes()
    ended = shell(f"printf './a\\0run.ckpt\\0./out\\0below/link to run.ckpt\\0b' | {command}", folder)
    named = re.findall(r"id (.*) \(line \d+\): it is a file that this run writes itself", ended.stderr)
    assert ended.returncode == 1
    assert named == ["run.ckpt", "./out", "below/link to run.ckpt"]
    assert [(folder / name).read_text() for name in "ab"] == ["amine\n", "bmine\n"]
    assert (folder / "run.ckpt").read_bytes().startswith(before)
    assert run(("verify", "run.ckpt"), folder).returncode == 0


def test_what_other_programs_left_in_a_directory_stays_an_item(place: Path, folder: Path) -> None:
    for name in ("out.2023.tmp", "other.ckpt", "x.partial"):
        (folder / name).write_text("mine")
    found = ids(place, ".", "-o", "-", "-c", "run.ckpt")
    assert sorted(found) == ["a", "b", "c", "other.ckpt", "out.2023.tmp", "x.partial"]


# The table itself


def test_uses_hurt_each_other_whichever_comes_first(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    for one in Access:
        for other in Access:
            uses = [Use("one", path, one), Use("other", path, other)]
            assert uses[0].hurts(uses[1]) == uses[1].hurts(uses[0])


def test_every_use_is_held_against_every_other(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    uses = [Use("a", path, Access.NAMED), Use("b", path, Access.READ), Use("c", path, Access.APPENDED)]
    with pytest.raises(InvalidUsage, match=r"c .* is the same file as b "):
        check(uses)


def test_names_that_cannot_be_files_are_no_conflict(tmp_path: Path) -> None:
    check([Use("a", "\0", Access.READ), Use("b", "\0", Access.WRITTEN)])
    check([Use("a", "x" * 5000, Access.READ), Use("b", str(tmp_path), Access.WRITTEN)])
    check([Use("a", 999, Access.READ), Use("b", 999, Access.WRITTEN)])


def test_own_files_are_known_by_place_before_they_are_there(tmp_path: Path) -> None:
    own = OwnFiles([Use("-o", str(tmp_path / "out"), Access.WRITTEN)])
    assert own.has(f"{tmp_path}/./out")
    (tmp_path / "out").touch()
    os.link(tmp_path / "out", tmp_path / "other")
    assert own.has(f"{tmp_path}/./out")
    os.unlink(tmp_path / "out")
    os.symlink("out", tmp_path / "link")
    assert own.has(str(tmp_path / "link"))
    assert not any(map(own.has, (str(tmp_path), str(tmp_path / "nothing"), str(tmp_path / "other"))))
    os.unlink(tmp_path / "link")
    os.rename(tmp_path / "other", tmp_path / "out")
    (tmp_path / "mine").touch()
    with os.scandir(tmp_path) as entries:
        assert [entry.name for entry in own.left_out(str(tmp_path), entries)] == ["mine"]
