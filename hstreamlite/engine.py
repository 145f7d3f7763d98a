"""The engine of a store: joins the log, the catalog and the subscriptions.

Both faces of the library, blocking and asyncio, are shells around one Engine. No method here waits
for the disk: what changes something returns the ticket that its shell waits for, each in its way.
Methods are thread-safe; catalog changes are staged under one lock, so that their order in the log
is the order in which they were decided.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from hstreamlite._native import fast, lib
from hstreamlite.config import (
    BACKLOG_SECONDS_MAX,
    LEVELS,
    SHARDS_MAX,
    STREAMS_MAX,
    StoreConfig,
    check_bool,
    check_duration,
    check_int,
    check_key,
    check_name,
)
from hstreamlite.env import Env
from hstreamlite.errors import (
    CorruptionError,
    Forked,
    LostRecords,
    RecordTrimmed,
    StoreClosed,
    StreamExists,
    StreamInUse,
    StreamNotFound,
)
from hstreamlite.log import catalog as catalogs, recovery
from hstreamlite.log.catalog import SHARD_BASE, Catalog, Change, StreamState
from hstreamlite.log.journal import (
    CATALOG,
    END,
    PRODUCERS,
    PROGRESS,
    SYSTEM,
    SYSTEM_LOGS,
    Cursor,
    Op,
)
from hstreamlite.log.keyspace import Router
from hstreamlite.log.producers import ProducerTable
from hstreamlite.log.reader import Scan
from hstreamlite.log.routing import route
from hstreamlite.place import EARLIEST, LATEST, check_place
from hstreamlite.records import RecordId

ProgressSnapshot = Callable[[Callable[[list[bytes]], Any]], Any]
"""Calls what stores the records that rebuild the progress of every subscription, and keeps these
from changing; returns what that does."""

_SYNC: Final = LEVELS["sync"]


@dataclass(frozen=True, slots=True)
class Pending:
    """Something staged: durable when the ticket is (0 = already)."""

    value: Any
    ticket: int


class Engine:
    """One open store. `Engine.open` makes it; `close` ends it."""

    read_only = False

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
        self.staged_trims: deque[tuple[int, Mapping[int, int]]] = deque()
        """Trims with their tickets, for `Housekeeping.apply_trims` once these are durable."""
        self.closed = False
        self.forked = False
        self.gate = fast.AckGate()
        self._pid = env.pid()
        self._lock_handle = opened.lock
        self.progress_records: list[bytes] = []
        self.progress_snapshot: ProgressSnapshot = lambda store: store([])
        self.wake: Callable[[], None] = lambda: None
        self.trimmed: Callable[[Mapping[int, int]], None] = lambda _firsts: None
        """Told of the first LSN kept of each shard that was trimmed."""

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
            try:
                opened.journal.close(clean=False)
            finally:
                env.files.close(opened.lock)
            raise
        return engine

    def _load(self, opened: recovery.Opened) -> None:
        journal = self.journal
        snapshot = [int(lsn) for lsn in opened.super.snapshot]
        for shard, lsn in zip(SYSTEM_LOGS, snapshot, strict=True):
            journal.add_shard(shard, next_lsn=max(lsn, 1), first=max(lsn, 1))
        cursor = journal.cursor(CATALOG, max(snapshot[0], 1))
        self._check_snapshot(snapshot)
        self._apply_catalog(cursor)
        self._restore_shards(self.catalog)
        recovery.check_missing(opened, self.catalog.live, self.catalog.known_segment)
        recovery.replay_stage(opened)
        self._apply_catalog(cursor)
        self._restore_shards(self.catalog)
        self._drop_orphans(journal.shards())
        recovery.check_gaps(journal, self.catalog.lost)
        lib.hsl_log_number_regrouped(journal.log, self.catalog.regrouped)
        for record in self._system_records(PRODUCERS, snapshot[2]):
            self.producers.apply(record)
        self.progress_records = list(self._system_records(PROGRESS, snapshot[1]))
        journal.store_super(snapshot)
        journal.check(lib.hsl_log_start(journal.log))
        self.env.after_fork_in_child(self._in_forked_child)

    def _check_snapshot(self, snapshot: list[int]) -> None:
        """Refuse a superblock that points to no snapshot: an older slot, its successor damaged."""
        if not snapshot[0]:
            return
        try:
            records = self.journal.cursor(CATALOG, snapshot[0]).read(1) or []
        except RecordTrimmed:
            records = []
        if not records or catalogs.decode(records[0].payload)["op"] != "snapshot":
            raise CorruptionError(
                f"{self.path}/SUPER",
                0,
                8192,
                "the position of a snapshot of the catalog",
                f"record {snapshot[0]} of it, which is none",
            )

    def _system_records(self, shard: int, snapshot: int) -> Iterable[bytes]:
        cursor = self.journal.cursor(shard, max(snapshot, 1))
        while records := self._read_system(cursor):
            for record in records:
                yield record.payload

    def _read_system(self, cursor: Cursor) -> list[Any]:
        """Read on in a system log; nothing trims one beyond its snapshot, so a gap is damage."""
        try:
            return cursor.read(10_000) or []
        except RecordTrimmed as error:
            raise self.system_gap(cursor) from error

    def system_gap(self, cursor: Cursor) -> CorruptionError:
        """Return the error of a system log whose cursor met a gap."""
        first, end = cursor.gap()
        return CorruptionError(
            f"{self.path}/segments",
            0,
            0,
            f"records of system log {cursor.shard} from {first}",
            f"the first one at {end}",
            (LostRecords(cursor.shard, first, end - 1),),
        )

    def _apply_catalog(self, cursor: Cursor) -> None:
        while records := self._read_system(cursor):
            for record in records:
                try:
                    self.catalog.apply(catalogs.decode(record.payload))
                except (ValueError, KeyError, TypeError) as error:
                    raise CorruptionError(
                        self.path, 0, 0, f"a catalog record at {record.id}", repr(error)
                    ) from error

    def _restore_shards(self, catalog: Catalog) -> None:
        journal, trims = self.journal, catalog.trims
        for shard, (next_lsn, last_time) in catalog.logs.items():
            journal.add_shard(shard, next_lsn, last_time, trims.get(shard, 1))
        for stream in catalog.by_id.values():
            self.routers[stream.id] = Router(stream.shards)
            for shard in stream.shard_ids:
                journal.add_shard(shard, first=trims.get(shard, 1))
                if stream.archived:
                    journal.close_shard(shard)

    def _drop_orphans(self, shards: Iterable[int]) -> None:
        """Those of the shards whose streams are deleted keep no segment alive."""
        known = {s for stream in self.catalog.by_id.values() for s in stream.shard_ids}
        for shard in shards:
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
            self.gate.close()
        try:
            self.journal.close(clean=clean)
        finally:
            self._unlock()

    def _unlock(self) -> None:
        if self._lock_handle >= 0:
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
        if not self.closed and not self.forked:
            self.forked = True
            self.gate.close()
            self._unlock()

    # Streams.

    def stage_changes(
        self,
        changes: list[Change],
        extra: list[Op] | None = None,
        *,
        follow: Callable[[int], None] | None = None,
    ) -> int:
        """Stage catalog records (and other ops) in one frame, apply them, return the ticket.

        The caller holds the lock. Nothing is applied when staging raises. `follow` does what else
        memory is to know of them; it may be called twice.
        """
        ops: list[Op] = [(CATALOG, [catalogs.encode(change) for change in changes], None)]

        def then(ticket: int, _: object) -> None:
            self.apply(changes)
            if follow is not None:
                follow(ticket)

        ticket, _ = self.journal.stage_then(ops + (extra or []), _SYNC, then, system=True)
        return ticket

    def apply(self, changes: list[Change]) -> None:
        """Have memory know of what was staged, perhaps once more. The caller holds the lock."""
        for change in changes:
            with suppress(KeyError):  # deleted, before a signal's handler raised
                self.catalog.apply(change)

    def stream(self, name: str) -> StreamState:
        """Return the state of a stream; StreamNotFound if there is none."""
        if self.closed or self.forked:
            self.check_open()
        try:
            return self.catalog.streams[name]
        except (KeyError, TypeError):
            check_name("stream", name)
            raise StreamNotFound(name, followed=self.read_only) from None

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
                f"protect must be a collection of subscription names, not {type(protect).__name__}"
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
        check_bool("exists_ok", exists_ok)
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
            change = catalogs.stream_change(state)
            ticket = self.stage_changes([change], follow=partial(self.note_created, name))
            return Pending(state, ticket)

    def note_created(self, name: str, ticket: int) -> None:
        """Note with which ticket a stream, or with / before its name a subscription, is durable."""
        self.created_tickets[name] = ticket

    def open_stream(self, state: StreamState) -> None:
        """Make the shards of a new stream known to the log."""
        for shard in state.shard_ids:
            self.journal.add_shard(shard)
        self.routers[state.id] = Router(state.shards)

    def delete_stream(self, name: str, *, force: bool = False) -> Pending:
        """Stage the deletion; with force the backlog stays for the subscriptions there are."""
        check_bool("force", force)
        self.check_open()
        with self.lock:
            state = self.stream(name)
            change = self.deletion_of(state, force=force)

            def follow(_: int) -> None:
                self.retire(state, archived=change["archive"])

            return Pending(None, self.stage_changes([change], follow=follow))

    def deletion_of(self, state: StreamState, *, force: bool) -> Change:
        """Return the record that deletes a stream; StreamInUse if that needs force."""
        subscriptions = self.catalog.subscriptions_of(state.id)
        dead_letters_of = self.catalog.buried_in(state.name)
        if (subscriptions or dead_letters_of) and not force:
            raise StreamInUse(state.name, subscriptions, dead_letters_of)
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

    def retire_archived(self, catalog: Catalog, stream_id: int) -> None:
        """Forget the backlog of a deleted stream whose last subscription went."""
        if stream_id not in catalog.by_id:
            router = self.routers.pop(stream_id, None)
            for shard in router.ids if router else ():
                self.journal.add_shard(shard, first=END >> 1)
            self.producers.forget(stream_id)

    def router(self, state: StreamState) -> Router:
        """Return the router of a stream; StreamNotFound if another thread deleted it meanwhile."""
        try:
            return self.routers[state.id]
        except KeyError:
            raise StreamNotFound(state.name) from None

    # Appending.

    def ops_of(
        self, state: StreamState, items: list[Any], key: str | None, codec: int
    ) -> tuple[list[Op], list[int] | None]:
        """Return what to stage for the items of one append, as `routing.route`."""
        if not codec and len(state.shard_ids) == 1:
            return [(state.shard_ids[0], items, key)], None
        return route(self.router(state), items, key, codec, self.config.batch_bytes_max)

    def shard_for(self, state: StreamState, key: str | None) -> int:
        """Return the shard of one record of a stream with several."""
        router = self.router(state)
        return router.shard_of(check_key(key)) if key else router.next_keyless()

    # Places and scans.

    def resolve(self, state: StreamState, name: str, place: object) -> dict[int, int]:
        """Return the LSN in each shard at which a place lies.

        RecordTrimmed for an id that is gone; ValueError for one of another stream or never given.
        """
        journal = self.journal
        place = check_place(name, place)
        if place is EARLIEST:
            return {shard: journal.bounds(shard)[0] for shard in state.shard_ids}
        if place is LATEST:
            return {shard: journal.bounds(shard)[1] for shard in state.shard_ids}
        if isinstance(place, datetime):
            ms = int(place.timestamp() * 1000)
            return {shard: journal.seek_time(shard, ms) for shard in state.shard_ids}
        assert isinstance(place, RecordId)
        shard, lsn = place.shard_id, place.lsn
        if shard not in state.shard_ids:
            raise ValueError(f"{name} {place} is not an id of stream {state.name!r}")
        first, _, following = journal.bounds(shard)
        if lsn < first:
            raise RecordTrimmed(str(place), f"{shard}-{first}-0", state.name)
        if lsn > following:
            raise ValueError(f"{name} {place} lies behind the end of stream {state.name!r}")
        places = {shard: lsn}
        if len(state.shard_ids) == 1:
            return places
        block = journal.block_of(shard, lsn)
        for other in state.shard_ids:
            if other != shard:
                places[other] = (
                    journal.seek_order(other, block.order)
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
        check_bool("follow", follow)
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
                only = self.router(state).shard_of(key)
                starts = {only: starts[only]}
        return Scan(self.journal, starts, limits, limit=limit, key=key, stream=state.name)

    def check_scanned(self, name: str, scan: Scan) -> None:
        """Raise StreamNotFound if the stream was deleted, even if another has its name."""
        if not scan.shards <= set(self.stream(name).shard_ids):
            raise StreamNotFound(name)

    def tail(self, state: StreamState) -> RecordId | None:
        """Return the id of the newest durable record; None if none is kept."""
        best: tuple[int, RecordId] | None = None
        for shard in state.shard_ids:
            last = self.journal.info(shard).durable_next - 1
            block = self.journal.block_of(shard, last) if last else None
            if block and (best is None or block.order > best[0]):
                best = (block.order, RecordId(shard, block.first, last - block.first))
        return best[1] if best else None

    # Trimming and retention.

    def trim(self, name: str, before: object) -> Pending:
        """Stage a trim; `Housekeeping.apply_trims` applies it when the ticket is durable."""
        self.check_open()
        with self.lock:
            state = self.stream(name)
            try:
                firsts = self.resolve(state, "before", before)
            except RecordTrimmed:
                return Pending({}, 0)
            return self.stage_trims(firsts)

    def stage_trims(self, firsts: Mapping[int, int]) -> Pending:
        moved = {
            shard: first
            for shard, first in firsts.items()
            if first > self.journal.info(shard).first
        }
        if not moved:
            return Pending({}, 0)
        change: Change = {"op": "trim", "shards": [list(item) for item in moved.items()]}
        follow = partial(self._note_trim, moved)
        return Pending(moved, self.stage_changes([change], follow=follow))

    def _note_trim(self, moved: Mapping[int, int], ticket: int) -> None:
        self.staged_trims.append((ticket, moved))

    # Facts.

    def stream_bytes(self, state: StreamState) -> tuple[int, int]:
        """Return (records, bytes) kept."""
        infos = [self.journal.info(shard) for shard in state.shard_ids]
        return (
            sum(i.durable_next - i.first for i in infos),
            sum(i.bytes for i in infos),
        )
