"""Values of the library as `hstreamlite.proto` has them, and back; for clients and the server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, TypeVar

from google.protobuf.message import Message

from hstreamlite._native import fast
from hstreamlite.config import CODEC_NAMES, CODECS
from hstreamlite.info import ShardRange, StreamInfo, SubscriptionInfo
from hstreamlite.log.journal import compress, decompress
from hstreamlite.log.reader import Batch
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.place import EARLIEST, LATEST, Place
from hstreamlite.records import Delivery, DeliveryBatch, Record, RecordId, RecordIds
from hstreamlite.spans import Span
from hstreamlite.sub.effects import Damaged, Event, Gap, Lag, Sought
from hstreamlite.sub.retry import Backoff

DURABILITIES = {None: 0, "memory": 1, "os": 2, "sync": 3}
DURABILITY_NAMES = {number: name for name, number in DURABILITIES.items()}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

R = TypeVar("R", bound=Record)


def place_to(place: Place) -> pb.Place:
    if place is EARLIEST:
        return pb.Place(earliest=True)
    if place is LATEST:
        return pb.Place(latest=True)
    if isinstance(place, RecordId):
        return pb.Place(id=id_to(place))
    assert isinstance(place, datetime)
    return pb.Place(time_us=(place - _EPOCH) // _MICROSECOND)


def place_from(place: pb.Place) -> Place:
    which = place.WhichOneof("place")
    if which == "earliest":
        return EARLIEST
    if which == "latest":
        return LATEST
    if which == "id":
        return id_from(place.id)
    if which == "time_us":
        try:
            return _EPOCH + place.time_us * _MICROSECOND
        except OverflowError:
            raise ValueError(f"a time of {place.time_us} us since 1970 is out of range") from None
    raise ValueError("a place must be earliest, latest, an id or a time")


def id_to(record_id: RecordId) -> pb.RecordId:
    return pb.RecordId(
        shard=record_id.shard_id, batch=record_id.batch_id, index=record_id.batch_index
    )


def id_from(record_id: pb.RecordId) -> RecordId:
    return RecordId(record_id.shard, record_id.batch, record_id.index)


def ids_to(ids: RecordIds) -> pb.Ids:
    runs = ids._runs
    return pb.Ids(
        shards=[run[0] for run in runs],
        batches=[run[1] for run in runs],
        counts=[run[2] for run in runs],
        order=ids._order or (),
        ordered=ids._order is not None,
    )


def ids_from(ids: pb.Ids) -> RecordIds:
    runs = zip(ids.shards, ids.batches, ids.counts, strict=True)
    return RecordIds(runs, ids.order if ids.ordered else None)


def body_to(items: Sequence[Any], key: str | None, codec: int) -> pb.Body:
    """Encode items to append, packed if that makes them smaller."""
    body = pb.Body()
    fill_body(body, items, key, codec)
    return body


def fill_body(body: pb.Body, items: Sequence[Any], key: str | None, codec: int) -> None:
    """Encode items into an empty body, as `body_to`; to put that into a message makes a copy."""
    plain = fast.encode_batch(items, key)
    body.records = len(items)
    body.decoded_bytes = len(plain)
    if codec:
        packed = compress(codec, plain)
        if len(packed) < len(plain):
            body.payload = packed
            body.codec = pb.Codec.ValueType(codec)
            return
    body.payload = plain


def items_from(body: pb.Body, limit: int) -> list[Record]:
    """Decode what is to be appended; ValueError for what is no such body, or beyond so many bytes
    when it is unpacked."""
    records = fast.decode_batch(_unpacked(body, body.payload, limit), 0, 0)
    if len(records) != body.records:
        raise ValueError(_miscounted(len(records), body))
    return records


def stored_from(body: pb.Body, payload: bytes) -> tuple[int, bytes, int, int]:
    """Return codec, payload, number of records and unpacked size of a body that is stored as it
    came; ValueError as `items_from`."""
    plain = _unpacked(body, payload, body.decoded_bytes)
    records = fast.count_batch(plain)
    if records != body.records:
        raise ValueError(_miscounted(records, body))
    return body.codec, payload, records, len(plain)


def _unpacked(body: pb.Body, payload: bytes, limit: int) -> bytes:
    if not body.codec:
        return payload
    if not 0 < body.decoded_bytes <= limit:
        raise ValueError(f"a body of {body.decoded_bytes} bytes is over the limit of {limit}")
    return decompress(body.codec, payload, body.decoded_bytes)


def _miscounted(records: int, body: pb.Body) -> str:
    return f"a body holds {records} records, not {body.records} as it says"


def piece_of_batch(batch: Batch) -> pb.Piece:
    """Return a batch as it is stored."""
    return pb.Piece(
        shard=batch.shard_id,
        batch=batch.batch_id,
        first=batch.first,
        records=batch.end - batch.first,
        append_time_ms=batch.append_time_ms,
        codec=pb.Codec.ValueType(CODECS[batch.compression]),
        decoded_bytes=batch.decoded_bytes,
        payload=batch.payload,
        size=batch.size,
    )


def batch_from(piece: pb.Piece) -> Batch:
    return Batch(
        piece.shard,
        piece.batch,
        piece.first,
        piece.first + piece.records,
        piece.append_time_ms,
        CODEC_NAMES[piece.codec],
        piece.payload,
        piece.decoded_bytes,
        piece.size,
    )


def pieces_of(records: Iterable[Record]) -> Iterator[pb.Piece]:
    """Return pieces that hold these records and no others, in their order."""
    for (_, _, _, attempt), run in groupby(enumerate(records), key=_run_of):
        piece, payload = _piece([record for _, record in run], attempt)
        piece.payload = payload
        yield piece


def deliveries_of(batch: DeliveryBatch) -> list[bytes]:
    """Return the field of a `ConsumeReply` that delivers a batch, serialized, in parts: most of it
    is payload, and a message would copy that twice more."""
    parts: list[bytes] = []
    for piece, payload in _delivered(batch):
        head = piece.SerializeToString() + _PAYLOAD + _varint(len(payload))
        parts += (_PIECE + _varint(len(head) + len(payload)) + head, payload)
    return [_DELIVERIES + _varint(sum(map(len, parts))), *parts]


def _delivered(batch: DeliveryBatch) -> Iterator[tuple[pb.Piece, bytes]]:
    """Yield what `pieces_of` does, payloads beside the pieces: as they are stored, unless somebody
    has looked at the deliveries."""
    stored = batch._pieces()
    if stored is None:
        for (_, _, _, attempt), run in groupby(enumerate(batch), key=_run_of):
            yield _piece([record for _, record in run], attempt)
        return
    for shard, batch_id, index, records, append_ms, attempt, body in stored:
        piece = pb.Piece(
            shard=shard,
            batch=batch_id,
            base=index,
            first=index,
            records=records,
            append_time_ms=append_ms,
            decoded_bytes=len(body),
            attempt=attempt,
        )
        yield piece, body


def _piece(part: Sequence[Record], attempt: int) -> tuple[pb.Piece, bytes]:
    """Return a piece of records that lie side by side in one batch, and its payload."""
    head = part[0].id
    assert head is not None
    payload = fast.encode_batch(part)
    piece = pb.Piece(
        shard=head.shard_id,
        batch=head.batch_id,
        base=head.batch_index,
        first=head.batch_index,
        records=len(part),
        append_time_ms=part[0].append_time_ms or 0,
        decoded_bytes=len(payload),
        attempt=attempt,
    )
    return piece, payload


def _head(message: type[Message], field: str) -> bytes:
    """Return the tag of a field of bytes or of a message."""
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_DELIVERIES = _head(pb.ConsumeReply, "deliveries")
_PIECE = _head(pb.ConsumeReply.Deliveries, "pieces")
_PAYLOAD = _head(pb.Piece, "payload")


def _run_of(item: tuple[int, Record]) -> tuple[int, int, int, int]:
    at, record = item
    record_id = record.id
    assert record_id is not None
    attempt = record.attempt if isinstance(record, Delivery) else 0
    return record_id.shard_id, record_id.batch_id, record_id.batch_index - at, attempt


def records_from(piece: pb.Piece) -> list[Record]:
    """Decode; MalformedBatch where a client encoded the batch, and not as it said."""
    if piece.size:
        return batch_from(piece).records()
    return fast.decode_batch(
        _plain(piece),
        piece.shard,
        piece.batch,
        piece.first,
        piece.records,
        piece.append_time_ms,
        base=piece.base,
    )


def excerpts_from(pieces: Iterable[pb.Piece]) -> list[fast.Excerpt]:
    """Return what deliveries can be made of, shard by shard.

    MalformedBatch where a client encoded a batch, and not as it said.
    """
    found = []
    for _, run in groupby(pieces, key=lambda piece: piece.shard):
        excerpt = fast.Excerpt()
        for piece in run:
            excerpt.add(
                _plain(piece),
                piece.shard,
                piece.batch,
                piece.base,
                piece.first,
                piece.records,
                piece.append_time_ms,
                piece.attempt,
            )
        found.append(excerpt)
    return found


def batch_of(excerpts: Iterable[fast.Excerpt], owner: object) -> DeliveryBatch:
    """Return deliveries, made when somebody looks at them, if they are all of one shard."""
    found = [excerpt.batch(0, len(excerpt), owner) for excerpt in excerpts]
    if len(found) == 1:
        return found[0]
    batch = DeliveryBatch(delivery for part in found for delivery in part)
    batch._runs = tuple(runs for part in found for runs in part._runs)
    return batch


def _plain(piece: pb.Piece) -> bytes:
    if piece.codec:
        return decompress(piece.codec, piece.payload, piece.decoded_bytes)
    return piece.payload


def spans_to(spans: Iterable[Span]) -> pb.Spans:
    found = list(spans)
    return pb.Spans(
        shards=[span[0] for span in found],
        firsts=[span[1] for span in found],
        ends=[span[2] for span in found],
    )


def spans_from(spans: pb.Spans) -> list[Span]:
    return list(zip(spans.shards, spans.firsts, spans.ends, strict=True))


def scan_to(positions: Mapping[int, int], limits: Mapping[int, int]) -> pb.Scan:
    return pb.Scan(positions=positions, limits=limits)


def stream_info_to(info: StreamInfo) -> pb.StreamInfo:
    return pb.StreamInfo(
        name=info.name,
        created_ms=_ms(info.created),
        backlog_s=info.backlog.total_seconds(),
        max_bytes=info.max_bytes,
        protect=info.protect,
        records=info.records,
        bytes=info.bytes,
        shards=info.shards,
    )


def stream_info_from(info: pb.StreamInfo) -> StreamInfo:
    return StreamInfo(
        name=info.name,
        created=_time(info.created_ms),
        backlog=timedelta(seconds=info.backlog_s),
        max_bytes=info.max_bytes,
        protect=tuple(info.protect),
        records=info.records,
        bytes=info.bytes,
        shards=info.shards,
    )


def shard_to(shard: ShardRange) -> pb.Shard:
    return pb.Shard(id=shard.id, start=str(shard.start), end=str(shard.end), records=shard.records)


def shard_from(shard: pb.Shard) -> ShardRange:
    return ShardRange(
        id=shard.id, start=int(shard.start), end=int(shard.end), records=shard.records
    )


def subscription_info_to(info: SubscriptionInfo) -> pb.SubscriptionInfo:
    return pb.SubscriptionInfo(
        name=info.name,
        stream=info.stream,
        created_ms=_ms(info.created),
        mode=info.mode,
        ack_timeout_s=info.ack_timeout,
        max_unacked=info.max_unacked,
        consumers=info.consumers,
        unacked=info.unacked,
        backlog=info.backlog,
        paused=info.paused,
        max_attempts=info.max_attempts,
        dead_letter=info.dead_letter,
        backoff=None if info.backoff is None else backoff_to(info.backoff),
        max_unacked_bytes=info.max_unacked_bytes,
        max_unacked_per_consumer=info.max_unacked_per_consumer,
        max_unacked_bytes_per_consumer=info.max_unacked_bytes_per_consumer,
        unit=info.unit,
        damaged=info.damaged,
    )


def subscription_info_from(info: pb.SubscriptionInfo) -> SubscriptionInfo:
    return SubscriptionInfo(
        name=info.name,
        stream=info.stream,
        created=_time(info.created_ms),
        mode=info.mode,
        ack_timeout=info.ack_timeout_s,
        max_unacked=info.max_unacked,
        consumers=tuple(info.consumers),
        unacked=info.unacked,
        backlog=info.backlog,
        paused=info.paused,
        max_attempts=info.max_attempts,
        dead_letter=info.dead_letter if info.HasField("dead_letter") else None,
        backoff=backoff_from(info.backoff) if info.HasField("backoff") else None,
        max_unacked_bytes=info.max_unacked_bytes or None,
        max_unacked_per_consumer=info.max_unacked_per_consumer or None,
        max_unacked_bytes_per_consumer=info.max_unacked_bytes_per_consumer or None,
        unit=info.unit,
        damaged=info.damaged,
    )


def backoff_to(backoff: Backoff) -> pb.Backoff:
    return pb.Backoff(first_s=backoff.first, most_s=backoff.most, factor=backoff.factor)


def backoff_from(backoff: pb.Backoff) -> Backoff:
    return Backoff(first=backoff.first_s, most=backoff.most_s, factor=backoff.factor)


def lag_to(lag: Lag) -> pb.LagReply:
    return pb.LagReply(unacked=lag.unacked, backlog=lag.backlog, bytes=lag.bytes, age_s=lag.age)


def lag_from(lag: pb.LagReply) -> Lag:
    return Lag(lag.unacked, lag.backlog, lag.bytes, lag.age_s)


def event_to(event: Event) -> pb.ConsumeReply.Event:
    if isinstance(event, Gap):
        gap = pb.ConsumeReply.Gap(
            shard=event.shard_id,
            first=event.first_lsn,
            end=event.end_lsn,
            records=event.records,
            undelivered=event.undelivered,
        )
        return pb.ConsumeReply.Event(gap=gap)
    if isinstance(event, Damaged):
        damaged = pb.ConsumeReply.Damaged(
            shard=event.shard_id,
            first=event.first_lsn,
            end=event.end_lsn,
            records=event.records,
            reason=event.reason,
        )
        return pb.ConsumeReply.Event(damaged=damaged)
    to: Any = event.to
    sought = pb.ConsumeReply.Sought(to=place_to(to), positions=dict(event.positions))
    return pb.ConsumeReply.Event(sought=sought)


def event_from(event: pb.ConsumeReply.Event) -> Event:
    if event.HasField("gap"):
        gap = event.gap
        return Gap(gap.shard, gap.first, gap.end, gap.records, gap.undelivered)
    if event.HasField("damaged"):
        damaged = event.damaged
        return Damaged(damaged.shard, damaged.first, damaged.end, damaged.records, damaged.reason)
    return Sought(place_from(event.sought.to), tuple(sorted(event.sought.positions.items())))


def _ms(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(milliseconds=1)


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
