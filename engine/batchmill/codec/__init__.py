"""Values and outcomes as bytes, and back.

    pack        any result as msgpack, exact or refused
    unpack      msgpack as values again, in bounded time and memory (`weight`); `hashing`: fractions, without a cache
    codes       which extension type has which code
    models      dataclasses, pydantic, attrs: objects that are their fields; `table_forms`: values of pandas, pyarrow
    merging     names the keys or elements of a value that would become equal when it is kept
    own_results results that only our own processes see: whatever pickles
    ids         the bytes that stand for ids and items: checksums, block digests, shards
    identity    what a value is that msgpack has no form for: a digest by value
    outcomes    the payloads of frames: what a worker packs and the parent appends unopened; `outcome_block` reads them
    json_form   values as JSON, where JSON has no word for them; `unsaid` counts what it could not say

May import: ground.
"""

__all__ = ["identity", "ids", "json_form", "outcome_block", "outcomes", "own_results", "pack", "unpack", "unsaid"]
