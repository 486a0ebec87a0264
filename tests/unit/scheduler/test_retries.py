"""Which failed items are tried again, and when: chance and clock are numbers."""

from __future__ import annotations

import math

import pytest

from batchmill.scheduler.retries import LONGEST, Again, Retries


def failed(position: int = 0, attempts: int = 1) -> Again:
    return Again(0.0, position, position + 1, 0, 9, 0, attempts)


def wait_of(attempts: int, delay: float, chance: float) -> float:
    retries = Retries(1000, delay, lambda: chance)
    retries.add(100.0, failed(attempts=attempts))
    wait = retries.wait(100.0)
    assert wait is not None
    return wait


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_as_many_tries_are_allowed_as_were_asked_for(retries: int) -> None:
    allowed = Retries(retries, 1.0, lambda: 0.5)
    assert [allowed.allows(tried) for tried in range(1, 8)] == [tried <= retries for tried in range(1, 8)]


def test_the_wait_doubles_with_each_try() -> None:
    assert [wait_of(tried, 0.25, 0.5) for tried in (1, 2, 3, 4)] == [0.25, 0.5, 1.0, 2.0]


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)])
def test_chance_spreads_the_wait_by_half_of_it_to_each_side(chance: float, factor: float) -> None:
    assert math.isclose(wait_of(3, 1.0, chance), 4.0 * factor)


def test_the_doubling_ends_at_an_hour_and_never_overflows() -> None:
    assert wait_of(1000, 1.0, 0.5) == LONGEST
    assert wait_of(1000, 1.0, 1.0) == LONGEST * 1.5


def test_without_a_delay_an_item_is_due_at_once() -> None:
    retries = Retries(3, 0.0, lambda: 0.7)
    retries.add(5.0, failed(attempts=3))
    assert retries.due(5.0) is not None


def test_an_item_comes_back_when_its_time_has_come_and_only_once() -> None:
    retries = Retries(3, 2.0, lambda: 0.5)
    retries.add(10.0, failed(4))
    assert len(retries) == 1
    assert retries.due(11.9) is None
    again = retries.due(12.0)
    assert again == failed(4)._replace(due=12.0)
    assert retries.due(99.0) is None
    assert len(retries) == 0


def test_who_is_due_first_comes_first_whoever_waited_longer() -> None:
    retries = Retries(9, 1.0, lambda: 0.5)
    retries.add(0.0, failed(1, attempts=4))  # due at 8
    retries.add(3.0, failed(2, attempts=1))  # due at 4
    retries.add(3.0, failed(3, attempts=2))  # due at 5
    order = [again.position for _ in range(3) if (again := retries.due(100.0))]
    assert order == [2, 3, 1]


def test_the_wait_is_that_of_the_first_and_never_negative() -> None:
    retries = Retries(9, 1.0, lambda: 0.5)
    assert retries.wait(0.0) is None
    retries.add(0.0, failed(1, attempts=3))
    retries.add(0.0, failed(2, attempts=1))
    assert retries.wait(0.25) == 0.75
    assert retries.wait(50.0) == 0.0


def test_items_that_failed_together_do_not_all_come_back_together() -> None:
    numbers = iter(n / 100 for n in range(100))
    retries = Retries(1, 10.0, lambda: next(numbers))
    for position in range(100):
        retries.add(0.0, failed(position))
    early = sum(retries.due(7.5) is not None for _ in range(100))
    assert 20 <= early <= 30
