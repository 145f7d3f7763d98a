"""A store reached over a connection, for asyncio."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from hstreamlite.aio.transaction import Transaction
from hstreamlite.config import (
    Durability,
    check_bool,
    check_durability,
    check_name,
)
from hstreamlite.env import Env
from hstreamlite.info import StoreStats, StreamInfo, SubscriptionInfo, stats_from
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.wire import (
    stream_info_from,
    subscription_info_from,
)
from hstreamlite.place import EARLIEST, Place
from hstreamlite.remote.address import parse
from hstreamlite.remote.backup import Backup
from hstreamlite.remote.link import Link
from hstreamlite.remote.requests import stream_request, subscription_request
from hstreamlite.remote.security import Security
from hstreamlite.remote.stream import Stream
from hstreamlite.remote.subscription import Subscription
from hstreamlite.remote.transaction import transaction_of
from hstreamlite.sub.retry import Backoff


class Connecting:
    """What `hstreamlite.aio.connect` answers with, to be awaited or entered."""

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None,
        durability: Durability | None,
        env: Env | None = None,
        security: Security | None = None,
    ) -> None:
        self._address = parse(address)
        self._security = security
        self._timeout = timeout
        if durability is not None:
            check_durability(durability)
        self._durability = durability
        self._env = env
        self._store: Store | None = None

    async def _connect(self) -> Store:
        link = Link(self._address, self._timeout, self._env, self._security)
        try:
            await link.connection(link.deadline())
        except BaseException:
            await link.close()
            raise
        return Store(link, self._durability)

    def __await__(self) -> Generator[Any, None, Store]:
        return self._connect().__await__()

    async def __aenter__(self) -> Store:
        self._store = await self._connect()
        return self._store

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._store is not None
        await self._store.close()


class Store:
    """A store that a server has open. Belongs to one event loop."""

    def __init__(self, link: Link, durability: Durability | None) -> None:
        self._link = link
        self._durability = durability

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
        request = stream_request(name, backlog, max_bytes, protect)
        request.exists_ok = check_bool("exists_ok", exists_ok)
        await self._link.call("CreateStream", request, again=exists_ok)
        return self.stream(name)

    def stream(self, name: str) -> Stream:
        """Return a handle, without looking whether the stream exists."""
        return Stream(self._link, check_name("stream", name), self._durability)

    async def streams(self) -> list[StreamInfo]:
        """Return what there is, by name."""
        reply = await self._link.call("ListStreams", pb.ListRequest(), again=True)
        return [stream_info_from(info) for info in reply.streams]

    async def delete_stream(self, name: str, *, force: bool = False) -> None:
        """Delete a stream and its records, as `hstreamlite.Store.delete_stream`."""
        request = pb.DeleteRequest(name=check_name("stream", name), force=force)
        await self._link.call("DeleteStream", request, again=False)

    async def backup(self, name: str, *, progress: Callable[[int, int], None] | None = None) -> str:
        """Have the server copy its store while it goes on working, and return the path there.

        The copy is a new directory of that name in the server's `backup_dir`: verified when this
        returns, and not there if this raises or is cancelled. Takes the right to administer the
        server. `progress` is told (bytes done, bytes in all) now and then. ValueError for what is
        no name; BackupRefused where the server has no place for backups, one of that name, or
        another one under way; CorruptionError where the store is damaged; ConnectionLost where the
        connection breaks, or is given up since another call of this store got no answer.
        """
        async with Backup(self._link, name) as backup:
            while not (step := await backup.step()).path:
                if progress is not None and step.total:
                    progress(step.done, step.total)
        if progress is not None:
            progress(step.total, step.total)
        return step.path

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
        request = subscription_request(
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
        )
        request.exists_ok = check_bool("exists_ok", exists_ok)
        await self._link.call("CreateSubscription", request, again=exists_ok)
        return self.subscription(name)

    def subscription(self, name: str) -> Subscription:
        """Return a handle, without looking whether the subscription exists."""
        return Subscription(self._link, check_name("subscription", name))

    async def subscriptions(self) -> list[SubscriptionInfo]:
        """Return what there is, by name."""
        reply = await self._link.call("ListSubscriptions", pb.ListRequest(), again=True)
        return [subscription_info_from(info) for info in reply.subscriptions]

    async def delete_subscription(self, name: str, *, force: bool = False) -> None:
        """Delete a subscription, as `hstreamlite.Store.delete_subscription`."""
        request = pb.DeleteRequest(name=check_name("subscription", name), force=force)
        await self._link.call("DeleteSubscription", request, again=False)

    def transaction(self) -> Transaction:
        """Return an async context manager that commits at its end, all or nothing."""
        self._link.check()
        return transaction_of(self._link)

    @property
    def address(self) -> str:
        """What was connected to."""
        return self._link.address

    @property
    def path(self) -> str:
        """The directory, on the machine of the server."""
        return self._link.path

    @property
    def closed(self) -> bool:
        return self._link.closed

    @property
    def read_only(self) -> bool:
        return False

    async def stats(self) -> StoreStats:
        """Return counters and sizes."""
        reply = await self._link.call("Stats", pb.StatsRequest(), again=True)
        return stats_from(json.loads(reply.stats))

    async def sync(self) -> None:
        """Return when everything appended so far, at whatever level, is on disk."""
        await self._link.call("Sync", pb.SyncRequest(), again=True)

    async def close(self) -> None:
        """Flush producers, detach consumers, and let go of the server. A second call does
        nothing."""
        await self._link.close()

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
        state = "closed" if self.closed else "connected"
        return f"<remote Store {self.path!r} at {self.address} {state}>"
