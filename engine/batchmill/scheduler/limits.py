"""How many failures end a run, and how many are still a success."""

from __future__ import annotations

from batchmill.settings import Settings
from batchmill.text import plural

FIRST = 100  # outcomes before a share means anything


class FailureLimits:
    """`max_failures` and `allow_failures` of the settings, as decisions."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_failures
        self._allowed = settings.allow_failures

    def reason_to_stop(self, ok: int, failed: int, again: int = 0, waiting: int = 0) -> str | None:
        """Why the run must stop after so many outcomes of its own, or None.

        Of them, `again` had failed before the run, and `waiting` have failed but will be tried again.
        """
        if self._most == "none":
            return None
        if self._most == "auto":
            # What failed before says nothing of the function: a hundred such must not bar the way to new items.
            return f"the first {failed} items all failed" if failed - again >= FIRST and not ok else None
        tried, failed = ok + failed, failed - waiting
        if isinstance(self._most, str):
            return self._share(tried, failed)
        return f"{plural(failed, 'item')} failed (--max-failures {self._most})" if failed >= self._most else None

    def _share(self, tried: int, failed: int) -> str | None:
        if tried < FIRST or not exceeds(failed, tried, str(self._most)):
            return None
        return f"{failed} of {plural(tried, 'item')} failed (--max-failures {self._most})"

    def is_success(self, failed: int, total: int) -> bool:
        """Whether a batch of `total` items with so many failed ones counts as done (exit 0)."""
        allowed = self._allowed
        return not exceeds(failed, total, allowed) if isinstance(allowed, str) else failed <= allowed


def exceeds(part: int, whole: int, percent: str) -> bool:
    """Whether `part` is more than `percent` ("5%") of `whole`."""
    return part * 100 > float(percent.rstrip("%")) * whole
