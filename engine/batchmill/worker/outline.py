"""What a module's source says it defines, read from its syntax tree.

So a wrong name can be refused, with the right ones, in a process that must not import the user's module.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable
from typing import TypeGuard

from batchmill.errors import FunctionFailed, UnknownFunction
from batchmill.text import close_names, did_you_mean
from batchmill.value_class import value_class

_LISTED = 10  # names in a remedy
# Whoever uses one of these may define names that a syntax tree does not show.
_UNSURE = {"exec", "eval", "globals", "locals", "vars", "setattr", "__dict__", "modules", "__getattr__", "*"}
_OWN_SCOPE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


@value_class
class Outline:
    """The top-level `functions` of a source in its order (public ones where there are any) and all names it binds.

    `guarded` are those that only `if __name__ == "__main__":` binds: an import does not. `sure` is False where the
    module may bind more than its syntax tree shows.
    """

    functions: tuple[str, ...]
    bound: frozenset[str]
    sure: bool
    guarded: frozenset[str] = frozenset()

    @classmethod
    def of(cls, source: bytes, where: str) -> Outline:
        """The outline of a source, called `where` in messages; raises FunctionFailed when it is not Python."""
        tree = _parse(source, where)
        functions = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        public = [name for name in functions if not name.startswith("_")]
        every = list(ast.walk(tree))
        guards = [node for node in tree.body if _is_guard(node)]
        bound = set(_bound_in(node for node in tree.body if node not in guards))
        bound.update(_bound_in(other for guard in guards for other in guard.orelse))
        guarded = frozenset(_bound_in(node for guard in guards for node in guard.body))
        bound.update(name for node in every if isinstance(node, ast.Global) for name in node.names)
        used = {getattr(node, "id", getattr(node, "attr", None)) for node in every}
        return cls(tuple(public or functions), frozenset(bound), _UNSURE.isdisjoint(used | bound), guarded - bound)

    def require(self, name: str, where: str) -> None:
        """Raise UnknownFunction when the source surely does not bind the first part of the dotted `name`."""
        first = name.partition(".")[0]
        if first in self.guarded:
            said = f'{where} defines {first!r} under `if __name__ == "__main__":`, which a worker does not run'
            raise UnknownFunction(said, "define it above that line")
        if self.sure and first not in self.bound:
            raise no_name(first, where, self.functions, self.bound)

    def __str__(self) -> str:
        return f"functions in it: {', '.join(self.functions[:_LISTED])}" if self.functions else ""


def no_name(name: str, where: str, functions: Iterable[str], known: Iterable[str]) -> UnknownFunction:
    """The error for a `name` that is not in `where`: its remedy has the close names, else the functions there."""
    listed = list(functions)
    close = close_names(name, [*listed, *sorted(set(known).difference(listed))], 3)
    otherwise = f"functions in it: {', '.join(listed[:_LISTED])}" if listed else "define it there, or name another"
    return UnknownFunction(f"{where} has no {name!r}", did_you_mean(close, otherwise))


def _parse(source: bytes, where: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the worker's import says them once more
            return ast.parse(source, where)
    except SyntaxError as error:
        line = f" in line {error.lineno}" if error.lineno else ""  # a NUL byte has none
        raise FunctionFailed(f"{where} has a syntax error{line}: {error.msg}") from None
    except ValueError as error:  # a NUL byte, before 3.12
        raise FunctionFailed(f"{where} is not Python source: {error}") from None


def _is_guard(node: ast.stmt) -> TypeGuard[ast.If]:
    if not isinstance(node, ast.If) or not isinstance(node.test, ast.Compare) or len(node.test.comparators) != 1:
        return False
    sides = (node.test.left, node.test.comparators[0])
    names = {side.id for side in sides if isinstance(side, ast.Name)}
    values = [side.value for side in sides if isinstance(side, ast.Constant)]
    return names == {"__name__"} and values == ["__main__"] and isinstance(node.test.ops[0], ast.Eq)


def _bound_in(nodes: Iterable[ast.AST]) -> Iterable[str]:
    todo: list[ast.AST] = list(nodes)
    while todo:
        node = todo.pop()
        yield from _bound_by(node)
        if not isinstance(node, _OWN_SCOPE):
            todo.extend(ast.iter_child_nodes(node))


def _bound_by(node: ast.AST) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Name):
        return [node.id] if isinstance(node.ctx, ast.Store) else []
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, (ast.MatchAs, ast.MatchStar)):
        return [node.name] if node.name else []
    return []
