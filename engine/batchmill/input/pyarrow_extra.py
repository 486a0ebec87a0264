"""Whether there is a pyarrow, for all that is about Parquet."""

from __future__ import annotations

from batchmill.errors import InvalidUsage


def need_pyarrow(what: str) -> None:
    """Raise InvalidUsage where it is not installed, for `what`; it is not imported."""
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        raise InvalidUsage(f"{what}: Parquet needs pyarrow, which is not installed", "pip install 'batchmill[parquet]'")
