"""Redriving: dead letters go back to the stream they died in, each once.

The catalog keeps, for each subscription, up to where its dead-letter stream was redriven. That
place moves in the frame of the appends, so a crash leaves both or neither, and the letters stay
where they are until retention or a trim takes them. Acks of a hidden subscription would do the same
with more state; trimming would take away the letters of other subscriptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hstreamlite._native import fast
from hstreamlite.config import CODECS, LEVELS, check_int
from hstreamlite.engine import Pending
from hstreamlite.errors import CorruptionError, RecordTrimmed, StreamNotFound
from hstreamlite.feed import Feed
from hstreamlite.letters import died_in, redriven
from hstreamlite.log import catalog as catalogs
from hstreamlite.log.catalog import StreamState
from hstreamlite.log.journal import CATALOG, END
from hstreamlite.records import Record

_RECORDS = 1_000
_BYTES = 1 << 20
_SYNC = LEVELS["sync"]


def redrive(feed: Feed, limit: int | None = None) -> Pending:
    """Stage the return of up to ``limit`` dead letters; the value is how many that were.

    Letters that come meanwhile are left for the next time. CorruptionError after the others were
    staged when some could not be read.
    """
    most = END if limit is None else check_int("limit", limit, 0, END)
    feed.check()
    if not feed.state.dead_letter:
        raise ValueError(
            f"subscription {feed.state.name!r} has no dead-letter stream, so nothing to redrive; "
            "create it with max_attempts and dead_letter"
        )
    target = own_stream(feed)
    source = feed.engine.stream(feed.state.dead_letter)
    with feed.redriving:
        return Redrive(feed, source, target).run(most)


def own_stream(feed: Feed) -> StreamState:
    """Return the stream a subscription is of; StreamNotFound if it is deleted."""
    stream = feed.engine.catalog.by_id.get(feed.state.stream_id)
    if stream is None or stream.archived:
        raise StreamNotFound(feed.state.name if stream is None else stream.name)
    return stream


class Redrive:
    """One run over what is in the dead-letter stream now."""

    def __init__(self, feed: Feed, source: StreamState, target: StreamState) -> None:
        self._feed = feed
        self._engine = feed.engine
        self._source = source
        self._target = target
        config = feed.engine.config
        self._bytes_max = min(_BYTES, config.stage_bytes // 4, config.transaction_bytes_max // 2)
        self._damage: CorruptionError | None = None
        self._ticket = 0

    def run(self, most: int) -> Pending:
        left = most
        for shard in self._source.shard_ids:
            left -= self._redrive(shard, left)
        if self._damage is not None:
            self._engine.journal.wait(self._ticket)
            raise self._damage
        return Pending(most - left, self._ticket)

    def _redrive(self, shard: int, most: int) -> int:
        count = 0
        end = self._engine.journal.info(shard).durable_next
        for chunk in self._chunks(shard, end):
            letters = chunk
            while letters:
                if count == most:
                    return count
                records, rest = self._cut(letters, most - count)
                if records:
                    self._append(shard, _lsn(rest[0]) if rest else _lsn(letters[-1]) + 1, records)
                count += len(records)
                letters = rest
        return count

    def _chunks(self, shard: int, end: int) -> Iterator[list[Record]]:
        """Yield what a shard holds from where it was redriven last, passing over what is gone."""
        cursor = self._engine.journal.cursor(shard, self._feed.state.redriven.get(shard, 1))
        while cursor.lsn < end:
            at = cursor.lsn
            try:
                letters = cursor.read(_RECORDS, end=end, max_bytes=self._bytes_max)
            except RecordTrimmed:
                continue
            except CorruptionError as error:
                self._damage = self._damage or error
                cursor.seek(cursor.damaged_end() if cursor.damaged_end() > at else end)
                continue
            if not letters:
                return
            yield letters

    def _cut(self, letters: list[Record], most: int) -> tuple[list[Record], list[Record]]:
        """Return the records of the first letters, as many as one frame takes, and the rest."""
        records: list[Record] = []
        size = 0
        for at, letter in enumerate(letters):
            if not died_in(letter, self._feed.state.name):
                continue
            if len(records) == most:
                return records, letters[at:]
            record = redriven(letter)
            size += len(fast.encode_batch([record]))
            if records and size > self._bytes_max:
                return records, letters[at:]
            records.append(record)
        return records, []

    def _append(self, shard: int, position: int, records: list[Record]) -> None:
        """Stage records, and that their letters are done, in one frame."""
        feed, engine = self._feed, self._engine
        with engine.lock, feed.lock:
            feed.check()
            own_stream(feed)
            places = {s: feed.state.redriven.get(s, 1) for s in self._source.shard_ids}
            state = replace(feed.state, redriven=places | {shard: position})
            change = catalogs.subscription_change(state)
            ops, _ = engine.ops_of(self._target, records, None, CODECS["none"])

            def then(ticket: int, _: object) -> None:
                engine.catalog.apply(change)
                feed.state = state
                self._ticket = ticket

            ops.append((CATALOG, [catalogs.encode(change)], None))
            engine.journal.stage_then(ops, _SYNC, then)


def _lsn(record: Record) -> int:
    assert record.id is not None
    return record.id.lsn
