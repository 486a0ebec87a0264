"""Tests of very many cases: the ordinary suite runs a sample of them, `make test-whole` all.

`@pytest.mark.sampled(n)` on a parametrized test keeps every n-th of its cases, on a diagonal where there are two
parameters: each value of either is among them.
"""

from __future__ import annotations

from collections import Counter

import pytest


def thin_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what is not in the sample."""
    if config.getini("whole"):
        return
    seen: Counter[str] = Counter()
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        marker = item.get_closest_marker("sampled")
        if marker is None:
            kept.append(item)
            continue
        (step,) = marker.args
        test = item.nodeid.partition("[")[0]
        number = seen[test]
        seen[test] += 1
        (left_out if (number + number // step) % step else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
