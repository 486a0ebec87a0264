"""Owns what can be set: one frozen, validated Settings. Never reads the environment, the disk or a command line.

Fields are the command line's options with underscores. Durations are seconds, sizes are bytes; the texts "1h30m" and
"2G" are accepted wherever such a number is.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from batchmill.errors import InvalidUsage

FORMATS = ("auto", "jsonl", "lines", "files")
OUTPUT_FORMATS = ("jsonl", "msgpack")
START_METHODS = ("forkserver", "spawn", "fork")
WORKER_OUTPUTS = ("stderr", "none")  # or a file's name

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ms|s|m|h|d)")
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?)i?B?", re.IGNORECASE)


def parse_duration(text: str | float) -> float:
    """Seconds from a number or a text such as `1h30m`, `250ms`, `10`; raises InvalidUsage."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        seconds = float(text)
    else:
        compact = str(text).replace(" ", "").lower()
        try:
            seconds = float(compact)
        except ValueError:
            parts = _DURATION.findall(compact)
            if not parts or "".join(parts) != compact:
                raise InvalidUsage(f"{text!r} is not a duration", "write 30, 30s, 250ms or 1h30m") from None
            seconds = sum(_seconds_of(part) for part in parts)
    if not (0 <= seconds < math.inf):
        raise InvalidUsage(f"{text!r} is not a duration", "it must be 0 or more, and finite")
    return seconds


def _seconds_of(part: str) -> float:
    number = part.rstrip("msdh")
    return float(number) * _UNITS[part[len(number) :]]


def parse_size(text: str | int) -> int:
    """Bytes from a number or a text such as `512M` or `1.5G` (powers of 1024); raises InvalidUsage."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    match = _SIZE.fullmatch(str(text).strip())
    if not match:
        raise InvalidUsage(f"{text!r} is not a size", "write 500000, 512M or 1.5G")
    return int(float(match[1]) * 1024 ** (" KMGT".index(match[2].upper() or " ")))


def parse_shard(text: str | tuple[int, int]) -> tuple[int, int]:
    """(I, N) from `I/N` with 1 <= I <= N; raises InvalidUsage."""
    match = re.fullmatch(r"(\d+)/(\d+)", text) if isinstance(text, str) else None
    shard = (int(match[1]), int(match[2])) if match else text
    if isinstance(shard, str) or len(shard) != 2 or not 1 <= shard[0] <= shard[1] <= 65535:
        raise InvalidUsage(f"shard {text!r} is not I/N", "write 1/8 to 8/8 for eight shards")
    return shard


@dataclass(frozen=True)
class Settings:
    """Every option of a run, validated. Raises InvalidUsage, naming the valid range, when one is out of it."""

    # input
    format: str = "auto"
    id_field: str | None = None
    limit: int | None = None
    shard: tuple[int, int] | None = None
    with_item: bool = False
    # workers
    workers: str | int = "auto"
    chunk_size: str | int = "auto"
    window: int = 2
    set: Mapping[str, Any] = field(default_factory=dict)
    init: str | None = None
    preload: tuple[str, ...] = ()
    start_method: str | None = None
    start_timeout: float = 300.0
    worker_output: str = "stderr"
    # checkpoint
    resume: bool = False
    fresh: bool = False
    fresh_if_finished: bool = False
    keep: int = 1
    retry_failed: bool = True
    rerun_changed: bool = False
    accept_changes: bool = False
    checkpoint_interval: float = 1.0
    # limits
    grace: float = 10.0
    # output
    output_format: str = "jsonl"
    # reporting
    progress_interval: float = 1.0

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name in ("start_timeout", "checkpoint_interval", "grace", "progress_interval"):
            put(name, parse_duration(getattr(self, name)))
        if self.shard is not None:
            put("shard", parse_shard(self.shard))
        put("preload", (self.preload,) if isinstance(self.preload, str) else tuple(self.preload))
        put("set", MappingProxyType(dict(self.set)))
        put("workers", _workers(self.workers))
        put("chunk_size", _whole("chunk_size", self.chunk_size, 1, 10**9, also="auto"))
        _whole("window", self.window, 1, 64)
        _whole("keep", self.keep, 1, 1000)
        if self.limit is not None:
            _whole("limit", self.limit, 1, 2**53)
        _choice("format", self.format, FORMATS)
        _choice("output_format", self.output_format, OUTPUT_FORMATS)
        if self.start_method is not None:
            _choice("start_method", self.start_method, START_METHODS)
        self._check_together()

    def _check_together(self) -> None:
        if self.fresh and self.resume:
            raise InvalidUsage("--fresh and --resume exclude each other", "leave one of them out")
        if self.fresh_if_finished and not self.resume:
            raise InvalidUsage("--fresh-if-finished needs --resume", "give both, or --fresh alone")
        for name in self.set:
            if not isinstance(name, str) or not name.isidentifier():
                raise InvalidUsage(f"--set {name!r} is not a parameter name", "write --set KEY=VALUE")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from a mapping of field names; an unknown name is refused with the nearest one."""
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise InvalidUsage(f"unknown setting {name!r}", nearest(name, known))
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, ready for msgpack or JSON."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy naming the known name closest to `name`, or all of them when none is close."""
    names = list(known)
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(names)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidUsage(f"{_option(name)} {value!r} is unknown", nearest(str(value), choices))


def _whole(name: str, value: Any, low: int, high: int, also: str | None = None) -> Any:
    if also is not None and value == also:
        return value
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        words = f"{also!r} or " if also else ""
        raise InvalidUsage(f"{_option(name)} {value!r} is out of range", f"give {words}a whole number, {low} to {high}")
    return value


def _workers(value: Any) -> str | int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", value) if isinstance(value, str) else None
    if match and 0 < float(match[1]) <= 1000:
        return str(value)
    if isinstance(value, str) and value.endswith("%"):
        raise InvalidUsage(f"--workers {value!r} is out of range", "give 1% to 1000% of the usable cores")
    result: str | int = _whole("workers", value, 1, 4096, also="auto")
    return result


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
