"""Messages that are made and read as bytes are those that protobuf makes and reads."""

from collections.abc import Iterable
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import hstreamlite as hs
from hstreamlite._native import fast
from hstreamlite.net import hstream_pb2 as pb, hstreamlite_pb2 as pb1
from hstreamlite.net.wire import batch_of, deliveries_of, excerpts_from, pieces_of
from hstreamlite.sub.ackmap import LSN_MAX

NUMBERS = st.integers(0, 2**64 - 1) | st.integers(0, 300)
INDEXES = st.integers(0, 2**32 - 1) | st.integers(0, 300)
IDS = st.lists(st.tuples(NUMBERS, NUMBERS, INDEXES) | st.tuples(st.just(7), NUMBERS, INDEXES))


def ids(places: Iterable[tuple[int, int, int]]) -> list[pb.RecordId]:
    return [pb.RecordId(shardId=s, batchId=b, batchIndex=i) for s, b, i in places]


@given(st.text(max_size=200), NUMBERS, NUMBERS, st.integers(0, 300))
def test_an_answer_to_an_append_has_the_ids_of_its_records(
    stream: str, shard: int, batch: int, records: int
) -> None:
    made = pb.AppendResponse(
        streamName=stream,
        shardId=shard,
        recordIds=ids((shard, batch, index) for index in range(records)),
    )
    assert fast.append_answer(stream, shard, batch, records) == made.SerializeToString()


@given(
    NUMBERS,
    NUMBERS,
    st.lists(INDEXES, max_size=200).map(tuple) | st.integers(0, 200),
    st.sampled_from([0, 1, 2]),
    st.integers(0, 2**42),
    st.binary(max_size=300),
)
def test_a_delivery_is_the_batch_and_its_ids(
    shard: int, batch: int, indexes: tuple[int, ...] | int, codec: int, ms: int, payload: bytes
) -> None:
    listed = range(indexes) if isinstance(indexes, int) else indexes
    record = pb.BatchedRecord(compressionType=codec, batchSize=len(listed), payload=payload)
    record.publishTime.FromMilliseconds(ms)
    received = pb.ReceivedRecord(
        recordIds=ids((shard, batch, index) for index in listed), record=record
    )
    message = pb.StreamingFetchResponse(receivedRecords=received)
    made = fast.delivery(shard, batch, indexes, codec, ms, payload)
    assert made == message.SerializeToString()


@given(IDS)
def test_acks_are_read_by_shard(places: list[tuple[int, int, int]]) -> None:
    request = pb.StreamingFetchRequest(subscriptionId="s", consumerName="c", ackIds=ids(places))
    wanted: dict[int, list[int]] = {}
    for shard, batch, index in places:
        lsn = batch + index
        known = batch > 0 and lsn < LSN_MAX
        wanted.setdefault(shard, []).append(lsn if known else 0)
    assert fast.ack_places(request.SerializeToString()) == wanted


@pytest.mark.parametrize("raw", [b"\x1a\x05\x08", b"\x1a\x02\x08\x80", b"\x03"])
def test_acks_that_are_malformed_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="malformed request"):
        fast.ack_places(raw)


def test_acks_of_a_later_version_are_read_as_far_as_they_are_known() -> None:
    place = pb.RecordId(shardId=1, batchId=2, batchIndex=3).SerializeToString()
    later = b"\x4a\x01x" + place + b"\x50\x07"  # a ninth field of bytes, a tenth that is a number
    assert fast.ack_places(b"\x1a" + bytes([len(later)]) + later) == {1: [5]}


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 200), st.data())
@settings(max_examples=5)
def test_deliveries_are_serialized_as_the_pieces_of_their_batches(
    sizes: list[int], most: int, data: st.DataObject
) -> None:
    with TemporaryDirectory() as path, hs.open(path) as store:
        stream = store.create_stream("s")
        for size in sizes:
            keys = [data.draw(st.sampled_from([None, "a", "b"])) for _ in range(size)]
            stream.append_many([hs.Record(b"x", key=key) for key in keys])
        consumer = store.create_subscription("g", stream="s").consumer("c")
        first = consumer.receive(most)
        consumer.release(first[:: data.draw(st.integers(1, 5))])
        for batch in (first, consumer.receive(most)):
            reply = pb1.ConsumeReply.FromString(b"".join(deliveries_of(batch)))
            assert list(reply.deliveries.pieces) == list(pieces_of(batch))
            found = batch_of(excerpts_from(reply.deliveries.pieces), object())
            assert found.spans == batch.spans
            assert list(map(told, found)) == list(map(told, batch))


def told(delivery: hs.Delivery) -> tuple[object, ...]:
    return delivery.id, delivery.attempt, delivery.key, delivery.payload, delivery.append_time_ms


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 8)), max_size=8))
def test_pieces_of_several_shards_make_one_batch(pieces: list[tuple[int, int]]) -> None:
    body = fast.encode_batch([b"%d" % at for at in range(9)])
    sent = [
        pb1.Piece(
            shard=shard, batch=100 * at + 1, base=3, first=3 + skip, payload=body,
            records=1, append_time_ms=at + 1, attempt=2,
        )
        for at, (shard, skip) in enumerate(pieces)
    ]  # fmt: skip
    found = batch_of(excerpts_from(sent), object())
    wanted = [
        (hs.RecordId(shard, 100 * at + 1, 3 + skip), 2, None, b"%d" % skip, at + 1)
        for at, (shard, skip) in enumerate(pieces)
    ]
    assert list(map(told, found)) == wanted
    assert found.spans == [(id_.shard_id, id_.lsn, id_.lsn + 1) for id_, *_ in wanted]


@pytest.mark.parametrize(
    ("body", "base", "first", "count"),
    [(b"", 0, 0, 1), (b"\xff", 0, 0, 1), (b"\n\x00", 0, 0, 2), (b"\n\x00", 2, 1, 1)],
)
def test_what_lacks_the_records_it_should_have_is_not_added(
    body: bytes, base: int, first: int, count: int
) -> None:
    excerpt = fast.Excerpt()
    with pytest.raises(ValueError, match=r"record|malformed"):
        excerpt.add(body, 1, 1, base, first, count, 0, 1)
    assert len(excerpt) == 0
    with pytest.raises(TypeError):
        excerpt.add(body, 1)  # type: ignore[call-arg]


@pytest.mark.parametrize("indexes", [-1, 2**32, "1", (-1,), (0, "1"), (2**32,)])
def test_a_delivery_is_made_of_indexes_that_there_can_be(indexes: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        fast.delivery(1, 1, indexes, 0, 0, b"x")


def test_what_is_encoded_and_read_is_of_the_right_types() -> None:
    for wrong in (("s", 1, 1, "1"), ("s", -1, 1, 1), (1, 1, 1, 1), ("s",)):
        with pytest.raises((TypeError, ValueError)):
            fast.append_answer(*wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        fast.delivery(1, 1, 1, 0, 0, "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        fast.ack_places("x")  # type: ignore[arg-type]
