"""Where things lie in this tree. Tests nothing."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
KITS = TESTS / "kits"
ROOT = TESTS.parent
BENCH = ROOT / "bench"
