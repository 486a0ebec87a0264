"""A command as a process of a worker: its start, its streams, its end.

It never knows of items, and never lets a command outlive its worker; `command_group` has all that it starts.

    Commands.run --posix_spawn--> the command, in the worker's second group
                 <--two pipes---- stdout, stderr: as it writes them, the first bytes kept, the rest counted

Spawning costs 70 µs of the worker's time (vfork inside), pipes and poll 50 µs more; subprocess.run costs twice that.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

from batchmill.errors import OutputLost
from batchmill.files.anonymous_file import file_with
from batchmill.files.storage import write_whole
from batchmill.system.children import kill_tree, pidfd_open
from batchmill.worker.command_group import DEFAULT_SIGNALS, SHELL, CommandGroup

PIECE = 1 << 16
TAIL = 4 << 10  # bytes of the end of a stream that are kept in any case
KILL_AFTER = 1.0  # seconds between SIGTERM and SIGKILL
_TICK = 0.1  # seconds; a longer one counts as two: a suspended machine does not count (engine/README.md#time-outs)
_LOOK = 0.02  # seconds between looks for the end of a command, where nothing tells of it
PATIENCE = 20.0  # seconds for a process to become possible: other commands have to end first
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.2
HELD = {errno.EAGAIN, errno.ENFILE}  # others have all that there may be of them: whatever is started, it cannot be
_PASSING = {errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.ETXTBSY}  # what may be otherwise in a moment
_PIPEFUL = 16  # pieces: more than a pipe holds


class Capture:
    """What a command wrote to one of its streams: the first `keep` bytes, and how many were `dropped`.

    With `whole`, the others are in a temporary file, for `pieces`. `listen` is told all of it, as it comes.
    """

    __slots__ = ("_keep", "_last", "_listen", "_rest", "_whole", "dropped", "kept")

    def __init__(self, keep: int, whole: bool, listen: Callable[[bytes], None] | None = None) -> None:
        self._keep = keep
        self._whole = whole
        self._listen = listen
        self._rest: IO[bytes] | None = None
        self._last = b""
        self.kept = bytearray()
        self.dropped = 0

    def add(self, data: bytes) -> None:
        """The command wrote this next."""
        if self._listen is not None:
            self._listen(data)
        room = self._keep - len(self.kept)
        if room > 0:
            self.kept += data[:room]
        if len(data) > room:
            self._drop(data[room:])

    def _drop(self, data: bytes) -> None:
        self.dropped += len(data)
        self._last = (self._last + data)[-TAIL:]
        if self._whole:
            import tempfile  # not every worker needs it

            try:
                if self._rest is None:
                    self._rest = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed with the capture
                write_whole(self._rest.fileno(), data)
            except OSError as error:
                remedy = "point TMPDIR at a directory with room"
                raise OutputLost(f"no room for what it prints, in a temporary file: {error.strerror}", remedy) from None

    @property
    def tail(self) -> bytes:
        """The last bytes."""
        return bytes(self.kept[-TAIL:] + self._last)[-TAIL:]

    def pieces(self) -> Iterator[bytes]:
        """All of it, in pieces; only `whole` ones have what was dropped."""
        if self.kept:
            yield bytes(self.kept)
        if self._rest is not None:
            self._rest.seek(0)
            while piece := self._rest.read(PIECE):
                yield piece

    def close(self) -> None:
        """Give back the file."""
        if self._rest is not None:
            self._rest.close()


Captures = tuple[Capture, Capture]  # of stdout and of stderr


class CommandEnd(NamedTuple):
    """How a command ended: its wait status and resource usage, and whether it was told to, after its time was up."""

    status: int
    usage: Any
    overdue: bool


class NotStarted(Exception):
    """A command could not be started, for the reason in `error`."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class AskedToEnd(Exception):
    """Raised by `run` where the command was ended because the worker was asked to."""


class CommandProcesses:
    """Runs commands, one after the other. `environ` is theirs. `note` is told which process runs, and 0 when it has
    ended. Between SIGTERM and SIGKILL there are `kill_after` seconds."""

    def __init__(
        self,
        environ: Mapping[bytes, bytes],
        note: Callable[[int], None] = lambda pid: None,
        kill_after: float = KILL_AFTER,
    ) -> None:
        self._environ = dict(environ)
        self._note = note
        self._kill_after = kill_after
        self._group = CommandGroup(self._environ)
        self._is_asked = self._may_raise = False

    def run(
        self,
        path: str | None,
        words: list[bytes],
        *,
        stdin: bytes | None,
        captures: Captures,
        timeout: float | None,
        patience: float = PATIENCE,
        variables: Mapping[bytes, bytes] | None = None,
    ) -> CommandEnd:
        """Run the program `path` (None: the first word, looked up on PATH) to its end, which may be `timeout`.
        Where others have all the processes there may be, it is tried again for `patience` seconds.

        `captures` take stdout and stderr. The program reads `stdin`, or nothing; `variables` are in its environment
        besides. What it leaves running in the background is not waited for. Raises NotStarted, AskedToEnd, and
        OutputLost where `captures` cannot keep what it prints.
        """
        environ = {**self._environ, **variables} if variables else self._environ
        child = self._started(_Program(path, words, environ, stdin), captures, patience)
        self._note(child.pid)
        try:
            overdue = not self._gather(child, timeout)
            if overdue:
                self._end(child, self._kill_after)
            child.drain()
            status, usage = child.wait()
        except BaseException as error:
            self._end(child, self._kill_after if isinstance(error, AskedToEnd) else 0.0)
            raise
        finally:
            self._note(0)
            child.close()
        return CommandEnd(status, usage, overdue)

    def _gather(self, child: _Child, timeout: float | None) -> bool:
        try:
            self._may_raise = True
            if self._is_asked:
                raise AskedToEnd
            return child.gather(timeout)
        finally:
            self._may_raise = False

    def ask_to_end(self) -> None:
        """In a signal handler: end the command that runs, as at its time-out. There will be no other."""
        self._is_asked = True
        if self._may_raise:
            self._may_raise = False
            raise AskedToEnd

    def _end(self, child: _Child, patience: float) -> None:
        """End a command and all that it has started: a word, some time, the end."""
        deadline = time.monotonic() + patience
        self._group.ask_to_end()
        if not child.gather(patience):
            kill_tree(child.pid)
        child.wait()
        self._group.wait(deadline - time.monotonic())
        self._group.end()
        self._group.kill()

    def end_leftovers(self) -> None:
        """End what the last command has left behind: it has failed, and may be tried again."""
        self._group.ask_to_end()
        self._group.wait(self._kill_after)
        self._group.end()

    def check(self, *, forks: bool = False) -> None:
        """Raise NotStarted where there is no process for a command: one is tried, with `forks` one that needs more."""
        captures = (Capture(0, whole=False), Capture(0, whole=False))
        script = b": | :" if forks else b":"
        ended = self.run(SHELL, [b"sh", b"-c", script], stdin=None, captures=captures, timeout=None, patience=0.0)
        if ended.status:
            raise NotStarted(OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))

    def _started(self, program: _Program, captures: Captures, patience: float) -> _Child:
        deadline, pause = time.monotonic() + patience, _FIRST_PAUSE
        while True:
            try:
                return self._start(program, captures)
            except OSError as error:
                if error.errno not in _PASSING or time.monotonic() + pause > deadline:
                    raise NotStarted(error) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _start(self, program: _Program, captures: Captures) -> _Child:
        ends: list[int] = []
        try:
            ends += os.pipe()
            ends += os.pipe()
            actions = [(os.POSIX_SPAWN_DUP2, ends[1], 1), (os.POSIX_SPAWN_DUP2, ends[3], 2)]
            if program.stdin is not None:
                ends.append(file_with(program.stdin))
                actions.append((os.POSIX_SPAWN_DUP2, ends[4], 0))
            pid = self._spawn(program, actions)
        except BaseException:
            for end in ends:
                os.close(end)
            raise
        if program.stdin is not None:
            os.close(ends[4])
        return _Child(pid, dict(zip((ends[0], ends[2]), captures)), (ends[1], ends[3]))

    def _spawn(self, program: _Program, actions: Sequence[Any]) -> int:
        path, words, environ, _ = program
        spawn = os.posix_spawnp if path is None else os.posix_spawn
        name: Any = words[0] if path is None else path
        rest: dict[str, Any] = {
            "file_actions": actions,
            "setpgroup": self._group.begin(),
            "setsigdef": DEFAULT_SIGNALS,
        }
        try:
            return spawn(name, words, environ, **rest)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without a first line that names its interpreter: the shell's, as execvp and every shell has it.
            return os.posix_spawn(SHELL, [b"sh", name, *words[1:]], environ, **rest)


class _Program(NamedTuple):
    """What is started: the program at `path` (None: the first word, on PATH), its words, environment and stdin."""

    path: str | None
    words: list[bytes]
    environ: Mapping[bytes, bytes]
    stdin: bytes | None


class _Child:
    """A running command, and both ends of its streams.

    Its end is told by a pidfd. The writing ends stay open here till then, or else each closing of a stream would wake
    this process: three times an item, for most commands say nothing. Without pidfds the ends of the streams must do.
    """

    def __init__(self, pid: int, captures: dict[int, Capture], writing: tuple[int, ...]) -> None:
        self.pid = pid
        self._captures = captures
        self._poll = select.poll()
        for descriptor in captures:
            self._poll.register(descriptor, select.POLLIN)
        self._pidfd = pidfd_open(pid)
        self._writing = writing
        self._ended: tuple[int, Any] | None = None
        if self._pidfd is None:
            self._close_writing()
        else:
            self._poll.register(self._pidfd, select.POLLIN)

    def gather(self, seconds: float | None) -> bool:
        """Read till the command has ended (True), or these seconds have passed."""
        if seconds is None and self._pidfd is not None:
            while not self._read(None):
                pass
            return True
        spent, last = 0.0, time.monotonic()
        tick = _LOOK if self._pidfd is None else _TICK
        while seconds is None or spent < seconds:
            if self._read(1000 * (tick if seconds is None else min(tick, seconds - spent))):
                return True
            now = time.monotonic()
            spent, last = spent + min(now - last, 2 * _TICK), now
        return False

    def _read(self, milliseconds: float | None) -> bool:
        """Read what is there, or comes within that time; whether the command has ended."""
        ended = False
        for descriptor, event in self._poll.poll(milliseconds):
            if descriptor == self._pidfd:
                ended = True
            elif event & select.POLLIN:
                self._captures[descriptor].add(os.read(descriptor, PIECE))
            else:  # the last writer is gone
                self._poll.unregister(descriptor)
        return ended or (self._pidfd is None and self._has_ended())

    def _has_ended(self) -> bool:
        if self._ended is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            self._ended = (status, usage) if pid else None
        return self._ended is not None

    def drain(self) -> None:
        """Read what an ended command left in its pipes; what it left running may hold them open for ever."""
        if self._pidfd is not None:
            self._poll.unregister(self._pidfd)
        for _ in range(_PIPEFUL):
            if not any(event & select.POLLIN for _, event in self._poll.poll(0)):
                break
            self._read(0)

    def wait(self) -> tuple[int, Any]:
        """Wait for its end: wait status and resource usage."""
        if self._ended is None:
            _, status, usage = os.wait4(self.pid, 0)
            self._ended = status, usage
        return self._ended

    def close(self) -> None:
        """Close what is open."""
        self._close_writing()
        for descriptor in self._captures:
            os.close(descriptor)
        if self._pidfd is not None:
            os.close(self._pidfd)

    def _close_writing(self) -> None:
        for descriptor in self._writing:
            os.close(descriptor)
        self._writing = ()
