"""The whole public store against the reference model, where disks fill, fail and lose power.

Goal: no order of calls, crashes and faults shows what the model forbids. Method: Hypothesis draws
the calls; a crash, a fault or a leap of the clock is a rule as any other. At the end of every run
the faults are healed, everything is read, and every subscription is drained.
"""

from __future__ import annotations

import errno
from collections import Counter
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
from hstreamlite.errors import CorruptionError, StoreFailed
from hstreamlite.testing.model import Outcome
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.simfs import Fail, FailSync, Interrupt, Op, Short
from hstreamlite.testing.witness import Restart, Witness, small_config
from tests import effort

STREAMS = st.sampled_from(["a", "b", "c"])
SUBS = st.sampled_from(["s", "t"])
CONSUMERS = st.sampled_from(["one", "two", "three"])
PLENTY = 64 << 20
HOUR_MS = 3_600_000
LEAST_EVENTS = (
    "acknowledged",
    "clock jumps",
    "close",
    "compacted",
    "damage found",
    "full disk",
    "power",
    "process",
    "store failed",
    "torn",
)


class StoreMachine(RuleBasedStateMachine):
    """A store and its model. `counts` adds up over all runs."""

    counts: ClassVar[Counter[str]] = Counter()

    @initialize(seed=st.integers(0, 1 << 16), direct=st.booleans(), shards=st.integers(1, 8))
    def start(self, seed: int, direct: bool, shards: int) -> None:
        env = SimEnv(seed=seed, capacity=PLENTY)
        if not direct:
            env.disk.set_direct(0)
        self.w = Witness(env, small_config(retention_interval=1.0, regroup_after=2.0))
        self.number = 0
        self.direct = direct
        self.reserve = False
        self.full = False
        self.armed = False
        assert self.w.create("a", shards=shards) == "ok"
        assert self.w.create("b") == "ok"
        assert self.w.subscribe("s", "a") == "ok"

    def healthy(self) -> bool:
        return not self.w.failed

    def settled(self, outcome: Outcome, *, needs_room: bool = False) -> bool:
        """Judge an outcome by what is wrong with the machine; say whether it was a success."""
        self.counts[f"outcome {outcome}"] += 1
        if outcome == "unknown":
            assert self.armed
            self.counts["store failed"] += self.w.failed
        elif outcome == "none":
            assert self.armed or (self.full and (needs_room or not self.reserve))
        return outcome == "ok"

    def records(self, count: int, size: int, keys: int) -> list[tuple[str | None, bytes]]:
        self.number += count
        return [
            (f"k{n % keys}" if keys else None, b"%d:".ljust(size, b".") % n)
            for n in range(self.number - count, self.number)
        ]

    # Streams.

    @precondition(healthy)
    @rule(name=STREAMS, shards=st.integers(1, 8), backlog=st.sampled_from([0, 0, 5.0, 3600.0]))
    def create(self, name: str, shards: int, backlog: float) -> None:
        if name in self.w.model.streams:
            with pytest.raises(hs.StreamExists):
                self.w.store.create_stream(name)
            return
        self.settled(self.w.create(name, shards=shards, backlog=backlog), needs_room=True)

    @precondition(healthy)
    @rule(name=STREAMS)
    def delete(self, name: str) -> None:
        stream = self.usable(name)
        if stream is None:
            return
        if any(sub.stream is stream for sub in self.w.model.subs.values()):
            if not self.armed:
                with pytest.raises(hs.StreamInUse):
                    self.w.store.delete_stream(name)
            return
        self.settled(self.w.delete(name))

    def usable(self, name: str) -> Any:
        stream = self.w.model.streams.get(name)
        if stream is None or stream.status != "acked" or stream.deleting:
            return None
        return stream

    @precondition(healthy)
    @rule(
        name=STREAMS,
        count=st.integers(1, 12),
        size=st.sampled_from([20, 400, 2500]),
        keys=st.integers(0, 5),
        level=st.sampled_from(["sync", "sync", "os", "memory"]),
        compression=st.sampled_from(["none", "gzip", "zstd"]),
    )
    def append(
        self, name: str, count: int, size: int, keys: int, level: Any, compression: Any
    ) -> None:
        if self.usable(name):
            records = self.records(count, size, keys)
            outcome = self.w.append(name, records, level=level, compression=compression)
            if self.settled(outcome, needs_room=True):
                self.counts["acknowledged"] += count

    @precondition(healthy)
    @rule(name=STREAMS, producer=st.sampled_from(["p", "q"]), count=st.integers(1, 5))
    def produce(self, name: str, producer: str, count: int) -> None:
        if self.usable(name) and self.settled(
            self.w.produce(name, producer, count), needs_room=True
        ):
            self.counts["produced"] += count

    @precondition(healthy)
    @rule(
        names=st.lists(STREAMS, min_size=1, max_size=3, unique=True), sub=SUBS, consumer=CONSUMERS
    )
    def transact(self, names: list[str], sub: str, consumer: str) -> None:
        names = [name for name in names if self.usable(name)]
        held = self.w.held.get((sub, consumer))
        now = self.w.env.clock.mono_ns()
        lost = held and not all(
            self.w.model.holds(sub, consumer, (d.id.shard_id, d.id.lsn), now) for d in held
        )
        outcome = self.w.transact(
            {name: self.records(2, 300, 3) for name in names}, (sub, consumer) if held else None
        )
        if lost:
            assert outcome != "ok"
            self.w.held[sub, consumer].clear()
            return
        if self.settled(outcome, needs_room=bool(names)):
            self.counts["transactions"] += 1

    @precondition(healthy)
    @rule(name=STREAMS, where=st.floats(0, 1))
    def trim(self, name: str, where: float) -> None:
        stream = self.usable(name)
        if stream is None:
            return
        records = list(self.w.store.stream(name).read())
        place = records[int(where * len(records))].id if where < 1 and records else hs.LATEST
        if place is hs.LATEST:
            self.settled(self.w.sync(), needs_room=True)
        if self.healthy():
            self.settled(self.w.trim(name, place))

    @precondition(healthy)
    @rule(name=STREAMS, first=st.floats(0, 1), last=st.floats(0, 1), limit=st.integers(0, 30))
    def read(self, name: str, first: float, last: float, limit: int) -> None:
        """Every kind of reader shows a part of what the complete one shows."""
        if not self.usable(name):
            return
        stream = self.w.store.stream(name)
        every = list(stream.read())
        if not every:
            return
        i = min(int(first * len(every)), len(every) - 1)
        j = min(i + int(last * len(every)), len(every) - 1)
        start, until = every[i].id, every[j].id
        key, time = every[i].key, every[i].append_time
        assert start is not None
        assert until is not None
        assert time is not None
        ids = [record.id for record in every]
        assert [r.id for r in stream.read(start=start, until=until)] == ids[i:j]
        assert [r.id for r in stream.read(start=start, limit=limit)] == ids[i : i + limit]
        since = [r.id for r in every if r.append_time is not None and r.append_time >= time]
        assert [r.id for r in stream.read(start=time)] == since
        if key is not None:
            own = [record.id for record in every if record.key == key]
            assert [r.id for r in stream.read(key=key)] == own
        shard = start.shard_id
        assert [r.id for r in stream.read(shard=shard)] == [
            r for r in ids if r is not None and r.shard_id == shard
        ]

    # Subscriptions.

    @precondition(healthy)
    @rule(
        name=SUBS,
        stream=STREAMS,
        latest=st.booleans(),
        timeout=st.sampled_from([0.5, 10.0]),
        most=st.sampled_from([5, 10_000]),
        mode=st.sampled_from(["ordered", "ordered", "shared"]),
    )
    def subscribe(
        self, name: str, stream: str, latest: bool, timeout: float, most: int, mode: str
    ) -> None:
        if name in self.w.model.subs or not self.usable(stream):
            return
        if latest and not self.settled(self.w.sync(), needs_room=True):
            return
        outcome = self.w.subscribe(
            name, stream, latest=latest, ack_timeout=timeout, max_unacked=most, mode=mode
        )
        self.settled(outcome, needs_room=True)

    def subscribed(self, name: str) -> bool:
        sub = self.w.model.subs.get(name)
        return sub is not None and sub.status == "acked" and not sub.deleting

    @precondition(healthy)
    @rule(name=SUBS)
    def unsubscribe(self, name: str) -> None:
        if self.subscribed(name):
            self.settled(self.w.unsubscribe(name))

    @precondition(healthy)
    @rule(name=SUBS, consumer=CONSUMERS, most=st.integers(1, 20))
    def receive(self, name: str, consumer: str, most: int) -> None:
        if self.subscribed(name):
            got = self.w.receive(name, consumer, most)
            assert got >= 0 or self.armed
            self.counts["delivered"] += max(0, got)

    @precondition(healthy)
    @rule(name=SUBS, consumer=CONSUMERS, count=st.integers(1, 20), one=st.booleans())
    def ack(self, name: str, consumer: str, count: int, one: bool) -> None:
        held = self.w.held.get((name, consumer))
        if held and self.settled(self.w.ack(name, consumer, 1 if one else count)):
            self.counts["acks"] += 1

    @precondition(healthy)
    @rule(name=SUBS, consumer=CONSUMERS, count=st.integers(1, 20))
    def release(self, name: str, consumer: str, count: int) -> None:
        if self.w.held.get((name, consumer)):
            self.settled(self.w.release(name, consumer, count))

    @precondition(healthy)
    @rule(name=SUBS, where=st.floats(0, 1), by_time=st.booleans())
    def seek(self, name: str, where: float, by_time: bool) -> None:
        if not self.subscribed(name):
            return
        stream = self.w.model.subs[name].stream
        records = list(self.w.store.stream(stream.name).read()) if self.usable(stream.name) else []
        to: Any = hs.EARLIEST if where < 0.1 else hs.LATEST
        if where < 0.9 and records:
            record = records[int(where * len(records))]
            to = record.append_time if by_time else record.id
        if self.settled(self.w.seek(name, to)):
            self.counts["sought"] += 1

    @precondition(healthy)
    @rule(name=SUBS, paused=st.booleans())
    def pause(self, name: str, paused: bool) -> None:
        if self.subscribed(name) and self.settled(self.w.pause(name, paused=paused)):
            self.counts["paused or resumed"] += 1

    @precondition(healthy)
    @rule(name=SUBS, consumer=CONSUMERS)
    def lose_consumer(self, name: str, consumer: str) -> None:
        if (name, consumer) in self.w.consumers:
            self.settled(self.w.leave(name, consumer))
            self.counts["consumers lost"] += 1

    # Time and files.

    @precondition(healthy)
    @rule()
    def compact(self) -> None:
        written = self.w.store.stats().log["segments_regrouped"]
        if self.settled(self.w.compact(), needs_room=True):
            now = self.w.store.stats().log["segments_regrouped"]
            self.counts["compacted"] += now > written

    @precondition(healthy)
    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 6.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.settled(self.w.pass_time(seconds), needs_room=True)

    @rule(hours=st.integers(-2, 2))
    def move_wall_clock(self, hours: int) -> None:
        clock = self.w.env.clock
        self.w.wall_ms_max = max(self.w.wall_ms_max, clock.wall_ms())
        self.w.env.disk.set_wall_ms(clock.wall_ms() + hours * HOUR_MS)
        self.counts["clock jumps"] += 1

    # Crashes and faults.

    @rule(how=st.sampled_from(["close", "process", "power"]), seed=st.integers(0, 1 << 16))
    def restart(self, how: Restart, seed: int) -> None:
        self.heal_faults()
        try:
            self.w.restart(how, seed=seed)
        except hs.StorageFull:
            # Buffered, the tail is written anew, which takes room.
            assert self.full
            assert not self.direct
            self.make_room("")
            self.w.open()
        self.reserve = False
        self.counts[how] += 1
        self.w.check()

    @precondition(lambda self: self.healthy() and not self.armed)
    @rule(name=STREAMS, after=st.integers(0, 6), seed=st.integers(0, 1 << 16))
    def cut_power_in_an_append(self, name: str, after: int, seed: int) -> None:
        if not self.usable(name):
            return
        disk = self.w.env.disk
        disk.stop_at(disk.counts().mutations + after)
        self.armed = True
        self.w.append(name, self.records(6, 2500, 2))
        self.counts["torn"] += disk.stopped
        self.restart("power", seed)

    @precondition(lambda self: self.healthy() and not self.armed)
    @rule(
        nth=st.integers(1, 4),
        kind=st.sampled_from(["sync lost", "sync reverted", "sync survived", "write", "read"]),
    )
    def arm_fault(self, nth: int, kind: str) -> None:
        disk = self.w.env.disk
        what, _, outcome = kind.partition(" ")
        if self.direct and outcome == "lost":
            return  # past the cache there is no page that a failed sync leaves there as clean
        if what == "sync":
            disk.inject(FailSync(ops=Op.DATASYNC | Op.SYNC, nth=nth, outcome=outcome))
        elif what == "write":
            disk.inject(Fail(ops=Op.PWRITE, nth=nth, errno=errno.EIO))
        else:
            disk.inject(Short(nth=nth))
            disk.inject(Interrupt(nth=nth + 1))
            return
        self.armed = True

    def heal_faults(self) -> None:
        self.w.env.disk.clear_faults()
        self.w.env.disk.stop_at(None)
        self.armed = False

    @precondition(lambda self: self.w.failed)
    @rule(name=STREAMS)
    def failed_store_refuses(self, name: str) -> None:
        if self.usable(name):
            self.heal_faults()
            with pytest.raises(StoreFailed):
                self.w.store.stream(name).append(b"refused")
            self.w.check()

    @precondition(lambda self: self.healthy() and not self.full)
    @rule()
    def fill_disk(self) -> None:
        disk = self.w.env.disk
        # The first segment of a life brings the reserve, which lasts for one segment.
        self.reserve = bool(self.usable("a")) and self.w.append("a", self.records(1, 20, 0)) == "ok"
        disk.set_capacity(disk.counts().used)
        self.full = True
        self.counts["full disk"] += 1

    @precondition(lambda self: self.full)
    @rule(name=STREAMS)
    def make_room(self, name: str) -> None:
        self.w.env.disk.set_capacity(PLENTY)
        self.full = False
        if name and self.healthy() and not self.armed and self.usable(name):
            assert self.w.append(name, self.records(8, 2500, 0)) == "ok"

    @precondition(lambda self: self.healthy() and not self.armed and not self.full)
    @rule(where=st.floats(0, 1), bit=st.integers(0, 7), seed=st.integers(0, 1 << 16))
    def damage_a_copy(self, where: float, bit: int, seed: int) -> None:
        """A flipped bit behind which something proves that it was on disk is found or harmless."""
        self.w.pass_time(self.w.config.idle_mark)
        self.w.env.advance(self.w.config.idle_mark)
        self.w.tick()
        other = self.w.branch(self.w.env.clone())
        disk = other.env.disk
        disk.sync_all()
        other.restart("power", reopen=False)
        disk = other.env.disk
        paths = [path for path in disk.walk("/db") if path.endswith((".seg", "SUPER"))]
        path = paths[seed % len(paths)]
        data = disk.read_all(path)
        used = [at for at in range(0, len(data), 7) if data[at]]
        disk.flip(path, used[int(where * (len(used) - 1))] * 8 + bit)
        try:
            other.open()
            other.check()
            other.store.close()
        except CorruptionError as error:
            assert error.path.startswith("/db")
            self.counts["damage found"] += 1
        except hs.StoreVersionUnsupported:
            self.counts["damage found"] += 1
        else:
            self.counts["damage harmless"] += 1

    @precondition(healthy)
    @rule()
    def look(self) -> None:
        self.counts["checked"] += self.w.check()

    @invariant()
    def invariants_hold(self) -> None:
        if hasattr(self, "w"):
            self.w.store._engine.journal.check_invariants()

    def teardown(self) -> None:
        if not hasattr(self, "w"):
            return
        self.heal_faults()
        self.w.env.disk.set_capacity(PLENTY)
        if self.w.failed:
            self.w.restart("close")
        self.w.check()
        self.w.drain()
        self.w.restart("close")
        self.counts["checked"] += self.w.check()
        self.w.store.close()


def test_store_agrees_with_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    StoreMachine.counts.clear()
    run_state_machine_as_test(StoreMachine, settings=settings(stateful_step_count=50))
    with capsys.disabled():
        print("\n" + ", ".join(f"{n} {what}" for what, n in sorted(StoreMachine.counts.items())))
    if effort.TALLIED:
        assert [what for what in LEAST_EVENTS if not StoreMachine.counts[what]] == []


def test_leap_of_the_wall_clock_expires_nothing() -> None:
    w = Witness(SimEnv(seed=1), small_config(retention_interval=1.0))
    assert w.create("a", backlog=3600.0) == "ok"
    assert w.append("a", [(None, b"%d" % n) for n in range(5)]) == "ok"
    w.env.disk.set_wall_ms(w.env.clock.wall_ms() + 365 * 24 * HOUR_MS)
    w.pass_time(2.0)
    assert len(w.read("a")) == 5
    w.env.disk.set_wall_ms(w.env.clock.wall_ms() - 365 * 24 * HOUR_MS)
    w.pass_time(2.0)
    assert len(w.read("a")) == 5


@pytest.mark.parametrize("mode", ["ordered", "shared"])
def test_delivery_comes_again_at_its_deadline_and_not_before(mode: str) -> None:
    w = Witness(SimEnv(seed=1))
    assert w.create("a") == "ok"
    assert w.subscribe("s", "a", ack_timeout=10.0, mode=mode) == "ok"
    assert w.append("a", [(None, b"one")]) == "ok"
    assert w.receive("s", "one") == 1
    w.env.advance(9.9)
    assert w.receive("s", "two") == 0
    w.env.advance(0.1)
    assert w.receive("s", "two") == 1


def test_records_expire_at_their_age_and_not_before() -> None:
    w = Witness(SimEnv(seed=1), small_config(retention_interval=1.0))
    assert w.create("a", backlog=5.0) == "ok"
    assert w.append("a", [(None, b"one")]) == "ok"
    w.pass_time(4.0)
    assert w.check() == 1
    w.pass_time(2.0)
    assert w.check() == 0


@pytest.mark.parametrize("wrong", [2**64 - 5_000, 253_402_300_800_000], ids=["1969", "10000"])
def test_clock_beyond_all_dates_stamps_no_later_record(wrong: int) -> None:
    env = SimEnv(seed=1)
    true = env.clock.wall_ms()
    with hs.open("/db", env=env) as store:
        stream = store.create_stream("a")
        stream.append(b"before")
        env.disk.set_wall_ms(wrong)
        stream.append(b"meanwhile")
        store.create_stream("b").append(b"meanwhile")
        env.disk.set_wall_ms(true + 60_000)
        stream.append(b"after")
        times = [record.append_time for record in stream.read()]
        assert times[0] == times[1]
        assert times[2] is not None
        assert times[2].timestamp() * 1000 < true + 120_000
        assert [info.created.year for info in store.streams()] == [2023, 1970]
        assert [record.append_time for record in store.stream("b").read()] == [None]
