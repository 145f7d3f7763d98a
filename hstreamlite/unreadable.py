"""Records of a subscription that cannot be read: told, set aside, skipped where somebody says so.

Damage is met by whoever is to get the records. That consumer gets the error, once; every consumer
gets an event. The records stay unacked, so nothing is lost sight of: after a restart they are tried
and told again, and where the file was restored they are delivered. Meanwhile the others go on.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hstreamlite.errors import CorruptionError

if TYPE_CHECKING:
    from hstreamlite.feed import Feed
    from hstreamlite.spans import Span

log = logging.getLogger("hstreamlite")


class Unread(Exception):
    """Records that were to be handed out cannot be read: a span, and what was found there."""

    def __init__(self, error: CorruptionError, span: Span) -> None:
        super().__init__(str(error))
        self.error = error
        self.span = span


class Unreadable:
    """What was told of one subscription."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._told: set[tuple[int, int, int]] = set()

    def meet(self, consumer: str, found: Unread) -> None:
        """Set records aside; CorruptionError unless these were told before."""
        feed, error = self._feed, found.error
        shard, first, end = found.span
        with feed.lock:
            feed.check()
            damaged = feed.group.set_aside(consumer, shard, first, end, str(error), feed.now())
            place = feed.seeks, shard, end
            if damaged is not None and place in self._told:
                return
            self._told.add(place)
        feed.journal.poke()
        log.warning(
            "subscription %r: records %d to %d of shard %d cannot be read, and are set aside: %s "
            "Restore the file from a backup and open the store again, or give the records up: "
            "hstreamlite subscription skip-damaged %s",
            feed.state.name,
            first,
            end - 1,
            shard,
            error,
            feed.state.name,
        )
        raise CorruptionError(
            error.path,
            error.offset,
            error.length,
            error.expected,
            error.found,
            error.lost,
            advice=(
                f"subscription {feed.state.name!r} goes on behind it; restore the file from a "
                "backup and open the store again, or give these records up with skip_damaged"
            ),
        ) from error

    def skip(self) -> tuple[int, int]:
        """Let what was set aside count as acked; return how many records, and the ticket."""
        feed = self._feed
        with feed.lock:
            feed.check()
            gaps = feed.group.skip_damaged()
        for gap in gaps:
            log.warning(
                "subscription %r: records %d to %d of shard %d cannot be read, and are given up",
                feed.state.name,
                gap.first_lsn,
                gap.end_lsn - 1,
                gap.shard_id,
            )
        feed.journal.poke()
        return sum(gap.records for gap in gaps), feed.progress.commit(may_block=True) or 0
