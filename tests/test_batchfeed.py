"""Batches handed out over the lives of a store, in virtual time.

What holds for a group whose unit is the shard: what is in flight of a shard is at one consumer; its
records go out in log order, those that came back first, and none that was acked; batches go out
whole, and where others acked a part, with exactly the rest; an ack counts whenever it comes; the
window is looked at before each batch; whatever happened, in the end everything was acked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import hstreamlite as hs
from hstreamlite._native import fast, lib
from hstreamlite.batchfeed import BatchFeed, RawAcks, RawDelivery, Wait, ack_ids
from hstreamlite.config import CODEC_NAMES, LEVELS
from hstreamlite.log.journal import compress, decompress
from hstreamlite.position import seek
from hstreamlite.raw import batch_op, trim_to
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config
from tests import effort

TIMEOUT = 10.0
NAMES = "abc"


def sealed(codec: int, shard: int, first: int, size: int) -> bytes:
    """Return a batch whose records name themselves."""
    body = fast.encode_batch([b"%d/%d" % (shard, first + i) for i in range(size)])
    return compress(codec, body) if codec else body


@dataclass
class Life:
    env: SimEnv
    width: int
    max_unacked: int = 1000
    options: dict[str, str] = field(default_factory=dict)
    next: dict[int, int] = field(default_factory=dict)
    acked: set[tuple[int, int]] = field(default_factory=set)
    held: dict[tuple[int, int], tuple[str, int]] = field(default_factory=dict)
    """Who has which record, until when."""
    sent: set[tuple[int, int]] = field(default_factory=set)
    """What was handed out since the last restart, or may have been before."""

    def __post_init__(self) -> None:
        self.open()
        pending = self.engine.create_stream("s", shards=self.width)
        self.engine.journal.wait(pending.ticket)
        self.shards = pending.value.shard_ids
        self.next = dict.fromkeys(self.shards, 1)
        options = {"mode": "ordered", "unit": "shard", **self.options}
        pending = self.feeds.create(
            "sub", stream="s", start=hs.EARLIEST, ack_timeout=TIMEOUT,
            max_unacked=self.max_unacked, **options,
        )  # fmt: skip
        self.engine.journal.wait(pending.ticket)
        self.feed = pending.value

    def open(self) -> None:
        self.store = hs.open("/db", config=small_config(), env=self.env)
        self.engine, self.feeds = self.store._engine, self.store._feeds
        self.consumers: dict[str, tuple[BatchFeed, Any]] = {}
        self.held.clear()

    def reopen(self) -> None:
        self.open()
        self.feed = self.feeds.get("sub")

    def append(self, shard: int, size: int, codec: int) -> None:
        first = self.next[shard]
        payload = sealed(codec, shard, first, size)
        op = batch_op(self.engine, shard, payload, CODEC_NAMES[codec], size)
        ticket, _ = self.engine.journal.stage([op], LEVELS["sync"])
        self.engine.journal.wait(ticket)
        self.next[shard] += size

    def attach(self, name: str) -> None:
        if name not in self.consumers:
            gate = fast.AckGate(self.feed.gate, None, self.feed.addresses, None)
            self.feed.roster.attach(name, gate)
            self.consumers[name] = BatchFeed(self.feed, name, gate), gate

    def leave(self, name: str) -> None:
        if name in self.consumers:
            _, gate = self.consumers.pop(name)
            self.feed.roster.detach(name, gate)
            self.held = {k: v for k, v in self.held.items() if v[0] != name}

    def fetch(self, name: str) -> RawDelivery | None:
        delivery = self.wait(name)
        self.feed.leave_line(name)
        return delivery

    def wait(self, name: str) -> RawDelivery | None:
        """Fetch, and stand in line where there is nothing."""
        self.attach(name)
        self.expire()
        found = self.fetch_all(name)
        for delivery in found:
            self.check(name, delivery)
        return found[0] if found else None

    def fetch_all(self, name: str, most: int = 1) -> list[RawDelivery]:
        found = self.consumers[name][0].fetch(most, may_block=True)
        if found is Wait.FOR_RECORDS:
            return []
        assert isinstance(found, list)
        assert 1 <= len(found) <= most
        return found

    def take(self, name: str, most: int, seen: int) -> None:
        """Fetch several, and give back those behind the first few."""
        self.attach(name)
        self.expire()
        found = self.fetch_all(name, most)
        self.feed.leave_line(name)
        for delivery in found[:seen]:
            self.check(name, delivery)
        spans = [span for delivery in found[seen:] for span in delivery.spans]
        self.feed.unsend(name, spans)

    def expire(self) -> None:
        """What is past its deadline takes all behind it in its shard along."""
        now = self.env.clock.mono_ns()
        for shard in self.shards:
            due = [lsn for (s, lsn), (_, at) in self.held.items() if s == shard and at <= now]
            if due:
                self.held = {k: v for k, v in self.held.items() if k[0] != shard or k[1] < min(due)}

    def ids(self, delivery: RawDelivery) -> list[tuple[int, int]]:
        return [(delivery.shard_id, delivery.batch_id + index) for index in delivery.indexes]

    def check(self, name: str, delivery: RawDelivery) -> None:
        """Judge a delivery by what is known of the shard, and note it."""
        shard, got = delivery.shard_id, self.ids(delivery)
        codec = CODEC_NAMES.index(delivery.compression)
        body = decompress(codec, delivery.payload, 0) if codec else delivery.payload
        names = [r.payload for r in fast.decode_batch(body, 1, 1)]
        assert names == [b"%d/%d" % id_ for id_ in got]
        assert not self.acked & set(got), "acked, and sent again"
        of_shard = {lsn: who for (s, lsn), (who, _) in self.held.items() if s == shard}
        assert set(of_shard.values()) <= {name}, "the shard is in other hands"
        open_ = [n for n in range(1, self.next[shard]) if (shard, n) not in self.acked]
        waiting = [(shard, n) for n in open_ if n not in of_shard]
        assert got == waiting[: len(got)], "out of order"
        if not self.sent & set(got):
            outstanding = len(self.sent - self.acked)
            assert outstanding < self.max_unacked
            assert delivery.whole
        self.sent |= set(got)
        now = self.env.clock.mono_ns()
        self.held.update(dict.fromkeys(got, (name, now + int(TIMEOUT * 1e9))))

    def ack(self, ids: list[tuple[int, int]], offset: int = 0) -> None:
        """Ack by some ids of the same records: a batch id is as good as another."""
        before = len(self.acked & set(ids))
        acks = ack_ids(self.feed, [(shard, lsn - offset, offset) for shard, lsn in ids])
        assert acks == RawAcks(len(set(ids)) - before, before, 0, 0)
        self.acked |= set(ids)
        for id_ in ids:
            self.held.pop(id_, None)

    def restart(self, cut: str) -> None:
        ticket = self.feed.progress.commit(may_block=True)
        self.engine.journal.wait(ticket or 0)
        if cut == "close":
            self.store.close()
        else:
            self.env = self.env.power_cut() if cut == "power" else self.env.process_crash()
        self.reopen()

    def drain(self) -> None:
        """One consumer that acks at once gets all there is."""
        for name in list(self.consumers):
            self.leave(name)
        while (delivery := self.fetch("a")) is not None:
            self.ack(self.ids(delivery))
        assert self.acked == {(s, n) for s in self.shards for n in range(1, self.next[s])}
        self.feed.group.check_invariants()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 7), st.integers(1, 9), st.integers(0, 2)),
        st.tuples(st.just("fetch"), st.sampled_from(NAMES), st.integers(1, 4)),
        st.tuples(st.just("fetch"), st.sampled_from(NAMES), st.integers(1, 4)),
        st.tuples(st.just("take"), st.sampled_from(NAMES), st.integers(2, 5), st.integers(0, 5)),
        st.tuples(st.just("ack"), st.integers(0, 99), st.integers(1, 9)),
        st.tuples(st.just("ack"), st.integers(0, 99), st.integers(1, 9)),
        st.tuples(st.just("leave"), st.sampled_from(NAMES)),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 6.0, 11.0])),
        st.tuples(st.just("restart"), st.sampled_from(["close", "power", "process"])),
    ),
    min_size=5,
    max_size=60,
)


@pytest.mark.parametrize("width", range(1, 9))
@settings(deadline=None, max_examples=effort.of(40, 8, 1000))
@given(steps=STEPS, seed=st.integers(0, 2**32), max_unacked=st.sampled_from([1, 7, 1000]))
def test_a_shard_goes_out_in_order(
    width: int, steps: list[tuple[Any, ...]], seed: int, max_unacked: int
) -> None:
    life = Life(SimEnv(seed=seed), width, max_unacked)
    for step in steps:
        match step:
            case ("append", at, size, codec):
                life.append(life.shards[at % width], size, codec)
            case ("fetch", name, count):
                for _ in range(count):
                    life.fetch(name)
            case ("take", name, most, seen):
                life.take(name, most, seen)
            case ("ack", pick, count):
                known = sorted(life.sent)
                start = pick % (len(known) or 1)
                if chosen := known[start : start + count]:
                    least = min(lsn for _, lsn in chosen)
                    life.ack(chosen, offset=min(pick % 3, least - 1))
            case ("leave", name):
                life.leave(name)
            case ("wait", seconds):
                life.env.advance(seconds)
            case ("restart", cut):
                life.restart(cut)
        life.feed.group.check_invariants()
    life.drain()
    life.store.close()


@pytest.mark.parametrize("options", [{"mode": "shared", "unit": "key"}, {"unit": "key"}, {}])
def test_what_lack_of_memory_keeps_from_going_out_goes_out_later(options: dict[str, str]) -> None:
    nth, failed = 0, True
    while failed:
        nth += 1
        life = filled(3, 4, options=options)
        life.attach("a")
        lib.hsl_alloc_fail_at(nth)
        found = []
        try:
            found += life.fetch_all("a", 5)
        except MemoryError:
            pass
        finally:
            failed = nth <= int(lib.hsl_alloc_count())
            lib.hsl_alloc_fail_at(0)
        while more := life.fetch_all("a", 5):
            found += more
        ids = sorted(each for delivery in found for each in life.ids(delivery))
        assert ids == [(shard, lsn) for shard in sorted(life.shards) for lsn in range(1, 9)], nth
        life.feed.group.check_invariants()
        life.store.close()


@pytest.mark.parametrize("codec", [0, 1, 2])
def test_what_times_out_comes_again_without_what_was_acked(codec: int) -> None:
    life = Life(SimEnv(seed=1), 1)
    (shard,) = life.shards
    for _ in range(2):
        life.append(shard, 4, codec)
    first, second = life.fetch("a"), life.fetch("a")
    assert first is not None
    assert second is not None
    life.ack([(shard, 1), (shard, 3)])
    life.env.advance(TIMEOUT)
    again = life.fetch("a")
    assert again is not None
    assert (again.batch_id, again.indexes, again.whole, again.attempt) == (1, (1, 3), False, 2)
    assert (again.compression, again.publish_time_ms) == (
        first.compression, first.publish_time_ms
    )  # fmt: skip
    following = life.fetch("a")
    assert following is not None
    assert (following.indexes, following.payload) == (range(4), second.payload)


@pytest.mark.parametrize("options", [{"mode": "shared", "unit": "key"}, {"unit": "key"}, {}])
def test_garbage_is_handed_on_until_all_of_it_is_acked(options: dict[str, str]) -> None:
    life = Life(SimEnv(seed=1), 1, options=options)
    (shard,) = life.shards
    op = batch_op(life.engine, shard, b"\xff", "zstd", 3)
    life.engine.journal.wait(life.engine.journal.stage([op], LEVELS["sync"])[0])
    life.attach("a")
    for lsn in (1, 3):
        (found,) = life.fetch_all("a")
        assert (found.payload, found.whole, found.indexes) == (b"\xff", True, range(3))
        life.ack([(shard, lsn)])
        life.env.advance(TIMEOUT)
    life.ack([(shard, 2)])
    assert not life.fetch_all("a")


def test_what_was_taken_along_and_went_back_heeds_the_window_again() -> None:
    life = Life(SimEnv(seed=1), 2, max_unacked=7)
    one, two = life.shards
    for _ in range(3):
        life.append(one, 4, 0)
    life.take("a", 5, seen=0)
    life.append(two, 4, 0)
    other = life.fetch("b")
    assert other is not None
    assert other.shard_id == two
    assert [found.batch_id for found in life.fetch_all("a", 5)] == [1]
    life.ack([(two, lsn) for lsn in range(1, 5)])
    assert [found.batch_id for found in life.fetch_all("a", 5)] == [5]


def test_a_batch_of_which_a_part_is_assigned_waits_for_its_turn() -> None:
    life = Life(SimEnv(seed=1), 1, 10_000, options={"mode": "shared", "unit": "key"})
    (shard,) = life.shards
    body = compress(2, fast.encode_batch([b""] * 3000))
    op = batch_op(life.engine, shard, body, "zstd", 3000)
    life.engine.journal.wait(life.engine.journal.stage([op, op], LEVELS["sync"])[0])
    life.attach("a")
    (found,) = life.fetch_all("a", 5)
    assert (found.batch_id, found.whole) == (1, True)


# How shards spread over consumers.


def shares(life: Life, names: str, batches: int, *, acks: bool = True) -> dict[str, set[int]]:
    """Let consumers fetch by turns, always waiting; return who got batches of which shard."""
    found: dict[str, set[int]] = {name: set() for name in names}
    for _ in range(batches):
        for name in names:
            life.attach(name)
        for name in names:
            delivery = life.wait(name)
            if delivery is None:
                continue
            found[name].add(delivery.shard_id)
            if acks:
                life.ack(life.ids(delivery))
        life.env.advance(0.05)  # longer than a turn
    return found


def filled(shards: int, batches: int, **options: Any) -> Life:
    life = Life(SimEnv(seed=5), shards, **options)
    for shard in life.shards:
        for _ in range(batches):
            life.append(shard, 2, 0)
    return life


def test_eight_shards_spread_over_three_consumers() -> None:
    life = filled(8, 9)
    found = shares(life, "abc", 12, acks=False)
    assert sorted(map(len, found.values())) == [2, 3, 3]
    assert len(set().union(*found.values())) == 8


def test_one_consumer_gets_all_shards_and_gives_some_up_to_those_that_come() -> None:
    life = filled(8, 40)
    assert len(shares(life, "a", 16, acks=False)["a"]) == 8
    first = shares(life, "bc", 3, acks=False)
    assert not first["b"] | first["c"], "what is in flight stays where it is"
    for _ in range(3):  # nobody ever has acked all of a shard when asking for more of it
        before = sorted(life.held)
        shares(life, "abc", 8, acks=False)
        life.ack(before)
    holders = {shard: name for (shard, _), (name, _) in life.held.items()}
    held = Counter(holders.values())
    assert len(held) == 3
    assert min(held.values()) >= 2


def test_more_consumers_than_shards_take_turns_or_idle() -> None:
    life = filled(2, 6)
    found = shares(life, "abc", 3, acks=False)
    assert sorted(map(len, found.values())) == [0, 1, 1]


def test_one_that_does_not_come_leaves_its_shards_to_the_others() -> None:
    life = filled(8, 6)
    life.attach("c")
    found = shares(life, "ab", 30)
    assert len(found["a"] | found["b"]) == 8
    life.drain()


def test_one_shard_at_work_goes_on_at_who_has_it() -> None:
    life = filled(1, 20)
    found = shares(life, "ab", 8, acks=False)
    assert sorted(map(len, found.values())) == [0, 1]
    assert len(life.held) == 16


@settings(deadline=None, max_examples=effort.of(60, 10, 2000))
@given(
    width=st.integers(1, 8),
    loads=st.lists(st.integers(0, 12), min_size=8, max_size=8),
    turns=st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=120),
    max_unacked=st.sampled_from([1, 5, 1000]),
)
def test_whoever_waits_in_the_end_everything_is_delivered(
    width: int, loads: list[int], turns: list[tuple[str, bool]], max_unacked: int
) -> None:
    """No order of coming, acking late and leaving keeps waiting consumers from what there is."""
    life = Life(SimEnv(seed=7), width, max_unacked)
    for shard, load in zip(life.shards, loads, strict=False):
        for _ in range(load):
            life.append(shard, 3, 0)
    for name, leaves in turns:
        if leaves and name in life.consumers:
            life.leave(name)
        else:
            life.attach(name)
            life.wait(name)
    life.attach("a")
    idle = 0
    total = sum(loads[:width]) * 3
    while len(life.acked) < total:
        if held := sorted(life.held):
            life.ack(held)
        got = [life.wait(name) for name in sorted(life.consumers)]
        idle = 0 if any(got) else idle + 1
        life.env.advance(0.05)  # longer than a turn
        assert idle < 8, "everybody waits, and nobody gets anything"
    life.feed.group.check_invariants()


# What is gone, moved, or cannot be read.


def test_batches_that_are_trimmed_are_passed_over() -> None:
    life = filled(1, 5)
    (shard,) = life.shards
    first = life.fetch("a")
    assert first is not None
    pending = trim_to(life.engine, "s", None, hs.RecordId(shard, 5, 0))
    life.engine.journal.wait(pending.ticket)
    life.store._ticker.house.apply_trims()
    life.ack(life.ids(first))
    life.acked |= {(shard, n) for n in range(1, 7)}
    after = life.fetch("a")
    assert after is not None
    assert after.batch_id == 7
    assert [gap.records for gap in life.feed.gaps("a")] == [4]


def test_a_seek_makes_what_is_out_void() -> None:
    life = filled(2, 3)
    before = [life.fetch("a") for _ in range(4)]
    seek(life.feed, hs.LATEST)
    assert life.consumers["a"][0].fetch(may_block=True) is Wait.FOR_RECORDS
    seek(life.feed, hs.EARLIEST)
    ids = [(d.shard_id, d.batch_id, i) for d in before if d for i in d.indexes]
    assert ack_ids(life.feed, ids) == RawAcks(0, 0, 0, 8)
    life.held.clear()
    life.sent.clear()
    life.drain()


def test_a_batch_that_cannot_be_read_is_told_of_once_and_holds_its_shard() -> None:
    life = filled(2, 3)
    life.store.close()
    disk = life.env.disk
    (path,) = [path for path in disk.walk("/db") if path.endswith(".seg")]
    disk.overwrite(path, disk.read_all(path).index(b"%d/3" % life.shards[0]), b"X")
    life.reopen()
    found, failures = [], 0
    for _ in range(8):
        try:
            delivery = life.fetch("a")
        except hs.CorruptionError:
            failures += 1
            continue
        if delivery is not None:
            found.append((delivery.shard_id, delivery.batch_id))
    one, two = life.shards
    assert failures == 1
    assert sorted(found) == [(one, 1), (two, 1), (two, 3), (two, 5)]
