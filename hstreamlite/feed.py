"""Subscriptions at work: each joins a group (who gets what) to the log (the records).

The group is a pure state machine; a Feed drives it under one lock, reads the records it assigns,
and stores its progress in the store's progress log. Acks take no lock: they pass the gate of their
consumer to the bitmap, and come here only when somebody waits for room, enough have gathered for
progress to be stored, or the bitmap does not know what to say. Nor does taking new records at the
hatch, which is open while the group has nothing to decide.

A Feed never waits for the disk or for records: its shells do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from hstreamlite._native import fast
from hstreamlite.ahead import ahead_of
from hstreamlite.edge import Edge
from hstreamlite.engine import Engine
from hstreamlite.env import Env
from hstreamlite.errors import (
    LeaseLost,
    SubscriptionNotFound,
    UnknownRecord,
)
from hstreamlite.fetcher import Fetcher
from hstreamlite.log.catalog import SubscriptionState
from hstreamlite.metrics.traffic import Outflow
from hstreamlite.progresslog import ProgressLog
from hstreamlite.recordnames import RecordNames
from hstreamlite.records import DeliveryBatch
from hstreamlite.roster import Roster
from hstreamlite.sentry import Sentry
from hstreamlite.spans import Span
from hstreamlite.sub.ackmap import AckCounts, AckFlag
from hstreamlite.sub.checkpoint import Progress
from hstreamlite.sub.effects import Event, Gap, GroupStats, Lag, Stand
from hstreamlite.sub.group import Group
from hstreamlite.sub.limits import Limits
from hstreamlite.sub.retry import ENDLESS, Backoff, RetryPolicy
from hstreamlite.unreadable import Unreadable

log = logging.getLogger("hstreamlite")

_DUPLICATE: Final = int(AckFlag.DUPLICATE)
_UNSURE: Final = int(AckFlag.UNKNOWN | AckFlag.VOID)
_ATTENTION: Final = int(AckFlag.ATTENTION)


@dataclass(frozen=True, slots=True)
class AckResult:
    """What acking did: records newly acked, acked before, and void.

    Void are acks of what was delivered before a seek, or taken back with an earlier record of its
    key: that comes again.
    """

    new: int
    duplicate: int
    void: int


_ack_results = lru_cache(1000)(AckResult)  # most are of whole batches of one size


class Feed:
    """One subscription of an open store."""

    def __init__(self, engine: Engine, state: SubscriptionState, progress: Progress | None) -> None:
        self.engine = engine
        self.journal = engine.journal
        self.state = state
        self.lock = engine.env.threads.rlock()
        self.deleted = False
        self.roster = Roster(self)
        self.runs: set[Any] = set()
        self.shards = engine.catalog.by_id[state.stream_id].shard_ids
        self.group = Group(
            state.name,
            Limits(
                ack_timeout_ns=int(state.ack_timeout * 1e9),
                max_unacked=state.max_unacked,
                max_unacked_per_consumer=state.max_unacked_per_consumer,
                max_unacked_bytes=state.max_unacked_bytes,
                max_unacked_bytes_per_consumer=state.max_unacked_bytes_per_consumer,
                span_records=engine.config.window_span,
                checkpoint_acks=engine.config.progress_acks,
                # What is in flight at the writer's is not doomed, however often it was delivered.
                retry=ENDLESS if engine.read_only else retry_policy(state),
            ),
            "sharded" if state.unit == "shard" else state.mode,
        )
        self.fetcher = Fetcher(self)
        if state.paused:
            self.group.pause()
        if progress is not None:
            self.group.restore(progress)
        for shard in self.shards:
            if progress is None or shard not in progress.shards:
                self.group.add_shard(shard, state.start.get(shard, 1))
        names = RecordNames(self.journal)
        now = engine.env.clock.mono_ns()
        self.sentry = Sentry(self.group, names, engine.config.stall_warning, now)
        self.addresses = {shard: self.group.ack_address(shard) for shard in self.shards}
        self.gate = fast.AckGate(engine.gate)
        self.progress = ProgressLog(self, stored=progress is not None)
        self._offered = -1
        self.edge = Edge(self)
        self._dooms = 0
        self._buried = 0
        self._burials: dict[Span, tuple[int, int]] = {}
        self.redriving = engine.env.threads.lock()
        """Held by who redrives: one at a time."""
        self.burial_failure = ""
        """Why others could not be."""
        self.outflow = Outflow()
        self._acked_before = self.acked_ever()
        self.unreadable = Unreadable(self)
        self.seeks = 0
        """How often the subscription was moved: what was handed out at another count is void."""
        self.ahead = ahead_of(self)
        self.edge.trimmed({shard: engine.journal.bounds(shard)[0] for shard in self.shards})

    @property
    def env(self) -> Env:
        return self.engine.env

    @property
    def mode(self) -> str:
        return self.state.mode

    @property
    def ack_timeout_ns(self) -> int:
        return self.group.limits.ack_timeout_ns

    def poke(self) -> None:
        """Wake whoever waits for records."""
        self.journal.poke()

    # Consumers.

    def add_run(self, run: Any) -> None:
        """Have what the handlers of a run work on extended, until it is discarded from `runs`."""
        self.runs.add(run)
        self.engine.wake()

    @property
    def busy(self) -> bool:
        return self.roster.count > 0 or self.progress.missing

    def check(self) -> None:
        """Raise what tells why the subscription cannot be used, if it cannot. Takes no lock."""
        self.engine.check_open()
        if self.deleted:
            raise SubscriptionNotFound(self.state.name)

    def now(self) -> int:
        return self.engine.env.clock.mono_ns()

    # Delivering.

    def _offer(self) -> None:
        """Tell the group what has become durable. Lock held."""
        durable = self.journal.durable()  # read first: what it counts is in the index by then
        if durable != self._offered:
            for shard in self.shards:
                self.group.offer(shard, self.journal.info(shard).durable_next)
            self._offered = durable
        self.edge.mind()

    def count_sent(self, records: int, again: int) -> None:
        """Note how many records are handed out, and how many of them again. Lock held."""
        self.outflow.sent += records
        self.outflow.resent += again

    def sent(self) -> int:
        """Return how many deliveries there were since the store was opened."""
        hatch = self.group.hatch()
        return self.outflow.sent + (hatch.taken() if hatch is not None else 0)

    def resent(self) -> int:
        """Return how many of them were not the first of their records."""
        hatch = self.group.hatch()
        return self.outflow.resent + (hatch.again() if isinstance(hatch, fast.KeyHatch) else 0)

    def acks(self) -> int:
        """Return how many records were acked since the store was opened."""
        return self.acked_ever() - self._acked_before

    def acked_ever(self) -> int:
        return sum(map(fast.ackmap_acked_ever, self.addresses.values()))

    def stored_size(self) -> float:
        """Return the mean size of the records that are kept of the stream."""
        infos = [self.journal.info(shard) for shard in self.shards]
        records = sum(info.durable_next - info.first for info in infos)
        return sum(info.bytes for info in infos) / records if records else 0.0

    def begin(self, consumer: str) -> int:
        """Prepare the group for a fetch, and return the time. Lock held."""
        self.check()
        self._offer()
        now = self.now()
        self.roster.mind(now)
        self.sentry.asked(consumer, now)
        if taken := self.sentry.taken(consumer):
            self.group.took(consumer, taken)
        self._mind_doomed()
        return now

    def leave_line(self, consumer: str) -> None:
        if self.engine.forked:
            return  # the lock may be held by a thread that is not there
        with self.lock:
            self.group.leave_line(consumer)

    def next_deadline(self) -> int | None:
        with self.lock:
            return self.group.next_deadline()

    # Acks.

    def ack_one(self, shard: int, lsn: int, *, may_block: bool = True) -> int:
        """Ack one record without a lock; returns AckFlag bits."""
        try:
            flags: int = fast.ackmap_ack(self.addresses[shard], lsn)
        except KeyError:
            raise UnknownRecord(
                self.state.name, f"{shard}-{lsn}", "it is of another stream"
            ) from None
        if flags > _DUPLICATE:
            flags = self.acked(shard, lsn, flags, may_block=may_block)
        return flags

    def acked(self, shard: int, lsn: int, flags: int, *, may_block: bool = True) -> int:
        """Do the rest of an ack that the bitmap answered with more than NEW or DUPLICATE."""
        if flags & _UNSURE:
            with self.lock:
                self.check()
                flags = self.group.ack(shard, lsn)
        self.attend(may_block=may_block)
        return flags

    def ack_spans(self, spans: Iterable[Span], *, may_block: bool = True) -> AckResult:
        """Ack ranges, each all or nothing."""
        with self.lock:
            self.check()
            counts = [self.group.ack_range(*span) for span in spans]
        return self._ack_result(counts, may_block=may_block)

    def ack_whole(
        self, batch: DeliveryBatch, gate: fast.AckGate, *, may_block: bool
    ) -> AckResult | None:
        """Ack all of a batch whose records follow one another; None, and nothing done, where it is
        none or does not pass the gate. Takes no lock."""
        counts = gate.ack_batch(batch)
        if counts is None:
            return None
        if counts[3] & _ATTENTION:
            self.attend(may_block=may_block)
        return _ack_results(*counts[:3])

    def ack_batch(
        self, batch: DeliveryBatch, gate: fast.AckGate, *, may_block: bool = True
    ) -> AckResult:
        """Ack all of a batch; without a lock where that passes the gate."""
        counts = []
        for shard, runs in batch._runs:
            passed = gate.ack_runs(shard, runs)
            counts.append(self._ack_runs(shard, runs) if passed is None else AckCounts(*passed))
        return self._ack_result(counts, may_block=may_block)

    def _ack_runs(self, shard: int, runs: bytes) -> AckCounts:
        """Ack what did not pass a gate: some of it is gone, or was never delivered."""
        with self.lock:
            self.check()
            return self.group.ack_runs(shard, runs)

    def _ack_result(self, counts: list[AckCounts], *, may_block: bool) -> AckResult:
        new = duplicate = void = flags = 0
        for part in counts:
            new += part.new
            duplicate += part.duplicate
            void += part.void
            flags |= part.flags
        if flags & _ATTENTION:
            self.attend(may_block=may_block)
        return _ack_results(new, duplicate, void)

    def attend(self, *, may_block: bool) -> None:
        """Store progress if it is due, and wake who waits for room."""
        with self.lock:
            if self.deleted:
                return
            due = self.group.attend()
            waiting = self.group.anyone_waits and self.group.next_in_line(self.now())
        if due:
            self.progress.store(may_block=may_block)
        if waiting:
            self.journal.poke()

    def note_ack(self, consumer: str) -> None:
        """Note that a consumer acked, but for what went singly through its gate."""
        self.sentry.acked(consumer, self.now())

    def release(
        self, consumer: str, spans: Iterable[Span], after_ns: int | None, reason: str = ""
    ) -> int:
        with self.lock:
            self.check()
            now = self.now()
            count = sum(
                self.group.release(consumer, shard, first, end, after_ns, now, reason)
                for shard, first, end in spans
            )
            self._mind_doomed()
        self.journal.poke()
        return count

    def unsend(self, consumer: str, spans: Iterable[Span]) -> None:
        """Take back what the consumer has taken ahead, and nobody has seen: that was no attempt."""
        with self.lock:
            self.check()
            self._unsend(consumer, spans, self.now())
        self.journal.poke()

    def _unsend(self, consumer: str, spans: Iterable[Span], now: int) -> None:
        """Take back spans, the last one first: one before it would take it along as if seen."""
        for span in reversed(list(spans)):
            self.group.unsend(consumer, *span, now)

    def extend(self, consumer: str, spans: Iterable[Span], by_ns: int) -> int:
        with self.lock:
            self.check()
            now = self.now()
            return sum(
                self.group.extend(consumer, shard, first, end, by_ns, now)
                for shard, first, end in spans
            )

    def check_held(self, consumer: str, spans: Iterable[Span]) -> None:
        """LeaseLost unless the consumer holds every record, none of it acked. Lock held."""
        self.check()
        for shard, first, end in spans:
            if not self.group.held_by(consumer, shard, first, end):
                raise LeaseLost(self.state.name, (f"{shard}-{first}-0",))

    def holds(self, consumer: str, shard: int, lsn: int) -> bool:
        """Tell whether the consumer holds the record, and it is not acked."""
        with self.lock:
            self.check()
            self.group.tick(self.now())
            return self.group.held_by(consumer, shard, lsn, lsn + 1)

    # The doomed.

    def _mind_doomed(self) -> None:
        """Wake the thread that moves them if there are more than before. Lock held."""
        if self.group.dooms != self._dooms:
            self._dooms = self.group.dooms
            self.engine.wake()

    def still_doomed(self, spans: Iterable[Span]) -> bool:
        """Tell whether all of the spans is doomed, and none of it acked meanwhile. Lock held."""
        return all(self.group.is_doomed(*span) for span in spans)

    def note_buried(self, first: Span, ticket: int, records: int) -> None:
        """Count records, told apart by the first of their spans, as moved when that is on disk.
        Lock held."""
        self._burials[first] = ticket, records

    def buried(self) -> int:
        """Return how many records were moved to the dead-letter stream. Lock held."""
        durable = self.journal.durable()
        for first in [first for first, (at, _) in self._burials.items() if at <= durable]:
            self._buried += self._burials.pop(first)[1]
        return self._buried

    # Time.

    def tick(self, now: int) -> int | None:
        """Extend what is worked on, take back what timed out, store progress if the interval has
        passed; return the next deadline."""
        kept = [run.handling.keep(now) for run in list(self.runs)]
        with self.lock:
            if self.deleted:
                return None
            if self.roster.count or self.edge.waits:
                self._offer()
            self.group.tick(now)
            self.roster.mind(now)
            waiting = self.group.next_in_line(now)
            deadline = self.group.next_deadline()
            self.sentry.tick(now)
        if waiting is not None:
            self.journal.poke()
        self.progress.tick(now)
        return min([*kept, deadline] if deadline is not None else kept, default=None)

    # Looking and moving.

    def lag(self) -> Lag:
        with self.lock:
            self.check()
            self._offer()
            now = self.now()
            self.roster.mind(now)
            return self.group.lag()

    def stand(self) -> tuple[Lag, tuple[Stand, ...]]:
        """Return the records behind, and where the group stands in each shard."""
        with self.lock:
            return self.lag(), self.group.stands()

    def counts(self) -> GroupStats:
        """Return what the group tells of itself: no record is named by the log, so none is read."""
        with self.lock:
            self.lag()
            return self.group.stats()

    def stats(self) -> GroupStats:
        with self.lock:
            self.lag()
            stats = self.sentry.stats(self.now())
            return replace(stats, buried=self.buried(), burial_failure=self.burial_failure)

    def gaps(self, consumer: str) -> tuple[Gap, ...]:
        with self.lock:
            self.check()
            return self.group.gaps(consumer)

    def events(self, consumer: str) -> tuple[Event, ...]:
        with self.lock:
            self.check()
            return self.group.events(consumer)


def backoff_of(state: SubscriptionState) -> Backoff | None:
    """Return the back-off of a subscription, if it has one."""
    if state.backoff is None:
        return None
    first, most, factor = state.backoff
    return Backoff(first=first, most=most, factor=factor)


def retry_policy(state: SubscriptionState) -> RetryPolicy:
    return RetryPolicy(max_attempts=state.max_attempts, backoff=backoff_of(state))
