"""Plots as inline SVG: scales, ticks, lines, steps, bars, strips.

A plot is as wide as the page: what is drawn stretches with it, in a view box of its own, while text, marks and the
width of lines stay as they are, as they are placed in percent. Labels stand outside the plot's own box.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from batchmill_cli.html_report.markup import Markup, join, plain, tag
from batchmill_cli.running.report import span

WIDE = 1000  # units of what stretches
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


class Tick(NamedTuple):
    """A label at a share (0 to 1) of an axis; a `minor` one is left out where there is little room."""

    at: float
    label: str
    minor: bool = False


class Mark(NamedTuple):
    """A symbol of the page at a share of the width, `y` pixels down."""

    symbol: str
    at: float
    y: float


class Line(NamedTuple):
    """A line across the plot at a share of the width, with a label above it."""

    at: float
    label: str = ""


@dataclass
class Plot:
    """One plot, `height` pixels high. `paths` are (class, d, hint) in WIDE x height units."""

    name: str
    title: str
    description: str
    height: float
    x: Sequence[Tick] = ()
    y: Sequence[Tick] = ()
    paths: list[tuple[str, str, str]] = field(default_factory=list)
    lines: Sequence[Line] = ()
    marks: Sequence[Mark] = ()
    levels: Sequence[tuple[float, str]] = ()

    def add(self, kind: str, path: str, hint: str = "") -> None:
        """Draw a path of that class; `hint` is shown where the pointer rests on it."""
        if path:
            self.paths.append((kind, path, hint))

    def svg(self) -> Markup:
        """The plot."""
        height = number(self.height)
        names = f"{self.name}-title {self.name}-about"
        drawn = (tag("path", *_hint(hint), class_=kind, d=Markup(path)) for kind, path, hint in self.paths)
        inner = tag("svg", *drawn, width="100%", height=height, viewBox=f"0 0 {WIDE} {height}",
                    preserveAspectRatio="none", overflow="visible", aria_hidden="true")  # fmt: skip
        return tag(
            "svg", tag("title", self.title, id=f"{self.name}-title"),
            tag("desc", plain(self.description, 1000), id=f"{self.name}-about"),
            *self._grid(), inner, *self._lines(), *self._levels(), *self._marks(),
            class_="plot", role="img", aria_labelledby=names, height=height,
        )  # fmt: skip

    def _grid(self) -> Iterable[Markup]:
        for tick in self.y:
            y = number(self.height * (1 - tick.at))
            yield tag("line", class_="grid" if tick.at else "base", x1="0", x2="100%", y1=y, y2=y)
            yield tag("text", tick.label, class_="y", x="-10", y=y, dy="0.32em")
        for tick in self.x:
            kind = "x minor" if tick.minor else "x"
            yield tag("line", class_=f"tick {kind}", x1=share(tick.at), x2=share(tick.at), y1=number(self.height),
                      y2=number(self.height + 5))  # fmt: skip
            yield tag("text", tick.label, class_=kind, x=share(tick.at), y=number(self.height + 19))

    def _lines(self) -> Iterable[Markup]:
        last = -1.0
        for line in self.lines:
            yield tag("line", class_="cut", x1=share(line.at), x2=share(line.at), y1="0", y2=number(self.height))
            if line.label and line.at - last > 0.075:
                kind = ("cut", "end" if line.at > 0.93 else "", "minor" if line.at - last < 0.15 else "")
                last = line.at
                yield tag("text", line.label, class_=" ".join(filter(None, kind)), x=share(line.at), y="-5")

    def _levels(self) -> Iterable[Markup]:
        for at, label in self.levels:
            y = number(self.height * (1 - at))
            yield tag("line", class_="level", x1="0", x2="100%", y1=y, y2=y)
            yield tag("text", label, class_="level", x="100%", y=y, dy="-5")

    def _marks(self) -> Iterable[Markup]:
        for mark in self.marks:
            yield tag("use", href=f"#{mark.symbol}", x=share(mark.at), y=number(mark.y))


def _hint(hint: str) -> Iterable[Markup]:
    return [tag("title", hint)] if hint else []


def number(value: float) -> str:
    """A coordinate in as few digits as it needs."""
    return f"{value:.1f}".removesuffix(".0")


def share(at: float) -> str:
    """A share as percent."""
    return f"{100 * at:.2f}".rstrip("0").rstrip(".") + "%"


# Scales


def round_ticks(most: float, about: int = 4) -> list[float]:
    """Round values from 0 to the first at or above `most`, about so many."""
    most = most if 0 < most < math.inf else 1.0
    rough = most / about
    unit = 10.0 ** math.floor(math.log10(rough))
    return _up_to(most, next(step * unit for step in _STEPS if step * unit >= rough * 0.999))


def binary_ticks(most: float, about: int = 4) -> list[float]:
    """The same for bytes: multiples of a power of two."""
    return _up_to(max(most, 1024.0), 2.0 ** math.ceil(math.log2(max(most, 1024.0) / about)))


def _up_to(most: float, step: float) -> list[float]:
    return [step * number for number in range(math.ceil(most / step * 0.999) + 1)]


def clock_ticks(seconds: float, about: int = 6) -> list[Tick]:
    """Round times from 0 to `seconds`, on an axis that ends there."""
    if seconds <= 0:
        return [Tick(0.0, "0")]
    rough = seconds / about
    whole = next((step for step in _SECONDS if step >= rough), 86400 * math.ceil(rough / 86400))
    step = whole if rough > 0.5 else round_ticks(seconds, about)[1]
    count = int(seconds / step + 1e-6)
    return [Tick(n * step / seconds, _time_label(n * step), minor=n % 2 == 1 and count > 4) for n in range(count + 1)]


def _time_label(seconds: float) -> str:
    if seconds >= 60:
        days, rest = divmod(round(seconds), 86400)
        parts = ((days, "d"), (rest // 3600, "h"), (rest // 60 % 60, "m"), (rest % 60, "s"))
        return "".join(f"{value}{unit}" for value, unit in parts if value)
    return f"{seconds:.3g}s" if seconds else "0"


def log_ticks(low: float, high: float) -> list[Tick]:
    """The powers of ten, or 1, 2 and 5 of each where there are few, between `low` and `high` seconds."""
    decades = math.log10(high / low)
    digits = (1, 2, 5) if decades < 2.5 else (1,)
    every = max(1, math.ceil(decades / 8))
    found = []
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for digit in digits:
            at = math.log10(digit * 10.0**power / low) / decades
            if -1e-9 <= at <= 1 + 1e-9 and power % every == 0:
                found.append(Tick(min(max(at, 0.0), 1.0), _decade(digit * 10.0**power)))
    return [tick._replace(minor=len(found) > 5 and n % 2 == 1) for n, tick in enumerate(found)]


def _decade(seconds: float) -> str:
    return short_time(seconds) if seconds < 60 else f"{seconds:.0f} s"


def short_time(seconds: float) -> str:
    """Seconds in two or three digits with the unit that suits: `1.2 ms`, `35 s`, `2h05m`."""
    if seconds >= 60:
        return span(seconds)
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size * 0.9995:
            return f"{_three(seconds / size)} {unit}"
    return f"{_three(seconds / 1e-6)} µs"


def short_count(count: float) -> str:
    """A number in about three digits: `950`, `1.2k`, `3.4M`."""
    for suffix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size * 0.9995:
            return f"{_three(count / size)}{suffix}"
    return _three(count)


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}" if value >= 9.95 else f"{value:.2g}"


# Paths


def steps(values: Sequence[float], width: float, top: float, height: float) -> str:
    """An area with a flat top over each of the values, each `width` units wide."""
    if not any(values) or top <= 0:
        return ""
    parts = [f"M0 {number(height)}"]
    for at, value in enumerate(values):
        parts.append(f"V{number(height * (1 - value / top))}H{number(min(WIDE, (at + 1) * width))}")
    return join([*parts, f"V{number(height)}z"])


def polyline(points: Iterable[tuple[float, float]], top: float, height: float) -> str:
    """A line through (share of the width, value) points."""
    corners = [f"{number(WIDE * at)} {number(height * (1 - value / top))}" for at, value in points]
    return f"M{'L'.join(corners)}{'h0.1' if len(corners) == 1 else ''}" if corners else ""


def box(x: float, y: float, width: float, height: float) -> str:
    """A rectangle."""
    return f"M{number(x)} {number(y)}h{number(width)}v{number(height)}h-{number(width)}z"
