"""The loop, intake, ledger, pace and recaller together, on simulated workers: no clock is read, nothing is run."""

from __future__ import annotations

import random
import sys

import pytest
from tree_kit import BENCH

sys.path.insert(0, str(BENCH))

from simulate import GOAL, GOAL_OF_LONG_RUNS, SHAPES, self_scheduling, simulate
from simulated_workers import Overhead

SEED = 3
WORKERS = (1, 2, 16, 64)


def costs_of(shape: str, seconds: float, workers: int) -> list[float]:
    return SHAPES[shape](random.Random(SEED), seconds * workers, workers)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("seconds", [3.0, 30.0])
def test_the_makespan_is_near_one_item_self_scheduling(shape: str, workers: int, seconds: float) -> None:
    if seconds * workers > 1000 and shape not in ("lognormal", "four-in-a-row"):
        pytest.skip("those two say enough")
    costs = costs_of(shape, seconds, workers)
    goal = GOAL.get(seconds, GOAL_OF_LONG_RUNS)
    makespan = simulate(costs, workers, Overhead()).makespan
    assert makespan <= goal * self_scheduling(costs, workers) + max(costs)


def test_stragglers_in_a_row_are_run_side_by_side() -> None:
    costs = [0.005] * 60_000
    costs[45_000:45_000] = [3.0] * 4
    assert simulate(costs, 16, Overhead()).makespan <= 1.02 * self_scheduling(costs, 16)


def test_a_straggler_that_is_last_holds_up_nobody() -> None:
    costs = [*[0.005] * 4000, 1.0]
    assert simulate(costs, 4, Overhead()).makespan <= 1.05 * self_scheduling(costs, 4)


def test_with_an_unknown_total_what_a_worker_has_too_much_is_shared_at_the_end() -> None:
    costs = [0.005] * 4000
    assert simulate(costs, 8, Overhead(), knows_total=False).makespan <= 1.05 * self_scheduling(costs, 8)


def test_the_parent_needs_less_than_a_twentieth_of_a_core_at_64_workers() -> None:
    run = simulate(costs_of("constant", 30.0, 64), 64, Overhead())
    assert run.parent / run.makespan < 0.05


def test_items_that_all_take_long_are_not_taken_back_over_and_over() -> None:
    run = simulate([2.0] * 400, 8, Overhead())
    assert run.chunks <= 2 * 400
    assert run.makespan <= 1.02 * self_scheduling([2.0] * 400, 8)


def test_a_window_of_one_chunk_does_as_well() -> None:
    costs = costs_of("lognormal", 30.0, 4)
    assert simulate(costs, 4, Overhead(), window=1).makespan <= 1.02 * self_scheduling(costs, 4) + max(costs)
