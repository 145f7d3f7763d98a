"""What every face of a store can do, as the scenarios use it, and the faces that can do it.

The protocols have the shape of the asyncio face, which is used as it is. Calls of the blocking face
that may wait run in worker threads, so that scenarios can let them overlap.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import pytest

import hstreamlite as hs
from hstreamlite._native.files import real_env
from hstreamlite.info import StoreStats, StreamInfo, SubscriptionInfo
from hstreamlite.log.reader import Batch
from hstreamlite.log.recovery import RecoveryReport
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.server import Server
from hstreamlite.remote.thread import LoopThread, new_loop
from hstreamlite.store import config_for
from hstreamlite.sub.effects import Event, Gap, Lag

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class Iterating(Protocol[R_co]):
    """A Reader or a BatchReader."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...
    def __aiter__(self) -> AsyncIterator[R_co]: ...
    async def __anext__(self) -> R_co: ...
    async def close(self) -> None: ...


class Pending(Protocol):
    """What submitting answers with."""

    async def result(self) -> hs.RecordId: ...
    def done(self) -> bool: ...


class Producer(Protocol):
    @property
    def last_sequence(self) -> int: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...
    async def submit(self, *args: Any, **options: Any) -> Pending: ...
    async def flush(self) -> None: ...
    async def close(self) -> None: ...


class Consumer(Protocol):
    name: str
    subscription: str

    @property
    def closed(self) -> bool: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...
    def __aiter__(self) -> AsyncIterator[hs.Delivery]: ...
    async def receive(self, *args: Any, **options: Any) -> hs.DeliveryBatch: ...
    async def run(self, handle: Callable[..., object], **options: Any) -> None: ...
    async def ack(self, *args: Any, **options: Any) -> hs.AckResult: ...
    async def commit(self) -> None: ...
    async def release(self, *args: Any, **options: Any) -> int: ...
    async def extend(self, *args: Any, **options: Any) -> int: ...
    async def close(self) -> None: ...
    def gaps(self) -> tuple[Gap, ...]: ...
    def events(self) -> tuple[Event, ...]: ...


class Stream(Protocol):
    name: str

    async def append(self, *args: Any, **options: Any) -> hs.RecordId: ...
    async def append_many(self, *args: Any, **options: Any) -> hs.RecordIds: ...
    def producer(self, *args: Any, **options: Any) -> Producer: ...
    def read(self, *args: Any, **options: Any) -> Iterating[hs.Record]: ...
    def read_batches(self, *args: Any, **options: Any) -> Iterating[Batch]: ...
    async def tail(self) -> hs.RecordId | None: ...
    async def trim(self, *args: Any, **options: Any) -> None: ...
    async def info(self) -> StreamInfo: ...


class Subscription(Protocol):
    name: str

    def consumer(self, *args: Any, **options: Any) -> Consumer: ...
    async def info(self) -> SubscriptionInfo: ...
    async def lag(self) -> Lag: ...
    async def seek(self, *args: Any, **options: Any) -> None: ...
    async def redrive(self, *args: Any, **options: Any) -> int: ...
    async def skip_damaged(self) -> int: ...
    async def pause(self) -> None: ...
    async def resume(self) -> None: ...


class Transaction(Protocol):
    ids: dict[str, hs.RecordIds]

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...
    def append(self, *args: Any, **options: Any) -> None: ...
    def append_many(self, *args: Any, **options: Any) -> None: ...
    def ack(self, *args: Any, **options: Any) -> None: ...
    def create_stream(self, *args: Any, **options: Any) -> None: ...
    def delete_stream(self, *args: Any, **options: Any) -> None: ...
    async def commit(self) -> None: ...


class Store(Protocol):
    @property
    def path(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    @property
    def recovery(self) -> RecoveryReport: ...
    async def create_stream(self, *args: Any, **options: Any) -> Stream: ...
    def stream(self, *args: Any, **options: Any) -> Stream: ...
    async def streams(self) -> list[StreamInfo]: ...
    async def delete_stream(self, *args: Any, **options: Any) -> None: ...
    async def create_subscription(self, *args: Any, **options: Any) -> Subscription: ...
    def subscription(self, *args: Any, **options: Any) -> Subscription: ...
    async def subscriptions(self) -> list[SubscriptionInfo]: ...
    async def delete_subscription(self, *args: Any, **options: Any) -> None: ...
    def transaction(self) -> Transaction: ...
    async def stats(self) -> StoreStats: ...
    async def sync(self) -> None: ...
    async def close(self) -> None: ...


class Face(Protocol):
    """How a store is reached."""

    name: str

    def open(self, *args: Any, **options: Any) -> AbstractAsyncContextManager[Store]: ...


_END: Any = object()


async def _call(function: Callable[..., T], *args: Any, **options: Any) -> T:
    # A thread lets go of its work and of the result a moment after they were waited for, and who
    # drops a noun would not be the last that holds it.
    work, found = [partial(function, *args, **options)], []
    await asyncio.to_thread(lambda: found.append(work.pop()()))
    return found.pop()


class _Blocking:
    """A noun of the blocking face."""

    def __init__(self, noun: Any) -> None:
        self._noun = noun

    async def __aenter__(self) -> Self:
        await _call(self._noun.__enter__)
        return self

    async def __aexit__(self, *args: object) -> None:
        await _call(self._noun.__exit__, *args)

    async def close(self) -> None:
        await _call(self._noun.close)

    def __repr__(self) -> str:
        return repr(self._noun)


class _BlockingReader(_Blocking):
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        found = await _call(next, self._noun, _END)
        if found is _END:
            raise StopAsyncIteration
        return found


class _BlockingPending(_Blocking):
    async def result(self) -> hs.RecordId:
        result: hs.RecordId = await _call(self._noun.result)
        return result

    def done(self) -> bool:
        done: bool = self._noun.done()
        return done


class _BlockingProducer(_Blocking):
    @property
    def last_sequence(self) -> int:
        last: int = self._noun.last_sequence
        return last

    async def submit(self, *args: Any, **options: Any) -> Pending:
        return _BlockingPending(await _call(self._noun.submit, *args, **options))

    async def flush(self) -> None:
        await _call(self._noun.flush)


class _BlockingConsumer(_Blocking):
    def __init__(self, noun: hs.Consumer) -> None:
        super().__init__(noun)
        self.name = noun.name
        self.subscription = noun.subscription

    @property
    def closed(self) -> bool:
        closed: bool = self._noun.closed
        return closed

    async def __aiter__(self) -> AsyncIterator[hs.Delivery]:
        iterator: Iterator[hs.Delivery] = iter(self._noun)
        while (delivery := await _call(next, iterator, _END)) is not _END:
            yield delivery

    async def receive(self, *args: Any, **options: Any) -> hs.DeliveryBatch:
        batch: hs.DeliveryBatch = await _call(self._noun.receive, *args, **options)
        return batch

    async def run(
        self, handle: Callable[..., object], *, concurrency: int = 1, **options: Any
    ) -> None:
        await _call(self._noun.run, handle, workers=concurrency, **options)

    async def ack(self, *args: Any, **options: Any) -> hs.AckResult:
        result: hs.AckResult = await _call(self._noun.ack, *args, **options)
        return result

    async def commit(self) -> None:
        await _call(self._noun.commit)

    async def release(self, *args: Any, **options: Any) -> int:
        count: int = await _call(self._noun.release, *args, **options)
        return count

    async def extend(self, *args: Any, **options: Any) -> int:
        count: int = await _call(self._noun.extend, *args, **options)
        return count

    def gaps(self) -> tuple[Gap, ...]:
        gaps: tuple[Gap, ...] = self._noun.gaps()
        return gaps

    def events(self) -> tuple[Event, ...]:
        events: tuple[Event, ...] = self._noun.events()
        return events


class _BlockingStream(_Blocking):
    def __init__(self, noun: hs.Stream) -> None:
        super().__init__(noun)
        self.name = noun.name

    async def append(self, *args: Any, **options: Any) -> hs.RecordId:
        record_id: hs.RecordId = await _call(self._noun.append, *args, **options)
        return record_id

    async def append_many(self, *args: Any, **options: Any) -> hs.RecordIds:
        ids: hs.RecordIds = await _call(self._noun.append_many, *args, **options)
        return ids

    def producer(self, *args: Any, **options: Any) -> Producer:
        return _BlockingProducer(self._noun.producer(*args, **options))

    def read(self, *args: Any, **options: Any) -> Iterating[hs.Record]:
        return _BlockingReader(self._noun.read(*args, **options))

    def read_batches(self, *args: Any, **options: Any) -> Iterating[Batch]:
        return _BlockingReader(self._noun.read_batches(*args, **options))

    async def tail(self) -> hs.RecordId | None:
        tail: hs.RecordId | None = await _call(self._noun.tail)
        return tail

    async def trim(self, *args: Any, **options: Any) -> None:
        await _call(self._noun.trim, *args, **options)

    async def info(self) -> StreamInfo:
        info: StreamInfo = await _call(self._noun.info)
        return info


class _BlockingSubscription(_Blocking):
    def __init__(self, noun: hs.Subscription) -> None:
        super().__init__(noun)
        self.name = noun.name

    def consumer(self, *args: Any, **options: Any) -> Consumer:
        return _BlockingConsumer(self._noun.consumer(*args, **options))

    async def info(self) -> SubscriptionInfo:
        info: SubscriptionInfo = await _call(self._noun.info)
        return info

    async def lag(self) -> Lag:
        lag: Lag = await _call(self._noun.lag)
        return lag

    async def seek(self, *args: Any, **options: Any) -> None:
        await _call(self._noun.seek, *args, **options)

    async def redrive(self, *args: Any, **options: Any) -> int:
        return await _call(self._noun.redrive, *args, **options)  # type: ignore[no-any-return]

    async def skip_damaged(self) -> int:
        return await _call(self._noun.skip_damaged)  # type: ignore[no-any-return]

    async def pause(self) -> None:
        await _call(self._noun.pause)

    async def resume(self) -> None:
        await _call(self._noun.resume)


class _BlockingTransaction(_Blocking):
    @property
    def ids(self) -> dict[str, hs.RecordIds]:
        ids: dict[str, hs.RecordIds] = self._noun.ids
        return ids

    @ids.setter
    def ids(self, ids: dict[str, hs.RecordIds]) -> None:
        self._noun.ids = ids

    def append(self, *args: Any, **options: Any) -> None:
        self._noun.append(*args, **options)

    def append_many(self, *args: Any, **options: Any) -> None:
        self._noun.append_many(*args, **options)

    def ack(self, *args: Any, **options: Any) -> None:
        self._noun.ack(*args, **options)

    def create_stream(self, *args: Any, **options: Any) -> None:
        self._noun.create_stream(*args, **options)

    def delete_stream(self, *args: Any, **options: Any) -> None:
        self._noun.delete_stream(*args, **options)

    async def commit(self) -> None:
        await _call(self._noun.commit)


class _BlockingStore(_Blocking):
    def __init__(self, noun: Any, engine: Any = None) -> None:
        super().__init__(noun)
        self._engine = engine or noun._engine

    @property
    def path(self) -> str:
        path: str = self._noun.path
        return path

    @property
    def closed(self) -> bool:
        closed: bool = self._noun.closed
        return closed

    @property
    def recovery(self) -> RecoveryReport:
        report: RecoveryReport = self._noun.recovery
        return report

    async def create_stream(self, *args: Any, **options: Any) -> Stream:
        return _BlockingStream(await _call(self._noun.create_stream, *args, **options))

    def stream(self, *args: Any, **options: Any) -> Stream:
        return _BlockingStream(self._noun.stream(*args, **options))

    async def streams(self) -> list[StreamInfo]:
        infos: list[StreamInfo] = await _call(self._noun.streams)
        return infos

    async def delete_stream(self, *args: Any, **options: Any) -> None:
        await _call(self._noun.delete_stream, *args, **options)

    async def create_subscription(self, *args: Any, **options: Any) -> Subscription:
        return _BlockingSubscription(await _call(self._noun.create_subscription, *args, **options))

    def subscription(self, *args: Any, **options: Any) -> Subscription:
        return _BlockingSubscription(self._noun.subscription(*args, **options))

    async def subscriptions(self) -> list[SubscriptionInfo]:
        infos: list[SubscriptionInfo] = await _call(self._noun.subscriptions)
        return infos

    async def delete_subscription(self, *args: Any, **options: Any) -> None:
        await _call(self._noun.delete_subscription, *args, **options)

    def transaction(self) -> Transaction:
        return _BlockingTransaction(self._noun.transaction())

    async def stats(self) -> StoreStats:
        stats: StoreStats = await _call(self._noun.stats)
        return stats

    async def sync(self) -> None:
        await _call(self._noun.sync)


class _OpenBlocking:
    def __init__(self, *args: Any, **options: Any) -> None:
        self._args = args
        self._options = options
        self._store: _BlockingStore | None = None

    async def __aenter__(self) -> Store:
        self._store = _BlockingStore(await _call(hs.open, *self._args, **self._options))
        return self._store

    async def __aexit__(self, *args: object) -> None:
        assert self._store is not None
        await self._store.close()


class BlockingFace:
    name = "blocking"

    def open(self, *args: Any, **options: Any) -> AbstractAsyncContextManager[Store]:
        return _OpenBlocking(*args, **options)


class AsyncioFace:
    name = "asyncio"

    def open(self, *args: Any, **options: Any) -> AbstractAsyncContextManager[Store]:
        return hs.aio.open(*args, **options)


class _FollowedStream:
    """A stream written through its owner's handle and read through a follower's."""

    _READS = frozenset(["info", "name", "read", "read_batches", "tail"])

    def __init__(self, writer: Stream, reader: Stream) -> None:
        self._writer = writer
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader if name in self._READS else self._writer, name)


class _FollowedStore:
    """A store written by its owner and read, with all that it tells, through a follower."""

    _READS = frozenset(["streams", "subscriptions"])

    def __init__(self, writer: Any, reader: Any) -> None:
        self._writer = writer
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader if name in self._READS else self._writer, name)

    async def create_stream(self, *args: Any, **options: Any) -> Any:
        stream = await self._writer.create_stream(*args, **options)
        return _FollowedStream(stream, self._reader.stream(stream.name))

    def stream(self, name: str) -> Any:
        return _FollowedStream(self._writer.stream(name), self._reader.stream(name))


class FollowedFace:
    """Two stores over one directory: one writes, the other is read."""

    def __init__(self, face: Face) -> None:
        self.name = f"followed {face.name}"
        self._face = face

    @asynccontextmanager
    async def open(self, *args: Any, **options: Any) -> AsyncIterator[Store]:
        async with (
            self._face.open(*args, **options) as writer,
            self._face.open(*args, read_only=True, **options) as reader,
        ):
            store: Any = _FollowedStore(writer, reader)
            yield store


class _RemoteStore:
    """A store of the asyncio face behind a connection, with the engine at the other end."""

    def __init__(self, noun: Any, engine: Any) -> None:
        self._noun = noun
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._noun, name)

    def __repr__(self) -> str:
        return repr(self._noun)


@asynccontextmanager
async def served(
    path: object, *, create: bool | None = None, durability: Any = None, config: Any = None
) -> AsyncIterator[Server]:
    """Serve the store of a directory, on a socket in it."""
    if create is False and not Path(str(path)).exists():  # noqa: ASYNC240 - of a test
        raise FileNotFoundError(path)
    settings = ServerConfig(
        store=str(path), port=0, http=False, store_config=config_for(config, durability)
    )
    server = Server(settings)
    loop = server_loop()
    await _call(loop.run, server.start)
    try:
        yield server
    finally:
        await _call(loop.run, server.stop)


@cache
def server_loop() -> LoopThread:
    """Return the loop of all servers: not that of a test, which calls of the blocking face hold
    up."""
    return LoopThread(real_env(), new_loop())


class RemoteAsyncioFace:
    name = "remote asyncio"

    @asynccontextmanager
    async def open(self, path: object, **options: Any) -> AsyncIterator[Store]:
        async with served(path, **options) as server, hs.aio.connect(f"unix:{path}") as store:
            noun: Any = _RemoteStore(store, server.node.store._engine)
            yield noun


class RemoteBlockingFace:
    name = "remote blocking"

    @asynccontextmanager
    async def open(self, path: object, **options: Any) -> AsyncIterator[Store]:
        async with served(path, **options) as server:
            noun = await _call(hs.connect, f"unix:{path}")
            store = _BlockingStore(noun, server.node.store._engine)
            try:
                yield store
            finally:
                await store.close()


EMBEDDED: tuple[Face, ...] = (BlockingFace(), AsyncioFace())
REMOTE: tuple[Face, ...] = (RemoteBlockingFace(), RemoteAsyncioFace())
FACES: tuple[Face, ...] = EMBEDDED + REMOTE
FOLLOWED: tuple[Face, ...] = tuple(FollowedFace(face) for face in EMBEDDED)


def params(*faces: Face) -> list[Any]:
    """Return parameters for tests of these faces."""
    odd = pytest.mark.unsanitized("gRPC's own core is no build of ours")
    return [
        pytest.param(face, id=face.name, marks=[odd] if face in REMOTE else []) for face in faces
    ]


def only(*faces: Face) -> pytest.MarkDecorator:
    """Mark a test as one of these faces."""
    return pytest.mark.parametrize("face", params(*faces), indirect=True)


async def create_wide(store: Any, name: str, shards: int) -> Stream:
    """Create a stream of several shards, which no face offers."""
    engine = store._engine
    pending = await _call(engine.create_stream, name, shards=shards)
    await _call(engine.journal.wait, pending.ticket)
    stream: Stream = store.stream(name)
    return stream


async def settled(result: object) -> None:
    """Finish `delivery.ack()` and its like, which only some faces make awaitable."""
    if inspect.isawaitable(result):
        await result


async def ready(noun: T) -> T:
    """Return a noun that is made; some faces ask a server first, and tell then what is wrong."""
    return await noun if inspect.isawaitable(noun) else noun


async def hear(consumer: Consumer) -> None:
    """Let a consumer be told what happened: some faces are told with the next answer."""
    await consumer.extend((), by=1)


async def collect(reader: Iterating[T]) -> list[T]:
    return [item async for item in reader]


async def payloads(stream: Stream, **options: Any) -> list[Any]:
    return [record.payload for record in await collect(stream.read(**options))]


async def drain(consumer: Consumer, count: int) -> list[hs.Delivery]:
    """Receive exactly so many deliveries, waiting for each."""
    found: list[hs.Delivery] = []
    while len(found) < count:
        found += await consumer.receive(count - len(found))
    return found


async def all_of(*waits: Awaitable[T]) -> list[T]:
    """Run together; a failure of one ends the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_await(wait)) for wait in waits]
    return [task.result() for task in tasks]


async def _await(wait: Awaitable[T]) -> T:
    return await wait
