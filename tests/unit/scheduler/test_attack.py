"""What broke when somebody tried to break it by hand, each as the fact that holds now."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from pathlib import Path

import pytest
from checkpoint_kit import read_frames
from cli_kit import shell
from fault_kit import CHECKPOINT, Ended, finish, lines_of, numbered, prepare, witnessed

import batchmill
from batchmill.checkpoint.frames import FrameType
from batchmill.checkpoint.salvage import salvage
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.errors import CheckpointDamaged, InvalidUsage
from batchmill.pool.startup import SERVER_LOST
from batchmill.scheduler.crashes import KILLS, Blame
from batchmill.scheduler.run_limits import FIRST, FailureLimits
from batchmill.settings import Settings
from batchmill.text import describe
from batchmill_cli.running.progress import Screen

FUNCTION = """
import os


def f(text):
    if os.path.exists("mended"):
        return text
    if text == "exits":
        os._exit(255)
    if text == "dies":
        os._exit(3)
    if text.startswith("bad"):
        raise ValueError(f"no {text}")
    return text
"""


def double(n: int) -> int:
    return 2 * n


def run_lines(cwd: Path, *lines: str, more: tuple[str, ...] = ()) -> Ended:
    """A run of `f` over text lines."""
    (cwd / "g.py").write_text(FUNCTION)
    (cwd / "in.txt").write_text("".join(f"{line}\n" for line in lines))
    return finish("g.py:f", "in.txt", "-c", CHECKPOINT, "-o", "out", *more, cwd=cwd)


def run_items(cwd: Path, *more: str) -> Ended:
    """A run of `work` over five items."""
    prepare(cwd, numbered(5))
    return finish("f.py:work", "items.jsonl", "-c", CHECKPOINT, *more, cwd=cwd)


# Where output goes


def test_an_output_that_is_a_fifo_is_written_to_and_stays_one(tmp_path: Path) -> None:
    fifo = tmp_path / "out"
    os.mkfifo(fifo)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()), daemon=True)
    reader.start()
    assert run_items(tmp_path, "-o", "out").status == 0
    reader.join(30)
    assert fifo.is_fifo()
    assert len(read[0].splitlines()) == 5


def test_a_fifo_that_nobody_reads_is_an_error_and_no_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")
    assert run_items(tmp_path, "-o", "out").status == 74


def test_a_symbolic_link_given_as_output_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "out").symlink_to("target")
    assert run_items(tmp_path, "-o", "out").status == 0
    assert (tmp_path / "out").is_symlink()
    assert len(lines_of(tmp_path / "target")) == 5


@pytest.mark.parametrize("output", ["", "there", "there/"])
def test_an_output_that_cannot_be_a_file_is_refused_before_any_item_runs(tmp_path: Path, output: str) -> None:
    (tmp_path / "there").mkdir()
    assert run_items(tmp_path, "-o", output).status == 74
    assert witnessed(tmp_path) == []
    assert list((tmp_path / "there").iterdir()) == []


def test_results_never_overwrite_the_checkpoint_they_come_from(tmp_path: Path) -> None:
    run_items(tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    ended = shell(f"$BM results {CHECKPOINT} -o ./{CHECKPOINT}", tmp_path)
    assert ended.returncode == 2
    assert "same file" in ended.stderr
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_results_written_to_a_full_stdout_do_not_claim_a_complete_checkpoint(tmp_path: Path) -> None:
    prepare(tmp_path, numbered(5))
    ended = shell(f"$BM run f.py:work items.jsonl -c {CHECKPOINT} -o - > /dev/full", tmp_path)
    assert ended.returncode == 74
    assert not re.search(r"\bcomplete\b", ended.stderr)


@pytest.mark.parametrize(("name", "why"), [("none/such", "No such file"), ("fifo", "no program reads from it")])
def test_worker_output_that_cannot_be_opened_is_one_line(name: str, why: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    ended = run_items(tmp_path, "--worker-output", name)
    assert ended.status == 74
    assert ended.err.count("\n") == 1
    assert f"cannot write {name}: {why}" in ended.err
    assert "--worker-output" in ended.err
    assert not (tmp_path / CHECKPOINT).exists(), "nothing had begun"


# Items


class _Nameless(type):
    def __getattribute__(cls, name: str) -> object:
        if name == "__name__":
            raise ValueError("no name")
        return super().__getattribute__(name)


class _NamelessError(Exception, metaclass=_Nameless):
    pass


class _Text(str):
    def encode(self, *_: object, **__: object) -> bytes:
        raise ValueError("not for you")


class _OddTextError(Exception):
    def __str__(self) -> str:
        return _Text("odd")


def test_an_exception_whose_class_has_no_readable_name_is_described() -> None:
    assert describe(_NamelessError("x")).message == "x"


def test_an_exception_whose_text_is_a_hostile_str_is_described() -> None:
    assert describe(_OddTextError()).message == "odd"


def test_an_exceptions_type_name_is_bounded() -> None:
    assert len(describe(type("E" * 10**6, (Exception,), {})()).type) < 10**4


@pytest.mark.parametrize("code", [None, SERVER_LOST])
def test_a_death_that_nobody_can_explain_is_charged_when_it_comes_again_and_again(code: int | None) -> None:
    blame = Blame()
    assert [blame.is_its_own(5, code, None) for _ in range(KILLS + 1)] == [False] * KILLS + [True]


def test_an_item_that_exits_with_status_255_fails_and_does_not_run_for_ever(tmp_path: Path) -> None:
    ended = run_lines(tmp_path, "a", "exits", "b")
    assert ended.status == 1
    assert "status 255" in ended.err
    assert [o["id"] for o in lines_of(tmp_path / "out")] == ["a", "b"]


def test_a_line_that_killed_its_worker_keeps_its_id(tmp_path: Path) -> None:
    assert run_lines(tmp_path, "a", "dies", "b").status == 1
    with batchmill.open_checkpoint(tmp_path / CHECKPOINT) as results:
        assert [outcome.id for outcome in results.failures()] == ["dies"]


def test_a_line_that_killed_its_worker_is_found_again_by_a_resume(tmp_path: Path) -> None:
    run_lines(tmp_path, "a", "dies", "b")
    (tmp_path / "mended").touch()
    assert run_lines(tmp_path, "b", "dies", "a", more=("--resume",)).status == 0
    with batchmill.open_checkpoint(tmp_path / CHECKPOINT) as results:
        assert sorted(outcome.id for outcome in results.outcomes() if outcome.ok) == ["a", "b", "dies"]
        assert list(results.failures()) == []


# Stopping and saying why


def test_failures_of_earlier_runs_do_not_trip_the_automatic_limit() -> None:
    auto = FailureLimits(Settings())
    assert auto.reason_to_stop(0, 5 * FIRST, 5 * FIRST) is None
    assert auto.reason_to_stop(0, 2 * FIRST, FIRST)


def test_a_resume_gets_past_a_hundred_items_that_fail_again(tmp_path: Path) -> None:
    bad = [f"bad{n}" for n in range(FIRST + 20)]
    assert run_lines(tmp_path, *bad, *(str(n) for n in range(300)), more=("--max-failures", "none")).status == 1
    ended = run_lines(tmp_path, *bad, *(str(n) for n in range(310)), more=("--resume",))
    assert ended.status == 1
    assert len(lines_of(tmp_path / "out")) == 310


def test_the_traceback_of_a_stopped_run_is_shown_line_by_line(tmp_path: Path) -> None:
    ended = run_lines(tmp_path, *(f"bad{n}" for n in range(FIRST)))
    assert "\\x0a" not in ended.err
    assert any(line.strip().startswith("ValueError: no bad") for line in ended.err.splitlines())


def test_a_message_that_quotes_an_error_cannot_move_the_cursor(capfd: pytest.CaptureFixture[str]) -> None:
    Screen("none", None).say("Stopped: \x1b[2J\nValueError: \u202e")
    shown = capfd.readouterr().err
    assert not {"\x1b", "\u202e"} & set(shown)
    assert shown.count("\n") == 2


def test_results_of_older_source_are_counted_without_failures_and_what_was_replaced(tmp_path: Path) -> None:
    lines = ("a", "b", "bad1")
    for more in ((), ("--resume",)):
        run_lines(tmp_path, *lines, more=more)
    text = FUNCTION.replace("import os", "import os  # edited")
    (tmp_path / "g.py").write_text(text)
    ended = finish("g.py:f", "in.txt", "-c", CHECKPOINT, "--resume", cwd=tmp_path)
    assert "2 results were made by other source" in ended.err


def test_try_on_an_input_without_items_says_so(tmp_path: Path) -> None:
    prepare(tmp_path)
    ended = shell("$BM try f.py:work items.jsonl", tmp_path)
    assert (ended.returncode, ended.stderr) == (2, "batchmill: there is no item in items.jsonl; correct the input\n")


# Damaged checkpoints


def damage(cwd: Path, seq: int, name: str = "damaged.ckpt") -> Path:
    """A copy of the checkpoint with a wrong byte in the payload of frame `seq`."""
    path = cwd / CHECKPOINT
    data = bytearray(path.read_bytes())
    (ref,) = [ref for ref, _ in read_frames(str(path)) if ref.seq == seq]
    data[ref.offset + ref.length // 2] ^= 1
    (cwd / name).write_bytes(data)
    return cwd / name


def outcome_frames(cwd: Path) -> list[int]:
    """The seqs of frames with outcomes."""
    return [ref.seq for ref, _ in read_frames(str(cwd / CHECKPOINT)) if ref.type == FrameType.OUTCOMES]


def replaced_frame(cwd: Path) -> int:
    """The seq of a frame of which a later one replaced something."""
    for ref, payload in read_frames(str(cwd / CHECKPOINT)):
        if ref.type == FrameType.OUTCOMES and (supersedes := OutcomeBlock(payload).supersedes):
            return int(supersedes[0][1])
    raise AssertionError("nothing was replaced")


def test_a_salvaged_checkpoint_is_continued(tmp_path: Path) -> None:
    lines = tuple(str(n) for n in range(40))
    assert run_lines(tmp_path, *lines, more=("--chunk-size", "4")).status == 0
    rescued = salvage(str(damage(tmp_path, outcome_frames(tmp_path)[3])))
    assert len(rescued.lost) == 1
    ended = finish("g.py:f", "in.txt", "-c", rescued.path, "-o", "again", "--resume", cwd=tmp_path)
    assert ended.status == 0
    assert (tmp_path / "again").read_bytes() == (tmp_path / "out").read_bytes()


def test_a_salvaged_checkpoint_may_have_lost_what_a_later_frame_replaced(tmp_path: Path) -> None:
    lines = ("a", "bad1", *(str(n) for n in range(30)))
    assert run_lines(tmp_path, *lines, more=("--chunk-size", "4")).status == 1
    (tmp_path / "mended").touch()
    assert run_lines(tmp_path, *lines, more=("--resume",)).status == 0
    rescued = salvage(str(damage(tmp_path, replaced_frame(tmp_path))))
    ended = finish("g.py:f", "in.txt", "-c", rescued.path, "-o", "again", "--resume", cwd=tmp_path)
    assert ended.status == 0
    assert (tmp_path / "again").read_bytes() == (tmp_path / "out").read_bytes()


def corrupt(cwd: Path) -> Path:
    """A copy of a finished checkpoint with bytes missing before a frame that was durable."""
    run_lines(cwd, *(str(n) for n in range(40)), more=("--chunk-size", "4"))
    data = (cwd / CHECKPOINT).read_bytes()
    (ref,) = [ref for ref, _ in read_frames(str(cwd / CHECKPOINT)) if ref.seq == outcome_frames(cwd)[3]]
    (cwd / "damaged.ckpt").write_bytes(data[: ref.start] + data[ref.start + 9 :])
    return cwd / "damaged.ckpt"


def test_the_results_before_damage_do_not_pass_for_all(tmp_path: Path) -> None:
    corrupt(tmp_path)
    ended = shell("$BM results damaged.ckpt", tmp_path)
    assert (ended.returncode, ended.stdout) == (65, "")
    assert "--salvage" in ended.stderr


def test_a_damaged_checkpoint_gives_python_no_outcomes_either(tmp_path: Path) -> None:
    with batchmill.open_checkpoint(corrupt(tmp_path)) as results, pytest.raises(CheckpointDamaged):
        list(results.outcomes())


# Python


SCRIPT = """
import batchmill, enum
from g import f

class Colour(enum.Enum):
    RED = "red"

class Odd:
    pass

if __name__ == "__main__":
    for id in (Colour.RED, Odd()):
        with batchmill.stream(f, ["a"], id=lambda item: id, workers=1) as outcomes:
            print([(outcome.ok, outcome.id if outcome.ok else outcome.error.message) for outcome in outcomes])
"""


def test_ids_of_a_scripts_own_classes_do_not_kill_workers(tmp_path: Path) -> None:
    (tmp_path / "g.py").write_text(FUNCTION)
    (tmp_path / "script.py").write_text(SCRIPT)
    ended: subprocess.CompletedProcess[str] = shell("${BM% -m batchmill} script.py", tmp_path)
    assert ended.stderr == ""
    first, second = ended.stdout.splitlines()
    assert first == "[(True, 'red')]"
    assert "the id given for this item cannot be kept" in second


def test_kwargs_that_cannot_be_pickled_are_named() -> None:
    with pytest.raises(InvalidUsage, match="kwargs"):
        batchmill.run(double, [1], kwargs={"lock": threading.Lock()})


def test_no_items_at_all_are_named() -> None:
    with pytest.raises(InvalidUsage, match="items=None is not iterable"):
        batchmill.run(double, None)  # type: ignore[arg-type]
