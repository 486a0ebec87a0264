"""What measurements of worker counts mean: medians, errors, a fitted law, a choice, doubts.

The law is the Universal Scalability Law (N. J. Gunther, Guerrilla Capacity Planning, Springer 2007, chapters 4 to 6):
N workers are C(N) = N / (1 + s (N - 1) + k N (N - 1)) times as fast as one. s is the contention, the share of the work
that is serial (with k = 0 this is Amdahl's law); k is the coherency, what each pair of workers costs. A lock counts
with the share of an item that it is held for where it stops all others; items that only queue for it fall into step
behind each other, and its share shows once there are enough workers to keep it busy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import median, stdev

from batchmill.text import plural
from batchmill.value_class import value_class

CLOSE = 0.05  # a count within so much of the fastest is as good, if it is smaller
SHORT = 1.0  # seconds; a shorter round measures more than the items
FEW = 5  # items per worker; with fewer, the last ones to end decide
UNSTEADY = 0.05  # relative spread
BUSY = 0.9  # share of the cores in use from which on they are the bound
DEARER = 1.25  # times the CPU time per item from which on workers slow each other down
ELSEWHERE = 0.1  # share of the cores that others may use
_OUTLIER = 3.5  # modified z-score (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993)
_OUTLYING = 0.1  # and at least so far from the median: among equal rounds any difference has a high score
_MEDIAN_ERROR = math.sqrt(math.pi / 2)  # standard error of a median over that of a mean, for normal errors


@value_class
class Round:
    """One run of the sample with a number of workers.

    `seconds` from its beginning to its last outcome; `cpu_seconds` of the parent and its workers, `peak_rss` the bytes
    they held at most (pages that they share count for each); `elsewhere` the CPU seconds that other programs used.
    """

    number: int
    seconds: float
    items: int
    failed: int
    cpu_seconds: float
    peak_rss: int
    elsewhere: float = 0.0

    @property
    def rate(self) -> float:
        """Items per second."""
        return self.items / self.seconds if self.seconds > 0 else 0.0


@value_class
class Cell:
    """A number of workers with a chunk size (None: by time) and a batch size (items in a call, or "auto"; None: the
    function is called on each), and its rounds. `startup` is seconds, not in any round."""

    workers: int
    chunk_size: int | None
    rounds: tuple[Round, ...] = ()
    startup: float = 0.0
    batch_size: int | str | None = None

    @property
    def sizes(self) -> tuple[int | None, int | str | None]:
        """What cells of one curve share: the chunk size and the batch size."""
        return self.chunk_size, self.batch_size

    @property
    def rate(self) -> float:
        """The median of the rounds, in items per second; 0.0 without any."""
        return median(r.rate for r in self.rounds) if self.rounds else 0.0

    @property
    def spread(self) -> float | None:
        """Relative standard deviation of the rounds; None for fewer than two."""
        if len(self.rounds) < 2 or not self.rate:
            return None
        return stdev(r.rate for r in self.rounds) / self.rate

    @property
    def error(self) -> float | None:
        """Relative standard error of the median; None for fewer than two rounds."""
        return None if self.spread is None else _MEDIAN_ERROR * self.spread / math.sqrt(len(self.rounds))

    @property
    def cpu_percent(self) -> float:
        """Median CPU use of the parent and its workers; 100 is one core."""
        return median(100 * r.cpu_seconds / r.seconds for r in self.rounds if r.seconds > 0) if self.rate else 0.0

    @property
    def elsewhere(self) -> float:
        """Median of the cores that other programs used."""
        return median(r.elsewhere / r.seconds for r in self.rounds if r.seconds > 0) if self.rate else 0.0

    @property
    def cpu_per_item(self) -> float:
        """Median CPU seconds per item."""
        return median(r.cpu_seconds / r.items for r in self.rounds if r.items) if self.rate else 0.0

    @property
    def peak_rss(self) -> int:
        """Bytes held at most, in any round."""
        return max((r.peak_rss for r in self.rounds), default=0)


@value_class
class Speedup:
    """How many times as fast as the fewest workers; `error` is its standard error, None where that is not known.

    `efficiency` is the share of what as many times the workers would give if nothing held them up.
    """

    times: float
    error: float | None
    efficiency: float


@value_class
class Fit:
    """The law of the module's docstring. `single` is the rate of one worker in it, in items per second."""

    contention: float
    coherency: float
    single: float

    def rate(self, workers: float) -> float:
        """Items per second with `workers` workers."""
        lost = self.contention * (workers - 1) + self.coherency * workers * (workers - 1)
        return self.single * workers / (1 + lost)

    @property
    def peak(self) -> float:
        """The number of workers beyond which more are slower; infinite where there is none."""
        return math.sqrt(max(0.0, 1 - self.contention) / self.coherency) if self.coherency > 0 else math.inf


@value_class
class Bound:
    """What kept more workers from being faster: `kind` is "cores", "memory", "contention" or "none"."""

    kind: str
    sentence: str


def base_of(cell: Cell, cells: Iterable[Cell]) -> Cell:
    """What a cell's speed-up counts from: the fewest workers with the same sizes."""
    return min((c for c in cells if c.sizes == cell.sizes and c.rounds), key=lambda c: c.workers)


def speedup(cell: Cell, base: Cell) -> Speedup:
    """A cell against its base; the errors of both are propagated into the ratio."""
    times = cell.rate / base.rate if base.rate else 0.0
    error: float | None = 0.0
    if cell.workers != base.workers:
        unknown = cell.error is None or base.error is None
        error = None if unknown else times * math.hypot(cell.error or 0.0, base.error or 0.0)
    return Speedup(times, error, times * base.workers / cell.workers)


# The choice


def fastest(cells: Iterable[Cell]) -> Cell:
    """The cell with the most items per second."""
    return max((cell for cell in cells if cell.rounds), key=lambda cell: cell.rate)


def choose(cells: Sequence[Cell]) -> Cell:
    """The fewest workers within 5% of the fastest; of their chunk sizes, the fastest."""
    enough = (1 - CLOSE) * fastest(cells).rate
    return min((cell for cell in cells if cell.rate >= enough), key=lambda cell: (cell.workers, -cell.rate))


# The law


def fit(cells: Iterable[Cell]) -> Fit | None:
    """The law fitted to cells of one chunk size; None where there are fewer than two counts, or nothing can be said.

    With one worker among them: least squares of N / C(N) - 1 over N - 1 and N (N - 1), non-negative. Otherwise the rate
    of one worker is fitted too. Two counts tell of contention only, and three are needed where one worker is not among
    them.
    """
    points = sorted((cell.workers, cell.rate) for cell in cells if cell.rate > 0)
    counts = len({workers for workers, _ in points})
    least, first = points[0] if points else (0, 0.0)
    if counts < (2 if least == 1 else 3):
        return None
    columns = [[n - 1.0 for n, _ in points], [n * (n - 1.0) for n, _ in points]]
    if least == 1:
        columns = columns[: counts - 1]
        lost = [n * first / rate - 1 for n, rate in points]
        contention, coherency = [*non_negative(columns, lost), 0.0][:2]
        if contention > 1:  # two workers slower than one: no share is greater than all, the rest is coherency
            rest = [value - n + 1 for value, (n, _) in zip(lost, points)]
            contention, coherency = 1.0, non_negative([[n * (n - 1.0) for n, _ in points]], rest)[0]
        return Fit(contention, coherency, first)
    columns = [[1.0] * len(points), *columns][:counts]
    slowness, *costs = [*non_negative(columns, [n / rate for n, rate in points]), 0.0][:3]
    return Fit(costs[0] / slowness, costs[1] / slowness, 1 / slowness) if slowness > 0 else None


def non_negative(columns: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """The coefficients >= 0 of a few columns whose sum is nearest to the values: of all subsets of them the best."""
    best, found = sum(value * value for value in values), [0.0] * len(columns)
    for count in range(1, len(columns) + 1):
        for chosen in combinations(range(len(columns)), count):
            solved = _least_squares([columns[number] for number in chosen], values)
            if solved is None or min(solved) < 0:
                continue
            rest = sum(
                (value - sum(c * columns[number][row] for c, number in zip(solved, chosen))) ** 2
                for row, value in enumerate(values)
            )
            if rest < best:
                best, found = rest, [0.0] * len(columns)
                for coefficient, number in zip(solved, chosen):
                    found[number] = coefficient
    return found


def _least_squares(columns: Sequence[Sequence[float]], values: Sequence[float]) -> list[float] | None:
    """Coefficients by the normal equations; None where the columns do not determine them."""
    rows = [[_dot(left, right) for right in columns] + [_dot(left, values)] for left in columns]
    for column in range(len(rows)):
        pivot = max(range(column, len(rows)), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        if abs(rows[column][column]) < 1e-12:
            return None
        for row in range(len(rows)):
            if row != column:
                times = rows[row][column] / rows[column][column]
                rows[row] = [value - times * above for value, above in zip(rows[row], rows[column])]
    return [row[-1] / row[column] for column, row in enumerate(rows)]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right))


# The bound


def bound(cells: Sequence[Cell], cores: int, unfit: Sequence[int] = ()) -> Bound:
    """What set the answer, from what the cores did. `unfit` are the counts left out because memory has no room."""
    best = choose(cells)
    curve = [cell for cell in cells if cell.sizes == best.sizes and cell.rounds]
    base, most = base_of(best, cells), max(cell.workers for cell in curve)
    used = best.cpu_percent / 100
    if unfit and best.workers == most:
        return Bound("memory", f"memory: {min(unfit)} workers have no room in it")
    if used + best.elsewhere >= BUSY * cores:
        others = f", other programs {best.elsewhere:.1f}" if best.elsewhere > ELSEWHERE * cores else ""
        workers = "1 worker keeps" if best.workers == 1 else f"{best.workers} workers keep"
        return Bound("cores", f"cores: {workers} {_of_cores(used, cores)} busy{others}")
    shortfall = [cell for cell in curve if cell.workers > base.workers and speedup(cell, base).efficiency < BUSY]
    if not shortfall and best.workers == most:
        return Bound("none", f"none met: {most} workers are still the fastest; try more, or fewer to compare with")
    slowed = min(shortfall, key=lambda cell: abs(cell.workers - best.workers)) if shortfall else best
    dearer = slowed.cpu_per_item / base.cpu_per_item if base.cpu_per_item else 1.0
    if slowed.workers <= cores and dearer >= DEARER and slowed.cpu_percent >= 100 * BUSY * slowed.workers:
        return Bound(
            "memory",
            f"memory: an item takes {dearer:.1f} times the CPU time beside {slowed.workers - 1} others "
            "(bandwidth, caches or hyper-threads that workers share)",
        )
    waits = f"workers wait for one another or for a device, {_of_cores(used, cores)} busy"
    return Bound("contention", f"contention: {waits}")


def _of_cores(used: float, cores: int) -> str:
    return f"{used:.1f} of {cores} cores" if cores > 1 else f"{100 * used:.0f}% of 1 core"


# In words


def answer(cells: Sequence[Cell], fitted: Fit | None) -> str:
    """The answer in one sentence: the fastest, what fewer workers cost, the serial share."""
    best, top = choose(cells), fastest(cells)
    parts = [f"{top.workers} is the fastest" if top.workers > 1 else "1 worker is the fastest"]
    if best.batch_size is not None:
        parts.append(f"batch size {best.batch_size}")
    others = {cell.workers for cell in cells if cell.rounds and cell.workers < top.workers}
    if others:
        near = best.workers if best.workers in others else max(others)
        rate = max(cell.rate for cell in cells if cell.workers == near)
        chosen = ", and is enough" if near == best.workers else ""
        parts.append(f"{near} is {100 * (1 - rate / top.rate):.0f}% slower with {_share(near, top.workers)}{chosen}")
    if fitted is not None:
        parts.append(f"serial share {_percent(fitted.contention)}")
    return "; ".join(parts)


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f}%" if percent >= 10 else f"{percent:.2g}%"


def _share(few: int, many: int) -> str:
    return "half the workers" if 2 * few == many else f"{100 * few / many:.0f}% of the workers"


def doubts(cells: Sequence[Cell], cores: int) -> list[str]:
    """What spoils these measurements, a sentence each."""
    found = []
    measured = [cell for cell in cells if cell.rounds]
    shortest = min((median(r.seconds for r in cell.rounds) for cell in measured), default=SHORT)
    if shortest < SHORT:
        found.append(f"the shortest rounds took {shortest:.2g} s: below 1 s more is measured than the items")
    scarce = [cell for cell in measured if cell.rounds[0].items < FEW * cell.workers]
    if scarce:
        few = max(scarce, key=lambda cell: cell.workers)
        found.append(f"{few.rounds[0].items} items are few for {few.workers} workers: give more --seconds or --sample")
    found += [f"outlier: {sentence}" for cell in measured for sentence in _outliers(cell)]
    unsteady = [cell for cell in measured if (cell.spread or 0.0) > UNSTEADY]
    if unsteady:
        worst = max(unsteady, key=lambda cell: cell.spread or 0.0)
        found.append(f"rounds differ by {100 * (worst.spread or 0):.0f}% at {_name(worst)}: more --seconds help")
    if any(len(cell.rounds) == 1 for cell in measured):
        found.append("some counts were measured once only: their error is not known; give more --seconds")
    others = [r.elsewhere / r.seconds for cell in measured for r in cell.rounds if r.seconds > 0]
    if others and max(others) > ELSEWHERE * cores:
        found.append(f"other programs used up to {max(others):.1f} of {cores} cores meanwhile")
    over = sorted({cell.workers for cell in measured if cell.workers > cores})
    if over:
        which = ", ".join(map(str, over))
        found.append(f"more workers ({which}) than the {cores} usable cores: they only help where items wait")
    return found


def _outliers(cell: Cell) -> list[str]:
    """Rounds far from the median of their cell."""
    seconds = [r.seconds for r in cell.rounds]
    if len(seconds) < 3:
        return []
    middle = median(seconds)
    deviation = median(abs(value - middle) for value in seconds)
    return [
        f"round {r.number} with {_name(cell)} took {r.seconds:.3g} s, mostly it is {middle:.3g} s"
        for r in cell.rounds
        if abs(r.seconds - middle) > max(_OUTLIER * deviation / 0.6745, _OUTLYING * middle)
    ]


def _name(cell: Cell) -> str:
    chunks = "" if cell.chunk_size is None else f", chunks of {cell.chunk_size}"
    calls = "" if cell.batch_size is None else f", batch size {cell.batch_size}"
    return f"{plural(cell.workers, 'worker')}{chunks}{calls}"
