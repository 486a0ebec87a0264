"""A script for a shell that items are handed to: their text never becomes part of it.

    tar xf {} && echo "{/} done"  -->  _item_1=$1 _item_2=$2; shift 2; tar xf "${_item_1}" && echo "${_item_2} done"

The values are positional parameters, and become variables first: a function, or `set --`, has others. What stands in
place of a placeholder depends on the quotes around it, so the script is read as far as quotes, comments, parentheses
and here-documents go. Where nothing could stand (single quotes, in which other programs have their code), or where
shells differ in what is quoted, the placeholder is refused. In arithmetic, of which shells read values as code, an item
must be a number.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from batchmill.errors import InvalidUsage, ItemError, ItemFailed
from batchmill.worker.template import Grammar, Part, Placeholder, Task, as_argument, placeholders

_NUMBER = re.compile(r"[-+]?\d+")
_COMPARES = re.compile(r"\s-(?:eq|ne|lt|le|gt|ge|v)\s")  # in [[ ]]: what is on both sides is arithmetic
_SUBSCRIPT = re.compile(r"\w\[[^]\s]*\Z")
_HERE = re.compile(r"<<(-?)[ \t]*((?:[^\s;&|<>()\\'\"]|\\.|'[^']*'|\"[^\"]*\")+)")


class Place(Enum):
    """What is around a placeholder."""

    BARE = "bare"
    QUOTED = "quoted"  # by double quotes
    HERE = "here"  # in a here-document
    NUMBER = "number"  # in arithmetic


_SPECIAL = {Place.QUOTED: re.compile(r'([\\"$`])'), Place.HERE: re.compile(r"([\\$`])")}  # what is to be escaped there


class ShellScript:
    """A script with placeholders. Raises InvalidUsage for one that cannot be there."""

    def __init__(self, script: str, grammar: Grammar) -> None:
        parts = grammar.parse(script)
        found = list(placeholders(parts))
        places = places_in(parts) if found else []
        self._names: dict[str, str] = {}
        self._values: list[Part] = []
        self._parts: list[str | tuple[Placeholder, Place]] = []
        at = iter(places)
        for part in parts:
            if isinstance(part, str):
                self._parts.append(part)
            else:
                place = next(at)
                self._take(part, place)
                self._parts.append((part, place))
        self._script = self._begin() + "".join(map(self._reference, self._parts))

    @property
    def has_placeholder(self) -> bool:
        """Whether there is any placeholder."""
        return bool(self._values)

    def fill(self, task: Task) -> list[bytes]:
        """The words behind `sh -c` for an item; raises ItemFailed as Template.fill does."""
        return [as_argument(self._script), b"sh", *(as_argument(value(task)) for value in self._values)]

    def shown(self, task: Task) -> str:
        """The script as one could type it for an item."""
        return "".join(part if isinstance(part, str) else _typed(part[0].part(task), part[1]) for part in self._parts)

    def _take(self, found: Placeholder, place: Place) -> None:
        if _key(found, place) not in self._names:
            self._names[_key(found, place)] = f"_item_{len(self._names) + 1}"
            self._values.append(_as_number(found) if place is Place.NUMBER else found.part)

    def _begin(self) -> str:
        if not self._values:
            return ""
        taken = " ".join(f"{name}=${{{number}}}" for number, name in enumerate(self._names.values(), 1))
        return f"{taken}; shift {len(self._values)}; "

    def _reference(self, part: str | tuple[Placeholder, Place]) -> str:
        if isinstance(part, str):
            return part
        name = self._names[_key(*part)]
        return f'"${{{name}}}"' if part[1] is Place.BARE else f"${{{name}}}"


def places_in(parts: Sequence[str | Placeholder]) -> list[Place]:
    """What is around each placeholder of a script; raises InvalidUsage for one that cannot be there."""
    return _Reading(parts).places


def _key(found: Placeholder, place: Place) -> str:
    return f"{place is Place.NUMBER}{found.written}"


def _as_number(found: Placeholder) -> Part:
    def part(task: Task) -> str:
        value = found.part(task)
        if not _NUMBER.fullmatch(value):
            sentence = f"{found.written} stands in arithmetic of --shell, and {value[:50]!r} is no whole number"
            raise ItemFailed(ItemError("ValueError", sentence))
        return value

    return part


def _typed(value: str, place: Place) -> str:
    if place is Place.BARE:
        return shlex.quote(value)
    return _SPECIAL[place].sub(r"\\\1", value) if place in _SPECIAL else value


class _Reading:
    """One pass over a script: the place of each placeholder.

    `_open` has what is open, the innermost last: `(` is a list of commands, `((` and `[[` are arithmetic, `()` is in
    there, `${` is an expansion.
    """

    def __init__(self, parts: Sequence[str | Placeholder]) -> None:
        self._text = "".join(part if isinstance(part, str) else part.written for part in parts)
        self._holes = dict(_spans(parts))
        self._open = ["("]
        self._is_fresh = True  # a word would begin here
        self._unsure = ""  # why nothing can be said of what follows
        self._here: list[tuple[str, bool, bool]] = []  # here-documents to come: end, whether it is quoted, tabs
        self.places: list[Place] = []
        at = 0
        while at < len(self._text):
            at = self._step(at)

    def _step(self, at: int) -> int:
        hole = self._holes.get(at)
        if hole is not None:
            self.places.append(self._place(hole, at))
            self._is_fresh = False
            return at + len(hole.written)
        return _READERS[self._open[-1]](self, at)

    def _place(self, hole: Placeholder, at: int) -> Place:
        inner = self._open[-1]
        if self._unsure:
            raise _exposed(hole, self._unsure)
        if inner == "'":
            raise _exposed(hole, "inside single quotes", "end them before it and begin them again: '...'{}'...'")
        if inner in ("`", "${"):
            raise _exposed(hole, "inside backquotes" if inner == "`" else "inside ${...}")
        if at and self._text[at - 1] in "\\$":
            raise _exposed(hole, f"behind a {self._text[at - 1]}", "leave that out; {{}} is the text itself")
        if self._is_arithmetic() or (inner == "(" and _SUBSCRIPT.search(self._text[:at])):
            return Place.NUMBER
        return Place.QUOTED if inner == '"' else Place.BARE

    def _is_arithmetic(self) -> bool:
        for kind in reversed(self._open):
            if kind in ("((", "[["):
                return True
            if kind == "(":
                return False
        return False

    # One step, by what is open

    def _in_commands(self, at: int) -> int:
        text, was_fresh = self._text, self._is_fresh
        letter = text[at]
        self._is_fresh = letter in " \t\n;&|()<>"
        if letter == "#" and was_fresh:
            return self._comment(at)
        if letter == "\n" and self._here:
            return self._here_documents(at + 1)
        if text.startswith("<<", at):
            return self._here_begins(at)
        if was_fresh and (opened := self._word_opens(at)):
            return at + opened
        if letter in "()":
            return self._parenthesis(at)
        if text.startswith(("$'", "$["), at):
            self._unsure = f"behind {text[at : at + 2]}, which shells read differently"
        if text.startswith("\\\n", at):
            self._is_fresh = was_fresh
        return self._common(at)

    def _parenthesis(self, at: int) -> int:
        if self._text[at] == "(":
            return self._opened("((" if self._text.startswith("((", at) else "(", at)
        if len(self._open) > 1:  # else it is that of a `case`
            self._open.pop()
        return at + 1

    def _word_opens(self, at: int) -> int:
        """Of [[ with arithmetic in it, its length: it is open then. In `case` in parentheses, these mean another
        thing."""
        word = re.match(r"\S+", self._text[at:])
        if word is not None and word[0] == "[[" and _COMPARES.search(self._text[at:].partition("]]")[0]):
            self._open.append("[[")
            return 2
        if word is not None and word[0] == "case" and len(self._open) > 1:
            self._unsure = "behind `case` inside parentheses"
        return 0

    def _in_arithmetic(self, at: int) -> int:
        kind = self._open[-1]
        if self._text.startswith("))" if kind == "((" else "]]", at):
            self._open.pop()
            return at + 2
        letter = self._text[at]
        if kind == "((" and letter == "(":
            return self._opened("()", at) - 1
        if kind == "((" and letter == ")":  # it was no arithmetic, but commands in commands
            self._open[-1] = "("
            return at + 1
        return self._common(at)

    def _in_parentheses(self, at: int) -> int:
        if self._text[at] == "(":
            return self._opened("()", at) - 1
        if self._text[at] == ")":
            self._open.pop()
            return at + 1
        return self._common(at)

    def _in_single(self, at: int) -> int:
        if self._text[at] == "'":
            self._open.pop()
        return at + 1

    def _in_backquotes(self, at: int) -> int:
        if self._text[at] == "`":
            self._open.pop()
        return at + (1 if self._text[at] != "\\" or at + 1 in self._holes else 2)

    def _in_double(self, at: int) -> int:
        letter = self._text[at]
        if letter == '"':
            self._open.pop()
            return at + 1
        return at + 1 if letter == "'" else self._common(at)

    def _in_expansion(self, at: int) -> int:
        letter = self._text[at]
        if letter == "}":
            self._open.pop()
            return at + 1
        if letter == "'" and '"' in self._open:
            return at + 1
        return self._common(at)

    def _common(self, at: int) -> int:
        """What means the same wherever commands, arithmetic and double quotes are."""
        text, letter = self._text, self._text[at]
        if letter == "\\":
            return at + (1 if at + 1 in self._holes else 2)
        if letter == "\n" and self._here:
            self._unsure = "behind a here-document that begins inside quotes"
        if letter in "'\"`":
            return self._opened(letter, at)
        for opening, kind in (("$((", "(("), ("$(", "("), ("${", "${")):
            if text.startswith(opening, at) and at + 1 not in self._holes:
                self._is_fresh = kind == "("
                self._open.append(kind)
                return at + len(opening)
        return at + 1

    def _opened(self, kind: str, at: int) -> int:
        self._open.append(kind)
        return at + len(kind)

    # Lines

    def _comment(self, at: int) -> int:
        end = self._text.find("\n", at)
        end = len(self._text) if end < 0 else end
        self.places += [Place.BARE for start in self._holes if at <= start < end]
        return end

    def _here_begins(self, at: int) -> int:
        if self._text.startswith("<<<", at):
            return at + 3
        found = _HERE.match(self._text, at)
        if found is None or any(found.start() <= start < found.end() for start in self._holes):
            self._unsure = "behind a here-document whose end is not plain"
            return at + 2
        word = found[2]
        self._here.append((re.sub(r"\\(.)|['\"]", r"\1", word), word.isidentifier(), bool(found[1])))
        self._is_fresh = False
        return found.end()

    def _here_documents(self, at: int) -> int:
        """Read those that begin here; where the commands go on."""
        while self._here:
            end_word, is_plain, has_tabs = self._here.pop(0)
            begin = at
            while at < len(self._text):
                end = self._text.find("\n", at)
                end = len(self._text) if end < 0 else end
                line = self._text[at:end]
                if (line.lstrip("\t") if has_tabs else line) == end_word:
                    at = end + 1
                    break
                self._here_line(begin, at, end, is_plain)
                at = end + 1
        self._is_fresh = True
        return min(at, len(self._text))

    def _here_line(self, begin: int, at: int, end: int, is_plain: bool) -> None:
        for start, hole in self._holes.items():
            if not at <= start < end:
                continue
            before = self._text[begin:start]
            if self._unsure or not is_plain:
                raise _exposed(hole, self._unsure or "in a here-document whose end is quoted")
            if re.search(r"\$[({]|`|[\\$]\Z", before):
                raise _exposed(hole, "in a here-document, behind a command or an expansion")
            self.places.append(Place.HERE)


_READERS: dict[str, Callable[[_Reading, int], int]] = {
    "(": _Reading._in_commands,
    "((": _Reading._in_arithmetic,
    "[[": _Reading._in_arithmetic,
    "()": _Reading._in_parentheses,
    "'": _Reading._in_single,
    '"': _Reading._in_double,
    "`": _Reading._in_backquotes,
    "${": _Reading._in_expansion,
}


def _spans(parts: Sequence[str | Placeholder]) -> Iterator[tuple[int, Placeholder]]:
    at = 0
    for part in parts:
        if isinstance(part, str):
            at += len(part)
        else:
            yield at, part
            at += len(part.written)


def _exposed(hole: Placeholder, where: str, remedy: str = "") -> InvalidUsage:
    """Why a placeholder cannot be there."""
    otherwise = f"put it into a variable first: x={hole.written}; and write $x there"
    return InvalidUsage(f"{hole.written} stands {where} in --shell", remedy.replace("{}", hole.written) or otherwise)
