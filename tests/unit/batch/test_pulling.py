"""An iterable is pulled as the caller's own `for` loop would: in its context, its thread, and closed."""

from __future__ import annotations

import contextvars
import decimal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import work_kit

import batchmill
from batchmill.input.thread_bound import is_thread_bound

VARIABLE = contextvars.ContextVar("VARIABLE", default=0)


def test_an_iterable_sees_the_context_of_whoever_asked_for_the_batch() -> None:
    def items() -> Iterator[str]:
        yield str(decimal.Decimal(1) / 3)
        yield str(VARIABLE.get(0))

    with decimal.localcontext() as context:
        context.prec = 5
        VARIABLE.set(7)
        assert batchmill.map(work_kit.identity, items(), workers=1) == ["0.33333", "7"]


def ends(run: Callable[[Iterator[Any]], object], rows: Callable[[], Iterator[Any]]) -> list[str]:
    """In which thread a generator ends that `run` is given, and leaves, while it is still referred to."""
    ended = []

    def items() -> Iterator[Any]:
        try:
            yield from rows()
        finally:
            ended.append(threading.current_thread().name)

    given = items()
    run(given)
    found, ended = ended, []
    del given
    assert ended == []
    return found


def left(items: Iterator[Any]) -> None:
    with batchmill.stream(work_kit.identity, items, workers=1, chunk_size=1) as outcomes:
        next(iter(outcomes))


def limited(items: Iterator[Any]) -> None:
    batchmill.run(work_kit.identity, items, workers=1, limit=3)


@pytest.mark.parametrize("run", [left, limited])
def test_a_generator_that_is_left_is_closed(run: Callable[[Iterator[Any]], object]) -> None:
    assert ends(run, lambda: iter(range(10**6))) == ["batchmill-feeder"]
    database = sqlite3.connect(":memory:")
    query = "with recursive n(x) as (select 0 union all select x + 1 from n where x < 1000000) select x from n"
    assert ends(run, lambda: (x for (x,) in database.execute(query))) == [threading.current_thread().name]


def test_rows_of_a_database_are_pulled_in_the_thread_of_their_connection(tmp_path: Any) -> None:
    database = sqlite3.connect(tmp_path / "x.db")
    database.execute("create table t (x)")
    database.executemany("insert into t values (?)", [(x,) for x in range(2000)])
    expected = [[x] for x in range(2000)]
    found = batchmill.map(work_kit.identity, (list(row) for row in database.execute("select x from t")), workers=1)
    assert found == expected
    with batchmill.stream(work_kit.identity, map(list, database.execute("select x from t")), workers=1) as outcomes:
        assert sorted(outcome.result for outcome in outcomes) == expected
    report = batchmill.run(work_kit.identity, database.execute("select x from t"), checkpoint=tmp_path / "c", workers=1)
    assert report.completed == 2000

    def broken() -> Iterator[int]:
        yield from (x for (x,) in database.execute("select x from t limit 3"))
        raise RuntimeError("the database is gone")

    with pytest.raises(RuntimeError, match="the database is gone"):
        batchmill.run(work_kit.identity, broken(), workers=1)


def test_what_is_bound_to_a_thread_is_seen_in_what_iterates_over_it() -> None:
    database = sqlite3.connect(":memory:")
    for bound in (database.execute("select 1"), map(list, zip(database.execute("select 1"), range(3)))):
        assert is_thread_bound(bound)
    for free in ([1, 2], {"a": 1}, iter(range(3)), (x for x in "abc"), map(str, [1])):
        assert not is_thread_bound(free)
