"""What a command per item means: the words that were given, and how they become those for an item, or for many.

Only workers start one: `command_runner`.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from batchmill.codec.outcome_block import Failure
from batchmill.errors import InputMissing, InvalidUsage
from batchmill.secrecy import mask_script, mask_words
from batchmill.text import close_names, did_you_mean, escape, option
from batchmill.value_class import value_class
from batchmill.worker.child_process import KILL_AFTER
from batchmill.worker.shell_items import ShellItems
from batchmill.worker.shell_script import ShellScript
from batchmill.worker.template import Grammar, Placeholder, Task, Template, placeholders

MAX_KEPT = 24 << 20  # bytes of a stream: two of them, and an item, fit into an outcome
_LONGEST = 4000  # characters of a command that is said
AnyTemplate = Template | ShellScript | ShellItems
_NO_FIELDS = ("lines", "null", "files")  # formats whose items are text


@value_class
class CommandSpec:
    """A command per item: `words` with placeholders, or one text for a shell (`shell`): /bin/sh, or `shell_program`.

    `stdin` says that the item comes on stdin. `ok_exit` are the statuses that make a result. Of each stream the first
    `keep` bytes are kept; `is_whole` makes it a failure to write more. `kill_after` are the
    seconds between SIGTERM and SIGKILL. Each command is said before it runs (`trace`); what it prints is passed on line
    by line (`line_buffer`), its id before each line (`tag`). A command covers `many` items; where it fails, it is run
    again on each of them, if it `splits`. `program` is the path of what is run, where
    `check` has found it, and `columns` are those that items have, where that is known.
    """

    words: tuple[str, ...]
    shell: bool = False
    stdin: bool = False
    ok_exit: tuple[int, ...] = (0,)
    keep: int = 1 << 20
    is_whole: bool = False
    shell_program: str = ""
    kill_after: float = KILL_AFTER
    trace: bool = False
    tag: bool = False
    line_buffer: bool = False
    many: bool = False
    splits: bool = True
    program: str | None = None
    columns: tuple[str, ...] | None = None

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
        program = f"--shell-program {shlex.quote(self.shell_program)} " if self.shell_program else ""
        text = f"{program}--shell {shlex.quote(words[0])}" if self.shell else shlex.join(words)
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
        asked = {"shell": self.shell, "stdin": self.stdin, "ok_exit": list(self.ok_exit)}
        program = {"shell_program": self.shell_program} if self.shell_program else {}
        patience = {"kill_after": self.kill_after} if self.kill_after != KILL_AFTER else {}
        return {"words": list(self.shown), **asked, **program, **patience}

    def check(self, format: str | None, columns: Sequence[str] | None = None) -> CommandSpec:
        """The spec with its program found, for items with these columns (None: it is not known which they have); raises
        InputMissing where there is no program, InvalidUsage for an empty command and for placeholders that are none.

        A program that depends on the item is found when it is run.
        """
        if not self.words or not self.words[0].strip():
            raise InvalidUsage("the command is empty", "write -- PROGRAM {}")
        if any("\0" in word for word in self.words):
            raise InvalidUsage("the command has a NUL in it", "no program can be given one")
        spec = replace(self, columns=None if columns is None else tuple(columns))
        template = spec.template(format)
        if self.many and isinstance(template, Template) and template.names_program:
            remedy = f"leave out {option('batch_size')}, or name one program"
            raise InvalidUsage(f"{self.words[0]} is another program for each item", remedy)
        if self.shell:
            return replace(spec, program=_find(self.shell_program)) if self.shell_program else spec
        if any(placeholders(spec.grammar(format).parse(self.words[0]))):
            return spec
        return replace(spec, program=_find(self.words[0]))

    def shown_for(self, tasks: Sequence[Task], template: AnyTemplate) -> str:
        """The command for an item, or for many, as one could type it, without its secrets, fit for a terminal."""
        if not isinstance(template, Template):
            return escape(mask_script(template.shown(*tasks)), _LONGEST)
        words = [word.decode("utf-8", "surrogateescape") for word in template.fill(*tasks)]
        return escape(shlex.join(mask_words(words)), _LONGEST)

    def counts(self, format: str | None) -> bool:
        """Whether it has the item's number in the input in it."""
        parts = (part for word in self.words for part in self.grammar(format).parse(word))
        return any(isinstance(part, Placeholder) and part.written == "{#}" for part in parts)

    def grammar(self, format: str | None, worker: int = 0) -> Grammar:
        """Which placeholders there are for items of this format."""
        return Grammar(with_fields=format not in _NO_FIELDS, columns=self.columns, worker=worker)

    def template(self, format: str | None, worker: int = 0) -> AnyTemplate:
        """The words, or the script, for an item of this format: an item that is named nowhere is the last of them.
        Raises InvalidUsage."""
        grammar = self.grammar(format, worker)
        if self.shell and self.many:
            return ShellItems(self.words[0], grammar, last=not self.stdin)
        if self.shell:
            script = ShellScript(self.words[0], grammar)
            return script if script.has_placeholder or self.stdin else ShellScript(f"{self.words[0]} {{}}", grammar)
        template = Template(self.words, grammar)
        return template if template.has_placeholder or self.stdin else Template((*self.words, "{}"), grammar)


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


def essence(outcome: Mapping[str, Any] | Failure, *, many: bool = False) -> tuple[Any, ...]:
    """What a command that runs again on the same item should come to again: how it ended, and its stdout, unless that
    may be of `many` items.

    Its times and memory never do, and stderr need not. Of a failure's message, how it ended stands before the colon.
    """
    if isinstance(outcome, Failure):
        return outcome.type, outcome.message.partition(":")[0]
    if many:
        return (outcome["exit"],)
    return outcome["exit"], outcome["stdout"], outcome.get("stdout_dropped", 0)
