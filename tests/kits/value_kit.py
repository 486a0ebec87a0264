"""What tests share about values. Tests nothing."""

from __future__ import annotations

import datetime as dt
import pathlib
from typing import Any

from hypothesis import strategies as st

SURROGATES = st.text(st.characters(exclude_categories=()))  # lone ones among them
OFFSETS = st.integers(-86_399, 86_399).map(lambda seconds: dt.timezone(dt.timedelta(seconds=seconds)))
ZONES = st.one_of(st.none(), OFFSETS, st.just(dt.UTC))
HASHABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**200), 2**200),
    st.floats(allow_nan=False),
    SURROGATES,
    st.binary(),
    st.complex_numbers(allow_nan=False),
    st.datetimes(timezones=ZONES),
    st.builds(lambda moment, fold: moment.replace(fold=fold), st.datetimes(), st.sampled_from((0, 1))),
    st.dates(),
    st.times(timezones=ZONES),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.fractions(),
    st.uuids(),
    SURROGATES.map(pathlib.Path),
    SURROGATES.map(pathlib.PureWindowsPath),
    SURROGATES.map(pathlib.PurePosixPath),
)
KEYS = st.recursive(
    HASHABLE, lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)), max_leaves=4
)
VALUES = st.recursive(
    st.one_of(KEYS, st.sets(KEYS, max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=3), st.tuples(inner, inner)
    ),
    max_leaves=8,
)


def nested(kind: Any, depth: int) -> Any:
    value: Any = kind(())
    for _ in range(depth - 1):
        value = kind((value,))
    return value


def nested_map(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"k": value}
    return value
