"""The server as a whole: how it starts, what it says, how it ends."""

import asyncio
import json
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import hstreamlite
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.config import CannotListen, ListenerConfig
from hstreamlite.net.hstream_pb2_grpc import HStreamApiStub
from hstreamlite.net.server import Server
from tests.net.wire import config

pytestmark = pytest.mark.unsanitized("gRPC's own core is no build of ours")


@pytest.mark.asyncio
async def test_echo_answers_what_it_was_told(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        assert (await HStreamApiStub(channel).Echo(pb.EchoRequest(msg="hello"))).msg == "hello"


@pytest.mark.asyncio
async def test_the_socket_in_the_store_serves_the_same(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("%41?#" * 10)  # too long, and odd in a URI
    deep.mkdir(parents=True)
    async with Server(config(deep)) as server:
        path = Path(server.node.store.path) / "server.sock"
        assert path.is_socket()
        short = tmp_path / "short"
        short.symlink_to(path.parent)
        async with grpc.aio.insecure_channel(f"unix:{short}/server.sock") as channel:
            stub = HStreamApiStub(channel)
            assert (await stub.Echo(pb.EchoRequest(msg="hello"))).msg == "hello"
            [node] = (await stub.DescribeCluster(Empty())).serverNodes
            assert f"{node.host}:{node.port}" == server.address
    assert not path.exists()


@pytest.mark.asyncio
async def test_who_comes_in_by_a_group_is_told_its_address(tmp_path: Path) -> None:
    listeners = (
        ListenerConfig(group="lan", host="127.0.0.1", port=0),
        ListenerConfig(
            group="wan",
            host="127.0.0.1",
            port=0,
            advertised_host="streams.example",
            advertised_port=443,
        ),
    )
    told = []
    async with Server(config(tmp_path, listeners=listeners, advertised_host="me")) as server:
        ports = [listener.port for listener in server.node.listeners if listener.port]
        assert len(set(ports)) == 3
        for port in ports:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = HStreamApiStub(channel)
                [node] = (await stub.DescribeCluster(Empty())).serverNodes
                shard = await stub.LookupShard(pb.LookupShardRequest(shardId=7))
                assert shard.serverNode == node
                told.append((node.host, node.port))
    assert told == [("me", ports[0]), ("127.0.0.1", ports[1]), ("streams.example", 443)]


@pytest.mark.asyncio
async def test_health_and_reflection_know_the_services(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "hstream.server.HStreamApi"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
        [answer] = [answer async for answer in call]
        services = {service.name for service in answer.list_services_response.service}
        assert {"hstream.server.HStreamApi", "grpc.health.v1.Health"} <= services


@pytest.mark.asyncio
async def test_who_watches_its_health_is_told_that_it_stops(tmp_path: Path) -> None:
    server = Server(config(tmp_path, drain_timeout=100))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await asyncio.wait_for(server.stop(), 60)
        assert await watch.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.asyncio
async def test_an_address_in_use_is_told_and_leaves_the_store_closed(tmp_path: Path) -> None:
    async with Server(config(tmp_path)) as first:
        port = first.node.listeners[0].port
        with pytest.raises(CannotListen, match=str(port)):
            await Server(config(tmp_path, store=str(tmp_path / "2"), port=port)).start()
    hstreamlite.open(tmp_path / "2", create=False).close()


@pytest.mark.asyncio
async def test_what_is_not_served_says_so(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await HStreamApiStub(channel).CreateQuery(pb.CreateQueryRequest(sql="SELECT"))
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert json.loads(refused.value.details() or "")["error"] == 0


def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hstreamlite", "server", "--store", str(path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_says_where_it_is_and_stops_on_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    with start(tmp_path, "--port", "0") as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready.startswith("hstreamlite server ready at 127.0.0.1:")
            with start(tmp_path, "--port", "0") as second:
                _, told = second.communicate(timeout=60)
            assert second.returncode == 3
            assert f"process {process.pid}" in told
            assert "Traceback" not in told
            address = ready.split()[4]
            with grpc.insecure_channel(address) as channel:
                assert HStreamApiStub(channel).Echo(pb.EchoRequest(msg="x"), timeout=60).msg == "x"
            process.send_signal(number)
            rest, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, rest, errors) == (0, "", "")
    with hstreamlite.open(tmp_path, create=False) as store:
        assert store.recovery.clean


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "70000"],
        ["--port", "x"],
        ["--listener", "lan"],
        ["--listener", "=127.0.0.1:0"],
        ["--port", "-1"],
        ["--delivery", "random"],
    ],
)
def test_wrong_usage_does_nothing(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from hstreamlite.net.main import main

    assert main(["--store", str(tmp_path / "store"), *arguments]) == 2
    assert arguments[0].strip("-") in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.asyncio
async def test_a_busy_server_that_stops_cancels_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # gRPC's thread may not get to tell of a call for longer than is usual, beside other processes.
    monkeypatch.setattr("hstreamlite.net.server._QUIET", 0.25)
    monkeypatch.setattr("hstreamlite.net.server._TURNING_AWAY_MAX", 10.0)
    server = Server(config(tmp_path))
    ends: list[grpc.StatusCode] = []
    went = asyncio.Event()

    async def busy(stub: HStreamApiStub) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            while True:
                await stub.Echo(pb.EchoRequest(msg="x"), timeout=60)
                went.set()
        ends.append(ended.value.code())

    async with server, AsyncExitStack() as stack:
        own = [("grpc.use_local_subchannel_pool", 1)]
        made = [grpc.aio.insecure_channel(server.address, options=own) for _ in range(4)]
        stubs = [HStreamApiStub(await stack.enter_async_context(each)) for each in made]
        clients = [asyncio.create_task(busy(stub)) for stub in stubs for _ in range(16)]
        await went.wait()
        await server.stop()
        await asyncio.gather(*clients)
    assert set(ends) == {grpc.StatusCode.UNAVAILABLE}
