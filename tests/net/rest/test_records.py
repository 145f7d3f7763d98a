"""Appending and reading over HTTP, as users do."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings, strategies as st

from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.rest.once import KEYS_MAX
from hstreamlite.net.rest.pointer import found_at, text_at
from tests.net.rest.conftest import Running, serving

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]

LINES = {"Content-Type": "application/x-ndjson"}
AS_LINES = {"Accept": "application/x-ndjson"}
AS_EVENTS = {"Accept": "text/event-stream"}


async def read(client: httpx.AsyncClient, stream: str, **query: object) -> list[dict[str, Any]]:
    answer = await client.get(f"/v1/streams/{stream}/records", params=query, headers=AS_LINES)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def append(client: httpx.AsyncClient, stream: str, body: object, **more: Any) -> Any:
    answer = await client.post(f"/v1/streams/{stream}/records", json=body, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()["recordIds"]


async def test_a_record_comes_back_as_it_was_sent(running: Running) -> None:
    client = running.client
    await running.stream("back")
    record = {"value": {"a": [1, None, "ö"]}, "key": "k", "attributes": {"x": "y"}}
    raw = {"raw": base64.b64encode(b"\0\xff").decode()}
    one = await append(client, "back", record)
    two = await append(client, "back", [record, raw])
    three = await append(client, "back", {"records": [raw]})
    found = await read(client, "back")
    assert [each.pop("id") for each in found] == [*one, *two, *three]
    assert all(each.pop("time") for each in found)
    assert found == [record, record, raw, raw]
    copied = await append(client, "back", await read(client, "back"))
    assert len(copied) == 4


async def test_plain_values_need_no_shape(running: Running) -> None:
    await running.stream("plain")
    params = {"plain": "true", "key": "k"}
    await append(running.client, "plain", {"records": 1}, params=params)
    await append(running.client, "plain", [{"a": 1}, {"a": 2}], params=params)
    found = await read(running.client, "plain")
    assert [each["value"] for each in found] == [{"records": 1}, {"a": 1}, {"a": 2}]
    assert {each["key"] for each in found} == {"k"}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no JSON"),
        (b"{}", "either a value"),
        (b"[]", "at least one"),
        (b'{"records": []}', "at least one"),
        (b'{"records": 1}', "at least one"),
        (b"1", "no record"),
        (b'{"value": 1}', "no record: Expected `object`"),
        (b'{"value": {}, "raw": ""}', "either a value"),
        (b'{"value": {}, "nope": 1}', "unknown field `nope`"),
        (b'{"raw": "?"}', "base64"),
        (b'{"value": {}, "key": 1}', "key"),
        (b'{"value": {}, "attributes": {"a": 1}}', "attributes"),
        (b'{"value": {"a": 9007199254740993}}', "2**53"),
        (b'[{"value": {}}, {"value": []}]', "no record"),
    ],
)
async def test_what_is_no_record_is_refused_and_nothing_appended(
    running: Running, body: bytes, why: str
) -> None:
    await running.stream("refused")
    answer = await running.client.post("/v1/streams/refused/records", content=body)
    assert answer.status_code == 400
    assert why in answer.json()["message"]
    assert await read(running.client, "refused") == []


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({"Content-Type": "text/xml"}, "", 415),
        ({}, "?nope=1", 400),
        ({}, "?plain=yes", 400),
        ({}, "?key=a&key=b", 400),
        ({}, "?durability=none", 400),
        ({"Idempotency-Key": ""}, "", 400),
        ({"Idempotency-Key": "a" * 256}, "", 400),
        ({"Producer-Name": "a"}, "", 400),
        ({"Producer-Sequence": "1"}, "", 400),
        ({"Producer-Name": "a", "Producer-Sequence": "0"}, "", 400),
        ({"Producer-Name": "a", "Producer-Sequence": "2"}, "", 400),
        ({"Producer-Name": "a" * 256, "Producer-Sequence": "1"}, "", 400),
        ({"Producer-Name": "a", "Producer-Sequence": "1", "Idempotency-Key": "b"}, "", 400),
        ({"Idempotency-Key": "b"} | LINES, "", 400),
    ],
)
async def test_what_cannot_be_meant_is_refused(
    running: Running, headers: dict[str, str], query: str, status: int
) -> None:
    await running.stream("meant")
    answer = await running.client.post(
        f"/v1/streams/meant/records{query}", content=b'{"value": {}}', headers=headers
    )
    assert answer.status_code == status, answer.text
    assert await read(running.client, "meant") == []


async def test_a_record_that_is_too_large_is_refused(running: Running) -> None:
    await running.stream("large")
    body = {"value": {"a": "x" * (1 << 20)}}
    answer = await running.client.post("/v1/streams/large/records", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"] == pb.ErrorCode.StreamInvalidRecordSize


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_stream_that_is_not_there_is_not_found(running: Running, method: str) -> None:
    answer = await running.client.request(
        method, "/v1/streams/nope/records", content=b'{"value": {}}' if method == "POST" else None
    )
    assert (answer.status_code, answer.json()["error"]) == (404, pb.ErrorCode.StreamNotFound)


async def test_lines_are_appended_as_they_come(running: Running) -> None:
    await running.stream("lines")
    turn = asyncio.Queue[bytes | None]()

    async def body() -> AsyncIterator[bytes]:
        while (part := await turn.get()) is not None:
            yield part

    await turn.put(b'{"n": 1}\n\n{"n": 2}\n{"n"')
    path = "/v1/streams/lines/records?plain=true"
    sending = asyncio.ensure_future(running.client.post(path, content=body(), headers=LINES))
    reader = running.server.node.store.stream("lines").read(follow=True)
    assert [(await anext(reader)).payload["n"] for _ in range(2)] == [1, 2]
    await turn.put(b": 3}")
    await turn.put(None)
    answer = (await sending).json()
    assert answer["appended"] == 3
    last = await anext(reader)
    assert (last.payload, str(last.id)) == ({"n": 3}, answer["last"])


async def test_lines_that_break_off_say_how_many_were_appended(running: Running) -> None:
    await running.stream("broken")

    async def body() -> AsyncIterator[bytes]:
        yield b'{"value": {}}\n{"value": {}}\n'
        await asyncio.sleep(0)
        yield b'{"value": {}}\nnope\n'

    path = "/v1/streams/broken/records"
    answer = await running.client.post(path, content=body(), headers=LINES)
    assert answer.status_code == 400
    found = await read(running.client, "broken")
    extra = answer.json()["extra"] or {"appended": 0}
    assert extra["appended"] == len(found)
    assert "line" in answer.json()["message"]


async def test_a_request_with_a_key_is_appended_once(tmp_path: Path) -> None:
    headers = {"Idempotency-Key": "order-1"}
    async with serving(tmp_path) as (server, client):
        await server.node.store.create_stream("once")
        asked = [append(client, "once", [{"raw": ""}] * 3, headers=headers) for _ in range(5)]
        first, *others = await asyncio.gather(*asked)
        assert others == [first] * 4
        await append(client, "once", {"raw": ""}, headers={"Idempotency-Key": "order-2"})
    async with serving(tmp_path) as (_, client):
        answer = await client.post("/v1/streams/once/records", json={"raw": ""}, headers=headers)
        assert answer.json()["recordIds"] == first
        assert answer.headers["Idempotency-Replayed"] == "true"
        assert len(await read(client, "once")) == 4


async def test_a_key_whose_request_failed_may_be_used_again(running: Running) -> None:
    await running.stream("again")
    headers = {"Idempotency-Key": "a"}
    path = "/v1/streams/again/records"
    large = {"value": {"a": "x" * (1 << 20)}}
    assert (await running.client.post(path, json=large, headers=headers)).status_code == 400
    assert len(await append(running.client, "again", {"raw": ""}, headers=headers)) == 1


async def test_a_stream_made_anew_knows_no_keys_of_the_old(running: Running) -> None:
    headers = {"Idempotency-Key": "a"}
    ids = []
    for _ in range(2):
        await running.stream("anew")
        ids += await append(running.client, "anew", {"raw": ""}, headers=headers)
        await running.server.node.store.delete_stream("anew")
    assert len(set(ids)) == 2


async def test_no_more_keys_are_kept_than_said(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert KEYS_MAX == 10_000
    monkeypatch.setattr("hstreamlite.net.rest.once.KEYS_MAX", 2)
    await running.stream("keys")
    ids = [
        (await append(running.client, "keys", {"raw": ""}, headers={"Idempotency-Key": key}))[0]
        for key in ["a", "b", "c", "b", "a"]
    ]
    assert ids[3] == ids[1]
    assert len(set(ids)) == 4


async def test_numbered_records_are_stored_once(tmp_path: Path) -> None:
    def numbered(first: int) -> dict[str, str]:
        return {"Producer-Name": "meter", "Producer-Sequence": str(first)}

    three: list[Any] = [{"value": {"n": n}} for n in (1, 2, 3)]
    async with serving(tmp_path) as (server, client):
        await server.node.store.create_stream("numbers")
        ids = await append(client, "numbers", three, headers=numbered(1))
        assert await append(client, "numbers", three, headers=numbered(1)) == ids
    async with serving(tmp_path) as (server, client):
        five = [*three, {"value": {"n": 4}}, {"value": {"n": 5}}]
        again = await append(client, "numbers", five[1:], headers=numbered(2))
        assert again[:2] == ids[1:]
        path = "/v1/streams/numbers/producers/meter"
        assert (await client.get(path)).json() == {"lastSequence": 5}
        lines = b'{"n": 5}\n{"n": 6}'
        path = "/v1/streams/numbers/records?plain=true"
        answer = await client.post(path, content=lines, headers=LINES | numbered(5))
        assert answer.json()["appended"] == 2
        for number in range(7, 20):
            await append(client, "numbers", {"value": {"n": number}}, headers=numbered(number))
        assert await append(client, "numbers", {"raw": ""}, headers=numbered(1)) == [None]
        found = await read(client, "numbers")
        assert [each["value"]["n"] for each in found] == list(range(1, 20))


async def test_a_producer_goes_on_when_its_stream_is_made_anew(running: Running) -> None:
    for _ in range(2):
        await running.stream("remade")
        headers = {"Producer-Name": "p", "Producer-Sequence": "1"}
        await append(running.client, "remade", {"raw": ""}, headers=headers)
        assert len(await read(running.client, "remade")) == 1
        await running.server.node.store.delete_stream("remade")


async def test_pages_follow_one_another(running: Running) -> None:
    await running.stream("pages", shards=3)
    for n in range(25):
        await append(running.client, "pages", {"value": {"n": n}, "key": str(n)})
    found = []
    after = None
    while True:
        params = {"limit": 7} | ({"after": after} if after else {})
        page = (await running.client.get("/v1/streams/pages/records", params=params)).json()
        found += [each["value"]["n"] for each in page["records"]]
        after = page["next"]
        if after is None:
            break
    assert found == list(range(25))
    assert len(await read(running.client, "pages", limit=5)) == 5
    [only] = await read(running.client, "pages", key="7")
    assert only["value"]["n"] == 7


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("start=nope", "start must be earliest, latest"),
        ("start=2026-01-01T00:00:00", "milliseconds since 1970"),
        ("start=earliest&after=1-1-0", "exclude each other"),
        ("after=1", "a record id looks like"),
        ("after=99999999999999999999-1-0", ""),
        ("start=1-1-99999999999", ""),
        ("limit=0", "limit must be a number from 1"),
        ("limit=10001", "limit must be a number from 1 to 10000"),
        ("limit=-1", "limit must be"),
        ("shard=5", "shard"),
        ("follow=true&until=latest", "exclude each other"),
        ("follow=1", "true or false"),
        ("nope=1", "there is no parameter 'nope'"),
    ],
)
async def test_places_that_are_none_are_refused(running: Running, query: str, why: str) -> None:
    await running.stream("places")
    answer = await running.client.get(f"/v1/streams/places/records?{query}")
    assert answer.status_code == 400, answer.text
    assert why in answer.json()["message"]


async def test_times_and_names_are_places(running: Running) -> None:
    await running.stream("times")
    await append(running.client, "times", {"raw": ""})
    [record] = await read(running.client, "times")
    for start in (record["time"], record["id"], "0", "1970-01-01T00:00:00Z", "earliest"):
        assert await read(running.client, "times", start=start) == [record], start
    assert await read(running.client, "times", start="latest") == []
    assert await read(running.client, "times", until="earliest") == []


async def test_a_follower_gets_what_comes_and_a_browser_goes_on_behind_it(running: Running) -> None:
    await running.stream("follow")
    path = "/v1/streams/follow/records?follow=true"
    async with running.client.stream("GET", path, headers=AS_EVENTS) as answer:
        lines = answer.aiter_lines()
        ids = []
        for n in range(2):
            [sent] = await append(running.client, "follow", {"value": {"n": n}})
            event = [await anext(lines)]
            while not event[-1].startswith("data:"):
                event.append(await anext(lines))
            assert f"id: {sent}" in event
            assert json.loads(event[-1][6:])["value"] == {"n": n}
            ids.append(sent)
    again = AS_EVENTS | {"Last-Event-ID": ids[0]}
    answer = await running.client.get(path.split("?", maxsplit=1)[0], headers=again)
    assert f"id: {ids[1]}" in answer.text
    assert f"id: {ids[0]}" not in answer.text


async def test_a_follower_learns_of_what_is_gone(running: Running) -> None:
    stream = await running.stream("gone")
    ids = [(await append(running.client, "gone", {"raw": ""}))[0] for _ in range(3)]
    last = [record async for record in stream.read()][-1].id
    await stream.trim(before=last)
    answer = await running.client.get("/v1/streams/gone/records", params={"after": ids[0]})
    assert answer.status_code == 400
    gap, record = await read(running.client, "gone", after=ids[0])
    assert gap == {"gap": {"requested": ids[0], "firstKept": ids[2]}}
    assert record["id"] == ids[2]


async def test_a_follower_whose_stream_is_deleted_is_told(running: Running) -> None:
    await running.stream("deleted")
    path = "/v1/streams/deleted/records?follow=true"
    async with running.client.stream("GET", path) as answer:
        await running.server.node.store.delete_stream("deleted")
        [last] = [json.loads(line) async for line in answer.aiter_lines()]
    assert last["error"]["error"] == pb.ErrorCode.StreamNotFound


@pytest.mark.parametrize(
    ("query", "headers", "body", "expected"),
    [
        ("", {}, {"a": 1}, {"value": {"a": 1}}),
        ("?key=k", {}, {"a": 1}, {"value": {"a": 1}, "key": "k"}),
        ("?keyHeader=X-Id&key=k", {"X-Id": "h"}, {}, {"value": {}, "key": "h"}),
        ("?keyPointer=/d/0&key=k", {}, {"d": [7]}, {"value": {"d": [7]}, "key": "7"}),
        ("?keyPointer=/no&key=k", {}, {}, {"value": {}, "key": "k"}),
        ("?payloadPointer=/p", {}, {"p": {"q": 1}}, {"value": {"q": 1}}),
        ("?payloadPointer=/p", {}, {"p": "hi"}, {"raw": "aGk="}),
        (
            "?attribute.topic=/topic&attribute.none=/none",
            {},
            {"topic": "t/1"},
            {"value": {"topic": "t/1"}, "attributes": {"topic": "t/1"}},
        ),
        (
            "?attributeHeaders=X-Id,%20X-None",
            {"X-Id": "h"},
            {},
            {"value": {}, "attributes": {"x-id": "h"}},
        ),
    ],
)
async def test_a_webhook_makes_a_record_of_what_is_posted(
    running: Running, query: str, headers: dict[str, str], body: object, expected: object
) -> None:
    name = f"hook{abs(hash((query, str(body))))}"
    await running.stream(name)
    path = f"/v1/streams/{name}/webhook{query}"
    answer = await running.client.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    [record] = await read(running.client, name)
    assert [record.pop("id")] == answer.json()["recordIds"]
    assert record.pop("time")
    assert record == expected


@given(st.binary(max_size=50), st.sampled_from(["", "text/plain", "application/json; x=y"]))
@settings(max_examples=25)
async def test_any_body_becomes_a_record(running: Running, body: bytes, kind: str) -> None:
    stream = await running.stream("any", exists_ok=True)
    headers = {"Content-Type": kind} if kind else {}
    answer = await running.client.post("/v1/streams/any/webhook", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    [text] = answer.json()["recordIds"]
    [record] = [each async for each in stream.read() if str(each.id) == text]
    payload = record.payload
    assert payload == body if isinstance(payload, bytes) else payload == json.loads(body)


async def test_json_that_no_record_holds_is_kept_as_bytes(running: Running) -> None:
    await running.stream("numbers53")
    body = b'{"a": 9007199254740993}'
    answer = await running.client.post("/v1/streams/numbers53/webhook", content=body)
    assert answer.status_code == 200
    [record] = await read(running.client, "numbers53")
    assert base64.b64decode(record["raw"]) == body


async def test_what_a_webhook_answered_survives_a_kill(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, client):
        stream = await server.node.store.create_stream("durable")
        ids = (await client.post("/v1/streams/durable/webhook", content=b"x")).json()["recordIds"]
        tail = await stream.tail()
        assert tail is not None
        assert [str(tail)] == ids
        _, durable, _ = server.node.store._engine.journal.bounds(tail.shard_id)
        assert tail.lsn < durable


@given(
    st.recursive(
        st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ),
    st.data(),
)
@settings(max_examples=50)
async def test_a_pointer_leads_where_its_steps_do(value: Any, data: st.DataObject) -> None:
    pointer, here = "", value
    while isinstance(here, list | dict) and here:
        step = data.draw(
            st.sampled_from(list(here) if isinstance(here, dict) else range(len(here)))
        )
        here = here[step]
        pointer += "/" + str(step).replace("~", "~0").replace("/", "~1")
    assert found_at(value, pointer) == here
    if isinstance(here, str):
        assert text_at(value, pointer) == here
