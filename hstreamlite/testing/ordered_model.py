"""The reference of a group in mode "ordered": the same records, and the rules of their keys.

What the two modes share is in `group_model`. Here a record waits until nothing unacked of its key
lies before it that is not at the same consumer, and goes back with what does.
"""

from collections.abc import Callable
from itertools import groupby

from hstreamlite.sub.ackmap import AckFlag
from hstreamlite.sub.checkpoint import Progress
from hstreamlite.sub.effects import Parcel
from hstreamlite.sub.keytab import KeyRun, runs_of
from hstreamlite.sub.limits import Limits
from hstreamlite.testing.group_model import GroupModel, RecordState

Place = tuple[int, int]
"""Shard and LSN."""


class OrderedGroupModel(GroupModel):
    """Records with keys; 0 is no key.

    ``void`` is what nobody can ack now: not handed out, or taken back with what lies before it.
    ``unsure`` may be void by now: it was handed out before a restart, and is found behind another
    of its key when the group gets to it.
    """

    def __init__(self, limits: Limits, key_of: Callable[[int, int], int]) -> None:
        super().__init__(limits)
        self.key_of = key_of
        self.described: dict[int, int] = {}
        self.parcels: dict[int, tuple[str, Parcel]] = {}
        self.failures: dict[Place, int] = {}
        self.freed: set[Place] = set()
        self.unsure: set[Place] = set()
        self.serials: dict[Place, int] = {}
        self.serial = 0

    def add_shard(self, shard: int, start: int) -> None:
        super().add_shard(shard, start)
        self.described[shard] = start

    def record(self, place: Place) -> RecordState:
        return self.shards[place[0]].records[place[1]]

    def chain(self, shard: int, lsn: int) -> list[int]:
        """Return what is unacked of the key before the record."""
        key = self.key_of(shard, lsn)
        if key == 0:
            return []
        model = self.shards[shard]
        return [n for n in model.open() if n < lsn and self.key_of(shard, n) == key]

    def after(self, shard: int, lsn: int) -> list[int]:
        """Return what is unacked of the key behind the record."""
        key = self.key_of(shard, lsn)
        open_ = self.shards[shard].open()
        return [n for n in open_ if n > lsn and key and self.key_of(shard, n) == key]

    # Acks

    def flags(self, shard: int, lsn: int) -> set[AckFlag]:
        """Return what an ack may answer."""
        model = self.shards[shard]
        if not model.known(lsn) or model.done(lsn):
            return {super().ack(shard, lsn)}
        if (shard, lsn) in self.unsure:
            return {AckFlag.NEW, AckFlag.VOID}
        return {AckFlag.NEW if (shard, lsn) in self.freed else AckFlag.VOID}

    def ack(self, shard: int, lsn: int, flag: AckFlag | None = None) -> AckFlag:
        """Ack a record, with the answer that it got where there may be two."""
        if flag is None:
            (flag,) = self.flags(shard, lsn)
        if flag is AckFlag.NEW:
            model = self.shards[shard]
            model.records[lsn].acked = True
            model.history[model.generation].add(lsn)
        return flag

    # Handing out

    def free_for(self, consumer: str, shard: int, lsn: int) -> bool:
        """Tell whether the consumer might get a record now."""
        record = self.record((shard, lsn))
        if record.owner is not None or record.doomed or record.not_before > self.now:
            return False
        records = self.shards[shard].records
        return all(records[n].owner == consumer for n in self.chain(shard, lsn))

    def scanned(self, shard: int, end: int) -> None:
        """Take note of how far the group has looked."""
        model = self.shards[shard]
        assert model.next <= end <= max(model.next, self.limit(shard)), "S2: beyond the tail"
        for lsn in range(model.next, end):
            model.records[lsn] = RecordState()
        model.next = max(model.next, end)

    def limit(self, shard: int) -> int:
        """Return the LSN below which the group may look."""
        model = self.shards[shard]
        return min(model.tail, model.low() + self.limits.span_records, self.described[shard])

    def out(self) -> int:
        """Return how many records are reserved or delivered and not acked."""
        records = [model.records[n] for model in self.shards.values() for n in model.open()]
        return sum(bool(record.deliveries or record.owner) for record in records)

    def quota(self, consumer: str) -> int:
        most = self.limits.max_unacked_per_consumer
        return max(0, most - len(self.held_by(consumer))) if most else self.limits.max_unacked

    def take(self, consumer: str, parcels: tuple[Parcel, ...]) -> int:
        """Check what a consumer is to get; return how many records that are."""
        count = 0
        for parcel in parcels:
            self.serial += 1
            self.parcels[parcel.lease] = consumer, parcel
            for run in runs_of(parcel.runs):
                for lsn in range(run.first, run.first + run.size):
                    place = parcel.shard_id, lsn
                    record = self.record(place)
                    assert not self.shards[parcel.shard_id].done(lsn), f"S4: {place} is done"
                    assert record.owner is None, f"S5: {place} is at {record.owner}"
                    assert self.free_for(consumer, *place), f"S9: {place} is not in its turn"
                    assert record.may_come_again, f"S3: {place} comes again for no reason"
                    assert run.attempt == record.deliveries + 1
                    record.owner, record.lease = consumer, parcel.lease
                    record.may_come_again = False
                    self.serials[place] = self.serial
                    count += 1
        return count

    def left_for(self, consumer: str) -> list[Place]:
        """Return what the consumer could get and did not; its quota is another matter."""
        room = self.limits.max_unacked - self.out()
        return [
            (shard, lsn)
            for shard, model in self.shards.items()
            for lsn in model.open()
            if lsn < self.limit(shard) and self.free_for(consumer, shard, lsn)
            if room > 0 or model.records[lsn].deliveries
        ]

    def confirm_parcel(self, lease: int, count: int) -> list[tuple[int, int]]:
        """Return (LSN, attempt) of what is handed out."""
        _, parcel = self.parcels.pop(lease)
        shard = parcel.shard_id
        lsns = [n for run in runs_of(parcel.runs) for n in range(run.first, run.first + run.size)]
        got = []
        for at, lsn in enumerate(lsns):
            record = self.shards[shard].records.get(lsn)
            if record is None or record.lease != lease or self.shards[shard].done(lsn):
                continue
            if at >= count:
                self.back(shard, lsn)
                continue
            record.deliveries += 1
            record.most_deliveries = max(record.most_deliveries, record.deliveries)
            record.deadline = self.now + self.limits.ack_timeout_ns
            self.freed.add((shard, lsn))
            self.unsure.discard((shard, lsn))
            got.append((lsn, record.deliveries))
        return got

    # Taking back

    def back(self, shard: int, lsn: int) -> None:
        """Take a record from its consumer, and those of its key behind it."""
        for n in [lsn, *self.after(shard, lsn)]:
            record = self.record((shard, n))
            record.owner = record.lease = record.deadline = None
            record.may_come_again = True
            if n != lsn:
                self.freed.discard((shard, n))
                self.unsure.discard((shard, n))

    def take_back(self, places: list[Place], reason: str, *, backs_off: bool) -> None:
        """Take back the records of a lease."""
        firsts = []
        for place in places:
            record = self.record(place)
            if record.owner is None:
                continue  # it went back with one before it
            if record.deadline is not None:
                self.failures[place] = self.failures.get(place, 0) + 1
                firsts.append(place)
            self.back(*place)
        for place in firsts:
            records = self.shards[place[0]].records
            if all(records[n].owner for n in self.chain(*place)):
                self.judge(place, reason, self.wait(place) if backs_off else 0)

    def wait(self, place: Place) -> int:
        backoff = self.limits.retry.backoff
        return backoff.after_ns(max(1, self.failures[place])) if backoff else 0

    def judge(self, place: Place, reason: str, wait: int) -> None:
        record = self.record(place)
        most = self.limits.retry.max_attempts
        if most and max(1, self.failures[place]) >= most:
            record.doomed = reason
        elif wait:
            record.not_before = self.now + wait

    def leases_of(self, consumer: str | None = None) -> list[tuple[int, list[Place]]]:
        """Return the records out, by the lease they are out under, longest out first."""
        held = [
            (shard, lsn)
            for shard, model in self.shards.items()
            for lsn in model.open()
            if model.records[lsn].owner is not None
            if consumer is None or model.records[lsn].owner == consumer
        ]
        held.sort(key=lambda place: (self.serials[place], place))
        return [(serial, [*of]) for serial, of in groupby(held, key=self.serials.__getitem__)]

    def detach(self, consumer: str, reason: str = "consumer left") -> int:
        """Take back all that a consumer has; return how many records that is."""
        count = len(self.held_by(consumer))
        for _, places in self.leases_of(consumer):
            mine = [place for place in places if self.record(place).owner == consumer]
            self.take_back(mine, reason, backs_off=False)
        self.forget(consumer)
        return count

    def tick(self) -> None:
        self.miss()
        leases = [(self.record(of[0]).deadline, serial, of) for serial, of in self.leases_of()]
        due = [lease for lease in leases if lease[0] is not None and lease[0] <= self.now]
        for _, serial, places in sorted(due):
            mine = [
                place
                for place in places
                if self.record(place).owner is not None and self.serials[place] == serial
            ]
            if mine:
                self.take_back(mine, "timeout", backs_off=True)

    def release(
        self, consumer: str, shard: int, first: int, end: int, after: int | None, reason: str
    ) -> int:
        held = [
            lsn
            for lsn in range(first, end)
            if (shard, lsn) in self.held_by(consumer)
            and self.record((shard, lsn)).deadline is not None
        ]
        for lsn in held:
            self.failures[shard, lsn] = self.failures.get((shard, lsn), 0) + 1
        for lsn in held:
            if self.record((shard, lsn)).deadline is not None:
                self.back(shard, lsn)
        for lsn in held:
            place = shard, lsn
            self.judge(place, reason, self.wait(place) if after is None else after)
        return len(held)

    def unsend(self, consumer: str, shard: int, first: int, end: int) -> int:
        held = [
            lsn
            for lsn in range(first, end)
            if (shard, lsn) in self.held_by(consumer)
            and self.record((shard, lsn)).deadline is not None
        ]
        for lsn in held:
            self.record((shard, lsn)).deliveries -= 1
        for lsn in held:
            if self.record((shard, lsn)).deadline is not None:
                self.back(shard, lsn)
            if self.record((shard, lsn)).deliveries == 0:
                self.freed.discard((shard, lsn))
        return len(held)

    def extend(self, consumer: str, shard: int, first: int, end: int, by: int) -> int:
        held = 0
        for _, places in self.leases_of(consumer):
            mine = [
                place
                for place in places
                if place[0] == shard and first <= place[1] < end
                if self.record(place).deadline is not None
            ]
            held += len(mine)
            if mine and (self.record(mine[0]).deadline or 0) < self.now + by:
                self.serial += 1
                for place in mine:
                    self.record(place).deadline = self.now + by
                    self.serials[place] = self.serial
        return held

    # Moving

    def gap(self, shard: int, first_kept: int) -> tuple[int, int]:
        lost = super().gap(shard, first_kept)
        self.described[shard] = max(self.described[shard], first_kept)
        return lost

    def forget_shard(self, shard: int, described: int) -> None:
        self.described[shard] = described
        self.failures = {place: n for place, n in self.failures.items() if place[0] != shard}
        self.freed = {place for place in self.freed if place[0] != shard}
        self.unsure = {place for place in self.unsure if place[0] != shard}

    def seek(self, shard: int, lsn: int) -> None:
        super().seek(shard, lsn)
        self.forget_shard(shard, lsn)

    def restart(self, progress: Progress, starts: dict[int, int], *, exact: bool) -> None:
        super().restart(progress, starts, exact=exact)
        self.parcels.clear()
        for shard, model in self.shards.items():
            self.forget_shard(shard, model.low())
            for lsn in model.open():
                count = model.records[lsn].deliveries
                if count:
                    self.failures[shard, lsn] = count
                    self.freed.add((shard, lsn))
                    if self.chain(shard, lsn):
                        self.unsure.add((shard, lsn))

    @staticmethod
    def counts(progress: Progress, shard: int) -> list[tuple[int, int, int]]:
        kept = progress.shards[shard]
        low = kept.acks.state.low
        return [(lsn, lsn + 1, count) for lsn, count in enumerate(kept.counts(), low)]


def records_of(runs: tuple[KeyRun, ...]) -> list[tuple[int, int]]:
    """Return (LSN, attempt) of each record of runs."""
    return [(lsn, run.attempt) for run in runs for lsn in range(run.first, run.first + run.size)]
