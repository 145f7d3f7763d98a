"""Reading a stream: cursors of its shards merged into append order.

Every block carries a store-wide order number. A scan of several shards delivers blocks by that
number, and only up to an order below which all of them are known to be readable: so the merge is
the order of the append calls, however the stream is partitioned.
"""

from __future__ import annotations

from collections.abc import Mapping, Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime

from hstreamlite._native import fast
from hstreamlite.config import CODEC_NAMES, Compression
from hstreamlite.errors import MalformedBatch
from hstreamlite.log.journal import END, Cursor, Journal, NotReady, RawBatch, decompress
from hstreamlite.records import Record

_BYTES = 64 << 10
"""Read at a time: what is handed out is still in the processor's cache, and its memory is used
again and again instead of being asked of the system."""
_BATCH_BYTES = 256 << 10


@dataclass(frozen=True, slots=True, repr=False)
class Batch:
    """Records appended together to one shard, undecoded.

    ``payload`` is the serialized ``BatchHStreamRecords`` under ``compression``, as stored;
    ``decoded_bytes`` is 0 where a client encoded it, and ``size`` the number of its records, of
    which those before ``first`` may be trimmed.
    """

    shard_id: int
    batch_id: int
    first: int
    end: int
    append_time_ms: int
    compression: Compression
    payload: bytes
    decoded_bytes: int
    size: int

    def __len__(self) -> int:
        return self.end - self.first

    @property
    def append_time(self) -> datetime:
        return datetime.fromtimestamp(self.append_time_ms / 1000, UTC)

    def records(self) -> list[Record]:
        """Decode. CorruptionError does not arise here: the bytes were checked when read.

        MalformedBatch where a client encoded them, and not as it said.
        """
        body = self.payload
        if self.compression != "none" or self.decoded_bytes == 0:
            body = self._unpacked()
        records: list[Record] = fast.decode_batch(
            body,
            self.shard_id,
            self.batch_id,
            self.first,
            self.end - self.first,
            self.append_time_ms,
        )
        return records

    def _unpacked(self) -> bytes:
        codec = CODEC_NAMES.index(self.compression)
        try:
            body = decompress(codec, self.payload, self.decoded_bytes) if codec else self.payload
            if fast.count_batch(body) == self.size:
                return body
        except ValueError as error:
            raise MalformedBatch(self.shard_id, self.batch_id, self.size) from error
        raise MalformedBatch(self.shard_id, self.batch_id, self.size)

    def __repr__(self) -> str:
        return (
            f"<Batch {self.shard_id}-{self.batch_id} records={len(self)} "
            f"bytes={len(self.payload)} compression={self.compression}>"
        )


class Scan:
    """A position in a stream that moves forward. Used by one thread at a time; never waits.

    `limits` maps shard to the LSN to stop before (END = none); `order_limit` bounds block order.
    """

    __slots__ = ("_cursors", "_key", "_left", "_limits", "journal")

    def __init__(
        self,
        journal: Journal,
        start: Mapping[int, int],
        limits: Mapping[int, int],
        *,
        limit: int | None,
        key: str | None,
        stream: str = "",
    ) -> None:
        self.journal = journal
        self._cursors = {shard: journal.cursor(shard, lsn) for shard, lsn in start.items()}
        for cursor in self._cursors.values():
            cursor.stream = stream
        self._limits = dict(limits)
        self._left = END if limit is None else limit
        self._key = key

    @property
    def shards(self) -> AbstractSet[int]:
        """What is read, also when done with it."""
        return self._cursors.keys()

    @property
    def spent(self) -> bool:
        """As many records as were asked for have come."""
        return self._left == 0

    @property
    def done(self) -> bool:
        """Nothing more will come, whatever is appended."""
        return self._left == 0 or all(
            cursor.lsn >= self._limits[shard] for shard, cursor in self._cursors.items()
        )

    def records(self, max_records: int, *, may_block: bool = True) -> list[Record]:
        """Return the next records; empty at the tail or when done.

        RecordTrimmed when records at the position are gone; a later call goes on behind the gap.
        NotReady, with nothing changed, where a file has to be read and may_block is False.
        """
        while True:
            count = min(max_records, self._left) if self._key is None else 1 << 30
            step = self._next_range(count, may_block=may_block)
            if step is None:
                return []
            cursor, count, end = step
            last = count == self._left
            records = cursor.read(count, end=end, max_bytes=_BYTES, may_block=may_block, last=last)
            if records is None:
                raise NotReady
            if self._key is not None:
                if not records:
                    return []
                wanted = self._key or None
                records = [r for r in records if r.key == wanted][: self._left]
                if not records:
                    continue
            self._left -= len(records)
            return records

    def batches(self, max_batches: int, *, may_block: bool = True) -> list[Batch]:
        """Return the next whole blocks under the same rules; a limit counts records, and the block
        that reaches it is the last."""
        step = self._next_range(END, may_block=may_block)
        if step is None:
            return []
        cursor, _, end = step
        raw = cursor.read_batches(max_batches, end=end, max_bytes=_BATCH_BYTES, may_block=may_block)
        if raw is None:
            raise NotReady
        batches = []
        for batch in raw:
            if self._left == 0:
                break
            batches.append(_batch(batch))
            self._left -= min(self._left, batch.end - batch.first)
        return batches

    def _next_range(self, count: int, *, may_block: bool) -> tuple[Cursor, int, int] | None:
        if self._left == 0:
            return None
        if len(self._cursors) == 1:
            shard, cursor = next(iter(self._cursors.items()))
            limit = self._limits[shard]
            return None if cursor.lsn >= limit else (cursor, count, limit)
        horizon = self.journal.order()
        best: tuple[int, Cursor, int] | None = None
        for shard, cursor in self._cursors.items():
            if cursor.lsn >= self._limits[shard]:
                continue
            peeked = cursor.peek(may_block=may_block)
            if peeked is None or peeked[0] > horizon:
                continue
            order, _, end = peeked
            if best is None or order < best[0]:
                best = (order, cursor, min(end, self._limits[shard]))
        if best is None:
            return None
        return best[1], count, best[2]


def _batch(raw: RawBatch) -> Batch:
    return Batch(
        raw.shard,
        raw.batch_id,
        raw.first,
        raw.end,
        raw.time_ms,
        CODEC_NAMES[raw.codec],
        raw.body,
        raw.decoded_len,
        raw.records,
    )
