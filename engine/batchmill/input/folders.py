"""The files below directories: in order, to any depth, and with a word for all that is left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from batchmill.files.conflicts import NO_FILES, OwnFiles
from batchmill.text import option, plural


class Walk:
    """The paths that the INPUTs of `--format files` stand for: themselves, or the files below them, sorted, none hidden
    and none of the run's `own`.

    A directory that cannot be read is a path too, with a slash behind it: no file has one (formats.py fails it). Links
    to files are files; those to directories are walked where `follow` says so, but none into itself.
    """

    def __init__(self, names: Iterable[str], own: OwnFiles = NO_FILES, *, follow: bool = False) -> None:
        self._names = names
        self._own = own
        self._follow = follow
        self._links = self._others = 0

    def __iter__(self) -> Iterator[str]:
        for name in self._names:
            if os.path.isdir(name):
                yield from self._below(name)
            else:
                yield name

    def left_out(self) -> Iterator[str]:
        """What to tell people of what was met and is no item."""
        if self._links:
            were = "was" if self._links == 1 else "were"
            does = option("follow_links", True)
            yield f"{plural(self._links, 'link')} to directories {were} not followed ({does} does)"
        if self._others:
            what = "entry that is no file was" if self._others == 1 else "entries that are no files were"
            yield f"{self._others} {what} left out (broken links, pipes, sockets)"

    def _below(self, folder: str) -> Iterator[str]:
        """Not by recursion: directories may be deeper than Python's stack."""
        opened = [(iter(self._entries(folder)), self._identity(folder))]
        while opened:
            entry = next(opened[-1][0], None)
            if entry is None:
                opened.pop()
            elif isinstance(entry, str):
                yield entry
            elif _is(entry.is_dir, follow_symlinks=self._follow):
                identity = self._identity(entry.path)
                if identity is None or identity not in (above for _, above in opened):
                    opened.append((iter(self._entries(entry.path)), identity))
            elif _is(entry.is_file):
                yield entry.path
            else:
                is_link = _is(entry.is_dir)
                self._links += is_link
                self._others += not is_link

    def _identity(self, folder: str) -> tuple[int, int] | None:
        """What tells a directory from those that it is in, where links may lead in circles; else None."""
        if self._follow:
            with suppress(OSError):
                status = os.stat(folder)
                return status.st_dev, status.st_ino
        return None

    def _entries(self, folder: str) -> Sequence[os.DirEntry[str] | str]:
        try:
            with os.scandir(folder) as found:
                kept = [entry for entry in self._own.left_out(folder, found) if not entry.name.startswith(".")]
        except OSError:
            return [os.path.join(folder, "")]
        return sorted(kept, key=lambda entry: entry.name)


def _is(kind: Callable[..., bool], **options: bool) -> bool:
    """What an entry says of itself; it is nothing where it cannot be looked at."""
    try:
        return kind(**options)
    except OSError:
        return False
