"""The arguments of a batch, checked: what to call, on what, and where results go."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import field, replace
from functools import cached_property, partial
from typing import Any

from batchmill.checkpoint.frames import FILE_MAGIC
from batchmill.codec.identity import kept
from batchmill.codec.pack import pack_value
from batchmill.errors import InvalidUsage
from batchmill.files.atomic_file import descriptor_of
from batchmill.files.conflicts import NO_FILES, STREAMS, Access, OwnFiles, Use, check, descriptor_in
from batchmill.files.mapped_pickle import Pickled, packed_item
from batchmill.files.storage import names_aside, sibling
from batchmill.input.formats import Format, IdRule, format_named
from batchmill.input.frames import rows_of
from batchmill.input.items import ItemReader
from batchmill.input.json_choice import VARIABLE, check_choice
from batchmill.input.parquet_rows import files_of
from batchmill.input.sources import ByteSource, Errand, ItemSource, Source
from batchmill.input.streams import choose_format, look_at
from batchmill.output.by_name import format_of_output
from batchmill.output.columns import Asked, check_asked
from batchmill.output.sinks import check_format, open_prints
from batchmill.output.target import STDOUT
from batchmill.secrecy import Secrets, is_masked, mask_arguments
from batchmill.settings import TLS, WORKER_OUTPUTS, Settings
from batchmill.system.interpreter import environment
from batchmill.system.machine import thread_caps, usable_cores
from batchmill.text import name_some, nearest, option, speaks_command_line
from batchmill.value_class import value_class
from batchmill.version import __version__
from batchmill.worker.captured import captured_in, unwrapped
from batchmill.worker.code_bundle import anchored, collect, source_files
from batchmill.worker.command import CommandSpec
from batchmill.worker.command_runner import TaskReader
from batchmill.worker.function import FunctionSpec, here, of_callable, parse, program_script
from batchmill.worker.main import WorkerSetup, refuse_batch
from batchmill.worker.sending import pickled
from batchmill.worker.source_digest import source_digest

_DEFAULTS = Settings()


@value_class
class Plan:
    """A batch as it was asked for.

    `items` is an iterable, or None where `inputs` are paths. `checkpoint` is an absolute path, or None where nothing is
    to be kept; `default_name` says that nobody chose it. `format` is None for Python items. `id` gives an item's id.
    `others` are the files that the caller reads and writes.
    """

    spec: FunctionSpec | CommandSpec
    init: str | FunctionSpec | None
    end: str | FunctionSpec | None
    inputs: tuple[str, ...]
    items: Iterable[Any] | None
    settings: Settings
    kwargs: Mapping[str, Any]
    format: str | None
    checkpoint: str | None
    default_name: bool
    output: str | None
    id: Callable[[Any], Any] | None
    others: tuple[Use, ...] = ()
    gives_back: bool = False
    init_kwargs: Mapping[str, Any] = field(default_factory=dict)
    captured: Mapping[str, Any] = field(default_factory=dict)  # values that are in the function itself

    @cached_property
    def files(self) -> tuple[Use, ...]:
        """The files that the batch reads and writes, those of its caller (`others`) among them."""
        return (*_files(self), *self.others)

    @property
    def is_of_python(self) -> bool:
        """Whether values may be of classes of the program that asks for the batch."""
        given = len(self.kwargs) - len(self.settings.set) - len(self.settings.set_env)
        return self.items is not None or given > 0 or bool(self.init_kwargs)

    @property
    def command(self) -> CommandSpec | None:
        """What is run on each item, where that is no function."""
        return self.spec if isinstance(self.spec, CommandSpec) else None

    @property
    def has_numbers(self) -> bool:
        """Whether it matters to the command which number an item has."""
        return self.command is not None and self.command.counts(self.format)

    @cached_property
    def source_digest(self) -> str:
        """Which code the function has now, "" where that is not known: a command's is not."""
        return "" if isinstance(self.spec, CommandSpec) else source_digest(self.spec, self.init, os.getcwd())

    @property
    def watched(self) -> Settings:
        """The limits that the parent sees to. A worker ends a command itself, whose time is not that of its output."""
        return replace(self.settings, timeout=None) if self.command else self.settings

    @cached_property
    def output_format(self) -> str:
        """The format of the output; raises InvalidUsage."""
        return format_of_output(self.output, self.settings.output_format)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The INPUTs; of rows, the files that directories stand for."""
        if self.cut is None or self.cut.wanted is None:
            return self.inputs
        return tuple(files_of(self.inputs, NO_FILES, follow=self.settings.follow_links))

    @cached_property
    def asked(self) -> Asked:
        """What is asked of the output; raises InvalidUsage."""
        settings = self.settings
        return Asked(
            self.output_format,
            with_item=settings.with_item,
            chosen=settings.output_columns,
            guard=settings.formula_guard,
            mark=settings.bom,
        )

    @property
    def cut(self) -> Format | None:
        """How the INPUTs are cut and parsed; None for Python items."""
        return None if self.format is None else format_named(self.format)

    def identifier(self) -> ItemReader:
        """What understands the records."""
        ids_needed = self.checkpoint is not None
        reader = TaskReader if self.command else ItemReader
        return reader(self.format, IdRule(self.settings.id_field), self.settings.shard, ids_needed)

    def arguments(self) -> Pickled:
        """The arguments of the function and of init on their way to workers; raises InvalidUsage for what cannot be
        pickled."""
        try:
            return pickled((dict(self.kwargs), dict(self.init_kwargs)))
        except Exception as error:  # what pickle raises for a lambda, for a lock and for a recursion differs
            raise InvalidUsage(f"kwargs cannot be sent to workers: {error}", "give what can be pickled") from None

    def open_source(
        self,
        notify: Callable[[], None],
        tell: Callable[[str], None] | None = None,
        errand: Errand | None = None,
        *,
        is_shared: bool = False,
    ) -> Source:
        """The input, ready to be read; raises InputMissing. `tell` gets what people should know of it; `errand` has the
        caller's thread do something. `is_shared`: workers of this machine alone get the items."""
        if self.items is not None:
            pack = partial(packed_item, is_shared=is_shared, pickle=pickled)
            return ItemSource(self.items, self.id, notify, errand, pack=pack)
        assert self.cut is not None
        own, follow = OwnFiles(self.files), self.settings.follow_links
        return ByteSource(self.sources, self.cut, notify, own, follow=follow, tell=tell, by_range=is_shared)

    def worker_setup(self, workers: int, *, run: int = 1, close: tuple[int, ...] = ()) -> WorkerSetup:
        """What each of `workers` workers needs to know; `close` are the descriptors a forked one must let go."""
        settings, (cores, _) = self.settings, usable_cores()
        return WorkerSetup(
            spec=self.spec,
            init=self.init,
            end=self.end,
            log_level=self.settings.log_level,
            format=self.format,
            id_field=settings.id_field,
            shard=settings.shard,
            with_item=settings.with_item,
            run=run,
            ids_needed=self.checkpoint is not None,
            environ={**thread_caps(workers, cores, os.environ), **(environment() if self.command else os.environ)},
            directory=os.getcwd(),
            is_silent=settings.worker_output == "none",
            timeout=settings.timeout,
            preload=settings.preload,
            close=close,
            own=OwnFiles(self.files if self.command else ()),
            hidden=tuple(settings.set_env),
            script=program_script() if self.is_of_python else None,
            batch_size=1 if settings.batch_size == "auto" else int(settings.batch_size or 0),
            is_batch_size_found=settings.batch_size == "auto",
            batch_format=settings.batch_format,
            memory=settings.worker_memory,
            gives_back=self.gives_back,
            is_command_line=speaks_command_line(),
            mark=os.urandom(8).hex() if self.command else "",
        )

    def open_prints(self, stack: ExitStack) -> int | None:
        """A descriptor for what functions print, closed by `stack`; None: it goes to stderr, or nowhere.

        Opened once for all workers: a FIFO whose last writer ends has lost its reader. Raises OutputLost.
        """
        name = _prints(self.settings)
        if name is None:
            return None
        prints = open_prints(name)
        stack.callback(os.close, prints)
        return prints

    @cached_property
    def secrets(self) -> Secrets:
        """The arguments that META does not say, or not whole."""
        shown = mask_arguments(self.kwargs, self.settings.set_env)
        hidden = {f"--set {key}": self.kwargs[key] for key, value in shown.items() if is_masked(value)}
        shown = mask_arguments(self.captured)
        hidden |= {f"captured {key}": self.captured[key] for key, value in shown.items() if is_masked(value)}
        if self.command is not None and self.command.is_masked:
            hidden["command"] = list(self.command.words)
        return Secrets({name: pack_value(self._kept(name, value)) for name, value in hidden.items()})

    def _arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name, as META has them; nothing of them where it is of no use to anybody."""
        if self.checkpoint is None:
            return {}
        return {key: self._kept(key, value) for key, value in mask_arguments(values, self.settings.set_env).items()}

    @staticmethod
    def _kept(name: str, value: Any) -> Any:
        try:
            return kept(value)
        except Exception as error:  # of the value's own methods it may be any
            said = f"{name} cannot be told from another one: {type(error).__name__}: {error}"
            raise InvalidUsage(said, "give name=... for a function, or make it in init=") from None

    def meta(self) -> dict[str, Any]:
        """What a new checkpoint's META frame says: whose it is."""
        return {
            "function": None if self.command else self.spec.identity,
            "command": self.command and self.command.identity,
            "set": self._arguments(self.kwargs),
            **({"captured": self._arguments(self.captured)} if self.captured else {}),
            **({"secrets": self.secrets.seal(os.urandom(16))} if self.secrets.values else {}),
            "format": self.format or "items",
            "id_rule": "callable" if self.id is not None else IdRule(self.settings.id_field).name,
            "input": [name if name == STDOUT else os.path.abspath(name) for name in self.inputs],
            "default_name": self.default_name,
            "engine": __version__,
            "created": time.time(),
            "host": os.uname().nodename,
        }


def make_plan(
    function: Callable[..., Any] | str | CommandSpec,
    inputs: Sequence[str] = (),
    *,
    items: Iterable[Any] | None = None,
    settings: Settings = _DEFAULTS,
    checkpoint: str | None = None,
    no_checkpoint: bool = False,
    output: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    init: Callable[..., Any] | str | None = None,
    init_kwargs: Mapping[str, Any] | None = None,
    end: Callable[[], Any] | str | None = None,
    id: Callable[[Any], Any] | None = None,
    name: str | None = None,
    others: Iterable[Use] = (),
    gives_back: bool = False,
) -> Plan:
    """The plan of a batch, its arguments checked; raises BatchmillError for what cannot work: nothing has begun then.

    `function` is a callable or a name ("tasks:score", "score.py:score"), or a CommandSpec. `inputs` is a list of paths
    (`-` for stdin) where `items` is None. `checkpoint` None means the default name, unless `no_checkpoint`. `output` is
    a path or "-". `id` gives an item's id (Python items only). `others` are the files that whoever runs the batch reads
    and writes meanwhile.
    """
    refuse_batch()
    if name is None:
        function, kwargs = unwrapped(function, kwargs or {})
    rows = None if items is None else rows_of(items)
    if rows is not None:
        items = rows
        id = rows.label if rows.has_labels and id is None and settings.id_field is None else id
    format = None if items is not None else choose_format(inputs, settings)
    if isinstance(function, CommandSpec):
        function = replace(function, many=settings.batch_size is not None)
    spec = _spec_of(function, name, format, here(), inputs)
    plan = Plan(
        spec=spec,
        init=of_callable(init) if callable(init) else init or settings.init,
        end=of_callable(end) if callable(end) else end or settings.end,
        inputs=tuple(inputs),
        items=items,
        settings=settings,
        kwargs={**settings.set, **from_environment(settings.set_env), **(kwargs or {})},
        format=format,
        checkpoint=None if no_checkpoint else _checkpoint_path(checkpoint, inputs, spec, format),
        default_name=checkpoint is None and not no_checkpoint,
        output=output,
        id=id,
        others=tuple(others),
        init_kwargs=dict(init_kwargs or {}),
        captured={} if name or not isinstance(spec, FunctionSpec) else captured_in(function, spec),
        gives_back=gives_back and checkpoint is None and output is None,
    )
    _check_names(plan)
    _look_at_inputs(plan)
    check_choice(os.environ.get(VARIABLE, ""))
    return plan


def _spec_of(
    function: Callable[..., Any] | str | CommandSpec,
    name: str | None,
    format: str | None,
    directory: str,
    inputs: Sequence[str],
) -> FunctionSpec | CommandSpec:
    if isinstance(function, CommandSpec):
        return function.check(format, None if format is None else _columns(inputs, format_named(format)))
    return parse(function, directory) if isinstance(function, str) else of_callable(function, name)


def _columns(inputs: Sequence[str], format: Format) -> list[str] | None:
    """The columns of tables; None for other formats, and where one of them cannot be looked at."""
    if format.table is None:
        return None
    found = [look_at(name, format) for name in inputs]
    return None if None in found else list(dict.fromkeys(name for names in found for name in names or ()))


def from_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    """The arguments whose values are in these variables, by parameter; raises InvalidUsage where one is not set.

    They are texts, but for JSON objects and arrays: a token of digits is no number. The name is not said where it may
    be the secret itself: `--set-env token=$TOKEN`.
    """
    for key, variable in variables.items():
        if variable not in os.environ:
            name = f" {variable}" if re.fullmatch(r"[A-Z_][A-Z0-9_]{0,39}", variable) else ""
            another = option("set_env", {key: "VARIABLE"})
            if speaks_command_line():
                another = option("set_env", f"{key}=VARIABLE, without a $")
            remedy = f"export{name or ' it'}, or name another: {another}"
            raise InvalidUsage(f"{option('set_env')} {key}: the variable{name} is not set", remedy)
    return {key: _parsed(os.environ[variable]) for key, variable in variables.items()}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if text[:1] in ("{", "[") else text
    except (ValueError, RecursionError):
        return text


def _checkpoint_path(
    checkpoint: str | None, inputs: Sequence[str], spec: FunctionSpec | CommandSpec, format: str | None
) -> str:
    if checkpoint is not None:
        return os.path.abspath(checkpoint)
    for name in inputs:
        # Such a name says nothing of what is read: the next input with that name would be taken for this one.
        is_folder = os.path.isdir(name) and format is not None and format_named(format).wanted is not None
        if name == STDOUT or (format != "files" and not is_folder and not _is_name_of_content(name)):
            what = "stdin" if name == STDOUT else f"{name} is no regular file: it"
            raise InvalidUsage(f"{what} gives the checkpoint no name", "give -c FILE, or --no-checkpoint")
    name = spec.name if isinstance(spec, CommandSpec) else spec.name.rpartition(".")[2]
    return os.path.abspath(default_name(inputs[0], name))


def _is_name_of_content(path: str) -> bool:
    """Whether a path names a regular file by itself, or none yet: a pipe, a device and /dev/stdin do not."""
    return not os.path.exists(path) or (os.path.isfile(path) and descriptor_of(path) is None)


def _check_names(plan: Plan) -> None:
    """Refuse files in two roles that do not go together; an unnamed function needs a name for its checkpoint."""
    check_format(plan.output, plan.output_format)
    check_asked(plan.asked)
    check(plan.files)
    _check_modules(plan)
    prints = _prints(plan.settings)
    if prints is not None and _is_checkpoint(prints):
        raise InvalidUsage(f"{option('worker_output', prints)} is a checkpoint", "name another file")
    if plan.checkpoint and not plan.spec.named:
        what = "a lambda, or an object of a class inside of a function,"
        raise InvalidUsage(f"{what} has no name that a checkpoint could belong to", "give name=...")


def _check_modules(plan: Plan) -> None:
    """Refuse to write over a module that the function imports from beside it: these are looked for where it matters."""
    written = [use for use in plan.files if use.is_own and _may_be_source(use.path)]
    if written:
        specs = [anchored(spec) for spec in (plan.spec, plan.init, plan.end) if isinstance(spec, FunctionSpec)]
        modules = [os.path.join(folder, name) for folder, names in collect(*specs).items() for name in names]
        check([*(Use("a module of FUNCTION", path, Access.READ) for path in modules), *written])


def _may_be_source(path: str | int) -> bool:
    if not isinstance(path, str) or not os.path.isfile(path):
        return False
    return os.path.realpath(path).endswith(".py") or os.stat(path).st_nlink > 1


def _files(plan: Plan) -> Iterator[Use]:
    """What a batch reads and writes, as far as it is known beforehand."""
    for name in plan.sources:
        yield Use("stdin", 0, Access.READ) if name == STDOUT else Use("INPUT", name, Access.READ)
    descriptor = descriptor_in(plan.items)
    if descriptor is not None:
        yield Use("the file of items", descriptor, Access.READ)
    yield from _sources(plan)
    settings = plan.settings
    for name in ("cluster_file", *TLS):
        if getattr(settings, name):
            yield Use(option(name), getattr(settings, name), Access.READ)
    for key, value in plan.kwargs.items():
        if key not in settings.set_env and isinstance(value, (str, os.PathLike)):
            yield Use(f"{option('set')} {key}", os.fsdecode(value), Access.NAMED)
    yield from _written(plan)


def _sources(plan: Plan) -> Iterator[Use]:
    """What is called, from which files it is read."""
    if isinstance(plan.spec, CommandSpec):
        yield from (Use("COMMAND", word, Access.NAMED) for word in plan.spec.arguments)
        if plan.spec.program is not None:
            yield Use("COMMAND", plan.spec.program, Access.READ)
        return
    for role, path in source_files(plan.spec, {"init": plan.init, "end": plan.end}, plan.settings.preload, os.getcwd()):
        yield Use(role, path, Access.READ)


def _written(plan: Plan) -> Iterator[Use]:
    settings, path = plan.settings, plan.checkpoint
    if path is not None:
        yield Use("the checkpoint", path, Access.WRITTEN, "checkpoint")
        for suffix in ("damaged", "rescued"):
            yield Use("the checkpoint's", sibling(path, suffix), Access.MADE, "checkpoint")
        is_moved = settings.fresh or settings.fresh_if_finished
        for number, name in enumerate(names_aside(path, settings.keep), 1):
            access = Access.WRITTEN if is_moved and number <= settings.keep else Access.MADE
            yield Use("the checkpoint moved aside to", name, access, "checkpoint")
    if plan.output == STDOUT:
        yield Use("stdout", 1, Access.WRITTEN, STREAMS)
    elif plan.output is not None:
        group = STREAMS if descriptor_of(plan.output) in (1, 2) else "output"
        yield Use(option("output"), plan.output, Access.WRITTEN, group)
        partial = f"{os.path.realpath(plan.output) if os.path.islink(plan.output) else plan.output}.partial"
        yield Use(f"{option('output')} (at exit 3)", partial, Access.WRITTEN, "output")
    prints = _prints(settings)
    if prints is not None:
        yield Use(option("worker_output"), prints, Access.APPENDED)


def _prints(settings: Settings) -> str | None:
    """The file for what functions print, where it is one."""
    return None if settings.worker_output in WORKER_OUTPUTS else settings.worker_output


def _look_at_inputs(plan: Plan) -> None:
    """Refuse what is not of its format, and a table whose header names no columns, or not that of the ids."""
    if plan.cut is None or plan.format == "files":
        return
    if not plan.sources and plan.inputs:
        raise InvalidUsage(f"there is no Parquet file in {name_some(plan.inputs)}", "check the path of INPUT")
    for name in plan.sources:
        columns, wanted = look_at(name, plan.cut), plan.settings.id_field
        if columns is not None and wanted is not None and wanted not in columns:
            raise InvalidUsage(f"{name} has no column {wanted!r} ({option('id_field')})", nearest(wanted, columns))


def _is_checkpoint(path: str) -> bool:
    if not os.path.isfile(path):  # a fifo is not to be waited for
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(FILE_MAGIC)) == FILE_MAGIC
    except OSError:
        return False


def default_name(first_input: str, function: str) -> str:
    """The checkpoint's name where none is given: stem of the first INPUT, then of the function or program."""
    stem = os.path.basename(os.path.abspath(first_input)).split(".")[0] or "batch"
    return f"{stem}.{function}.ckpt"
