"""How records get from the log into the hands of a consumer, in each mode of delivery.

The group says which records, they are read without its lock, and then the group is told which of
them were handed out. In mode "ordered" it also has to be told their keys first: these are read
ahead with a cursor of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from hstreamlite.errors import CorruptionError, RecordTrimmed
from hstreamlite.sub.effects import Assignment, Parcel

if TYPE_CHECKING:
    from hstreamlite.feed import Feed, Span
    from hstreamlite.log.journal import Cursor
    from hstreamlite.records import Delivery

Part = TypeVar("Part", Assignment, Parcel)
_READ_BYTES = 8 << 20


class Handout(Protocol, Generic[Part]):
    """One way of handing out: reserve, read, and confirm or give back."""

    def take(
        self, consumer: str, cursors: dict[int, Cursor], max_records: int, *, may_block: bool
    ) -> tuple[Part, ...] | None:
        """Reserve records; None where that would have to wait for the disk."""

    def read(
        self, part: Part, cursors: dict[int, Cursor], owner: object, *, may_block: bool
    ) -> list[Delivery] | None:
        """Return the first records of a part, or all; None where that would have to wait."""

    def confirm(self, part: Part, got: list[Delivery]) -> tuple[list[Delivery], list[Span]]:
        """Return what of the records that were read may be handed out; the rest goes back."""


def _cursor(feed: Feed, cursors: dict[int, Cursor], key: int, shard: int, lsn: int) -> Cursor:
    cursor = cursors.get(key)
    if cursor is None:
        cursor = cursors[key] = feed.journal.cursor(shard, lsn)
    cursor.seek(lsn)
    return cursor


class SharedHandout:
    """Hands out runs of records."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def take(
        self, consumer: str, cursors: dict[int, Cursor], max_records: int, *, may_block: bool
    ) -> tuple[Assignment, ...] | None:
        del cursors, may_block
        feed = self._feed
        with feed.lock:
            return feed.group.fetch(consumer, max_records, feed.begin(consumer), queue=True)

    def read(
        self, part: Assignment, cursors: dict[int, Cursor], owner: object, *, may_block: bool
    ) -> list[Delivery] | None:
        shard, first, end, attempt, _ = part
        cursor = _cursor(self._feed, cursors, shard, shard, first)
        try:
            return cursor.read(
                end - first,
                end=end,
                max_bytes=_READ_BYTES,
                owner=owner,
                attempt=attempt,
                may_block=may_block,
            )
        except RecordTrimmed:
            self._feed.pass_gap(shard, cursor.gap()[1])
            return []

    def confirm(self, part: Assignment, got: list[Delivery]) -> tuple[list[Delivery], list[Span]]:
        end = part.first_lsn + len(got)
        with self._feed.lock:
            run = self._feed.group.confirm(part.lease, end, self._feed.now())
        if run is None:
            return [], []
        first, end = run
        return got[first - part.first_lsn : end - part.first_lsn], [(part.shard_id, first, end)]


class OrderedHandout:
    """Hands out parcels, whose records lie scattered, and tells the group the keys ahead."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def take(
        self, consumer: str, cursors: dict[int, Cursor], max_records: int, *, may_block: bool
    ) -> tuple[Parcel, ...] | None:
        feed = self._feed
        while True:
            with feed.lock:
                now = feed.begin(consumer)
                wanted = feed.group.undescribed(max_records)
            failure: CorruptionError | None = None
            told: bool | None = False
            try:
                told = self._describe(wanted, cursors, may_block=may_block)
            except CorruptionError as error:
                failure = error  # what lies before it is handed out first
            with feed.lock:
                parcels = feed.group.fetch_parcels(consumer, max_records, now, queue=True)
                if feed.group.next_in_line(now) not in (None, consumer):
                    feed.journal.poke()  # keys were found that somebody else has in hand
            if parcels:
                return parcels
            if failure is not None:
                raise failure
            if told is None:
                return None
            if not told:
                return ()

    def _describe(
        self, wanted: list[tuple[int, int, int]], cursors: dict[int, Cursor], *, may_block: bool
    ) -> bool | None:
        """Tell the group keys; False if there are none, None if that would have to wait."""
        feed = self._feed
        told = False
        for shard, first, count in wanted:
            cursor = _cursor(feed, cursors, ~shard, shard, first)
            try:
                hashes = cursor.key_hashes(count, end=first + count, may_block=may_block)
            except RecordTrimmed:
                feed.pass_gap(shard, cursor.gap()[1])
                told = True
                continue
            if hashes is None:
                return told or None
            with feed.lock:
                feed.group.describe(shard, first, hashes)
            told = told or bool(hashes)
        return told

    def read(
        self, part: Parcel, cursors: dict[int, Cursor], owner: object, *, may_block: bool
    ) -> list[Delivery] | None:
        cursor = _cursor(self._feed, cursors, part.shard_id, part.shard_id, 1)
        try:
            return cursor.read_runs(
                part.runs, max_bytes=_READ_BYTES, owner=owner, may_block=may_block
            )
        except RecordTrimmed:
            self._feed.pass_gap(part.shard_id, cursor.gap()[1])
            return []

    def confirm(self, part: Parcel, got: list[Delivery]) -> tuple[list[Delivery], list[Span]]:
        with self._feed.lock:
            runs = self._feed.group.confirm_parcel(part.lease, len(got), self._feed.now())
        spans = [(part.shard_id, run.first, run.first + run.size) for run in runs]
        if sum(run.size for run in runs) == len(got):
            return got, spans
        kept = {lsn for _, first, end in spans for lsn in range(first, end)}
        return [delivery for delivery in got if delivery.id.lsn in kept], spans
