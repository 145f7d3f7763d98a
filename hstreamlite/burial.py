"""Burial: records that were delivered often enough move to their dead-letter stream.

One frame holds the copies and what stores that the originals are acked, so a record is in one of
both places whatever happens. What cannot be moved stays doomed, in the log and in the group, and is
tried again: the dead-letter stream is gone, the disk is full, or the record cannot be read. Only an
ack that comes while its record is on the move does not hold it back: then it counts, and there is a
dead letter all the same.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from hstreamlite._native import fast
from hstreamlite.config import CODECS, LEVELS
from hstreamlite.errors import (
    CorruptionError,
    Forked,
    HStreamError,
    MalformedBatch,
    RecordTrimmed,
    StorageFull,
    StoreClosed,
    StoreFailed,
)
from hstreamlite.feed import Feed
from hstreamlite.letters import dead_letter
from hstreamlite.log.journal import Cursor
from hstreamlite.records import Record
from hstreamlite.spans import Span
from hstreamlite.sub.effects import Doomed

log = logging.getLogger("hstreamlite")

RETRY_NS = 1_000_000_000
_STEPS = 16
_RECORDS = 1_000
_BYTES = 1 << 20
_SYNC = LEVELS["sync"]


@dataclass(slots=True)
class Grave:
    """A doomed run, the ranges of it that can be moved, and their dead letters."""

    run: Doomed
    spans: list[Span] = field(default_factory=list)
    letters: list[Record] = field(default_factory=list)
    bytes: int = 0

    def add(self, lsn: int, letter: Record, size: int) -> None:
        shard = self.run.shard_id
        if self.spans and self.spans[-1][2] == lsn:
            self.spans[-1] = (shard, self.spans[-1][1], lsn + 1)
        else:
            self.spans.append((shard, lsn, lsn + 1))
        self.letters.append(letter)
        self.bytes += size


class Burial:
    """Moves what is doomed in one subscription; driven by the store's own thread."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._engine = feed.engine
        self._lock = feed.engine.env.threads.lock()
        self._cursors: dict[int, Cursor] = {}
        config = feed.engine.config
        self._letter_bytes_max = config.batch_bytes_max
        self._bytes_max = min(_BYTES, config.stage_bytes // 4, config.transaction_bytes_max // 2)
        self._most = self._bytes_max
        self._failure = ""
        self._retry_ns = 0

    def run(self, now: int) -> int | None:
        """Move what is doomed; return when to come again, or None."""
        with self._lock:
            if now < self._retry_ns:
                return self._retry_ns
            self._failure = ""
            try:
                for _ in range(_STEPS):
                    if not self._bury_what_fits():
                        break
                else:
                    return now
            except (StoreClosed, StoreFailed, Forked):
                raise
            except (HStreamError, OSError, MemoryError) as error:
                self._fail(str(error) or repr(error))
            self._tell()
            if not self._failure:
                return None
            self._retry_ns = now + RETRY_NS
            return self._retry_ns

    def _bury_what_fits(self) -> bool:
        """Move some records, fewer and fewer of them while there is no room, one at least."""
        while True:
            try:
                moved = self._bury()
            except StorageFull:
                if self._most == 1:
                    raise
                self._most = max(1, self._most // 4)
            else:
                self._most = min(self._bytes_max, 4 * self._most)
                return moved

    def _bury(self) -> bool:
        """Move some records; False when there is nothing left that can be moved."""
        feed = self._feed
        with feed.lock:
            if feed.deleted:
                return False
            stream = self._engine.catalog.by_id[feed.state.stream_id].name
            doomed = feed.group.doomed(_RECORDS)
        graves: list[Grave] = []
        left = self._most
        for run in doomed:
            grave = self._dig(run, stream, left)
            if grave.bytes > left and graves:
                break
            if grave.letters:
                graves.append(grave)
            left -= grave.bytes
            if left <= 0:
                break
        if graves:
            self._move(graves)
            return True
        return bool(doomed) and not self._failure

    def _dig(self, run: Doomed, stream: str, max_bytes: int) -> Grave:
        """Read a run and write its dead letters, so many bytes of them, but one at least.

        What cannot be read, or not be copied, is set aside.
        """
        grave = Grave(run)
        for record in self._read(run, max_bytes):
            assert record.id is not None
            letter = dead_letter(
                record,
                stream=stream,
                subscription=self._feed.state.name,
                attempts=run.attempts,
                reason=run.reason,
            )
            size = len(fast.encode_batch([letter]))
            if size > self._letter_bytes_max:
                self._set_aside(
                    run,
                    f"record {record.id} has {size} bytes as a dead letter, more than "
                    f"batch_bytes_max ({self._letter_bytes_max}); open the store with a larger one",
                )
                continue
            if grave.letters and grave.bytes + size > max_bytes:
                break
            grave.add(record.id.lsn, letter, size)
        return grave

    def _read(self, run: Doomed, max_bytes: int) -> list[Record]:
        """Return records of a run, passing over those that are trimmed or damaged."""
        shard, at, end = run[:3]
        cursor = self._cursors.get(shard)
        if cursor is None:
            cursor = self._cursors[shard] = self._engine.journal.cursor(shard, at)
        while at < end:
            cursor.seek(at)
            try:
                return cursor.read(end - at, end=end, max_bytes=max_bytes) or []
            except RecordTrimmed:
                at = cursor.gap()[1]
                self._feed.edge.pass_gap(shard, at)
            except MalformedBatch as error:
                self._set_aside(run, str(error))
                at = error.batch_id + error.records
            except CorruptionError as error:
                self._set_aside(run, str(error))
                at = cursor.damaged_end() if cursor.damaged_end() > at else end
        return []

    def _move(self, graves: list[Grave]) -> None:
        """Stage the dead letters and the acks of the originals in one frame, and ack."""
        feed, engine = self._feed, self._engine
        with engine.lock, feed.lock:
            if feed.deleted:
                return
            graves = [grave for grave in graves if feed.still_doomed(grave.spans)]
            letters = [letter for grave in graves for letter in grave.letters]
            spans = [span for grave in graves for span in grave.spans]
            if not letters:
                return
            target = engine.stream(feed.state.dead_letter)
            ops, _ = engine.ops_of(target, letters, None, CODECS["none"])

            def then(ticket: int, _: object) -> None:
                feed.progress.stored()
                feed.ack_spans(spans, may_block=False)
                feed.note_buried(spans[0], ticket, len(letters))

            engine.journal.stage_then(ops + feed.progress.ops(spans), _SYNC, then)

    def _set_aside(self, run: Doomed, why: str) -> None:
        """Try a run again after the others."""
        self._fail(why)
        with self._feed.lock:
            self._feed.group.put_off(run.shard_id, run.first_lsn)

    def _fail(self, why: str) -> None:
        self._failure = self._failure or why

    def _tell(self) -> None:
        """Let `stats()` say what holds the rest up, and the log when that begins."""
        feed = self._feed
        if self._failure and not feed.burial_failure:
            log.warning(
                "subscription %r: records cannot be moved to dead-letter stream %r, and wait: %s",
                feed.state.name,
                feed.state.dead_letter,
                self._failure,
            )
        elif feed.burial_failure and not self._failure:
            log.warning(
                "subscription %r: records are moved to dead-letter stream %r again",
                feed.state.name,
                feed.state.dead_letter,
            )
        feed.burial_failure = feed.group.unburied = self._failure
