"""Producers: when batches go out, what a full buffer does, and what a name is worth."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import hstreamlite as hs
from tests.conformance.faces import (
    EMBEDDED,
    Face,
    Store,
    all_of,
    collect,
    create_wide,
    payloads,
)

pytestmark = pytest.mark.asyncio

NEVER: dict[str, Any] = {"batch_age": 3600.0, "batch_records": 1_000_000, "batch_bytes": 16 << 20}
"""Options under which no batch goes out by itself."""


async def batch_sizes(store: Store, name: str = "orders") -> list[int]:
    return [len(batch) for batch in await collect(store.stream(name).read_batches())]


async def test_results_are_the_ids_that_are_read(store: Store) -> None:
    stream = await store.create_stream("orders")
    async with stream.producer() as producer:
        pending = [await producer.submit(b"%d" % i) for i in range(2500)]
        json = await producer.submit({"n": 1}, key="k", attributes={"a": "b"})
        record = await producer.submit(hs.Record(b"raw", key="q"))
    records = {r.id: r for r in await collect(stream.read())}
    ids = [await one.result() for one in pending]
    assert all(one.done() for one in pending)
    assert ids == sorted(ids)
    assert [records[i].payload for i in ids] == [b"%d" % i for i in range(2500)]
    found = records[await json.result()]
    assert (found.payload, found.key, found.attributes) == ({"n": 1}, "k", {"a": "b"})
    assert records[await record.result()].key == "q"
    assert len(records) == 2502


async def test_a_batch_goes_out_at_its_number_of_records(store: Store) -> None:
    stream = await store.create_stream("orders")
    async with stream.producer(**NEVER | {"batch_records": 10}) as producer:
        for i in range(25):
            await producer.submit(b"%d" % i)
    assert await batch_sizes(store) == [10, 10, 5]


async def test_a_batch_goes_out_at_its_bytes(store: Store) -> None:
    stream = await store.create_stream("orders")
    async with stream.producer(**NEVER | {"batch_bytes": 4096}) as producer:
        for _ in range(8):
            await producer.submit(b"x" * 2000)
    assert await batch_sizes(store) == [2, 2, 2, 2]


async def test_a_batch_goes_out_at_its_age(store: Store) -> None:
    stream = await store.create_stream("orders")
    async with (
        stream.read(follow=True) as reader,
        stream.producer(**NEVER | {"batch_age": 0.005}) as producer,
    ):
        for i in range(5):
            await producer.submit(b"%d" % i)
            assert (await anext(reader)).payload == b"%d" % i


async def test_asking_for_a_result_sends_the_batch(store: Store) -> None:
    stream = await store.create_stream("orders")
    async with stream.producer(**NEVER) as producer:
        first = await producer.submit(b"a")
        second = await producer.submit(b"b")
        assert not first.done()
        assert await second.result() > await first.result()
        assert await payloads(stream) == [b"a", b"b"]
        assert first.done()


async def test_flush_brings_everything_to_its_level(store: Store) -> None:
    stream = await store.create_stream("orders")
    async with stream.producer(**NEVER) as producer:
        await producer.flush()
        pending = [await producer.submit(b"%d" % i) for i in range(10)]
        await producer.flush()
        assert all(one.done() for one in pending)
        assert len(await payloads(stream)) == 10
        await producer.flush()


async def test_close_flushes_and_refuses_what_comes_later(store: Store) -> None:
    stream = await store.create_stream("orders")
    producer = stream.producer(**NEVER)
    pending = await producer.submit(b"a")
    await producer.close()
    assert pending.done()
    assert await payloads(stream) == [b"a"]
    with pytest.raises(hs.ProducerClosed, match="orders"):
        await producer.submit(b"b")
    await producer.close()


async def test_closing_the_store_flushes_its_producers(face: Face, tmp_path: Path) -> None:
    async with face.open(tmp_path / "s") as store:
        stream = await store.create_stream("orders")
        producer = stream.producer(**NEVER)
        for i in range(10):
            await producer.submit(b"%d" % i)
    with pytest.raises(hs.StoreClosed):
        await producer.submit(b"late")
    await producer.close()
    async with face.open(tmp_path / "s") as store:
        assert await payloads(store.stream("orders")) == [b"%d" % i for i in range(10)]


@pytest.mark.parametrize("level", ["sync", "os", "memory"])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_each_level_and_compression(store: Store, level: str, compression: str) -> None:
    stream = await create_wide(store, "orders", 2)
    async with stream.producer(durability=level, compression=compression) as producer:
        pending = [await producer.submit(b"text" * 50, key=f"k{i % 5}") for i in range(300)]
    await store.sync()
    records = {r.id: r.key for r in await collect(stream.read())}
    assert [records[await p.result()] for p in pending] == [f"k{i % 5}" for i in range(300)]
    batches = await collect(stream.read_batches())
    assert {batch.compression for batch in batches} == {compression}


async def test_a_full_buffer_blocks_until_there_is_room(store: Store) -> None:
    stream = await store.create_stream("orders")
    async with stream.producer(**NEVER | {"buffer_bytes": 5000}) as producer:
        for i in range(40):
            await producer.submit(b"%04d" % i * 250)
    assert len(await payloads(stream)) == 40
    assert max(await batch_sizes(store)) <= 5


async def test_a_full_buffer_raises_if_it_is_told_to(store: Store) -> None:
    stream = await store.create_stream("orders")
    options = NEVER | {"buffer_bytes": 5000, "on_full": "raise"}
    async with stream.producer(**options) as producer:
        for _ in range(4):
            await producer.submit(b"x" * 1000)
        with pytest.raises(hs.BufferFull) as raised:
            await producer.submit(b"x" * 1000)
        assert (raised.value.limit, raised.value.stream) == (5000, "orders")
        await producer.flush()
        await producer.submit(b"after")
    assert len(await payloads(stream)) == 5


async def test_an_empty_buffer_takes_a_record_of_any_size(store: Store) -> None:
    stream = await store.create_stream("orders")
    for on_full in ("raise", "block"):
        async with stream.producer(buffer_bytes=10, on_full=on_full) as producer:
            await (await producer.submit(b"x" * 1000)).result()
            await producer.flush()
            await producer.submit(b"y" * 1000)
    assert len(await payloads(stream)) == 4


async def test_many_callers_share_a_small_buffer(store: Store) -> None:
    stream = await store.create_stream("orders")
    async with stream.producer(buffer_bytes=2000, batch_records=3) as producer:

        async def caller(number: int) -> list[hs.RecordId]:
            pending = [await producer.submit(b"%d-%d" % (number, i)) for i in range(30)]
            return [await one.result() for one in pending]

        ids = await all_of(*(caller(number) for number in range(8)))
    records = {r.id: r.payload for r in await collect(stream.read())}
    assert len(records) == 240
    for number, own in enumerate(ids):
        assert own == sorted(own)
        assert [records[i] for i in own] == [b"%d-%d" % (number, i) for i in range(30)]


@pytest.mark.parametrize("again", [False, True])
async def test_a_producer_fails_once_its_stream_is_deleted(store: Store, again: bool) -> None:
    stream = await store.create_stream("orders")
    producer = stream.producer(**NEVER)
    stored = await producer.submit(b"stored")
    await producer.flush()
    lost = await producer.submit(b"lost")
    await store.delete_stream("orders")
    if again:
        await store.create_stream("orders")
    expected = hs.ProducerClosed if again else hs.StreamNotFound
    with pytest.raises(expected, match="orders"):
        await producer.flush()
    with pytest.raises(expected):
        await lost.result()
    with pytest.raises(expected):
        await producer.submit(b"more")
    assert lost.done()
    assert await stored.result() is not None
    with pytest.raises(expected):
        await producer.close()
    await producer.close()
    if again:
        assert await payloads(stream) == []


async def test_a_record_that_cannot_be_stored_is_refused_alone(face: Face, store: Store) -> None:
    stream = await store.create_stream("orders")
    setting = "open the store with" if face in EMBEDDED else "--store-config-batch-bytes-max"
    for call in (
        lambda: stream.append(b"x" * (17 << 20)),
        lambda: stream.append_many([b"a", b"x" * (17 << 20)]),
    ):
        with pytest.raises(hs.RecordTooLarge, match=setting):
            await call()
    with pytest.raises(hs.RecordTooLarge, match=setting):
        async with store.transaction() as transaction:
            transaction.append("orders", b"x" * (17 << 20))
    async with stream.producer(**NEVER) as producer:
        good = await producer.submit(b"good")
        with pytest.raises(TypeError):
            await producer.submit(object())
        with pytest.raises(hs.RecordTooLarge, match=setting):
            await producer.submit(b"x" * (17 << 20))
        assert await good.result() is not None
    assert await payloads(stream) == [b"good"]


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_a_named_producer_goes_on_after_reopening(
    face: Face, tmp_path: Path, shards: int, compression: str
) -> None:
    options = {"name": "importer", "compression": compression}
    async with face.open(tmp_path / "s") as store:
        stream = await create_wide(store, "orders", shards)
        async with stream.producer(**options) as producer:
            assert producer.last_sequence == 0
            pending = [await producer.submit(b"%d" % i * 9, key=f"k{i}") for i in range(1, 31)]
            assert producer.last_sequence == 30
        ids = [await one.result() for one in pending]
    async with face.open(tmp_path / "s") as store:
        stream = store.stream("orders")
        async with stream.producer(**options) as producer:
            assert producer.last_sequence == 30
            for i in range(25, 36):
                one = await producer.submit(b"%d" % i * 9, key=f"k{i}", sequence=i)
                if i <= 30:
                    assert one.done()
                    assert await one.result() == ids[i - 1]
        found = await payloads(stream)
        assert sorted(found) == sorted(b"%d" % i * 9 for i in range(1, 36))


async def test_a_number_submitted_twice_is_stored_once(store: Store) -> None:
    stream = await store.create_stream("orders")
    async with stream.producer(**NEVER, name="importer") as producer:
        gathering = await producer.submit(b"a", sequence=1)
        again = await producer.submit(b"a", sequence=1)
        assert await gathering.result() == await again.result()
        settled = await producer.submit(b"a", sequence=1)
        assert await settled.result() == await gathering.result()
        with pytest.raises(ValueError, match="must be 2 or below, not 4"):
            await producer.submit(b"hole", sequence=4)
        await producer.submit(b"b", sequence=2)
        await producer.submit(b"c")
        assert producer.last_sequence == 3
    assert await payloads(stream) == [b"a", b"b", b"c"]


async def test_a_number_stored_too_long_ago_is_a_duplicate_without_id(store: Store) -> None:
    stream = await store.create_stream("orders")
    async with stream.producer(name="importer", batch_records=1, durability="memory") as producer:
        for i in range(100):
            await producer.submit(b"%d" % i)
        await producer.flush()
        with pytest.raises(hs.DuplicateAppend) as raised:
            await producer.submit(b"0", sequence=1)
        assert (raised.value.producer, raised.value.sequence) == ("importer", 1)
        known = await producer.submit(b"99", sequence=100)
        assert await known.result() == await known.result()
        await producer.submit(b"100", sequence=101)
    await store.sync()
    assert len(await payloads(stream)) == 101


async def test_a_number_may_be_submitted_again_while_it_is_on_its_way(store: Store) -> None:
    stream = await store.create_stream("orders")
    async with stream.producer(name="importer", batch_records=2) as producer:
        for i in range(1, 41, 2):
            await producer.submit(b"%d" % i, sequence=i)
            await producer.submit(b"%d" % i, sequence=i)
            pending = await all_of(
                producer.submit(b"%d" % (i + 1), sequence=i + 1),
                producer.submit(b"%d" % i, sequence=i),
                producer.submit(b"%d" % (i + 1), sequence=i + 1),
            )
            first, second, third = await all_of(*(one.result() for one in pending))
            assert second < first == third
    assert await payloads(stream) == [b"%d" % i for i in range(1, 41)]


async def test_numbers_are_for_producers_with_a_name(store: Store) -> None:
    stream = await store.create_stream("orders")
    async with stream.producer() as producer:
        with pytest.raises(ValueError, match="needs a producer with a name"):
            await producer.submit(b"a", sequence=1)
    assert await payloads(stream) == []


async def test_names_count_apart(store: Store) -> None:
    one, two = await store.create_stream("one"), await store.create_stream("two")
    for stream in (one, two):
        for name in ("a", "b"):
            async with stream.producer(name=name) as producer:
                await producer.submit(b"x", sequence=1)
    assert len(await payloads(one)) == len(await payloads(two)) == 2


async def test_results_can_be_awaited_together(store: Store) -> None:
    stream = await store.create_stream("orders")
    async with stream.producer(**NEVER) as producer:
        pending = [await producer.submit(b"%d" % i) for i in range(20)]
        ids = await asyncio.gather(*(one.result() for one in pending))
    assert ids == sorted(set(ids))
    assert await batch_sizes(store) == [20]
