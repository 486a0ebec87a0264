"""What holds for every test: what signals do, the order, and an end."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import hang_kit
import hypothesis
import process_kit
import pytest
from hang_kit import (  # noqa: F401 - hooks of pytest
    pytest_configure,
    pytest_runtest_protocol,
    pytest_testnodedown,
    pytest_unconfigure,
    pytest_xdist_make_scheduler,
)
from sample_kit import thin_out

# A shell without job control has what it starts in the background ignore these, and so would every program under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for ignored in (signal.SIGQUIT, signal.SIGHUP):  # the latter by nohup
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _processes_end() -> Iterator[None]:
    yield
    process_kit.end_all()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("whole", "run all cases of tests that are sampled otherwise", "bool", default=False)
    hang_kit.pytest_addoption(parser)


def pytest_sessionstart(session: pytest.Session) -> None:
    """The ordinary suite tries the same examples of a property every time, the whole one others each time."""
    hypothesis.settings.register_profile("same", derandomize=True)
    hypothesis.settings.load_profile("default" if session.config.getini("whole") else "same")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest begins first: a file is one worker's, so that its tests can share a cluster."""
    thin_out(config, items)
    items.sort(key=lambda item: item.get_closest_marker("cluster") is None)
