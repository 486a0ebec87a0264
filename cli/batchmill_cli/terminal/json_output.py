"""Values of the engine as one line of JSON, for `--json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from batchmill.codec.json_form import Plain, sound


def as_json(value: Any) -> str:
    """Any value of ours as one line of strict JSON: what it cannot say is as in an output, other types are their
    text."""
    text = sound(json.dumps(Plain(_opened).of(value), allow_nan=False, ensure_ascii=False))
    return text if text.isascii() else _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)


_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def _opened(value: Any) -> Any:
    """One step from a value of ours towards what JSON says."""
    if is_dataclass(value):
        return fields_of(value)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, Enum):
        return value.value
    return dict(value) if isinstance(value, Mapping) else str(value)


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, by name."""
    return {field.name: getattr(value, field.name) for field in fields(value)}
