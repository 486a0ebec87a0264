"""What the name of an INPUT says of it: its format, and what makes one that can be read of what cannot."""

from __future__ import annotations

from shlex import quote

from batchmill.errors import InvalidUsage
from batchmill.input.foreign import by_name
from batchmill.input.formats import give_format
from batchmill.text import option

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "lines",
    ".list": "lines",
}
_COMPRESSED = {".gz": "gzip -dc", ".bz2": "bzip2 -dc", ".xz": "xz -dc", ".zst": "zstd -dc"}


def format_of(name: str) -> str:
    """The format that a file name's suffix stands for; raises InvalidUsage naming `--format` where it stands for none.

    Compression suffixes are seen through.
    """
    stem = name.lower()
    for suffix in _COMPRESSED:
        stem = stem.removesuffix(suffix)
    dot = stem.rfind(".")
    suffix = stem[dot:] if dot > stem.rfind("/") else ""
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if suffix == ".json":
        given = option("format", "jsonl")
        remedy = f"make one with `{as_lines_of_json(name, '.[]')}`, or give {given} if it has one item a line"
        raise InvalidUsage(f"{name}: a .json document is not a list of items", remedy)
    foreign = by_name(name)
    if foreign is not None:
        raise InvalidUsage(f"{name} is {foreign.what}", foreign.remedy(name))
    raise InvalidUsage(f"the format of {name} is not known", give_format())


def as_lines_of_json(name: str, filter: str) -> str:
    """The command that makes JSON Lines of the JSON document in a file ("": of what it reads), with a filter of jq."""
    if not name:
        return f"jq -c '{filter}'"
    stem, read = name, f"jq -c '{filter}' {quote(name)}"
    for suffix, unpack in _COMPRESSED.items():
        if stem.lower().endswith(suffix):
            stem, read = stem[: -len(suffix)], f"{unpack} {quote(name)} | jq -c '{filter}'"
    for suffix in (".json", ".jsonl"):
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix) else stem
    return f"{read} > {quote(stem + ('.lines.jsonl' if name.lower().endswith('.jsonl') else '.jsonl'))}"
