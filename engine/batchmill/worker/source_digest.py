"""Which code results were made by: a digest of what a function is read from.

It covers the function's own file and what it imports of the user's own beside it, by whole names, and the same for the
initializer; for one of a notebook, its text and that of the notebook's functions and classes that it names. It does not
cover installed packages, what is imported by a name that is made at run time, compiled modules, and data. It imports
nothing, so that it is known before there is a worker, and where none is needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b

from batchmill.errors import BatchmillError
from batchmill.worker.code_bundle import anchored, collect, files_of_module, located
from batchmill.worker.function import FunctionSpec

# As fast as the files can be read; what stands in a text by chance only adds a file.
_IMPORT = re.compile(rb"(?:^|[;:])[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import\b|import[ \t]+([^;#\n]+))", re.MULTILINE)


def source_digest(spec: FunctionSpec, init: str | FunctionSpec | None, cwd: str) -> str:
    """The hex digest of the source of a function and its initializer; "" where there is none to read.

    Where the files lie does not matter. A text `init` is looked for as in the directory `cwd`.
    """
    found = blake2b(spec.source.encode(), digest_size=16)
    is_any = bool(spec.source)
    for name, data in _files(spec, init, cwd):
        found.update(b"%d %d " % (len(name), len(data)))
        found.update(os.fsencode(name) + data)
        is_any = True
    return found.hexdigest() if is_any else ""


def _files(spec: FunctionSpec, init: str | FunctionSpec | None, cwd: str) -> list[tuple[str, bytes]]:
    own = _with_directory(spec)
    try:
        bundle = collect(own, located(init, own, cwd), imported=_imported)
    except BatchmillError:  # an initializer that is not there, which a worker will say; or very much code
        bundle = {}
    files = [(name, data) for directory in bundle.values() for name, data in directory.items()]
    return sorted(files or _own_file(spec, cwd))


def _with_directory(spec: FunctionSpec) -> FunctionSpec:
    if spec.directory is None and spec.path is not None:  # sent by value, out of a file
        return replace(spec, directory=os.path.dirname(os.path.realpath(spec.path)))
    return anchored(spec)


def _own_file(spec: FunctionSpec, cwd: str) -> Iterator[tuple[str, bytes]]:
    paths = [spec.path] if spec.path else files_of_module(spec.module, spec.directory or cwd)[-1:]
    for path in paths:
        if path.endswith(".py"):
            try:
                with open(path, "rb") as file:
                    yield os.path.basename(path), file.read()
            except OSError:
                pass


def _imported(source: bytes) -> Iterator[str]:
    for match in _IMPORT.finditer(source):
        if match[1]:
            yield match[1].decode(errors="replace")
        else:
            for part in match[2].split(b","):
                yield part.split()[0].decode(errors="replace") if part.split() else ""
