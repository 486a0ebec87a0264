"""The program's own script in a worker: imported as `__main__` when something of it is first asked for.

Items and arguments may be of classes that the script defines, whatever the function is: pickle knows them as
`__main__.Point`. Where nothing of the script is wanted, a worker does not import it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from batchmill.worker.function import MAIN, FunctionSpec
from batchmill.worker.loader import load


def stand_in(spec: FunctionSpec | None) -> None:
    """Have `__main__` of this process be the script as soon as something is looked for in it. Workers only."""
    main = sys.modules["__main__"]
    if spec is not None and not hasattr(main, "__file__"):  # a forked worker has the program's own
        main.__dict__["__getattr__"] = _Finder(spec)
        for name in MAIN:
            sys.modules[name] = main


class _Finder:
    """Looks a name of `__main__` up in the script, which is imported once, or fails to be each time alike."""

    def __init__(self, spec: FunctionSpec) -> None:
        self._spec = spec
        self._is_importing = False
        self._error: BaseException | None = None

    def __call__(self, name: str) -> Any:
        if self._is_importing or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(f"module '__main__' has no attribute {name!r}")
        return getattr(self._script(), name)

    def _script(self) -> ModuleType:
        if self._error is not None:
            raise self._error
        self._is_importing = True
        try:
            return load(self._spec)
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._is_importing = False
