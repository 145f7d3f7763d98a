"""The blocking face of a consumer: receive, iterate, ack, release, extend."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar

from hstreamlite._native import fast
from hstreamlite.config import (
    ACK_TIMEOUT_SECONDS_MAX,
    MAX_UNACKED_BYTES_MAX,
    MAX_UNACKED_MAX,
    PREFETCH_MAX,
    check_bool,
    check_duration,
    check_int,
    check_reason,
    check_receive,
    check_seconds,
    check_window,
)
from hstreamlite.errors import ConsumerClosed
from hstreamlite.feed import AckResult, Feed
from hstreamlite.fetcher import EMPTY
from hstreamlite.handling import WIDTH_MAX, Handling, OnError, check_handler
from hstreamlite.records import Delivery, DeliveryBatch
from hstreamlite.spans import Deliveries, spans_of
from hstreamlite.sub.effects import Event, Gap
from hstreamlite.workers import Workers

_SLICE_NS = 250_000_000
_TIMEOUT_MAX = 1e9


def check_timeout(timeout: object) -> float | None:
    """Return the seconds that a `receive` may wait; ValueError or TypeError if they are none."""
    return None if timeout is None else check_seconds("timeout", timeout, 0, _TIMEOUT_MAX)


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """What a consumer is attached with; a window of 0 is that of its subscription."""

    name: str
    prefetch: int
    max_unacked: int = 0
    max_unacked_bytes: int = 0
    lease_ns: int | None = None

    @classmethod
    def of(
        cls, name: object, prefetch: object, max_unacked: object, max_unacked_bytes: object
    ) -> Self:
        """Check what the user said; TypeError or ValueError naming what is wrong."""
        if not isinstance(name, str) or not name:
            raise ValueError(f"consumer name must be a non-empty str, not {name!r}")
        return cls(
            name,
            check_int("prefetch", prefetch, 1, PREFETCH_MAX),
            check_window("max_unacked", max_unacked, MAX_UNACKED_MAX),
            check_window("max_unacked_bytes", max_unacked_bytes, MAX_UNACKED_BYTES_MAX),
        )


class ConsumerBase:
    """What the faces of a consumer share; none of it waits, except as said by `_may_block`."""

    _may_block = True
    """Whether acks may wait for room when they store progress; if not, the ticker does."""
    _ack_answer: object = None
    """What `Delivery.ack` returns."""

    def __init__(self, feed: Feed, options: ConsumerOptions) -> None:
        name = self.name = options.name
        self.subscription = feed.state.name
        self._feed = feed
        self._journal = feed.journal
        self._prefetch = options.prefetch
        self._take = min(options.prefetch, 8)
        self._closed = False
        self._closing = False
        self._handling: Handling | None = None
        self._unseen: deque[Delivery] = deque()
        self._seeks = 0
        self._taken_ns: int | None = None
        self._gate = fast.AckGate(feed.gate, self, feed.addresses, self._ack_answer)
        feed.roster.attach(
            name,
            self._gate,
            options.lease_ns,
            max_unacked=options.max_unacked,
            max_unacked_bytes=options.max_unacked_bytes,
        )
        self._ahead = feed.ahead
        self._notes_attempts = feed.state.max_attempts > 0
        self._number = feed.group.hatch_number(name)
        with feed.lock:
            feed.roster.takers.add(self)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def connected(self) -> bool:
        """Whether records can come: of a remote store, whether its server is there, as far as is
        known."""
        return not self._closed

    def _check(self) -> None:
        if self._closed:
            raise ConsumerClosed(self.subscription, self.name)
        self._feed.check()

    def _end_of(self, seconds: float | None) -> int | None:
        """Return when so many seconds are over; None for ever."""
        if seconds is None:
            return None
        return self._feed.engine.env.clock.mono_ns() + int(seconds * 1e9)

    def _fetch(self, max_records: int, *, may_block: bool) -> DeliveryBatch | None:
        if self._notes_attempts and not self._feed.progress.may_note(may_block=may_block):
            return None
        batch = self._ahead.take(self._gate, self._number, max_records, may_block=may_block)
        if batch is None:
            batch = self._feed.fetcher.fetch(
                self.name, max_records, self._gate, may_block=may_block
            )
        if batch and self._notes_attempts:
            self._feed.progress.note_attempts(may_block=may_block)
        return batch

    def _start_handling(self, width: int, drain_timeout: float) -> Handling:
        self._check()
        if self._handling is not None:
            raise ValueError(f"consumer {self.name!r} runs already; one run at a time")
        self._handling = Handling(self, width, drain_timeout)
        return self._handling

    def _end_handling(self) -> None:
        self._handling = None
        if self._closing:
            self._leave()

    def _begin(self, batch: DeliveryBatch) -> None:
        """Let iterating yield a batch."""
        self._seeks = self._feed.seeks
        self._taken_ns = self._feed.engine.env.clock.mono_ns()
        self._unseen.extend(batch)

    def _end(self) -> None:
        """Note that a batch was yielded, but for what a seek made void."""
        self._unseen.clear()
        if self._taken_ns is not None:
            self._pace(self._feed.engine.env.clock.mono_ns() - self._taken_ns)
            self._taken_ns = None

    def _give_back(self) -> None:
        """Give back what iterating has taken and not yielded: that was no attempt."""
        left: deque[Delivery] = deque()
        with suppress(IndexError):
            while True:  # one by one, for another thread may be iterating
                left.appendleft(self._unseen.pop())
        if left and not self._closed and not self._feed.engine.forked:
            self._feed.roster.return_unseen(self.name, self._gate, self._seeks, spans_of(left))
            self._ahead.shut()  # these go first

    def _pace(self, elapsed_ns: int) -> None:
        """Take more at a time while that is worked off well within the ack timeout."""
        if elapsed_ns * 10 < self._feed.group.limits.ack_timeout_ns:
            self._take = min(self._prefetch, self._take * 2)
        else:
            self._take = max(1, self._take // 2)

    def _ack_items(self, deliveries: object) -> AckResult:
        if isinstance(deliveries, DeliveryBatch):
            result = self._feed.ack_whole(deliveries, self._gate, may_block=self._may_block)
            if result is not None:
                return result
        self._check()
        if isinstance(deliveries, DeliveryBatch) and deliveries._runs:
            result = self._feed.ack_batch(deliveries, self._gate, may_block=self._may_block)
        else:
            result = self._feed.ack_spans(spans_of(deliveries), may_block=self._may_block)
        self._feed.note_ack(self.name)
        return result

    def _release_items(
        self, deliveries: object, after: float | timedelta | None, reason: str | None
    ) -> int:
        self._check()
        after_ns = None
        if after is not None:
            after_ns = int(check_duration("after", after, ACK_TIMEOUT_SECONDS_MAX) * 1e9)
        text = "" if reason is None else check_reason(reason)
        spans = spans_of(deliveries)
        if self._handling is not None:
            return self._handling.release(spans, after_ns, text)
        return self._feed.release(self.name, spans, after_ns, text)

    def _extend_items(self, deliveries: object, by: float | timedelta) -> int:
        self._check()
        seconds = check_duration("by", by, ACK_TIMEOUT_SECONDS_MAX, least=0.001)
        return self._feed.extend(self.name, spans_of(deliveries), int(seconds * 1e9))

    def _ack(self, delivery: Delivery) -> object:
        """Ack a delivery whose gate lets nothing pass."""
        self._check()
        record_id = delivery.id
        self._feed.ack_one(record_id.shard_id, record_id.lsn, may_block=self._may_block)
        return self._ack_answer

    def _acked(self, delivery: Delivery, flags: int) -> object:
        """Do the rest of an ack that went through the gate."""
        record_id = delivery.id
        self._feed.acked(record_id.shard_id, record_id.lsn, flags, may_block=self._may_block)
        return self._ack_answer

    def _leave(self) -> None:
        if not self._closed:
            self._give_back()
            self._closed = True
            self._gate.close()
            self._feed.roster.detach(self.name, self._gate)

    def gaps(self) -> tuple[Gap, ...]:
        """Return the gaps that this consumer has not asked for yet: records that were trimmed or
        expired before they were acked."""
        self._check()
        return self._feed.gaps(self.name)

    def events(self) -> tuple[Event, ...]:
        """Return what happened that this consumer has not asked for yet, oldest first: `Gap` for
        records that are gone, `Damaged` for such as cannot be read, `Sought` when the subscription
        was moved."""
        self._check()
        return self._feed.events(self.name)

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<{type(self).__name__} {self.name!r} of {self.subscription!r}{state}>"


class Consumer(ConsumerBase):
    """One attached reader of a subscription.

    receive and iteration belong to one thread at a time; acks may come from any. Leaving the `with`
    block detaches it: what it had not acked goes to others at once. One that is dropped without
    being closed is detached when it and its deliveries are collected, and that is warned of.
    """

    _work: Workers | None = None

    def receive(self, max_records: int = 100, timeout: float | None = None) -> DeliveryBatch:
        """Return up to max_records deliveries, as soon as there is one; () when timeout seconds
        pass without.

        ConsumerClosed when it is closed meanwhile, SubscriptionNotFound when the subscription is
        deleted, CorruptionError, once, when records cannot be read: `skip_damaged` gives them up.
        """
        check_receive(max_records)
        seconds = check_timeout(timeout)
        if not self._notes_attempts:
            batch = self._ahead.take(self._gate, self._number, max_records, may_block=True)
            if batch is not None:
                return batch
        return self._poll(self._fetch, max_records, self._end_of(seconds))

    def _poll(
        self, fetch: Callable[..., DeliveryBatch | None], max_records: int, end: int | None
    ) -> DeliveryBatch:
        """Fetch until there is something, or the time is over."""
        try:
            batch = self._wait_for(fetch, max_records, end)
        except BaseException:
            if not self._closed:
                self._feed.leave_line(self.name)
            raise
        if not batch:
            self._feed.leave_line(self.name)
        return batch

    def _wait_for(
        self, fetch: Callable[..., DeliveryBatch | None], max_records: int, end: int | None
    ) -> DeliveryBatch:
        clock = self._feed.engine.env.clock
        journal = self._journal
        while True:
            self._check()
            durable, pokes = journal.durable(), journal.pokes()
            batch = fetch(max_records, may_block=True)
            if batch:
                return batch
            now = clock.mono_ns()
            if end is not None and now >= end:
                return EMPTY
            wait = _SLICE_NS if end is None else min(_SLICE_NS, end - now)
            due = self._feed.next_deadline()
            if due is not None:
                wait = max(0, min(wait, due - now))
            changed = journal.wait_change(durable, pokes, wait)
            if not changed and not self._feed.engine.env.threaded:
                return EMPTY

    def __iter__(self) -> Iterator[Delivery]:
        """Iterate over deliveries for ever; ends when the consumer is closed."""
        feed, unseen = self._feed, self._unseen
        try:
            while not self._closed:
                if not unseen:
                    batch = self.receive(self._take)
                    if not batch and not feed.engine.env.threaded:
                        return
                    self._begin(batch)
                with suppress(IndexError):  # it is empty
                    while feed.seeks == self._seeks:
                        yield unseen.popleft()
                self._end()
        except ConsumerClosed:
            return
        finally:
            self._give_back()

    def run(
        self,
        handle: Callable[[Delivery], object],
        *,
        workers: int = 1,
        on_error: OnError | None = None,
        drain_timeout: float = 30.0,
    ) -> None:
        """Call handle with every delivery, in so many threads, and ack it when that returns.

        Returns when the consumer or its store is closed, from whatever thread; Ctrl-C and other
        exceptions here, and errors of the subscription, end it too and are raised. Handlers that
        run then are finished and acked, if that takes no longer than drain_timeout seconds; what
        had not begun goes back at once.

        An exception in handle is logged, on_error(delivery, error) is called, and the delivery goes
        back to be sent again, unless one of the two has acked or released it. What on_error raises
        ends the run, and so does what is no Exception. A handler may take longer than the ack
        timeout: its delivery, and those of its key that wait for it, are extended while it runs and
        is waited for, up to a day. Up to `prefetch` deliveries are taken ahead,
        but only as many as begin soon. With mode "ordered" deliveries of one key are handled one
        after the other.

        Where an environment runs without threads, this handles each record that there is once, and
        returns.
        """
        check_handler(handle, on_error)
        check_int("workers", workers, 1, WIDTH_MAX)
        work = Workers(self, self._start_handling(workers, drain_timeout), handle, on_error)
        self._work = work
        self._feed.add_run(work)
        try:
            work.run()
        finally:
            self._feed.runs.discard(work)
            self._work = None
            self._end_handling()

    def ack(self, deliveries: Deliveries, *, durable: bool = False) -> AckResult:
        """Ack a delivery, several, or a whole batch: they do not come again.

        Progress is on disk within `progress_interval`; with durable=True, when this returns. An ack
        counts whoever holds the record, also after its timeout; twice is no error. UnknownRecord
        for what was never delivered: then nothing of that range was acked.
        """
        check_bool("durable", durable)
        result = self._ack_items(deliveries)
        if durable:
            self.commit()
        return result

    def commit(self) -> None:
        """Return when all that was acked so far, by whatever consumer, is on disk: not even a power
        cut brings it again.

        StorageFull where there is no room for that: the acks count, and are stored later.
        """
        self._check()
        ticket = self._feed.progress.commit(may_block=True)
        assert ticket is not None
        self._journal.wait(ticket)

    def release(
        self,
        deliveries: Deliveries,
        *,
        after: float | timedelta | None = None,
        reason: str | None = None,
    ) -> int:
        """Give deliveries back, to be sent again; returns how many.

        That is after so many seconds, and without `after` when the subscription's back-off says:
        at once if it has none. After its last attempt a record goes to the dead-letter stream
        instead, with the reason (its first 1,000 characters).
        """
        return self._release_items(deliveries, after, reason)

    def extend(self, deliveries: Deliveries, *, by: float | timedelta) -> int:
        """Move the deadline of deliveries to `by` seconds from now, unless it lies later; returns
        how many are held."""
        return self._extend_items(deliveries, by)

    def close(self) -> None:
        """Detach; what is unacked goes to others at once. A second call does nothing.

        While it runs handlers this waits for them first, as `run` says; in a handler, `run` does it
        at its end.
        """
        work = self._work
        if work is not None:
            self._closing = True
            work.handling.stop()
            work.join()
            if work.is_here():
                return
        self._leave()

    def _release(
        self, delivery: Delivery, after: float | timedelta | None, reason: str | None
    ) -> None:
        self._release_items(delivery, after, reason)

    def _extend(self, delivery: Delivery, by: float | timedelta) -> None:
        self._extend_items(delivery, by)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


Taker = TypeVar("Taker")


def by_consumer(deliveries: object, kind: type[Taker]) -> list[tuple[Taker, object]]:
    """Return (consumer, items) for deliveries that a transaction is to ack, of consumers of that
    kind."""
    if isinstance(deliveries, DeliveryBatch):
        consumer = deliveries.consumer
        if consumer is None:
            return []
        items: Iterable[object] = [deliveries]
    elif isinstance(deliveries, Delivery):
        items = [deliveries]
    elif isinstance(deliveries, Iterable):
        items = deliveries
    else:
        raise TypeError(
            "deliveries must be a Delivery, what receive returned, or an iterable of Deliveries, "
            f"not {type(deliveries).__name__}"
        )
    found: list[tuple[Taker, object]] = []
    for item in items:
        if not isinstance(item, Delivery | DeliveryBatch) or not isinstance(item.consumer, kind):
            raise TypeError(
                "deliveries must hold Deliveries as they were received, for a transaction acks "
                f"only what is held, not {type(item).__name__}"
            )
        found.append((item.consumer, item))
    return found
