"""The workloads of bench/peers.py: what an item is, what it costs, and the files that say so.

The cost of an item is real CPU work: a chain of hashes, its length calibrated once, so that all contenders hash the
same. Nothing sleeps.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

MODULE = """
from hashlib import sha256


def tiny(item):
    return item["x"] * 2 + 1


def burn(item):
    digest = b"%d" % item["id"]
    for _ in range(item["n"]):
        digest = sha256(digest).digest()
    return digest.hex()
"""
_LEAST_ITEMS = 8
_MESSAGE = 0.02  # seconds of work per message that peers get as their chunk size
_MOST_IN_MESSAGE = 2000


class Workload(NamedTuple):
    """Items of one kind. `costs` are their seconds; empty: `items` of a function that does next to nothing."""

    name: str
    items: int
    costs: list[float]

    @property
    def function(self) -> str:
        """The function of work.py that it calls."""
        return "burn" if self.costs else "tiny"

    @property
    def chunk(self) -> int:
        """Items per message, for libraries that must be told."""
        cost = sum(self.costs) / self.items if self.costs else 1e-6
        return max(1, min(round(_MESSAGE / cost), _MOST_IN_MESSAGE, self.items // 64))


def workloads(scale: float) -> list[Workload]:
    """Those of the table of goals; `scale` shrinks them."""
    return [
        Workload("tiny", _scaled(1_000_000, scale), []),
        _equal("57us", _scaled(60_000, scale), 57e-6),
        _equal("11ms", _scaled(800, scale), 0.011),
        _straggler(_scaled(1000, scale)),
    ]


def sweep(scale: float) -> list[Workload]:
    """From 1 µs to 1 s per item, about 4 s of work each: fewer of the cheapest, 8 of the dearest."""
    costs = {"1us": 1e-6, "10us": 1e-5, "100us": 1e-4, "1ms": 1e-3, "10ms": 1e-2, "100ms": 0.1, "1s": 1.0}
    return [_equal(name, min(500_000, _scaled(4 / cost, scale)), cost) for name, cost in costs.items()]


def _scaled(items: float, scale: float) -> int:
    return max(_LEAST_ITEMS, round(items * scale))


def _equal(name: str, items: int, cost: float) -> Workload:
    return Workload(name, items, [cost] * items)


def _straggler(items: int) -> Workload:
    """Lognormal (sigma 1, mean 11 ms), and 400 ms near the end."""
    rng = random.Random(4)
    costs = [0.011 * rng.lognormvariate(-0.5, 1.0) for _ in range(items)]
    costs[max(0, items - 20)] = 0.4
    return Workload("straggler", items, costs)


def calibrate() -> float:
    """Seconds per hash of the chain here, the median of several tries."""
    return median(_time_hashes(20_000) for _ in range(9)) / 20_000


def _time_hashes(count: int) -> float:
    digest, begun = b"0", time.process_time()
    for _ in range(count):
        digest = hashlib.sha256(digest).digest()
    return time.process_time() - begun


def prepare(folder: Path, workload: Workload, per_hash: float) -> None:
    """Write work.py and items.jsonl."""
    (folder / "work.py").write_text(MODULE)
    with open(folder / "items.jsonl", "w") as file:
        file.writelines(json.dumps(item) + "\n" for item in _items(workload, per_hash))


def _items(workload: Workload, per_hash: float) -> Iterator[dict[str, int]]:
    if not workload.costs:
        yield from ({"id": number, "x": number * 3} for number in range(workload.items))
    for number, cost in enumerate(workload.costs):
        yield {"id": number, "n": max(1, round(cost / per_hash))}
