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
import struct
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Protocol
from weakref import WeakSet, ref

from hstreamlite._native import fast
from hstreamlite.ahead import ahead_of
from hstreamlite.config import (
    CONSUMERS_MAX,
    LEVELS,
    RECEIVE_MAX,
    check_int,
)
from hstreamlite.engine import Engine
from hstreamlite.env import Env
from hstreamlite.errors import (
    ConsumerClosed,
    HStreamError,
    LeaseLost,
    MalformedBatch,
    StorageFull,
    SubscriptionNotFound,
    UnknownRecord,
)
from hstreamlite.handout import Handout, OrderedHandout, ShardHandout, SharedHandout
from hstreamlite.log.catalog import SubscriptionState
from hstreamlite.log.journal import PROGRESS, Op
from hstreamlite.metrics.traffic import Outflow
from hstreamlite.recordnames import RecordNames
from hstreamlite.records import DeliveryBatch
from hstreamlite.sentry import Sentry
from hstreamlite.spans import Runs, Span, leading, spans_in
from hstreamlite.sub.ackmap import AckCounts, AckFlag
from hstreamlite.sub.checkpoint import Progress
from hstreamlite.sub.effects import Event, Gap, GroupStats, Lag, Stand
from hstreamlite.sub.group import Group
from hstreamlite.sub.limits import Limits
from hstreamlite.sub.retry import ENDLESS, Backoff, RetryPolicy
from hstreamlite.unreadable import Unread, Unreadable

log = logging.getLogger("hstreamlite")

_MEMORY: Final = LEVELS["memory"]
_DUPLICATE: Final = int(AckFlag.DUPLICATE)
_UNSURE: Final = int(AckFlag.UNKNOWN | AckFlag.VOID)
_ATTENTION: Final = int(AckFlag.ATTENTION)
PREFIX = struct.Struct("<Q")
_UNBOUNDED: Final = 1 << 62
"""Bytes, where no window bounds them."""


EMPTY: Final = DeliveryBatch()
_NOTHING: Final = fast.Excerpt()


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


class Taker(Protocol):
    """What is known here of a consumer that takes records ahead."""

    def _give_back(self) -> None:
        """`Feed.return_unseen` what was taken ahead."""


class Feed:
    """One subscription of an open store."""

    def __init__(self, engine: Engine, state: SubscriptionState, progress: Progress | None) -> None:
        self.engine = engine
        self.journal = engine.journal
        self.state = state
        self.lock = engine.env.threads.rlock()
        self.deleted = False
        self.consumers = 0
        self.runs: set[Any] = set()
        self.takers: WeakSet[Taker] = WeakSet()
        self._lost: deque[ref[fast.AckGate]] = deque()
        self._unseen: deque[tuple[str, fast.AckGate, int, list[Span]]] = deque()
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
        self._handout: Handout[Any]
        if state.unit == "shard":
            self._handout = ShardHandout(self)
        else:
            ordered = state.mode == "ordered"
            self._handout = OrderedHandout(self) if ordered else SharedHandout(self)
        if state.paused:
            self.group.pause()
        if progress is not None:
            self.group.restore(progress)
        for shard in self.shards:
            if progress is None or shard not in progress.shards:
                self.group.add_shard(shard, state.start.get(shard, 1))
        names = RecordNames(self.journal)
        if not engine.read_only:
            self.group.save_by(
                lambda acks, shard: fast.Saver(acks, shard, engine.handle, PROGRESS, state.id)
            )
        now = engine.env.clock.mono_ns()
        self.sentry = Sentry(self.group, names, engine.config.stall_warning, now)
        self.addresses = {shard: self.group.ack_address(shard) for shard in self.shards}
        self.gate = fast.AckGate(engine.gate)
        self._needs_snapshot = progress is None
        self.gaps_passed = 0
        """How often records were passed over that are gone: what is asked for lies elsewhere."""
        self._stored_ns = now
        self._prefix = PREFIX.pack(state.id)
        self._room_bytes = 0
        self._offered = -1
        self._edges: dict[int, int] = {}
        self._dooms = 0
        self._buried = 0
        self._burials: deque[tuple[int, int]] = deque()
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
        self.trimmed({shard: engine.journal.bounds(shard)[0] for shard in self.shards})

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

    def attach(
        self,
        consumer: str,
        gate: fast.AckGate,
        lease_ns: int | None = None,
        *,
        max_unacked: int = 0,
        max_unacked_bytes: int = 0,
    ) -> None:
        """Add a consumer, whose deliveries ack through the gate; it renews its lease if it has one.

        After its lease has run out its acks count as any ack does that comes late. Windows of 0 are
        those of the subscription.
        """
        with self.lock:
            self.check()
            now = self.now()
            self._mind_gone(now)
            if self.consumers >= CONSUMERS_MAX:
                raise ValueError(f"a subscription has at most {CONSUMERS_MAX} consumers")
            self.group.attach(
                consumer,
                now,
                lease_ns,
                max_unacked=max_unacked,
                max_unacked_bytes=max_unacked_bytes,
            )
            self.sentry.attach(consumer, gate, now, self._note_lost)
            self.consumers += 1
        self.engine.wake()

    def renew(self, consumer: str, gate: fast.AckGate) -> None:
        """Note that the consumer with this gate is still there; ConsumerClosed if its lease has run
        out, whoever has its name by now."""
        with self.lock:
            self.check()
            now = self.now()
            self._mind_gone(now)
            self._check_known(consumer, gate)
            self.group.renew(consumer, now)

    def _check_known(self, consumer: str, gate: fast.AckGate) -> None:
        """ConsumerClosed unless the consumer with this gate is attached. Takes no lock."""
        if not self.sentry.knows(consumer, gate):
            raise ConsumerClosed(self.state.name, consumer)

    def detach(self, consumer: str, gate: fast.AckGate) -> None:
        """Hand back what the consumer holds, at once, and store progress.

        Nothing happens if the consumer with this gate is gone, whoever has its name by now.
        """
        if self.engine.forked:
            return
        with self.lock:
            if self.deleted or self.engine.closed:
                return
            now = self.now()
            self._mind_gone(now)
            if not self.sentry.knows(consumer, gate):
                return
            self._mind_unseen(now)
            self.group.detach(consumer, now)
            self._forget(consumer)
            self._mind_doomed()
        self.store_progress(may_block=True)
        self.journal.poke()

    def _forget(self, consumer: str) -> None:
        self.sentry.detach(consumer)
        self.consumers -= 1
        if not self.consumers:
            self.ahead.clear()

    def _mind_gone(self, now: int) -> None:
        """Take note of consumers that are lost, or whose leases ran out. Lock held."""
        while self._lost:
            lost = self.sentry.lost(self._lost.popleft())
            if lost is None:
                continue
            self.group.detach(lost, now)
            self._let_go(lost, "was dropped without being closed")
        for consumer in self.group.gone(now):
            self._let_go(consumer, "was not heard of for as long as its lease")

    def _note_lost(self, gate: ref[fast.AckGate]) -> None:
        """Have a consumer detached that nobody can close any more.

        Takes no lock: it is the collector of garbage that calls, at any moment.
        """
        self._lost.append(gate)
        self.engine.wake()

    def _let_go(self, consumer: str, why: str) -> None:
        self._forget(consumer)
        log.warning(
            "consumer %r of subscription %r %s; others get what it held",
            consumer,
            self.state.name,
            why,
        )
        self._mind_doomed()
        self.journal.poke()

    def return_unseen(
        self, consumer: str, gate: fast.AckGate, seeks: int, spans: list[Span]
    ) -> None:
        """Have taken back what was taken ahead, at such a count of seeks, and nobody has seen.

        Takes no lock: it may be the collector of garbage that calls, at any moment.
        """
        self._unseen.append((consumer, gate, seeks, spans))
        self.engine.wake()

    def _mind_unseen(self, now: int) -> None:
        """Take back what nobody has seen, after `_mind_gone`: that was no attempt. Lock held."""
        found = False
        while self._unseen:
            consumer, gate, seeks, spans = self._unseen.popleft()
            if seeks != self.seeks or not self.sentry.knows(consumer, gate):
                continue
            self._unsend(consumer, spans, now)
            found = True
        if found:
            self.journal.poke()

    def take_back_unseen(self) -> None:
        """Take back what any consumer has taken ahead."""
        with self.lock:
            takers = list(self.takers)
        for taker in takers:
            taker._give_back()
        with self.lock:
            if not self.deleted:
                now = self.now()
                self._mind_gone(now)
                self._mind_unseen(now)

    def add_run(self, run: Any) -> None:
        """Have what the handlers of a run work on extended, until it is discarded from `runs`."""
        self.runs.add(run)
        self.engine.wake()

    @property
    def busy(self) -> bool:
        return self.consumers > 0 or self._needs_snapshot

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
        if self._edges:
            self._pass_edges()

    def fetch(
        self,
        consumer: str,
        max_records: int,
        owner: fast.AckGate,
        *,
        may_block: bool = True,
    ) -> DeliveryBatch | None:
        """Hand out up to max_records; empty when there is nothing, None where it would block.

        ConsumerClosed unless the owner is attached under the name: its lease may have run out.

        An empty answer puts the consumer in line until it fetches again or `leave_line`s.
        CorruptionError, once, when records cannot be read: they stay undelivered, and others go on.
        MalformedBatch, once, when a batch cannot be decoded: it then counts as acked.
        """
        while True:
            try:
                return self._fetch(consumer, max_records, owner, may_block=may_block)
            except Unread as found:
                self.unreadable.meet(consumer, found)

    def _fetch(
        self, consumer: str, max_records: int, owner: fast.AckGate, *, may_block: bool
    ) -> DeliveryBatch | None:
        """Hand out up to max_records; Unread when what comes first cannot be read."""
        gaps_passed = self.gaps_passed
        parts = self.take(consumer, max_records, owner, may_block=may_block)
        if not parts:
            return None if parts is None else EMPTY
        found: list[tuple[fast.Excerpt, int, int]] = []
        runs: list[Runs] = []
        blocked = full = False
        left = list(parts)
        try:
            for part in parts:
                got = None
                room = self._room(consumer)
                full = full or room == 0
                if not (blocked or full):
                    wait = may_block and not found
                    got = self._handout.read(part, room, may_block=wait)
                blocked = blocked or got is None
                excerpt = got or _NOTHING
                sizes = excerpt.sizes() if room else ()
                ranges, confirmed = self._handout.confirm(part, len(excerpt), sizes)
                del left[0]
                full = full or sum(end - first for first, end in ranges) < len(sizes)
                found += [(excerpt, first, end) for first, end in ranges]
                runs += confirmed
        except BaseException as error:
            if isinstance(error, MalformedBatch) and not found:
                self._pass_malformed(left.pop(0), error)
            for part in left:
                self._handout.confirm(part, 0, ())
            if not found or not isinstance(error, Exception):
                with suppress(HStreamError):
                    self.unsend(consumer, spans_in(runs))
                raise
            # What is handed out is told first: the next fetch meets the error again.
        if not found:
            if self.gaps_passed != gaps_passed or full:
                return self._fetch(consumer, max_records, owner, may_block=may_block)
            return None if blocked and not may_block else EMPTY
        self.sentry.moved(self.now())
        if len(found) == 1:
            excerpt, first, end = found[0]
            return excerpt.batch(first, end, owner)
        batch = DeliveryBatch(
            delivery
            for excerpt, first, end in found
            for delivery in excerpt.deliveries(first, end, owner)
        )
        batch._runs = tuple(runs)
        return batch

    def take(
        self,
        consumer: str,
        max_records: int,
        gate: fast.AckGate,
        *,
        may_block: bool,
        batches: int = 0,
    ) -> Any:
        """Let the group assign records, as `Handout.take`.

        ConsumerClosed where the consumer with this gate has left, whoever has its name by now: it
        may be a slower thread that asks, and would take what is the other's.
        """
        self._check_known(consumer, gate)
        parts = self._handout.take(consumer, max_records, may_block=may_block, batches=batches)
        try:
            self._check_known(consumer, gate)
        except ConsumerClosed:
            for part in parts or ():
                self._handout.confirm_some(part, 0)
            raise
        return parts

    def _room(self, consumer: str) -> int | None:
        """Return how many bytes the windows have free; None where bytes are not counted."""
        if not self.group.weighs:
            return None
        with self.lock:
            room = self.group.room(consumer)
        return _UNBOUNDED if room is None else room

    def _pass_malformed(self, part: Any, error: MalformedBatch) -> None:
        """Ack what a part has of a batch that nobody can decode, of which somebody is told."""
        shard, runs = self._handout.confirm_some(
            part, leading(self._handout.runs(part), error.batch_id, error.batch_id + error.records)
        )
        if runs:
            self._ack_result([self._ack_runs(shard, runs)], may_block=False)
            log.warning(
                "subscription %r passes over what it cannot deliver: %s", self.state.name, error
            )

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

    def handed_size(self) -> tuple[int, int]:
        """Return bytes and records read for consumers since the last call, about."""
        return self._handout.told()

    def stored_size(self) -> float:
        """Return the mean size of the records that are kept of the stream."""
        infos = [self.journal.info(shard) for shard in self.shards]
        records = sum(info.durable_next - info.first for info in infos)
        return sum(info.bytes for info in infos) / records if records else 0.0

    def read_on(
        self, shard: int, lsn: int, max_records: int, *, into: fast.Excerpt, may_block: bool
    ) -> None:
        """Read what comes next in the log, for whoever takes it at the hatch."""
        assert isinstance(self._handout, SharedHandout | OrderedHandout)
        self._handout.read_on(shard, lsn, max_records, into=into, may_block=may_block)

    @property
    def key_seed(self) -> int:
        """What keys are hashed with."""
        assert isinstance(self._handout, OrderedHandout)
        return self._handout.seed

    def begin(self, consumer: str) -> int:
        """Prepare the group for a fetch, and return the time. Lock held."""
        self.check()
        self._offer()
        now = self.now()
        self._mind_gone(now)
        self._mind_unseen(now)
        self.sentry.asked(consumer, now)
        if taken := self.sentry.taken(consumer):
            self.group.took(consumer, taken)
        self._mind_doomed()
        return now

    def pass_gap(self, shard: int, first_kept: int) -> None:
        """Let the group go on behind records that are trimmed."""
        with self.lock:
            if self.deleted:
                return
            self.gaps_passed += 1
            self._tell_gap(self.group.gap(shard, first_kept))

    def _tell_gap(self, gap: Gap | None) -> None:
        if gap is None:
            return
        self.gaps_passed += 1
        if self.engine.read_only:
            return  # the writer tells
        self.journal.poke()
        log.warning(
            "subscription %r: records %d to %d of shard %d were trimmed before they were acked",
            self.state.name,
            gap.first_lsn,
            gap.end_lsn - 1,
            gap.shard_id,
        )

    def trimmed(self, firsts: Mapping[int, int]) -> None:
        """Take note of the first LSN kept of shards; what was to be delivered below is a gap."""
        with self.lock:
            if self.deleted:
                return
            for shard in self.shards:
                first = firsts.get(shard, 0)
                if first > self.group.position(shard)[0]:
                    self._edges[shard] = max(first, self._edges.get(shard, 0))
            self._pass_edges()

    def _pass_edges(self) -> None:
        """Pass over what is below the first LSNs kept, up to what is in flight. Lock held."""
        for shard, first in list(self._edges.items()):
            self._tell_gap(self.group.pass_edge(shard, first))
            if self.group.position(shard)[0] >= first:
                del self._edges[shard]
        self.group.shut(shut=bool(self._edges))

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
            self.store_progress(may_block=may_block)
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

    def note_buried(self, ticket: int, records: int) -> None:
        """Count records as moved when that is on disk. Lock held."""
        self._burials.append((ticket, records))

    def buried(self) -> int:
        """Return how many records were moved to the dead-letter stream. Lock held."""
        durable = self.journal.durable()
        while self._burials and self._burials[0][0] <= durable:
            self._buried += self._burials.popleft()[1]
        return self._buried

    # Progress.

    def tick(self, now: int) -> int | None:
        """Extend what is worked on, take back what timed out, store progress if the interval has
        passed; return the next deadline."""
        kept = [run.handling.keep(now) for run in list(self.runs)]
        with self.lock:
            if self.deleted:
                return None
            if self.consumers or self._edges:
                self._offer()
            self.group.tick(now)
            self._mind_gone(now)
            self._mind_unseen(now)
            waiting = self.group.next_in_line(now)
            deadline = self.group.next_deadline()
            self.sentry.tick(now)
        if waiting is not None:
            self.journal.poke()
        if now - self._stored_ns >= int(self.engine.config.progress_interval * 1e9 / 2):
            self.store_progress(may_block=True)
        return min([*kept, deadline] if deadline is not None else kept, default=None)

    def progress_ops(self, spans: Iterable[Span] = ()) -> list[Op]:
        """Return what stores the progress so far, with `spans` as if they were acked. Lock held."""
        if self._needs_snapshot:
            pieces = self.group.snapshot()
            self._needs_snapshot = False
        else:
            pieces = self.group.delta()
        if not spans:
            return self._ops(pieces)
        runs: dict[int, list[tuple[int, int]]] = {}
        for shard, first, end in spans:
            runs.setdefault(shard, []).append((first, end))
        return self._ops(pieces + self.group.acked_delta(runs))

    def sought_ops(self, positions: Mapping[int, int]) -> list[Op]:
        """Return what stores a seek that is about to be made. Lock held."""
        return self._ops(self.group.sought_delta(positions))

    def _ops(self, pieces: Iterable[bytes]) -> list[Op]:
        return [(PROGRESS, [self._prefix + piece], None) for piece in pieces]

    def forget_stored(self) -> None:
        """Note that what `progress_ops` returned was not stored after all."""
        self._needs_snapshot = True

    def store_progress(self, *, may_block: bool = False) -> None:
        """Stage progress if there is any.

        Where there is no room at once, that is waited for without the lock if may_block, and else
        left to the store's own thread. A full disk is tried again later.
        """
        try:
            stored = self._try_store()
            while not stored and may_block:
                self.journal.make_room(self._room_bytes)
                stored = self._try_store()
        except StorageFull as error:
            self._room_bytes = 0
            log.warning("progress of subscription %r is not stored: %s", self.state.name, error)
            return
        if not stored:
            self.engine.wake()

    def commit(self, *, may_block: bool) -> int | None:
        """Stage all acks so far; return the ticket with which they are on disk.

        That of acks which others have staged before is no later. None where staging would have to
        wait, and may not. StorageFull when there is no room for it.
        """
        while True:
            with self.lock:
                self.check()
                if self._try_store():
                    return self.journal.staged()
            if not may_block:
                return None
            try:
                self.journal.make_room(self._room_bytes)
            except StorageFull:  # less may do, and there is a reserve for it
                return self._stage_now()

    def _stage_now(self) -> int:
        """Stage what is unsaved, however long that takes; returns the ticket."""
        with self.lock:
            self.check()
            try:
                self.journal.stage(self.progress_ops(), _MEMORY, system=True)
            except BaseException:
                self.forget_stored()
                raise
            return self.journal.staged()

    def _try_store(self) -> bool:
        """Stage what is unsaved; False where that would have to wait."""
        with self.lock:
            if self.deleted or self.engine.closed:
                return True
            self._stored_ns = self.now()
            try:
                ops = self.progress_ops()
                staged = not ops or self.journal.try_stage(ops, _MEMORY, system=True)
            except BaseException:
                self.forget_stored()
                raise
            if staged is None:
                self.forget_stored()
                self._room_bytes += 64 << 10  # several pieces may need more than was made
                return False
            self._room_bytes = 0
            self.group.arm()
            return True

    # Looking and moving.

    def lag(self) -> Lag:
        with self.lock:
            self.check()
            self._offer()
            now = self.now()
            self._mind_gone(now)
            self._mind_unseen(now)
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


def check_receive(max_records: object) -> int:
    return check_int("max_records", max_records, 1, RECEIVE_MAX)
