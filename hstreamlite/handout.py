"""How records get from the log into the hands of a consumer, in each mode of delivery.

The group says which records, they are read without its lock, and then the group is told which of
them were handed out. In mode "ordered" it also has to be told their keys first: these are read
ahead with a cursor of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from hstreamlite.errors import CorruptionError, RecordTrimmed
from hstreamlite.sub.effects import Assignment, Parcel
from hstreamlite.sub.keytab import run_bytes, runs_of

if TYPE_CHECKING:
    from hstreamlite.feed import Feed, Runs
    from hstreamlite.log.journal import Cursor, Journal
    from hstreamlite.records import Delivery

Part = TypeVar("Part", Assignment, Parcel)
_READ_BYTES = 8 << 20
_IDLE_CURSORS = 4


class Handout(Protocol, Generic[Part]):
    """One way of handing out: reserve, read, and confirm or give back."""

    def take(self, consumer: str, max_records: int, *, may_block: bool) -> tuple[Part, ...] | None:
        """Reserve records; None where that would have to wait for the disk."""

    def read(self, part: Part, owner: object, *, may_block: bool) -> list[Delivery] | None:
        """Return the first records of a part, or all; None where that would have to wait."""

    def confirm(self, part: Part, got: list[Delivery]) -> tuple[list[Delivery], list[Runs]]:
        """Return what of the records that were read may be handed out; the rest goes back."""


class CursorPool:
    """Cursors of shards, for whoever reads next: of those at hand, the one used last.

    What consumers share they read one after another, mostly from the block that the one before
    them read from. Thread-safe.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._idle: dict[int, list[Cursor]] = {}

    @contextmanager
    def lend(self, shard: int, lsn: int) -> Iterator[Cursor]:
        """Lend a cursor to one thread; the next one gets it with what it holds in memory."""
        idle = self._idle.setdefault(shard, [])
        try:
            cursor = idle.pop()
            cursor.seek(lsn)
        except IndexError:
            cursor = self._journal.cursor(shard, lsn)
        yield cursor
        if len(idle) < _IDLE_CURSORS:
            idle.append(cursor)


class SharedHandout:
    """Hands out runs of records."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._cursors = CursorPool(feed.journal)

    def take(
        self, consumer: str, max_records: int, *, may_block: bool
    ) -> tuple[Assignment, ...] | None:
        del may_block
        feed = self._feed
        with feed.lock:
            return feed.group.fetch(consumer, max_records, feed.begin(consumer), queue=True)

    def read(self, part: Assignment, owner: object, *, may_block: bool) -> list[Delivery] | None:
        shard, first, end, attempt, _ = part
        with self._cursors.lend(shard, first) as cursor:
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

    def read_on(
        self, shard: int, lsn: int, max_records: int, max_bytes: int, owner: object
    ) -> list[Delivery]:
        """Return records from an LSN on that nobody has to wait for, where a part ended."""
        with self._cursors.lend(shard, lsn) as cursor:
            return cursor.read(max_records, max_bytes=max_bytes, owner=owner, may_block=False) or []

    def confirm(self, part: Assignment, got: list[Delivery]) -> tuple[list[Delivery], list[Runs]]:
        end = part.first_lsn + len(got)
        with self._feed.lock:
            run = self._feed.group.confirm(part.lease, end, self._feed.now())
        if run is None:
            return [], []
        first, end = run
        runs = run_bytes(first, end - first, part.attempt)
        return got[first - part.first_lsn : end - part.first_lsn], [(part.shard_id, runs)]


class OrderedHandout:
    """Hands out parcels, whose records lie scattered, and tells the group the keys ahead."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._cursors = CursorPool(feed.journal)
        self._ahead = CursorPool(feed.journal)

    def take(
        self, consumer: str, max_records: int, *, may_block: bool
    ) -> tuple[Parcel, ...] | None:
        feed = self._feed
        while True:
            with feed.lock:
                now = feed.begin(consumer)
                wanted = feed.group.undescribed(max_records)
            failure: CorruptionError | None = None
            told: bool | None = False
            try:
                told = self._describe(wanted, may_block=may_block)
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

    def _describe(self, wanted: list[tuple[int, int, int]], *, may_block: bool) -> bool | None:
        """Tell the group keys; False if there are none, None if that would have to wait."""
        feed = self._feed
        told = False
        for shard, first, count in wanted:
            with self._ahead.lend(shard, first) as cursor:
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

    def read(self, part: Parcel, owner: object, *, may_block: bool) -> list[Delivery] | None:
        with self._cursors.lend(part.shard_id, 1) as cursor:
            try:
                return cursor.read_runs(
                    part.runs, max_bytes=_READ_BYTES, owner=owner, may_block=may_block
                )
            except RecordTrimmed:
                self._feed.pass_gap(part.shard_id, cursor.gap()[1])
                return []

    def confirm(self, part: Parcel, got: list[Delivery]) -> tuple[list[Delivery], list[Runs]]:
        with self._feed.lock:
            count, runs = self._feed.group.confirm_parcel(part.lease, len(got), self._feed.now())
        if count < len(got):
            kept = {lsn for r in runs_of(runs) for lsn in range(r.first, r.first + r.size)}
            got = [delivery for delivery in got if delivery.id.lsn in kept]
        return got, [(part.shard_id, runs)] if runs else []
