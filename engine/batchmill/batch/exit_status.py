"""The exit status of a run, from what it came to. Those of errors are in `errors`, with their classes."""

from __future__ import annotations

from batchmill.errors import BatchmillError, is_signal, status_of_signal

FAILURES = 1  # more items failed than --allow-failures
STOPPED = 3  # by a limit of its own: what is left runs when it is continued


def exit_status(stopped: str, error: BaseException | None, *, is_broken: bool, is_success: bool) -> int:
    """`stopped` is why it ended early ("" where it did not), `error` what ended it; `is_broken`: by a defect of ours.

    `is_success`: no more items failed than may.
    """
    if is_signal(stopped):
        return status_of_signal(stopped)
    if isinstance(error, BatchmillError):
        return error.exit_code
    if stopped:
        return BatchmillError.exit_code if is_broken else STOPPED
    return 0 if is_success else FAILURES
