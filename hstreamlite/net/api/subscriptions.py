"""Subscriptions: made, told of and deleted."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from hstreamlite.aio.raw import RawSubscription
from hstreamlite.config import ACK_TIMEOUT_SECONDS_MAX, MAX_UNACKED_MAX
from hstreamlite.errors import StreamNotFound, SubscriptionNotFound
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.api.messages import check_stream, check_subscription, timestamp
from hstreamlite.net.api.served import Context, Served
from hstreamlite.net.errors import Refused, Status
from hstreamlite.place import EARLIEST, LATEST


class Subscriptions(Served):
    async def CreateSubscription(
        self, request: pb.Subscription, context: Context
    ) -> pb.Subscription:
        name = check_subscription(request.subscriptionId)
        if request.offset not in pb.SpecialOffset.values():
            raise Refused(
                Status.INVALID_ARGUMENT,
                pb.ErrorCode.SubscriptionInvalidOffset,
                f"There is no special offset {request.offset}.",
            )
        if not 1 <= request.ackTimeoutSeconds <= ACK_TIMEOUT_SECONDS_MAX:
            raise Refused(
                Status.INVALID_ARGUMENT,
                0,
                f"ackTimeoutSeconds must be from 1 to {ACK_TIMEOUT_SECONDS_MAX:g}, "
                f"not {request.ackTimeoutSeconds}.",
            )
        if request.maxUnackedRecords < 1:
            raise Refused(
                Status.INVALID_ARGUMENT,
                0,
                f"maxUnackedRecords must be at least 1, not {request.maxUnackedRecords}.",
            )
        try:
            made = await self.node.raw.create_subscription(
                name,
                stream=check_stream(request.streamName),
                ack_timeout=request.ackTimeoutSeconds,
                max_unacked=min(request.maxUnackedRecords, MAX_UNACKED_MAX),
                start=EARLIEST if request.offset == pb.SpecialOffset.EARLIEST else LATEST,
                mode=self.node.config.delivery,
                unit="shard",
            )
        except StreamNotFound as error:
            raise Refused(
                Status.FAILED_PRECONDITION,
                pb.ErrorCode.SubscriptionCreationOnNonExistentStream,
                str(error),
                request.streamName,
            ) from error
        return _message(made)

    async def GetSubscription(
        self, request: pb.GetSubscriptionRequest, context: Context
    ) -> pb.GetSubscriptionResponse:
        found = self.node.raw.subscription(check_subscription(request.id))
        offsets = self.node.raw.offsets(found.name)
        return pb.GetSubscriptionResponse(
            subscription=_message(found),
            offsets=[
                pb.SubscriptionOffset(shardId=shard, batchId=batch)
                for shard, batch in sorted(offsets.items())
            ],
        )

    async def ListSubscriptions(
        self, request: pb.ListSubscriptionsRequest, context: Context
    ) -> pb.ListSubscriptionsResponse:
        return pb.ListSubscriptionsResponse(
            subscription=[_message(each) for each in self.node.raw.subscriptions()]
        )

    async def ListSubscriptionsWithPrefix(
        self, request: pb.ListSubscriptionsWithPrefixRequest, context: Context
    ) -> pb.ListSubscriptionsResponse:
        prefix = check_subscription(request.prefix)
        return pb.ListSubscriptionsResponse(
            subscription=[_message(each) for each in self.node.raw.subscriptions(prefix)]
        )

    async def CheckSubscriptionExist(
        self, request: pb.CheckSubscriptionExistRequest, context: Context
    ) -> pb.CheckSubscriptionExistResponse:
        try:
            self.node.raw.subscription(request.subscriptionId)
        except (SubscriptionNotFound, ValueError):
            return pb.CheckSubscriptionExistResponse(exists=False)
        return pb.CheckSubscriptionExistResponse(exists=True)

    async def DeleteSubscription(
        self, request: pb.DeleteSubscriptionRequest, context: Context
    ) -> Empty:
        name = check_subscription(request.subscriptionId)
        await self.node.store.delete_subscription(name, force=request.force)
        return Empty()


def _message(found: RawSubscription) -> pb.Subscription:
    latest = found.start == "latest"
    return pb.Subscription(
        subscriptionId=found.name,
        streamName=found.stream,
        ackTimeoutSeconds=-int(-found.ack_timeout // 1),
        maxUnackedRecords=found.max_unacked,
        offset=pb.SpecialOffset.LATEST if latest else pb.SpecialOffset.EARLIEST,
        creationTime=timestamp(found.created_ms),
    )
