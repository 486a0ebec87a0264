"""Facts about the tests themselves: nothing in them waits without a limit, and what they start ends with them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from tree_kit import TESTS

FILES = sorted(TESTS.rglob("*.py"))
TO_THEIR_END = {"run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"}  # of subprocess
WAITS = {"wait", "communicate", "join", "acquire", "get", "result", "exception"}  # for ever, without an argument
FOR_EVER = {"pause", "sigwait", "sigwaitinfo"}  # of signal


def unbounded(tree: ast.AST, *, is_kit: bool = False) -> Iterator[str]:
    """What may wait for ever, or leaves a process behind where it is given up, by lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, name, words = ast.unparse(node.func.value), node.func.attr, {word.arg for word in node.keywords}
            is_bare = not node.args and not words
            if (
                (owner == "subprocess" and name in TO_THEIR_END and "timeout" not in words)
                or (owner == "subprocess" and name == "Popen" and not is_kit)
                or (owner == "signal" and name in FOR_EVER)
                or (name in WAITS and is_bare)
            ):
                yield f"line {node.lineno}: {owner}.{name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_wait_is_without_a_limit(path: Path) -> None:
    assert list(unbounded(ast.parse(path.read_bytes()), is_kit=path.stem.endswith("_kit"))) == []


@pytest.mark.parametrize(
    "code",
    ["subprocess.run(['true'])", "subprocess.Popen(['true'])", "p.wait()", "self.p.communicate()", "events.get()"],
)
def test_such_a_wait_is_found(code: str) -> None:
    assert len(list(unbounded(ast.parse(code)))) == 1
