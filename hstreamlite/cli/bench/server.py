"""A server as the target of a run, in HStreamDB's protocol, as HStreamDB's clients speak it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import grpc

from hstreamlite._native import fast
from hstreamlite.cli.bench.target import Receiver, Sender
from hstreamlite.cli.wire import Wire
from hstreamlite.config import CODECS, Compression, Durability
from hstreamlite.errors import Unavailable
from hstreamlite.log.journal import compress, decompress
from hstreamlite.log.keyspace import Router, Shard
from hstreamlite.net import hstream_pb2 as pb, hstream_pb2_grpc as rpc
from hstreamlite.records import Record

_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
UNACKED_MAX = 100_000


class ServerTarget:
    """Streams and subscriptions of a server."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def create_stream(self, name: str, *, shards: int, backlog: float, replication: int) -> None:
        self._wire.create_stream(name, shards=shards, backlog=backlog, replication=replication)

    def delete_stream(self, name: str) -> None:
        request = pb.DeleteStreamRequest(streamName=name, ignoreNonExist=True, force=True)
        self._wire.call(self._wire.stub.DeleteStream, request)

    def create_subscription(self, name: str, *, stream: str, ack_timeout: float) -> None:
        request = pb.Subscription(
            subscriptionId=name,
            streamName=stream,
            ackTimeoutSeconds=max(1, int(ack_timeout)),
            maxUnackedRecords=UNACKED_MAX,
            offset=pb.SpecialOffset.EARLIEST,
        )
        self._wire.call(self._wire.stub.CreateSubscription, request)

    def delete_subscription(self, name: str) -> None:
        request = pb.DeleteSubscriptionRequest(subscriptionId=name, force=True)
        self._wire.call(self._wire.stub.DeleteSubscription, request)

    def sender(
        self,
        stream: str,
        *,
        compression: Compression,
        durability: Durability,  # noqa: ARG002 - the server's own; its protocol asks for none
    ) -> Sender:
        return ShardSender(self._wire, stream, CODECS[compression])

    def receiver(self, subscription: str, consumer: str) -> AbstractContextManager[Receiver]:
        return Fetcher(self._wire, subscription, consumer)


class ShardSender:
    """Appends batches to the shards that their keys belong to, at the nodes that have those."""

    def __init__(self, wire: Wire, stream: str, codec: int) -> None:
        self._wire = wire
        self._stream = stream
        self._codec = codec
        shards = wire.shards(stream)
        self._router = Router(
            [
                Shard(each.shardId, int(each.startHashRangeKey), int(each.endHashRangeKey))
                for each in sorted(shards, key=lambda each: int(each.startHashRangeKey))
            ]
        )
        self._stubs = {each.shardId: self._stub(each.shardId) for each in shards}

    def _stub(self, shard: int) -> rpc.HStreamApiStub:
        reply = self._wire.call(self._wire.stub.LookupShard, pb.LookupShardRequest(shardId=shard))
        return self._wire.stub_of(reply.serverNode)

    def __call__(self, batch: list[Record]) -> None:
        parts: dict[int, list[Record]] = {}
        for record in batch:
            parts.setdefault(self._router.shard_of(record.key or ""), []).append(record)
        for shard, records in parts.items():
            payload = fast.encode_batch(records, None)
            if self._codec:
                payload = compress(self._codec, payload)
            batched = pb.BatchedRecord(
                compressionType=pb.CompressionType.ValueType(self._codec),
                batchSize=len(records),
                payload=payload,
            )
            request = pb.AppendRequest(streamName=self._stream, shardId=shard, records=batched)
            try:
                self._stubs[shard].Append(
                    request, timeout=self._wire.timeout, metadata=self._wire.metadata
                )
            except grpc.RpcError as error:
                if error.code() in _PASSING:
                    raise Unavailable(self._wire.url, error.details() or "") from None
                raise self._wire.refusal(error) from None


class Fetched(list[Record]):
    """The records of a batch as received, and their ids."""

    def __init__(self, records: list[Record], ids: Sequence[pb.RecordId]) -> None:
        super().__init__(records)
        self.ids = ids


class Fetcher:
    """One consumer: a call that brings batches, and takes acks."""

    def __init__(self, wire: Wire, subscription: str, consumer: str) -> None:
        self._wire = wire
        self._subscription = subscription
        self._consumer = consumer
        reply = wire.call(
            wire.stub.LookupSubscription,
            pb.LookupSubscriptionRequest(subscriptionId=subscription),
        )
        self._requests: queue.SimpleQueue[pb.StreamingFetchRequest | None] = queue.SimpleQueue()
        self._batches: queue.SimpleQueue[Fetched | Exception] = queue.SimpleQueue()
        self._ack([])  # the first message attaches
        stub = wire.stub_of(reply.serverNode)
        self._call: Any = stub.StreamingFetch(
            iter(self._requests.get, None), metadata=wire.metadata
        )
        self._thread = threading.Thread(target=self._fetch, daemon=True)
        self._thread.start()

    def _fetch(self) -> None:
        try:
            for response in self._call:
                self._batches.put(_decoded(response.receivedRecords))
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.CANCELLED:
                self._batches.put(self._wire.refusal(error))

    def _ack(self, ids: Sequence[pb.RecordId]) -> None:
        self._requests.put(
            pb.StreamingFetchRequest(
                subscriptionId=self._subscription, consumerName=self._consumer, ackIds=ids
            )
        )

    def receive(self, timeout: float) -> Sequence[Record]:
        try:
            batch = self._batches.get(timeout=timeout)
        except queue.Empty:
            return ()
        if isinstance(batch, Exception):
            raise batch
        return batch

    def ack(self, batch: Any) -> None:
        self._ack(batch.ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let the last acks out, then leave."""
        self._requests.put(None)
        self._thread.join(timeout=self._wire.timeout)
        self._call.cancel()
        self._thread.join()


def _decoded(received: pb.ReceivedRecord) -> Fetched:
    payload = received.record.payload
    if received.record.compressionType:
        payload = decompress(received.record.compressionType, payload, 0)
    return Fetched(fast.decode_batch(payload, 0, 0), received.recordIds)
