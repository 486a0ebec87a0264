"""HTML as text: whatever comes from data is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape as escape_html
from typing import NamedTuple

from batchmill.text import escape

MOST_ROWS = 60  # of a table behind a plot


class Markup(str):
    """Text that is HTML already; everything else is escaped where it is put into a page."""

    __slots__ = ()


def plain(value: object, limit: int = 300) -> Markup:
    """Any value as harmless HTML text of bounded length; Markup as it is."""
    return value if isinstance(value, Markup) else Markup(escape_html(escape(str(value), limit)))


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element. `class_` and `aria_label` stand for `class` and `aria-label`; attributes that are None are left
    out."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{plain(value, 2000)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{shown}>{join(content)}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Markup:
    """The parts, one after the other."""
    return Markup(between.join(plain(part) for part in parts))


def lines(text: str, most: int, columns: int) -> Markup:
    """A text of several lines, the last `most` of them."""
    shown = text.rstrip().splitlines()
    cut = [f"… {len(shown) - most} lines before"] if len(shown) > most else []
    return join([*cut, *(plain(line, columns) for line in shown[-most:])], "\n")


class Column(NamedTuple):
    """A column's heading, and whether it holds numbers."""

    heading: str
    is_number: bool = True


def table(
    caption: str, columns: Sequence[Column], rows: Iterable[Sequence[object]], *, kind: str | None = None,
    is_seen: bool = True,
) -> Markup:  # fmt: skip
    """A table that scrolls by itself where it is too wide. The first column is the heading of each row.

    The caption is only heard, not seen, where the heading above says the same.
    """
    kinds = ["n" if column.is_number else None for column in columns]
    heads = [tag("th", column.heading, scope="col", class_=kind) for column, kind in zip(columns, kinds)]
    body = [
        tag("tr", tag("th", first, scope="row", class_=kinds[0]), *map(_cell, rest, kinds[1:])) for first, *rest in rows
    ]
    head = tag("thead", tag("tr", *heads))
    name = tag("caption", tag("span", caption, class_=None if is_seen else "unseen"))
    whole = tag("table", name, head, tag("tbody", *body), class_=kind)
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _cell(value: object, kind: str | None) -> Markup:
    return tag("td", value, class_=kind)


def details(summary: object, *content: object) -> Markup:
    """What is shown when asked for."""
    return tag("details", tag("summary", summary), *content)


def facts(pairs: Iterable[tuple[str, object]]) -> Markup:
    """Names and values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs), class_="facts")


def thinned(count: int) -> range:
    """At most MOST_ROWS evenly spaced numbers below `count`."""
    return range(0, count, max(1, -(-count // MOST_ROWS)))
