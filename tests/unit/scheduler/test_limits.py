"""How many failures end a run, and how many still are a success: decisions on counts alone."""

from __future__ import annotations

from typing import Any

import pytest

from batchmill.scheduler.run_limits import FIRST, FailureLimits, exceeds
from batchmill.settings import Settings


def limits(**settings: Any) -> FailureLimits:
    return FailureLimits(Settings(**settings))


def test_auto_stops_only_where_the_first_hundred_all_failed() -> None:
    auto = limits()
    assert auto.reason_to_stop(0, FIRST - 1) is None
    assert auto.reason_to_stop(0, FIRST) == "the first 100 items all failed"
    assert "cannot be kept" in (auto.reason_to_stop(0, 1, unkept=1) or "")
    assert auto.reason_to_stop(0, 2, unkept=1) is auto.reason_to_stop(1, 1, unkept=1) is None
    assert auto.reason_to_stop(0, 1, again=1, unkept=1) is None
    assert auto.reason_to_stop(1, 10**6) is None


@pytest.mark.parametrize(("ok", "failed"), [(0, 0), (0, FIRST), (5, 10**9)])
def test_none_never_stops(ok: int, failed: int) -> None:
    assert limits(max_failures="none").reason_to_stop(ok, failed) is None


def test_a_number_stops_when_it_is_reached() -> None:
    three = limits(max_failures=3)
    assert three.reason_to_stop(10**6, 2) is None
    assert three.reason_to_stop(10**6, 3) == "3 items failed (max_failures=3)"
    assert three.reason_to_stop(0, 4) == "4 items failed (max_failures=3)"


def test_a_share_stops_when_it_is_exceeded_and_not_before_a_hundred_were_tried() -> None:
    tenth = limits(max_failures="10%")
    assert tenth.reason_to_stop(0, FIRST - 1) is None
    assert tenth.reason_to_stop(90, 10) is None
    assert tenth.reason_to_stop(89, 11) == "11 of 100 items failed (max_failures=10%)"


def test_nothing_is_allowed_to_fail_unless_it_is_said() -> None:
    assert limits().is_success(0, 10)
    assert not limits().is_success(1, 10)


@pytest.mark.parametrize(
    ("allowed", "failed", "total", "fine"),
    [
        (3, 3, 10, True),
        (3, 4, 10, False),
        ("10%", 1, 10, True),
        ("10%", 2, 10, False),
        ("0.5%", 5, 1000, True),
        ("0.5%", 6, 1000, False),
        ("10%", 0, 0, True),
        ("100%", 10, 10, True),
    ],
)
def test_as_many_as_allowed_may_fail(allowed: str | int, failed: int, total: int, fine: bool) -> None:
    assert limits(allow_failures=allowed).is_success(failed, total) is fine


@pytest.mark.parametrize(("part", "more"), [(33, False), (34, True)])
def test_a_share_is_compared_without_rounding(part: int, more: bool) -> None:
    assert exceeds(part, 1000, "3.3%") is more


def test_items_that_had_failed_before_do_not_make_auto_stop() -> None:
    auto = limits()
    assert auto.reason_to_stop(0, FIRST + 50, again=51) is None
    assert auto.reason_to_stop(0, FIRST + 50, again=50) is not None


def test_items_that_will_be_tried_again_are_no_failures_yet() -> None:
    three, tenth = limits(max_failures=3), limits(max_failures="10%")
    assert three.reason_to_stop(0, 5, waiting=3) is None
    assert three.reason_to_stop(0, 5, waiting=2) == "3 items failed (max_failures=3)"
    assert tenth.reason_to_stop(80, 20, waiting=10) is None
    assert tenth.reason_to_stop(80, 20, waiting=9) == "11 of 100 items failed (max_failures=10%)"


def test_auto_stops_where_all_fail_whether_they_will_be_tried_again_or_not() -> None:
    assert limits().reason_to_stop(0, FIRST, waiting=FIRST) is not None
