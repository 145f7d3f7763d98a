"""The blocking face of a store: Store, Stream, Transaction, Reader.

A handle (`store.stream(name)`) costs nothing and does no I/O; it names a stream and finds it when
used. Every method may be called from any thread, except that a Reader, a Transaction and a Consumer
belong to one thread at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from os import fspath
from types import TracebackType
from typing import Any, Self

from hstreamlite import signals
from hstreamlite._native import fast
from hstreamlite._native.files import real_env
from hstreamlite.config import (
    Compression,
    Durability,
    StoreConfig,
    check_compression,
    check_durability,
    check_int,
)
from hstreamlite.consumer import Consumer, by_consumer
from hstreamlite.engine import EARLIEST, Engine, Place, check_name
from hstreamlite.env import Env
from hstreamlite.errors import (
    BatchTooLarge,
    HStreamError,
    StreamNotFound,
    TransactionTooLarge,
)
from hstreamlite.feed import Feed, Feeds
from hstreamlite.info import StoreStats, StreamInfo, SubscriptionInfo, stats_of
from hstreamlite.log.reader import Batch, Scan
from hstreamlite.log.recovery import RecoveryReport
from hstreamlite.producer import (
    OpenBatch,
    ProducerCore,
    ProducerOptions,
    record_ids,
    submitted_item,
)
from hstreamlite.records import Payload, Record, RecordId, RecordIds
from hstreamlite.sub.effects import Lag
from hstreamlite.ticker import Ticker
from hstreamlite.transaction import Collected, item_list, record_of

log = logging.getLogger("hstreamlite")

_READ_RECORDS = 4096
_READ_BATCHES = 64
_SLICE_NS = 250_000_000
"""Waits are cut to this, so that signal handlers run."""


def open(  # noqa: A001 - hstreamlite.open is how users say it
    path: object,
    *,
    durability: Durability | None = None,
    create: bool = True,
    config: StoreConfig | None = None,
    env: Env | None = None,
) -> Store:
    """Open the store in a directory, creating it if it is absent or empty.

    One owner per directory: StoreLocked names the process that has it. After a crash this recovers;
    `store.recovery` tells what was found. `durability` is the level of appends that name none, and
    goes before that of the config.

    NotAStore, StoreVersionUnsupported, CorruptionError, StorageFull and OSError leave the files as
    they were.

    >>> import hstreamlite as hs, tempfile
    >>> with tempfile.TemporaryDirectory() as path, hs.open(path) as store:
    ...     str(store.create_stream("orders").append(b"first", key="customer-17"))
    '1-1-0'
    """
    config = config_for(config, durability)
    return Store(Engine.open(env or real_env(), path_text(path), config, create=create))


def config_for(config: StoreConfig | None, durability: Durability | None) -> StoreConfig:
    if config is None:
        config = StoreConfig()
    if durability is None:
        return config
    check_durability(durability)
    return replace(config, durability=durability)


def path_text(path: object) -> str:
    """Return a path as text without a trailing slash; ValueError for none."""
    text = fspath(path)  # type: ignore[call-overload]
    text = text.decode() if isinstance(text, bytes) else text
    if not text or "\0" in text:
        raise ValueError(f"path must name a directory, not {text!r}")
    return text.rstrip("/") or "/"


class Store:
    """An open directory. Thread-safe. Leaving the `with` block closes it.

    Close waits for what is staged, stores the progress of all subscriptions, and releases the lock.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._feeds = Feeds(engine)
        self._ticker = Ticker(engine, self._feeds)
        self._ticker.start()
        if engine.env.threaded:
            signals.close_at_exit(self)

    # Streams.

    def create_stream(
        self,
        name: str,
        *,
        backlog: float | timedelta = 0,
        max_bytes: int = 0,
        protect: Iterable[str] = (),
        exists_ok: bool = False,
    ) -> Stream:
        """Create a stream; on disk when this returns.

        backlog: how long records are kept, in seconds or as a timedelta; 0 = for ever. max_bytes:
        how much is kept; 0 = everything. Both free whole segment files, some time after. protect:
        subscriptions whose unread records neither of them drops. StreamExists unless exists_ok,
        which leaves an existing stream as it is.
        """
        pending = self._engine.create_stream(
            name, backlog=backlog, max_bytes=max_bytes, protect=protect, exists_ok=exists_ok
        )
        self._engine.journal.wait(pending.ticket)
        return Stream(self, name)

    def stream(self, name: str) -> Stream:
        """Return a handle, without looking whether the stream exists."""
        return Stream(self, check_name("stream", name))

    def streams(self) -> list[StreamInfo]:
        """Return what there is, by name."""
        self._engine.check_open()
        with self._engine.lock:
            states = sorted(self._engine.catalog.streams.values(), key=lambda s: s.name)
            return [StreamInfo.of(self._engine, state) for state in states]

    def delete_stream(self, name: str, *, force: bool = False) -> None:
        """Delete a stream and its records.

        StreamInUse while it has subscriptions. With force the name is free at once, and those
        subscriptions go on with what was appended before.
        """
        self._engine.journal.wait(self._engine.delete_stream(name, force=force).ticket)
        self._engine.journal.poke()
        self._engine.free_segments()

    # Subscriptions.

    def create_subscription(
        self,
        name: str,
        *,
        stream: str,
        mode: str = "shared",
        ack_timeout: float | timedelta = 60.0,
        max_unacked: int = 10_000,
        start: Place = EARLIEST,
        exists_ok: bool = False,
    ) -> Subscription:
        """Create a subscription; on disk when this returns.

        Its consumers share the stream's records: each record goes to one of them, and again if it
        is not acked within ack_timeout (seconds). At most max_unacked records are out at a time.
        start is fixed now. mode: "shared" spreads batches over the consumers, without order among
        them.
        """
        pending = self._feeds.create(
            name,
            stream=stream,
            mode=mode,
            ack_timeout=ack_timeout,
            max_unacked=max_unacked,
            start=start,
            exists_ok=exists_ok,
        )
        self._engine.journal.wait(pending.ticket)
        return Subscription(self, name)

    def subscription(self, name: str) -> Subscription:
        """Return a handle, without looking whether the subscription exists."""
        return Subscription(self, check_name("subscription", name))

    def subscriptions(self) -> list[SubscriptionInfo]:
        """Return what there is, by name."""
        self._engine.check_open()
        feeds = sorted(self._feeds.all(), key=lambda feed: feed.state.name)
        return [SubscriptionInfo.of(feed) for feed in feeds]

    def delete_subscription(self, name: str, *, force: bool = False) -> None:
        """Delete a subscription and its progress.

        SubscriptionInUse while consumers are attached. With force they end with
        SubscriptionNotFound.
        """
        self._engine.journal.wait(self._feeds.delete(name, force=force).ticket)

    def transaction(self) -> Transaction:
        """Return a context manager: what is done through it happens at its end, all or nothing."""
        return Transaction(Collected(self._engine))

    # The store itself.

    @property
    def path(self) -> str:
        return self._engine.path

    @property
    def closed(self) -> bool:
        return self._engine.closed

    @property
    def recovery(self) -> RecoveryReport:
        """What opening found and did."""
        return self._engine.report

    def stats(self) -> StoreStats:
        """Return counters and sizes; costs O(streams + subscriptions)."""
        self._engine.check_open()
        return stats_of(self._engine, self._feeds)

    def sync(self) -> None:
        """Return when everything appended so far, at whatever level, is on disk."""
        self._engine.check_open()
        self._engine.journal.wait(self._engine.journal.staged())

    def tick(self) -> int | None:
        """Do what the store's own thread does, once; return when it is next needed (ns).

        Only needed where an environment runs without threads.
        """
        self._engine.journal.step()
        return self._ticker.run_once()

    def close(self) -> None:
        """Close. Consumers and readers in other threads end with StoreClosed."""
        signals.closed(self)
        engine = self._engine
        if engine.closed:
            return
        if engine.forked:
            engine.close()
            return
        self._ticker.stop()
        try:
            self._ticker.flush_producers()
            self._feeds.store_all()
        except HStreamError as error:
            log.warning("closing %r: %s", self.path, error)
        finally:
            engine.journal.interrupt()
            engine.close()

    def __enter__(self) -> Self:
        self._engine.check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._engine.catalog.streams)} streams"
        return f"<Store {self.path!r} {state}>"


class Stream:
    """A handle of one stream. Thread-safe."""

    __slots__ = ("_engine", "_store", "name")

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._engine = store._engine
        self.name = name

    def append(
        self,
        payload: Payload | Record,
        *,
        key: str | None = None,
        attributes: dict[str, str] | None = None,
        durability: Durability | None = None,
    ) -> RecordId:
        """Append one record; the level asked for is reached when this returns.

        payload: bytes, or a dict for a JSON record, or a Record with everything in it. Records of
        one key keep their order. "sync" costs a sync of the disk, shared with concurrent callers.
        RecordTooLarge, StorageFull, StreamNotFound: nothing was appended. StoreFailed: unknown.
        """
        engine = self._engine
        state = engine.stream(self.name)
        level = engine.level if durability is None else check_durability(durability)
        item: Any = payload
        if attributes is not None or (key is not None and isinstance(payload, Record)):
            item = record_of(payload, key, attributes)
        if len(state.shard_ids) == 1:
            shard = state.shard_ids[0]
        else:
            shard = engine.shard_for(state, item.key if isinstance(item, Record) else key)
        try:
            record_id: RecordId = fast.append(engine.handle, shard, item, key, level, True)
        except StreamNotFound:
            raise StreamNotFound(self.name) from None
        return record_id

    def append_many(
        self,
        records: Iterable[Payload | Record],
        *,
        key: str | None = None,
        durability: Durability | None = None,
        compression: Compression = "none",
    ) -> RecordIds:
        """Append records together, all or none; return their ids, each made when looked at.

        key applies to bare payloads. BatchTooLarge beyond `transaction_bytes_max`; otherwise as
        `append`.
        """
        engine = self._engine
        level = engine.level if durability is None else check_durability(durability)
        codec = check_compression(compression)
        state = engine.stream(self.name)
        ops, order = engine.ops_of(state, item_list(records), key, codec)
        try:
            ticket, runs = engine.journal.stage(ops, level)
        except StreamNotFound:
            raise StreamNotFound(self.name) from None
        except TransactionTooLarge as error:
            raise BatchTooLarge(error.size, error.limit) from None
        engine.journal.wait(ticket)
        return record_ids(runs, order, ops)

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
        """Return a producer that gathers records into batches.

        A batch goes out at batch_records, batch_bytes or batch_age (seconds), whichever comes
        first. Records not yet at their level count against buffer_bytes; beyond it submit waits,
        or raises BufferFull with on_full="raise". With a name the producer is idempotent: see
        `Producer`.
        """
        options = ProducerOptions(
            batch_records=batch_records,
            batch_bytes=batch_bytes,
            batch_age=batch_age,
            buffer_bytes=buffer_bytes,
            on_full=on_full,
            durability=durability,
            compression=compression,
            name=name,
        )
        return Producer(self._store, ProducerCore(self._engine, self.name, options))

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
        """Return an iterator over records, in append order.

        start and until are EARLIEST, LATEST, a record id or an aware datetime; until is excluded.
        Without follow it ends at what is durable now, with follow it waits for more. key and shard
        narrow it down. RecordTrimmed when start, or a record that the reader stands at, is gone;
        iterating on goes on behind the gap.
        """
        return Reader(self, self._scan(start, until, limit, key, shard, follow), follow=follow)

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
        scan = self._scan(start, until, limit, None, shard, follow)
        return BatchReader(self, scan, follow=follow)

    def _scan(
        self,
        start: object,
        until: object,
        limit: int | None,
        key: str | None,
        shard: int | None,
        follow: bool,
    ) -> Scan:
        return self._engine.scan(
            self._engine.stream(self.name),
            start=start,
            until=until,
            limit=limit,
            key=key,
            shard=shard,
            follow=follow,
        )

    def tail(self) -> RecordId | None:
        """Return the id of the newest durable record; None if there never was one."""
        return self._engine.tail(self._engine.stream(self.name))

    def trim(self, *, before: Place) -> None:
        """Remove the records before a place, for good; on disk when this returns.

        Subscriptions that had not acked them get a gap event.
        """
        pending = self._engine.trim(self.name, before)
        self._engine.journal.wait(pending.ticket)
        self._engine.apply_trims(pending.value)

    def info(self) -> StreamInfo:
        """Return what is known of the stream; StreamNotFound if it does not exist."""
        return StreamInfo.of(self._engine, self._engine.stream(self.name))

    def __repr__(self) -> str:
        return f"<Stream {self.name!r} of {self._engine.path!r}>"


class _Scanner:
    """What readers share: waiting at the tail."""

    def __init__(self, stream: Stream, scan: Scan, *, follow: bool) -> None:
        self._stream = stream
        self._engine = stream._engine
        self._scan = scan
        self._follow = follow
        self._closed = False
        self._buffer: Iterator[Any] = iter(())

    def close(self) -> None:
        """End the iteration, also one that waits in another thread."""
        self._closed = True
        for _ in self._buffer:
            pass  # an iteration under way shares this iterator, and ends with it
        self._engine.journal.poke()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, durable: int, pokes: int) -> bool:
        """Wait for more; False where the environment has no threads to bring it."""
        journal = self._engine.journal
        return journal.wait_change(durable, pokes, _SLICE_NS) or self._engine.env.threaded

    def _gather(self, take: Any, most: int) -> list[Any]:
        journal = self._engine.journal
        while not self._closed:
            self._engine.check_open()
            durable, pokes = journal.durable(), journal.pokes()
            found: list[Any] = take(most)
            if found:
                return found
            if self._scan.done or not self._follow:
                return []
            self._engine.stream(self._stream.name)
            if not self._wait(durable, pokes):
                return []
        return []


class Reader(_Scanner):
    """Iterates over records. One thread at a time."""

    _buffer: Iterator[Record]

    def __iter__(self) -> Iterator[Record]:
        while not self._closed:
            yield from self._buffer
            records = self._gather(self._scan.records, _READ_RECORDS)
            if not records:
                return
            self._buffer = iter(records)

    def __next__(self) -> Record:
        while not self._closed:
            for record in self._buffer:
                return record
            records = self._gather(self._scan.records, _READ_RECORDS)
            if not records:
                break
            self._buffer = iter(records)
        raise StopIteration


class BatchReader(_Scanner):
    """Iterates over batches. One thread at a time."""

    _buffer: Iterator[Batch]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        while not self._closed:
            for batch in self._buffer:
                return batch
            batches = self._gather(self._scan.batches, _READ_BATCHES)
            if not batches:
                break
            self._buffer = iter(batches)
        raise StopIteration


class Submitted:
    """A record on its way: `result` waits for its id."""

    __slots__ = ("_batch", "_index", "_producer")

    def __init__(self, producer: Producer, batch: OpenBatch, index: int) -> None:
        self._producer = producer
        self._batch = batch
        self._index = index

    def result(self) -> RecordId:
        """Return the id once the record has reached its level, or raise the append's own error.

        Sends the batch at once if it is still gathering.
        """
        batch = self._batch
        if not batch.settled:
            self._producer._send(batch)
        if batch.error is not None:
            raise batch.error
        assert batch.ids is not None
        self._producer._engine.journal.wait(batch.ticket)
        return batch.ids[self._index]

    def done(self) -> bool:
        """Say whether `result` would answer at once."""
        batch = self._batch
        return batch.error is not None or (
            batch.ids is not None and batch.ticket <= self._producer._engine.journal.durable()
        )

    def __repr__(self) -> str:
        return f"<Submitted {'done' if self.done() else 'pending'}>"


class Producer:
    """Gathers records into batches. Thread-safe.

    With a name it is idempotent: its records are numbered from 1, `last_sequence` tells after a
    restart how far they are stored, and submitting a number again stores nothing and answers with
    the id of the first time. One producer of a name at a time.
    """

    def __init__(self, store: Store, core: ProducerCore) -> None:
        self._store = store
        self._engine = core.engine
        self._core = core
        self._lock = core.engine.env.threads.rlock()
        store._ticker.add_producer(self)

    @property
    def last_sequence(self) -> int:
        """Number of the last record submitted or stored."""
        return self._core.last_sequence

    def submit(
        self,
        payload: Payload | Record,
        *,
        key: str | None = None,
        attributes: dict[str, str] | None = None,
        sequence: int | None = None,
    ) -> Submitted:
        """Take a record in; waits only while the buffer is full.

        sequence: its number, for producers with a name; by default the next one.
        """
        most = self._engine.config.batch_bytes_max
        item, size = submitted_item(payload, key, attributes, most)
        core = self._core
        self._engine.check_open()
        with self._lock:
            core.check()
            if sequence is not None:
                known = core.duplicate(sequence)
                if known is not None:
                    return Submitted(self, *known)
            while not core.room(size):
                if core.options.on_full == "raise":
                    raise core.full(size)
                core.send()
                core.check()
                ticket = core.oldest_ticket()
                if ticket is not None:
                    self._engine.journal.wait(ticket)
            fresh = core.open is None
            batch, index = core.add(item, size)
            if core.due():
                core.send()
            elif fresh:
                self._store._ticker.wake()
        return Submitted(self, batch, index)

    def _send(self, batch: OpenBatch) -> None:
        if self._engine.forked:
            self._engine.check_open()
        with self._lock:
            if self._core.open is batch:
                self._core.send()

    def send_if_due(self, now: int) -> int | None:
        """Send a batch whose age is up; return the next such time. For the store's own thread."""
        with self._lock:
            deadline = self._core.deadline_ns()
            if deadline is not None and deadline <= now:
                self._core.send()
                deadline = None
            ticket = self._core.last_ticket()
        if ticket:
            self._engine.journal.kick(ticket)
        return deadline

    def flush(self) -> None:
        """Return when everything submitted has reached its level; raises what failed."""
        if self._engine.forked:
            self._engine.check_open()
        with self._lock:
            self._core.send()
            ticket = self._core.last_ticket()
        self._engine.journal.wait(ticket)
        with self._lock:
            self._core.reap()
            if self._core.failure is not None:
                raise self._core.failure

    def close(self) -> None:
        """Flush and refuse further records. A second call does nothing."""
        if self._engine.forked:
            return
        with self._lock:
            if self._core.closed:
                return
            self._core.closed = True
        self._store._ticker.remove_producer(self)
        if not self._engine.closed:
            self.flush()

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
        return f"<Producer of {self._core.stream!r} buffered={self._core.buffered}>"


class Subscription:
    """A handle of one subscription. Thread-safe."""

    __slots__ = ("_store", "name")

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name

    def consumer(self, name: str, *, prefetch: int = 100) -> Consumer:
        """Attach a consumer; ConsumerExists if the name is attached already.

        prefetch: how many records iterating takes at a time, at most.
        """
        check_int("prefetch", prefetch, 1, 1_000_000)
        if not isinstance(name, str) or not name:
            raise ValueError(f"consumer name must be a non-empty str, not {name!r}")
        return Consumer(self._feed(), name, prefetch)

    def _feed(self) -> Feed:
        return self._store._feeds.get(self.name)

    def info(self) -> SubscriptionInfo:
        """Return what is known of the subscription; SubscriptionNotFound if it does not exist."""
        return SubscriptionInfo.of(self._feed())

    def lag(self) -> Lag:
        """Return how far the group is behind, in records."""
        return self._feed().lag()

    def __repr__(self) -> str:
        return f"<Subscription {self.name!r} of {self._store.path!r}>"


class Transaction:
    """Collects appends, acks and catalog changes; commits at the end of the `with` block.

    An exception in the block abandons it. One thread at a time.
    """

    def __init__(self, collected: Collected) -> None:
        self._collected = collected
        self.ids: dict[str, RecordIds] = {}

    def append(
        self,
        stream: str,
        payload: Payload | Record,
        *,
        key: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> None:
        """Append a record to a stream at the commit; its id is then in `ids[stream]`."""
        self._collected.append(stream, record_of(payload, key, attributes))

    def append_many(
        self, stream: str, records: Iterable[Payload | Record], *, key: str | None = None
    ) -> None:
        for record in item_list(records):
            self._collected.append(
                stream, record if isinstance(record, Record) else record_of(record, key, None)
            )

    def ack(self, deliveries: object) -> None:
        """Ack deliveries at the commit: LeaseLost then, and nothing done, if one is not held."""
        for feed, consumer, items in by_consumer(deliveries):
            self._collected.ack(feed, consumer, items)

    def create_stream(
        self,
        name: str,
        *,
        backlog: float | timedelta = 0,
        max_bytes: int = 0,
        protect: Iterable[str] = (),
    ) -> None:
        """Create a stream at the commit; options as `Store.create_stream`."""
        self._collected.create_stream(
            name, {"backlog": backlog, "max_bytes": max_bytes, "protect": protect}
        )

    def delete_stream(self, name: str) -> None:
        self._collected.delete_stream(name)

    def commit(self) -> None:
        """Commit now; on disk when this returns."""
        pending = self._collected.commit()
        self._collected.engine.journal.wait(pending.ticket)
        self.ids = pending.value

    def __enter__(self) -> Self:
        self._collected.check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and not self._collected.ended:
            self.commit()
        self._collected.ended = True

    def __repr__(self) -> str:
        return f"<Transaction {'ended' if self._collected.ended else 'open'}>"
