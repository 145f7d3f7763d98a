"""Batches as clients encode them, and the shards they lie in: what passes through untouched.

A batch is the payload of HStreamDB's `BatchedRecord`: a serialized `BatchHStreamRecords` under one
of its compression types. One batch is one block, whose decoded length is unknown, since nobody
looks inside: whether it holds what its sender said shows when somebody reads it as records.

Places are those of HStreamDB's clients: they name whole batches, and the end of a read is included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from hstreamlite.config import BATCH_RECORDS_MAX, check_compression, check_int
from hstreamlite.engine import Engine, Pending
from hstreamlite.errors import (
    BatchTooLarge,
    PlaceConflict,
    RecordTrimmed,
    ShardNotFound,
    UnknownPlace,
)
from hstreamlite.feed import Feed
from hstreamlite.log.catalog import StreamState
from hstreamlite.log.journal import END, Op
from hstreamlite.log.reader import Scan
from hstreamlite.place import EARLIEST, LATEST, Position, check_place
from hstreamlite.records import RecordId

_MS_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class Time:
    """A time of publication, in milliseconds since 1970."""

    ms: int


Point = Position | RecordId | Time | datetime
"""EARLIEST, LATEST, the batch of a record id, whatever its index, or a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSubscription:
    """A subscription as clients ask for it; `start` is "" where it was neither of the two."""

    name: str
    stream: str
    created_ms: int
    ack_timeout: float
    max_unacked: int
    mode: str
    unit: str
    start: str
    consumers: tuple[str, ...]

    @classmethod
    def of(cls, feed: Feed) -> Self:
        state = feed.state
        return cls(
            name=state.name,
            stream=feed.engine.catalog.stream_name(state.stream_id),
            created_ms=state.created_ms,
            ack_timeout=state.ack_timeout,
            max_unacked=state.max_unacked,
            mode=state.mode,
            unit=state.unit,
            start=state.origin,
            consumers=feed.stats().consumers,
        )


def shard_of(engine: Engine, shard_id: int, stream: str | None = None) -> StreamState:
    """Return the stream of a shard; ShardNotFound where there is none, or it is of another one."""
    check_int("shard_id", shard_id, 0, END)
    engine.check_open()
    state = engine.catalog.of_shard(shard_id) if stream is None else engine.stream(stream)
    if state is None or shard_id not in state.shard_ids:
        raise ShardNotFound(shard_id, stream or "")
    return state


def batch_op(
    engine: Engine, shard_id: int, payload: object, compression: object, batch_size: object
) -> Op:
    """Return what to stage for a batch that is stored as it is."""
    if not isinstance(payload, bytes):
        raise TypeError(f"payload must be bytes, not {type(payload).__name__}")
    if not payload:
        raise ValueError("payload must hold a batch of records, and is empty")
    codec = check_compression(compression)
    records = check_int("batch_size", batch_size, 1, BATCH_RECORDS_MAX)
    limit = engine.config.batch_bytes_max
    if len(payload) > limit:
        raise BatchTooLarge(len(payload), limit)
    return (shard_id, codec, payload, records, 0)


def tail_of(engine: Engine, shard_id: int) -> int:
    """Return the id of the last durable batch kept of a shard; 0 if there is none."""
    last = engine.journal.info(shard_id).durable_next - 1
    block = engine.journal.block_of(shard_id, last) if last else None
    return block.first if block else 0


# Places.


def _checked(name: str, point: object) -> Point:
    if isinstance(point, Time):
        return Time(min(max(check_int("ms", point.ms, -(1 << 63), 1 << 63), 0), _MS_MAX))
    place = check_place(name, point)
    return Time(int(place.timestamp() * 1000)) if isinstance(place, datetime) else place


def _batch_id(shard: int, record: RecordId) -> int:
    if record.shard_id != shard:
        raise PlaceConflict(record, f"is of another shard than {shard}")
    return record.batch_id


def _first_of(engine: Engine, shard: int, record: RecordId) -> int:
    """Return the first LSN of the batch of a record: its own where that is gone, or to come."""
    lsn = _batch_id(shard, record)
    block = engine.journal.block_of(shard, lsn) if lsn else None
    return lsn if block is None else block.first


def _start(engine: Engine, shard: int, point: Point) -> int:
    """Return the LSN from which on batches are read: behind the tail for an id that is to come."""
    first, following, _ = engine.journal.bounds(shard)
    if point is EARLIEST:
        return first
    if point is LATEST:
        return following
    if isinstance(point, Time):
        return engine.journal.seek_time(shard, point.ms)
    assert isinstance(point, RecordId)
    return max(first, _first_of(engine, shard, point))


def _last(engine: Engine, shard: int, point: Point) -> int:
    """Return the last LSN that is read, at least; its batch is the last one."""
    first, following, _ = engine.journal.bounds(shard)
    if point is EARLIEST:
        return first - 1
    if point is LATEST:
        return following - 1
    if isinstance(point, Time):
        return min(following, engine.journal.seek_time(shard, point.ms + 1)) - 1
    assert isinstance(point, RecordId)
    return _batch_id(shard, point)


def _reversed(engine: Engine, shard: int, start: Point, until: Point) -> bool:
    """Tell whether a start lies behind an end, whatever there is to read."""
    if isinstance(start, RecordId) and isinstance(until, RecordId):
        return _first_of(engine, shard, start) > until.batch_id
    if isinstance(start, Time) and isinstance(until, Time):
        return start.ms > until.ms
    return start is not EARLIEST and until is EARLIEST


def range_of(engine: Engine, shard: int, start: object, until: object) -> tuple[int, int]:
    """Return the first LSN and the one behind the last of a read of one shard.

    Nothing lies between where there is nothing. PlaceConflict for a start behind the end, or an id
    of another shard. May read parts of indexes from files.
    """
    start, until = _checked("start", start), None if until is None else _checked("until", until)
    first = _start(engine, shard, start)
    if until is None:
        return first, END
    end = _last(engine, shard, until) + 1
    if _reversed(engine, shard, start, until) or (start is not EARLIEST and first > end):
        raise PlaceConflict(start, f"lies behind the end, {until}")
    return first, end


def scan_shard(engine: Engine, shard: int, start: object, until: object) -> Scan:
    """Return a scan of the batches of one shard."""
    first, end = range_of(engine, shard, start, until)
    return Scan(engine.journal, {shard: first}, {shard: end}, limit=None, key=None)


def scan_stream(engine: Engine, state: StreamState, start: object, until: object) -> Scan:
    """Return a scan of all shards; those whose start is behind their end are left out."""
    ranges: dict[int, tuple[int, int]] = {}
    for shard in state.shard_ids:
        try:
            ranges[shard] = range_of(engine, shard, start, until)
        except PlaceConflict:
            ranges[shard] = (1, 1)
    return Scan(
        engine.journal,
        {shard: first for shard, (first, _) in ranges.items()},
        {shard: end for shard, (_, end) in ranges.items()},
        limit=None,
        key=None,
    )


# Trimming.


def _behind(engine: Engine, shard: int, point: Point) -> int:
    """Return the first LSN that stays when a shard is cut up to and including a point."""
    first, following, _ = engine.journal.bounds(shard)
    if point is EARLIEST:
        return first
    if not isinstance(point, RecordId):
        return _last(engine, shard, point) + 1
    lsn = _batch_id(shard, point)
    if lsn >= following:
        raise UnknownPlace(point, tail_of(engine, shard))
    try:
        block = engine.journal.cursor(shard, lsn).peek() if lsn >= first else None
    except RecordTrimmed:
        block = None
    return first if block is None else block[2]


def trim_to(engine: Engine, stream: str, shards: Iterable[int] | None, point: object) -> Pending:
    """Stage a trim of shards, all by default, up to and including a point.

    A time is that of the last batch to go. `Housekeeping.apply_trims` applies it when the ticket is
    durable.
    """
    point = _checked("point", point)
    state = engine.stream(stream)
    firsts = {
        shard: _behind(engine, shard, point)
        for shard in (state.shard_ids if shards is None else shards)
    }
    return _stage_trims(engine, stream, firsts)


def trim_before(
    engine: Engine, stream: str, ids: Iterable[RecordId]
) -> tuple[Pending, dict[int, RecordId]]:
    """Stage a trim of what lies before the batches of records: of the oldest one of each shard."""
    oldest: dict[int, RecordId] = {}
    for record in ids:
        shard_of(engine, record.shard_id, stream)
        if record.batch_id and record <= oldest.get(record.shard_id, record):
            oldest[record.shard_id] = record
    for shard, record in oldest.items():
        if record.batch_id >= engine.journal.bounds(shard)[1]:
            raise UnknownPlace(record, tail_of(engine, shard))
    firsts = {shard: _first_of(engine, shard, record) for shard, record in oldest.items()}
    return _stage_trims(engine, stream, firsts), oldest


def _stage_trims(engine: Engine, stream: str, firsts: Mapping[int, int]) -> Pending:
    with engine.lock:
        engine.check_open()
        kept = engine.stream(stream).shard_ids  # another stream may have the name by now
        return engine.stage_trims({s: first for s, first in firsts.items() if s in kept})
