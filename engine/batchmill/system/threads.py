"""Starting a thread, which the system may refuse.

`Thread.start` waits for the new thread to say that it has begun, and for ever where that dies of want of memory before
it could: whoever starts one makes sure first that there is room for it.
"""

from __future__ import annotations

import mmap
import resource
import threading
from collections.abc import Callable
from typing import Any

from batchmill.system.scarcity import lacking

_STACK = 8 << 20  # bytes of a stack, where its size is not limited
_SPARE = 12 << 20  # bytes that a thread, and those that run beside it, may need until it has begun


def ensure_room(count: int = 1) -> None:
    """Raise OSError where `count` new threads would find no room to begin in."""
    stack = threading.stack_size() or resource.getrlimit(resource.RLIMIT_STACK)[0]
    room = _STACK if stack == resource.RLIM_INFINITY else stack
    mmap.mmap(-1, count * room + _SPARE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


def start(target: Callable[..., Any], name: str, *args: Any, daemon: bool = True) -> threading.Thread:
    """Have a new thread call `target(*args)`. Raises OutOfResources where there cannot be one."""
    thread = threading.Thread(target=target, name=f"batchmill-{name}", args=args, daemon=daemon)
    try:
        ensure_room()
        thread.start()
    except (OSError, RuntimeError) as error:
        raise lacking(error, "this run cannot begin") or error from None
    return thread
