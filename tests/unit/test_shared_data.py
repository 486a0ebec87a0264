"""Large data is there once: in kwargs, in a closure, for init, in items; a memmap in its own file and nowhere else."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import batchmill
from batchmill.files import mapped_pickle
from batchmill.files.mapped_pickle import MappedItem, Pickled

SIZE = 600_000  # numbers: as an item, above mapped_pickle.LARGE


def where(array: Any) -> str:
    """The file in which this process has the numbers mapped; "" where they are its own."""
    at = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            if begin <= at < end:
                return "" if len(line.split()) < 6 else line.split()[5]
    return ""


@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_large_data_is_mapped_by_all_workers_and_read_only(method: str, tmp_path: Path) -> None:
    np.arange(SIZE, dtype=float).tofile(tmp_path / "numbers.bin")
    shown: Any = np.memmap(tmp_path / "numbers.bin", float, "r", shape=(3, SIZE // 3))
    own, small = np.full(SIZE, 3.0), np.ones(4)

    def load(table: Any) -> None:
        vars(batchmill)["loaded"] = table

    def look(item: Any, *, table: Any, shown: Any, small: Any, where: Any = where) -> Any:
        small[0] = 7
        arrays = [own, table, vars(batchmill)["loaded"], item, shown]
        return [(where(array), bool(array.flags.writeable), float(array.sum())) for array in arrays]

    before = len(os.listdir("/proc/self/fd"))
    found = batchmill.map(
        look,
        (np.full(SIZE, float(n)) for n in range(3)),
        kwargs={"table": np.full(SIZE, 1.0), "shown": shown[1:], "small": small},
        init=load,
        init_kwargs={"table": np.full(SIZE, 2.0)},
        workers=1,
        start_method=method,
    )
    part = shown[1:].sum()
    for number, arrays in enumerate(found):
        assert [(writeable, total) for _, writeable, total in arrays] == [
            (False, total) for total in (3.0 * SIZE, SIZE, 2.0 * SIZE, number * SIZE, part)
        ]
        assert [name.partition(":")[2] for name, *_ in arrays[:4]] == ["batchmill"] * 4
        assert arrays[4][0] == str(tmp_path / "numbers.bin")
    assert len(os.listdir("/proc/self/fd")) <= before  # what earlier tests left may have been closed meanwhile
    assert MappedItem._there == 0


def test_items_are_sent_whole_where_there_is_no_room_for_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mapped_pickle, "MOST_ITEMS", 0)
    items = [np.full(SIZE, 2.0), bytes(8 << 20)]
    assert batchmill.map(np.size, items[:1], workers=1) == [SIZE]
    assert batchmill.run(len, items, checkpoint=tmp_path / "c.ckpt", workers=1).completed == 2


def test_a_large_item_is_resumed_by_its_content(tmp_path: Path) -> None:
    for skipped in (0, 2):
        items = (np.full(SIZE, float(n)) for n in range(2))
        report = batchmill.run(np.size, items, checkpoint=tmp_path / "c.ckpt", resume=True, workers=1)
        assert (report.completed, report.skipped) == (2 - skipped, skipped)


def test_what_a_pickle_hands_on_is_whole_without_a_file() -> None:
    array = np.arange(SIZE)
    for protocol in (2, 5):
        again = pickle.loads(pickle.dumps(Pickled.of({"a": array, "n": 1}), protocol)).loads()
        assert (again["a"] == array).all()
    changed = np.arange(SIZE)[::2]
    assert (Pickled.of(changed).loads() == changed).all()
