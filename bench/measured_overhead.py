"""The measurement of what the engine itself costs: the parent per chunk and per item, a worker per chunk and item.

Each is a slope between two real runs of a function that does nothing, so that what every run pays once falls out. CPU
time, not wall time: a busy machine does not count. Never asserts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from simulated_workers import Overhead

_RUN = """
import json, os, sys
from batchmill.batch.batch import Batch
from batchmill.plan import make_plan
from batchmill.settings import Settings
items, size = int(sys.argv[1]), int(sys.argv[2])
settings = Settings(workers=1, chunk_size=size)
plan = make_plan("nothing.py:nothing", ["items.jsonl"], settings=settings, checkpoint=sys.argv[3])
report = Batch(plan).run()
assert report.completed == items, report
own = sum(os.times()[:2])
print(json.dumps({"parent": own, "all": report.cpu_seconds}))
"""
_MANY, _FEW = 100_000, 20_000
_SMALL, _LARGE = 20, 2_000


def measure() -> Overhead:
    """Overhead as it is on this machine now."""
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as name:
        folder = Path(name)
        (folder / "nothing.py").write_text("def nothing(item):\n    return None\n")
        small, few, many = (_run(folder, *sizes) for sizes in ((_FEW, _SMALL), (_FEW, _LARGE), (_MANY, _LARGE)))
    chunks = _FEW / _SMALL - _FEW / _LARGE
    parent_chunk = (small["parent"] - few["parent"]) / chunks
    parent_item = (many["parent"] - few["parent"]) / (_MANY - _FEW) - parent_chunk / _LARGE
    worker_chunk = (small["worker"] - few["worker"]) / chunks
    worker_item = (many["worker"] - few["worker"]) / (_MANY - _FEW) - worker_chunk / _LARGE
    return Overhead(
        chunk=max(parent_chunk, 0.0),
        item=max(parent_item, 0.0),
        worker_chunk=max(worker_chunk, 0.0),
        worker_item=max(worker_item, 0.0),
    )


def _run(folder: Path, items: int, size: int) -> dict[str, float]:
    with open(folder / "items.jsonl", "w") as file:
        file.writelines(json.dumps({"id": number}) + "\n" for number in range(items))
    command = [sys.executable, "-c", _RUN, str(items), str(size), f"{items}-{size}.ckpt"]
    out = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, env=os.environ).stdout
    found: dict[str, Any] = json.loads(out)
    return {"parent": found["parent"], "worker": found["all"] - found["parent"]}
