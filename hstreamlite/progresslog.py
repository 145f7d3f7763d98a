"""What stores the progress of one subscription in the progress log of its store.

Acks that nobody waits for are staged now and then, and become durable with whatever is staged next;
after a restart only what was acked since comes again.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from hstreamlite._native import fast
from hstreamlite.config import LEVELS
from hstreamlite.errors import StorageFull
from hstreamlite.log.journal import PROGRESS, Op
from hstreamlite.spans import Span

if TYPE_CHECKING:
    from hstreamlite.feed import Feed

log = logging.getLogger("hstreamlite")

_MEMORY: Final = LEVELS["memory"]
_OS: Final = LEVELS["os"]
PREFIX = struct.Struct("<Q")


class ProgressLog:
    """Stores what the group of one subscription tells, in order."""

    def __init__(self, feed: Feed, *, stored: bool) -> None:
        self._feed = feed
        self._needs_snapshot = not stored
        self._stored_ns = feed.now()
        self._prefix = PREFIX.pack(feed.state.id)
        self._room_bytes = 0
        self._note_level: int | None = None
        if not feed.engine.read_only:
            feed.group.save_by(
                lambda acks, shard: fast.Saver(
                    acks, shard, feed.engine.handle, PROGRESS, feed.state.id
                )
            )

    @property
    def missing(self) -> bool:
        """Whether the log has nothing to start from."""
        return self._needs_snapshot

    def tick(self, now: int) -> None:
        """Store progress if the interval has passed."""
        if now - self._stored_ns >= int(self._feed.engine.config.progress_interval * 1e9 / 2):
            self.store(may_block=True)

    def ops(self, spans: Iterable[Span] = ()) -> list[Op]:
        """Return what stores the progress so far, with `spans` as if they were acked. Lock held.

        The group takes it for stored. Unless `stored` tells so too, the next is a snapshot.
        """
        whole, self._needs_snapshot = self._needs_snapshot, True
        pieces = self._feed.group.snapshot() if whole else self._feed.group.delta()
        if not spans:
            return self._ops(pieces)
        runs: dict[int, list[tuple[int, int]]] = {}
        for shard, first, end in spans:
            runs.setdefault(shard, []).append((first, end))
        return self._ops(pieces + self._feed.group.acked_delta(runs))

    def sought_ops(self, positions: Mapping[int, int]) -> list[Op]:
        """Return what stores a seek that is about to be made. Lock held."""
        return self._ops(self._feed.group.sought_delta(positions))

    def _ops(self, pieces: Iterable[bytes]) -> list[Op]:
        return [(PROGRESS, [self._prefix + piece], None) for piece in pieces]

    def snapshot(self) -> list[bytes]:
        """Return the records that rebuild the progress, as `ops` does. Lock held."""
        self._needs_snapshot = True
        return [self._prefix + piece for piece in self._feed.group.snapshot()]

    def stored(self) -> None:
        """Note that what `ops` or `snapshot` returned is stored. Lock held."""
        self._needs_snapshot = False

    def may_note(self, *, may_block: bool) -> bool:
        """Prepare for `note_attempts`; False where that would have to wait, and may not."""
        if self._note_level is None and may_block:
            try:
                self._feed.journal.make_room(0, _OS)
                self._note_level = _OS
            except StorageFull as error:
                self._note_level = _MEMORY
                log.warning(
                    "attempts of subscription %r that end its process within %g s may not count "
                    "until the store is opened again: %s",
                    self._feed.state.name,
                    self._feed.engine.config.progress_interval,
                    error,
                )
        return self._note_level is not None

    def note_attempts(self, *, may_block: bool) -> None:
        """Have what was delivered outlive the process, which the records may be about to kill; as
        `store`."""
        assert self._note_level is not None
        self.store(may_block=may_block, level=self._note_level)

    def store(self, *, may_block: bool = False, level: int = _MEMORY) -> None:
        """Stage progress if there is any.

        Where there is no room at once, that is waited for without the lock if may_block, and else
        left to the store's own thread. A full disk is tried again later.
        """
        try:
            stored = self._try_store(level)
            while not stored and may_block:
                self._feed.journal.make_room(self._room_bytes)
                stored = self._try_store(level)
        except StorageFull as error:
            self._room_bytes = 0
            log.warning(
                "progress of subscription %r is not stored: %s", self._feed.state.name, error
            )
            return
        if not stored:
            self._feed.engine.wake()

    def commit(self, *, may_block: bool) -> int | None:
        """Stage all acks so far; return the ticket with which they are on disk.

        That of acks which others have staged before is no later. None where staging would have to
        wait, and may not. StorageFull when there is no room for it.
        """
        while True:
            with self._feed.lock:
                self._feed.check()
                if self._try_store():
                    return self._feed.journal.staged()
            if not may_block:
                return None
            try:
                self._feed.journal.make_room(self._room_bytes)
            except StorageFull:  # less may do, and there is a reserve for it
                return self._stage_now()

    def _stage_now(self) -> int:
        """Stage what is unsaved, however long that takes; returns the ticket."""
        with self._feed.lock:
            self._feed.check()
            self._feed.journal.stage(self.ops(), _MEMORY, system=True)
            self.stored()
            return self._feed.journal.staged()

    def _try_store(self, level: int = _MEMORY) -> bool:
        """Stage what is unsaved; False where that would have to wait."""
        with self._feed.lock:
            if self._feed.deleted or self._feed.engine.closed:
                return True
            self._stored_ns = self._feed.now()
            ops = self.ops()
            if ops and self._feed.journal.try_stage(ops, level, system=True) is None:
                self._room_bytes += 64 << 10  # several pieces may need more than was made
                return False
            self.stored()
            self._room_bytes = 0
            self._feed.group.arm()
            return True
