"""A subscription of a remote store and its consumers, for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from hstreamlite.config import check_bool, check_int, check_receive
from hstreamlite.consumer import check_timeout
from hstreamlite.errors import ConsumerClosed
from hstreamlite.feed import AckResult
from hstreamlite.handling import WIDTH_MAX, OnError, check_handler
from hstreamlite.info import SubscriptionInfo
from hstreamlite.place import Place
from hstreamlite.records import Delivery, DeliveryBatch
from hstreamlite.remote import consumer as consumers, subscription as subscriptions
from hstreamlite.remote.attachment import LEASE_SECONDS
from hstreamlite.remote.link import Link
from hstreamlite.remote.way import Way
from hstreamlite.spans import Deliveries
from hstreamlite.sub.effects import Event, Gap, Lag
from hstreamlite.workers import Workers


class Subscription:
    """A handle of one subscription. Thread-safe."""

    __slots__ = ("_noun", "_way", "name")

    def __init__(self, way: Way, noun: subscriptions.Subscription) -> None:
        self._way = way
        self._noun = noun
        self.name = noun.name

    def consumer(
        self,
        name: str,
        *,
        prefetch: int = 100,
        max_unacked: int | None = None,
        max_unacked_bytes: int | None = None,
        lease: float | timedelta = LEASE_SECONDS,
    ) -> Consumer:
        """Attach a consumer, as `hstreamlite.Subscription.consumer`; ConsumerExists if the name is
        attached already.

        lease: for how many seconds, 0.1 to 300, the server waits for a sign of life before others
        get what the consumer holds. A thread of this process gives one thrice in that time.
        """
        noun = self._way.made(
            self._noun.consumer,
            name,
            prefetch=prefetch,
            max_unacked=max_unacked,
            max_unacked_bytes=max_unacked_bytes,
            lease=lease,
        )
        return Consumer(self._way, noun)

    def info(self) -> SubscriptionInfo:
        """Return what is known of the subscription; SubscriptionNotFound if it does not exist."""
        return self._way.run(self._noun.info)

    def lag(self) -> Lag:
        """Return how far the group is behind: records, bytes, and the age of the oldest."""
        return self._way.run(self._noun.lag)

    def seek(self, to: Place) -> None:
        """Deliver from another place on, as `hstreamlite.Subscription.seek`."""
        self._way.run(self._noun.seek, to)

    def redrive(self, limit: int | None = None) -> int:
        """Append dead letters to their stream again, as `hstreamlite.Subscription.redrive`."""
        return self._way.run(self._noun.redrive, limit)

    def skip_damaged(self) -> int:
        """Give up records that cannot be read, as `hstreamlite.Subscription.skip_damaged`."""
        return self._way.run(self._noun.skip_damaged)

    def pause(self) -> None:
        """Deliver nothing until `resume`, as `hstreamlite.Subscription.pause`."""
        self._way.run(self._noun.pause)

    def resume(self) -> None:
        """Deliver again; on disk when this returns."""
        self._way.run(self._noun.resume)

    def __repr__(self) -> str:
        return repr(self._noun)


class Consumer:
    """One attached reader of a subscription, as `hstreamlite.Consumer`.

    When the connection breaks it attaches again; what it held is sent again then, to it or others.
    One that is dropped without being closed is detached when it and its deliveries are collected.
    """

    _work: Workers | None = None

    def __init__(self, way: Way, noun: consumers.Consumer) -> None:
        noun.owner = self
        self.name = noun.name
        self.subscription = noun.subscription
        self._way = way
        self._noun = noun
        self._prefetch = noun._prefetch
        self._feed = noun._feed

    @property
    def link(self) -> Link:
        """Of the store that this is a consumer of."""
        return self._way.link

    @property
    def closed(self) -> bool:
        return self._noun.closed

    @property
    def connected(self) -> bool:
        """Whether the server is there, as far as is known: else nothing is received."""
        return self._noun.connected

    def receive(self, max_records: int = 100, timeout: float | None = None) -> DeliveryBatch:
        """Return up to max_records deliveries, as soon as there is one; () when timeout seconds
        pass without.

        ConnectionFailed when there was no server for as long as the store tries.
        """
        check_receive(max_records)
        seconds = check_timeout(timeout)
        batch: DeliveryBatch = self._run(self._noun.take, max_records, seconds)
        return batch

    def _run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self._noun._attachment.check()
        return self._way.run(function, *args, **options)

    def __iter__(self) -> Iterator[Delivery]:
        """Iterate over deliveries for ever; ends when the consumer is closed."""
        noun = self._noun
        unseen = noun._unseen
        try:
            while True:
                noun._attachment.check()
                if not unseen:
                    unseen.extend(self._run(noun.fetch, noun._take, None))
                started, seeks = noun._link.now(), noun._seeks
                while unseen and noun._seeks == seeks and not self.closed:
                    yield unseen.popleft()
                self._way.close(noun.end_batch, started)
        except ConsumerClosed:
            return
        finally:
            if unseen:
                self._way.post(noun.give_back)

    def run(
        self,
        handle: Callable[[Delivery], object],
        *,
        workers: int = 1,
        on_error: OnError | None = None,
        drain_timeout: float = 30.0,
    ) -> None:
        """Call handle with every delivery, in so many threads, and ack it when that returns, as
        `hstreamlite.Consumer.run`."""
        check_handler(handle, on_error)
        check_int("workers", workers, 1, WIDTH_MAX)
        self._run(self._noun.begin_run)
        noun = self._noun
        work = Workers(self, noun.handling(workers, drain_timeout), handle, on_error)
        self._work = work
        self._run(noun.keep)
        try:
            work.run()
        finally:
            self._work = None
            self._way.close(noun.end_run)

    def _poll(
        self, fetch: Callable[..., DeliveryBatch | None], max_records: int, end: int | None
    ) -> DeliveryBatch:
        """Receive for a run, and let it take that in."""
        del end
        batch: DeliveryBatch = self._run(self._noun.fetch, max_records, None, handled=True)
        return self._noun.pass_on(batch, fetch, max_records)

    def _fetch(self, max_records: int, *, may_block: bool) -> DeliveryBatch | None:
        return self._noun._fetch(max_records, may_block=may_block)

    def ack(self, deliveries: Deliveries, *, durable: bool = False) -> AckResult:
        """Ack a delivery, several, or a whole batch, as `hstreamlite.Consumer.ack`."""
        check_bool("durable", durable)
        result: AckResult = self._run(self._noun.ack, deliveries, durable=durable)
        return result

    def commit(self) -> None:
        """Return when all that was acked so far is on disk, as `hstreamlite.Consumer.commit`."""
        self._run(self._noun.commit)

    def release(
        self,
        deliveries: Deliveries,
        *,
        after: float | timedelta | None = None,
        reason: str | None = None,
    ) -> int:
        """Give deliveries back, to be sent again, as `hstreamlite.Consumer.release`."""
        count: int = self._run(self._noun.release, deliveries, after=after, reason=reason)
        return count

    def extend(self, deliveries: Deliveries, *, by: float | timedelta) -> int:
        """Move the deadline of deliveries to `by` seconds from now, unless it lies later; returns
        how many are held."""
        count: int = self._run(self._noun.extend, deliveries, by=by)
        return count

    def gaps(self) -> tuple[Gap, ...]:
        """Return the gaps that this consumer has not asked for yet."""
        self._run(self._noun.beat)
        return self._noun.gaps()

    def events(self) -> tuple[Event, ...]:
        """Return what happened that this consumer has not asked for yet, oldest first."""
        self._run(self._noun.beat)
        return self._noun.events()

    def close(self) -> None:
        """Detach, as `hstreamlite.Consumer.close`; the server is told, if it can be. A second call
        does nothing."""
        work = self._work
        if work is not None:
            self._noun._closing = True
            work.handling.stop()
            work.join()
            if work.is_here():
                return
        self._way.close(self._noun._leave)

    async def _end(self) -> None:
        """Detach where the store is closed, having waited for handlers that run."""
        work = self._work
        if work is not None:
            self._noun._closing = True
            work.handling.stop()
            await self._way.in_thread(work.join)
        await self._noun._leave()

    def _ack(self, delivery: Delivery) -> None:
        self._noun._ack(delivery)

    def _release(
        self, delivery: Delivery, after: float | timedelta | None, reason: str | None
    ) -> None:
        self._noun._release(delivery, after, reason)

    def _extend(self, delivery: Delivery, by: float | timedelta) -> None:
        self._noun._extend(delivery, by)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._noun)
