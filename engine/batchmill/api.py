"""Owns the functions of the Python API: run, stream, map. Never prints and installs no signal handler."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from types import TracebackType
from typing import Any

from batchmill import threads
from batchmill.apart import run_apart
from batchmill.batch import Batch
from batchmill.codec import Block, outcomes
from batchmill.errors import InvalidUsage, ItemsFailed
from batchmill.model import Outcome, Report, Snapshot
from batchmill.recorder import Sink
from batchmill.settings import Settings

_BLOCKS_AHEAD = 8  # committed blocks that wait for the reader of a stream


def run(
    function: Callable[..., Any] | str,
    items: Iterable[Any] | str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    id: str | Callable[[Any], Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    init: Callable[[], Any] | str | None = None,
    output: str | os.PathLike[str] | None = None,
    on_progress: Callable[[Snapshot], None] | None = None,
    on_message: Callable[[str], None] | None = None,
    name: str | None = None,
    cluster: Any = None,
    settings: Settings | None = None,
    **settings_fields: Any,
) -> Report:
    """Call `function(item, **kwargs)` for every item, on all cores, and return the report.

    `function` is a callable or a name ("tasks:score", "score.py:score"). `items` is any iterable, read lazily and never
    further ahead than the window, or the path of an input file. `checkpoint` keeps every outcome (None: nothing is
    kept); with `resume` items done before are skipped, by id. `id` is the name of a field, or a callable giving an
    item's id; else it is the field "id" of a dict, the item itself where it is a str or number, or a digest of it.
    `output` is a file for the results, in order. `on_progress` gets a Snapshot now and then (`progress_interval`
    seconds), `on_message` one line for what a person should know; both are called in another thread. `name`
    identifies a lambda's checkpoint. `cluster` is a dask.distributed Client, or the address of a scheduler: its workers
    run the items. Further keywords are fields of Settings: durations in seconds or "30s", sizes in bytes or "2G".

    Items that fail do not raise (`report.raise_for_failures()` does). Raises BatchmillError for what ends the batch,
    ValueError for arguments out of range, what the iterable itself raises, and KeyboardInterrupt, each after committing
    what was done.
    """
    _check_roles(on_progress=on_progress, on_message=on_message)
    batch = _batch(
        function,
        items,
        checkpoint=checkpoint,
        id=id,
        kwargs=kwargs,
        init=init,
        output=output,
        name=name,
        cluster=None if isinstance(cluster, str) else cluster,
        settings=_settings(settings, _fields(settings_fields, resume, cluster), id),
    )
    return run_apart(lambda: batch.run(on_progress, on_message), lambda insist: batch.stop("SIGINT", insist=insist))


class Stream:
    """The outcomes of a batch as they complete. Use it in a `with` block: leaving the block stops the batch.

    `report` is the Report once the batch has ended, else None.
    """

    def __init__(self, batch: Callable[[Sink], Batch]) -> None:
        self._blocks: queue.Queue[tuple[Block, list[int] | None] | None] = queue.Queue(_BLOCKS_AHEAD)
        self._batch = batch(lambda block, final: self._blocks.put((block, final)))
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._left = False
        self.report: Report | None = None

    def _run(self) -> None:
        try:
            self.report = self._batch.run()
        except BaseException as error:
            self._error = error
        self._blocks.put(None)

    def __enter__(self) -> Stream:
        self._thread = threads.start(self._run, "stream", daemon=False)
        return self

    def blocks(self) -> Iterator[tuple[Block, list[int] | None]]:
        """The committed blocks, in the order in which they were, and which of their outcomes are final (None: all).

        Raises what ended the batch.
        """
        if self._thread is None:  # nothing would ever come
            raise InvalidUsage("a stream runs inside its `with` block only", "write `with batchmill.stream(...) as s:`")
        while (found := self._blocks.get()) is not None:
            yield found
        self._blocks.put(None)  # iterating again ends at once
        if self._error is not None and not self._left:
            raise self._error

    def __iter__(self) -> Iterator[Outcome]:
        for block, final in self.blocks():
            for _, outcome in outcomes(block, final):
                yield outcome

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._left = True
        self._batch.stop("left")
        while self._thread is not None and self._thread.is_alive():
            try:  # the batch may be waiting for room
                self._blocks.get(timeout=0.05)
            except queue.Empty:
                pass


def stream(
    function: Callable[..., Any] | str,
    items: Iterable[Any] | str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    id: str | Callable[[Any], Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    init: Callable[[], Any] | str | None = None,
    name: str | None = None,
    cluster: Any = None,
    settings: Settings | None = None,
    **settings_fields: Any,
) -> Stream:
    """A `Stream` of outcomes as they complete; arguments as for `run`.

    with batchmill.stream(score, items) as outcomes:
        for outcome in outcomes: ...

    A slow reader slows the batch down; nothing piles up.
    """
    chosen = _settings(settings, _fields(settings_fields, resume, cluster), id)
    return Stream(
        lambda sink: _batch(
            function,
            items,
            checkpoint=checkpoint,
            id=id,
            kwargs=kwargs,
            init=init,
            name=name,
            cluster=None if isinstance(cluster, str) else cluster,
            settings=chosen,
            sink=sink,
        )
    )


def map(
    function: Callable[..., Any] | str,
    items: Iterable[Any],
    *,
    kwargs: Mapping[str, Any] | None = None,
    init: Callable[[], Any] | str | None = None,
    cluster: Any = None,
    settings: Settings | None = None,
    **settings_fields: Any,
) -> list[Any]:
    """The results of `function` for every item, in order. Raises ItemsFailed at the first failure, and stops then."""
    found: list[tuple[Block, list[int] | None]] = []
    with stream(
        function, items, kwargs=kwargs, init=init, cluster=cluster, settings=settings, **settings_fields
    ) as running:
        for block, final in running.blocks():
            for place, failure in block.failures.items():
                if final is not None and place not in final:
                    continue
                where = f"item {block.head.first + block.offsets[place]}"
                raise ItemsFailed(f"{where} failed: {failure.type}: {failure.message}", failure.traceback)
            found.append((block, final))
    placed = [pair for block, final in found for pair in outcomes(block, final)]
    placed.sort(key=itemgetter(0))
    return [outcome.result for _, outcome in placed]


_ROLES: dict[str, tuple[tuple[type, ...], str]] = {
    "id": ((str,), "give the name of a field, or a function that takes an item"),
    "init": ((str,), "give a function without arguments, or its name"),
    "on_progress": ((), "give a function that takes a Snapshot"),
    "on_message": ((), "give a function that takes a text"),
}


def _check_roles(**given: Any) -> None:
    """Raise InvalidUsage for what must be callable (or a name) and is not: before anything starts."""
    for name, value in given.items():
        types, remedy = _ROLES[name]
        if value is not None and not callable(value) and not isinstance(value, types):
            raise InvalidUsage(f"{name}={value!r} cannot be called", remedy)


def _fields(given: Mapping[str, Any], resume: bool, cluster: Any) -> dict[str, Any]:
    """The settings among the arguments of a function."""
    named = {"resume": resume or None, "cluster": cluster if isinstance(cluster, str) else None}
    return {**given, **{name: value for name, value in named.items() if value is not None}}


def _settings(settings: Settings | None, given: Mapping[str, Any], id: Any) -> Settings:
    values = {**(settings.as_dict() if settings else {}), **given}
    if isinstance(id, str):
        values["id_field"] = id
    return Settings.of(values)


def _batch(
    function: Callable[..., Any] | str,
    items: Iterable[Any] | str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None,
    id: str | Callable[[Any], Any] | None,
    settings: Settings,
    init: Callable[[], Any] | str | None = None,
    output: str | os.PathLike[str] | None = None,
    **rest: Any,
) -> Batch:
    _check_roles(id=id, init=init)
    is_path = isinstance(items, (str, os.PathLike))
    if is_path and callable(id):
        raise InvalidUsage("an id callable works on Python items", "name a field with id=, or pass the items")
    return Batch(
        function,
        [os.fspath(items)] if isinstance(items, (str, os.PathLike)) else (),
        items=None if isinstance(items, (str, os.PathLike)) else items,
        settings=settings,
        checkpoint=None if checkpoint is None else os.fspath(checkpoint),
        no_checkpoint=checkpoint is None,
        output=None if output is None else os.fspath(output),
        init=init,
        id=id if callable(id) else None,
        **rest,
    )
