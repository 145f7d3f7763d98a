"""Streams by batch and shard, for a server whose clients encode and decode records themselves.

`RawStore` is a view of an open `aio.Store`; it owns nothing, and any number of them may be made.
What it appends and hands out are batches as they came: see `hstreamlite.raw`. Everything belongs to
the loop of the store.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from functools import partial

from hstreamlite.aio.batches import RawReader
from hstreamlite.aio.bell import in_thread
from hstreamlite.aio.rawconsumer import RawConsumer
from hstreamlite.aio.store import Store
from hstreamlite.batchfeed import RawAcks, RawDelivery, acked_up_to
from hstreamlite.config import Compression, Durability, check_durability, check_int
from hstreamlite.engine import Pending
from hstreamlite.errors import PlaceConflict, ReadOnly, StreamNotFound
from hstreamlite.log.catalog import StreamState
from hstreamlite.log.journal import END
from hstreamlite.log.keyspace import Shard
from hstreamlite.log.reader import Scan
from hstreamlite.place import EARLIEST, Place
from hstreamlite.raw import (
    Point,
    RawSubscription,
    Time,
    batch_op,
    scan_shard,
    scan_stream,
    shard_of,
    tail_of,
    trim_before,
    trim_to,
)
from hstreamlite.records import RecordId

__all__ = [
    "Point",
    "RawAcks",
    "RawConsumer",
    "RawDelivery",
    "RawReader",
    "RawStore",
    "RawSubscription",
    "Shard",
    "StreamState",
    "Time",
]


class RawStore:
    """What a server of HStreamDB's protocol asks of a store."""

    def __init__(self, store: Store) -> None:
        if store.read_only:
            raise ReadOnly(store.path, "serve batches")
        self._store = store
        self._engine = store._engine
        self._bell = store._bell
        self._house = store._ticker.house

    # Streams and shards.

    async def create_stream(
        self,
        name: str,
        *,
        backlog: float | timedelta = 0,
        shards: int = 1,
        replication: int = 1,
        max_bytes: int = 0,
        protect: Iterable[str] = (),
        exists_ok: bool = False,
    ) -> StreamState:
        """Create a stream of so many shards, as `Store.create_stream`.

        replication is kept and told, and changes nothing.
        """
        pending = await in_thread(
            self._engine.create_stream,
            name,
            backlog=backlog,
            shards=shards,
            replication=replication,
            max_bytes=max_bytes,
            protect=protect,
            exists_ok=exists_ok,
        )
        await self._bell.ticket(pending.ticket)
        state: StreamState = pending.value
        return state

    def stream(self, name: str) -> StreamState:
        """Return a stream; StreamNotFound if there is none."""
        return self._engine.stream(name)

    def streams(self, prefix: str = "") -> list[StreamState]:
        """Return the streams whose names begin so, by name."""
        self._engine.check_open()
        states = list(self._engine.catalog.streams.values())
        return sorted((s for s in states if s.name.startswith(prefix)), key=lambda s: s.name)

    def shard(self, shard_id: int, stream: str | None = None) -> tuple[StreamState, Shard]:
        """Return a shard of the store, and its stream; ShardNotFound if there is none, or it is not
        one of the stream asked for."""
        state = shard_of(self._engine, shard_id, stream)
        return state, state.shards[state.shard_ids.index(shard_id)]

    def tail(self, shard_id: int) -> int:
        """Return the id of the last durable batch kept of a shard; 0 if there is none."""
        shard_of(self._engine, shard_id)
        return tail_of(self._engine, shard_id)

    # Appending.

    async def append(
        self,
        stream: str,
        payload: bytes,
        *,
        shard_id: int,
        batch_size: int,
        compression: Compression = "none",
        durability: Durability | None = None,
    ) -> RecordId:
        """Append a batch as it is; return the id of its first record when the level is reached.

        It becomes one block, whatever else is appended: never joined, split, compressed anew or
        looked into. Its other records have the same batch id and the indexes up to batch_size,
        which is at most `BATCH_RECORDS_MAX`. Nothing is stored when this raises: StreamNotFound,
        ShardNotFound where the shard is not one of the stream, BatchTooLarge for a payload above
        `batch_bytes_max`, ValueError for an empty one.
        """
        engine = self._engine
        level = engine.level if durability is None else check_durability(durability)
        shard_of(engine, shard_id, stream)
        ops = [batch_op(engine, shard_id, payload, compression, batch_size)]
        try:
            staged = None if self._bell.waiting else engine.journal.try_stage(ops, level)
            if staged is None:
                staged = await self._bell.in_turn(
                    partial(engine.journal.try_stage, ops, level),
                    partial(engine.journal.stage, ops, level),
                )
        except StreamNotFound:
            raise StreamNotFound(stream) from None  # deleted meanwhile
        ticket, (run,) = staged
        if ticket:
            await self._bell.ticket(ticket)
        return RecordId(run.shard, run.first, 0)

    # Reading.

    def read_shard(
        self, shard_id: int, *, start: Point, until: Point | None = None, max_batches: int = 0
    ) -> RawReader:
        """Return a reader of the batches of one shard.

        start and until name whole batches, both included; LATEST as a start is behind the last one
        there is now, as an end that one. Without until, the reader follows. max_batches 0 is no
        limit. ShardNotFound; PlaceConflict for a start behind the end, or an id of another shard.
        """
        name = shard_of(self._engine, shard_id).name
        scan = scan_shard(self._engine, shard_id, start, until)
        return self._reader(name, scan, max_batches)

    def read_stream(
        self, stream: str, *, start: Point, until: Point | None = None, max_batches: int = 0
    ) -> RawReader:
        """Return a reader of all shards of a stream, in the order of the appends.

        As `read_shard`; a shard whose start is behind its end is left out. No record ids here.
        """
        for place in (start, until):
            if isinstance(place, RecordId):
                raise PlaceConflict(place, "is of one shard only, and a stream is read")
        scan = scan_stream(self._engine, self._engine.stream(stream), start, until)
        return self._reader(stream, scan, max_batches)

    def _reader(self, stream: str, scan: Scan, max_batches: int) -> RawReader:
        most = check_int("max_batches", max_batches, 0, END) or END
        return RawReader(self._engine, self._bell, stream, scan, most)

    # Subscriptions.

    async def create_subscription(
        self,
        name: str,
        *,
        stream: str,
        ack_timeout: float = 60.0,
        max_unacked: int = 10_000,
        start: Place = EARLIEST,
        mode: str = "ordered",
        unit: str = "shard",
    ) -> RawSubscription:
        """Create a subscription whose consumers get batches as they are.

        With mode "ordered" those of a shard are in flight at one consumer at a time, in order; with
        unit "key" instead, those of a key, in batches made for the purpose. Mode "shared" has no
        order. Places and errors otherwise as `Store.create_subscription`.
        """
        pending = await in_thread(
            self._store._feeds.create,
            name,
            stream=stream,
            mode=mode,
            unit="key" if mode == "shared" else unit,
            ack_timeout=ack_timeout,
            max_unacked=max_unacked,
            start=start,
        )
        await self._bell.ticket(pending.ticket)
        return RawSubscription.of(pending.value)

    def subscription(self, name: str) -> RawSubscription:
        """Return what is known of a subscription; SubscriptionNotFound if there is none."""
        return RawSubscription.of(self._store._feeds.get(name))

    def subscriptions(self, prefix: str = "") -> list[RawSubscription]:
        """Return the subscriptions whose names begin so, by name."""
        self._engine.check_open()
        found = self._store._feeds.told(RawSubscription.of)
        return [one for one in found if one.name.startswith(prefix)]

    def offsets(self, name: str) -> dict[int, int]:
        """Return for each shard the id of the last batch up to which all is acked; 0 = none."""
        return acked_up_to(self._store._feeds.get(name))

    def consumer(self, subscription: str, name: str) -> RawConsumer:
        """Attach a consumer of batches; ConsumerExists if the name is attached already."""
        if not isinstance(name, str) or not name:
            raise ValueError(f"consumer name must be a non-empty str, not {name!r}")
        return RawConsumer(self._bell, self._store._feeds.get(subscription), name)

    # Trimming.

    async def trim_stream(self, stream: str, point: Point) -> None:
        """Remove the records of every shard up to and including a place; on disk when this returns.

        EARLIEST removes nothing, LATEST all there is, a time what was published up to then.
        """
        if isinstance(point, RecordId):
            raise PlaceConflict(point, "is of one shard only, and a stream is trimmed")
        await self._trimmed(await in_thread(trim_to, self._engine, stream, None, point))

    async def trim_shard(self, stream: str, shard_id: int, point: Point) -> None:
        """Remove the records of one shard up to and including a place, an id's whole batch too.

        ShardNotFound if it is not of the stream, UnknownPlace for an id that is not given yet,
        PlaceConflict for one of another shard.
        """
        shard_of(self._engine, shard_id, stream)
        await self._trimmed(await in_thread(trim_to, self._engine, stream, [shard_id], point))

    async def trim_shards(self, stream: str, ids: Iterable[RecordId]) -> dict[int, RecordId]:
        """Remove what lies before the batch of the oldest id of each shard; return those ids.

        Ids of batch 0 name nothing. ShardNotFound for one of another stream, UnknownPlace for one
        that is not given yet; nothing is done then.
        """
        pending, oldest = await in_thread(trim_before, self._engine, stream, list(ids))
        await self._trimmed(pending)
        return oldest

    async def _trimmed(self, pending: Pending) -> None:
        await self._bell.ticket(pending.ticket)
        await in_thread(self._house.apply_trims)

    def __repr__(self) -> str:
        return f"<RawStore of {self._engine.path!r}>"
