"""Functions of many items: a scikit-learn model over JSONL, one by one and in batches, here and with the peers.

Whole processes, run in turn, round after round; ratios are medians of the ratios to `slices` (two bare processes)
within a round. One by one runs on a part of the rows, and counts by the row. All outputs must be equal.

    python bench/batch_calls.py [--rows 100000] [--batch 500] [--rounds 3] [--only batchmill ...]
"""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn import __version__ as version
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import process_cost
import rounds
from batch_programs import MODEL, NEEDS, PROGRAMS, SOURCE, TARGET
from process_cost import Broke

PEERS = str(Path(__file__).resolve().parent / "batch_programs.py")
ALONE = 50  # rows one by one are one in so many
FUNCTION = f"{PEERS}:predict"
MILLS = {"one by one": "1", "batchmill": "", "batchmill auto": "auto"}


def main() -> None:
    options = _options()
    process_cost.adopt_orphans()
    names = rounds.asked([*MILLS, *rounds.installed(PROGRAMS, NEEDS)], options.only)
    model = f"model     scikit-learn {version}: StandardScaler, LogisticRegression, 32 features"
    rounds.head(model, programs=PROGRAMS, names=names)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _prepare(folder, options.rows)
        print(f"{options.rows:,} rows, batches of {options.batch}, {options.rounds} rounds\n")
        rounds.compare(
            names, options.rows, options.rounds, lambda name: _seconds(name, folder, options.rows, options.batch)
        )


def _prepare(folder: Path, rows: int) -> None:
    random = np.random.default_rng(7)
    values = random.normal(size=(rows, 32)).round(4)
    labels = (values.sum(axis=1) + random.normal(size=rows)) > 0
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(values[:5000], labels[:5000])
    (folder / MODEL).write_bytes(pickle.dumps(fitted))
    with open(folder / SOURCE, "w") as file:
        file.writelines(json.dumps({"id": n, "x": row.tolist()}) + "\n" for n, row in enumerate(values))
    with open(folder / SOURCE) as file, open(folder / "part.jsonl", "w") as part:
        part.writelines(line for n, line in enumerate(file) if n % ALONE == 0)


def _seconds(name: str, folder: Path, rows: int, batch: int) -> float:
    """How long a contender took for all rows; raises SystemExit where its output is wrong."""
    (folder / TARGET).unlink(missing_ok=True)
    shutil.rmtree(folder / "cache", ignore_errors=True)  # datasets would find its results there
    is_part = name == "one by one"
    try:
        cost = process_cost.run(_command(name, batch, "part.jsonl" if is_part else SOURCE), folder, folder / "log")
    except Broke as error:
        sys.exit(f"{name}: {error}")
    with open(folder / TARGET) as file:
        found = sum(1 for line in file if "result" in json.loads(line))
    expected = -(-rows // ALONE) if is_part else rows
    if found != expected:
        sys.exit(f"{name}: {found} results for {expected} rows")
    return cost.wall * rows / expected


def _command(name: str, batch: int, source: str) -> list[str]:
    if name not in MILLS:
        return [sys.executable, PEERS, name, str(batch)]
    size = MILLS[name] or str(batch)
    options: Sequence[str] = ("-o", TARGET, "-c", "c.ckpt", "--fresh", "-j", "2", "-q", "--batch-size", size)
    return [sys.executable, "-m", "batchmill", "run", FUNCTION, source, *options]


def _options() -> argparse.Namespace:
    parser = rounds.parser(__doc__, 100_000)
    parser.add_argument("--batch", type=int, default=500, help="rows in a call [500]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
