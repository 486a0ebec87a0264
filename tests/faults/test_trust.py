"""What the README says under "Trust": nothing of a checkpoint is executed, and who can read what a run leaves."""

from __future__ import annotations

import os
import pickle
import stat
from pathlib import Path
from typing import Any

import msgpack
from cli_kit import batchmill, shell
from fuzz_kit import Frame, file_of, frames_of

from batchmill.checkpoint.frames import FrameType
from batchmill.codec.outcomes import pack_map, pack_outcomes, read_head
from batchmill.codec.pack import pack_value

FUNCTION = "def f(item, token=None):\n    print(item)\n    return 1 // item['n']\n"


class _Trap:
    """Whoever unpickles it leaves a file."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self._path,)


def planted(value: Any, trap: bytes) -> Any:
    """The same with the trap for every text and all bytes in it."""
    if isinstance(value, dict):
        return {key: planted(item, trap) for key, item in value.items()}
    if isinstance(value, list):
        return [planted(item, trap) for item in value]
    return trap if isinstance(value, bytes) else trap.decode("latin-1") if isinstance(value, str) else value


def with_trap(frame: Frame, trap: bytes) -> Frame:
    if frame.type == FrameType.OUTCOMES:
        one = read_head(frame.payload)
        failure = (1, "ValueError", trap.decode("latin-1"), trap.decode("latin-1"), trap)
        made = pack_outcomes(
            one, [trap.decode("latin-1"), 5], [pack_value(trap), pack_value(None)], [failure], [0.0] * 2, [0] * 2
        )
        return Frame(frame.type, made)
    values = msgpack.unpackb(frame.payload, strict_map_key=False)
    kept = {key: values[key] for key in ("format", "id_rule", "function", "places") if key in values}
    extra = {"set": {"token": trap, "k": trap}, "secrets": {"salt": trap[:64], "digest": trap[:2]}}
    more = extra if frame.type == FrameType.META else {"blob": trap}
    return Frame(frame.type, pack_map({**planted(values, trap), **kept, **more}))


def test_nothing_in_a_checkpoint_is_unpickled_whoever_reads_it(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(FUNCTION)
    (tmp_path / "a.jsonl").write_text('{"id": 1, "n": 1}\n{"id": 5, "n": 0}\n')
    run = ("run", "f.py:f", "a.jsonl", "-c", "x.ckpt", "--resume", "--with-item", "--chunk-size", "2", "-j", "1")
    assert batchmill(*run, cwd=tmp_path).returncode == 1
    path, sprung = tmp_path / "x.ckpt", tmp_path / "sprung"
    trap = pickle.dumps(_Trap(sprung))
    path.write_bytes(file_of([with_trap(frame, trap) for frame in frames_of(path)]))
    read = shell(
        'for words in status "status --json" "results --all" failures "failures --items" verify "report -o p.html"; do'
        ' $BM $words x.ckpt > out || { echo "$words: $?"; cat out; }; done',
        tmp_path,
    )
    assert (read.stdout, read.stderr.count("batchmill: ")) == ("", 0), read.stderr
    resumed = batchmill(*run, "--accept-changes", "--retries", "1", "--retry-delay", "0", cwd=tmp_path)
    assert (resumed.returncode, "Traceback" in resumed.stderr) == (1, False), resumed.stderr
    assert not sprung.exists()
    pickle.loads(trap)
    assert sprung.exists()


def test_a_checkpoint_is_for_its_owner_and_all_else_follows_the_umask(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(FUNCTION)
    (tmp_path / "a.jsonl").write_text('{"id": 1, "n": 1}\n{"id": 5, "n": 0}\n')
    run = "$BM run f.py:f a.jsonl -c x.ckpt -o out.jsonl --metrics m.prom --worker-output log --set token=sesame99"
    ended = shell(
        f"umask 022; {run}; {run} --fresh; $BM verify x.ckpt --salvage; $BM report x.ckpt -o page.html", tmp_path
    )
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    private = {name: mode for name, mode in modes.items() if name.endswith(".ckpt")}
    assert private == {"x.ckpt": 0o600, "x.1.ckpt": 0o600, "x.salvaged.ckpt": 0o600}, ended.stderr
    shared = {name: modes[name] for name in ("out.jsonl", "m.prom", "log", "page.html")}
    assert set(shared.values()) == {0o644}, shared
    assert len(modes) == len(private) + len(shared) + 2
    assert not [name for name in modes if b"sesame99" in (tmp_path / name).read_bytes()]


def test_a_command_gets_the_environment_no_stdin_and_no_descriptor_of_ours(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1\n")
    script = 'echo "$TOKEN"; readlink /proc/self/fd/0; ls /proc/self/fd | grep -v "^[0123]$"; true'
    words = ("exec", "a.txt", "--no-checkpoint", "--", "sh", "-c", script)
    ended = batchmill(*words, cwd=tmp_path, env={"TOKEN": "hunter22"})
    assert ended.stdout.splitlines() == ["hunter22", "/dev/null"], ended.stderr
