"""The placeholders of a command: words with `{}` in them, and an item, to the words to run.

    {}    the item               {/}   without its directory    {#}      its number in the input, from 1
    {.}   without its extension  {//}  its directory            {%}      the worker's number, from 0
                                 {/.}  without both             {name}   a field or column of a JSON or CSV item

The item as text is itself where it is text, else its record as it stands in the input (`{"n": 1}`). The rules for `{.}`
to `{/.}` are GNU parallel's. Where the columns are known, any of their names may stand in braces, and nothing else that
looks like a name; `{"any name"}` works everywhere. Doubled braces mean themselves: `{{}}` is `{}`, and so with all of
the above. `${name}` is the shell's own and stays, as does what only looks like a placeholder. What is one for GNU
parallel and not here is refused: it would be passed on as it is.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from batchmill.codec.json_form import Plain
from batchmill.errors import InvalidUsage, ItemError, ItemFailed
from batchmill.text import nearest
from batchmill.value_class import value_class

_OWN = r"\.|/|//|/\.|#|%|"
_NAME = r"[A-Za-z_][\w.-]*"
_QUOTED = r'"(?:[^"\\\n]|\\.)+"'
# GNU parallel's others: of one of several sources, of a second extension, counted, in Perl.
_FOREIGN = r"[-+]?\d+(?:\.{1,3}|//?|/\.{1,3})?|\.{2,3}|/\.{2,3}|\+(?:/|\.{1,3})|##|0+[#%]|=.*?="
_NUMBERED = re.compile(r"\{\d+\}")  # so does a pattern say how often
_AT_BEGIN = " \t\n/='\""  # before what would be no pattern
_EXTENSION = re.compile(r"\.[^/.]*$")


class Task(NamedTuple):
    """An item as a command needs it: parsed, its record's bytes, its 1-based number in the whole input, its id, and
    which try it is, from 1."""

    item: Any
    raw: bytes
    number: int
    id: Any = None
    attempt: int = 1


Part = Callable[[Task], str]
_NOBODY = Task("", b"", 0)


@value_class
class Placeholder:
    """A placeholder of ours: as it was `written`, at `start` to `end` of its word, and what is to stand there."""

    written: str
    start: int
    end: int
    part: Part

    @property
    def of_item(self) -> bool:
        """Whether it depends on the item."""
        return self.written != "{%}"


class Grammar:
    """Which placeholders there are. `with_fields`: items may have fields; `columns`: all that they have, where that is
    known; `worker` is the number of the one that runs them."""

    def __init__(self, *, with_fields: bool, columns: Sequence[str] | None = None, worker: int = 0) -> None:
        self._columns = columns if with_fields else None
        self._parts = {**_OPERATIONS, "%": lambda task: str(worker)}
        names = [re.escape(name) for name in sorted(self._columns or (), key=len, reverse=True) if name]
        fields = "|".join([_QUOTED, *names, _NAME]) if with_fields else "(?!)"
        any_of = f"{_FOREIGN}|{_OWN}|{fields}"
        self._pattern = re.compile(
            rf"\{{\{{(?P<literal>{any_of})\}}\}}|\{{(?P<own>{_OWN})\}}"
            rf"|(?<!\$)\{{(?P<field>{fields})\}}|(?<!\$)\{{(?P<foreign>{_FOREIGN})\}}"
        )

    def parse(self, word: str) -> list[str | Placeholder]:
        """A word as texts and placeholders; raises InvalidUsage for what is meant to be one and is none."""
        parts: list[str | Placeholder] = []
        end = 0
        for match in self._pattern.finditer(word):
            found = self._found(match, word)
            if found is not None:
                parts += [word[end : match.start()], found]
                end = match.end()
        return [part for part in [*parts, word[end:]] if part]

    def _found(self, match: re.Match[str], word: str) -> str | Placeholder | None:
        kind, text = match.lastgroup, match[0]
        if kind == "literal":
            return text[1:-1]
        if kind == "own":
            return Placeholder(text, *match.span(), self._parts[match["own"]])
        if kind == "field":
            return Placeholder(text, *match.span(), _field(self._name(match["field"], text)))
        if not _NUMBERED.fullmatch(text) or word[: match.start()][-1:] in _AT_BEGIN:
            raise self.foreign(text)
        return None

    def _name(self, field: str, written: str) -> str:
        name = str(json.loads(field)) if field.startswith('"') and not self._is_column(field) else field
        if self._columns is not None and not self._is_column(name):
            remedy = f"{nearest(name, list(self._columns))}; {{{written}}} is the text"
            raise InvalidUsage(f"{written} names no column of INPUT", remedy)
        return name

    def _is_column(self, name: str) -> bool:
        return self._columns is not None and name in self._columns

    def foreign(self, written: str) -> InvalidUsage:
        """Why a placeholder of GNU parallel is refused."""
        column = ", or {COLUMN} by its name" if self._columns is not None else ""
        ours = f"write {{}} {{.}} {{/}} {{//}} {{/.}} {{#}} {{%}}{column}"
        return InvalidUsage(f"{written} is no placeholder of batchmill", f"{ours}; {{{written}}} is the text")


class Template:
    """Words with placeholders, each as a program is to have it."""

    def __init__(self, words: Sequence[str], grammar: Grammar) -> None:
        parsed = [grammar.parse(word) for word in words]
        self._words = [_compiled(parts) for parts in parsed]
        self.has_placeholder = any(any(placeholders(parts)) for parts in parsed)

    @property
    def names_program(self) -> bool:
        """Whether an item says which program it is."""
        return not isinstance(self._words[0], bytes)

    def fill(self, *tasks: Task) -> list[bytes]:
        """The words for an item, or for several: a word that depends on the item comes once for each.

        Raises ItemFailed where one lacks a field, or no program can be given what it has.
        """
        words: list[bytes] = []
        for word in self._words:
            words += [word] if isinstance(word, bytes) else [as_argument(word(task)) for task in tasks]
        return words


def _compiled(parts: list[str | Placeholder]) -> bytes | Part:
    if not any(found.of_item for found in placeholders(parts)):
        return _encode("".join(part if isinstance(part, str) else part.part(_NOBODY) for part in parts))
    filled = [part if isinstance(part, str) else part.part for part in parts]
    if len(filled) == 1 and not isinstance(filled[0], str):
        return filled[0]
    return lambda task: "".join(part if isinstance(part, str) else part(task) for part in filled)


def placeholders(parts: Sequence[str | Placeholder]) -> Iterator[Placeholder]:
    """The placeholders among the parts of a word."""
    return (part for part in parts if isinstance(part, Placeholder))


def as_argument(text: str) -> bytes:
    """A text as a program is given it; raises ItemFailed where none can be."""
    if "\0" in text:
        raise ItemFailed(ItemError("ValueError", "there is a NUL in it, and no program can be given one; use --stdin"))
    return _encode(text)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def text_of(task: Task) -> str:
    """The item as text."""
    return task.item if type(task.item) is str else task.raw.decode("utf-8", "surrogateescape")


_OPERATIONS: dict[str, Part] = {
    "": text_of,
    ".": lambda task: _EXTENSION.sub("", text_of(task)),
    "/": lambda task: posixpath.basename(text_of(task)),
    "//": lambda task: _directory(text_of(task)),
    "/.": lambda task: _EXTENSION.sub("", posixpath.basename(text_of(task))),
    "#": lambda task: str(task.number),
}


def _directory(path: str) -> str:
    stripped = path.rstrip("/")
    return posixpath.dirname(stripped).rstrip("/") or ("/" if path.startswith("/") else ".")


def _field(name: str) -> Part:
    def part(task: Task) -> str:
        try:
            value = task.item[name]
        except (KeyError, TypeError, IndexError):
            raise ItemFailed(ItemError("MissingField", f"the item has no field {name!r}")) from None
        plain = Plain(str).of(value)
        return plain if type(plain) is str else json.dumps(plain, ensure_ascii=False)

    return part
