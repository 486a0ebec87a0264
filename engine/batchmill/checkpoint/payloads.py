"""What the frames' payloads must hold: a schema for each type, and the one way to read them.

A right checksum only says that bytes are what somebody wrote. Everything that is read of a checkpoint goes through
here, or through `outcomes.OutcomeBlock` for the columns of outcomes, so that nobody behind it meets a text for a
number, a negative count or a date that no calendar has. What refers to other frames is checked where these are known
(`index`). Fields that are not in a schema are left as they are: a later version may write them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from batchmill.checkpoint.frames import FrameType
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import MAX_GENERATION, MAX_POSITION, unpack_map
from batchmill.errors import CheckpointDamaged

Check = Callable[[Any], bool]

_MANY = 2**53  # of whatever is counted: JSON has no larger ones
_FAR = 1e11  # seconds since the epoch: the year 5138, which calendars still know


def _whole(low: int = 0, high: int = _MANY) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _number(low: float, high: float) -> Check:
    return lambda value: type(value) in (int, float) and low <= value <= high  # which a not-a-number is not


def _measured(value: Any) -> bool:
    """What some clock or counter told, however odd."""
    return type(value) is float or _whole(-_MANY)(value)


def _text(value: Any) -> bool:
    return type(value) is str


def _truth(value: Any) -> bool:
    return type(value) is bool


def _digest(value: Any) -> bool:
    return type(value) is bytes and len(value) <= 64


def _anything(value: Any) -> bool:
    return True


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _any_of(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def _list_of(check: Check) -> Check:
    return lambda value: type(value) is list and all(map(check, value))


def _row(*checks: Check) -> Check:
    return lambda value: (
        type(value) is list and len(value) == len(checks) and all(check(cell) for check, cell in zip(checks, value))
    )


def _map_of(check: Check) -> Check:
    return lambda value: type(value) is dict and all(_text(key) and check(item) for key, item in value.items())


class _Fields:
    """A map with text keys: the fields that must be there, and those that may be."""

    def __init__(self, required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> None:
        self._required = required
        self._known = {**(optional or {}), **required}

    def wrong(self, values: Mapping[str, Any]) -> str:
        """The name of a field that is missing or not what it should be; "" where all is well."""
        for name in self._required:
            if name not in values:
                return name
        return next((name for name, check in self._known.items() if name in values and not check(values[name])), "")

    def __call__(self, value: Any) -> bool:
        return type(value) is dict and all(map(_text, value)) and not self.wrong(value)


_COUNT, _EPOCH, _SECONDS = _whole(), _number(-_FAR, _FAR), _number(0, _FAR)
_RUN = _whole(1, MAX_GENERATION)
_GENERATION, _POSITION, _SEQ = _whole(0, MAX_GENERATION), _whole(0, MAX_POSITION), _whole(0, 2**64 - 1)
_SCALAR = _any_of(_text, _truth, _whole(-_MANY), _number(-1e300, 1e300))

_SETTINGS = {
    "set": _map_of(_anything),
    "set_env": _map_of(_text),
    "preload": _list_of(_text),
    "shard": _or_none(_row(_COUNT, _COUNT)),
}


def _settings(value: Any) -> bool:
    """Of an option that is not known here, no more than that it can be said on a command line."""
    return type(value) is dict and all(
        _text(name) and _SETTINGS.get(name, _or_none(_any_of(_SCALAR, _list_of(_SCALAR))))(item)
        for name, item in value.items()
    )


_EXAMPLE = _any_of(_row(_anything, _COUNT, _text, _text), _row(_anything, _COUNT, _text))  # before files were named
_REPORT = _Fields(
    {
        **dict.fromkeys(("started", "ended"), _EPOCH),
        **dict.fromkeys(("seconds", "cpu_seconds"), _SECONDS),
        **dict.fromkeys(("total", "remaining"), _or_none(_COUNT)),
        **dict.fromkeys(("completed", "skipped", "failed", "changed", "repeated", "blank"), _COUNT),
        **dict.fromkeys(("older_source", "peak_rss", "workers"), _COUNT),
        **dict.fromkeys(("stopped", "function"), _text),
        "exit_code": _whole(0, 255),
        "checkpoint": _or_none(_text),
        "failures": _list_of(_row(_text, _COUNT, _list_of(_EXAMPLE))),
        "warnings": _list_of(_text),
    },
    {
        "settings": _settings,
        "notes": _list_of(_text),
        **dict.fromkeys(("removed", "split_calls", "batch_size"), _COUNT),
    },
)
_COMMAND = _Fields(
    {"words": _list_of(_text), "shell": _truth, "stdin": _truth, "ok_exit": _list_of(_whole(0, 255))},
)
_SCHEMAS = {
    FrameType.META: _Fields(
        {},
        {
            **dict.fromkeys(("function", "command"), _or_none(_text)),
            **dict.fromkeys(("format", "id_rule", "engine", "host"), _text),
            **dict.fromkeys(("default_name", "lost"), _truth),
            "set": _map_of(_anything),
            "secrets": _map_of(_digest),
            "input": _list_of(_text),
            "created": _EPOCH,
        },
    ),
    FrameType.RUN: _Fields(
        {"run": _RUN},
        {
            **dict.fromkeys(("host", "function", "directory", "output", "source", "cluster", "error"), _text),
            "pid": _whole(0, 2**31 - 1),
            "workers": _COUNT,
            **dict.fromkeys(("machine", "versions"), _map_of(_SCALAR)),
            "started": _EPOCH,
            "generation": _GENERATION,
            "settings": _settings,
            **dict.fromkeys(("input", "files"), _list_of(_text)),
            "path": _or_none(_text),
            "command": _COMMAND,
            "places": _map_of(_text),
            "removed": _list_of(_row(_SEQ, _COUNT, _whole(1), _COUNT)),
        },
    ),
    FrameType.SAMPLE: _Fields(
        {"time": _measured},
        {
            **dict.fromkeys(("workers", "done", "failed", "more_ends", "machines"), _COUNT),
            **dict.fromkeys(("elapsed", "cpu_percent", "load", "rss", "parent_rss"), _measured),
            "total": _or_none(_COUNT),
            "estimate": _COUNT,
            "ends": _list_of(_row(_EPOCH, _COUNT, _COUNT, _or_none(_whole(-_MANY)), _text)),
        },
    ),
    FrameType.STRIKE: _Fields({}),
    FrameType.END: _Fields({"run": _RUN, "report": _REPORT}),
    FrameType.ORDER: _Fields(
        {
            "generation": _GENERATION,
            "blocks": _list_of(_row(_SEQ, _POSITION)),
            "items": _list_of(_row(_SEQ, _COUNT, _whole(1), _POSITION)),
        },
        {"from": _or_none(_POSITION)},
    ),
}


def read_map(type: int, payload: bytes | memoryview) -> dict[str, Any]:
    """The map in the payload of a frame of that FrameType (of all but OUTCOMES and GAP); raises CheckpointDamaged."""
    values, kind = unpack_map(payload), FrameType(type)
    wrong = _SCHEMAS[kind].wrong(values)
    if wrong:
        raise CheckpointDamaged(f"a frame of type {kind.name} has no {wrong!r} that could be one")
    return values


def check(type: int, payload: bytes | memoryview) -> None:
    """Read all that is in a payload, results too; raises CheckpointDamaged."""
    if type == FrameType.OUTCOMES:
        OutcomeBlock(payload).check()
    elif type != FrameType.GAP:
        read_map(type, payload)
    elif payload:
        raise CheckpointDamaged("a frame of type GAP is not empty")
