"""Owns taking the user's own modules to another machine: which files a function needs, and where they are put. Never
imports one.

What lies beside the function's file, and is imported by it or by what it imports, goes along: `helpers.py`, or all of
a package's Python files. What is installed does not: it must be installed there as well.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import replace

from batchmill.errors import InvalidUsage
from batchmill.function import FunctionSpec

MOST = 64 << 20  # bytes


def anchored(spec: FunctionSpec) -> FunctionSpec:
    """The spec with the directory that its module is imported from, where that is the user's own, not installed."""
    if spec.directory is not None or spec.kind != "module":
        return spec
    file = getattr(sys.modules.get(spec.module.partition(".")[0]), "__file__", None) or ""
    directory = os.path.dirname(os.path.realpath(file))
    if os.path.basename(file) == "__init__.py":
        directory = os.path.dirname(directory)
    installed = {os.path.realpath(path) for path in sysconfig.get_paths().values()}
    is_own = bool(file) and "site-packages" not in file and directory not in installed
    return replace(spec, directory=directory) if is_own else spec


def collect(*specs: FunctionSpec | str | None) -> dict[str, bytes]:
    """The files that functions need, by their path relative to the directory of the first.

    A text names an initializer, as NAME or MODULE:NAME. Raises InvalidUsage where they are too large to be sent around.
    """
    first = specs[0]
    if not isinstance(first, FunctionSpec) or first.directory is None:
        return {}
    found: dict[str, bytes] = {}
    waiting = [path for spec in specs if spec is not None for path in _roots(spec, first.directory)]
    while waiting:
        path = waiting.pop()
        name = os.path.relpath(path, first.directory)
        if name in found or name.startswith(os.pardir):
            continue
        with open(path, "rb") as file:
            found[name] = file.read()
        waiting.extend(_imported(found[name], first.directory))
        if sum(map(len, found.values())) > MOST:
            raise InvalidUsage(f"the modules of {first.display} are too large to be sent", "install them as a package")
    return found


def _roots(spec: FunctionSpec | str, directory: str) -> Iterator[str]:
    if isinstance(spec, str):
        where = spec.rpartition(":")[0]
        if where:
            yield from [os.path.join(directory, where)] if where.endswith(".py") else _files_of(where, directory)
    elif spec.path is not None:
        yield os.path.realpath(spec.path)
    else:
        yield from _files_of(spec.module, directory)


def _files_of(module: str, directory: str) -> Iterator[str]:
    """The files of a module's top-level package or file, where it lies in `directory`."""
    top = os.path.join(directory, module.partition(".")[0])
    if os.path.isfile(f"{top}.py"):
        yield f"{top}.py"
    for folder, _, names in os.walk(top) if os.path.isfile(os.path.join(top, "__init__.py")) else ():
        yield from (os.path.join(folder, name) for name in names if name.endswith(".py"))


def _imported(source: bytes, directory: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # a lane will say so
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        for name in names:
            yield from _files_of(name, directory)


def settle(spec: FunctionSpec, files: dict[str, bytes], folder: str) -> FunctionSpec:
    """The spec as it holds on this machine: where all files are as they were there, they are used where they lie (a
    shared file system); else they are written to `folder`."""
    if spec.directory is None or not files:
        return spec
    if not all(_is_same(os.path.join(spec.directory, name), data) for name, data in files.items()):
        for name, data in files.items():
            target = os.path.join(folder, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.write(data)
        path = spec.path and os.path.join(folder, os.path.relpath(os.path.realpath(spec.path), spec.directory))
        return replace(spec, path=path, directory=folder)
    return spec


def _is_same(path: str, data: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(data) + 1) == data
    except OSError:
        return False
