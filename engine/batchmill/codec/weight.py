"""What a value will weigh once its msgpack bytes are read.

64 MiB of empty maps would be 6 GiB of dicts, and msgpack limits each length but not their sum.
"""

from __future__ import annotations

from batchmill.codec.codes import NESTED
from batchmill.errors import CheckpointDamaged

MAX_MEMORY = 256 << 20  # estimated size of a value once it is unpacked


def _fixed(byte: int) -> tuple[int, int, int]:
    """(bytes to the next token, estimated bytes of the object, values that follow less this one) for a first byte.

    The step is 0 where a length follows.
    """
    for low, high, step, weight, values in (
        (0x00, 0x7F, 1, 8, 0),
        (0x80, 0x80, 1, 88, 0),
        (0x81, 0x8F, 1, 250 + 72 * (byte & 15), 2 * (byte & 15)),
        (0x90, 0x9F, 1, 88, byte & 15),
        (0xA0, 0xBF, 1 + (byte & 31), 80 + (byte & 31), 0),
        (0xC4, 0xC9, 0, 0, 0),
        (0xCA, 0xCA, 5, 32, 0),
        (0xCB, 0xCB, 9, 32, 0),
        (0xCC, 0xCF, 1 + (1 << (byte & 3)), 40, 0),
        (0xD0, 0xD3, 1 + (1 << (byte & 3)), 40, 0),
        (0xD4, 0xDF, 0, 0, 0),
        (0xE0, 0xFF, 1, 40, 0),
    ):
        if low <= byte <= high:
            return step, weight, values - 1
    return 1, 8, -1  # nil, the booleans, and the byte that is never used


_FIXED = tuple(_fixed(byte) for byte in range(256))
# First byte of a token with a length: (bytes of that length, the kind of token).
_VARIABLE = {
    **{0xC4 + n: (1 << n, "bin") for n in range(3)},
    **{0xC7 + n: (1 << n, "ext") for n in range(3)},
    **{0xD4 + n: (0, "ext") for n in range(5)},
    **{0xD9 + n: (1 << n, "str") for n in range(3)},
    **{0xDC + n: (2 << n, "array") for n in range(2)},
    **{0xDE + n: (2 << n, "map") for n in range(2)},
}


def check_memory(data: bytes | memoryview) -> None:
    """Raise CheckpointDamaged if unpacking `data` would take more than about MAX_MEMORY, or if it is not one value.

    The tokens are walked in Python, some 0.1 µs each, without building anything.
    """
    at, total, open_values, end = 0, 0, 1, len(data)
    # Every value still open takes a byte or more: lengths that were only announced are found out at once.
    while 0 < open_values <= end - at and total <= MAX_MEMORY:
        step, weight, values = _FIXED[data[at]]
        if not step:
            step, weight, values = _measure(data, at)
        at += step
        total += weight
        open_values += values
    if total > MAX_MEMORY:
        raise CheckpointDamaged(f"a value would take more than {MAX_MEMORY >> 20} MiB of memory when read")
    if open_values or at != end:
        raise CheckpointDamaged("a value in the checkpoint does not end where its bytes do")


def _measure(data: bytes | memoryview, at: int) -> tuple[int, int, int]:
    width, kind = _VARIABLE[data[at]]
    start = at + 1 + width
    length = int.from_bytes(data[at + 1 : start], "big") if width else 1 << (data[at] - 0xD4)
    if kind == "array":
        return 1 + width, 88, length - 1
    if kind == "map":
        return 1 + width, 250 + 72 * length, 2 * length - 1
    if kind == "str":
        # One character outside of Latin-1 makes every character of its string take up to four bytes.
        wide = 1 if bytes(data[start : start + length]).isascii() else 4
        return 1 + width + length, 80 + wide * length, -1
    if kind == "bin":
        return 1 + width + length, 48 + length, -1
    if start < len(data) and data[start] in NESTED:
        return 2 + width, 256 + 2 * length, 0
    return 2 + width + length, 256 + 2 * length, -1
