"""Owns the measurement of the main job: 1,000,000 tiny JSONL items, JSONL in and out, against a serial loop.

The serial loop reads, calls and writes the same, and keeps no checkpoint; batchmill keeps one. Both are whole
processes, run in turn; the figure is the median of the ratios within a round, because machines drift. Never asserts.

    python bench/main_job.py [--items 1000000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from machine import describe

FUNCTION = "def score(item):\n    return item['x'] * 2 + 1\n"
SERIAL = """
import json
from score import score
with open("items.jsonl") as source, open("serial.jsonl", "w") as out:
    for line in source:
        item = json.loads(line)
        out.write(json.dumps({"id": item["id"], "result": score(item)}) + "\\n")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(describe())
    print(f"\n{options.items:,} items of about 30 bytes, median of {options.rounds} rounds run in turn\n")
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as folder:
        rounds = [one_round(Path(folder), options.items) for _ in range(options.rounds)]
    print("             wall s   ratio to serial   CPU s of parent   peak RSS of parent")
    print(f"serial loop  {median(r['serial'] for r in rounds):6.2f}   1.00")
    ratio = median(r["mill"] / r["serial"] for r in rounds)
    wall, cpu = median(r["mill"] for r in rounds), median(r["cpu"] for r in rounds)
    rss = max(r["rss"] for r in rounds) / 2**20
    print(f"batchmill    {wall:6.2f}   {ratio:.2f}{cpu:27.2f}{rss:17.0f} MiB")
    again, kept = median(r["resume"] for r in rounds), rounds[-1]["size"] / 2**20
    print(f"resumed with nothing left to do, output written again: {again:.2f} s; checkpoint {kept:.0f} MiB")


def one_round(folder: Path, items: int) -> dict[str, float]:
    """Both, once; the outputs must be the same bytes."""
    prepare(folder, items)
    mill = [sys.executable, "-m", "batchmill", "run", "score.py:score", "items.jsonl", "-c", "bench.ckpt"]
    figures = {"serial": timed([sys.executable, "-c", SERIAL], folder)[0]}
    figures["mill"], figures["cpu"], figures["rss"] = timed([*mill, "-o", "mill.jsonl", "--fresh"], folder)
    if (folder / "serial.jsonl").read_bytes() != (folder / "mill.jsonl").read_bytes():
        sys.exit("the outputs differ")
    figures["resume"], _, _ = timed([*mill, "-o", "mill.jsonl", "--resume"], folder)
    figures["size"] = (folder / "bench.ckpt").stat().st_size
    return figures


def prepare(folder: Path, items: int) -> None:
    (folder / "score.py").write_text(FUNCTION)
    if not (folder / "items.jsonl").exists():
        with open(folder / "items.jsonl", "w") as file:
            file.writelines(json.dumps({"id": number, "x": number * 3}) + "\n" for number in range(items))


def timed(command: list[str], folder: Path) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, peak resident bytes) of the process itself, without its children."""
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environ)
    cpu = rss = 0.0
    while process.poll() is None:
        cpu, rss = look(process.pid) or (cpu, rss)
        time.sleep(0.01)
    if process.returncode:
        sys.exit(f"{command} ended with {process.returncode}")
    return time.perf_counter() - begun, cpu, rss


def look(pid: int) -> tuple[float, float] | None:
    """(CPU seconds, peak resident bytes) of a process so far, None when it has just ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(peak.split()[1]) * 1024.0


if __name__ == "__main__":
    main()
