"""A consumer that asks for more than it takes: it is held back, and costs the server little."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.encoded import message_of
from hstreamlite.net.hstreamlite_pb2_grpc import HStreamLiteStub
from hstreamlite.net.server import Server
from hstreamlite.net.v1.consuming import _ANSWERS_MAX, _FETCHES_MAX, Session
from tests.net.test_limits import until

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]


async def attached(server: Server, channel: grpc.aio.Channel) -> Any:
    store = server.node.store
    await store.create_stream("orders")
    await store.create_subscription("billing", stream="orders")
    call: Any = HStreamLiteStub(channel).Consume(timeout=60)
    attach = pb.ConsumeRequest.Attach(
        subscription="billing", name="c", session=b"x" * 16, lease_ms=60_000
    )
    await call.write(pb.ConsumeRequest(number=1, attach=attach))
    assert (await call.read()).HasField("attached")
    return call


async def test_fetches_that_wait_are_bounded(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = await attached(server, channel)
        fetch = pb.ConsumeRequest.Fetch(max_records=1)
        for number in [*range(2, _FETCHES_MAX + 2), 2, _FETCHES_MAX + 2]:
            await call.write(pb.ConsumeRequest(number=number, fetch=fetch))
        for number in (2, _FETCHES_MAX + 2):
            refused = await call.read()
            assert refused.number == number
            assert f"are {_FETCHES_MAX} at most" in refused.failure
        await call.write(pb.ConsumeRequest(cancel=3))
        assert (await call.read()).number == 3
        await call.write(pb.ConsumeRequest(number=3, fetch=fetch))
        await server.node.store.stream("orders").append_many([b"x"] * _FETCHES_MAX)
        answers = [await call.read() for _ in range(_FETCHES_MAX)]
        numbers = Counter(answer.number for answer in answers if not answer.failure)
        assert numbers == Counter(range(2, _FETCHES_MAX + 2))
        call.cancel()


async def test_who_takes_no_answers_is_not_listened_to(server: Server) -> None:
    store = server.node.store
    await store.create_stream("orders")
    subscription = await store.create_subscription("billing", stream="orders")
    asked = 0

    async def requests() -> AsyncIterator[pb.ConsumeRequest]:
        nonlocal asked
        for asked in range(1, 2 * _ANSWERS_MAX + 1):
            yield pb.ConsumeRequest(number=asked, beat=True)

    async with subscription.consumer("c") as consumer:
        session = Session(server.node, consumer, b"")
        reading = asyncio.create_task(session.read(requests()))
        await until(lambda: asked == _ANSWERS_MAX)
        assert not reading.done()
        assert [message_of(answer).number async for answer in session.answers()] == [
            *range(1, 2 * _ANSWERS_MAX + 1)
        ]
        await reading
