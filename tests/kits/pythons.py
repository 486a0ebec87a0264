"""`make test-pythons`: the tests, and `make check`, on each Python that pyproject.toml names and that is found.

A Python is looked for on PATH, in pyenv's versions, and then in Debian sid, whose packages are installed into a folder
of their own (this needs root and debootstrap). Each has a virtual environment and a copy of this tree under .venvs/,
so that no two share bytecode or leftovers. A table at the end says what passed, and which were not found and why.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

from debian_root import DebianRoot
from process_kit import born_with, kill, started

TREE = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batchmill"
COPY = "batchmill"  # a name that the tests must not take for the package's
MARK = "TESTED_BY"  # in the environment of all that a version's tests start
IS_USABLE = "import ensurepip, platform, sys, venv; print(sys.executable, platform.python_version())"
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


class Missing(Exception):
    """No such Python is here; the text says why."""


class Python(NamedTuple):
    """An interpreter: its program, its full version, where it was found, and the root it is in, if that is not /."""

    program: str
    version: str
    place: str
    root: DebianRoot | None = None


@dataclass
class Row:
    """What became of one version; `failed` and `skipped` are names of tests and reasons."""

    version: str
    place: str = "-"
    check: str = "-"
    note: str = ""
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    minutes: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether nothing failed and something passed."""
        return not self.failed and not self.note and self.passed > 0 and self.check != "failed"


# Which versions there are


def claimed() -> list[str]:
    """The versions that pyproject.toml names, the oldest first."""
    with open(TREE / "pyproject.toml", "rb") as file:
        classifiers = tomllib.load(file)["project"]["classifiers"]
    found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in classifiers]
    return sorted((match[1] for match in found if match), key=_order)


def newer_ones() -> list[str]:
    """The newest version on PATH or in pyenv, as a list; empty where none is newer than the one that runs this."""
    for version in reversed(claimed()):
        if _order(version) > sys.version_info[:2] and any(_usable(program) for program in candidates(version)):
            return [version]
    return []


def find(version: str, root: DebianRoot) -> Python:
    """Where that version is. Raises Missing."""
    tried = candidates(version)
    for program in tried:
        if found := _usable(program):
            return Python(*found, place=found[0])
    try:
        program = root.python(version)
    except OSError as error:
        here = f"{', '.join(tried)} cannot make a virtual environment" if tried else "neither on PATH nor in pyenv"
        raise Missing(f"{here}; {error}") from None
    found = _usable(*root.command([program], TREE))
    if not found:
        raise Missing(f"{program} of {root.folder} cannot make a virtual environment")
    return Python(*found, place="Debian sid", root=root)


def candidates(version: str) -> list[str]:
    """The programs that may be that version, the best first."""
    name = f"python{version}"
    folders = [Path(folder) for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    folders += sorted(pyenv.glob(f"{version}*/bin"), key=lambda path: _order(path.parent.name), reverse=True)
    return list(dict.fromkeys(str(folder / name) for folder in folders if os.access(folder / name, os.X_OK)))


def _usable(*command: str) -> tuple[str, str] | None:
    """The true program and the version of a Python that can make virtual environments."""
    try:
        ended = subprocess.run(
            [*command, "-c", IS_USABLE], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
            check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None  # a shim of pyenv for a version that is not chosen ends here
    program, _, version = ended.stdout.strip().rpartition(" ")
    return program, version


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


# One version


def test(version: str, options: argparse.Namespace, seed: int | None) -> Row:
    """Run the tests, and `make check`, on one version."""
    print(f"\n=== Python {version}", flush=True)
    row = Row(version)
    try:
        python = find(version, DebianRoot(options.root))
    except Missing as missing:
        row.note = f"not found: {missing}"
        return row
    print(f"{python.version}, {python.place}", flush=True)
    row.version, row.place = python.version, python.place
    work = TREE / ".venvs" / version
    copy_tree(work / COPY)
    began = time.monotonic()
    if not options.tests_only:
        row.check = "ok" if make(python, work, ["check"], options.minutes) == 0 else "failed"
    run_tests(python, work, row, options, seed)
    row.minutes = (time.monotonic() - began) / 60
    return row


def copy_tree(target: Path) -> None:
    """A copy of what belongs to this tree, changes that are not committed too; a repository of its own for ruff."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=TREE, capture_output=True,
        check=True, timeout=60,
    ).stdout  # fmt: skip
    shutil.rmtree(target, ignore_errors=True)
    for name in map(os.fsdecode, filter(None, listed.split(b"\0"))):
        if (TREE / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TREE / name, target / name)
    subprocess.run(["git", "init", "-q", str(target)], check=True, timeout=60)


def make(python: Python, work: Path, arguments: Sequence[str], minutes: float) -> int | None:
    """Run make in the copy; its status, None where it does not end in time. Nothing that it starts outlives it."""
    command = [
        "make", "--no-print-directory", "-C", str(work / COPY), f"PYTHON={python.program}", f"VENV={work / 'venv'}",
        *arguments,
    ]  # fmt: skip
    mark = uuid.uuid4().hex
    own = ("PYTHON", "VIRTUAL_ENV", "MAKE", "MFLAGS")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    try:
        with started(
            python.root.command(command, work) if python.root else command,
            env={**environ, MARK: mark}, stdin=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            return process.wait(minutes * 60)
    except subprocess.TimeoutExpired:
        return None
    finally:
        kill(lambda: born_with(f"{MARK}={mark}"))


def run_tests(python: Python, work: Path, row: Row, options: argparse.Namespace, seed: int | None) -> None:
    """`make test`; what it says in its XML report goes into the row."""
    report = work / "report.xml"
    report.unlink(missing_ok=True)
    order = [] if seed is None else ["-p", "randomly", f"--randomly-seed={seed}"]
    words = shlex.join([f"--junitxml={report}", *order])
    arguments = ["test", f"PROCESSES={options.processes}", f"TESTS={options.tests}", f"PYTEST_OPTIONS={words}"]
    status = make(python, work, arguments, options.minutes)
    if report.exists():
        read_report(report, row)
    if status is None:
        row.note = f"did not end within {options.minutes:g} minutes"
    elif status and not row.failed:
        row.note = f"make test ended with {status}"


def read_report(report: Path, row: Row) -> None:
    """Count what the XML report of pytest says."""
    for case in ET.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            row.failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif skipped is not None:
            row.skipped.append(skipped.get("message") or "no reason given")
        else:
            row.passed += 1


# The whole


def table(rows: Sequence[Row]) -> str:
    """What became of each version, for a person."""
    lines = [f"{'version':10} {'check':7} {'passed':>6} {'failed':>6} {'skipped':>7} {'minutes':>7}  found"]
    for row in rows:
        counts = f"{row.passed:6} {len(row.failed):6} {len(row.skipped):7} {row.minutes:7.1f}"
        lines.append(f"{row.version:10} {row.check:7} {counts}  {row.place}{row.note and f': {row.note}'}")
    for title in ("failed", "skipped"):
        versions: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            for text in getattr(row, title):
                versions[text].append(row.version)
        for text, on in sorted(versions.items()):
            lines.append(f"{title}: {text} ({', '.join(sorted(set(on), key=_order))})")
    return "\n".join(lines)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but take a core."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(started([sys.executable, "-c", BUSY], stdin=subprocess.DEVNULL))
        yield


def parsed() -> argparse.Namespace:
    """The options, each a variable of make."""
    parser = argparse.ArgumentParser(description="Run the tests on each Python that pyproject.toml names.")
    parser.add_argument("--versions", default="", help="such as '3.12 3.14'; 'newest': the newest here without Debian")
    parser.add_argument("--tests", default="", help="files and other words for pytest; all tests where it is empty")
    parser.add_argument("--tests-only", action="store_true", help="no `make check`")
    parser.add_argument("--seed", default="", help="a random order: this one, or 'any'")
    parser.add_argument("--busy", type=int, default=0, help="so many busy loops run beside the tests")
    parser.add_argument("--processes", type=int, default=3, help="of pytest")
    parser.add_argument("--minutes", type=float, default=60, help="a version that takes longer has failed")
    parser.add_argument("--root", type=Path, default=CACHE / "sid", help="the folder of Debian sid")
    return parser.parse_args()


def main() -> int:
    """Test one version after the other; the exit status is 0 where all that were found are good."""
    options = parsed()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell had the first ignored: what was started ends
        signal.signal(number, lambda signum, _: sys.exit(128 + signum))
    seed = random.randrange(1 << 32) if options.seed == "any" else int(options.seed) if options.seed else None
    versions = newer_ones() if options.versions == "newest" else options.versions.split() or claimed()
    if not versions:
        print("No newer Python than this is here.")
        return 0
    with busy(options.busy):
        rows = [test(version, options, seed) for version in versions]
    print(f"\n{table(rows)}")
    if seed is not None:
        print(f"order: random, SEED={seed} repeats it")
    found = [row for row in rows if row.place != "-"]
    return 0 if found and all(row.is_good for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
