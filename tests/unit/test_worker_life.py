"""What a worker has from its first item to its last: a number, the arguments of init, a log, something to call at its
end."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from work_kit import witness

import batchmill
from batchmill.errors import InvalidUsage


def begin(place: str) -> None:
    os.environ["PLACE"] = place


def end() -> None:
    witness(os.path.join(os.environ["PLACE"], f"end-{os.environ['BATCHMILL_WORKER']}"))


def tell(item: dict[str, Any]) -> str:
    logging.getLogger("tasks").info("at it")
    logging.warning("careful")
    logging.getLogger("tasks").debug("unsaid")
    time.sleep(0.01)
    return os.environ["BATCHMILL_WORKER"]


def fail() -> None:
    raise ValueError("it cannot be closed")


def stay() -> None:
    time.sleep(1000)


def configure(format: str) -> None:
    logging.basicConfig(format=format)


def test_a_worker_has_a_number_a_log_that_names_items_and_an_end(tmp_path: Path) -> None:
    log, items = tmp_path / "log", [{"id": f"n\x1b{number}"} for number in range(60)]
    numbers = batchmill.map(
        tell, items, init=begin, init_kwargs={"place": str(tmp_path)}, end=end, workers=2, max_items_per_worker=20,
        log_level="INFO", worker_output=str(log),
    )  # fmt: skip
    assert set(numbers) == {"0", "1"}
    lines = log.read_text().splitlines()
    assert sorted(lines) == sorted(
        line for n in range(60) for line in (f"INFO tasks [n\\x1b{n}] at it", f"WARNING root [n\\x1b{n}] careful")
    )
    ends = sum(path.stat().st_size for path in tmp_path.glob("end-*"))
    assert ends >= 3  # also of workers that were replaced
    assert {path.name for path in tmp_path.glob("end-*")} == {"end-0", "end-1"}


def test_a_log_of_the_users_own_has_the_items_id(tmp_path: Path) -> None:
    batchmill.run(
        tell, [{"id": 7}], init=configure, init_kwargs={"format": "%(message)s of %(batchmill_item)s"}, workers=1,
        worker_output=str(tmp_path / "log"),
    )  # fmt: skip
    assert (tmp_path / "log").read_text() == "careful of 7\n"


def test_an_end_that_fails_or_stays_is_noted_and_costs_no_item() -> None:
    report = batchmill.run(abs, [-1], end=fail, workers=2)
    (note,) = report.notes
    assert re.match(r"end fail raised ValueError:.*it cannot be closed", note, re.DOTALL)
    assert (report.completed, report.exit_code) == (1, 0)
    report = batchmill.run(abs, range(9), end=stay, workers=1, max_items_per_worker=5, grace=0.2)
    assert (report.completed, report.failed) == (9, 0)
    assert report.notes == ("end did not return in 1 worker, and was cut off",)


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidUsage, match="log_level"):
        batchmill.map(abs, [1], log_level="loud")
