"""What is made of measurements: the law, the choice, the bound, the doubts. Numbers in, numbers out."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.benchmark import scaling
from batchmill.benchmark.agreement import Agreement
from batchmill.benchmark.scaling import Cell, Fit, Round

POWERS = (1, 2, 4, 8, 16, 32, 64, 128)


def cell(workers: int, *rates: float, cpu: float = 1.0, chunk_size: int | None = None, elsewhere: float = 0.0) -> Cell:
    """A cell whose rounds of 1000 items have these rates; `cpu` is seconds per item."""
    rounds = [
        Round(number, 1000 / rate, 1000, 0, 1000 * cpu, 10**6 * workers, elsewhere * 1000 / rate)
        for number, rate in enumerate(rates, 1)
    ]
    return Cell(workers, chunk_size, tuple(rounds))


def curve(fit: Fit, counts: tuple[int, ...] = POWERS) -> list[Cell]:
    return [cell(workers, fit.rate(workers)) for workers in counts]


@given(st.floats(0, 0.9), st.floats(0, 0.01), st.floats(0.001, 1e6))
def test_the_law_is_found_again_in_rates_that_follow_it(contention: float, coherency: float, single: float) -> None:
    found = scaling.fit(curve(Fit(contention, coherency, single)))
    assert found is not None
    assert found.contention == pytest.approx(contention, abs=1e-6)
    assert found.coherency == pytest.approx(coherency, abs=1e-6)
    assert found.single == pytest.approx(single)


@given(st.floats(0.01, 0.5), st.floats(0, 0.001))
def test_the_law_is_found_without_a_measurement_of_one_worker(contention: float, coherency: float) -> None:
    found = scaling.fit(curve(Fit(contention, coherency, 10), (2, 3, 5, 8, 13)))
    assert found is not None
    assert found.contention == pytest.approx(contention, rel=0.01)
    assert found.single == pytest.approx(10, rel=0.01)


def test_the_law_agrees_with_amdahl_where_pairs_cost_nothing() -> None:
    serial = 0.25
    cells = [cell(n, 1 / (serial + (1 - serial) / n)) for n in (1, 2, 4, 8)]
    found = scaling.fit(cells)
    assert found is not None
    assert found.contention == pytest.approx(serial)
    assert found.coherency == pytest.approx(0, abs=1e-9)
    assert found.peak == math.inf


def test_the_peak_is_where_the_law_turns_down() -> None:
    law = Fit(0.05, 0.001, 1)
    peak = round(law.peak)
    assert law.rate(peak) >= max(law.rate(peak - 1), law.rate(peak + 1))


@pytest.mark.parametrize("cells", [[], [cell(1, 10)], [cell(2, 10), cell(4, 15)]])
def test_too_few_counts_have_no_fit(cells: list[Cell]) -> None:
    assert scaling.fit(cells) is None


def test_coefficients_are_never_negative() -> None:
    better_than_linear = [cell(1, 10), cell(2, 22), cell(4, 50)]
    found = scaling.fit(better_than_linear)
    assert found == Fit(0.0, 0.0, 10.0)


def test_no_more_than_all_is_serial() -> None:
    found = scaling.fit([cell(1, 10), cell(2, 6)])
    assert found is not None
    assert found.contention == 1
    assert found.rate(2) == pytest.approx(6)


def test_the_answer_is_the_smallest_count_within_five_percent_of_the_fastest() -> None:
    assert scaling.choose([cell(1, 10), cell(2, 19), cell(4, 20), cell(8, 20.1)]).workers == 4
    assert scaling.choose([cell(1, 10), cell(2, 19.2), cell(4, 20), cell(8, 20.1)]).workers == 2


def test_of_equal_counts_the_faster_chunk_size_is_chosen() -> None:
    cells = [cell(2, 19.5, chunk_size=1), cell(2, 20, chunk_size=16), cell(4, 20.1, chunk_size=1)]
    assert (scaling.choose(cells).workers, scaling.choose(cells).chunk_size) == (2, 16)


def test_cells_without_rounds_are_never_chosen() -> None:
    assert scaling.choose([cell(1, 10), Cell(2, None)]).workers == 1


def test_the_errors_of_both_sides_are_propagated_into_the_speedup() -> None:
    base, faster = cell(1, 9, 10, 11), cell(2, 19, 20, 21)
    ratio = scaling.speedup(faster, base)
    assert ratio.times == pytest.approx(2)
    assert ratio.efficiency == pytest.approx(1)
    relative = math.sqrt(math.pi / 2) * math.hypot(0.1, 0.05) / math.sqrt(3)
    assert ratio.error == pytest.approx(2 * relative, rel=0.01)
    assert scaling.speedup(base, base).error == 0
    assert scaling.speedup(cell(2, 20), base).error is None


def test_the_bound_is_the_cores_where_they_are_busy() -> None:
    cells = [cell(1, 10, cpu=0.1), cell(2, 20, cpu=0.1), cell(4, 20, cpu=0.1)]
    assert scaling.bound(cells, 2).kind == "cores"


def test_the_bound_is_the_cores_where_others_keep_them_busy() -> None:
    cells = [cell(1, 10, cpu=0.1, elsewhere=1), cell(2, 10, cpu=0.1, elsewhere=1)]
    assert "other programs 1.0" in scaling.bound(cells, 2).sentence


def test_the_bound_is_contention_where_workers_wait() -> None:
    cells = [cell(1, 10, cpu=0.01), cell(2, 15, cpu=0.01), cell(4, 15, cpu=0.01)]
    assert scaling.bound(cells, 8).kind == "contention"


def test_the_bound_is_memory_where_items_cost_more_beside_others() -> None:
    cells = [cell(1, 10, cpu=0.1), cell(2, 14, cpu=0.2 / 1.4), cell(4, 14, cpu=0.4 / 1.4)]
    assert scaling.bound(cells, 8).kind == "memory"


def test_the_bound_is_memory_where_larger_counts_have_no_room() -> None:
    assert scaling.bound([cell(1, 10, cpu=0.1), cell(2, 20, cpu=0.1)], 8, (4, 8)).kind == "memory"


def test_no_bound_is_claimed_where_none_was_met() -> None:
    assert scaling.bound([cell(1, 10, cpu=0.1), cell(2, 20, cpu=0.1)], 8).kind == "none"


def test_the_answer_is_one_sentence() -> None:
    cells = [cell(1, 10), cell(2, 19), cell(4, 31.15), cell(8, 35)]
    assert scaling.answer(cells, Fit(0.05, 0, 10)) == (
        "8 is the fastest; 4 is 11% slower with half the workers; serial share 5%"
    )
    assert scaling.answer([cell(1, 10), cell(2, 10.1)], None) == (
        "2 is the fastest; 1 is 1% slower with half the workers, and is enough"
    )


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([cell(1, 2000, 2000, 2000)], "below 1 s"),
        ([cell(1, 100, 100, 100, 50)], "outlier: round 4 with 1 worker"),
        ([cell(1, 100, 130, 80)], "rounds differ by"),
        ([cell(1, 100, 100, elsewhere=0.7)], "other programs used up to 0.7 of 2 cores"),
        ([cell(4, 100, 100)], "more workers (4) than the 2 usable cores"),
        ([cell(1, 100)], "measured once only"),
        ([cell(1, 100, 100), cell(500, 100, 100)], "1000 items are few for 500 workers"),
    ],
)
def test_what_spoils_a_measurement_is_said(cells: list[Cell], said: str) -> None:
    assert [doubt for doubt in scaling.doubts(cells, 2) if said in doubt]


def test_a_good_measurement_leaves_no_doubt() -> None:
    assert scaling.doubts([cell(1, 100, 101, 100), cell(2, 200, 199, 201)], 2) == []


def test_noise_of_two_percent_moves_the_contention_by_less_than_a_fifth() -> None:
    rng, law = random.Random(3), Fit(0.05, 0.0002, 100)
    for _ in range(50):
        rates = {n: [law.rate(n) * rng.lognormvariate(0, 0.02) for _ in range(5)] for n in POWERS}
        found = scaling.fit([cell(n, *rates[n]) for n in POWERS])
        assert found is not None
        assert found.contention == pytest.approx(law.contention, rel=0.2)


# Results


def test_equal_results_agree() -> None:
    agreement = Agreement()
    for workers in (1, 2, 4):
        for item in range(3):
            agreement.add(workers, item, 100 + item)
            agreement.add(workers, item, 100 + item)
    assert agreement.between_counts is None
    assert agreement.from_call_to_call is None


def test_a_result_that_depends_on_the_count_is_named() -> None:
    agreement = Agreement()
    for workers in (1, 2, 4):
        for item in (3, 5, 7):
            agreement.add(workers, item, 0 if item == 3 else workers // 4)
    assert agreement.between_counts == (2, 5, (1, 4))
    assert agreement.from_call_to_call is None


def test_a_result_that_changes_from_call_to_call_is_told_apart() -> None:
    agreement = Agreement()
    for workers in (1, 2):
        agreement.add(workers, 9, 10 * workers)
        agreement.add(workers, 9, workers)
    assert agreement.from_call_to_call == (1, 9, (1, 1))
    assert agreement.between_counts is None
