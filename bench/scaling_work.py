"""Owns functions whose law is known: items that nap, hold a lock that stops all others, or burn CPU. Never measures.

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

_STATE = struct.Struct("3q")  # next ticket, ticket served, items in their parallel part
_LOOK = 0.0005  # seconds between looks at whose turn it is


def meet(item: Any, path: str, share: float, seconds: float = 0.1) -> Any:
    """Nap for (1 - share) of the time beside others, then for `share` of it while everybody else stands still."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        _wait(lock, alone=False)
        time.sleep((1 - share) * seconds)
        _change(lock, lambda ticket, served, inside: (ticket, served, inside - 1))
        _wait(lock, alone=True)
        time.sleep(share * seconds)
        _change(lock, lambda ticket, served, inside: (ticket, served + 1, inside))
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


def _wait(lock: int, *, alone: bool) -> None:
    """Take a ticket and wait for its turn; `alone`: until nobody is in its parallel part, and keep the turn."""
    mine, *_ = _change(lock, lambda ticket, served, inside: (ticket + 1, served, inside))
    while True:
        _, served, inside = _STATE.unpack(os.pread(lock, _STATE.size, 0))
        if served == mine and not (alone and inside):
            break
        time.sleep(_LOOK)
    if not alone:
        _change(lock, lambda ticket, served, inside: (ticket, served + 1, inside + 1))


def _change(lock: int, change: Callable[[int, int, int], tuple[int, int, int]]) -> tuple[int, int, int]:
    """Change the state under the lock; what it was."""
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        data = os.pread(lock, _STATE.size, 0)
        ticket, served, inside = _STATE.unpack(data) if data else (0, 0, 0)
        os.pwrite(lock, _STATE.pack(*change(ticket, served, inside)), 0)
        return ticket, served, inside
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)
