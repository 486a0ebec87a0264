"""What a command per item means: words to a spec, an item to a result or a failure.

Only workers start one.

parent                                                worker
["gzip", "-9", "{}"]  --CommandSpec, check-->  Runner: Template --words--> Commands.run --> a map, or ItemFailed
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from resource import RUSAGE_SELF, getrusage
from typing import Any

from batchmill.codec.outcome_block import Failure
from batchmill.errors import InputMissing, InvalidUsage, ItemError, ItemFailed, OutputLost
from batchmill.files.conflicts import NO_FILES, OwnFiles
from batchmill.input.formats import LINES_OF_BYTES, Format, Parse, format_named
from batchmill.input.items import Found, Identify, ItemReader
from batchmill.model import Chunk
from batchmill.secrecy import learn, mask_script, mask_words
from batchmill.system.machine import oom_kills
from batchmill.system.scarcity import lack_in, lacking, lacking_number
from batchmill.text import close_names, did_you_mean
from batchmill.worker.child_process import HELD, Capture, CommandEnd, CommandProcesses, NotStarted
from batchmill.worker.passthrough import Passer
from batchmill.worker.reply import KilledForMemory, Postponed
from batchmill.worker.template import Task, Template, exposed_placeholder, has_placeholder

MAX_KEPT = 24 << 20  # bytes of a stream: two of them, and an item, fit into an outcome
TAIL_LINES = 20
_SHOWN = 100  # bytes of a program's name in a message: it may be the item
_NO_FIELDS = ("lines", "null", "files")  # formats whose items are text
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # it, or what a shell waited for
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command per item: `words` with placeholders, or one text for /bin/sh (`shell`).

    `stdin` says that the item comes on stdin. `ok_exit` are the statuses that make a result. Of each stream the first
    `keep` bytes are kept; `is_whole` makes it a failure to write more. `program` is the path of what is run, where
    `check` has found it.
    """

    words: tuple[str, ...]
    shell: bool = False
    stdin: bool = False
    ok_exit: tuple[int, ...] = (0,)
    keep: int = 1 << 20
    is_whole: bool = False
    program: str | None = None

    @property
    def shown(self) -> tuple[str, ...]:
        """The words as they may be shown."""
        return (mask_script(self.words[0]),) if self.shell else tuple(mask_words(self.words))

    @property
    def is_masked(self) -> bool:
        """Whether these are not the words themselves."""
        return self.shown != self.words

    @property
    def identity(self) -> str:
        """What a checkpoint belongs to: the command as it would be typed, without its secrets."""
        words = self.shown
        text = f"--shell {shlex.quote(words[0])}" if self.shell else shlex.join(words)
        return f"--stdin {text}" if self.stdin else text

    @property
    def display(self) -> str:
        """The command as people know it, without its secrets."""
        return self.shown[0] if self.shell else shlex.join(self.shown)

    @property
    def name(self) -> str:
        """The program's name, for the checkpoint's."""
        first = (self.words[0].split() or [""])[0] if self.shell else self.words[0]
        name = os.path.basename(first)
        return name if re.fullmatch(r"[\w+-][\w.+-]*", name) else "sh" if self.shell else "command"

    @property
    def named(self) -> bool:
        """Always: a command is its own name."""
        return True

    @property
    def path(self) -> None:
        """No file of ours."""
        return None

    @property
    def arguments(self) -> Iterator[str]:
        """The words after the program's name, and what is behind a `=` in them: some may name files."""
        try:
            words = shlex.split(self.words[0]) if self.shell else list(self.words[1:])
        except ValueError:  # quotes as only a shell understands them
            return
        for word in words:
            yield word
            if "=" in word:
                yield word.partition("=")[2]

    def as_dict(self) -> dict[str, Any]:
        """What it takes to give the command again, as plain values, but for its secrets."""
        return {"words": list(self.shown), "shell": self.shell, "stdin": self.stdin, "ok_exit": list(self.ok_exit)}

    def check(self, format: str | None) -> CommandSpec:
        """The spec with its program found; raises InputMissing where there is none, InvalidUsage for an empty command
        or a --shell in which an item would be read as code.

        A program that depends on the item is found when it is run.
        """
        if not self.words or not self.words[0].strip():
            raise InvalidUsage("the command is empty", "write -- PROGRAM {}")
        if any("\0" in word for word in self.words):
            raise InvalidUsage("the command has a NUL in it", "no program can be given one")
        with_fields = format not in _NO_FIELDS
        exposed = exposed_placeholder(self.words[0], with_fields=with_fields) if self.shell else None
        if exposed is not None:
            raise InvalidUsage(
                f"{exposed} stands inside quotes, backquotes or a here-document of --shell, or behind a backslash",
                f"write {exposed} by itself: it is quoted already",
            )
        if self.shell or has_placeholder(self.words[0], with_fields=with_fields):
            return self
        return replace(self, program=_find(self.words[0]))

    def template(self, format: str | None) -> Template:
        """The words for an item of this format: an item that is named nowhere is the last of them."""
        with_fields = format not in _NO_FIELDS
        template = Template(self.words, with_fields=with_fields, quoted=self.shell)
        if template.has_placeholder or self.stdin:
            return template
        words = (f"{self.words[0]} {{}}",) if self.shell else (*self.words, "{}")
        return Template(words, with_fields=with_fields, quoted=self.shell)


def _find(program: str) -> str:
    import shutil  # in the parent only, as what follows

    found = shutil.which(program)
    if found is not None:
        return os.path.abspath(found)
    if "/" not in program:
        otherwise = "check its name; what only a shell knows (cd, an alias) needs --shell"
        remedy = did_you_mean(close_names(program, _programs(), 1, 0.75), otherwise)
        raise InputMissing(f"there is no program {program!r} on PATH", remedy)
    if not os.path.exists(program):
        raise InputMissing(f"{program} does not exist", "check the path of the command")
    what = "is a directory" if os.path.isdir(program) else "cannot be executed"
    raise InputMissing(f"{program} {what}", f"name a program, or: chmod +x {shlex.quote(program)}")


def _programs() -> set[str]:
    """The names on PATH."""
    return {name for folder in os.get_exec_path() if os.path.isdir(folder) for name in os.listdir(folder)}


def essence(outcome: Mapping[str, Any] | Failure) -> tuple[Any, ...]:
    """What a command that runs again on the same item should come to again: how it ended, and its stdout.

    Its times and memory never do, and stderr need not. Of a failure's message, how it ended stands before the colon.
    """
    if isinstance(outcome, Failure):
        return outcome.type, outcome.message.partition(":")[0]
    return outcome["exit"], outcome["stdout"], outcome.get("stdout_dropped", 0)


# In a worker


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
            return id, raw, Task(item, raw, number), content, bad

        return read


class CommandRunner:
    """Runs the command. `timeout` is in seconds; `passer` takes what it prints, where that is to be passed on; `own`
    are the files that the run itself writes: a list of files may name them, and a command might well destroy them.
    """

    def __init__(self, spec: CommandSpec, format: str | None, environ: Mapping[bytes, bytes], timeout: float | None,
                 passer: Passer | None, *, own: OwnFiles = NO_FILES,
                 note: Callable[[int], None] = lambda pid: None) -> None:  # fmt: skip
        self._spec = spec
        self._own = own
        self._template = spec.template(format)
        self._commands = CommandProcesses(environ, note)
        self._timeout = timeout
        self._passer = passer
        self._oom_kills = oom_kills()
        self._path = "/bin/sh" if spec.shell else spec.program
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
        """How the command ended on a Task, as a map; raises ItemFailed where that was not well, KilledForMemory where
        the kernel ended it, and Postponed where others have all the processes there may be: the item has no part in
        that."""
        if type(task.item) is str and self._own.has(task.item):
            raise ItemFailed(
                ItemError(
                    "OwnFile", "it is a file that this run writes itself; leave it out, or name it elsewhere (-c, -o)"
                )
            )
        spec, words = self._spec, self._template.fill(task)
        out, err = Capture(spec.keep, self._passer is not None), Capture(spec.keep, self._passer is not None)
        try:
            ended = self._commands.run(
                self._path,
                [b"sh", b"-c", *words] if spec.shell else words,
                stdin=task.raw + b"\n" if spec.stdin else None,
                captures=(out, err),
                timeout=self._timeout,
            )
            if self._passer is not None and (out.kept or err.kept):
                self._passer.pass_on(out.pieces(), err.pieces())
        except NotStarted as failed:
            if failed.error.errno in HELD:
                raise Postponed(lack_in(failed.error)) from None
            raise _not_run(b"sh" if spec.shell else words[0], failed.error) from None
        except OutputLost as error:
            raise ItemFailed(ItemError("OutputLost", str(error))) from None
        finally:
            out.close()
            err.close()
        return self._result(ended, out, err)

    def _result(self, ended: CommandEnd, out: Capture, err: Capture) -> dict[str, Any]:
        status = os.waitstatus_to_exitcode(ended.status)
        if ended.overdue:
            raise _failed("Timeout", f"timed out after {self._timeout:g} s", out, err)
        if status < 0:
            raise self._died("Signal", f"killed by {_signal_name(-status)}", status, out, err)
        if status not in self._spec.ok_exit:
            raise self._died("ExitStatus", f"exit status {status}", status, out, err)
        if self._spec.is_whole and out.dropped:
            sentence = f"stdout has {len(out.kept) + out.dropped} bytes, more than --keep-output {self._spec.keep}"
            raise ItemFailed(ItemError("OutputTooLarge", sentence))
        usage = ended.usage
        result = {
            "exit": status,
            "stdout": _value(out),
            "stderr": _value(err),
            "user_seconds": usage.ru_utime,
            "system_seconds": usage.ru_stime,
            "peak_rss": _peak(usage.ru_maxrss),
        }
        if out.dropped:
            result["stdout_dropped"] = out.dropped
        if err.dropped:
            result["stderr_dropped"] = err.dropped
        return result

    def _died(self, type: str, how: str, status: int, out: Capture, err: Capture) -> ItemFailed:
        """The failure of a command that did not end well, by itself or by what the kernel did to it."""
        if status not in _KILLED or not self._is_out_of_memory():
            return _failed(type, how, out, err)
        return KilledForMemory(_failed(type, f"{how}, likely out of memory", out, err).error)

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


def _value(capture: Capture) -> str | bytes:
    """What was kept: as text if it is text, else as bytes."""
    data = bytes(capture.kept)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        # A character that was cut in two is no reason for bytes.
        if capture.dropped and error.reason == "unexpected end of data":
            return data[: error.start].decode()
        return data


def _failed(type: str, how: str, out: Capture, err: Capture) -> ItemFailed:
    """The failure of a command: how it ended, its last words (of stdout where stderr is empty) below it."""
    text = (err.tail.strip() or out.tail.strip()).decode("utf-8", "backslashreplace")
    lines = text.splitlines()[-TAIL_LINES:]
    return ItemFailed(ItemError(type, f"{how}: {lines[-1].strip()}" if lines else how, "\n".join(lines)))


def _not_run(program: bytes, error: OSError) -> ItemFailed:
    name = program[:_SHOWN].decode("utf-8", "backslashreplace") + ("..." if len(program) > _SHOWN else "")
    why = error.strerror if lacking_number(error) is None else lack_in(error)
    remedy = "; --stdin gives the item on stdin" if error.errno == errno.E2BIG else ""
    return ItemFailed(ItemError(type(error).__name__, f"{name} cannot be run: {why}{remedy}"))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
