"""Random numbers in workers that were forked from one process: a stream of its own for each of them.

`random` sees to that itself. numpy's generators, its global one among them, would give the same numbers in all workers
and again in each replacement; those that were seeded on purpose go on doing so, as they do where each worker imports
the module by itself.
"""

from __future__ import annotations

import gc
import sys
from typing import Any

_CHOSEN = 64  # bits of a seed that somebody may have chosen: what the system gives has more


def renew() -> None:
    """Seed anew what nobody has seeded."""
    np = sys.modules.get("numpy.random")
    kind = getattr(np, "BitGenerator", None)
    if kind is None:
        return
    for found in gc.get_objects():
        if issubclass(type(found), kind) and not _is_chosen(found):
            found.state = type(found)().state


def _is_chosen(generator: Any) -> bool:
    entropy = getattr(getattr(generator, "_seed_seq", None), "entropy", None)
    return not isinstance(entropy, int) or entropy.bit_length() <= _CHOSEN
