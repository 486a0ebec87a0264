"""Functions whose law is known: items that nap, hold a lock that stops all others, or burn CPU.

`meet` follows Amdahl's law exactly: while one item is in its serial part, no other is in its parallel part, and turns
are taken in the order of arrival (a mutex alone does not: items fall into step behind each other, and up to 1 / share
workers hardly wait at all). The turns are numbers in a small file, changed under flock.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Callable
from typing import Any

_STATE = struct.Struct("3q")  # serial parts asked for, serial parts done, items in their parallel part
_NEXT, _LATER = 0.0001, 0.0005  # seconds between looks, for who is next and for the others

State = tuple[int, int, int]


def meet(item: Any, path: str, share: float, seconds: float = 0.1) -> Any:
    """Nap for (1 - share) of the time beside others, then for `share` of it while everybody else stands still."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        before, *_ = _change(lock, lambda asked, done, inside: (asked, done, inside))
        _wait(lock, lambda asked, done, inside: done >= before and inside >= 0, 1)
        time.sleep((1 - share) * seconds)
        mine, *_ = _change(lock, lambda asked, done, inside: (asked + 1, done, inside - 1))
        _wait(lock, lambda asked, done, inside: done == mine and not inside, -1)
        time.sleep(share * seconds)
        _change(lock, lambda asked, done, inside: (asked, done + 1, 0))
    finally:
        os.close(lock)
    return item


def burn(item: Any, nap: float = 0.03, cpu: float = 0.01) -> Any:
    """Nap, then use the CPU for so many seconds of its time."""
    time.sleep(nap)
    end = time.thread_time() + cpu
    while time.thread_time() < end:
        pass
    return item


def _wait(lock: int, may: Callable[[int, int, int], bool], enters: int) -> None:
    """Wait until the state lets this item go on, and count it: +1 inside, or -1 for who is alone."""

    def enter(asked: int, done: int, inside: int) -> State:
        return (asked, done, inside + enters) if may(asked, done, inside) else (asked, done, inside)

    while True:
        if may(*_read(lock)) and may(*_change(lock, enter)):
            return
        time.sleep(_NEXT if enters < 0 else _LATER)


def _read(lock: int) -> State:
    data = os.pread(lock, _STATE.size, 0)
    asked, done, inside = _STATE.unpack(data) if data else (0, 0, 0)
    return asked, done, inside


def _change(lock: int, change: Callable[[int, int, int], State]) -> State:
    """Change the state under the lock; what it was."""
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        found = _read(lock)
        os.pwrite(lock, _STATE.pack(*change(*found)), 0)
        return found
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)
