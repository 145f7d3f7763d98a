"""Records that cannot be read: consumers are told, and neither stuck nor made to skip them."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

import pytest

import hstreamlite as hs
from tests.conformance.faces import Face, Store, drain, hear

pytestmark = pytest.mark.asyncio

modes = pytest.mark.parametrize("mode", ["ordered", "shared"])


async def damaged(face: Face, path: Path, mode: str) -> list[hs.RecordId]:
    """Make a store of four batches of five records, the second of which is damaged."""
    ids: list[hs.RecordId] = []
    async with face.open(path) as store:
        stream = await store.create_stream("orders")
        for batch in range(4):
            records = [
                hs.Record(b"%d-%d" % (batch, n) + b"." * 2000, key=f"{batch}-{n}") for n in range(5)
            ]
            ids += await stream.append_many(records)
        await store.create_subscription("billing", stream="orders", mode=mode)
    for file in (path / "segments").glob("*.seg"):
        data = bytearray(file.read_bytes())
        at = data.find(b"1-2....")
        if at >= 0:
            data[at + 100] ^= 4
            file.write_bytes(data)
    return ids


async def stats(store: Store) -> hs.GroupStats:
    return (await store.stats()).subscriptions["billing"]


def numbers(deliveries: list[hs.Delivery]) -> list[bytes]:
    return sorted(bytes(d.payload)[:3] for d in deliveries)  # type: ignore[arg-type]


def batches(*which: int) -> list[bytes]:
    return [b"%d-%d" % (batch, n) for batch in which for n in range(5)]


@modes
async def test_who_meets_damage_is_told_once_and_all_go_on_behind_it(
    face: Face, tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await damaged(face, tmp_path / "s", mode)
    shard, first, end = ids[5].shard_id, ids[5].lsn, ids[10].lsn
    async with face.open(tmp_path / "s") as store:
        subscription = store.subscription("billing")
        async with subscription.consumer("a") as one, subscription.consumer("b") as two:
            held = await drain(one, 5)
            assert numbers(held) == batches(0)
            with caplog.at_level(logging.WARNING, "hstreamlite"):
                with pytest.raises(hs.CorruptionError, match="skip_damaged") as raised:
                    await one.receive(100)
                assert raised.value.lost == (hs.LostRecords(shard, first, end - 1),)
                assert raised.value.path.endswith(".seg")
                rest = await drain(two, 3)
                rest += await drain(one, 7)
            assert numbers(rest) == batches(2, 3)
            assert caplog.text.count("cannot be read, and are set aside") == 1
            for consumer in (one, two):
                (event,) = consumer.events()
                assert isinstance(event, hs.Damaged)
                told = event.shard_id, event.first_lsn, event.end_lsn, event.records
                assert told == (shard, first, end, 5)
                assert "CRC" in event.reason
            for _ in range(3):
                assert await one.receive(100, timeout=0) == ()
            assert (await stats(store)).damaged == 5
            await one.ack(held)
            await two.ack(rest)
            why = f"damaged: records {ids[5]} to {ids[9]} cannot be read"
            assert (await stats(store)).blocked == why
            assert (await subscription.lag()).records == 5
            assert one.gaps() == ()


@modes
async def test_what_cannot_be_read_is_kept_until_it_is_skipped(
    face: Face, tmp_path: Path, mode: str
) -> None:
    await damaged(face, tmp_path / "s", mode)
    for _ in range(2):
        async with face.open(tmp_path / "s") as store:
            subscription = store.subscription("billing")
            assert await subscription.skip_damaged() == 0, "nobody has come to it yet"
            async with subscription.consumer("a") as one:
                got: list[hs.Delivery] = []
                with pytest.raises(hs.CorruptionError):
                    while True:
                        got += await one.receive(100)
                while more := await one.receive(100, timeout=0):
                    got += more
                await one.ack(got)
            assert (await subscription.lag()).records == 5
    async with face.open(tmp_path / "s") as store:
        subscription = store.subscription("billing")
        async with subscription.consumer("a") as one:
            with pytest.raises(hs.CorruptionError):
                await one.receive(100)
            assert (await subscription.info()).damaged == 5
            assert await subscription.skip_damaged() == 5
            assert await subscription.skip_damaged() == 0
            assert (await subscription.info()).damaged == 0
            await hear(one)
            (gap,) = one.gaps()
            assert (gap.records, gap.undelivered) == (5, 5)
            assert await subscription.lag() == hs.Lag(0, 0)
            assert ((await stats(store)).damaged, (await stats(store)).blocked) == (0, "no records")
            await store.stream("orders").append(b"4-0")
            assert numbers(await drain(one, 1)) == [b"4-0"]
    async with face.open(tmp_path / "s") as store:
        assert (await store.subscription("billing").lag()).records == 1


@modes
async def test_a_seek_goes_past_damage_and_back_to_it(
    face: Face, tmp_path: Path, mode: str
) -> None:
    ids = await damaged(face, tmp_path / "s", mode)
    async with face.open(tmp_path / "s") as store:
        subscription = store.subscription("billing")
        async with subscription.consumer("a") as one:
            await one.ack(await drain(one, 5))
            with pytest.raises(hs.CorruptionError):
                await one.receive(100)
            await subscription.seek(ids[10])
            assert (await stats(store)).damaged == 0
            got = await drain(one, 10)
            assert numbers(got) == batches(2, 3)
            await one.ack(got)
            assert await subscription.lag() == hs.Lag(0, 0)


@modes
async def test_a_run_that_meets_damage_ends_with_it_and_the_next_goes_on(
    face: Face, tmp_path: Path, mode: str
) -> None:
    await damaged(face, tmp_path / "s", mode)
    async with face.open(tmp_path / "s") as store:
        subscription = store.subscription("billing")
        seen: list[hs.Delivery] = []
        all_seen = threading.Event()

        def handle(delivery: hs.Delivery) -> None:
            seen.append(delivery)
            if len(seen) == 15:
                all_seen.set()

        async with subscription.consumer("a") as one:
            with pytest.raises(hs.CorruptionError):
                await one.run(handle)
            waiting = asyncio.ensure_future(one.run(handle))
            assert await asyncio.to_thread(all_seen.wait, 60)
            await one.close()
            await waiting
        assert numbers(seen) == batches(0, 2, 3)
