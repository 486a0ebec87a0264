"""Outcomes on their way to people.

    ordering       pieces of frames into stretches of the input, and the outcomes in each
    layout         how the outcomes of one ordering get from their frames into its order
    external_sort  an external merge sort, where frames are mixed item by item; `spool`: its temporary file
    json_lines     outcomes as JSON lines and msgpack; `rows`: as CSV, TSV and SQLite
    columns        which columns a table has, by the `shape` of the results and the `kinds` of their values; `survey`:
                   what takes it
    by_name        what the name of an output says of its format
    target         the file or stream that is written; `sinks`: which, and databases; `parquet`: a Parquet file
    writer         the output of a run; `results`: out of a checkpoint; `merged`: out of several; `collect`: into
                   a file; `failed_items`: as they were; `items_file`: these as a file

May import: ground, system, files, checkpoint, input, codec.
"""

__all__ = [
    "by_name",
    "collect",
    "columns",
    "external_sort",
    "failed_items",
    "items_file",
    "json_lines",
    "results",
    "sinks",
    "target",
    "writer",
]
