"""TLS and mutual TLS: who gets in by which certificate, and what a bad one does to nobody else."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.access.config import GrantConfig, TokenConfig
from hstreamlite.net.access.token import hash_of, new_token
from hstreamlite.net.config import ListenerConfig, ServerConfig
from hstreamlite.net.hstream_pb2_grpc import HStreamApiStub
from hstreamlite.net.server import Server
from hstreamlite.net.tls import BadCertificate, Pems, TlsConfig, is_loopback
from tests.net.access.certificates import EXPIRED, Certificates

pytestmark = pytest.mark.unsanitized("gRPC's own core is no build of ours")

GRANTS = (
    GrantConfig(role="billing", actions=("read",), streams=("",)),
    GrantConfig(role="boss", actions=("admin",)),
)
TOKEN, _ = new_token()
GUARD = 30.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def serving(path: Path, **options: object) -> AsyncIterator[Server]:
    async with Server(
        ServerConfig(
            **{"store": str(path / "store"), "port": 0, "http": "http_port" in options} | options
        )
    ) as server:
        yield server


async def echo(channel: grpc.aio.Channel, text: str = "a") -> str:
    answer = await HStreamApiStub(channel).Echo(pb.EchoRequest(msg=text), timeout=GUARD)
    return answer.msg


async def code_of(channel: grpc.aio.Channel) -> grpc.StatusCode:
    async with channel:
        try:
            await echo(channel)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.mark.asyncio
async def test_who_is_no_client_of_the_authority_is_not_let_in_and_others_go_on(
    tmp_path: Path, certificates: Certificates
) -> None:
    tls = certificates.config(mutual=True)
    async with serving(tmp_path, tls=tls, grants=GRANTS) as server:
        bad = {
            "no certificate": certificates.client(),
            "wrong authority": certificates.client("stranger", by=certificates.stranger),
            "expired": certificates.client("late", until=EXPIRED),
            "server not trusted": certificates.client("x", trusting=certificates.stranger),
        }
        address = server.address
        async with grpc.aio.secure_channel(address, certificates.client("billing")) as healthy:
            assert await echo(healthy) == "a"
            for why, credentials in bad.items():
                code = await code_of(grpc.aio.secure_channel(address, credentials))
                assert code is grpc.StatusCode.UNAVAILABLE, why
                assert await echo(healthy, why) == why
            code = await code_of(grpc.aio.insecure_channel(address))
            assert code is grpc.StatusCode.UNAVAILABLE
            reader, writer = await asyncio.open_connection("127.0.0.1", int(address[10:]))
            writer.write(b"GET / HTTP/1.1\r\n\r\n" * 100)
            async with asyncio.timeout(GUARD):
                await reader.read()
            writer.close()
            assert await echo(healthy, "still") == "still"


@pytest.mark.asyncio
async def test_the_common_name_of_a_certificate_is_a_role(
    tmp_path: Path, certificates: Certificates
) -> None:
    tls = certificates.config(mutual=True)
    found = {}
    async with serving(tmp_path, tls=tls, grants=GRANTS) as server:
        for role in ("boss", "billing", "unknown"):
            credentials = certificates.client(role)
            async with grpc.aio.secure_channel(server.address, credentials) as channel:
                assert await echo(channel) == "a"  # asks for nothing but to be known
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await HStreamApiStub(channel).CreateQuery(pb.CreateQueryRequest(sql="x"))
                found[role] = refused.value.code(), refused.value.details() or ""
    assert found["boss"][0] is grpc.StatusCode.UNIMPLEMENTED
    for role in ("billing", "unknown"):
        code, detail = found[role]
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert f"Role '{role}' was not granted 'admin'" in json.loads(detail)["message"]


@pytest.mark.asyncio
async def test_a_token_inside_tls_and_a_client_that_expects_none(
    tmp_path: Path, certificates: Certificates
) -> None:
    tokens = (TokenConfig(role="billing", hash=hash_of(TOKEN)),)
    lan = ListenerConfig(group="lan", host="127.0.0.1", port=0, plaintext=True)
    tls = certificates.config()
    async with serving(tmp_path, tls=tls, tokens=tokens, listeners=(lan,)) as server:
        metadata = (("authorization", f"Bearer {TOKEN}"),)
        main, group, unix = server.node.listeners
        assert (main.plaintext, group.plaintext, unix.plaintext) == (False, True, True)
        plain = f"127.0.0.1:{group.port}"
        async with (
            grpc.aio.secure_channel(server.address, certificates.client()) as safe,
            grpc.aio.insecure_channel(plain) as open_,
        ):
            for channel in (safe, open_):
                stub = HStreamApiStub(channel)
                assert (await stub.Echo(pb.EchoRequest(msg="a"), metadata=metadata)).msg == "a"
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.Echo(pb.EchoRequest())
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        mixed = grpc.aio.secure_channel(plain, certificates.client())
        assert await code_of(mixed) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.asyncio
async def test_http_knows_clients_by_the_same_certificates_and_tokens(
    tmp_path: Path, certificates: Certificates
) -> None:
    tls = certificates.config(mutual=True)
    options = {
        "tls": tls,
        "grants": GRANTS,
        "tokens": (TokenConfig(role="boss", hash=hash_of(TOKEN)),),
        "http_port": 0,
    }
    async with serving(tmp_path, **options) as server:
        assert server.node.http_address is not None
        base = "https://{}:{}".format(*server.node.http_address)
        url = f"{base}/v1/cluster/status"
        for context in (
            certificates.context(),
            certificates.context("stranger", by=certificates.stranger),
            ssl.create_default_context(),
        ):
            async with httpx.AsyncClient(verify=context, timeout=GUARD) as client:
                with pytest.raises(httpx.TransportError):
                    await client.get(url)
        async with httpx.AsyncClient(timeout=GUARD) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(url.replace("https", "http"))
        context = certificates.context("billing")
        async with httpx.AsyncClient(verify=context, timeout=GUARD) as client:
            assert (await client.get(url)).status_code == 200
            query = {"sql": "SELECT", "queryName": "q"}
            denied = await client.post(f"{base}/v1/queries", json=query)
            assert denied.status_code == 403
            assert "Role 'billing' was not granted 'admin'" in denied.json()["message"]
            metrics = await client.get(f"{base}/metrics")
            assert metrics.status_code == 403
            boss = {"Authorization": f"Bearer {TOKEN}"}
            served = await client.post(f"{base}/v1/queries", json=query, headers=boss)
            assert served.status_code == 501
            wrong = await client.get(url, headers={"Authorization": "Bearer wrong"})
            assert wrong.status_code == 401
            assert wrong.headers["www-authenticate"].startswith("Basic")
            assert "wrong" not in wrong.text
            for path in ("/v1/nothing", "/", "/openapi.json"):
                assert (
                    await client.get(base + path, headers={"Authorization": "x"})
                ).status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "streams.example"])
def test_plain_text_for_other_machines_has_to_be_asked_for(
    host: str, tmp_path: Path, certificates: Certificates
) -> None:
    tls = certificates.config()
    ways = (
        {"host": host},
        {"http_host": host, "http_port": 0},
        {"listeners": (ListenerConfig(group="lan", host=host, port=0),)},
        {"tls": tls, "listeners": (ListenerConfig(group="l", host=host, port=0, plaintext=True),)},
    )
    for options in ways:
        with pytest.raises(ValueError, match="--insecure-plaintext"):
            ServerConfig(store="s", **options)
        ServerConfig(store="s", insecure_plaintext=True, **options)
    ServerConfig(store="s", host=host, tls=tls, http_host=host, http_port=0)
    ServerConfig(store="s", http=False, http_host=host)  # nothing listens there


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("127.0.0.1.example", False),
        ("localhost.example", False),
        ("::ffff:10.0.0.1", False),
        ("*", False),
    ],
)
def test_what_counts_as_reached_from_its_own_machine_only(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_files_that_are_no_use_are_told_without_their_contents(
    tmp_path: Path, certificates: Certificates
) -> None:
    certificate, key = map(str, certificates.server)
    other = str(certificates.issue("other.example", name="other")[1])
    empty = tmp_path / "empty"
    empty.write_text("secret nonsense")
    for options, why in (
        ({"certificate": str(tmp_path / "none")}, "none cannot be read: No such file"),
        ({"key": str(empty)}, "both must be PEM"),
        ({"key": other}, "belong together"),
        ({"client_authority": str(empty)}, "must be certificates in PEM form"),
    ):
        with pytest.raises(BadCertificate, match=why) as refused:
            Pems.read(TlsConfig(**{"certificate": certificate, "key": key} | options))
        assert "secret" not in str(refused.value)
        assert "PRIVATE" not in str(refused.value)
    pems = Pems.read(TlsConfig(certificate=certificate, key=key))
    assert "PRIVATE" not in repr(pems)
