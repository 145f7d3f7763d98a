"""What each call needs: one line a call, and a call without one is refused where access is limited.

A need names an action and the field of the request that says on what. Where a request names a
shard or a reader, that stands for its stream; where it names several things, all are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from google.protobuf.message import Message

from hstreamlite.net.access.config import Action

Source = Literal["stream", "subscription", "shard", "reader"]


@dataclass(frozen=True, slots=True)
class Need:
    """``action`` None: any. ``source`` None: on the server. ``optional``: an empty field asks for
    nothing, as another one says on what."""

    action: Action | None
    source: Source | None = None
    field: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """Needs of one call, all of which a caller must have.

    ``shown``: of a list, the field of the answer with the entries, and what in an entry says of
    which stream, subscription or reader it is: others are left out.
    """

    needs: tuple[Need, ...] = ()
    shown: tuple[Source, str, str] | None = None


def call(*needs: Need) -> Call:
    return Call(needs)


def listed(source: Source, entries: str, name: str) -> Call:
    return Call((), (source, entries, name))


def on(action: Action | None, source: Source | None = None, field: str = "") -> Need:
    return Need(action, source, field)


def maybe(action: Action | None, source: Source, field: str) -> Need:
    return Need(action, source, field, optional=True)


KNOWN = Call()
"""Of everybody who is known: tells nothing about streams, changes nothing."""
ADMIN = call(on("admin"))
MONITOR = call(on("monitor"))

_HSTREAM: Mapping[str, Call] = {
    "Echo": KNOWN,
    "DescribeCluster": KNOWN,
    # The same answer for what is there and what is not.
    "LookupShard": KNOWN,
    "LookupShardReader": KNOWN,
    "LookupSubscription": KNOWN,
    "LookupResource": KNOWN,
    "LookupKey": KNOWN,
    "CreateStream": call(on("create", "stream", "streamName")),
    "DeleteStream": call(on("delete", "stream", "streamName")),
    "TrimStream": call(on("delete", "stream", "streamName")),
    "TrimShards": call(on("delete", "stream", "streamName")),
    "TrimShard": call(maybe("delete", "stream", "streamName"), on("delete", "shard", "shardId")),
    "GetStream": call(on(None, "stream", "name")),
    "ListStreams": listed("stream", "streams", "streamName"),
    "ListStreamsWithPrefix": listed("stream", "streams", "streamName"),
    "ListShards": call(on(None, "stream", "streamName")),
    "Append": call(maybe("append", "stream", "streamName"), on("append", "shard", "shardId")),
    "GetTailRecordId": call(maybe(None, "stream", "streamName"), on(None, "shard", "shardId")),
    "CreateShardReader": call(
        maybe("read", "stream", "streamName"), on("read", "shard", "shardId")
    ),
    "ReadShard": call(on("read", "reader", "readerId")),
    "DeleteShardReader": call(on("read", "reader", "readerId")),
    "ListShardReaders": listed("reader", "readerId", ""),
    "ReadShardStream": call(maybe("read", "stream", "streamName"), on("read", "shard", "shardId")),
    "ReadStream": call(on("read", "stream", "streamName")),
    "ReadSingleShardStream": call(on("read", "stream", "streamName")),
    "ReadStreamByKey": call(on("read", "stream", "streamName")),
    # Who may consume a subscription reads its stream: so who makes one must be allowed to.
    "CreateSubscription": call(
        on("create", "subscription", "subscriptionId"), on("read", "stream", "streamName")
    ),
    "GetSubscription": call(on(None, "subscription", "id")),
    "ListSubscriptions": listed("subscription", "subscription", "subscriptionId"),
    "ListSubscriptionsWithPrefix": listed("subscription", "subscription", "subscriptionId"),
    "ListConsumers": call(on(None, "subscription", "subscriptionId")),
    "CheckSubscriptionExist": call(on(None, "subscription", "subscriptionId")),
    "DeleteSubscription": call(on("delete", "subscription", "subscriptionId")),
    "StreamingFetch": call(on("consume", "subscription", "subscriptionId")),
    "SendAdminCommand": KNOWN,  # it asks for what its commands need
    "PerStreamTimeSeriesStats": MONITOR,
    "PerStreamTimeSeriesStatsAll": MONITOR,
    "GetStats": MONITOR,
    # They run statements and programs, which may name any stream.
    "ExecuteQuery": ADMIN,
    "CreateQuery": ADMIN,
    "CreateQueryWithNamespace": ADMIN,
    "ListQueries": ADMIN,
    "GetQuery": ADMIN,
    "TerminateQuery": ADMIN,
    "DeleteQuery": ADMIN,
    "ResumeQuery": ADMIN,
    "PauseQuery": ADMIN,
    "ParseSql": ADMIN,
    "RegisterSchema": ADMIN,
    "GetSchema": ADMIN,
    "UnregisterSchema": ADMIN,
    "CreateConnector": ADMIN,
    "ListConnectors": ADMIN,
    "GetConnector": ADMIN,
    "GetConnectorSpec": ADMIN,
    "GetConnectorLogs": ADMIN,
    "DeleteConnector": ADMIN,
    "PauseConnector": ADMIN,
    "ResumeConnector": ADMIN,
    "AlterConnectorConfig": ADMIN,
    "ListViews": ADMIN,
    "GetView": ADMIN,
    "DeleteView": ADMIN,
    "ExecuteViewQuery": ADMIN,
    "ExecuteViewQueryWithNamespace": ADMIN,
}

_OWN: Mapping[str, Call] = {
    "Hello": KNOWN,
    "Sync": KNOWN,
    "Stats": MONITOR,
    "Backup": ADMIN,
    "CreateStream": call(on("create", "stream", "name")),
    "DescribeStream": call(on(None, "stream", "stream")),
    "ListStreams": listed("stream", "streams", "name"),
    "ListShards": call(on(None, "stream", "stream")),
    "DeleteStream": call(on("delete", "stream", "name")),
    "Tail": call(on(None, "stream", "stream")),
    "Trim": call(on("delete", "stream", "stream")),
    "Append": call(on("append", "stream", "stream")),
    "Read": call(on("read", "stream", "stream")),
    "Produce": call(on("append", "stream", "begin.stream")),
    "CreateSubscription": call(
        on("create", "subscription", "name"),
        on("read", "stream", "stream"),
        maybe("append", "stream", "dead_letter"),
    ),
    "DescribeSubscription": call(on(None, "subscription", "subscription")),
    "ListSubscriptions": listed("subscription", "subscriptions", "name"),
    "DeleteSubscription": call(on("delete", "subscription", "name")),
    "Lag": call(on(None, "subscription", "subscription")),
    "Seek": call(on("consume", "subscription", "subscription")),
    "Pause": call(on("consume", "subscription", "subscription")),
    "Redrive": call(on("consume", "subscription", "subscription")),
    "SkipDamaged": call(on("consume", "subscription", "subscription")),
    "Consume": call(on("consume", "subscription", "attach.subscription")),
    "Commit": call(
        on("create", "stream", "create.name"),
        on("delete", "stream", "delete"),
        on("append", "stream", "append.stream"),
        on("consume", "subscription", "acks.subscription"),
    ),
}

CALLS: Mapping[str, Mapping[str, Call]] = {
    "hstream.server.HStreamApi": _HSTREAM,
    "hstreamlite.v1.HStreamLite": _OWN,
}
"""By service and method."""


def asked(request: Message, need: Need) -> Any:
    """Return what a request says in the field of a need; None where it says nothing."""
    message: Any = request
    *above, last = need.field.split(".")
    for name in above:
        if not message.HasField(name):
            return None
        message = getattr(message, name)
    if message.DESCRIPTOR.fields_by_name[last].has_presence and not message.HasField(last):
        return None
    value = getattr(message, last)
    return None if need.optional and not value else value
