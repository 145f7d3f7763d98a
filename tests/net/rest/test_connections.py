"""What is refused before there is a request: too many connections, heads that are too long."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from hstreamlite.net.httpconnection import HEAD_BYTES_MAX
from hstreamlite.net.limits import LimitsConfig
from tests.logs import logged
from tests.net.rest.conftest import Running, sent, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

POST = b"POST /v1/streams HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"


async def test_one_connection_too_many_is_told_so_and_counted(tmp_path: Path) -> None:
    limits = {"limits": LimitsConfig(connections_max=1)}
    async with serving(tmp_path, server=limits) as (server, client):
        assert (await client.get("/healthz")).status_code == 200
        async with httpx.AsyncClient(base_url=client.base_url) as other:
            answer = await other.get("/healthz")
        assert answer.status_code == 429
        assert "limit connections_max of 1 is reached" in answer.json()["message"]
        assert server.node.limits.refused == {"connections_max": 1}
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET /v1/streams?" + b"a" * HEAD_BYTES_MAX],
        [b"GET /" + b"a" * 1000 + b" HTTP/1.1\r\nX-A: " + b"a" * 1000, b"a" * HEAD_BYTES_MAX],
        [POST + b"X-A: " + b"a" * HEAD_BYTES_MAX + b"\r\n\r\n"],
        [POST + b"X-A: 1\r\n" * (HEAD_BYTES_MAX // 4) + b"\r\n"],
        [CHUNKED, b"2;", *[b"a" * HEAD_BYTES_MAX] * 8],
        [CHUNKED, b"0\r\nX-A: ", *[b"a" * HEAD_BYTES_MAX] * 8],
    ],
    ids=["query", "unfinished", "header", "headers", "extension", "trailer"],
)
async def test_what_stands_around_a_body_is_bounded(running: Running, parts: list[bytes]) -> None:
    refused = running.server.node.limits.refused
    before = refused["head_bytes_max"]
    answer = await sent(running.client, *parts)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"over the limit" in answer
    assert refused["head_bytes_max"] == before + 1
    assert (await running.client.get("/healthz")).status_code == 200


async def test_a_long_body_of_small_pieces_is_no_long_head(running: Running) -> None:
    record = json.dumps({"value": {"a": "b" * 3000}}).encode()
    pieces = [b"1\r\n%c\r\n" % each for each in record]
    head = b"POST /v1/streams/pieces/records HTTP/1.1\r\nHost: localhost\r\n"
    await running.stream("pieces")
    answer = await sent(
        running.client,
        head + b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n",
        *(b"".join(pieces[at : at + 100]) for at in range(0, len(pieces), 100)),
        b"0\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 200 "), answer


async def test_what_is_no_http_is_refused_as_json_and_fills_no_log(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    for raw in (
        b"\x16\x03\x01\r\n\r\n",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        POST + b"Content-Length: -2\r\n\r\n{}",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        answer = await sent(running.client, raw)
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["extra"] is None
    assert logged(caplog) == []


async def test_a_websocket_is_not_spoken(running: Running) -> None:
    upgrade = (
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert (await sent(running.client, upgrade)).startswith(b"HTTP/1.1 200 ")


async def test_a_request_has_an_id_which_its_answer_repeats(running: Running) -> None:
    client = running.client
    for path in ("/healthz", "/v1/nothing", "/v1/streams/none"):
        answer = await client.get(path, headers={"X-Request-Id": "abc-1"})
        assert answer.headers["x-request-id"] == "abc-1"
    made = [(await client.get("/healthz")).headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    for unusable in ("a b", "x" * 129):
        answer = await client.get("/healthz", headers={"X-Request-Id": unusable})
        assert answer.headers["x-request-id"] not in {unusable, ""}


async def test_clients_that_wait_hold_nobody_up(running: Running) -> None:
    url = running.client.base_url
    waiting = [await asyncio.open_connection(url.host, url.port) for _ in range(50)]
    for _, writer in waiting:
        writer.write(POST + b"Content-Length: 1000\r\n\r\n{")
    assert (await running.client.get("/healthz")).status_code == 200
    for _, writer in waiting:
        writer.close()
