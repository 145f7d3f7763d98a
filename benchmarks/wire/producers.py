"""Appends of single records by one client that sends many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import hstreamlite as hs
from benchmarks.cases import expect
from benchmarks.samples import Sample
from benchmarks.wire.serving import Serve

STREAM, GROUP = "records", "group"
TOGETHER = 1000
"""Records that a client sends before it looks at an answer; of ours, those of one batch."""
_BATCH_BYTES = 2 << 20

Produce: TypeAlias = Callable[[str, Sequence[bytes]], float]
"""Append payloads to the server at an address; return the seconds until all were answered, when
there are as many as there should be."""


def produce(
    path: Path, *, serve: Serve, how: Produce, payloads: Sequence[bytes]
) -> Sequence[Sample]:
    """Append records to a server of its own."""
    with serve(path) as address:
        return (Sample(len(payloads), how(address, payloads)),)


def ours(address: str, payloads: Sequence[bytes]) -> float:
    """Submit to a producer of `hs.connect`, durable when it is flushed."""
    with hs.connect(f"hstream://{address}") as store:
        stream = store.create_stream(STREAM)
        with stream.producer(batch_records=TOGETHER, batch_bytes=_BATCH_BYTES) as producer:
            submit = producer.submit
            begin = perf_counter()
            for payload in payloads:
                submit(payload)
            producer.flush()
            seconds = perf_counter() - begin
        expect("records", stream.info().records, len(payloads))
    return seconds


def ours_asyncio(address: str, payloads: Sequence[bytes]) -> float:
    """Submit to a producer of `hs.aio.connect`."""

    async def work() -> float:
        async with hs.aio.connect(f"hstream://{address}") as store:
            stream = await store.create_stream(STREAM)
            producer = await stream.producer(batch_records=TOGETHER, batch_bytes=_BATCH_BYTES)
            submit = producer.submit
            begin = perf_counter()
            for payload in payloads:
                await submit(payload)
            await producer.flush()
            seconds = perf_counter() - begin
            await producer.close()
            expect("records", (await stream.info()).records, len(payloads))
            return seconds

    return asyncio.run(work())


def redis(address: str, payloads: Sequence[bytes]) -> float:
    """XADD in pipelines."""
    import redis as library

    host, port = address.split(":")
    with library.Redis(host, int(port)) as client:
        begin = perf_counter()
        for at in range(0, len(payloads), TOGETHER):
            with client.pipeline(transaction=False) as pipe:
                for payload in payloads[at : at + TOGETHER]:
                    pipe.xadd(STREAM, {b"p": payload})
                pipe.execute()
        seconds = perf_counter() - begin
        expect("records", client.xlen(STREAM), len(payloads))
    return seconds


def nats(address: str, payloads: Sequence[bytes]) -> float:
    """Publish to JetStream, with so many acks outstanding, on uvloop."""

    async def work() -> float:
        import nats as library

        client = await library.connect(f"nats://{address}")
        stream = client.jetstream(publish_async_max_pending=TOGETHER)
        await stream.add_stream(name=STREAM, subjects=[STREAM])
        begin = perf_counter()
        answers = [await stream.publish_async(STREAM, payload) for payload in payloads]
        await asyncio.gather(*answers)
        seconds = perf_counter() - begin
        expect("records", (await stream.stream_info(STREAM)).state.messages, len(payloads))
        await client.close()
        return seconds

    return on_uvloop(work())


def on_uvloop(work: Coroutine[Any, Any, float]) -> float:
    """Run on the loop that is the faster one for clients that do their own sockets."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
