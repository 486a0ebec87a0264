"""The bytes that stand for ids and for items: what makes two of them one."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from enum import Enum
from typing import Any

from batchmill.codec.models import fields_of, fields_reader
from batchmill.codec.pack import NATIVE, PLAIN, current, pack_value, unkept
from batchmill.codec.unpack import unpack_value
from batchmill.errors import BatchmillError


def canonical(value: Any) -> bytes:
    """The msgpack bytes of `value` with the keys of every map sorted: equal values, equal bytes.

    Raises ValueError for what msgpack cannot carry.
    """
    try:
        return pack_value(_ordered(value))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no id can be made of this item: {error}") from error


def fingerprint(value: Any) -> tuple[bytes, bytes]:
    """`canonical`, and the bytes that tell `value` from others: the same ones, unless classes are lost in them.

    Two dataclasses with the same fields, or Enums of one value, are different items. Raises as `canonical`.
    """
    notes = current().notes
    notes.classes = False
    raw = canonical(value)
    if not notes.classes:
        return raw, raw
    try:
        return raw, pack_value(_named(value))
    except RecursionError:
        return raw, raw


def kept_id(id: Any) -> Any:
    """An id as it will be read back; raises ValueError, in a sentence, for one that cannot be kept exact."""
    raw = canonical(id)
    try:
        return unpack_value(raw, carefully=True)
    except BatchmillError as error:
        raise ValueError(unkept("id", id, error)) from None


def _ordered(value: Any) -> Any:
    kind = type(value)
    if kind in PLAIN:
        return value
    if isinstance(value, tuple):
        return tuple(map(_ordered, value))
    if kind not in NATIVE:
        value = current().level.convert(value)
        kind = type(value)
    if kind is dict:
        return {key: _ordered(value[key]) for key in sorted(value, key=pack_value)}
    return list(map(_ordered, value)) if kind is list else value


def _named(value: Any) -> Any:
    """`value` with the names of classes in it, and what has no order sorted by its bytes."""
    kind = type(value)
    if isinstance(value, Enum):
        return [kind.__qualname__, _named(value.value)]
    if isinstance(value, Mapping):
        return sorted(pack_value([_named(key), _named(part)]) for key, part in value.items())
    if isinstance(value, (set, frozenset)):
        return sorted(map(pack_value, map(_named, value)))
    if isinstance(value, (list, tuple)):
        return list(map(_named, value))
    return value if fields_reader(kind) is None else [kind.__qualname__, _named(fields_of(value))]


def id_key(id: Any) -> bytes:
    """The bytes that stand for an id with its type: 1, 1.0, "1" and True differ. Raises ValueError as `canonical`."""
    return pack_value(id) if type(id) in PLAIN else canonical(id)


def digest_id(raw: bytes) -> str:
    """The id of an item that has no other: 32 hexadecimal digits of the BLAKE2b of its bytes."""
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def digest_block(data: bytes, header: bytes = b"") -> bytes:
    """What a block is found again by: the 16-byte BLAKE2b digest of it, and of the header that it stands under."""
    digest = hashlib.blake2b(header, digest_size=16)
    digest.update(data)
    return digest.digest()


def checksum(data: bytes, header: bytes = b"") -> int:
    """The crc32 of a record, and of the header that it stands under: another one makes it another content."""
    return zlib.crc32(data, zlib.crc32(header))


def shard_of(id: Any, shards: int) -> int:
    """Which of `shards` shards (1-based) an id belongs to: a digest of its typed form, the same on every machine."""
    return int(digest_id(id_key(id))[:15], 16) % shards + 1
