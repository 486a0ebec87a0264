"""The fields of Settings as keywords, for type checkers.

Durations are seconds or a text such as "30s", sizes bytes or a text such as "2G".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class SingleFields(TypedDict, total=False):
    """Those of a run that calls the function with one item at a time. `resume`, `init`, `end` and `cluster` are
    parameters of their own of `run`, `stream` and `map`."""

    format: str
    delimiter: str | None
    quote: str
    encoding: str | None
    skip_lines: int
    header: bool
    columns: Sequence[str] | str
    follow_links: bool
    id_field: str | None
    limit: int | None
    shard: tuple[int, int] | str | None
    with_item: bool
    workers: str | int
    chunk_size: str | int
    batch_format: str
    window: int
    set: Mapping[str, Any]
    set_env: Mapping[str, str]
    log_level: str | None
    preload: Sequence[str]
    start_method: str | None
    start_timeout: float | str
    worker_output: str
    cluster_file: str | None
    tls_ca_file: str | None
    tls_cert: str | None
    tls_key: str | None
    fresh: bool
    fresh_if_finished: bool
    keep: int
    retry_failed: bool
    rerun_changed: bool
    rerun_older: bool
    accept_changes: bool
    checkpoint_interval: float | str
    wait: float | str | None
    timeout: float | str | None
    retries: int
    retry_delay: float | str
    crash_retries: int
    max_failures: str | int
    now: bool
    allow_failures: str | int
    grace: float | str
    time_limit: float | str | None
    worker_memory: int | str | None
    min_free_memory: int | str | None
    max_items_per_worker: int | None
    output_format: str
    output_columns: Sequence[str] | str
    formula_guard: bool
    bom: bool
    progress_interval: float | str


class SettingsFields(SingleFields, total=False):
    """Those of any run."""

    batch_size: str | int | None


class EverySetting(SettingsFields, total=False):
    """All of them."""

    resume: bool
    init: str | None
    end: str | None
    cluster: str | None
