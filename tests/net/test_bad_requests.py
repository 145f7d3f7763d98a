"""Whatever a client sends, the server answers in the words of the protocol, and goes on."""

import json
import logging
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from hstreamlite.net import hstream_pb2 as pb
from tests.effort import of
from tests.logs import logged
from tests.net.test_streams import append, create
from tests.net.wire import batch

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]
METHODS = list(pb.DESCRIPTOR.services_by_name["HStreamApi"].methods)
TEXTS = ["", "s", "sub", "r", "none", "1-1-0", "a b", "\0", "ü" * 300, "x" * 3000, "{", "server x"]
NUMBERS = {
    FieldDescriptor.TYPE_INT32: [-(2**31), -1, 0, 1, 600, 2**31 - 1],
    FieldDescriptor.TYPE_UINT32: [0, 1, 2, 600, 2**32 - 1],
    FieldDescriptor.TYPE_INT64: [-(2**63), -1, 0, 1, 2**63 - 1],
    FieldDescriptor.TYPE_UINT64: [0, 1, 2, 2**63, 2**64 - 1],
    FieldDescriptor.TYPE_ENUM: [0, 1, 2, 99, -1],
    FieldDescriptor.TYPE_BOOL: [False, True],
    FieldDescriptor.TYPE_DOUBLE: [0.0, float("nan"), float("inf")],
    FieldDescriptor.TYPE_BYTES: [b"", b"\xff", b"x" * 100],
    FieldDescriptor.TYPE_STRING: TEXTS,
}
# A line that is no command ends so in HStreamDB, too.
MAY_END_INTERNAL = {"SendAdminCommand"}


def drawn(random: Random, descriptor: Descriptor, depth: int = 0) -> Any:
    """Return a message with any of its fields, each with any value that its type allows."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if random.random() < 0.3 or (field.message_type is not None and depth > 3):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        for _ in range(random.randrange(4) if field.is_repeated else 1):
            value = (
                drawn(random, field.message_type, depth + 1)
                if field.message_type is not None
                else random.choice(NUMBERS[field.type])
            )
            if field.is_repeated:
                getattr(message, field.name).append(value)
            elif field.message_type is not None:
                getattr(message, field.name).CopyFrom(value)
            else:
                setattr(message, field.name, value)
    return message


async def told(stub: Any, method: Any, requests: list[Any]) -> grpc.aio.AioRpcError | None:
    """Call, and return the error that it ends with."""
    given = iter(requests) if method.client_streaming else requests[0]
    call = getattr(stub, method.name)(given, timeout=0.2 if method.server_streaming else 30)
    try:
        if method.server_streaming:
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error
    return None


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_no_request_is_too_odd(
    stub: Any, method: Any, caplog: pytest.LogCaptureFixture
) -> None:
    [shard] = await create(stub)
    await append(stub, "s", shard.shardId, batch(b"x"))
    await stub.CreateSubscription(
        pb.Subscription(
            subscriptionId="sub", streamName="s", ackTimeoutSeconds=600, maxUnackedRecords=9
        )
    )
    random = Random(method.name)
    with caplog.at_level(logging.ERROR):
        for number in range(of(6, brief=2, nightly=200)):
            empty = number == 0
            requests = [
                GetMessageClass(method.input_type)() if empty else drawn(random, method.input_type)
                for _ in range(3)
            ]
            error = await told(stub, method, requests)
            if error is None or error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                continue
            text = error.details() or ""
            if method.client_streaming and text == "Internal error from Core":
                continue  # the client's own, about a request behind the end of the call
            assert error.code() is not grpc.StatusCode.UNKNOWN, text
            if method.name not in MAY_END_INTERNAL:
                assert error.code() is not grpc.StatusCode.INTERNAL, text
                assert set(json.loads(text)) == {"error", "message", "extra"}
            assert "Traceback" not in text
    assert [record.getMessage() for record in logged(caplog)] == []
    assert (await stub.Echo(pb.EchoRequest(msg="still here"))).msg == "still here"


async def test_bytes_that_are_no_request_end_their_call_alone(server: Any) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        for method in ("Append", "CreateStream", "Echo"):
            call = channel.unary_unary(f"/hstream.server.HStreamApi/{method}")
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await call(b"\xff\xff\xff")
            assert "Traceback" not in (ended.value.details() or "")
        unknown = channel.unary_unary("/hstream.server.HStreamApi/None")
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await unknown(b"")
        assert ended.value.code() is grpc.StatusCode.UNIMPLEMENTED
        echo = channel.unary_unary("/hstream.server.HStreamApi/Echo")
        assert await echo(pb.EchoRequest(msg="x").SerializeToString()) == b"\x0a\x01x"
