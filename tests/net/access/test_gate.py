"""The gate around servicers: who is let through, with what, and that nobody gets past it."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from hstreamlite.errors import PermissionDenied, Unauthenticated
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.access.config import GrantConfig, TokenConfig
from hstreamlite.net.access.gate import OWNER, Gate
from hstreamlite.net.access.needs import CALLS
from hstreamlite.net.access.policy import Caller
from hstreamlite.net.access.token import hash_of, new_token
from tests.net.access.test_needs import METHODS, services

TOKEN = new_token()[0]
TOKENS = (TokenConfig(role="billing", hash=hash_of(TOKEN)),)
READ_ORDERS = GrantConfig(
    role="billing", actions=("read", "consume"), streams=("orders",), subscriptions=("billing",)
)


class Names:
    def stream_of_shard(self, shard: int) -> str | None:
        return {1: "orders", 2: "payments"}.get(shard)

    def stream_of_reader(self, reader: str) -> str | None:
        return {"mine": "orders", "theirs": "payments"}.get(reader)


class Servicer:
    """Notes which requests reach it."""

    def __init__(self, service: ServiceDescriptor) -> None:
        self.seen: list[Any] = []
        for method in service.methods:
            answer = GetMessageClass(method.output_type)
            kind = self.many if method.server_streaming else self.one
            setattr(self, method.name, kind(answer))

    def one(self, answer: Any) -> Any:
        async def respond(request: Any, context: Any) -> Any:
            if inspect.isasyncgen(request):
                self.seen += [each async for each in request]
            else:
                self.seen.append(request)
            return answer()

        return respond

    def many(self, answer: Any) -> Any:
        async def respond(request: Any, context: Any) -> AsyncIterator[Any]:
            if inspect.isasyncgen(request):
                async for each in request:
                    self.seen.append(each)
                    yield answer()
            else:
                self.seen.append(request)
                yield answer()

        return respond


API = services()["hstream.server.HStreamApi"]


def make(*grants: GrantConfig, service: ServiceDescriptor = API) -> tuple[Gate, Servicer, Any]:
    gate = Gate(TOKENS, grants, Names())
    servicer = Servicer(service)
    return gate, servicer, gate.guard(service, servicer, lambda context: context)


async def call(behaviour: Any, *requests: Any, caller: Caller) -> list[Any]:
    async def many() -> AsyncIterator[Any]:
        for request in requests:
            yield request

    streamed = isinstance(requests, tuple) and len(requests) != 1
    answers = behaviour(many() if streamed else requests[0], caller)
    if inspect.isasyncgen(answers):
        return [answer async for answer in answers]
    return [await answers]


def allowed(behaviour: Any, *requests: Any, role: str = "billing") -> bool:
    try:
        asyncio.run(call(behaviour, *requests, caller=Caller(role)))
    except PermissionDenied:
        return False
    return True


@pytest.mark.parametrize("method", METHODS)
def test_a_role_without_grants_reaches_no_call_that_tells_or_changes_anything(method: Any) -> None:
    service = method.containing_service
    gate, servicer, guarded = make(READ_ORDERS, service=service)
    entry = CALLS[service.full_name][method.name]
    request = GetMessageClass(method.input_type)()
    for need in entry.needs:
        *above, last = need.field.split(".")
        if need.source is not None:
            message = request
            for name in above:
                message = getattr(message, name)
            setattr(message, last, 1 if need.source == "shard" else "orders")
            break
    requests = (request, request) if method.client_streaming else (request,)
    behaviour = getattr(guarded, method.name)
    free = not entry.needs
    assert allowed(behaviour, *requests, role="nobody") == free
    assert bool(servicer.seen) == free
    assert gate.refused["permission"] == (not free)
    asyncio.run(call(behaviour, *requests, caller=OWNER))
    assert servicer.seen


def test_a_call_that_is_not_in_the_table_is_refused_to_all_but_the_owner() -> None:
    gate = Gate(TOKENS, (), Names())  # everybody may do everything
    servicer = Servicer(API)
    guarded: Any = gate.guard(API, servicer, lambda context: context, calls={})
    assert not allowed(guarded.Echo, pb.EchoRequest())
    assert not servicer.seen
    asyncio.run(call(guarded.Echo, pb.EchoRequest(), caller=OWNER))


@pytest.mark.parametrize(
    ("rpc", "request_", "may"),
    [
        ("GetStream", pb.GetStreamRequest(name="orders-eu"), True),
        ("GetStream", pb.GetStreamRequest(name="payments"), False),
        ("ReadStream", pb.ReadStreamRequest(streamName="orders"), True),
        ("ReadStream", pb.ReadStreamRequest(streamName="payments"), False),
        ("ReadStream", pb.ReadStreamRequest(), False),
        ("ReadShardStream", pb.ReadShardStreamRequest(shardId=1), True),
        ("ReadShardStream", pb.ReadShardStreamRequest(shardId=2), False),
        ("ReadShardStream", pb.ReadShardStreamRequest(shardId=3), False),
        ("ReadShardStream", pb.ReadShardStreamRequest(streamName="orders", shardId=2), False),
        ("ReadShard", pb.ReadShardRequest(readerId="mine"), True),
        ("ReadShard", pb.ReadShardRequest(readerId="theirs"), False),
        ("ReadShard", pb.ReadShardRequest(readerId="nobody's"), False),
        ("CreateSubscription", pb.Subscription(subscriptionId="billing"), False),
        ("Append", pb.AppendRequest(streamName="orders", shardId=1), False),
    ],
)
def test_names_shards_and_readers_lead_to_the_stream(rpc: str, request_: Any, may: bool) -> None:
    _, servicer, guarded = make(READ_ORDERS)
    assert allowed(getattr(guarded, rpc), request_) == may
    assert bool(servicer.seen) == may


def test_the_stream_named_does_not_open_the_shard_of_another() -> None:
    grant = GrantConfig(role="billing", actions=("append",), streams=("orders",))
    _, servicer, guarded = make(grant)
    assert allowed(guarded.Append, pb.AppendRequest(streamName="orders", shardId=1))
    assert not allowed(guarded.Append, pb.AppendRequest(streamName="orders", shardId=2))
    assert not allowed(guarded.Append, pb.AppendRequest(streamName="payments", shardId=1))
    assert len(servicer.seen) == 1


def test_who_makes_a_subscription_must_be_allowed_to_read_its_stream() -> None:
    makes = GrantConfig(role="billing", actions=("create",), subscriptions=("billing",))
    _, _, guarded = make(makes, READ_ORDERS)
    wanted = pb.Subscription(subscriptionId="billing-1", streamName="orders")
    assert allowed(guarded.CreateSubscription, wanted)
    wanted.streamName = "payments"
    assert not allowed(guarded.CreateSubscription, wanted)


def test_a_later_request_of_a_stream_is_checked_as_the_first() -> None:
    _, servicer, guarded = make(READ_ORDERS)
    mine, theirs, more = (
        pb.StreamingFetchRequest(subscriptionId=name) for name in ("billing", "x", "")
    )
    assert allowed(guarded.StreamingFetch, mine, more)
    assert len(servicer.seen) == 2
    assert not allowed(guarded.StreamingFetch, mine, more, theirs)
    assert len(servicer.seen) == 4
    assert not allowed(guarded.StreamingFetch, more, mine)
    assert len(servicer.seen) == 4


def test_lists_show_what_a_role_may_know_of() -> None:
    gate, _, _ = make(READ_ORDERS)
    api = CALLS["hstream.server.HStreamApi"]
    streams = pb.ListStreamsResponse(
        streams=[pb.Stream(streamName=name) for name in ("orders", "payments", "orders-eu")]
    )
    shown = gate.show(Caller("billing"), api["ListStreams"], streams)
    assert [stream.streamName for stream in shown.streams] == ["orders", "orders-eu"]
    assert gate.show(OWNER, api["ListStreams"], streams) is streams
    readers = pb.ListShardReadersResponse(readerId=["mine", "theirs", "gone"])
    shown = gate.show(Caller("billing"), api["ListShardReaders"], readers)
    assert list(shown.readerId) == ["mine"]


def test_who_is_known_by_token_or_certificate() -> None:
    gate, _, _ = make()
    assert gate.identify(f"Basic {TOKEN}", None).role == "billing"
    assert gate.identify(f"Bearer {TOKEN}", "shop").role == "billing"
    assert gate.identify(None, "shop").role == "shop"
    assert gate.identify(None, None, local=True).trusted
    for header, certificate in ((None, None), ("Basic x", None), ("Basic x", "shop"), ("", "shop")):
        with pytest.raises(Unauthenticated) as refused:
            gate.identify(header, certificate)
        assert "Basic x" not in str(refused.value)
    assert gate.refused["unauthenticated"] == 4


def test_without_tokens_and_grants_nobody_is_asked() -> None:
    gate = Gate((), (), Names())
    assert not gate.limited
    assert gate.identify("Basic anything", None) is OWNER
    gate.require("admin")
    gate.require("read", "stream", "orders")


def test_what_is_asked_for_outside_of_a_call_is_refused() -> None:
    gate, _, _ = make(READ_ORDERS)
    with pytest.raises(Unauthenticated):
        gate.require("read", "stream", "orders")
