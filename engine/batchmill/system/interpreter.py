"""What Python adds of its own: to the path of a new interpreter, and to the environment.

The command line of a Python that runs our code, and meets no module of the working directory on its way:

    [executable, the flags of this interpreter, "-P", "-c", code]

-P keeps the working directory off the new interpreter's path, whatever its other flags: with -E or -I, as programs
installed by pipx have them, PYTHONSAFEPATH would not be seen. This package is imported from where it lies here, and
the rest of this interpreter's path comes last: the standard library must not meet a user's `random.py`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_COERCED = ("C.UTF-8", "C.utf8", "UTF-8")  # that Python tries


def command(module: str, function: str, *arguments: Any) -> list[str]:
    """The command line that calls batchmill's `module.function(*arguments)`; arguments as their repr gives them."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
    code = (
        f"import sys; sys.path.insert(0, {home!a}); import batchmill; del sys.path[0]\n"
        f"sys.path.extend(entry for entry in {path!a} if entry not in sys.path)\n"
        f"from batchmill.{module} import {function}; {function}({', '.join(map(ascii, arguments))})"
    )
    return [_executable(), *_flags(), "-P", "-c", code]


def environment() -> dict[str, str]:
    """The environment, without the LC_CTYPE that Python has set for itself where the locale was C (PEP 538): other
    programs would read bytes as another text than when they are called without batchmill."""
    found = dict(os.environ)
    if found.get("LC_CTYPE") in _COERCED:
        try:
            with open("/proc/self/environ", "rb") as file:
                if not any(entry.startswith(b"LC_CTYPE=") for entry in file.read().split(b"\0")):
                    del found["LC_CTYPE"]
        except OSError:
            pass  # no Linux: it may be the user's
    return found


def _executable() -> str:
    """The interpreter that multiprocessing would start; a program may have set another one there."""
    spawn = sys.modules.get("multiprocessing.spawn")
    return os.fsdecode((spawn.get_executable() if spawn is not None else None) or sys.executable)


def _flags() -> list[str]:
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

    return list(_args_from_interpreter_flags())
