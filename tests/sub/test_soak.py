"""A million deliveries to consumers that die: all modes, in virtual time, each record watched.

Eight consumers take, ack and release at random; they leave, or fall silent until their
leases run out, and then some of them ack late. Time passes by jumps, and the group is restarted
from what it stored. Records are bytes in arrays: who has each, and whether it is acked. What a
delivery has to satisfy is looked at when it is made, and in the end everything is acked.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections import Counter

import pytest

from hstreamlite.sub.ackmap import AckFlag
from hstreamlite.sub.checkpoint import Progress
from hstreamlite.sub.limits import SECOND_NS, Limits
from tests import effort
from tests.sub.driven import MODES, Driven, Taken, batch_ends

TIMEOUT = 10 * SECOND_NS
LEASE = 4 * SECOND_NS
CONSUMERS = 8
SHARDS = (1, 2, 3)
KEYS = 300
DELIVERIES = effort.of(500_000, brief=40_000)
DEATHS = effort.of(5_000, brief=300)
SMALL = effort.of(10, brief=4)
"""How much less is done by shard, where all that is in flight is looked at for each record."""

Place = tuple[int, int]


def key_of(shard: int, lsn: int) -> int:
    """Return the key of a record: every fourth has none, some keys have many records."""
    mixed = (lsn * 0x9E3779B97F4A7C15 + shard * 0xC2B2AE3D27D4EB4F) >> 20 & 0xFFFFFF
    return 0 if mixed % 4 == 0 else 1 + (mixed % KEYS) * (mixed // KEYS % KEYS) // KEYS


class Watched:
    """What is true of the records of one shard, a byte or an entry each."""

    def __init__(self, shard: int, mode: str) -> None:
        self.shard = shard
        self.mode = mode
        self.keyed = mode != "shared"
        self.tail = 1
        self.owner = bytearray(1)
        """Who has the record: 0 is nobody, and consumers count from 1."""
        self.acked = bytearray(1)
        self.seen = bytearray(1)
        self.batch = array("Q", [0])
        """In which batch it went out last; told where there are keys."""
        self.of_key: dict[int, list[int]] = {}
        """The records of each key from the first that may be unacked on."""
        self.below: dict[int, int] = {}

    def grow(self, tail: int) -> None:
        count = tail - self.tail
        for told in (self.owner, self.acked, self.seen):
            told.extend(bytes(count))
        if self.keyed:
            self.batch.extend([0] * count)
            for lsn in range(self.tail, tail):
                if key := self.key(lsn):
                    self.of_key.setdefault(key, []).append(lsn)
        self.tail = tail

    def key(self, lsn: int) -> int:
        """Return the key of a record where it counts; a shard may be one."""
        return 1 if self.mode == "sharded" else key_of(self.shard, lsn) if self.keyed else 0

    def hand(self, first: int, end: int, consumer: int, batch: int) -> None:
        """Check a run that goes out, and give it to its consumer."""
        count = end - first
        assert end <= self.tail, "delivered before it was durable"
        assert not any(self.acked[first:end]), f"{first} to {end} of {self.shard}: acked before"
        assert not any(self.owner[first:end]), f"{first} to {end} of {self.shard}: in flight twice"
        if self.keyed:
            for lsn in range(first, end):
                self.check_order(lsn, consumer)
                self.owner[lsn] = consumer
                self.batch[lsn] = batch
        else:
            self.owner[first:end] = bytes([consumer]) * count
        self.seen[first:end] = b"\1" * count

    def check_order(self, lsn: int, consumer: int) -> None:
        key = self.key(lsn)
        if key == 0:
            return
        records = self.of_key[key]
        at = self.first_unacked(key)
        while records[at] < lsn:
            before = records[at]
            assert self.acked[before] or self.owner[before] == consumer, (
                f"key {key} of {self.shard}: {lsn} goes to {consumer} before {before}"
            )
            at += 1

    def first_unacked(self, key: int) -> int:
        """Return the place of the first record of a key that may be unacked."""
        records = self.of_key[key]
        at = self.below.get(key, 0)
        while at < len(records) and self.acked[records[at]]:
            at += 1
        self.below[key] = at
        return at

    def back(self, lsn: int) -> None:
        """Take a record back, and what follows it of its key."""
        self.owner[lsn] = 0
        if key := self.key(lsn):
            records = self.of_key[key]
            for at in range(self.first_unacked(key), len(records)):
                behind = records[at]
                if behind > lsn:
                    if not self.owner[behind] and not self.acked[behind]:
                        break  # what lies behind that is not out either
                    self.owner[behind] = 0


class Soak:
    """One group in one mode, and what is known of it."""

    def __init__(self, mode: str, seed: int) -> None:
        self.mode = mode
        self.random = random.Random(seed)
        limits = Limits(
            ack_timeout_ns=TIMEOUT,
            max_unacked=2_000,
            max_unacked_per_consumer=400,
            span_records=20_000,
        )
        self.it = Driven(mode, limits, key_of)
        self.share = SMALL if mode == "sharded" else 1
        self.now = SECOND_NS
        self.counts: Counter[str] = Counter()
        self.shards = {shard: Watched(shard, mode) for shard in SHARDS}
        self.held: dict[int, list[Taken]] = {}
        self.leases: dict[int, int] = {}
        self.silent: set[int] = set()
        self.deadlines: list[tuple[int, int, int, int, list[Taken]]] = []
        self.serial = 0
        self.lives: dict[int, int] = {}
        self.late: list[Taken] = []
        self.delayed: dict[Place, int] = {}
        self.progress = Progress()
        self.stored: dict[int, bytes] = {}
        for shard in SHARDS:
            self.it.group.add_shard(shard, 1)
        self.store()
        for consumer in range(1, CONSUMERS + 1):
            self.enter(consumer)

    # Consumers

    def enter(self, consumer: int) -> None:
        leased = self.random.random() < 0.5
        self.it.group.attach(f"c{consumer}", self.now, LEASE if leased else None)
        self.held[consumer] = []
        self.lives[consumer] = self.lives.get(consumer, 0) + 1
        if leased:
            self.leases[consumer] = self.now + LEASE

    def die(self, consumer: int) -> None:
        """Leave, or fall silent until the lease has run out."""
        if consumer in self.leases:
            self.silent.add(consumer)
        else:
            self.it.group.detach(f"c{consumer}", self.now)
            self.bury(consumer)
            self.enter(consumer)

    def bury(self, consumer: int) -> None:
        """Take note that a consumer is gone, with all it held."""
        self.counts["deaths"] += 1
        runs = self.held.pop(consumer)
        if self.random.random() < 0.1:
            self.late += runs
        for run in runs:
            self.take_back(run, consumer)

    def take_back(self, run: Taken, consumer: int, batch: int = 0) -> None:
        """Take a run from its consumer, or what it has of it since a batch."""
        shard, first, end, _ = run
        watched = self.shards[shard]
        if watched.keyed:
            for lsn in range(first, end):
                if watched.owner[lsn] == consumer and batch in (0, watched.batch[lsn]):
                    watched.back(lsn)
        else:
            owner = watched.owner
            owner[first:end] = owner[first:end].replace(bytes([consumer]), b"\0")

    # Time

    def pass_time(self, by: int) -> None:
        self.now += by
        group = self.it.group
        for consumer in list(self.leases):
            if consumer not in self.silent and self.leases[consumer] > self.now:
                self.leases[consumer] = group.renew(f"c{consumer}", self.now) or 0
        gone = [consumer for consumer, end in self.leases.items() if end <= self.now]
        assert sorted(group.gone(self.now)) == sorted(f"c{consumer}" for consumer in gone)
        for consumer in gone:
            del self.leases[consumer]
            self.silent.discard(consumer)
            self.bury(consumer)
            self.counts["deaths in silence"] += 1
        while self.deadlines and self.deadlines[0][0] <= self.now:
            _, batch, consumer, life, runs = heapq.heappop(self.deadlines)
            if self.lives[consumer] == life and consumer in self.held:
                self.time_out(consumer, batch, runs)
        group.tick(self.now)
        for consumer in gone:
            self.enter(consumer)

    def time_out(self, consumer: int, batch: int, runs: list[Taken]) -> None:
        mine = self.held[consumer]
        for run in runs:
            if run in mine:
                mine.remove(run)
                self.counts["timeouts"] += 1
                self.take_back(run, consumer, batch)

    # Deliveries

    def take(self, consumer: int) -> None:
        self.serial += 1
        batches = self.random.choice([0, 1, 5]) if self.mode == "sharded" else 0
        most = self.random.randint(1, 150)
        taken = self.it.take(f"c{consumer}", most, self.now, batches=batches)
        if batches and taken and all(attempt == 1 for *_, attempt in taken):
            end = taken[-1][2]
            assert batch_ends(end - 1, end) == [end], f"a batch is cut at {end}"
            self.counts["takes of batches"] += 1
        for shard, first, end, attempt in taken:
            if self.delayed:
                early = [n for n in range(first, end) if self.delayed.get((shard, n), 0) > self.now]
                assert not early, f"{early} of {shard} come before their delay is over"
            self.shards[shard].hand(first, end, consumer, self.serial)
            self.counts["deliveries"] += end - first
            self.counts["of them again"] += (end - first) * (attempt > 1)
        if taken:
            self.held[consumer] += taken
            life = self.lives[consumer]
            due = self.now + TIMEOUT
            heapq.heappush(self.deadlines, (due, self.serial, consumer, life, taken))

    def ack(self, consumer: int) -> None:
        mine = self.held[consumer]
        count = self.random.randint(1, len(mine)) if self.random.random() < 0.3 else len(mine)
        runs, self.held[consumer] = mine[:count], mine[count:]
        for shard, first, end, _ in runs:
            self.ack_run(shard, first, end, consumer)

    def ack_run(self, shard: int, first: int, end: int, consumer: int) -> None:
        """Ack a run; what the consumer has counts, of the rest what nobody acked nor took back."""
        watched = self.shards[shard]
        owner = watched.owner[first:end]
        if owner == bytes([consumer]) * (end - first):
            counts = self.it.group.ack_range(shard, first, end)
            assert counts[:3] == (end - first, 0, 0)
            watched.acked[first:end] = b"\1" * (end - first)
            watched.owner[first:end] = bytes(end - first)
        else:
            for lsn in range(first, end):
                self.ack_late(shard, lsn)
        if self.it.group.attend():
            self.store()

    def ack_late(self, shard: int, lsn: int) -> None:
        """Ack what may be at another consumer, or come again, or be acked."""
        watched = self.shards[shard]
        flag = AckFlag(self.it.group.ack(shard, lsn) & ~AckFlag.ATTENTION)
        if watched.acked[lsn]:
            assert flag is AckFlag.DUPLICATE
        elif self.mode != "ordered" or watched.owner[lsn]:
            assert flag is AckFlag.NEW
        if flag is AckFlag.NEW:
            watched.acked[lsn] = 1
            watched.owner[lsn] = 0
        self.counts["late acks that were " + str(flag.name).lower()] += 1

    def release(self, consumer: int) -> None:
        shard, first, end, _ = run = self.held[consumer].pop()
        after = self.random.choice([0, 0, SECOND_NS])
        watched = self.shards[shard]
        mine = [lsn for lsn in range(first, end) if watched.owner[lsn] == consumer]
        name = f"c{consumer}"
        assert self.it.group.release(name, shard, first, end, after, self.now) == len(mine)
        self.take_back(run, consumer)
        if after:
            self.delayed |= {(shard, lsn): self.now + after for lsn in mine}
            if len(self.delayed) > 5_000:
                self.delayed = {p: due for p, due in self.delayed.items() if due > self.now}
        self.counts["releases"] += len(mine)

    # Restarts

    def store(self) -> None:
        for piece in self.it.group.delta():
            self.progress.apply(piece)
        self.stored = {shard: bytes(watched.acked) for shard, watched in self.shards.items()}

    def restart(self) -> None:
        """End the process: what was acked since it was last stored comes again."""
        self.it.restart(self.progress)
        self.progress = Progress()
        for piece in self.it.group.snapshot():
            self.progress.apply(piece)
        self.counts["restarts"] += 1
        self.counts["deaths"] += len(self.held)
        self.held.clear()
        self.leases.clear()
        self.silent.clear()
        self.late.clear()
        self.delayed.clear()
        for shard, watched in self.shards.items():
            acked = self.stored[shard]
            watched.acked[: len(acked)] = acked
            watched.acked[len(acked) :] = bytes(len(watched.acked) - len(acked))
            watched.owner[:] = bytes(len(watched.owner))
            watched.below.clear()
            self.it.group.offer(shard, watched.tail)
        for consumer in range(1, CONSUMERS + 1):
            self.enter(consumer)

    # The run

    def offer(self) -> None:
        """Append where there is little left to deliver."""
        for stand in self.it.group.stands():
            if stand.tail - stand.next < 1_000:
                watched = self.shards[stand.shard]
                watched.grow(watched.tail + 2_000)
                self.it.group.offer(stand.shard, watched.tail)

    def step(self) -> None:
        chance = self.random.random()
        consumer = self.random.randint(1, CONSUMERS)
        if chance < 0.0003:
            self.restart()
        elif chance < 0.25:
            self.pass_time(self.random.choice([SECOND_NS // 50] * 30 + [SECOND_NS, TIMEOUT]))
        elif consumer in self.silent or consumer not in self.held:
            return
        elif chance < 0.6:
            self.take(consumer)
        elif chance < 0.63 and self.held[consumer]:
            self.release(consumer)
        elif chance < 0.79:
            self.die(consumer)
        elif chance < 0.8 and self.late:
            for run in self.late:
                for lsn in range(run[1], run[2]):
                    self.ack_late(run[0], lsn)
            self.late.clear()
        elif self.held[consumer]:
            self.ack(consumer)

    def run(self) -> None:
        steps = 0
        deliveries, deaths = DELIVERIES // self.share, DEATHS // self.share
        while self.counts["deliveries"] < deliveries or self.counts["deaths"] < deaths:
            if steps % 20 == 0:
                self.offer()
            if steps % 2_000 == 0:
                self.it.group.check_invariants()
            self.step()
            steps += 1
        self.drain()

    def drain(self) -> None:
        """Let everybody who is alive take and ack all there is."""
        self.pass_time(TIMEOUT)
        idle = 0
        while idle < 2:
            before = self.counts["deliveries"]
            for consumer in list(self.held):
                self.take(consumer)
                if self.held[consumer]:
                    self.ack(consumer)
            idle = 0 if self.counts["deliveries"] > before else idle + 1
            self.pass_time(SECOND_NS)
            if self.it.group.lag().records:
                idle = 0
        self.counts["records"] = sum(watched.tail - 1 for watched in self.shards.values())


@pytest.mark.parametrize("mode", [*MODES, "sharded"])
def test_nothing_is_lost_or_twice_in_flight_while_consumers_die(
    mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    soak = Soak(mode, seed=20)
    soak.run()
    for shard, watched in soak.shards.items():
        assert all(watched.seen[1:]), f"shard {shard}: {watched.seen.index(0, 1)} never came"
        assert all(watched.acked[1:]), f"shard {shard}: {watched.acked.index(0, 1)} is lost"
    assert soak.it.group.lag().records == 0
    with capsys.disabled():
        print(f"\n{mode}: " + ", ".join(f"{n} {what}" for what, n in sorted(soak.counts.items())))
