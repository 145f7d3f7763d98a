"""Where reads of a shard begin and end, and what trims leave: HStreamDB's rules, by whole batches.

Model: the batches of each shard as (id, records, time), and how many of them are gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import hstreamlite as hs
from hstreamlite.config import LEVELS
from hstreamlite.errors import PlaceConflict, RecordTrimmed, ShardNotFound, UnknownPlace
from hstreamlite.log.reader import Scan
from hstreamlite.raw import (
    Time,
    batch_op,
    scan_shard,
    scan_stream,
    tail_of,
    trim_before,
    trim_to,
)
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config
from tests import effort

Entry = tuple[int, int, int]
"""Batch id, number of records, time in ms."""

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 7), st.integers(1, 5)),
        st.tuples(st.just("append"), st.integers(0, 7), st.integers(1, 5)),
        st.tuples(st.just("wait"), st.integers(1, 3)),
        st.tuples(
            st.sampled_from(["trim shard", "trim before", "trim stream"]), st.integers(0, 99)
        ),
        st.tuples(st.sampled_from(["reopen", "power cut", "compact"])),
    ),
    min_size=3,
    max_size=25,
)


@dataclass
class Life:
    env: SimEnv
    width: int
    entries: dict[int, list[Entry]] = field(default_factory=dict)
    gone: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.open()
        engine = self.store._engine
        pending = engine.create_stream("s", shards=self.width)
        engine.journal.wait(pending.ticket)
        self.shards = pending.value.shard_ids
        for shard in self.shards:
            self.entries[shard], self.gone[shard] = [], 0

    def open(self) -> None:
        self.store = hs.open("/db", config=small_config(), env=self.env)
        self.engine = self.store._engine

    def append(self, shard: int, records: int) -> None:
        op = batch_op(self.engine, shard, b"\xff", "none", records)
        ticket, ((_, first, _),) = self.engine.journal.stage([op], LEVELS["sync"])
        self.engine.journal.wait(ticket)
        self.entries[shard].append((first, records, self.env.clock.wall_ms()))

    def kept(self, shard: int) -> list[Entry]:
        return self.entries[shard][self.gone[shard] :]

    def points(self, shard: int) -> list[Any]:
        """Return every kind of place, in and around what there is."""
        ids = [first + off for first, size, _ in self.entries[shard] for off in range(size)]
        times = sorted({ms + d for _, _, ms in self.entries[shard] for d in (-1, 0, 1)})
        behind = [max(ids, default=0) + 1, max(ids, default=0) + 9]
        records = [hs.RecordId(shard, lsn, 3) for lsn in [*ids, *behind]]
        return [hs.EARLIEST, hs.LATEST, *records, *map(Time, times), Time(-5), Time(1 << 62)]

    def trim(self, step: str, pick: int) -> None:
        shard = self.shards[pick % self.width]
        points = self.points(shard)
        point = points[pick % len(points)]
        if step == "trim stream":
            if isinstance(point, hs.RecordId):
                return
            self.settle(trim_to(self.engine, "s", None, point))
            for each in self.shards:
                self.gone[each] = max(self.gone[each], self.cut(each, point))
            return
        tail = self.entries[shard][-1:] or [(1, 0, 0)]
        if isinstance(point, hs.RecordId) and point.batch_id >= tail[0][0] + tail[0][1]:
            with pytest.raises(UnknownPlace):
                self.pend(step, shard, point)
            return
        if step == "trim before" and not isinstance(point, hs.RecordId):
            return
        self.settle(self.pend(step, shard, point))
        count = self.cut(shard, point) - (step == "trim before")
        self.gone[shard] = max(self.gone[shard], count)

    def pend(self, step: str, shard: int, point: Any) -> Any:
        if step == "trim shard":
            return trim_to(self.engine, "s", [shard], point)
        newer = hs.RecordId(shard, point.batch_id, point.batch_index + 1)
        pending, oldest = trim_before(self.engine, "s", [newer, point, hs.RecordId(shard, 0, 0)])
        assert oldest == {shard: point}
        return pending

    def cut(self, shard: int, point: Any) -> int:
        """Return how many batches lie up to a point, its own included."""
        entries = self.entries[shard]
        if point is hs.EARLIEST:
            return 0
        if point is hs.LATEST:
            return len(entries)
        if isinstance(point, Time):
            return sum(ms <= point.ms for _, _, ms in entries)
        return sum(first <= point.batch_id for first, _, _ in entries)

    def settle(self, pending: Any) -> None:
        self.engine.journal.wait(pending.ticket)
        self.store._ticker.house.apply_trims()

    def step(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("append", at, records):
                self.append(self.shards[at % self.width], records)
            case ("wait", seconds):
                self.env.advance(seconds)
            case ("reopen",):
                self.store.close()
                self.open()
            case ("power cut",):
                self.env = self.env.power_cut()
                self.open()
            case ("compact",):
                self.store.compact()
            case (kind, pick):
                self.trim(kind, pick)

    # What a read gives, and what it should.

    def expected(self, shard: int, start: Any, until: Any) -> list[Entry]:
        kept = self.kept(shard)
        if start is hs.LATEST:
            kept = []
        elif isinstance(start, Time):
            kept = [e for e in kept if e[2] >= start.ms]
        elif isinstance(start, hs.RecordId):
            kept = [e for e in kept if e[0] + e[1] > start.batch_id]
        return [e for e in kept if e in self.entries[shard][: self.cut(shard, until)]]

    def check(self, shard: int) -> None:
        assert tail_of(self.engine, shard) == (self.kept(shard) or [(0, 0, 0)])[-1][0]
        points = self.points(shard)
        for start in points:
            for until in points:
                try:
                    found = read(scan_shard(self.engine, shard, start, until))
                except PlaceConflict:
                    assert start is not hs.EARLIEST
                    assert self.expected(shard, start, until) == []
                    assert (start, until) != (hs.LATEST, hs.LATEST)
                else:
                    assert found == self.expected(shard, start, until), (start, until)


def read(scan: Scan) -> list[Entry]:
    """Read to the end, or as far as there is something."""
    found: list[Entry] = []
    while not scan.done:
        try:
            batches = scan.batches(2)
        except RecordTrimmed:
            continue
        if not batches:
            break
        found += [(b.batch_id, b.size, b.append_time_ms) for b in batches]
    return found


@pytest.mark.parametrize("width", range(1, 9))
@settings(deadline=None, max_examples=effort.of(12, 4, 300))
@given(steps=STEPS, seed=st.integers(0, 2**32))
def test_reads_and_trims_keep_to_whole_batches(
    width: int, steps: list[tuple[Any, ...]], seed: int
) -> None:
    life = Life(SimEnv(seed=seed), width)
    for step in steps:
        life.step(step)
    for shard in life.shards:
        life.check(shard)
    whole = read(scan_stream(life.engine, life.engine.stream("s"), hs.EARLIEST, hs.LATEST))
    assert sorted(whole) == sorted(e for shard in life.shards for e in life.kept(shard))
    assert [ms for _, _, ms in whole] == sorted(ms for _, _, ms in whole)
    life.store.close()


def two_batches() -> tuple[Life, int]:
    life = Life(SimEnv(seed=1), 2)
    shard = life.shards[0]
    for _ in range(2):
        life.append(shard, 3)
        life.env.advance(1.0)
    return life, shard


def test_a_start_behind_the_end_is_refused() -> None:
    life, shard = two_batches()
    ids = [hs.RecordId(shard, lsn, 0) for lsn in (1, 4)]
    for start, until in [
        (ids[1], ids[0]), (Time(9), Time(8)), (hs.LATEST, ids[0]), (ids[0], hs.EARLIEST),
        (hs.RecordId(shard, 99, 0), hs.LATEST),
    ]:  # fmt: skip
        with pytest.raises(PlaceConflict):
            scan_shard(life.engine, shard, start, until)
    with pytest.raises(PlaceConflict, match=f"shard than {life.shards[1]}"):
        scan_shard(life.engine, life.shards[1], hs.EARLIEST, ids[0])
    assert read(scan_stream(life.engine, life.engine.stream("s"), Time(9), Time(8))) == []


def test_an_empty_shard_ends_at_once() -> None:
    life, _ = two_batches()
    for start in (hs.EARLIEST, hs.LATEST, Time(0)):
        assert scan_shard(life.engine, life.shards[1], start, hs.LATEST).done
    assert not scan_shard(life.engine, life.shards[1], hs.EARLIEST, None).done
    assert tail_of(life.engine, life.shards[1]) == 0


def test_an_end_that_is_to_come_is_waited_for() -> None:
    life, shard = two_batches()
    scan = scan_shard(life.engine, shard, hs.LATEST, hs.RecordId(shard, 8, 0))
    assert read(scan) == []
    assert not scan.done
    life.append(shard, 4)
    life.append(shard, 4)
    assert [e[0] for e in read(scan)] == [7]
    assert scan.done


def test_trims_that_name_what_is_not_of_the_stream_do_nothing() -> None:
    life, shard = two_batches()
    other = life.engine.create_stream("other").value.shard_ids[0]
    with pytest.raises(ShardNotFound):
        trim_before(life.engine, "s", [hs.RecordId(shard, 4, 0), hs.RecordId(other, 1, 0)])
    with pytest.raises(UnknownPlace) as caught:
        trim_before(life.engine, "s", [hs.RecordId(shard, 4, 0), hs.RecordId(shard, 7, 0)][1:])
    assert caught.value.tail == 4
    with pytest.raises(PlaceConflict):
        trim_to(life.engine, "s", [life.shards[1]], hs.RecordId(shard, 1, 0))
    with pytest.raises(TypeError):
        trim_to(life.engine, "s", None, "latest")
    assert trim_before(life.engine, "s", [])[1] == {}
    assert len(read(scan_shard(life.engine, shard, hs.EARLIEST, hs.LATEST))) == 2
