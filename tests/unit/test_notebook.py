"""A notebook in a real kernel: functions, closures and classes of its cells, a cell run twice, an edited function, an
interrupt, progress that is updated."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tree_kit import ROOT

nbformat: Any = pytest.importorskip("nbformat")
nbclient: Any = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("pandas")


def shown(cell: Any) -> list[str]:
    """The texts that a cell displays, the progress lines among them."""
    return [output.data["text/plain"] for output in cell.outputs if "data" in output]


def test_the_notebook_runs_and_says_what_an_interrupt_kept(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "bench" / "notebook.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    with pytest.raises(nbclient.exceptions.CellExecutionError) as caught:
        client.execute()
    squares, classes, table, edited, endless = notebook.cells
    assert shown(squares)[0].startswith("30/30 100.0% | 0 failed")
    assert shown(classes)[-1] == "[4, 7]"
    assert shown(table)[-1] == "2470"
    assert re.match(r"<Report of __main__:slow: 21/21 ok, 0 failed, .* s, .*squares\.ckpt>$", shown(edited)[-1])
    assert "KeyboardInterrupt" in str(caught.value)
    trace = "\n".join(endless.outputs[-1].traceback)
    assert re.search(r"items are done, and kept in .*endless\.ckpt: resume=True continues", trace)
