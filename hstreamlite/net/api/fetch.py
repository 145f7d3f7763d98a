"""StreamingFetch: a consumer attached for as long as its call lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from hstreamlite._native import fast
from hstreamlite.aio.raw import RawConsumer, RawDelivery
from hstreamlite.errors import ConsumerClosed, ConsumerExists, StoreClosed, SubscriptionNotFound
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.api.messages import check_subscription, delivery_message
from hstreamlite.net.api.served import Context, Served
from hstreamlite.net.encoded import Encoded
from hstreamlite.net.errors import Refused, Status
from hstreamlite.net.node import Node

LEAVE_SECONDS = 1.0
"""A client that left and comes back may be here again before its farewell is."""
_AHEAD_MAX = 32
"""Batches that are taken at a time for one that keeps up."""


class _Attached:
    """A consumer of the wire: who it is, and how it leaves, once, whoever asks for that."""

    def __init__(self, consumer: RawConsumer, context: Context) -> None:
        metadata = dict(context.invocation_metadata() or ())
        self.consumer = consumer
        self.uri = str(metadata.get("x-forwarded-for") or context.peer())
        self.agent = str(metadata.get("proxy-agent") or metadata.get("user-agent") or "")
        self.left = asyncio.Event()
        self._leaving: asyncio.Task[None] | None = None

    async def leave(self) -> None:
        """Return when it is gone and its name free. A cancelled caller does not stop that."""
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._close())
        await asyncio.shield(self._leaving)

    async def _close(self) -> None:
        try:
            await self.consumer.close()
        finally:
            self.left.set()


class Fetch(Served):
    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._attached: dict[tuple[str, str], _Attached] = {}

    async def StreamingFetch(
        self, requests: AsyncIterator[pb.StreamingFetchRequest], context: Context
    ) -> AsyncIterator[Encoded]:
        first = await anext(requests, None)
        if first is None:
            return
        name = check_subscription(first.subscriptionId)
        consumer = await self._attach(name, first.consumerName)
        attached = self._attached[name, first.consumerName] = _Attached(consumer, context)
        acking = asyncio.create_task(self._acks(first, requests, attached))
        sent = 0
        try:
            while True:
                ahead = min(self.node.limits.batches(sent), _AHEAD_MAX) - 1
                try:
                    delivery = await consumer.receive(ahead=ahead)
                except ConsumerClosed:
                    await acking  # it let the consumer leave, because the client has half-closed
                    return
                if delivery is not None:
                    sent += 1
                    self._count_sent(name, delivery)
                    try:
                        yield delivery_message(delivery)
                    except GeneratorExit:  # the call ended while it was on its way
                        self.node.tally.send_failed(name, len(delivery.indexes))
                        raise
        except SubscriptionNotFound as error:
            raise Refused(
                Status.ABORTED, 0, f"Subscription {name!r} is being deleted.", name
            ) from error
        finally:
            acking.cancel()
            await asyncio.wait([acking])
            if not acking.cancelled():
                acking.exception()  # what ended the acks ends the call, too
            with suppress(StoreClosed):
                await attached.leave()
            if self._attached.get((name, first.consumerName)) is attached:
                del self._attached[name, first.consumerName]

    async def _attach(self, subscription: str, name: str) -> RawConsumer:
        """Attach, in the place of a consumer of this name that is about to be gone if need be."""
        with suppress(ConsumerExists):
            return self.node.raw.consumer(subscription, name)
        known = self._attached.get((subscription, name))
        if known is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(known.left.wait(), LEAVE_SECONDS)
        return self.node.raw.consumer(subscription, name)

    async def _acks(
        self,
        first: pb.StreamingFetchRequest,
        requests: AsyncIterator[pb.StreamingFetchRequest],
        attached: _Attached,
    ) -> None:
        """Take acks until the client half-closes: then it leaves."""
        try:
            self._ack(first, attached.consumer)
            async for request in requests:
                self._ack(request, attached.consumer)
        finally:
            await attached.leave()

    def _ack(self, request: pb.StreamingFetchRequest, consumer: RawConsumer) -> None:
        tally = self.node.tally
        tally.requested(consumer.subscription)
        if request.ackIds:
            acks = consumer.ack_places(fast.ack_places(request.SerializeToString()))
            tally.acked(consumer.subscription, acks.new)

    def _count_sent(self, subscription: str, delivery: RawDelivery) -> None:
        tally = self.node.tally
        tell = tally.sent if delivery.attempt == 1 else tally.resent
        tell(subscription, len(delivery.indexes), len(delivery.payload))
        tally.responded(subscription)

    async def ListConsumers(
        self, request: pb.ListConsumersRequest, context: Context
    ) -> pb.ListConsumersResponse:
        name = check_subscription(request.subscriptionId)
        consumers = []
        for consumer in self.node.raw.subscription(name).consumers:
            known = self._attached.get((name, consumer))
            consumers.append(
                pb.Consumer(
                    name=consumer,
                    uri=known.uri if known else "",
                    userAgent=known.agent if known else "",
                )
            )
        return pb.ListConsumersResponse(consumers=consumers)
