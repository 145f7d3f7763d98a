"""hstreamlite behind the interface of its rivals, through its public names only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import hstreamlite as hs
from benchmarks.rivals import Level

NAME = "hstreamlite"
_IDLE_SECONDS = 0.02


class HStreamLog:
    """One store, streams made in one transaction."""

    def __init__(self, path: str, level: Level, *, streams: int = 1):
        self._store = hs.open(path, durability=level)
        names = [f"stream-{number}" for number in range(streams)]
        if not self._store.streams():
            with self._store.transaction() as tx:
                for name in names:
                    tx.create_stream(name)
        self._streams = [self._store.stream(name) for name in names]

    def append_list(self, payloads: list[bytes], stream: int = 0, *, durable: bool = False) -> None:
        self._streams[stream].append_many(payloads, durability="sync" if durable else None)

    def appender(self) -> Callable[[bytes], object]:
        return self._streams[0].append

    def settle(self) -> None:
        self._store.sync()

    def scan(self) -> tuple[int, int]:
        records = size = 0
        for stream in self._streams:
            for record in stream.read():
                _id, payload = record.id, record.payload
                records += 1
                size += len(payload)
        return records, size

    def counters(self) -> dict[str, int]:
        """Return what the log counts since the opening."""
        return self._store.stats().log

    def group(self, consumers: int) -> HStreamGroup:
        subscription = self._store.create_subscription(
            "group", stream=self._streams[0].name, mode="shared", ack_timeout=30.0
        )
        return HStreamGroup(subscription, consumers)

    def close(self) -> None:
        self._store.close()


class HStreamMember:
    """One consumer."""

    def __init__(self, consumer: hs.Consumer):
        self.consumer = consumer
        self.receive = partial(consumer.receive, timeout=_IDLE_SECONDS)
        self.ack = consumer.ack

    def __iter__(self) -> Iterator[hs.Delivery]:
        return iter(self.consumer)

    ack_one = staticmethod(hs.Delivery.ack)


class HStreamGroup:
    """One subscription and its consumers."""

    def __init__(self, subscription: hs.Subscription, consumers: int):
        self._subscription = subscription
        names = [f"consumer-{number}" for number in range(consumers)]
        self.members: Sequence[HStreamMember] = [
            HStreamMember(subscription.consumer(name)) for name in names
        ]

    def unacked(self) -> int:
        lag = self._subscription.lag()
        return lag.unacked + lag.backlog

    def close(self) -> None:
        for member in self.members:
            member.consumer.close()
