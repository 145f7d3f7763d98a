"""Remote consumers of which one side has lost sight: leases, and connections that are half open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.net.server import Server
from hstreamlite.remote.blocking import Store as BlockingStore
from hstreamlite.remote.consumer import Consumer
from hstreamlite.remote.store import Store
from hstreamlite.remote.subscription import Subscription
from tests.conformance.faces import served

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]
SHORT = 0.5
"""Longer than a busy machine takes to run a thread again."""
LONG = 300.0


class HalfOpen:
    """A proxy that can hang up on a client, and let the server believe that it is still there."""

    def __init__(self, server: Server) -> None:
        self._port = server.node.listeners[0].port
        self._clients: list[asyncio.StreamWriter] = []
        self._servers: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None
        self.port = 0

    async def listen(self) -> None:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        assert self._listening is not None
        self._listening.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._port)
        self._clients.append(writer)
        self._servers.append(forth)
        for source, target in ((reader, forth), (back, writer)):
            task = asyncio.ensure_future(self._pump(source, target))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                target.write(data)
        except OSError:
            pass

    def hang_up(self) -> None:
        for client in self._clients:
            client.transport.abort()
        self._clients.clear()

    def end(self) -> None:
        for server in self._servers:
            server.transport.abort()


@asynccontextmanager
async def half_open(path: Path) -> AsyncIterator[tuple[HalfOpen, str]]:
    async with served(path) as server:
        proxy = HalfOpen(server)
        await proxy.listen()
        try:
            yield proxy, f"hstream://127.0.0.1:{proxy.port}"
        finally:
            proxy.refuse()
            proxy.hang_up()
            proxy.end()


async def filled(store: Store) -> Subscription:
    await (await store.create_stream("orders")).append_many([b"%d" % n for n in range(6)])
    return await store.create_subscription("billing", stream="orders")


async def test_who_attaches_again_takes_the_place_of_its_former_self(tmp_path: Path) -> None:
    async with half_open(tmp_path / "s") as (proxy, url), hs.aio.connect(url) as store:
        subscription = await filled(store)
        async with subscription.consumer("w", lease=LONG) as consumer:
            assert len(await consumer.receive(4)) == 4
            proxy.hang_up()
            again = await consumer.receive(6)
            assert [d.attempt for d in again] == [2] * 4 + [1] * 2
            assert (await consumer.ack(again)).new == 6
            assert (await subscription.info()).consumers == ("w",)


async def test_nobody_else_takes_its_place(tmp_path: Path) -> None:
    async with half_open(tmp_path / "s") as (proxy, url), hs.aio.connect(url) as store:
        subscription = await filled(store)
        consumer = await subscription.consumer("w", lease=LONG)
        await consumer.receive(4)
        proxy.refuse()
        proxy.hang_up()
        async with hs.aio.connect(f"unix:{tmp_path / 's'}") as other:
            with pytest.raises(hs.ConsumerExists):
                await other.subscription("billing").consumer("w")
            async with other.subscription("billing").consumer("v") as near:
                assert len(await near.receive(6)) == 2
        await proxy.listen()
        with pytest.raises(hs.ConsumerExists):
            await subscription.consumer("w")
        assert len(await consumer.receive(6)) == 6


async def test_one_that_could_not_say_that_it_leaves_may_be_attached_again(tmp_path: Path) -> None:
    async with half_open(tmp_path / "s") as (proxy, url), hs.aio.connect(url) as store:
        subscription = await filled(store)
        consumer = await subscription.consumer("w", lease=LONG)
        await consumer.receive(4)
        proxy.refuse()
        proxy.hang_up()
        await consumer.close()
        await proxy.listen()
        async with subscription.consumer("w") as later:
            assert [d.attempt for d in await later.receive(4)] == [2] * 4
            with pytest.raises(hs.ConsumerExists):
                await subscription.consumer("w")
        async with subscription.consumer("w"):
            pass


@asynccontextmanager
async def silent(path: Path) -> AsyncIterator[tuple[Store, BlockingStore, Consumer]]:
    """Yield a store, another client of it, and a consumer of which no sign of life came, but for
    a fetch that waits."""
    async with served(path), hs.aio.connect(f"unix:{path}") as store:
        with await asyncio.to_thread(hs.connect, f"unix:{path}") as other:
            await store.create_stream("orders")
            subscription = await store.create_subscription("billing", stream="orders")
            consumer = await subscription.consumer("w", lease=SHORT)
            yield store, other, consumer


def see_it_gone(other: BlockingStore) -> None:
    """Wait until the server counts nobody as there; meanwhile the event loop stands still."""
    while "w" in other.subscription("billing").info().consumers:
        pass


async def test_a_wait_goes_on_when_a_lease_ran_out(tmp_path: Path) -> None:
    async with silent(tmp_path / "s") as (store, other, consumer):
        calm = await store.subscription("billing").consumer("calm", lease=LONG)
        other.stream("orders").append(b"held")
        held = await calm.receive(1)
        waiting = asyncio.ensure_future(consumer.receive(1))
        await store.sync()
        see_it_gone(other)
        other.stream("orders").append(b"later")
        assert [d.payload for d in await waiting] == [b"later"]
        assert (await calm.ack(held)).new == 1
        assert calm._attachment.count == 1, "the connection of all was not given up for one"


async def test_one_whose_lease_ran_out_acts_for_nobody_who_has_its_name(tmp_path: Path) -> None:
    async with silent(tmp_path / "s") as (store, other, consumer):
        other.stream("orders").append(b"held")
        held = await consumer.receive(1)
        waiting = asyncio.ensure_future(consumer.receive(1))
        await store.sync()
        see_it_gone(other)
        with other.subscription("billing").consumer("w") as later:
            again = later.receive(1)
            assert [d.attempt for d in again] == [held[0].attempt + 1]
            with pytest.raises(hs.ConsumerExists):
                await waiting
            with pytest.raises(hs.ConsumerExists):
                await consumer.release(held)
            other.stream("orders").append(b"later")
            assert [d.payload for d in later.receive(1)] == [b"later"]
            assert later.extend(again, by=60) == 1
