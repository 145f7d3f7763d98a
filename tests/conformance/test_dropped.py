"""A consumer that nobody closes: it leaves when it is collected, and not before."""

from __future__ import annotations

import asyncio
import gc
import logging
from pathlib import Path

import pytest

import hstreamlite as hs
from tests.conformance.faces import Face, Store, settled

pytestmark = pytest.mark.asyncio

modes = pytest.mark.parametrize("mode", ["ordered", "shared"])


@modes
async def test_what_a_dropped_consumer_held_goes_to_others(
    store: Store, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    await (await store.create_stream("orders")).append_many([b"%d" % n for n in range(10)])
    subscription = await store.create_subscription("billing", stream="orders", mode=mode)
    dropped = subscription.consumer("w")
    held = await dropped.receive(3)
    assert len(await dropped.receive(1)) == 1
    with caplog.at_level(logging.WARNING, "hstreamlite"):
        del dropped
        gc.collect()
        assert (await subscription.info()).consumers == ("w",), (
            "its deliveries still ack through it"
        )
        await settled(held[0].ack())
        del held
        gc.collect()
        assert (await subscription.lag()).unacked == 3
        assert (await subscription.info()).consumers == ()
        assert (
            caplog.messages.count(
                "consumer 'w' of subscription 'billing' was dropped without being closed; others "
                "get what it held"
            )
            == 1
        )
    async with subscription.consumer("w") as consumer:
        again = await consumer.receive(3)
        assert [(d.payload, d.attempt) for d in again] == [(b"1", 2), (b"2", 2), (b"3", 2)]


async def test_who_waits_gets_what_a_dropped_consumer_held(store: Store) -> None:
    await (await store.create_stream("orders")).append(b"x", key="k")
    subscription = await store.create_subscription("billing", stream="orders")
    dropped = subscription.consumer("w")
    assert await dropped.receive(1)
    async with subscription.consumer("v") as consumer:
        assert await consumer.receive(1, timeout=0) == ()
        del dropped
        gc.collect()
        assert [d.attempt for d in await consumer.receive(1)] == [2]


async def test_a_closed_consumer_and_one_of_a_closed_store_are_dropped_in_silence(
    face: Face, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "hstreamlite"):
        async with face.open(tmp_path / "s") as store:
            await (await store.create_stream("orders")).append_many([b"x"] * 3)
            subscription = await store.create_subscription("billing", stream="orders")
            closed: object = subscription.consumer("a")
            await closed.close()  # type: ignore[attr-defined]
            later: object = subscription.consumer("b")
            del closed
            gc.collect()
            await subscription.lag()
        del later
        gc.collect()
    assert [r.getMessage() for r in caplog.records if r.name.startswith("hstreamlite")] == []


@modes
async def test_a_loop_that_an_error_ends_gives_back_what_it_had_not_yielded(
    store: Store, mode: str
) -> None:
    await (await store.create_stream("orders")).append_many([b"%d" % n for n in range(8)])
    subscription = await store.create_subscription("billing", stream="orders", mode=mode)

    async def work() -> None:
        async for _ in subscription.consumer("w"):
            raise LookupError

    with pytest.raises(LookupError):
        await work()
    while (await subscription.info()).consumers:
        await asyncio.sleep(0)  # for the loop over what is collected is ended by the event loop
        gc.collect()
    async with subscription.consumer("v") as consumer:
        got: list[hs.Delivery] = []
        while len(got) < 8:
            got += await consumer.receive(8)
        assert sorted(d.attempt for d in got) == [1] * 7 + [2]
