"""What can be set: one frozen, validated Settings.

Fields are the command line's options with underscores. Durations are seconds, sizes are bytes; the texts "1h30m" and
"2G" are accepted wherever such a number is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Unpack

from batchmill.errors import InvalidUsage
from batchmill.text import nearest, option, read_names, speaks_command_line

if TYPE_CHECKING:
    from batchmill.settings_fields import EverySetting

_MANY = 2**53
_DURATIONS = (
    "timeout",
    "retry_delay",
    "start_timeout",
    "checkpoint_interval",
    "grace",
    "time_limit",
    "progress_interval",
)
_POSITIVE = ("timeout", "start_timeout", "progress_interval", "time_limit")
# name: least, greatest, and the words (or a share, "%") that are as good as a number
_WHOLES: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "chunk_size": (1, 10**9, ("auto",)),
    "batch_size": (1, 10**6, ("auto",)),
    "window": (1, 64, ()),
    "keep": (1, 1000, ()),
    "skip_lines": (0, 10**9, ()),
    "limit": (1, _MANY, ()),
    "retries": (0, 1000, ()),
    "crash_retries": (0, 1000, ()),
    "max_failures": (1, _MANY, ("auto", "none", "%")),
    "allow_failures": (0, _MANY, ("%",)),
    "max_items_per_worker": (1, _MANY, ()),
}

FORMATS = ("auto", "jsonl", "csv", "tsv", "lines", "null", "parquet", "files")
NO_QUOTE = "none"  # in place of the character that keeps cells together
OUTPUT_FORMATS = ("auto", "jsonl", "csv", "tsv", "msgpack", "sqlite", "parquet", "raw")
BATCH_FORMATS = ("list", "pandas", "arrow")
START_METHODS = ("forkserver", "spawn", "fork")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
WORKER_OUTPUTS = ("stderr", "none")  # or a file's name

TLS = ("tls_ca_file", "tls_cert", "tls_key")  # of a cluster

FOREVER = "forever"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ms|s|m|h|d)")
_SHARE = re.compile(r"\d+(?:\.\d+)?%")
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(?:([KMGT])i?)?B?", re.IGNORECASE)


def parse_duration(text: str | float) -> float:
    """Seconds from a number or a text such as `1h30m`, `250ms`, `10`; raises InvalidUsage."""
    seconds = _seconds(text)
    if not (0 <= seconds < math.inf):
        raise InvalidUsage(f"{text!r} is not a duration", "it must be 0 or more, and finite")
    return seconds


def _seconds(text: str | float) -> float:
    try:
        if isinstance(text, (int, float)) and not isinstance(text, bool):
            return float(text)
        compact = str(text).replace(" ", "").lower()
        if re.fullmatch(r"-?[\d.]+", compact):
            return float(compact)
        parts = _DURATION.findall(compact)
        if parts and "".join(parts) == compact:
            return sum(_seconds_of(part) for part in parts)
    except (OverflowError, ValueError):  # 10**400, 1.2.3
        pass
    raise InvalidUsage(f"{text!r} is not a duration", "write 30, 30s, 250ms or 1h30m")


def _seconds_of(part: str) -> float:
    number = part.rstrip("msdh")
    return float(number) * _UNITS[part[len(number) :]]


def parse_size(text: str | int) -> int:
    """Bytes from a number or a text such as `512M` or `1.5G` (powers of 1024); raises InvalidUsage."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    match = None if isinstance(text, bool) else _SIZE.fullmatch(str(text).strip())
    if not match or len(match[1]) > 30:
        raise InvalidUsage(f"{text!r} is not a size", "write 500000, 512M or 1.5G")
    unit: int = 1024 ** " KMGT".index((match[2] or "").upper() or " ")
    return int(match[1]) * unit if match[1].isdecimal() else int(float(match[1]) * unit)


def parse_shard(text: str | Sequence[int]) -> tuple[int, int]:
    """(I, N) from `I/N`, or a pair of numbers, with 1 <= I <= N <= 65535; raises InvalidUsage."""
    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text) if isinstance(text, str) else None
    pair = [int(match[1]), int(match[2])] if match else text
    if (
        isinstance(pair, (tuple, list))
        and len(pair) == 2
        and all(type(number) is int for number in pair)
        and 1 <= pair[0] <= pair[1] <= 65535
    ):
        return pair[0], pair[1]
    raise InvalidUsage(f"shard {text!r} is not I/N", "write 1/8 to 8/8 for eight shards")


@dataclass(frozen=True)
class Settings:
    """Every option of a run, validated. Raises InvalidUsage, naming the valid range, when one is out of it."""

    # input
    format: str = "auto"
    delimiter: str | None = None
    quote: str = '"'
    encoding: str | None = None
    skip_lines: int = 0
    header: bool = True
    columns: tuple[str, ...] = ()
    follow_links: bool = False
    id_field: str | None = None
    limit: int | None = None
    shard: tuple[int, int] | None = None
    with_item: bool = False
    # workers
    workers: str | int = "auto"
    chunk_size: str | int = "auto"
    batch_size: str | int | None = None
    batch_format: str = "list"
    window: int = 2
    set: Mapping[str, Any] = field(default_factory=dict)
    set_env: Mapping[str, str] = field(default_factory=dict)
    init: str | None = None
    end: str | None = None
    log_level: str | None = None
    preload: tuple[str, ...] = ()
    start_method: str | None = None
    start_timeout: float = 300.0
    worker_output: str = "stderr"
    # cluster
    cluster: str | None = None
    cluster_file: str | None = None
    tls_ca_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    # checkpoint
    resume: bool = False
    fresh: bool = False
    fresh_if_finished: bool = False
    keep: int = 1
    retry_failed: bool = True
    rerun_changed: bool = False
    rerun_older: bool = False
    accept_changes: bool = False
    checkpoint_interval: float = 1.0
    wait: str | float | None = None
    # limits
    timeout: float | None = None
    retries: int = 0
    retry_delay: float = 1.0
    crash_retries: int = 1
    max_failures: str | int = "auto"
    now: bool = False
    allow_failures: str | int = 0
    grace: float = 10.0
    time_limit: float | None = None
    # machine
    worker_memory: int | None = None
    min_free_memory: int | None = None
    max_items_per_worker: int | None = None
    # output
    output_format: str = "auto"
    output_columns: tuple[str, ...] = ()
    formula_guard: bool = True
    bom: bool = False
    # reporting
    progress_interval: float = 1.0

    if TYPE_CHECKING:  # fields are what was made of these: seconds, bytes

        def __init__(self, **values: Unpack[EverySetting]) -> None: ...

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        self._check_given()
        for name in _DURATIONS:
            if getattr(self, name) is not None:
                put(name, _duration(name, getattr(self, name)))
        for name in ("worker_memory", "min_free_memory"):
            if getattr(self, name) is not None:
                put(name, _size(name, getattr(self, name)))
        for name, (low, high, also) in _WHOLES.items():
            if getattr(self, name) is not None:
                put(name, _whole(name, getattr(self, name), low, high, also))
        if self.shard is not None:
            put("shard", parse_shard(self.shard))
        put("preload", _modules("preload", self.preload))
        for name in ("set", "set_env"):
            if not isinstance(getattr(self, name), Mapping):
                raise InvalidUsage(f"{option(name)} is not a mapping", "give parameter names and their values")
            put(name, MappingProxyType(dict(getattr(self, name))))
        put("workers", _workers(self.workers))
        put("wait", _wait(self.wait))
        _choice("format", self.format, FORMATS)
        put("columns", _names("columns", self.columns))
        put("output_columns", _names("output_columns", self.output_columns))
        _choice("output_format", self.output_format, OUTPUT_FORMATS)
        self._check_choices()
        self._check_kinds()
        self._check_together()

    def _check_given(self) -> None:
        """None is for what has no value by itself."""
        for f in fields(self):
            if getattr(self, f.name) is None and f.default is not None:
                also = "give 'none', or " if "none" in _WHOLES.get(f.name, (0, 0, ()))[2] else ""
                otherwise = "" if f.default is MISSING else f": it is {f.default!r} then"
                raise InvalidUsage(f"{option(f.name, None)} is no value", f"{also}leave it out{otherwise}")

    def _check_choices(self) -> None:
        if isinstance(self.log_level, str):
            object.__setattr__(self, "log_level", self.log_level.lower())
        _choice("batch_format", self.batch_format, BATCH_FORMATS)
        for name, choices in (("start_method", START_METHODS), ("log_level", LOG_LEVELS)):
            if getattr(self, name) is not None:
                _choice(name, getattr(self, name), choices)

    def _check_kinds(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(f.default, bool) and not isinstance(value, bool):
                raise InvalidUsage(f"{option(f.name, repr(value))} is neither true nor false", "give True or False")
        cluster = ("cluster", "cluster_file", *TLS)
        lists = [name for name in ("preload", "columns", "output_columns") if getattr(self, name)]
        for name in ("delimiter", "quote", "encoding", "id_field", "init", "end", "worker_output", *cluster, *lists):
            value = getattr(self, name)
            for text in value if isinstance(value, tuple) else (value,):
                if text is not None and (not isinstance(text, str) or not text):
                    raise InvalidUsage(f"{option(name, repr(text))} is not a name", "give a text that is not empty")

    def _check_together(self) -> None:
        if self.fresh and self.resume:
            raise _excluding("fresh", "resume")
        if self.fresh_if_finished and not self.resume:
            said = f"{option('fresh_if_finished')} needs {option('resume', True)}"
            raise InvalidUsage(said, f"give both, or {option('fresh', True)} alone")
        if self.cluster and self.cluster_file:
            raise _excluding("cluster", "cluster_file")
        for name in TLS:
            if getattr(self, name) and not self.cluster_name:
                remedy = f"give {option('cluster')} or {option('cluster_file')} as well"
                raise InvalidUsage(f"{option(name)} is for a cluster", remedy)
        if self.batch_format != "list" and self.batch_size is None:
            given = option("batch_format", self.batch_format)
            raise InvalidUsage(f"{given} is for calls of many items", f"give {option('batch_size', 'auto')} as well")
        if self.columns and self.id_field is not None and self.id_field not in self.columns:
            given = option("id_field", repr(self.id_field))
            raise InvalidUsage(f"{given} is not among {option('columns')}", "add it there")
        self._check_arguments()

    def _check_arguments(self) -> None:
        for setting, names, form in (("set", self.set, "KEY=VALUE"), ("set_env", self.set_env, "KEY=VARIABLE")):
            for name in names:
                if not isinstance(name, str) or not name.isidentifier():
                    written = option(setting, form) if speaks_command_line() else "the name of a parameter"
                    raise InvalidUsage(f"{option(setting)} {name!r} is not a parameter name", f"write {written}")
        for name, variable in self.set_env.items():
            if not isinstance(variable, str) or not variable or "=" in variable or "\0" in variable:
                raise InvalidUsage(f"{option('set_env')} {name} names no variable", f"write {_set_env(name)}")
            if name in self.set:
                raise InvalidUsage(f"{option('set')} and {option('set_env')} both give {name}", "leave one of them out")

    @property
    def cluster_name(self) -> str:
        """The cluster for the workers to be on, as it was given; empty where they are to be here."""
        return self.cluster or self.cluster_file or ""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from a mapping of field names; an unknown name is refused with the nearest one."""
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise InvalidUsage(f"unknown setting {name!r}", nearest(name, known))
        return cls(**values)

    def __reduce__(self) -> tuple[Any, ...]:
        return Settings.of, (self.as_dict(),)  # a MappingProxyType has no pickle

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, ready for msgpack or JSON."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def _excluding(one: str, other: str) -> InvalidUsage:
    return InvalidUsage(f"{option(one)} and {option(other)} exclude each other", "leave one of them out")


def _set_env(name: str) -> str:
    return option("set_env", "KEY=VARIABLE" if speaks_command_line() else {name: "VARIABLE"})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _duration(name: str, value: Any) -> float:
    try:
        seconds = parse_duration(value)
    except InvalidUsage as error:
        raise InvalidUsage(f"{option(name, error.message)}", error.remedy) from None
    if seconds == 0 and name in _POSITIVE:
        raise InvalidUsage(f"{option(name, repr(value))} is out of range", "give more than 0 seconds")
    return seconds


def _names(name: str, value: Any) -> tuple[str, ...]:
    try:
        names = read_names(value) if isinstance(value, str) else tuple(value)
    except ValueError as error:
        raise InvalidUsage(f"{option(name, repr(value))}: {error}", 'write a,b,"c,d"') from None
    if len(set(names)) < len(names):
        raise InvalidUsage(f"{option(name)} has a name twice", "give each of them once")
    return names


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidUsage(f"{option(name, repr(value))} is unknown", nearest(str(value), choices))


def _whole(name: str, value: Any, low: int, high: int, also: tuple[str, ...] = ()) -> Any:
    if isinstance(value, str) and value in also and value != "%":
        return value
    if "%" in also and isinstance(value, str) and _SHARE.fullmatch(value) and float(value[:-1]) <= 100:
        return value
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        words = "".join(f"{'a share such as 5%' if word == '%' else repr(word)} or " for word in also)
        remedy = f"give {words}a whole number, {low} to {high}"
        raise InvalidUsage(f"{option(name, repr(value))} is out of range", remedy)
    return value


def _size(name: str, value: Any) -> int:
    try:
        return parse_size(value)
    except InvalidUsage as error:
        raise InvalidUsage(f"{option(name, error.message)}", error.remedy) from None


def _workers(value: Any) -> str | int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", value) if isinstance(value, str) else None
    if match and 0 < float(match[1]) <= 1000:
        return str(value)
    if isinstance(value, str) and value.endswith("%"):
        raise InvalidUsage(f"{option('workers', repr(value))} is out of range", "give 1% to 1000% of the usable cores")
    try:
        result: str | int = _whole("workers", value, 1, 4096, ("auto",))
    except InvalidUsage as error:
        raise InvalidUsage(
            error.message, "give 'auto', 1 to 4096, or a share of the usable cores such as 50%"
        ) from None
    return result


def _modules(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (tuple, list)):
        raise InvalidUsage(f"{option(name, repr(value))} is no list of names", "give a text, or a list of texts")
    return tuple(value)


def _wait(value: Any) -> str | float | None:
    """Seconds, or the word for as long as it takes; None and False mean not at all."""
    if value is None or value is False:
        return None
    return FOREVER if value is True or value == FOREVER else _duration("wait", value)
