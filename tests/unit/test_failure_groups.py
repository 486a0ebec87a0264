"""Failed items in groups: what is told apart, what is named, and what is taken back."""

from batchmill.failure_groups import EXAMPLES, OTHER_MESSAGES, OTHER_TYPES, FailureGroups, commonest
from batchmill.model import FailureExample, FailureGroup


def test_types_and_messages_are_told_apart_up_to_a_limit_and_counted_beyond_it() -> None:
    groups = FailureGroups(key=str.lower, shown=str, most_types=2, most_messages=2)
    for line, (type, message) in enumerate([("A", "x"), ("A", "X"), ("A", "y"), ("A", "z"), ("B", "x"), ("C", "x")], 1):
        groups.add(type, message, line, line, traceback=f"at {line}" if line > 1 else "")
    assert {type: group.count for type, group in groups.types.items()} == {"A": 4, "B": 1, OTHER_TYPES: 1}
    (first, alike), *_ = commonest(groups.types["A"].alike)
    assert (first, alike.examples) == ("x", [FailureExample("1", 1, "x"), FailureExample("2", 2, "X")])
    assert groups.types["A"].alike[OTHER_MESSAGES].count == 1
    assert groups.types["A"].traceback == "at 2"
    assert [(group.type, group.count, len(group.examples)) for group in groups.reported()] == [
        ("A", 4, 4), ("B", 1, 1), (OTHER_TYPES, 1, 0),
    ]  # fmt: skip


def test_groups_add_up_and_an_item_that_is_tried_again_is_taken_back() -> None:
    groups = FailureGroups(most_types=1)
    examples = tuple(FailureExample(n, n, "m") for n in range(3))
    for group in (FailureGroup("A", 9, examples), FailureGroup("A", 4, examples), FailureGroup("B", 1, examples[:1])):
        groups.add_group(group)
    assert [(group.type, group.count) for group in groups.reported()] == [("A", 13), (OTHER_TYPES, 1)]
    assert len(groups.types["A"].alike[""].examples) == EXAMPLES
    groups.forget("A", 0)
    groups.forget("B", 0)
    assert [(group.count, [each.id for each in group.examples]) for group in groups.reported()] == [(12, [1, 2, 1])]
