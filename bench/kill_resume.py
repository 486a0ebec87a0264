"""The proof that kill -9 costs nothing: 10,000 items, the parent killed every second until the batch is through.

Each item notes its id in a side file. The output must equal that of an undisturbed run, and no item that was committed
before a kill may be noted again after it. Ends with status 1 where that is not so.

    python bench/kill_resume.py [--items 10000] [--every 1.0]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import batchmill
from machine import describe

FUNCTION = """
import hashlib, os
WITNESS = os.open("witness", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
def work(item):
    digest = b"%d" % item["id"]
    for _ in range(3000):
        digest = hashlib.sha256(digest).digest()
    os.write(WITNESS, b"%d\\n" % item["id"])
    return digest.hex()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between kills")
    options = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as name:
        folder = Path(name)
        (folder / "work.py").write_text(FUNCTION)
        with open(folder / "items.jsonl", "w") as file:
            file.writelines(json.dumps({"id": number}) + "\n" for number in range(options.items))
        kills, ran, again = disturbed(folder, options.every)
        subprocess.run(command("whole"), cwd=folder, check=True)
        same = (folder / "killed.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
    print(f"\n{options.items:,} items, kill -9 of the parent every {options.every:g} s: {kills} kills")
    print(f"calls of the function: {ran:,}; committed before a kill and run again after it: {again}")
    print(f"output equal to that of an undisturbed run: {'yes' if same else 'NO'}")
    sys.exit(0 if same and not again else 1)


def command(name: str) -> list[str]:
    mill = [sys.executable, "-m", "batchmill", "run", "work.py:work", "items.jsonl", "--resume"]
    return [*mill, "-c", f"{name}.ckpt", "-o", f"{name}.jsonl"]


def disturbed(folder: Path, every: float) -> tuple[int, int, int]:
    """(kills, calls of the function, calls for items that were committed before a kill)."""
    witness, kills, again = folder / "witness", 0, 0
    committed: set[int] = set()
    witness.touch()
    while True:
        seen = witness.stat().st_size
        over = not killed(folder, every)
        with open(witness) as file:
            file.seek(seen)
            again += len(committed.intersection(map(int, file.read().split())))
        if over:
            return kills, len(witness.read_text().split()), again
        kills += 1
        if (folder / "killed.ckpt").exists():
            with batchmill.open_checkpoint(folder / "killed.ckpt") as results:
                committed = {outcome.id for outcome in results.outcomes()}


def killed(folder: Path, every: float) -> bool:
    """Run for so long, then kill the parent; False where it came to its end before."""
    process = subprocess.Popen(command("killed"), cwd=folder, start_new_session=True)
    try:
        if process.wait(every):
            sys.exit(f"the run ended with {process.returncode}")
        return False
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.1)  # its workers die with it; what they were noting is theirs
        return True


if __name__ == "__main__":
    main()
