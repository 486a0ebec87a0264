"""What FUNCTION means, in the parent: a text or a callable to a spec, without importing user code.

    parent                                             worker (`loader`)
    "score.py:crunch"  --parse------+
                                    +--> FunctionSpec --resolve--> Resolved(function, init)
    score.crunch       --of_callable+

`parse` reads the outline of the user's file only, so that a wrong name is refused before any worker starts; where that
cannot tell (a star import, `exec`), the worker decides.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.machinery import PathFinder
from types import CodeType, ModuleType
from typing import Any

from batchmill.errors import (
    BatchmillError,
    InputMissing,
    InvalidUsage,
    UnknownFunction,
)
from batchmill.files.mapped_pickle import Pickled
from batchmill.secrecy import mask_text
from batchmill.text import close_names, did_you_mean
from batchmill.value_class import value_class
from batchmill.worker.outline import Outline

TRACEBACK_LINES = 5
MAIN = ("__main__", "__mp_main__")  # the program's script, also in a process that multiprocessing has started


@value_class
class FunctionSpec:
    """How a worker finds the function. Small, and picklable by name alone.

    `kind` is "file" (`path` loaded under the name `module`), "module" (imported) or "pickle" (`blob`). `name` may be
    dotted. `directory` is what comes first on sys.path (None: the path the worker has already). `main` marks functions
    of `__main__`: the worker's `__main__` becomes their module. `label` is a name given by the user. `named` is False
    where nothing but a given name could tell the function from another one (a lambda, an object of a local class).
    """

    kind: str
    module: str
    name: str
    path: str | None = None
    blob: Pickled | None = None
    directory: str | None = None
    main: bool = False
    label: str = ""
    named: bool = True
    source: str = ""  # a digest of its text, where it is of no file

    @property
    def identity(self) -> str:
        """What a checkpoint belongs to: `stem:name` or `package.module:name`, wherever the file lies."""
        return self.label or f"{self.module}:{self.name}"

    @property
    def display(self) -> str:
        """The function as people know it: `score.py:crunch`, `package.module:name`, or the given name."""
        if self.kind == "file" and self.path and not self.label:
            return f"{os.path.basename(self.path)}:{self.name}"
        return self.identity


def here() -> str:
    """The working directory; raises InputMissing where it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise InputMissing("the working directory is gone", "cd to one that is there") from None


def parse(text: str, cwd: str) -> FunctionSpec:
    """The spec of `path/file.py:name` or `package.module:name`, relative to the directory `cwd`.

    Raises UnknownFunction (malformed, or surely no such name), InputMissing (no such file), FunctionFailed (the file
    has a syntax error). A module's name is checked where its file lies in `cwd`; elsewhere the worker finds out.
    """
    where, _, name = text.rpartition(":")
    path = os.path.join(cwd, where)
    stray_colon = ":" in where and not os.path.isfile(path)
    if stray_colon or not is_name(name) or not (_is_path(where) or is_name(where)):
        raise UnknownFunction(f"{text!r} is not FILE.py:NAME or PACKAGE.MODULE:NAME", _corrected(text, cwd))
    if _is_path(where):
        return _of_file(where, name, os.path.abspath(path))
    return _of_module(where, name, os.path.abspath(cwd))


def _is_path(where: str) -> bool:
    return where.endswith(".py") or "/" in where


def is_name(name: str) -> bool:
    """Whether it is a dotted name as Python has them."""
    return all(part.isidentifier() for part in name.split("."))


def _corrected(text: str, cwd: str) -> str:
    parts = [part for part in text.split(":") if part]
    where = "" if text.startswith(":") or not parts else parts.pop(0)
    name = ".".join(parts).removesuffix("()")
    file = where if where.endswith(".py") else f"{where}.py"
    if os.path.isfile(os.path.join(cwd, file)):
        functions = "" if is_name(name) else _functions_of(os.path.join(cwd, file))
        return f"write {file}:{name if is_name(name) else 'NAME'}" + (f"; {functions}" if functions else "")
    package, _, last = where.rpartition(".")
    if not name and not _is_path(where) and is_name(where) and package and not _is_missing(package, cwd):
        return f"write {package}:{last}"
    return f"write {where or 'FILE.py'}:{name if is_name(name) else 'NAME'}"


def _functions_of(path: str) -> str:
    try:
        return str(_outline(path, path))
    except BatchmillError:
        return ""


def _of_file(where: str, name: str, path: str) -> FunctionSpec:
    _outline(where, path).require(name, where)
    # As `python file.py` does: the directory is that of the real file, behind any symbolic link.
    directory = os.path.dirname(os.path.realpath(path))
    return FunctionSpec("file", _stem(path), name, path=path, directory=directory)


def _of_module(module: str, name: str, cwd: str) -> FunctionSpec:
    if _is_missing(module, cwd):
        raise no_module(module, name, cwd)
    path = _module_file(module, cwd)
    if path is not None:
        _outline(os.path.relpath(path, cwd), path).require(name, module)
    return FunctionSpec("module", module, name, directory=cwd)


def _is_missing(module: str, cwd: str) -> bool:
    # Only the top level is asked for: whatever lies below may be made by the package's own code.
    top = module.partition(".")[0]
    if top in sys.modules or PathFinder.find_spec(top, [cwd]) is not None:
        return False
    try:
        return all(finder.find_spec(top, None) is None for finder in sys.meta_path)
    except Exception:  # other people's finders; when unsure, the worker decides
        return False


def _module_file(module: str, cwd: str) -> str | None:
    # A directory without __init__.py may be overruled by an installed package of that name: not judged here.
    *packages, last = module.split(".")
    folder = cwd
    for package in packages:
        folder = os.path.join(folder, package)
        if not os.path.isfile(os.path.join(folder, "__init__.py")):
            return None
    path = os.path.join(folder, f"{last}.py")
    hidden = os.path.isdir(os.path.join(folder, last))
    return path if os.path.isfile(path) and not hidden else None


def no_module(module: str, name: str, cwd: str) -> UnknownFunction:
    """The error for a module that is nowhere, with the nearest name in its package."""
    import pkgutil

    package, _, last = module.rpartition(".")
    siblings = [found.name for found in pkgutil.iter_modules([os.path.join(cwd, *package.split("."))])]
    close = [f"{'.'.join(filter(None, [package, sibling]))}:{name}" for sibling in close_names(last, siblings)]
    otherwise = f"write {module}.py:{name} for a file, or run from the directory that holds {module.partition('.')[0]}"
    said = f"there is no module {module!r} in {cwd} or among the installed ones"
    return UnknownFunction(said, did_you_mean(close, otherwise))


def _outline(where: str, path: str) -> Outline:
    if not os.path.isfile(path):
        raise no_file(where, path)
    try:
        with open(path, "rb") as file:
            return Outline.of(file.read(), where)
    except OSError as error:
        raise InputMissing(f"{where} cannot be read: {error.strerror}", "check its permissions") from None


def no_file(where: str, path: str) -> InputMissing:
    """The error for a path that leads to no file, with the nearest name in its folder."""
    folder, base = os.path.split(path)
    if os.path.exists(path):
        return InputMissing(f"{where} is not a file", f"name a file in it: {where.rstrip('/')}/FILE.py:NAME")
    if not os.path.isdir(folder):
        return InputMissing(f"{where} does not exist", f"there is no directory {os.path.dirname(where)!r}")
    sources = [entry for entry in sorted(os.listdir(folder)) if entry.endswith(".py")]
    close = [os.path.join(os.path.dirname(where), name) for name in close_names(base, sources, cutoff=0.5)]
    return InputMissing(f"{where} does not exist", did_you_mean(close, "check the path"))


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def of_callable(function: Callable[..., Any], name: str | None = None) -> FunctionSpec:
    """The spec of a callable: by name where a worker can import it, else pickled by value with cloudpickle.

    `name` becomes the identity. Raises InvalidUsage for what cannot be called, is async or a generator, or needs
    cloudpickle where that is not installed.
    """
    refuse_unfit(function, getattr(function, "__name__", None) or mask_text(repr(function)))
    core = _core(function)
    home = core if getattr(core, "__module__", None) else getattr(core, "__objclass__", None)
    holder: str = getattr(home, "__module__", None) or ""
    qualname = _name(core)
    spec = _by_name(function, holder, qualname) or _by_value(function, core, holder, qualname)
    return replace(spec, label=name, named=True) if name else spec


def _core(function: Any) -> Any:
    """What has the name: of a partial what it calls, of an object without a name of its own its class."""
    while isinstance(function, partial):
        function = function.func
    return function if _name(function) else type(function)


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", "") or getattr(function, "__name__", "")


def _by_name(function: Callable[..., Any], holder: str, qualname: str) -> FunctionSpec | None:
    module = sys.modules.get(holder)
    if module is None or not qualname or not _is_same(_walk(module, qualname), function):
        return None
    if holder in MAIN:
        return _of_main(module, qualname)
    file = getattr(module, "__file__", None) or ""
    folder = os.path.dirname(os.path.realpath(file))
    # A worker gets the parent's sys.path; a file that was loaded past it must be loaded as a file there too.
    by_path = "." not in holder and file.endswith(".py") and os.path.isfile(file)
    if by_path and folder not in {os.path.realpath(entry) for entry in sys.path}:
        return FunctionSpec("file", holder, qualname, path=os.path.abspath(file), directory=folder)
    return FunctionSpec("module", holder, qualname)


def _is_same(found: Any, function: Any) -> bool:
    # A class method is a new object at each look-up, and equal to the last.
    return found is function or (inspect.isclass(getattr(function, "__self__", None)) and found == function)


def _walk(holder: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        holder = getattr(holder, part, None)
    return holder


def _of_main(main: ModuleType, qualname: str) -> FunctionSpec | None:
    spec = main_module(main)
    if spec is not None and spec.path is not None:
        try:
            _outline(spec.path, spec.path).require(qualname, spec.path)
        except BatchmillError:  # typed in after the script was loaded
            return None
    return spec and replace(spec, name=qualname)


def program_script() -> FunctionSpec | None:
    """The script or module that this program runs, as workers can import it; None for a notebook, `python -c` and a
    script that would begin a batch again, because it looks at no `__name__`."""
    spec = main_module(sys.modules["__main__"])
    if spec is None or spec.path is None:
        return spec
    try:
        with open(spec.path, "rb") as file:
            return spec if b"__main__" in file.read() else None
    except OSError:
        return None


def is_of_script(value: Any) -> bool:
    """Whether a worker finds that class in the program's script, by its name."""
    main = sys.modules.get("__main__")
    if value.__module__ not in MAIN or main is None or _walk(main, value.__qualname__) is not value:
        return False
    return program_script() is not None and _of_main(main, value.__qualname__) is not None


def main_module(main: ModuleType) -> FunctionSpec | None:
    """How a worker imports the program's main module; None where there is none to import: a notebook, `python -c`."""
    if main.__spec__ is not None and main.__spec__.name != "__main__":  # python -m package.module
        return FunctionSpec("module", main.__spec__.name, "", main=True)
    file = getattr(main, "__file__", None)
    if not file or not os.path.isfile(file):
        return None
    path = os.path.abspath(file)
    folder = os.path.dirname(os.path.realpath(path))
    return FunctionSpec("file", _stem(path), "", path=path, directory=folder, main=True)


def _by_value(function: Callable[..., Any], core: Any, holder: str, qualname: str) -> FunctionSpec:
    is_object = isinstance(core, type) and core is not function
    shown = qualname if core is function else f"an object of {qualname}" if is_object else f"a partial of {qualname}"
    try:
        from batchmill.worker import by_value
    except ImportError:
        remedy = "move it to the top level of a module, or: pip install 'batchmill[cloudpickle]'"
        raise InvalidUsage(f"{shown} cannot be found by name in a worker", remedy) from None
    try:
        blob = by_value.pickled(function, is_of_script)
    except Exception as error:
        problem = f"{shown} cannot be sent to workers: {type(error).__name__}: {error}"
        raise InvalidUsage(problem, "move it, and what it uses, to the top level of a module") from None
    code = getattr(vars(core).get("__call__") if is_object else core, "__code__", None)
    path = code.co_filename if isinstance(code, CodeType) and os.path.isfile(code.co_filename) else None
    module = _stem(path) if path and holder in MAIN else holder
    # The class of an object may have closed over what its state does not say.
    named = ("<locals>" if is_object else "<lambda>") not in qualname
    source = "" if path else by_value.source_digest(core)
    return FunctionSpec("pickle", module, qualname, path=path, blob=blob, named=named, source=source)


def refuse_unfit(function: Any, shown: str) -> None:
    """Raise InvalidUsage for what cannot be called with an item: no callable, async, or a generator function."""
    if not callable(function):
        raise InvalidUsage(f"{shown} is {type(function).__name__}, not a function", "name something that can be called")
    called = function if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__
    for candidate in (function, called):
        if inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate):
            remedy = "make it a plain function; asyncio.run(...) inside it works"
            raise InvalidUsage(f"{shown} is an async function, which batchmill does not await", remedy)
        if inspect.isgeneratorfunction(candidate):
            raise InvalidUsage(f"{shown} is a generator function", "return the result, or list(...) of the results")
