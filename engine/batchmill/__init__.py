"""The public names of batchmill. Nothing is imported until a name is asked for.

    report = batchmill.run(score, items, checkpoint="scores.ckpt", resume=True)

batchmill crunches CPU-heavy batches on every core, survives whatever happens meanwhile, and picks up where it stopped.
How the house is divided: each folder is a room, whose `__init__` is its map. `batch` joins the rooms; `scheduler` keeps
the processes of `pool` busy with what `worker` has; `input` and `codec` say what items are, `checkpoint` keeps their
outcomes, `output` writes them. Start at engine/README.md, then at `batch.batch`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.importing import attribute
from batchmill.version import __version__

if TYPE_CHECKING:
    from batchmill.api import Stream, map, run, stop, stream
    from batchmill.errors import (
        BatchmillError,
        CheckpointBusy,
        CheckpointDamaged,
        CheckpointExists,
        CheckpointMismatch,
        CheckpointRefused,
        CheckpointUnwritable,
        ClusterLost,
        ClusterUnfit,
        FunctionFailed,
        InputBroken,
        InputMissing,
        InvalidUsage,
        ItemError,
        ItemsFailed,
        NotGuarded,
        OutOfResources,
        OutputLost,
        Stopped,
        UnknownFunction,
        WorkersLost,
    )
    from batchmill.model import FailureExample, FailureGroup, Outcome, Report, Snapshot, Usage
    from batchmill.output.collect import write_results
    from batchmill.output.results import Results, Status, open_checkpoint
    from batchmill.settings import Settings

__all__ = [
    "BatchmillError",
    "CheckpointBusy",
    "CheckpointDamaged",
    "CheckpointExists",
    "CheckpointMismatch",
    "CheckpointRefused",
    "CheckpointUnwritable",
    "ClusterLost",
    "ClusterUnfit",
    "FailureExample",
    "FailureGroup",
    "FunctionFailed",
    "InputBroken",
    "InputMissing",
    "InvalidUsage",
    "ItemError",
    "ItemsFailed",
    "NotGuarded",
    "OutOfResources",
    "Outcome",
    "OutputLost",
    "Report",
    "Results",
    "Settings",
    "Snapshot",
    "Status",
    "Stopped",
    "Stream",
    "UnknownFunction",
    "Usage",
    "WorkersLost",
    "__version__",
    "map",
    "open_checkpoint",
    "run",
    "stop",
    "stream",
    "write_results",
]

_HOMES = {
    "api": ("Stream", "map", "run", "stop", "stream"),
    "errors": (
        "BatchmillError",
        "CheckpointBusy",
        "CheckpointDamaged",
        "CheckpointExists",
        "CheckpointMismatch",
        "CheckpointRefused",
        "CheckpointUnwritable",
        "ClusterLost",
        "ClusterUnfit",
        "FunctionFailed",
        "InputBroken",
        "InputMissing",
        "InvalidUsage",
        "ItemsFailed",
        "NotGuarded",
        "OutOfResources",
        "OutputLost",
        "Stopped",
        "UnknownFunction",
        "WorkersLost",
    ),
    "model": ("FailureExample", "FailureGroup", "ItemError", "Outcome", "Report", "Snapshot", "Usage"),
    "output.collect": ("write_results",),
    "output.results": ("Results", "Status", "open_checkpoint"),
    "settings": ("Settings",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Importing everything here would cost each `--help` a tenth of a second, and would let the fork server import
    # its modules before its path is the right one (interpreter).
    if name not in _HOME_OF:
        raise AttributeError(f"module 'batchmill' has no attribute {name!r}")
    value = attribute(f"batchmill.{_HOME_OF[name]}", name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
