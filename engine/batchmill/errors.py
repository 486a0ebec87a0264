"""Every error raised on purpose: one base, an exit status and a remedy each.

The classes are named for what happened; `exit_code` is the process status, of sysexits.h where one fits
(cli/README.md#exit-codes), and `remedy` is what the person can do about it, said after the message.
"""

from __future__ import annotations

import signal

from batchmill.value_class import frozen_value_class


class BatchmillError(Exception):
    """Base of all errors raised on purpose.

    `message` is one sentence with the cause; `remedy` says what to do next, or is empty.
    """

    exit_code = 70

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class Unsupported(BatchmillError):
    """This Python keeps something differently that workers are started with."""


class InvalidUsage(BatchmillError, ValueError):
    """An option, a name or a combination of them that cannot work."""

    exit_code = 2


class UnknownFunction(InvalidUsage):
    """FUNCTION is malformed, or its module has no such name."""


class InputMissing(BatchmillError):
    """An INPUT, or the function's file, is not there or cannot be read."""

    exit_code = 66


class InputBroken(BatchmillError):
    """The input ended in an error of its own (a compressed file cut short, a failing disk)."""

    exit_code = 65


class CheckpointDamaged(BatchmillError):
    """The checkpoint holds damage that no crash of ours explains; it was not touched."""

    exit_code = 65


class CheckpointRefused(BatchmillError):
    """The checkpoint cannot be created, locked or opened."""

    exit_code = 73


class CheckpointExists(CheckpointRefused):
    """It is there, and nobody said what to do with it."""


class CheckpointUnwritable(BatchmillError):
    """Writing or syncing the checkpoint failed, or someone replaced it during the run."""

    exit_code = 74


class OutputLost(BatchmillError):
    """Results could not be written to the output."""

    exit_code = 74


class CheckpointBusy(BatchmillError):
    """Another run holds the checkpoint."""

    exit_code = 75


class Interrupted(BatchmillError):
    """A signal came before anything was begun; `exit_code` says which."""

    def __init__(self, message: str, remedy: str = "", *, exit_code: int = BatchmillError.exit_code) -> None:
        super().__init__(message, remedy)
        self.exit_code = exit_code


class CheckpointMismatch(BatchmillError):
    """The checkpoint belongs to another function, input, format, id rule, or to a newer batchmill."""

    exit_code = 78


class FunctionFailed(BatchmillError):
    """Importing the function's module, or its initializer, raised, exited or did not end."""

    exit_code = 78


class FunctionStarved(FunctionFailed):
    """It raised for want of processes, threads, memory, open files or room: another worker may have had enough."""


class WorkersLost(BatchmillError):
    """Workers cannot be started, or die faster than they can be replaced."""

    exit_code = 70


class OutOfResources(WorkersLost):
    """The system has no more processes, threads, memory, open files or room for what a run cannot do without."""

    exit_code = 71


class ClusterUnfit(BatchmillError):
    """The workers of a cluster cannot run this batch: no batchmill there, or another version of it or of Python."""

    exit_code = 78


class ClusterLost(BatchmillError):
    """The scheduler of a cluster cannot be reached, or no longer."""

    exit_code = 70


@frozen_value_class
class ItemError:
    """Why an item failed: the exception's `type` name, its `message`, the `traceback` text ("" where there is none)."""

    type: str
    message: str
    traceback: str = ""


class ItemsFailed(BatchmillError):
    """Raised by `Report.raise_for_failures` and `map`: at least one item failed. `error` is why the first of them did,
    an ItemError, where that is known; its traceback is a note below the message."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "", error: ItemError | None = None) -> None:
        super().__init__(message, remedy)
        self.error = error
        traceback = "" if error is None else error.traceback.rstrip("\n")
        if "\n" in traceback:
            self.add_note(traceback)


class Stopped(BatchmillError):
    """A `map` was stopped by `stop()` or `time_limit` before it had all results."""

    exit_code = 3


class NotGuarded(BatchmillError, RuntimeError):
    """A script without `if __name__ == "__main__":` started a batch again inside a worker."""

    exit_code = 78


class ItemFailed(Exception):
    """Raised on an item by a callable of ours, which knows itself all that is to be said: `error`."""

    def __init__(self, error: ItemError) -> None:
        super().__init__(error.message)
        self.error = error


class ResultNotKept(TypeError):
    """What a function returned has no form in which it could be kept exact."""


class IllegalMove(RuntimeError):
    """An event that the state table does not know: a defect of ours, never of the user's."""


def is_signal(reason: str) -> bool:
    """Whether it was a signal that ended a run: `reason` as a Report has it."""
    return reason.startswith("SIG")


def status_of_signal(signal_name: str) -> int:
    """The exit status that stands for the end by a signal."""
    return 128 + signal.Signals[signal_name]


def interrupted(reason: str, doing: str) -> Interrupted:
    """The error that says what asked to stop, mostly a signal's name, while `doing` something."""
    code = status_of_signal(reason) if is_signal(reason) else Interrupted.exit_code
    return Interrupted(f"ended by {reason} while {doing}: nothing was begun", exit_code=code)
