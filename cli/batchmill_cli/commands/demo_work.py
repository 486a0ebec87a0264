"""The demo's function: honest CPU work on one Python source file. Imports the standard library alone.

An item is a path; the result says how large, how branchy and how repetitive the file is.
"""

from __future__ import annotations

import ast
import lzma
import warnings
import zlib
from typing import Any

# What McCabe counts: a further way through the code each. `and`, `or` and comprehensions are counted beside these.
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.Assert)


def examine(path: str) -> dict[str, Any]:
    """Measure one file; a file that is not Python (some exist to test that) is a result too: `parses` is False."""
    with open(path, "rb") as file:
        source = file.read()
    facts: dict[str, Any] = {"bytes": len(source), "lines": source.count(b"\n"), **_compressibility(source)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {"parses": False, **facts}
    return {"parses": True, **facts, **_shape(tree)}


def _compressibility(source: bytes) -> dict[str, float]:
    size = max(len(source), 1)
    return {
        "zlib": round(len(zlib.compress(source, 9)) / size, 3),
        "lzma": round(len(lzma.compress(source, preset=6)) / size, 3),
    }


def _shape(tree: ast.AST) -> dict[str, int]:
    nodes = functions = 0
    branches = 1
    for node in ast.walk(tree):
        nodes += 1
        functions += isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        branches += _ways(node)
    return {"nodes": nodes, "functions": functions, "complexity": branches}


def _ways(node: ast.AST) -> int:
    """The further ways through the code that a node opens."""
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.Match):
        return len(node.cases)
    return int(isinstance(node, BRANCHES))
