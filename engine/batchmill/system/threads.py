"""Starting a thread of our own, which the system may refuse."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from batchmill.system.scarcity import lacking


def start(target: Callable[..., Any], name: str, *args: Any, daemon: bool = True) -> threading.Thread:
    """Have a new thread call `target(*args)`. Raises OutOfResources where there cannot be one."""
    thread = threading.Thread(target=target, name=f"batchmill-{name}", args=args, daemon=daemon)
    try:
        thread.start()
    except RuntimeError as error:
        raise lacking(error, "this run cannot begin") or error from None
    return thread
