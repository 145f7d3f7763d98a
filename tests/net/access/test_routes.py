"""Every route of HTTP: what somebody without grants gets from it."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.routing import BaseRoute, Route

from hstreamlite.net.access.config import GrantConfig, TokenConfig
from hstreamlite.net.access.needs import CALLS
from hstreamlite.net.access.token import hash_of, new_token
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.part import Part
from hstreamlite.net.parts import standard_parts
from hstreamlite.net.rest.calls import RpcCall
from hstreamlite.net.rest.endpoints import EndpointRoute
from hstreamlite.net.server import Server

pytestmark = pytest.mark.unsanitized("gRPC's own core is no build of ours")

TOKENS = {role: new_token()[0] for role in ("reader", "nobody", "monitor")}
FREE = {"/", "/v1/openapi.json", "/v1/docs", "/docs", "/openapi.json", "/v1/echo", "/healthz"}
"""What tells nothing about streams, for all who are known."""


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    config = ServerConfig(
        store=str(tmp_path / "store"),
        port=0,
        http_port=0,
        tokens=tuple(TokenConfig(role=role, hash=hash_of(text)) for role, text in TOKENS.items()),
        grants=(
            GrantConfig(
                role="reader",
                actions=("read", "create"),
                streams=("orders",),
                subscriptions=("orders",),
            ),
            GrantConfig(role="monitor", actions=("monitor",)),
        ),
    )
    async with Server(config) as server:
        yield server


def client(server: Server, role: str | None) -> httpx.AsyncClient:
    assert server.node.http_address is not None
    headers = {} if role is None else {"Authorization": f"Bearer {TOKENS[role]}"}
    base = "http://{}:{}".format(*server.node.http_address)
    return httpx.AsyncClient(base_url=base, headers=headers, timeout=30)


def routes(server: Server) -> list[tuple[str, str, Any]]:
    """Return method, path and handler of everything that is routed to."""
    found: list[tuple[str, str, Any]] = []
    parts: list[Part] = standard_parts(server.config)
    every: list[BaseRoute] = [each for part in parts for each in part.routes(server.node)]
    for route in every:
        if isinstance(route, EndpointRoute):
            endpoint = route.endpoint
            found.append((endpoint.method, endpoint.template.text, endpoint.handler))
        elif isinstance(route, Route):
            found += [(method, route.path, None) for method in sorted(route.methods or ())]
    return found


def is_free(path: str, handler: Any) -> bool:
    if isinstance(handler, RpcCall):
        _, service, method = handler._name.split("/")
        return not CALLS[service][method].needs and method != "SendAdminCommand"
    return path in FREE or path.startswith(("/v1/docs/", "/docs/"))


@pytest.mark.asyncio
async def test_nobody_gets_anything_from_a_route_without_a_grant(server: Server) -> None:
    every = routes(server)
    assert len(every) > 50
    async with client(server, "nobody") as nobody, client(server, None) as stranger:
        for method, template, handler in every:
            path = re.sub(r"\{\w*[iI]d\}", "1", template)
            path = re.sub(r"\{\w+\}", "orders", path)
            body = {"content": b"{}"} if method in ("POST", "PUT", "PATCH") else {}
            refused = await stranger.request(method, path, **body)
            assert refused.status_code == (200 if template == "/healthz" else 401), template
            answer = await nobody.request(method, path, **body)
            if is_free(template, handler):
                assert answer.status_code not in (401, 403), template
            else:
                # A body that is no use may be told of first, and what nobody serves.
                assert answer.status_code in (403, 400, 501), (method, template, answer.text)


@pytest.mark.asyncio
async def test_a_grant_opens_what_it_says_over_http(server: Server) -> None:
    async with client(server, "reader") as reader, client(server, "nobody") as nobody:
        wanted = {"replicationFactor": 1, "shardCount": 1}
        made = await reader.post("/v1/streams", json=wanted | {"streamName": "orders"})
        assert made.status_code == 200, made.text
        denied = await reader.post("/v1/streams", json=wanted | {"streamName": "x"})
        assert denied.status_code == 403
        read = await reader.get("/v1/streams/orders/records")
        assert read.status_code == 200, read.text
        assert (await nobody.get("/v1/streams/orders/records")).status_code == 403
        assert (await reader.post("/v1/streams/orders/records", json={"a": 1})).status_code == 403
        listed = [client_.get("/v1/streams") for client_ in (reader, nobody)]
        seen = [(await each).json().get("streams", []) for each in listed]
        assert [len(each) for each in seen] == [1, 0]
        both = [("Authorization", f"Bearer {token}") for token in TOKENS.values()]
        async with httpx.AsyncClient(base_url=reader.base_url) as two:
            assert (await two.get("/v1/streams", headers=both)).status_code == 401


@pytest.mark.asyncio
async def test_a_reader_kept_by_the_server_is_its_streams(server: Server) -> None:
    store = server.node.store
    for name in ("orders", "payments"):
        await store.create_stream(name)
    shard = {name: server.node.raw.stream(name).shard_ids[0] for name in ("orders", "payments")}
    offset = {"specialOffset": "EARLIEST"}
    async with client(server, "reader") as reader:
        for name, status in (("orders", 200), ("payments", 403)):
            wanted = {"streamName": name, "shardId": str(shard[name]), "shardOffset": offset}
            made = await reader.post("/v1/readers", json=wanted | {"readerId": f"of-{name}"})
            assert made.status_code == status, made.text
        own = await reader.post("/v1/readers/of-orders:read", json={"maxRecords": 1})
        assert own.status_code == 200, own.text
        assert server.node.stream_of_reader("of-orders") == "orders"
        assert server.node.stream_of_reader("nobody's") is None
        other = await reader.post("/v1/readers/nobodys:read", json={"maxRecords": 1})
        assert other.status_code == 403


@pytest.mark.asyncio
async def test_what_was_refused_is_among_the_metrics(server: Server) -> None:
    async with client(server, "nobody") as nobody:
        assert (await nobody.get("/metrics")).status_code == 403
    async with client(server, None) as stranger:
        assert (await stranger.get("/metrics")).status_code == 401
    server.node.limits.refused["calls_max"] += 1
    async with client(server, "monitor") as monitor:
        page = (await monitor.get("/metrics")).text
    for reason in ("permission", "unauthenticated", "calls_max"):
        assert f'hstreamlite_server_refused_calls_total{{reason="{reason}"}} 1.0' in page
    assert "hstreamlite_server_calls 0.0" in page
