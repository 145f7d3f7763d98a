"""A consumer that gets batches, for a server whose clients decode them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from hstreamlite._native import fast
from hstreamlite.aio.bell import Bell, in_thread
from hstreamlite.batchfeed import BatchFeed, RawAcks, RawDelivery, Wait, ack_ids, ack_places
from hstreamlite.config import check_seconds
from hstreamlite.errors import ConsumerClosed, StoreClosed, SubscriptionNotFound
from hstreamlite.feed import Feed
from hstreamlite.records import RecordId

_TIMEOUT_MAX = 1e9
_AHEAD_NS = 50_000_000
"""What is taken along is to be asked for within this time, so that other consumers get their share,
and so that its time to be acked begins when it goes out."""


class RawConsumer:
    """One attached reader of a subscription. One task receives; acks may come from any."""

    def __init__(self, bell: Bell, feed: Feed, name: str) -> None:
        self.name = name
        self.subscription = feed.state.name
        self._bell = bell
        self._feed = feed
        self._closed = False
        self._fetching: asyncio.Future[list[RawDelivery] | Wait] | None = None
        self._unseen: deque[RawDelivery] = deque()
        self._seeks = 0
        self._taken_ns = 0
        self._most = 1
        self._timer: asyncio.TimerHandle | None = None
        self._gate = fast.AckGate(feed.gate, self, feed.addresses, None)
        feed.roster.attach(name, self._gate)
        self._batches = BatchFeed(feed, name, self._gate)
        with feed.lock:
            feed.roster.takers.add(self)

    @property
    def closed(self) -> bool:
        return self._closed

    async def receive(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as of Consumer.receive
        *,
        ahead: int = 0,
    ) -> RawDelivery | None:
        """Return the next batch; None when timeout seconds pass without.

        It is in flight from now on, until it is acked or the ack timeout has passed. ConsumerClosed
        when this is closed meanwhile, SubscriptionNotFound when the subscription is deleted.
        Cancelling loses nothing: what was fetched goes to others, or comes with the next call.

        ``ahead``: so many batches more may be taken along for the next calls, while these come soon
        one after another. They are in flight, too; what is not asked for within 50 ms goes back.
        """
        feed, clock = self._feed, self._feed.engine.env.clock
        if (found := self._next_unseen()) is not None:
            return found
        end = None
        if timeout is not None:
            end = clock.mono_ns() + int(check_seconds("timeout", timeout, 0, _TIMEOUT_MAX) * 1e9)
        most = self._pace(ahead + 1)
        try:
            while True:
                while self._fetching is not None and not self._fetching.done():
                    await asyncio.wait([self._fetching])
                self._check()
                durable, seeks = feed.journal.durable(), feed.seeks
                batches = self._batches.fetch(most, may_block=False)
                if batches is Wait.FOR_FILES:
                    batches = await self._fetch_in_thread(most)
                if not isinstance(batches, Wait):
                    return self._begin(batches, seeks)
                now = clock.mono_ns()
                if end is not None and now >= end:
                    return None
                waits = [] if end is None else [end - now]
                due = feed.next_deadline()
                if due is not None:
                    waits.append(max(0, due - now))
                await self._bell.change(durable, min(waits) / 1e9 if waits else None)
        finally:
            if not self._closed:
                feed.leave_line(self.name)

    def _check(self) -> None:
        if self._closed:
            raise ConsumerClosed(self.subscription, self.name)
        self._feed.check()

    # What was taken along.

    def _begin(self, batches: list[RawDelivery], seeks: int) -> RawDelivery:
        """Return the first of batches, and keep the others; they are void after another seek."""
        first, *others = batches
        self._taken_ns = self._feed.engine.env.clock.mono_ns()
        self._seeks = seeks
        if others:
            self._unseen.extend(others)
            if self._timer is None:
                self._timer = self._bell.loop.call_later(_AHEAD_NS / 1e9, self._look)
        return first

    def _next_unseen(self) -> RawDelivery | None:
        if not self._unseen:
            return None
        self._check()
        if self._seeks != self._feed.seeks:  # it is void
            self._unseen.clear()
        try:
            return self._unseen.popleft()
        except IndexError:
            return None

    def _pace(self, most: int) -> int:
        """Return how many batches to take: more while they are asked for soon."""
        elapsed = self._feed.engine.env.clock.mono_ns() - self._taken_ns
        self._most = self._most * 2 if elapsed * 2 < _AHEAD_NS else 1
        self._most = min(self._most, most)
        return self._most

    def _look(self) -> None:
        """Give back what was taken along too long ago; others may want it."""
        self._timer = None
        if not self._unseen or self._closed:
            return
        elapsed = self._feed.engine.env.clock.mono_ns() - self._taken_ns
        if elapsed < _AHEAD_NS:
            left = (_AHEAD_NS - elapsed) / 1e9
            self._timer = self._bell.loop.call_later(left, self._look)
            return
        self._give_back()

    def _give_back(self) -> None:
        """Give back what was taken along: that was no attempt. Any thread may call."""
        left: deque[RawDelivery] = deque()
        with suppress(IndexError):
            while True:  # one by one, for the loop may take them
                left.appendleft(self._unseen.pop())
        if left and not self._closed and not self._feed.engine.forked:
            spans = [span for delivery in left for span in delivery.spans]
            self._feed.roster.return_unseen(self.name, self._gate, self._seeks, spans)

    # What has to be read from a file.

    async def _fetch_in_thread(self, most: int) -> list[RawDelivery] | Wait:
        """Fetch what has to be read from a file; the thread goes on when the caller is cancelled,
        and what it fetches then goes back."""
        fetching = self._fetching = asyncio.ensure_future(
            in_thread(self._batches.fetch, most, may_block=True)
        )
        try:
            return await asyncio.shield(fetching)
        except asyncio.CancelledError:
            fetching.add_done_callback(self._give_back_fetched)
            raise

    def _give_back_fetched(self, fetching: asyncio.Future[list[RawDelivery] | Wait]) -> None:
        if fetching.cancelled() or fetching.exception() is not None or self._closed:
            return
        found = fetching.result()
        if not isinstance(found, Wait):
            with suppress(StoreClosed, SubscriptionNotFound):
                self._feed.unsend(self.name, [span for one in found for span in one.spans])

    async def __aiter__(self) -> AsyncIterator[RawDelivery]:
        """Iterate over batches until this is closed."""
        while not self._closed:
            try:
                found = await self.receive()
            except ConsumerClosed:
                return
            if found is not None:
                yield found

    def ack(self, ids: Iterable[tuple[int, int, int] | RecordId]) -> RawAcks:
        """Ack records by (shard, batch, index): whoever holds them, late, twice, or never sent.

        Progress is on disk within `progress_interval`. SubscriptionNotFound when it is deleted.
        """
        acks = ack_ids(self._feed, ids)
        self._feed.note_ack(self.name)
        return acks

    def ack_places(self, places: Mapping[int, list[int]]) -> RawAcks:
        """Ack records by their LSNs in each shard, as `ack`; 0 is the LSN of none."""
        acks = ack_places(self._feed, places)
        self._feed.note_ack(self.name)
        return acks

    async def close(self) -> None:
        """Detach; what is unacked goes to others at once. A second call does nothing.

        A `receive` under way ends with ConsumerClosed.
        """
        if self._closed:
            return
        self._give_back()
        self._closed = True
        self._gate.close()
        await in_thread(self._feed.roster.detach, self.name, self._gate)

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
        state = " closed" if self._closed else ""
        return f"<RawConsumer {self.name!r} of {self.subscription!r}{state}>"
