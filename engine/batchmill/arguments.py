"""The keyword arguments of `map` and `stream`, for type checkers: with them the overloads are a line each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

from batchmill.model import Snapshot
from batchmill.settings import Settings
from batchmill.settings_fields import SingleFields


class MapArguments(SingleFields, total=False):
    """Those of `map`, but for `batch_size`."""

    kwargs: Mapping[str, Any] | None
    init: Callable[..., Any] | str | None
    init_kwargs: Mapping[str, Any] | None
    end: Callable[[], Any] | str | None
    progress: bool | Literal["auto"]
    on_progress: Callable[[Snapshot], None] | None
    on_message: Callable[[str], None] | None
    cluster: Any
    settings: Settings | None


class StreamArguments(MapArguments, total=False):
    """Those of `stream`, but for `batch_size`."""

    checkpoint: str | os.PathLike[str] | None
    resume: bool
    id: str | Callable[[Any], Any] | None
    name: str | None
