"""Parquet to Parquet: a Python function on each of a million rows, here and with the peers.

Whole processes, run in turn, round after round; ratios are medians of the ratios to `slices` (two bare processes)
within a round. All outputs must have each row with the right checksum.

    python bench/parquet.py [--rows 1000000] [--rounds 3] [--only batchmill ...]
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import process_cost
import rounds
from parquet_programs import NEEDS, PROGRAMS, SOURCE, TARGET, found
from process_cost import Broke

PEERS = str(Path(__file__).resolve().parent / "parquet_programs.py")
MILL = "batchmill"
GROUP = 50_000  # rows in a group


def main() -> None:
    options = rounds.parser(__doc__, 1_000_000).parse_args()
    process_cost.adopt_orphans()
    names = rounds.asked([MILL, *rounds.installed(PROGRAMS, NEEDS)], options.only)
    rounds.head(programs=PROGRAMS, names=names)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        _prepare(options.rows)
        print(f"{options.rows:,} rows in groups of {GROUP:,}, {options.rounds} rounds\n")
        rounds.compare(names, options.rows, options.rounds, lambda name: _seconds(name, options.rows))
        os.chdir("/")


def _text(number: int) -> str:
    return f"{number} quick brown foxes jump over {number * 7919 % 1000} lazy dogs"


def _prepare(rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = range(rows)
    table = pa.table({"id": numbers, "n": [n * 0.5 for n in numbers], "text": list(map(_text, numbers))})
    pq.write_table(table, SOURCE, row_group_size=GROUP)


def _seconds(name: str, rows: int) -> float:
    """How long a contender took; raises SystemExit where its output is wrong."""
    for left in (Path(TARGET), Path("cache")):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    try:
        cost = process_cost.run(_command(name), Path.cwd(), Path("log"))
    except Broke as error:
        sys.exit(f"{name}: {error}")
    sums = dict(found())
    if len(sums) != rows or any(sum != zlib.crc32(_text(id).encode()) for id, sum in sums.items()):
        sys.exit(f"{name}: {len(sums)} of {rows} rows, or wrong ones")
    return cost.wall


def _command(name: str) -> list[str]:
    if name != MILL:
        return [sys.executable, PEERS, name]
    run = [sys.executable, "-m", "batchmill", "run", f"{PEERS}:score", SOURCE, "-o", TARGET, "--id-field", "id"]
    return [*run, "-c", "c.ckpt", "--fresh", "-j", "2", "-q"]


if __name__ == "__main__":
    main()
