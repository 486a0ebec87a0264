"""How this program is called: its name, and a run again, as commands to copy."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from batchmill.secrecy import is_masked, mask_addresses, mask_arguments, mask_script, mask_words, variable_of
from batchmill.settings import Settings
from batchmill.text import option_name, write_names
from batchmill_cli.options.click_options import parse_set
from batchmill_cli.terminal.json_output import as_json
from batchmill_cli.terminal.quoting import join, quote

LONGEST_COMMAND = 4000  # characters of a command to copy
_BEFORE_VALUE = ("--set", "--shell")

# Settings of a run that the one continuing it does not inherit.
_OF_ONE_RUN = {"resume", "fresh", "fresh_if_finished", "keep", "limit", "accept_changes", "progress_interval"}


def program_name(*, absolute: bool) -> str:
    """What to type to call this very program again; a path where its name alone would not find it.

    With `absolute`, such a path is absolute: the reader of a mail is in another directory.
    """
    if os.path.basename(sys.argv[0]) == "__main__.py":
        return f"{_callable_as(sys.executable, _as_typed(), absolute)} -m batchmill"
    return _callable_as(sys.argv[0], sys.argv[0], absolute)


def _as_typed() -> str:
    """How the interpreter was called."""
    return (
        sys.orig_argv[0] if sys.orig_argv and os.path.basename(sys.orig_argv[0]) != sys.orig_argv[0] else sys.executable
    )


def _callable_as(path: str, typed: str, absolute: bool) -> str:
    """The shortest that calls `path`: its name where PATH leads to it, else the path as it was `typed`, or absolute."""
    name = os.path.basename(path)
    found = shutil.which(name)
    if found is not None and os.path.exists(path) and os.path.abspath(found) == os.path.abspath(path):
        return quote(name)
    if not os.path.exists(path):  # called by something that says nothing of where it is
        return quote(name)
    return quote(os.path.abspath(path) if absolute else typed)


def run_again(run: Mapping[str, Any], checkpoint: str, *, absolute: bool) -> str:
    """The command that continues a run, from what the checkpoint says of it; "" for a run that had no INPUT.

    It begins with the directory to go to, if the run was in another one.
    """
    inputs, directory = run.get("input") or [], run.get("directory") or os.getcwd()
    if not inputs:
        return ""
    is_elsewhere = absolute or directory != os.getcwd()
    output = ["-o", str(run["output"])] if "output" in run else []
    kept = os.path.abspath(checkpoint) if is_elsewhere else checkpoint
    options = [*_options(run.get("settings", {})), "-c", kept, *output]
    words = [*as_arguments(inputs), *options, "--resume"]
    command = _command(run["command"], words) if "command" in run else ["run", _function(run, directory), *words]
    line = f"{program_name(absolute=is_elsewhere)} {join(command)}"
    if len(line) > LONGEST_COMMAND:
        return f"the same command with --resume{f' in {directory}' if is_elsewhere else ''}"
    return f"cd {quote(directory)} && {line}" if is_elsewhere else line


def retold(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line as anybody may read them: each secret of --set comes from the environment."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words, at = [], 0
    while at < end:
        option, equals, value = arguments[at].partition("=")
        if option in _BEFORE_VALUE and not equals and at + 1 < end:
            at += 1
            value = arguments[at]
        if option == "--set" and "=" in value:
            words += _without_secret(value)
        elif option == "--shell":
            words += (option, mask_script(value))
        else:
            words.append(mask_addresses(arguments[at]))
        at += 1
    return [*words, *mask_words(arguments[end:])]


def _without_secret(pair: str) -> list[str]:
    key, _, text = pair.partition("=")
    value = parse_set([pair])
    is_secret = mask_arguments(value) != value
    return ["--set-env", f"{key}={variable_of(key)}"] if is_secret else ["--set", f"{key}={text}"]


def _command(command: Mapping[str, Any], words: list[str]) -> list[str]:
    """The words of `exec` for a command as the checkpoint has it."""
    asked = ["--stdin"] if command["stdin"] else []
    if command["ok_exit"] != [0]:
        asked += ["--ok-exit", ",".join(map(str, command["ok_exit"]))]
    if "kill_after" in command:
        asked += ["--kill-after", f"{command['kill_after']:g}"]
    if command.get("shell_program"):
        asked += ["--shell-program", command["shell_program"]]
    if command["shell"]:
        return ["exec", *words, *asked, "--shell", *command["words"]]
    return ["exec", *words, *asked, "--", *command["words"]]


def _function(run: Mapping[str, Any], directory: str) -> str:
    shown, path = str(run.get("function", "")), run.get("path")
    if path and shown.startswith(f"{os.path.basename(path)}:"):
        return f"{os.path.relpath(path, directory)}:{shown.rpartition(':')[2]}"
    return shown


def as_arguments(inputs: Iterable[str]) -> Iterator[str]:
    """The INPUTs as arguments: one that begins with a dash must not be taken for an option."""
    yield from (f"./{name}" if name.startswith("-") and name != "-" else name for name in inputs)


def _options(settings: Mapping[str, Any]) -> Iterator[str]:
    """The options that make these settings out of the default ones."""
    defaults = Settings().as_dict()
    for name, value in settings.items():
        if name in _OF_ONE_RUN or value == defaults.get(name):
            continue
        option = option_name(name)
        if name == "set":
            for key, item in value.items():
                pair = f"{key}={_argument(key, item)}"
                yield from ("--set-env", f"{key}={variable_of(key)}") if is_masked(item) else (option, pair)
        elif name == "set_env":
            yield from (word for key, variable in value.items() for word in (option, f"{key}={variable}"))
        elif name == "preload":
            yield from (word for module in value for word in (option, module))
        elif isinstance(value, bool):
            yield option if value else option_name(f"no_{name}")
        elif name in ("columns", "output_columns"):
            yield from (option, write_names(value))
        elif name == "shard":
            yield from (option, "{}/{}".format(*value))
        else:
            yield from (option, f"{value:g}" if isinstance(value, float) else str(value))


def _argument(key: str, value: Any) -> str:
    """What to write behind `--set KEY=` to have that value."""
    is_plain = isinstance(value, str) and parse_set([f"{key}={value}"]) == {key: value}
    return value if is_plain else as_json(value)
