"""The asyncio face of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any, NoReturn, Self

from hstreamlite._native import fast
from hstreamlite.aio.bell import Bell, in_thread
from hstreamlite.aio.producer import Producer
from hstreamlite.batcher import ProducerCore, ProducerOptions
from hstreamlite.config import Compression, Durability, check_compression, check_durability
from hstreamlite.engine import Engine
from hstreamlite.errors import BatchTooLarge, RecordTrimmed, StreamNotFound, TransactionTooLarge
from hstreamlite.follower import Follower
from hstreamlite.housekeeping import Housekeeping
from hstreamlite.info import StreamInfo
from hstreamlite.log.journal import NotReady
from hstreamlite.log.reader import Batch, Scan
from hstreamlite.log.routing import record_ids
from hstreamlite.place import EARLIEST, Place
from hstreamlite.records import Payload, Record, RecordId, RecordIds
from hstreamlite.transaction import item_list, record_of

_READ_RECORDS = 4096
_READ_BATCHES = 64


def _append(
    engine: Engine, shard: int, item: object, key: str | None, level: int
) -> tuple[RecordId, int]:
    """Stage a record; waits for room."""
    return fast.append(engine.handle, shard, item, key, level, False)


def _try_append(
    engine: Engine, shard: int, item: object, key: str | None, level: int
) -> tuple[RecordId, int] | None:
    """Stage a record, or return None where that would have to wait for room."""
    return fast.append(engine.handle, shard, item, key, level, None)


class Stream:
    """A handle of one stream."""

    __slots__ = ("_bell", "_engine", "_house", "_producers", "name")

    def __init__(
        self,
        engine: Engine,
        bell: Bell,
        house: Housekeeping,
        producers: set[Producer],
        name: str,
    ) -> None:
        self._engine = engine
        self._bell = bell
        self._house = house
        self._producers = producers
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
        self._bell.check_loop()
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
            bell = self._bell
            call = (engine, shard, item, key, level)
            staged = None if bell.waiting else _try_append(*call)
            if staged is None:
                staged = await bell.in_turn(partial(_try_append, *call), partial(_append, *call))
        except StreamNotFound:
            raise StreamNotFound(self.name) from None
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
        self._bell.check_loop()
        engine = self._engine
        level = engine.level if durability is None else check_durability(durability)
        codec = check_compression(compression)
        state = engine.stream(self.name)
        items = item_list(records, None if codec else engine.config.transaction_bytes_max)
        if codec:
            ops, order = await in_thread(engine.ops_of, state, items, key, codec)
        else:
            ops, order = engine.ops_of(state, items, key, codec)
        try:
            staged = None if self._bell.waiting else engine.journal.try_stage(ops, level)
            if staged is None:
                staged = await self._bell.in_turn(
                    partial(engine.journal.try_stage, ops, level),
                    partial(engine.journal.stage, ops, level),
                )
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
        core = ProducerCore(self._engine, self.name, options)
        return Producer(self._bell, self._producers, core)

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
        scan = self._scan(start, until, limit, key, shard, follow=follow)
        return Reader(self._engine, self._bell, self.name, scan, scan.records, follow=follow)

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
        scan = self._scan(start, until, limit, None, shard, follow=follow)
        return BatchReader(self._engine, self._bell, self.name, scan, scan.batches, follow=follow)

    def _scan(
        self,
        start: object,
        until: object,
        limit: int | None,
        key: str | None,
        shard: int | None,
        *,
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
        """Return the id of the newest durable record; None if none is kept."""
        return self._engine.tail(self._engine.stream(self.name))

    async def trim(self, *, before: Place) -> None:
        """Remove the records before a place, as `hstreamlite.Stream.trim`."""
        pending = await in_thread(self._engine.trim, self.name, before)
        await self._bell.ticket(pending.ticket)
        await in_thread(self._house.apply_trims)

    async def info(self) -> StreamInfo:
        """Return what is known of the stream; StreamNotFound if it does not exist."""
        return StreamInfo.of(self._engine, self._engine.stream(self.name))

    def __repr__(self) -> str:
        return f"<aio.Stream {self.name!r} of {self._engine.path!r}>"


class FollowedStream(Stream):
    """A handle of one stream of a store that another process writes."""

    __slots__ = ()

    _engine: Follower

    async def append(self, *_: object, **__: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"append to stream {self.name!r}")

    async def append_many(self, *_: object, **__: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"append to stream {self.name!r}")

    def producer(self, **__: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"make a producer of stream {self.name!r}")

    async def trim(self, **__: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"trim stream {self.name!r}")


class _Scanner:
    """What readers share: waiting at the tail without holding up the loop."""

    _most: int

    def __init__(
        self,
        engine: Engine,
        bell: Bell,
        stream: str,
        scan: Scan,
        take: Callable[..., list[Any]],
        *,
        follow: bool,
    ) -> None:
        self._engine = engine
        self._bell = bell
        self._stream = stream
        self._scan = scan
        self._take = take
        self._follow = follow
        self._closed = False
        self._buffer: list[Any] = []
        self._reading: asyncio.Future[list[Any]] | None = None

    async def close(self) -> None:
        """End the iteration, also one that waits in another task."""
        self._closed = True
        if not self._engine.closed:
            self._engine.journal.poke()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<aio.{type(self).__name__} of {self._stream!r}{state}>"

    async def _next(self) -> Any:
        while not self._closed:
            if self._buffer:
                return self._buffer.pop()
            self._engine.check_open()
            durable = self._engine.journal.durable()
            try:
                found = await self._found()
            except RecordTrimmed:
                self._engine.check_scanned(self._stream, self._scan)
                raise
            if found:
                found.reverse()
                self._buffer = found
                continue
            if self._scan.done or not self._follow:
                break
            self._engine.check_scanned(self._stream, self._scan)
            await self._bell.change(durable, None)
        raise StopAsyncIteration

    async def _found(self) -> list[Any]:
        """Take what is next, from a file if need be.

        The thread that reads goes on when the caller is cancelled; the next call takes what it
        read.
        """
        if self._reading is None:
            try:
                return self._take(self._most, may_block=False)
            except NotReady:
                self._reading = asyncio.ensure_future(in_thread(self._take, self._most))
        reading = self._reading
        await asyncio.wait([reading])
        self._reading = None
        return reading.result()


class Reader(_Scanner):
    """Iterates over records. One task at a time."""

    _most = _READ_RECORDS

    def __aiter__(self) -> AsyncIterator[Record]:
        return self

    async def __anext__(self) -> Record:
        record: Record = await self._next()
        return record


class BatchReader(_Scanner):
    """Iterates over batches. One task at a time."""

    _most = _READ_BATCHES

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        batch: Batch = await self._next()
        return batch
