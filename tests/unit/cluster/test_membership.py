"""Which nodes of a cluster take part: the table of `membership`, move by move."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from batchmill.cluster.membership import MOST, PAUSE, Membership
from batchmill.errors import ClusterUnfit, IllegalMove

OLD = ClusterUnfit("too old")


def joined(*names: str, wanted: int | str = "auto", threads: int = 4) -> Membership:
    members = Membership(wanted)
    members.invite(dict.fromkeys(names, threads), 0.0)
    for name in names:
        members.joined(name)
    return members


@pytest.mark.parametrize(
    ("wanted", "shares"),
    [("auto", [1, 4, 16]), ("50%", [1, 2, 8]), ("10%", [1, 1, 1]), ("200%", [2, 8, 32]), (3, [1, 3, 3])],
)
def test_a_worker_has_a_worker_for_each_thread_or_the_share_that_was_asked_for(
    wanted: int | str, shares: list[int]
) -> None:
    assert [Membership(wanted).share(threads) for threads in (1, 4, 16)] == shares


def test_a_number_of_workers_is_for_all_workers_together_in_the_order_they_come() -> None:
    members = Membership(6)
    assert members.most({"a": 4, "b": 4}) == 6
    assert members.invite({"a": 4, "b": 4, "c": 4}, 0.0) == {"a": 4, "b": 2}
    assert members.invite({"a": 4, "b": 4, "c": 4}, 1.0) == {}
    assert members.left({"b": 4, "c": 4}) == ["a"]
    assert members.invite({"b": 4, "c": 4}, 2.0) == {"c": 4}


def test_there_is_at_least_one_worker_even_where_nobody_is() -> None:
    assert Membership("auto").most({}) == 1


def test_who_is_lost_may_join_again_and_who_is_in_is_not_asked() -> None:
    members = joined("a")
    assert members.invite({"a": 4}, 9.0) == {}
    assert members.is_in("a")
    members.lost("a")
    assert not members.has("a")
    assert members.invite({"a": 4}, 9.0) == {"a": 4}


def test_who_fails_rests_twice_as_long_each_time_and_is_refused_at_last() -> None:
    members, now, pause = Membership("auto"), 100.0, PAUSE
    for _ in range(MOST - 1):
        assert members.invite({"a": 4}, now) == {"a": 4}
        assert not members.failed("a", now, OLD)
        assert members.invite({"a": 4}, now + 0.99 * pause) == {}
        now, pause = now + pause, 2 * pause
    members.invite({"a": 4}, now)
    assert members.unfit is None
    assert members.failed("a", now, OLD)
    assert members.unfit is OLD
    assert members.invite({"a": 4}, now + 1e9) == {}


def test_failures_before_a_success_are_forgotten() -> None:
    members = Membership("auto")
    for _ in range(3 * MOST):
        members.invite({"a": 4}, 0.0)
        members.failed("a", 0.0, OLD)
        members.invite({"a": 4}, 1e9)
        members.joined("a")
        members.lost("a")
    assert members.unfit is None


def test_there_is_no_hope_only_where_all_there_are_were_refused() -> None:
    members = joined("a", "b")
    members.refused("a", OLD)
    assert members.unfit is None
    members.refused("b", ClusterUnfit("none"))
    assert members.unfit is OLD
    members.invite({"a": 4, "b": 4, "c": 4}, 0.0)
    assert members.are_coming
    assert members.unfit is None
    assert sorted(members.left({})) == ["a", "b", "c"]
    assert members.unfit is None
    assert not members.are_coming


def test_a_refused_worker_gives_its_workers_back() -> None:
    members = joined("a", wanted=4)
    members.refused("a", OLD)
    assert members.invite({"a": 4, "b": 4}, 0.0) == {"b": 4}


ILLEGAL: dict[str, Callable[[Membership], object]] = {
    "joined, of who was not invited": lambda members: members.joined("x"),
    "joined, twice": lambda members: members.joined("in"),
    "failed, of who is in": lambda members: members.failed("in", 0.0, OLD),
    "failed, of who was refused": lambda members: members.failed("refused", 0.0, OLD),
    "refused, twice": lambda members: members.refused("refused", OLD),
    "lost, of who was refused": lambda members: members.lost("refused"),
    "lost, of who is not known": lambda members: members.lost("x"),
}


@pytest.mark.parametrize("move", ILLEGAL)
def test_any_other_move_is_refused_and_changes_nothing(move: str) -> None:
    members = joined("in", "refused")
    members.refused("refused", OLD)
    with pytest.raises(IllegalMove):
        ILLEGAL[move](members)
    assert members.is_in("in")
    assert members.has("refused")
    assert not members.is_in("refused")
    assert not members.has("x")
