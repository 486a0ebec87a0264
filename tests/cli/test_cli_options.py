"""From the command line's texts to values: --set, Settings, manners that exclude each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_kit import batchmill

from batchmill.errors import InvalidUsage
from batchmill_cli.options.click_options import parse_set


def options(**changes: Any) -> dict[str, Any]:
    names = ("checkpoint", "output", "resume", "fresh", "no_checkpoint", "json", "quiet")
    return {**dict.fromkeys(names), "progress": "auto", "progress_interval": None, **changes}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ('"3"', "3"),
        ("three", "three"),
        ("[1, 2]", [1, 2]),
        ("", ""),
        ("a=b", "a=b"),
        ("null", None),
        ("NaN", "NaN"),
        ("007", "007"),
        ("[" * 100000, "[" * 100000),
    ],
)
def test_a_value_is_json_where_it_parses_else_the_text(text: str, value: Any) -> None:
    assert parse_set([f"key={text}"]) == {"key": value}


@pytest.mark.parametrize("pairs", [["key"], ["key=1", "key=2"]])
def test_a_set_without_value_or_given_twice_is_refused(pairs: list[str]) -> None:
    with pytest.raises(InvalidUsage):
        parse_set(pairs)


def test_options_become_settings_and_what_was_not_given_keeps_its_default() -> None:
    from batchmill.settings import Settings
    from batchmill_cli.options.batch import settings_of

    settings = settings_of(options(window=3, workers="50%", no_retry_failed=True, set=("a=1",), shard="2/8"))
    assert (settings.window, settings.workers, settings.shard) == (3, "50%", (2, 8))
    assert settings.retry_failed is False
    assert dict(settings.set) == {"a": 1}
    assert settings.grace == Settings.grace


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--json", "-o", "-"], "--json and -o - both want stdout"),
        (["--no-checkpoint", "--resume"], "--no-checkpoint and --resume exclude each other"),
        (["--no-checkpoint", "-c", "x"], "--no-checkpoint and --checkpoint exclude each other"),
        (["--fresh", "--resume"], "--fresh and --resume exclude each other"),
        (["-q", "-v"], "-q and -v exclude each other"),
        (["--fresh-if-finished"], "--fresh-if-finished needs --resume"),
        (["-j", "0"], "--workers 0 is out of range"),
        (["--window", "0"], "--window 0 is out of range"),
        (["--window", "many"], "--window 'many' is out of range"),
        (["--limit", "-3"], "--limit -3 is out of range"),
        (["--keep", "x"], "--keep 'x' is out of range"),
        (["--chunk-size", "0"], "--chunk-size 0 is out of range"),
        (["--shard", "3/2"], "shard '3/2' is not I/N"),
        (["--grace", "soon"], "'soon' is not a duration"),
        (["--wait=soon"], "--wait 'soon' is not a duration"),
        (["--no-checkpoint", "--wait"], "--no-checkpoint and --wait exclude each other"),
        (["--time-limit", "0"], "--time-limit '0' is out of range"),
        (["--progress-interval", "soon"], "'soon' is not a duration"),
        (["--set", "x"], "--set 'x' has no value"),
        (["--set", "1x=2"], "--set '1x' is not a parameter name"),
        (["--format", "josnl"], "--format 'josnl' is unknown; did you mean 'jsonl'?"),
        (["--output-format", "msgpak"], "--output-format 'msgpak' is unknown; did you mean 'msgpack'?"),
        (["--progress", "lin"], "--progress 'lin' is unknown; did you mean 'line'?"),
        (["--start-method", "forkserve"], "did you mean 'forkserver'?"),
        (["--reusme"], "--resume"),
        (["-c"], "requires an argument"),
    ],
)
def test_a_wrong_option_is_one_clear_line_and_exit_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text("1\n")
    (tmp_path / "f.py").write_text("def f(item): return item\n")
    ended = batchmill("run", "f.py:f", "items.jsonl", *arguments, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert ended.stderr.startswith("batchmill: ")
    assert len(ended.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_wrong_value_from_the_environment_names_the_variable(tmp_path: Path) -> None:
    ended = batchmill("run", "f.py:f", "x.jsonl", cwd=tmp_path, env={"BATCHMILL_RUN_WORKERS": "none"})
    assert ended.returncode == 2
    assert "(from BATCHMILL_RUN_WORKERS)" in ended.stderr


def test_resume_and_fresh_cannot_come_from_the_environment(tmp_path: Path) -> None:
    env = {"BATCHMILL_RUN_RESUME": "1", "BATCHMILL_RUN_FRESH": "1", "BATCHMILL_RUN_SET": "nonsense"}
    ended = batchmill("run", "f.py:f", "x.jsonl", cwd=tmp_path, env=env)
    assert "exclude" not in ended.stderr
    assert "--set" not in ended.stderr


@pytest.mark.parametrize(
    ("words", "wait", "inputs"),
    [
        (["--wait", "items.jsonl"], "forever", ("items.jsonl",)),
        (["--wait", "5m", "items.jsonl"], "5m", ("items.jsonl",)),
        (["--wait=5m", "items.jsonl"], "5m", ("items.jsonl",)),
        (["items.jsonl", "--wait"], "forever", ("items.jsonl",)),
        (["--wait", "--resume", "items.jsonl"], "forever", ("items.jsonl",)),
        (["--wait", "forever", "items.jsonl"], "forever", ("items.jsonl",)),
        (["--wait", "--", "5m"], "forever", ("5m",)),
        (["--", "items.jsonl", "--wait", "5m"], None, ("items.jsonl", "--wait", "5m")),
    ],
)
def test_wait_takes_the_next_word_only_if_it_is_a_duration(
    words: list[str], wait: str | None, inputs: tuple[str, ...]
) -> None:
    from batchmill_cli.commands.run import command

    params = command.make_context("run", ["f.py:f", *words]).params
    assert (params["wait"], params["inputs"]) == (wait, inputs)
