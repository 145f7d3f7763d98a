"""The blocking face of a stream: append, read, trim."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, NoReturn, Self, TypeVar

from hstreamlite._native import fast
from hstreamlite.batcher import ProducerCore, ProducerOptions
from hstreamlite.config import Compression, Durability, check_compression, check_durability
from hstreamlite.engine import Engine
from hstreamlite.errors import BatchTooLarge, RecordTrimmed, StreamNotFound, TransactionTooLarge
from hstreamlite.follower import Follower
from hstreamlite.info import StreamInfo
from hstreamlite.log.catalog import StreamState
from hstreamlite.log.reader import Batch, Scan
from hstreamlite.log.routing import record_ids
from hstreamlite.place import EARLIEST, Place
from hstreamlite.producer import Producer
from hstreamlite.records import Payload, Record, RecordId, RecordIds
from hstreamlite.ticker import Ticker
from hstreamlite.transaction import item_list, record_of

_READ_RECORDS = 512
_READ_BATCHES = 64
_SLICE_NS = 250_000_000
"""Waits are cut to this, so that signal handlers run."""


class Stream:
    """A handle of one stream. Thread-safe."""

    __slots__ = ("_engine", "_state", "_ticker", "name")

    def __init__(
        self, engine: Engine, ticker: Ticker, name: str, state: StreamState | None = None
    ) -> None:
        self._engine = engine
        self._ticker = ticker
        self._state = state
        self.name = name

    def _known(self) -> StreamState:
        """Return the state of the stream: found by name once, where streams are many."""
        engine, state = self._engine, self._state
        if state is None or state.retired or engine.closed or engine.forked:
            state = self._state = engine.stream(self.name)
        return state

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
        state = self._known()
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

        key applies to bare payloads. BatchTooLarge beyond `transaction_bytes_max`, and of an
        iterator no more is taken then; otherwise as `append`.
        """
        engine = self._engine
        level = engine.level if durability is None else check_durability(durability)
        codec = check_compression(compression)
        state = self._known()
        items = item_list(records, None if codec else engine.config.transaction_bytes_max)
        ops, order = engine.ops_of(state, items, key, codec)
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
        return Producer(self._ticker, ProducerCore(self._engine, self.name, options))

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
        scan = self._scan(start, until, limit, key, shard, follow=follow)
        return Reader(self._engine, self.name, scan, follow=follow)

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
        scan = self._scan(start, until, limit, None, shard, follow=follow)
        return BatchReader(self._engine, self.name, scan, follow=follow)

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

    def tail(self) -> RecordId | None:
        """Return the id of the newest durable record; None if none is kept."""
        return self._engine.tail(self._engine.stream(self.name))

    def trim(self, *, before: Place) -> None:
        """Remove the records before a place, for good; on disk when this returns.

        Subscriptions that had not acked them get a gap event.
        """
        pending = self._engine.trim(self.name, before)
        self._engine.journal.wait(pending.ticket)
        self._ticker.house.apply_trims()

    def info(self) -> StreamInfo:
        """Return what is known of the stream; StreamNotFound if it does not exist."""
        return StreamInfo.of(self._engine, self._engine.stream(self.name))

    def __repr__(self) -> str:
        return f"<Stream {self.name!r} of {self._engine.path!r}>"


class FollowedStream(Stream):
    """A handle of one stream of a store that another process writes."""

    __slots__ = ()

    _engine: Follower

    def append(self, *_: object, **__: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"append to stream {self.name!r}")

    def append_many(self, *_: object, **__: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"append to stream {self.name!r}")

    def producer(self, **__: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"make a producer of stream {self.name!r}")

    def trim(self, **__: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"trim stream {self.name!r}")


T = TypeVar("T")


class _Scanner:
    """What readers share: waiting at the tail."""

    def __init__(self, engine: Engine, stream: str, scan: Scan, *, follow: bool) -> None:
        self._engine = engine
        self._stream = stream
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

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<{type(self).__name__} of {self._stream!r}{state}>"

    def _wait(self, durable: int, pokes: int) -> bool:
        """Wait for more; False where the environment has no threads to bring it."""
        journal = self._engine.journal
        return journal.wait_change(durable, pokes, _SLICE_NS) or self._engine.env.threaded

    def _gather(self, take: Callable[[int], list[T]], most: int) -> list[T]:
        journal, durable, pokes = self._engine.journal, 0, 0
        while not self._closed:
            self._engine.check_open()
            if self._follow:
                durable, pokes = journal.durable(), journal.pokes()
            try:
                found = take(most)
            except RecordTrimmed:
                self._engine.check_scanned(self._stream, self._scan)
                raise
            if found or not self._follow or self._scan.done:
                return found
            self._engine.check_scanned(self._stream, self._scan)
            if not self._wait(durable, pokes):
                return []
        return []


class Reader(_Scanner):
    """Iterates over records. One thread at a time."""

    _buffer: Iterator[Record]

    def __iter__(self) -> Iterator[Record]:
        return chain.from_iterable(self._buffers())

    def _buffers(self) -> Iterator[Iterator[Record]]:
        while not self._closed:
            yield self._buffer
            records = self._gather(self._scan.records, _READ_RECORDS)
            self._buffer = iter(records)
            if not records or self._scan.spent:
                yield self._buffer
                return

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
