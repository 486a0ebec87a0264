"""Facts about --time-limit: what there is time for, on the real loop with simulated workers and a simulated clock."""

from __future__ import annotations

import random
import sys

import pytest
from tree_kit import BENCH

from batchmill.scheduler.run_limits import CLOSING, SLACK, Phase, TimeLimit

sys.path.insert(0, str(BENCH))

from simulate import SHAPES, simulate
from simulated_workers import Overhead


def begins(limit: TimeLimit, phase: Phase) -> float:
    """When a phase of a limit that ends at 100 begins, to a hundredth of a second."""
    return next(now / 100 for now in range(10001) if limit.phase(now / 100) >= phase)


def limited(output: int | None = None) -> TimeLimit:
    return TimeLimit(100.0, 100.0, output)


def test_what_is_reserved_for_the_end_grows_with_the_limit() -> None:
    ends = [
        seconds - (TimeLimit(seconds, seconds).end - begins_over(seconds))
        for seconds in (0.1, 1.0, 60.0, 600.0, 36000.0)
    ]
    assert ends == pytest.approx([0.05, 0.7, 58.8, 595.0, 36000.0 - CLOSING[1]], abs=0.01)


def begins_over(seconds: float) -> float:
    limit, low, high = TimeLimit(seconds, seconds), 0.0, seconds
    while high - low > 0.001:
        middle = (low + high) / 2
        low, high = (low, middle) if limit.phase(middle) is Phase.OVER else (middle, high)
    return high


def test_the_phases_come_in_their_order() -> None:
    limit = limited(output=20 << 20)
    limit.seen(1, 10.0, 20 << 20)
    assert begins(limit, Phase.OVER) == 98.0
    assert begins(limit, Phase.CUT) == pytest.approx(96.0 - SLACK, abs=0.02)
    assert begins(limit, Phase.DRAIN) == pytest.approx(86.0 - 2 * SLACK, abs=0.02)


def test_without_output_what_runs_is_waited_for_to_the_last() -> None:
    assert begins(limited(), Phase.CUT) == begins(limited(), Phase.OVER) == 98.0


def test_an_output_of_any_size_leaves_half_the_time_for_work() -> None:
    assert begins(limited(output=1 << 40), Phase.CUT) == 48.0


def test_one_item_in_twenty_may_be_longer_than_what_is_reserved() -> None:
    limit = limited()
    assert limit.item == 0.0
    for seconds in [1.0] * 97 + [50.0] * 3:
        limit.seen(1, seconds, 0)
    assert limit.item == 1.0
    for _ in range(10):
        limit.seen(1, 50.0, 0)
    assert limit.item == 50.0


def test_an_item_is_no_longer_than_its_chunk_nor_much_longer_than_the_mean_of_it() -> None:
    for items, seconds, expected in ((1, 8.0, 8.0), (2, 8.0, 8.0), (100, 8.0, 0.24), (0, 8.0, 0.0)):
        limit = limited()
        limit.seen(items, seconds, 0)
        assert limit.item == pytest.approx(expected)


# The loop


@pytest.mark.parametrize("shape", ["constant", "tiny", "bimodal", "drifting"])
@pytest.mark.parametrize("workers", [1, 16])
def test_a_run_uses_its_time_and_is_over_in_it(shape: str, workers: int) -> None:
    costs = SHAPES[shape](random.Random(5), 30.0 * workers, workers)
    run = simulate(costs, workers, Overhead(), time_limit=10.0)
    assert run.stopped == "time-limit"
    assert 0 < run.done < len(costs)
    assert 7.0 < run.makespan <= 9.7


def test_items_that_are_unlikely_to_end_in_time_are_not_begun() -> None:
    run = simulate([2.0] * 100, 4, Overhead(), time_limit=9.5)
    assert (run.stopped, run.done) == ("time-limit", 16)
    assert run.makespan == pytest.approx(8.0, abs=0.1)


def test_a_batch_whose_last_items_end_while_they_are_waited_for_is_complete() -> None:
    run = simulate([1.0] * 4, 2, Overhead(), time_limit=2.9)
    assert (run.stopped, run.done) == ("", 4)


def test_a_batch_that_needs_less_is_not_disturbed() -> None:
    costs = SHAPES["lognormal"](random.Random(5), 30.0, 2)
    without, within = simulate(costs, 2, Overhead()), simulate(costs, 2, Overhead(), time_limit=1000.0)
    assert (within.makespan, within.chunks, within.stopped) == (without.makespan, without.chunks, "")
