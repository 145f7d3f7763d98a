"""A reference of one subscription's group that keeps every record by itself, in plain dicts."""

from dataclasses import dataclass, field

from hstreamlite.sub.ackmap import AckFlag
from hstreamlite.sub.checkpoint import Progress
from hstreamlite.sub.effects import Assignment
from hstreamlite.sub.limits import Limits

CONSUMERS = ("ada", "bob", "cyd")


def size_of(shard: int, lsn: int) -> int:
    """Return how many bytes a record has: few, or many."""
    return 1 + (7 * lsn + shard) % 13 * (1 + lsn % 3)


@dataclass
class RecordState:
    deliveries: int = 0
    most_deliveries: int = 0
    acked: bool = False
    gone: bool = False
    owner: str | None = None
    lease: int | None = None
    deadline: int | None = None
    not_before: int = 0
    may_come_again: bool = True
    doomed: str = ""

    def most(self) -> int:
        """Return how often it was delivered at most, also before a restart that forgot some."""
        return max(self.deliveries, self.most_deliveries)


@dataclass
class ShardModel:
    start: int
    tail: int
    next: int
    floor: int
    generation: int = 0
    seen: tuple[int, int] = (0, 0)
    records: dict[int, RecordState] = field(default_factory=dict)
    history: dict[int, set[int]] = field(default_factory=dict)

    def done(self, lsn: int) -> bool:
        record = self.records.get(lsn)
        return lsn < self.floor or (record is not None and (record.acked or record.gone))

    def low(self) -> int:
        while self.floor < self.next and self.done(self.floor):
            self.floor += 1
        return self.floor

    def known(self, lsn: int) -> bool:
        return self.start <= lsn < self.next

    def open(self) -> list[int]:
        return [lsn for lsn in range(self.low(), self.next) if not self.done(lsn)]


class GroupModel:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.now = 1_000
        self.shards: dict[int, ShardModel] = {}
        self.consumers: list[str] = []
        self.lease_ends: dict[str, tuple[int, int]] = {}
        self.gone: list[str] = []
        self.leases: dict[int, tuple[str, Assignment]] = {}
        self.paused = False

    def add_shard(self, shard: int, start: int) -> None:
        self.shards[shard] = ShardModel(
            start, start, start, start, 0, (start, start), {}, {0: set()}
        )

    def ack(self, shard: int, lsn: int) -> AckFlag:
        model = self.shards[shard]
        if not model.known(lsn):
            stale = model.seen[0] <= lsn < model.seen[1]
            return AckFlag.VOID if stale else AckFlag.UNKNOWN
        if model.done(lsn):
            return AckFlag.DUPLICATE
        record = model.records[lsn]
        if record.deliveries == 0:
            return AckFlag.VOID
        record.acked = True
        model.history[model.generation].add(lsn)
        return AckFlag.NEW

    def acceptable(self, shard: int, lsns: list[int]) -> bool:
        model = self.shards[shard]
        return all(model.known(lsn) or model.seen[0] <= lsn < model.seen[1] for lsn in lsns)

    def outstanding(self) -> int:
        return sum(len(model.open()) for model in self.shards.values())

    def held_by(self, consumer: str) -> list[tuple[int, int]]:
        return [
            (shard, lsn)
            for shard, model in self.shards.items()
            for lsn in model.open()
            if model.records[lsn].owner == consumer
        ]

    def flying(self, consumer: str | None = None) -> int:
        """Return the bytes in flight at a consumer, or at all."""
        return sum(
            size_of(shard, lsn)
            for shard, model in self.shards.items()
            for lsn in model.open()
            if model.records[lsn].deadline is not None
            and consumer in (None, model.records[lsn].owner)
        )

    def room(self, consumer: str) -> int:
        """Return how many bytes the windows have left, at least."""
        limits = self.limits
        rooms = [1 << 60]
        if limits.max_unacked_bytes:
            rooms.append(limits.max_unacked_bytes - self.flying())
        if limits.max_unacked_bytes_per_consumer:
            rooms.append(limits.max_unacked_bytes_per_consumer - self.flying(consumer))
        return min(rooms)

    def ready(self) -> set[tuple[int, int]]:
        return {
            (shard, lsn)
            for shard, model in self.shards.items()
            for lsn in model.open()
            if model.records[lsn].owner is None and model.records[lsn].not_before <= self.now
            if not model.records[lsn].doomed
        }

    def doomed(self) -> dict[tuple[int, int], tuple[int, str]]:
        """Return how often each doomed record was delivered, and why it came back last."""
        return {
            (shard, lsn): (model.records[lsn].deliveries, model.records[lsn].doomed)
            for shard, model in self.shards.items()
            for lsn in model.open()
            if model.records[lsn].doomed
        }

    def attach(self, consumer: str, lease_ns: int | None) -> None:
        self.consumers.append(consumer)
        if lease_ns is not None:
            self.lease_ends[consumer] = lease_ns, self.now + lease_ns

    def renew(self, consumer: str) -> int | None:
        if consumer not in self.lease_ends:
            return None
        lease_ns, _ = self.lease_ends[consumer]
        self.lease_ends[consumer] = lease_ns, self.now + lease_ns
        return self.now + lease_ns

    def miss(self) -> None:
        """Let go of consumers that were not heard of for too long, longest gone first."""
        for end, name in sorted((end, name) for name, (_, end) in self.lease_ends.items()):
            if end <= self.now:
                self.detach(name, "consumer gone")
                self.gone.append(name)

    def forget(self, consumer: str) -> None:
        self.consumers.remove(consumer)
        self.lease_ends.pop(consumer, None)

    def tick(self) -> None:
        self.miss()
        for model in self.shards.values():
            for lsn in model.open():
                record = model.records[lsn]
                if record.deadline is not None and record.deadline <= self.now:
                    self.give_back(record, "timeout", self.backoff(record))

    def backoff(self, record: RecordState) -> int:
        backoff = self.limits.retry.backoff
        if backoff is None:
            return 0
        wait = backoff.first
        for _ in range(record.deliveries - 1):
            wait = min(backoff.most, wait * backoff.factor)
        return int(wait * 1e9)

    def give_back(self, record: RecordState, reason: str, after: int = 0) -> None:
        record.owner = record.lease = record.deadline = None
        record.not_before = self.now + after
        record.may_come_again = True
        most = self.limits.retry.max_attempts
        if most and record.deliveries >= most:
            record.doomed = reason

    def next_deadline(self) -> int | None:
        times = [end for _, end in self.lease_ends.values()]
        for model in self.shards.values():
            for lsn in model.open():
                record = model.records[lsn]
                if record.deadline is not None:
                    times.append(record.deadline)
                elif record.owner is None and not record.doomed and record.not_before > self.now:
                    times.append(record.not_before)
        return min(times, default=None)

    def expected_count(self, consumer: str, max_records: int) -> int:
        """How many records a fetch must reserve, whatever it chooses."""
        limits = self.limits
        if self.room(consumer) <= 0:
            return 0
        quota = limits.max_unacked_per_consumer or limits.max_unacked
        if limits.max_unacked_per_consumer:
            quota = max(0, quota - len(self.held_by(consumer)))
        room = max(0, limits.max_unacked - self.outstanding())
        fresh = sum(
            max(0, min(model.tail, model.low() + limits.span_records) - model.next)
            for model in self.shards.values()
        )
        most = min(max_records, quota)
        again = min(most, len(self.ready()))
        return again + min(most - again, room, fresh)

    def reserve(self, consumer: str, assignments: tuple[Assignment, ...]) -> None:
        for assigned in assignments:
            model = self.shards[assigned.shard_id]
            self.leases[assigned.lease] = (consumer, assigned)
            for lsn in range(assigned.first_lsn, assigned.end_lsn):
                if lsn >= model.next:
                    assert lsn == model.next, "new records come in log order"
                    model.next = lsn + 1
                    model.records[lsn] = RecordState()
                record = model.records[lsn]
                assert lsn < model.tail, "S2: beyond the tail"
                assert not model.done(lsn), f"S4: {lsn} is done"
                assert record.owner is None, f"S5: {lsn} is at {record.owner}"
                assert record.not_before <= self.now, f"S7: {lsn} comes too early"
                assert record.may_come_again, f"S3: {lsn} comes again for no reason"
                assert not record.doomed, f"{lsn} was delivered often enough"
                assert assigned.attempt == record.deliveries + 1
                record.owner, record.lease = consumer, assigned.lease
                record.may_come_again = False

    def check_order(self, before: dict[int, int], assignments: tuple[Assignment, ...]) -> None:
        """First deliveries of a shard take the lowest records that nobody has."""
        first = [a for a in assignments if a.attempt == 1]
        for shard in {a.shard_id for a in first}:
            lsns = [n for a in first if a.shard_id == shard for n in range(a.first_lsn, a.end_lsn)]
            assert lsns == sorted(lsns)
            model = self.shards[shard]
            skipped = [
                lsn
                for lsn in model.open()
                if lsn < lsns[-1]
                and model.records[lsn].deliveries == 0
                and model.records[lsn].owner is None
                and lsn < before[shard]
            ]
            assert not skipped, f"{skipped} should come before {lsns}"

    def confirm(self, lease: int, end: int) -> tuple[int, int] | None:
        consumer, assigned = self.leases.pop(lease)
        model = self.shards[assigned.shard_id]
        got: list[int] = []
        room = self.room(consumer)
        for lsn in range(assigned.first_lsn, assigned.end_lsn):
            record = model.records.get(lsn)
            if record is None or record.lease != lease or record.gone:
                continue
            fits = room > 0
            room -= size_of(assigned.shard_id, lsn)
            if lsn >= end or not fits:
                record.owner = record.lease = None
                record.may_come_again = True
                continue
            record.deliveries += 1
            record.most_deliveries = max(record.most_deliveries, record.deliveries)
            record.owner = consumer
            record.deadline = self.now + self.limits.ack_timeout_ns
            got.append(lsn)
        return (got[0], got[-1] + 1) if got else None

    def detach(self, consumer: str, reason: str = "consumer left") -> int:
        held = self.held_by(consumer)
        for shard, lsn in held:
            record = self.shards[shard].records[lsn]
            if record.deadline is None:
                record.may_come_again = True
            else:
                self.give_back(record, reason)
        for model in self.shards.values():
            for record in model.records.values():
                if record.owner == consumer:
                    record.owner = record.lease = None
        self.forget(consumer)
        return len(held)

    def confirmed(self, consumer: str, shard: int, first: int, end: int) -> list[RecordState]:
        model = self.shards[shard]
        return [
            model.records[lsn]
            for lsn in range(first, end)
            if lsn in model.records
            and not model.done(lsn)
            and model.records[lsn].owner == consumer
            and model.records[lsn].deadline is not None
        ]

    def release(
        self, consumer: str, shard: int, first: int, end: int, after: int | None, reason: str
    ) -> int:
        held = self.confirmed(consumer, shard, first, end)
        for record in held:
            self.give_back(record, reason, self.backoff(record) if after is None else after)
        return len(held)

    def unsend(self, consumer: str, shard: int, first: int, end: int) -> int:
        """Take back what nobody has seen."""
        held = self.confirmed(consumer, shard, first, end)
        for record in held:
            record.deliveries -= 1
            record.owner = record.lease = record.deadline = None
            record.not_before = self.now
            record.may_come_again = True
        return len(held)

    def extend(self, consumer: str, shard: int, first: int, end: int, by: int) -> int:
        held = self.confirmed(consumer, shard, first, end)
        for record in held:
            record.deadline = max(record.deadline or 0, self.now + by)
        return len(held)

    def gap(self, shard: int, first_kept: int) -> tuple[int, int]:
        model = self.shards[shard]
        low = model.low()
        lost = [lsn for lsn in range(low, first_kept) if not model.done(lsn)]
        unseen = [n for n in lost if n >= model.next or model.records[n].deliveries == 0]
        for lsn in lost:
            model.records.setdefault(lsn, RecordState()).gone = True
        model.next = max(model.next, first_kept)
        model.tail = max(model.tail, first_kept)
        model.floor = max(model.floor, first_kept)
        model.history[model.generation] |= set(lost)
        return len(lost), len(unseen)

    def seek(self, shard: int, lsn: int) -> None:
        model = self.shards[shard]
        model.seen = (min(model.seen[0], model.start), max(model.seen[1], model.next))
        model.start = model.next = model.floor = lsn
        model.records = {}
        model.generation += 1
        model.history[model.generation] = set()

    def restart(self, progress: Progress, starts: dict[int, int], *, exact: bool) -> None:
        """Check that stored progress is not ahead of the truth, and fall back to it."""
        self.consumers.clear()
        self.lease_ends.clear()
        self.gone.clear()
        self.leases.clear()
        self.paused = False
        for shard, model in self.shards.items():
            kept = progress.shards.get(shard)
            if kept is None:
                tail = model.tail
                self.shards[shard] = ShardModel(
                    starts[shard],
                    tail,
                    starts[shard],
                    starts[shard],
                    0,
                    (starts[shard], starts[shard]),
                    {},
                    {0: set()},
                )
                continue
            self._fall_back(shard, kept.generation, progress, exact=exact)

    @staticmethod
    def counts(progress: Progress, shard: int) -> list[tuple[int, int, int]]:
        """Return runs of records and how often each was delivered, as it is stored."""
        return progress.shards[shard].delivered_counts()

    def _fall_back(self, shard: int, generation: int, progress: Progress, *, exact: bool) -> None:
        model = self.shards[shard]
        kept = progress.shards[shard]
        state = kept.acks.state
        truth = model.history[generation]
        stored = set(range(state.origin, state.low))
        for first, end in kept.acks.acked_runs(state.low, state.next):
            stored |= set(range(first, end))
        assert stored <= truth, f"S10: stored acks {sorted(stored - truth)} never happened"
        assert not exact or truth <= stored, f"S4: acks {sorted(truth - stored)} are forgotten"
        same = model.records if generation == model.generation else {}
        records = {
            # How often it was delivered comes up again if the next restart finds less stored.
            lsn: RecordState(1, same.get(lsn, RecordState()).most(), acked=True)
            for lsn in stored
        }
        for first, end, count in self.counts(progress, shard):
            for lsn in range(first, end):
                if lsn in stored:
                    continue
                records[lsn] = RecordState(deliveries=count, most_deliveries=count)
                most = self.limits.retry.max_attempts
                if most and count >= most:
                    records[lsn].doomed = "restart"
                if generation == model.generation:
                    was, most = model.records[lsn].deliveries, model.records[lsn].most()
                    assert count <= most, f"{lsn}: {count} stored, {most} happened"
                    assert not exact or count == was, f"{lsn}: {count} stored of {was} deliveries"
        self.shards[shard] = ShardModel(
            state.origin,
            model.tail,
            state.next,
            state.low,
            generation,
            (state.origin, state.origin),
            records,
            {g: s for g, s in model.history.items() if g < generation} | {generation: stored},
        )
