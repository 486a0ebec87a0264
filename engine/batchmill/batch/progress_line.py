"""The progress of a run from Python, where it can be seen: a line in a notebook's output or on a terminal.

This is the only place in the engine that writes to stderr, and only for who asks for it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from batchmill.model import Snapshot

FIRST = 0.5  # seconds before anything is shown: a short run is silent
_BETWEEN = 30.0  # seconds between lines where they are not rewritten


class Line(Protocol):
    """A place for one line."""

    def show(self, text: str) -> None:
        """Show it in place of the one before."""

    def close(self, text: str) -> None:
        """Leave that one there."""


class _Display:
    """In the output of a notebook's cell."""

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._handle: Any = None

    def show(self, text: str) -> None:
        shown = {"text/plain": text}
        if self._handle is None:
            self._handle = self._display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    close = show


class _Terminal:
    def show(self, text: str) -> None:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
        _write(f"\r{text[: columns - 1]}\x1b[K")

    def close(self, text: str) -> None:
        self.show(text)
        _write("\n")


class _Lines:
    """A file, or a pipe: whole lines, now and then."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _BETWEEN

    def show(self, text: str) -> None:
        if time.monotonic() >= self._next:
            self._next += _BETWEEN
            self.close(text)

    def close(self, text: str) -> None:
        _write(f"{text}\n")


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        pass  # there is none, or it was closed


def line_for(progress: bool | str) -> Line | None:
    """Where the progress is shown: with "auto" in notebooks and interactive sessions alone."""
    if not progress:
        return None
    display = _display()
    if display is not None:
        return _Display(display)
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    if progress == "auto" and not (is_terminal and hasattr(sys, "ps1")):
        return None
    return _Terminal() if is_terminal else _Lines()


def _display() -> Callable[..., Any] | None:
    """IPython's, in a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    found: Callable[..., Any] = display
    return found


class ProgressLine:
    """Shows snapshots in a line."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._begun = time.monotonic()
        self._is_shown = False

    def tell(self, snapshot: Snapshot) -> None:
        """How the run stands now."""
        if time.monotonic() - self._begun >= FIRST:
            self._is_shown = True
            self._line.show(str(snapshot))

    def close(self, snapshot: Snapshot) -> None:
        """How it stood at its end."""
        if self._is_shown or time.monotonic() - self._begun >= FIRST:
            self._line.close(str(snapshot))
