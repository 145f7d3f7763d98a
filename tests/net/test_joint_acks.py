"""Acks of several remote consumers that go out as one request: what each of them is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.v1.consuming import Session
from hstreamlite.remote.consumer import Consumer
from tests.conformance.faces import served

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]

COUNT = 400
NAMES = ("one", "two", "three", "four")


@asynccontextmanager
async def attached(path: Path, mode: str = "shared") -> AsyncIterator[tuple[Any, list[Consumer]]]:
    """Yield a subscription of records, and consumers of it."""
    async with served(path) as server:
        address = f"hstream://127.0.0.1:{server.node.listeners[0].port}"
        async with hs.aio.connect(address) as store:
            stream = await store.create_stream("orders")
            await stream.append_many([hs.Record(b"%d" % n, key=f"k{n}") for n in range(COUNT)])
            group = await store.create_subscription("work", stream="orders", mode=mode)
            consumers = [await group.consumer(name, lease=300) for name in NAMES]
            yield group, consumers


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that a server has done, in their order."""
    found: list[str] = []
    do = Session._done

    async def counted(self: Session, which: str, request: pb.ConsumeRequest) -> Any:
        reply = await do(self, which, request)
        if which != "beat":
            found.append(which)
        return reply

    monkeypatch.setattr(Session, "_done", counted)
    return found


def before(monkeypatch: pytest.MonkeyPatch, hook: Callable[[], Any]) -> None:
    """Have a server await something before it does acks of several."""
    do = Session._done

    async def hooked(self: Session, which: str, request: pb.ConsumeRequest) -> Any:
        if which == "joint_ack":
            await hook()
        return await do(self, which, request)

    monkeypatch.setattr(Session, "_done", hooked)


class Gate:
    """Holds up who comes to it on the loop of a server, from when that is until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._opened = asyncio.Event()
        self._other = self._loop

    async def hold(self) -> None:
        self._other = asyncio.get_running_loop()
        self._loop.call_soon_threadsafe(self.reached.set)
        await self._opened.wait()

    def open(self) -> None:
        self._other.call_soon_threadsafe(self._opened.set)


async def batches(consumers: list[Consumer], size: int = 10) -> list[hs.DeliveryBatch]:
    found = [await consumer.receive(size) for consumer in consumers]
    assert [len(batch) for batch in found] == [size] * len(consumers)
    return found


async def left(group: Any) -> int:
    lag: hs.Lag = await group.lag()
    return lag.records


@pytest.mark.parametrize("mode", ["ordered", "shared"])
async def test_what_is_acked_at_once_goes_together(
    tmp_path: Path, done: list[str], mode: str
) -> None:
    async with attached(tmp_path, mode) as (group, consumers):
        taken = await batches(consumers)
        acked = await asyncio.gather(*(c.ack(b) for c, b in zip(consumers, taken, strict=True)))
        assert acked == [hs.AckResult(10, 0, 0)] * 4
        assert Counter(done) == {"joint_ack": 1}
        assert await left(group) == COUNT - 40
        again = await asyncio.gather(*(c.ack(b) for c, b in zip(consumers, taken, strict=True)))
        assert again == [hs.AckResult(0, 10, 0)] * 4


async def test_who_is_answered_goes_along_with_who_waits(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So consumers of which one fell behind go together again, and not in turns."""
    gate = Gate()
    came: list[None] = []

    async def hold() -> None:
        came.append(None)
        await gate.hold()

    before(monkeypatch, hold)

    async def ack_all(consumer: Consumer, lists: list[hs.DeliveryBatch]) -> None:
        for batch in lists:
            assert await consumer.ack(batch) == hs.AckResult(10, 0, 0)

    async with attached(tmp_path) as (group, consumers):
        lists = list(zip(*[await batches(consumers) for _ in range(3)], strict=True))
        acks = list(map(ack_all, consumers, map(list, lists)))
        early = asyncio.gather(*acks[:2])
        await gate.reached.wait()
        late = asyncio.gather(*acks[2:])
        for _ in range(3):
            await group.info()
        assert len(came) == 1
        gate.open()
        await asyncio.gather(early, late)
        assert Counter(done) == {"joint_ack": 4}
        assert await left(group) == COUNT - 120


async def test_one_alone_asks_as_ever(tmp_path: Path, done: list[str]) -> None:
    async with attached(tmp_path) as (_, (one, *_)):
        assert (await one.ack(await one.receive(10))).new == 10
        assert done == ["ack"]


async def test_what_is_wrong_with_one_ack_is_told_of_that_one(tmp_path: Path) -> None:
    async with attached(tmp_path) as (group, consumers):
        one, two, three = (await batches(consumers))[:3]
        await consumers[0].ack(one[:4])
        told = await asyncio.gather(
            consumers[0].ack(one),
            consumers[1].ack(two),
            consumers[2].ack(hs.RecordId(three[0].id.shard_id, COUNT + 7, 0)),
            consumers[3].ack(three),
            return_exceptions=True,
        )
        assert told[0] == hs.AckResult(6, 4, 0)
        assert told[1] == hs.AckResult(10, 0, 0)
        assert isinstance(told[2], hs.UnknownRecord)
        assert told[3] == hs.AckResult(10, 0, 0)
        assert await left(group) == COUNT - 30


async def test_many_and_scattered_ones_are_split(tmp_path: Path, done: list[str]) -> None:
    async with attached(tmp_path) as (group, (one, *_)):
        batch = await one.receive(COUNT)
        singly = [one.ack(delivery) for delivery in batch[:70]]
        found = await asyncio.gather(*singly, one.ack(batch[70::2]))
        assert found == [*[hs.AckResult(1, 0, 0)] * 70, hs.AckResult(165, 0, 0)]
        assert Counter(done) == {"joint_ack": 3, "ack": 1}
        assert await left(group) == 165


async def test_servers_that_know_nothing_of_it_are_asked_singly(
    tmp_path: Path, done: list[str]
) -> None:
    async with attached(tmp_path) as (group, consumers):
        for consumer in consumers:
            consumer._attachment._takes_joint_acks = False
        taken = await batches(consumers)
        await asyncio.gather(*(c.ack(b) for c, b in zip(consumers, taken, strict=True)))
        assert Counter(done) == {"ack": 4}
        assert await left(group) == COUNT - 40


async def test_what_a_server_refuses_is_asked_for_singly(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another server answers now, of before there were such requests."""

    async def refuse() -> None:
        raise ValueError("no request of a consumer that is attached: None")

    before(monkeypatch, refuse)
    async with attached(tmp_path) as (group, consumers):
        taken = await batches(consumers)
        acked = await asyncio.gather(*(c.ack(b) for c, b in zip(consumers, taken, strict=True)))
        assert acked == [hs.AckResult(10, 0, 0)] * 4
        assert Counter(done) == {"ack": 4}
        assert await left(group) == COUNT - 40


async def test_what_is_asked_for_later_is_done_later(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that overtook the ack would give the records to others."""
    gate = Gate()
    before(monkeypatch, gate.hold)
    async with attached(tmp_path) as (group, consumers):
        taken = await batches(consumers)
        acks = [asyncio.ensure_future(c.ack(b)) for c, b in zip(consumers, taken, strict=True)]
        await gate.reached.wait()
        release = asyncio.ensure_future(consumers[2].release(taken[2]))
        extend = asyncio.ensure_future(consumers[2].extend(taken[2], by=60))
        for _ in range(3):
            await group.info()
        gate.open()
        assert [(await ack).new for ack in acks] == [10] * 4
        assert (await release, await extend) == (0, 0)
        assert done == ["joint_ack", "release", "extend"]


async def test_what_was_asked_for_earlier_is_done_earlier(tmp_path: Path, done: list[str]) -> None:
    """An ack that overtook the release of an earlier record of its key would count."""
    async with attached(tmp_path, "ordered") as (_, consumers):
        taken = await batches(consumers)
        release = taken[2][0].release()
        acks = [asyncio.ensure_future(c.ack(b)) for c, b in zip(consumers, taken, strict=True)]
        assert [(await ack).new for ack in acks] == [10] * 4
        await release
        assert Counter(done) == {"release": 1, "joint_ack": 1, "ack": 1}
        assert done.index("release") < done.index("ack")


async def test_a_connection_that_breaks_loses_no_ack(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    came = iter([True])

    async def hold_the_first() -> None:
        if next(came, False):
            await gate.hold()

    before(monkeypatch, hold_the_first)
    async with attached(tmp_path) as (group, consumers):
        taken = await batches(consumers)
        acks = [asyncio.ensure_future(c.ack(b)) for c, b in zip(consumers, taken, strict=True)]
        await gate.reached.wait()
        consumers[0]._attachment._call.cancel()
        assert [await ack for ack in acks] == [hs.AckResult(10, 0, 0)] * 4
        assert await left(group) == COUNT - 40
        assert Counter(done) == {"joint_ack": 1}


async def test_who_carries_the_acks_of_others_may_leave(tmp_path: Path, done: list[str]) -> None:
    async with attached(tmp_path) as (group, consumers):
        taken = await batches(consumers)
        acks = asyncio.gather(*(c.ack(b) for c, b in zip(consumers, taken, strict=True)))
        await asyncio.gather(acks, *(consumer.close() for consumer in consumers))
        assert acks.result() == [hs.AckResult(10, 0, 0)] * 4
        assert Counter(done) == {"joint_ack": 1, "close": 4}
        assert await left(group) == COUNT - 40


async def test_acks_that_wait_end_with_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    before(monkeypatch, gate.hold)
    monkeypatch.setattr("hstreamlite.remote.attachment._LEAVE_SECONDS", 0.05)
    async with attached(tmp_path) as (_, consumers):
        taken = await batches(consumers)
        acks = [asyncio.ensure_future(c.ack(b)) for c, b in zip(consumers, taken, strict=True)]
        await gate.reached.wait()
        acks.append(asyncio.ensure_future(consumers[0].ack(taken[0])))
        await asyncio.sleep(0)
        await consumers[0].link.close()
        told = await asyncio.gather(*acks, return_exceptions=True)
        assert isinstance(told[0], hs.StoreClosed)
        assert isinstance(told[4], hs.StoreClosed)
        for each in told[1:4]:  # they may have asked for it themselves, before they left
            assert isinstance(each, hs.StoreClosed) or each == hs.AckResult(10, 0, 0)
