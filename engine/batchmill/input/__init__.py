"""From the bytes of INPUTs to items.

    streams      bytes of files, pipes and iterables, read ahead
    buffer       what was read and not yet taken, and where records end in it
    first_look   what bytes are, going by the first of them: unpacked, recoded or refused; `compression` unpacks
    folders      the files below directories
    formats      what a format means: where a record ends, how it is parsed, what its id is
    tables       csv and tsv: where rows end, what their columns are called; `dialects`: how they are written
    by_suffix    what the name of an INPUT says of it; `foreign`: what is not read, and the line that converts it
    parquet_rows the rows of Parquet files, by their numbers; `pyarrow_extra`: whether they can be read
    row_tables   slices of them as a DataFrame or a Table
    ranges       parts of local files that workers read by themselves
    sources      chunks of whole records, in the parent, which never parses them
    frames       tables of pandas, polars and pyarrow as items: their rows
    items        a record to an item with an id, in a worker
    json_choice  whether JSON is read with json or orjson; `fast_json` is the way with orjson
    rewrite      failed items as an input again; `kept_items`: what they were

May import: ground, system, files, codec.
"""

__all__ = [
    "compression",
    "formats",
    "frames",
    "items",
    "json_choice",
    "kept_items",
    "parquet_rows",
    "pyarrow_extra",
    "ranges",
    "rewrite",
    "row_tables",
    "sources",
    "streams",
]
