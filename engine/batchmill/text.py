"""Text for people: numbers and sizes in words, what a terminal may show, errors and exit statuses as sentences."""

from __future__ import annotations

import re
import signal
import traceback
from collections.abc import Callable, Iterable, Sequence

from batchmill.errors import BatchmillError, ItemError, ItemFailed, ResultNotKept
from batchmill.secrecy import hide, mask_addresses

MAX_MESSAGE = 8 << 10  # characters of an error's message
MAX_TRACEBACK = 48 << 10

UNFIT = 113  # the exit status of a worker that cannot even answer: whatever it does, something is raised
_UNFIT = "could not answer for what was left behind in it (a hook, an alarm, a replaced builtin, …)"

# Controls (ESC, CR, LF and NUL among them), marks that turn the direction of text, line separators, lone surrogates.
_MARKS = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNSAFE = f"[\x00-\x1f{_MARKS}]"  # compiled by re where it is first met: that takes a millisecond
_UNSAFE_IN_LINES = f"[\x00-\x08\x0b-\x1f{_MARKS}]"


def plural(count: int, noun: str) -> str:
    """`1 item`, `2 items`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def name_some(names: Sequence[str], most: int = 5) -> str:
    """The first `most` of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def read_names(text: str) -> tuple[str, ...]:
    """The names in a text such as `a,b,"c,d"`, as a row of CSV is read; raises ValueError."""
    import csv

    try:
        return tuple(next(csv.reader([text], strict=True), ()))
    except csv.Error as error:
        raise ValueError(str(error)) from None


def write_names(names: Sequence[str]) -> str:
    """The text that `read_names` reads such names from."""
    plain = re.compile('[^",\r\n]+')
    return ",".join(name if plain.fullmatch(name) else '"{}"'.format(name.replace('"', '""')) for name in names)


def where(line: int, file: str) -> str:
    """Where an item is, in words: its line, and which INPUT's where there are several."""
    return f"line {line} of {escape(file, 300)}" if file else f"line {line}"


def several(inputs: Sequence[str], format: str | None) -> Sequence[str]:
    """The names of INPUTs where a line needs one: () for a single one, and where an item is a file of its own."""
    return inputs if len(inputs) > 1 and format != "files" else ()


def format_rate(rate: float) -> str:
    """Items per second in at most four significant digits."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"


def format_clock(seconds: float) -> str:
    """Seconds as H:MM:SS."""
    whole = int(seconds + 0.5)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def format_size(size: float) -> str:
    """Bytes as a short number with a power-of-1024 suffix (`1.2G`)."""
    for suffix in ("B", "K", "M"):
        if size < 1024:
            return f"{size:.0f}{suffix}"
        size /= 1024
    return f"{size:.1f}G"


def close_names(name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The `count` known names closest to `name`, of those at least `cutoff` (0 to 1) alike; [] where none is."""
    import difflib  # only after a mistake; start-up does not pay for it

    return difflib.get_close_matches(name, list(known), count, cutoff)


def did_you_mean(close: Iterable[str], otherwise: str) -> str:
    """A remedy naming what `close_names` found; `otherwise` where that is nothing."""
    names = " or ".join(close)
    return f"did you mean {names}?" if names else otherwise


def nearest(name: str, known: Iterable[str], what: str = "known:") -> str:
    """A remedy naming the known name closest to `name`, or all of them, after `what`, when none is close."""
    names = list(known)
    return did_you_mean(map(repr, close_names(name, names)), f"{what} {', '.join(names)}")


def option_name(setting: str) -> str:
    """A setting's name as the command line spells it."""
    return "--" + setting.replace("_", "-")


_SHORT = {"checkpoint": "-c", "output": "-o", "header": "--no-header", "formula_guard": "--no-formula-guard"}
_OF_PYTHON = {
    "set": "kwargs",
    "id_field": "id",
    "header": "header=False",
    "formula_guard": "formula_guard=False",
    "with_removed": "removed",
}
_is_command_line = False


def speak_command_line() -> None:
    """From now on this process speaks to a command line: before, it speaks to a program in Python. See `option`."""
    global _is_command_line
    _is_command_line = True


def speaks_command_line() -> bool:
    """Whether `option` writes for a command line."""
    return _is_command_line


def option(setting: str, value: object = "") -> str:
    """A setting as whoever is told writes it: `--keep 3` or `keep=3`, `--resume` or `resume=True`, `-c FILE` or
    `checkpoint=FILE`; its name alone without a value."""
    if _is_command_line:
        name, sign = _SHORT.get(setting) or option_name(setting), " "
    else:
        name, sign = _OF_PYTHON.get(setting, setting), "="
    if value == "" or (value is True and _is_command_line):
        return name
    is_text = isinstance(value, str) and (value[0].islower() or value[0] == "/") and " " not in value
    return f"{name}{sign}{value!r}" if is_text and not _is_command_line else f"{name}{sign}{value}"


def escape(text: str, limit: int = 200) -> str:
    """`text` fit for a terminal, a log line or a cell, in at most `limit` characters ("…" where it was cut).

    What could move the cursor, turn the direction of text or end the line becomes \\xNN or \\uNNNN.
    """
    shown = re.sub(_UNSAFE, _escaped, text[: limit + 1])
    return shown if len(shown) <= limit else shown[: max(0, limit - 1)] + "…"


def harmless(data: bytes) -> bytes:
    """Lines of text or JSON fit for a terminal: all but line ends and tabs becomes \\uNNNN, which JSON reads back.

    Bytes that are no UTF-8 become \\xNN.
    """
    return re.sub(_UNSAFE_IN_LINES, _as_json, data.decode("utf-8", "surrogateescape")).encode()


def _as_json(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if code >= 0xDC00 and code < 0xDD00 else f"\\u{code:04x}"


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def describe_exit(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "died"
    if code == UNFIT:
        return _UNFIT
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def describe(error: BaseException) -> ItemError:
    """An exception as text of bounded length, whatever its methods do."""
    if isinstance(error, ItemFailed):
        return error.error
    message = _told(lambda: str(error), "(its message cannot be read)")
    trace = "" if isinstance(error, ResultNotKept) else _trace(error)  # of the function there is nothing in it
    return ItemError(_told(lambda: type(error).__name__, "Exception"), message, trace)


def in_words(error: BaseException | ItemError) -> str:
    """An error as one text: its type, and its message if it has one."""
    told = error if isinstance(error, ItemError) else describe(error)
    return f"{told.type}: {told.message}" if told.message else told.type


def as_reported(error: BaseException) -> str:
    """An error as a report has it."""
    return mask_addresses(str(error) if isinstance(error, BatchmillError) else in_words(error))


def _told(read: Callable[[], str], otherwise: str) -> str:
    try:
        return _bounded(hide(str.__str__(read())), MAX_MESSAGE)  # of a subclass of str, no method is called
    except BaseException:
        return otherwise


def _trace(error: BaseException) -> str:
    try:
        # The first frame is ours.
        shown = error.__traceback__.tb_next if error.__traceback__ is not None else None
        lines = traceback.TracebackException(type(error), error, shown, limit=-40, compact=True).format()
        text, size = [], 0
        for line in lines:
            text.append(_bounded(hide(line), MAX_MESSAGE))  # while a secret in it is whole
            size += len(text[-1])
            if size > MAX_TRACEBACK:
                break
        return _bounded("".join(text), MAX_TRACEBACK)
    except BaseException:
        return ""


def _bounded(text: str, limit: int) -> str:
    # Lone surrogates would make the text unreadable for other readers of the file.
    text = text if len(text) <= limit else f"{text[:limit]} ... ({len(text)} characters)"
    return text.encode("utf-8", "backslashreplace").decode()
