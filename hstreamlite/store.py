"""The blocking face of a store: Store, Stream, Transaction, Reader.

A handle (`store.stream(name)`) costs nothing and does no I/O; it names a stream and finds it when
used. Every method may be called from any thread, except that a Reader, a Transaction and a Consumer
belong to one thread at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from os import PathLike, fsdecode, fsencode
from os.path import abspath
from types import TracebackType
from typing import NoReturn, Self

from hstreamlite import signals
from hstreamlite._native.files import real_env
from hstreamlite.config import (
    PATH_BYTES_MAX,
    Durability,
    StoreConfig,
    check_bool,
    check_durability,
    check_name,
)
from hstreamlite.consumer import Consumer, ConsumerOptions
from hstreamlite.engine import Engine
from hstreamlite.env import Env
from hstreamlite.errors import (
    HStreamError,
)
from hstreamlite.feed import Feed
from hstreamlite.follower import CONSUME, Follower, feeds_of
from hstreamlite.info import StoreStats, StreamInfo, SubscriptionInfo, stats_of, streams_of
from hstreamlite.log.recovery import RecoveryReport
from hstreamlite.place import EARLIEST, Place
from hstreamlite.position import lag, seek, set_paused
from hstreamlite.redrive import redrive
from hstreamlite.stream import FollowedStream, Stream
from hstreamlite.sub.effects import Lag
from hstreamlite.sub.retry import Backoff
from hstreamlite.ticker import Ticker
from hstreamlite.transaction import Collected, Transaction

log = logging.getLogger("hstreamlite")


def open(  # noqa: A001 - hstreamlite.open is how users say it
    path: object,
    *,
    durability: Durability | None = None,
    create: bool | None = None,
    read_only: bool = False,
    accept_damage: bool = False,
    config: StoreConfig | None = None,
    env: Env | None = None,
) -> Store:
    """Open the store in a directory, creating it if it is absent or empty, unless create is False.

    One owner per directory: StoreLocked names the process that has it. After a crash this recovers;
    `store.recovery` tells what was found. `durability` is the level of appends that name none, and
    goes before that of the config.

    With read_only any number of processes may open the directory beside its owner, or without one.
    They see what is on disk, and what is added as it gets there; nothing is created or written, and
    whatever would raises ReadOnly. A file system without write permission will do.

    With accept_damage, which needs read_only, a damaged store is read as far as it verifies, as it
    is now: all of it is read and checked first, and `store.recovery` tells what is lost. Readers
    raise CorruptionError once at each loss and go on behind it. StoreLocked while it has an owner.

    A store stays open until it is closed or the process ends, also if nobody refers to it any more.

    NotAStore, StoreVersionUnsupported, CorruptionError, StorageFull and StorageUnavailable leave
    the files as they were.

    >>> import hstreamlite as hs, tempfile
    >>> with tempfile.TemporaryDirectory() as path, hs.open(path) as store:
    ...     str(store.create_stream("orders").append(b"first", key="customer-17"))
    '1-1-0'
    """
    config = config_for(config, durability)
    text = real_path(path) if check_env(env) is None else path_text(path)
    opener = opener_for(create=create, read_only=read_only, accept_damage=accept_damage)
    engine = opener(env or real_env(), text, config)
    try:
        return (FollowedStore if read_only else Store)(engine)
    except BaseException:
        engine.close(clean=False)
        raise


def opener_for(
    *, create: bool | None, read_only: bool, accept_damage: bool
) -> Callable[..., Engine]:
    """Return what opens the engine of a store so."""
    if create is not None:
        check_bool("create", create)
    check_bool("read_only", read_only)
    check_bool("accept_damage", accept_damage)
    if accept_damage and not read_only:
        raise ValueError(
            "accept_damage=True needs read_only=True: a damaged store is only read; to write on, "
            "make a new one of what verifies with `hstreamlite salvage`"
        )
    if create and read_only:
        raise ValueError(
            "create=True and read_only=True exclude each other: nothing is created read-only; the "
            "process that writes the store creates it"
        )
    if accept_damage:
        from hstreamlite.damaged import DamagedStore  # few programs ever ask for it

        return DamagedStore.open
    return Follower.open if read_only else partial(Engine.open, create=create is not False)


def config_for(config: StoreConfig | None, durability: Durability | None) -> StoreConfig:
    if config is None:
        config = StoreConfig()
    if not isinstance(config, StoreConfig):
        raise TypeError(f"config must be a StoreConfig, not {type(config).__name__}")
    if durability is None:
        return config
    check_durability(durability)
    return replace(config, durability=durability)


def check_env(env: object) -> object:
    """Return an environment, or None for that of the process; TypeError if it is neither."""
    if env is not None and not isinstance(env, Env):
        raise TypeError(f"env must be an Env or None, not {type(env).__name__}")
    return env


def path_text(path: object) -> str:
    """Return a path as text without a trailing slash; TypeError or ValueError for none."""
    if not isinstance(path, str | bytes | PathLike):
        raise TypeError(f"path must be a str, bytes or PathLike, not {type(path).__name__}")
    text = fsdecode(path)
    try:
        fsencode(text)
    except UnicodeEncodeError:
        text = ""
    if not text or "\0" in text:
        raise ValueError(f"path must name a directory, not {path!r}")
    return text.rstrip("/") or "/"


def real_path(path: object) -> str:
    """Return an absolute path: the process may change its directory while the store is open."""
    text = abspath(path_text(path))  # noqa: PTH100 - links are the user's to keep
    size = len(fsencode(text))
    if size > PATH_BYTES_MAX:
        raise ValueError(f"path must be absolute in at most {PATH_BYTES_MAX} bytes, not {size}")
    return text


def back_up(engine: Engine, path: object, progress: Callable[[int, int], None] | None) -> None:
    """Copy the store to a new directory, as `Store.backup`."""
    from hstreamlite.tools.backup import backup  # few programs ever ask for it

    engine.check_open()
    target = real_path(path) if engine.env.threaded else path_text(path)
    backup(engine.env, engine.journal, engine.lock, target, progress or _silent)


def _silent(done: int, total: int) -> None:
    """Show nothing."""


class Store:
    """An open directory. Thread-safe. Leaving the `with` block closes it.

    Close waits for what is staged, stores the progress of all subscriptions, and releases the lock.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._feeds = feeds_of(engine)
        self._ticker = Ticker(engine, self._feeds)
        if not engine.read_only:
            self._ticker.start()
        if engine.env.threaded:
            signals.close_at_exit(self.close)

    # Streams.

    def create_stream(
        self,
        name: str,
        *,
        backlog: float | timedelta = 0,
        max_bytes: int = 0,
        protect: Iterable[str] = (),
        exists_ok: bool = False,
    ) -> Stream:
        """Create a stream; on disk when this returns.

        backlog: how long records are kept, in seconds or as a timedelta; 0 = for ever. max_bytes:
        how much is kept; 0 = everything. Both free whole segment files, some time after. protect:
        subscriptions whose unread records neither of them drops. StreamExists unless exists_ok,
        which leaves an existing stream as it is.
        """
        pending = self._engine.create_stream(
            name, backlog=backlog, max_bytes=max_bytes, protect=protect, exists_ok=exists_ok
        )
        self._engine.journal.wait(pending.ticket)
        return self._stream(name)

    def stream(self, name: str) -> Stream:
        """Return a handle, without looking whether the stream exists."""
        return self._stream(check_name("stream", name))

    def _stream(self, name: str) -> Stream:
        return Stream(self._engine, self._ticker, name, self._engine.catalog.streams.get(name))

    def streams(self) -> list[StreamInfo]:
        """Return what there is, by name."""
        return streams_of(self._engine)

    def delete_stream(self, name: str, *, force: bool = False) -> None:
        """Delete a stream and its records.

        StreamInUse while it has subscriptions. With force the name is free at once, and those
        subscriptions go on with what was appended before.
        """
        self._engine.journal.wait(self._engine.delete_stream(name, force=force).ticket)
        self._engine.journal.poke()
        self._ticker.house.free_segments()

    # Subscriptions.

    def create_subscription(
        self,
        name: str,
        *,
        stream: str,
        mode: str = "ordered",
        ack_timeout: float | timedelta = 60.0,
        max_unacked: int = 10_000,
        max_unacked_bytes: int | None = None,
        max_unacked_per_consumer: int | None = None,
        max_unacked_bytes_per_consumer: int | None = None,
        start: Place = EARLIEST,
        max_attempts: int = 0,
        dead_letter: str | None = None,
        backoff: Backoff | None = None,
        exists_ok: bool = False,
    ) -> Subscription:
        """Create a subscription; on disk when this returns.

        Its consumers share the stream's records: each record goes to one of them, and again if it
        is not acked within ack_timeout (seconds). start is fixed now.

        At most max_unacked records are out at a time, and max_unacked_per_consumer at one consumer.
        While max_unacked_bytes are out, or max_unacked_bytes_per_consumer at one consumer, no more
        go out; a record larger than that goes when nothing else is out. None is no limit.

        After max_attempts deliveries (0 = no limit) a record that is not acked moves to the stream
        dead_letter. backoff says how long a record waits that was released or timed out, before it
        goes out again (None = not at all).

        mode "ordered": records of one key are at one consumer at a time, in order, also when they
        are sent again; consumers share the keys. mode "shared" spreads batches over the consumers,
        without order among them. Records without a key are in no order in either.
        """
        pending = self._feeds.create(
            name,
            stream=stream,
            mode=mode,
            ack_timeout=ack_timeout,
            max_unacked=max_unacked,
            max_unacked_bytes=max_unacked_bytes,
            max_unacked_per_consumer=max_unacked_per_consumer,
            max_unacked_bytes_per_consumer=max_unacked_bytes_per_consumer,
            start=start,
            max_attempts=max_attempts,
            dead_letter=dead_letter,
            backoff=backoff,
            exists_ok=exists_ok,
        )
        self._engine.journal.wait(pending.ticket)
        return Subscription(self, name)

    def subscription(self, name: str) -> Subscription:
        """Return a handle, without looking whether the subscription exists."""
        return Subscription(self, check_name("subscription", name))

    def subscriptions(self) -> list[SubscriptionInfo]:
        """Return what there is, by name."""
        self._engine.check_open()
        return self._feeds.told(SubscriptionInfo.of)

    def delete_subscription(self, name: str, *, force: bool = False) -> None:
        """Delete a subscription and its progress.

        SubscriptionInUse while consumers are attached. With force they end with
        SubscriptionNotFound.
        """
        self._engine.journal.wait(self._feeds.delete(name, force=force).ticket)

    def transaction(self) -> Transaction:
        """Return a context manager: what is done through it happens at its end, all or nothing."""
        collected = Collected(self._engine)
        return Transaction(collected, collected.commit_and_wait)

    # The store itself.

    @property
    def path(self) -> str:
        return self._engine.path

    @property
    def closed(self) -> bool:
        return self._engine.closed

    @property
    def read_only(self) -> bool:
        """Whether another process writes the store, if any does."""
        return self._engine.read_only

    @property
    def recovery(self) -> RecoveryReport:
        """What opening found and did."""
        return self._engine.report

    def stats(self) -> StoreStats:
        """Return counters and sizes; costs O(streams + subscriptions)."""
        self._engine.check_open()
        return stats_of(self._engine, self._feeds, self._ticker.meters)

    def sync(self) -> None:
        """Return when everything appended so far, at whatever level, is on disk."""
        self._engine.check_open()
        self._engine.journal.wait(self._engine.journal.staged())

    def compact(self) -> None:
        """Regroup now what the store would regroup in time, and return when it is done.

        Sealed segments in which many logs lie scattered are written anew, sorted by log, so that
        the old records of one stream are read in one piece; so are those of which less than half
        is left. Records, ids and readers stay as they are. The segment being written is not
        touched. StorageFull where the disk has no room for a new file, StorageUnavailable where the
        directory is gone; all is then as it was.
        """
        self._ticker.house.compact()

    def backup(self, path: object, *, progress: Callable[[int, int], None] | None = None) -> None:
        """Copy the store to a new directory while it goes on working; verified when this returns.

        The copy holds at least everything appended before the call, and is a store of its own:
        restoring means opening it. It appears under its name only when it is whole. progress is
        told (bytes done, bytes in all) now and then; what it raises ends the backup.

        FileExistsError unless the directory is absent or empty. CorruptionError, StorageFull,
        StorageUnavailable and any other OSError leave nothing there.
        """
        back_up(self._engine, path, progress)

    def tick(self) -> int | None:
        """Do what the store's own thread does, once; return when it is next needed (ns).

        Only needed where an environment runs without threads.
        """
        self._engine.journal.step()
        return self._ticker.run_once()

    def close(self) -> None:
        """Close. Consumers and readers in other threads end with StoreClosed.

        Where `Consumer.run` is at work its handlers are waited for, as it says.
        """
        signals.closed(self.close)
        engine = self._engine
        if engine.closed:
            return
        if engine.forked:
            engine.close()
            return
        for run in self._feeds.stop_runs():
            run.join()
        self._ticker.stop()
        try:
            self._ticker.flush_producers()
            self._feeds.store_all()
        except HStreamError as error:
            log.warning("closing %r: %s", self.path, str(error))  # a kept record keeps no store
        finally:
            engine.journal.interrupt()
            engine.close()

    def __enter__(self) -> Self:
        self._engine.check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._engine.catalog.streams)} streams"
        kind = " read-only" if self.read_only else ""
        return f"<Store {self.path!r}{kind} {state}>"


class FollowedStore(Store):
    """A store that another process writes, or none. Thread-safe."""

    _engine: Follower

    def create_stream(self, name: str, **_: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"create stream {name!r}")

    def _stream(self, name: str) -> Stream:
        return FollowedStream(self._engine, self._ticker, name)

    def delete_stream(self, name: str, **_: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"delete stream {name!r}")

    def create_subscription(self, name: str, **_: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"create subscription {name!r}")

    def subscription(self, name: str) -> Subscription:
        """Return a handle, without looking whether the subscription exists."""
        return FollowedSubscription(self, check_name("subscription", name))

    def delete_subscription(self, name: str, **_: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"delete subscription {name!r}")

    def transaction(self) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse("run a transaction")

    def compact(self) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse("regroup segments")

    def backup(self, path: object, **_: object) -> NoReturn:  # noqa: ARG002 - refused
        """Raise ReadOnly: what is copied is held in place by the process that writes."""
        self._engine.refuse("hold its files in place for a backup")

    def tick(self) -> int | None:
        """See what is durable now. Only needed where an environment runs without threads."""
        self._engine.check_open()
        return None


class Subscription:
    """A handle of one subscription. Thread-safe."""

    __slots__ = ("_store", "name")

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name

    def consumer(
        self,
        name: str,
        *,
        prefetch: int = 100,
        max_unacked: int | None = None,
        max_unacked_bytes: int | None = None,
    ) -> Consumer:
        """Attach a consumer; ConsumerExists if the name is attached already.

        prefetch: how many records iterating takes at a time, at most. max_unacked and
        max_unacked_bytes are windows of this consumer, in place of those that the subscription has
        for each.
        """
        options = ConsumerOptions.of(name, prefetch, max_unacked, max_unacked_bytes)
        return Consumer(self._feed(), options)

    def _feed(self) -> Feed:
        return self._store._feeds.get(self.name)

    def info(self) -> SubscriptionInfo:
        """Return what is known of the subscription; SubscriptionNotFound if it does not exist."""
        return SubscriptionInfo.of(self._feed())

    def lag(self) -> Lag:
        """Return how far the group is behind: records, bytes, and the age of the oldest."""
        return lag(self._feed())

    def seek(self, to: Place) -> None:
        """Deliver from another place on, whatever was acked; on disk when this returns.

        `to` is what `start` may be, and is fixed now. Consumers may be attached: they go on from
        there, `events()` tells them, and acks of what they got before are void. RecordTrimmed for
        an id that is gone, ValueError for one of another stream or behind the end.
        """
        feed = self._feed()
        feed.journal.wait(seek(feed, to))

    def redrive(self, limit: int | None = None) -> int:
        """Append the dead letters of this subscription, limit of them at most, to its stream again;
        return how many, on disk when this returns.

        Each goes back once, also if the process ends in between; letters stay in the dead-letter
        stream. They are new records, which other subscriptions of the stream get too.
        StreamNotFound if one of the streams is gone, CorruptionError after all others went back if
        some cannot be read.
        """
        feed = self._feed()
        pending = redrive(feed, limit)
        feed.journal.wait(pending.ticket)
        count: int = pending.value
        return count

    def skip_damaged(self) -> int:
        """Give up the records that were set aside because they cannot be read; return how many, on
        disk when this returns.

        They count as acked, and every consumer gets a gap event. Those that nobody has come to yet
        are not among them.
        """
        feed = self._feed()
        count, ticket = feed.unreadable.skip()
        feed.journal.wait(ticket)
        return count

    def pause(self) -> None:
        """Deliver nothing until `resume`, also after a restart; on disk when this returns.

        What is out stays out: acks count, and timeouts go on.
        """
        self._pause(paused=True)

    def resume(self) -> None:
        """Deliver again; on disk when this returns."""
        self._pause(paused=False)

    def _pause(self, *, paused: bool) -> None:
        store = self._store
        store._engine.journal.wait(set_paused(store._feeds, self.name, paused=paused))

    def __repr__(self) -> str:
        return f"<Subscription {self.name!r} of {self._store.path!r}>"


class FollowedSubscription(Subscription):
    """A handle of one subscription of a store that another process writes."""

    __slots__ = ()

    _store: FollowedStore

    def consumer(self, name: str, **_: object) -> NoReturn:  # noqa: ARG002 - refused
        """Raise ReadOnly: acks go through the one process that writes."""
        self._store._engine.refuse(CONSUME)

    def seek(self, to: Place) -> NoReturn:  # noqa: ARG002 - refused
        """Raise ReadOnly."""
        self._store._engine.refuse(f"move subscription {self.name!r}")

    def redrive(self, limit: int | None = None) -> NoReturn:  # noqa: ARG002 - refused
        """Raise ReadOnly."""
        self._store._engine.refuse(f"redrive subscription {self.name!r}")

    def skip_damaged(self) -> NoReturn:
        """Raise ReadOnly."""
        self._store._engine.refuse(f"move subscription {self.name!r}")

    def pause(self) -> NoReturn:
        """Raise ReadOnly."""
        self._store._engine.refuse(f"pause subscription {self.name!r}")

    def resume(self) -> NoReturn:
        """Raise ReadOnly."""
        self._store._engine.refuse(f"resume subscription {self.name!r}")
