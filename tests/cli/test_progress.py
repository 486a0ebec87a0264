"""The progress line: what fits, when it is drawn, and that nothing tears it."""

from __future__ import annotations

import math
import os
import re
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cli_kit import screen_rows
from process_kit import start

from batchmill.batch.progress import Progress
from batchmill.model import Snapshot, Usage
from batchmill_cli.running.progress import Screen, choose_mode, fit, redraw, terminal_width, wipe
from batchmill_cli.running.worker_output import Relay

LINE = "4120/10000 41.2% | 3 failed | 812/s | ETA 0:07:12 | 8w cpu 765% rss 1.2G"


def snapshot(done: int = 4120, total: int | None = 10000) -> Snapshot:
    return Snapshot(done, total, 3, 0, 812.0, 432.0, 5.0, 8, Usage(765.0, 1288490188, 30 << 20))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    try:
        yield read_end, write_end
    finally:
        os.close(read_end)
        os.close(write_end)


def written(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return b""


def test_the_line_is_the_one_of_the_design() -> None:
    assert str(snapshot()) == LINE


def test_a_line_that_fits_is_left_alone() -> None:
    assert fit(LINE, len(LINE)) == LINE


def test_a_narrow_terminal_loses_whole_parts_from_the_right() -> None:
    short = "4120/10000 41.2% | 3 failed | 812/s | ETA 0:07:12"
    assert fit(LINE, len(LINE) - 1) == f"{short} | 8w cpu 765%"
    assert fit(LINE, len(short) + 6) == f"{short} | 8w"
    assert fit(LINE, len(short) + 4) == short
    assert fit(LINE, 30) == "4120/10000 41.2% | 3 failed"


def test_a_terminal_that_became_narrower_is_not_written_beyond() -> None:
    assert redraw("short", 60, 30) == "\r" + "short".ljust(30)
    assert wipe(60, 30) == "\r" + " " * 30 + "\r"


@pytest.mark.parametrize("width", range(90))
def test_no_line_is_ever_wider_than_the_terminal(width: int) -> None:
    assert len(fit(LINE, width)) <= width


def test_a_shorter_line_wipes_what_is_left_of_a_longer_one() -> None:
    rows = screen_rows(redraw("a long line", 0, 79).encode() + redraw("short", 11, 79).encode(), 80)
    assert rows == ["short"]


def test_wiping_leaves_nothing_and_the_cursor_at_the_start() -> None:
    assert screen_rows(b"progress" + wipe(8, 79).encode() + b"next", 80) == ["next"]


@pytest.mark.parametrize(
    ("asked", "terminal", "verbose", "quiet", "term", "mode"),
    [
        ("auto", True, False, False, "xterm", "line"),
        ("auto", True, True, False, "xterm", "line"),
        ("auto", True, False, True, "xterm", "none"),
        ("auto", True, False, False, "dumb", "log"),
        ("auto", False, False, False, "xterm", "none"),
        ("auto", False, True, False, "xterm", "log"),
        ("log", False, False, True, "xterm", "log"),
        ("line", False, False, False, "dumb", "line"),
        ("none", True, True, False, "xterm", "none"),
    ],
)
def test_auto_follows_the_terminal_and_the_rest_is_taken_at_its_word(
    asked: str, terminal: bool, verbose: bool, quiet: bool, term: str, mode: str
) -> None:
    assert choose_mode(asked, terminal=terminal, verbose=verbose, quiet=quiet, environ={"TERM": term}) == mode


@pytest.mark.parametrize(("value", "mode"), [("true", "log"), ("1", "log"), ("", "line"), ("false", "line")])
def test_the_terminal_of_a_ci_service_gets_a_log(value: str, mode: str) -> None:
    environ = {"TERM": "xterm", "CI": value}
    assert choose_mode("auto", terminal=True, verbose=False, quiet=False, environ=environ) == mode
    assert choose_mode("line", terminal=True, verbose=False, quiet=False, environ=environ) == "line"
    assert choose_mode("auto", terminal=False, verbose=False, quiet=False, environ=environ) == "none"


def test_the_line_is_redrawn_at_most_ten_times_a_second() -> None:
    clock = Clock()
    with pipe() as (read_end, write_end):
        screen = Screen("line", 0.0, fd=write_end, clock=clock)
        for number in range(1000):
            clock.now = 100.0 + number / 1000  # a second
            screen.update(snapshot(number))
        assert 9 <= written(read_end).count(b"\r") <= 10


def test_a_log_gets_a_whole_line_every_thirty_seconds_and_no_control_character() -> None:
    clock = Clock()
    with pipe() as (read_end, write_end):
        screen = Screen("log", fd=write_end, clock=clock)
        for second in range(95):
            clock.now = 100.0 + second
            screen.update(snapshot(second))
        lines = written(read_end).decode().splitlines()
    assert [line.split("/")[0] for line in lines] == ["30", "60", "90"]
    assert not re.search(r"[\x00-\x1f]", "".join(lines))


def test_a_log_ends_with_its_last_line() -> None:
    with pipe() as (read_end, write_end):
        Screen("log", fd=write_end).finish(snapshot(10000))
        assert written(read_end).startswith(b"10000/10000 100.0%")


def test_without_progress_nothing_is_written() -> None:
    with pipe() as (read_end, write_end):
        screen = Screen("none", fd=write_end)
        screen.update(snapshot())
        screen.finish(snapshot())
        assert written(read_end) == b""


def test_a_message_stands_above_the_line_and_the_line_below_it_is_whole() -> None:
    with pipe() as (read_end, write_end):
        screen = Screen("line", fd=write_end)
        screen.update(snapshot())
        screen.say("hello")
        assert screen_rows(written(read_end), 80) == ["hello", LINE]


def test_the_lines_of_a_message_are_indented_below_its_first() -> None:
    with pipe() as (read_end, write_end):
        Screen("none", fd=write_end).say("stopped: Traceback\n  File x\nE: \x1b[2J")
        assert written(read_end) == b"stopped: Traceback\n    File x\n  E: \\x1b[2J\n"


def progress(seen: list[Snapshot], before: list[int], *, resumes: bool) -> Progress:
    return Progress(
        total=lambda: 100, before=lambda: (before[0], 0), append=lambda *frame: None, on_progress=seen.append,
        interval=0.0, shards=1, resumes=resumes,
    )  # fmt: skip


def test_a_resumed_run_shows_nothing_before_it_knows_what_is_done() -> None:
    seen: list[Snapshot] = []
    before = [0]
    resumed = progress(seen, before, resumes=True)
    resumed.tick(math.inf, [], 2)
    assert seen == []
    before[0] = 41
    resumed.tick(math.inf, [], 2)
    assert [snapshot.done for snapshot in seen] == [41]


def test_a_new_run_shows_that_nothing_is_done_yet() -> None:
    seen: list[Snapshot] = []
    progress(seen, [0], resumes=False).tick(math.inf, [], 2)
    assert [str(snapshot) for snapshot in seen] == ["0/100 0.0% | 0 failed | 0.00/s | 2w"]


def test_cpu_is_not_spoken_of_before_a_whole_second_was_measured() -> None:
    young = progress([], [0], resumes=False)
    young.tick(time.monotonic(), [], 2)
    assert (young.sample()["rss"], young.snapshot().usage) == (0, None)


def test_no_escape_sequence_is_ever_written() -> None:
    with pipe() as (read_end, write_end):
        screen = Screen("line", fd=write_end)
        screen.update(snapshot())
        screen.say("hello")
        screen.finish()
        assert b"\x1b" not in written(read_end)


def test_held_messages_appear_in_order_once_released() -> None:
    with pipe() as (read_end, write_end):
        screen = Screen("none", hold=True, fd=write_end)
        screen.say("one")
        screen.say("two")
        assert written(read_end) == b""
        screen.release()
        screen.say("three")
        assert written(read_end) == b"one\ntwo\nthree\n"


def test_a_line_that_was_asked_for_is_whole_even_without_progress() -> None:
    with pipe() as (read_end, write_end):
        screen = Screen("none", hold=True, fd=write_end)
        screen.ask()
        screen.update(snapshot())
        screen.update(snapshot())
        assert written(read_end).decode() == f"{LINE}\n"


def test_a_terminal_that_does_not_read_does_not_stop_the_run() -> None:
    with pipe() as (_, write_end):
        os.set_blocking(write_end, False)
        while select.select([], [write_end], [], 0)[1]:
            os.write(write_end, b"x" * 4096)
        os.set_blocking(write_end, True)
        screen = Screen("line", fd=write_end)
        done = threading.Thread(target=lambda: screen.update(snapshot()), daemon=True)
        done.start()
        done.join(30)
        assert not done.is_alive()


def test_a_closed_stderr_does_not_hurt() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    screen = Screen("line", fd=write_end)
    screen.update(snapshot())
    screen.say("nobody hears")
    os.close(write_end)
    screen.say("nor this")


def test_the_width_of_something_that_is_no_terminal_is_eighty() -> None:
    with pipe() as (_, write_end):
        assert terminal_width(write_end) == 79


def test_what_workers_print_comes_in_whole_lines_and_its_last_words_too() -> None:
    pieces: list[bytes] = []
    with Relay(pieces.append) as relay:
        script = "printf 'one\\ntw'; sleep 0.2; printf 'o\\nlast words'"
        subprocess.run(["sh", "-c", script], stdout=relay.fd, timeout=30, check=True)
    assert b"".join(pieces) == b"one\ntwo\nlast words"
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])


def test_a_process_that_keeps_the_pipe_open_does_not_hold_up_the_end() -> None:
    pieces: list[bytes] = []
    with Relay(pieces.append) as relay:
        start(["sleep", "60"], stdout=relay.fd)
        os.write(relay.fd, b"done\n")
    assert pieces == [b"done\n"]


def test_output_without_line_ends_is_passed_on_in_pieces_not_hoarded() -> None:
    pieces: list[bytes] = []
    with Relay(pieces.append) as relay:
        os.write(relay.fd, b"x" * 60000)
        os.write(relay.fd, b"x" * 60000)
        os.write(relay.fd, b"x" * 60000)
    assert sum(map(len, pieces)) == 180000
    assert max(map(len, pieces)) <= 3 * (1 << 16)
