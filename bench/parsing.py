"""The measurement of orjson in json's place: what it saves on a record, and on a whole run.

The first table is one block through what a worker does before it calls the function (record, item, id, checksum), by
json and by orjson in turn; the second is `batchmill run` on a file of documents with BATCHMILL_JSON=json and =orjson in
turn. Ratios are medians of the ratios within a round.

    python bench/parsing.py [--rounds 7] [--megabytes 60]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import process_cost
from batchmill.input import json_choice
from batchmill.input.formats import IdRule
from batchmill.input.items import ItemReader
from batchmill.model import Chunk
from machine import describe

BLOCK = 400_000  # bytes
RUN = [sys.executable, "-m", "batchmill", "run", "work.py:size", "items.jsonl", "-c", "bench.ckpt", "--fresh"]
FUNCTION = "def size(item):\n    return len(item)\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=60, help="size of the file for whole runs")
    options = parser.parse_args()
    if not json_choice.is_installed():
        sys.exit("orjson is not installed: pip install 'batchmill[fast]'")
    process_cost.adopt_orphans()
    rng = random.Random(4)
    print(describe())
    print(f"orjson    {version('orjson')}, median of {options.rounds} rounds run in turn\n")
    print(f"{'a record':24}{'bytes':>8}{'json µs':>10}{'orjson µs':>11}{'ratio':>8}")
    for name, make in KINDS.items():
        print_pair(name, *in_a_worker(make, rng, options.rounds))
    print(f"\n{'whole runs':24}{'bytes':>8}{'json s':>10}{'orjson s':>11}{'ratio':>8}")
    for name in ("tiny", "document", "measurements"):
        print_pair(name, *whole_runs(KINDS[name], rng, options.rounds, options.megabytes))


def print_pair(name: str, size: float, slow: list[float], fast: list[float]) -> None:
    ratio = median(b / a for a, b in zip(slow, fast))
    print(f"{name:24}{size:8.0f}{median(slow):10.2f}{median(fast):11.2f}{ratio:8.2f}", flush=True)


def in_a_worker(
    make: Callable[[random.Random, int], Any], rng: random.Random, rounds: int
) -> tuple[float, list[float], list[float]]:
    """(bytes of a record, µs of a record by json, by orjson)."""
    records: list[bytes] = []
    while sum(map(len, records)) < BLOCK:
        records.append(written(make(rng, len(records))))
    chunk = Chunk(0, 1, 0, len(records), b"".join(records))
    found: dict[str, list[float]] = {"json": [], "orjson": []}
    for _ in range(rounds):
        for choice, seconds in found.items():
            os.environ[json_choice.VARIABLE] = choice
            seconds.append(identify_all(chunk) / len(records) * 1e6)
    del os.environ[json_choice.VARIABLE]
    return len(chunk.data) / len(records), found["json"], found["orjson"]


def identify_all(chunk: Chunk) -> float:
    """Seconds of CPU."""
    identifier, begun = ItemReader("jsonl", IdRule(), None, True), time.process_time()
    records = identifier.records(chunk)
    identify = identifier.identify
    for offset, record in enumerate(records):
        identify(chunk, offset, record)
    return time.process_time() - begun


def whole_runs(
    make: Callable[[random.Random, int], Any], rng: random.Random, rounds: int, megabytes: int
) -> tuple[float, list[float], list[float]]:
    """(bytes of a record, seconds of a run by json, by orjson)."""
    found: dict[str, list[float]] = {"json": [], "orjson": []}
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as name:
        folder = Path(name)
        (folder / "work.py").write_text(FUNCTION)
        some = [make(rng, number) for number in range(200)]
        size = sum(len(written(item)) for item in some) / len(some)
        with open(folder / "items.jsonl", "wb") as file:
            for number in range(round(megabytes * 1e6 / size)):
                file.write(written({**some[number % len(some)], "id": number}))
        for _ in range(rounds):
            for choice, seconds in found.items():
                os.environ[json_choice.VARIABLE] = choice
                seconds.append(process_cost.run(RUN, folder, folder / "log").wall)
    del os.environ[json_choice.VARIABLE]
    return size, found["json"], found["orjson"]


def written(item: Any) -> bytes:
    return json.dumps(item, ensure_ascii=False).encode() + b"\n"


def text(rng: random.Random, words: int, letters: str = "abcdefghijklmnopqrstuvwxyz") -> str:
    return " ".join("".join(rng.choices(letters, k=rng.randint(1, 10))) for _ in range(words))


def tiny(rng: random.Random, id: int) -> Any:
    return {"id": id, "x": id * 3}


def record(rng: random.Random, id: int) -> Any:
    owner = {"name": text(rng, 2), "mail": "a@b.example", "age": rng.randrange(90)}
    return {
        "id": id, "name": text(rng, 3), "tags": [text(rng, 1) for _ in range(6)], "price": rng.randrange(9999) / 100,
        "counts": [1, 2, 3, 4], "ok": True, "when": "2026-11-23T19:00:00Z", "owner": owner,
    }  # fmt: skip


def document(rng: random.Random, id: int) -> Any:
    return {"id": id, "title": text(rng, 8), "text": text(rng, 310), "lang": "la"}


def accented(rng: random.Random, id: int) -> Any:
    return {"id": id, "title": text(rng, 8), "text": text(rng, 280, "abcdefghijklmnopqrstuvwxyzäéñöü"), "lang": "xx"}


def measurements(rng: random.Random, id: int) -> Any:
    return {"id": id, "values": [rng.gauss(0, 1) for _ in range(100)]}


def table(rng: random.Random, id: int) -> Any:
    return {"id": id, "rows": [{"key": row, "name": text(rng, 2), "value": row / 7} for row in range(200)]}


KINDS = {
    "tiny": tiny, "record": record, "document": document, "with accents": accented, "measurements": measurements,
    "table": table,
}  # fmt: skip


if __name__ == "__main__":
    main()
