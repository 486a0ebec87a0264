"""What type checkers know of the Python API: `make check` sees to it that each `type: ignore` here is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

import batchmill


def score(item: int, by: int = 1) -> str:
    return str(item * by)


if TYPE_CHECKING:

    def right(many: list[int]) -> None:
        found = batchmill.map(score, many, workers="50%", timeout="30s", worker_memory="2G", kwargs={"by": 2})
        assert_type(found, list[str])
        assert_type(batchmill.map(int, ["1"], progress=True), list[int])
        assert_type(batchmill.map("tasks:score", many, batch_size="auto"), list[Any])
        assert_type(batchmill.map(lambda batch: [1] * len(batch), many, batch_size=4), list[Any])
        with batchmill.stream(score, "items.jsonl", checkpoint="c.ckpt", resume=True) as outcomes:
            assert_type(outcomes.report, batchmill.Report | None)
            for outcome in outcomes:
                assert_type(outcome.result, str)
                assert_type(outcome.error, batchmill.ItemError | None)
        assert_type(batchmill.run(score, many, retry_delay=0.5, grace="1m", min_free_memory=2**30), batchmill.Report)

    def wrong(many: list[int]) -> None:
        batchmill.map(score, many, workerz=3)  # type: ignore[call-overload]
        batchmill.map(score, many, timeout=[1])  # type: ignore[call-overload]
        batchmill.map(score, 5)  # type: ignore[call-overload]
        numbers: list[int] = batchmill.map(score, many)  # type: ignore[arg-type]
        batchmill.run(score, many, max_failures=None)  # type: ignore[arg-type]
        batchmill.run(score, many, resume="yes")  # type: ignore[arg-type]
        batchmill.run(score, many, on_progress=len)  # type: ignore[arg-type]
        batchmill.Settings(workerz=numbers)  # type: ignore[call-arg]
        batchmill.Settings(grace=[1])  # type: ignore[arg-type]


def test_what_is_generic_is_so_at_run_time_too() -> None:
    outcome: batchmill.Outcome[str] = batchmill.Outcome(1, True, "x")
    assert str(batchmill.Stream[str]).endswith("Stream[str]")
    assert not hasattr(outcome, "__dict__")


def test_settings_are_numbers_whatever_they_were_given_as() -> None:
    settings = batchmill.Settings(timeout="1m", worker_memory="2K", wait=True)
    assert (settings.timeout, settings.worker_memory) == (60.0, 2048)
