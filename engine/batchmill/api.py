"""The functions of the Python API: run, stream, map."""

from __future__ import annotations

import os
import queue
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from operator import itemgetter
from types import TracebackType
from typing import Any, Generic, Literal, Unpack, overload

from batchmill.arguments import MapArguments, StreamArguments
from batchmill.batch.batch import Batch
from batchmill.batch.commit import Sink
from batchmill.batch.following import Followers, explained, refuse_part, stop
from batchmill.batch.own_thread import SLICE, OwnThread, in_own_thread
from batchmill.codec.outcome_block import OutcomeBlock, outcomes
from batchmill.codec.own_results import own_outcomes
from batchmill.errors import BatchmillError, InvalidUsage, ItemError, ItemsFailed
from batchmill.input.kept_items import reader_of_kept
from batchmill.input.sources import Errand
from batchmill.model import Outcome, Report, Result, Snapshot, StopReason
from batchmill.plan import make_plan
from batchmill.roles import check_items, check_roles
from batchmill.settings import Settings
from batchmill.settings_fields import SettingsFields

__all__ = ["Stream", "map", "run", "stop", "stream"]

_BLOCKS_AHEAD = 8  # committed blocks that wait for the reader of a stream


def run(
    function: Callable[..., Any] | str,
    items: Iterable[Any] | str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    id: str | Callable[[Any], Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    init: Callable[..., Any] | str | None = None,
    init_kwargs: Mapping[str, Any] | None = None,
    end: Callable[[], Any] | str | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: bool | Literal["auto"] = "auto",
    on_progress: Callable[[Snapshot], None] | None = None,
    on_message: Callable[[str], None] | None = None,
    name: str | None = None,
    cluster: Any = None,
    settings: Settings | None = None,
    **settings_fields: Unpack[SettingsFields],
) -> Report:
    """Call `function(item, **kwargs)` for every item, on all cores, and return the report.

    `function` is a callable or a name ("tasks:score", "score.py:score"). `items` is any iterable, read lazily and never
    further ahead than the window, or the path of an input file. `checkpoint` keeps every outcome (None: nothing is
    kept); with `resume` items done before are skipped, by id. `id` is the name of a field, or a callable giving an
    item's id; else it is the field "id" of a dict, the item itself where it is a str or number, or a digest of it.
    `init` is called once in each worker, with `init_kwargs`, and `end` when a worker has nothing more to do. `output`
    is a file for the results, in order. `progress` shows the progress line (True), or not, or in notebooks and
    interactive sessions alone ("auto"). `on_progress` gets a Snapshot now and then (`progress_interval` seconds) and
    the last one always, `on_message` one line for what a person should know; both are called in another thread. `name`
    identifies a lambda's checkpoint. `cluster` is a dask.distributed Client, or the address of a scheduler: its workers
    run the items. Further keywords are fields of Settings: durations in seconds or "30s", sizes in bytes or "2G".

    Items that fail do not raise (`report.raise_for_failures()` does). Raises BatchmillError for what ends the batch,
    ValueError for arguments out of range, what the iterable, `on_progress` or `on_message` raises, and whatever is
    raised meanwhile in the thread that waits (KeyboardInterrupt; what a signal handler raises): each when the batch has
    stopped, what was done is committed and the checkpoint is closed. Items that are running get `grace` seconds to end;
    a second exception, a second or more later, kills them.
    """
    errands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    try:
        check_roles(progress=progress, on_progress=on_progress, on_message=on_message)
        batch = _batch(
            function,
            items,
            checkpoint=checkpoint,
            resume=resume,
            id=id,
            kwargs=kwargs,
            init=init,
            init_kwargs=init_kwargs,
            end=end,
            output=output,
            name=name,
            cluster=cluster,
            settings=settings,
            fields=settings_fields,
            errand=errands.put,
        )
        followers = Followers(progress, on_progress, on_message)
        with explained(batch):
            return in_own_thread(lambda: followers.run(batch), batch.stop_for, errands)
    except BatchmillError as error:  # it says what is wrong: nobody needs to see where that was found
        raise error.with_traceback(None) from error.__cause__


_Block = tuple[OutcomeBlock, list[int] | None]


class _Channel:
    """Committed blocks on their way from the thread of a batch to the reader of a stream: a few at most. An `errand` is
    done by the reader.

    Nothing here takes a lock that an exception in the reader's thread could leave held.
    """

    def __init__(self) -> None:
        self._blocks: queue.SimpleQueue[_Block | Callable[[], None] | None] = queue.SimpleQueue()
        self.errand = self._blocks.put
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.is_left = False
        for _ in range(_BLOCKS_AHEAD):
            self._room.put(None)

    def put(self, block: OutcomeBlock, final: list[int] | None) -> None:
        """Hand over a block when there is room for it; where the reader has left, drop it."""
        if not self.is_left:
            self._room.get()
            self._blocks.put((block, final))

    def end(self) -> None:
        """Nothing will come any more."""
        self._blocks.put(None)

    def leave(self) -> None:
        """Nobody will read any more."""
        self.is_left = True
        self._room.put(None)

    def run_errands(self) -> None:
        """Do what is still to be done, of what nobody will read any more."""
        while not self._blocks.empty():
            found = self._blocks.get(timeout=SLICE)
            if callable(found):
                found()

    def read(self, is_over: Callable[[], bool]) -> Iterator[tuple[OutcomeBlock, list[int] | None]]:
        """The blocks up to the end, which has come at the latest when `is_over()` and there are no more."""
        while True:
            try:
                found = self._blocks.get(timeout=SLICE)
            except queue.Empty:
                if is_over():
                    return
                continue
            if found is None:
                self.end()  # reading again ends at once
                return
            if callable(found):
                found()
                continue
            self._room.put(None)
            yield found


class Stream(Generic[Result]):
    """The outcomes of a batch as they complete. Use it in a `with` block: leaving the block stops the batch.

    Whatever leaves the block, or is raised in it, is raised when the batch has stopped, as in `run`.
    """

    def __init__(self, batch: Callable[[Sink, Errand], Batch], followers: Followers) -> None:
        channel = _Channel()
        running = batch(channel.put, channel.errand)

        def work() -> None:
            try:
                followers.run(running)
            finally:
                channel.end()

        def leave() -> None:
            running.stop(StopReason.LEFT)
            channel.leave()

        def stop(error: BaseException, insist: bool) -> None:
            running.stop_for(error, insist)
            channel.leave()

        self._batch, self._channel, self._leave = running, channel, leave
        self._thread = OwnThread(work, stop, "stream")
        weakref.finalize(self, leave).atexit = False  # of a stream that is let go of without leaving it

    @property
    def report(self) -> Report | None:
        """The Report once the batch has ended, else None."""
        return self._batch.report

    def stop(self, *, insist: bool = False) -> None:
        """Stop the batch, from whatever thread: what is running gets `grace` seconds to end (`insist`: none), and what
        was done is still read."""
        self._batch.stop(StopReason.STOP, insist=insist)

    def __enter__(self) -> Stream[Result]:
        self._thread.start()
        return self

    def blocks(self) -> Iterator[tuple[OutcomeBlock, list[int] | None]]:
        """The committed blocks, in the order in which they were, and which of their outcomes are final (None: all).

        Raises what ended the batch.
        """
        if not self._thread.has_begun:  # nothing would ever come
            raise InvalidUsage("a stream runs inside its `with` block only", "write `with batchmill.stream(...) as s:`")
        yield from self._channel.read(lambda: self._thread.is_over)
        if not self._channel.is_left:
            self._thread.outlast()
            self._thread.outcome()

    def __iter__(self) -> Iterator[Outcome[Result]]:
        plan = self._batch.plan
        read, item_of = own_outcomes if plan.gives_back else outcomes, reader_of_kept(plan.cut)
        for block, final in self.blocks():
            for _, outcome in read(block, final):
                yield outcome if outcome.raw is None else replace(outcome, item=item_of(outcome.raw))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None and not isinstance(error, GeneratorExit):
            self._batch.stop_for(error)
        try:
            with explained(self._batch):
                self._thread.outlast(self._leave)
        finally:
            self._channel.run_errands()


@overload
def stream(
    function: Callable[..., Result],
    items: Iterable[Any] | str | os.PathLike[str],
    **arguments: Unpack[StreamArguments],
) -> Stream[Result]: ...


@overload
def stream(
    function: Callable[..., Any],
    items: Iterable[Any] | str | os.PathLike[str],
    *,
    batch_size: str | int,
    **arguments: Unpack[StreamArguments],
) -> Stream[Any]: ...


@overload
def stream(
    function: str,
    items: Iterable[Any] | str | os.PathLike[str],
    *,
    batch_size: str | int | None = None,
    **arguments: Unpack[StreamArguments],
) -> Stream[Any]: ...


def stream(
    function: Callable[..., Any] | str,
    items: Iterable[Any] | str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    id: str | Callable[[Any], Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    init: Callable[..., Any] | str | None = None,
    init_kwargs: Mapping[str, Any] | None = None,
    end: Callable[[], Any] | str | None = None,
    progress: bool | Literal["auto"] = "auto",
    on_progress: Callable[[Snapshot], None] | None = None,
    on_message: Callable[[str], None] | None = None,
    name: str | None = None,
    cluster: Any = None,
    settings: Settings | None = None,
    **settings_fields: Unpack[SettingsFields],
) -> Stream[Any]:
    """A `Stream` of outcomes as they complete; arguments as for `run`.

    with batchmill.stream(score, items) as outcomes:
        for outcome in outcomes: ...

    A slow reader slows the batch down; nothing piles up.
    """
    try:
        check_roles(progress=progress, on_progress=on_progress, on_message=on_message)
        return Stream(
            lambda sink, errand: _batch(
                function,
                items,
                checkpoint=checkpoint,
                resume=resume,
                id=id,
                kwargs=kwargs,
                init=init,
                init_kwargs=init_kwargs,
                end=end,
                name=name,
                cluster=cluster,
                settings=settings,
                fields=settings_fields,
                sink=sink,
                errand=errand,
            ),
            Followers(progress, on_progress, on_message),
        )
    except BatchmillError as error:
        raise error.with_traceback(None) from error.__cause__


@overload
def map(function: Callable[..., Result], items: Iterable[Any], **arguments: Unpack[MapArguments]) -> list[Result]: ...


@overload
def map(
    function: Callable[..., Any], items: Iterable[Any], *, batch_size: str | int, **arguments: Unpack[MapArguments]
) -> list[Any]: ...


@overload
def map(
    function: str, items: Iterable[Any], *, batch_size: str | int | None = None, **arguments: Unpack[MapArguments]
) -> list[Any]: ...


def map(
    function: Callable[..., Any] | str,
    items: Iterable[Any],
    *,
    kwargs: Mapping[str, Any] | None = None,
    init: Callable[..., Any] | str | None = None,
    init_kwargs: Mapping[str, Any] | None = None,
    end: Callable[[], Any] | str | None = None,
    progress: bool | Literal["auto"] = "auto",
    on_progress: Callable[[Snapshot], None] | None = None,
    on_message: Callable[[str], None] | None = None,
    cluster: Any = None,
    settings: Settings | None = None,
    **settings_fields: Unpack[SettingsFields],
) -> list[Any]:
    """The results of `function` for every item, in order. Raises ItemsFailed at the first failure, and stops then.

    Raises what `run` raises, too, and Stopped where `stop()` or `time_limit` ended it before it had all results.
    """
    found: list[tuple[OutcomeBlock, list[int] | None]] = []
    failed: list[ItemsFailed] = []

    def take(block: OutcomeBlock, final: list[int] | None) -> None:
        found.append((block, final))
        failed.extend(_failures(block, final))
        if failed:
            batch.stop(StopReason.LEFT)

    errands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    try:
        check_roles(progress=progress, on_progress=on_progress, on_message=on_message)
        batch = _batch(function, items, kwargs=kwargs, init=init, init_kwargs=init_kwargs, end=end, cluster=cluster,
                       settings=settings, fields=settings_fields, sink=take, errand=errands.put)  # fmt: skip
        followers = Followers(progress, on_progress, on_message)
        with explained(batch):
            in_own_thread(lambda: followers.run(batch), batch.stop_for, errands)
        if not failed:
            refuse_part(batch.report)
    except BatchmillError as error:
        raise error.with_traceback(None) from error.__cause__
    if failed:
        raise failed[0]
    pairs = [pair for block, final in found for pair in own_outcomes(block, final)]
    pairs.sort(key=itemgetter(0))
    for position, outcome in pairs:
        if outcome.error is not None:
            raise _item_failed(position, outcome.error)
    return [outcome.result for _, outcome in pairs]


def _failures(block: OutcomeBlock, final: list[int] | None) -> Iterator[ItemsFailed]:
    """The failures in a block that no retry can make good."""
    for index, failure in block.failures.items():
        if final is None or index in final:
            position = block.head.first + block.offsets[index]
            yield _item_failed(position, ItemError(failure.type, failure.message, failure.traceback))


def _item_failed(position: int, error: ItemError) -> ItemsFailed:
    return ItemsFailed(f"item {position} failed: {error.type}: {error.message}", error=error)


def _fields(given: Mapping[str, Any], resume: bool, cluster: Any) -> dict[str, Any]:
    """The settings among the arguments of a function."""
    named = {"resume": resume or None, "cluster": cluster if isinstance(cluster, str) else None}
    return {**given, **{name: value for name, value in named.items() if value is not None}}


def _settings(settings: Settings | None, given: Mapping[str, Any], id: Any) -> Settings:
    values = {**(settings.as_dict() if settings else {}), **given}
    if isinstance(id, str):
        values["id_field"] = id
    return Settings.of(values)


def _batch(function: Callable[..., Any] | str, items: Iterable[Any] | str | os.PathLike[str], **rest: Any) -> Batch:
    """See `_make`. What is raised in the caller's thread in the middle of an import would leave its lock held."""
    return in_own_thread(lambda: _make(function, items, **rest), lambda error, insist: None)


def _make(
    function: Callable[..., Any] | str,
    items: Iterable[Any] | str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    id: str | Callable[[Any], Any] | None = None,
    init: Callable[..., Any] | str | None = None,
    output: str | os.PathLike[str] | None = None,
    cluster: Any = None,
    settings: Settings | None,
    fields: SettingsFields,
    sink: Sink | None = None,
    errand: Errand | None = None,
    **rest: Any,
) -> Batch:
    check_roles(id=id, init=init, checkpoint=checkpoint, output=output, settings=settings, **rest)
    check_items(items)
    is_path = isinstance(items, (str, os.PathLike))
    if is_path and callable(id):
        raise InvalidUsage("an id callable works on Python items", "name a field with id=, or pass the items")
    plan = make_plan(
        function,
        [os.fspath(items)] if isinstance(items, (str, os.PathLike)) else (),
        items=None if isinstance(items, (str, os.PathLike)) else items,
        settings=_settings(settings, _fields(fields, resume, cluster), id),
        checkpoint=None if checkpoint is None else os.fspath(checkpoint),
        no_checkpoint=checkpoint is None,
        output=None if output is None else os.fspath(output),
        init=init,
        id=id if callable(id) else None,
        gives_back=sink is not None,
        **rest,
    )
    return Batch(
        plan, sink=sink, errand=errand, cluster=None if isinstance(cluster, str) else cluster
    )  # an address is a setting
