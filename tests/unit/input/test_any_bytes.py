"""Whatever bytes an INPUT has, in every format: read to the end, or refused; as many records as were said."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_kit import Waker, drain

from batchmill.errors import InputBroken, InvalidUsage
from batchmill.input import streams
from batchmill.input.formats import FORMATS, IdRule, line_at
from batchmill.input.items import ItemReader
from batchmill.input.sources import ByteSource

PIECES = [*b'",\t\n\r\0a1{}[]: \xff\xfe\xe9', b"\xef\xbb\xbf", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"id"]
BYTES = st.lists(st.sampled_from([bytes([p]) if isinstance(p, int) else p for p in PIECES]), max_size=40).map(b"".join)
PACK: list[Callable[[bytes], bytes]] = [
    bytes, gzip.compress, bz2.compress, lzma.compress, lambda data: data.decode("latin-1").encode("utf-16")
]  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    BYTES, st.sampled_from(PACK), st.integers(0, 200), st.sampled_from(["", ".gz", ".bz2", ".xz"]),
    st.sampled_from([name for name in FORMATS if name != "files"]), st.sampled_from([1, 3, 1 << 20]), st.integers(1, 5),
)  # fmt: skip
def test_any_bytes_are_read_to_their_end_or_refused(
    tmp_path: Path, data: bytes, pack: Callable[[bytes], bytes], size: int, suffix: str, format: str, block: int,
    records: int,
) -> None:  # fmt: skip
    path = tmp_path / f"t{suffix}"
    path.write_bytes(pack(data)[:size])
    reader = ItemReader(format, IdRule(None), None, ids_needed=True)
    with pytest.MonkeyPatch.context() as patch, suppress(InvalidUsage, InputBroken):
        patch.setattr(streams, "BLOCK", block)
        streams.look_at(str(path), FORMATS[format])
        waker = Waker()
        for chunk in drain(ByteSource([str(path)], FORMATS[format], waker), waker, records):
            found = reader.records(chunk)
            assert len(found) == chunk.records
            for offset, record in enumerate(found):
                reader.identify(chunk, offset, record)
                assert line_at(chunk, offset, FORMATS[format]) >= chunk.line + offset * (format != "null")


@pytest.mark.parametrize("pack", PACK)
def test_a_table_of_a_header_alone_has_an_end_however_it_is_packed(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    for text in (b"a,b", b"a,b\n", b'a,"b\n"'):
        (tmp_path / "t.csv").write_bytes(pack(text))
        waker = Waker()
        assert drain(ByteSource([str(tmp_path / "t.csv")], FORMATS["csv"], waker), waker, 3) == []
