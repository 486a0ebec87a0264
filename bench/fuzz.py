"""The fuzz as one command: seeds, time, memory, and what is printed.

    python bench/fuzz.py [--target checkpoints|inputs|shell] [--seed N] [--seconds T] [--cases N] [--case K]

Ends with status 1 where a command did what it should not (see `fuzz_kit`, `input_fuzz_kit` and `shell_fuzz_kit`). Of
checkpoints it ends by SIGVTALRM where a command used up its CPU time; memory is bounded by RLIMIT_AS. `--seed S --case
K` repeats a case.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np  # what it maps is not the checkpoint's doing

KITS = Path(__file__).resolve().parent.parent / "tests" / "kits"
MEMORY = 1 << 30  # bytes, beyond what the modules take up


def main() -> None:
    options = _options()
    sys.path.insert(0, str(KITS))
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder goes
    folder = Path(tempfile.mkdtemp(prefix="batchmill-fuzz-"))
    print(f"seed {options.seed}", flush=True)
    try:
        os.chdir(folder)
        case = CASES[options.target](folder)
        ends, bad, done = time.monotonic() + options.seconds, 0, 0
        for number in itertools.count() if options.case is None else [options.case]:
            if time.monotonic() > ends or done == options.cases:
                break
            for odd in case(number, options.seed):
                bad += 1
                print(f"case {number}: {' '.join(odd.words)}: {odd.status}\n{odd.said}", flush=True)
            done += 1
        print(f"{done} cases, {bad} commands that did what they should not", flush=True)
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if bad else 0)


class Odd(Protocol):
    """A command that did what it should not."""

    @property
    def words(self) -> Sequence[str]: ...
    @property
    def status(self) -> object: ...
    @property
    def said(self) -> str: ...


Case = Callable[[int, int], Iterable[Odd]]  # by number and seed


def _checkpoint_cases(folder: Path) -> Case:
    from fuzz_kit import case, corpus

    good = corpus(folder)
    _limit_memory()
    return lambda number, seed: case(number, seed, good)


def _input_cases(folder: Path) -> Case:
    from input_fuzz_kit import case

    return lambda number, seed: case(number, seed, folder)


def _shell_cases(folder: Path) -> Case:
    from shell_fuzz_kit import case

    return lambda number, seed: case(number, seed, folder)


CASES = {"checkpoints": _checkpoint_cases, "inputs": _input_cases, "shell": _shell_cases}


def _limit_memory() -> None:
    assert np
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=tuple(CASES), default="checkpoints", help="[checkpoints]")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="repeats a run")
    parser.add_argument("--seconds", type=float, default=600.0, help="at most [600]")
    parser.add_argument("--cases", type=int, help="at most so many")
    parser.add_argument("--case", type=int, help="only this one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
