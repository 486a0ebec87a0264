"""Chunks by time, run on simulated workers: a clock that is a number, workers that are a heap, costs of every shape."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from typing import NamedTuple

import pytest

from batchmill.scheduler.chunk_size import DEEPEST, GROWTH, LEAST_PATIENCE, LONGEST, PARENT_COST, SHORTEST, ChunkSizer


class Cut(NamedTuple):
    """One chunk as it was handed out and came back: when, how many items, how many of them were run, how long."""

    start: float
    size: int
    done: int
    seconds: float


class Simulated(NamedTuple):
    """What a simulated run came to."""

    makespan: float
    cuts: list[Cut]
    order: list[int]


def simulate(costs: list[float], workers: int, *, fixed: int | None = None, knows_total: bool = True) -> Simulated:
    """Run `costs` (seconds per item) on `workers` workers, each taking a chunk when it is idle, learning as chunks
    end."""
    chunk_sizer = ChunkSizer(workers, fixed)
    waiting: deque[tuple[int, int]] = deque([(0, len(costs))])  # ranges of items, what came back first in line
    free = [(0.0, worker) for worker in range(workers)]
    running: list[tuple[float, int, int, int, int, float]] = []
    cuts: list[Cut] = []
    order: list[int] = []
    makespan = 0.0
    while waiting or running:
        if free and waiting:
            now, worker = heapq.heappop(free)
            first, end = waiting.popleft()
            left = sum(b - a for a, b in waiting) + end - first
            size = chunk_sizer.next_size(left if knows_total else None)
            if end - first > size:
                waiting.appendleft((first + size, end))
                end = first + size
            done, seconds = 0, 0.0
            for cost in costs[first:end]:
                done, seconds = done + 1, seconds + cost
                if chunk_sizer.slice and seconds > chunk_sizer.slice:
                    break
            cuts.append(Cut(now, end - first, done, seconds))
            heapq.heappush(running, (now + seconds, worker, first, done, end, seconds))
            continue
        now, worker, first, done, end, seconds = heapq.heappop(running)
        chunk_sizer.seen(done, seconds)
        order += range(first, first + done)
        if first + done < end:
            waiting.appendleft((first + done, end))
        makespan = max(makespan, now)
        # An idle worker sees what came back only now.
        free = [(max(now, since), number) for since, number in free]
        heapq.heapify(free)
        heapq.heappush(free, (now, worker))
    return Simulated(makespan, cuts, order)


def drifting(rng: random.Random) -> list[float]:
    return [0.0002 * (1 + 50 * i / 20_000) * rng.uniform(0.9, 1.1) for i in range(20_000)]


def spread(rng: random.Random) -> list[float]:
    return [10 ** rng.uniform(-6, 0) for _ in range(1500)]


SHAPES = {
    "constant": lambda rng: [0.001] * 10_000,
    "bimodal": lambda rng: [rng.choice((0.0001, 0.02)) for _ in range(3000)],
    "drifting": drifting,
    "lognormal": lambda rng: [0.002 * rng.lognormvariate(0, 2) for _ in range(5000)],
    "spread 10^6": spread,
}
WORKERS = (1, 2, 8, 32)


@pytest.fixture(params=SHAPES)
def costs(request: pytest.FixtureRequest) -> list[float]:
    return SHAPES[request.param](random.Random(7))


@pytest.mark.parametrize("workers", WORKERS)
def test_every_item_is_run_once(costs: list[float], workers: int) -> None:
    assert sorted(simulate(costs, workers).order) == list(range(len(costs)))


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("knows_total", [True, False])
def test_the_makespan_is_near_the_lower_bound(costs: list[float], workers: int, knows_total: bool) -> None:
    """Within a fifth of max(sum / workers, longest), and what one worker may be late by: its slice and one item."""
    bound = max(sum(costs) / workers, max(costs))
    late = ChunkSizer(workers).slice + max(costs)
    assert simulate(costs, workers, knows_total=knows_total).makespan <= 1.2 * bound + late


def test_knowing_the_total_ends_closer_to_the_bound_than_not_knowing_it() -> None:
    costs = [0.05] * 400
    assert simulate(costs, 8).makespan < simulate(costs, 8, knows_total=False).makespan


@pytest.mark.parametrize("workers", WORKERS)
def test_no_chunk_outlasts_its_slice_by_more_than_an_item(costs: list[float], workers: int) -> None:
    allowed = ChunkSizer(workers).slice + max(costs)
    assert max(cut.seconds for cut in simulate(costs, workers).cuts) <= allowed


@pytest.mark.parametrize("workers", WORKERS)
def test_chunks_of_equal_items_last_as_long_as_the_target(workers: int) -> None:
    cuts = simulate([0.0005] * 5000 * workers, workers, knows_total=False).cuts
    settled = [cut.seconds for cut in cuts[4 * workers : -workers]]
    target = ChunkSizer(workers).target
    assert settled
    assert all(0.9 * target <= seconds <= 1.1 * target for seconds in settled)


def test_chunks_follow_items_that_grow_dearer() -> None:
    cuts = simulate(drifting(random.Random(1)), 2).cuts
    middle = cuts[len(cuts) // 3 : 2 * len(cuts) // 3]
    target = ChunkSizer(2).target
    assert all(0.5 * target <= cut.seconds <= 2.0 * target for cut in middle)


def test_the_first_chunk_of_every_worker_is_one_item(costs: list[float]) -> None:
    assert [cut.size for cut in simulate(costs, 8).cuts[:8]] == [1] * 8


def test_a_chunk_is_at_most_eight_times_the_largest_that_was_seen() -> None:
    chunk_sizer = ChunkSizer(2)
    sizes = []
    for _ in range(6):
        sizes.append(chunk_sizer.next_size())
        chunk_sizer.seen(sizes[-1], sizes[-1] * 1e-9)
    assert sizes == [GROWTH**power for power in range(6)]


def test_chunks_shrink_towards_the_end() -> None:
    cuts = simulate([0.005] * 4000, 4).cuts
    assert max(cut.size for cut in cuts) > 8
    assert [cut.size for cut in cuts[-4:]] == [1] * 4


def test_the_tail_is_not_cut_below_ten_times_the_parent_s_cost() -> None:
    chunk_sizer = ChunkSizer(4)
    chunk_sizer.seen(1000, 0.001)
    assert chunk_sizer.next_size(1) == 5000


def test_with_many_workers_the_tail_is_not_cut_finer_than_the_parent_can_follow() -> None:
    chunk_sizer = ChunkSizer(200)
    chunk_sizer.seen(100_000, 0.1)
    assert chunk_sizer.next_size(1) * 0.1 / 100_000 == pytest.approx(200 * PARENT_COST)


def test_what_counts_as_a_straggler_shrinks_with_the_chunks_towards_the_end() -> None:
    chunk_sizer = ChunkSizer(64)
    chunk_sizer.seen(1000, 1.0)
    chunk_sizer.next_size(1_000_000)
    far = chunk_sizer.patience
    chunk_sizer.next_size(0)
    assert (far, chunk_sizer.patience) == (chunk_sizer.target, LEAST_PATIENCE)


def test_while_nothing_is_known_no_item_is_a_straggler() -> None:
    assert ChunkSizer(2).patience == math.inf


def test_with_a_given_chunk_size_a_straggler_takes_longer_than_such_a_chunk() -> None:
    chunk_sizer = ChunkSizer(2, fixed=10)
    chunk_sizer.seen(10, 5.0)
    assert chunk_sizer.patience == 5.0


def test_where_all_items_take_long_none_of_them_is_a_straggler() -> None:
    chunk_sizer = ChunkSizer(2)
    chunk_sizer.seen(1, 10.0)
    chunk_sizer.next_size()
    assert chunk_sizer.patience > 10.0


def test_an_estimate_of_nothing_left_still_gives_an_item() -> None:
    chunk_sizer = ChunkSizer(2)
    chunk_sizer.seen(1, 30.0)
    assert chunk_sizer.next_size(0.0) == 1


def test_an_item_far_longer_than_the_target_goes_alone() -> None:
    chunk_sizer = ChunkSizer(2)
    chunk_sizer.seen(4, 400.0)
    assert chunk_sizer.next_size(1e6) == 1


def test_items_that_take_no_time_do_not_divide_by_zero() -> None:
    chunk_sizer = ChunkSizer(1)
    chunk_sizer.seen(3, 0.0)
    assert chunk_sizer.next_size() == 3 * GROWTH


def test_a_reply_without_items_teaches_nothing() -> None:
    chunk_sizer = ChunkSizer(1)
    chunk_sizer.seen(0, 12.0)
    assert chunk_sizer.next_size() == 1


def test_a_chunk_size_given_by_the_user_is_kept_and_never_cut_short() -> None:
    chunk_sizer = ChunkSizer(4, fixed=50)
    chunk_sizer.seen(50, 500.0)
    assert (chunk_sizer.next_size(3), chunk_sizer.slice) == (50, 0.0)


@pytest.mark.parametrize(("workers", "seconds"), [(1, SHORTEST), (8, 0.2), (1000, LONGEST)])
def test_the_target_grows_with_the_workers_between_two_limits(workers: int, seconds: float) -> None:
    assert ChunkSizer(workers).target == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("fixed", "mean", "round_trip", "depth"),
    [
        (None, 0.001, 0.0, 2),  # on one machine
        (None, 0.001, 0.05, 2),  # chunks last longer than messages take
        (1, 1.0, 0.05, 2),
        (1, 0.01, 0.05, 6),  # five come back during one round trip
        (10, 0.01, 0.5, 6),
        (1, 1e-6, 0.05, DEEPEST),
    ],
)
def test_a_worker_far_away_holds_what_it_does_during_a_message_there_and_back(
    fixed: int | None, mean: float, round_trip: float, depth: int
) -> None:
    chunk_sizer = ChunkSizer(4, fixed)
    chunk_sizer.fit(4, round_trip)
    assert chunk_sizer.depth(2) == 2  # nothing is known yet
    chunk_sizer.seen(100, 100 * mean)
    assert chunk_sizer.depth(2) == depth
    assert chunk_sizer.depth(70) == max(70, depth)


def test_a_pace_for_no_workers_at_all_is_that_for_one() -> None:
    chunk_sizer = ChunkSizer(4)
    chunk_sizer.seen(10, 1.0)
    chunk_sizer.fit(0)
    assert chunk_sizer.next_size(remaining=100.0) >= 1
