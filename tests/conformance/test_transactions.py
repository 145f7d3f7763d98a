"""Transactions: all or nothing, over streams, acks and the catalog."""

from __future__ import annotations

from pathlib import Path

import pytest

import hstreamlite as hs
from tests.conformance.faces import Face, Store, all_of, collect, create_wide, drain, payloads

pytestmark = pytest.mark.asyncio


class Stop(Exception):
    pass


async def two_streams(store: Store) -> None:
    await create_wide(store, "orders", 3)
    await store.create_stream("audit")


async def test_appends_to_several_streams_come_together(store: Store) -> None:
    await two_streams(store)
    async with store.transaction() as tx:
        tx.append("orders", b"a", key="k", attributes={"x": "y"})
        tx.append("audit", {"n": 1})
        tx.append_many("orders", [b"b", hs.Record(b"c", key="other"), b"d"], key="k")
        assert tx.ids == {}
        assert await payloads(store.stream("orders")) == []
    assert set(tx.ids) == {"orders", "audit"}
    records = {r.id: r for r in await collect(store.stream("orders").read())}
    assert [records[i].payload for i in tx.ids["orders"]] == [b"a", b"b", b"c", b"d"]
    assert [records[i].key for i in tx.ids["orders"]] == ["k", "k", "other", "k"]
    assert records[tx.ids["orders"][0]].attributes == {"x": "y"}
    assert [r.id for r in await collect(store.stream("audit").read())] == list(tx.ids["audit"])


async def test_an_exception_abandons_it(store: Store) -> None:
    await two_streams(store)
    with pytest.raises(Stop):
        async with store.transaction() as tx:
            tx.append("orders", b"a")
            tx.create_stream("made")
            tx.delete_stream("audit")
            raise Stop
    assert tx.ids == {}
    assert await payloads(store.stream("orders")) == []
    assert [info.name for info in await store.streams()] == ["audit", "orders"]
    with pytest.raises(ValueError, match="has ended"):
        tx.append("orders", b"late")
    with pytest.raises(ValueError, match="has ended"):
        await tx.commit()


async def test_it_commits_once(store: Store) -> None:
    await two_streams(store)
    async with store.transaction() as tx:
        tx.append("orders", b"a")
        await tx.commit()
        assert len(tx.ids["orders"]) == 1
        with pytest.raises(ValueError, match="has ended"):
            tx.append("orders", b"late")
    assert await payloads(store.stream("orders")) == [b"a"]
    with pytest.raises(ValueError, match="has ended"):
        async with tx:
            pass
    async with store.transaction() as empty:
        pass
    assert empty.ids == {}


async def test_what_cannot_be_done_leaves_nothing_done(store: Store) -> None:
    await two_streams(store)
    with pytest.raises(hs.StreamNotFound, match="nowhere"):
        async with store.transaction() as tx:
            tx.append("orders", b"a")
            tx.append("nowhere", b"b")
    assert await payloads(store.stream("orders")) == []
    tx = store.transaction()
    tx.append("orders", b"a")
    tx.append("audit", b"b")
    await store.delete_stream("audit")
    with pytest.raises(hs.StreamNotFound, match="audit"):
        await tx.commit()
    assert await payloads(store.stream("orders")) == []


async def test_one_too_large_does_nothing(store: Store) -> None:
    await two_streams(store)
    with pytest.raises(hs.TransactionTooLarge):
        async with store.transaction() as tx:
            tx.append_many("audit", [b"x" * 900_000] * 40)
            tx.append("orders", b"a")
    assert await payloads(store.stream("orders")) == []
    assert await store.stream("audit").tail() is None


@pytest.mark.parametrize("reopened", [False, True])
async def test_acks_and_appends_come_together(face: Face, tmp_path: Path, reopened: bool) -> None:
    async with face.open(tmp_path / "s") as store:
        await two_streams(store)
        await store.stream("orders").append_many([b"%d" % i for i in range(10)])
        subscription = await store.create_subscription("billing", stream="orders")
        async with subscription.consumer("w") as consumer:
            batch = await consumer.receive(4)
            more = await consumer.receive(6)
            async with store.transaction() as tx:
                tx.ack(batch)
                tx.ack(more[0])
                tx.ack([more[1], more[2]])
                tx.append("audit", b"done")
                assert await subscription.lag() == hs.Lag(10, 0)
            assert await subscription.lag() == hs.Lag(3, 0)
            assert (await consumer.ack(batch)).duplicate == 4
        if not reopened:
            await _only_the_rest_comes(store, more[3:])
    if reopened:
        async with face.open(tmp_path / "s") as store:
            await _only_the_rest_comes(store, more[3:])


async def _only_the_rest_comes(store: Store, rest: tuple[hs.Delivery, ...]) -> None:
    assert await payloads(store.stream("audit")) == [b"done"]
    async with store.subscription("billing").consumer("again") as consumer:
        got = await drain(consumer, len(rest))
        assert [d.id for d in got] == [d.id for d in rest]
        assert await consumer.receive(1, timeout=0) == ()


async def test_abandoned_acks_leave_the_deliveries_held(store: Store) -> None:
    await two_streams(store)
    await store.stream("audit").append_many([b"x"] * 5)
    subscription = await store.create_subscription("billing", stream="audit")
    async with subscription.consumer("w") as consumer:
        batch = await consumer.receive()
        with pytest.raises(Stop):
            async with store.transaction() as tx:
                tx.ack(batch)
                raise Stop
        assert await subscription.lag() == hs.Lag(5, 0)
        assert await consumer.ack(batch) == hs.AckResult(5, 0, 0)


@pytest.mark.parametrize("how", ["acked", "released", "closed", "redelivered"])
async def test_what_is_no_longer_held_cannot_be_acked_in_one(store: Store, how: str) -> None:
    await two_streams(store)
    await store.stream("audit").append_many([b"x"] * 5)
    timeout = 0.05 if how == "redelivered" else 60.0
    subscription = await store.create_subscription("s", stream="audit", ack_timeout=timeout)
    async with subscription.consumer("other") as other:
        consumer = subscription.consumer("w")
        batch = await consumer.receive(5)
        if how == "acked":
            await consumer.ack(batch[2])
        elif how == "released":
            await consumer.release(batch[2])
        elif how == "closed":
            await consumer.close()
        else:
            await drain(other, 5)
        with pytest.raises(hs.LeaseLost) as raised:
            async with store.transaction() as tx:
                tx.append("orders", b"lost")
                tx.ack(batch)
        assert raised.value.subscription == "s"
        assert await payloads(store.stream("orders")) == []
        assert (await subscription.lag()).unacked == (4 if how == "acked" else 5)
        await consumer.close()


async def test_two_that_ack_the_same_do_not_both_happen(store: Store) -> None:
    await two_streams(store)
    await store.stream("audit").append_many([b"x"] * 5)
    subscription = await store.create_subscription("billing", stream="audit")
    async with subscription.consumer("w") as consumer:
        batch = await consumer.receive()

        async def work(number: int) -> int:
            try:
                async with store.transaction() as tx:
                    tx.ack(batch)
                    tx.append("orders", b"%d" % number)
            except hs.LeaseLost:
                return 0
            return 1

        assert sum(await all_of(*(work(i) for i in range(8)))) == 1
        assert len(await payloads(store.stream("orders"))) == 1


async def test_only_received_deliveries_can_be_acked_in_one(store: Store) -> None:
    await two_streams(store)
    record_id = await store.stream("audit").append(b"x")
    tx = store.transaction()
    with pytest.raises(TypeError, match="as they were received"):
        tx.ack([record_id])
    with pytest.raises(TypeError):
        tx.ack(5)
    tx.ack([])
    tx.ack(())
    await tx.commit()


async def test_acks_of_several_subscriptions_come_together(store: Store) -> None:
    await two_streams(store)
    await store.stream("audit").append_many([b"x"] * 5)
    one = await store.create_subscription("one", stream="audit")
    two = await store.create_subscription("two", stream="audit")
    async with one.consumer("w") as first, two.consumer("w") as second:
        async with store.transaction() as tx:
            tx.ack(await first.receive())
            tx.ack(await second.receive())
        assert (await one.lag(), await two.lag()) == (hs.Lag(0, 0), hs.Lag(0, 0))


@pytest.mark.parametrize("reopened", [False, True])
async def test_streams_are_created_and_deleted_inside(
    face: Face, tmp_path: Path, reopened: bool
) -> None:
    async with face.open(tmp_path / "s") as store:
        await two_streams(store)
        async with store.transaction() as tx:
            tx.create_stream("made", backlog=60, max_bytes=1 << 30, protect=["p"])
            tx.create_stream("also")
            tx.append_many("made", [b"first", b"second"])
            tx.append("orders", b"o")
            tx.delete_stream("audit")
            with pytest.raises(hs.StreamNotFound):
                tx.append("audit", b"x")
            with pytest.raises(hs.StreamExists):
                tx.create_stream("made")
            with pytest.raises(ValueError, match="leave both out"):
                tx.delete_stream("also")
            assert [info.name for info in await store.streams()] == ["audit", "orders"]
        if not reopened:
            await _streams_are_made(store, tx.ids["made"])
    if reopened:
        async with face.open(tmp_path / "s") as store:
            await _streams_are_made(store, tx.ids["made"])


async def _streams_are_made(store: Store, ids: hs.RecordIds) -> None:
    assert [info.name for info in await store.streams()] == ["also", "made", "orders"]
    made = store.stream("made")
    info = await made.info()
    assert (info.backlog.total_seconds(), info.max_bytes, info.protect) == (60, 1 << 30, ("p",))
    assert [r.id for r in await collect(made.read())] == list(ids)
    assert await payloads(made) == [b"first", b"second"]
    await made.append(b"third")
    await store.stream("also").append(b"x")
    assert await payloads(made) == [b"first", b"second", b"third"]


async def test_a_stream_created_meanwhile_stops_it(store: Store) -> None:
    await two_streams(store)
    with pytest.raises(hs.StreamExists, match="made"):
        async with store.transaction() as tx:
            tx.create_stream("made")
            tx.append("orders", b"lost")
            await store.create_stream("made", backlog=5)
    assert await payloads(store.stream("orders")) == []
    assert (await store.stream("made").info()).backlog.total_seconds() == 5


async def test_a_stream_in_use_is_not_deleted_in_one(store: Store) -> None:
    await two_streams(store)
    await store.create_subscription("billing", stream="audit")
    with pytest.raises(hs.StreamInUse, match="audit"):
        async with store.transaction() as tx:
            tx.append("orders", b"lost")
            tx.delete_stream("audit")
    assert await payloads(store.stream("orders")) == []
    await store.stream("audit").append(b"goes on")


async def test_transactions_of_many_callers_do_not_mix(store: Store) -> None:
    await two_streams(store)

    async def work(number: int) -> None:
        for i in range(5):
            async with store.transaction() as tx:
                tx.append("audit", b"%d-%d" % (number, i))
                tx.append_many("orders", [b"%d-%d" % (number, i)] * 2, key=f"k{i}")

    await all_of(*(work(number) for number in range(6)))
    audit = await payloads(store.stream("audit"))
    orders = await payloads(store.stream("orders"))
    assert len(audit) == len(set(audit)) == 30
    assert sorted(orders) == sorted(audit * 2)
