"""Whether the item of a dead worker is to blame, and in which words."""

from __future__ import annotations

import signal

import pytest

from batchmill.pool.startup import SERVER_LOST
from batchmill.scheduler.crashes import DISCONNECTED, KILLS, Blame, worker_died
from batchmill.text import describe_exit

KILL = -int(signal.SIGKILL)


@pytest.mark.parametrize("code", [0, 1, 7, 254, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE])
def test_a_crash_or_an_exit_is_the_items_own(code: int) -> None:
    assert Blame().is_its_own(5, code, None)


@pytest.mark.parametrize("code", [None, SERVER_LOST])
@pytest.mark.parametrize("memory", [None, "RSS 3.2G, 120M free"])
def test_nobody_is_to_blame_where_nobody_knows_or_the_fork_server_died(code: int | None, memory: str | None) -> None:
    assert not Blame().is_its_own(5, code, memory)


def test_a_kill_from_outside_is_nobodys_until_it_hits_the_same_item_again_and_again() -> None:
    blame = Blame()
    assert [blame.is_its_own(5, KILL, None) for _ in range(KILLS + 2)] == [False] * KILLS + [True, True]


def test_kills_are_counted_by_item() -> None:
    blame = Blame()
    for _ in range(KILLS):
        assert not blame.is_its_own(5, KILL, None)
        assert not blame.is_its_own(6, KILL, None)
    assert not blame.is_its_own(7, KILL, None)
    assert blame.is_its_own(6, KILL, None)


def test_a_kill_while_memory_is_short_is_the_items_own() -> None:
    assert Blame().is_its_own(5, KILL, "RSS 3.2G, 120M free")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "died"),
        (0, "exited with status 0"),
        (7, "exited with status 7"),
        (-11, "was killed by SIGSEGV"),
        (-6, "was killed by SIGABRT"),
        (KILL, "was killed by SIGKILL"),
        (-63, "was killed by signal 63"),
    ],
)
def test_an_end_is_named_as_people_know_it(code: int | None, words: str) -> None:
    assert describe_exit(code) == words


def test_a_verdict_has_the_cause_the_process_and_the_tries() -> None:
    error = worker_died("was killed by SIGSEGV", 4711, 2, None)
    assert error.type == "WorkerDied"
    assert error.message == "the worker (pid 4711) was killed by SIGSEGV while running it, 2 times"
    assert worker_died("exited with status 7", 1, 1, None).message.endswith("exited with status 7 while running it")


def test_a_verdict_speaks_of_memory_only_where_it_was_a_kill() -> None:
    short = "RSS 3.2G, 120M free"
    assert worker_died("was killed by SIGKILL", 1, 1, short).message.endswith(f"; likely out of memory: {short}")
    assert "memory" not in worker_died("was killed by SIGSEGV", 1, 1, short).message
    assert "memory" not in worker_died("was killed by SIGKILL", 1, 1, None).message


def test_a_closed_connection_asks_for_its_likely_cause() -> None:
    assert "closed its connection" in worker_died(DISCONNECTED, 1, 2, None).message


@pytest.mark.parametrize("code", [None, SERVER_LOST])
def test_even_that_is_the_items_own_where_it_happens_again_and_again(code: int | None) -> None:
    blame = Blame()
    assert [blame.is_its_own(5, code, None) for _ in range(KILLS + 1)] == [False] * KILLS + [True]
