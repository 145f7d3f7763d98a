"""DeliveryBatch: as a tuple of deliveries to who looks at it, and nothing made for who does not."""

from __future__ import annotations

import copy
import gc
import operator
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite._native import fast
from hstreamlite.sub.keytab import run_bytes
from hstreamlite.testing.simenv import SimEnv
from tests.sub.taking import collecting

ITEMS: list[Any] = [
    *(b"%d" % number for number in range(9)),
    {"a": 1},
    hs.Record(b"x", key="k", attributes={"b": "c"}),
]


@pytest.fixture(params=["shared", "ordered"])
def consumer(request: pytest.FixtureRequest) -> Iterator[hs.Consumer]:
    with hs.open("/db", env=SimEnv()) as store:
        stream = store.create_stream("a")
        stream.append_many(ITEMS[:4])
        stream.append_many(ITEMS[4:])
        subscription = store.create_subscription("s", stream="a", mode=request.param)
        with subscription.consumer("c") as consumer:
            yield consumer


def made(batch: hs.DeliveryBatch) -> int:
    """Return how many deliveries there are of the consumer of a batch."""
    return sum(
        isinstance(thing, hs.Delivery) and thing.consumer is batch.consumer
        for thing in gc.get_objects()
    )


def test_it_is_a_sequence_as_a_tuple_is(consumer: hs.Consumer) -> None:
    batch = consumer.receive(20)
    whole = tuple(batch)
    assert len(batch) == len(whole) == len(ITEMS)
    assert batch
    assert all(a is b for a, b in zip(batch, whole, strict=True)), "the same objects each time"
    assert batch[0] is whole[0]
    assert batch[-1] is whole[-1]
    assert batch[2:9:3] == whole[2:9:3]
    assert list(reversed(batch)) == list(reversed(whole))
    assert whole[3] in batch
    assert b"3" not in batch
    assert batch.index(whole[3]) == 3
    assert batch.count(whole[3]) == 1
    assert batch == whole
    assert whole == batch
    assert batch != whole[1:]
    assert batch != list(whole)
    assert hash(batch) == hash(whole)
    assert batch + whole == whole + batch == whole + whole
    assert isinstance(batch, Sequence)
    match batch:
        case [first, *_]:
            assert first is whole[0]
    with pytest.raises(IndexError):
        batch[len(ITEMS)]
    with pytest.raises(TypeError):
        batch["0"]  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        operator.add(batch, [1])
    with pytest.raises(TypeError):
        operator.lt(batch, 1)


def test_it_tells_what_it_holds(consumer: hs.Consumer) -> None:
    batch = consumer.receive(20)
    assert batch.consumer is consumer
    assert [d.consumer is consumer for d in batch] == [True] * len(ITEMS)
    ids = [d.id for d in batch]
    assert repr(batch) == f"<DeliveryBatch of {len(ITEMS)}: {ids[0]} to {ids[-1]}>"
    assert [lsn for _, first, end in batch.spans for lsn in range(first, end)] == [
        record_id.lsn for record_id in ids
    ]
    assert pickle.loads(pickle.dumps(batch)) == batch
    assert copy.copy(batch) == batch


def test_payloads_are_those_of_the_deliveries_before_and_after_a_look(
    consumer: hs.Consumer,
) -> None:
    batch = consumer.receive(20)
    expected = [item.payload if isinstance(item, hs.Record) else item for item in ITEMS]
    assert batch.payloads() == expected
    assert [delivery.payload for delivery in batch] == expected
    assert batch.payloads() == expected


def test_what_nobody_looks_at_is_not_made(consumer: hs.Consumer) -> None:
    batch = consumer.receive(20)
    assert len(batch.payloads()) == len(batch) == len(ITEMS)
    assert made(batch) == 0
    assert consumer.ack(batch).new == len(ITEMS)
    assert made(batch) == 0
    assert batch[0].payload == b"0"
    assert made(batch) == len(ITEMS)


@pytest.mark.parametrize("look", [True, False])
def test_a_batch_is_acked_whole_or_in_part(consumer: hs.Consumer, look: bool) -> None:
    first, second = consumer.receive(3), consumer.receive(20)
    if look:
        assert second[0].payload == b"3"
        second[0].ack()
    assert consumer.ack(second) == hs.AckResult(len(ITEMS) - 3 - look, int(look), 0)
    assert consumer.ack(second) == hs.AckResult(0, len(ITEMS) - 3, 0)
    assert consumer.release(first) == 3
    again = consumer.receive(20)
    assert [delivery.attempt for delivery in again] == [2] * 3
    assert again.payloads() == [b"0", b"1", b"2"]
    assert consumer.ack(first[1:]).new == 2


def test_what_lies_scattered_is_acked_unseen() -> None:
    """The records of one key among those of another, which somebody else has."""
    with hs.open("/db", env=SimEnv()) as store:
        stream = store.create_stream("a")
        stream.append_many([hs.Record(b"%d" % n, key="ab"[n % 2]) for n in range(10)])
        subscription = store.create_subscription("s", stream="a")
        one, two = subscription.consumer("one"), subscription.consumer("two")
        assert len(one.receive(1)) == 1
        assert two.ack(two.receive(10)).new == 5
        assert [d.payload for d in one.receive(10)] == [b"2", b"4", b"6", b"8"]


def test_one_that_is_empty() -> None:
    batch = hs.DeliveryBatch()
    assert not batch
    assert batch == () == hs.DeliveryBatch([])
    assert hash(batch) == hash(())
    assert (repr(batch), batch.spans, batch.payloads(), list(batch)) == ("()", [], [], [])
    assert batch.consumer is None
    assert pickle.loads(pickle.dumps(batch)) == ()


def test_a_cycle_through_one_is_collected(consumer: hs.Consumer) -> None:
    class Holder:
        pass

    for look in (True, False):
        holder: Any = Holder()
        holder.batch = consumer.receive(2)
        holder.batch.consumer = holder
        if look:
            holder.payload = holder.batch[0].payload
        del holder
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Holder)]


def excerpt(*runs: tuple[int, int, int]) -> fast.Excerpt:
    """Return these runs of a stream of numbers, in blocks of 5."""
    with hs.open("/db", env=SimEnv()) as store:
        stream = store.create_stream("a")
        for begin in range(0, 50, 5):
            stream.append_many([b"%d" % number for number in range(begin, begin + 5)])
        (shard,) = store._engine.stream("a").shard_ids
        cursor = store._engine.journal.cursor(shard, 1)
        packed = b"".join(run_bytes(*run) for run in runs)
        found = cursor.excerpt_runs(packed, max_bytes=1 << 20, may_block=True)
        assert found
        return found


def test_the_rest_of_an_excerpt_is_what_it_would_deliver() -> None:
    found = excerpt((3, 9, 1), (12, 2, 2), (14, 1, 1), (30, 1, 1))
    whole = found.deliveries(0, 13, object())
    assert [delivery.attempt for delivery in whole] == [1] * 9 + [2] * 2 + [1] * 2
    assert [delivery.id.lsn for delivery in whole] == [*range(3, 15), 30]
    assert found.sizes() == [fast.record_bytes(delivery) for delivery in whole]
    for first in range(15):
        rest = found.rest(first)
        assert len(rest) == max(0, 13 - first)
        assert rest.deliveries(0, len(rest), object()) == whole[first:]
        for end in range(first, 14):
            batch = found.batch(first, end, object())
            lsns = [lsn for _, begin, stop in batch.spans for lsn in range(begin, stop)]
            assert lsns == [delivery.id.lsn for delivery in whole[first:end]]
            assert batch == tuple(whole[first:end])
    for wrong in ((1, 0), (0, 14), (-1, 2), (0, 1 << 32)):
        with pytest.raises(ValueError):
            found.batch(*wrong, None)
    with pytest.raises(TypeError):
        found.deliveries(0, "1", None)  # type: ignore[arg-type]


def two_runs() -> fast.DeliveryBatch:
    read, body = fast.Excerpt(), fast.encode_batch([b"x"] * 3, None)
    read.add(body, 1, 1, 0, 0, 3, 0, 1)
    read.add(body, 1, 4, 0, 0, 3, 0, 2)
    return read.batch(0, 6, fast.AckGate())


@pytest.mark.parametrize("look", [lambda batch: batch._runs, lambda batch: batch[0]])
def test_who_looks_at_a_batch_while_it_is_looked_at_sees_the_same(
    look: Callable[[fast.DeliveryBatch], object],
) -> None:
    for objects in range(1, 24):
        batch = two_runs()
        seen: list[object] = []
        with collecting(lambda batch=batch, seen=seen: seen.append(look(batch)), objects):
            found = look(batch)
        assert seen[0] is found
        assert len(batch._runs) == 1
        assert [delivery.attempt for delivery in batch] == [1, 1, 1, 2, 2, 2]


def test_nothing_is_added_from_before_what_was_given_begins() -> None:
    read, body = fast.Excerpt(), fast.encode_batch([b"x"] * 3, None)
    for args, told in (
        ((body, 1, 1, 2, 1, 1, 0, 1), "no record 1 in what begins with 2"),
        ((body, 1, 1, 0, 0, 4, 0, 1), "batch"),
        ((body[:-1], 1, 1, 0, 0, 3, 0, 1), "batch"),
    ):
        with pytest.raises(ValueError, match=told):
            read.add(*args)
        assert len(read) == 0
    with pytest.raises(TypeError):
        read.add("x", 1, 1, 0, 0, 3, 0, 1)  # type: ignore[arg-type]
