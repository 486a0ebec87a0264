"""Running a command on an item, in a worker: to a map that says how it ended, or a failure.

record --TaskReader--> Task --Template--> words --CommandProcesses.run--> a map, or ItemFailed

A command may cover several items: `command_calls` says which, and what each of them has of the map.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from resource import RUSAGE_SELF, getrusage
from typing import Any

from batchmill.codec.pack import pack_value
from batchmill.errors import ItemError, ItemFailed, OutputLost
from batchmill.files.conflicts import NO_FILES, OwnFiles
from batchmill.files.storage import write_whole
from batchmill.input.formats import LINES_OF_BYTES, Format, Parse, format_named
from batchmill.input.items import Found, Identify, ItemReader
from batchmill.input.rewrite import as_json_line
from batchmill.model import Chunk
from batchmill.secrecy import hide, learn, mask_script, mask_words
from batchmill.system.machine import oom_kills
from batchmill.system.scarcity import lack_in, lacking, lacking_number
from batchmill.text import escape, option
from batchmill.worker.child_process import HELD, AskedToEnd, Capture, CommandEnd, CommandProcesses, NotStarted
from batchmill.worker.command import MAX_KEPT, CommandSpec
from batchmill.worker.passthrough import LinesOn, Passer, tagged
from batchmill.worker.reply import FailedCommand, KilledForMemory, NoProcessLeft, Postponed
from batchmill.worker.template import Task

TAIL_LINES = 20
_LONGEST_TAG = 1000  # characters of an id before each line
_LONGEST_ID = 4096  # bytes of an id in the environment, which is bounded together with the arguments
_SHOWN = 100  # bytes of a program's name in a message: it may be the item
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # it, or what a shell waited for
_PAUSES = (0.1, 0.2, 0.4)  # seconds before a command is run again that found no process
# What dash, bash, busybox, zsh and xargs say.
_CANNOT_FORK = re.compile(rb"(?i)(?:cannot|can't) fork|fork: retry|fork(?: failed)?: resource temporarily unavailable")
_NOTHING = Capture(0, whole=False)
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class TooManyArguments(ItemFailed):
    """There is no room for the words of a command."""


class TaskReader(ItemReader):
    """Gives Tasks for items: a command may want the record's bytes, and its number."""

    @staticmethod
    def format_named(name: str) -> Format:
        return LINES_OF_BYTES if name == "lines" else format_named(name)

    def _make_reader(self, header: bytes, parse: Parse | None) -> Identify:
        identify = super()._make_reader(header, parse)

        def read(chunk: Chunk, offset: int, record: Any) -> Found | None:
            found = identify(chunk, offset, record)
            if found is None:
                return None
            id, raw, item, content, bad = found
            number = chunk.first + offset + 1 if chunk.numbers is None else chunk.numbers[offset]
            earlier = None if chunk.earlier is None else chunk.earlier.get(offset)
            attempt = chunk.crashes + 1 + (0 if earlier is None else earlier.attempts)
            is_row = self.format is not None and self.format.wanted is not None
            return id, raw, Task(item, as_json_line(raw) if is_row else raw, number, id, attempt), content, bad

        return read


class CommandRunner:
    """Runs the command. `timeout` is in seconds; `passer` takes what it prints, where that is to be passed on; `own`
    are the files that the run itself writes: a list of files may name them, and a command might well destroy them.
    `worker` is the number of this one.
    """

    def __init__(self, spec: CommandSpec, format: str | None, environ: Mapping[bytes, bytes], timeout: float | None,
                 passer: Passer | None, *, own: OwnFiles = NO_FILES, worker: int = 0,
                 note: Callable[[int], None] = lambda pid: None) -> None:  # fmt: skip
        self._spec = spec
        self._own = own
        self._template = spec.template(format, worker)
        self._worker = b"%d" % worker
        self._commands = CommandProcesses(environ, note, spec.kill_after)
        self.ask_to_end = self._commands.ask_to_end
        self._timeout = timeout
        self._passer = passer
        self._lines: tuple[LinesOn, ...] = ()  # of a command whose lines are passed on as they come
        self._oom_kills = oom_kills()
        self._path = spec.program or ("/bin/sh" if spec.shell else None)
        self._argv = [os.path.basename(self._path or "").encode(), b"-c"] if spec.shell else []
        secrets: list[str] = []
        mask_script(spec.words[0], secrets) if spec.shell else mask_words(spec.words, secrets)
        learn(secrets)

    def check(self) -> None:
        """Raise OutOfResources where there is no process for a command, or none for what a script starts."""
        try:
            self._commands.check(forks=self._spec.shell)
        except NotStarted as failed:
            raise lacking(failed.error, "no command can be started") or failed.error from None

    def __call__(self, task: Task) -> dict[str, Any]:
        """How the command ended on a Task, as a map; raises ItemFailed where that was not well, Starved where it found
        no memory or no process, and Postponed where others have all the processes there may be: the item has no part
        in that."""
        self._refuse_own(task)
        return self.run([task])

    def run(self, tasks: Sequence[Task]) -> dict[str, Any]:
        """The same of a command that covers these; raises TooManyArguments where there is no room for them."""
        words = self._template.fill(*tasks)
        if self._spec.trace:
            self._say(tasks)
        for pause in _PAUSES:
            try:
                return self._run(tasks, words)
            except NoProcessLeft:
                time.sleep(pause)  # what others run may end by then
        return self._run(tasks, words)

    def unfit(self, task: Task) -> ItemFailed | None:
        """Why no command can have the item among others."""
        try:
            self._refuse_own(task)
            self._template.fill(task)
        except ItemFailed as failed:
            return failed
        if self._spec.stdin and b"\n" in task.raw:
            why = "there is a line break in it, and --stdin gives items one a line"
            return ItemFailed(ItemError("ValueError", f"{why}; leave out {option('batch_size')}"))
        return None

    def _refuse_own(self, task: Task) -> None:
        if type(task.item) is str and self._own.has(task.item):
            raise ItemFailed(
                ItemError(
                    "OwnFile", "it is a file that this run writes itself; leave it out, or name it elsewhere (-c, -o)"
                )
            )

    def _run(self, tasks: Sequence[Task], words: list[bytes]) -> dict[str, Any]:
        spec = self._spec
        out, err = self._captures(tasks)
        try:
            ended = self._commands.run(
                self._path,
                [*self._argv, *words],
                stdin=b"".join(task.raw + b"\n" for task in tasks) if spec.stdin else None,
                captures=(out, err),
                timeout=self._timeout,
                variables=self._variables(tasks),
            )
            status = os.waitstatus_to_exitcode(ended.status)
            if status not in (0, *spec.ok_exit) and _CANNOT_FORK.search(err.tail):
                raise NoProcessLeft(_failed("ExitStatus", "no process left for it", {}, out, err).error)
            is_last_try = len(tasks) == 1 or not spec.splits or (status in spec.ok_exit and not ended.overdue)
            self._pass_on(tasks, out if is_last_try else _NOTHING, err)
        except NotStarted as failed:
            if failed.error.errno in HELD:
                raise Postponed(lack_in(failed.error)) from None
            raise _not_run(self._argv[0] if spec.shell else words[0], failed.error) from None
        except AskedToEnd:
            raise Postponed("") from None
        except OutputLost as error:
            raise ItemFailed(ItemError("OutputLost", str(error))) from None
        finally:
            out.close()
            err.close()
        try:
            return self._result(ended, out, err)
        except ItemFailed:
            if not ended.overdue:
                self._commands.end_leftovers()
            raise

    def _say(self, tasks: Sequence[Task]) -> None:
        try:
            write_whole(2, self._spec.shown_for(tasks, self._template).encode() + b"\n")
        except OSError:
            pass  # it is for people

    def _captures(self, tasks: Sequence[Task]) -> tuple[Capture, Capture]:
        """What takes stdout and stderr."""
        passer, keep = self._passer, min(self._spec.keep * len(tasks), MAX_KEPT)
        if passer is None or not self._spec.line_buffer:
            return Capture(keep, passer is not None), Capture(keep, passer is not None)
        tag = self._tag(tasks)
        self._lines = (
            LinesOn(lambda lines: passer.pass_on(lines, ()), tag),
            LinesOn(lambda lines: passer.pass_on((), lines), tag),
        )
        return Capture(keep, False, self._lines[0].add), Capture(keep, False, self._lines[1].add)

    def _pass_on(self, tasks: Sequence[Task], out: Capture, err: Capture) -> None:
        """Pass on what was printed, or what is left of it."""
        if self._spec.line_buffer:
            for lines in self._lines:
                lines.end()
        elif self._passer is not None and (out.kept or err.kept):
            tag = self._tag(tasks)
            self._passer.pass_on(tagged(out.pieces(), tag), tagged(err.pieces(), tag))

    def _tag(self, tasks: Sequence[Task]) -> bytes:
        """What each line begins with: the id, or the first and the last of them."""
        if not self._spec.tag:
            return b""
        ids = (tasks[0].id, tasks[-1].id)[: len(tasks)]
        return "..".join(escape(str(id), _LONGEST_TAG) for id in ids).encode() + b"\t"

    def _variables(self, tasks: Sequence[Task]) -> dict[bytes, bytes]:
        """What a command finds in its environment about its item, or about the first, and how many there are. An id
        that is too long for that is left out."""
        first = tasks[0]
        id = (first.id if isinstance(first.id, str) else str(first.id)).encode("utf-8", "surrogateescape")
        named = {b"BATCHMILL_ID": id} if len(id) <= _LONGEST_ID and b"\0" not in id else {}
        count = {b"BATCHMILL_ITEMS": b"%d" % len(tasks)} if self._spec.many else {}
        attempt, position = b"%d" % first.attempt, b"%d" % (first.number - 1)
        return {
            **named,
            **count,
            b"BATCHMILL_WORKER": self._worker,
            b"BATCHMILL_POSITION": position,
            b"BATCHMILL_ATTEMPT": attempt,
        }

    def _result(self, ended: CommandEnd, out: Capture, err: Capture) -> dict[str, Any]:
        status = os.waitstatus_to_exitcode(ended.status)
        result = _as_map(status, ended.usage, out, err)
        if ended.overdue:
            raise _failed("Timeout", f"timed out after {self._timeout:g} s", result, out, err)
        if status < 0:
            raise self._died("Signal", f"killed by {_signal_name(-status)}", result, out, err)
        if status not in self._spec.ok_exit:
            raise self._died("ExitStatus", f"exit status {status}", result, out, err)
        if self._spec.is_whole and out.dropped:
            sentence = f"stdout has {len(out.kept) + out.dropped} bytes, more than --keep-output {self._spec.keep}"
            raise ItemFailed(ItemError("OutputTooLarge", sentence))
        return result

    def _died(self, type: str, how: str, result: dict[str, Any], out: Capture, err: Capture) -> ItemFailed:
        """The failure of a command that did not end well, by itself or by what the kernel did to it."""
        if result["exit"] not in _KILLED or not self._is_out_of_memory():
            return _failed(type, how, result, out, err)
        return KilledForMemory(_failed(type, f"{how}, likely out of memory", result, out, err).error)

    def _is_out_of_memory(self) -> bool:
        """Whether the kernel has killed for want of memory since this was asked for the last time.

        Here, because each worker has its own count: of one incident, commands of several workers may die.
        """
        before, self._oom_kills = self._oom_kills, oom_kills()
        return self._oom_kills > before


def _peak(maxrss: int) -> int | None:
    """Peak memory of a command in bytes; None where it is no more than this worker's.

    The kernel counts the moment between vfork and exec too, in which the command's memory is the worker's.
    """
    return maxrss * _RSS_UNIT if maxrss > getrusage(RUSAGE_SELF).ru_maxrss else None


def text_of(data: bytes, *, is_cut: bool = False) -> str | bytes:
    """What a command printed: as text if it is text, else as bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        # A character that was cut in two is no reason for bytes.
        if is_cut and error.reason == "unexpected end of data":
            return data[: error.start].decode()
        return data


def _as_map(status: int, usage: Any, out: Capture, err: Capture) -> dict[str, Any]:
    result = {
        "exit": status,
        "stdout": text_of(bytes(out.kept), is_cut=out.dropped > 0),
        "stderr": text_of(bytes(err.kept), is_cut=err.dropped > 0),
        "user_seconds": usage.ru_utime,
        "system_seconds": usage.ru_stime,
        "peak_rss": _peak(usage.ru_maxrss),
    }
    if out.dropped:
        result["stdout_dropped"] = out.dropped
    if err.dropped:
        result["stderr_dropped"] = err.dropped
    return result


def _failed(type: str, how: str, result: dict[str, Any], out: Capture, err: Capture) -> ItemFailed:
    """The failure of a command: how it ended, its last words (of stdout where stderr is empty) below it, its result."""
    text = (err.tail.strip() or out.tail.strip()).decode("utf-8", "backslashreplace")
    lines = text.splitlines()[-TAIL_LINES:]
    message = f"{how}: {lines[-1].strip()}" if lines else how
    kept = {name: _without_secrets(value) for name, value in result.items()}
    return ItemFailed(FailedCommand(type, message, "\n".join(lines), pack_value(kept)))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, bytes):
        return hide(value.decode("latin-1")).encode("latin-1")
    return hide(value) if isinstance(value, str) else value


def _not_run(program: bytes, error: OSError) -> ItemFailed:
    name = program[:_SHOWN].decode("utf-8", "backslashreplace") + ("..." if len(program) > _SHOWN else "")
    why = error.strerror if lacking_number(error) is None else lack_in(error)
    remedy = "; --stdin gives the item on stdin" if error.errno == errno.E2BIG else ""
    kind = TooManyArguments if error.errno == errno.E2BIG else ItemFailed
    return kind(ItemError(type(error).__name__, f"{name} cannot be run: {why}{remedy}"))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
