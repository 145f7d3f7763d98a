"""Batches that clients encode: stored as they come, read as records by whoever asks for those."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import hstreamlite as hs
from hstreamlite import aio
from hstreamlite._native import fast
from hstreamlite.aio.raw import RawStore
from hstreamlite.config import BATCH_RECORDS_MAX
from hstreamlite.log.journal import compress
from tests.conformance.faces import collect

pytestmark = pytest.mark.asyncio

ITEMS: list[Any] = [
    b"",
    b"one",
    hs.Record({"a": 1.5}, key="k"),
    hs.Record(b"x" * 300, attributes={"b": "c"}),
]
BODY = fast.encode_batch(ITEMS)


def flushed_gzip(body: bytes) -> bytes:
    """Return what hstreamdb-go sends: flushed, and never finished."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(body) + packer.flush(zlib.Z_SYNC_FLUSH)


ENCODINGS: dict[str, tuple[hs.Compression, bytes]] = {
    "none": ("none", BODY),
    "gzip": ("gzip", gzip.compress(BODY)),
    "gzip cut off": ("gzip", flushed_gzip(BODY)),
    "gzip in two members": ("gzip", gzip.compress(BODY[:40]) + gzip.compress(BODY[40:])),
    "zstd": ("zstd", compress(2, BODY)),
    "zstd in two frames": ("zstd", compress(2, BODY[:40]) + compress(2, BODY[40:])),
}


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[aio.Store]:
    async with aio.open(tmp_path / "store") as opened:
        yield opened


async def made(store: aio.Store, name: str = "s") -> tuple[RawStore, int]:
    """Create a stream with one record, and return its shard."""
    stream = await store.create_stream(name)
    first = await stream.append(b"first")
    return RawStore(store), first.shard_id


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_what_a_client_wrote_comes_back_as_bytes_and_as_records(
    store: aio.Store, encoding: str, tmp_path: Path
) -> None:
    compression, payload = ENCODINGS[encoding]
    raw, shard = await made(store)
    at = await raw.append(
        "s", payload, shard_id=shard, batch_size=len(ITEMS), compression=compression
    )
    assert at == hs.RecordId(shard, 2, 0)
    await store.stream("s").append(b"last")
    await store.close()
    async with aio.open(tmp_path / "store") as again:
        stream = again.stream("s")
        _, batch, _ = await collect(stream.read_batches())
        assert (batch.payload, batch.compression, len(batch)) == (payload, compression, len(ITEMS))
        assert (batch.shard_id, batch.batch_id) == (shard, 2)
        assert batch.append_time_ms > 1_600_000_000_000
        records = await collect(stream.read())
        assert [r.payload for r in records] == [
            b"first", *[i.payload if isinstance(i, hs.Record) else i for i in ITEMS], b"last"
        ]  # fmt: skip
        assert [r.id for r in records[1:5]] == [hs.RecordId(shard, 2, i) for i in range(4)]
        assert (records[3].key, records[4].attributes) == ("k", {"b": "c"})
        assert records[5].id == hs.RecordId(shard, 6, 0)
        assert batch.records() == records[1:5]


async def test_each_call_makes_one_block_among_whatever_else_is_appended(store: aio.Store) -> None:
    raw, shard = await made(store)
    stream = store.stream("s")
    calls: list[Callable[[], Any]] = [
        lambda: stream.append(b"single", durability="memory"),
        lambda: raw.append("s", BODY, shard_id=shard, batch_size=4, durability="memory"),
        lambda: stream.append_many([b"a", b"b"], durability="memory"),
    ]
    appended = [await calls[i % 3]() for i in range(60)]
    await store.sync()
    batches = {b.batch_id: b for b in await collect(stream.read_batches())}
    for at in appended[1::3]:
        assert batches[at.batch_id].payload == BODY
        assert len(batches[at.batch_id]) == 4
    ends = [b.batch_id + len(b) for b in batches.values()]
    assert sorted(batches) == [1, *ends[:-1]]


async def test_appends_of_concurrent_calls_share_syncs(store: aio.Store) -> None:
    raw, shard = await made(store)
    before = (await store.stats()).log["syncs"]
    ids = await asyncio.gather(
        *(raw.append("s", BODY, shard_id=shard, batch_size=4) for _ in range(200))
    )
    assert [i.batch_id for i in ids] == list(range(2, 802, 4))
    assert (await store.stats()).log["syncs"] - before < 100


@pytest.mark.parametrize("level", ["os", "memory"])
async def test_weaker_levels_are_asked_for_by_name(store: aio.Store, level: Any) -> None:
    raw, shard = await made(store)
    await raw.append("s", BODY, shard_id=shard, batch_size=4, durability=level)
    await store.sync()
    assert len(await collect(store.stream("s").read())) == 5


async def test_what_cannot_be_stored_is_refused_and_moves_nothing(store: aio.Store) -> None:
    raw, shard = await made(store)
    await store.create_stream("other")
    largest = store._engine.config.batch_bytes_max

    async def refused(error: type[Exception], **changed: Any) -> Exception:
        good: dict[str, Any] = {
            "stream": "s", "payload": BODY, "shard_id": shard, "batch_size": 4
        }  # fmt: skip
        with pytest.raises(error) as caught:
            await raw.append(**{**good, **changed})
        return caught.value

    await refused(hs.StreamNotFound, stream="nothing")
    of_other = await refused(hs.ShardNotFound, stream="other")
    assert isinstance(of_other, hs.ShardNotFound)
    assert (of_other.shard, of_other.stream) == (shard, "other")
    await refused(hs.ShardNotFound, shard_id=shard + 1000)
    await refused(hs.ShardNotFound, shard_id=1 << 63)
    await refused(ValueError, shard_id=-1)
    await refused(ValueError, payload=b"")
    await refused(TypeError, payload="text")
    await refused(ValueError, batch_size=0)
    await refused(ValueError, batch_size=BATCH_RECORDS_MAX + 1)
    await refused(TypeError, batch_size=True)
    await refused(ValueError, compression="lz4")
    await refused(ValueError, durability="weak")
    large = await refused(hs.BatchTooLarge, payload=b"x" * (largest + 1))
    assert isinstance(large, hs.BatchTooLarge)
    assert (large.size, large.limit) == (largest + 1, largest)
    await store.delete_stream("other")
    await refused(hs.StreamNotFound, stream="other")
    at = await raw.append("s", b"y" * largest, shard_id=shard, batch_size=BATCH_RECORDS_MAX)
    assert at.batch_id == 2
    following = await raw.append("s", BODY, shard_id=shard, batch_size=4)
    assert following.batch_id == 2 + BATCH_RECORDS_MAX


async def test_a_cancelled_append_is_stored_all_the_same(store: aio.Store) -> None:
    raw, shard = await made(store)
    task = asyncio.ensure_future(raw.append("s", BODY, shard_id=shard, batch_size=4))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await collect(store.stream("s").read(limit=5, follow=True))) == 5


async def test_a_store_that_another_process_writes_takes_no_batch(
    store: aio.Store, tmp_path: Path
) -> None:
    async with aio.open(tmp_path / "store", read_only=True) as follower:
        with pytest.raises(hs.ReadOnly):
            RawStore(follower)


GZIP = gzip.compress(BODY)
BOMB = gzip.compress(bytes((64 << 20) + 1), 9)
MALFORMED: dict[str, tuple[hs.Compression, bytes]] = {
    "garbage": ("none", b"\xff\xfe garbage"),
    "too few": ("none", fast.encode_batch(ITEMS[:3])),
    "too many": ("none", fast.encode_batch([*ITEMS, b"more"])),
    "good, then garbage": ("none", BODY + b"\x0a\xff"),
    "cut off": ("none", BODY[:-1]),
    "no gzip": ("gzip", BODY),
    "no zstd": ("zstd", BODY),
    "gzip of garbage": ("gzip", gzip.compress(b"\xff\xfe garbage")),
    "gzip of too few": ("gzip", gzip.compress(fast.encode_batch(ITEMS[:2]))),
    "gzip without the end": ("gzip", GZIP[: len(GZIP) // 2]),
    "gzip and garbage": ("gzip", GZIP + b"garbage"),
    "zstd without the end": ("zstd", compress(2, BODY)[:-5]),
    "bomb": ("gzip", BOMB),
    "zstd bomb": ("zstd", compress(2, bytes((64 << 20) + 1))),
}
each_malformed = pytest.mark.parametrize("kind", MALFORMED)


async def with_malformed(store: aio.Store, kind: str) -> tuple[int, bytes]:
    """Append a good record, a batch of four that is none, and two more good records."""
    raw, shard = await made(store)
    compression, payload = MALFORMED[kind]
    await raw.append("s", payload, shard_id=shard, batch_size=4, compression=compression)
    await store.stream("s").append_many([b"second", b"third"])
    return shard, payload


@each_malformed
async def test_a_batch_that_is_none_is_told_once_and_read_past(store: aio.Store, kind: str) -> None:
    shard, payload = await with_malformed(store, kind)
    stream = store.stream("s")
    for start in (hs.EARLIEST, hs.RecordId(shard, 2, 2)):
        reader = stream.read(start=start)
        found: list[bytes] = []
        told = 0
        while len(found) < 2 or found[-1] != b"third":
            try:
                found += [r.payload async for r in reader if isinstance(r.payload, bytes)]
            except hs.MalformedBatch as error:
                told += 1
                assert (error.shard_id, error.batch_id, error.records) == (shard, 2, 4)
                assert not isinstance(error, hs.CorruptionError)
        assert told == 1
        assert found[-2:] == [b"second", b"third"]
    _, batch, _ = await collect(stream.read_batches())
    assert batch.payload == payload
    assert batch.size == 4
    with pytest.raises(hs.MalformedBatch):
        batch.records()


@each_malformed
@pytest.mark.parametrize("mode", ["ordered", "shared"])
async def test_a_batch_that_is_none_does_not_hold_a_subscription(
    store: aio.Store, kind: str, mode: str, tmp_path: Path
) -> None:
    shard, _ = await with_malformed(store, kind)
    subscription = await store.create_subscription("sub", stream="s", mode=mode)
    consumer = subscription.consumer("c")
    found: list[hs.Delivery] = []
    told = 0
    while len(found) < 3:
        try:
            found += await consumer.receive(timeout=60)
        except hs.MalformedBatch as error:
            told += 1
            assert (error.shard_id, error.batch_id, error.records) == (shard, 2, 4)
    assert told == 1
    assert sorted(d.payload for d in found) == [b"first", b"second", b"third"]
    await consumer.ack(found)
    assert (await subscription.lag()).records == 0
    await store.close()
    async with aio.open(tmp_path / "store") as again:
        assert (await again.subscription("sub").lag()).records == 0
