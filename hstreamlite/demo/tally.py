"""The worker that consumes: a group of consumers that sums the delays of the stream of flights.

Each batch of deliveries becomes one record of partial sums, appended in the same transaction that
acks the batch: both are in the log, or neither is. So a flight counts once, however often it had to
be delivered. Such a record also lists the flights that it covers, for a later check of just that.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from typing import Any, cast

import hstreamlite as hs
from hstreamlite.demo.delays import DelaySums
from hstreamlite.demo.leash import Leash

FLIGHTS = "flights"
SUMS = "delay-sums"
SUBSCRIPTION = "delays"
CONSUMERS = 3
ACK_TIMEOUT = 2.0
"""Seconds."""

_BATCH_RECORDS = 500
_POLL_SECONDS = 0.2
_NOTHING_LEFT = hs.Lag(unacked=0, backlog=0)


def count_delays(directory: str, durability: hs.Durability, *, dawdle: bool) -> None:
    """Consume to the end of the stream, and report flights counted.

    Dawdle: the first consumer keeps its first batch beyond the ack timeout, and must find that it
    can't commit it any more.
    """
    with hs.open(directory, durability=durability) as store:
        store.create_stream(SUMS, exists_ok=True)
        store.create_subscription(
            SUBSCRIPTION, stream=FLIGHTS, ack_timeout=ACK_TIMEOUT, exists_ok=True
        )
        group = _Group(store)
        with ThreadPoolExecutor(CONSUMERS) as threads:
            lives = [
                threads.submit(group.consume, f"consumer-{number}", dawdle=dawdle and number == 1)
                for number in range(1, CONSUMERS + 1)
            ]
        for life in lives:
            life.result()
    group.report("done")


class LeaseOutlived(Exception):
    """A batch was committed although its ack timeout had passed."""


class _Group:
    """What the consumers of one process share."""

    def __init__(self, store: hs.Store) -> None:
        self._store = store
        self._subscription = store.subscription(SUBSCRIPTION)
        self._leash = Leash()
        self._lock = threading.Lock()
        self._failed = threading.Event()
        self._received: set[int] = set()
        partials = (cast("dict[str, Any]", record.payload) for record in store.stream(SUMS).read())
        self._counted = sum(len(partial["flights"]) for partial in partials)
        self.report("ready")

    def report(self, kind: str, counted: int = 0) -> None:
        """Report all flights counted, these included."""
        with self._lock:
            self._counted += counted
            self._leash.report(kind, self._counted)

    def consume(self, name: str, *, dawdle: bool) -> None:
        """Receive and commit until all is acked, or a consumer failed."""
        try:
            with self._subscription.consumer(name) as consumer:
                while not self._failed.is_set():
                    batch = consumer.receive(max_records=_BATCH_RECORDS, timeout=_POLL_SECONDS)
                    if batch:
                        self.report("took")
                        self._commit(batch, 1.5 * ACK_TIMEOUT if dawdle else 0.0)
                        dawdle = False
                    elif self._subscription.lag() == _NOTHING_LEFT:
                        break
                    else:
                        self.report("idle")
        except BaseException:
            self._failed.set()
            raise

    def _commit(self, batch: Sequence[hs.Delivery], delay: float) -> None:
        partial = self._partial(batch)
        sleep(delay)
        try:
            with self._store.transaction() as transaction:
                transaction.append(SUMS, partial)
                transaction.ack(batch)
        except hs.LeaseLost:
            self.report("step")
        else:
            if delay > ACK_TIMEOUT:
                raise LeaseOutlived(f"A batch was committed {delay:g} s after it was received.")
            self.report("step", len(batch))

    def _partial(self, batch: Sequence[hs.Delivery]) -> dict[str, Any]:
        sums = DelaySums()
        flights: list[int] = []
        after_kill = after_timeout = 0
        for delivery in batch:
            flight = cast("dict[str, Any]", delivery.payload)
            if flight["dep_delay"] is not None:
                sums.add(flight["origin"], flight["hour"], flight["dep_delay"])
            number = delivery.id.lsn
            flights.append(number)
            if delivery.attempt > 1:
                if number in self._received:
                    after_timeout += 1
                else:
                    after_kill += 1
        self._received.update(flights)
        return {
            "flights": flights,
            "sums": sums.rows(),
            "after_kill": after_kill,
            "after_timeout": after_timeout,
        }
