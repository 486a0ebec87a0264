"""When an item has taken too long, on a clock that is a number."""

from __future__ import annotations

from batchmill.pool.watchdog import Action, Overdue, Watchdog

TIMEOUT, PATIENCE, LONGEST = 1.0, 0.5, 0.2


class Clock:
    """Lets a watchdog look at the same board again and again, `step` seconds apart."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.dog = Watchdog(TIMEOUT, PATIENCE, LONGEST)

    def look(self, *board: tuple[int, int], step: float = 0.1) -> list[tuple[int, Action]]:
        self.now += step
        return [(overdue.slot, overdue.action) for overdue in self.dog.look(self.now, ((*one, 0) for one in board))]

    def looks(self, times: int, *board: tuple[int, int], step: float = 0.1) -> list[tuple[int, Action]]:
        return [found for _ in range(times) for found in self.look(*board, step=step)]


def test_an_item_within_its_time_is_left_alone() -> None:
    clock = Clock()
    assert clock.looks(10, (0, 7)) == []


def test_an_item_is_asked_to_raise_once_and_then_killed() -> None:
    clock = Clock()
    found = clock.looks(16, (0, 7), step=0.125)
    # 0.125 s each: nine looks make 1.0 s, four more 1.5 s.
    assert found[0] == (0, Action.RAISE)
    assert found[1:] == [(0, Action.KILL)] * 4, "it is said again until the worker is gone from the board"
    assert Clock().looks(8, (0, 7), step=0.125) == []


def test_what_is_overdue_is_named_by_slot_number_and_seconds() -> None:
    dog = Watchdog(TIMEOUT, PATIENCE, LONGEST)
    dog.look(0.0, [(3, 77, 0)])
    for tick in range(1, 9):
        found = dog.look(tick * 0.125, [(3, 77, 0)])
    assert found == [Overdue(3, 77, Action.RAISE, 1.0)]


def test_the_next_item_on_a_worker_begins_at_nothing() -> None:
    clock = Clock()
    for number in range(1, 50):
        assert clock.looks(9, (0, number)) == []


def test_a_worker_that_was_idle_in_between_begins_at_nothing() -> None:
    clock = Clock()
    assert clock.looks(9, (0, 7)) == []
    assert clock.look() == []
    assert clock.looks(9, (0, 7)) == []


def test_each_worker_has_a_time_of_its_own() -> None:
    clock = Clock()
    clock.looks(6, (0, 7))
    found = clock.looks(6, (0, 7), (1, 8))
    assert found == [(0, Action.RAISE)]


def test_a_suspended_machine_counts_as_one_longest_tick() -> None:
    clock = Clock()
    clock.look((0, 7))
    assert clock.look((0, 7), step=3600.0) == []
    assert clock.looks(7, (0, 7)) == []  # 0.2 + 0.7 s so far
    assert clock.looks(2, (0, 7)) == [(0, Action.RAISE)]


def test_a_parent_stopped_again_and_again_fails_nobody_in_a_few_looks() -> None:
    clock = Clock()
    assert clock.looks(5, (0, 7), step=10.0) == []


def test_a_clock_that_goes_back_counts_nothing() -> None:
    clock = Clock()
    clock.looks(5, (0, 7))
    assert clock.look((0, 7), step=-100.0) == []
    assert clock.looks(5, (0, 7)) == []


def test_the_wait_between_raise_and_kill_is_counted_the_same_way() -> None:
    clock = Clock()
    while not clock.look((0, 7)):
        pass
    assert clock.look((0, 7), step=3600.0) == []
    assert (0, Action.KILL) in clock.looks(4, (0, 7))


def test_an_item_that_is_called_by_itself_after_a_call_of_many_has_time_of_its_own() -> None:
    dog = Watchdog(TIMEOUT, PATIENCE, LONGEST)
    looks = [dog.look(tick * 0.125, [(3, 77, 70)]) for tick in range(9)]
    assert looks[-1] == [Overdue(3, 77, Action.RAISE, 1.0)]
    assert [dog.look(1.0 + tick * 0.125, [(3, 77, 0)]) for tick in range(1, 9)] == [[]] * 8
