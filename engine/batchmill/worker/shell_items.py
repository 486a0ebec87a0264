"""A script for a shell that many items are handed to at once, as "$@": their text never becomes part of it.

    gzip -k {}                           -->  gzip -k "$@"
    for f in "$@"; do gzip "$f"; done    -->  as it is
    gzip -k                              -->  gzip -k "$@"

A shell of POSIX has one list, so a script may have one placeholder, of which the list has a value an item; and it must
be a word of its own, for it becomes many.
"""

from __future__ import annotations

import re
import shlex

from batchmill.errors import InvalidUsage
from batchmill.text import option
from batchmill.worker.shell_script import Place, places_in
from batchmill.worker.template import Grammar, Part, Placeholder, Task, as_argument, placeholders, text_of

_ALL = '"$@"'
_QUOTED = re.compile(r'(?<![^\s;|&()])"(\{[^{}"\s]*\})"(?![^\s;|&()])')  # "{}" is {}
_BEFORE, _AFTER = re.compile(r"(?:^|[\s;|&(])\Z"), re.compile(r"[\s;|&)]|$")
_REDIRECTED = re.compile(r"[<>]\s*\Z")
_HAS_ALL = re.compile(r"\$\{?[@*]|\bfor\s+\w+\s*(?:;|\n|do\b)")


class ShellItems:
    """A script for many items; raises InvalidUsage for one that cannot take them. Where it takes them nowhere, they are
    its `last` words."""

    def __init__(self, script: str, grammar: Grammar, *, last: bool) -> None:
        parts = grammar.parse(_QUOTED.sub(r"\1", script))
        found = list(placeholders(parts))
        self.has_placeholder = bool(found)
        self._part: Part = found[0].part if found else text_of
        self._parts: list[str | Placeholder] = parts
        if found:
            self._check(parts, found)
        elif last and not _HAS_ALL.search(script):
            self._parts = [*parts, " ", _ITEM]
        self._script = "".join(part if isinstance(part, str) else _ALL for part in self._parts)

    def _check(self, parts: list[str | Placeholder], found: list[Placeholder]) -> None:
        names = list(dict.fromkeys(one.written for one in found))
        if len(names) > 1:
            raise _unfit(f"{names[0]} and {names[1]} are two lists, and a shell has one")
        text = "".join(part if isinstance(part, str) else part.written for part in parts)
        try:
            places, at = iter(places_in(parts)), 0
        except InvalidUsage as error:
            raise _unfit(error.message) from None
        for part in parts:
            end = at + len(part if isinstance(part, str) else part.written)
            if isinstance(part, Placeholder):
                before, after = text[:at], text[end:]
                if next(places) is not Place.BARE or not _BEFORE.search(before) or not _AFTER.match(after):
                    raise _unfit(f"{part.written} is no word of its own in --shell, and many items are many words")
                if _REDIRECTED.search(before):
                    raise _unfit(f"{part.written} is no one file to redirect to")
            at = end

    def fill(self, *tasks: Task) -> list[bytes]:
        """The words behind `sh -c`; raises ItemFailed as Template.fill does."""
        return [as_argument(self._script), b"sh", *(as_argument(self._part(task)) for task in tasks)]

    def shown(self, *tasks: Task) -> str:
        """The script as one could type it for these items."""
        words = shlex.join(self._part(task) for task in tasks)
        if all(isinstance(part, str) for part in self._parts):
            return f"set -- {words}; {self._script}" if _HAS_ALL.search(self._script) else self._script
        return "".join(part if isinstance(part, str) else words for part in self._parts)


_ITEM = Placeholder("{}", 0, 2, text_of)


def _unfit(sentence: str) -> InvalidUsage:
    return InvalidUsage(sentence, f"write: for item in {_ALL}; do ...; done; or leave out {option('batch_size')}")
