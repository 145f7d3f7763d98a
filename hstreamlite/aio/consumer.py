"""The asyncio face of a consumer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

from hstreamlite.aio.bell import Bell, in_thread
from hstreamlite.aio.tasks import Tasks
from hstreamlite.config import check_bool, check_int, check_receive
from hstreamlite.consumer import ConsumerBase, ConsumerOptions, check_timeout
from hstreamlite.errors import ConsumerClosed, StoreClosed, SubscriptionNotFound
from hstreamlite.feed import AckResult, Feed
from hstreamlite.fetcher import EMPTY
from hstreamlite.handling import WIDTH_MAX, OnError, check_handler
from hstreamlite.records import Delivery, DeliveryBatch
from hstreamlite.spans import Deliveries


class _Done:
    """Awaitable that is done: what was asked for happened in the call."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


DONE: Final = _Done()


class Consumer(ConsumerBase):
    """One attached reader of a subscription, as `hstreamlite.Consumer`."""

    _may_block = False
    _work: Tasks | None = None
    _ack_answer = DONE

    def __init__(self, bell: Bell, feed: Feed, options: ConsumerOptions) -> None:
        self._bell = bell
        self._fetching: asyncio.Future[DeliveryBatch | None] | None = None
        super().__init__(feed, options)

    async def receive(
        self,
        max_records: int = 100,
        timeout: float | None = None,  # noqa: ASYNC109 - the noun has it on both faces
    ) -> DeliveryBatch:
        """Return up to max_records deliveries, as soon as there is one; () after the timeout."""
        check_receive(max_records)
        seconds = check_timeout(timeout)
        return await self._poll(self._fetch, max_records, self._end_of(seconds))

    async def _poll(
        self, fetch: Callable[..., DeliveryBatch | None], max_records: int, end: int | None
    ) -> DeliveryBatch:
        """Fetch until there is something, or the time is over."""
        clock = self._feed.engine.env.clock
        try:
            while True:
                while self._fetching is not None and not self._fetching.done():
                    await asyncio.wait([self._fetching])
                self._check()
                durable = self._journal.durable()
                batch = fetch(max_records, may_block=False)
                listened = batch is not None
                if batch is None:
                    batch = await self._fetch_in_thread(fetch, max_records)
                if batch:
                    return batch
                now = clock.mono_ns()
                if end is not None and now >= end:
                    return EMPTY
                if not listened:
                    continue
                waits = [] if end is None else [end - now]
                due = self._feed.next_deadline()
                if due is not None:
                    waits.append(max(0, due - now))
                await self._bell.change(durable, min(waits) / 1e9 if waits else None)
        finally:
            if not self._closed:
                self._feed.leave_line(self.name)

    async def _fetch_in_thread(
        self, fetch: Callable[..., DeliveryBatch | None], max_records: int
    ) -> DeliveryBatch | None:
        """Fetch what has to be read from a file; deliveries that nobody takes go back.

        The thread goes on when the caller is cancelled, and the next call waits for it.
        """
        fetching = self._fetching = asyncio.ensure_future(
            in_thread(fetch, max_records, may_block=True)
        )
        try:
            return await asyncio.shield(fetching)
        except asyncio.CancelledError:
            if fetch == self._fetch:
                fetching.add_done_callback(self._give_back_fetched)
            raise

    def _give_back_fetched(self, fetching: asyncio.Future[DeliveryBatch | None]) -> None:
        if not fetching.cancelled() and fetching.exception() is None and not self._closed:
            batch = fetching.result()
            if batch:
                with suppress(StoreClosed, SubscriptionNotFound):
                    self._feed.unsend(self.name, batch.spans)

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        feed, unseen = self._feed, self._unseen
        try:
            while not self._closed:
                if not unseen:
                    self._begin(await self.receive(self._take))
                with suppress(IndexError):  # it is empty
                    while feed.seeks == self._seeks:
                        yield unseen.popleft()
                self._end()
        except ConsumerClosed:
            return
        finally:
            self._give_back()

    async def run(
        self,
        handle: Callable[[Delivery], object],
        *,
        concurrency: int = 1,
        on_error: OnError | None = None,
        drain_timeout: float = 30.0,
    ) -> None:
        """Call handle with every delivery, so many at a time, and ack it when that returns.

        As `hstreamlite.Consumer.run`, with tasks. handle is a coroutine function, or a plain one,
        which is called in a worker thread. Cancelling this drains, and then raises CancelledError;
        handlers that have not ended within drain_timeout seconds are cancelled too.
        """
        check_handler(handle, on_error)
        check_int("concurrency", concurrency, 1, WIDTH_MAX)
        work = Tasks(self, self._start_handling(concurrency, drain_timeout), handle, on_error)
        self._work = work
        self._feed.add_run(work)
        try:
            await work.run()
        finally:
            self._feed.runs.discard(work)
            self._work = None
            self._end_handling()

    async def ack(self, deliveries: Deliveries, *, durable: bool = False) -> AckResult:
        """Ack a delivery, several, or a whole batch, as `hstreamlite.Consumer.ack`."""
        check_bool("durable", durable)
        result = self._ack_items(deliveries)
        if durable:
            await self.commit()
        return result

    async def commit(self) -> None:
        """Return when all that was acked so far is on disk, as `hstreamlite.Consumer.commit`."""
        self._check()
        ticket = self._feed.progress.commit(may_block=False)
        if ticket is None:
            ticket = await in_thread(self._feed.progress.commit, may_block=True)
            assert ticket is not None
        await self._bell.ticket(ticket)

    async def release(
        self,
        deliveries: Deliveries,
        *,
        after: float | timedelta | None = None,
        reason: str | None = None,
    ) -> int:
        """Give deliveries back, to be sent again, as `hstreamlite.Consumer.release`."""
        return self._release_items(deliveries, after, reason)

    async def extend(self, deliveries: Deliveries, *, by: float | timedelta) -> int:
        """Move the deadline of deliveries to `by` seconds from now, unless it lies later; returns
        how many are held."""
        return self._extend_items(deliveries, by)

    async def close(self) -> None:
        """Detach, as `hstreamlite.Consumer.close`. A second call does nothing."""
        work = self._work
        if work is not None:
            self._closing = True
            work.handling.stop()
            await work.join()
            if work.is_here():
                return
        await in_thread(self._leave)

    def _release(
        self, delivery: Delivery, after: float | timedelta | None, reason: str | None
    ) -> Awaitable[None]:
        self._release_items(delivery, after, reason)
        return DONE

    def _extend(self, delivery: Delivery, by: float | timedelta) -> Awaitable[None]:
        self._extend_items(delivery, by)
        return DONE

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
