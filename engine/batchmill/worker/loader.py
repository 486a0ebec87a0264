"""The user's function, in a worker: what a FunctionSpec names is imported, found and looked at.

The rule for sys.path is Python's own: the directory of the file, or the working directory for a module, comes first,
after batchmill's own imports.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from types import CodeType, ModuleType, TracebackType
from typing import Any

from batchmill.errors import FunctionFailed, FunctionStarved, InputMissing, InvalidUsage, NotGuarded, UnknownFunction
from batchmill.system.scarcity import lacking_number
from batchmill.text import option
from batchmill.value_class import value_class
from batchmill.worker.function import MAIN, FunctionSpec, here, is_name, no_file, no_module, parse, refuse_unfit
from batchmill.worker.outline import no_name

if sys.version_info >= (3, 14):
    from annotationlib import Format

TRACEBACK_LINES = 5


@value_class
class Resolved:
    """A worker's own function, and what it calls before its first item and after its last."""

    function: Callable[..., Any]
    init: Callable[..., Any] | None
    end: Callable[[], Any] | None = None


def resolve(
    spec: FunctionSpec, init: str | FunctionSpec | None = None, end: str | FunctionSpec | None = None
) -> Resolved:
    """Import what `spec` names, and `init` and `end` (NAME in its module, MODULE:NAME, or a spec). Workers only.

    Changes sys.path, sys.modules and, for functions of a script, `__main__` of this process. Raises UnknownFunction (no
    such module or name), InvalidUsage (async, generator, not callable), InputMissing (the file has gone) and
    FunctionFailed (the import raised or exited).
    """
    module = None
    blob = spec.blob
    if blob is None:
        module = load(spec)
        function = _attribute(module, spec)
    else:
        function = _guarded(f"unpickling {spec.display}", blob.loads)
    refuse_unfit(function, spec.display)
    hooks = [None if hook is None else _resolve_hook(name, hook, spec, module)
             for name, hook in (("init", init), ("end", end))]  # fmt: skip
    return Resolved(function, *hooks)


def check_arguments(spec: FunctionSpec, function: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
    """Raise InvalidUsage where the function is known not to take an item and these keywords."""
    signature = _signature(function)
    if signature is None:
        return
    try:
        signature.bind(None, **kwargs)
    except TypeError as error:
        named = ", ".join(list(signature.parameters)[1:]) or "none"
        remedy = f"it is called with one item; what {option('set')} can name: {named}"
        raise InvalidUsage(f"{spec.display} cannot be called so: {error}", remedy) from None


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """None where it cannot be known. Annotations are not evaluated: they may name what type checkers alone import."""
    try:
        if sys.version_info >= (3, 14):
            return inspect.signature(function, annotation_format=Format.STRING)
        return inspect.signature(function)
    except Exception:  # many built-in functions do not tell, and what an object says of itself is the user's code
        return None


def failure(doing: str, error: BaseException) -> FunctionFailed:
    """`error`, raised while `doing` something with user code, as FunctionFailed with the end of its traceback."""
    lines = "".join(traceback.format_exception(type(error), error, _of_user(error))).rstrip().splitlines()
    tail = "\n".join(line[:500] for line in lines[-TRACEBACK_LINES:])
    verb = "exited with" if isinstance(error, SystemExit) else "raised"
    kind = FunctionFailed if lacking_number(error) is None else FunctionStarved
    return kind(f"{doing} {verb} {type(error).__name__}:\n{tail}")


def _of_user(error: BaseException) -> TracebackType | None:
    """The traceback from the user's first frame on."""
    at = error.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename.startswith(
        (__file__, importlib.__file__, "<frozen importlib")
    ):
        at = at.tb_next
    return at


def import_all(modules: Sequence[str], folder: str) -> None:
    """Import what was to be preloaded: mostly it is there already, but what is not must not be passed over in silence.
    Raises InvalidUsage where there is no such module, and FunctionFailed for what it raises."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    for module in modules:
        shown = option("preload", module)
        try:
            importlib.import_module(module)
        except BaseException as error:
            if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
                remedy = f"name one in {folder} or among the installed ones"
                raise InvalidUsage(f"{shown}: there is no module {error.name!r}", remedy) from None
            raise failure(f"{shown}: its import", error) from None


def _resolve_hook(
    setting: str, hook: str | FunctionSpec, spec: FunctionSpec, module: ModuleType | None
) -> Callable[..., Any]:
    if isinstance(hook, str):
        where, _, name = hook.rpartition(":")
        if module is not None and is_name(name) and where in ("", spec.module):
            own = replace(spec, name=name, label="")
            found: Callable[..., Any] = _attribute(module, own)
            refuse_unfit(found, own.display)
            return found
        if not where:
            raise InvalidUsage(f"{option(setting, repr(hook))} names no module", "write MODULE:NAME")
        hook = parse(hook, here())
    if hook.directory is not None and hook.directory not in sys.path:
        sys.path.insert(1, hook.directory)  # behind the function's own directory
    return resolve(replace(hook, directory=None)).function


def load(spec: FunctionSpec) -> ModuleType:
    """The module of a spec, imported. Workers only; raises as `resolve`."""
    if spec.directory is not None and spec.directory != sys.path[0]:
        sys.path.insert(0, spec.directory)
    importlib.invalidate_caches()  # the fork server's view of the directories may be old
    path = spec.path or _shadowed_file(spec)
    if path is None:
        module: ModuleType = _guarded(f"importing {spec.module}", lambda: _import_module(spec))
    else:
        module = _guarded(f"importing {os.path.basename(path)}", lambda: _import_file(spec.module, path))
    if spec.main:
        sys.modules.update(dict.fromkeys(MAIN, module))
    return module


def _guarded(doing: str, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except (NotGuarded, UnknownFunction, InputMissing):
        raise
    except BaseException as error:  # sys.exit() at import time ends nothing but this import
        raise failure(doing, error) from None


def _import_module(spec: FunctionSpec) -> ModuleType:
    try:
        return importlib.import_module(spec.module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{spec.module}.".startswith(f"{error.name}."):
            raise  # something that the module itself wants
        raise no_module(spec.module, spec.name, spec.directory or os.getcwd()) from None


def _shadowed_file(spec: FunctionSpec) -> str | None:
    """The user's `json.py` in the working directory, where another `json` was imported before it."""
    path = os.path.join(spec.directory or "", f"{spec.module}.py")
    taken = spec.directory is not None and spec.module in sys.modules and os.path.isfile(path)
    return path if taken and not _is_from(spec.module, path) else None


def _is_from(name: str, path: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and os.path.realpath(file) == os.path.realpath(path)


def _import_file(stem: str, path: str) -> ModuleType:
    # A user's json.py must not become everybody's json: where the name is taken, the file gets one of its own.
    name = stem if stem not in sys.modules or _is_from(stem, path) else f"__user_{stem}"
    if name in sys.modules:
        return sys.modules[name]
    if not os.path.isfile(path):
        raise no_file(path, path)
    spec = spec_from_file_location(name, path, loader=_SourceLoader(name, path))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return sys.modules.get(name, module)


class _SourceLoader(SourceFileLoader):
    """Compiles the source each time: a cached .pyc is trusted by second and size, and may be older than the digest."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def _attribute(module: ModuleType, spec: FunctionSpec) -> Any:
    found: Any = module
    where = os.path.basename(spec.path) if spec.path else spec.module
    for part in spec.name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            known = [name for name, value in getattr(found, "__dict__", {}).items() if callable(value)]
            home = getattr(found, "__name__", "")
            own = [name for name in known if getattr(getattr(found, name), "__module__", None) == home]
            raise no_name(part, where, own, known) from None
        where = f"{where}:{part}"
    return found
