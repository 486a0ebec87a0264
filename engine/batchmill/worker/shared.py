"""What all workers of a run are given: one file, which each of them maps."""

from __future__ import annotations

import os
from multiprocessing.reduction import DupFd
from typing import Any

from batchmill.files.mapped_pickle import MappedPickle, read_mapped


class SharedPickle(MappedPickle):
    """Sent to a worker while that is started, it is the same memory there."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Attached, (DupFd(self.fileno()), *self.parts)


class _Attached:
    """It, in a worker."""

    def __init__(self, passed: Any, *parts: Any) -> None:
        self._passed, self._parts = passed, parts

    def loads(self) -> Any:
        descriptor = self._passed.detach()
        try:
            return read_mapped(descriptor, *self._parts)
        finally:
            os.close(descriptor)
