"""Random numbers in workers that were forked from one process: a stream of its own for each of them.

The functions of `random` see to that themselves. Generators that a module has made, and numpy's global one, would give
the same numbers in all workers and again in each replacement; those that were seeded on purpose go on doing so, as they
do where each worker imports the module by itself. numpy's say whether they were; of Python's own it has to be noted as
they are made.
"""

from __future__ import annotations

import gc
import random
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_CHOSEN = 64  # bits of a seed that somebody may have chosen: what the system gives has more

_unseeded: dict[int, weakref.ref[random.Random]] = {}


@contextmanager
def noted() -> Iterator[None]:
    """Generators of Python's own that are made meanwhile, and that nobody seeds, are seeded anew in each worker."""
    kind: Any = random.Random
    seed, set_state = kind.seed, kind.setstate

    def noting_seed(self: random.Random, a: Any = None, *more: Any, **named: Any) -> None:
        _note(self, is_chosen=a is not None)
        seed(self, a, *more, **named)

    def noting_set_state(self: random.Random, state: Any) -> None:
        _note(self, is_chosen=True)
        set_state(self, state)

    kind.seed, kind.setstate = noting_seed, noting_set_state
    try:
        yield
    finally:
        kind.seed, kind.setstate = seed, set_state


def _note(generator: random.Random, *, is_chosen: bool) -> None:
    if is_chosen:
        _unseeded.pop(id(generator), None)
    else:
        _unseeded[id(generator)] = weakref.ref(generator)


def renew() -> None:
    """Seed anew what nobody has seeded."""
    for reference in _unseeded.values():
        generator = reference()
        if generator is not None:
            generator.seed()
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
