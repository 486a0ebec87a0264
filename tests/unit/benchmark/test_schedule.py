"""Which cell runs when: surveys on a simulated clock, of work that follows a known law. And samples of inputs."""

from __future__ import annotations

import random
import threading
from collections import Counter
from pathlib import Path

import pytest

from batchmill.benchmark import scaling
from batchmill.benchmark.sample import Sample, SampleSource, draw
from batchmill.benchmark.scaling import Fit, Round
from batchmill.benchmark.schedule import Asked, RoundTask, Schedule, Step, Survey, parse_chunk_sizes, parse_counts
from batchmill.errors import InvalidUsage
from batchmill.input.formats import FORMATS, divide, split_records
from batchmill.input.sources import ByteSource

POWERS = (1, 2, 4, 8, 16, 32, 64, 128)


class LawfulRunner:
    """Work that follows a law, with noise, on a clock that is a number."""

    def __init__(self, law: Fit, noise: float = 0.0, seed: int = 1) -> None:
        self.law, self.noise = law, noise
        self.now = 0.0
        self.stopped = ""
        self.tasks: list[tuple[int, RoundTask]] = []
        self.stop_after: int | None = None
        self._random = random.Random(seed)

    def clock(self) -> float:
        return self.now

    def warm_up(self) -> float:
        self.now += 1 / self.law.single
        return 1 / self.law.single

    def run(self, task: RoundTask, number: int, deadline: float) -> Round | None:
        if len(self.tasks) == self.stop_after:
            self.stopped = "SIGINT"
            return None
        items = task.records * task.passes
        seconds = items / self.law.rate(task.workers) * self._random.lognormvariate(0, self.noise)
        if self.now + seconds > deadline:
            self.now = deadline
            return None
        self.now += seconds
        self.tasks.append((number, task))
        return Round(number, seconds, items, 0, items / self.law.single, 10**6)


def survey(runner: LawfulRunner, asked: Asked, have: int = 10_000) -> tuple[Survey, list[Step], list[Schedule]]:
    steps: list[Step] = []
    told: list[Schedule] = []
    made = Survey(runner, asked, have, deadline=asked.seconds, clock=runner.clock, startups={}, tell=told.append,
                  on_step=steps.append)  # fmt: skip
    return made, steps, told


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "law", [Fit(0.02, 0, 50), Fit(0.05, 0.0005, 50), Fit(0.2, 0.001, 5), Fit(0.01, 0.0001, 20_000), Fit(0.5, 0, 10)]
)
def test_up_to_128_workers_the_law_is_found_and_the_choice_is_within_one_step(law: Fit, seed: int) -> None:
    made, _, _ = survey(LawfulRunner(law, noise=0.01, seed=seed), Asked(POWERS, seconds=600))
    assert made.run()
    found = scaling.fit(made.cells)
    assert found is not None
    assert found.contention == pytest.approx(law.contention, rel=0.2)
    best = scaling.choose([scaling.Cell(n, None, (Round(1, 1 / law.rate(n), 1, 0, 0, 0),)) for n in POWERS])
    assert abs(POWERS.index(scaling.choose(made.cells).workers) - POWERS.index(best.workers)) <= 1


def test_rounds_are_interleaved_in_an_order_of_their_own() -> None:
    runner = LawfulRunner(Fit(0, 0, 100))
    made, _, told = survey(runner, Asked((1, 2, 4)))
    made.run()
    orders = [[task.workers for number, task in runner.tasks if number == wanted] for wanted in range(1, 4)]
    assert all(sorted(order) == [1, 2, 4] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert {task[2:4] for number, task in runner.tasks if number} == {(told[0].records, told[0].passes)}


def test_how_often_an_item_runs_is_told_before_the_first_round() -> None:
    runner = LawfulRunner(Fit(0, 0, 1000))
    made, _, told = survey(runner, Asked((1, 2)), have=100)
    made.run()
    schedule = told[0]
    assert schedule.records <= 100
    for workers in (1, 2):
        run = [task for number, task in runner.tasks if number and task.workers == workers]
        assert len(run) == schedule.rounds
        assert sum(task.passes for task in run) == schedule.passes * schedule.rounds


@pytest.mark.parametrize("seconds", [5, 20, 60, 600])
@pytest.mark.parametrize("single", [0.5, 10, 10_000])
def test_the_time_is_kept(seconds: float, single: float) -> None:
    runner = LawfulRunner(Fit(0.05, 0, single))
    made, _, _ = survey(runner, Asked((1, 2, 4, 8), seconds=seconds))
    made.run()
    assert runner.now <= seconds


def test_a_time_that_is_too_short_is_admitted() -> None:
    made, _, _ = survey(LawfulRunner(Fit(0, 0, 0.1)), Asked((1, 2), seconds=15))
    assert not made.run()


def test_what_was_measured_stays_when_it_is_stopped() -> None:
    runner = LawfulRunner(Fit(0, 0, 100))
    runner.stop_after = 6
    made, steps, _ = survey(runner, Asked((1, 2)))
    assert not made.run()
    assert sum(len(cell.rounds) for cell in made.cells) == len(steps) > 0


def test_few_items_are_a_multiple_of_the_greatest_count() -> None:
    made, _, told = survey(LawfulRunner(Fit(0, 0, 1)), Asked((1, 2, 4), seconds=120))
    made.run()
    assert told[0].records % 4 == 0


def test_a_sample_that_was_asked_for_is_kept_to() -> None:
    made, _, told = survey(LawfulRunner(Fit(0, 0, 1000)), Asked((1, 2), sample=77))
    made.run()
    assert (told[0].records, told[0].passes) == (77, 1)


def test_every_chunk_size_is_a_cell() -> None:
    made, _, _ = survey(LawfulRunner(Fit(0, 0, 100)), Asked((1, 2), (1, 16, None)))
    assert made.run()
    assert {(cell.workers, cell.chunk_size) for cell in made.cells} == {(n, s) for n in (1, 2) for s in (1, 16, None)}


@pytest.mark.parametrize(
    ("text", "cores", "counts"),
    [("1,2,4", 9, (1, 2, 4)), ("1..4", 9, (1, 2, 3, 4)), ("8,2..3,8", 9, (2, 3, 8)), (None, 1, (1,)), (None, 2, (1, 2)),
     (None, 6, (1, 2, 4, 6)), (None, 8, (1, 2, 4, 8))],
)  # fmt: skip
def test_worker_counts_are_read(text: str | None, cores: int, counts: tuple[int, ...]) -> None:
    assert parse_counts(text, cores) == counts


@pytest.mark.parametrize("text", ["", "0", "x", "1,,2", "4..1", "1..", "..4", "2000", "1..1000", "-1", "1.5"])
def test_bad_worker_counts_are_refused(text: str) -> None:
    with pytest.raises(InvalidUsage):
        parse_counts(text, 4)


def test_chunk_sizes_are_read_or_refused() -> None:
    assert parse_chunk_sizes(None) == (None,)
    assert parse_chunk_sizes("1,16,auto,1") == (1, 16, None)
    for text in ("0", "x", "1,,2", ""):
        with pytest.raises(InvalidUsage):
            parse_chunk_sizes(text or ",")


# Samples


def sample_of(path: Path, count: int) -> Sample:
    wake = threading.Event()
    source = ByteSource([str(path)], FORMATS["lines"], wake.set)
    try:
        return draw(source, FORMATS["lines"], count, 30, wake, is_stopped=lambda: False)
    finally:
        source.close()


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "items.txt"
    path.write_text("".join(f"{n}\n" if n % 10 else "\n" for n in range(50_000)))
    return path


def test_a_sample_comes_from_the_whole_input_in_its_order_without_blank_records(lines: Path) -> None:
    sample = sample_of(lines, 1000)
    values = [int(record.raw) for record in sample.records]
    assert len(values) == 1000
    assert values == sorted(set(values))
    assert sample.whole
    assert all(record.position == int(record.raw) == record.line - 1 for record in sample.records)
    quarters = Counter(value // 12_500 for value in values)
    assert all(150 < quarters[quarter] < 350 for quarter in range(4))


def test_the_same_input_gives_the_same_sample(lines: Path) -> None:
    assert sample_of(lines, 50) == sample_of(lines, 50)


def test_a_small_input_is_sampled_whole(lines: Path) -> None:
    assert len(sample_of(lines, 10**6).records) == 45_000


def test_a_sample_of_large_records_stays_small(lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchmill.benchmark.sample.MOST_BYTES", 1000)
    sample = sample_of(lines, 10_000)
    assert 50 < sum(len(record.raw) for record in sample.records) <= 1000
    assert sample.records[-1].position > 10_000


def test_a_thinned_sample_is_evenly_spaced(lines: Path) -> None:
    sample = sample_of(lines, 1000)
    assert sample.thin(10).records == sample.records[::100]
    assert sample.thin(5000) == sample


def test_a_sample_is_given_again_and_again_and_no_chunk_spans_two_passes(lines: Path) -> None:
    records = sample_of(lines, 10).records
    source = SampleSource(records, 3, FORMATS["csv"])
    seen, sizes = [], []
    while (chunk := source.take(4)) is not None:
        assert isinstance(chunk.data, bytes)
        assert len(split_records(chunk.data, b"\n")) == chunk.records
        seen += split_records(chunk.data, b"\n")
        sizes.append(chunk.records)
    assert sizes == [4, 4, 2] * 3
    assert seen == [record.raw for record in records] * 3
    assert source.ended


def test_sampled_records_may_keep_their_numbers_also_when_a_chunk_is_divided(lines: Path) -> None:
    records = sample_of(lines, 1000).thin(10).records
    chunk = SampleSource(records, 1, FORMATS["csv"], numbered=True).take(10)
    assert chunk is not None
    numbers = tuple(record.position + 1 for record in records)
    head, tail = divide(chunk, 3, FORMATS["lines"])
    assert (head.numbers, tail.numbers) == (numbers[:3], numbers[3:])
    plain = SampleSource(records, 1, FORMATS["csv"]).take(10)
    assert plain is not None
    assert plain.numbers is None


def test_rows_of_tables_keep_their_header_and_their_line(tmp_path: Path) -> None:
    for name, header in (("a", "x,y"), ("b", "y,x")):
        rows = "".join(f'"1\n{n}",2\n' for n in range(5))
        (tmp_path / f"{name}.csv").write_text(f"{header}\n{rows}")
    wake, csv = threading.Event(), FORMATS["csv"]
    reader = ByteSource([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")], csv, wake.set)
    sample = draw(reader, csv, 100, 30, wake, is_stopped=lambda: False)
    reader.close()
    assert [record.line for record in sample.records] == [2, 4, 6, 8, 10] * 2
    source, chunks = SampleSource(sample.records, 1, FORMATS["csv"]), []
    while (chunk := source.take(7)) is not None:
        chunks.append((chunk.header, chunk.records))
    assert chunks == [(b"x,y", 5), (b"y,x", 5)]
