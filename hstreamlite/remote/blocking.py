"""A store reached over a connection, for threads: every noun asks that of the event loop's thread.

Thread-safe as the nouns of an open store are: a Reader, a Transaction and a Consumer belong to one
thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Generic, Self, TypeVar

from hstreamlite import signals
from hstreamlite.config import Compression, Durability
from hstreamlite.env import Env
from hstreamlite.info import StoreStats, StreamInfo, SubscriptionInfo
from hstreamlite.log.reader import Batch
from hstreamlite.place import EARLIEST, Place
from hstreamlite.records import Payload, Record, RecordId, RecordIds
from hstreamlite.remote import (
    producer as producers,
    reader as readers,
    store as stores,
    stream as streams,
)
from hstreamlite.remote.backup import Backup
from hstreamlite.remote.blocking_consumer import Subscription
from hstreamlite.remote.security import Security
from hstreamlite.remote.thread import LoopThread, threads
from hstreamlite.remote.transaction import Collected
from hstreamlite.remote.way import Way
from hstreamlite.sub.retry import Backoff
from hstreamlite.transaction import Transaction

R = TypeVar("R", Record, Batch)


def connect(
    address: str,
    *,
    timeout: float | None,
    durability: Durability | None,
    env: Env | None = None,
    security: Security | None = None,
) -> Store:
    """Reach a store, as `hstreamlite.connect`."""
    connecting = stores.Connecting(
        address, timeout=timeout, durability=durability, env=env, security=security
    )
    thread = threads.take()
    try:
        return Store(thread, thread.run(connecting._connect))
    except BaseException:
        threads.give_back(thread)
        raise


class Store:
    """A store that a server has open. Thread-safe."""

    def __init__(self, thread: LoopThread, noun: stores.Store) -> None:
        self._noun = noun
        self._thread = thread
        self._way = Way(thread, noun._link)
        signals.close_at_exit(self.close)

    def create_stream(
        self,
        name: str,
        *,
        backlog: float | timedelta = 0,
        max_bytes: int = 0,
        protect: Iterable[str] = (),
        exists_ok: bool = False,
    ) -> Stream:
        """Create a stream, as `hstreamlite.Store.create_stream`."""
        noun = self._way.run(
            self._noun.create_stream,
            name,
            backlog=backlog,
            max_bytes=max_bytes,
            protect=protect,
            exists_ok=exists_ok,
        )
        return Stream(self._way, noun)

    def stream(self, name: str) -> Stream:
        """Return a handle, without looking whether the stream exists."""
        return Stream(self._way, self._noun.stream(name))

    def streams(self) -> list[StreamInfo]:
        """Return what there is, by name."""
        return self._way.run(self._noun.streams)

    def delete_stream(self, name: str, *, force: bool = False) -> None:
        """Delete a stream and its records, as `hstreamlite.Store.delete_stream`."""
        self._way.run(self._noun.delete_stream, name, force=force)

    def backup(self, name: str, *, progress: Callable[[int, int], None] | None = None) -> str:
        """Have the server copy its store, as `hstreamlite.aio.connect`'s `backup`."""
        backup = Backup(self._way.link, name)
        try:
            while not (step := self._way.run(backup.step)).path:
                if progress is not None and step.total:
                    progress(step.done, step.total)
        finally:
            self._way.post(backup.end)
        if progress is not None:
            progress(step.total, step.total)
        return step.path

    def create_subscription(
        self,
        name: str,
        *,
        stream: str,
        mode: str = "ordered",
        ack_timeout: float | timedelta = 60.0,
        max_unacked: int = 10_000,
        max_unacked_bytes: int | None = None,
        max_unacked_per_consumer: int | None = None,
        max_unacked_bytes_per_consumer: int | None = None,
        start: Place = EARLIEST,
        max_attempts: int = 0,
        dead_letter: str | None = None,
        backoff: Backoff | None = None,
        exists_ok: bool = False,
    ) -> Subscription:
        """Create a subscription, as `hstreamlite.Store.create_subscription`."""
        noun = self._way.run(
            self._noun.create_subscription,
            name,
            stream=stream,
            mode=mode,
            ack_timeout=ack_timeout,
            max_unacked=max_unacked,
            max_unacked_bytes=max_unacked_bytes,
            max_unacked_per_consumer=max_unacked_per_consumer,
            max_unacked_bytes_per_consumer=max_unacked_bytes_per_consumer,
            start=start,
            max_attempts=max_attempts,
            dead_letter=dead_letter,
            backoff=backoff,
            exists_ok=exists_ok,
        )
        return Subscription(self._way, noun)

    def subscription(self, name: str) -> Subscription:
        """Return a handle, without looking whether the subscription exists."""
        return Subscription(self._way, self._noun.subscription(name))

    def subscriptions(self) -> list[SubscriptionInfo]:
        """Return what there is, by name."""
        return self._way.run(self._noun.subscriptions)

    def delete_subscription(self, name: str, *, force: bool = False) -> None:
        """Delete a subscription, as `hstreamlite.Store.delete_subscription`."""
        self._way.run(self._noun.delete_subscription, name, force=force)

    def transaction(self) -> Transaction:
        """Return a context manager: what is done through it happens at its end, all or nothing."""
        self._way.link.check()
        collected = Collected(self._way.link)
        return Transaction(collected, partial(self._way.run, collected.commit))

    @property
    def address(self) -> str:
        """What was connected to."""
        return self._noun.address

    @property
    def path(self) -> str:
        """The directory, on the machine of the server."""
        return self._noun.path

    @property
    def closed(self) -> bool:
        return self._noun.closed

    @property
    def read_only(self) -> bool:
        return False

    def stats(self) -> StoreStats:
        """Return counters and sizes."""
        return self._way.run(self._noun.stats)

    def sync(self) -> None:
        """Return when everything appended so far, at whatever level, is on disk."""
        self._way.run(self._noun.sync)

    def close(self) -> None:
        """Flush producers, detach consumers, and let go of the server. A second call does
        nothing."""
        signals.closed(self.close)
        if self._noun.closed:
            return
        if self._way.link.forked:
            self._way.link.closed = True
            return
        self._thread.run(self._noun.close)
        threads.give_back(self._thread)

    def __enter__(self) -> Self:
        self._way.link.check()
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


class Stream:
    """A handle of one stream. Thread-safe."""

    __slots__ = ("_noun", "_way", "name")

    def __init__(self, way: Way, noun: streams.Stream) -> None:
        self._way = way
        self._noun = noun
        self.name = noun.name

    def append(
        self,
        payload: Payload | Record,
        *,
        key: str | None = None,
        attributes: dict[str, str] | None = None,
        durability: Durability | None = None,
    ) -> RecordId:
        """Append one record, as `hstreamlite.Stream.append`.

        Never sent twice: ConnectionLost with outcome "unknown" when the connection breaks and the
        record may be stored. Producers send again, and store it once.
        """
        return self._way.run(
            self._noun.append, payload, key=key, attributes=attributes, durability=durability
        )

    def append_many(
        self,
        records: Iterable[Payload | Record],
        *,
        key: str | None = None,
        durability: Durability | None = None,
        compression: Compression = "none",
    ) -> RecordIds:
        """Append records together, all or none, as `append`."""
        return self._way.run(
            self._noun.append_many,
            records,
            key=key,
            durability=durability,
            compression=compression,
        )

    def producer(
        self,
        *,
        name: str | None = None,
        batch_records: int = 1000,
        batch_bytes: int = 64 << 10,
        batch_age: float = 0.01,
        buffer_bytes: int = 32 << 20,
        on_full: str = "block",
        durability: Durability | None = None,
        compression: Compression = "none",
    ) -> Producer:
        """Return a producer that gathers records, as `hstreamlite.Stream.producer`; it sends again
        what a broken connection left unanswered, and that is stored once."""
        noun = self._way.made(
            self._noun.producer,
            name=name,
            batch_records=batch_records,
            batch_bytes=batch_bytes,
            batch_age=batch_age,
            buffer_bytes=buffer_bytes,
            on_full=on_full,
            durability=durability,
            compression=compression,
        )
        return Producer(self._way, noun)

    def read(
        self,
        *,
        start: Place = EARLIEST,
        until: Place | None = None,
        limit: int | None = None,
        key: str | None = None,
        shard: int | None = None,
        follow: bool = False,
    ) -> Reader:
        """Return an iterator over records, as `hstreamlite.Stream.read`. It goes on where it was
        when the connection breaks and is made again."""
        noun = self._way.made(
            self._noun.read,
            start=start,
            until=until,
            limit=limit,
            key=key,
            shard=shard,
            follow=follow,
        )
        return Reader(self._way, noun)

    def read_batches(
        self,
        *,
        start: Place = EARLIEST,
        until: Place | None = None,
        limit: int | None = None,
        shard: int | None = None,
        follow: bool = False,
    ) -> BatchReader:
        """Return an iterator over whole undecoded batches, under the rules of `read`."""
        noun = self._way.made(
            self._noun.read_batches,
            start=start,
            until=until,
            limit=limit,
            shard=shard,
            follow=follow,
        )
        return BatchReader(self._way, noun)

    def tail(self) -> RecordId | None:
        """Return the id of the newest durable record; None if none is kept."""
        return self._way.run(self._noun.tail)

    def trim(self, *, before: Place) -> None:
        """Remove the records before a place, as `hstreamlite.Stream.trim`."""
        self._way.run(self._noun.trim, before=before)

    def info(self) -> StreamInfo:
        """Return what is known of the stream; StreamNotFound if it does not exist."""
        return self._way.run(self._noun.info)

    def __repr__(self) -> str:
        return repr(self._noun)


class Submitted:
    """A record on its way."""

    __slots__ = ("_noun", "_way")

    def __init__(self, way: Way, noun: producers.Submitted) -> None:
        self._way = way
        self._noun = noun

    def result(self) -> RecordId:
        """Return the id once the record has reached its level, or raise the append's own error."""
        return self._way.run(self._noun.result)

    def done(self) -> bool:
        """Say whether `result` would answer at once."""
        return self._noun.done()

    def __repr__(self) -> str:
        return repr(self._noun)


class Producer:
    """Gathers records into batches, as `hstreamlite.Producer`. Thread-safe."""

    def __init__(self, way: Way, noun: producers.Producer) -> None:
        self._way = way
        self._noun = noun

    @property
    def last_sequence(self) -> int:
        """Number of the last record submitted or stored."""
        return self._noun.last_sequence

    def submit(
        self,
        payload: Payload | Record,
        *,
        key: str | None = None,
        attributes: dict[str, str] | None = None,
        sequence: int | None = None,
    ) -> Submitted:
        """Take a record in; waits only while the buffer is full."""
        noun = None
        if sequence is None:  # the way to the loop takes longer than all else
            noun = self._noun.take(payload, key, attributes)
        if noun is None:
            noun = self._way.run(
                self._noun.submit, payload, key=key, attributes=attributes, sequence=sequence
            )
        return Submitted(self._way, noun)

    def flush(self) -> None:
        """Return when everything submitted has reached its level; raises what failed."""
        self._way.run(self._noun.flush)

    def close(self) -> None:
        """Flush and refuse further records. A second call does nothing."""
        self._way.close(self._noun.close)

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


class _Scanner(Generic[R]):
    """What readers share. One thread at a time."""

    def __init__(self, way: Way, noun: readers._Reader[R]) -> None:
        self._way = way
        self._noun: readers._Reader[R] = noun
        self._closed = False
        self._buffer: Iterator[R] = iter(())

    def _fill(self) -> bool:
        """Get what comes next; False when it is over."""
        if self._closed:
            return False
        found = self._way.run(self._noun.some)
        self._buffer = iter(found)
        return bool(found)

    def close(self) -> None:
        """End the iteration, also one that waits in another thread."""
        self._closed = True
        for _ in self._buffer:
            pass  # an iteration under way shares this iterator, and ends with it
        self._way.close(self._noun.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> R:
        while not self._closed:
            for item in self._buffer:
                return item
            if not self._fill():
                break
        raise StopIteration

    def __iter__(self) -> Iterator[R]:
        return chain.from_iterable(self._buffers())

    def _buffers(self) -> Iterator[Iterator[R]]:
        yield self._buffer
        while self._fill():
            yield self._buffer

    def __repr__(self) -> str:
        return repr(self._noun)


class Reader(_Scanner[Record]):
    """Iterates over records. One thread at a time."""


class BatchReader(_Scanner[Batch]):
    """Iterates over batches. One thread at a time."""
