"""The package hstreamdb from PyPI, as it is, in a process of its own: it has a protocol file of the
same names as ours.

python -m benchmarks.wire.pypi HOST:PORT append|produce|consume BATCHES

Prints the records and the seconds. Both servers are sent the same; one of them does nothing.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.cases import expect
from benchmarks.plan import Plan
from benchmarks.samples import Sample

if TYPE_CHECKING:
    from benchmarks.wire.serving import Serve

_STREAM, _GROUP = "records", "group"
_RECORDS, _SIZE = 100, 1024
_IN_FLIGHT = 16


def run(path: Path, *, serve: Serve, what: str, batches: int) -> Sequence[Sample]:
    """Let the client do it with a server of its own."""
    with serve(path) as address:
        command = [sys.executable, "-m", "benchmarks.wire.pypi", address, what, str(batches)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    records, seconds = shown.split()
    return (Sample(int(records), float(seconds)),)


async def _append(client: Any, batches: int) -> tuple[int, float]:
    """Append lists, so many calls under way."""
    payloads = Plan().payloads(_RECORDS, _SIZE)
    numbers = iter(range(batches))

    async def work() -> int:
        stored = 0
        for _ in numbers:
            stored += len(list(await client.append(_STREAM, payloads)))
        return stored

    await client.append(_STREAM, payloads)  # it knows the way then
    begin = perf_counter()
    stored = sum(await asyncio.gather(*(work() for _ in range(_IN_FLIGHT))))
    return stored, perf_counter() - begin


async def _produce(client: Any, batches: int) -> tuple[int, float]:
    """Append single records to its producer, which gathers as many bytes as a list has."""
    payloads = Plan().payloads(_RECORDS, _SIZE)
    await client.append(_STREAM, payloads)
    producer = client.new_producer(size_trigger=_RECORDS * (_SIZE + 8), workers=_IN_FLIGHT)
    begin = perf_counter()
    for _ in range(batches):
        for payload in payloads:
            await producer.append(_STREAM, payload)
    await producer.wait_and_close()
    return batches * _RECORDS, perf_counter() - begin


async def _consume(client: Any, batches: int) -> tuple[int, float]:
    """Take batches, and ack each when it is taken."""
    from hstreamdb import SpecialOffset

    await client.create_subscription(_GROUP, _STREAM, offset=SpecialOffset.EARLIEST)
    await _append(client, batches)
    taken = 0

    async def take(ack: Any, stop: Any, records: Any) -> None:
        nonlocal taken
        ids = [record.id for record in records]
        taken += len(ids)
        await ack(ids)
        if taken >= batches * _RECORDS:
            await stop()

    begin = perf_counter()
    await client.new_consumer("one", _GROUP, take).start()
    return taken, perf_counter() - begin


async def _main(address: str, what: str, batches: int) -> tuple[int, float]:
    from hstreamdb import insecure_client

    host, port = address.split(":")
    work = {"append": _append, "produce": _produce, "consume": _consume}[what]
    async with await insecure_client(host, int(port)) as client:
        await client.create_stream(_STREAM)
        return await work(client, batches)


if __name__ == "__main__":
    done, taken = asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    expect("records", done, int(sys.argv[3]) * _RECORDS)
    print(done, taken)
