"""A consumer of a subscription of a remote store."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self
from weakref import ref

from hstreamlite._native import fast
from hstreamlite.aio.consumer import DONE
from hstreamlite.aio.tasks import Tasks
from hstreamlite.config import (
    ACK_TIMEOUT_SECONDS_MAX,
    check_bool,
    check_duration,
    check_int,
    check_reason,
    check_receive,
)
from hstreamlite.consumer import ConsumerOptions, check_timeout
from hstreamlite.env import Env
from hstreamlite.errors import ConsumerClosed, HStreamError
from hstreamlite.feed import AckResult
from hstreamlite.fetcher import EMPTY
from hstreamlite.handling import WIDTH_MAX, Handling, OnError, check_handler
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.wire import batch_of, event_from, excerpts_from, spans_to
from hstreamlite.records import Delivery, DeliveryBatch
from hstreamlite.remote import stock
from hstreamlite.remote.attachment import Answer, Attachment
from hstreamlite.remote.link import Link
from hstreamlite.spans import Deliveries, Span, spans_of
from hstreamlite.sub.effects import Event, Gap, Sought

Keys = set[str] | None
"""Keys of records; None: any."""


class _Later:
    """What was asked for happens, awaited or not; awaiting it tells whether it did."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.shield(self._answer).__await__()


class Consumer:
    """One attached reader of a subscription, as `hstreamlite.aio.Consumer`.

    It is attached when it is awaited, entered, or used for the first time. When the connection
    breaks it attaches again; what it held is sent again then, to it or to others. One that is
    dropped without being closed is detached when it and its deliveries are collected, and that is
    warned of.
    """

    _work: Tasks | None = None

    def __init__(self, link: Link, subscription: str, options: ConsumerOptions) -> None:
        prefetch = options.prefetch
        self.name = options.name
        self.subscription = subscription
        self.owner: Any = self
        """What deliveries name as their consumer."""
        self._link = link
        self._prefetch = prefetch
        self._take = min(prefetch, 8)
        self._events: deque[Event] = deque()
        self._gaps: deque[Gap] = deque()
        self._seeks = 0
        self._batches: dict[int, DeliveryBatch] = {}
        self._releasing: dict[int, Keys] = {}
        self._releases = 0
        self._released: dict[str | None, int] = {}
        self._heard: dict[int, int] = {}
        self._unseen: deque[Delivery] = deque()
        self._handling: Handling | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._taking: set[int] = set()
        self._closing = False
        self._dues: dict[tuple[int, int], tuple[int, float, str | None]] = {}
        self._wanted: dict[int, int] = {}
        self._takes = 0
        self._open = 0
        self._looking: asyncio.TimerHandle | None = None
        self._fetched: DeliveryBatch = EMPTY
        self._fetched_at = 0
        self._feed = Returns(self)
        self._attachment = Attachment(link, subscription, options, self._hear)
        link.members[self._attachment] = partial(_end, ref(self), self._attachment)
        link.consumers.add(self)

    async def _ready(self) -> Self:
        await self._attachment.opened()
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        """Wait until it is attached; raises what stands against it, such as ConsumerExists."""
        return self._ready().__await__()

    @property
    def link(self) -> Link:
        """Of the store that this is a consumer of."""
        return self._link

    @property
    def closed(self) -> bool:
        return self._attachment.closed

    @property
    def connected(self) -> bool:
        """Whether the server is there, as far as is known: else nothing is received."""
        return self._attachment.attached

    # What the server tells.

    def _hear(self, reply: pb.ConsumeReply) -> None:
        for told in reply.events:
            event = event_from(told)
            self._events.append(event)
            if isinstance(event, Sought):
                self._seeks += 1
                self._attachment.stock.clear()  # the server holds it for nobody
                self._attachment.pace.slack()
            elif isinstance(event, Gap):
                self._gaps.append(event)
        wanted = self._wanted.pop(reply.number, 0)
        if reply.HasField("deliveries") and reply.deliveries.pieces:
            if not wanted:
                self.return_stock()  # it must not come behind this
            excerpts = excerpts_from(reply.deliveries.pieces)
            batch = self._batch_of(excerpts)
            if not self._attachment.is_asked(reply.number):
                self._unsend(batch)
            else:
                if wanted:
                    size = sum(sum(excerpt.sizes()) for excerpt in excerpts)
                    self._attachment.pace.came(self._link.now(), len(batch), size)
                    batch = self._handed(wanted, batch, excerpts)
                self._batches[reply.number] = batch
                self._heard[reply.number] = self._releases
        self._releasing.pop(reply.number, None)

    def _batch_of(self, excerpts: list[fast.Excerpt]) -> DeliveryBatch:
        """Return deliveries, but for those that an earlier one of their key takes back."""
        batch = batch_of(excerpts, self.owner)
        if self._releasing and self._attachment.mode == "ordered":
            return stock.batch_of([d for d in batch if not self._is_doubtful(d)], self.owner)
        batch.consumer = self.owner
        return batch

    def _handed(
        self, wanted: int, batch: DeliveryBatch, excerpts: list[fast.Excerpt]
    ) -> DeliveryBatch:
        """Return what is handed over of what came; the rest lies here for the next call."""
        ahead = self._attachment.stock
        if not ahead and len(batch) <= wanted:
            return batch
        whole = len(excerpts) == 1 and len(excerpts[0]) == len(batch)
        ahead.add(excerpts[0] if whole else list(batch))
        if self._looking is None:
            self._looking = self._link.loop.call_later(
                self._attachment.pace.patience, _look, ref(self)
            )
        return ahead.take(wanted, self.owner)

    def _is_doubtful(self, delivery: Delivery) -> bool:
        key = delivery.key
        return key is not None and any(
            keys is None or key in keys for keys in self._releasing.values()
        )

    def return_stock(self) -> None:
        """Give back what came ahead of being asked for."""
        if self._attachment.stock:
            number, left = self._attachment.return_stock()
            if number:  # what is on its way, of these keys, is taken along
                self._releasing[number] = {d.key for d in left if d.key is not None}

    def look(self) -> None:
        """Give back what came ahead if it has lain here for too long, else look again then."""
        self._looking = None
        pace = self._attachment.pace
        if not self._attachment.stock:
            return
        left = pace.left(self._link.now())
        if left > 0:
            self._looking = self._link.loop.call_later(left, _look, ref(self))
        else:
            self.return_stock()

    def _unsend(self, deliveries: Iterable[Delivery]) -> None:
        """Give back what nobody has seen: that was no attempt."""
        self.return_stock()  # first: what lies behind a record is taken along as if it was seen
        spans = spans_of(list(deliveries))
        if spans:
            self._attachment.unsend(spans_to(spans))

    def sought(self) -> None:
        """Note that the subscription was moved by way of this store, ahead of being told."""
        self._seeks += 1
        self.return_stock()

    # Receiving.

    async def receive(
        self,
        max_records: int = 100,
        timeout: float | None = None,  # noqa: ASYNC109 - the noun has it on both faces
    ) -> DeliveryBatch:
        """Return up to max_records deliveries, as soon as there is one; () after the timeout.

        ConnectionFailed when there was no server for as long as the store tries.

        Where lists are acked, and followed by the next call, several times at once, more is asked
        for than is returned, up to 1,000 records and an eighth of the window; the next calls return
        it. What is left goes back, unseen, after 0.1 seconds, or a tenth of the ack timeout, and
        before the consumer releases or leaves. Nothing is taken ahead where max_attempts or a
        window in bytes is set.
        """
        check_receive(max_records)
        return await self.take(max_records, check_timeout(timeout))

    async def take(self, max_records: int, seconds: float | None) -> DeliveryBatch:
        """Receive, what is asked for being checked: what came ahead, or what comes next."""
        attachment = self._attachment
        attachment.check()
        ahead, pace, now = attachment.stock, attachment.pace, self._link.now()
        if ahead and attachment.attached and pace.left(now) > 0:
            batch = ahead.take(max_records, self.owner)
        else:
            self.return_stock()
            ask = max_records
            if not self._takes and self._handling is None:
                ask = pace.ask(now, max_records, settled=self._open <= 0)
                self._open = 0
            self._takes += 1
            try:
                batch = await self._ask_for(max_records, seconds, ahead=ask - max_records)
            finally:
                self._takes -= 1
        self._open += len(batch)
        return batch

    async def fetch(
        self, max_records: int, seconds: float | None, *, handled: bool = False
    ) -> DeliveryBatch:
        """Receive just that, what is asked for being checked; or for a run, which may stop it."""
        self._attachment.check()
        self.return_stock()
        return await self._ask_for(max_records, seconds, handled=handled)

    async def _ask_for(
        self,
        max_records: int,
        seconds: float | None,
        *,
        ahead: int | None = None,
        handled: bool = False,
    ) -> DeliveryBatch:
        """Ask for records, and for some ahead, which are kept."""
        await self._attachment.opened()
        end = None if seconds is None else self._link.now() + seconds
        while True:
            request = pb.ConsumeRequest.Fetch(max_records=max_records, ahead=ahead or 0)
            if seconds is not None:
                request.wait_ms = int(seconds * 1000)
            number, answer = self._attachment.ask(pb.ConsumeRequest(fetch=request))
            if ahead is not None:
                self._wanted[number] = max_records
            if handled:
                self._taking.add(number)
                self._released.clear()
            try:
                await self._answered(answer, seconds)
            finally:
                self._taking.discard(number)
                self._wanted.pop(number, None)
                if not answer.done():
                    self._attachment.forget(number)
                batch = self._batches.pop(number, None)
                heard = self._heard.pop(number, 0)
                if batch and (answer.cancelled() or not answer.done()):
                    self._unsend(batch)
            if not answer.done() or answer.cancelled():
                return EMPTY
            answer.result()
            if batch:
                self._fetched_at = heard
                return batch
            if end is not None:
                seconds = end - self._link.now()
                if batch is None or seconds <= 0:
                    return EMPTY

    async def _answered(self, answer: Answer, seconds: float | None) -> None:
        """Wait for an answer; where there is no connection, not longer than so many seconds."""
        if seconds is not None:
            await asyncio.wait([answer], timeout=seconds)
            if answer.done() or not self._attachment.attached:
                return
            await asyncio.wait([answer], timeout=self._link.timeout)
            return
        await asyncio.wait([answer])

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        unseen = self._unseen
        try:
            while True:
                self._attachment.check()
                if not unseen:
                    unseen.extend(await self.fetch(self._take, None))
                started, seeks = self._link.now(), self._seeks
                while unseen and self._seeks == seeks and not self.closed:
                    yield unseen.popleft()
                await self.end_batch(started)
        except ConsumerClosed:
            return
        finally:
            self.give_back()

    def give_back(self) -> None:
        """Give back what iterating has taken and not yielded."""
        if self._unseen:
            self._unsend(self._unseen)
            self._unseen.clear()

    async def end_batch(self, started: float) -> None:
        """Note that what was taken at a time was yielded, but for what a seek made void."""
        self.give_back()
        self._pace(self._link.now() - started)

    def _pace(self, elapsed: float) -> None:
        """Take more at a time while that is worked off well within the ack timeout."""
        if elapsed * 10 < self._attachment.ack_timeout:
            self._take = min(self._prefetch, self._take * 2)
        else:
            self._take = max(1, self._take // 2)

    # Acks.

    async def ack(self, deliveries: Deliveries, *, durable: bool = False) -> AckResult:
        """Ack a delivery, several, or a whole batch, as `hstreamlite.Consumer.ack`."""
        check_bool("durable", durable)
        self._attachment.check()
        spans = spans_to(spans_of(deliveries))
        await self._attachment.opened()
        acked = await asyncio.shield(self._attachment.ack(spans))
        self._open -= acked.new + acked.duplicate + acked.void
        if durable:
            await self.commit()
        return AckResult(acked.new, acked.duplicate, acked.void)

    async def commit(self) -> None:
        """Return when all that was acked so far is on disk, as `hstreamlite.Consumer.commit`."""
        await self._ask(pb.ConsumeRequest(commit=True))

    async def release(
        self,
        deliveries: Deliveries,
        *,
        after: float | timedelta | None = None,
        reason: str | None = None,
    ) -> int:
        """Give deliveries back, to be sent again, as `hstreamlite.Consumer.release`."""
        answer = self._post_release(deliveries, after, reason)
        if answer is None:
            return len(spans_of(deliveries))
        return (await asyncio.shield(answer)).count

    async def extend(self, deliveries: Deliveries, *, by: float | timedelta) -> int:
        """Move the deadline of deliveries to `by` seconds from now, unless it lies later; returns
        how many are held."""
        return (await self._ask(self._extension(deliveries, by))).count

    def _extension(self, deliveries: Deliveries, by: float | timedelta) -> pb.ConsumeRequest:
        self._attachment.check()
        seconds = check_duration("by", by, ACK_TIMEOUT_SECONDS_MAX, least=0.001)
        extend = pb.ConsumeRequest.Extend(
            spans=spans_to(spans_of(deliveries)), by_ns=int(seconds * 1e9)
        )
        return pb.ConsumeRequest(extend=extend)

    async def _ask(self, request: pb.ConsumeRequest) -> pb.ConsumeReply:
        """Ask, and wait for the answer; a cancelled caller does not take it back."""
        self._attachment.check()
        await self._attachment.opened()
        _, answer = self._attachment.ask(request)
        return await asyncio.shield(answer)

    def _post_release(
        self, deliveries: Deliveries, after: float | timedelta | None, reason: str | None
    ) -> Answer | None:
        """Ask for a release; None while `run` is at work, which sees to what waits behind it."""
        self._attachment.check()
        after_ns = None
        if after is not None:
            after_ns = int(check_duration("after", after, ACK_TIMEOUT_SECONDS_MAX) * 1e9)
        text = "" if reason is None else check_reason(reason)
        spans = spans_of(deliveries)
        if self._handling is not None:
            self._handling.release(spans, after_ns, text)
            return None
        items = [deliveries] if isinstance(deliveries, Delivery) else deliveries
        keys: Keys = None
        if isinstance(items, Iterable):
            listed = list(items)
            if all(isinstance(item, Delivery) for item in listed):
                keys = {item.key for item in listed if isinstance(item, Delivery) and item.key}
        return self.post_release(spans, after_ns, text, keys)

    def post_release(
        self, spans: Iterable[Span], after_ns: int | None, reason: str, keys: Keys
    ) -> Answer:
        """Ask for a release of spans, whose records have these keys."""
        self.return_stock()
        release = pb.ConsumeRequest.Release(spans=spans_to(spans), reason=reason)
        if after_ns is not None:
            release.after_ns = after_ns
        number, answer = self._attachment.ask(pb.ConsumeRequest(release=release))
        self._releasing[number] = keys
        return answer

    def note_release(self, keys: Keys) -> None:
        """Note that what a run has received of these keys, and not taken in, is taken back."""
        for key in keys or ():
            self._released[key] = self._releases
        self._releases += 1

    # What deliveries ask for: from any thread, since plain handlers of `run` have one of their own.

    def _here(self, post: Callable[[], Answer | None]) -> Awaitable[None]:
        """Ask on the loop; who is on it may await the answer, and who is not waits for it."""
        self._attachment.check()
        if _running_loop() is self._link.loop:
            answer = post()
            if answer is None:
                return DONE
            self._link.hold(answer)
            return _Later(answer)

        async def ask() -> None:
            answer = post()
            if answer is not None:
                await answer

        asyncio.run_coroutine_threadsafe(ask(), self._link.loop).result()
        return DONE

    def _ack(self, delivery: Delivery) -> Awaitable[None]:
        def post() -> Answer:
            record_id = delivery.id
            spans = [(record_id.shard_id, record_id.lsn, record_id.lsn + 1)]
            _, answer = self._attachment.ask(pb.ConsumeRequest(ack=spans_to(spans)))
            self._open -= 1
            if self._handling is not None:
                answer.add_done_callback(self._look_at)
            return answer

        return self._here(post)

    def _look_at(self, answer: Answer) -> None:
        """Let a run end when what it acked could not be."""
        if self._handling is not None and not answer.cancelled():
            error = answer.exception()
            if isinstance(error, HStreamError):
                self._handling.stop(error)

    def _release(
        self, delivery: Delivery, after: float | timedelta | None, reason: str | None
    ) -> Awaitable[None]:
        return self._here(lambda: self._post_release(delivery, after, reason))

    def _extend(self, delivery: Delivery, by: float | timedelta) -> Awaitable[None]:
        request = self._extension(delivery, by)
        return self._here(lambda: self._attachment.ask(request)[1])

    async def beat(self) -> None:
        """Return when all is told that happened before."""
        await self._ask(pb.ConsumeRequest(beat=True))

    # Handing deliveries to a function.

    async def run(
        self,
        handle: Callable[[Delivery], object],
        *,
        concurrency: int = 1,
        on_error: OnError | None = None,
        drain_timeout: float = 30.0,
    ) -> None:
        """Call handle with every delivery, so many at a time, and ack it when that returns, as
        `hstreamlite.aio.Consumer.run`."""
        check_handler(handle, on_error)
        check_int("concurrency", concurrency, 1, WIDTH_MAX)
        await self.begin_run()
        work = Tasks(self, self.handling(concurrency, drain_timeout), handle, on_error)
        self._work = work
        await self.keep()
        try:
            await work.run()
        finally:
            self._work = None
            await self.end_run()

    async def begin_run(self) -> None:
        """Raise what stands against a run."""
        self._attachment.check()
        await self._attachment.opened()
        if self._handling is not None:
            raise ValueError(f"consumer {self.name!r} runs already; one run at a time")

    def handling(self, width: int, drain_timeout: float) -> Handling:
        """Return the state of a run that begins; `end_run` ends it."""
        self._handling = Handling(self, width, drain_timeout)
        return self._handling

    async def keep(self) -> None:
        """Begin to see to it that what a run works on does not time out."""
        assert self._handling is not None
        self._keeping = self._link.loop.create_task(self._keep(self._handling))

    async def end_run(self) -> None:
        """Note that a run has ended; detach if it was to end with it."""
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None
        self._handling = None
        self._dues.clear()
        if self._closing:
            await self._leave()

    async def _poll(
        self, fetch: Callable[..., DeliveryBatch | None], max_records: int, end: int | None
    ) -> DeliveryBatch:
        """Receive for a run, and let it take that in."""
        del end
        batch = await self.fetch(max_records, None, handled=True)
        return self.pass_on(batch, fetch, max_records)

    def pass_on(
        self,
        batch: DeliveryBatch,
        fetch: Callable[..., DeliveryBatch | None],
        max_records: int,
    ) -> DeliveryBatch:
        """Let a run take in what was received."""
        self._fetched = batch
        due = self._link.now() + self._attachment.ack_timeout
        for delivery in batch:
            record_id = delivery.id
            place = record_id.shard_id, record_id.lsn
            self._dues[place] = self._attachment.count, due, delivery.key
        try:
            return fetch(max_records, may_block=False) or EMPTY
        except ConsumerClosed:
            self._unsend(batch)
            raise

    def _fetch(self, max_records: int, *, may_block: bool) -> DeliveryBatch | None:
        """Return what was received for a run, but for what a release took back meanwhile."""
        del max_records, may_block
        batch, self._fetched = self._fetched, EMPTY
        if not self._released or self._attachment.mode != "ordered":
            return batch
        found = [d for d in batch if self._released.get(d.key, -1) < self._fetched_at]
        return stock.batch_of(found, self.owner)

    def interrupt(self) -> None:
        """End what a run waits for if it has stopped."""
        if self._handling is not None and self._handling.stopping:
            for number in list(self._taking):
                self._attachment.refuse(number, ConsumerClosed(self.subscription, self.name))

    def holds(self, shard: int, lsn: int) -> bool:
        """Tell whether a delivery is still held, as far as that is known here."""
        count, due, _ = self._dues.get((shard, lsn), (0, 0.0, None))
        return count == self._attachment.count and self._link.now() < due

    def extended(self, spans: Iterable[Span], by: float) -> None:
        """Note that deliveries of a run are held for longer."""
        due = self._link.now() + by
        for shard, first, end in spans:
            for lsn in range(first, end):
                count, _, key = self._dues.get((shard, lsn), (0, 0.0, None))
                self._dues[shard, lsn] = count, due, key

    async def _keep(self, handling: Handling) -> None:
        """Extend what the handlers of a run work on."""
        clock = self._link.env.clock
        while True:
            now = clock.mono_ns()
            again = handling.keep(now)
            await asyncio.sleep((again - now) / 1e9)

    def keys_of(self, spans: Iterable[Span]) -> Keys:
        """Return the keys of deliveries that a run has taken in."""
        keys = set()
        for shard, first, end in spans:
            for lsn in range(first, end):
                taken = self._dues.get((shard, lsn))
                if taken is None:
                    return None
                if taken[2] is not None:
                    keys.add(taken[2])
        return keys

    # The end.

    async def close(self) -> None:
        """Detach, as `hstreamlite.Consumer.close`; the server is told, if it can be. A second call
        does nothing."""
        work = self._work
        if work is not None:
            self._closing = True
            work.handling.stop()
            await work.join()
            if work.is_here():
                return
        await self._leave()

    async def _leave(self) -> None:
        if not self.closed:
            self.give_back()
        await self._attachment.leave()

    async def _end(self) -> None:
        """Detach where the store is closed."""
        await self.close()

    async def __aenter__(self) -> Self:
        return await self._ready()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def gaps(self) -> tuple[Gap, ...]:
        """Return the gaps that were told with what was received, acked or the like since this was
        last asked."""
        self._attachment.check()
        gaps = tuple(self._gaps)
        self._gaps.clear()
        return gaps

    def events(self) -> tuple[Event, ...]:
        """Return what happened, as far as it was told with what was received, acked or the like."""
        self._attachment.check()
        events = tuple(self._events)
        self._events.clear()
        return events

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<remote Consumer {self.name!r} of {self.subscription!r}{state}>"


async def _end(consumer: ref[Consumer], attachment: Attachment) -> None:
    """Detach where the store is closed, by way of the consumer if there is one still."""
    known = consumer()
    await (attachment.leave() if known is None else known.owner._end())


def _look(consumer: ref[Consumer]) -> None:
    known = consumer()
    if known is not None and not known.closed:
        known.look()


class Returns:
    """Where the deliveries of a run go back to."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    @property
    def env(self) -> Env:
        return self._consumer._link.env

    @property
    def mode(self) -> str:
        return self._consumer._attachment.mode

    @property
    def ack_timeout_ns(self) -> int:
        return int(self._consumer._attachment.ack_timeout * 1e9)

    def extend(self, consumer: str, spans: Iterable[Span], by_ns: int) -> int:
        del consumer
        found = list(spans)
        extend = pb.ConsumeRequest.Extend(spans=spans_to(found), by_ns=by_ns)
        self._on_loop(lambda: self._consumer._attachment.tell(pb.ConsumeRequest(extend=extend)))
        self._consumer.extended(found, by_ns / 1e9)
        return sum(end - first for _, first, end in found)

    def holds(self, consumer: str, shard: int, lsn: int) -> bool:
        del consumer
        self._consumer._attachment.check()
        return self._consumer.holds(shard, lsn)

    def unsend(self, consumer: str, spans: Iterable[Span]) -> None:
        del consumer
        found = spans_to(spans)
        self._on_loop(lambda: self._consumer._attachment.unsend(found))

    def release(
        self, consumer: str, spans: Iterable[Span], after_ns: int | None, reason: str = ""
    ) -> int:
        del consumer
        found = list(spans)
        self._consumer._attachment.check()
        keys = self._consumer.keys_of(found)

        def post() -> None:
            self._consumer.note_release(keys)
            self._consumer.post_release(found, after_ns, reason, keys)

        self._on_loop(post)
        return sum(end - first for _, first, end in found)

    def _on_loop(self, do: Callable[[], object]) -> None:
        loop = self._consumer._link.loop
        if _running_loop() is loop:
            do()
            return

        async def call() -> None:
            do()

        asyncio.run_coroutine_threadsafe(call(), loop).result()

    def leave_line(self, consumer: str) -> None:
        """Nothing: who asks no more is in no line."""

    def poke(self) -> None:
        """End what the run waits for if it has stopped; else the server wakes who waits."""
        if not self._consumer._link.closed:
            self._on_loop(self._consumer.interrupt)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
