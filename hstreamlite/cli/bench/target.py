"""What is measured: streams and subscriptions of a store, as far as a run uses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self, TypeAlias

from hstreamlite.cli.shards import create_stream
from hstreamlite.config import Compression, Durability
from hstreamlite.consumer import Consumer
from hstreamlite.records import Record
from hstreamlite.store import Store

RECEIVE = 1000
Sender: TypeAlias = Callable[[list[Record]], object]
"""Appends a batch, and returns when it is durable."""


class Receiver(Protocol):
    """One consumer, of one thread."""

    def receive(self, timeout: float) -> Sequence[Record]: ...
    def ack(self, batch: Any) -> object: ...


class Target(Protocol):
    """Where a run works. Its methods may be called from several threads."""

    def create_stream(
        self, name: str, *, shards: int, backlog: float, replication: int
    ) -> None: ...
    def delete_stream(self, name: str) -> None: ...
    def create_subscription(self, name: str, *, stream: str, ack_timeout: float) -> None: ...
    def delete_subscription(self, name: str) -> None: ...
    def sender(
        self, stream: str, *, compression: Compression, durability: Durability
    ) -> Sender: ...
    def receiver(self, subscription: str, consumer: str) -> AbstractContextManager[Receiver]: ...


class StoreReceiver:
    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def receive(self, timeout: float) -> Sequence[Record]:
        return self._consumer.receive(RECEIVE, timeout=timeout)

    def ack(self, batch: Any) -> object:
        return self._consumer.ack(batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()


class StoreTarget:
    """A store that is open."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create_stream(self, name: str, *, shards: int, backlog: float, replication: int) -> None:
        create_stream(self._store, name, shards=shards, backlog=backlog, replication=replication)

    def delete_stream(self, name: str) -> None:
        self._store.delete_stream(name, force=True)

    def create_subscription(self, name: str, *, stream: str, ack_timeout: float) -> None:
        self._store.create_subscription(name, stream=stream, ack_timeout=ack_timeout)

    def delete_subscription(self, name: str) -> None:
        self._store.delete_subscription(name, force=True)

    def sender(self, stream: str, *, compression: Compression, durability: Durability) -> Sender:
        handle = self._store.stream(stream)
        return lambda batch: handle.append_many(
            batch, compression=compression, durability=durability
        )

    def receiver(self, subscription: str, consumer: str) -> AbstractContextManager[Receiver]:
        return StoreReceiver(self._store.subscription(subscription).consumer(consumer))
