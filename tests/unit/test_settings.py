"""Facts about settings: what is accepted, what it becomes, and what a refusal says."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pickle
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchmill
from batchmill.errors import InvalidUsage
from batchmill.settings import Settings, parse_duration, parse_shard, parse_size
from batchmill.settings_fields import SettingsFields
from batchmill.text import nearest


def refusal(**values: Any) -> str:
    with pytest.raises(InvalidUsage) as caught:
        Settings.of(values)
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (0, 0),
        (2.5, 2.5),
        ("10", 10),
        (".5", 0.5),
        ("250ms", 0.25),
        ("30s", 30),
        ("1h30m", 5400),
        ("1H 30M", 5400),
        ("1.5d", 129600),
        ("1m1m", 120),
    ],
)
def test_durations_are_read(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "s", "-1", "-1s", "1x", "1h30", "1.2.3", "nan", "inf", "1e9", "1_0", "1,5", "9" * 400, "9" * 400 + "s"),
        *(math.nan, math.inf, -1, True, 10**400, None, [1]),
    ],
)
def test_what_is_no_duration_is_refused(text: Any) -> None:
    with pytest.raises(InvalidUsage, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        ("500000", 500000),
        ("512M", 512 * 2**20),
        ("1.5G", 3 * 2**29),
        ("1k", 1024),
        ("2 TiB", 2**41),
        ("7B", 7),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_sizes_are_powers_of_1024(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", -1, True, "1X", "K", "5iB", "1e3", "9" * 400, "1.2.3", None, math.inf])
def test_what_is_no_size_is_refused(text: Any) -> None:
    with pytest.raises(InvalidUsage, match="is not a size"):
        parse_size(text)


def test_shards_are_a_number_of_a_count() -> None:
    assert parse_shard("1/8") == parse_shard((1, 8)) == parse_shard([1, 8]) == (1, 8)


@pytest.mark.parametrize(
    "text", ["", "0/8", "9/8", "1", "1/65536", "a/b", "-1/2", (1,), (1, 2, 3), ("1", "8"), 5, (True, 2)]
)
def test_what_is_no_shard_is_refused(text: Any) -> None:
    with pytest.raises(InvalidUsage, match="is not I/N"):
        parse_shard(text)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())))
def test_nothing_but_a_refusal_is_raised(value: Any) -> None:
    for parse in (parse_duration, parse_size, parse_shard):
        with contextlib.suppress(InvalidUsage):
            parse(value)


def test_the_defaults_are_valid_and_plain() -> None:
    plain = Settings().as_dict()
    assert Settings.of(plain) == Settings()
    assert {type(value) for value in plain.values()} <= {str, int, float, bool, list, dict, type(None)}


def test_a_round_trip_through_plain_values_or_pickle_changes_nothing() -> None:
    settings = Settings(set={"a": [1]}, shard=(2, 3), preload=("numpy",), workers="50%", limit=5, grace="1m")
    assert Settings.of(settings.as_dict()) == settings == pickle.loads(pickle.dumps(settings))
    assert settings.shard == (2, 3)
    assert dataclasses.replace(settings, keep=3).set == {"a": [1]}


def test_texts_become_numbers() -> None:
    values = {"window": "3", "keep": "4", "limit": "5", "workers": "6", "chunk_size": "7", "grace": "1h30m"}
    settings = Settings.of({**values, "shard": "1/2", "preload": "numpy"})
    assert [settings.window, settings.keep, settings.limit, settings.workers, settings.chunk_size] == [3, 4, 5, 6, 7]
    assert (settings.grace, settings.shard, settings.preload) == (5400, (1, 2), ("numpy",))


def test_settings_cannot_be_changed_from_outside() -> None:
    given = {"a": 1}
    settings = Settings(set=given)
    given["a"] = 2
    assert settings.set == {"a": 1}
    with pytest.raises(TypeError):
        settings.set["a"] = 3  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.window = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"window": 0}, "window=0 is out of range; give a whole number, 1 to 64"),
        ({"window": 2.0}, "window=2.0 is out of range"),
        ({"keep": True}, "keep=True is out of range"),
        ({"limit": "0"}, "limit=0 is out of range"),
        ({"limit": "9" * 5000}, "is out of range"),
        ({"chunk_size": "many"}, "chunk_size='many' is out of range; give 'auto' or a whole number"),
        ({"workers": "0%"}, "give 1% to 1000%"),
        ({"workers": "x%"}, "give 1% to 1000%"),
        ({"workers": 0}, "give 'auto', 1 to 4096, or a share of the usable cores such as 50%"),
        ({"format": "json"}, "format='json' is unknown; did you mean 'jsonl'?"),
        ({"output_format": 7}, "output_format=7 is unknown; known: "),
        ({"start_method": "forks"}, "did you mean 'fork'?"),
        ({"grace": "soon"}, "grace='soon' is not a duration"),
        ({"start_timeout": 0}, "start_timeout=0 is out of range"),
        ({"progress_interval": "0s"}, "progress_interval='0s' is out of range"),
        ({"resume": "false"}, "resume='false' is neither true nor false"),
        ({"resume": 1}, "resume=1 is neither true nor false"),
        ({"id_field": ""}, "id='' is not a name"),
        ({"init": 7}, "init=7 is not a name"),
        ({"preload": ("numpy", 3)}, "preload=3 is not a name"),
        ({"set": [("a", 1)]}, "is not a mapping"),
        ({"set": {"a b": 1}}, "kwargs 'a b' is not a parameter name"),
        ({"fresh": True, "resume": True}, "fresh and resume exclude each other"),
        ({"fresh_if_finished": True}, "fresh_if_finished needs resume=True"),
        ({"max_failures": None}, "max_failures=None is no value; give 'none', or leave it out: it is 'auto' then"),
        ({"grace": None}, "grace=None is no value; leave it out"),
        ({"timeout": "30 sec"}, "timeout='30 sec' is not a duration; write 30, 30s"),
        ({"preload": 5}, "preload=5 is no list of names"),
        ({"worker": 3}, "unknown setting 'worker'; did you mean 'workers'?"),
    ],
)
def test_a_refusal_names_the_option_and_what_would_do(values: dict[str, Any], words: str) -> None:
    assert words in refusal(**values)


def test_every_edge_of_a_range_is_inside() -> None:
    for values in (
        {"window": 1},
        {"window": 64},
        {"workers": 4096},
        {"workers": "1000%"},
        {"keep": 1000},
        {"grace": 0},
    ):
        Settings.of(values)
    for values in ({"window": 65}, {"workers": 4097}, {"workers": "1001%"}, {"keep": 1001}, {"chunk_size": 0}):
        refusal(**values)


def test_the_nearest_name_or_all_of_them() -> None:
    assert nearest("formt", ["format", "limit"]) == "did you mean 'format'?"
    assert nearest("zzz", ["format", "limit"]) == "known: format, limit"


def test_start_up_does_not_pay_for_suggestions() -> None:
    code = "import sys, batchmill.settings; print('difflib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_the_keywords_of_the_python_api_are_the_fields_of_settings() -> None:
    own = {"resume", "init", "end", "cluster"}  # parameters of `run` themselves
    assert set(SettingsFields.__annotations__) == {field.name for field in dataclasses.fields(Settings)} - own


def test_a_keyword_that_is_none_is_named_by_the_type_checker_and_at_the_call() -> None:
    with pytest.raises(InvalidUsage, match="unknown setting 'workerz'"):
        batchmill.run(len, ["a"], workerz=3)  # type: ignore[call-arg]
    with pytest.raises(InvalidUsage, match="workers="):
        batchmill.run(len, ["a"], workers=[3])  # type: ignore[arg-type]
