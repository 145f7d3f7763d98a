"""The package hstreamdb from PyPI at work, in a process of its own, while its server is killed.

``python pypi_crash.py HOST:PORT CONSUMERS WORKERS KEYS RECORDS BATCH`` appends and consumes. It
prints a line of JSON for each delivery that it has acked, with the life of the server in which it
came; for each batch that it appends again, not knowing what became of it; and when all is appended.
"""

import asyncio
import json
import sys
from typing import Any

import grpc
from hstreamdb import HStreamDBClient  # type: ignore[attr-defined]

STREAM, SUBSCRIPTION = "killed", "all"
GONE = (grpc.aio.AioRpcError, RuntimeError)


def tell(*facts: Any) -> None:
    print(json.dumps(facts), flush=True)


async def connect(address: str) -> Any:
    """Return a client as soon as there is a server."""
    host, _, port = address.rpartition(":")
    while True:
        client = HStreamDBClient(host, int(port))
        try:
            await client._stub.DescribeCluster(None, wait_for_ready=True)
            await client.init_cluster_info()
        except GONE:
            await client.__aexit__(None, None, None)
        else:
            return client


async def produce(address: str, keys: list[int], records: int, batch: int) -> None:
    """Append the numbers of each key in order."""
    client = await connect(address)
    for start in range(0, records, batch):
        for key in keys:
            payloads = [f"{key} {number}" for number in range(start, start + batch)]
            while True:
                try:
                    await client.append(STREAM, payloads, key=f"key-{key}")
                except GONE:
                    tell("again", key, start)
                    client = await connect(address)
                else:
                    break


class Consumers:
    """All of them are broken off by the end of the server, and only then come back."""

    def __init__(self, address: str, count: int) -> None:
        self.address, self.count = address, count
        self.life = 0
        self.broken = 0
        self.over = asyncio.Event()

    async def run(self, name: str) -> None:
        while True:
            over = self.over
            client = await connect(self.address)
            try:
                await client.new_consumer(name, SUBSCRIPTION, self.process(name)).start()
                raise AssertionError("a live consumer's call ended well")
            except GONE:
                pass
            self.broken += 1
            if self.broken == self.count:
                self.broken, self.life, self.over = 0, self.life + 1, asyncio.Event()
                over.set()
            await over.wait()

    def process(self, name: str) -> Any:
        async def process(ack: Any, stop: Any, records: Any) -> None:
            got = list(records)
            await ack([record.id for record in got])
            tell(
                "got",
                self.life,
                name,
                [tuple(record.id) for record in got],
                [record.payload.decode() for record in got],
            )

        return process


async def main(address: str, *numbers: str) -> None:
    consumers, workers, keys, records, batch = map(int, numbers)
    group = Consumers(address, consumers)
    consuming = [asyncio.create_task(group.run(f"c{n}")) for n in range(consumers)]
    producing = asyncio.gather(
        *(produce(address, list(range(n, keys, workers)), records, batch) for n in range(workers))
    )
    await asyncio.wait([producing, *consuming], return_when=asyncio.FIRST_COMPLETED)
    await producing
    tell("produced")
    await asyncio.gather(*consuming)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
