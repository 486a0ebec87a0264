"""How a run comes to its checkpoint: --resume, --fresh, whose it is, and --wait for another run's.

Waiting looks at the lock and does not queue for it: a signal ends the waiting at once, wherever it comes in, and
whoever is first when the lock is free has it.
"""

from __future__ import annotations

import math
import os
import queue
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NoReturn, TypeVar

from batchmill.checkpoint.frames import FrameRef, FrameType
from batchmill.checkpoint.history import History
from batchmill.checkpoint.name_lock import Name, holding, in_the_way
from batchmill.checkpoint.reader import Reader, exists_with_outcomes, naming, read_payload
from batchmill.checkpoint.recovery import Found, examine
from batchmill.checkpoint.writer import Checkpoint
from batchmill.codec.ids import canonical
from batchmill.codec.outcomes import pack_map
from batchmill.errors import (
    BatchmillError,
    CheckpointBusy,
    CheckpointExists,
    CheckpointMismatch,
    CheckpointRefused,
    CheckpointUnwritable,
    interrupted,
)
from batchmill.files.storage import is_held
from batchmill.model import Stop
from batchmill.secrecy import MASK, Secrets, is_masked, mask_facts
from batchmill.settings import Settings
from batchmill.text import escape, name_some, option
from batchmill.value_class import value_class

_T = TypeVar("_T")
_LOOK, _LONGEST_LOOK = 0.02, 0.5  # seconds between looks at the lock; each is longer than the last


# What a checkpoint belongs to, and how a person calls it.
_IDENTITY = {
    "function": "function",
    "command": "command",
    "set": "set",  # see option
    "captured": "values in the function",
    "format": "format",
    "id_rule": "id rule",
}


NO_SECRETS = Secrets()


class NullCheckpoint:
    """The checkpoint of a run that keeps nothing: what is appended is gone."""

    @staticmethod
    def history() -> History:
        """What it holds: nothing."""
        return History()

    def __init__(self) -> None:
        self._seq = 0

    def append(self, type: FrameType, payload: bytes) -> FrameRef:
        """As Checkpoint.append."""
        self._seq += 1
        return FrameRef(self._seq, 0, len(payload), type)

    def read(self, ref: FrameRef) -> bytes:
        """Nothing was kept: always raises CheckpointRefused."""
        raise CheckpointRefused("this run keeps nothing")

    def sync(self) -> None:
        """Nothing to make durable."""

    def fileno(self) -> int:
        """No descriptor: -1."""
        return -1

    def close(self) -> None:
        """Nothing to close."""


def open_checkpoint_for(
    path: str | None,
    meta: Mapping[str, Any],
    settings: Settings,
    on_error: Callable[[CheckpointUnwritable], None],
    on_message: Callable[[str], None],
    *,
    secrets: Secrets = NO_SECRETS,
) -> tuple[Checkpoint, History]:
    """The checkpoint of a run that is to begin now, and what is in it. `path` None: a temporary one.

    Raises CheckpointExists (nothing says what to do with it), CheckpointRefused (cannot be created), CheckpointBusy,
    CheckpointMismatch (belongs to something else) and CheckpointDamaged.
    """
    if path is None:
        return Checkpoint.temporary(meta), History()
    try:
        return holding(path, _Opener(meta, settings, on_error, on_message, secrets).open)
    except CheckpointBusy as error:
        busy = error
    _refuse_in_vain(path, meta, settings, secrets)
    raise busy


def _refuse_in_vain(path: str, meta: Mapping[str, Any], settings: Settings, secrets: Secrets) -> None:
    """Raise what would be raised of a checkpoint in use after waiting for it, too."""
    try:
        if settings.fresh or not exists_with_outcomes(path):
            return
        if settings.resume:
            with Reader(path) as reader:
                check_identity(path, reader.meta, meta, settings, secrets)
        elif settings.wait is not None:
            refuse_in_the_way(path, meta, settings, secrets)
    except FileNotFoundError:
        pass


@value_class
class _Opener:
    """What a run does with the name of its checkpoint, once it holds it."""

    meta: Mapping[str, Any]
    settings: Settings
    on_error: Callable[[CheckpointUnwritable], None]
    on_message: Callable[[str], None]
    secrets: Secrets

    def open(self, name: Name) -> tuple[Checkpoint, History]:
        """Continue what is there, or begin anew, as the settings say."""
        if not name.is_taken:
            return self._begin(name), History()
        if self.settings.fresh:
            return self._begin_anew(name, "The old checkpoint is now")
        if not self.settings.resume:
            refuse_in_the_way(name.path, self.meta, self.settings, self.secrets)
        return self._continue(name)

    def _continue(self, name: Name) -> tuple[Checkpoint, History]:
        with Reader(name.path) as reader:
            check_identity(name.path, reader.meta, self.meta, self.settings, self.secrets)
        history = History()
        with naming(name.path):
            found = examine(name, history.note)
            if found.repaired:
                self.on_message(found.repaired)
            history.load(partial(_payload, name, found))
        if self.settings.fresh_if_finished and history.is_finished:
            return self._begin_anew(name, "The batch was finished: it begins anew, and the old checkpoint is")
        interval = self.settings.checkpoint_interval
        return Checkpoint.resume(name, found, interval=interval, on_error=self.on_error), history

    def _begin(self, name: Name, keep: int | None = None) -> Checkpoint:
        interval = self.settings.checkpoint_interval
        return Checkpoint.begin(name, self.meta, keep=keep, interval=interval, on_error=self.on_error)

    def _begin_anew(self, name: Name, said: str) -> tuple[Checkpoint, History]:
        checkpoint = self._begin(name, self.settings.keep)
        self.on_message(f"{said} {checkpoint.moved}")
        return checkpoint, History()


def _payload(name: Name, found: Found, ref: FrameRef) -> bytes:
    assert name.fd is not None
    return read_payload(name.fd, found.header, ref, name.path)


def refuse_in_the_way(path: str, meta: Mapping[str, Any], settings: Settings, secrets: Secrets) -> NoReturn:
    """Raise CheckpointExists for a checkpoint that exists where nothing says what to do with it."""
    try:
        with Reader(path) as reader:
            check_identity(path, reader.meta, meta, settings, secrets)
    except CheckpointMismatch as error:  # --resume would be refused
        another = option("checkpoint", "FILE")
        remedy = f"{another} names another checkpoint, {option('fresh', True)} moves this one aside and begins anew"
        raise CheckpointExists(error.message.replace(path, f"{path} exists, and", 1), remedy) from None
    except BatchmillError:
        pass  # whoever continues it is told
    raise in_the_way(path)


def check_identity(
    path: str,
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    settings: Settings,
    secrets: Secrets = NO_SECRETS,
) -> None:
    """Raise CheckpointMismatch where a checkpoint (META map `theirs`) is not the batch's that is asked for (`ours`, and
    what is not said in it, `secrets`)."""
    if settings.accept_changes:
        return
    kept, theirs, ours = theirs.get("secrets"), _comparable(theirs), _comparable(ours)
    names = {**_IDENTITY, "set": option("set")}
    if theirs.get("default_name") and ours.get("default_name"):
        names["input"] = "input"
    differences = [
        f"{name} {_shown(theirs.get(key), key)}, not {_shown(ours.get(key), key)}"
        for key, name in names.items()
        if not _is_same(theirs.get(key), ours.get(key))
    ]
    if not differences and not secrets.agrees(kept):
        differences = [f"another value of what is not shown in {', '.join(_hidden(ours, theirs))}"]
    if differences:
        is_of_values = all(difference.startswith(_IDENTITY["captured"]) for difference in differences)
        given = "of one begun with name=... they do not matter, " if is_of_values else ""
        raise CheckpointMismatch(
            f"{path} belongs to another batch: {'; '.join(differences)}",
            f"{given}{option('checkpoint', 'FILE')} names another checkpoint, {option('fresh', True)} begins anew, "
            f"{option('accept_changes', True)} continues all the same",
        )


def _comparable(meta: Mapping[str, Any]) -> dict[str, Any]:
    """META with nothing of a value that is not shown whole, wherever it comes from and as far as it is shown."""
    shown = mask_facts(meta)
    for name in ("set", "captured"):
        arguments = shown.get(name) or {}
        shown[name] = {key: MASK if is_masked(value) else value for key, value in arguments.items()}
    return shown


def _is_same(theirs: Any, ours: Any) -> bool:
    """Compared as bytes: 1 and True differ, two NaN do not, and an array cannot say."""
    try:
        return canonical(theirs) == canonical(ours)
    except ValueError:
        return False


def _hidden(*metas: Mapping[str, Any]) -> Iterable[str]:
    """What is not shown whole of what checkpoints belong to."""
    arguments = [(key, value) for meta in metas for key, value in meta.get("set", {}).items()]
    arguments += [(key, value) for meta in metas for key, value in meta.get("captured", {}).items()]
    commands = [meta.get("command") for meta in metas]
    named = [f"{option('set')} {key}" for key, value in arguments if is_masked(value)]
    return dict.fromkeys([*named, *(["the command"] if any(map(is_masked, commands)) else [])])


def _shown(value: Any, key: str) -> str:
    if key == "input" and isinstance(value, list):
        return name_some(value)
    if isinstance(value, Mapping):
        return " ".join(f"{key}={escape(str(item), 60)}" for key, item in value.items()) or "nothing"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return "none" if value is None else str(value)


def begin_run(checkpoint: Checkpoint | NullCheckpoint, history: History, values: Mapping[str, Any]) -> dict[str, Any]:
    """Append the RUN frame of a run that begins; returns its map. A later RUN frame of the same number adds to it."""
    run = {
        "run": history.next_run,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": time.time(),
        "generation": history.index.generation,
        **values,
    }
    checkpoint.append(FrameType.RUN, pack_map(run))
    return run


def seconds_of(wait: str | float | None) -> float:
    """How long the setting `wait` allows to wait."""
    return 0.0 if wait is None else math.inf if isinstance(wait, str) else wait


def patiently(
    attempt: Callable[[], _T],
    path: str,
    events: queue.SimpleQueue[Any],
    on_message: Callable[[str], None],
    *,
    wait: float,
    deadline: float,
) -> _T:
    """What `attempt` returns, tried again whenever the checkpoint at `path` is free, for `wait` seconds (--wait), and
    not after `deadline` (monotonic seconds, --time-limit).

    Raises CheckpointBusy when the time is up, and Interrupted when a Stop is among the `events`; others stay there.
    """
    told = False
    until, limit = min((time.monotonic() + wait, "wait"), (deadline, "time_limit"))
    while True:
        try:
            return attempt()
        except CheckpointBusy as busy:
            if time.monotonic() >= until:
                more = f"give more to {option(limit)}, or name another file with {option('checkpoint')}"
                raise CheckpointBusy(busy.message, more if wait else busy.remedy) from None
            if not told:
                on_message(f"Waiting: {busy.message}")
                told = True
        _wait_until_free(path, until, events)


def _wait_until_free(path: str, until: float, events: queue.SimpleQueue[Any]) -> None:
    """At least one look long: what is busy may be another file, that is to be moved."""
    look = _LOOK
    while (left := until - time.monotonic()) > 0:
        _pause(min(look, left), path, events)
        if not is_held(path):
            return
        look = min(1.5 * look, _LONGEST_LOOK)


def _pause(seconds: float, path: str, events: queue.SimpleQueue[Any]) -> None:
    """Sleep; a request to stop ends it."""
    end, others = time.monotonic() + seconds, []
    try:
        while (left := end - time.monotonic()) > 0:
            event = events.get(timeout=left)
            if isinstance(event, Stop):
                raise interrupted(event.reason, f"waiting for {path}")
            others.append(event)
    except queue.Empty:
        pass
    finally:
        for event in others:
            events.put(event)
