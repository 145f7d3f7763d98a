"""Deliveries as batches: for consumers that decode what they get, and so for clients of a server.

What a consumer is to get is read block by block, and goes out as it is stored. Only where a part of
a batch is to go out, since others have the rest or acked it, a batch is made of that: with the same
id, time and compression.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from hstreamlite._native import fast
from hstreamlite.config import BATCH_RECORDS_MAX, CODEC_NAMES, Compression
from hstreamlite.errors import CorruptionError, RecordTrimmed
from hstreamlite.feed import Feed
from hstreamlite.handout import CursorPool
from hstreamlite.log.journal import RawBatch, compress, decompress
from hstreamlite.spans import Span
from hstreamlite.sub.ackmap import LSN_MAX, AckFlag
from hstreamlite.sub.keytab import KeyRun, runs_of
from hstreamlite.unreadable import Unread

if TYPE_CHECKING:
    from hstreamlite.records import RecordId

_AHEAD_BYTES = 1 << 20
_MOST = {"ordered": 1024, "shared": 4096}
_FLAGS: Final = {AckFlag.NEW: 0, AckFlag.DUPLICATE: 1, AckFlag.VOID: 2, AckFlag.UNKNOWN: 3}


class Wait(Enum):
    """Why there is no batch."""

    FOR_RECORDS = "there is none to be had"
    FOR_FILES = "one has to be read from a file"


@dataclass(frozen=True, slots=True)
class RawDelivery:
    """A batch, or some of its records, as one delivery of each.

    ``indexes`` are those of the records in the stored batch, in the order in which ``payload`` has
    them: a range if it is ``whole``, and as stored. ``attempt`` is that of the first of them.
    """

    shard_id: int
    batch_id: int
    indexes: Sequence[int]
    whole: bool
    compression: Compression
    publish_time_ms: int
    payload: bytes
    attempt: int

    @property
    def spans(self) -> list[Span]:
        """The records as ranges."""
        shard, batch = self.shard_id, self.batch_id
        if self.whole:
            return [(shard, batch, batch + len(self.indexes))]
        return [(shard, batch + index, batch + index + 1) for index in self.indexes]


@dataclass(frozen=True, slots=True)
class RawAcks:
    """What acking by id did: records newly acked, acked before, void, and never delivered.

    Void are acks of what a consumer of records could not ack either: see `AckResult`.
    """

    new: int
    duplicate: int
    void: int
    unknown: int


class BatchFeed:
    """What one consumer takes of a subscription."""

    def __init__(self, feed: Feed, consumer: str, gate: fast.AckGate) -> None:
        self._feed = feed
        self._consumer = consumer
        self._gate = gate
        self._cursors = CursorPool(feed.journal)
        self._most = _MOST[feed.state.mode]

    def fetch(self, most: int = 1, *, may_block: bool) -> list[RawDelivery] | Wait:
        """Hand out the next batches, so many at most; an empty answer puts the consumer in line,
        as `Fetcher.fetch`. Of more than one, those behind the first make up a MiB at most.

        ConsumerClosed when it has left, whoever has its name by now: this may be called in a thread
        that was slower.

        CorruptionError, once, when it cannot be read: it stays undelivered, as `Fetcher.fetch`
        says; where shards are kept in order, so does what lies behind it.
        """
        feed = self._feed
        if feed.group.weighs:
            most = 1  # what fits is known of what was read
        while True:
            gaps = feed.edge.passed
            try:
                found = self._fetch(most, may_block=may_block)
            except Unread as unread:
                feed.unreadable.meet(self._consumer, unread)
                continue
            if found is not Wait.FOR_RECORDS or feed.edge.passed == gaps:
                return found

    def _fetch(self, most: int, *, may_block: bool) -> list[RawDelivery] | Wait:
        handout = self._feed.fetcher.handout
        parts = self._feed.fetcher.take(
            self._consumer, self._most, self._gate, may_block=may_block, batches=most
        )
        if not parts:
            return Wait.FOR_FILES if parts is None else Wait.FOR_RECORDS
        left = list(parts)
        part = left[0]
        try:
            while len(left) > 1:
                handout.confirm_some(left[1], 0)
                del left[1]
            runs = handout.runs(part)
            batches = self._read(part.shard_id, runs_of(runs), most, may_block=may_block)
            count = 0
            sizes: list[int] = []
            if batches:
                count = _leading(runs_of(runs), batches, part.room)
                if self._feed.group.weighs:
                    (raw,) = batches
                    sizes = [-(-len(raw.body) // raw.records)] * count
            _, out = handout.confirm_some(part, count, sizes)
        except BaseException:
            for reserved in left:
                handout.confirm_some(reserved, 0)
            raise
        if not batches:
            return Wait.FOR_RECORDS if may_block else Wait.FOR_FILES
        if not out:  # all of it was acked meanwhile
            return self._fetch(most, may_block=may_block)
        self._feed.sentry.moved(self._feed.now())
        return [_delivery(raw, runs) for raw, runs in _by_batch(batches, runs_of(out))]

    def _read(
        self, shard: int, runs: Sequence[KeyRun], most: int, *, may_block: bool
    ) -> list[RawBatch] | None:
        """Return the blocks from that on in which the first record lies, of those up to the last
        one; None if it would have to wait, empty where they are gone."""
        first = runs[0].first
        end = max(run.first + run.size for run in runs)
        with self._cursors.lend(shard, first) as cursor:
            try:
                return cursor.read_batches(
                    most, end=end, max_bytes=_AHEAD_BYTES, may_block=may_block
                )
            except RecordTrimmed:
                self._feed.edge.pass_gap(shard, cursor.gap()[1])
                return []
            except CorruptionError as error:
                span = shard, first, max(first + 1, cursor.damaged_end())
                raise Unread(error, span) from error


def _leading(runs: Sequence[KeyRun], batches: Sequence[RawBatch], room: int) -> int:
    """Return how many records at the start of runs make up what may go out of batches: of the first
    one, and of those behind it that were read to their ends and begin within so many records."""
    count = at = 0
    left = iter(runs)
    run = next(left, None)
    for raw in batches:
        before, end = count, raw.batch_id + raw.records
        if before and (before >= room or raw.end < raw.records):
            break
        while run is not None and max(at, raw.batch_id) <= run.first < end:
            at = min(run.first + run.size, end)
            count += at - run.first
            rest = run.size - (at - run.first)
            run = KeyRun(at, rest, run.attempt) if rest else next(left, None)
        if count > BATCH_RECORDS_MAX:
            return before or BATCH_RECORDS_MAX
    return count


def _by_batch(
    batches: list[RawBatch], runs: Iterable[KeyRun]
) -> Iterator[tuple[RawBatch, list[KeyRun]]]:
    """Yield batches with the runs of records, cut to them, that go out of each."""
    left = deque(runs)
    for raw in batches:
        end = raw.batch_id + raw.records
        mine: list[KeyRun] = []
        while left and left[0].first < end:
            run = left.popleft()
            if run.first + run.size > end:
                left.appendleft(KeyRun(end, run.first + run.size - end, run.attempt))
                run = KeyRun(run.first, end - run.first, run.attempt)
            mine.append(run)
        if mine:
            yield raw, mine


def _delivery(raw: RawBatch, runs: list[KeyRun]) -> RawDelivery:
    spans = [(run.first - raw.batch_id, run.first - raw.batch_id + run.size) for run in runs]
    whole = sum(end - first for first, end in spans) == raw.records
    payload = raw.body if whole else _part(raw, spans)
    whole = whole or payload is raw.body
    indexes: Sequence[int] = range(raw.records)
    if not whole:
        indexes = tuple(index for span in spans for index in range(*span))
    return RawDelivery(
        raw.shard,
        raw.batch_id,
        indexes,
        whole,
        CODEC_NAMES[raw.codec],
        raw.time_ms,
        payload,
        runs[0].attempt,
    )


def _part(raw: RawBatch, spans: list[tuple[int, int]]) -> bytes:
    """Return a batch of some records of one; all of it where it cannot be decoded."""
    body = raw.body
    try:
        if raw.codec:
            body = decompress(raw.codec, body, raw.decoded_len)
        if fast.count_batch(body) != raw.records:
            return raw.body
        body = fast.pick_batch(body, spans)
    except ValueError:
        return raw.body
    return compress(raw.codec, body) if raw.codec else body


def ack_ids(feed: Feed, ids: Iterable[tuple[int, int, int] | RecordId]) -> RawAcks:
    """Ack records by (shard, batch, index), each by itself: nothing about an id is an error."""
    places: dict[int, list[int]] = {}
    for shard, lsn in map(_place, ids):
        places.setdefault(shard, []).append(lsn)
    return ack_places(feed, places)


def ack_places(feed: Feed, places: Mapping[int, list[int]]) -> RawAcks:
    """Ack records by the LSNs in each shard, as `ack_ids`; 0 is the LSN of none."""
    feed.check()
    counts = [0, 0, 0, 0]
    attend = False
    for shard, lsns in places.items():
        address = feed.addresses.get(shard)
        if address is None:
            counts[3] += len(lsns)
            continue
        *some, flags = fast.ackmap_ack_many(address, lsns)
        if flags & AckFlag.UNKNOWN:  # then none was acked
            some, flags = _ack_singly(address, lsns)
        counts = [a + b for a, b in zip(counts, [*some, 0][:4], strict=True)]
        attend = attend or bool(flags & AckFlag.ATTENTION)
    if attend:
        feed.attend(may_block=False)
    return RawAcks(*counts)


def _place(item: tuple[int, int, int] | RecordId) -> tuple[int, int]:
    """Return shard and LSN; one that no record has for numbers that are none of a record."""
    shard, batch, index = (
        item if isinstance(item, tuple) else (item.shard_id, item.batch_id, item.batch_index)
    )
    lsn = batch + index
    return shard, lsn if batch > 0 and index >= 0 and lsn < LSN_MAX else 0


def _ack_singly(address: int, lsns: list[int]) -> tuple[list[int], int]:
    counts = [0, 0, 0, 0]
    flags = 0
    for lsn in lsns:
        got = fast.ackmap_ack(address, lsn)
        flags |= got
        for flag, at in _FLAGS.items():
            counts[at] += bool(got & flag)
    return counts, flags


def acked_up_to(feed: Feed) -> dict[int, int]:
    """Return for each shard the id of the last batch such that it and all before it are acked.

    0 where there is none; where that batch is trimmed, its last LSN.
    """
    found = {}
    for stand in feed.stand()[1]:
        last = stand.low - 1
        block = feed.journal.block_of(stand.shard, last) if last else None
        behind = feed.journal.block_of(stand.shard, stand.low)
        if block is not None and behind is not None and behind.first == block.first:
            last = block.first - 1  # that batch is not acked to its end
            block = feed.journal.block_of(stand.shard, last) if last else None
        found[stand.shard] = last if block is None else block.first
    return found
