"""Words as a shell takes them: what is shown as a command to copy is harmless to look at."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable


def quote(word: str) -> str:
    """`word` for a command line; one that a terminal would not show as it is becomes `$'...'` (bash, zsh, ksh).

    >>> print(quote("my file"), quote("a\\x1b[2J"))
    'my file' $'a\\033[2J'
    """
    if word.isprintable():
        return shlex.quote(word)
    try:
        data = os.fsencode(word)
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        data = word.encode("utf-8", "surrogatepass")
    return "$'" + "".join(map(_byte, data)) + "'"


def join(words: Iterable[str]) -> str:
    """The words as a command line."""
    return " ".join(map(quote, words))


def _byte(code: int) -> str:
    return chr(code) if 0x20 <= code < 0x7F and chr(code) not in "'\\" else f"\\{code:03o}"
