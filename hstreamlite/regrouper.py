"""The regrouper: writes segments anew in the background, a piece at a time.

What is worth it decides `hstreamlite.log.regroup`; this drives it. At most one new file is in the
making. It takes only room that nothing else needs, and freeing whole files never waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from hstreamlite.engine import Engine
from hstreamlite.errors import CorruptionError, StorageUnavailable
from hstreamlite.log.regroup import Plan, Sealed, file_bytes, plan
from hstreamlite.log.swap import SegmentFacts, Swap, segment_facts

log = logging.getLogger("hstreamlite")

_PIECE_BYTES = 8 << 20
"""Copied at a time, so that deadlines are met in between."""


class Regrouper:
    """Regroups the segments of one store. Every method may wait for the disk."""

    def __init__(self, engine: Engine, free_segments: Callable[[], None]) -> None:
        self._engine = engine
        self._free_segments = free_segments
        self._lock = engine.env.threads.lock()
        self._swap: Swap | None = None
        self._busy = False
        self._closed = False
        self._damaged: set[int] = set()
        self._seen: dict[int, tuple[int, int]] = {}

    def step(self, *, now: bool = False) -> bool:
        """Do one piece of what is worth it; return whether there may be more.

        Without `now` it does nothing while another thread is at it. StorageFull, OSError or
        CorruptionError end the file in the making, and everything is as it was.
        """
        self._engine.check_open()
        if self._busy and not now:
            return False
        with self._lock:  # no acquire() before a `try`: Ctrl-C may strike between the two
            try:
                self._busy = True
                self._engine.check_open()
                return not self._closed and self._step(now=now)
            finally:
                self._busy = False

    def close(self) -> None:
        """Give up what is in the making; nothing is begun any more."""
        with self._lock:
            self._closed = True
            self._let_go()

    def _step(self, *, now: bool) -> bool:
        engine = self._engine
        if self._swap is None:
            chosen = self._choose(now=now)
            if chosen is None:
                return False
            self._swap = Swap.begin(engine.journal, chosen.numbers, engine.config.regroup_bytes)
            return self._swap is not None
        # Out of reach until a piece is done: a signal's handler may raise at any call, and what was
        # finished or let go must not be stepped again.
        swap, self._swap = self._swap, None
        try:
            if swap.step(_PIECE_BYTES):
                engine.journal.wait(swap.ticket)
                swap.finish()
            else:
                self._swap = swap
        except CorruptionError:
            self._damaged.update(swap.numbers)
            raise
        finally:
            if self._swap is None:
                swap.close()
        if self._swap is None:
            self._free_segments()
        return True

    def _let_go(self) -> None:
        swap, self._swap = self._swap, None  # first: Ctrl-C may strike behind the closing
        if swap is not None:
            swap.close()

    def _choose(self, *, now: bool) -> Plan | None:
        engine = self._engine
        config = engine.config
        clock = engine.env.clock.mono_ns()
        facts = [f for f in segment_facts(engine.journal) if f.sealed and f.live]
        self._seen = {
            f.number: seen
            if (seen := self._seen.get(f.number)) and seen[0] == f.live
            else (f.live, clock)
            for f in facts
        }
        apart = self._behind_holes()
        sealed = [self._sealed(f, clock, apart=f.number in apart) for f in facts]
        blocks = engine.journal.stats()["index_blocks"]
        try:
            free = engine.env.files.free_bytes(engine.path)
        except OSError as error:
            raise StorageUnavailable(engine.path, error) from error
        return plan(
            sealed,
            most=file_bytes(sealed, config.segment_bytes_max, blocks),
            free=free,
            # The next segment, what appends leave free behind it, and the reserve.
            keep=config.segment_bytes_max * 3 // 2 + config.segment_bytes_min,
            rest=config.regroup_after,
            now=now,
            except_for=self._damaged,
        )

    def _behind_holes(self) -> set[int]:
        """Return the segments in which a log goes on behind what a salvage could not save."""
        journal = self._engine.journal
        with self._engine.lock:
            shards = list(self._engine.catalog.lost)
        return {
            journal.segment_of(shard, end) for shard in shards for _, end in journal.holes(shard)
        }

    def _sealed(self, fact: SegmentFacts, clock: int, *, apart: bool) -> Sealed:
        return Sealed(
            number=fact.number,
            bytes=fact.bytes,
            live=fact.live,
            shards=fact.shards,
            largest=fact.largest * fact.live // max(fact.written, 1),
            quiet=(clock - self._seen[fact.number][1]) / 1e9,
            apart=apart,
        )
