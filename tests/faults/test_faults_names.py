"""Faults of new files: planted links, files of others, leftovers, two writers at once, and the loss of power."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from checkpoint_kit import QuickDisk
from cli_kit import LIMIT, environment, shell
from fault_kit import finish, lines_of, numbered, prepare, running, until, witnessed

from batchmill.errors import OutputLost
from batchmill.files import atomic_file
from batchmill.files.atomic_file import _temporary_name, open_draft, open_output, replacing
from batchmill.files.storage import Disk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc, strace and namespaces")
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="files of other users, and namespaces, need root")

# Everything that puts a whole file in a place, with the name that it is given.
COMMANDS = {
    "run -o": ("run f.py:work items.jsonl --no-checkpoint -o {}", "out.jsonl"),
    "run -o, a database": ("run f.py:work items.jsonl --no-checkpoint -o {} --output-format sqlite", "out.db"),
    "run -o, at exit 3": ("run f.py:work items.jsonl --no-checkpoint --limit 1 -o {}", "out.jsonl"),
    "exec -o": ("exec items.jsonl --no-checkpoint -o {} -- true", "out.jsonl"),
    "--metrics": ("run f.py:work items.jsonl --no-checkpoint --metrics {}", "x.prom"),
    "results": ("results done.ckpt -o {}", "out.jsonl"),
    "results, a database": ("results done.ckpt -o {} --output-format sqlite", "out.db"),
    "report": ("report done.ckpt -o {}", "page.html"),
    "bench -o": ("bench f.py:work items.jsonl --seconds 1 --sample 2 -j 1 -o {}", "found.json"),
    "salvage": ("verify done.ckpt --salvage", "done.salvaged.ckpt"),
    "a checkpoint": ("run f.py:work items.jsonl -c {}", "new.ckpt"),
}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory with items, a function and a finished checkpoint."""
    prepare(tmp_path, numbered(3))
    assert finish("f.py:work", "items.jsonl", "-c", "done.ckpt", cwd=tmp_path).status == 0
    (tmp_path / "witness").unlink()
    return tmp_path


def line_of(command: str) -> tuple[str, str]:
    """The command line of a row of COMMANDS, and the file it makes."""
    line, name = COMMANDS[command]
    if "metrics" in line:
        pytest.importorskip("prometheus_client", reason="--metrics needs the extra")
    made = f"{name}.partial" if "exit 3" in command else name
    return line.replace("{}", name), made


# Links and files of others


@pytest.mark.sampled(4)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_link_at_a_name_that_could_be_guessed_is_neither_followed_nor_removed(command: str, work: Path) -> None:
    line, name = line_of(command)
    (work / "victim").write_text("mine")
    plant = "; ".join(f"ln -s victim {at}" for at in (f"{name}.$$.tmp", f".{name}.$$.tmp", f"{name}.1.tmp"))
    ended = shell(f"{plant}; exec $BM {line}", work)
    assert ended.returncode in (0, 3), ended.stderr
    assert (work / name).is_file()
    assert (work / "victim").read_text() == "mine"
    assert len([path for path in work.iterdir() if path.is_symlink()]) == 3


@pytest.mark.sampled(4)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_user_calls_temporary_is_the_users(command: str, work: Path) -> None:
    line, name = line_of(command)
    own = {f"{name}.2023.tmp", f".{name}.tmp", f".{name}.{'0' * 24}.tmp", f"{name}.999999.tmp", f"{name}.partial.tmp"}
    for each in own:
        (work / each).write_text("mine")
    ended = shell(f"$BM {line}", work)
    assert ended.returncode in (0, 3), ended.stderr
    assert {path.name for path in work.glob("*.tmp*") if path.read_text() == "mine"} == own
    assert len(list(work.glob("*.tmp*"))) == len(own), "something of ours is left"


def test_temporary_names_are_random_hidden_and_private_to_no_one_else(tmp_path: Path) -> None:
    drafts = [open_draft(str(tmp_path / "out")) for _ in range(20)]
    names = {os.path.basename(draft.temporary or "") for draft in drafts}
    assert len(names) == 20
    assert all(re.fullmatch(r"\.out\.[0-9a-f]{24}\.tmp", name) for name in names)
    for draft in drafts:
        draft.close()
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    for name in ("n" * 255, "ü" * 127):
        with replacing(str(tmp_path / name)) as file:
            file.write(b"whole")
        assert (tmp_path / name).read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 2


@is_root
@pytest.mark.parametrize("command", ["run -o", "--metrics", "results", "report"])
def test_a_link_that_another_user_made_where_all_may_write_is_not_followed(command: str, work: Path) -> None:
    line, name = line_of(command)
    shared = work / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (work / "victim").write_text("mine")
    (shared / name).symlink_to("../victim")
    os.chown(shared / name, 65534, 65534, follow_symlinks=False)
    ended = shell(f"$BM {line.replace(name, f'shared/{name}')}", work)
    assert "another user's symbolic link" in ended.stderr
    assert ended.returncode == (0 if command == "--metrics" else 74)
    assert (work / "victim").read_text() == "mine"


@pytest.mark.sampled(4)
@pytest.mark.parametrize("command", ["run -o", "--metrics", "results", "report", "bench -o"])
def test_ones_own_link_stays_and_what_it_leads_to_is_replaced(command: str, work: Path) -> None:
    line, name = line_of(command)
    (work / "far").mkdir()
    (work / "far" / "target").write_text("old")
    (work / "near").symlink_to("far/target")
    (work / name).symlink_to("near")
    ended = shell(f"$BM {line}", work)
    assert ended.returncode in (0, 3)  # a slow machine's bench ends by its time
    assert "cannot" not in ended.stderr
    assert (work / name).is_symlink()
    assert (work / "near").is_symlink()
    assert (work / "far" / "target").read_text() != "old"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_file_that_is_replaced_keeps_its_mode(mode: int, work: Path) -> None:
    (work / "out.jsonl").touch()
    (work / "out.jsonl").chmod(mode)
    assert shell("$BM results done.ckpt -o out.jsonl", work).returncode == 0
    assert stat.S_IMODE((work / "out.jsonl").stat().st_mode) == mode


# What is written to as it is


@pytest.mark.sampled(4)
@pytest.mark.parametrize("output", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/fd/7"])
@pytest.mark.parametrize(
    "command", ["run f.py:work items.jsonl --no-checkpoint", "results done.ckpt", "report done.ckpt"]
)
def test_a_descriptor_goes_on_where_its_file_was(command: str, output: str, work: Path) -> None:
    to = "7>> log" if output.endswith("7") else ">> log"
    (work / "log").write_text("earlier\n")
    inode = (work / "log").stat().st_ino
    ended = shell(f"$BM {command} -o {output} {to}", work)
    assert ended.returncode == 0, ended.stderr
    assert (work / "log").read_text().startswith("earlier\n")
    assert len((work / "log").read_text().splitlines()) > 3
    assert (work / "log").stat().st_ino == inode


@pytest.mark.parametrize("output", ["/dev/fd/0", "/dev/stdin", "/dev/fd/5", "/dev/fd/77"])
def test_a_descriptor_that_nobody_gave_for_writing_is_refused(output: str, work: Path) -> None:
    (work / "read only").touch()
    ended = shell(f"$BM run f.py:work items.jsonl -c x.ckpt -o {output} < 'read only'", work)
    assert (ended.returncode, witnessed(work)) == (74, [])
    assert f"cannot write {output}" in ended.stderr


@pytest.mark.parametrize("where", ["there", "there/", "none/out", "f.py/out"])
def test_a_place_that_cannot_have_a_file_is_refused_before_anything_runs(where: str, work: Path) -> None:
    (work / "there").mkdir()
    before = sorted(work.rglob("*"))
    for line in ("run f.py:work items.jsonl -c x.ckpt", "results done.ckpt", "report done.ckpt"):
        ended = shell(f"$BM {line} -o {where}", work)
        assert (ended.returncode, ended.stderr.count("\n")) == (74, 1)
    assert sorted(work.rglob("*")) == before


# Leftovers and writers at once


def left_by_a_killed_writer(path: Path) -> Path:
    """A draft for `path` whose writer was killed."""
    code = "import os, sys; from batchmill.files.atomic_file import open_output as opened; "
    code += "opened(sys.argv[1]); os.kill(os.getpid(), 9)"
    ended = subprocess.run([sys.executable, "-c", code, path], timeout=LIMIT, check=False)
    assert ended.returncode == -signal.SIGKILL
    (left,) = path.parent.glob(f".{path.name[:50]}*.tmp")
    return left


@pytest.mark.sampled(4)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_killed_writer_left_goes_with_the_next(command: str, work: Path) -> None:
    line, name = line_of(command)
    left = left_by_a_killed_writer(work / name.removesuffix(".partial"))
    assert shell(f"$BM {line}", work).returncode in (0, 3)
    assert not left.exists()


def test_what_a_killed_run_left_of_its_checkpoint_goes_with_the_next(work: Path) -> None:
    line = "$BM run f.py:work items.jsonl -c x.ckpt"
    assert shell(line, work).returncode == 0
    left_by_a_killed_writer(work / "x.ckpt")
    os.link(work / "x.ckpt", work / _temporary_name("x.ckpt"))  # killed after it had its name
    others = {left_by_a_killed_writer(work / "y.ckpt"), work / f".x.ckpt.{'0' * 24}.tmp"}
    (work / f".x.ckpt.{'0' * 24}.tmp").touch()
    assert shell(f"{line} --resume", work).returncode == 0
    assert set(work.glob(".*.tmp")) == others


def test_what_is_being_written_stays_whoever_writes(tmp_path: Path) -> None:
    draft = open_draft(str(tmp_path / "out"))
    left = left_by_a_killed_writer(tmp_path / "other")
    with replacing(str(tmp_path / "out")) as file:
        file.write(b"theirs")
    assert os.path.exists(draft.temporary or "")
    os.write(draft.fd, b"ours")
    draft.publish()
    draft.close()
    assert (tmp_path / "out").read_bytes() == b"ours"
    assert left.exists(), "it was left of another name"


class Unlocking(QuickDisk):
    """A file system without locks."""

    def lock(self, fd: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_where_there_are_no_locks_nothing_is_removed_and_all_is_written(tmp_path: Path) -> None:
    left = left_by_a_killed_writer(tmp_path / "out")
    draft = open_draft(str(tmp_path / "out"), Unlocking())
    draft.publish()
    draft.close()
    assert sorted(tmp_path.iterdir()) == sorted([left, tmp_path / "out"])


def test_a_draft_that_was_swept_in_the_moment_before_it_was_locked_is_made_again(tmp_path: Path) -> None:
    class Swept(QuickDisk):
        times = 0

        def lock(self, fd: int) -> None:
            self.times += 1
            if self.times == 1:
                raise BlockingIOError  # somebody who sweeps has it
            if self.times == 2:
                os.unlink(os.readlink(f"/proc/self/fd/{fd}"))
            super().lock(fd)

    draft = open_draft(str(tmp_path / "out"), Swept())
    draft.publish()
    draft.close()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@is_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, of util-linux")
def test_two_containers_with_one_directory_never_take_each_others_file(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(2, waits=True))
    (tmp_path / "quick.jsonl").write_text('{"id": "quick", "n": 7}\n')
    inside = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-m", "batchmill", "run")
    probe = subprocess.run([*inside[:5], "true"], capture_output=True, timeout=LIMIT, check=False)
    if probe.returncode:
        pytest.skip(f"no namespaces here: {probe.stderr!r}")
    words = ("--no-checkpoint", "-o", "out")
    with running("f.py:work", "items.jsonl", *words, cwd=tmp_path, command=inside) as slow:
        slow.until(lambda: len(list(tmp_path.glob(".out.*.tmp"))) == 1 and witnessed(tmp_path), "its temporary file")
        for _ in range(2):
            assert finish("f.py:work", "quick.jsonl", *words, cwd=tmp_path, command=inside).status == 0
            assert [found["id"] for found in lines_of(tmp_path / "out")] == ["quick"]
        (tmp_path / "go").touch()
        assert slow.end().status == 0
    assert [found["id"] for found in lines_of(tmp_path / "out")] == ["i0", "i1"]
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("how", ["removed", "another file", "a link"])
def test_a_temporary_file_that_is_no_longer_ours_never_ends_in_success(how: str, tmp_path: Path) -> None:
    prepare(tmp_path, numbered(1, waits=True))
    (tmp_path / "out").write_text("old")
    (tmp_path / "victim").write_text("mine")
    with running("f.py:work", "items.jsonl", "-c", "x.ckpt", "-o", "out", cwd=tmp_path) as run:
        run.until(lambda: list(tmp_path.glob(".out.*.tmp")) and witnessed(tmp_path), "its temporary file")
        (left,) = tmp_path.glob(".out.*.tmp")
        left.unlink()
        if how == "another file":
            left.write_text("theirs")
        if how == "a link":
            left.symlink_to("victim")
        (tmp_path / "go").touch()
        ended = run.end()
    assert (ended.status, (tmp_path / "out").read_text()) == (74, "old")
    assert "took its temporary file" in ended.err
    assert os.path.lexists(left) == (how != "removed"), "what is not ours was removed"
    assert (tmp_path / "victim").read_text() == "mine"
    assert shell("$BM results x.ckpt -o out", tmp_path).returncode == 0


def test_a_place_that_another_took_in_the_same_moment_never_ends_in_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Contested(QuickDisk):
        def rename(self, old: str, new: str) -> None:
            super().rename(old, new)
            (tmp_path / "theirs").write_text("theirs")
            os.rename(tmp_path / "theirs", new)

    monkeypatch.setattr(atomic_file, "Disk", Contested)
    with pytest.raises(OutputLost, match="replaced it at the same moment"), replacing(str(tmp_path / "out")) as file:
        file.write(b"ours")
    assert (tmp_path / "out").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_many_writers_at_once_leave_one_whole_file_and_nothing_else(tmp_path: Path) -> None:
    lost: list[str] = []

    def write(number: int) -> None:
        for _ in range(10):
            try:
                with replacing(str(tmp_path / "out"), durable=False) as file:
                    file.write(b"%d" % number * 100_000)
            except OutputLost as error:
                lost.append(error.message)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert all("at the same moment" in message for message in lost)
    assert len(set((tmp_path / "out").read_bytes())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# Power


def calls(trace: str) -> Iterator[tuple[str, str]]:
    """The calls in a trace and what they were about, in order."""
    for line in trace.splitlines():
        found = re.match(r"\d+ +(\w+)\((.*?)(?:\) += 0$| <unfinished)", line)
        if found:
            yield found[1], found[2]


def position(found: Sequence[tuple[str, str]], after: int, is_it: Callable[[str, str], bool]) -> int:
    """Where the next such call is; AssertionError where there is none."""
    at = next((at for at, call in enumerate(found) if at > after and is_it(*call)), -1)
    assert at >= 0, found
    return at


@pytest.mark.sampled(4)
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_is_on_the_disk_before_it_has_its_name_and_that_is_before_the_end(command: str, work: Path) -> None:
    line, name = line_of(command)
    traced = ("fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat", "exit_group")
    trace = work.parent / "trace"
    words = ["strace", "-f", "-y", "-qq", "-o", str(trace), "-e", f"trace={','.join(traced)}"]
    program = [sys.executable, "-m", "batchmill", *line.split()]
    ended = subprocess.run(
        [*words, *program], cwd=work, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if "PTRACE" in ended.stderr:
        pytest.skip("ptrace is not allowed here")
    assert ended.returncode in (0, 3), ended.stderr
    found = list(calls(trace.read_text()))
    # Metrics and what bench writes after each cell are not synced as long as more comes: the last one counts.
    gives_name = re.compile(rf'["/]{re.escape(name)}"(, 0)?$')
    named = max(at for at, (call, about) in enumerate(found) if "sync" not in call and gives_name.search(about))
    draft = f".{name.removesuffix('.partial')}."
    synced = position(found, -1, lambda call, about: call in ("fsync", "fdatasync") and f"/{draft}" in about)
    assert synced < named
    position(found, named, lambda call, about: call == "fsync" and about.endswith(f"<{os.path.realpath(work)}>"))


def test_a_file_that_cannot_be_synced_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Disk):
        def sync(self, fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(atomic_file, "Disk", Failing)
    (tmp_path / "out").write_text("old")
    with pytest.raises(OutputLost, match="Input/output error"), replacing(str(tmp_path / "out")) as file:
        file.write(b"new")
    assert (tmp_path / "out").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("how", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_directory_that_cannot_be_synced_is_no_error(
    how: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> None:
        raise OSError(how, os.strerror(how))

    monkeypatch.setattr(os, "fsync", refuse)
    with replacing(str(tmp_path / "out")) as file:
        file.write(b"new")
    assert (tmp_path / "out").read_text() == "new"


@is_root
def test_a_directory_that_may_be_written_and_not_read_can_have_a_file(tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.mkdir()
    box.chmod(0o733)
    for folder in [tmp_path, *tmp_path.parents[:3]]:
        folder.chmod(folder.stat().st_mode | 0o011)
    code = (
        "import os, sys\n"
        "from batchmill.files.atomic_file import replacing\n"
        "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "with replacing(sys.argv[1]) as file: file.write(b'new')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, box / "out"], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [path.name for path in box.iterdir()] == ["out"]


def test_a_directory_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, disk: Disk | None = None, *, mode: int = 0) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(atomic_file, "open_draft", refuse)
    with pytest.raises(PermissionError, match=f"no permission to make files in {tmp_path}"):
        open_output(str(tmp_path / "out"))


def test_metrics_are_replaced_while_a_run_goes_on_and_at_its_end(work: Path) -> None:
    pytest.importorskip("prometheus_client", reason="--metrics needs the extra")
    write = Path(work / "items.jsonl").write_text
    write("".join(json.dumps(item) + "\n" for item in numbered(1, waits=True)))
    words = ("f.py:work", "items.jsonl", "--no-checkpoint", "--metrics", "x.prom", "--progress-interval", "1")
    with running(*words, cwd=work) as run:
        run.until((work / "x.prom").exists, "metrics")
        first = (work / "x.prom").stat().st_ino
        until(lambda: (work / "x.prom").stat().st_ino != first, "newer metrics")
        (work / "go").touch()
        assert run.end().status == 0
    assert re.search(r"^batchmill_running\{.*\} 0\.0$", (work / "x.prom").read_text(), re.MULTILINE)
