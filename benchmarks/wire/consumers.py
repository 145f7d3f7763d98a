"""Deliveries to four consumers of one group, in one client process, each list acked when taken.

The clock stops with the last ack: how long those wait who get nothing more does not count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import hstreamlite as hs
from benchmarks.cases import expect
from benchmarks.samples import Sample, in_threads
from benchmarks.wire import producers
from benchmarks.wire.producers import GROUP, STREAM, TOGETHER, on_uvloop
from benchmarks.wire.serving import Serve

CONSUMERS = 4

Consume: TypeAlias = Callable[[str, Sequence[bytes], int], float]
"""Fill a stream at an address, and work it off in lists of so many; return the seconds of that."""


def consume(
    path: Path, *, serve: Serve, how: Consume, payloads: Sequence[bytes], together: int
) -> Sequence[Sample]:
    """Work off a backlog of a server of its own."""
    with serve(path) as address:
        return (Sample(len(payloads), how(address, payloads, together)),)


def ours(address: str, payloads: Sequence[bytes], together: int) -> float:
    """`receive` and `ack` of `hs.aio.connect`, in mode "shared"."""
    producers.ours_asyncio(address, payloads)
    left = len(payloads)
    end = 0.0

    async def work(consumer: Any) -> None:
        nonlocal left, end
        while left:
            batch = await consumer.receive(together, timeout=0.1)
            if batch:
                acked = await consumer.ack(batch)
                left -= acked.new
                end = perf_counter()

    async def run() -> float:
        async with hs.aio.connect(f"hstream://{address}") as store:
            group = await store.create_subscription(
                GROUP, stream=STREAM, mode="shared", max_unacked=100_000
            )
            consumers = [await group.consumer(f"consumer-{at}") for at in range(CONSUMERS)]
            begin = perf_counter()
            await asyncio.gather(*map(work, consumers))
            expect("left", (await group.lag()).records, 0)
            return end - begin

    return asyncio.run(run())


def redis(address: str, payloads: Sequence[bytes], together: int) -> float:
    """XREADGROUP and XACK, each consumer in a thread and with a connection of its own."""
    import redis as library

    producers.redis(address, payloads)
    host, port = address.split(":")
    clients = [library.Redis(host, int(port)) for _ in range(CONSUMERS)]
    clients[0].xgroup_create(STREAM, GROUP, id="0")

    def work(client: Any, name: str) -> tuple[float, float, int]:
        done = 0
        client.ping()
        begin = perf_counter()
        while found := client.xreadgroup(GROUP, name, {STREAM: ">"}, count=together):
            ids = [entry[0] for entry in found[0][1]]
            done += client.xack(STREAM, GROUP, *ids)
        return begin, perf_counter(), done

    jobs = [partial(work, client, f"consumer-{at}") for at, client in enumerate(clients)]
    begins, ends, counts = zip(*in_threads(jobs), strict=True)
    expect("acked", sum(counts), len(payloads))
    for client in clients:
        client.close()
    return float(max(ends) - min(begins))


def nats(address: str, payloads: Sequence[bytes], together: int) -> float:
    """Pull consumers of one durable name, on uvloop."""
    import nats as library

    producers.nats(address, payloads)
    left = len(payloads)
    end = 0.0

    async def work(pull: Any) -> None:
        nonlocal left, end
        while left > 0:
            try:
                messages = await pull.fetch(together, timeout=0.2)
            except TimeoutError:
                continue
            left -= len(messages)
            for message in messages:
                await message.ack()
            end = perf_counter()

    async def run() -> float:
        nonlocal end
        clients = [await library.connect(f"nats://{address}") for _ in range(CONSUMERS)]
        most = library.js.api.ConsumerConfig(max_ack_pending=CONSUMERS * TOGETHER * 2)
        pulls = [
            await client.jetstream().pull_subscribe(STREAM, durable=GROUP, config=most)
            for client in clients
        ]
        begin = perf_counter()
        await asyncio.gather(*map(work, pulls))
        begun = perf_counter()
        for client in clients:
            await client.flush()
        end += perf_counter() - begun
        for client in clients:
            await client.close()
        return end - begin

    return on_uvloop(run())
