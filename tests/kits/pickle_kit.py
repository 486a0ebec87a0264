"""Objects that raise, exit or crash when they are pickled or unpickled, as in CPython's tests of executors."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def fine() -> str:
    return "fine"


def error() -> Any:
    raise RuntimeError("raised on purpose")


def system_exit() -> Any:
    sys.exit(3)


def process_exit() -> Any:
    os._exit(4)


def crash() -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


class AtPickle:
    """Does something when it is pickled, in a worker; elsewhere it is pickled as it is."""

    def __init__(self, what: Callable[[], Any], program: int) -> None:
        self.what, self.program = what, program

    def __reduce__(self) -> Any:
        return (AtPickle, (self.what, self.program)) if os.getpid() == self.program else self.what()


class AlwaysAtPickle:
    """Does something whenever it is pickled."""

    def __init__(self, what: Callable[[], Any]) -> None:
        self.what = what

    def __reduce__(self) -> Any:
        return self.what()


class AtUnpickle:
    """Does something when it is unpickled."""

    def __init__(self, what: Callable[[], Any]) -> None:
        self.what = what

    def __reduce__(self) -> Any:
        return self.what, ()


class InError(Exception):
    """An exception that does something when it is pickled, printed, or asked for what it holds."""

    def __init__(self, what: Callable[[], Any]) -> None:
        super().__init__("told")
        self.what = what

    def __reduce__(self) -> Any:
        return self.what()

    def __str__(self) -> str:
        return str(self.what())


def work(item: Any) -> Any:
    """What an item says: (the name of a part, what that does); or the item itself."""
    if not isinstance(item, tuple):
        return item
    part, what, program = item
    if part == "result pickled":
        return AtPickle(what, program)
    if part == "result unpickled":
        return AtUnpickle(what)
    if part == "error":
        raise InError(what)
    return what()
