"""The asyncio face of a store: the same nouns, names and errors as the blocking one.

Nothing here blocks the loop. Appends are staged in place, and their futures resolve when the group
they are in is on disk: one eventfd event a group, however many callers. What may have to wait for
the disk otherwise (opening, catalog changes, cold reads, a full stage) runs in a worker thread.

Cancelling a call loses nothing: an append that was staged goes to disk all the same, deliveries that
nobody is left to take go back to their subscription.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import suppress
from datetime import timedelta
from heapq import heappop, heappush
from itertools import count
from types import TracebackType
from typing import Any, Self, TypeVar

from hstreamlite._native import fast, lib
from hstreamlite._native.files import real_env
from hstreamlite.config import (
    Compression,
    Durability,
    StoreConfig,
    check_compression,
    check_durability,
    check_int,
    check_seconds,
)
from hstreamlite.consumer import ConsumerBase, by_consumer
from hstreamlite.engine import EARLIEST, Engine, Place, check_name
from hstreamlite.env import Env
from hstreamlite.errors import (
    BatchTooLarge,
    ConsumerClosed,
    HStreamError,
    StoreClosed,
    StreamNotFound,
    TransactionTooLarge,
)
from hstreamlite.feed import EMPTY, AckResult, DeliveryBatch, Feeds, check_receive
from hstreamlite.info import StoreStats, StreamInfo, SubscriptionInfo, stats_of
from hstreamlite.log.reader import Batch, NotReady, Scan
from hstreamlite.log.recovery import RecoveryReport
from hstreamlite.producer import (
    OpenBatch,
    ProducerCore,
    ProducerOptions,
    record_ids,
    submitted_item,
)
from hstreamlite.records import Delivery, Payload, Record, RecordId, RecordIds
from hstreamlite.store import config_for, path_text
from hstreamlite.sub.effects import Lag
from hstreamlite.ticker import Ticker
from hstreamlite.transaction import Collected, item_list, record_of

log = logging.getLogger("hstreamlite")
T = TypeVar("T")

_READ_RECORDS = 4096
_READ_BATCHES = 64


class _Bell:
    """Turns the log's eventfd into futures: of tickets, and of any change."""

    def __init__(self) -> None:
        self.fd = int(lib.hsl_notify_open())
        if self.fd < 0:
            raise OSError(-self.fd, "eventfd")
        self._tickets: list[tuple[int, int, asyncio.Future[None]]] = []
        self._changes: list[asyncio.Future[None]] = []
        self._number = count()
        self._wanted = 0
        self._kicking = False
        self._engine: Engine | None = None
        self.loop = asyncio.get_running_loop()

    def attach(self, engine: Engine) -> None:
        self._engine = engine
        self.loop.add_reader(self.fd, self._ring)

    def _ring(self) -> None:
        lib.hsl_notify_drain(self.fd)
        engine = self._engine
        assert engine is not None
        durable = engine.journal.durable()
        tickets = self._tickets
        while tickets and tickets[0][0] <= durable:
            future = heappop(tickets)[2]
            if not future.done():
                future.set_result(None)
        if tickets:
            self._kick()
        changes, self._changes = self._changes, []
        for future in changes:
            if not future.done():
                future.set_result(None)

    def _kick(self) -> None:
        self._kicking = False
        engine = self._engine
        if engine is None:
            return
        try:
            engine.journal.kick(self._wanted)
        except HStreamError as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End every wait with the error."""
        tickets, self._tickets = self._tickets, []
        for _, _, future in tickets:
            if not future.done():
                future.set_exception(error)
        changes, self._changes = self._changes, []
        for future in changes:
            if not future.done():
                future.set_result(None)

    def ticket(self, ticket: int) -> asyncio.Future[None]:
        """Return a future of the ticket becoming durable."""
        future = self.loop.create_future()
        if self._engine is None:
            future.set_exception(StoreClosed(""))
            return future
        if ticket <= self._engine.journal.durable():
            future.set_result(None)
            return future
        heappush(self._tickets, (ticket, next(self._number), future))
        self._wanted = max(self._wanted, ticket)
        if not self._kicking:
            self._kicking = True
            self.loop.call_soon(self._kick)
        return future

    async def change(self, durable: int, timeout: float | None) -> None:
        """Return after the next group or poke, or the time-out."""
        engine = self._engine
        if engine is None or engine.journal.durable() > durable:
            return
        staged = engine.journal.staged()
        if staged > durable:
            self._wanted = max(self._wanted, staged)
            self._kick()
        future = self.loop.create_future()
        self._changes.append(future)
        timer = None if timeout is None else self.loop.call_later(timeout, _settle, future)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        if self._engine is None:
            return
        error = StoreClosed(self._engine.path)
        self.loop.remove_reader(self.fd)
        self._engine = None
        self.fail(error)
        lib.hsl_notify_close(self.fd)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _in_thread(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Run what may block in a worker thread; a cancelled caller does not stop it."""
    return await asyncio.to_thread(function, *args, **options)


class open:  # noqa: A001, N801 - hstreamlite.aio.open is how users say it
    """Open a store: ``async with open(path) as store`` or ``store = await open(path)``.

    Arguments and errors as `hstreamlite.open`. The store belongs to the running loop.
    """

    def __init__(
        self,
        path: object,
        *,
        durability: Durability | None = None,
        create: bool = True,
        config: StoreConfig | None = None,
        env: Env | None = None,
    ) -> None:
        self._path = path_text(path)
        self._config = config_for(config, durability)
        self._create = create
        self._env = env
        self._store: Store | None = None

    async def _open(self) -> Store:
        bell = _Bell()
        opening = asyncio.ensure_future(
            _in_thread(
                Engine.open,
                self._env or real_env(),
                self._path,
                self._config,
                create=self._create,
                notify_fd=bell.fd,
            )
        )
        try:
            engine = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_discard_engine)
            raise
        except BaseException:
            lib.hsl_notify_close(bell.fd)
            raise
        return Store(engine, bell)

    def __await__(self) -> Generator[Any, None, Store]:
        return self._open().__await__()

    async def __aenter__(self) -> Store:
        self._store = await self._open()
        return self._store

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._store is not None
        await self._store.close()


def _discard_engine(opening: asyncio.Future[Engine]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class Store:
    """An open directory. Belongs to one event loop."""

    def __init__(self, engine: Engine, bell: _Bell) -> None:
        self._engine = engine
        self._bell = bell
        bell.attach(engine)
        self._feeds = Feeds(engine)
        self._producers: set[Producer] = set()
        self._ticker = Ticker(engine, self._feeds)
        self._ticker.start()

    async def create_stream(
        self,
        name: str,
        *,
        backlog: float | timedelta = 0,
        max_bytes: int = 0,
        protect: Iterable[str] = (),
        exists_ok: bool = False,
    ) -> Stream:
        """Create a stream, as `hstreamlite.Store.create_stream`."""
        pending = await _in_thread(
            self._engine.create_stream,
            name,
            backlog=backlog,
            max_bytes=max_bytes,
            protect=protect,
            exists_ok=exists_ok,
        )
        await self._bell.ticket(pending.ticket)
        return Stream(self, name)

    def stream(self, name: str) -> Stream:
        """Return a handle, without looking whether the stream exists."""
        return Stream(self, check_name("stream", name))

    async def streams(self) -> list[StreamInfo]:
        """Return what there is, by name."""
        self._engine.check_open()
        return await _in_thread(_stream_infos, self._engine)

    async def delete_stream(self, name: str, *, force: bool = False) -> None:
        """Delete a stream and its records, as `hstreamlite.Store.delete_stream`."""
        pending = await _in_thread(self._engine.delete_stream, name, force=force)
        await self._bell.ticket(pending.ticket)
        self._engine.journal.poke()
        await _in_thread(self._engine.free_segments)

    async def create_subscription(
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
        """Create a subscription, as `hstreamlite.Store.create_subscription`."""
        pending = await _in_thread(
            self._feeds.create,
            name,
            stream=stream,
            mode=mode,
            ack_timeout=ack_timeout,
            max_unacked=max_unacked,
            start=start,
            exists_ok=exists_ok,
        )
        await self._bell.ticket(pending.ticket)
        return Subscription(self, name)

    def subscription(self, name: str) -> Subscription:
        """Return a handle, without looking whether the subscription exists."""
        return Subscription(self, check_name("subscription", name))

    async def subscriptions(self) -> list[SubscriptionInfo]:
        """Return what there is, by name."""
        self._engine.check_open()
        feeds = sorted(self._feeds.all(), key=lambda feed: feed.state.name)
        return [SubscriptionInfo.of(feed) for feed in feeds]

    async def delete_subscription(self, name: str, *, force: bool = False) -> None:
        """Delete a subscription, as `hstreamlite.Store.delete_subscription`."""
        pending = await _in_thread(self._feeds.delete, name, force=force)
        await self._bell.ticket(pending.ticket)

    def transaction(self) -> Transaction:
        """Return an async context manager that commits at its end, all or nothing."""
        return Transaction(self, Collected(self._engine))

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

    async def stats(self) -> StoreStats:
        """Return counters and sizes."""
        self._engine.check_open()
        return await _in_thread(stats_of, self._engine, self._feeds)

    async def sync(self) -> None:
        """Return when everything appended so far, at whatever level, is on disk."""
        self._engine.check_open()
        await self._bell.ticket(self._engine.journal.staged())

    async def close(self) -> None:
        """Close. Waiting tasks end with StoreClosed."""
        engine = self._engine
        if engine.closed:
            return
        for producer in list(self._producers):
            with suppress(HStreamError):
                await producer.flush()
        await _in_thread(self._close)
        self._bell.close()

    def _close(self) -> None:
        self._ticker.stop()
        try:
            self._feeds.store_all()
        except HStreamError as error:
            log.warning("closing %r: %s", self.path, error)
        finally:
            self._engine.journal.interrupt()
            self._engine.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._engine.catalog.streams)} streams"
        return f"<aio.Store {self.path!r} {state}>"


def _stream_infos(engine: Engine) -> list[StreamInfo]:
    with engine.lock:
        states = sorted(engine.catalog.streams.values(), key=lambda state: state.name)
        return [StreamInfo.of(engine, state) for state in states]


class Stream:
    """A handle of one stream."""

    __slots__ = ("_bell", "_engine", "_store", "name")

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._engine = store._engine
        self._bell = store._bell
        self.name = name

    async def append(
        self,
        payload: Payload | Record,
        *,
        key: str | None = None,
        attributes: dict[str, str] | None = None,
        durability: Durability | None = None,
    ) -> RecordId:
        """Append one record; the level asked for is reached when this returns."""
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
            staged = fast.append(engine.handle, shard, item, key, level, None)
            if staged is None:
                staged = await _in_thread(
                    fast.append, engine.handle, shard, item, key, level, False
                )
        except StreamNotFound:
            raise StreamNotFound(self.name) from None
        record_id: RecordId
        record_id, ticket = staged
        if ticket:
            await self._bell.ticket(ticket)
        return record_id

    async def append_many(
        self,
        records: Iterable[Payload | Record],
        *,
        key: str | None = None,
        durability: Durability | None = None,
        compression: Compression = "none",
    ) -> RecordIds:
        """Append records together, all or none."""
        engine = self._engine
        level = engine.level if durability is None else check_durability(durability)
        codec = check_compression(compression)
        state = engine.stream(self.name)
        items = item_list(records)
        if codec:
            ops, order = await _in_thread(engine.ops_of, state, items, key, codec)
        else:
            ops, order = engine.ops_of(state, items, key, codec)
        try:
            staged = engine.journal.try_stage(ops, level)
            if staged is None:
                staged = await _in_thread(engine.journal.stage, ops, level)
        except StreamNotFound:
            raise StreamNotFound(self.name) from None
        except TransactionTooLarge as error:
            raise BatchTooLarge(error.size, error.limit) from None
        ticket, runs = staged
        if ticket:
            await self._bell.ticket(ticket)
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
        """Return a producer that gathers records, as `hstreamlite.Stream.producer`."""
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
        """Return an async iterator over records, as `hstreamlite.Stream.read`."""
        scan = self._scan(start, until, limit, key, shard, follow)
        return Reader(self, scan, scan.records, _READ_RECORDS, follow=follow)

    def read_batches(
        self,
        *,
        start: Place = EARLIEST,
        until: Place | None = None,
        limit: int | None = None,
        shard: int | None = None,
        follow: bool = False,
    ) -> BatchReader:
        """Return an async iterator over whole undecoded batches."""
        scan = self._scan(start, until, limit, None, shard, follow)
        return BatchReader(self, scan, scan.batches, _READ_BATCHES, follow=follow)

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

    async def tail(self) -> RecordId | None:
        """Return the id of the newest durable record; None if there never was one."""
        return self._engine.tail(self._engine.stream(self.name))

    async def trim(self, *, before: Place) -> None:
        """Remove the records before a place, as `hstreamlite.Stream.trim`."""
        pending = await _in_thread(self._engine.trim, self.name, before)
        await self._bell.ticket(pending.ticket)
        await _in_thread(self._engine.apply_trims, pending.value)

    async def info(self) -> StreamInfo:
        """Return what is known of the stream; StreamNotFound if it does not exist."""
        return StreamInfo.of(self._engine, self._engine.stream(self.name))

    def __repr__(self) -> str:
        return f"<aio.Stream {self.name!r} of {self._engine.path!r}>"


class _Scanner:
    """What readers share: waiting at the tail without holding up the loop."""

    def __init__(
        self,
        stream: Stream,
        scan: Scan,
        take: Callable[..., list[Any]],
        most: int,
        *,
        follow: bool,
    ) -> None:
        self._stream = stream
        self._engine = stream._engine
        self._bell = stream._bell
        self._scan = scan
        self._take = take
        self._most = most
        self._follow = follow
        self._closed = False
        self._buffer: list[Any] = []

    async def close(self) -> None:
        """End the iteration, also one that waits in another task."""
        self._closed = True
        if not self._engine.closed:
            self._engine.journal.poke()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _next(self) -> Any:
        while not self._closed:
            if self._buffer:
                return self._buffer.pop()
            self._engine.check_open()
            durable = self._engine.journal.durable()
            try:
                found = self._take(self._most, may_block=False)
            except NotReady:
                found = await _in_thread(self._take, self._most)
            if found:
                found.reverse()
                self._buffer = found
                continue
            if self._scan.done or not self._follow:
                break
            self._engine.stream(self._stream.name)
            await self._bell.change(durable, None)
        raise StopAsyncIteration


class Reader(_Scanner):
    """Iterates over records. One task at a time."""

    def __aiter__(self) -> AsyncIterator[Record]:
        return self

    async def __anext__(self) -> Record:
        record: Record = await self._next()
        return record


class BatchReader(_Scanner):
    """Iterates over batches. One task at a time."""

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        batch: Batch = await self._next()
        return batch


class Submitted:
    """A record on its way: await it, or `result`, for its id."""

    __slots__ = ("_batch", "_index", "_producer")

    def __init__(self, producer: Producer, batch: OpenBatch, index: int) -> None:
        self._producer = producer
        self._batch = batch
        self._index = index

    async def result(self) -> RecordId:
        """Return the id once the record has reached its level, or raise the append's own error."""
        batch = self._batch
        if not batch.settled:
            await self._producer._send(batch)
        if batch.error is not None:
            raise batch.error
        assert batch.ids is not None
        await self._producer._bell.ticket(batch.ticket)
        return batch.ids[self._index]

    def __await__(self) -> Generator[Any, None, RecordId]:
        return self.result().__await__()

    def done(self) -> bool:
        """Say whether `result` would answer at once."""
        batch = self._batch
        durable = self._producer._engine.journal.durable()
        return batch.error is not None or (batch.ids is not None and batch.ticket <= durable)


class Producer:
    """Gathers records into batches, as `hstreamlite.Producer`."""

    def __init__(self, store: Store, core: ProducerCore) -> None:
        self._store = store
        self._engine = core.engine
        self._bell = store._bell
        self._core = core
        self._sending = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        store._producers.add(self)

    @property
    def last_sequence(self) -> int:
        """Number of the last record submitted or stored."""
        return self._core.last_sequence

    async def submit(
        self,
        payload: Payload | Record,
        *,
        key: str | None = None,
        attributes: dict[str, str] | None = None,
        sequence: int | None = None,
    ) -> Submitted:
        """Take a record in; waits only while the buffer is full."""
        most = self._engine.config.batch_bytes_max
        item, size = submitted_item(payload, key, attributes, most)
        core = self._core
        core.check()
        while not core.room(size):
            if core.options.on_full == "raise":
                raise core.full(size)
            await self._send(core.open)
            core.check()
            ticket = core.oldest_ticket()
            if ticket is not None:
                await self._bell.ticket(ticket)
            core.check()
        if sequence is not None:
            known = core.duplicate(sequence)
            if known is not None:
                return Submitted(self, *known)
        batch, index = core.add(item, size)
        if core.due():
            await asyncio.shield(self._spawn(batch))
        elif self._timer is None:
            self._timer = self._bell.loop.call_later(core.options.batch_age, self._age)
        return Submitted(self, batch, index)

    def _age(self) -> None:
        self._timer = None
        if self._core.open is not None:
            self._spawn(self._core.open)

    def _spawn(self, batch: OpenBatch) -> asyncio.Task[None]:
        task = self._bell.loop.create_task(self._send(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _send(self, batch: OpenBatch | None) -> None:
        """Stage the batch if it is still gathering; returns when it is settled."""
        async with self._sending:
            core = self._core
            if batch is None or core.open is not batch:
                return
            core.detach()
            staging = asyncio.ensure_future(_in_thread(core.stage, batch))
            try:
                await asyncio.shield(staging)
            except asyncio.CancelledError:
                staging.add_done_callback(lambda _: core.settle(batch))
                raise
            core.settle(batch)
            if batch.error is None and batch.ticket:
                self._bell.ticket(batch.ticket)

    async def flush(self) -> None:
        """Return when everything submitted has reached its level; raises what failed."""
        core = self._core
        if core.open is not None:
            await self._send(core.open)
        async with self._sending:
            pass
        ticket = core.last_ticket()
        if ticket:
            await self._bell.ticket(ticket)
        core.reap()
        if core.failure is not None:
            raise core.failure

    async def close(self) -> None:
        """Flush and refuse further records. A second call does nothing."""
        if self._core.closed:
            return
        self._core.closed = True
        self._store._producers.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if not self._engine.closed:
            await self.flush()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<aio.Producer of {self._core.stream!r} buffered={self._core.buffered}>"


class Subscription:
    """A handle of one subscription."""

    __slots__ = ("_store", "name")

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name

    def consumer(self, name: str, *, prefetch: int = 100) -> Consumer:
        """Attach a consumer; ConsumerExists if the name is attached already."""
        check_int("prefetch", prefetch, 1, 1_000_000)
        if not isinstance(name, str) or not name:
            raise ValueError(f"consumer name must be a non-empty str, not {name!r}")
        return Consumer(self._store, self.name, name, prefetch)

    async def info(self) -> SubscriptionInfo:
        """Return what is known; SubscriptionNotFound if it does not exist."""
        return SubscriptionInfo.of(self._store._feeds.get(self.name))

    async def lag(self) -> Lag:
        """Return how far the group is behind, in records."""
        return self._store._feeds.get(self.name).lag()

    def __repr__(self) -> str:
        return f"<aio.Subscription {self.name!r} of {self._store.path!r}>"


class Consumer(ConsumerBase):
    """One attached reader of a subscription, as `hstreamlite.Consumer`."""

    def __init__(self, store: Store, subscription: str, name: str, prefetch: int) -> None:
        self._bell = store._bell
        super().__init__(store._feeds.get(subscription), name, prefetch)

    async def receive(
        self, max_records: int = 100, timeout: float | None = None
    ) -> DeliveryBatch:
        """Return up to max_records deliveries, as soon as there is one; () after timeout seconds."""
        check_receive(max_records)
        clock = self._feed.engine.env.clock
        end = None
        if timeout is not None:
            end = clock.mono_ns() + int(check_seconds("timeout", timeout, 0, 1e9) * 1e9)
        try:
            while True:
                self._check()
                durable = self._journal.durable()
                batch = self._fetch(max_records, may_block=False)
                if batch is None:
                    batch = await self._fetch_in_thread(max_records)
                if batch:
                    return batch
                now = clock.mono_ns()
                if end is not None and now >= end:
                    return EMPTY
                waits = [] if end is None else [end - now]
                due = self._feed.next_deadline()
                if due is not None:
                    waits.append(max(0, due - now))
                await self._bell.change(durable, min(waits) / 1e9 if waits else None)
        finally:
            if not self._closed:
                self._feed.leave_line(self.name)

    async def _fetch_in_thread(self, max_records: int) -> DeliveryBatch | None:
        """Fetch what has to be read from a file; deliveries that nobody takes go back."""
        fetching = asyncio.ensure_future(
            _in_thread(self._fetch, max_records, may_block=True)
        )
        try:
            return await asyncio.shield(fetching)
        except asyncio.CancelledError:
            fetching.add_done_callback(self._give_back)
            raise

    def _give_back(self, fetching: asyncio.Future[DeliveryBatch | None]) -> None:
        if not fetching.cancelled() and fetching.exception() is None and not self._closed:
            batch = fetching.result()
            if batch:
                self._feed.release(self.name, batch.spans, 0)

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        clock = self._feed.engine.env.clock
        while not self._closed:
            try:
                batch = await self.receive(self._take)
            except ConsumerClosed:
                return
            started = clock.mono_ns()
            for delivery in batch:
                if self._closed:
                    return
                yield delivery
            self._pace(clock.mono_ns() - started)

    async def ack(self, deliveries: Delivery | Iterable[Any]) -> AckResult:
        """Ack a delivery, several, or a whole batch, as `hstreamlite.Consumer.ack`."""
        return self._ack_items(deliveries)

    async def release(
        self, deliveries: Delivery | Iterable[Any], *, after: float | timedelta | None = None
    ) -> int:
        """Give deliveries back, to be sent again now or after a delay; returns how many."""
        return self._release_items(deliveries, after)

    async def extend(
        self, deliveries: Delivery | Iterable[Any], *, by: float | timedelta
    ) -> int:
        """Move the deadline of deliveries to `by` seconds from now; returns how many are held."""
        return self._extend_items(deliveries, by)

    async def close(self) -> None:
        """Detach; what is unacked goes to others at once. A second call does nothing."""
        await _in_thread(self._leave)

    def _ack(self, delivery: Delivery) -> Awaitable[None]:
        self._check()
        record_id = delivery.id
        self._feed.ack_one(record_id.shard_id, record_id.lsn)
        return _done()

    def _release(self, delivery: Delivery, after: float | timedelta | None) -> Awaitable[None]:
        self._release_items(delivery, after)
        return _done()

    def _extend(self, delivery: Delivery, by: float | timedelta) -> Awaitable[None]:
        self._extend_items(delivery, by)
        return _done()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class _Done:
    """Awaitable that is done: what was asked for happened in the call."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


def _done() -> _Done:
    return _DONE


_DONE = _Done()


class Transaction:
    """Collects appends, acks and catalog changes; commits at the end of the `async with` block."""

    def __init__(self, store: Store, collected: Collected) -> None:
        self._bell = store._bell
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

    async def commit(self) -> None:
        """Commit now; on disk when this returns."""
        pending = await _in_thread(self._collected.commit)
        await self._bell.ticket(pending.ticket)
        self.ids = pending.value

    async def __aenter__(self) -> Self:
        self._collected.check()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and not self._collected.ended:
            await self.commit()
        self._collected.ended = True
