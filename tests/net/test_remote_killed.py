"""Remote clients whose server is killed again and again, and whose connections break anywhere."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.server import Server
from tests.net.test_killed_server import Killed

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]
RECORDS = 600
KILLS = 3


async def produce(store: hs.aio.Store, done: asyncio.Event) -> list[hs.RecordId]:
    async with store.stream("orders").producer(batch_records=7) as producer:
        pending = []
        for n in range(RECORDS):
            pending.append(await producer.submit(b"%d" % n, key=f"k{n % 5}"))
            if n % 50 == 0:
                await pending[-1].result()
        ids = [await one.result() for one in pending]
    done.set()
    return ids


async def consume(store: hs.aio.Store, seen: Counter[bytes]) -> None:
    async with store.subscription("billing").consumer("w") as consumer:
        while len(seen) < RECORDS:
            batch = await consumer.receive(20, timeout=0.5)
            seen.update(bytes(delivery.payload) for delivery in batch)
            await consumer.ack(batch)


async def follow(store: hs.aio.Store) -> list[bytes]:
    async with store.stream("orders").read(follow=True, limit=RECORDS) as reader:
        return [bytes(record.payload) async for record in reader]


async def everything_is_there_once(store: hs.aio.Store, break_it: object) -> None:
    """Produce, consume and follow while something breaks connections."""
    await store.create_stream("orders")
    await store.create_subscription("billing", stream="orders")
    seen: Counter[bytes] = Counter()
    done = asyncio.Event()
    async with asyncio.timeout(90), asyncio.TaskGroup() as group:
        producing = group.create_task(produce(store, done))
        group.create_task(consume(store, seen))
        following = group.create_task(follow(store))
        breaking = group.create_task(break_it(done))  # type: ignore[operator]
    assert breaking.done()
    wanted = [b"%d" % n for n in range(RECORDS)]
    assert following.result() == wanted
    records = [record async for record in store.stream("orders").read()]
    assert [record.payload for record in records] == wanted
    assert [record.id for record in records] == producing.result()
    assert set(seen) == set(wanted)


async def test_a_killed_server_loses_nothing_and_stores_nothing_twice(tmp_path: Path) -> None:
    server = Killed(tmp_path / "s")
    await server.start()

    async def kill(done: asyncio.Event) -> None:
        for _ in range(KILLS):
            with suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), 0.15)
            await server.kill()
            await server.start()

    try:
        async with hs.aio.connect(f"hstream://127.0.0.1:{server.port}", timeout=60) as store:
            await everything_is_there_once(store, kill)
    finally:
        await server.kill()


class Cutter:
    """A proxy that lets so many bytes of each connection pass, and then cuts it."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._random = random.Random(seed)
        self.cuts = 0
        self.whole = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._port)
        left = [self._random.randrange(200, 20_000)]
        pumps = [self._pump(reader, forth, left), self._pump(back, writer, left)]
        tasks = [asyncio.ensure_future(pump) for pump in pumps]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for end in (forth, writer):
            end.transport.abort()
        self.cuts += 1

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, left: list[int]
    ) -> None:
        with suppress(OSError):
            while data := await source.read(4096):
                if not self.whole:
                    data = data[: left[0]]
                    left[0] -= len(data)
                target.write(data)
                await target.drain()
                if left[0] <= 0:
                    return


@pytest.mark.parametrize("seed", [1, 2])
async def test_connections_may_be_cut_at_any_byte(tmp_path: Path, seed: int) -> None:
    config = ServerConfig(store=str(tmp_path / "s"), port=0, drain_timeout=1)
    async with Server(config) as server:
        cutter = Cutter(server.node.listeners[0].port, seed)
        cutter.whole = True
        proxy = await asyncio.start_server(cutter.serve, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]

        async def cut(done: asyncio.Event) -> None:
            cutter.whole = False
            await done.wait()

        async with hs.aio.connect(f"hstream://127.0.0.1:{port}", timeout=60) as store:
            await everything_is_there_once(store, cut)
        proxy.close()
    assert cutter.cuts > 1
