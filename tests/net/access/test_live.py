"""A server that asks for tokens, and clients of all kinds."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.access.config import GrantConfig, TokenConfig
from hstreamlite.net.access.token import hash_of, new_token
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.hstream_pb2_grpc import HStreamApiStub
from hstreamlite.net.server import Server

pytestmark = pytest.mark.unsanitized("gRPC's own core is no build of ours")

TOKEN, _ = new_token()
ADA, _ = new_token("ada")
EVE, _ = new_token("eve")


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    config = ServerConfig(
        store=str(tmp_path / "store"),
        port=0,
        tokens=(
            TokenConfig(role="billing", hash=hash_of(TOKEN)),
            TokenConfig(role="ada", hash=hash_of(ADA)),
            TokenConfig(role="eve", hash=hash_of(EVE)),
        ),
        grants=(
            GrantConfig(role="billing", actions=("read",), streams=("orders",)),
            GrantConfig(role="ada", actions=("admin",)),
            GrantConfig(role="eve", actions=("monitor",)),
        ),
    )
    async with Server(config) as server:
        yield server


def metadata(token: str, scheme: str = "Basic") -> tuple[tuple[str, str], ...]:
    return (("authorization", f"{scheme} {token}"),)


@pytest.mark.asyncio
async def test_calls_with_a_good_token_are_answered_and_others_refused(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = HStreamApiStub(channel)
        for scheme in ("Basic", "Bearer", "basic"):
            answer = await stub.Echo(pb.EchoRequest(msg="a"), metadata=metadata(TOKEN, scheme))
            assert answer.msg == "a"
        for wrong in (None, metadata("x" * 43), metadata(TOKEN[:-1]), metadata(TOKEN, "Digest")):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Echo(pb.EchoRequest(), metadata=wrong)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            detail = json.loads(refused.value.details() or "")
            assert detail["error"] == 0
            assert "token" in detail["message"]
        assert server.node.gate.refused["unauthenticated"] == 4
        for two in ((TOKEN, "x" * 43), ("x" * 43, TOKEN), (TOKEN, TOKEN)):
            both = [pair for each in two for pair in metadata(each)]
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Echo(pb.EchoRequest(), metadata=both)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def refusal_of_fetching(address: str) -> grpc.RpcError:
    """Return what a StreamingFetch without a token ends with.

    Asked by gRPC's blocking client: where a request is still to be sent when the refusal comes, its
    client for asyncio may tell of that and not of the refusal (grpc/grpc#36066).
    """
    with grpc.insecure_channel(address) as channel:
        requests = iter([pb.StreamingFetchRequest(subscriptionId="s")])
        with pytest.raises(grpc.RpcError) as refused:
            list(HStreamApiStub(channel).StreamingFetch(requests))
        return refused.value


@pytest.mark.asyncio
async def test_streams_ask_for_a_token_too(server: Server) -> None:
    error = await asyncio.to_thread(refusal_of_fetching, server.address)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = HStreamApiStub(channel)
        many = stub.ReadStream(
            pb.ReadStreamRequest(streamName="payments"), metadata=metadata(TOKEN)
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in many:
                pass
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert json.loads(refused.value.details() or "")["extra"] == "payments"


@pytest.mark.asyncio
async def test_what_is_not_granted_is_denied_and_the_rest_goes_on(server: Server) -> None:
    query = pb.CreateQueryRequest(sql="SELECT")
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = HStreamApiStub(channel)

        async def healthy() -> int:
            for number in range(100):
                await stub.Echo(pb.EchoRequest(msg=str(number)), metadata=metadata(TOKEN))
            return 100

        answered = asyncio.ensure_future(healthy())
        for _ in range(30):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.CreateQuery(query, metadata=metadata(TOKEN))
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert await answered == 100
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.CreateQuery(query, metadata=metadata(ADA))
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED  # the servicer was asked


@pytest.mark.asyncio
async def test_the_socket_in_the_store_and_health_ask_for_no_token(server: Server) -> None:
    path = Path(server.node.store.path) / "server.sock"
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        assert (await HStreamApiStub(channel).Echo(pb.EchoRequest(msg="a"))).msg == "a"
    async with grpc.aio.insecure_channel(server.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.asyncio
async def test_who_may_monitor_gets_statistics_of_commands_and_no_more(server: Server) -> None:
    statistics = ["server sql SELECT name FROM streams", "server stats stream_counter appends"]
    others = ["server status", "server reset-stats", "server stream list", "nonsense", "'"]
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = HStreamApiStub(channel)

        async def code(token: str, command: str) -> grpc.StatusCode:
            request = pb.AdminCommandRequest(command=command)
            try:
                await stub.SendAdminCommand(request, metadata=metadata(token))
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        denied, ok = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.OK
        assert {await code(TOKEN, command) for command in statistics + others} == {denied}
        assert {await code(EVE, command) for command in statistics} == {ok}
        assert {await code(EVE, command) for command in others} == {denied}
        assert {await code(ADA, command) for command in statistics + others[:3]} == {ok}
        assert {await code(ADA, command) for command in others[3:]} == {grpc.StatusCode.INTERNAL}
