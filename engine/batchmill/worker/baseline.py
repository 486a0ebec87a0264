"""The state of a worker's process that every item begins with: remembered once, put back after the items that
changed it.

It never touches what only the user's own code depends on.

An item may leave an alarm, a trace function, another working directory, or a builtin function of its own. Without this,
what comes next would depend on which items happened to run before it in the same process. Putting all back costs some
microseconds, so it is done at the end of a chunk, after an item that took long, and where something was raised that no
item raised; but calls of os.chdir, signal.alarm and their like are noticed, and undone when their item ends. What a
module or --init has set is what items begin with.
"""

from __future__ import annotations

import builtins
import os
import posix
import signal
import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

_TOUCHING = (
    (os, "chdir"),
    (os, "fchdir"),
    (posix, "chdir"),
    (posix, "fchdir"),
    (signal, "alarm"),
    (signal, "setitimer"),
    (sys, "setrecursionlimit"),
)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

# Bound here, before any of the user's code is there: that may replace them in their modules.
_chdir, _getcwd, _getitimer, _setitimer = os.chdir, os.getcwd, signal.getitimer, signal.setitimer
_getprofile, _setprofile, _gettrace, _settrace = sys.getprofile, sys.setprofile, sys.gettrace, sys.settrace
_getrecursionlimit, _setrecursionlimit = sys.getrecursionlimit, sys.setrecursionlimit


class Baseline:
    """The state of this process now. `touch` is called when it is known to be changed.

    `calm` stops the alarm that an item may have set, of all timers the only one that can be so fast that nothing else
    gets done. It is no Python function: those are interrupted before they begin.
    """

    calm: Callable[[], object]

    def __init__(self, touch: Callable[[], None]) -> None:
        self._touch = touch
        self.remember()

    def remember(self) -> None:
        """It is as it is now."""
        self._idle_timers = [which for which in _TIMERS if _getitimer(which)[0] == 0.0]
        self.calm = partial(_setitimer, signal.ITIMER_REAL, 0.0) if signal.ITIMER_REAL in self._idle_timers else int
        self._builtins = dict(builtins.__dict__)
        self._recursion_limit = _getrecursionlimit()
        self._home = _where()
        self.follow()

    def follow(self) -> None:
        """Who traces or profiles this thread now goes on doing it."""
        self._trace, self._profile = _gettrace(), _getprofile()

    def watch(self) -> None:
        """Notice calls that change it, from now on: to be called before the user's code is there."""
        for module, name in _TOUCHING:
            setattr(module, name, self._noticing(getattr(module, name)))

    def _noticing(self, change: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(change)
        def noticed(*arguments: Any, **keywords: Any) -> Any:
            self._touch()
            return change(*arguments, **keywords)

        return noticed

    def restore(self) -> None:
        """Put back what items have changed. What is raised meanwhile is what one of them left behind."""
        for which in self._idle_timers:
            if _getitimer(which)[0] != 0.0:
                _setitimer(which, 0.0)
        if _gettrace() is not self._trace:
            _settrace(self._trace)
        if _getprofile() is not self._profile:
            _setprofile(self._profile)
        if _getrecursionlimit() != self._recursion_limit:
            _setrecursionlimit(self._recursion_limit)
        if self._home is not None and _where() != self._home:
            try:
                _chdir(self._home)
            except OSError:
                pass  # it is not there any more, for no item

    def restore_builtins(self) -> None:
        """Put back builtin functions that items have replaced or deleted; what they added stays."""
        if builtins.__dict__ != self._builtins:
            builtins.__dict__.update(self._builtins)


def _where() -> str | None:
    """The working directory, None where it is gone."""
    try:
        return _getcwd()
    except OSError:
        return None
