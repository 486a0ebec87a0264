"""Checkpoints with right checksums and wrong contents, and what every command makes of them. Tests nothing itself.

A case takes a checkpoint that real runs have made, changes a few of its decoded payloads (types, sizes, signs, nesting,
keys, whole frames), writes it with right checksums and runs every command that reads one, in this process. Its choices
come from the seed and its number alone.
"""

from __future__ import annotations

import copy
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from batchmill.checkpoint.frames import FileHeader, FileScan, FrameType, frame_bytes
from batchmill.codec.outcomes import HEAD_SIZE, PEEK, Head, read_head
from batchmill.codec.pack import pack_value
from batchmill.codec.unpack import unpack_value

# Read, or damaged; of something else, or a newer version (META says so).
ALLOWED = {0, 65, 78}
CPU_SECONDS = 20  # of one command on one file of some KB
SEED = FileHeader(bytes(range(16)))

VARIABLE, SECRET = "FUZZ_SECRET", "s3cret-of-the-fuzz"

FUNCTIONS = """
def work(item, k=None):
    n = item["n"] if isinstance(item, dict) else item
    if int(n) % 7 == 3:
        raise ValueError(f"no {n}")
    return {"n": (n, {int(n)}), 1: None} if int(n) % 2 else n
"""


class Frame(NamedTuple):
    type: int
    payload: bytes


# --- good ones --------------------------------------------------------------------------------------------------------


def corpus(folder: Path) -> dict[str, list[Frame]]:
    """Checkpoints of real runs, by name: each of two runs, the second over an input in another order."""
    (folder / "f.py").write_text(FUNCTIONS)
    records = {"jsonl": '{{"id": "i{0}", "n": {0}}}\n', "csv": '{0},"a\n{0}"\n', "lines": "{0}\n"}
    found = {}
    for format, record in records.items():
        lines = [record.format(n) for n in range(40)]
        name = folder / f"{format}.{'txt' if format == 'lines' else format}"
        head = "n,t\n" if format == "csv" else ""
        for order in (lines, lines[::-1] + [record.format(n) for n in range(40, 50)]):
            name.write_text(head + "".join(order))
            words = ["run", "f.py:work", name.name, "-c", f"{format}.ckpt", "--resume", "-j", "2", "--chunk-size", "6"]
            run(folder, [*words, "--with-item", "--set", 'k={"a": [1]}'] if format == "jsonl" else words)
        found[format] = frames_of(folder / f"{format}.ckpt")
    os.environ[VARIABLE] = SECRET
    for kind in ("exec", "secret"):
        run(folder, resuming(f"{kind}.ckpt", kind))
        found[kind] = frames_of(folder / f"{kind}.ckpt")
    return found


def run(folder: Path, words: Sequence[str]) -> None:
    command = [sys.executable, "-m", "batchmill", *words]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode in (0, 1), ended.stderr


def frames_of(path: Path) -> list[Frame]:
    data = path.read_bytes()
    scan = FileScan(lambda at, size: data[at : at + size], len(data), FileHeader.unpack(data), peek=1 << 27)
    return [Frame(ref.type, payload) for ref, payload in scan]


def file_of(frames: Sequence[Frame]) -> bytes:
    """A checkpoint of these frames, with right checksums."""
    parts = [SEED.pack()]
    for seq, frame in enumerate(frames):
        before, after = frame_bytes(SEED.seed, seq, 0, frame.type, frame.payload)
        parts += [before, frame.payload, after]
    return b"".join(parts)


# --- bad ones ---------------------------------------------------------------------------------------------------------

P = 2**61 - 1  # the hash of an integer is its rest of this


def colliding(count: int) -> bytes:
    """A set of integers of one hash."""
    items = b"".join(pack_value(n * P) for n in range(1, count))
    extension: bytes = msgpack.packb(msgpack.ExtType(66, b"\xdd" + (count - 1).to_bytes(4, "big") + items))
    return extension


class Raw(NamedTuple):
    """Bytes that stand for a value."""

    data: bytes


def nested(depth: int, kind: str = "list") -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


NUMBERS = (0, -1, 1, 2, 3, 255, 1024, 65535, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1,
           -(2**31), -(2**63), 2**64, 10**400, -(10**5000))  # fmt: skip
FLOATS = (0.0, -0.0, -1.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"), 0.5)
TEXTS = ("", "x", "\x1b[2J", "\ud800", "é" * 300, "a" * 100_000, "1", "forever", "../../etc/passwd", "null", "%s", "-o")


def odd_values(rng: random.Random) -> Any:
    """A value that is not what it should be, whatever that is."""
    return rng.choice(
        (
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice(FLOATS),
            lambda: rng.choice(TEXTS),
            lambda: rng.choice((None, True, False, b"", b"\xff" * 16, b"\0" * 5000)),
            lambda: rng.choice(([], {}, (), set(), [None] * 3, [[]] * 5, {"a": {"b": {}}}, {1: 2, None: 3}, {(1,): 2})),
            lambda: nested(rng.choice((3, 90, 490, 520, 1000)), rng.choice(("list", "map"))),
            lambda: {rng.choice(TEXTS): odd_values(rng) for _ in range(rng.randrange(4))},
            lambda: [odd_values(rng) for _ in range(rng.randrange(4))],
            lambda: Raw(colliding(rng.choice((10, 100, 5000)))),
            lambda: Raw(msgpack.packb(msgpack.ExtType(rng.randrange(60, 82), rng.randbytes(rng.randrange(20))))),
            lambda: Raw(msgpack.packb(msgpack.ExtType(73, b"1e999999999"))),
            lambda: Raw(msgpack.packb(msgpack.ExtType(73, b"sNaN"))),
            lambda: Raw(msgpack.packb(msgpack.ExtType(69, b"\x019999-12-31T23:59:59.999999+23:59"))),
            lambda: Raw(msgpack.packb(msgpack.ExtType(64, rng.randbytes(3000)))),
            lambda: Raw(msgpack.packb(msgpack.ExtType(77, msgpack.packb(["<f8", [2, 2], bytes(32)])))),
            lambda: Raw(msgpack.packb(msgpack.ExtType(78, msgpack.packb(["<M8[ns]", [], bytes(8)])))),
            lambda: Raw(msgpack.packb(msgpack.ExtType(65, b"\x91\x81\x01\x02"))),
            lambda: Raw(msgpack.packb(msgpack.Timestamp(2**33, 5))),
            lambda: Raw(b"\x82\xa1a\x01\xa1a\x02"),
            lambda: Raw(b"\x82\x01\x01\x01\x02"),
        )
    )()


def packed(value: Any) -> bytes:
    """As pack_value, with Raw parts as they are; whatever is in it is not checked."""
    if isinstance(value, Raw):
        return value.data
    if type(value) is dict:
        head = b"\xdf" + len(value).to_bytes(4, "big")
        return head + b"".join(packed(key) + packed(item) for key, item in value.items())
    if type(value) is list:
        return b"\xdd" + len(value).to_bytes(4, "big") + b"".join(map(packed, value))
    return pack_value(value)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of everything inside of a value."""
    if type(value) in (dict, list):
        for key in list(value) if type(value) is dict else range(len(value)):
            yield value, key
            yield from places(value[key])


def spoil(rng: random.Random, value: Any) -> Any:
    """The value with one thing in it changed; a copy."""
    value = copy.deepcopy(value)
    found = list(places(value))
    if not found or rng.random() < 0.03:
        return odd_values(rng)
    container, key = rng.choice(found)
    what = rng.random()
    if what < 0.15:
        del container[key]
    elif what < 0.25 and type(container) is dict:
        container[rng.choice((*TEXTS, 1, None))] = odd_values(rng)
    elif what < 0.35 and type(container) is list:
        container[key:key] = [copy.deepcopy(container[key])] * rng.choice((1, 2, 5000))
    elif what < 0.5 and type(container[key]) in (int, float):
        container[key] += rng.choice((1, -1, 1000, -1000, 2**40))
    else:
        container[key] = odd_values(rng)
    return value


def spoiled_map(rng: random.Random, payload: bytes) -> bytes:
    return packed(spoil(rng, unpack_value(payload)))


FIELDS = "<BBHIIIIIIIIIQQQddIHH16sII"
LIMITS = {"B": 8, "H": 16, "I": 32, "Q": 64}


def spoiled_outcomes(rng: random.Random, payload: bytes) -> bytes:
    """An OUTCOMES payload with a number in its head, or a column, changed; its sizes are put right, mostly."""
    head = read_head(payload)
    body = payload[PEEK:]
    ids, results = body[: head.ids_size], body[head.ids_size : head.ids_size + head.results_size]
    count = (payload[0] & 15) - 3
    tail = unpack_value(bytes((0x90 | count,)) + body[head.ids_size + head.results_size :])
    for _ in range(rng.choice((1, 1, 2))):
        which = rng.random()
        if which < 0.4:
            head = spoiled_head(rng, head)
        elif which < 0.55:
            ids = packed(spoil(rng, unpack_value(ids)))
        elif which < 0.7:
            results = packed(spoil(rng, unpack_value(results)))
        elif which < 0.8:
            column = rng.randrange(len(tail))
            if isinstance(tail[column], bytes) and tail[column]:
                tail[column] = spoiled_numbers(rng, tail[column])
        else:
            tail = spoil(rng, tail)
    tail = tail if type(tail) is list else [tail]
    if rng.random() < 0.95:
        head = head._replace(ids_size=len(ids), results_size=len(results))
    opening = bytes((0x90 | min(15, 3 + len(tail)), 0xC4, HEAD_SIZE))
    return opening + head.pack() + ids + results + b"".join(map(packed, tail))


def spoiled_head(rng: random.Random, head: Head) -> Head:
    codes = FIELDS[1:].replace("16s", "s")
    at = rng.randrange(len(codes))
    name, code = head._fields[at], codes[at]
    if code == "s":
        return head._replace(digest=rng.randbytes(16))
    if code == "d":
        odd: dict[str, Any] = {name: rng.choice(FLOATS)}
        return head._replace(**odd)
    top = 2 ** LIMITS[code] - 1
    value = rng.choice((0, 1, 2, 7, top, top // 2, getattr(head, name) + 1, max(0, getattr(head, name) - 1)))
    changed = {name: min(value, top)}
    if name in ("ok", "failed", "items") and rng.random() < 0.7:  # so that they add up
        changed = {"ok": min(value, top), "failed": 0, "items": min(value, top)}
    return head._replace(**changed)


def spoiled_numbers(rng: random.Random, column: bytes) -> bytes:
    changed = bytearray(column)
    odd = rng.choice((bytes(4), b"\xff" * 4, struct.pack("<f", -1.0), struct.pack("<f", float("nan")), b"\0\0\0\x80"))
    at = 4 * rng.randrange(max(1, len(changed) // 4))
    changed[at : at + 4] = odd
    return bytes(changed)


def spoiled_file(rng: random.Random, good: Sequence[Frame], others: Sequence[Sequence[Frame]]) -> list[Frame]:
    """The frames of a checkpoint with one to three things wrong."""
    frames = list(good)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, what = rng.randrange(len(frames)), rng.random()
        frame = frames[at]
        if what < 0.03 and at:
            del frames[at]
        elif what < 0.06:
            frames.insert(at, frames[rng.randrange(len(frames))])
        elif what < 0.09:
            frames.insert(at or 1, rng.choice(rng.choice(others)))
        elif what < 0.12:
            frames[at] = Frame(rng.randrange(8), frame.payload)
        elif what < 0.14:
            frames[at] = Frame(frame.type, rng.choice((b"", b"\xc0", b"\x90", b"\x80", rng.randbytes(50))))
        elif frame.type == FrameType.OUTCOMES:
            frames[at] = Frame(frame.type, tried(spoiled_outcomes, rng, frame.payload))
        elif frame.type != FrameType.GAP:
            frames[at] = Frame(frame.type, tried(spoiled_map, rng, frame.payload))
    return frames


def tried(change: Callable[[random.Random, bytes], bytes], rng: random.Random, payload: bytes) -> bytes:
    """The changed payload; as it was where an earlier change has made it unreadable, or it cannot be packed."""
    try:
        return change(rng, payload)
    except Exception:
        return payload


# --- the commands -----------------------------------------------------------------------------------------------------


def commands(path: str, format: str) -> Iterator[list[str]]:
    """Every command that reads a checkpoint, in every form of its output."""
    yield ["verify", path]
    yield ["verify", path, "--json"]
    yield ["status", path]
    yield ["status", path, "--json"]
    yield ["failures", path]
    yield ["failures", path, "--json"]
    yield ["failures", path, "--items"]
    for output in ("jsonl", "csv", "msgpack", "raw"):
        yield ["results", path, "--output-format", output]
        yield ["results", path, "--output-format", output, "--all"]
    yield ["results", path, "--all", "--output-format", "sqlite", "-o", "out.db"]
    yield ["results", path, path]
    yield ["report", path, "-o", "report.html"]
    yield ["verify", path, "--salvage"]
    yield [*resuming(path, format), "--dry-run", "--accept-changes"]
    yield [*resuming(path, format), "--dry-run"]


def resuming(path: str, format: str) -> list[str]:
    """The command that continues the run."""
    if format == "exec":
        return ["exec", "lines.txt", "-c", path, "--resume", "-o", "exec.out", "--", "expr", "{}", "/", "1"]
    if format == "secret":
        return ["run", "f.py:work", "lines.txt", "-c", path, "--resume", "-j", "2", "--set-env", f"k={VARIABLE}"]
    name = f"{format}.{'txt' if format == 'lines' else format}"
    more = ["--with-item", "--set", 'k={"a": [1]}'] if format == "jsonl" else []
    return ["run", "f.py:work", name, "-c", path, "--resume", "-j", "2", *more]


class Odd(NamedTuple):
    """A command that did what it should not."""

    words: list[str]
    status: object
    said: str


def here(words: list[str]) -> tuple[object, str]:
    """Run a command in this process: (status, what it said on stderr)."""
    from batchmill_cli import main

    with open("stderr.txt", "wb+") as said, open(os.devnull, "wb") as nowhere:
        kept = os.dup(1), os.dup(2)
        os.dup2(nowhere.fileno(), 1)
        os.dup2(said.fileno(), 2)
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)  # its default action ends this process
        try:
            status: object = main._run(words)
        except BaseException as error:
            status = repr(error)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            for fd, copied in enumerate(kept, 1):
                os.dup2(copied, fd)
                os.close(copied)
        said.seek(0)
        return status, said.read().decode("utf-8", "backslashreplace")


def apart(words: list[str]) -> tuple[object, str]:
    """Run a command as a process of its own."""
    command = [sys.executable, "-m", "batchmill", *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, errors="replace")
    return ended.returncode, ended.stderr


def is_right(words: list[str], status: object, said: str) -> bool:
    """Whether a command ended as it may: with one line where it refused the file."""
    is_run = "--resume" in words and "--dry-run" not in words
    if status not in ALLOWED | ({1} if is_run else set()) or "Traceback" in said or SECRET in said:
        return False
    told = [line for line in said.splitlines() if line.startswith("batchmill: ")]
    return status not in (65, 78) or len(told) == (0 if words[0] == "verify" and not said else 1)


def case(number: int, seed: int, good: dict[str, list[Frame]]) -> Iterator[Odd]:
    """One case: what went wrong with it."""
    rng = random.Random(f"{seed} {number}")
    format = rng.choice(sorted(good))
    path, salvaged = "x.ckpt", Path("x.salvaged.ckpt")
    Path(path).write_bytes(file_of(spoiled_file(rng, good[format], list(good.values()))))
    salvaged.unlink(missing_ok=True)
    found = {}
    for words in commands(path, format):
        status, said = here(words)
        found[" ".join(words)] = status
        if not is_right(words, status, said):
            yield Odd(words, status, said)
        # What verify finds nothing wrong with, nobody else does; and the other way round.
        elif status == 65 and found[f"verify {path}"] == 0:
            yield Odd(words, "65, but verify finds nothing", said)
    if salvaged.exists():
        name = str(salvaged)
        for words in (["verify", name], ["results", name, "--all"], ["report", name, "-o", "-"]):
            status, said = here(words)
            if status != 0:
                yield Odd(words, f"{status} of what was salvaged", said)
    if number % 25 == 0:
        words = resuming(path, format)
        status, said = apart(words)
        if not is_right(words, status, said):
            yield Odd(words, status, said)
