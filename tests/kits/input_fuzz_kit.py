"""Whatever bytes an INPUT has and whichever options it is run with: what `run` and `exec` make of it. Tests nothing.

A case writes an INPUT of some format (sound, or with some of its bytes changed; plain, compressed, with other line
ends or in another encoding), runs it with some options through the real command line, and holds what comes out against
a strict reader of the format that shares no code with batchmill's. Its choices come from the seed and its number alone.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Done; failed items; wrong use; stopped; damaged or missing INPUT; something in the way; of another batch.
ALLOWED = {0, 1, 2, 3, 65, 66, 73, 74, 78}
FUNCTIONS = """
def same(item):
    return repr(item)


def some(item):
    if len(repr(item)) % 3 == 0:
        raise ValueError(item)
    return repr(item)
"""
TEXTS = (
    "",
    "a",
    "é",
    "0",
    "x y",
    "=1+1",
    "a,b",
    "a;b",
    "a\tb",
    'say "hi"',
    '"',
    "\\",
    "{}",
    "null",
    "\u2028",
    "-o",
    "' '",
)


class Odd(NamedTuple):
    """A command that did what it should not: its words, its exit status, and what is wrong."""

    words: Sequence[str]
    status: int
    said: str


class _Input(NamedTuple):
    """Bytes of an INPUT of that format, and its items as a strict reader has them: (item, whether it is one)."""

    format: str
    data: bytes
    items: list[tuple[Any, bool]] | None  # None: not known


def case(number: int, seed: int, folder: Path) -> Iterator[Odd]:
    """Run case `number`, in a folder of its own in `folder`; what went wrong in it."""
    rng = random.Random(f"{seed} {number}")
    place = folder / "case"
    place.mkdir(exist_ok=True)
    for left in place.iterdir():
        left.unlink()
    (place / "f.py").write_text(FUNCTIONS)
    found = _input(rng)
    name = f"in{rng.choice(('', '.gz', '.zst'))}" if rng.random() < 0.1 else "in"
    data, is_sound = _dressed(rng, found.data)
    (place / name).write_bytes(data)
    is_exec = rng.random() < 0.3
    words = _words(rng, found.format, name, is_exec=is_exec)
    expected = _expected(found, words, is_exec=is_exec) if is_sound else None
    yield from _run(words, data, place, expected)


# --- inputs -----------------------------------------------------------------------------------------------------------


def _input(rng: random.Random) -> _Input:
    format = rng.choice(("jsonl", "lines", "null", "csv", "tsv"))
    count = rng.choice((0, 1, 2, 7, 30))
    is_table = format in ("csv", "tsv")
    delimiter = "\t" if format == "tsv" else ","
    data = _table(rng, delimiter, count) if is_table else _records(rng, format, count)
    if rng.random() < 0.4:
        data = _mutated(rng, data)
        return _Input(format, data, None if is_table else _READ[format](data))
    return _Input(format, data, _read_table(data, delimiter) if is_table else _READ[format](data))


def _records(rng: random.Random, format: str, count: int) -> bytes:
    end = {"null": "\0"}.get(format, rng.choice(("\n", "\n", "\r\n")))
    texts = [rng.choice(TEXTS) for _ in range(count)]
    if format == "jsonl":
        texts = [json.dumps({"id": n, "t": text} if rng.random() < 0.7 else text) for n, text in enumerate(texts)]
    return (end.join(texts) + (end if rng.random() < 0.8 else "")).encode()


def _table(rng: random.Random, delimiter: str, count: int) -> bytes:
    out = io.StringIO(newline="")
    end = rng.choice(("\n", "\r\n"))
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_MINIMAL)
    if rng.random() < 0.5:
        writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["id", "t"])
    for n in range(count):
        writer.writerow([n, rng.choice((*TEXTS, "two\nlines"))])
    return out.getvalue().encode()


def _mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(changed))
        part = rng.choice((b'"', b"\n", b"\r", b"\0", b"\xff", b",", b"\t", b"{", b"]", b"\xc3", b"1" * 20))
        changed[at : at + rng.choice((0, 0, 1, 3))] = part
    return bytes(changed)


def _dressed(rng: random.Random, data: bytes) -> tuple[bytes, bool]:
    """The bytes as a file has them, and whether they mean the same as before."""
    packs: Sequence[Callable[[bytes], bytes]] = (gzip.compress, bz2.compress, lzma.compress)
    kind = rng.random()
    if kind < 0.7:
        return data, True
    if kind < 0.8:
        return rng.choice(packs)(data), True
    if kind < 0.85:
        return rng.choice(packs)(data)[:-3], False
    if kind < 0.9:
        return data.decode("latin-1").encode("utf-16"), False
    return (b"\xef\xbb\xbf" + data, False) if kind < 0.95 else (data.replace(b"\n", b"\r"), False)


# --- strict readers ---------------------------------------------------------------------------------------------------


def _decoded(raw: bytes, read: Callable[[str], Any]) -> tuple[Any, bool]:
    try:
        return read(raw.decode()), True
    except (ValueError, RecursionError):
        return None, False


def _read_json(data: bytes) -> list[tuple[Any, bool]]:
    return [_decoded(raw.strip(), json.loads) for raw in data.split(b"\n") if raw.strip()]


def _read_lines(data: bytes) -> list[tuple[Any, bool]]:
    return [_decoded(raw.removesuffix(b"\r"), str) for raw in data.split(b"\n") if raw.strip()]


def _read_null(data: bytes) -> list[tuple[Any, bool]]:
    return [(raw.decode("utf-8", "surrogateescape"), True) for raw in data.split(b"\0") if raw]


def _read_table(data: bytes, delimiter: str) -> list[tuple[Any, bool]]:
    rows = csv.DictReader(io.StringIO(data.decode(), newline=""), delimiter=delimiter, strict=True)
    return [(row, True) for row in rows]


_READ = {"jsonl": _read_json, "lines": _read_lines, "null": _read_null}


# --- commands ---------------------------------------------------------------------------------------------------------


_OPTIONS = [
    ["--chunk-size", "1"], ["--chunk-size", "5"], ["--with-item"], ["--limit", "3"], ["--shard", "1/2"],
    ["--retries", "1", "--retry-delay", "0"], ["--window", "1"], ["--max-failures", "none"], ["--max-failures", "10%"],
    ["--allow-failures", "1"], ["--allow-failures", "50%"], ["--id-field", "t"], ["--id-field", "nothing"],
    ["--max-items-per-worker", "2"], ["--timeout", "20s"], ["--no-retry-failed"], ["--rerun-changed"], ["--json"],
    ["-q"], ["-v"], ["--progress", "log"],
]  # fmt: skip
_OF_TABLES = [["--skip-lines", "1"], ["--quote", "none"], ["--no-header"], ["--delimiter", ";"], ["--columns", "t"]]
_CHANGING = {"--limit", "--shard", "--id-field", *(option for option, *_ in _OF_TABLES)}


def _words(rng: random.Random, format: str, name: str, *, is_exec: bool) -> list[str]:
    """A command line over the INPUT, with some options: "-" for its last word where it is read from stdin."""
    source = "-" if rng.random() < 0.2 else name
    options = ["--format", format, "-c", "c.ckpt", "-o", "out.jsonl", "-j", rng.choice("12")]
    for some in _OPTIONS + (_OF_TABLES if format in ("csv", "tsv") else []):
        if rng.random() < 0.06:
            options += some
    if rng.random() < 0.06:
        options = [word for word in options if word not in ("-c", "c.ckpt")] + ["--no-checkpoint"]
    if is_exec:
        command = rng.choice((["printf", "%s", "{}"], ["cat"], ["sh", "-c", 'printf %s "$1"', "x", "{}"]))
        feeding = ["--stdin"] if command == ["cat"] else []
        return ["exec", source, *options, *feeding, "--", *command]
    return ["run", f"f.py:{rng.choice(('same', 'same', 'some'))}", source, *options]


def _expected(found: _Input, words: Sequence[str], *, is_exec: bool) -> list[Any] | None:
    """What the output has where nothing fails but what is no item; None where that is not known."""
    if found.items is None or is_exec or _CHANGING.intersection(words) or "f.py:some" in words:
        return None
    return [repr(item) for item, is_one in found.items if is_one]


def _run(words: Sequence[str], data: bytes, place: Path, expected: list[Any] | None) -> Iterator[Odd]:
    """Run it, and once more to continue: that finds all done."""
    status, said = _ended(words, data, place)
    if status not in ALLOWED or "Traceback (most recent call last)" in said:
        yield Odd(words, status, said)
        return
    written = (place / "out.jsonl").read_bytes() if status in (0, 1) else b""
    results = [json.loads(line)["result"] for line in written.splitlines()]
    is_known = expected is not None and status in (0, 1)
    if is_known and results != expected:
        yield Odd(words, status, f"results {results}\nexpected {expected}\n{said}")
    if status == 0 and "--no-checkpoint" not in words:
        end = words.index("--") if "--" in words else len(words)
        again = [*words[:end], "--resume", *words[end:]]
        status, said = _ended(again, data, place)
        found = (place / "out.jsonl").read_bytes()
        # Items that are equal may have one another's outcomes, which of `exec` have times in them.
        if status != 0 or sorted(found.splitlines()) != sorted(written.splitlines()):
            yield Odd(again, status, said)


def _ended(words: Sequence[str], data: bytes, place: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "batchmill", *words]
    try:
        ended = subprocess.run(command, cwd=place, input=data, capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return -1, "it did not end within 120 s"
    return ended.returncode, ended.stderr.decode("utf-8", "backslashreplace")
