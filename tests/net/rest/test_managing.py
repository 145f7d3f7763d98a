"""Subscriptions made and moved over HTTP; and what callers may do of what is no call of the
protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hstreamlite.net.access.config import GrantConfig, TokenConfig
from hstreamlite.net.access.token import hash_of
from tests.net.rest.conftest import Running, serving

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]


async def made(running: Running, name: str, **settings: Any) -> dict[str, Any]:
    await running.stream(name)
    body = {"stream": name} | settings
    answer = await running.client.put(f"/v1/subscriptions/{name}", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_subscription_has_what_was_asked_for(running: Running) -> None:
    await running.stream("dead")
    settings = {
        "mode": "shared",
        "ackTimeout": 7.5,
        "maxUnacked": 5,
        "maxAttempts": 3,
        "deadLetter": "dead",
        "backoff": {"first": 1, "most": 2, "factor": 2},
    }
    found = await made(running, "asked", **settings)
    assert settings.items() <= found.items()
    told = (await running.client.get("/v1/subscriptions/asked/info")).json()
    assert told == found | {"age": told["age"]}


async def test_what_is_kept_in_order_is_told(running: Running) -> None:
    assert (await made(running, "by-key"))["unit"] == "key"
    settings = {"subscriptionId": "wire", "streamName": "by-key", "ackTimeoutSeconds": 10}
    answer = await running.client.post(
        "/v1/subscriptions", json=settings | {"maxUnackedRecords": 5}
    )
    assert answer.status_code == 200, answer.text
    assert (await running.client.get("/v1/subscriptions/wire/info")).json()["unit"] == "shard"


async def test_a_subscription_has_windows(running: Running) -> None:
    windows = {
        "maxUnackedBytes": 1 << 20,
        "maxUnackedPerConsumer": 7,
        "maxUnackedBytesPerConsumer": 1 << 10,
    }
    assert windows.items() <= (await made(running, "windows", **windows)).items()


async def test_a_stream_has_what_was_asked_for(running: Running) -> None:
    settings = {"backlog": 90.0, "maxBytes": 1 << 20, "protect": ["a", "b"], "shards": 3}
    url = "/v1/streams/asked-stream"
    answer = await running.client.put(url, json=settings | {"replicationFactor": 2})
    assert answer.status_code == 200, answer.text
    assert settings.items() <= answer.json().items()
    await running.client.post(f"{url}/records", json={"raw": ""})
    told = (await running.client.get(f"{url}/info")).json()
    assert (told["records"], told["created"]) == (1, answer.json()["created"])
    assert (await running.client.get(url)).json()["stream"]["shardCount"] == 3
    plain = await running.client.put("/v1/streams/plain-stream")
    assert plain.json().items() >= {"backlog": 0, "maxBytes": 0, "shards": 1}.items()


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ({"backlog": -1}, 400, "backlog"),
        ({"shards": 0}, 400, "shards"),
        ({"protect": "a"}, 400, "protect"),
        ({"maxByte": 1}, 400, "there are: backlog, maxBytes"),
        ({}, 409, "PUT /v1/streams/there with"),
        ({"existsOk": True}, 200, ""),
    ],
)
async def test_a_stream_that_cannot_be_made_is_refused(
    running: Running, body: object, status: int, why: str
) -> None:
    await running.stream("there", exists_ok=True)
    name = "there" if status in {200, 409} else "other-stream"
    answer = await running.client.put(f"/v1/streams/{name}", json=body)
    assert answer.status_code == status, answer.text
    assert why in answer.text.replace("\\", "")
    assert (await running.client.get("/v1/streams/other-stream/info")).status_code == 404


async def test_the_top_leads_to_the_page(running: Running) -> None:
    answer = await running.client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")


async def test_each_key_is_kept_in_order(running: Running) -> None:
    await made(running, "keys")
    stream = running.server.node.store.stream("keys")
    ids = [str(await stream.append({"n": n}, key="k")) for n in range(4)]
    url = "/v1/subscriptions/keys:fetch"
    first = (await running.client.get(url, params={"consumer": "a", "maxRecords": 2})).json()
    other = (await running.client.get(url, params={"consumer": "b"})).json()
    assert [each["id"] for each in first["records"]] == ids[:2]
    assert other["records"] == []


async def test_a_subscription_is_moved_paused_and_resumed(running: Running) -> None:
    await made(running, "moved", start="latest")
    stream = running.server.node.store.stream("moved")
    record = str(await stream.append(b"x"))
    fetch = {"consumer": "a", "maxRecords": 10}
    path = "/v1/subscriptions/moved"
    await running.client.post(f"{path}:fetch", json=fetch)
    assert (await running.client.post(f"{path}:pause")).json()["paused"]
    sought = (await running.client.post(f"{path}:seek", json={"to": "earliest"})).json()
    assert (sought["unacked"], sought["backlog"]) == (0, 1)
    assert (await running.client.post(f"{path}:fetch", json=fetch)).json()["records"] == []
    assert not (await running.client.post(f"{path}:resume")).json()["paused"]
    found = (await running.client.post(f"{path}:fetch", json=fetch)).json()
    assert [each["id"] for each in found["records"]] == [record]


async def test_dead_letters_are_appended_again(running: Running) -> None:
    letters = await running.stream("lost")
    await made(running, "redriven", maxAttempts=1, deadLetter="lost")
    stream = running.server.node.store.stream("redriven")
    await stream.append(b"x")
    path = "/v1/subscriptions/redriven"
    found = (await running.client.post(f"{path}:fetch", json={"consumer": "a"})).json()
    body = {"consumer": "a", "ids": [found["records"][0]["id"]]}
    assert (await running.client.post(f"{path}:release", json=body)).status_code == 200
    await anext(letters.read(follow=True))
    answer = await running.client.post(f"{path}:redrive", json={"limit": 5})
    assert answer.json() == {"redriven": 1}
    assert len([each async for each in stream.read()]) == 2


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ({}, 400, "stream"),
        ({"stream": "nope"}, 404, "nope"),
        ({"stream": "given", "mode": "x"}, 400, "mode"),
        ({"stream": "given", "ackTimeout": 0}, 400, "ack_timeout"),
        ({"stream": "given", "start": "x"}, 400, "start must be"),
        ({"stream": "given", "maxAttempts": 1}, 400, "dead_letter"),
        ({"stream": "given", "backoff": {"first": 2, "most": 1}}, 400, "backoff"),
        ({"stream": "given"}, 409, "exists"),
        ({"stream": "given", "existsOk": True}, 200, ""),
    ],
)
async def test_what_cannot_be_made_is_refused(
    running: Running, body: object, status: int, why: str
) -> None:
    if "given" not in {info.name for info in await running.server.node.store.subscriptions()}:
        await made(running, "given")
    name = "given" if status in {200, 409} else "other"
    answer = await running.client.put(f"/v1/subscriptions/{name}", json=body)
    assert answer.status_code == status, answer.text
    assert why in answer.text


TOKENS = {role: f"{role}-token-of-this-test-{'x' * 20}" for role in ("reader", "writer", "worker")}
ALLOWED = {
    "reader": {"read", "stream"},
    "writer": {"append", "webhook", "producer", "stream"},
    "worker": {"fetch", "consume", "ack", "release", "pause", "info"},
}
REQUESTS = {
    "read": ("GET", "/v1/streams/s/records", None),
    "append": ("POST", "/v1/streams/s/records", {"raw": ""}),
    "webhook": ("POST", "/v1/streams/s/webhook", {}),
    "producer": ("GET", "/v1/streams/s/producers/p", None),
    "fetch": ("GET", "/v1/subscriptions/s:fetch?consumer=a", None),
    "ack": ("POST", "/v1/subscriptions/s:ack", {"ids": []}),
    "release": ("POST", "/v1/subscriptions/s:release", {"consumer": "a", "ids": []}),
    "pause": ("POST", "/v1/subscriptions/s:pause", None),
    "info": ("GET", "/v1/subscriptions/s/info", None),
    "subscribe": ("PUT", "/v1/subscriptions/t", {"stream": "s"}),
    "make": ("PUT", "/v1/streams/t", {}),
    "stream": ("GET", "/v1/streams/s/info", None),
}


async def test_callers_may_do_what_they_are_granted_and_nothing_else(tmp_path: Path) -> None:
    options = {
        "tokens": tuple(TokenConfig(role=role, hash=hash_of(TOKENS[role])) for role in TOKENS),
        "grants": (
            GrantConfig(role="reader", actions=("read",), streams=("s",)),
            GrantConfig(role="writer", actions=("append",), streams=("s",)),
            GrantConfig(role="worker", actions=("consume",), subscriptions=("s",)),
        ),
    }
    async with serving(tmp_path, server=options) as (server, client):
        await server.node.store.create_stream("s")
        await server.node.store.create_subscription("s", stream="s")
        for name, (method, path, body) in REQUESTS.items():
            nobody = await client.request(method, path, json=body)
            assert nobody.status_code == 401
            for role, token in TOKENS.items():
                headers = {"Authorization": f"Bearer {token}"}
                answer = await client.request(method, path, json=body, headers=headers)
                expected = {200} if name in ALLOWED[role] else {403}
                assert answer.status_code in expected, (role, name, answer.text)


async def test_health_tells_whether_calls_are_served(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, client):
        answer = await client.get("/healthz")
        assert (answer.status_code, answer.json()) == (200, {"status": "serving"})
        await server.node.store.close()
        assert (await client.get("/healthz")).status_code == 503
