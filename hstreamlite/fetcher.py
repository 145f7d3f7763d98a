"""How a consumer gets records: the group assigns them, they are read, and those read go out.

What cannot be read or decoded is told, once, to the consumer that would have got it, and does not
hold up what lies behind it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from hstreamlite._native import fast
from hstreamlite.errors import ConsumerClosed, HStreamError, MalformedBatch
from hstreamlite.handout import Handout, OrderedHandout, ShardHandout, SharedHandout
from hstreamlite.records import DeliveryBatch
from hstreamlite.spans import Runs, leading, spans_in
from hstreamlite.unreadable import Unread

if TYPE_CHECKING:
    from hstreamlite.feed import Feed

log = logging.getLogger("hstreamlite")

EMPTY: Final = DeliveryBatch()
_NOTHING: Final = fast.Excerpt()
_UNBOUNDED: Final = 1 << 62
"""Bytes, where no window bounds them."""


class Fetcher:
    """Hands out the records of one subscription, whatever its mode."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.handout: Handout[Any]
        if feed.state.unit == "shard":
            self.handout = ShardHandout(feed)
        elif feed.state.mode == "ordered":
            self.handout = OrderedHandout(feed)
        else:
            self.handout = SharedHandout(feed)

    def fetch(
        self,
        consumer: str,
        max_records: int,
        owner: fast.AckGate,
        *,
        may_block: bool = True,
    ) -> DeliveryBatch | None:
        """Hand out up to max_records; empty when there is nothing, None where it would block.

        ConsumerClosed unless the owner is attached under the name: its lease may have run out.

        An empty answer puts the consumer in line until it fetches again or `leave_line`s.
        CorruptionError, once, when records cannot be read: they stay undelivered, and others go on.
        MalformedBatch, once, when a batch cannot be decoded: it then counts as acked.
        """
        while True:
            try:
                return self._fetch(consumer, max_records, owner, may_block=may_block)
            except Unread as found:
                self._feed.unreadable.meet(consumer, found)

    def _fetch(
        self, consumer: str, max_records: int, owner: fast.AckGate, *, may_block: bool
    ) -> DeliveryBatch | None:
        """Hand out up to max_records; Unread when what comes first cannot be read."""
        gaps_passed = self._feed.edge.passed
        parts = self.take(consumer, max_records, owner, may_block=may_block)
        if not parts:
            return None if parts is None else EMPTY
        found: list[tuple[fast.Excerpt, int, int]] = []
        runs: list[Runs] = []
        blocked = full = False
        left = list(parts)
        try:
            for part in parts:
                got = None
                room = self._room(consumer)
                full = full or room == 0
                if not (blocked or full):
                    wait = may_block and not found
                    got = self.handout.read(part, room, may_block=wait)
                blocked = blocked or got is None
                excerpt = got or _NOTHING
                sizes = excerpt.sizes() if room else ()
                ranges, confirmed = self.handout.confirm(part, len(excerpt), sizes)
                del left[0]
                full = full or sum(end - first for first, end in ranges) < len(sizes)
                found += [(excerpt, first, end) for first, end in ranges]
                runs += confirmed
        except BaseException as error:
            if isinstance(error, MalformedBatch) and not found:
                self._pass_malformed(left.pop(0), error)
            for part in left:
                self.handout.confirm(part, 0, ())
            if not found or not isinstance(error, Exception):
                with suppress(HStreamError):
                    self._feed.unsend(consumer, spans_in(runs))
                raise
            # What is handed out is told first: the next fetch meets the error again.
        if not found:
            if self._feed.edge.passed != gaps_passed or full:
                return self._fetch(consumer, max_records, owner, may_block=may_block)
            return None if blocked and not may_block else EMPTY
        self._feed.sentry.moved(self._feed.now())
        if len(found) == 1:
            excerpt, first, end = found[0]
            return excerpt.batch(first, end, owner)
        batch = DeliveryBatch(
            delivery
            for excerpt, first, end in found
            for delivery in excerpt.deliveries(first, end, owner)
        )
        batch._runs = tuple(runs)
        return batch

    def take(
        self,
        consumer: str,
        max_records: int,
        gate: fast.AckGate,
        *,
        may_block: bool,
        batches: int = 0,
    ) -> Any:
        """Let the group assign records, as `Handout.take`.

        ConsumerClosed where the consumer with this gate has left, whoever has its name by now: it
        may be a slower thread that asks, and would take what is the other's.
        """
        self._feed.roster.check_known(consumer, gate)
        parts = self.handout.take(consumer, max_records, may_block=may_block, batches=batches)
        try:
            self._feed.roster.check_known(consumer, gate)
        except ConsumerClosed:
            for part in parts or ():
                self.handout.confirm_some(part, 0)
            raise
        return parts

    def _room(self, consumer: str) -> int | None:
        """Return how many bytes the windows have free; None where bytes are not counted."""
        if not self._feed.group.weighs:
            return None
        with self._feed.lock:
            room = self._feed.group.room(consumer)
        return _UNBOUNDED if room is None else room

    def _pass_malformed(self, part: Any, error: MalformedBatch) -> None:
        """Ack what a part has of a batch that nobody can decode, of which somebody is told."""
        shard, runs = self.handout.confirm_some(
            part, leading(self.handout.runs(part), error.batch_id, error.batch_id + error.records)
        )
        if runs:
            self._feed._ack_result([self._feed._ack_runs(shard, runs)], may_block=False)
            log.warning(
                "subscription %r passes over what it cannot deliver: %s",
                self._feed.state.name,
                error,
            )

    def read_on(
        self, shard: int, lsn: int, max_records: int, *, into: fast.Excerpt, may_block: bool
    ) -> None:
        """Read what comes next in the log, for whoever takes it at the hatch."""
        assert isinstance(self.handout, SharedHandout | OrderedHandout)
        self.handout.read_on(shard, lsn, max_records, into=into, may_block=may_block)

    @property
    def key_seed(self) -> int:
        """What keys are hashed with."""
        assert isinstance(self.handout, OrderedHandout)
        return self.handout.seed

    def handed_size(self) -> tuple[int, int]:
        """Return bytes and records read for consumers since the last call, about."""
        return self.handout.told()
