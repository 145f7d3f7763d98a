"""Streams: create, list, delete, append, look at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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
    drain,
    only,
    payloads,
)

pytestmark = pytest.mark.asyncio

LEVELS = ["sync", "os", "memory"]
COMPRESSIONS = ["none", "gzip", "zstd"]


async def test_created_streams_are_listed_by_name_with_their_options(store: Store) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    await store.create_stream("zebra")
    await store.create_stream(
        "ant", backlog=timedelta(hours=2), max_bytes=1 << 30, protect=["billing", "audit"]
    )
    await store.create_stream("mole", backlog=90)
    ant, mole, zebra = await store.streams()
    assert [ant.name, mole.name, zebra.name] == ["ant", "mole", "zebra"]
    assert (ant.backlog, ant.max_bytes) == (timedelta(hours=2), 1 << 30)
    assert ant.protect == ("billing", "audit")
    assert mole.backlog == timedelta(seconds=90)
    assert (zebra.backlog, zebra.max_bytes, zebra.protect) == (timedelta(0), 0, ())
    assert (zebra.records, zebra.bytes) == (0, 0)
    assert before < zebra.created < datetime.now(UTC) + timedelta(seconds=1)
    assert await store.stream("ant").info() == ant


async def test_create_of_what_exists_needs_exists_ok_and_changes_nothing(store: Store) -> None:
    first = await store.create_stream("orders", backlog=60)
    await first.append(b"kept")
    with pytest.raises(hs.StreamExists) as raised:
        await store.create_stream("orders")
    assert raised.value.stream == "orders"
    again = await store.create_stream("orders", backlog=5, exists_ok=True)
    assert again.name == "orders"
    assert (await again.info()).backlog == timedelta(seconds=60)
    assert await payloads(again) == [b"kept"]


async def test_creating_together_makes_one_stream(store: Store) -> None:
    made = await all_of(*(store.create_stream("orders", exists_ok=True) for _ in range(16)))
    assert {stream.name for stream in made} == {"orders"}
    assert len(await store.streams()) == 1


async def test_streams_and_options_survive_reopening(face: Face, tmp_path: Path) -> None:
    async with face.open(tmp_path / "s") as store:
        stream = await store.create_stream("orders", backlog=60, max_bytes=1 << 24, protect=["a"])
        ids = await stream.append_many([b"one", {"two": 2}], key="k")
        before = await stream.info()
    assert store.closed
    async with face.open(tmp_path / "s", create=False) as store:
        stream = store.stream("orders")
        after = await stream.info()
        assert (after.name, after.created, after.backlog) == (
            before.name,
            before.created,
            before.backlog,
        )
        assert (after.max_bytes, after.protect, after.records) == (1 << 24, ("a",), 2)
        assert [record.id for record in await collect(stream.read())] == list(ids)


async def test_handles_do_not_look_whether_there_is_a_stream(store: Store) -> None:
    stream = store.stream("later")
    for call in (stream.append(b"x"), stream.tail(), stream.info(), stream.trim(before=hs.LATEST)):
        with pytest.raises(hs.StreamNotFound, match="later"):
            await call
    await store.create_stream("later")
    assert await payloads(stream) == []
    await stream.append(b"x")
    assert await payloads(stream) == [b"x"]


async def test_deleting_a_stream_removes_it_and_frees_the_name(store: Store) -> None:
    stream = await store.create_stream("orders")
    old = await stream.append(b"old")
    await store.delete_stream("orders")
    assert await store.streams() == []
    with pytest.raises(hs.StreamNotFound):
        await stream.append(b"lost")
    with pytest.raises(hs.StreamNotFound):
        await store.delete_stream("orders")
    await store.create_stream("orders")
    new = await stream.append(b"new")
    assert new.shard_id != old.shard_id
    assert await payloads(stream) == [b"new"]


async def test_a_handle_stands_for_whatever_has_its_name(store: Store) -> None:
    stream = await store.create_stream("orders")
    await stream.append(b"of the first")
    await store.delete_stream("orders")
    for append in (stream.append(b"of none"), stream.append_many([b"of none"])):
        with pytest.raises(hs.StreamNotFound):
            await append
    await store.create_stream("orders")
    await stream.append(b"one")
    await stream.append_many([b"two"])
    assert [record.payload async for record in stream.read()] == [b"one", b"two"]


async def test_a_stream_in_use_is_deleted_by_force_only(store: Store) -> None:
    await store.create_stream("orders")
    await store.create_subscription("billing", stream="orders")
    with pytest.raises(hs.StreamInUse) as raised:
        await store.delete_stream("orders")
    assert raised.value.subscriptions == ("billing",)
    assert len(await store.streams()) == 1


@pytest.mark.parametrize("reopened", [False, True])
async def test_force_keeps_the_backlog_for_the_subscriptions_there_are(
    face: Face, tmp_path: Path, reopened: bool
) -> None:
    async with face.open(tmp_path / "s") as store:
        stream = await store.create_stream("orders")
        await store.create_subscription("billing", stream="orders")
        await stream.append_many([b"%d" % i for i in range(50)])
        await store.delete_stream("orders", force=True)
        assert await store.streams() == []
        await store.create_stream("orders")
        await stream.append(b"of the new one")
        if not reopened:
            await _backlog_is_whole(store)
    if reopened:
        async with face.open(tmp_path / "s") as store:
            await _backlog_is_whole(store)


async def _backlog_is_whole(store: Store) -> None:
    assert await payloads(store.stream("orders")) == [b"of the new one"]
    async with store.subscription("billing").consumer("w") as consumer:
        got = await drain(consumer, 50)
        assert [delivery.payload for delivery in got] == [b"%d" % i for i in range(50)]
        await consumer.ack(got)
        assert await consumer.receive(1, timeout=0) == ()
    await store.delete_subscription("billing")
    assert await payloads(store.stream("orders")) == [b"of the new one"]


@pytest.mark.parametrize("level", LEVELS)
async def test_append_at_each_level_gives_ids_that_are_read(store: Store, level: str) -> None:
    stream = await store.create_stream("orders")
    ids = [await stream.append(b"%d" % i, durability=level) for i in range(20)]
    many = await stream.append_many([b"a", b"b"], durability=level)
    await store.sync()
    records = await collect(stream.read())
    assert [record.id for record in records] == [*ids, *many]
    assert [record.payload for record in records] == [*(b"%d" % i for i in range(20)), b"a", b"b"]
    assert sorted(ids) == ids


@pytest.mark.parametrize("level", LEVELS)
async def test_the_level_of_the_store_is_that_of_appends_without_one(
    face: Face, tmp_path: Path, level: str
) -> None:
    async with face.open(tmp_path / "s", durability=level) as store:
        stream = await store.create_stream("orders")
        await stream.append(b"x")
        await store.sync()
        assert await payloads(stream) == [b"x"]
    async with face.open(tmp_path / "s") as store:
        assert await payloads(store.stream("orders")) == [b"x"]


ROUND_TRIPS: list[tuple[Any, Any]] = [
    (b"", b""),
    (b"\x00\xff" * 300, b"\x00\xff" * 300),
    (bytearray(b"ab"), b"ab"),
    (memoryview(b"abcd")[1:3], b"bc"),
    ({}, {}),
    ({"a": [1, 2.5, None, True, "é\u0000"], "b": {"c": {}}}, {"a": [1, 2.5, None, True, "é\0"]}),
    ({"big": 2**53, "small": -(2**53)}, {"big": 2**53, "small": -(2**53)}),
]


@pytest.mark.parametrize(("payload", "expected"), ROUND_TRIPS)
@pytest.mark.parametrize("key", [None, "", "customer-17", "日本"])
async def test_what_is_appended_comes_back(
    store: Store, payload: Any, expected: Any, key: str | None
) -> None:
    stream = await store.create_stream("orders")
    attributes = {"source": "web", "ünï": ""}
    await stream.append(payload, key=key)
    await stream.append(payload, key=key, attributes=attributes)
    await stream.append(hs.Record(payload, key=key, attributes=attributes))
    await stream.append_many([payload, hs.Record(payload, attributes=attributes)], key=key)
    records = await collect(stream.read())
    if isinstance(expected, dict) and "a" in expected:
        expected = payload
    assert [record.payload for record in records] == [expected] * 5
    assert {record.is_json for record in records} == {isinstance(payload, dict)}
    assert [record.key or None for record in records] == [*[key or None] * 4, records[4].key]
    assert [record.attributes for record in records] == [
        {},
        attributes,
        attributes,
        {},
        attributes,
    ]


async def test_records_have_ids_and_aware_times_once_they_are_stored(store: Store) -> None:
    stream = await store.create_stream("orders")
    before = datetime.now(UTC) - timedelta(seconds=1)
    record_id = await stream.append(b"x")
    (record,) = await collect(stream.read())
    assert record.id == record_id
    assert str(record.id) == f"{record_id.shard_id}-{record_id.batch_id}-{record_id.batch_index}"
    assert record.append_time is not None
    assert before < record.append_time < datetime.now(UTC) + timedelta(seconds=1)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("shards", [1, 4])
async def test_append_many_ids_are_those_that_are_read(
    store: Store, compression: str, shards: int
) -> None:
    stream = await create_wide(store, "orders", shards)
    items: list[Any] = []
    for i in range(500):
        body = {"n": i, "text": "abc" * 20}
        items.append(hs.Record(body, key=f"k{i % 7}") if i % 3 else body)
    ids = await stream.append_many(items, compression=compression)
    records = await collect(stream.read())
    assert len(ids) == len(records) == 500
    by_id = {record.id: record for record in records}
    assert [by_id[record_id].payload["n"] for record_id in ids] == list(range(500))
    assert {record.key for record in records} >= {f"k{i}" for i in range(7)}
    assert ids[3] == list(ids)[3] == ids[-497]
    assert ids[10:20] == tuple(ids)[10:20]
    for name in (f"k{i}" for i in range(7)):
        own = [r.payload["n"] for r in records if r.key == name]
        assert own == sorted(own)


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_compression_is_kept_in_the_batches(store: Store, compression: str) -> None:
    stream = await store.create_stream("orders")
    await stream.append_many([b"text " * 100] * 50, compression=compression, key="k")
    (batch,) = await collect(stream.read_batches())
    assert batch.compression == compression
    assert [record.payload for record in batch.records()] == [b"text " * 100] * 50
    assert [record.key for record in batch.records()] == ["k"] * 50
    assert [r.id for r in batch.records()] == [r.id for r in await collect(stream.read())]


async def test_append_many_of_nothing_appends_nothing(store: Store) -> None:
    stream = await store.create_stream("orders")
    assert list(await stream.append_many([])) == []
    assert await stream.tail() is None


async def test_append_many_is_all_or_none(store: Store) -> None:
    stream = await store.create_stream("orders")
    with pytest.raises(TypeError):
        await stream.append_many([b"fine", object()])
    assert await payloads(stream) == []
    await stream.append_many(iter([b"a", b"b"]))
    assert await payloads(stream) == [b"a", b"b"]


async def test_concurrent_appends_are_all_there_once(store: Store) -> None:
    stream = await store.create_stream("orders")

    async def appends(caller: int) -> list[hs.RecordId]:
        return [await stream.append(b"%d-%d" % (caller, i)) for i in range(20)]

    ids = await all_of(*(appends(caller) for caller in range(8)))
    records = {record.id: record.payload for record in await collect(stream.read())}
    assert len(records) == 160
    for caller, own in enumerate(ids):
        assert own == sorted(own)
        assert [records[i] for i in own] == [b"%d-%d" % (caller, n) for n in range(20)]


async def test_tail_and_info_follow_what_is_durable(store: Store) -> None:
    stream = await store.create_stream("orders")
    assert await stream.tail() is None
    first = await stream.append(b"x")
    assert await stream.tail() == first
    ids = await stream.append_many([b"yy"] * 10)
    assert await stream.tail() == ids[-1]
    info = await stream.info()
    assert info.records == 11
    assert info.bytes > 20
    await stream.trim(before=ids[4])
    assert (await stream.info()).records == 6
    await stream.trim(before=hs.LATEST)
    assert (await stream.info()).records == 0


@pytest.mark.parametrize("shards", [2, 8])
async def test_the_tail_of_several_shards_is_the_newest_of_all(store: Store, shards: int) -> None:
    stream = await create_wide(store, "orders", shards)
    for i in range(40):
        assert await stream.append(b"x", key=f"k{i}") == await stream.tail()


async def test_stats_count_streams_records_and_subscriptions(store: Store) -> None:
    one = await store.create_stream("one")
    two = await store.create_stream("two")
    await one.append_many([b"x"] * 10)
    await two.append(b"y")
    await store.create_subscription("billing", stream="one", max_unacked=4)
    async with store.subscription("billing").consumer("w") as consumer:
        await drain(consumer, 4)
        stats = await store.stats()
        assert (stats.streams, stats.records) == (2, 11)
        assert 0 < stats.bytes <= stats.disk_bytes
        assert stats.log["syncs"] > 0
        group = stats.subscriptions["billing"]
        assert (group.consumers, group.unacked, group.backlog) == (("w",), 4, 6)
        assert group.blocked


@only(*EMBEDDED)  # that of a remote store is its server's
async def test_the_report_of_recovery_and_the_path(face: Face, tmp_path: Path) -> None:
    async with face.open(tmp_path / "s") as store:
        assert store.path == str(tmp_path / "s")
        assert not store.closed
        assert store.recovery is not None
