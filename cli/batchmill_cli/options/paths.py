"""The arguments that name something on the disk, and what a shell completes for each.

FUNCTION is completed by reading its file's syntax tree: user code is never imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from batchmill_cli.options.click_options import ParamType

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Kinds of answers to a shell: those of the disk it looks up itself, with its own rules for quotes and "~".
FILES, CHECKPOINTS, WORD, OPEN = "files", "checkpoints", "word", "open"


class PathType(ParamType):
    """A path, of a kind that the shell completes by itself."""

    def __init__(self, kind: str) -> None:
        self.name = kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The kind alone: the shell knows the files."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type=self.name)]


class Function(ParamType):
    """FUNCTION: `path/file.py:NAME` or `package.module:NAME`."""

    name = "function"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The functions of the file once it is named, else files, modules and directories."""
        from click.shell_completion import CompletionItem

        where, colon, _ = incomplete.rpartition(":")
        if colon:
            found = [CompletionItem(f"{where}:{name}", type=WORD) for name in functions_of(where)]
        else:
            found = [CompletionItem(name, type=OPEN) for name in sources(incomplete)]
        return [item for item in found if item.value.startswith(incomplete)]


FILE, CHECKPOINT, FUNCTION = PathType(FILES), PathType(CHECKPOINTS), Function()


def functions_of(where: str) -> tuple[str, ...]:
    """The functions of `path/file.py` or of `package.module` in the working directory; none where it is unreadable."""
    from batchmill.errors import BatchmillError
    from batchmill.worker.outline import Outline

    is_file = where.endswith(".py") or "/" in where
    path = os.path.expanduser(where) if is_file else where.replace(".", "/") + ".py"
    try:
        with open(path, "rb") as file:
            return Outline.of(file.read(), where).functions
    except (OSError, BatchmillError):
        return ()


def sources(begun: str) -> Iterator[str]:
    """What `begun` may become: `dir/`, `file.py:`, and below a package `package.module:`."""
    folder, slash, name = begun.rpartition("/")
    yield from (f"{folder}{slash}{entry}" for entry in _entries(os.path.expanduser(folder + slash) or ".", name))
    package, dot, name = begun.rpartition(".")
    if dot and not slash and package:
        for entry in _entries(package.replace(".", "/"), name):
            module = entry.removesuffix("/").removesuffix(".py:")
            if module.isidentifier():
                yield f"{package}.{module}" + ("." if entry.endswith("/") else ":")


def _entries(folder: str, begun: str) -> Iterator[str]:
    """Python files, with a colon, and directories, with a slash; hidden ones only where their names are begun."""
    try:
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in found:
        if not begun and entry.name.startswith((".", "__")):
            continue
        if entry.is_dir():
            yield entry.name + "/"
        elif entry.name.endswith(".py"):
            yield entry.name + ":"
