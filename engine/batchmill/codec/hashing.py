"""How fractions are hashed while values of any origin are read: without a cache.

Since Python 3.12 there is a cache of them, in which those of one hash are compared with each other: 16,384 comparisons
for each, however small the sets that they are in. Whoever writes numbers can choose their hashes.
"""

from __future__ import annotations

import threading
from typing import Any

_readers: set[int] = set()  # the threads that are reading fractions
_cached: list[Any] = []  # the function with the cache, where this Python has one


def without_cache() -> None:
    """This thread is reading fractions; until `with_cache`."""
    import fractions

    hashing = getattr(fractions, "_hash_algorithm", None)
    if hashing is not None and hasattr(hashing, "__wrapped__"):
        _cached[:] = [hashing]
        fractions._hash_algorithm = hashing.__wrapped__  # type: ignore[attr-defined]
    _readers.add(threading.get_ident())


def with_cache() -> None:
    """This thread has read what it wanted to."""
    if not _readers:
        return
    _readers.discard(threading.get_ident())
    if _cached and not _readers:
        import fractions

        fractions._hash_algorithm = _cached[0]  # type: ignore[attr-defined]
