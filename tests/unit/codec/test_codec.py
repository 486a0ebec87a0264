"""Values go through msgpack exact or are refused in a sentence; hostile bytes cost no more than an error."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import inspect
import math
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import threading
import uuid
from array import array
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import attrs
import msgpack
import numpy as np
import pydantic
import pytest
from cli_kit import PEAK_MIB
from hypothesis import given, settings
from hypothesis import strategies as st
from value_kit import KEYS, SURROGATES, VALUES, nested, nested_map

from batchmill.codec.ids import canonical, digest_id, id_key
from batchmill.codec.outcome_block import OutcomeBlock, outcomes, read_ids
from batchmill.codec.outcomes import (
    NIL,
    PEEK,
    SUPERSEDES,
    Head,
    pack_map,
    pack_outcomes,
    read_head,
    unpack_map,
)
from batchmill.codec.pack import MAX_PACKED, pack_result, pack_value
from batchmill.codec.unpack import unpack_value
from batchmill.errors import CheckpointDamaged, ResultNotKept


def exact(value: Any) -> Any:
    """Something that compares with types, folds and offsets, which `==` passes over."""
    if isinstance(value, dict):
        return dict, [(exact(k), exact(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [exact(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(repr, map(exact, value)))
    if isinstance(value, (dt.datetime, dt.time)):
        return type(value), value.isoformat(), value.fold
    return type(value), repr(value)


def again(value: Any) -> Any:
    return unpack_value(pack_result(value))


# --- values ----------------------------------------------------------------------------------------------------------


@given(VALUES)
@settings(max_examples=150, deadline=None)
def test_every_value_comes_back_with_its_type(value: Any) -> None:
    assert exact(again(value)) == exact(value)


@pytest.mark.parametrize(
    "value",
    [2**63, 2**64, -(2**63) - 1, 2**70, {1: 2}, {(1, "a"): 2, None: 3, 1.5: 4}, (), [()], set(), frozenset(),
     "\ud800", {"\udfff": ["\ud83d\ude00"]}, -0.0, math.inf, -math.inf, Decimal("sNaN12"), Decimal("-0E+7"),
     dt.datetime.min, dt.datetime.max, dt.timedelta.max, dt.timedelta.min, dt.date(1, 1, 1), uuid.UUID(int=1),
     dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=dt.timezone(dt.timedelta(hours=1, microseconds=7))),
     msgpack.Timestamp(1, 2), ((((1,),),),), {"a": (1, {"b": {2}})}, b"\x00\xff",
     collections.deque([1, (2,)], 5), collections.deque(), range(5), range(10, 0, -3), range(2**80, 2**80 + 3),
     array("d", [1.5, math.inf]), array("u", "h\xe9"), array("i")],
)  # fmt: skip
def test_the_corners_come_back_exact(value: Any) -> None:
    assert exact(again(value)) == exact(value)


def test_not_a_number_keeps_its_bits() -> None:
    for bits in (0x7FF8000000000000, 0xFFF8000000000001, 0x7FF8DEADBEEF0000):
        raw = struct.pack(">Q", bits)
        assert struct.pack(">d", again(struct.unpack(">d", raw)[0])) == raw


class Colour(enum.Enum):
    RED = (1, 2**80)


class Level(enum.IntEnum):
    LOW = 3


class Word(str):
    __slots__ = ()


class Whole(int):
    pass


class Point(NamedTuple):
    x: int
    y: Any


@dataclasses.dataclass
class Job:
    name: str
    parts: list[Any]


class Model(pydantic.BaseModel):
    name: str
    parts: list[Any]


class Root(pydantic.RootModel[list[int]]):
    pass


@attrs.define
class Attributes:
    x: int
    _y: str = "q"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, (1, 2**80)),
        (Level.LOW, 3),
        (Word("w"), "w"),
        (Whole(2**90), 2**90),
        (Point(1, {2}), (1, {2})),
        (Job("j", [Job("k", [])]), {"name": "j", "parts": [{"name": "k", "parts": []}]}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.ChainMap({"a": 1}), {"a": 1}),
        (bytearray(b"ab"), b"ab"),
        (Model(name="m", parts=[Model(name="n", parts=[])]), {"name": "m", "parts": [{"name": "n", "parts": []}]}),
        (Root([1]), [1]),
        (Attributes(1), {"x": 1, "_y": "q"}),
    ],
)
def test_relatives_of_plain_types_become_plain(value: Any, expected: Any) -> None:
    assert exact(again(value)) == exact(expected)
    assert exact(again([value])) == exact([expected])


@pytest.mark.parametrize("dtype", ["<i1", ">i4", "<u8", "<f2", ">f8", "<f16", "<c16", "|b1", "<U3", "|S5", "<M8[ns]",
                                   "<m8[25s]", "|V7"])  # fmt: skip
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)])
def test_numpy_keeps_dtype_shape_and_bytes(dtype: str, shape: tuple[int, ...]) -> None:
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    raw = bytes(size) if kind.kind in "Ub" else bytes(i % 100 for i in range(size))
    value = np.ndarray(shape, kind, raw).copy() if raw else np.zeros(shape, kind)
    back = again({"a": value})["a"]
    assert (type(back), back.dtype, back.shape, back.tobytes()) == (np.ndarray, kind, shape, value.tobytes())
    assert back.flags.writeable
    if value.size:
        scalar = value.reshape(-1)[0]
        found = again(scalar)
        assert (type(found), found.dtype, found.tobytes()) == (type(scalar), scalar.dtype, scalar.tobytes())


def test_numpy_records_and_fortran_arrays_come_back() -> None:
    record: Any = np.zeros(2, np.dtype([("a", "<i2"), ("b", [("c", ">f4", (2,))])], align=True))
    record["a"] = 7
    assert again(record).dtype == record.dtype
    assert again(record).tobytes() == record.tobytes()
    matrix = np.asfortranarray(np.arange(6).reshape(2, 3))
    assert (again(matrix) == matrix).all()
    assert again(np.float64("nan")).tobytes() == np.float64("nan").tobytes()


def test_a_worker_without_numpy_does_not_import_it() -> None:
    script = (
        "import sys; from batchmill.codec.pack import *; from batchmill.codec.unpack import *; "
        "unpack_value(pack_result((1, {2}))); print('numpy' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "False\n"


def test_numpy_missing_where_it_is_needed_is_said() -> None:
    packed = pack_value(np.zeros(2))
    script = f"""
        import sys; sys.modules["numpy"] = None
        from batchmill.codec.unpack import unpack_value
        try: unpack_value({packed!r})
        except Exception as error: print(error.exit_code, error)
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60)
    assert found.stdout == "78 a result is a numpy value, and numpy is not installed here; pip install numpy\n"


# --- refusals --------------------------------------------------------------------------------------------------------


class Zoned(dt.datetime):
    pass


OTHERWISE = "return a dict, list, text or number, or write a file and return its path"


class Plain:
    def __init__(self) -> None:
        self.a = 1


@pytest.mark.parametrize(
    ("value", "name", "remedy"),
    [((i for i in [0]), "generator", "return list(...) of it"), (lambda: 0, "function", OTHERWISE),
     (object(), "object", OTHERWISE), (Job, "type", OTHERWISE), (Zoned(2020, 1, 1), "Zoned", OTHERWISE),
     (Plain(), "Plain", "make its class a dataclass, or return vars(...) of it"),
     (np.ma.masked_array([1]), "MaskedArray", "return its tolist()"), (..., "ellipsis", OTHERWISE)],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_in_a_sentence_with_its_type(value: Any, name: str, remedy: str) -> None:
    for result in (value, [1, value], {"a": (value,)}, {1: {"b": [value]}}):
        with pytest.raises(ResultNotKept) as caught:
            pack_result(result)
        assert str(caught.value) == f"a result of type {name!r} cannot be kept; {remedy}"


def test_a_range_that_is_a_list_of_too_many_numbers_is_refused() -> None:
    with pytest.raises(
        ResultNotKept, match="a range of more than 65536 numbers cannot be kept; return its start, stop"
    ):
        pack_result(range(10**12))
    with pytest.raises(CheckpointDamaged):
        unpack_value(msgpack.packb(msgpack.ExtType(83, msgpack.packb([0, 10**12, 1]))))


def test_numpy_objects_are_refused() -> None:
    values: list[Any] = [np.array([object()]), np.zeros(1, [("a", "O")])]
    for value in values:
        with pytest.raises(TypeError, match="dtype"):
            pack_result(value)


class Seasonal(dt.tzinfo):
    """An offset that depends on the date, as in every zone with a summer time."""

    def utcoffset(self, moment: dt.datetime | None) -> dt.timedelta | None:
        return None if moment is None else dt.timedelta(hours=2 if 3 < moment.month < 10 else 1)

    def tzname(self, moment: dt.datetime | None) -> str | None:
        return "seasonal"

    def dst(self, moment: dt.datetime | None) -> dt.timedelta | None:
        return None


def test_a_zone_keeps_its_offset_or_is_refused() -> None:
    summer = dt.datetime(2024, 7, 1, tzinfo=Seasonal())
    assert again(summer).utcoffset() == dt.timedelta(hours=2)
    assert again(summer).replace(tzinfo=None) == summer.replace(tzinfo=None)
    with pytest.raises(TypeError, match="the zone of the time 01:00:00 cannot be kept; return its isoformat"):
        pack_result(dt.time(1, tzinfo=Seasonal()))
    tiny = dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(microseconds=1)))
    try:
        back = again(tiny)
    except TypeError:
        return  # where Python itself reads such an offset as none
    assert exact(back) == exact(tiny)


@pytest.mark.parametrize("make", [list, tuple, frozenset])
@pytest.mark.parametrize("depth", [501, 600, 1020, 1030, 5000, 100_000])
def test_too_deep_is_refused_and_never_a_recursion_error(make: Any, depth: int) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        pack_result(nested(make, depth) if make is not list else [nested(list, depth - 1)])
    with pytest.raises(ValueError, match="nested too deeply"):
        pack_result(nested_map(depth))


def test_the_depths_that_are_promised_come_back() -> None:
    for value in (nested(list, 500), nested_map(500), nested(tuple, 100), nested(frozenset, 100)):
        assert again(value) == value


def test_a_caller_deep_in_its_own_stack_gets_no_recursion_error() -> None:
    def descend(levels: int) -> bytes:
        return descend(levels - 1) if levels else pack_result(nested(tuple, 90))

    with pytest.raises(ValueError, match="nested too deeply"):
        descend(sys.getrecursionlimit() - len(inspect.stack(0)) - 100)
    assert again((1, (2,))) == (1, (2,))


def test_a_list_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append((value,))
    with pytest.raises(ValueError, match="nested too deeply"):
        pack_result(value)


def test_a_large_result_is_told_to_write_a_file() -> None:
    with pytest.raises(
        ValueError, match="must stay below 64 MiB packed, this one has 70 MiB: write a file, return its"
    ):
        pack_result(bytes(70 << 20))
    assert len(pack_result(bytes(MAX_PACKED - 5))) == MAX_PACKED


def test_a_result_that_could_not_be_read_in_bounded_memory_is_refused() -> None:
    empty: dict[str, int] = {}
    with pytest.raises(ValueError, match="does not read back"):
        pack_result([empty] * 4_000_000)


def test_a_result_that_does_not_read_back_is_refused() -> None:
    frozen = dataclasses.make_dataclass("Frozen", ["a"], frozen=True)
    with pytest.raises(ValueError, match="does not read back"):  # a dataclass is a map, which is no key
        pack_result({frozen(1): 2})
    with pytest.raises(ValueError, match="does not read back"):
        pack_result(msgpack.ExtType(5, b""))
    assert again({"id": 1}) == {"id": 1}


def test_a_failed_pack_leaves_the_next_one_alone() -> None:
    for bad in ([1, 2, object()], (1, (2, object())), {"a": {1, dataclasses}}, nested(tuple, 300), ["x" * 5000, ...]):
        with pytest.raises((TypeError, ValueError)):
            pack_result(bad)
        for good in ({"id": 1, "v": 2.5}, (1, (2, {3})), [1]):
            assert exact(again(good)) == exact(good)


def test_threads_do_not_disturb_each_other() -> None:
    wrong: list[Any] = []

    def work(n: int) -> None:
        value = {"n": n, "t": tuple(range(n, n + 50)), "s": {n}}
        wrong.extend(i for i in range(300) if again(value) != value)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


# --- hostile bytes ---------------------------------------------------------------------------------------------------

ext = msgpack.ExtType
HOSTILE = {
    "pickle": pickle.dumps({"a": 1}),
    "nothing": b"",
    "two values": b"\xc0\xc0",
    "half a value": b"\x92\x01",
    "reserved byte": b"\xc1",
    "depth 2000": b"\x91" * 2000 + b"\x90",
    "a length beyond the bytes": b"\xdd\xff\xff\xff\xff",
    "bad text": b"\xa1\xff",
    "an unhashable key": b"\x81\x90\x01",
    "an unknown extension": msgpack.packb(ext(99, b"x")),
    "a tuple of nothing": msgpack.packb(ext(65, b"")),
    "a tuple that is a map": msgpack.packb(ext(65, b"\x80")),
    "a set of lists": msgpack.packb(ext(66, b"\x91\x90")),
    "a complex of 3 bytes": msgpack.packb(ext(68, b"abc")),
    "a date": msgpack.packb(ext(70, b"2024-13-01")),
    "a moment of no bytes": msgpack.packb(ext(69, b"")),
    "a fold of 9": msgpack.packb(ext(71, b"\x0910:00:00")),
    "a timedelta out of range": msgpack.packb(ext(72, struct.pack(">iii", 2**31 - 1, 0, 0))),
    "no decimal": msgpack.packb(ext(73, b"abc")),
    "a fraction by zero": msgpack.packb(ext(74, b"\x92\x01\x00")),
    "a fraction of 1 MiB": msgpack.packb(ext(74, b"\x92" + msgpack.packb(ext(64, b"\x7f" * (1 << 20))) * 2)),
    "a uuid of 3 bytes": msgpack.packb(ext(75, b"abc")),
    "a path of no kind": msgpack.packb(ext(76, b"\x07a")),
    "numpy objects": msgpack.packb(ext(77, msgpack.packb(["|O", [1], bytes(8)]))),
    "numpy of the wrong size": msgpack.packb(ext(77, msgpack.packb(["<f8", [2**40], bytes(8)]))),
    "numpy of empty rows": msgpack.packb(ext(77, msgpack.packb(["<f8", [2**40, 0], b""]))),
    "numpy of no size": msgpack.packb(ext(77, msgpack.packb(["|V0", [2**40], b""]))),
    "numpy of negative shape": msgpack.packb(ext(77, msgpack.packb(["<f8", [-1, -1], bytes(8)]))),
    "numpy of no dtype": msgpack.packb(ext(77, msgpack.packb([None, [1], bytes(8)]))),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_damage(data: bytes) -> None:
    with pytest.raises(CheckpointDamaged):
        unpack_value(data)
    with pytest.raises(CheckpointDamaged):
        unpack_map(data)


def test_nested_extensions_are_bounded() -> None:
    data = b"\x90"
    for _ in range(3000):
        data = msgpack.packb(ext(65, b"\x91" + data))
    with pytest.raises(CheckpointDamaged):
        unpack_value(data)
    assert unpack_value(pack_value(nested(tuple, 90))) == nested(tuple, 90)  # the depth is counted back


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_value_or_damage(data: bytes) -> None:
    for read in (unpack_value, unpack_map, read_ids, lambda data: list(outcomes(OutcomeBlock(data)))):
        try:
            read(data)
        except CheckpointDamaged:
            pass


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_a_reply_with_changed_bytes_is_read_or_damage(changes: list[tuple[int, int]]) -> None:
    payload = bytearray(reply())
    for place, byte in changes:
        payload[place % len(payload)] = byte
    try:
        read_all(bytes(payload))
    except CheckpointDamaged:
        pass


FLOODS = {
    "empty maps": 'b"\\xdd" + N.to_bytes(4, "big") + b"\\x80" * N',
    "small negative numbers": 'b"\\xdd" + N.to_bytes(4, "big") + b"\\xe0" * N',
    "empty sets": 'b"\\xdd" + (N // 3).to_bytes(4, "big") + b"\\xd4\\x42\\x90" * (N // 3)',
    "announced lengths": '(b"\\xdd" + N.to_bytes(4, "big")) * 1000 + b"\\xc0" * (N - 5000)',
    "wide texts": 'b"\\xdd" + (N // 202).to_bytes(4, "big") + (b"\\xd9\\xc8" + WIDE + b"a" * 196) * (N // 202)',
    "nested tuples of much": 'nest(N)',
    "depth": 'b"\\x91" * N',
    "pickle": 'pickle.dumps(bytes(N))',
}  # fmt: skip
FLOOD = """
    import pickle, sys, msgpack
    from batchmill.codec import outcome_block, outcomes as codec
    from batchmill.output import json_lines as export
    from batchmill.errors import CheckpointDamaged, ResultNotKept
    N, WIDE = 63 << 20, "\U0001f600".encode()
    def nest(n):
        data = b"\\xc6" + n.to_bytes(4, "big") + bytes(n - 2000)
        for _ in range(12):
            data = b"\\x91" + data
            data = b"\\xc9" + len(data).to_bytes(4, "big") + b"\\x41" + data
        return data
    data = {flood}
    head = codec.Head(items=1, ok=1, ids_size=2, results_size=1 + len(data)).pack()
    tail = msgpack.packb([[], bytes(4), bytes(4), None, None, None, None])[1:]
    frame = b"\\x9a\\xc4" + bytes([codec.HEAD_SIZE]) + head + b"\\x91\\x01" + b"\\x91" + data + tail
    def outcomes(payload): return list(outcome_block.outcomes(outcome_block.OutcomeBlock(payload)))
    def render(payload): return export.render(payload, None, format="jsonl", all=True, with_item=False)
    for read, payload in ((codec.unpack_map, data), (outcomes, frame), (render, frame)):
        try: read(payload); print("read")
        except CheckpointDamaged: print("damaged")
    print({peak})
"""


@pytest.mark.sampled(4)
@pytest.mark.parametrize("flood", FLOODS)
def test_64_mib_of_anything_take_less_than_512_mib(flood: str) -> None:
    script = textwrap.dedent(FLOOD).replace("{flood}", FLOODS[flood]).replace("{peak}", PEAK_MIB)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    *verdicts, rss = run.stdout.split()
    assert run.returncode == 0, run.stderr
    assert verdicts[0] == "damaged"
    assert int(rss) < 512
    assert verdicts == ["damaged"] * 3


def test_many_small_results_of_a_large_frame_are_read_one_at_a_time() -> None:
    part = b"\xdd" + (2 << 20).to_bytes(4, "big") + b"\x80" * (2 << 20)
    head = Head(items=4, ok=4, records=4)
    block = OutcomeBlock(pack_outcomes(head, [1, 2, 3, 4], [part, b"\x01", part, b"\x02"], (), [0] * 4, [0] * 4))
    assert block.results is None
    assert block.result(3) == 2
    assert len(block.result(2)) == 2 << 20


# --- ids -------------------------------------------------------------------------------------------------------------


def test_ids_are_keyed_with_their_type() -> None:
    ids = [1, 1.0, "1", True, b"1", [1], (1,), None, "", 0, False, 0.0, Decimal(1), Fraction(1), 2**64]
    assert len({id_key(id) for id in ids}) == len(ids)


@given(st.dictionaries(KEYS, VALUES, max_size=3))
@settings(max_examples=50, deadline=None)
def test_equal_maps_have_one_canonical_form(value: dict[Any, Any]) -> None:
    turned = dict(reversed(list(value.items())))
    assert canonical([value, (value,)]) == canonical([turned, (turned,)])
    assert unpack_value(canonical(value)) == value


def test_a_canonical_form_is_the_same_in_every_process() -> None:
    script = "from batchmill.codec.ids import *; print(canonical([{'b': {*'xyz'}, 'a': frozenset('pqr')}]).hex())"
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            timeout=60,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1


def test_no_id_of_what_cannot_be_packed() -> None:
    for item in (object(), [lambda: 0], nested(list, 3000), nested(tuple, 3000)):
        with pytest.raises(ValueError):
            canonical(item)


def test_a_digest_has_32_digits() -> None:
    assert digest_id(b"item") == digest_id(b"item") != digest_id(b"item ")
    assert len(bytes.fromhex(digest_id(b""))) == 16


# --- outcomes --------------------------------------------------------------------------------------------------------


def reply(**changes: Any) -> bytes:
    values: dict[str, Any] = {
        "head": Head(items=3, ok=2, failed=1, records=5, first=100, line=41, input=2, digest=b"d" * 16, seconds=0.5),
        "ids": ["a", 7, (1, "\ud800")],
        "results": [pack_result({"v": 1}), NIL, pack_result((1, 2))],
        "failures": [(1, "ValueError", "no", "Traceback", b"raw")],
        "seconds": array("f", [0.5, 1.5, 2.5]),
        "contents": [1, 2, 2**32 - 1],
        "offsets": [0, 2, 4],
        "attempts": [(1, 3)],
        "supersedes": [(2, 9, 1, 2)],
        "items": [b"1", b"2", b"3"],
    }
    return pack_outcomes(**{**values, **changes})


def test_outcomes_come_back_with_position_and_line() -> None:
    (p0, first), (p1, failed), (p2, last) = outcomes(OutcomeBlock(reply()))
    assert (p0, p1, p2) == (100, 102, 104)
    assert (first.id, first.ok, first.result, first.seconds, first.line, first.input) == (
        "a",
        True,
        {"v": 1},
        0.5,
        41,
        2,
    )
    assert (failed.ok, failed.result, failed.attempts, failed.raw) == (False, None, 3, b"2")
    assert failed.error is not None
    assert (failed.error.type, failed.error.message, failed.error.traceback) == ("ValueError", "no", "Traceback")
    assert (last.id, last.result, last.line, last.error, last.attempts) == ((1, "\ud800"), (1, 2), 45, None, 1)


def test_columns_that_are_left_out_have_their_defaults() -> None:
    block = OutcomeBlock(reply(offsets=None, attempts=None, supersedes=None, items=None))
    assert list(block.offsets) == [0, 1, 2]
    assert (block.attempts, block.supersedes, block.items) == ({}, [], None)
    assert (block.raw(0), block.raw(1)) == (None, b"raw")
    assert not block.head.flags & SUPERSEDES
    assert OutcomeBlock(reply()).head.flags & SUPERSEDES
    assert OutcomeBlock(reply()).supersedes == [(2, 9, 1, 2)]
    assert list(OutcomeBlock(reply()).contents) == [1, 2, 2**32 - 1]


def test_the_payload_is_one_msgpack_array_of_ten_for_any_reader() -> None:
    columns = msgpack.unpackb(reply(), strict_map_key=False, unicode_errors="surrogatepass")
    assert len(columns) == 10
    assert Head.unpack(columns[0])[:-2] == read_head(reply())[:-2]
    assert columns[1][:2] == ["a", 7]
    assert columns[2][:2] == [{"v": 1}, None]
    assert struct.unpack("<3f", columns[4]) == (0.5, 1.5, 2.5)


def test_the_head_stands_at_offset_3_and_needs_no_more_than_its_bytes() -> None:
    payload = reply()
    assert payload[:3] == b"\x9a\xc4\x70"
    head = read_head(payload[:PEEK])
    assert (head.items, head.first, head.line, head.digest, head.seconds) == (3, 100, 41, b"d" * 16, 0.5)
    assert Head.unpack(head.pack()) == head
    for size in range(PEEK):
        with pytest.raises(CheckpointDamaged):
            read_head(payload[:size])


def test_ids_are_read_without_the_results() -> None:
    payload = bytearray(reply())
    head = read_head(bytes(payload))
    start = PEEK + head.ids_size
    payload[start : start + head.results_size] = b"\xc1" * head.results_size
    assert read_ids(bytes(payload)) == ["a", 7, (1, "\ud800")]
    with pytest.raises(CheckpointDamaged):
        OutcomeBlock(bytes(payload)).result(0)


def test_packed_results_are_the_bytes_that_went_in() -> None:
    block = OutcomeBlock(reply())
    assert [bytes(block.packed(i)) for i in range(3)] == [pack_result({"v": 1}), NIL, pack_result((1, 2))]


def test_a_cut_reply_is_damage() -> None:
    payload = reply()
    for size in range(len(payload)):
        with pytest.raises(CheckpointDamaged):
            read_all(payload[:size])


@pytest.mark.parametrize(
    "changes",
    [{"ids": ["a"]}, {"results": [NIL]}, {"failures": []}, {"failures": [(3, "", "", "", None)]},
     {"seconds": [1.0]}, {"contents": [1]}, {"offsets": [1]}, {"attempts": [(3, 1)]}, {"items": [b""]},
     {"items": ["1", "2", "3"]}, {"failures": [(1, 2, "", "", None)]},
     {"head": Head(items=3, ok=3, failed=1)}, {"head": Head(items=2**32 - 1, ok=2**32 - 1)}, {"head": Head(version=2)}],
)  # fmt: skip
def test_columns_that_do_not_fit_are_damage(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointDamaged):
        read_all(reply(**changes))


def read_all(payload: bytes) -> None:
    block = OutcomeBlock(payload)
    list(outcomes(block))
    assert block.contents is not None
    assert block.supersedes is not None


def test_a_count_without_room_is_found_before_anything_is_sized_by_it() -> None:
    payload = reply(head=Head(items=2**32 - 1, ok=2**32 - 1))
    for read in (OutcomeBlock, read_ids):
        with pytest.raises(CheckpointDamaged, match="shorter than its head says"):
            read(payload)


def test_an_empty_reply_is_a_reply() -> None:
    payload = pack_outcomes(Head(records=3, blank=3), [], [])
    assert list(outcomes(OutcomeBlock(payload))) == []


# --- maps ------------------------------------------------------------------------------------------------------------


@given(st.dictionaries(SURROGATES, VALUES, max_size=4))
@settings(max_examples=50, deadline=None)
def test_maps_come_back(values: dict[str, Any]) -> None:
    assert exact(unpack_map(pack_map(values))) == exact(values)


def test_maps_are_bounded_and_have_text_keys() -> None:
    for payload, limit in ((pack_map({"a": 1}), 3), (pack_value([1]), 99), (pack_value({1: 2}), 99)):
        with pytest.raises(CheckpointDamaged):
            unpack_map(payload, limit)
