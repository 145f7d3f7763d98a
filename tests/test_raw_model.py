"""Batches as clients sent them survive what a store survives, byte for byte, whatever they hold.

Model: the list of what was appended to each shard. Everything in between (coalescing appends,
regrouping, crashes, the mapped stage, a salvage) has to leave its batches alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import hstreamlite as hs
from hstreamlite._native import fast
from hstreamlite.config import LEVELS
from hstreamlite.errors import MalformedBatch
from hstreamlite.raw import batch_op
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config
from hstreamlite.tools.check import check
from hstreamlite.tools.salvage import salvage
from tests import effort

Sent = tuple[int, str, bytes, int]
"""Batch id, compression, payload, number of records."""

BODIES = [fast.encode_batch([b"x" * size] * count) for size in (0, 900) for count in (1, 3)]
PAYLOADS = st.one_of(st.sampled_from(BODIES), st.binary(min_size=1, max_size=600))
APPENDS = st.tuples(
    st.just("append"),
    st.integers(0, 7),
    PAYLOADS,
    st.sampled_from(["none", "gzip", "zstd"]),
    st.one_of(st.integers(1, 8), st.just(100_000)),
    st.sampled_from(["sync", "os", "memory"]),
)
OTHERS = st.sampled_from(["record", "records", "compact", "reopen", "process crash", "power cut"])
STEPS = st.lists(st.one_of(APPENDS, APPENDS, APPENDS, OTHERS), max_size=40)


@dataclass
class Life:
    """One store over its lives, and what was appended to it."""

    env: SimEnv
    width: int
    sent: dict[int, list[Sent]] = field(default_factory=dict)
    next: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = self.open()
        engine = self.store._engine
        pending = engine.create_stream("s", shards=self.width)
        engine.journal.wait(pending.ticket)
        self.shards = pending.value.shard_ids

    def open(self) -> hs.Store:
        self.store = hs.open("/db", config=small_config(), env=self.env)
        return self.store

    def append(self, shard: int, sent: tuple[bytes, str, int], level: str) -> None:
        engine = self.store._engine
        payload, compression, size = sent
        op = batch_op(engine, shard, payload, compression, size)
        ticket, ((_, first, count),) = engine.journal.stage([op], LEVELS[level])
        assert count == size
        assert first == self.next.get(shard, 1)
        engine.journal.wait(ticket)
        self.next[shard] = first + count
        self.sent.setdefault(shard, []).append((first, compression, payload, size))

    def records(self, count: int) -> None:
        stream = self.store.stream("s")
        ids = [stream.append(b"one")] if count == 1 else stream.append_many([b"a"] * count)
        for at in ids:
            self.next[at.shard_id] = at.lsn + 1

    def step(self, step: Any) -> None:
        match step:
            case ("append", at, payload, compression, size, level):
                shard = self.shards[at % self.width]
                self.append(shard, (payload, compression, size), level)
            case "record":
                self.records(1)
            case "records":
                self.records(3)
            case "compact":
                self.store.compact()
            case "reopen":
                self.store.close()
                self.open()
            case "process crash":
                self.store._engine.journal.wait(self.store._engine.journal.staged())
                self.env = self.env.process_crash()
                self.open()
            case "power cut":
                self.store._engine.journal.wait(self.store._engine.journal.staged())
                self.env = self.env.power_cut()
                self.open()
        self.look(self.store)

    def look(self, store: hs.Store) -> None:
        """All batches are there, as they were sent, in order, whatever lies between."""
        for shard in self.shards:
            kept = {b.batch_id: b for b in store.stream("s").read_batches(shard=shard)}
            for first, compression, payload, size in self.sent.get(shard, []):
                batch = kept.get(first)
                if batch is None:  # not yet on disk
                    assert first >= store._engine.journal.info(shard).durable_next
                    continue
                assert (batch.compression, batch.payload) == (compression, payload)
                assert (batch.size, batch.first, batch.end) == (size, 0, size)


@pytest.mark.parametrize("width", range(1, 9))
@settings(deadline=None, max_examples=effort.of(25, 5, 500))
@given(steps=STEPS, seed=st.integers(0, 2**32))
def test_batches_stay_what_they_were(width: int, steps: list[Any], seed: int) -> None:
    life = Life(SimEnv(seed=seed), width)
    for step in steps:
        life.step(step)
    life.store._engine.journal.wait(life.store._engine.journal.staged())
    life.look(life.store)
    life.store.close()
    assert check(life.env, "/db").sound
    assert salvage(life.env, "/db", "/new").source.sound
    with hs.open("/new", config=small_config(), env=life.env) as saved:
        life.look(saved)


@pytest.mark.parametrize("level", ["os", "memory"])
def test_what_the_mapped_stage_saves_is_as_it_was_sent(level: str) -> None:
    life = Life(SimEnv(seed=3), 1)
    (shard,) = life.shards
    engine = life.store._engine
    op = batch_op(engine, shard, b"\xff garbage", "zstd", 7)
    ticket, _ = engine.journal.stage([op], LEVELS[level])
    assert ticket == 0
    life.env = life.env.process_crash()
    found = list(life.open().stream("s").read_batches())
    assert [(b.payload, b.compression, b.size) for b in found] == (
        [(b"\xff garbage", "zstd", 7)] if level == "os" else []
    )


def test_own_batches_that_do_not_decode_are_damage_still() -> None:
    life = Life(SimEnv(seed=4), 1)
    (shard,) = life.shards
    own = (shard, 1, b"no gzip", 2, 100)
    engine = life.store._engine
    ticket, _ = engine.journal.stage([own], LEVELS["sync"])
    engine.journal.wait(ticket)
    for _ in range(2):
        with pytest.raises(hs.CorruptionError):
            list(life.store.stream("s").read())
    life.next[shard] = 3
    life.append(shard, (b"no batch", "none", 2), "sync")
    reader = life.store.stream("s").read(start=hs.RecordId(shard, 3, 0))
    with pytest.raises(MalformedBatch):
        next(reader)
    assert list(reader) == []
