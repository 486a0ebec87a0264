"""Outcomes of one id: the next record's is found as among all of them, and at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchmill.checkpoint.repeated import Repeated

BITS = 2


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12),
    st.lists(st.tuples(st.sampled_from(["claim", "take", "look"]), st.none() | st.integers(0, 3)), max_size=20),
)
def test_it_is_the_first_ok_one_of_that_content_or_of_any(
    kinds: list[tuple[int, bool]], steps: list[tuple[str, int | None]]
) -> None:
    added = [(number << BITS + 1) | content << 1 | failed for number, (content, failed) in enumerate(kinds)]
    taken, left = set[int](), list(added)
    repeated = Repeated(BITS, lambda outcome: outcome not in taken)
    for outcome in added:
        repeated.add(outcome)
    for step, content in steps:
        wanted = [one for one in left if content is None or one >> 1 & 3 == content]
        best = min(wanted, key=lambda one: one & 1, default=None)
        assert repeated.best(content) == best
        if best is not None and step != "look":
            left.remove(best)
            taken.add(best) if step == "take" else repeated.claim(best)
    assert {one for one in repeated if one not in taken} == set(left)


def test_of_very_many_that_are_alike_each_is_looked_at_a_few_times() -> None:
    looks = 0

    def is_live(outcome: int) -> bool:
        nonlocal looks
        looks += 1
        return outcome % 3 > 0

    repeated = Repeated(BITS, is_live)
    for number in range(30_000):
        repeated.add(number << BITS + 1)
    while (outcome := repeated.best(0)) is not None:
        assert repeated.best() == outcome
        repeated.claim(outcome)
    assert looks < 5 * 30_000
