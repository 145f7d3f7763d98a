"""A stream of a remote store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from hstreamlite._native import fast
from hstreamlite.batcher import ProducerOptions
from hstreamlite.config import (
    Compression,
    Durability,
    check_compression,
    check_durability,
    check_int,
    check_key,
)
from hstreamlite.errors import BatchTooLarge, RecordTooLarge
from hstreamlite.info import StreamInfo
from hstreamlite.log.journal import END
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.wire import (
    DURABILITIES,
    body_to,
    id_from,
    ids_from,
    place_to,
    stream_info_from,
)
from hstreamlite.place import EARLIEST, Place, check_place
from hstreamlite.records import Payload, Record, RecordId, RecordIds
from hstreamlite.remote.link import Link
from hstreamlite.remote.producer import Producer
from hstreamlite.remote.reader import BatchReader, Reader
from hstreamlite.remote.transaction import transaction_of
from hstreamlite.transaction import item_list, record_of

MESSAGE_BYTES: Final = 4 << 20
"""What is larger goes as a transaction, which travels in parts and is on disk in any case."""


class Stream:
    """A handle of one stream."""

    __slots__ = ("_durability", "_link", "name")

    def __init__(self, link: Link, name: str, durability: Durability | None) -> None:
        self._link = link
        self.name = name
        self._durability = durability

    async def append(
        self,
        payload: Payload | Record,
        *,
        key: str | None = None,
        attributes: dict[str, str] | None = None,
        durability: Durability | None = None,
    ) -> RecordId:
        """Append one record; the level asked for is reached when this returns.

        Never sent twice: ConnectionLost with outcome "unknown" when the connection breaks and the
        record may be stored. Producers send again, and store it once.
        """
        self._link.check()
        level = self._level(durability)
        item: Any = payload
        if attributes is not None or (key is not None and isinstance(payload, Record)):
            item = record_of(payload, key, attributes)
        size = fast.record_bytes(item)
        limit = self._link.hello.batch_bytes_max
        if size > limit:
            raise RecordTooLarge(size, limit, at_server=True)
        body = body_to([item], key, 0)
        request = pb.AppendRequest(stream=self.name, body=body, durability=level, single=True)
        reply = await self._link.call("Append", request, again=False)
        return id_from(reply.id)

    async def append_many(
        self,
        records: Iterable[Payload | Record],
        *,
        key: str | None = None,
        durability: Durability | None = None,
        compression: Compression = "none",
    ) -> RecordIds:
        """Append records together, all or none, as `append`."""
        self._link.check()
        level = self._level(durability)
        codec = check_compression(compression)
        if key is not None:
            check_key(key)
        items = item_list(records)
        body = body_to(items, key, codec)
        limit = self._link.hello.transaction_bytes_max
        if body.decoded_bytes > limit:
            raise BatchTooLarge(body.decoded_bytes, limit)
        if len(body.payload) > MESSAGE_BYTES:
            transaction = transaction_of(self._link)
            transaction.append_many(self.name, items, key=key)
            await transaction.commit()
            return transaction.ids[self.name]
        request = pb.AppendRequest(stream=self.name, body=body, durability=level)
        reply = await self._link.call("Append", request, again=False)
        return ids_from(reply.ids)

    def _level(self, durability: Durability | None) -> Any:
        if durability is None:
            durability = self._durability
        if durability is not None:
            check_durability(durability)
        return DURABILITIES[durability]

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
        """Return a producer that gathers records, as `hstreamlite.aio.Stream.producer`; it sends
        again what a broken connection left unanswered, and that is stored once."""
        options = ProducerOptions(
            batch_records=batch_records,
            batch_bytes=batch_bytes,
            batch_age=batch_age,
            buffer_bytes=buffer_bytes,
            on_full=on_full,
            durability=self._durability if durability is None else durability,
            compression=compression,
            name=name,
        )
        self._link.check()
        return Producer(self._link, self.name, options)

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
        """Return an async iterator over records, as `hstreamlite.aio.Stream.read`.

        Await it, enter it or iterate over it to be told what is wrong with the places. It goes on
        where it was when the connection breaks and is made again.
        """
        request = self._request(start, until, limit, shard, follow=follow)
        if key is not None:
            request.key = check_key(key)
        return Reader(self._link, request)

    def read_batches(
        self,
        *,
        start: Place = EARLIEST,
        until: Place | None = None,
        limit: int | None = None,
        shard: int | None = None,
        follow: bool = False,
    ) -> BatchReader:
        """Return an async iterator over whole undecoded batches, under the rules of `read`."""
        return BatchReader(self._link, self._request(start, until, limit, shard, follow=follow))

    def _request(
        self,
        start: Place,
        until: Place | None,
        limit: int | None,
        shard: int | None,
        *,
        follow: bool,
    ) -> pb.ReadRequest:
        self._link.check()
        if follow and until is not None:
            raise ValueError("until and follow exclude each other: a follower has no end")
        return pb.ReadRequest(
            stream=self.name,
            start=place_to(check_place("start", start)),
            until=None if until is None else place_to(check_place("until", until)),
            limit=None if limit is None else check_int("limit", limit, 0, END),
            shard=None if shard is None else check_int("shard", shard, 0, END),
            follow=bool(follow),
        )

    async def tail(self) -> RecordId | None:
        """Return the id of the newest durable record; None if none is kept."""
        reply = await self._link.call("Tail", pb.StreamRequest(stream=self.name), again=True)
        return id_from(reply.id) if reply.HasField("id") else None

    async def trim(self, *, before: Place) -> None:
        """Remove the records before a place, as `hstreamlite.aio.Stream.trim`."""
        request = pb.TrimRequest(stream=self.name, before=place_to(check_place("before", before)))
        await self._link.call("Trim", request, again=not request.before.HasField("latest"))

    async def info(self) -> StreamInfo:
        """Return what is known of the stream; StreamNotFound if it does not exist."""
        request = pb.StreamRequest(stream=self.name)
        return stream_info_from(await self._link.call("DescribeStream", request, again=True))

    def __repr__(self) -> str:
        return f"<remote Stream {self.name!r} of {self._link.path!r}>"
