"""Attempts that end, waits between them, and what becomes of a record that nobody can deal with."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

import hstreamlite as hs
from tests.conformance.faces import (
    REMOTE,
    Consumer,
    Face,
    Store,
    Subscription,
    all_of,
    collect,
    create_wide,
    drain,
    payloads,
    settled,
)

pytestmark = pytest.mark.asyncio


async def filled(store: Store, count: int, **options: object) -> Subscription:
    """Return subscription "billing" of a stream "orders" of so many records; dead go to "dead"."""
    orders = await store.create_stream("orders", exists_ok=True)
    await store.create_stream("dead", exists_ok=True)
    if count:
        await orders.append_many([hs.Record(b"%d" % i, key=f"k{i}") for i in range(count)])
    options = {"max_attempts": 1, "dead_letter": "dead"} | options
    return await store.create_subscription("billing", stream="orders", **options)


async def nothing(consumer: Consumer) -> bool:
    return await consumer.receive(100, timeout=0) == ()


async def letters(store: Store, count: int, name: str = "dead") -> list[hs.Record]:
    """Return so many dead letters, waiting for them."""
    found: list[hs.Record] = []
    async with store.stream(name).read(follow=True) as reader:
        async for record in reader:
            found.append(record)
            if len(found) == count:
                break
    return found


def reasons(records: list[hs.Record]) -> list[str]:
    return [record.attributes["hstreamlite-dead-reason"] for record in records]


async def test_a_dead_letter_is_the_record_and_tells_where_it_died(store: Store) -> None:
    orders = await store.create_stream("orders")
    subscription = await filled(store, 0, max_attempts=3)
    first = await orders.append({"n": [1, None]}, key="k", attributes={"trace": "7"})
    second = await orders.append(b"\x00raw")
    async with subscription.consumer("w") as consumer:
        for attempt in (1, 2, 3):
            got = await drain(consumer, 2)
            assert [delivery.attempt for delivery in got] == [attempt] * 2
            assert await consumer.release(got, reason="no such customer") == 2
        one, two = await letters(store, 2)
        assert await nothing(consumer)
    assert (one.payload, one.key, two.payload, two.key) == ({"n": [1, None]}, "k", b"\x00raw", None)
    (record,) = await collect(orders.read(limit=1))
    assert record.append_time is not None
    assert one.attributes == {
        "trace": "7",
        "hstreamlite-dead-stream": "orders",
        "hstreamlite-dead-id": str(first),
        "hstreamlite-dead-time": record.append_time.isoformat(timespec="milliseconds"),
        "hstreamlite-dead-subscription": "billing",
        "hstreamlite-dead-attempts": "3",
        "hstreamlite-dead-reason": "no such customer",
    }
    assert two.attributes["hstreamlite-dead-id"] == str(second)
    assert await subscription.lag() == hs.Lag(0, 0)
    stats = (await store.stats()).subscriptions["billing"]
    assert (stats.doomed, stats.buried, stats.burial_failure) == (0, 2, "")


async def test_every_way_to_come_back_is_a_reason(face: Face, tmp_path: Path) -> None:
    async with face.open(tmp_path / "s") as store:
        subscription = await filled(store, 3)
        async with subscription.consumer("w") as consumer:
            (bad,) = await drain(consumer, 1)
            await settled(bad.release(after=timedelta(hours=1)))
            assert reasons(await letters(store, 1)) == ["released"]
            await drain(consumer, 1)
        assert reasons(await letters(store, 2))[1:] == ["consumer left"]
        await drain(subscription.consumer("again"), 1)
        leaves = face in REMOTE  # a store behind a connection detaches its consumers
    async with face.open(tmp_path / "s") as store:
        found = await letters(store, 3)
        assert reasons(found)[2:] == ["consumer left" if leaves else "restart"]
        assert [record.payload for record in found] == [b"0", b"1", b"2"]
        assert await store.subscription("billing").lag() == hs.Lag(0, 0)


async def test_a_reason_is_not_forgotten_when_the_store_is_closed_at_once(
    face: Face, tmp_path: Path
) -> None:
    for n in range(5):
        async with face.open(tmp_path / f"{n}") as store:
            subscription = await filled(store, 3)
            consumer = subscription.consumer("w")
            await consumer.release(await drain(consumer, 3), reason="why")
        async with face.open(tmp_path / f"{n}") as store:
            assert reasons(await letters(store, 3)) == ["why"] * 3


async def test_what_is_not_acked_in_time_dies_and_acking_it_then_is_too_late(store: Store) -> None:
    subscription = await filled(store, 1, ack_timeout=0.05)
    async with subscription.consumer("w") as consumer:
        (late,) = await drain(consumer, 1)
        assert reasons(await letters(store, 1)) == ["timeout"]
        assert await consumer.ack(late) == hs.AckResult(0, 1, 0)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("x" * 2000, "x" * 1000), ("bad \udcff file", "bad ? file"), ("", "released")],
)
async def test_any_text_is_a_reason(store: Store, given: str, kept: str) -> None:
    subscription = await filled(store, 2)
    async with subscription.consumer("w") as consumer:
        one, two = await drain(consumer, 2)
        await settled(one.release(reason=given))
        assert await consumer.release(two, reason=given) == 1
        assert reasons(await letters(store, 2)) == [kept, kept]
        for release in (one.release, lambda reason: consumer.release(one, reason=reason)):
            with pytest.raises(TypeError, match="reason must be a str or None, not int"):
                await settled(release(reason=5))


async def test_acked_records_of_a_batch_do_not_die_with_the_others(store: Store) -> None:
    subscription = await filled(store, 10)
    async with subscription.consumer("w") as consumer:
        got = await drain(consumer, 10)
        await consumer.ack([got[1], got[4], got[5], got[9]])
        assert await consumer.release(got) == 6
        found = await letters(store, 6)
    assert [record.payload for record in found] == [b"0", b"2", b"3", b"6", b"7", b"8"]
    assert [record.key for record in found] == ["k0", "k2", "k3", "k6", "k7", "k8"]
    assert await subscription.lag() == hs.Lag(0, 0)


@pytest.mark.parametrize("shards", [1, 4])
async def test_dead_letters_of_wide_streams_keep_their_keys_order(
    store: Store, shards: int
) -> None:
    orders = await create_wide(store, "orders", shards)
    await create_wide(store, "dead", 5 - shards)
    for i in range(60):
        await orders.append(b"%d" % i, key=f"k{i % 7}", durability="os")
    await store.sync()
    subscription = await filled(store, 0)
    async with subscription.consumer("w") as consumer:
        await consumer.release(await drain(consumer, 60))
        found = await letters(store, 60)
    for key in {record.key for record in found}:
        own = [int(bytes(r.payload)) for r in found if r.key == key]  # type: ignore[arg-type]
        assert own == sorted(own)
    assert sorted(int(bytes(r.payload)) for r in found) == list(range(60))  # type: ignore[arg-type]


async def test_waits_grow_and_a_time_that_is_asked_for_goes_before_them(store: Store) -> None:
    backoff = hs.Backoff(first=0.2, most=3600, factor=100)
    subscription = await filled(store, 2, max_attempts=9, backoff=backoff)
    async with subscription.consumer("a") as one, subscription.consumer("b") as two:
        held, other = await drain(one, 2)
        assert await one.release(held, after=0) == 1
        (held,) = await one.receive()
        assert held.attempt == 2
        assert await one.ack(held) == hs.AckResult(1, 0, 0)
        await settled(other.release())
        (other,) = await one.receive()
        await settled(other.release())
        assert await two.receive(1, timeout=0.3) == (), "the second wait is a hundred times longer"
        assert (await store.stats()).subscriptions["billing"].waiting == 1


async def test_who_leaves_gives_back_at_once_whatever_the_backoff(store: Store) -> None:
    backoff = hs.Backoff(first=3600, most=3600)
    subscription = await filled(store, 3, max_attempts=9, backoff=backoff)
    async with subscription.consumer("stays") as stays:
        async with subscription.consumer("leaves") as leaves:
            await drain(leaves, 3)
        assert [delivery.attempt for delivery in await drain(stays, 3)] == [2, 2, 2]


async def test_options_are_kept_and_shown(face: Face, tmp_path: Path) -> None:
    backoff = hs.Backoff(first=1, most=60)
    async with face.open(tmp_path / "s") as store:
        billing = await filled(store, 1, max_attempts=5, backoff=backoff)
        before = await billing.info()
        assert (before.max_attempts, before.dead_letter, before.backoff) == (5, "dead", backoff)
        audit = await store.create_subscription("audit", stream="orders")
        info = await audit.info()
        assert (info.max_attempts, info.dead_letter, info.backoff) == (0, None, None)
    async with face.open(tmp_path / "s") as store:
        assert await store.subscription("billing").info() == before


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"dead_letter": None}, ValueError, "max_attempts=1 needs dead_letter"),
        ({"max_attempts": 0}, ValueError, "dead_letter='dead' needs max_attempts"),
        ({"max_attempts": -1}, ValueError, "max_attempts must be from 0 to 10000, not -1"),
        ({"max_attempts": 10_001}, ValueError, "max_attempts must be from 0 to 10000"),
        ({"max_attempts": True}, TypeError, "max_attempts must be an int, not bool"),
        ({"dead_letter": "nowhere"}, hs.StreamNotFound, "nowhere"),
        ({"dead_letter": ""}, ValueError, "stream name must have 1 to 255 characters"),
        ({"dead_letter": 5}, TypeError, "stream name must be a str"),
        ({"dead_letter": "orders"}, ValueError, "dies back into 'orders'"),
        ({"backoff": (1, 60)}, TypeError, "backoff must be a Backoff or None, not tuple"),
    ],
)
async def test_what_means_nothing_is_refused(
    store: Store, options: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await filled(store, 0, **options)
    assert await store.subscriptions() == []
    await filled(store, 0)


async def test_records_cannot_go_round(store: Store) -> None:
    for name in ("a", "b", "c"):
        await store.create_stream(name)

    async def dying(stream: str, into: str) -> Subscription:
        return await store.create_subscription(
            f"{stream}-{into}", stream=stream, max_attempts=1, dead_letter=into
        )

    await dying("a", "b")
    await dying("b", "c")
    for stream, into in (("b", "a"), ("c", "a"), ("c", "b"), ("c", "c")):
        with pytest.raises(ValueError, match=f"dies back into '{stream}'"):
            await dying(stream, into)
    await dying("a", "c")
    await store.delete_subscription("b-c")
    await store.delete_subscription("a-c")
    await dying("c", "a")


async def test_a_record_may_die_again_where_the_dead_are_read(store: Store) -> None:
    subscription = await filled(store, 1)
    await store.create_stream("hopeless")
    last = await store.create_subscription(
        "clerk", stream="dead", max_attempts=1, dead_letter="hopeless"
    )
    async with subscription.consumer("w") as consumer:
        await consumer.release(await drain(consumer, 1), reason="why")
    async with last.consumer("w") as consumer:
        (letter,) = await drain(consumer, 1)
        await consumer.release(letter)
    (record,) = await letters(store, 1, "hopeless")
    assert record.attributes["hstreamlite-dead-stream"] == "dead"
    assert record.attributes["hstreamlite-dead-id"] == str(letter.id)
    assert '"hstreamlite-dead-reason": "why"' in record.attributes["hstreamlite-dead-before"]


async def test_a_stream_that_takes_dead_letters_is_in_use(store: Store) -> None:
    subscription = await filled(store, 2)
    with pytest.raises(hs.StreamInUse, match=r"takes the dead letters of .*'billing'") as caught:
        await store.delete_stream("dead")
    assert (caught.value.subscriptions, caught.value.dead_letters_of) == ((), ("billing",))
    with pytest.raises(hs.StreamInUse):
        async with store.transaction() as tx:
            tx.delete_stream("dead")
    await store.delete_subscription("billing")
    await store.delete_stream("dead")
    with pytest.raises(hs.SubscriptionNotFound):
        await subscription.info()


async def test_without_its_stream_the_dead_wait_for_another_of_that_name(store: Store) -> None:
    subscription = await filled(store, 3)
    await store.delete_stream("dead", force=True)
    async with subscription.consumer("w") as consumer:
        got = await drain(consumer, 3)
        await consumer.release(got[:2])
        while not (stats := (await store.stats()).subscriptions["billing"]).burial_failure:
            assert await consumer.receive(1, timeout=0.01) == ()
        assert "'dead'" in stats.burial_failure
        assert (stats.doomed, stats.buried) == (2, 0)
        assert await nothing(consumer)
        assert await consumer.ack(got[1]) == hs.AckResult(1, 0, 0)
    await store.create_stream("dead")
    assert [record.payload for record in await letters(store, 2)] == [b"0", b"2"]
    stats = (await store.stats()).subscriptions["billing"]
    assert (stats.doomed, stats.buried) == (0, 2)


async def test_the_original_stays_in_its_stream(store: Store) -> None:
    subscription = await filled(store, 3)
    other = await store.create_subscription("audit", stream="orders")
    async with subscription.consumer("w") as consumer:
        await consumer.release(await drain(consumer, 3))
        await letters(store, 3)
    assert await payloads(store.stream("orders")) == [b"0", b"1", b"2"]
    async with other.consumer("w") as consumer:
        assert [delivery.attempt for delivery in await drain(consumer, 3)] == [1, 1, 1]


async def test_redriven_letters_are_records_of_their_stream_again(store: Store) -> None:
    orders = await store.create_stream("orders")
    subscription = await filled(store, 0)
    first = await orders.append({"n": 1}, key="k", attributes={"trace": "7"})
    async with subscription.consumer("w") as consumer:
        await consumer.release(await drain(consumer, 1))
        await letters(store, 1)
        assert await subscription.redrive() == 1
        (again,) = await drain(consumer, 1)
        assert (again.payload, again.key, again.attempt) == ({"n": 1}, "k", 1)
        assert again.attributes == {
            "trace": "7",
            "hstreamlite-redriven-from": str(first),
            "hstreamlite-redriven-for": "billing",
        }
        await consumer.release(again)
        _, letter = await letters(store, 2)
        assert letter.attributes["hstreamlite-dead-id"] == str(again.id)
        assert letter.attributes["hstreamlite-redriven-from"] == str(first)
        assert await subscription.redrive() == 1
        assert await subscription.redrive() == 0
        await consumer.ack(await drain(consumer, 1))
    assert len(await payloads(store.stream("dead"))) == 2, "letters stay where they are"


async def test_a_limit_is_kept_and_the_next_call_goes_on(face: Face, tmp_path: Path) -> None:
    async with face.open(tmp_path / "s") as store:
        await create_wide(store, "dead", 3)
        subscription = await filled(store, 10)
        async with subscription.consumer("w") as consumer:
            await consumer.release(await drain(consumer, 10))
            await letters(store, 10)
        assert await subscription.redrive(limit=0) == 0
        assert await subscription.redrive(limit=4) == 4
        assert await subscription.redrive(3) == 3
    async with face.open(tmp_path / "s") as store:
        subscription = store.subscription("billing")
        assert await subscription.redrive(limit=100) == 3
        assert await subscription.redrive() == 0
        found = await payloads(store.stream("orders"))
        assert sorted(found[10:]) == sorted(found[:10])
        for limit, error in ((-1, ValueError), (1.5, TypeError), (True, TypeError)):
            with pytest.raises(error, match="limit must be"):
                await subscription.redrive(limit)  # type: ignore[arg-type]


async def test_each_subscription_redrives_its_own_letters(store: Store) -> None:
    billing = await filled(store, 3)
    await store.create_stream("parcels")
    await store.stream("parcels").append_many([b"p", b"q"])
    shipping = await store.create_subscription(
        "shipping", stream="parcels", max_attempts=1, dead_letter="dead"
    )
    await store.stream("dead").append(b"somebody's own")
    for subscription, count in ((billing, 3), (shipping, 2)):
        async with subscription.consumer("w") as consumer:
            await consumer.release(await drain(consumer, count))
    await letters(store, 6)
    assert await shipping.redrive() == 2
    assert await payloads(store.stream("parcels")) == [b"p", b"q", b"p", b"q"]
    assert await billing.redrive() == 3
    assert await payloads(store.stream("orders")) == [b"0", b"1", b"2"] * 2


async def test_letters_of_an_earlier_subscription_of_the_name_stay_dead(store: Store) -> None:
    subscription = await filled(store, 2)
    async with subscription.consumer("w") as consumer:
        await consumer.release(await drain(consumer, 2))
        await letters(store, 2)
    await store.delete_subscription("billing")
    assert await (await filled(store, 0, start=hs.LATEST)).redrive() == 0


async def test_many_redrives_at_once_bring_each_letter_back_once(store: Store) -> None:
    subscription = await filled(store, 200)
    async with subscription.consumer("w") as consumer:
        await consumer.release(await drain(consumer, 200))
        await letters(store, 200)
    counts = await all_of(*(subscription.redrive(limit=30) for _ in range(10)))
    assert sorted(counts) == [0, 0, 0, 20, 30, 30, 30, 30, 30, 30]
    assert len(await payloads(store.stream("orders"))) == 400


async def test_redriving_needs_letters_and_somewhere_to_take_them(store: Store) -> None:
    subscription = await filled(store, 1)
    async with subscription.consumer("w") as consumer:
        await consumer.release(await drain(consumer, 1))
        await letters(store, 1)
    plain = await store.create_subscription("plain", stream="orders")
    with pytest.raises(ValueError, match="'plain' has no dead-letter stream"):
        await plain.redrive()
    with pytest.raises(hs.SubscriptionNotFound):
        await store.subscription("nobody").redrive()
    await store.delete_stream("orders", force=True)
    await store.create_stream("orders")
    with pytest.raises(hs.StreamNotFound, match="orders"):
        await subscription.redrive()
    await store.delete_stream("dead", force=True)
    await store.delete_stream("orders")
    with pytest.raises(hs.StreamNotFound):
        await subscription.redrive()


async def test_a_letter_that_died_twice_goes_back_step_by_step(store: Store) -> None:
    subscription = await filled(store, 1)
    await store.create_stream("hopeless")
    last = await store.create_subscription(
        "clerk", stream="dead", max_attempts=1, dead_letter="hopeless"
    )
    async with subscription.consumer("w") as consumer, last.consumer("w") as clerk:
        await consumer.release(await drain(consumer, 1), reason="why")
        (letter,) = await drain(clerk, 1)
        await clerk.release(letter)
        await letters(store, 1, "hopeless")
        assert await last.redrive() == 1
        (again,) = await drain(clerk, 1)
        dead = {n: t for n, t in again.attributes.items() if n.startswith("hstreamlite-dead-")}
        assert dead == letter.attributes
        assert await subscription.redrive() == 2, "the letter itself, and what came back of it"


FORGED = ["", "[]", '{"a": 1}', "{", "[" * 100_000, "null", '{"a": "\\ud800"}']


@pytest.mark.parametrize("before", FORGED)
async def test_forged_letters_do_no_harm(store: Store, before: str) -> None:
    subscription = await filled(store, 0)
    forged = {"hstreamlite-dead-subscription": "billing", "hstreamlite-dead-before": before}
    await store.stream("dead").append(b"x", attributes=forged)
    assert await subscription.redrive() == 1
    async with subscription.consumer("w") as consumer:
        (delivery,) = await drain(consumer, 1)
    assert delivery.attributes == {
        "hstreamlite-redriven-from": "",
        "hstreamlite-redriven-for": "billing",
    }
