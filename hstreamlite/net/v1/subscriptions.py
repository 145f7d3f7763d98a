"""Subscriptions: catalog, and where they stand."""

from __future__ import annotations

from typing import Any, Literal

from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.v1.base import Base, Context
from hstreamlite.net.wire import backoff_from, lag_to, place_from, subscription_info_to

_WINDOWS: tuple[
    Literal["max_unacked_bytes", "max_unacked_per_consumer", "max_unacked_bytes_per_consumer"], ...
] = (
    "max_unacked_bytes",
    "max_unacked_per_consumer",
    "max_unacked_bytes_per_consumer",
)


class Subscriptions(Base):
    """The calls about subscriptions, but for consuming them."""

    async def CreateSubscription(
        self, request: pb.CreateSubscriptionRequest, context: Context
    ) -> pb.Done:
        options: dict[str, Any] = {}
        if request.HasField("dead_letter"):
            options["dead_letter"] = request.dead_letter
        for window in _WINDOWS:
            if request.HasField(window):
                options[window] = getattr(request, window)
        if request.HasField("backoff"):
            options["backoff"] = backoff_from(request.backoff)
        await self.store.create_subscription(
            request.name,
            stream=request.stream,
            mode=request.mode,
            ack_timeout=request.ack_timeout_s,
            max_unacked=request.max_unacked,
            start=place_from(request.start),
            max_attempts=request.max_attempts,
            exists_ok=request.exists_ok,
            **options,
        )
        return pb.Done()

    async def DescribeSubscription(
        self, request: pb.SubscriptionRequest, context: Context
    ) -> pb.SubscriptionInfo:
        return subscription_info_to(await self.store.subscription(request.subscription).info())

    async def ListSubscriptions(
        self, request: pb.ListRequest, context: Context
    ) -> pb.SubscriptionList:
        found = await self.store.subscriptions()
        return pb.SubscriptionList(subscriptions=map(subscription_info_to, found))

    async def DeleteSubscription(self, request: pb.DeleteRequest, context: Context) -> pb.Done:
        await self.store.delete_subscription(request.name, force=request.force)
        return pb.Done()

    async def Lag(self, request: pb.SubscriptionRequest, context: Context) -> pb.LagReply:
        return lag_to(await self.store.subscription(request.subscription).lag())

    async def Seek(self, request: pb.SeekRequest, context: Context) -> pb.Done:
        await self.store.subscription(request.subscription).seek(place_from(request.to))
        return pb.Done()

    async def Pause(self, request: pb.PauseRequest, context: Context) -> pb.Done:
        subscription = self.store.subscription(request.subscription)
        await (subscription.pause() if request.paused else subscription.resume())
        return pb.Done()

    async def Redrive(self, request: pb.RedriveRequest, context: Context) -> pb.RedriveReply:
        limit = request.limit if request.HasField("limit") else None
        count = await self.store.subscription(request.subscription).redrive(limit)
        return pb.RedriveReply(records=count)

    async def SkipDamaged(self, request: pb.SubscriptionRequest, context: Context) -> pb.SkipReply:
        count = await self.store.subscription(request.subscription).skip_damaged()
        return pb.SkipReply(records=count)
