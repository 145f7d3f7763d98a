"""`hstreamlite.connect` at a server that asks who is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

import hstreamlite as hs
from hstreamlite import aio
from hstreamlite.net.access.config import ACTIONS, GrantConfig, TokenConfig
from hstreamlite.net.access.token import hash_of, new_token
from hstreamlite.net.server import Server
from tests.net.access.certificates import Certificates
from tests.net.test_remote import failure_of_connect
from tests.net.wire import config

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]
BOSS, _ = new_token()
READER, _ = new_token()


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest_asyncio.fixture
async def server(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Server]:
    settings = config(
        tmp_path,
        tls=certificates.config(mutual=True),
        tokens=(
            TokenConfig(role="boss", hash=hash_of(BOSS)),
            TokenConfig(role="reader", hash=hash_of(READER)),
        ),
        grants=(
            GrantConfig(role="boss", actions=ACTIONS, streams=("",), subscriptions=("",)),
            GrantConfig(role="reader", actions=("read",), streams=("open-",)),
        ),
    )
    async with Server(settings) as server:
        yield server


def shown(certificates: Certificates, tmp_path: Path) -> dict[str, Path]:
    certificate, key = certificates.issue("x.example", name="nobody", common_name="nobody")
    return {"ca": tmp_path / "authority.pem", "certificate": certificate, "key": key}


async def test_a_token_allows_what_is_granted_to_its_role(
    server: Server, certificates: Certificates, tmp_path: Path
) -> None:
    url, files = f"hstreams://{server.address}", shown(certificates, tmp_path)
    async with aio.connect(url, token=BOSS, timeout=60, **files) as store:
        stream = await store.create_stream("open-orders")
        await stream.append(b"one")
        async with stream.producer() as producer:
            await producer.submit(b"two")
        subscription = await store.create_subscription("s", stream="open-orders")
        async with subscription.consumer("c") as consumer:
            got = await consumer.receive(10)
            assert [delivery.payload for delivery in got]
            await consumer.ack(got)
    async with aio.connect(url, token=READER, timeout=60, **files) as store:
        read = store.stream("open-orders").read()
        assert [record.payload async for record in read] == [b"one", b"two"]
        with pytest.raises(hs.PermissionDenied):
            await store.stream("open-orders").append(b"three")
        with pytest.raises(hs.PermissionDenied):
            await store.stream("closed").tail()


async def test_who_is_unknown_is_told_so(certificates: Certificates, tmp_path: Path) -> None:
    token = TokenConfig(role="boss", hash=hash_of(BOSS))
    async with Server(config(tmp_path, tls=certificates.config(), tokens=(token,))) as server:
        url, ca = f"hstreams://{server.address}", tmp_path / "authority.pem"
        for token in (None, "x" * 40):
            with pytest.raises(hs.Unauthenticated) as refused:
                await aio.connect(url, token=token, timeout=60, ca=ca)
            assert "x" * 40 not in str(refused.value)


async def test_a_handshake_that_fails_is_no_connection(
    server: Server, certificates: Certificates, tmp_path: Path
) -> None:
    url, files = f"hstreams://{server.address}", shown(certificates, tmp_path)
    without_certificate = {"ca": files["ca"]}
    for address, options, advice in (
        (url, without_certificate, "`certificate` and `key`"),
        (url, {}, "`ca`"),  # who signed the server's certificate is not believed
        (f"hstream://{server.address}", {}, "take hstreams://"),
    ):
        fails = partial(failure_of_connect, address, 0.5, token=BOSS, **options)
        assert advice in str(await asyncio.to_thread(fails))


async def test_a_server_without_tls_is_told_of(tmp_path: Path) -> None:
    async with Server(config(tmp_path, http=True, http_port=0)) as server:
        error = await asyncio.to_thread(failure_of_connect, f"hstreams://{server.address}", 0.5)
        assert "take hstream://" in str(error)
        assert server.node.http_address is not None
        host, port = server.node.http_address
        error = await asyncio.to_thread(failure_of_connect, f"hstream://{host}:{port}", 0.5)
        assert "HTTP is served at that port" in str(error)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"token": 1}, TypeError, "token must be a str"),
        ({"token": "a\nb"}, ValueError, "printable"),
        ({"token": ""}, ValueError, "printable"),
        ({"ca": 1}, TypeError, "ca must be the path"),
        ({"certificate": "a.pem"}, ValueError, "go together"),
        ({"ca": "nowhere.pem"}, FileNotFoundError, "nowhere.pem"),
    ],
)
@pytest.mark.parametrize("connect", [hs.connect, aio.connect])
async def test_bad_options_are_refused_before_anything_is_dialled(
    connect: object, options: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        made = connect("hstreams://127.0.0.1:1", timeout=1, **options)  # type: ignore[operator]
        await made


async def test_files_of_tls_need_an_address_with_tls() -> None:
    with pytest.raises(ValueError, match="hstreams://"):
        await aio.connect("hstream://127.0.0.1:1", timeout=1, ca="authority.pem")
