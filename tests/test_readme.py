"""The proof that the README's commands work as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.DOTALL)
NOT_HERE = ("make ", "pip ")  # they install; `make test` itself is running now
EXIT = re.compile(r"# exit (\d+)$")


def steps() -> list[tuple[str, list[str]]]:
    """(command, the lines printed below it) of every console block, and python blocks as files or programs."""
    found: list[tuple[str, list[str]]] = []
    for kind, body in BLOCK.findall(README):
        if kind == "python":
            name = re.match(r"# (\w+\.py)\n", body)
            write = f"cat > {name[1] if name else 'program.py'} <<'EOF'\n{body}EOF"
            found.append((write if name else f"{write}\n{sys.executable} program.py", []))
            continue
        for line in body.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return [(command, shown) for command, shown in found if not command.startswith(NOT_HERE)]


def test_every_command_of_the_readme_does_what_is_printed_below_it(tmp_path: Path) -> None:
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command, shown in steps():
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
        )
        expected = EXIT.search(command)
        assert done.returncode == int(expected[1] if expected else 0), f"{command}\n{done.stderr}"
        if shown:
            assert done.stdout.splitlines() == shown, command
