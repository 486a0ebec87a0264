"""A million rows from Parquet, CSV and JSON Lines: the parent's CPU time and memory, and the whole run's CPU time.

`--rows N` for another number. Needs the extra `parquet`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORK = "def work(item):\n    return item['n']\n"


def write(folder: Path, rows: int) -> list[str]:
    """The same rows in each form; their names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = range(rows)
    pq.write_table(pa.table({"id": numbers, "n": numbers, "text": [f"row {n}" for n in numbers]}), folder / "t.parquet")
    with open(folder / "t.jsonl", "w") as lines, open(folder / "t.csv", "w") as table:
        table.write("id,n,text\n")
        for n in numbers:
            lines.write(f'{{"id": {n}, "n": {n}, "text": "row {n}"}}\n')
            table.write(f"{n},{n},row {n}\n")
    (folder / "work.py").write_text(WORK)
    return ["t.parquet", "t.jsonl", "t.csv"]


def measured(folder: Path, name: str) -> tuple[float, float, int]:
    """(the parent's CPU seconds, those of all processes, the parent's peak memory in MiB) of a run."""
    command = [sys.executable, "-m", "batchmill", "run", "work.py:work", name, "-c", f"{name}.ckpt", "-q"]
    with subprocess.Popen(command, cwd=folder) as process:
        ticks, peak = 0, 0
        while process.poll() is None:
            try:
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                status = Path(f"/proc/{process.pid}/status").read_text()
                ticks = int(fields[11]) + int(fields[12])
                peak = int(status.partition("VmHWM:")[2].split()[0])
            except (OSError, IndexError):
                pass
            time.sleep(0.02)
    whole = os.times()
    return ticks / os.sysconf("SC_CLK_TCK"), whole.children_user + whole.children_system, peak >> 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    print("| rows from | parent's CPU | all CPU | parent's memory |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        before = 0.0
        for name in write(Path(folder), rows):
            parent, whole, peak = measured(Path(folder), name)
            print(f"| {name} | {parent:.2f} s | {whole - before:.1f} s | {peak} MiB |", flush=True)
            before = whole


if __name__ == "__main__":
    main()
