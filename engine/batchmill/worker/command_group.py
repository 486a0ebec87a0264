"""All that the commands of a worker have started, wherever it has gone: found, asked to end, ended.

    worker -- a subreaper: what its commands leave behind, in whatever group or session, becomes its own child
     |-- keeper     leads the group that commands are started in
     |-- command -- descendants
     '-- orphans    of this command, or left by one before it that ended well

The keeper is a shell that waits for the end of a pipe whose other end only the worker holds: however the worker ends,
the keeper kills the group, and whatever else has this worker's MARK in its environment. That is for the case that
neither the parent nor the fork server is left, who find it by descent. Tried instead: PR_SET_PDEATHSIG would have to be
set in the command itself, and with it a fork of Python's own for each.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.util import Finalize

from batchmill.system.children import MARK, children_of, descendants, kill_tree, send, started_since, ticks_now

SHELL = "/bin/sh"
# A shell that cannot fork ends at the first $( ): then the group alone is killed.
_KEEPER = f"""trap "" HUP INT TERM
trap "kill -KILL 0" EXIT
read -r _
for file in $(grep -ls "{MARK}=${MARK}" /proc/[0-9]*/environ); do
    pid=${{file#/proc/}} pid=${{pid%/environ}}
    [ "$pid" = $$ ] || kill -KILL "$pid"
done 2>/dev/null
kill -KILL 0"""
# What Python or the worker ignores must not be ignored by a command too.
DEFAULT_SIGNALS = (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)
_LOOK = 0.01  # seconds between looks for what is still there
_DEATH = 2.0  # seconds for what was killed to be gone


class CommandGroup:
    """The process group of the commands, with its keeper, and what has left it. `environ` is that of commands."""

    def __init__(self, environ: Mapping[bytes, bytes]) -> None:
        self._environ = environ
        self._keeper = 0
        self._end = -1
        self._begun = 0
        Finalize(None, self.kill, exitpriority=0)  # an idle worker that ends leaves no zombie of its keeper behind

    @property
    def id(self) -> int:
        """The group's number."""
        self.reap()  # a command can kill its keeper, by `kill -9 0`
        if not self._keeper:
            self._start()
        return self._keeper

    def begin(self) -> int:
        """A command is about to start: what is started from now on is its own. The group's number."""
        self._begun = ticks_now()
        return self.id

    def _start(self) -> None:
        end, kept = os.pipe()
        null = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
        actions = [(os.POSIX_SPAWN_DUP2, end, 0), *null]
        try:
            self._keeper = os.posix_spawn(
                SHELL, ["sh", "-c", _KEEPER], self._environ, file_actions=actions, setpgroup=0,
                setsigdef=DEFAULT_SIGNALS,
            )  # fmt: skip
        except BaseException:
            os.close(kept)
            raise
        finally:
            os.close(end)
        self._end = kept

    # The command that has begun

    def ask_to_end(self) -> None:
        """Send SIGTERM to all of it, to each process once, and have what is stopped go on to hear that."""
        members = self.members()
        for number in (signal.SIGTERM, signal.SIGCONT):
            if self._keeper:
                send(os.killpg, self._keeper, number)  # the keeper ignores all but SIGKILL
            for pid in members:
                if not self._has(pid):
                    send(os.kill, pid, number)

    def _has(self, pid: int) -> bool:
        """Whether a process is in the group."""
        try:
            return self._keeper != 0 and os.getpgid(pid) == self._keeper
        except ProcessLookupError:
            return False

    def members(self) -> list[int]:
        """The command, if it has not been waited for, and all that it has started; not what has ended."""
        own = [pid for pid in children_of(os.getpid()) if pid != self._keeper and started_since(pid, self._begun)]
        return [*own, *(pid for one in own for pid in descendants(one))]

    def has_more(self, pid: int) -> bool:
        """Whether there is something of the command beside its first process."""
        return any(member != pid for member in self.members())

    def wait(self, seconds: float) -> None:
        """Wait for the end of all that the command, which has ended, has started; at most so long."""
        deadline = time.monotonic() + seconds
        self.reap()
        while self.members() and time.monotonic() < deadline:
            time.sleep(_LOOK)
            self.reap()

    def end(self) -> None:
        """Kill all that the command, which has been waited for, has started, and wait until it is gone."""
        deadline = time.monotonic() + _DEATH
        self.reap()
        while (left := self.members()) and time.monotonic() < deadline:
            for pid in left:
                kill_tree(pid)
            time.sleep(_LOOK)
            self.reap()

    def reap(self) -> None:
        """Let go of what has ended. No command must be at work: its end is its own to wait for."""
        try:
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                if pid == self._keeper:
                    os.close(self._end)
                    self._keeper = 0
        except ChildProcessError:
            pass

    def kill(self) -> None:
        """Kill all of the group, the keeper too; there will be another."""
        if self._keeper:
            send(os.killpg, self._keeper, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self._keeper, 0)
            os.close(self._end)
            self._keeper = 0
