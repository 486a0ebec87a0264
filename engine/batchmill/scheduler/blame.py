"""Whether a dead worker's item is to blame, and in which words."""

from __future__ import annotations

from batchmill.errors import ItemError
from batchmill.pool.startup import KILLED, SERVER_LOST

KILLS = (
    10  # times an item may be on the board of a worker that somebody else seems to have killed, before it is charged
)
DISCONNECTED = "closed its connection (does the item close descriptors that are not its own?)"


class Blame:
    """Judges the deaths of workers. Keeps how often a record was on the board when its worker was killed from
    outside."""

    def __init__(self) -> None:
        self._kills: dict[int, int] = {}

    def is_its_own(self, first: int, code: int | None, memory: str | None, *, has_begun: bool = True) -> bool:
        """Whether the record at position `first` is charged with the death of its worker (exit status `code`).

        An unknown status and a lost fork server (or the item's own `exit(-1)`) are someone else's doing, and so is
        SIGKILL unless memory was short (`memory` says how), and whatever befell a worker that had worked before and had
        not begun with this; but not if it happens again and again to the same record.
        """
        if (has_begun and code not in (None, SERVER_LOST, KILLED)) or (code == KILLED and memory is not None):
            return True
        self._kills[first] = self._kills.get(first, 0) + 1
        return self._kills[first] > KILLS


def verdict(how: str, pid: int, tries: int, memory: str | None, *, was_opened: bool = True) -> ItemError:
    """The error of an item that cost a worker (process `pid`) its life `tries` times; `how` in words."""
    cause = f"; likely out of memory: {memory}" if memory is not None and "SIGKILL" in how else ""
    times = f", {tries} times" if tries > 1 else ""
    what = "running" if was_opened else "reading"
    return ItemError("WorkerDied", f"the worker (pid {pid}) {how} while {what} it{times}{cause}")


def machine_verdict(machine: str, tries: int) -> ItemError:
    """The error of an item that ran alone on `machine` when that was lost; the same happened `tries` times in all."""
    times = f", {tries} times" if tries > 1 else ""
    return ItemError("WorkerDied", f"the worker {machine} was lost while running it and nothing else{times}")
