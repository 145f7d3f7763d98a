"""Transactions of a remote store: collected here, and sent in one call.

Whether its streams exist, and whether what it acks is held, is found out at the commit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final, Protocol, runtime_checkable

from hstreamlite._native import fast
from hstreamlite.aio.transaction import Transaction
from hstreamlite.config import check_name
from hstreamlite.consumer import by_consumer
from hstreamlite.errors import RecordTooLarge, StreamExists, StreamNotFound, TransactionTooLarge
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.wire import body_to, ids_from, spans_to
from hstreamlite.records import Record, RecordIds
from hstreamlite.remote.link import Link
from hstreamlite.remote.requests import stream_request
from hstreamlite.spans import Span, spans_of

PART_BYTES: Final = 1 << 20
SPANS_MAX: Final = 50_000


@runtime_checkable
class _Attached(Protocol):
    """A consumer of a remote store, of either face."""

    name: str
    subscription: str

    @property
    def link(self) -> Link: ...


class Collected:
    """What a transaction is to do. Used by one thread at a time."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._creates: dict[str, pb.CreateStreamRequest] = {}
        self._deletes: dict[str, None] = {}
        self._appends: dict[str, list[Record]] = {}
        self._acks: dict[tuple[str, str], list[Span]] = {}
        self._bytes = 0
        self.ended = False

    def check(self) -> None:
        self._link.check()
        if self.ended:
            raise ValueError("the transaction has ended; begin another with store.transaction()")

    def append(self, stream: str, record: Record) -> None:
        self._stream(stream)
        size = fast.record_bytes(record)
        if size > self._link.hello.batch_bytes_max:
            raise RecordTooLarge(size, self._link.hello.batch_bytes_max, at_server=True)
        self._bytes += size
        self._appends.setdefault(stream, []).append(record)

    def _stream(self, name: str) -> None:
        self.check()
        check_name("stream", name)
        if name in self._deletes:
            raise StreamNotFound(name)

    def ack(self, deliveries: object) -> None:
        self.check()
        for consumer, items in by_consumer(deliveries, _Attached):  # type: ignore[type-abstract]
            if consumer.link is not self._link:
                raise ValueError(
                    f"consumer {consumer.name!r} is not one of the store of this transaction"
                )
            place = consumer.subscription, consumer.name
            self._acks.setdefault(place, []).extend(spans_of(items))

    def create_stream(self, name: str, options: dict[str, Any]) -> None:
        self.check()
        request = stream_request(name, **options)
        if name in self._creates:
            raise StreamExists(name)
        self._creates[name] = request

    def delete_stream(self, name: str) -> None:
        self._stream(name)
        if name in self._creates:
            raise ValueError(f"stream {name!r} is created in this transaction; leave both out")
        self._deletes[name] = None

    async def commit(self) -> dict[str, RecordIds]:
        """Send it, and return the ids of the appends when all is on disk.

        ConnectionLost with outcome "unknown" when the connection breaks, and it may have happened.
        """
        self.check()
        self.ended = True
        limit = self._link.hello.transaction_bytes_max
        if self._bytes > limit:
            raise TransactionTooLarge(self._bytes, limit)
        reply = await self._link.call("Commit", self._parts, again=False)
        return {stream: ids_from(ids) for stream, ids in reply.ids.items()}

    async def _parts(self) -> AsyncIterator[pb.TransactionPart]:
        for create in self._creates.values():
            yield pb.TransactionPart(create=create)
        for name in self._deletes:
            yield pb.TransactionPart(delete=name)
        for stream, records in self._appends.items():
            for part in _cut(records):
                append = pb.TransactionPart.Append(stream=stream, body=body_to(part, None, 0))
                yield pb.TransactionPart(append=append)
        for (subscription, consumer), spans in self._acks.items():
            for at in range(0, max(1, len(spans)), SPANS_MAX):
                acks = pb.TransactionPart.Acks(
                    subscription=subscription,
                    consumer=consumer,
                    spans=spans_to(spans[at : at + SPANS_MAX]),
                )
                yield pb.TransactionPart(acks=acks)
        yield pb.TransactionPart(last=True)


def transaction_of(link: Link) -> Transaction:
    """Return a transaction that is sent to the server at its commit."""
    collected = Collected(link)
    return Transaction(collected, collected.commit)


def _cut(records: list[Record]) -> Iterable[list[Record]]:
    """Cut into parts of about a megabyte."""
    part: list[Any] = []
    size = 0
    for record in records:
        part.append(record)
        size += fast.record_bytes(record)
        if size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
