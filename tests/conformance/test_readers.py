"""Readers: where they start and end, what they follow, and in which order."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

import hstreamlite as hs
from tests.conformance.faces import (
    EMBEDDED,
    FACES,
    FOLLOWED,
    Face,
    Iterating,
    Store,
    Stream,
    all_of,
    collect,
    create_wide,
    only,
    params,
    payloads,
)

pytestmark = pytest.mark.asyncio

WIDTHS = range(1, 9)


@pytest.fixture(params=params(*FACES, *FOLLOWED))
def face(request: pytest.FixtureRequest) -> Face:
    chosen: Face = request.param
    return chosen


async def filled(store: Store, count: int) -> tuple[Stream, list[hs.RecordId]]:
    stream = await store.create_stream("orders")
    return stream, [await stream.append(b"%d" % i) for i in range(count)]


def numbers(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % i for i in range(first, count)]


async def take(reader: Iterating[hs.Record], count: int) -> list[object]:
    return [(await anext(reader)).payload for _ in range(count)]


async def test_a_reader_starts_and_ends_where_it_is_told(store: Store) -> None:
    stream, ids = await filled(store, 10)
    assert await payloads(stream) == numbers(10)
    assert await payloads(stream, start=hs.EARLIEST, until=hs.LATEST) == numbers(10)
    assert await payloads(stream, start=hs.LATEST) == []
    assert await payloads(stream, until=hs.EARLIEST) == []
    assert await payloads(stream, start=ids[3]) == numbers(10, 3)
    assert await payloads(stream, until=ids[3]) == numbers(3)
    assert await payloads(stream, start=ids[3], until=ids[7]) == numbers(7, 3)
    assert await payloads(stream, start=ids[7], until=ids[3]) == []


async def test_a_reader_starts_inside_a_batch(store: Store) -> None:
    stream = await store.create_stream("orders")
    for compression in ("none", "gzip", "zstd"):
        ids = await stream.append_many([b"abc" * 50] * 20, compression=compression)
        assert [r.id for r in await collect(stream.read(start=ids[7], limit=5))] == list(ids[7:12])


@pytest.mark.parametrize("limit", [0, 1, 4, 10, 99])
async def test_limit_counts_records(store: Store, limit: int) -> None:
    stream, ids = await filled(store, 10)
    assert await payloads(stream, limit=limit) == numbers(10)[:limit]
    assert await payloads(stream, start=ids[5], limit=limit) == numbers(10, 5)[:limit]


async def test_a_time_names_the_first_record_appended_then_or_later(store: Store) -> None:
    stream, _ = await filled(store, 30)
    records = await collect(stream.read())
    for record in records:
        at = record.append_time
        assert at is not None
        later = [r.payload for r in records if r.append_time is not None and r.append_time >= at]
        assert await payloads(stream, start=at) == later
        assert await payloads(stream, until=at) == numbers(30 - len(later))
    hour = timedelta(hours=1)
    assert await payloads(stream, start=datetime.now(UTC) - hour) == numbers(30)
    assert await payloads(stream, start=datetime.now(UTC) + hour) == []


async def test_the_end_of_a_reader_is_fixed_when_it_is_made(store: Store) -> None:
    stream, _ = await filled(store, 5)
    reader = stream.read()
    await stream.append(b"later")
    assert [r.payload for r in await collect(reader)] == numbers(5)
    assert len(await payloads(stream)) == 6


async def test_a_key_narrows_a_reader_down(store: Store) -> None:
    stream = await store.create_stream("orders")
    for i in range(30):
        await stream.append(b"%d" % i, key=[None, "a", "b"][i % 3])
    assert await payloads(stream, key="a") == [b"%d" % i for i in range(1, 30, 3)]
    assert await payloads(stream, key="b", limit=2) == [b"2", b"5"]
    assert await payloads(stream, key="") == [b"%d" % i for i in range(0, 30, 3)]
    assert await payloads(stream, key="nobody") == []


@pytest.mark.parametrize("shards", WIDTHS)
async def test_a_stream_of_any_width_is_read_in_append_order(store: Store, shards: int) -> None:
    stream = await create_wide(store, "orders", shards)
    keys = [f"k{i % 11}" if i % 4 else None for i in range(60)]
    ids = [await stream.append(b"%d" % i, key=key) for i, key in enumerate(keys)]
    assert await payloads(stream) == numbers(60)
    used = {record_id.shard_id for record_id in ids}
    assert len(used) == shards
    by_shard = [await collect(stream.read(shard=shard)) for shard in used]
    assert sorted(r.payload for part in by_shard for r in part) == sorted(numbers(60))
    for part, shard in zip(by_shard, used, strict=True):
        assert [r.id for r in part] == [i for i in ids if i.shard_id == shard]
    for place in (0, 1, 17, 42, 59):
        assert await payloads(stream, start=ids[place]) == numbers(60, place)
        assert await payloads(stream, until=ids[place]) == numbers(place)
    for key in range(11):
        own = [b"%d" % i for i in range(60) if i % 4 and i % 11 == key]
        assert await payloads(stream, key=f"k{key}") == own


@pytest.mark.parametrize("shards", [1, 3, 8])
async def test_a_follower_of_any_width_sees_all_in_append_order(store: Store, shards: int) -> None:
    stream = await create_wide(store, "orders", shards)
    async with stream.read(follow=True) as reader:
        following = asyncio.ensure_future(take(reader, 80))
        for i in range(40):
            await stream.append(b"%d" % i, key=f"k{i % 9}")
        for i in range(40, 80):
            await stream.append(b"%d" % i, key=f"k{i % 9}", durability="memory")
        assert await following == numbers(80)


async def test_a_follower_at_the_end_waits_for_what_comes(store: Store) -> None:
    stream, _ = await filled(store, 5)
    async with stream.read(start=hs.LATEST, follow=True) as reader:
        waiting = asyncio.ensure_future(take(reader, 1))
        await stream.append(b"new")
        assert await waiting == [b"new"]
    async with stream.read(follow=True, limit=3) as reader:
        assert [r.payload for r in await collect(reader)] == numbers(3)


async def test_many_followers_see_the_same(store: Store) -> None:
    stream = await store.create_stream("orders")
    readers = [stream.read(follow=True, limit=100) for _ in range(8)]
    following = asyncio.ensure_future(all_of(*(collect(reader) for reader in readers)))
    for i in range(10):
        await stream.append_many([b"%d" % (10 * i + n) for n in range(10)])
    for seen in await following:
        assert [r.payload for r in seen] == numbers(100)


async def test_closing_a_reader_ends_it(store: Store) -> None:
    stream, _ = await filled(store, 5)
    reader = stream.read(follow=True)
    assert await take(reader, 5) == numbers(5)
    waiting = asyncio.ensure_future(collect(reader))
    await reader.close()
    assert await waiting == []
    await reader.close()
    reader = stream.read()
    assert await take(reader, 2) == numbers(2)
    await reader.close()
    assert await collect(reader) == []


async def test_a_follower_ends_with_the_stream(store: Store) -> None:
    stream, _ = await filled(store, 3)
    reader = stream.read(follow=True)
    assert await take(reader, 3) == numbers(3)
    waiting = asyncio.ensure_future(collect(reader))
    await store.delete_stream("orders")
    with pytest.raises(hs.StreamNotFound):
        await waiting
    await store.create_stream("orders")
    with pytest.raises(hs.StreamNotFound):
        await collect(reader)


async def test_a_start_that_is_gone_is_told(store: Store) -> None:
    stream, ids = await filled(store, 10)
    await stream.trim(before=ids[4])
    with pytest.raises(hs.RecordTrimmed) as raised:
        await collect(stream.read(start=ids[2]))
    assert raised.value.stream == "orders"
    assert str(ids[2]) in str(raised.value)
    assert await payloads(stream) == numbers(10, 4)
    assert await payloads(stream, start=ids[4]) == numbers(10, 4)
    await stream.trim(before=ids[2])
    assert await payloads(stream) == numbers(10, 4)


@only(*EMBEDDED, *FOLLOWED)  # a remote reader has read on by then
async def test_a_reader_goes_on_behind_what_was_trimmed_under_it(store: Store) -> None:
    stream, ids = await filled(store, 10)
    reader = stream.read(start=ids[1])
    batches = stream.read_batches(start=ids[1])
    await stream.trim(before=ids[6])
    with pytest.raises(hs.RecordTrimmed) as raised:
        await anext(reader)
    kept = hs.RecordId.parse(str(raised.value.first_kept))
    assert (kept.lsn, kept.shard_id) == (ids[6].lsn, ids[6].shard_id)
    assert [r.payload for r in await collect(reader)] == numbers(10, 6)
    with pytest.raises(hs.RecordTrimmed):
        await anext(batches)
    rest = [record for batch in await collect(batches) for record in batch.records()]
    assert [record.payload for record in rest] == numbers(10, 6)


async def test_trimming_by_time_and_to_the_end(store: Store) -> None:
    stream, _ = await filled(store, 10)
    await stream.trim(before=datetime.now(UTC) - timedelta(hours=1))
    assert await payloads(stream) == numbers(10)
    await stream.trim(before=hs.EARLIEST)
    assert await payloads(stream) == numbers(10)
    await stream.trim(before=hs.LATEST)
    assert await payloads(stream) == []
    await stream.append(b"next")
    assert await payloads(stream) == [b"next"]


@pytest.mark.parametrize("shards", [2, 5])
async def test_trimming_cuts_all_shards_at_one_place_of_the_order(
    store: Store, shards: int
) -> None:
    stream = await create_wide(store, "orders", shards)
    ids = [await stream.append(b"%d" % i, key=f"k{i % 9}") for i in range(40)]
    await stream.trim(before=ids[23])
    assert await payloads(stream) == numbers(40, 23)


async def test_batches_hold_what_was_appended_together(store: Store) -> None:
    stream = await store.create_stream("orders")
    ids = [await stream.append_many([b"%d" % n] * (n + 1), key="k") for n in range(6)]
    batches = await collect(stream.read_batches())
    assert [len(batch) for batch in batches] == [1, 2, 3, 4, 5, 6]
    for batch, own in zip(batches, ids, strict=True):
        records = batch.records()
        assert [record.id for record in records] == list(own)
        assert {record.append_time for record in records} == {batch.append_time}
    assert len(await collect(stream.read_batches(start=ids[2][0], until=ids[4][0]))) == 2
    limited = await collect(stream.read_batches(limit=3))
    assert [len(batch) for batch in limited] == [1, 2]


async def test_a_batch_reader_follows(store: Store) -> None:
    stream = await create_wide(store, "orders", 3)
    async with stream.read_batches(follow=True) as reader:
        for n in range(9):
            ids = await stream.append_many([b"x"] * (n + 1), key=f"k{n}")
            batch = await anext(reader)
            assert [record.id for record in batch.records()] == list(ids)
            (own,) = await collect(stream.read_batches(start=ids[0], shard=batch.shard_id))
            assert own == batch
        waiting = asyncio.ensure_future(collect(reader))
        await reader.close()
        assert await waiting == []
