"""The limits of a run: its failures, and its time.

When a run with --time-limit does what, so that the process is over in time:

    WORK ------> DRAIN ---------> ASK ------------> CUT ------------------> OVER -------------> the limit
          an item's     what runs is      what still     -o FILE.partial         close the
          95th percentile  asked to end   runs is killed   is written           checkpoint, report

An item is started only if it is likely to end in time; those that take longer are waited for until CUT. The clock is
monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum

from batchmill.settings import Settings
from batchmill.text import option, plural

FIRST = 100  # outcomes before a share means anything


LIKELY = 0.95  # of the items end within what is reserved for draining
STRAGGLER = 3.0  # times the mean of its chunk: an item is hardly longer, and never longer than the chunk
SEEN = 200  # chunks remembered
CLOSING_SHARE, CLOSING = 0.02, (0.3, 5.0)  # of the limit, and least and most seconds: sync, close, report
SLACK = 0.15  # seconds by which the loop, which looks ten times a second, may be late
RENDERED = 20 << 20  # bytes of outcomes written per second; measured: 100 M and more on two workers
MOST_WORDS = 0.25  # of the limit that what runs may take to end
MOST = 0.5  # of the limit that writing the output may claim beforehand


class Phase(IntEnum):
    """What there is time for."""

    WORK = 0
    DRAIN = 1
    ASK = 2
    CUT = 3
    OVER = 4


class TimeLimit:
    """A run of `seconds` that must be over at `end`. `output` is the bytes of outcomes that are to be written at the
    end, as far as they are there before the run; None where nothing is. What is asked to end may take `kill_after`."""

    def __init__(self, end: float, seconds: float, output: int | None = None, kill_after: float = 0.0) -> None:
        self.end = end
        self._seconds = seconds
        self._output = output
        self._kill_after = min(kill_after, MOST_WORDS * seconds)
        self._items: deque[float] = deque(maxlen=SEEN)
        self._item: float | None = 0.0

    def seen(self, items: int, seconds: float, size: int) -> None:
        """A chunk of `items` items took `seconds`; its outcomes are `size` bytes."""
        if items > 0:
            self._items.append(min(seconds, STRAGGLER * seconds / items))
            self._item = None
        if self._output is not None:
            self._output += size

    @property
    def item(self) -> float:
        """Seconds within which an item is likely to end; 0.0 before anything is known."""
        if self._item is None:
            ordered = sorted(self._items)
            self._item = ordered[min(int(LIKELY * len(ordered)), len(ordered) - 1)]
        return self._item

    def phase(self, now: float) -> Phase:
        """What there is time for at `now`."""
        over = self.end - min(max(CLOSING_SHARE * self._seconds, CLOSING[0]), CLOSING[1], MOST * self._seconds)
        cut = over
        if self._output is not None:
            cut -= min(SLACK + self._output / RENDERED, MOST * self._seconds)
        if now >= over:
            return Phase.OVER
        if now >= cut:
            return Phase.CUT
        ask = cut - self._kill_after
        if self._kill_after and now >= ask:
            return Phase.ASK
        return Phase.DRAIN if now >= ask - self.item - SLACK else Phase.WORK


class FailureLimits:
    """`max_failures` and `allow_failures` of the settings, as decisions."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_failures
        self._allowed = settings.allow_failures

    def reason_to_stop(self, ok: int, failed: int, again: int = 0, waiting: int = 0, unkept: int = 0) -> str | None:
        """Why the run must stop after these outcomes of its own, or None.

        Of them, `again` had failed before the run, `waiting` have failed but will be tried again, and `unkept` failed
        though the function returned: what it returns cannot be kept.
        """
        if self._most == "none":
            return None
        if self._most == "auto" and unkept > again and unkept == failed and not ok:
            return f"what the function returns cannot be kept ({option('max_failures', 'none')} goes on all the same)"
        if self._most == "auto":
            # What failed before says nothing of the function: a hundred such must not bar the way to new items.
            return f"the first {failed} items all failed" if failed - again >= FIRST and not ok else None
        tried, failed = ok + failed, failed - waiting
        if isinstance(self._most, str):
            return self._share(tried, failed)
        return None if failed < self._most else f"{plural(failed, 'item')} failed ({self._said})"

    @property
    def _said(self) -> str:
        return option("max_failures", self._most)

    def _share(self, tried: int, failed: int) -> str | None:
        if tried < FIRST or not exceeds(failed, tried, str(self._most)):
            return None
        return f"{failed} of {plural(tried, 'item')} failed ({self._said})"

    def is_success(self, failed: int, total: int) -> bool:
        """Whether a batch of `total` items of which `failed` failed counts as done (exit 0)."""
        allowed = self._allowed
        return not exceeds(failed, total, allowed) if isinstance(allowed, str) else failed <= allowed


def exceeds(part: int, whole: int, percent: str) -> bool:
    """Whether `part` is more than `percent` ("5%") of `whole`."""
    return part * 100 > float(percent.rstrip("%")) * whole
