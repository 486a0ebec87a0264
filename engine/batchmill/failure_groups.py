"""Failed items by error type, and within a type by what their messages share: how many, and the first few of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from batchmill.model import FailureExample, FailureGroup

EXAMPLES = 5  # failed items that are named of those alike
OTHER_TYPES = "other types"  # those beyond the types that are told apart
OTHER_MESSAGES = None  # the same for messages: no message is equal to it


@dataclass
class Alike:
    """Failed items of one type whose messages are alike: how many, and the first few."""

    count: int = 0
    examples: list[FailureExample] = field(default_factory=list)


@dataclass
class TypeGroup:
    """Failed items that share an error type, by what their messages share; `traceback` is the first one."""

    count: int = 0
    traceback: str = ""
    alike: dict[str | None, Alike] = field(default_factory=dict)


_Counted = TypeVar("_Counted", Alike, TypeGroup)


class FailureGroups:
    """Groups of failed items, of bounded size: at most `most_types` and `most_messages` of each type are told apart.

    `key` makes of a message what it shares with those alike (all of a type where it is not given), `shown` makes of an
    id what stands for it in an example.
    """

    def __init__(
        self,
        *,
        key: Callable[[str], str] = lambda message: "",
        shown: Callable[[Any], Any] = lambda value: value,
        most_types: int = sys.maxsize,
        most_messages: int = sys.maxsize,
    ) -> None:
        self._key, self._shown = key, shown
        self._most_types, self._most_messages = most_types, most_messages
        self.types: dict[str, TypeGroup] = {}

    def add(self, type: str, message: str, id: Any, line: int, traceback: str = "", *, file: str = "") -> None:
        """Count a failed item."""
        group, alike = self._group(type, message, 1)
        group.traceback = group.traceback or traceback
        if len(alike.examples) < EXAMPLES:
            alike.examples.append(FailureExample(self._shown(id), line, message, file))

    def add_group(self, added: FailureGroup, file: str = "") -> None:
        """Count all of a group of that INPUT, without a key to messages."""
        _, alike = self._group(added.type, "", added.count)
        room = EXAMPLES - len(alike.examples)
        alike.examples.extend(replace(example, file=file) for example in added.examples[:room])

    def _group(self, type: str, message: str, count: int) -> tuple[TypeGroup, Alike]:
        if type not in self.types and len(self.types) >= self._most_types:
            type = OTHER_TYPES
        group = self.types.setdefault(type, TypeGroup())
        group.count += count
        key: str | None = self._key(message)
        if key not in group.alike and len(group.alike) >= self._most_messages:
            key = OTHER_MESSAGES
        alike = group.alike.setdefault(key, Alike())
        alike.count += count
        return group, alike

    def forget(self, type: str, line: int, file: str = "") -> None:
        """Take back an item that was counted under this type, without a key to messages."""
        type = type if type in self.types else OTHER_TYPES
        group = self.types[type]
        group.count -= 1
        for alike in group.alike.values():
            alike.count -= 1
            alike.examples = [example for example in alike.examples if (example.line, example.file) != (line, file)]
        if not group.count:
            del self.types[type]

    def reported(self) -> Iterator[FailureGroup]:
        """The groups as a Report has them, in the order of their first items; those of other types are not named."""
        for type, group in self.types.items():
            examples = [example for alike in group.alike.values() for example in alike.examples]
            yield FailureGroup(type, group.count, () if type == OTHER_TYPES else tuple(examples))


def commonest(groups: Mapping[Any, _Counted]) -> list[tuple[Any, _Counted]]:
    """Groups with their keys, the largest first."""
    return sorted(groups.items(), key=lambda group: -group[1].count)
