"""The engine of a store: joins the log, the catalog and the subscriptions.

Both faces of the library, blocking and asyncio, are shells around one Engine. No method here waits
for the disk: what changes something returns the ticket that its shell waits for, each in its way.
Methods are thread-safe; catalog changes are staged under one lock, so that their order in the log
is the order in which they were decided.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from hstreamlite._native import fast, lib
from hstreamlite.config import (
    BACKLOG_SECONDS_MAX,
    LEVELS,
    NAME_MAX,
    SHARDS_MAX,
    STREAMS_MAX,
    StoreConfig,
    check_int,
)
from hstreamlite.env import Env
from hstreamlite.errors import (
    CorruptionError,
    Forked,
    HStreamError,
    RecordTrimmed,
    StoreClosed,
    StreamExists,
    StreamInUse,
    StreamNotFound,
)
from hstreamlite.log import catalog as catalogs
from hstreamlite.log import recovery
from hstreamlite.log.catalog import SHARD_BASE, Catalog, Change, StreamState
from hstreamlite.log.journal import (
    CATALOG,
    END,
    PRODUCERS,
    PROGRESS,
    SYSTEM,
    SYSTEM_LOGS,
    Op,
    Run,
    compress,
)
from hstreamlite.log.keyspace import Router
from hstreamlite.log.producers import ProducerTable
from hstreamlite.log.reader import Scan
from hstreamlite.records import Record, RecordId

log = logging.getLogger("hstreamlite")
log.addHandler(logging.NullHandler())

ProgressSnapshot = Callable[[], AbstractContextManager[list[bytes]]]
"""Yields the progress records that rebuild every subscription, and keeps them from changing."""

_SYNC: Final = LEVELS["sync"]
_SNAPSHOT_BYTES_MIN = 1 << 20


class Position:
    """A named place in a stream."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"hstreamlite.{self.name}"


EARLIEST: Final = Position("EARLIEST")
"""The first record kept."""
LATEST: Final = Position("LATEST")
"""Behind the last record that is durable now."""

Place = Position | RecordId | datetime
"""What names a place in a stream: EARLIEST, LATEST, a record id, an aware datetime."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Something staged: durable when the ticket is (0 = already)."""

    value: Any
    ticket: int


def check_name(kind: str, name: object) -> str:
    """Return a valid name; TypeError or ValueError saying what is wrong with it."""
    if not isinstance(name, str):
        raise TypeError(f"{kind} name must be a str, not {type(name).__name__}")
    if not 1 <= len(name) <= NAME_MAX:
        raise ValueError(f"{kind} name must have 1 to {NAME_MAX} characters, not {len(name)}")
    if not name[0].isalpha() or not all(c.isalnum() or c in "-_" for c in name):
        raise ValueError(
            f"{kind} name must be a letter followed by letters, digits, '-' or '_', not {name!r}"
        )
    return name


def check_duration(name: str, value: object, most: float, *, least: float = 0.0) -> float:
    """Return seconds from a number or a timedelta in [least, most]."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be seconds or a timedelta, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least:g} to {most:g} seconds, not {value}")
    return float(value)


def check_key(key: object) -> str:
    """Return a key that can be hashed; TypeError or ValueError saying what is wrong with it."""
    if not isinstance(key, str):
        raise TypeError(f"key must be a str or None, not {type(key).__name__}")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"key must be text that UTF-8 can hold, and {key!a} has a surrogate"
        ) from None
    return key


class Engine:
    """One open store. `Engine.open` makes it; `close` ends it."""

    def __init__(self, env: Env, path: str, config: StoreConfig, opened: recovery.Opened) -> None:
        self.env = env
        self.path = path
        self.config = config
        self.journal = opened.journal
        self.handle = opened.journal.handle
        self.report = opened.report
        self.level = LEVELS[config.durability]
        self.lock = env.threads.rlock()
        self.catalog = Catalog()
        self.producers = ProducerTable()
        self.routers: dict[int, Router] = {}
        self.created_tickets: dict[str, int] = {}
        self.closed = False
        self.forked = False
        self._pid = env.pid()
        self._lock_handle = opened.lock
        self._snapshot_bytes = _SNAPSHOT_BYTES_MIN
        self._snapshot_lsns = [0, 0, 0]
        self.progress_records: list[bytes] = []
        self.progress_snapshot: ProgressSnapshot = lambda: nullcontext([])
        self._clock = ExpiryClock(env, config.clock_jump_max)
        self.next_retention_ns = env.clock.mono_ns() + int(config.retention_interval * 1e9)

    # Opening and closing.

    @classmethod
    def open(
        cls, env: Env, path: str, config: StoreConfig, *, create: bool = True, notify_fd: int = -1
    ) -> Engine:
        """Open the directory, recover, and start. On failure nothing is held open."""
        opened = recovery.open_journal(env, path, config, create=create, notify_fd=notify_fd)
        try:
            engine = cls(env, path, config, opened)
            engine._load(opened)
        except BaseException:
            opened.journal.close(clean=False)
            env.files.close(opened.lock)
            raise
        return engine

    def _load(self, opened: recovery.Opened) -> None:
        journal = self.journal
        snapshot = [int(lsn) for lsn in opened.super.snapshot]
        for shard, lsn in zip(SYSTEM_LOGS, snapshot, strict=True):
            journal.add_shard(shard, first=max(lsn, 1))
        cursor = journal.cursor(CATALOG, max(snapshot[0], 1))
        self._apply_catalog(cursor)
        self._restore_shards()
        recovery.check_missing(opened, self.catalog.live, self.catalog.known_segment)
        recovery.replay_stage(opened)
        self._apply_catalog(cursor)
        self._restore_shards()
        self._drop_orphans()
        recovery.check_gaps(journal)
        self._snapshot_lsns = snapshot
        for record in self._system_records(PRODUCERS, snapshot[2]):
            self.producers.apply(record)
        self.progress_records = list(self._system_records(PROGRESS, snapshot[1]))
        journal.store_super(snapshot)
        journal.check(lib.hsl_log_start(journal.log))
        self.env.after_fork_in_child(self._in_forked_child)

    def _system_records(self, shard: int, snapshot: int) -> Iterable[bytes]:
        cursor = self.journal.cursor(shard, max(snapshot, 1))
        while records := cursor.read(10_000):
            for record in records:
                yield record.payload

    def _apply_catalog(self, cursor: Any) -> None:
        while records := cursor.read(10_000):
            for record in records:
                try:
                    self.catalog.apply(catalogs.decode(record.payload))
                except (ValueError, KeyError, TypeError) as error:
                    raise CorruptionError(
                        self.path, 0, 0, f"a catalog record at {record.id}", repr(error)
                    ) from error

    def _restore_shards(self) -> None:
        journal, trims = self.journal, self.catalog.trims
        for shard, (next_lsn, last_time) in self.catalog.logs.items():
            journal.add_shard(shard, next_lsn, last_time, trims.get(shard, 1))
        for stream in self.catalog.by_id.values():
            self.routers[stream.id] = Router(stream.shards)
            for shard in stream.shard_ids:
                journal.add_shard(shard, first=trims.get(shard, 1))
                if stream.archived:
                    journal.close_shard(shard)

    def _drop_orphans(self) -> None:
        """Shards of deleted streams keep no segment alive."""
        known = {s for stream in self.catalog.by_id.values() for s in stream.shard_ids}
        for shard in self.journal.shards():
            if shard < SYSTEM and shard not in known:
                self.journal.add_shard(shard, first=END >> 1)
                self.journal.close_shard(shard)

    def close(self, *, clean: bool = True) -> None:
        """Write what is staged, seal, release the lock. A second call does nothing."""
        if self.forked:
            self.closed = True
            return
        with self.lock:
            if self.closed:
                return
            self.closed = True
        try:
            self.journal.close(clean=clean)
        finally:
            self.env.files.close(self._lock_handle)

    def check_open(self) -> None:
        """Raise StoreClosed, or Forked in a child of the process that opened the store.

        Asked before any lock is taken: in a forked child it may be held by a thread that is not
        there.
        """
        if self.forked:
            raise Forked(self.path, self._pid)
        if self.closed:
            raise StoreClosed(self.path)

    def _in_forked_child(self) -> None:
        """Nothing of the parent's may be used here, least of all its locks and its lock file."""
        if not self.closed:
            self.forked = True
            self.env.files.close(self._lock_handle)

    # Streams.

    def stage_changes(self, changes: list[Change], extra: list[Op] | None = None) -> int:
        """Stage catalog records (and other ops) in one frame, apply them, return the ticket.

        The caller holds the lock. Nothing is applied when staging raises.
        """
        ops: list[Op] = [(CATALOG, [catalogs.encode(change) for change in changes], None)]
        ticket, _ = self.journal.stage(ops + (extra or []), _SYNC, system=True)
        for change in changes:
            self.catalog.apply(change)
        return ticket

    def stream(self, name: str) -> StreamState:
        """Return the state of a stream; StreamNotFound if there is none."""
        self.check_open()
        try:
            return self.catalog.streams[name]
        except (KeyError, TypeError):
            check_name("stream", name)
            raise StreamNotFound(name) from None

    def new_stream(
        self,
        name: str,
        *,
        backlog: object = 0,
        max_bytes: int = 0,
        protect: Iterable[str] = (),
        shards: int = 1,
        replication: int = 1,
    ) -> StreamState:
        """Return a validated state for a stream that does not exist yet; nothing is staged."""
        check_name("stream", name)
        check_int("shards", shards, 1, SHARDS_MAX)
        if isinstance(protect, str) or not isinstance(protect, Iterable):
            raise TypeError(
                "protect must be a collection of subscription names, "
                f"not {type(protect).__name__}"
            )
        return StreamState(
            id=self.catalog.next_stream,
            name=name,
            shard_ids=tuple(SHARD_BASE + self.catalog.next_shard + i for i in range(shards)),
            created_ms=self.env.clock.wall_ms(),
            backlog=check_duration("backlog", backlog, BACKLOG_SECONDS_MAX),
            max_bytes=check_int("max_bytes", max_bytes, 0, 1 << 62),
            replication=check_int("replication", replication, 1, 1 << 31),
            protect=tuple(check_name("subscription", s) for s in protect),
        )

    def create_stream(self, name: str, *, exists_ok: bool = False, **options: Any) -> Pending:
        """Stage the creation of a stream."""
        self.check_open()
        with self.lock:
            self.check_open()
            state = self.new_stream(name, **options)
            existing = self.catalog.streams.get(name)
            if existing is not None:
                if not exists_ok:
                    raise StreamExists(name)
                return Pending(existing, self.created_tickets.get(name, 0))
            if len(self.catalog.streams) >= STREAMS_MAX:
                raise ValueError(f"a store holds at most {STREAMS_MAX} streams")
            self.open_stream(state)
            ticket = self.stage_changes([catalogs.stream_change(state)])
            self.created_tickets[name] = ticket
            return Pending(state, ticket)

    def open_stream(self, state: StreamState) -> None:
        """Make the shards of a new stream known to the log."""
        for shard in state.shard_ids:
            self.journal.add_shard(shard)
        self.routers[state.id] = Router(state.shards)

    def delete_stream(self, name: str, *, force: bool = False) -> Pending:
        """Stage the deletion; with force the backlog stays for the subscriptions there are."""
        self.check_open()
        with self.lock:
            state = self.stream(name)
            change = self.deletion_of(state, force=force)
            ticket = self.stage_changes([change])
            self.retire(state, archived=change["archive"])
            return Pending(None, ticket)

    def deletion_of(self, state: StreamState, *, force: bool) -> Change:
        """Return the record that deletes a stream; StreamInUse if that needs force."""
        subscriptions = self.catalog.subscriptions_of(state.id)
        if subscriptions and not force:
            raise StreamInUse(state.name, subscriptions)
        return {"op": "delete_stream", "id": state.id, "archive": bool(subscriptions)}

    def retire(self, state: StreamState, *, archived: bool) -> None:
        """Refuse later appends to a deleted stream, and forget its backlog unless archived."""
        self.created_tickets.pop(state.name, None)
        for shard in state.shard_ids:
            self.journal.close_shard(shard)
            if not archived:
                self.journal.add_shard(shard, first=END >> 1)
        if not archived:
            self.routers.pop(state.id, None)
            self.producers.forget(state.id)

    def retire_archived(self, stream_id: int) -> None:
        """Forget the backlog of a deleted stream whose last subscription went."""
        if stream_id not in self.catalog.by_id:
            router = self.routers.pop(stream_id, None)
            for shard in router.ids if router else ():
                self.journal.add_shard(shard, first=END >> 1)
            self.producers.forget(stream_id)

    # Appending.

    def ops_of(
        self, state: StreamState, items: list[Any], key: str | None, codec: int
    ) -> tuple[list[Op], list[int] | None]:
        """Return what to stage for the items of one append, and, where several shards take part,
        the index of each record's op."""
        router = self.routers[state.id]
        if len(router.ids) == 1:
            groups: dict[int, list[Any]] = {router.ids[0]: items}
            order = None
        else:
            groups, order = _group(router, items, key)
        ops: list[Op] = []
        for shard, part in groups.items():
            if codec:
                ops.extend(self._packed(shard, part, key, codec))
            else:
                ops.append((shard, part, key))
        return ops, order

    def shard_for(self, state: StreamState, key: str | None) -> int:
        """Return the shard of one record of a stream with several."""
        router = self.routers[state.id]
        return router.shard_of(check_key(key)) if key else router.next_keyless()

    def _packed(self, shard: int, items: list[Any], key: str | None, codec: int) -> list[Op]:
        body = fast.encode_batch(items, key)
        if len(body) > self.config.batch_bytes_max and len(items) > 1:
            half = len(items) // 2
            return [
                *self._packed(shard, items[:half], key, codec),
                *self._packed(shard, items[half:], key, codec),
            ]
        packed = compress(codec, body)
        if len(packed) >= len(body):
            return [(shard, items, key)]
        return [(shard, codec, packed, len(items), len(body))]

    # Places and scans.

    def check_place(self, name: str, place: object) -> Place:
        if isinstance(place, datetime):
            if place.tzinfo is None:
                raise ValueError(f"{name} must be an aware datetime, not the naive {place}")
            return place
        if isinstance(place, Position | RecordId):
            return place
        raise TypeError(
            f"{name} must be EARLIEST, LATEST, a RecordId or a datetime, not {type(place).__name__}"
        )

    def resolve(self, state: StreamState, name: str, place: object) -> dict[int, int]:
        """Return the LSN in each shard at which a place lies.

        RecordTrimmed for an id that is gone; ValueError for one of another stream or never given.
        """
        journal = self.journal
        place = self.check_place(name, place)
        if place is EARLIEST:
            return {shard: journal.info(shard).first for shard in state.shard_ids}
        if place is LATEST:
            return {shard: journal.info(shard).durable_next for shard in state.shard_ids}
        if isinstance(place, datetime):
            ms = int(place.timestamp() * 1000)
            return {shard: journal.seek_time(shard, ms) for shard in state.shard_ids}
        assert isinstance(place, RecordId)
        shard, lsn = place.shard_id, place.lsn
        if shard not in state.shard_ids:
            raise ValueError(f"{name} {place} is not an id of stream {state.name!r}")
        info = journal.info(shard)
        if lsn < info.first:
            raise RecordTrimmed(str(place), f"{shard}-{info.first}-0", state.name)
        if lsn > info.next:
            raise ValueError(f"{name} {place} lies behind the end of stream {state.name!r}")
        places = {shard: lsn}
        block = journal.block_of(shard, lsn)
        for other in state.shard_ids:
            if other != shard:
                places[other] = (
                    journal.seek_order(other, block[1])
                    if block
                    else journal.info(other).durable_next
                )
        return places

    def scan(
        self,
        state: StreamState,
        *,
        start: object,
        until: object,
        limit: int | None,
        key: str | None,
        shard: int | None,
        follow: bool,
    ) -> Scan:
        """Return a scan; without follow it ends at what is durable now."""
        if limit is not None:
            check_int("limit", limit, 0, END)
        if follow and until is not None:
            raise ValueError("until and follow exclude each other: a follower has no end")
        starts = self.resolve(state, "start", start)
        if follow:
            limits = dict.fromkeys(starts, END)
        else:
            limits = self.resolve(state, "until", LATEST if until is None else until)
        if shard is not None:
            check_int("shard", shard, 0, END)
            if shard not in starts:
                raise ValueError(f"shard {shard} is not one of stream {state.name!r}")
            starts = {shard: starts[shard]}
        if key is not None:
            check_key(key)
            if key and shard is None:
                only = self.routers[state.id].shard_of(key)
                starts = {only: starts[only]}
        return Scan(self.journal, starts, limits, limit=limit, key=key)

    def check_scanned(self, name: str, scan: Scan) -> None:
        """Raise StreamNotFound if the stream was deleted, even if another has its name."""
        if not scan.shards <= set(self.stream(name).shard_ids):
            raise StreamNotFound(name)

    def tail(self, state: StreamState) -> RecordId | None:
        """Return the id of the newest durable record; None for a stream that never had one."""
        best: tuple[int, RecordId] | None = None
        for shard in state.shard_ids:
            last = self.journal.info(shard).durable_next - 1
            block = self.journal.block_of(shard, last) if last else None
            if block and (best is None or block[1] > best[0]):
                best = (block[1], RecordId(shard, block[0], last - block[0]))
        return best[1] if best else None

    # Trimming and retention.

    def trim(self, name: str, before: object) -> Pending:
        """Stage a trim; apply it when the ticket is durable, by `apply_trims` of the value."""
        self.check_open()
        with self.lock:
            state = self.stream(name)
            try:
                firsts = self.resolve(state, "before", before)
            except RecordTrimmed:
                return Pending({}, 0)
            return self._stage_trims(firsts)

    def _stage_trims(self, firsts: Mapping[int, int]) -> Pending:
        moved = {
            shard: first
            for shard, first in firsts.items()
            if first > self.journal.info(shard).first
        }
        if not moved:
            return Pending({}, 0)
        change: Change = {"op": "trim", "shards": [list(item) for item in moved.items()]}
        return Pending(moved, self.stage_changes([change]))

    def apply_trims(self, firsts: Mapping[int, int]) -> None:
        """Forget records whose trim is durable, and the segments that hold nothing else."""
        for shard, first in firsts.items():
            self.journal.trim(shard, first)
        if firsts:
            self.free_segments()

    def expire(self, protected: Mapping[int, int]) -> None:
        """Trim what retention no longer keeps; waits for the disk.

        `protected` maps shards to the first LSN that a protecting subscription still needs.
        """
        now = self._clock.now_ms()
        with self.lock:
            if self.closed:
                return
            firsts: dict[int, int] = {}
            for state in self.catalog.by_id.values():
                for shard in state.shard_ids if state.backlog or state.max_bytes else ():
                    first = self._expired(state, shard, now)
                    firsts[shard] = min(first, protected.get(shard, END))
            pending = self._stage_trims(firsts)
        self.journal.wait(pending.ticket)
        self.apply_trims(pending.value)
        self.free_segments()

    def _expired(self, state: StreamState, shard: int, now_ms: int) -> int:
        first = self.journal.info(shard).first
        if state.backlog:
            cutoff = now_ms - int(state.backlog * 1000)
            first = max(first, self.journal.seek_time(shard, cutoff) if cutoff > 0 else 1)
        if state.max_bytes:
            share = state.max_bytes // len(state.shard_ids)
            first = max(first, self.journal.seek_bytes(shard, share))
        return first

    def free_segments(self) -> None:
        """Drop segments in which nothing lives; waits for the disk."""
        journal = self.journal
        if len(journal.dead_segments(system=True)) > len(journal.dead_segments()):
            self.snapshot()
        with self.lock:
            dead = journal.dead_segments()
            if not dead or self.closed:
                return
            segments = journal.segments()
            live = sorted(set(segments) - set(dead))
            change: Change = {"op": "drop", "live": live, "known": max(segments)}
            ticket = self.stage_changes([change])
        journal.wait(ticket)
        journal.drop_segments(dead)

    # Snapshots of the system logs.

    def snapshot_due(self) -> bool:
        grown = sum(self.journal.info(shard).bytes for shard in SYSTEM_LOGS)
        return grown > 2 * self._snapshot_bytes

    def snapshot(self) -> None:
        """Write the state of the system logs anew, so that their older records may go.

        The superblock moves to the snapshot once it is durable; a crash before leaves the old one.
        """
        journal = self.journal
        with self.lock, self.progress_snapshot() as progress:
            if self.closed:
                return
            parts = {
                CATALOG: [catalogs.encode(c) for c in self._catalog_snapshot()],
                PROGRESS: progress,
                PRODUCERS: self.producers.snapshot(),
            }
            lsns = [journal.info(shard).next for shard in SYSTEM_LOGS]
            ticket = 0
            size = 0
            for shard in (PROGRESS, PRODUCERS, CATALOG):
                for ops in _pieces(shard, parts[shard], journal.config.transaction_bytes_max // 4):
                    ticket = max(ticket, journal.stage([ops], _SYNC, system=True)[0])
                size += sum(map(len, parts[shard]))
            self.catalog.live = set(journal.segments())
            self._snapshot_bytes = max(size, _SNAPSHOT_BYTES_MIN)
        journal.wait(ticket)
        journal.store_super(lsns)
        self._snapshot_lsns = lsns
        for shard, lsn in zip(SYSTEM_LOGS, lsns, strict=True):
            journal.trim(shard, lsn)

    def _catalog_snapshot(self) -> Iterable[Change]:
        journal = self.journal
        rows = []
        for state in self.catalog.by_id.values():
            for shard in state.shard_ids:
                info = journal.info(shard)
                rows.append((shard, info.durable_next, info.last_time, info.first))
        segments = journal.segments()
        known = max(segments, default=self.catalog.known_segment)
        return self.catalog.snapshot(rows, segments, known)

    # Facts.

    def stream_bytes(self, state: StreamState) -> tuple[int, int]:
        """Return (records, bytes) kept."""
        infos = [self.journal.info(shard) for shard in state.shard_ids]
        return (
            sum(i.durable_next - i.first for i in infos),
            sum(i.bytes for i in infos),
        )


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


def _group(
    router: Router, items: list[Any], key: str | None
) -> tuple[dict[int, list[Any]], list[int]]:
    """Split items by shard, in order; the second result is each item's place among the groups."""
    if key is not None:
        check_key(key)
    groups: dict[int, list[Any]] = {}
    places: dict[int, int] = {}
    order = []
    keyless = router.next_keyless()
    for item in items:
        own = item.key if isinstance(item, Record) and item.key is not None else key
        shard = router.shard_of(own) if own else keyless
        if shard not in groups:
            places[shard] = len(groups)
            groups[shard] = []
        groups[shard].append(item)
        order.append(places[shard])
    return groups, order


def ids_order(runs: list[Run], order: list[int] | None, shards: list[int]) -> list[int] | None:
    """Return for each record the index of its run, where the ops of `order` were split into
    several runs."""
    if order is None:
        return None
    queues: dict[int, list[int]] = {}
    for index, run in enumerate(runs):
        queues.setdefault(run.shard, []).extend([index] * run.records)
    iterators = {shard: iter(queue) for shard, queue in queues.items()}
    return [next(iterators[shards[place]]) for place in order]


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


def renamed(error: HStreamError, name: str) -> HStreamError:
    """Return StreamNotFound under the name the user knows."""
    return StreamNotFound(name) if isinstance(error, StreamNotFound) else error
