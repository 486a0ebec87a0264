"""The setting up of a worker for the items of a run."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, NoReturn

from batchmill.codec.own_results import OwnPacking
from batchmill.codec.pack import Packing
from batchmill.errors import BatchmillError, InvalidUsage, NotGuarded
from batchmill.files.conflicts import NO_FILES, OwnFiles
from batchmill.files.mapped_pickle import Pickled
from batchmill.input.formats import IdRule
from batchmill.input.items import ItemReader
from batchmill.secrecy import hide, learn, mask_arguments
from batchmill.system.children import MARK, adopt_orphans, kill_descendants, mark_of
from batchmill.system.machine import peak_rss
from batchmill.text import option, speak_command_line
from batchmill.value_class import value_class
from batchmill.worker import item_logs, random_streams
from batchmill.worker.baseline import Baseline
from batchmill.worker.batch_size import BatchSize
from batchmill.worker.board import Board
from batchmill.worker.bootstrap import end_with_parent, handle, redirect, seal
from batchmill.worker.call_results import LIST, of_one, taking
from batchmill.worker.calls import run_calls
from batchmill.worker.command import CommandSpec
from batchmill.worker.command_calls import CommandCalls
from batchmill.worker.command_runner import CommandRunner, TaskReader
from batchmill.worker.function import FunctionSpec
from batchmill.worker.loader import check_arguments, failure, import_all, resolve
from batchmill.worker.passthrough import Passer
from batchmill.worker.records import (
    ALARM,
    COLUMNS,
    COMMAND,
    at_item,
    note_fork,
    note_touch,
    on_alarm,
    run_records,
)
from batchmill.worker.records import this_worker as _this
from batchmill.worker.script import stand_in
from batchmill.worker.shared import SharedPickle


@value_class
class WorkerSetup:
    """What every worker of a run needs to know; pickled once per worker."""

    spec: FunctionSpec | CommandSpec | None
    init: str | FunctionSpec | None
    format: str | None  # None: Python items
    id_field: str | None
    shard: tuple[int, int] | None
    with_item: bool
    run: int
    ids_needed: bool
    environ: dict[str, str]
    directory: str
    is_silent: bool  # what items print is thrown away
    timeout: float | None = None
    preload: tuple[str, ...] = ()
    script: FunctionSpec | None = None  # what `__main__` of the program is
    hidden: tuple[str, ...] = ()  # keyword arguments that are secret whatever their names
    close: tuple[int, ...] = ()  # descriptors that a forked worker inherited and must let go
    is_command_line: bool = False  # how options are called in what is said
    own: OwnFiles = NO_FILES  # what the run itself writes, where commands are told of files
    end: str | FunctionSpec | None = None
    log_level: str | None = None
    gives_back: bool = False  # results go to the program at once, and nowhere else
    batch_size: int = 0  # items in a call of the function; 0: it is called on each
    is_batch_size_found: bool = False  # that is where it begins, and what pays is found out
    batch_format: str = LIST
    memory: int | None = None  # bytes that a worker may hold
    mark: str = ""  # of this run's commands

    @property
    def has_calls_of_many(self) -> bool:
        """Whether a call may cover several items."""
        return self.batch_size > 1 or self.is_batch_size_found


class Ready(NamedTuple):
    """A worker's first word: it is up, or `error` says why it never will be."""

    pid: int
    error: BatchmillError | None


def folder_of(setup: WorkerSetup) -> str:
    """Where the modules beside the function are."""
    return getattr(setup.spec, "directory", None) or setup.directory


def refuse_batch() -> None:
    """Raise NotGuarded or InvalidUsage in a worker, where no batch begins."""
    if _this.started and not _this.is_ready:
        raise NotGuarded(
            "this script starts a batch while a worker imports it",
            'put what starts the batch under `if __name__ == "__main__":`',
        )
    if _this.started:
        remedy = "start it in the program, or use multiprocessing in the item"
        raise InvalidUsage("an item starts a batch of its own, which a worker cannot", remedy)


def start(board: Board, slot: int, shared: SharedPickle, inherited: list[int | None]) -> None:
    """The worker's initializer. Never raises: what goes wrong is said by `hello`.

    `inherited` holds the descriptor for what items print, that of the lock to pass it on, and where to; None for none.
    `shared` has the setup, and a pickle of the arguments of the function and of init, which is opened last: they may be
    of classes that only the function's module defines.
    """
    setup: WorkerSetup
    arguments: Pickled
    setup, arguments = shared.loads()
    for descriptor in setup.close:
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(setup.environ)
    os.environ["BATCHMILL_WORKER"] = str(slot)
    faulthandler.disable()  # a crash is reported by the parent, in one line
    handle(ALARM, on_alarm)
    if setup.is_command_line:
        speak_command_line()
    _this.started = True
    os.register_at_fork(after_in_child=note_fork)
    _this.board = board.numbers
    _this.slot = slot
    _this.setup = setup
    _this.pack = (OwnPacking() if setup.gives_back else Packing()).result
    _this.baseline = Baseline(note_touch)
    _this.run = run_calls if setup.has_calls_of_many else run_records
    _this.batch_size = BatchSize(None if setup.is_batch_size_found else setup.batch_size, setup.memory, peak_rss)
    identifier = TaskReader if isinstance(setup.spec, CommandSpec) else ItemReader
    _this.identifier = identifier(setup.format, IdRule(setup.id_field), setup.shard, setup.ids_needed)
    _this.identifier.gives_table_rows = setup.batch_format != LIST
    _this.identifier.is_brief = not (setup.ids_needed or setup.with_item)
    try:
        os.chdir(setup.directory)
        output, lock, stdout = inherited
        passer = None if lock is None or stdout is None else Passer(lock, os.dup(stdout), 2)
        redirect(setup.is_silent, output)
        seal()
        _this.baseline.watch()
        if setup.preload:
            import_all(setup.preload, folder_of(setup))
        random_streams.renew()
        if isinstance(setup.spec, CommandSpec):
            _prepare_command(setup.spec, passer)
        elif setup.spec is not None:
            _prepare_function(setup.spec, arguments)
    except BatchmillError as error:
        _this.error = error
    except BaseException as error:
        _this.error = failure("starting a worker", error)
    if _this.error is not None:
        _this.error.message = hide(_this.error.message)
        _this.error.args = (_this.error.message,)
    _this.baseline.remember()
    _this.is_ready = True


def _prepare_function(spec: FunctionSpec, arguments: Pickled) -> None:
    setup = _this.setup
    stand_in(setup.script)
    item_logs.set_up(setup.log_level, at_item)
    resolved = _this.resolved = resolve(spec, setup.init, setup.end)
    kwargs, init_kwargs = arguments.loads()
    secrets: list[Any] = []
    for named in (kwargs, init_kwargs):
        mask_arguments(named, setup.hidden, secrets)
    learn(secrets)
    check_arguments(spec, resolved.function, kwargs)
    _this.function = bound(resolved.function, kwargs)
    if setup.batch_size:
        of_many = taking(_this.function, setup.batch_format)
        _this.function = of_many if setup.has_calls_of_many else of_one(of_many)
    _initialize(resolved.init, init_kwargs)


def _prepare_command(spec: CommandSpec, passer: Passer | None) -> None:
    setup = _this.setup
    note = partial(_this.board.__setitem__, COLUMNS * _this.slot + COMMAND)
    os.environ[MARK] = mark_of(setup.mark, _this.slot)
    adopt_orphans()
    end_with_parent(_end_commands)
    runner = CommandRunner(spec, setup.format, os.environb, setup.timeout, passer, own=setup.own, note=note,
                           worker=_this.slot)  # fmt: skip
    runner.check()
    handle(ALARM, lambda signum, frame: runner.ask_to_end())
    _this.function = CommandCalls(runner, splits=spec.splits) if setup.has_calls_of_many else runner


def _end_commands() -> NoReturn:
    """The parent is gone."""
    kill_descendants(os.getpid())
    os._exit(1)


def bound(function: Callable[..., Any], kwargs: dict[str, Any]) -> Callable[[Any], Any]:
    """The function as it is called on an item; where it has no keyword arguments, nothing is put in between."""
    return partial(function, **kwargs) if kwargs else function


def _initialize(init: Callable[..., Any] | None, kwargs: dict[str, Any]) -> None:
    if init is None:
        return
    try:
        init(**kwargs)
    except BaseException as error:
        _this.error = failure(f"{option('init')} {getattr(init, '__name__', type(init).__name__)}", error)


class Ended(NamedTuple):
    """A worker's last word: what was to be called at its end was called, and `error` is what came of it ("": well)."""

    error: str


def end() -> Ended:
    """Call what is to be called when a worker has nothing more to do."""
    hook = None if _this.resolved is None else _this.resolved.end
    try:
        if hook is not None:
            hook()
    except BaseException as error:
        return Ended(hide(failure(f"{option('end')} {getattr(hook, '__name__', type(hook).__name__)}", error).message))
    return Ended("")


def hello() -> Ready:
    """Say that the worker is up, or why not."""
    return Ready(os.getpid(), _this.error)
