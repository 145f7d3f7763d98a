"""Followers beside a writer on one simulated disk: what they show, what the disk keeps.

Goal: a follower shows exactly what is durable: all that the writer shows, nothing that a power cut
could take, in the same order, gaps where the writer trimmed. Method: Hypothesis interleaves steps
of the writer (appends at every level, trims, deletions, snapshots, deaths, reopenings) and looks of
followers, on a machine that loses power in between.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import hstreamlite as hs
from hstreamlite._native import lib
from hstreamlite.errors import RecordTrimmed
from hstreamlite.follower import Follower
from hstreamlite.log.following import FollowedJournal
from hstreamlite.log.regroup import LEVEL_1
from hstreamlite.log.swap import segment_facts
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, Op
from hstreamlite.testing.witness import small_config
from tests import effort
from tests.test_fork import run_script

STREAMS = st.sampled_from(["a", "b", "c"])
LEVELS = st.sampled_from(["sync", "os", "memory"])
CONFIG = small_config(retention_interval=1.0)
LEAST_EVENTS = ("judged", "more than one segment", "new segment", "regrouped", "writer died")

Shown = dict[str, list[tuple[str, Any]]]


def shown_by(store: hs.Store) -> Shown:
    return {
        info.name: [(str(r.id), r.payload) for r in store.stream(info.name).read()]
        for info in store.streams()
    }


def opened(env: SimEnv, *, read_only: bool = False) -> hs.Store:
    return hs.open("/db", env=env, config=CONFIG, read_only=read_only)


def survivors(env: SimEnv) -> Shown:
    """Return what is left if the power goes now and takes all that is not synced."""
    machine = env.clone().power_cut(profile="drop")
    with opened(machine) as store:
        return shown_by(store)


def newest_segment(store: hs.Store) -> int:
    return max((fact.last for fact in segment_facts(store._engine.journal)), default=0)


def engine_of(follower: hs.Store) -> Follower:
    engine = follower._engine
    assert isinstance(engine, Follower)
    return engine


class FollowMachine(RuleBasedStateMachine):
    """A directory, its writer if it has one, and a follower if there is one."""

    counts: ClassVar[Counter[str]] = Counter()

    @initialize(seed=st.integers(0, 1 << 16), direct=st.booleans(), shards=st.integers(1, 4))
    def start(self, seed: int, direct: bool, shards: int) -> None:
        self.env = SimEnv(seed=seed, capacity=64 << 20)
        if not direct:
            self.env.disk.set_direct(0)
        self.follower: hs.Store | None = None
        self.reader: hs.Reader | None = None
        self.read: list[str] = []
        self.number = 0
        self.writer: hs.Store | None = opened(self.env)
        engine = self.writer._engine
        engine.journal.wait(engine.create_stream("a", shards=shards).ticket)
        self.writer.create_stream("b", max_bytes=40_000)

    def writing(self) -> bool:
        return self.writer is not None

    def following(self) -> bool:
        return self.follower is not None

    # The writer.

    @precondition(writing)
    @rule(name=STREAMS, count=st.integers(1, 5), size=st.integers(1, 3000), level=LEVELS)
    def append(self, name: str, count: int, size: int, level: hs.Durability) -> None:
        assert self.writer is not None
        if name in self.writer._engine.catalog.streams:
            self.number += 1
            payloads = [b"%d.%d;" % (self.number, n) * (size // 8 + 1) for n in range(count)]
            self.writer.stream(name).append_many(payloads, key=str(size), durability=level)

    @precondition(writing)
    @rule(count=st.integers(10, 60))
    def fill(self, count: int) -> None:
        for n in range(count):
            self.append("ab"[n % 2], 1, 3000, "memory")

    @precondition(writing)
    @rule()
    def transact(self) -> None:
        assert self.writer is not None
        self.number += 1
        with self.writer.transaction() as tx:
            tx.append("a", b"a%d" % self.number)
            tx.append("b", b"b%d" % self.number)

    @precondition(writing)
    @rule(name=STREAMS)
    def create_or_delete(self, name: str) -> None:
        assert self.writer is not None
        if name in self.writer._engine.catalog.streams:
            if name == "c":
                self.writer.delete_stream(name)
        else:
            self.writer.create_stream(name)

    @precondition(writing)
    @rule(name=STREAMS, part=st.floats(0, 1))
    def trim(self, name: str, part: float) -> None:
        assert self.writer is not None
        if name in self.writer._engine.catalog.streams:
            records = list(self.writer.stream(name).read())
            if records:
                before = records[int(part * (len(records) - 1))].id
                assert before is not None
                self.writer.stream(name).trim(before=before)

    @precondition(writing)
    @rule(snapshot=st.booleans())
    def keep_house(self, snapshot: bool) -> None:
        assert self.writer is not None
        self.env.advance(1.1)
        self.writer.tick()
        if snapshot:
            self.writer._ticker.house.snapshot()
        self.writer._ticker.house.free_segments()

    @precondition(writing)
    @rule()
    def compact(self) -> None:
        assert self.writer is not None
        self.writer.compact()

    @precondition(writing)
    @rule()
    def die(self) -> None:
        """The writer goes without a word; its lock goes with it."""
        assert self.writer is not None
        self.writer._engine.close(clean=False)
        self.writer = None
        self.counts["writer died"] += 1

    @precondition(writing)
    @rule()
    def close(self) -> None:
        assert self.writer is not None
        self.writer.close()
        self.writer = None

    @precondition(lambda self: self.writer is None)
    @rule()
    def come(self) -> None:
        self.writer = opened(self.env)

    @rule(power=st.booleans())
    def crash(self, power: bool) -> None:
        self.env = self.env.power_cut() if power else self.env.process_crash()
        self.writer = self.follower = self.reader = None

    # The follower.

    @precondition(lambda self: self.follower is None)
    @rule()
    def follow(self) -> None:
        self.follower = opened(self.env, read_only=True)
        assert self.follower.read_only
        if not self.writing():
            tail = self.follower._engine.journal.tail()  # type: ignore[attr-defined]
            self.counts["judged"] += tail is None
        self.newest = newest_segment(self.follower)
        self.look()

    @precondition(following)
    @rule()
    def stop(self) -> None:
        assert self.follower is not None
        self.follower.close()
        self.follower = self.reader = None

    @precondition(lambda self: self.following() and self.reader is None)
    @rule()
    def begin_to_read(self) -> None:
        assert self.follower is not None
        self.reader = self.follower.stream("a").read(follow=True)
        self.read = []

    @precondition(lambda self: self.reader is not None)
    @rule()
    def read_on(self) -> None:
        assert self.reader is not None
        while True:
            try:
                record = next(self.reader, None)
            except RecordTrimmed:
                self.counts["gap"] += 1
                continue
            if record is None:
                break
            self.read.append(str(record.id))
        assert len(set(self.read)) == len(self.read)

    @precondition(following)
    @rule()
    def look(self) -> None:
        assert self.follower is not None
        shown = shown_by(self.follower)
        self.follower._engine.journal.check_invariants()
        if self.writer is not None:
            assert shown == shown_by(self.writer)
        kept = survivors(self.env)
        for name, records in shown.items():
            assert records == kept[name][: len(records)], "beyond what is durable"
        newest = newest_segment(self.follower)
        self.counts["new segment"] += newest > self.newest
        facts = segment_facts(self.follower._engine.journal)
        self.counts["more than one segment"] += len(facts) > 1
        self.counts["regrouped"] += any(fact.number >= LEVEL_1 for fact in facts)
        self.newest = newest

    @invariant()
    def nothing_of_a_follower_is_left(self) -> None:
        if hasattr(self, "env"):
            assert set(self.env.files.listdir("/db")) <= {
                "LOCK",
                "STAGE",
                "SUPER",
                "TAIL",
                "segments",
            }

    def teardown(self) -> None:
        if not hasattr(self, "env"):
            return
        if self.writer is None:
            self.writer = opened(self.env)
        self.writer.sync()
        if self.follower is None:
            self.follower = opened(self.env, read_only=True)
        self.newest = 0
        self.look()
        if self.reader is not None:
            self.read_on()
            kept = [record_id for record_id, _ in shown_by(self.writer)["a"]]
            assert [r for r in self.read if r in set(kept)] == kept[-len(self.read) :] or not kept
        for store in (self.follower, self.writer):
            store.close()


def test_a_follower_shows_what_is_durable_and_nothing_else() -> None:
    FollowMachine.counts.clear()
    run_state_machine_as_test(FollowMachine, settings=settings(stateful_step_count=30))
    if not effort.TALLIED:
        return
    missed = [event for event in LEAST_EVENTS if not FollowMachine.counts[event]]
    assert not missed, f"never happened: {missed} ({dict(FollowMachine.counts)})"


def test_a_damaged_block_of_a_closed_store_is_told_to_who_reads_it() -> None:
    """As by a writer, and as in any older segment; all else is read and followed."""
    env = SimEnv()
    payloads = [b"%d" % n * 100 for n in range(30)]
    with opened(env) as writer:
        stream = writer.create_stream("a")
        ids = [stream.append(payload) for payload in payloads]
    path = max(path for path in env.disk.walk("/db") if path.endswith(".seg"))
    env.disk.flip(path, env.disk.read_all(path).index(payloads[17]) * 8)
    with opened(env, read_only=True) as follower:
        shown = follower.stream("a")
        with pytest.raises(hs.CorruptionError, match=path):
            list(shown.read())
        assert [record.payload for record in shown.read(until=ids[17])] == payloads[:17]
        behind = shown.read(start=ids[18], follow=True)
        assert [next(behind).payload for _ in payloads[18:]] == payloads[18:]
        with opened(env) as writer:
            writer.stream("a").append(b"after")
            assert next(behind).payload == b"after"


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "buffered"])
def test_a_follower_does_not_show_what_is_written_and_not_synced(direct: bool) -> None:
    env = SimEnv()
    if not direct:
        env.disk.set_direct(0)
    writer = opened(env)
    stream = writer.create_stream("a")
    stream.append(b"durable")
    follower = opened(env, read_only=True)
    env.disk.inject(Fail(ops=Op.DATASYNC))
    with pytest.raises(hs.StoreFailed):
        stream.append(b"written")
    with opened(env, read_only=True) as late:
        for store in (follower, late):
            assert [payload for _, payload in shown_by(store)["a"]] == [b"durable"]
            assert shown_by(store) == survivors(env)
    follower.close()


def test_no_stream_vanishes_while_a_follower_reads_the_catalog_anew() -> None:
    """Another thread may look at any moment: here, at each call that the refresh makes."""
    env = SimEnv(capacity=64 << 20)
    writer = opened(env)
    for name in ("a", "b", "c"):
        writer.create_stream(name)
    follower = opened(env, read_only=True)
    engine = engine_of(follower)
    began = engine._changes
    for _ in range(4):
        for _ in range(60):
            writer.stream("a").append(bytes(3000), durability="memory")
        writer.sync()
        writer.stream("a").trim(before=hs.LATEST)
        writer._ticker.house.snapshot()
        writer._ticker.house.free_segments()
    seen: list[tuple[list[str], bool]] = []

    def look(*_: object) -> None:
        catalog = engine.catalog
        states = catalog.streams.values()
        known = all(state.id in engine.routers for state in states)
        seen.append((sorted(catalog.streams), known))

    sys.setprofile(look)
    try:
        follower.streams()
    finally:
        sys.setprofile(None)
    assert engine._changes is not began, "the catalog was not read anew"
    assert len(seen) > 100
    assert [one for one in seen if one != (["a", "b", "c"], True)] == []
    follower.close()
    writer.close()


def test_a_snapshot_made_while_a_follower_looks_for_the_newest_is_read_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The superblock may name records that the follower has not taken in yet."""
    env = SimEnv(capacity=64 << 20)
    writer = opened(env)
    for name in ("a", "b"):
        writer.create_stream(name)
    follower = opened(env, read_only=True)
    engine = engine_of(follower)

    def keep_house(appends: int = 60) -> None:
        for _ in range(appends):
            writer.stream("a").append(bytes(3000), durability="memory")
        writer.sync()
        writer.stream("a").trim(before=hs.LATEST)
        writer.stream("a").append(b"kept")
        writer._ticker.house.snapshot()
        writer._ticker.house.free_segments()

    snapshot, looks = engine._snapshot, 0

    def look() -> list[int]:
        nonlocal looks
        looks += 1
        if looks <= 4:
            keep_house(looks % 3)
        return snapshot()

    for _ in range(4):
        keep_house()
    monkeypatch.setattr(engine, "_snapshot", look)
    for _ in range(5):
        assert shown_by(follower) == shown_by(writer)
        keep_house(20)
    assert looks > 1
    assert shown_by(follower) == shown_by(writer)
    follower.close()
    writer.close()


def test_a_regrouped_segment_waits_until_what_it_stands_for_is_taken_in_whole() -> None:
    """The segment that a follower is in may be sealed and regrouped between two of its looks."""
    env = SimEnv(capacity=64 << 20)
    writer = opened(env)
    for name in ("a", "b"):
        writer.create_stream(name)
    follower = opened(env, read_only=True)
    engine = engine_of(follower)
    for n in range(120):
        writer.stream("ab"[n % 2]).append(b"%d;" % n * 500)
        if n == 5:
            assert shown_by(follower) == shown_by(writer)
    writer.compact()
    engine.journal.adopt_all()
    assert shown_by(follower) == shown_by(writer)
    assert any(fact.number >= LEVEL_1 for fact in segment_facts(engine.journal))
    follower.close()
    writer.close()


@pytest.mark.parametrize("anew", [False, True], ids=["opening", "anew"])
def test_a_stream_made_while_a_follower_reads_the_catalog_is_shown(
    monkeypatch: pytest.MonkeyPatch, *, anew: bool
) -> None:
    """The thread of the log takes in records at any moment, and the one of their stream."""
    env = SimEnv(capacity=64 << 20)
    writer = opened(env)
    writer.create_stream("a").append(b"x")
    drop, late = Follower._drop_orphans, 0

    def make_stream_before(engine: Follower, *shards: Any) -> None:
        nonlocal late
        late += 1
        writer.create_stream(f"late{late}").append(b"y")
        engine.journal.refresh()
        drop(engine, *shards)

    if not anew:
        monkeypatch.setattr(Follower, "_drop_orphans", make_stream_before)
    follower = opened(env, read_only=True)
    if anew:
        monkeypatch.setattr(Follower, "_drop_orphans", make_stream_before)
        engine = engine_of(follower)
        with engine.lock:
            engine._start_again()
    assert late == 1
    assert shown_by(follower) == shown_by(writer)
    follower.close()
    writer.close()


def test_a_subscription_deleted_while_they_are_told_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = SimEnv(capacity=64 << 20)
    writer = opened(env)
    writer.create_stream("a")
    for name in ("s", "t"):
        writer.create_subscription(name, stream="a")
    follower = opened(env, read_only=True)
    engine = engine_of(follower)
    ask = engine.progress_of

    def ask_and_delete(subscription: int) -> Any:
        answer = ask(subscription)
        if len(writer.subscriptions()) > 1:
            writer.delete_subscription("t")
        return answer

    monkeypatch.setattr(engine, "progress_of", ask_and_delete)
    assert [info.name for info in follower.subscriptions()] == ["s"]
    follower.close()
    writer.close()


def move_away(env: SimEnv) -> None:
    env.disk.rename_raw("/db", "/elsewhere")


def remove(env: SimEnv) -> None:
    for path in sorted(env.disk.walk("/db"), reverse=True):
        env.disk.unlink_raw(path)


def make_anew(env: SimEnv) -> None:
    move_away(env)
    opened(env).close()


def fill(env: SimEnv, number: int) -> hs.Store:
    """Make a store of several segments; that of another number is as large, block by block."""
    store = opened(env)
    stream = store.create_stream("a")
    for n in range(100):
        stream.append(b"%d %2d;" % (number, n) * 500)
    return store


def make_the_same(env: SimEnv) -> None:
    move_away(env)
    fill(env, 2).close()


@pytest.mark.parametrize("change", [move_away, remove, make_anew, make_the_same])
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("owned", [True, False])
def test_a_follower_tells_that_its_store_is_there_no_more(
    change: Callable[[SimEnv], None], *, waits: bool, owned: bool
) -> None:
    """Where it has read nothing yet it must not take another store's files for its own."""
    env = SimEnv(capacity=64 << 20)
    writer = fill(env, 1)
    if not owned:
        writer.close()
    follower = opened(env, read_only=True)
    writer.close()
    follower.streams()
    change(env)
    if waits:
        env.advance(1)
    shown = []
    with pytest.raises(hs.StoreReplaced, match="removed, renamed or made anew"):
        for record in follower.stream("a").read():
            shown.append(record.payload)
    assert shown == [b"1 %2d;" % n * 500 for n in range(len(shown))]
    assert not waits or not shown
    env.advance(1)
    with pytest.raises(hs.StoreReplaced):
        follower.streams()
    follower.close()


def test_a_look_at_another_superblock_does_not_make_its_store_the_followed_one() -> None:
    env = SimEnv(capacity=64 << 20)
    fill(env, 1).close()
    with opened(env, read_only=True) as follower:
        make_the_same(env)
        engine = engine_of(follower)
        engine._snapshot()
        env.advance(1)
        with pytest.raises(hs.StoreReplaced):
            follower.streams()


def regroup(_: SimEnv, writer: hs.Store, __: hs.Store) -> hs.Store:
    writer.compact()
    return writer


def drop_what_another_left(env: SimEnv, writer: hs.Store, follower: hs.Store) -> hs.Store:
    """The segment that is followed is sealed by recovery, in a copy of its file, and dropped."""
    engine_of(follower).journal.refresh()
    writer._engine.close(clean=False)
    writer = opened(env)
    for name in ("a", "b"):
        writer.stream(name).trim(before=hs.LATEST)
    writer.stream("a").append(b"after")
    writer._ticker.house.snapshot()
    writer._ticker.house.free_segments()
    return writer


@pytest.mark.parametrize(
    ("direct", "then", "failures"),
    [(True, regroup, 20), (False, drop_what_another_left, 5)],
    ids=["regrouped", "dropped unsealed"],
)
def test_a_follower_without_memory_shows_what_is_there_or_says_so(
    direct: bool, then: Callable[[SimEnv, hs.Store, hs.Store], hs.Store], failures: int
) -> None:
    """Each allocation of a look fails once; no other error may come of it, then or later."""
    began = SimEnv(capacity=64 << 20)
    if not direct:
        began.disk.set_direct(0)
    with opened(began) as writer:
        for name in ("a", "b"):
            writer.create_stream(name)
    outcomes: Counter[str] = Counter()
    nth = 0
    while not outcomes["whole"]:
        nth += 1
        env = began.clone()
        writer = opened(env)
        writer.stream("a").append(b"before")
        follower = opened(env, read_only=True)
        for n in range(60):
            writer.stream("ab"[n % 2]).append_many([b"%d;" % n * 500], durability="memory")
        writer.sync()
        writer = then(env, writer, follower)
        lib.hsl_alloc_fail_at(nth)
        outcome = "failed"
        try:
            shown_by(follower)
            if lib.hsl_alloc_count() < nth:
                outcome = "whole"
        except MemoryError:
            pass
        finally:
            lib.hsl_alloc_fail_at(0)
        outcomes[outcome] += 1
        try:
            assert shown_by(follower) == shown_by(writer)
            follower._engine.journal.check_invariants()
        except MemoryError:
            outcomes["broken"] += 1
        with opened(env, read_only=True) as again:
            assert shown_by(again) == shown_by(writer)
        follower.close()
        writer.close()
    assert outcomes["broken"] > 0
    assert outcomes["failed"] > failures


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "buffered"])
def test_a_follower_of_a_full_disk_shows_what_was_acknowledged(direct: bool) -> None:
    env = SimEnv(capacity=2 << 20)
    if not direct:
        env.disk.set_direct(0)
    writer = opened(env)
    stream = writer.create_stream("a")
    follower = opened(env, read_only=True)
    reader = follower.stream("a").read(follow=True)
    kept: list[bytes] = []
    shown: list[Any] = []
    for _ in range(3):
        with pytest.raises(hs.StorageFull):
            while True:
                payload = b"%d;" % len(kept) * 1000
                stream.append(payload)
                kept.append(payload)
                if len(kept) % 5 == 0:
                    shown += [record.payload for record in reader]
                    assert shown == kept
        with opened(env, read_only=True) as late:
            assert shown_by(late) == shown_by(follower) == shown_by(writer)
        shown += [record.payload for record in reader]
        assert shown == kept
        stream.trim(before=hs.LATEST)
        env.advance(1.1)
        writer.tick()
        writer._ticker.house.snapshot()
        writer._ticker.house.free_segments()
    follower.close()
    writer.close()


def test_a_reopened_writer_gives_no_file_the_number_of_one_that_a_follower_knows() -> None:
    env = SimEnv(capacity=64 << 20)

    def scatter(writer: hs.Store, mark: int) -> list[bytes]:
        payloads = [b"%d %2d;" % (mark, n) * 400 for n in range(60)]
        for payload in payloads:
            for name in "ab":
                writer.create_stream(name, exists_ok=True).append(payload)
        writer.compact()
        return payloads

    writer = opened(env)
    scatter(writer, 1)
    follower = opened(env, read_only=True)
    before = {f.number for f in segment_facts(follower._engine.journal)}
    assert len(list(follower.stream("a").read())) == 60
    for name in "ab":
        writer.stream(name).trim(before=hs.LATEST)
    writer._ticker.house.snapshot()
    writer.compact()
    assert max(f.number for f in segment_facts(writer._engine.journal)) < LEVEL_1
    writer.close()
    writer = opened(env)
    writer._ticker.house.snapshot()
    writer.close()
    writer = opened(env)
    kept = scatter(writer, 2)
    after = {f.number for f in segment_facts(writer._engine.journal)}
    assert max(after) > max(before) > LEVEL_1
    assert not before & after
    for name in "ab":
        assert [record.payload for record in follower.stream(name).read()] == kept
    follower.close()
    writer.close()


def test_a_snapshot_made_while_a_follower_opens_is_no_damage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = SimEnv(capacity=64 << 20)
    writer = opened(env)
    stream = writer.create_stream("a")
    writer._ticker.house.snapshot()  # the superblock that the follower reads names this one
    for n in range(60):
        stream.append(b"%2d;" % n * 1000)
    tail = FollowedJournal.tail

    def tail_before_a_trim(journal: FollowedJournal) -> Any:
        monkeypatch.undo()
        told = tail(journal)
        stream.trim(before=hs.LATEST)  # frees what holds the snapshot, and makes another one
        return told

    monkeypatch.setattr(FollowedJournal, "tail", tail_before_a_trim)
    with opened(env, read_only=True) as follower:
        stream.append(b"new")
        assert [record.payload for record in follower.stream("a").read()] == [b"new"]
    writer.close()


def test_a_follower_tells_at_once_that_the_newest_segment_is_missing() -> None:
    env = SimEnv(capacity=64 << 20)
    with opened(env) as writer:
        writer.create_stream("a").append_many([b"x"] * 3)
        number = newest_segment(writer)
    env.files.unlink(f"/db/segments/{number:016x}.seg")
    before = env.clock.mono_ns()
    with pytest.raises(hs.CorruptionError, match="the newest segment"):
        opened(env, read_only=True)
    assert env.clock.mono_ns() - before < 1e9


STANDARD_INPUT = """
import os, sys, hstreamlite as hs
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
hs.open(sys.argv[1]).close()
hs.open(sys.argv[1], read_only=True).close()
print(os.read(0, 1))
"""


def test_a_follower_of_an_empty_store_leaves_standard_input_open(tmp_path: Path) -> None:
    assert run_script(STANDARD_INPUT, str(tmp_path / "s")).stdout == "b''\n"


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[tuple[hs.Store, hs.Store]]:
    """A writer and a follower with threads of its own."""
    with hs.open(tmp_path / "s") as writer:
        writer.create_stream("a")
        with hs.open(tmp_path / "s", read_only=True) as follower:
            yield writer, follower


def test_a_follower_advises_only_what_helps_there(
    tmp_path: Path, beside: tuple[hs.Store, hs.Store]
) -> None:
    writer, follower = beside
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nothing", tmp_path / "empty"):
        with pytest.raises(hs.NotAStore, match="wait until the process that writes it"):
            hs.open(path, read_only=True)
        assert not (path / "SUPER").exists()
    stream, subscription = follower.stream("b"), follower.subscription("g")
    for missing in (stream.info, lambda: stream.read(), stream.tail, subscription.info):
        with pytest.raises(LookupError) as caught:
            missing()
        assert "the process that writes the store creates it" in str(caught.value)
        assert "create_" not in str(caught.value)
    writer.create_stream("b")
    writer.create_subscription("g", stream="b")
    assert stream.info().records == subscription.info().backlog == 0
    with pytest.raises(hs.StreamNotFound, match="create it with create_stream"):
        writer.stream("c").info()


def test_a_wait_at_the_tail_of_a_follower_ends_when_its_time_is_over(
    beside: tuple[hs.Store, hs.Store],
) -> None:
    journal = beside[1]._engine.journal
    for _ in range(20):
        assert not journal.wait_change(1 << 62, journal.pokes(), 1_000_000)


def test_threads_that_follow_all_get_what_comes(
    beside: tuple[hs.Store, hs.Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them looks at the files for all."""
    monkeypatch.setattr("hstreamlite.stream._SLICE_NS", 3600 * 10**9)
    writer, follower = beside
    sent = [b"%d" % number for number in range(30)]
    found: list[list[object]] = [[], [], []]

    def follow(mine: list[object]) -> None:
        with follower.stream("a").read(follow=True) as reader:
            while len(mine) < len(sent):
                mine.append(next(reader).payload)

    threads = [threading.Thread(target=follow, args=(mine,), daemon=True) for mine in found]
    for thread in threads:
        thread.start()
    for number, payload in enumerate(sent):
        writer.stream("a").append(payload)
        while number % 3 and min(map(len, found)) <= number:
            os.sched_yield()
    for thread in threads:
        thread.join(60)
    assert found == [sent] * 3


def test_the_thread_of_a_follower_wakes_who_waits_when_its_store_goes(
    beside: tuple[hs.Store, hs.Store], tmp_path: Path
) -> None:
    _, follower = beside
    journal = follower._engine.journal
    pokes = journal.pokes()
    (tmp_path / "s").rename(tmp_path / "gone")
    while journal.pokes() == pokes:
        os.sched_yield()
    with pytest.raises(hs.StoreReplaced):
        follower.streams()
    (tmp_path / "gone").rename(tmp_path / "s")
