"""A server that is killed again and again loses nothing, repeats only what it may, in order."""

import asyncio
import json
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import grpc
import pytest

from hstreamlite.config import StoreConfig
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.hstream_pb2_grpc import HStreamApiStub
from tests.effort import of
from tests.net.wire import EARLIEST

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
    pytest.mark.skipif(find_spec("hstreamdb") is None, reason="./run test installs hstreamdb"),
]
CLIENT = Path(__file__).parent / "pypi_crash.py"
KILLS, SHARDS, CONSUMERS, WORKERS, KEYS, BATCH = 5, 8, 3, 4, 100, 100
RECORDS = of(1000, brief=100, nightly=10_000)
UNACKED = 2000


class Killed:
    """A server process on one store and one port, however often it is killed."""

    def __init__(self, path: Path) -> None:
        self.path, self.port = path, 0
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        while True:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "hstreamlite", "server"),
                *("--store", str(self.path), "--port", str(self.port)),
                stdout=-1,
            )
            assert process.stdout is not None
            ready = (await process.stdout.readline()).decode()
            if ready:
                break
            assert self.port, "the first start failed"  # else another has the port for a moment
            await process.wait()
        self.process = process
        self.port = int(ready.split()[4].rpartition(":")[2])

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


class Ledger:
    """What the clients told, and what follows from it."""

    def __init__(self) -> None:
        self.again: Counter[tuple[int, int]] = Counter()
        self.appended: dict[str, set[tuple[int, ...]]] = {}
        self.seen: dict[tuple[int, ...], int] = {}
        self.last: dict[tuple[int, str], tuple[int, ...]] = {}
        self.newest: dict[str, tuple[int, int]] = {}
        self.repeats: Counter[int] = Counter()
        self.at_work: dict[int, set[str]] = {}

    def got(self, life: int, name: str, ids: list[list[int]], payloads: list[str]) -> None:
        self.at_work.setdefault(life, set()).add(name)
        for record, payload in zip(map(tuple, ids), payloads, strict=True):
            key, number = payload.split()
            before = self.seen.get(record)
            if before is not None:
                assert before < life, f"{record} came twice in one life of the server"
                self.repeats[life] += 1
            self.seen[record] = life
            last = self.last.get((life, key), (0, 0, 0))
            assert last < record, f"key {key}: {record} came behind {last}"
            self.last[life, key] = record
            if before is None:
                # A batch appended again begins anew; else numbers only grow.
                _, newest = self.newest.get(key, (0, -1))
                start = int(number) // BATCH * BATCH
                assert int(number) == newest + 1 or self.again[int(key), start], payload
                self.newest[key] = record[1], int(number)
            self.appended.setdefault(payload, set()).add(record)


async def test_nothing_is_lost_and_repeats_are_what_was_not_acked(tmp_path: Path) -> None:
    server, ledger = Killed(tmp_path), Ledger()
    await server.start()
    address = f"127.0.0.1:{server.port}"
    async with grpc.aio.insecure_channel(address) as channel:
        stub = HStreamApiStub(channel)
        await stub.CreateStream(
            pb.Stream(streamName="killed", replicationFactor=1, shardCount=SHARDS)
        )
        await stub.CreateSubscription(
            pb.Subscription(
                subscriptionId="all",
                streamName="killed",
                ackTimeoutSeconds=600,
                maxUnackedRecords=UNACKED,
                offset=EARLIEST,
            )
        )
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        *(str(CLIENT), address),
        *map(str, (CONSUMERS, WORKERS, KEYS, RECORDS, BATCH)),
        stdout=-1,
        limit=1 << 24,
    )
    assert client.stdout is not None
    total, life, produced = KEYS * RECORDS, 0, False
    try:
        while len(ledger.appended) < total or not produced or life < KILLS:
            line = await client.stdout.readline()
            assert line, "the clients ended"
            kind, *facts = json.loads(line)
            if kind == "got":
                ledger.got(*facts)
            elif kind == "again":
                ledger.again[tuple(facts)] += 1
            else:
                produced = True
            due = life < KILLS and len(ledger.appended) >= total * (life + 1) // (KILLS + 1)
            if due and len(ledger.at_work.get(life, ())) == CONSUMERS:
                await server.kill()
                await server.start()
                life += 1
    finally:
        await server.kill()
        if client.returncode is None:
            client.kill()
        await client.wait()
    assert set(ledger.appended) == {f"{key} {n}" for key in range(KEYS) for n in range(RECORDS)}
    for payload, ids in ledger.appended.items():
        key, number = map(int, payload.split())
        assert len(ids) <= 1 + ledger.again[key, number // BATCH * BATCH], payload
    # What was out unacked when the server was killed, and acks that were not yet on disk.
    most = UNACKED + BATCH * CONSUMERS + StoreConfig().progress_acks + UNACKED
    assert all(count <= most for count in ledger.repeats.values()), ledger.repeats
    print(f"repeats {dict(ledger.repeats)}, appended again {sum(ledger.again.values())}")
