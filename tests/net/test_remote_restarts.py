"""Remote readers whose server stops, and starts again: they go on where they were."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import hstreamlite as hs
from tests.conformance.faces import create_wide, served
from tests.logs import logged

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]


async def put(store: Any, first: int, end: int) -> list[hs.RecordId]:
    stream = store.stream("orders")
    return [await stream.append(b"%d" % n, key=f"k{n % 7}") for n in range(first, end)]


async def test_readers_of_every_kind_go_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with served(path) as server:
        engine = server.node.store._engine
        store: Any = await hs.aio.connect(f"unix:{path}")
        store._engine = engine
        stream: Any = await create_wide(store, "orders", 2)
        ids = await put(store, 0, 40)
        shard = ids[0].shard_id
        options: dict[str, dict[str, Any]] = {
            "shard": {"shard": shard, "follow": True},
            "shard and limit": {"shard": shard, "follow": True, "limit": 20},
            "key": {"key": "k3", "follow": True},
            "limit": {"follow": True, "limit": 60},
            "latest": {"start": hs.LATEST, "follow": True},
            "until": {"until": ids[-1]},
        }
        readers = {name: await stream.read(**kind) for name, kind in options.items()}
        begun = {name: [await anext(readers[name])] for name in options if name != "latest"}
    following = asyncio.ensure_future(anext(readers["latest"]))
    async with served(path):
        later = await put(store, 40, 80)
        every = [record async for record in stream.read()]
        assert [record.id for record in every] == ids + later
        wanted = {
            "shard": [r for r in every if r.id.shard_id == shard],
            "shard and limit": [r for r in every if r.id.shard_id == shard][:20],
            "key": [r for r in every if r.key == "k3"],
            "limit": every[:60],
            "until": every[: len(ids) - 1],
        }
        for name, records in wanted.items():
            while len(begun[name]) < len(records):
                begun[name].append(await anext(readers[name]))
            assert begun[name] == records, name
        assert (await following).id == later[0]
        for name in ("shard and limit", "limit", "until"):
            with pytest.raises(StopAsyncIteration):
                await anext(readers[name])
        await store.close()


async def test_a_consumer_tells_once_that_its_server_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s"
    async with served(path):
        store: Any = await hs.aio.connect(f"unix:{path}")
        await store.create_stream("orders")
        subscription = await store.create_subscription("billing", stream="orders")
        consumer = await subscription.consumer("ada")
        assert consumer.connected
        assert await consumer.receive(1, timeout=0) == ()
        assert logged(caplog) == []
    while consumer.connected:  # noqa: ASYNC110 - it is told by the log alone
        await asyncio.sleep(0)
    assert await consumer.receive(1, timeout=0) == ()
    async with served(path):
        await store.stream("orders").append(b"x")
        (delivery,) = await consumer.receive(1)
        assert delivery.payload == b"x"
        assert consumer.connected
        (told,) = [line for line in caplog.messages if "receives nothing" in line]
        assert "consumer 'ada' of subscription 'billing'" in told
        await store.close()


async def test_all_that_shares_a_connection_goes_on_when_one_gives_it_up(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with served(path), hs.aio.connect(f"unix:{path}") as store:
        await store.create_stream("orders")
        subscription = await store.create_subscription("billing", stream="orders")
        stream = store.stream("orders")
        producers = [await stream.producer() for _ in range(3)]
        readers = [await stream.read(follow=True) for _ in range(3)]
        consumers = [await subscription.consumer(f"w{n}") for n in range(3)]
        waits = [asyncio.ensure_future(anext(reader)) for reader in readers]
        takes = [asyncio.ensure_future(consumer.receive(1)) for consumer in consumers]
        await store.sync()
        connection = store._link.current
        assert connection is not None
        store._link.lost(connection)
        pending = [await producer.submit(b"x") for producer in producers]
        ids = [await one.result() for one in pending]
        assert len(set(ids)) == 3
        assert {(await wait).id for wait in waits} == {min(ids)}
        assert {(await take)[0].id for take in takes} == set(ids)
