"""Taking the user's own modules to another machine: which files a function needs, and where they are put.

It never imports one.

What lies beside the file of the function, or of its initializer, and is imported by it or by what it imports, goes
along: `helpers.py`, or all Python files of a package, with an `__init__.py` or without. What is installed does not: it
must be installed there as well. Nor do hidden files, and files that are no Python.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.machinery import PathFinder
from typing import TypeVar

from batchmill.errors import InvalidUsage
from batchmill.text import option
from batchmill.worker.function import FunctionSpec, parse

MOST = 64 << 20  # bytes

T = TypeVar("T")
CodeBundle = dict[str, dict[str, bytes]]  # by the directory they are imported from: files, by their paths below it


def anchored(spec: FunctionSpec) -> FunctionSpec:
    """The spec with the directory that its module is imported from, where that is the user's own, not installed."""
    if spec.directory is not None or spec.kind != "module":
        return spec
    module = sys.modules.get("__main__" if spec.main else spec.module)
    file = getattr(module, "__file__", None) or ""
    directory = os.path.abspath(file)
    for _ in range(spec.module.count(".") + 1 + (os.path.basename(file) == "__init__.py")):
        directory = os.path.dirname(directory)
    directory = os.path.realpath(directory)
    installed = {os.path.realpath(path) for path in sysconfig.get_paths().values()}
    is_own = bool(file) and "site-packages" not in file and directory not in installed
    return replace(spec, directory=directory) if is_own else spec


def located(init: str | FunctionSpec | None, spec: FunctionSpec, cwd: str) -> str | FunctionSpec | None:
    """An initializer with the directory that it is imported from; a text where it lies in the function's own module.

    Raises as `function.parse` does.
    """
    if not isinstance(init, str):
        return init and anchored(init)
    where = init.rpartition(":")[0]
    if where in ("", spec.module):
        return init
    is_path = where.endswith(".py") or "/" in where
    folders = [spec.directory, cwd] if not is_path else []
    return parse(init, next((one for one in folders if one and any(_files_of(where, [one]))), cwd))


def source_files(
    spec: FunctionSpec, hooks: Mapping[str, str | FunctionSpec | None], preload: Sequence[str], cwd: str
) -> Iterator[tuple[str, str]]:
    """The files that a function, its hooks (`init`, `end`) and what is preloaded are read from, each with its role."""
    yield from (("FUNCTION", path) for path in _files_of_spec(spec, cwd))
    for name, hook in hooks.items():
        if isinstance(hook, FunctionSpec):
            yield from ((option(name), path) for path in _files_of_spec(hook, cwd))
        elif hook is not None and ":" in hook:
            where = hook.rpartition(":")[0]
            is_path = where.endswith(".py") or "/" in where
            paths = [os.path.join(cwd, where)] if is_path else files_of_module(where, cwd)
            yield from ((option(name), path) for path in paths)
    for module in preload:
        yield from ((option("preload"), path) for path in files_of_module(module, cwd))


def _files_of_spec(spec: FunctionSpec, cwd: str) -> Sequence[str]:
    return [spec.path] if spec.path else files_of_module(spec.module, spec.directory or cwd)


def files_of_module(module: str, directory: str) -> Sequence[str]:
    """The files that an import of a module reads from the directory or an installed package: its own the last."""
    found, where, name = [], [directory, *sys.path], ""
    for part in module.split("."):
        name = f"{name}.{part}".lstrip(".")
        spec = PathFinder.find_spec(name, where)
        if spec is None:
            break
        if spec.has_location and spec.origin:
            found.append(spec.origin)
        where = list(spec.submodule_search_locations or ())
    return found


def collect(*specs: object, imported: Callable[[bytes], Iterable[str]] | None = None) -> CodeBundle:
    """The files that functions need; what is no spec with a directory needs none.

    `imported` gives the modules that a source imports by their whole names (None: exactly those). Raises InvalidUsage
    where they are too large to be sent around.
    """
    own = [spec for spec in specs if isinstance(spec, FunctionSpec) and spec.directory is not None]
    directories = list(dict.fromkeys(spec.directory or "" for spec in own))
    waiting = [root for spec in own for root in _roots(spec)]
    bundle: CodeBundle = {}
    size = 0
    while waiting:
        directory, name = waiting.pop()
        files = bundle.setdefault(directory, {})
        data = None if name in files else _read(os.path.join(directory, name))
        if data is None:  # what cannot be read is missing there as it is here
            continue
        files[name] = data
        size += len(data)
        if size > MOST:
            raise InvalidUsage(f"the modules of {own[0].display} are too large to be sent", "install them as a package")
        for module in (imported or _imported)(data):
            waiting.extend(_files_of(module, directories))
    return {directory: files for directory, files in bundle.items() if files}


def _roots(spec: FunctionSpec) -> Iterator[tuple[str, str]]:
    directory = spec.directory or ""
    if spec.path is not None:
        yield directory, _below(spec)
    else:
        yield from _files_of(spec.module, [directory])


def _below(spec: FunctionSpec) -> str:
    """The path of a spec's file below its directory."""
    return os.path.relpath(os.path.realpath(spec.path or ""), spec.directory)


def _files_of(module: str, directories: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The files of a module's top-level package or file, by their directory, as an import would find them there."""
    top = module.partition(".")[0]
    if not top:
        return
    for directory in directories:
        if os.path.isfile(os.path.join(directory, top, "__init__.py")):
            yield from _package(directory, top)
            return
        if os.path.isfile(os.path.join(directory, f"{top}.py")):
            yield directory, f"{top}.py"
            return
    for directory in directories:  # a package without __init__.py is all that there is of that name
        yield from _package(directory, top)


def _package(directory: str, top: str) -> Iterator[tuple[str, str]]:
    seen = set()
    for folder, folders, names in os.walk(os.path.join(directory, top), followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [name for name in folders if real not in seen and not name.startswith(".")]  # links may lead back
        seen.add(real)
        for name in names:
            if name.endswith(".py") and not name.startswith("."):
                yield directory, os.path.relpath(os.path.join(folder, name), directory)


def _read(path: str) -> bytes | None:
    try:
        if os.path.isfile(path):
            with open(path, "rb") as file:
                return file.read()
    except OSError:
        pass
    return None


def _imported(source: bytes) -> Iterator[str]:
    """The modules that a source imports by their whole names; those beside it in its package go along anyway."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # a worker will say so
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module


def deliver(bundle: CodeBundle, folder: str) -> dict[str, str]:
    """Where on this machine each directory's files are: where all of them lie there as they were (a shared file
    system), they are used as they are; else they are written below `folder`."""
    folders = {}
    for number, (directory, files) in enumerate(bundle.items()):
        is_here = all(_read(os.path.join(directory, name)) == data for name, data in files.items())
        folders[directory] = directory if is_here else _write(files, os.path.join(folder, str(number)))
    return folders


def _write(files: Mapping[str, bytes], folder: str) -> str:
    for name, data in files.items():
        target = os.path.join(folder, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(data)
    return folder


def settled(spec: T, folders: Mapping[str, str]) -> T:
    """A spec as it holds on this machine, where its directory's files are at `folders`; anything else as it is."""
    if not isinstance(spec, FunctionSpec) or spec.directory is None:
        return spec
    directory = folders.get(spec.directory, spec.directory)
    if directory == spec.directory:
        return spec
    return replace(spec, path=spec.path and os.path.join(directory, _below(spec)), directory=directory)
