"""What any Python value is, for those that msgpack has no form for: a digest of it by value, the same in every process.

It is made of what pickle would make the value of again, piece by piece: the classes' names, the arguments, the state.
Neither the order of a set or of the keys of a dict matters, nor whether equal parts are one object. Functions are their
module and what it calls them; those without such a name are their code, and what it has closed over.
"""

from __future__ import annotations

import copyreg
import os
import sys
from collections.abc import Callable, Iterable
from hashlib import blake2b
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

from batchmill.codec.ids import fingerprint
from batchmill.codec.pack import PLAIN, pack_value

_SIZE = 16
_MAIN = ("__main__", "__mp_main__")
_LEAVES = PLAIN | {complex}
_MOST_KEPT = 4 << 10  # bytes of a value that is kept, and not its digest


def digest_of(value: Any) -> bytes:
    """The digest of a value: equal values, equal digests. Raises ValueError, or what the value's own methods raise."""
    try:
        return _Walk().visit(value)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def kept(value: Any) -> Any:
    """A value as a checkpoint keeps it to know it again: itself, or what it is and its digest where it is large or has
    no form there. Raises as `digest_of`."""
    try:
        packed, mark = fingerprint(value)
        if len(packed) <= _MOST_KEPT:
            return value
        digest = _hashed("", [mark])
    except Exception:  # of the value's own methods it may be any
        digest = digest_of(value)
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    return f"{name} {digest.hex()}"


def _hashed(kind: str, parts: Iterable[Any]) -> bytes:
    found = blake2b(kind.encode(), digest_size=_SIZE)
    for part in parts:
        found.update(b"%d:" % memoryview(part).nbytes)
        found.update(part)
    return found.digest()


class _Walk:
    """One way through a value. What was seen stays referred to, so that no other object gets its address."""

    def __init__(self) -> None:
        self._path: dict[int, int] = {}
        self._seen: dict[int, tuple[Any, bytes]] = {}

    def visit(self, value: Any) -> bytes:
        kind = type(value)
        if kind in _LEAVES:
            return _hashed(kind.__name__, [pack_value(value)])
        key = id(value)
        if key in self._path:
            return _hashed("cycle", [b"%d" % (len(self._path) - self._path[key])])
        if key not in self._seen:
            self._path[key] = len(self._path)
            try:
                self._seen[key] = (value, self._composed(value, kind))
            finally:
                del self._path[key]
        return self._seen[key][1]

    def _composed(self, value: Any, kind: type) -> bytes:
        if isinstance(value, type):
            return _hashed("class", [value.__qualname__.encode()])
        if kind is getattr(sys.modules.get("numpy"), "ndarray", None) and not value.dtype.hasobject:
            return _array(value)
        compose = _COMPOSED.get(kind)
        return self._reduced(value, kind) if compose is None else compose(self, value)

    def _dict(self, value: dict[Any, Any]) -> bytes:
        return _hashed("dict", sorted(self.visit(key) + self.visit(part) for key, part in value.items()))

    def _function(self, value: FunctionType) -> bytes:
        if "<" not in value.__qualname__:
            return _hashed("function", [_home(value.__module__), value.__qualname__.encode()])
        inside = (value.__code__, value.__closure__ or (), value.__defaults__, value.__kwdefaults__)
        return _hashed("function", map(self.visit, inside))

    def _builtin(self, value: Any) -> bytes:
        owner = value.__self__
        is_method = owner is not None and not isinstance(owner, ModuleType)
        where = self.visit(owner) if is_method else _home(value.__module__)
        return _hashed("builtin", [value.__qualname__.encode(), where])

    def _reduced(self, value: Any, kind: type) -> bytes:
        reduce = copyreg.dispatch_table.get(kind)
        made = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        if isinstance(made, str):
            return _hashed("global", [made.encode()])
        how = [*made, None, None, None, None][:5]  # what makes it, of what, its state, elements and pairs
        return _hashed("object", map(self.visit, [*how[:3], list(how[3] or ()), list(how[4] or ())]))


_COMPOSED: dict[type, Callable[[_Walk, Any], bytes]] = {
    bytes: lambda walk, value: _hashed("bytes", [value]),
    bytearray: lambda walk, value: _hashed("bytearray", [value]),
    list: lambda walk, value: _hashed("list", map(walk.visit, value)),
    tuple: lambda walk, value: _hashed("tuple", map(walk.visit, value)),
    dict: _Walk._dict,
    set: lambda walk, value: _hashed("set", sorted(map(walk.visit, value))),
    frozenset: lambda walk, value: _hashed("frozenset", sorted(map(walk.visit, value))),
    ModuleType: lambda walk, value: _hashed("module", [value.__name__.encode()]),
    FunctionType: _Walk._function,
    BuiltinFunctionType: _Walk._builtin,
    CodeType: lambda walk, value: _hashed("code", [value.co_code, *map(walk.visit, (value.co_names, value.co_consts))]),
    CellType: lambda walk, value: _hashed("cell", [walk.visit(value.cell_contents)]),
}


def _home(module: str | None) -> bytes:
    """The name of a function's module; of the program's script the one that it would be imported by."""
    main = sys.modules.get(module or "") if module in _MAIN else None
    if main is not None:
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None) or ""
        stem = os.path.splitext(os.path.basename(file))[0]
        module = stem if spec is None or spec.name in _MAIN else spec.name
    return (module or "").encode()


def _array(value: Any) -> bytes:
    is_whole = value.flags.c_contiguous and value.nbytes
    raw = value.reshape(-1).view("u1").data if is_whole else value.tobytes()
    return _hashed("array", [repr((value.dtype.descr, value.shape)).encode(), raw])
