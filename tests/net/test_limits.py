"""Limits: what is held back, what its client is told, and that others go on."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.http2 import Raw, beginning, hello, message, request
from hstreamlite.errors import LimitReached
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.hstream_pb2_grpc import HStreamApiStub
from hstreamlite.net.limiter import Limiter
from hstreamlite.net.limits import Limits, LimitsConfig
from hstreamlite.net.server import Server

pytestmark = pytest.mark.unsanitized("gRPC's own core is no build of ours")

ECHO = "/hstream.server.HStreamApi/Echo"
OWN = [("grpc.use_local_subchannel_pool", 1)]
GUARD = 30.0


@asynccontextmanager
async def serving(path: Path, **limits: float) -> AsyncIterator[Server]:
    config = ServerConfig(store=str(path / "store"), port=0, limits=LimitsConfig(**limits))
    async with Server(config) as server:
        yield server


def dial(server: Server) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(server.address, options=OWN)


async def echo(channel: grpc.aio.Channel) -> str:
    return (await HStreamApiStub(channel).Echo(pb.EchoRequest(msg="a"), timeout=GUARD)).msg


async def watch(channel: grpc.aio.Channel) -> Any:
    """Make a call that goes on by itself, and return it when it is under way."""
    stub = health_pb2_grpc.HealthStub(channel)
    call = stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
    await call.read()
    return call


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(GUARD):
        while True:
            if true():
                return
            await asyncio.sleep(0)


@pytest.mark.asyncio
@pytest.mark.parametrize("limit", ["calls_max", "calls_per_connection_max"])
async def test_one_call_too_many_is_refused_by_name_and_counted(tmp_path: Path, limit: str) -> None:
    async with (
        serving(tmp_path, **{limit: 3}) as server,
        dial(server) as channel,
        dial(server) as other,
    ):
        calls = [await watch(channel) for _ in range(3)]
        for count in (1, 2):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await echo(channel)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            detail = json.loads(refused.value.details() or "")
            assert detail["extra"] == limit
            assert f"limit {limit} of 3 is reached" in detail["message"]
            assert server.node.limits.refused == {limit: count}
        if limit == "calls_per_connection_max":
            assert await echo(other) == "a"
        calls.pop().cancel()
        await until(lambda: server.node.limits.calls < 3)
        assert await echo(channel) == "a"
        for call in calls:
            call.cancel()
        await until(lambda: server.node.limits.calls == 0)
        assert not server.node.limits._by_peer


@pytest.mark.asyncio
async def test_a_call_whose_request_never_comes_counts_and_is_refused_at_once(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, calls_max=5) as server, dial(server) as channel:
        port = server.node.listeners[0].port
        slow = await Raw.open(port)
        await slow.send(hello(), *(request(ECHO, 1 + 2 * each) for each in range(5)))
        await until(lambda: server.node.limits.calls == 5)
        await slow.send(request(ECHO, 11), beginning(100, b"x", 11))
        await until(lambda: server.node.limits.refused["calls_max"] == 1)
        slow.close()
        await until(lambda: server.node.limits.calls == 0)
        assert await echo(channel) == "a"


@pytest.mark.asyncio
async def test_a_connection_that_is_one_too_many_is_told_so_and_counted(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, connections_max=2) as server,
        dial(server) as first,
        dial(server) as second,
        dial(server) as third,
    ):
        calls = [await watch(first), await watch(second)]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await echo(third)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert json.loads(refused.value.details() or "")["extra"] == "connections_max"
        assert server.node.limits.refused == {"connections_max": 1}
        assert await echo(second) == "a"
        calls[0].cancel()
        await until(lambda: server.node.limits.connections == 1)
        assert await echo(third) == "a"
        calls[1].cancel()


@pytest.mark.asyncio
async def test_a_request_that_is_too_large_is_told_so_and_counted(tmp_path: Path) -> None:
    most = 1 << 16
    config = ServerConfig(store=str(tmp_path / "store"), port=0, receive_bytes_max=most)
    async with Server(config) as server, dial(server) as channel:
        stub = HStreamApiStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Echo(pb.EchoRequest(msg="x" * most))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert json.loads(refused.value.details() or "")["extra"] == "receive_bytes_max"
        assert server.node.limits.refused == {"receive_bytes_max": 1}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Echo(pb.EchoRequest(msg="x" * 2 * most))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await until(lambda: server.node.limits.refused["no_request"] == 1)
        assert await echo(channel) == "a"


@pytest.mark.asyncio
@pytest.mark.parametrize("method", [ECHO, "/hstream.server.HStreamApi/StreamingFetch"])
async def test_a_request_that_does_not_come_in_time_is_told_so_and_counted(
    tmp_path: Path, method: str
) -> None:
    async with serving(tmp_path, request_timeout=0.2) as server, dial(server) as channel:
        slow = await Raw.open(server.node.listeners[0].port)
        await slow.send(hello(), request(method), beginning(100, b"x"))
        told = b""
        async with asyncio.timeout(GUARD):
            while b"request_timeout" not in told:
                told += await slow.reader.read(1000)
        assert server.node.limits.refused == {"request_timeout": 1}
        await until(lambda: server.node.limits.calls == 0)
        server.node.limits.config = LimitsConfig()  # a busy machine is slower than that, too
        assert await echo(channel) == "a"
        slow.close()


class Silent:
    """The context of a call whose request does not come."""

    async def read(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.asyncio
async def test_each_request_that_does_not_come_has_its_own_time() -> None:
    limits = Limits(LimitsConfig(request_timeout=3600), 1 << 20)
    calls = [asyncio.create_task(limits.first(Silent())) for _ in range(3)]
    await until(lambda: len(limits._arriving) == 3)
    for call in calls[:2]:
        limits._arriving[call] -= 3600
        limits._look()
        with pytest.raises(LimitReached):
            await call
        assert limits._timer is not None, "nobody looks at the others"
    assert limits.refused == {"request_timeout": 2}
    calls[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls[2]
    assert (limits._arriving, limits._ended) == ({}, {})


@pytest.mark.asyncio
async def test_a_request_that_is_not_there_when_the_server_stops_is_not_waited_for(
    tmp_path: Path,
) -> None:
    # A client that heeds no farewell is waited for until then, call or not.
    config = ServerConfig(store=str(tmp_path / "store"), port=0, drain_timeout=0.3)
    async with Server(config) as server:
        slow = await Raw.open(server.node.listeners[0].port)
        await slow.send(hello(), request(ECHO), beginning(100, b"x"))
        await until(lambda: server.node.limits.connections == 1)
        await server.stop()
        told = await slow.reader.read()
        assert b"The server is stopping" in told
        slow.close()


@pytest.mark.asyncio
async def test_connections_beyond_twice_the_limit_are_closed_and_the_others_stay(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, connections_max=1) as server:
        port = server.node.listeners[0].port
        async with dial(server) as healthy:
            assert await echo(healthy) == "a"
            second = await Raw.open(port)
            await second.send(hello())
            assert await second.reader.readexactly(9)
            third = await Raw.open(port)
            with suppress(ConnectionError):
                await third.send(hello())
            assert await third.closed()
            assert await echo(healthy) == "a"
            second.close()
            async with asyncio.timeout(GUARD), dial(server) as again:
                stub = HStreamApiStub(again)
                assert (await stub.Echo(pb.EchoRequest(msg="a"), wait_for_ready=True)).msg == "a"


@pytest.mark.asyncio
async def test_who_says_nothing_or_nothing_more_is_closed(tmp_path: Path) -> None:
    async with serving(tmp_path, handshake_timeout=0.2, idle_timeout=1) as server:
        port = server.node.listeners[0].port
        async with dial(server) as channel:
            call = await watch(channel)
            silent, idle = await Raw.open(port), await Raw.open(port)
            with suppress(ConnectionError):  # it may be closed by then, as silent ones are
                await idle.send(hello())
            closed = await asyncio.gather(silent.closed(), idle.closed())
            assert all(closed)
            assert await echo(channel) == "a"  # it has a call under way, so it is not idle
            call.cancel()


@pytest.mark.asyncio
async def test_a_call_whose_client_takes_nothing_ends_and_is_counted(tmp_path: Path) -> None:
    limits = Limits(LimitsConfig(stall_timeout=1), 1 << 20)
    ended: list[LimitReached] = []

    async def flood(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        try:
            while True:
                await context.write(bytes(1 << 20))
        except LimitReached as error:
            ended.append(error)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    async def greet(_request: bytes, _context: object) -> bytes:
        return b"hello"

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            if details.method == "/t/flood":
                return grpc.unary_stream_rpc_method_handler(flood)
            return grpc.unary_unary_rpc_method_handler(greet)

    server = grpc.aio.server(interceptors=[Limiter(limits)])
    server.add_generic_rpc_handlers([Handlers()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    slow = await Raw.open(port)
    await slow.send(hello(), request("/t/flood"), message(b"x"))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        while not ended:
            assert await channel.unary_unary("/t/greet")(b"x") == b"hello"
    assert ended[0].limit == "stall_timeout"
    assert limits.refused == {"stall_timeout": 1}
    slow.close()
    await until(lambda: limits.calls == 0)
    await server.stop(0)


@pytest.mark.parametrize(
    "options",
    [
        {"calls_max": 0},
        {"connections_max": 10**7},
        {"idle_timeout": 0},
        {"stall_timeout": -1},
        {"request_timeout": 0},
        {"request_timeout": float("nan")},
    ],
)
def test_a_limit_outside_its_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be from"):
        LimitsConfig(**options)


@pytest.mark.asyncio
async def test_clients_of_the_socket_in_the_store_are_not_one_connection(tmp_path: Path) -> None:
    async with serving(tmp_path, calls_per_connection_max=1, connections_max=1):
        target = f"unix:{tmp_path}/store/server.sock"
        async with (
            grpc.aio.insecure_channel(target, options=OWN) as first,
            grpc.aio.insecure_channel(target, options=OWN) as second,
        ):
            calls = [await watch(first), await watch(second)]
            assert await echo(second) == "a"
            for call in calls:
                call.cancel()
