"""What a server asks of streams and readers: shards, tails, trims, batches in bounded pieces."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import hstreamlite as hs
from hstreamlite import aio
from hstreamlite._native import fast
from hstreamlite.aio.raw import RawStore, Time
from hstreamlite.log.keyspace import HASH_MAX, key_hash

pytestmark = pytest.mark.asyncio

BODY = fast.encode_batch([b"one", b"two"])


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[aio.Store]:
    async with aio.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def raw(store: aio.Store) -> RawStore:
    return RawStore(store)


async def filled(raw: RawStore, count: int, shards: int = 1) -> list[int]:
    """Create a stream and append so many batches of two records to each of its shards."""
    state = await raw.create_stream("s", shards=shards)
    for _ in range(count):
        for shard in state.shard_ids:
            await raw.append("s", BODY, shard_id=shard, batch_size=2, durability="memory")
    await raw._store.sync()
    return list(state.shard_ids)


async def test_streams_tell_their_shards(raw: RawStore, store: aio.Store, tmp_path: Path) -> None:
    made = await raw.create_stream("orders", shards=3, replication=3, backlog=60)
    await raw.create_stream("order-log")
    await raw.create_stream("payments")
    with pytest.raises(hs.StreamExists):
        await raw.create_stream("orders")
    for option in ({"shards": 0}, {"shards": 257}, {"replication": 0}):
        with pytest.raises(ValueError, match="must be from 1"):
            await raw.create_stream("other", **option)
    await store.close()
    async with aio.open(tmp_path / "store") as again:
        raw = RawStore(again)
        assert [s.name for s in raw.streams()] == ["order-log", "orders", "payments"]
        assert [s.name for s in raw.streams("orders")] == ["orders"]
        state = raw.stream("orders")
        assert state == made
        assert (state.replication, state.backlog, len(state.shards)) == (3, 60, 3)
        ends = [(shard.start, shard.end) for shard in state.shards]
        assert ends[0][0] == 0
        assert ends[-1][1] == HASH_MAX
        assert all(a[1] + 1 == b[0] for a, b in itertools.pairwise(ends))
        for shard in state.shards:
            assert raw.shard(shard.id) == (state, shard)
            assert raw.shard(shard.id, "orders") == (state, shard)
            with pytest.raises(hs.ShardNotFound):
                raw.shard(shard.id, "payments")
        await again.delete_stream("orders")
        with pytest.raises(hs.ShardNotFound):
            raw.shard(made.shard_ids[0])
        fresh = await raw.create_stream("orders", shards=2)
        assert not set(fresh.shard_ids) & set(made.shard_ids)


async def test_a_record_with_a_key_lies_in_the_shard_that_its_hash_names(
    raw: RawStore, store: aio.Store
) -> None:
    state = await raw.create_stream("s", shards=5)
    for key in ("a", "b", "c", "dd", "ü"):
        at = await store.stream("s").append(b"x", key=key)
        _, shard = raw.shard(at.shard_id)
        assert shard.start <= key_hash(key) <= shard.end
    assert {raw.tail(shard) for shard in state.shard_ids} <= {0, 1, 2, 3, 4, 5}


async def test_the_tail_is_the_last_batch_kept(raw: RawStore) -> None:
    (shard,) = await filled(raw, 3)
    assert raw.tail(shard) == 5
    await raw.trim_stream("s", hs.LATEST)
    assert raw.tail(shard) == 0
    at = await raw.append("s", BODY, shard_id=shard, batch_size=2)
    assert (at.batch_id, raw.tail(shard)) == (7, 7)
    with pytest.raises(hs.ShardNotFound):
        raw.tail(shard + 99)


async def test_trims_by_shard_and_by_stream(raw: RawStore) -> None:
    one, two = await filled(raw, 4, shards=2)

    async def left() -> list[list[int]]:
        readers = [raw.read_shard(s, start=hs.EARLIEST, until=hs.LATEST) for s in (one, two)]
        return [[b.batch_id for b in await reader.read()] for reader in readers]

    await raw.trim_shard("s", one, hs.RecordId(one, 3, 1))
    assert await left() == [[5, 7], [1, 3, 5, 7]]
    ids = [hs.RecordId(two, 7, 0), hs.RecordId(two, 3, 1), hs.RecordId(one, 0, 0)]
    assert await raw.trim_shards("s", ids) == {two: ids[1]}
    assert await left() == [[5, 7], [3, 5, 7]]
    await raw.trim_stream("s", hs.EARLIEST)
    await raw.trim_stream("s", Time(1))
    assert await left() == [[5, 7], [3, 5, 7]]
    with pytest.raises(hs.ShardNotFound):
        await raw.trim_shard("s", two + 9, hs.LATEST)
    with pytest.raises(hs.StreamNotFound):
        await raw.trim_stream("none", hs.LATEST)
    with pytest.raises(hs.PlaceConflict):
        await raw.trim_stream("s", hs.RecordId(one, 5, 0))
    await raw.trim_stream("s", Time(1 << 60))
    assert await left() == [[], []]


async def test_a_read_is_bounded_by_batches_and_by_bytes(raw: RawStore) -> None:
    (shard,) = await filled(raw, 10)
    reader = raw.read_shard(shard, start=hs.EARLIEST, until=hs.LATEST, max_batches=9)
    assert [b.batch_id for b in await reader.read(3)] == [1, 3, 5]
    each = 64 + len(BODY) + 2 * 26
    assert len(await reader.read(max_bytes=2 * each)) == 2
    assert len(await reader.read(max_bytes=2 * each - 1)) == 1
    assert len(await reader.read(max_bytes=1)) == 1
    assert not reader.done
    assert [b.batch_id for b in await reader.read()] == [15, 17]
    assert reader.done
    assert await reader.read(timeout=None) == []


async def test_a_read_waits_for_its_time_or_for_a_batch(raw: RawStore) -> None:
    (shard,) = await filled(raw, 1)
    reader = raw.read_shard(shard, start=hs.LATEST)
    assert await reader.read(timeout=0) == []
    assert await reader.read(timeout=0.001) == []
    waiting = asyncio.ensure_future(reader.read(timeout=None))
    await raw.append("s", BODY, shard_id=shard, batch_size=2)
    assert [b.batch_id for b in await waiting] == [3]
    cancelled = asyncio.ensure_future(reader.read(timeout=60))
    await asyncio.sleep(0)
    cancelled.cancel()
    await raw.append("s", BODY, shard_id=shard, batch_size=2)
    assert [b.batch_id for b in await reader.read(timeout=60)] == [5]


async def test_closing_ends_a_read_that_waits(raw: RawStore) -> None:
    (shard,) = await filled(raw, 1)
    async with raw.read_shard(shard, start=hs.LATEST) as reader:
        waiting = asyncio.ensure_future(reader.read(timeout=None))
        await asyncio.sleep(0)
    assert await waiting == []
    assert reader.done


async def test_deletion_ends_a_read(raw: RawStore, store: aio.Store) -> None:
    (shard,) = await filled(raw, 1)
    reader = raw.read_stream("s", start=hs.LATEST)
    waiting = asyncio.ensure_future(reader.read(timeout=None))
    await asyncio.sleep(0)
    await store.delete_stream("s")
    with pytest.raises(hs.StreamNotFound):
        await waiting
    with pytest.raises(hs.ShardNotFound):
        raw.read_shard(shard, start=hs.EARLIEST)


async def test_a_reader_goes_on_behind_a_trim(raw: RawStore) -> None:
    (shard,) = await filled(raw, 6)
    reader = raw.read_shard(shard, start=hs.EARLIEST)
    await raw.trim_shard("s", shard, hs.RecordId(shard, 5, 0))
    assert [b.batch_id for b in await reader.read()] == [7, 9, 11]


async def test_a_batch_that_is_trimmed_in_its_midst_comes_whole(
    raw: RawStore, store: aio.Store
) -> None:
    (shard,) = await filled(raw, 2)
    await store.stream("s").trim(before=hs.RecordId(shard, 1, 1))
    batches = await raw.read_shard(shard, start=hs.EARLIEST).read()
    assert [(b.batch_id, b.first, b.end, b.payload) for b in batches] == [
        (1, 0, 2, BODY), (3, 0, 2, BODY)
    ]  # fmt: skip


async def test_a_stream_is_read_in_the_order_of_its_appends(raw: RawStore) -> None:
    shards = await filled(raw, 20, shards=3)
    reader = raw.read_stream("s", start=hs.EARLIEST, until=hs.LATEST)
    found = [(b.shard_id, b.batch_id) async for b in reader]
    assert found == [(shard, 1 + 2 * i) for i in range(20) for shard in shards]
    assert [b async for b in raw.read_stream("s", start=Time(1 << 60), until=Time(9))] == []
