"""Faults around a run: inputs that stall or break, outputs nobody takes, full disks, modules that do not import."""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_kit import (
    CHECKPOINT,
    PROGRAM,
    committed,
    finish,
    lines_of,
    numbered,
    prepare,
    results_of,
    running,
    undisturbed,
    witnessed,
)

from batchmill import open_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sessions are read from /proc")


# Row 42


def test_row_42_commits_go_on_while_stdin_stalls(tmp_path: Path) -> None:
    expected = undisturbed(prepare(tmp_path, numbered(30)))
    lines = (tmp_path / "items.jsonl").read_bytes().splitlines(keepends=True)
    command = ("f.py:work", "-", "--format", "jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", "-j", "2")
    with running(*command, cwd=tmp_path, stdin=subprocess.PIPE) as run:
        pipe = run.process.stdin
        assert pipe is not None
        for part, count in ((b"".join(lines[:20]), 20), (b"".join(lines[20:29]) + lines[29][:10], 29)):
            pipe.write(part)
            pipe.flush()
            run.until(lambda: len(committed(tmp_path)) == count, f"{count} outcomes")  # noqa: B023
        pipe.write(lines[29][10:])
        pipe.close()
        ended = run.end()
        run.assert_gone()
    assert (ended.status, ended.err) == (0, "")
    assert (tmp_path / "out.jsonl").read_bytes() == expected


def test_row_42_a_signal_ends_a_run_whose_stdin_stalls(tmp_path: Path) -> None:
    prepare(tmp_path)
    command = ("f.py:work", "-", "--format", "jsonl", "-c", CHECKPOINT, "-j", "2")
    with running(*command, cwd=tmp_path, stdin=subprocess.PIPE) as run:
        assert run.process.stdin is not None
        run.process.stdin.write(b'{"id": "a", "n": 1}\n')
        run.process.stdin.flush()
        run.until(lambda: len(committed(tmp_path)) == 1, "an outcome")
        run.signal(signal.SIGTERM)
        assert run.end().status == -signal.SIGTERM
        run.assert_gone()


def test_row_42_a_named_pipe_is_waited_for_and_read_to_its_end(tmp_path: Path) -> None:
    expected = undisturbed(prepare(tmp_path, numbered(30)))
    os.mkfifo(tmp_path / "pipe.jsonl")
    command = ("f.py:work", "pipe.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", "-j", "2")
    with running("items.jsonl", "pipe.jsonl", command=("cp",), cwd=tmp_path) as writer:  # waits for a reader
        ended = finish(*command, cwd=tmp_path)
        assert writer.end().status == 0
    assert (ended.status, ended.err) == (0, "")
    assert (tmp_path / "out.jsonl").read_bytes() == expected


@pytest.mark.parametrize("name", ["pipe.jsonl", "pipe.csv", "pipe.jsonl.gz"])
@pytest.mark.parametrize(
    "command", [("run", "-c", "pipe.work.ckpt"), ("bench", "--seconds", "600")], ids=["run", "bench"]
)
def test_row_42_a_signal_ends_what_waits_for_a_named_pipe_that_nobody_writes_to(
    command: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    prepare(tmp_path)
    os.mkfifo(tmp_path / name)
    with running(*command, "f.py:work", name, command=(PROGRAM,), cwd=tmp_path) as run:
        run.until(lambda: (tmp_path / "pipe.work.ckpt").exists() or run.said(), "its beginning")
        run.signal(signal.SIGTERM)
        assert run.end().status == -signal.SIGTERM
        run.assert_gone()


SCRIPT = """
import batchmill, f

def items():
    for n in range(20):
        yield {"id": f"i{n}", "n": n}
    raise LookupError("the shelf ended")

if __name__ == "__main__":
    try:
        batchmill.run(f.work, items(), checkpoint="run.ckpt", workers=2)
    except LookupError as error:
        print(error)
"""


def test_row_42_a_generator_that_raises_keeps_what_came_before_it(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = finish(cwd=tmp_path, command=(sys.executable, "script.py"))
    assert (ended.status, ended.out, ended.err) == (0, "the shelf ended\n", "")
    assert set(committed(tmp_path)) == {f"i{n}" for n in range(20)}
    with open_checkpoint(tmp_path / CHECKPOINT) as results:
        assert not results.status().is_finished


@pytest.mark.parametrize("count", [50, 20000])
def test_row_42_a_gz_cut_short_is_65_and_what_came_before_is_committed(count: int, tmp_path: Path) -> None:
    prepare(tmp_path, [{"id": n, "n": n, "text": f"{n * 7919 % 10007:x}" * 20} for n in range(count)])
    whole = (tmp_path / "items.jsonl").read_bytes()
    packed = gzip.compress(whole)
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) * 3 // 4])
    readable = zlib.decompressobj(31).decompress((tmp_path / "cut.jsonl.gz").read_bytes())
    command = ("cut.jsonl.gz", "-c", CHECKPOINT, "-o", "out.jsonl", "-j", "2")
    ended = finish("f.py:picky", *command, "--resume", cwd=tmp_path)
    assert ended.status == 65
    assert "cut.jsonl.gz" in ended.err
    before = len(committed(tmp_path))
    assert before == readable.count(b"\n")
    assert not (tmp_path / "out.jsonl").exists()
    (tmp_path / "cut.jsonl.gz").write_bytes(packed)
    (tmp_path / "mended").touch()
    ended = finish("f.py:picky", *command, "--resume", cwd=tmp_path)
    assert ended.status == 0, ended.err
    assert [o["result"] for o in lines_of(tmp_path / "out.jsonl")] == list(range(count))


def test_row_42_a_damaged_gz_is_65_and_no_bug_of_ours(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3000))
    packed = bytearray(gzip.compress((tmp_path / "items.jsonl").read_bytes()))
    packed[len(packed) // 2 :] = bytes(len(packed) - len(packed) // 2)
    (tmp_path / "bad.jsonl.gz").write_bytes(packed)
    ended = finish("f.py:work", "bad.jsonl.gz", "-c", CHECKPOINT, "-j", "1", cwd=tmp_path)
    assert ended.status == 65, ended.err
    assert "bad.jsonl.gz" in ended.err


# Row 12, 14, 16


def at_most(size: int) -> Callable[[], None]:
    """A limit on the size of files, for a child process."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_row_12_a_full_disk_is_74_and_the_run_continues_when_there_is_room(tmp_path: Path) -> None:
    expected = undisturbed(prepare(tmp_path, numbered(100)), "big")
    command = ("f.py:big", "items.jsonl", "-c", CHECKPOINT, "-o", "out.jsonl", "-j", "2", "--chunk-size", "5")
    ended = finish(*command, cwd=tmp_path, before=at_most(64 << 10))
    assert ended.status == 74, ended.err
    assert CHECKPOINT in ended.err
    assert len(ended.err.splitlines()) == 1
    done, seen = set(committed(tmp_path)), len(witnessed(tmp_path))
    assert 0 < len(done) < 100
    assert f"({len(done)} outcomes of this run are committed)" in ended.err
    ended = finish(*command, "--resume", cwd=tmp_path)
    assert ended.status == 0, ended.err
    assert not set(witnessed(tmp_path)[seen:]) & done
    assert (tmp_path / "out.jsonl").read_bytes() == expected


def test_row_12_an_output_that_does_not_fit_is_74_and_nothing_is_lost(tmp_path: Path) -> None:
    expected = undisturbed(prepare(tmp_path, numbered(40, text="x" * 50)))
    size = (tmp_path / "undisturbed.ckpt").stat().st_size
    assert len(expected) < size
    command = ("f.py:big", "items.jsonl", "-c", CHECKPOINT, "-j", "1")
    assert finish(*command, cwd=tmp_path).status == 0
    ended = finish(*command, "-o", "out.jsonl", "--resume", cwd=tmp_path, before=at_most(60_000))
    assert ended.status == 74, ended.err
    assert not list(tmp_path.glob("out.jsonl*"))
    ended = finish(*command, "-o", "out.jsonl", "--resume", cwd=tmp_path)
    assert ended.status == 0, ended.err
    assert len(results_of(tmp_path / "out.jsonl")) == 40
    assert len(witnessed(tmp_path)) == 40


def can_inject() -> bool:
    """Whether strace is here and allowed to trace."""
    if shutil.which("strace") is None:
        return False
    probe = ["strace", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO", "true"]
    return subprocess.run(probe, capture_output=True, timeout=30, check=False).returncode == 0


@pytest.mark.skipif(not can_inject(), reason="needs strace")
def test_row_14_a_sync_that_fails_once_is_74_and_never_tried_again(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(200, sleep=0.03))
    inject = ("strace", "-f", "-o", "trace", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=2")
    command = ("f.py:work", "items.jsonl", "-c", CHECKPOINT, "-j", "2", "--checkpoint-interval", "0.1s")
    ended = finish(*command, cwd=tmp_path, command=(*inject, PROGRAM, "run"))
    assert ended.status == 74, ended.err
    assert CHECKPOINT in ended.err
    syncs = [line for line in (tmp_path / "trace").read_text().splitlines() if "fdatasync" in line]
    failed = next(number for number, line in enumerate(syncs) if "EIO" in line)
    assert syncs[failed + 1 :] == []
    done, seen = set(committed(tmp_path)), len(witnessed(tmp_path))
    ended = finish(*command, "--resume", "--limit", "20", cwd=tmp_path)
    assert ended.status == 3
    assert not set(witnessed(tmp_path)[seen:]) & done


def without_override() -> None:
    """Let a child of root be refused like anybody else: without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    if os.geteuid() == 0:
        for capability in (1, 2):
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


@pytest.mark.parametrize("where", ["locked", "missing", "items.jsonl"])
def test_row_16_a_checkpoint_that_cannot_be_created_is_73_before_any_item(where: str, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3))
    (tmp_path / "locked").mkdir(mode=0o555)
    ended = finish("f.py:work", "items.jsonl", "-c", f"{where}/x.ckpt", cwd=tmp_path, before=without_override)
    assert ended.status == 73
    assert len(ended.err.splitlines()) == 1
    assert f"{where}/x.ckpt" in ended.err
    assert witnessed(tmp_path) == []


def test_row_16_a_checkpoint_that_may_not_be_opened_is_73_and_untouched(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3))
    assert finish("f.py:work", "items.jsonl", "-c", CHECKPOINT, cwd=tmp_path).status == 0
    path = tmp_path / CHECKPOINT
    before = path.read_bytes()
    path.chmod(0o400)
    command = ("f.py:work", "items.jsonl", "-c", CHECKPOINT, "--resume")
    ended = finish(*command, cwd=tmp_path, before=without_override)
    assert ended.status == 73
    assert CHECKPOINT in ended.err
    assert path.read_bytes() == before


@pytest.mark.parametrize("where", ["locked", "missing"])
def test_row_16_an_output_that_cannot_be_created_is_74_before_any_item(where: str, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3))
    (tmp_path / "locked").mkdir(mode=0o555)
    command = ("f.py:work", "items.jsonl", "-c", CHECKPOINT, "-o", f"{where}/out.jsonl")
    ended = finish(*command, cwd=tmp_path, before=without_override)
    assert ended.status == 74
    assert f"{where}/out.jsonl" in ended.err
    assert witnessed(tmp_path) == []


# Row 36


def shell(script: str) -> tuple[str, ...]:
    """The words that run a script in which $BM is `batchmill run` with what all these tests share."""
    everywhere = f"{PROGRAM} run f.py:work items.jsonl -c {CHECKPOINT} --resume -j 2"
    return ("bash", "-c", f"BM={everywhere!r}; {script}")


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("$BM -o - | head -1 >first; exit ${PIPESTATUS[0]}", 141),
        ("$BM -o - >/dev/full", 74),
        ("$BM -o - >&-", 74),
        ("$BM -o out.jsonl <&-", 0),
        ("$BM -o out.jsonl <&- >&- 2>&-", 0),
    ],
)
def test_row_36_lost_output_is_no_success_and_the_checkpoint_goes_on(script: str, status: int, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(3000, text="x" * 100))
    assert finish(cwd=tmp_path, command=shell(script)).status == status
    done, seen = set(committed(tmp_path)), len(witnessed(tmp_path))
    assert done
    ended = finish(cwd=tmp_path, command=shell("$BM -o out.jsonl"))
    assert (ended.status, ended.err) == (0, "")
    assert not set(witnessed(tmp_path)[seen:]) & done
    assert [line["result"]["n"] for line in lines_of(tmp_path / "out.jsonl")] == list(range(3000))


@pytest.mark.parametrize("command", ["run", "bench", "try"])
def test_row_36_a_working_directory_that_is_gone_is_one_line(command: str, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(2))
    gone = 'mkdir gone && cd gone && rmdir ../gone && "$0" "$1" "$2/f.py:work" "$2/items.jsonl"'
    ended = finish("-c", gone, PROGRAM, command, str(tmp_path), command=("bash",), cwd=tmp_path)
    assert (ended.status, ended.err) == (66, "batchmill: the working directory is gone; cd to one that is there\n")


def test_row_36_an_empty_environment_in_another_directory_will_do(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(5))
    (tmp_path / "g.py").write_text("def plain(item):\n    return item['n']\n")
    at = str(tmp_path)
    words = ("env", "-i", PROGRAM, "run", f"{at}/g.py:plain", f"{at}/items.jsonl")
    ended = finish("-c", f"{at}/{CHECKPOINT}", "-o", f"{at}/out.jsonl", cwd=Path("/"), command=words)
    assert (ended.status, ended.err) == (0, "")
    assert results_of(tmp_path / "out.jsonl") == {f"i{n}": n for n in range(5)}


# Row 30

BROKEN = {
    "raises": ("raise LookupError('no such shelf')", "no such shelf"),
    "does not parse": ("def (:", "syntax error"),
    "exits": ("import sys; sys.exit(3)", "SystemExit"),
    "ends the process": ("os._exit(4)", "status 4"),
    "is killed": ("os.kill(os.getpid(), 9)", "SIGKILL"),
    "hangs": ("import time; time.sleep(1000)", "--start-timeout"),
    "hangs in C": ("import ctypes; ctypes.PyDLL(None).sleep(1000)", "--start-timeout"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_row_30_a_module_that_cannot_be_imported_is_one_clear_error(what: str, tmp_path: Path) -> None:
    line, named = BROKEN[what]
    prepare(tmp_path, numbered(5))
    (tmp_path / "g.py").write_text(f"import os, f\nf.note('import')\n{line}\n\ndef work(item):\n    return 1\n")
    patience = "2s" if "hangs" in what else "1m"
    command = ("g.py:work", "items.jsonl", "-c", CHECKPOINT, "-j", "2", "--start-timeout", patience)
    ended = finish(*command, cwd=tmp_path)
    assert ended.status == 78, ended.err
    assert named in ended.err
    assert ended.err.count("batchmill: ") == 1
    assert len(ended.err.splitlines()) <= 7
    assert len(witnessed(tmp_path)) <= 1, "no second try"
    assert committed(tmp_path) == {}


@pytest.mark.parametrize("init", ["fails", "leaves"])
def test_row_30_an_initializer_that_fails_is_one_clear_error(init: str, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(5))
    (tmp_path / "g.py").write_text(
        "import sys\nfrom f import note, work\n"
        "def fails():\n    note('init')\n    1 / 0\n"
        "def leaves():\n    note('init')\n    sys.exit(3)\n"
    )
    command = ("g.py:work", "items.jsonl", "-c", CHECKPOINT, "-j", "2", "--init", init)
    ended = finish(*command, cwd=tmp_path)
    assert ended.status == 78
    assert init in ended.err
    assert ended.err.count("batchmill: ") == 1
    assert witnessed(tmp_path) == ["init"]


def test_row_30_what_an_import_prints_is_no_output(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(5))
    (tmp_path / "g.py").write_text("import os\nprint('hello')\nos.system('echo child')\nfrom f import work\n")
    ended = finish("g.py:work", "items.jsonl", "-c", CHECKPOINT, "-o", "-", "-j", "1", cwd=tmp_path)
    assert ended.status == 0
    assert [json.loads(line)["id"] for line in ended.out.splitlines()] == [f"i{n}" for n in range(5)]
    assert {"hello", "child"} <= set(ended.err.split())
