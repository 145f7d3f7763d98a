"""The engine of a store that another process writes.

It is the engine of a writer without everything that stages: the same log index, cursors and scans,
fed by `FollowedJournal.refresh` with what is durable, and the same catalog, advanced record by
record. Every call looks first whether there is more, so it sees what was durable when it began;
waiting readers are woken by the thread of the log.

What the writer trims, deletes and drops takes effect here when its record is read. A file that is
gone before that is no damage: the record that says so is durable before the file goes, so it is
looked for, and only a file that the catalog still holds to be alive is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

from hstreamlite.config import StoreConfig
from hstreamlite.engine import Engine
from hstreamlite.env import Env
from hstreamlite.errors import CorruptionError, ReadOnly, RecordTrimmed, SubscriptionNotFound
from hstreamlite.feed import Feed
from hstreamlite.feeds import Feeds
from hstreamlite.log import catalog as catalogs, recovery
from hstreamlite.log.catalog import Catalog, Change, StreamState
from hstreamlite.log.following import FollowedJournal, open_followed
from hstreamlite.log.journal import CATALOG, END, PROGRESS, SYSTEM_LOGS, Cursor, segment_path
from hstreamlite.log.keyspace import Router
from hstreamlite.log.regroup import LEVEL_1
from hstreamlite.log.swap import segment_facts
from hstreamlite.progresslog import PREFIX
from hstreamlite.sub.checkpoint import Progress, forgets

CONSUME = "attach a consumer, whose acks go through the one process that writes"
_RECORDS = 10_000
_ATTEMPTS = 20


class _Snapshotted(Exception):
    """What comes next in a system log is gone: a newer snapshot stands for it."""


class Follower(Engine):
    """One store opened with ``read_only=True``."""

    read_only = True
    journal: FollowedJournal

    @classmethod
    def open(
        cls,
        env: Env,
        path: str,
        config: StoreConfig,
        *,
        create: bool = False,  # noqa: ARG003 - nothing is ever created here
        notify_fd: int = -1,
    ) -> Follower:
        """Read the store and begin to follow it. Nothing is written, whatever it is found in."""
        for _ in range(_ATTEMPTS):
            follower = cls._attempt(env, path, config, notify_fd, may_change=True)
            if follower is not None:
                return follower
        follower = cls._attempt(env, path, config, notify_fd, may_change=False)
        assert follower is not None
        return follower

    @classmethod
    def _attempt(
        cls, env: Env, path: str, config: StoreConfig, notify_fd: int, *, may_change: bool
    ) -> Follower | None:
        """Open once; None where what looks like damage may be a change of the writer's.

        The snapshot that the superblock named is gone if there is a newer one by now. Each comes
        with a superblock, which tells it from damage.
        """
        opened = open_followed(env, path, config, notify_fd=notify_fd)
        try:
            follower = cls(env, path, config, opened)
            follower._load(opened)
        except CorruptionError:
            journal = opened.journal
            assert isinstance(journal, FollowedJournal)
            try:
                changed = journal.load_super().sequence != opened.super.sequence
            finally:
                journal.close(clean=False)
            if changed and may_change:
                return None
            raise
        except BaseException:
            opened.journal.close(clean=False)
            raise
        return follower

    def _load(self, opened: recovery.Opened) -> None:
        self.journal.on_missing = self._look_again
        self._abandoned = 0
        self._looking = False
        self._missing = set(opened.report.missing)
        snapshot = [int(lsn) for lsn in opened.super.snapshot]
        self._start_at(snapshot)
        self._check_snapshot(snapshot)
        self.journal.refresh()
        shards = self.journal.shards()  # before the catalog: any that comes later may be new
        self._read_catalog()
        self._drop_orphans(shards)
        self._settle_segments()
        recovery.check_gaps(self.journal, self.catalog.lost)
        self.env.after_fork_in_child(self._in_forked_child)

    def _start_at(self, snapshot: list[int]) -> None:
        """Begin with the system logs at their newest snapshots."""
        for shard, lsn in zip(SYSTEM_LOGS, snapshot, strict=True):
            self.journal.add_shard(shard, next_lsn=max(lsn, 1), first=max(lsn, 1))
        self.catalog = Catalog()
        self._changes = self.journal.cursor(CATALOG, max(snapshot[0], 1))
        self._forget_progress(snapshot)

    def _forget_progress(self, snapshot: list[int]) -> None:
        self._progress: dict[int, list[bytes]] = {}
        self._progress_cursor = self.journal.cursor(PROGRESS, max(snapshot[1], 1))

    # Following.

    def check_open(self) -> None:
        """Raise as a writer's engine does; then take in what became durable."""
        super().check_open()
        self.refresh()

    def stream(self, name: str) -> StreamState:
        """Return the state of a stream as it is durable now; StreamNotFound if there is none."""
        self.check_open()
        return super().stream(name)

    def refresh(self) -> None:
        """See all that is durable now. Raises CorruptionError where that cannot be read."""
        self.journal.refresh()
        if self.journal.info(CATALOG).durable_next > self._changes.lsn:
            with self.lock:
                self._read_catalog()
                self._settle_segments()
        elif self.journal.skipped or self._missing:
            with self.lock:
                self._settle_segments()

    def _read_catalog(self) -> None:
        try:
            self._advance(self.catalog, self._changes)
        except _Snapshotted:
            self._start_again()

    def _start_again(self) -> None:
        """Read the catalog anew from its newest snapshot; other threads see what it was until then.

        A follower that rested while a snapshot was made, and what it stands for dropped, goes on
        from there.
        """
        while True:
            snapshot = self._snapshot()
            self.journal.refresh()  # it was durable before the superblock told of it
            shards = self.journal.shards()  # before the catalog: any that comes later may be new
            for shard, lsn in zip(SYSTEM_LOGS, snapshot, strict=True):
                self.journal.add_shard(shard, next_lsn=max(lsn, 1), first=max(lsn, 1))
            catalog, changes = Catalog(), self.journal.cursor(CATALOG, max(snapshot[0], 1))
            try:
                self._advance(catalog, changes)
                break
            except _Snapshotted:
                continue
        self._restore_shards(catalog)
        self.catalog, self._changes = catalog, changes
        self._forget_progress(snapshot)
        self._drop_orphans(shards)

    def _advance(self, catalog: Catalog, changes: Cursor) -> None:
        while records := self._next_of(changes):
            for record in records:
                try:
                    self._take(catalog, catalogs.decode(record.payload))
                except (ValueError, KeyError, TypeError) as error:
                    raise CorruptionError(
                        self.path, 0, 0, f"a catalog record at {record.id}", repr(error)
                    ) from error

    def _snapshot(self) -> list[int]:
        return [int(lsn) for lsn in self.journal.load_super().snapshot]

    def _next_of(self, cursor: Cursor) -> list[Any]:
        """Read on in a system log; _Snapshotted where it begins only behind."""
        at = cursor.lsn
        try:
            return cursor.read(_RECORDS) or []
        except (RecordTrimmed, CorruptionError) as error:
            if isinstance(error, RecordTrimmed):
                at = cursor.gap()[0]
            if self._snapshot()[SYSTEM_LOGS.index(cursor.shard)] <= at:
                if isinstance(error, RecordTrimmed):
                    raise self.system_gap(cursor) from error
                raise
        raise _Snapshotted

    def _take(self, catalog: Catalog, change: Change) -> None:
        """Apply one catalog record, and do here what the writer did with it."""
        kind = change["op"]
        gone = catalog.by_id.get(change["id"]) if kind == "delete_stream" else None
        of = catalog.subscriptions.get(change["name"]) if kind == "delete_subscription" else None
        if kind == "stream":
            self._know_stream(catalogs.stream_of(change), catalog.trims)
        catalog.apply(change)
        if kind == "delete_stream" and gone is not None:
            self.retire(gone, archived=change["archive"])
        elif kind == "delete_subscription" and of is not None:
            self.retire_archived(catalog, of.stream_id)
        elif kind == "trim":
            for shard, first in change["shards"]:
                self.journal.trim(shard, first)
        elif kind == "logs":
            for shard, next_lsn, last_time, first in change["logs"]:
                self.journal.add_shard(shard, next_lsn, last_time, first)

    def _know_stream(self, stream: StreamState, trims: Mapping[int, int]) -> None:
        if stream.id not in self.routers:
            for shard in stream.shard_ids:
                self.journal.add_shard(shard, first=trims.get(shard, 1))
            self.routers[stream.id] = Router(stream.shards)

    # Segments that are gone.

    def _settle_segments(self) -> None:
        """Take what was regrouped in the place of what it was made from, forget what was dropped,
        and refuse a store that lacks a segment which neither explains."""
        journal, catalog = self.journal, self.catalog
        if journal.abandoned() > self._abandoned:
            self._abandoned = journal.abandoned()
            self._missing.add(self._abandoned)
        self._missing |= journal.skipped
        journal.skipped -= self._missing
        if self._missing:
            self._check_missing()
        known = {fact.number for fact in segment_facts(journal)}
        for number in sorted(n for n in catalog.live - known if n >= LEVEL_1):
            self._adopt(number)
        dropped = [n for n in known - catalog.live if n <= catalog.known_segment or n >= LEVEL_1]
        if dropped:
            snapshot = journal.load_super().snapshot
            for shard, lsn in zip(SYSTEM_LOGS, snapshot, strict=True):
                journal.trim(shard, min(int(lsn), self._read_up_to(shard)))
            journal.forget_segments(dropped)

    def _check_missing(self) -> None:
        """A file goes after the record that says so: that is durable if the file is not there."""
        self.journal.refresh()
        self._read_catalog()
        for number in sorted(self._missing):
            if number > self.catalog.known_segment or number in self.catalog.live:
                raise self._lacking(number)
        self._missing.clear()

    def _adopt(self, number: int) -> None:
        if self.journal.adopt(number):
            return
        self.journal.refresh()
        self._read_catalog()
        if number in self.catalog.live and not self.journal.adopt(number):
            raise self._lacking(number)

    def _lacking(self, number: int) -> CorruptionError:
        path = segment_path(self.path, number)
        return CorruptionError(path, 0, 0, "a live segment", "no such file")

    def _look_again(self) -> None:
        """Find out why a file is gone that a reader was to be read from."""
        with self.lock:
            if self._looking:
                return  # the catalog itself was to be read from it
            self._looking = True
            try:
                self.journal.refresh()
                self.journal.adopt_all()
                self._read_catalog()
                self._settle_segments()
            finally:
                self._looking = False

    def _read_up_to(self, shard: int) -> int:
        return {CATALOG: self._changes.lsn, PROGRESS: self._progress_cursor.lsn}.get(shard, END)

    # Subscriptions.

    def progress_of(self, subscription: int) -> Progress | None:
        """Return what is durable of a subscription's progress."""
        with self.lock:
            self._read_progress()
            pieces = self._progress.get(subscription, [])
        if not pieces:
            return None
        progress = Progress()
        for piece in pieces:
            progress.apply(piece)
        return progress

    def _read_progress(self) -> None:
        while True:
            try:
                records = self._next_of(self._progress_cursor)
            except _Snapshotted:
                self._start_again()
                continue
            if not records:
                return
            for record in records:
                (owner,) = PREFIX.unpack_from(record.payload)
                piece = record.payload[PREFIX.size :]
                pieces = self._progress.setdefault(owner, [])
                if forgets(piece):
                    pieces.clear()
                pieces.append(piece)

    # What only a writer can do.

    def refuse(self, what: str) -> NoReturn:
        """Raise StoreClosed or Forked where that is the matter, ReadOnly otherwise."""
        Engine.check_open(self)
        raise ReadOnly(self.path, what)


class FollowedFeeds(Feeds):
    """The subscriptions of a followed store: what they are and how far, as far as it is durable."""

    engine: Follower

    def __init__(self, engine: Follower) -> None:
        self.engine = engine
        self._feeds = {}
        self._burials = {}

    def all(self) -> list[Feed]:
        with self.engine.lock:
            names = list(self.engine.catalog.subscriptions)
        feeds = []
        for name in names:
            with suppress(SubscriptionNotFound):  # deleted, as the look at another has shown
                feeds.append(self.get(name))
        return feeds

    def get(self, name: str) -> Feed:
        """Return a subscription as it stands now; SubscriptionNotFound if there is none."""
        engine = self.engine
        engine.check_open()
        with engine.lock:
            state = engine.catalog.subscriptions.get(name)
            if state is None:
                raise SubscriptionNotFound(name, followed=True)
            return Feed(engine, state, engine.progress_of(state.id))


def feeds_of(engine: Engine) -> Feeds:
    """Return the subscriptions of a store, whoever writes it."""
    return FollowedFeeds(engine) if isinstance(engine, Follower) else Feeds(engine)
