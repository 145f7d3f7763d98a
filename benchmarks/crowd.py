"""Many clients that are no good, and one that is, against a server in a process of its own.

    python -m benchmarks.crowd [--appends N] [--rounds N]

It appends alone, then among 1,000 idle connections, 200 that do not read what they asked for and
200 that stop in the middle of a request; and prints how long its calls took in both, and how much
memory the server took for the others.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import randbytes
from time import perf_counter

import grpc

from benchmarks.http2 import Raw, beginning, frame, hello, message, request
from hstreamlite.net import hstreamlite_pb2 as own
from hstreamlite.net.hstreamlite_pb2_grpc import HStreamLiteStub

SERVICE = "/hstreamlite.v1.HStreamLite/"
STREAM = "orders"


class Process:
    """A server, and how much memory it has."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, http: str) -> None:
        self.process = process
        self.port = port
        self.http = http

    def memory(self) -> int:
        """Return the bytes that are its own in memory now."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return (int(pages[1]) - int(pages[2])) * resource.getpagesize()


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hstreamlite", "server", "--store", str(path), "--port", "0"),
        *("--http-port", "0", "--limits-connections-max", "2000"),
        # However long it takes until all have come.
        *("--limits-handshake-timeout", "3600", "--limits-request-timeout", "3600"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        ready = (await process.stdout.readline()).decode()
        _, _, http = ready.strip().rpartition("HTTP at ")
        yield Process(process, int(ready.split(" (store")[0].rpartition(":")[2]), http)
    finally:
        process.terminate()
        await process.wait()


class Healthy:
    """A client that appends and reads, and takes what it is sent."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.stub = HStreamLiteStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def fill(self, batches: int, size: int) -> None:
        """Append so much that the window of no connection holds it."""
        await self.stub.CreateStream(own.CreateStreamRequest(name=STREAM, exists_ok=True))
        for _ in range(batches):
            await self.append(size)

    async def append(self, size: int) -> float:
        """Append one record of this size, and return the seconds that it took."""
        record = _field(1, _field(2, randbytes(size)))
        body = own.Body(payload=record, records=1)
        began = perf_counter()
        await self.stub.Append(own.AppendRequest(stream=STREAM, body=body), timeout=60)
        return perf_counter() - began


def _field(number: int, value: bytes) -> bytes:
    """Return a field of bytes as protobuf has it."""
    length, left = b"", len(value)
    while True:
        left, digit = left >> 7, left & 127
        length += bytes([digit | (128 if left else 0)])
        if not left:
            return bytes([number << 3 | 2]) + length + value


class Crowd:
    """Clients that hold a connection and do nothing with it, or next to nothing."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[Raw] = []
        self._all: list[Raw] = []

    async def idle(self, count: int) -> None:
        """Connect, and say nothing more."""
        for client in await self._open(count):
            await client.send(hello())

    async def slow_readers(self, count: int) -> None:
        """Ask for a whole stream, with the room for it that HTTP/2 has, and take nothing."""
        wanted = own.ReadRequest(stream=STREAM, start=own.Place(earliest=True), follow=True)
        for client in await self._open(count):
            asked = request(SERVICE + "Read"), message(wanted.SerializeToString())
            await client.send(hello(), *asked)

    async def slow_writers(self, count: int, size: int, sent: int) -> None:
        """Begin to append, and stop in the middle of it."""
        self._writers = await self._open(count)
        for client in self._writers:
            asked = request(SERVICE + "Append"), beginning(size, bytes(sent))
            await client.send(hello(), *asked)

    async def trickle(self) -> None:
        """Send a byte more from each slow writer."""
        for client in self._writers:
            await client.send(frame(0, 0, 1, b"x"))

    async def _open(self, count: int) -> list[Raw]:
        found = [await Raw.open(self._port) for _ in range(count)]
        self._all += found
        return found

    def close(self) -> None:
        for client in self._all:
            client.close()


IDLE, SLOW = 1000, 200
BATCH = 32 << 10
"""Bytes of a batch. Of those that its client does not take a call holds about five."""


async def gather(crowd: Crowd) -> None:
    """Bring the whole crowd."""
    await crowd.idle(IDLE)
    await crowd.slow_readers(SLOW)
    await crowd.slow_writers(SLOW, 1 << 20, 10_000)


def _quantile(seconds: list[float], share: float) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]


async def _measure(appends: int) -> tuple[float, float, int]:
    """Return p99 alone and among the crowd, in seconds, and the bytes that the crowd cost."""
    with tempfile.TemporaryDirectory() as path:
        async with serving(Path(path) / "store") as server:
            healthy, crowd = Healthy(server.port), Crowd(server.port)
            await healthy.fill(50, BATCH)
            alone = [await healthy.append(1000) for _ in range(appends)]
            before = server.memory()
            await gather(crowd)
            among = []
            for number in range(appends):
                if number % 100 == 0:
                    await crowd.trickle()
                among.append(await healthy.append(1000))
            grown = server.memory() - before
            crowd.close()
            await healthy.close()
    return _quantile(alone, 0.99), _quantile(among, 0.99), grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--appends", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for number in range(options.rounds):
        alone, among, grown = asyncio.run(_measure(options.appends))
        print(
            f"round {number + 1}: p99 of an append {alone * 1e3:.2f} ms alone, "
            f"{among * 1e3:.2f} ms in the crowd ({among / alone:.2f}x); "
            f"memory for the crowd {grown / (1 << 20):.0f} MiB"
        )


if __name__ == "__main__":
    main()
