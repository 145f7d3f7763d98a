"""The edge of retention: what a subscription has not delivered yet, and is trimmed.

What is gone when a consumer comes to it is passed over at once. What is in flight when it is
trimmed may still be acked, so that the edge waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hstreamlite.sub.effects import Gap

if TYPE_CHECKING:
    from hstreamlite.feed import Feed

log = logging.getLogger("hstreamlite")


class Edge:
    """Moves the group of one subscription past what is trimmed, and tells of the gaps."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._firsts: dict[int, int] = {}
        self.passed = 0
        """How often records were passed over that are gone: what is asked for lies elsewhere."""

    @property
    def waits(self) -> bool:
        """Whether something that is trimmed is still in flight."""
        return bool(self._firsts)

    def pass_gap(self, shard: int, first_kept: int) -> None:
        """Let the group go on behind records that are trimmed."""
        with self._feed.lock:
            if self._feed.deleted:
                return
            self.passed += 1
            self._tell(self._feed.group.gap(shard, first_kept))

    def _tell(self, gap: Gap | None) -> None:
        if gap is None:
            return
        self.passed += 1
        if self._feed.engine.read_only:
            return  # the writer tells
        self._feed.journal.poke()
        log.warning(
            "subscription %r: records %d to %d of shard %d were trimmed before they were acked",
            self._feed.state.name,
            gap.first_lsn,
            gap.end_lsn - 1,
            gap.shard_id,
        )

    def trimmed(self, firsts: Mapping[int, int]) -> None:
        """Take note of the first LSN kept of shards; what was to be delivered below is a gap."""
        with self._feed.lock:
            if self._feed.deleted:
                return
            for shard in self._feed.shards:
                first = firsts.get(shard, 0)
                if first > self._feed.group.position(shard)[0]:
                    self._firsts[shard] = max(first, self._firsts.get(shard, 0))
            self.mind()

    def mind(self) -> None:
        """Pass over what is below the first LSNs kept, up to what is in flight. Lock held."""
        if not self._firsts:
            return
        for shard, first in list(self._firsts.items()):
            self._tell(self._feed.group.pass_edge(shard, first))
            if self._feed.group.position(shard)[0] >= first:
                del self._firsts[shard]
        self._feed.group.shut(shut=bool(self._firsts))
