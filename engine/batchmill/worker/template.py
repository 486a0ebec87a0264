"""The placeholders of a command: words with `{}` in them, and an item, to the words to run.

    {}    the item               {/}   without its directory    {#}      its number in the input, from 1
    {.}   without its extension  {//}  its directory            {name}   a field of a JSON or CSV item
                                 {/.}  without both

The item as text is itself where it is text, else its record as it stands in the input (`{"n": 1}`). The rules for `{.}`
to `{/.}` are GNU parallel's. `${name}` is the shell's own and stays; so does what only looks like a placeholder.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from batchmill.errors import ItemError, ItemFailed

_WHOLE = re.compile(r"\{(\.|/|//|/\.|#|)\}")
_WITH_FIELDS = re.compile(r"\{(\.|/|//|/\.|#|)\}|(?<!\$)\{([A-Za-z_][\w.-]*)\}")
_EXTENSION = re.compile(r"\.[^/.]*$")


class Task(NamedTuple):
    """An item as a command needs it: parsed, its record's bytes, its 1-based number in the whole input."""

    item: Any
    raw: bytes
    number: int


_Part = Callable[[Task], str]


class Template:
    """Words with placeholders. `with_fields`: items may have fields; `quoted`: a shell reads the words."""

    def __init__(self, words: Sequence[str], *, with_fields: bool, quoted: bool = False) -> None:
        self._pattern = _WITH_FIELDS if with_fields else _WHOLE
        self._quoted = quoted
        self._words = [self._compile(word) for word in words]

    @property
    def has_placeholder(self) -> bool:
        """Whether there is any placeholder."""
        return any(not isinstance(word, bytes) for word in self._words)

    def fill(self, task: Task) -> list[bytes]:
        """The words for an item; raises ItemFailed where it lacks a field."""
        return [word if isinstance(word, bytes) else _encode(word(task)) for word in self._words]

    def _compile(self, word: str) -> bytes | _Part:
        parts: list[str | _Part] = []
        end = 0
        for match in self._pattern.finditer(word):
            part = _OPERATIONS[match[1]] if match[1] is not None else _field(match[2])
            parts += [word[end : match.start()], _quoting(part) if self._quoted else part]
            end = match.end()
        if not parts:
            return _encode(word)
        parts.append(word[end:])
        filled = [part for part in parts if part]
        if len(filled) == 1 and not isinstance(filled[0], str):
            return filled[0]
        return lambda task: "".join(part if isinstance(part, str) else part(task) for part in filled)


def has_placeholder(word: str, *, with_fields: bool) -> bool:
    """Whether a word has a placeholder in it."""
    return bool((_WITH_FIELDS if with_fields else _WHOLE).search(word))


def exposed_placeholder(script: str, *, with_fields: bool) -> str | None:
    """The first placeholder of a /bin/sh script at which a quoted value would be read as code, or None.

    A value stands there in single quotes. They mean nothing inside other quotes or in a here-document, and a value can
    end a backquoted command.
    """
    for match in (_WITH_FIELDS if with_fields else _WHOLE).finditer(script):
        if _is_exposed(script[: match.start()]):
            return match[0]
    return None


def _is_exposed(before: str) -> bool:
    """Whether quotes, backquotes, a backslash or a here-document are open after this beginning of a script. "$(" begins
    anew.
    """
    open_now, skip = [""], False
    for at, letter in enumerate(before):
        here = open_now[-1]
        if skip or here == "'":
            skip = False
            if here == "'" and letter == "'":
                open_now.pop()
        elif letter == "\\":
            skip = True
        elif letter == here:  # a quote, a backquote or a parenthesis is closed
            open_now.pop()
        elif letter in "'\"`" and not (letter == "'" and here == '"'):
            open_now.append(letter)
        elif letter == "(" and (here != '"' or before[at - 1 : at] == "$"):
            open_now.append(")")
        elif here != '"' and before[at : at + 2] == "<<":
            return True
    return skip or any(letter in ("'", "`") for letter in open_now) or open_now[-1] == '"'


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(task: Task) -> str:
    return task.item if type(task.item) is str else task.raw.decode("utf-8", "surrogateescape")


_OPERATIONS: dict[str, _Part] = {
    "": _text,
    ".": lambda task: _EXTENSION.sub("", _text(task)),
    "/": lambda task: posixpath.basename(_text(task)),
    "//": lambda task: _directory(_text(task)),
    "/.": lambda task: _EXTENSION.sub("", posixpath.basename(_text(task))),
    "#": lambda task: str(task.number),
}


def _directory(path: str) -> str:
    stripped = path.rstrip("/")
    return posixpath.dirname(stripped).rstrip("/") or ("/" if path.startswith("/") else ".")


def _field(name: str) -> _Part:
    def part(task: Task) -> str:
        try:
            value = task.item[name]
        except (KeyError, TypeError, IndexError):
            raise ItemFailed(ItemError("MissingField", f"the item has no field {name!r}")) from None
        return value if type(value) is str else json.dumps(value, ensure_ascii=False)

    return part


def _quoting(part: _Part) -> _Part:
    return lambda task: shlex.quote(part(task))
