"""Importing a module out of the caller's thread, and without the search for garbage.

KeyboardInterrupt, or what a signal handler raises, may be lost in the middle of an import (in a callback of the import
system) or leave a lock of it held, for which the next import in another thread waits for ever. Raised while an import
in another thread is waited for, it does neither: that import goes on to its end.
"""

from __future__ import annotations

import _thread
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SLICE = 0.2  # seconds of a wait: a signal that another thread took is seen by this one after it


@contextmanager
def without_collection() -> Iterator[None]:
    """While modules are imported: they make many objects that stay, among which a search for garbage finds none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def attribute(module: str, name: str) -> object:
    """What `name` is in a module, which is imported; raises what that raises."""
    if _is_importing():  # whoever is being imported holds a lock, for which another thread could wait for ever
        return _look_up(module, name)
    ended = _thread.allocate_lock()
    ended.acquire()
    found: list[tuple[object, BaseException | None]] = []

    def find() -> None:
        try:
            found.append((_look_up(module, name), None))
        except BaseException as error:
            found.append((None, error))
        ended.release()

    try:
        _thread.start_new_thread(find, ())
    except RuntimeError:  # the system has no more threads
        return _look_up(module, name)
    while not found:
        ended.acquire(timeout=_SLICE)
    value, error = found[0]
    if error is not None:
        raise error
    return value


def _look_up(module: str, name: str) -> object:
    from importlib import import_module

    value: object = getattr(import_module(module), name)
    return value


def _is_importing() -> bool:
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_name != "_find_and_load":
        frame = frame.f_back
    return frame.f_code.co_name == "_find_and_load"
