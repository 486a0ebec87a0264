"""InFlight, matching and checkpoint together, against a dictionary: no committed outcome is lost, changed or made
again.

Batches run here with all of their real parts but the processes: a random generator says when a worker answers, how far
it came, and when it dies; when the parent is killed; and how the input is edited before the next run.
"""

from __future__ import annotations

import io
import itertools
import json
import random
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from checkpoint_kit import QuickDisk
from worker_kit import Stage

from batchmill.checkpoint import positions
from batchmill.codec.ids import digest_id, id_key
from batchmill.codec.outcome_block import OutcomeBlock, outcomes
from batchmill.errors import ItemError
from batchmill.model import Report
from batchmill.output import layout, ordering, spool
from batchmill.output.collect import write_results
from batchmill.output.results import open_checkpoint
from batchmill.scheduler import work_queue
from batchmill.scheduler.in_flight import Flight
from batchmill.settings import Settings
from batchmill.worker.records import NO_LIMIT, RECORD_BITS, ChunkJob

WORKERS = 3


class Made(NamedTuple):
    """A committed outcome as the model knows it: whose, of which content, ok or not; each has a ticket of its own."""

    key: bytes
    content: str
    ok: bool
    ticket: int


class World:
    """The model: what was committed, by frame and index."""

    def __init__(self) -> None:
        self.live: dict[tuple[int, int], Made] = {}
        self.tickets = itertools.count(1)
        self.session = 0

    def call(self, item: dict[str, Any]) -> Any:
        if self.session <= item.get("fails", 0):
            raise ValueError(next(self.tickets))
        return [item["v"], next(self.tickets)]


def key_of(raw: bytes) -> bytes:
    try:
        return id_key(json.loads(raw)["id"])
    except ValueError:
        return id_key(digest_id(raw))


def content_of(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["v"])
    except ValueError:
        return raw.decode()


def made_of(outcome: Any) -> Made:
    if outcome.ok:
        return Made(id_key(outcome.id), outcome.result[0], True, outcome.result[1])
    ticket = int(outcome.error.message) if outcome.error.type == "ValueError" else 0
    return Made(id_key(outcome.id), content_of(outcome.raw), False, ticket)


class Plan:
    """What a run on `records` must do, given what is committed, and how much of it was done."""

    def __init__(self, records: list[bytes], live: list[Made], settings: Settings) -> None:
        self.runs: Counter[bytes] = Counter()
        self.forbidden: set[tuple[bytes, str]] = set()
        self.skipped = self.failed = self.changed = 0
        wanted: dict[bytes, Counter[str]] = {}
        for raw in records:
            wanted.setdefault(key_of(raw), Counter())[content_of(raw)] += 1
        for key, contents in wanted.items():
            self._of_id(key, contents, [made for made in live if made.key == key], settings)

    def _of_id(self, key: bytes, wanted: Counter[str], live: list[Made], settings: Settings) -> None:
        left_wanted, left_live = Counter(wanted), list(live)
        for content, count in wanted.items():
            same = sorted((made for made in live if made.content == content), key=lambda made: not made.ok)[:count]
            for made in same:
                left_live.remove(made)
                left_wanted[content] -= 1
                self._matched(key, made, settings.retry_failed if not made.ok else False)
            if len(same) == count and all(made.ok for made in same):
                self.forbidden.add((key, content))
        rest = left_wanted.total()
        for made in sorted(left_live, key=lambda made: not made.ok)[:rest]:
            rest -= 1
            self.changed += made.ok
            self._matched(key, made, settings.rerun_changed if made.ok else settings.retry_failed)
        self.runs[key] += rest

    def _matched(self, key: bytes, made: Made, rerun: bool) -> None:
        if rerun:
            self.runs[key] += 1
        else:
            self.skipped += made.ok
            self.failed += not made.ok

    def committed(self, made: Made) -> None:
        assert (made.key, made.content) not in self.forbidden, "it was done"
        self.runs[made.key] -= 1
        assert self.runs[made.key] >= 0, "it was run more often than it should have been"

    @property
    def is_done(self) -> bool:
        return not any(self.runs.values())


class OutputMaker:
    """One run, its workers played by this process."""

    def __init__(self, world: World, stage: Stage, plan: Plan, rng: random.Random) -> None:
        self.world = world
        self.plan = plan
        self.rng = rng
        self.stage = stage
        self.flights: dict[int, ChunkJob] = {}
        self.charged: set[int] = set()

    def run(self, kill: float) -> Report | None:
        """The report, or None if the parent was killed on the way (with probability `kill` at each step)."""
        moves = [self.hand] * 6 + [self.reply] * 8 + [self.shorten, self.lose]
        for _ in range(20_000):
            if self.rng.random() < kill:
                return None
            if self.stage.work_queue.is_over and not self.flights:
                return self.stage.finish()
            self.rng.choice(moves)()
        raise AssertionError("the run does not end")

    def hand(self) -> None:
        chunk = self.stage.work_queue.next(not self.flights)
        if chunk is not None:
            order = self.stage.job(chunk, self.rng.randrange(WORKERS))
            self.flights[order.serial] = order

    def any_flight(self) -> Flight | None:
        """A chunk in flight, as the ledger knows it."""
        flights = list(self.stage.in_flight)
        return self.rng.choice(flights) if flights else None

    def reply(self) -> None:
        """A worker answers, or tells ids, for all of its chunk or (every third) for a part of it."""
        flight = self.any_flight()
        if flight is None:
            return
        allowed = flight.chunk.records
        if self.rng.random() < 0.3:
            allowed = self.rng.randint(0, allowed)
        self.stage.board[1] = (flight.serial << RECORD_BITS) + allowed + 1
        order = self.flights.pop(flight.serial)
        committed = None
        if flight.chunk.scan:
            self.stage.scan(order)
        else:
            committed = self.stage.answer(order)
        self.stage.board[1] = NO_LIMIT
        if committed is not None:
            self.note(*committed)

    def note(self, seq: int, block: OutcomeBlock) -> None:
        """Hold what was committed against the plan, and keep it."""
        live = self.world.live
        replaced = {place: (old_seq, old_place) for place, old_seq, old_place, _ in block.supersedes}
        for place, (_, outcome) in enumerate(outcomes(block)):
            made = made_of(outcome)
            self.plan.committed(made)
            if place in replaced:
                old = live.pop(replaced[place])
                assert old.key == made.key
                assert not old.ok or old.content != made.content
            live[seq, place] = made

    def shorten(self) -> None:
        """Take back what a worker has not started."""
        flight = self.any_flight()
        if flight is not None and flight.chunk.records:
            before = flight.chunk.to_run
            self.stage.in_flight.shorten(flight.serial, self.rng.randrange(flight.chunk.records))
            self.stage.work_queue.refund(before - flight.chunk.to_run)

    def lose(self) -> None:
        """A worker dies, most of the time because of what it ran."""
        number = self.rng.randrange(WORKERS)
        lost = sorted(self.stage.in_flight.on_worker(number), key=lambda flight: -flight.serial)
        for flight in lost:
            del self.flights[flight.serial]
            self.stage.work_queue.refund(flight.chunk.to_run)
            is_current = flight is lost[-1]
            records = flight.chunk.records
            if is_current and records > 1 and self.rng.random() < 0.3:  # at a call of several
                first = self.rng.randrange(records - 1)
                self.stage.in_flight.split(flight.serial, first, self.rng.randrange(first + 1, records))
                continue
            suspect = self.rng.randrange(records) if is_current and records and self.rng.random() < 0.8 else None
            strike = self.stage.in_flight.lost(flight.serial, suspect, blame=is_current)
            if strike is None:
                continue
            self.stage.strike({"position": strike.first, "count": strike.count, "exit": -11})
            if self.stage.in_flight.condemned(strike) and self.may_be_condemned(strike.first):
                self.stage.in_flight.condemn(strike.first, ItemError("WorkerDied", "the worker died"))

    def may_be_condemned(self, position: int) -> bool:
        """Only what has an id of its own: the model cannot tell two outcomes of one content, one failed, one not."""
        for chunk in (*self.stage.in_flight._ready, *self.stage.in_flight._scans):
            if chunk.first == position and chunk.records == 1 and isinstance(chunk.data, bytes):
                return b'"only' in chunk.data
        return False


class Timeline:
    """A checkpoint's life: runs, kills, and an input that changes between them."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.rng = rng
        self.world = World()
        self.input = directory / "in.jsonl"
        self.output = directory / "out.jsonl"
        self.checkpoint = directory / "c.ckpt"
        self.fresh = itertools.count(1)
        self.records = [self.new() for _ in range(rng.randint(1, 40))]

    def new(self) -> bytes:
        number, kind = next(self.fresh), self.rng.random()
        if kind < 0.05:
            return b""
        if kind < 0.1:
            return b"no json %d" % self.rng.randint(1, 3)
        if kind < 0.3:
            item = {"id": f"only {number}", "v": f"v{number}", "fails": self.rng.randint(0, 4)}
        elif kind < 0.5:
            item = {"id": self.rng.choice([1, "1", 1.0, 2]), "v": f"{self.rng.randint(1, 3)}"}
        else:
            item = {"id": number, "v": f"v{number}"}
        return json.dumps(item).encode()

    def edit(self) -> None:
        for _ in range(self.rng.choice((0, 0, 1, 1, 3, 8))):
            self.rng.choice([self.shuffle, self.rotate, self.insert, self.drop, self.double, self.change, self.grow])()

    def somewhere(self) -> int:
        return self.rng.randint(0, len(self.records))

    def shuffle(self) -> None:
        self.rng.shuffle(self.records)

    def rotate(self) -> None:
        at = self.somewhere()
        self.records = self.records[at:] + self.records[:at]

    def insert(self) -> None:
        self.records.insert(self.somewhere(), self.new())

    def grow(self) -> None:
        self.records += [self.new() for _ in range(5)]

    def drop(self) -> None:
        at = self.somewhere()
        del self.records[at : at + self.rng.randint(1, 4)]

    def double(self) -> None:
        if self.records:
            found = self.rng.choice(self.records)
            if b'"only' not in found:
                self.records.insert(self.somewhere(), found)

    def change(self) -> None:
        changeable = [i for i, raw in enumerate(self.records) if raw.startswith(b"{")]
        if changeable:
            at = self.rng.choice(changeable)
            item = json.loads(self.records[at])
            self.records[at] = json.dumps({**item, "v": f"new {next(self.fresh)}"}).encode()

    def run(self, kill: float) -> bool:
        """One run to its end (True), or to the parent's."""
        self.world.session += 1
        closed = self.rng.random() < 0.7
        self.input.write_bytes(b"\n".join(self.records) + (b"\n" if closed else b""))
        settings: dict[str, Any] = {
            "retry_failed": self.rng.random() < 0.8,
            "rerun_changed": self.rng.random() < 0.3,
            "chunk_size": self.rng.randint(1, 7),
            "batch_size": self.rng.choice((None, None, 1, 2, 5)),
        }
        items = [raw for raw in self.records if raw.strip()]
        plan = Plan(items, [*self.world.live.values()], Settings(**settings))
        expected = plan.skipped, plan.failed, plan.changed
        with ExitStack() as stack:
            stage = Stage(self.world.call, [self.input], self.checkpoint, stack, output=self.output, **settings)
            report = OutputMaker(self.world, stage, plan, self.rng).run(kill)
        if report is None:
            self.tear()
            return False
        assert plan.is_done
        assert (report.skipped, report.changed) == (expected[0], expected[2])
        assert report.total == report.completed + report.skipped + report.failed == len(items)
        self.check_output(items)
        self.check_current(items)
        return True

    def tear(self) -> None:
        """The last write of a killed parent was cut short, sometimes."""
        if self.rng.random() < 0.5:
            data = self.checkpoint.read_bytes()
            with self.checkpoint.open("ab") as file:
                file.write(data[36 : 36 + self.rng.randint(1, 30)])

    def check_output(self, items: list[bytes]) -> None:
        """The output has this input's ok items, in its order; `results` has everything, and those in the same order."""
        written = [json.loads(line) for line in self.output.read_bytes().splitlines()]
        keys = [id_key(line["id"]) for line in written]
        ok = iter(keys)
        rest = Counter(keys)
        for raw in items:
            if rest[key_of(raw)]:
                assert next(ok) == key_of(raw)
                rest[key_of(raw)] -= 1
        assert not rest.total()
        with open_checkpoint(self.checkpoint, removed=True) as results:
            found = [outcome.result for outcome in results.outcomes(all=False)]
        everything = iter(found)
        assert all(line["result"] in everything for line in written), "not in the same order"

    def check_current(self, items: list[bytes]) -> None:
        """After a complete run the checkpoint speaks of its input: an outcome for each item, and its output again."""
        with open_checkpoint(self.checkpoint) as results:
            found = Counter(id_key(outcome.id) for outcome in results.outcomes())
            status = results.status()
        assert found == Counter(map(key_of, items))
        assert status.report is not None
        assert status.done + status.failed == status.total == len(items)
        assert status.removed == status.report.removed == len(self.world.live) - len(items)
        written = io.BytesIO()
        write_results([str(self.checkpoint)], written)
        assert written.getvalue() == self.output.read_bytes()

    def check_checkpoint(self) -> None:
        with open_checkpoint(self.checkpoint, removed=True) as results:
            found = [made_of(outcome) for outcome in results.outcomes()]
            failed = [made_of(outcome) for outcome in results.failures()]
            status = results.status()
        written = io.BytesIO()
        write_results([str(self.checkpoint)], written, all=True, removed=True)
        keys = [id_key(json.loads(line)["id"]) for line in written.getvalue().splitlines()]
        assert keys == [made.key for made in found]
        assert Counter(found) == Counter(self.world.live.values())
        assert failed == [made for made in found if not made.ok]
        with open_checkpoint(self.checkpoint) as results:
            current, left_out = [made_of(outcome) for outcome in results.outcomes()], results.left_out
            assert [made for made in current if not made.ok] == list(map(made_of, results.failures()))
        assert len(current) + status.removed == len(found)
        assert (status.done, status.failed) == (sum(made.ok for made in current), sum(not made.ok for made in current))
        assert (status.done + left_out[0], status.failed + left_out[1]) == (len(found) - len(failed), len(failed))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", range(60))
def test_no_committed_outcome_is_lost_changed_or_made_again(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr("batchmill.checkpoint.writer.Disk", QuickDisk)
    timeline = Timeline(tmp_path, rng)
    for _ in range(6):
        monkeypatch.setattr(work_queue, "_HELD", rng.choice((0, 200, 8 << 20)))
        monkeypatch.setattr(work_queue, "_SCAN", rng.choice((1, 4, 5000)))
        monkeypatch.setattr(positions, "ORDER_LIMIT", rng.choice((1, 3, 5000)))
        monkeypatch.setattr(ordering, "_POSITIONS", rng.choice((1, 5, 20_000)))
        monkeypatch.setattr(layout, "_FREE", rng.choice((0, 0, 2_000_000)))
        monkeypatch.setattr(layout, "_WINDOW", rng.choice((4, 32, 1 << 14)))
        monkeypatch.setattr(spool, "_UNIT", rng.choice((1, 300, 4 << 20)))
        timeline.run(kill=rng.choice((0.0, 0.01, 0.05)))
        timeline.check_checkpoint()
        timeline.edit()
    assert timeline.run(kill=0.0)
    timeline.check_checkpoint()
