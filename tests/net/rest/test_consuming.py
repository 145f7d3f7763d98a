"""Consuming over HTTP, as users do: fetch and ack, streams of events, hand-over."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import pytest

from hstreamlite.aio import Subscription
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.limits import LimitsConfig
from hstreamlite.net.server import Server
from tests.logs import logged
from tests.net.rest.conftest import Running, serving, until

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]


async def subscribed(running: Running, name: str, records: int = 3, **options: Any) -> list[str]:
    """Make a stream with records, each of a key of its own, and a subscription of its name."""
    stream = await running.stream(name)
    await running.server.node.store.create_subscription(name, stream=name, **options)
    return [str(await stream.append({"n": n}, key=str(n))) for n in range(records)]


async def asked(running: Running, path: str, body: object) -> Any:
    answer = await running.client.post(f"/v1/subscriptions/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def fetched(running: Running, name: str, consumer: str, **more: Any) -> list[str]:
    body = {"consumer": consumer} | more
    return [each["id"] for each in (await asked(running, f"{name}:fetch", body))["records"]]


async def is_alone(subscription: Subscription) -> bool:
    return len((await subscription.info()).consumers) == 1


async def is_done(subscription: Subscription) -> bool:
    return not (await subscription.info()).unacked


async def test_what_is_acked_does_not_come_again(running: Running) -> None:
    ids = await subscribed(running, "acked")
    assert await fetched(running, "acked", "a", maxRecords=2) == ids[:2]
    assert await fetched(running, "acked", "a", ack=ids[:1]) == ids[2:]
    found = await asked(running, "acked:ack", {"ids": ids, "durable": True})
    assert found == {"new": 2, "duplicate": 1, "void": 0}
    assert await fetched(running, "acked", "a") == []


async def test_a_delivery_shows_record_and_attempt(running: Running) -> None:
    [text] = await subscribed(running, "shown", 1)
    path = "/v1/subscriptions/shown:fetch"
    answer = await running.client.get(path, params={"consumer": "a", "wait": "0.5"})
    [record] = answer.json()["records"]
    assert record.pop("time")
    assert record == {"id": text, "key": "0", "value": {"n": 0}, "attempt": 1}


async def test_a_fetch_waits_for_the_first_record(running: Running) -> None:
    await subscribed(running, "waits", 0)
    fetching = asyncio.ensure_future(fetched(running, "waits", "a", wait=30))
    await until(lambda: running.consumers("waits"))
    record = await running.server.node.store.stream("waits").append(b"x")
    assert await fetching == [str(record)]


async def test_what_is_released_goes_to_another(running: Running) -> None:
    ids = await subscribed(running, "released")
    assert await fetched(running, "released", "a") == ids
    body = {"consumer": "a", "ids": ids[:2], "reason": "busy"}
    assert await asked(running, "released:release", body) == {"released": 2}
    found = await asked(running, "released:fetch", {"consumer": "b"})
    assert [each["id"] for each in found["records"]] == ids[:2]
    assert [each["attempt"] for each in found["records"]] == [2, 2]


async def test_a_record_released_too_often_becomes_a_dead_letter(running: Running) -> None:
    letters = await running.stream("letters")
    await subscribed(running, "doomed", 1, max_attempts=1, dead_letter="letters")
    ids = await fetched(running, "doomed", "a")
    await asked(running, "doomed:release", {"consumer": "a", "ids": ids, "reason": "bad"})
    letter = await anext(letters.read(follow=True))
    assert letter.payload == {"n": 0}
    assert "bad" in letter.attributes.values()


async def test_what_is_extended_is_held_longer(running: Running) -> None:
    ids = await subscribed(running, "extended")
    await fetched(running, "extended", "a")
    body = {"consumer": "a", "ids": ids, "by": 3600}
    assert await asked(running, "extended:extend", body) == {"held": 3}


async def test_a_consumer_that_is_detached_gives_back_what_it_held(running: Running) -> None:
    ids = await subscribed(running, "detached")
    await fetched(running, "detached", "a")
    path = "/v1/subscriptions/detached/consumers/a"
    assert (await running.client.delete(path)).status_code == 200
    assert await fetched(running, "detached", "b") == ids
    assert (await running.client.delete(path)).status_code == 404
    gone = await running.client.post(
        "/v1/subscriptions/detached:release", json={"consumer": "a", "ids": ids}
    )
    assert gone.status_code == 404


async def test_a_consumer_that_is_silent_is_detached(running: Running) -> None:
    ids = await subscribed(running, "silent", ack_timeout=0.2)
    await fetched(running, "silent", "a")
    subscription = running.server.node.store.subscription("silent")
    async with subscription.consumer("b") as other:
        batch = await other.receive()
        assert [str(each.id) for each in batch] == ids
        await until(lambda: is_alone(subscription))
        await other.ack(batch)
    assert await fetched(running, "silent", "a") == []


async def test_a_name_that_is_taken_is_refused(running: Running) -> None:
    await subscribed(running, "taken")
    async with running.server.node.store.subscription("taken").consumer("a"):
        answer = await running.client.get("/v1/subscriptions/taken:fetch?consumer=a")
        assert answer.status_code == 409
        assert answer.json()["extra"] == "a"


async def test_fetches_of_one_consumer_take_turns(running: Running) -> None:
    ids = await subscribed(running, "turns", 10)
    parts = await asyncio.gather(*[fetched(running, "turns", "a", maxRecords=2) for _ in range(5)])
    assert sorted(chain.from_iterable(parts)) == sorted(ids)


async def test_a_subscription_deleted_meanwhile_ends_the_fetch(running: Running) -> None:
    await subscribed(running, "ends", 0)
    body = {"consumer": "a", "wait": 30}
    asking = running.client.post("/v1/subscriptions/ends:fetch", json=body)
    fetching = asyncio.ensure_future(asking)
    store = running.server.node.store
    await until(lambda: running.consumers("ends"))
    await store.delete_subscription("ends", force=True)
    answer = await fetching
    assert (answer.status_code, answer.json()["error"]) == (404, 300)


async def test_a_fetch_ends_when_the_server_stops(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, client):
        store = server.node.store
        await store.create_stream("s")
        await store.create_subscription("s", stream="s")
        body = {"consumer": "a", "wait": 60}
        fetching = asyncio.ensure_future(client.post("/v1/subscriptions/s:fetch", json=body))
        await until(lambda: Running(server, client).consumers("s"))
        stopping = asyncio.ensure_future(server.stop())
        answer = await fetching
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        await stopping


async def test_what_was_trimmed_is_told(running: Running) -> None:
    ids = await subscribed(running, "trimmed")
    stream = running.server.node.store.stream("trimmed")
    await fetched(running, "trimmed", "a", maxRecords=1)
    await stream.trim(before=await stream.append(b"last"))
    found = await asked(running, "trimmed:fetch", {"consumer": "a"})
    assert [each["value" if "value" in each else "raw"] for each in found["records"]] == [
        "bGFzdA=="
    ]
    assert sum(event["gap"]["records"] for event in found["events"]) == len(ids)


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("fetch", {}, "consumer"),
        ("fetch", {"consumer": ""}, "consumer name"),
        ("fetch", {"consumer": "a", "maxRecords": 0}, "maxRecords must be from 1"),
        ("fetch", {"consumer": "a", "wait": 61}, "wait must be seconds from 0 to 60"),
        ("fetch", {"consumer": "a", "wait": -1}, "wait must be"),
        ("fetch", {"consumer": "a", "nope": 1}, "nope"),
        ("fetch", {"consumer": "a", "ack": ["x"]}, "a record id looks like"),
        ("fetch", [], "Expected `object`"),
        ("ack", {}, "ids"),
        ("ack", {"ids": ["1-2"]}, "a record id looks like"),
        ("ack", {"ids": ["1-999999-0"]}, "is not one of"),
        ("ack", {"ids": ["99999999999999999999-1-0"]}, ""),
        ("release", {"consumer": "w", "ids": [], "after": -1}, "after"),
        ("release", {"ids": []}, "consumer"),
        ("extend", {"consumer": "w", "ids": [], "by": 0}, "by"),
    ],
)
async def test_what_cannot_be_meant_is_refused(
    running: Running, path: str, body: object, why: str
) -> None:
    store = running.server.node.store
    if "wrong" not in {info.name for info in await store.subscriptions()}:
        await subscribed(running, "wrong")
        await fetched(running, "wrong", "w")
    answer = await running.client.post(f"/v1/subscriptions/wrong:{path}", json=body)
    assert answer.status_code == 400, answer.text
    assert why in answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", ":fetch?consumer=a", None),
        ("GET", ":consume?consumer=a", None),
        ("POST", ":ack", {"ids": []}),
        ("POST", ":release", {"consumer": "a", "ids": []}),
        ("DELETE", "/consumers/a", None),
    ],
)
async def test_a_subscription_that_is_not_there_is_not_found(
    running: Running, method: str, path: str, body: object
) -> None:
    answer = await running.client.request(method, f"/v1/subscriptions/nope{path}", json=body)
    expected = pb.ErrorCode.SubscriptionNotFound
    assert (answer.status_code, answer.json()["error"]) == (404, expected)


async def events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for text in answer.aiter_lines():
        if text.startswith("data:"):
            yield json.loads(text[5:])


async def test_a_stream_gives_no_more_than_may_be_unacked(running: Running) -> None:
    ids = await subscribed(running, "window", 5)
    path = "/v1/subscriptions/window:consume?consumer=a&maxUnacked=2"
    accept = {"Accept": "text/event-stream"}
    async with running.client.stream("GET", path, headers=accept) as answer:
        found = events(answer)
        first = [(await anext(found))["id"] for _ in range(2)]
        assert first == ids[:2]
        info = await running.server.node.store.subscription("window").info()
        assert info.unacked == 2
        await asked(running, "window:ack", {"ids": first[:1]})
        assert (await anext(found))["id"] == ids[2]
        await asked(running, "window:release", {"consumer": "a", "ids": first[1:]})
        again = await anext(found)
        assert (again["id"], again["attempt"]) == (ids[1], 2)


async def test_a_stream_acks_by_itself_where_asked_to(running: Running) -> None:
    ids = await subscribed(running, "auto")
    path = "/v1/subscriptions/auto:consume?consumer=a&ack=auto"
    async with running.client.stream("GET", path) as answer:
        lines = answer.aiter_lines()
        assert [json.loads(await anext(lines))["id"] for _ in ids] == ids
        subscription = running.server.node.store.subscription("auto")
        await until(lambda: is_done(subscription))


async def test_what_a_broken_stream_had_goes_to_others_at_once(running: Running) -> None:
    ids = await subscribed(running, "broken")
    path = "/v1/subscriptions/broken:consume?consumer=a"
    async with running.client.stream("GET", path) as answer:
        lines = answer.aiter_lines()
        assert [json.loads(await anext(lines))["id"] for _ in ids] == ids
        other = await running.client.get("/v1/subscriptions/broken:fetch?consumer=a")
        assert other.status_code == 409
        other = await running.client.get(path)
        assert other.status_code == 409
    found = await asked(running, "broken:fetch", {"consumer": "b", "wait": 30})
    assert [each["id"] for each in found["records"]] == ids


async def test_two_streams_share_a_subscription(running: Running) -> None:
    await subscribed(running, "shared", 0)
    stream = running.server.node.store.stream("shared")
    path = "/v1/subscriptions/shared:consume?maxUnacked=1&ack=auto&consumer="
    seen: set[str] = set()

    async def consume(name: str) -> None:
        async with running.client.stream("GET", path + name) as answer:
            async for text in answer.aiter_lines():
                seen.add(json.loads(text)["id"])
                if len(seen) == 20:
                    return

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(consume(name)) for name in "ab"]
        ids = {str(await stream.append(b"x", key=str(n))) for n in range(20)}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
    assert seen == ids


async def test_a_stream_that_takes_nothing_is_cut_off_and_others_get_its_records(
    tmp_path: Path,
) -> None:
    limits = {"limits": LimitsConfig(stall_timeout=2)}
    async with serving(tmp_path, server=limits) as (server, client):
        running = Running(server, client)
        stream = await running.stream("slow")
        await server.node.store.create_subscription("slow", stream="slow")
        ids = [str(await stream.append(b"x" * (1 << 19))) for _ in range(40)]
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        path = "/v1/subscriptions/slow:consume?consumer=a"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await until(lambda: running.consumers("slow"))
        found: list[str] = []
        more = {"wait": 20, "maxRecords": 2}  # an answer so short holds nobody up for long
        while len(found) < len(ids):  # what the slow one holds comes once it is cut off
            found += await fetched(running, "slow", "b", ack=found[-2:], **more)
        assert sorted(found, key=ids.index) == ids
        writer.close()


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
async def test_a_stream_that_takes_nothing_does_not_hold_up_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, accept: str
) -> None:
    async with serving(tmp_path, server={"drain_timeout": 0.2}) as (server, client):
        running = Running(server, client)
        stream = await running.stream("slow")
        await server.node.store.create_subscription("slow", stream="slow")
        for _ in range(60):
            await stream.append(b"x" * (1 << 19), durability="memory")
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        path = "/v1/subscriptions/slow:consume?consumer=a"
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n"
        writer.write(head.encode())
        await until(lambda: waits_for_its_client(server))
    writer.close()
    assert [record for record in logged(caplog) if is_failure(record)] == []


def is_failure(record: logging.LogRecord) -> bool:
    """Uvicorn also calls it an error that a request is cut off when the time is up."""
    ours = record.name.startswith("hstreamlite")
    return record.levelno >= logging.ERROR and (ours or record.exc_info is not None)


async def waits_for_its_client(server: Server) -> bool:
    assert server._http is not None
    connections = server._http._uvicorn.server_state.connections
    return any(each.transport.get_write_buffer_size() for each in connections)


async def test_one_answer_is_bounded(running: Running) -> None:
    stream = await running.stream("pages")
    for _ in range(8):
        await stream.append(b"x" * 1_000_000)
    path = "/v1/streams/pages/records"
    page = (await running.client.get(path)).json()
    assert 1 <= len(page["records"]) < 8
    rest = (await running.client.get(path, params={"after": page["next"]})).json()
    assert rest["records"]


async def test_what_the_protocol_made_is_consumed_in_the_same_way(running: Running) -> None:
    client = running.client
    stream = {"streamName": "wire", "replicationFactor": 1, "shardCount": 2}
    assert (await client.post("/v1/streams", json=stream)).json()["shardCount"] == 2
    group = {
        "subscriptionId": "wire",
        "streamName": "wire",
        "ackTimeoutSeconds": 60,
        "maxUnackedRecords": 100,
    }
    assert (await client.post("/v1/subscriptions", json=group)).status_code == 200
    ids = [
        (await client.post("/v1/streams/wire/records", json={"raw": "", "key": str(n)})).json()
        for n in range(10)
    ]
    wanted = sorted(each["recordIds"][0] for each in ids)
    found = await fetched(running, "wire", "a")
    assert sorted(found) == wanted
    assert await asked(running, "wire:ack", {"ids": found[:9]}) == {
        "new": 9,
        "duplicate": 0,
        "void": 0,
    }
    assert (await client.delete("/v1/subscriptions/wire/consumers/a")).status_code == 200

    last: asyncio.Queue[bytes | None] = asyncio.Queue()
    await last.put(b'{"consumerName": "b"}\n')

    async def requests() -> AsyncIterator[bytes]:
        while (line := await last.get()) is not None:
            yield line

    calling = asyncio.ensure_future(
        client.post("/v1/subscriptions/wire:streamingFetch", content=requests())
    )
    await until(lambda: running.consumers("wire"))
    info = running.server.node.store.subscription("wire").info

    async def is_out() -> bool:
        return bool((await info()).unacked)

    await until(is_out)
    shard, batch, index = found[9].split("-")
    acked = {"shardId": shard, "batchId": batch, "batchIndex": int(index)}
    await last.put(json.dumps({"consumerName": "b", "ackIds": [acked]}).encode())
    await last.put(None)
    answer = await calling
    [received] = [json.loads(line)["receivedRecords"] for line in answer.text.splitlines()]
    assert received["recordIds"] == [acked]
    assert (await info()).unacked == 0
