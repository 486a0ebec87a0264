"""Contenders in turn, round after round: what each took, as a ratio to two bare processes within a round."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from machine import describe

BASE = "slices"  # two bare processes


def parser(doc: str | None, rows: int) -> argparse.ArgumentParser:
    """The options that all have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rows", type=int, default=rows, help=f"[{rows}]")
    made.add_argument("--rounds", type=int, default=3, help="[3]")
    made.add_argument("--only", action="append", help="this contender, and the bare processes; repeatable")
    return made


def installed(programs: Iterable[str], needs: Mapping[str, str]) -> list[str]:
    """The programs whose package is there."""
    return [name for name in programs if importlib.util.find_spec(needs.get(name, "json")) is not None]


def asked(names: Iterable[str], only: Sequence[str] | None) -> list[str]:
    """Those of `names` that are to run: the bare processes always."""
    return [name for name in names if not only or name in only or name == BASE]


def compare(names: Iterable[str], rows: int, rounds: int, seconds: Callable[[str], float]) -> None:
    """Run each of `names` once a round, and print the table: `seconds` runs one, and says how long it took."""
    took: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name, times in took.items():
            times.append(seconds(name))
            print(f"round {number + 1}: {name} {times[-1]:.1f} s", file=sys.stderr, flush=True)
    print(f"{'':16} seconds   rows/s   to two bare processes")
    for name, times in took.items():
        ratio = median(own / bare for own, bare in zip(times, took[BASE]))
        print(f"{name:16} {median(times):7.2f}  {rows / median(times):7.0f}  {ratio:10.2f}")


def head(*lines: str, programs: Iterable[str], names: Iterable[str]) -> None:
    """Print what was measured where."""
    print(describe())
    for line in lines:
        print(line)
    print(f"left out  {', '.join(sorted({*programs} - {*names})) or 'none'}: not installed, or not asked for\n")
