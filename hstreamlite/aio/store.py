"""The asyncio face of a store: open, Store, Subscription."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Self

from hstreamlite import signals
from hstreamlite._native.files import real_env
from hstreamlite.aio.bell import Bell, in_thread
from hstreamlite.aio.consumer import Consumer
from hstreamlite.aio.producer import Producer
from hstreamlite.aio.stream import FollowedStream, Stream
from hstreamlite.aio.transaction import Transaction, commit
from hstreamlite.config import Durability, StoreConfig, check_name
from hstreamlite.consumer import ConsumerOptions
from hstreamlite.engine import Engine
from hstreamlite.env import Env
from hstreamlite.errors import HStreamError
from hstreamlite.follower import CONSUME, Follower, feeds_of
from hstreamlite.info import StoreStats, StreamInfo, SubscriptionInfo, stats_of, streams_of
from hstreamlite.log.recovery import RecoveryReport
from hstreamlite.place import EARLIEST, Place
from hstreamlite.position import lag, seek, set_paused
from hstreamlite.redrive import redrive
from hstreamlite.store import back_up, check_env, config_for, opener_for, path_text, real_path
from hstreamlite.sub.effects import Lag
from hstreamlite.sub.retry import Backoff
from hstreamlite.ticker import Ticker
from hstreamlite.transaction import Collected

log = logging.getLogger("hstreamlite")


class open:  # noqa: A001, N801 - hstreamlite.aio.open is how users say it
    """Open a store: ``async with open(path) as store`` or ``store = await open(path)``.

    Arguments and errors as `hstreamlite.open`. The store belongs to the running loop.
    """

    def __init__(
        self,
        path: object,
        *,
        durability: Durability | None = None,
        create: bool | None = None,
        read_only: bool = False,
        accept_damage: bool = False,
        config: StoreConfig | None = None,
        env: Env | None = None,
    ) -> None:
        self._path = real_path(path) if check_env(env) is None else path_text(path)
        self._config = config_for(config, durability)
        self._opener = opener_for(create=create, read_only=read_only, accept_damage=accept_damage)
        self._env = env
        self._store: Store | None = None

    async def _open(self) -> Store:
        bell = Bell()
        opening = asyncio.ensure_future(
            in_thread(
                self._opener,
                self._env or real_env(),
                self._path,
                self._config,
                notify_fd=bell.log_fd,
            )
        )
        try:
            engine = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_discard_engine)
            raise
        except BaseException:
            bell.discard()
            raise
        try:
            return (FollowedStore if engine.read_only else Store)(engine, bell)
        except BaseException:
            engine.close(clean=False)
            bell.discard()
            raise

    def __await__(self) -> Generator[Any, None, Store]:
        return self._open().__await__()

    async def __aenter__(self) -> Store:
        self._store = await self._open()
        return self._store

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._store is not None
        await self._store.close()


def _discard_engine(opening: asyncio.Future[Engine]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class Store:
    """An open directory. Belongs to one event loop."""

    def __init__(self, engine: Engine, bell: Bell) -> None:
        self._engine = engine
        self._bell = bell
        bell.attach(engine)
        self._feeds = feeds_of(engine)
        self._producers: set[Producer] = set()
        self._closing: asyncio.Task[None] | None = None
        self._ticker = Ticker(engine, self._feeds)
        if not engine.read_only:
            self._ticker.start()
        if engine.env.threaded:
            signals.close_at_exit(self._close)

    async def create_stream(
        self,
        name: str,
        *,
        backlog: float | timedelta = 0,
        max_bytes: int = 0,
        protect: Iterable[str] = (),
        exists_ok: bool = False,
    ) -> Stream:
        """Create a stream, as `hstreamlite.Store.create_stream`."""
        pending = await in_thread(
            self._engine.create_stream,
            name,
            backlog=backlog,
            max_bytes=max_bytes,
            protect=protect,
            exists_ok=exists_ok,
        )
        await self._bell.ticket(pending.ticket)
        return self._stream(name)

    def stream(self, name: str) -> Stream:
        """Return a handle, without looking whether the stream exists."""
        return self._stream(check_name("stream", name))

    def _stream(self, name: str) -> Stream:
        return Stream(self._engine, self._bell, self._ticker.house, self._producers, name)

    async def streams(self) -> list[StreamInfo]:
        """Return what there is, by name."""
        return await in_thread(streams_of, self._engine)

    async def delete_stream(self, name: str, *, force: bool = False) -> None:
        """Delete a stream and its records, as `hstreamlite.Store.delete_stream`."""
        pending = await in_thread(self._engine.delete_stream, name, force=force)
        await self._bell.ticket(pending.ticket)
        self._engine.journal.poke()
        await in_thread(self._ticker.house.free_segments)

    async def compact(self) -> None:
        """Regroup now what the store would regroup in time, as `hstreamlite.Store.compact`."""
        await in_thread(self._ticker.house.compact)

    async def backup(
        self, path: object, *, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Copy the store to a new directory, as `hstreamlite.Store.backup`; progress is called in
        another thread."""
        await in_thread(back_up, self._engine, path, progress)

    async def create_subscription(
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
        """Create a subscription, as `hstreamlite.Store.create_subscription`."""
        pending = await in_thread(
            self._feeds.create,
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
        await self._bell.ticket(pending.ticket)
        return Subscription(self, name)

    def subscription(self, name: str) -> Subscription:
        """Return a handle, without looking whether the subscription exists."""
        return Subscription(self, check_name("subscription", name))

    async def subscriptions(self) -> list[SubscriptionInfo]:
        """Return what there is, by name."""
        self._engine.check_open()
        return await in_thread(self._feeds.told, SubscriptionInfo.of)

    async def delete_subscription(self, name: str, *, force: bool = False) -> None:
        """Delete a subscription, as `hstreamlite.Store.delete_subscription`."""
        pending = await in_thread(self._feeds.delete, name, force=force)
        await self._bell.ticket(pending.ticket)

    def transaction(self) -> Transaction:
        """Return an async context manager that commits at its end, all or nothing."""
        collected = Collected(self._engine)
        return Transaction(collected, partial(commit, self._bell, collected))

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

    async def stats(self) -> StoreStats:
        """Return counters and sizes."""
        self._engine.check_open()
        return await in_thread(stats_of, self._engine, self._feeds, self._ticker.meters)

    async def sync(self) -> None:
        """Return when everything appended so far, at whatever level, is on disk."""
        self._engine.check_open()
        await self._bell.ticket(self._engine.journal.staged())

    async def close(self) -> None:
        """Close, as `hstreamlite.Store.close`. A cancelled caller does not stop it."""
        if self._closing is None:
            if self._engine.closed:
                return
            self._closing = asyncio.ensure_future(self._shut())
        if not self._closing.done():
            await asyncio.shield(self._closing)

    async def _shut(self) -> None:
        for run in self._feeds.stop_runs():
            await run.join()
        for producer in list(self._producers):
            with suppress(HStreamError):
                await producer.flush()
        try:
            await in_thread(self._close)
        finally:
            self._bell.close()

    def _close(self) -> None:
        signals.closed(self._close)
        if self._engine.forked:
            self._engine.close()
            return
        self._ticker.stop()
        try:
            self._feeds.store_all()
        except HStreamError as error:
            log.warning("closing %r: %s", self.path, str(error))  # a kept record keeps no store
        finally:
            self._engine.journal.interrupt()
            self._engine.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._engine.catalog.streams)} streams"
        kind = " read-only" if self.read_only else ""
        return f"<aio.Store {self.path!r}{kind} {state}>"


class FollowedStore(Store):
    """A store that another process writes, or none. Belongs to one event loop."""

    _engine: Follower

    async def create_stream(self, name: str, **_: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"create stream {name!r}")

    def _stream(self, name: str) -> Stream:
        return FollowedStream(self._engine, self._bell, self._ticker.house, self._producers, name)

    async def delete_stream(self, name: str, **_: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"delete stream {name!r}")

    async def create_subscription(self, name: str, **_: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"create subscription {name!r}")

    def subscription(self, name: str) -> Subscription:
        """Return a handle, without looking whether the subscription exists."""
        return FollowedSubscription(self, check_name("subscription", name))

    async def delete_subscription(self, name: str, **_: object) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse(f"delete subscription {name!r}")

    def transaction(self) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse("run a transaction")

    async def compact(self) -> NoReturn:
        """Raise ReadOnly."""
        self._engine.refuse("regroup segments")

    async def backup(self, path: object, **_: object) -> NoReturn:  # noqa: ARG002 - refused
        """Raise ReadOnly: what is copied is held in place by the process that writes."""
        self._engine.refuse("hold its files in place for a backup")


class Subscription:
    """A handle of one subscription."""

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
        """Attach a consumer, as `hstreamlite.Subscription.consumer`."""
        options = ConsumerOptions.of(name, prefetch, max_unacked, max_unacked_bytes)
        feed = self._store._feeds.get(self.name)
        return Consumer(self._store._bell, feed, options)

    async def info(self) -> SubscriptionInfo:
        """Return what is known; SubscriptionNotFound if it does not exist."""
        return SubscriptionInfo.of(self._store._feeds.get(self.name))

    async def lag(self) -> Lag:
        """Return how far the group is behind: records, bytes, and the age of the oldest."""
        return await in_thread(lag, self._store._feeds.get(self.name))

    async def seek(self, to: Place) -> None:
        """Deliver from another place on, as `hstreamlite.Subscription.seek`."""
        feed = self._store._feeds.get(self.name)
        await self._store._bell.ticket(await in_thread(seek, feed, to))

    async def redrive(self, limit: int | None = None) -> int:
        """Append dead letters to their stream again, as `hstreamlite.Subscription.redrive`."""
        feed = self._store._feeds.get(self.name)
        pending = await in_thread(redrive, feed, limit)
        await self._store._bell.ticket(pending.ticket)
        count: int = pending.value
        return count

    async def skip_damaged(self) -> int:
        """Give up records that cannot be read, as `hstreamlite.Subscription.skip_damaged`."""
        feed = self._store._feeds.get(self.name)
        count, ticket = await in_thread(feed.unreadable.skip)
        await self._store._bell.ticket(ticket)
        return count

    async def pause(self) -> None:
        """Deliver nothing until `resume`, as `hstreamlite.Subscription.pause`."""
        await self._pause(paused=True)

    async def resume(self) -> None:
        """Deliver again; on disk when this returns."""
        await self._pause(paused=False)

    async def _pause(self, *, paused: bool) -> None:
        store = self._store
        ticket = await in_thread(set_paused, store._feeds, self.name, paused=paused)
        await store._bell.ticket(ticket)

    def __repr__(self) -> str:
        return f"<aio.Subscription {self.name!r} of {self._store.path!r}>"


class FollowedSubscription(Subscription):
    """A handle of one subscription of a store that another process writes."""

    __slots__ = ()

    _store: FollowedStore

    def consumer(self, name: str, **_: object) -> NoReturn:  # noqa: ARG002 - refused
        """Raise ReadOnly: acks go through the one process that writes."""
        self._store._engine.refuse(CONSUME)

    async def seek(self, to: Place) -> NoReturn:  # noqa: ARG002 - refused
        """Raise ReadOnly."""
        self._store._engine.refuse(f"move subscription {self.name!r}")

    async def redrive(self, limit: int | None = None) -> NoReturn:  # noqa: ARG002 - refused
        """Raise ReadOnly."""
        self._store._engine.refuse(f"redrive subscription {self.name!r}")

    async def skip_damaged(self) -> NoReturn:
        """Raise ReadOnly."""
        self._store._engine.refuse(f"move subscription {self.name!r}")

    async def pause(self) -> NoReturn:
        """Raise ReadOnly."""
        self._store._engine.refuse(f"pause subscription {self.name!r}")

    async def resume(self) -> NoReturn:
        """Raise ReadOnly."""
        self._store._engine.refuse(f"resume subscription {self.name!r}")
