"""A subscription of a remote store."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hstreamlite.config import check_duration, check_int
from hstreamlite.consumer import ConsumerOptions
from hstreamlite.info import SubscriptionInfo
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.wire import lag_from, place_to, subscription_info_from
from hstreamlite.place import Place, check_place
from hstreamlite.remote.attachment import (
    LEASE_SECONDS,
    LEASE_SECONDS_MAX,
    LEASE_SECONDS_MIN,
)
from hstreamlite.remote.consumer import Consumer
from hstreamlite.remote.link import Link
from hstreamlite.sub.effects import Lag


class Subscription:
    """A handle of one subscription."""

    __slots__ = ("_link", "name")

    def __init__(self, link: Link, name: str) -> None:
        self._link = link
        self.name = name

    def consumer(
        self,
        name: str,
        *,
        prefetch: int = 100,
        max_unacked: int | None = None,
        max_unacked_bytes: int | None = None,
        lease: float | timedelta = LEASE_SECONDS,
    ) -> Consumer:
        """Begin to attach a consumer: await it, enter it or use it to be told whether it could be.

        ConsumerExists if the name is attached already. Options as with `hstreamlite`, and lease:
        for how many seconds, 0.1 to 300, the server waits for a sign of life before others get what
        the consumer holds. It gives one thrice in that time, as long as the event loop goes round.
        """
        options = ConsumerOptions.of(name, prefetch, max_unacked, max_unacked_bytes)
        seconds = check_duration("lease", lease, LEASE_SECONDS_MAX, least=LEASE_SECONDS_MIN)
        options = replace(options, lease_ns=int(seconds * 1e9))
        self._link.check()
        return Consumer(self._link, self.name, options)

    async def info(self) -> SubscriptionInfo:
        """Return what is known; SubscriptionNotFound if it does not exist."""
        request = pb.SubscriptionRequest(subscription=self.name)
        return subscription_info_from(
            await self._link.call("DescribeSubscription", request, again=True)
        )

    async def lag(self) -> Lag:
        """Return how far the group is behind: records, bytes, and the age of the oldest."""
        request = pb.SubscriptionRequest(subscription=self.name)
        return lag_from(await self._link.call("Lag", request, again=True))

    async def seek(self, to: Place) -> None:
        """Deliver from another place on, as `hstreamlite.Subscription.seek`."""
        request = pb.SeekRequest(subscription=self.name, to=place_to(check_place("to", to)))
        await self._link.call("Seek", request, again=False)
        for consumer in self._link.consumers:
            if consumer.subscription == self.name:
                consumer.sought()

    async def redrive(self, limit: int | None = None) -> int:
        """Append dead letters to their stream again, as `hstreamlite.Subscription.redrive`."""
        request = pb.RedriveRequest(subscription=self.name)
        if limit is not None:
            request.limit = check_int("limit", limit, 0, (1 << 63) - 1)
        records: int = (await self._link.call("Redrive", request, again=False)).records
        return records

    async def skip_damaged(self) -> int:
        """Give up records that cannot be read, as `hstreamlite.Subscription.skip_damaged`."""
        request = pb.SubscriptionRequest(subscription=self.name)
        records: int = (await self._link.call("SkipDamaged", request, again=False)).records
        return records

    async def pause(self) -> None:
        """Deliver nothing until `resume`, as `hstreamlite.Subscription.pause`."""
        await self._pause(paused=True)

    async def resume(self) -> None:
        """Deliver again; on disk when this returns."""
        await self._pause(paused=False)

    async def _pause(self, *, paused: bool) -> None:
        for consumer in self._link.consumers:
            if consumer.subscription == self.name:
                consumer.return_stock()
        request = pb.PauseRequest(subscription=self.name, paused=paused)
        await self._link.call("Pause", request, again=True)

    def __repr__(self) -> str:
        return f"<remote Subscription {self.name!r} of {self._link.path!r}>"
