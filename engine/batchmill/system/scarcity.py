"""What is said where the system has no more of what a run needs: processes, threads, memory, open files, room."""

from __future__ import annotations

import errno
from typing import NamedTuple

from batchmill.errors import OutOfResources


class _Scarce(NamedTuple):
    """What there is no more of, and what helps."""

    lack: str
    remedy: str


_PROCESSES = _Scarce(
    "no more processes or threads can be started",
    "end other programs, or raise the limits (ulimit -u and -v, pids.max and the memory of a container)",
)
_MEMORY = _Scarce(
    "there is not enough memory",
    "end other programs, or raise the limit (ulimit -v, the memory of a container)",
)
_ROOM = "make room there, or have the quota raised"
_BY_NUMBER = {
    errno.EAGAIN: _PROCESSES,
    errno.ENOMEM: _MEMORY,
    errno.EMFILE: _Scarce("no more files can be open", "raise the limit (ulimit -n)"),
    errno.ENFILE: _Scarce("no more files can be open on this machine", "end other programs"),
    errno.EFBIG: _Scarce("files may not be as large as is needed", "raise the limit (ulimit -f)"),
    errno.ENOSPC: _Scarce("there is no room left", _ROOM),
    errno.EDQUOT: _Scarce("the quota is used up", _ROOM),
}


_OF_A_PLACE = {errno.EFBIG, errno.ENOSPC, errno.EDQUOT}
_NO_ROOM = "failed to map segment"  # what the loader of shared libraries says where memory is short
_NOT_SAID = "without exception set"  # what Python says where its own code forgot to say that memory was short


def lacking_number(error: BaseException) -> int | None:
    """The errno of what was lacking, None where it was something else."""
    if isinstance(error, MemoryError) or any(
        isinstance(error, kind) and words in str(error)
        for kind, words in ((ImportError, _NO_ROOM), (SystemError, _NOT_SAID))
    ):
        return errno.ENOMEM
    if isinstance(error, OSError):
        return error.errno if error.errno in _BY_NUMBER else None
    # Python has no class for it: a thread is refused by the same limit as a process, or for want of memory.
    is_thread = isinstance(error, RuntimeError) and "start new thread" in str(error)
    return errno.EAGAIN if is_thread else None


def lacking(error: BaseException, what: str = "this run cannot go on") -> OutOfResources | None:
    """The error that says what was lacking, None where it was something else; `what` is the consequence."""
    number = lacking_number(error)
    return None if number is None else OutOfResources(f"{what}: {lack_in(error)}", _BY_NUMBER[number].remedy)


def limit_met(error: OSError, what: str) -> OutOfResources | None:
    """As `lacking`, for `what` was done with a file: None also where it is room for that file which is lacking."""
    return None if error.errno in _OF_A_PLACE else lacking(error, what)


def out_of_memory(what: str) -> OutOfResources:
    """The error of `what` is most likely for want of memory."""
    return OutOfResources(f"{what}: most likely, {_MEMORY.lack}", _MEMORY.remedy)


def lack_in(error: BaseException) -> str:
    """What was lacking, as part of a sentence; of any other error what it says itself."""
    number = lacking_number(error)
    if number is None:
        return str(error)
    path = getattr(error, "filename", None) if number in _OF_A_PLACE else None
    where = f" ({path})" if isinstance(path, str) else ""
    return f"{_BY_NUMBER[number].lack}{where}"
