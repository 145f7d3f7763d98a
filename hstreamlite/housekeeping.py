"""Housekeeping: what lets disk space go again. Retention, dead segments, snapshots.

A file is unlinked only after a durable record says so, and only when nothing in it lives. What
keeps old files alive at last is the store's own records; a snapshot writes those anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from hstreamlite.config import LEVELS
from hstreamlite.engine import Engine
from hstreamlite.env import Env
from hstreamlite.log import catalog as catalogs
from hstreamlite.log.catalog import Change, StreamState
from hstreamlite.log.journal import CATALOG, END, PRODUCERS, PROGRESS, SYSTEM_LOGS, Op
from hstreamlite.log.regroup import LEVEL_1
from hstreamlite.log.swap import segment_facts
from hstreamlite.regrouper import Regrouper

log = logging.getLogger("hstreamlite")

_SYNC = LEVELS["sync"]
_SNAPSHOT_BYTES_MIN = 1 << 20


class Housekeeping:
    """Frees what a store no longer needs. Every method may wait for the disk."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._clock = ExpiryClock(engine.env, engine.config.clock_jump_max)
        self._snapshot_bytes = _SNAPSHOT_BYTES_MIN
        self._freeing = engine.env.threads.lock()
        self._trimming = engine.env.threads.lock()
        self.regrouper = Regrouper(engine, self.free_segments)

    def apply_trims(self) -> None:
        """Forget records whose trims are durable, and the segments that hold nothing else.

        Whoever staged one calls this, and the store's own thread for whom was interrupted.
        """
        engine = self._engine
        with self._trimming:
            durable = engine.journal.durable()
            found = False
            while engine.staged_trims and engine.staged_trims[0][0] <= durable:
                firsts = engine.staged_trims[0][1]
                for shard, first in firsts.items():
                    engine.journal.trim(shard, first)
                engine.trimmed(firsts)
                engine.staged_trims.popleft()
                found = True
            if found:
                self.free_segments()

    def expire(self, protected: Mapping[int, int]) -> None:
        """Trim what retention no longer keeps; waits for the disk.

        `protected` maps shards to the first LSN that a protecting subscription still needs.
        """
        engine = self._engine
        now = self._clock.now_ms()
        with engine.lock:
            states = [s for s in engine.catalog.by_id.values() if s.backlog or s.max_bytes]
        # Outside the lock: parts of indexes may have to be read from files.
        firsts = {
            shard: min(self._expired(state, shard, now), protected.get(shard, END))
            for state in states
            for shard in state.shard_ids
        }
        with engine.lock:
            if engine.closed:
                return
            kept = {s for state in engine.catalog.by_id.values() for s in state.shard_ids}
            pending = engine.stage_trims({s: f for s, f in firsts.items() if s in kept})
        engine.journal.wait(pending.ticket)
        self.apply_trims()
        self.free_segments()

    def _expired(self, state: StreamState, shard: int, now_ms: int) -> int:
        engine = self._engine
        first = engine.journal.info(shard).first
        if state.backlog:
            cutoff = now_ms - int(state.backlog * 1000)
            first = max(first, engine.journal.seek_time(shard, cutoff) if cutoff > 0 else 1)
        if state.max_bytes:
            share = state.max_bytes // len(state.shard_ids)
            first = max(first, engine.journal.seek_bytes(shard, share))
        return first

    def free_segments(self) -> None:
        """Drop segments in which nothing lives.

        What made them dead is durable already, so that a full or failing disk is no error of the
        caller's: retention tries again.
        """
        try:
            self._free_segments()
        except OSError as error:
            log.warning("segments of %r are freed later: %s", self._engine.path, error)

    def _free_segments(self) -> None:
        with self._freeing:
            self._drop_dead()

    def _drop_dead(self) -> None:
        engine = self._engine
        journal = engine.journal
        if len(journal.dead_segments(system=True)) > len(journal.dead_segments()):
            self._write_snapshot()
        with engine.lock:
            dead = journal.dead_segments()
            if not dead or engine.closed:
                return
            facts = segment_facts(journal)
            live = sorted({f.number for f in facts} - set(dead))
            known = max(f.last for f in facts)
            regrouped = max((f.number for f in facts if f.number >= LEVEL_1), default=0)
            change: Change = {"op": "drop", "live": live, "known": known}
            if regrouped:
                change["regrouped"] = regrouped
            ticket = engine.stage_changes([change])
        journal.wait(ticket)
        journal.drop_segments(dead)

    def compact(self) -> None:
        """Write anew whatever is worth it, without waiting for more to come."""
        self._engine.check_open()
        self.free_segments()
        while self.regrouper.step(now=True):
            pass
        self._engine.check_open()

    def snapshot_due(self) -> bool:
        engine = self._engine
        grown = sum(engine.journal.info(shard).bytes for shard in SYSTEM_LOGS)
        return grown > 2 * self._snapshot_bytes

    def snapshot(self) -> None:
        """Write the state of the system logs anew, so that their older records may go.

        The superblock moves to the snapshot once it is durable; a crash before leaves the old one.
        One at a time: of two, the older one must not get there last, its records being freed. And
        none while files are dropped: it would name those alive that the record before it gave up.
        """
        with self._freeing:
            self._write_snapshot()

    def _write_snapshot(self) -> None:
        engine = self._engine
        journal = engine.journal
        with engine.lock:
            if engine.closed:
                return
            ticket, lsns = engine.progress_snapshot(self._stage_snapshot)
        journal.wait(ticket)
        journal.store_super(lsns)
        for shard, lsn in zip(SYSTEM_LOGS, lsns, strict=True):
            journal.trim(shard, lsn)

    def _stage_snapshot(self, progress: list[bytes]) -> tuple[int, list[int]]:
        """Return the ticket of a snapshot, and where it begins in each system log. Locks held."""
        engine = self._engine
        journal = engine.journal
        parts = {
            CATALOG: [catalogs.encode(c) for c in self._catalog_snapshot()],
            PROGRESS: progress,
            PRODUCERS: engine.producers.snapshot(),
        }
        lsns = [journal.info(shard).next for shard in SYSTEM_LOGS]
        ticket = 0
        size = 0
        for shard in (PROGRESS, PRODUCERS, CATALOG):
            for ops in _pieces(shard, parts[shard], journal.config.transaction_bytes_max // 4):
                ticket = max(ticket, journal.stage([ops], _SYNC, system=True)[0])
            size += sum(map(len, parts[shard]))
        engine.catalog.live = {f.number for f in segment_facts(journal)}
        self._snapshot_bytes = max(size, _SNAPSHOT_BYTES_MIN)
        return ticket, lsns

    def _catalog_snapshot(self) -> Iterable[Change]:
        engine = self._engine
        journal = engine.journal
        rows = []
        for state in engine.catalog.by_id.values():
            for shard in state.shard_ids:
                info = journal.info(shard)
                first = max(info.first, engine.catalog.trims.get(shard, 1))
                rows.append((shard, info.durable_next, info.last_time, first))
        facts = segment_facts(journal)
        known = max((f.last for f in facts), default=engine.catalog.known_segment)
        return engine.catalog.snapshot(rows, [f.number for f in facts], known)


def _pieces(shard: int, payloads: list[bytes], most: int) -> Iterable[Op]:
    piece: list[bytes] = []
    size = 0
    for payload in payloads:
        if piece and size + len(payload) > most:
            yield (shard, piece, None)
            piece, size = [], 0
        piece.append(payload)
        size += len(payload) + 16
    if piece:
        yield (shard, piece, None)


class ExpiryClock:
    """Wall time for retention that does not believe sudden leaps.

    A forward step larger than the bound is taken for a wrong clock: expiry then goes on at the pace
    of running time. A clock that runs back never makes records younger than they were.
    """

    def __init__(self, env: Env, jump_max: float) -> None:
        self._clock = env.clock
        self._jump_ms = int(jump_max * 1000)
        self._wall = env.clock.wall_ms()
        self._mono = env.clock.mono_ns()
        self.suspicious = False

    def now_ms(self) -> int:
        """Return the time to judge ages by."""
        mono, wall = self._clock.mono_ns(), self._clock.wall_ms()
        expected = self._wall + (mono - self._mono) // 1_000_000
        leap = wall - expected
        if leap > self._jump_ms:
            if not self.suspicious:
                log.warning(
                    "the wall clock leapt forward by %d s: expiry keeps to running time",
                    leap // 1000,
                )
            self.suspicious = True
            self._wall, self._mono = expected, mono
        else:
            self.suspicious = False
            self._wall, self._mono = max(wall, self._wall), mono
        return self._wall
