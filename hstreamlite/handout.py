"""How records get from the log into the hands of a consumer, in each mode of delivery.

The group says which records, they are read without its lock, and then the group is told which of
them were handed out. In mode "ordered" it also has to be told their keys first: these are read
ahead with a cursor of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from hstreamlite._native import fast
from hstreamlite.errors import CorruptionError, RecordTrimmed
from hstreamlite.log.journal import NotReady
from hstreamlite.sub.effects import Assignment, Parcel
from hstreamlite.sub.keytab import run_bytes, runs_of
from hstreamlite.unreadable import Unread

if TYPE_CHECKING:
    from hstreamlite.feed import Feed
    from hstreamlite.log.journal import Cursor, Journal
    from hstreamlite.spans import Runs

Part = TypeVar("Part", Assignment, Parcel)
Range = tuple[int, int]
"""Numbers of records of an excerpt: the first, and the one behind the last."""

_READ_BYTES = 8 << 20
_AHEAD_BYTES = 256 << 10
_IDLE_CURSORS = 4


class Handout(Protocol, Generic[Part]):
    """One way of handing out: reserve, read, and confirm or give back."""

    def take(
        self, consumer: str, max_records: int, *, may_block: bool, batches: int = 0
    ) -> tuple[Part, ...] | None:
        """Reserve records; None where that would have to wait for the disk.

        With batches it is so many of these, where they go to consumers as they are.
        """

    def runs(self, part: Part) -> bytes:
        """Return the records of a part as runs of a key table."""

    def read(self, part: Part, room: int | None, *, may_block: bool) -> fast.Excerpt | None:
        """Return the first records of a part, about as many as have room, or all; None where that
        would have to wait."""

    def confirm(
        self, part: Part, count: int, sizes: Sequence[int]
    ) -> tuple[list[Range], list[Runs]]:
        """Return which of the first records of a part, that were read, may be handed out, by their
        numbers; the rest goes back."""

    def confirm_some(self, part: Part, count: int, sizes: Sequence[int] = ()) -> Runs:
        """Have so many records of a part handed out, and the rest go back; return what is out."""

    def told(self) -> tuple[int, int]:
        """Return bytes and records read since the last call, for their mean size."""


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
            if self._journal.use_cache:
                cursor.use_cache()
        yield cursor
        if len(idle) < _IDLE_CURSORS:
            idle.append(cursor)

    def told(self) -> tuple[int, int]:
        """Return bytes and records read since the last call, by those at hand at both."""
        told = [cursor.told() for idle in list(self._idle.values()) for cursor in list(idle)]
        return sum(size for size, _ in told), sum(records for _, records in told)


def _lsns(runs: bytes) -> Iterator[int]:
    return (lsn for run in runs_of(runs) for lsn in range(run.first, run.first + run.size))


def _most(room: int | None) -> int:
    """Return how many bytes to read at once."""
    return _READ_BYTES if room is None else min(room, _READ_BYTES)


def _damage(cursor: Cursor, otherwise: int) -> tuple[int, int]:
    """Return the records from the cursor on that cannot be read."""
    lsn, end = cursor.lsn, cursor.damaged_end()
    return lsn, end if end > lsn else otherwise


class SharedHandout:
    """Hands out runs of records."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._cursors = CursorPool(feed.journal)

    def take(
        self, consumer: str, max_records: int, *, may_block: bool, batches: int = 0
    ) -> tuple[Assignment, ...] | None:
        del may_block, batches
        feed = self._feed
        with feed.lock:
            return feed.group.fetch(consumer, max_records, feed.begin(consumer), queue=True)

    def read(self, part: Assignment, room: int | None, *, may_block: bool) -> fast.Excerpt | None:
        shard, first, end, attempt, _ = part
        with self._cursors.lend(shard, first) as cursor:
            try:
                return cursor.excerpt(
                    end - first,
                    end=end,
                    max_bytes=_most(room),
                    attempt=attempt,
                    may_block=may_block,
                )
            except RecordTrimmed:
                self._feed.edge.pass_gap(shard, cursor.gap()[1])
                return fast.Excerpt()
            except CorruptionError as error:
                raise Unread(error, (shard, *_damage(cursor, end))) from error

    def read_on(
        self, shard: int, lsn: int, max_records: int, *, into: fast.Excerpt, may_block: bool
    ) -> None:
        """Read records from an LSN on, where a part or an excerpt ended."""
        with self._cursors.lend(shard, lsn) as cursor:
            cursor.excerpt(max_records, max_bytes=_AHEAD_BYTES, into=into, may_block=may_block)

    def told(self) -> tuple[int, int]:
        return self._cursors.told()

    def confirm(
        self, part: Assignment, count: int, sizes: Sequence[int]
    ) -> tuple[list[Range], list[Runs]]:
        run = self._confirm(part, part.first_lsn + count, sizes)
        if run is None:
            return [], []
        first, end = run
        runs = run_bytes(first, end - first, part.attempt)
        return [(first - part.first_lsn, end - part.first_lsn)], [(part.shard_id, runs)]

    def runs(self, part: Assignment) -> bytes:
        return run_bytes(part.first_lsn, part.records, part.attempt)

    def confirm_some(self, part: Assignment, count: int, sizes: Sequence[int] = ()) -> Runs:
        run = self._confirm(part, part.first_lsn + count, sizes)
        found = b"" if run is None else run_bytes(run[0], run[1] - run[0], part.attempt)
        return part.shard_id, found

    def _confirm(
        self, part: Assignment, end: int, sizes: Sequence[int] = ()
    ) -> tuple[int, int] | None:
        with self._feed.lock:
            run = self._feed.group.confirm(part.lease, end, self._feed.now(), sizes)
            if run is not None:
                records = run[1] - run[0]
                self._feed.count_sent(records, records if part.attempt > 1 else 0)
            return run


class OrderedHandout:
    """Hands out parcels, whose records lie scattered, and tells the group the keys ahead."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._cursors = CursorPool(feed.journal)
        self._ahead = CursorPool(feed.journal)
        self.seed = feed.engine.env.rng.fork("keys").u64()

    def take(
        self, consumer: str, max_records: int, *, may_block: bool, batches: int = 0
    ) -> tuple[Parcel, ...] | None:
        feed = self._feed
        while True:
            with feed.lock:
                now = feed.begin(consumer)
                wanted = feed.group.undescribed(max_records)
            told = self._describe(wanted, may_block=may_block)
            with feed.lock:
                parcels = feed.group.fetch_parcels(
                    consumer, max_records, now, queue=True, batches=batches
                )
                if feed.group.next_in_line(now) not in (None, consumer):
                    feed.journal.poke()  # keys were found that somebody else has in hand
            if parcels:
                return parcels
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
                    hashes = cursor.key_hashes(
                        count, end=first + count, seed=self.seed, may_block=may_block
                    )
                except RecordTrimmed:
                    feed.edge.pass_gap(shard, cursor.gap()[1])
                    told = True
                    continue
                except CorruptionError:
                    # Nobody knows their keys; who is to get them meets the damage.
                    _, end = _damage(cursor, first + 1)
                    hashes = bytes(8 * (min(end, first + count) - first))
            if hashes is None:
                return told or None
            with feed.lock:
                feed.group.describe(shard, first, hashes)
            told = told or bool(hashes)
        return told

    def read(self, part: Parcel, room: int | None, *, may_block: bool) -> fast.Excerpt | None:
        with self._cursors.lend(part.shard_id, 1) as cursor:
            try:
                return cursor.excerpt_runs(part.runs, max_bytes=_most(room), may_block=may_block)
            except RecordTrimmed:
                self._feed.edge.pass_gap(part.shard_id, cursor.gap()[1])
                return fast.Excerpt()
            except CorruptionError as error:
                span = part.shard_id, *_damage(cursor, cursor.lsn + 1)
                raise Unread(error, span) from error

    def read_on(
        self, shard: int, lsn: int, max_records: int, *, into: fast.Excerpt, may_block: bool
    ) -> None:
        """Read records from an LSN on, ahead of those that go out."""
        with self._cursors.lend(shard, lsn) as cursor:
            cursor.excerpt(max_records, max_bytes=_AHEAD_BYTES, into=into, may_block=may_block)

    def told(self) -> tuple[int, int]:
        return self._cursors.told()

    def confirm(
        self, part: Parcel, count: int, sizes: Sequence[int]
    ) -> tuple[list[Range], list[Runs]]:
        kept, runs = self._confirm(part, count, sizes)
        if not runs:
            return [], []
        ranges = [(0, count)]
        if kept < count:
            out = set(_lsns(runs))
            lsns = islice(_lsns(part.runs), count)
            ranges = [(n, n + 1) for n, lsn in enumerate(lsns) if lsn in out]
        return ranges, [(part.shard_id, runs)]

    def runs(self, part: Parcel) -> bytes:
        return part.runs

    def confirm_some(self, part: Parcel, count: int, sizes: Sequence[int] = ()) -> Runs:
        return part.shard_id, self._confirm(part, count, sizes)[1]

    def _confirm(self, part: Parcel, count: int, sizes: Sequence[int] = ()) -> tuple[int, bytes]:
        with self._feed.lock:
            got = self._feed.group.confirm_parcel(part.lease, count, self._feed.now(), sizes)
            self._feed.count_sent(got[0], fast.key_runs_again(got[1]))
            return got


class ShardHandout(OrderedHandout):
    """Hands out parcels where shards are kept in order, and tells the group of batches ahead."""

    def _describe(self, wanted: list[tuple[int, int, int]], *, may_block: bool) -> bool | None:
        feed = self._feed
        told = False
        for shard, first, count in wanted:
            gaps = feed.edge.passed
            ends, ready = self._ends(shard, first, first + count, may_block=may_block)
            with feed.lock:
                feed.group.describe_batches(shard, first, ends)
            told = told or bool(ends) or feed.edge.passed != gaps
            if not ready:
                return told or None
        return told

    def _ends(self, shard: int, first: int, end: int, *, may_block: bool) -> tuple[list[int], bool]:
        """Return where the batches from first up to an LSN end, and whether these are all."""
        ends: list[int] = []
        with self._ahead.lend(shard, first) as cursor:
            try:
                while first < end and (found := cursor.peek(may_block=may_block)):
                    first = found[2]
                    ends.append(first)
                    cursor.seek(first)
            except RecordTrimmed:
                self._feed.edge.pass_gap(shard, cursor.gap()[1])
            except NotReady:
                return ends, False
        return ends, True
