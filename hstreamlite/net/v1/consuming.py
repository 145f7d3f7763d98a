"""Consumers: each is one call, which attaches it, and detaches it when it ends.

Requests are done in the order they come, but for fetches, which wait beside the others. Answers go
out in the order in which they arise. A consumer whose client is silent for as long as its lease is
gone; one whose connection breaks hands back what it holds at once. In both cases the call ends
without an error, and so it does for who attaches again, as the same session, on another connection:
that takes the place of its former self, of which nobody may have told yet that it is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

from hstreamlite.aio.consumer import Consumer
from hstreamlite.config import (
    ACK_TIMEOUT_SECONDS_MAX,
    RECEIVE_MAX,
    check_int,
    check_reason,
    check_receive,
)
from hstreamlite.consumer import ConsumerOptions
from hstreamlite.errors import ConsumerClosed
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.encoded import Encoded
from hstreamlite.net.failures import failure_of
from hstreamlite.net.node import Node
from hstreamlite.net.v1.base import Base, Context
from hstreamlite.net.wire import deliveries_of, event_to, spans_from
from hstreamlite.records import DeliveryBatch
from hstreamlite.spans import spans_of
from hstreamlite.sub.limits import Limits

LEASE_MS_MIN, LEASE_MS_MAX = 100, 300_000
_AFTER_NS_MAX = int(ACK_TIMEOUT_SECONDS_MAX * 1e9)
_NAME_MAX = 1000
_AHEAD_SHARE = 8
"""Of a window, what one of its consumers may keep ahead."""
_AHEAD_BYTES_MAX = 4 << 20
"""Of an answer that brings more than was asked for."""
_FETCHES_MAX = 100
"""Fetches of one consumer that wait at a time."""
_ANSWERS_MAX = 1000
"""Answers that wait for their client before it may ask for more."""


class Session:
    """One call of one consumer."""

    def __init__(self, node: Node, consumer: Consumer, token: bytes) -> None:
        self.token = token
        self.consumer = consumer
        self._tally = node.tally
        self._feed = consumer._feed
        self._answers: asyncio.Queue[pb.ConsumeReply | Encoded | Exception | None] = asyncio.Queue()
        self._taken = asyncio.Event()
        self._fetches: dict[int, asyncio.Task[None]] = {}
        self._releases = 0
        self._leaving: asyncio.Future[None] | None = None

    # Requests.

    async def read(self, requests: AsyncIterator[pb.ConsumeRequest]) -> None:
        """Do what is asked for, until nothing more comes."""
        try:
            async for request in requests:
                self._feed.roster.renew(self.consumer.name, self.consumer._gate)
                await self._do(request)
                while self._answers.qsize() >= _ANSWERS_MAX:
                    self._taken.clear()
                    await self._taken.wait()
        except ConsumerClosed:
            self._answers.put_nowait(None)
        except Exception as error:  # noqa: BLE001 - the border tells of it
            self._answers.put_nowait(error)
        else:
            self._answers.put_nowait(None)

    async def _do(self, request: pb.ConsumeRequest) -> None:
        number = request.number
        which = request.WhichOneof("request")
        if which == "fetch":
            if number in self._fetches or len(self._fetches) >= _FETCHES_MAX:
                told = (
                    f"fetches that wait need numbers of their own, and are {_FETCHES_MAX} at most"
                )
                self._answer(number, pb.ConsumeReply(failure=failure_of(ValueError(told))))
                return
            task = asyncio.ensure_future(self._fetch(number, request.fetch))
            self._fetches[number] = task
            task.add_done_callback(lambda _: self._fetches.pop(number, None))
            return
        if which == "cancel":
            if (fetch := self._fetches.get(request.cancel)) is not None:
                fetch.cancel()
            return
        try:
            reply = await self._done(which, request)
        except Exception as error:
            if isinstance(error, ConsumerClosed) and not self.consumer.closed:
                raise  # its lease ran out
            reply = pb.ConsumeReply(failure=failure_of(error))
        self._answer(number, reply)

    async def _done(self, which: str | None, request: pb.ConsumeRequest) -> pb.ConsumeReply:
        consumer, feed = self.consumer, self._feed
        if which == "ack":
            return pb.ConsumeReply(acked=self._ack(consumer.name, request.ack))
        if which == "joint_ack":
            parts = map(self._ack_part, request.joint_ack.parts)
            return pb.ConsumeReply(joint_acked=pb.ConsumeReply.JointAcked(parts=parts))
        if which == "release":
            return pb.ConsumeReply(count=self._release(request.release))
        if which == "extend":
            by_ns = check_int("by", request.extend.by_ns, 1, _AFTER_NS_MAX)
            spans = spans_from(request.extend.spans)
            return pb.ConsumeReply(count=feed.extend(consumer.name, spans, by_ns))
        if which == "commit":
            await consumer.commit()
        elif which == "close":
            await consumer.close()
        elif which != "beat":
            raise ValueError(f"no request of a consumer that is attached: {which}")
        return pb.ConsumeReply(done=True)

    def _ack(self, name: str, spans: pb.Spans) -> pb.ConsumeReply.Acked:
        result = self._feed.ack_spans(spans_from(spans), may_block=False)
        self._feed.note_ack(name)
        self._tally.acked(self.consumer.subscription, result.new)
        return pb.ConsumeReply.Acked(new=result.new, duplicate=result.duplicate, void=result.void)

    def _ack_part(self, part: pb.ConsumeRequest.JointAck.Part) -> pb.ConsumeReply.JointAcked.Part:
        try:
            return pb.ConsumeReply.JointAcked.Part(acked=self._ack(part.consumer, part.spans))
        except Exception as error:  # noqa: BLE001 - told to who asked
            return pb.ConsumeReply.JointAcked.Part(failure=failure_of(error))

    def _release(self, release: pb.ConsumeRequest.Release) -> int:
        self._releases += 1
        spans = spans_from(release.spans)
        if release.unseen:
            self._feed.unsend(self.consumer.name, spans)
            return 0
        after_ns = None
        if release.HasField("after_ns"):
            after_ns = check_int("after", release.after_ns, 0, _AFTER_NS_MAX)
        reason = check_reason(release.reason)
        return self._feed.release(self.consumer.name, spans, after_ns, reason)

    async def _fetch(self, number: int, fetch: pb.ConsumeRequest.Fetch) -> None:
        consumer = self.consumer
        reply = pb.ConsumeReply(deliveries=pb.ConsumeReply.Deliveries())
        delivered: list[bytes] = []
        releases = self._releases
        try:
            wait = fetch.wait_ms / 1000 if fetch.HasField("wait_ms") else None
            wanted = check_receive(fetch.max_records)
            batch = await consumer.receive(min(wanted + fetch.ahead, RECEIVE_MAX), wait)
        except asyncio.CancelledError:
            pass
        except ConsumerClosed:
            if not consumer.closed:  # its lease ran out
                self._answers.put_nowait(None)
            return
        except Exception as error:  # noqa: BLE001 - told to who asked
            reply = pb.ConsumeReply(failure=failure_of(error))
        else:
            if self._releases != releases:
                batch = self._held(batch)
            delivered = deliveries_of(batch)
            if len(batch) > wanted and sum(map(len, delivered)) > _AHEAD_BYTES_MAX:
                self._feed.unsend(consumer.name, spans_of(list(batch[wanted:])))
                batch = DeliveryBatch(batch[:wanted])
                delivered = deliveries_of(batch)
            reply.ClearField("deliveries")
            if batch:
                size = sum(map(len, delivered))
                self._tally.sent(consumer.subscription, len(batch), size)
        self._answer(number, reply, delivered)

    def _held(self, batch: DeliveryBatch) -> DeliveryBatch:
        """Leave out what was taken back with an earlier record of its key, before it was sent."""
        holds, name = self._feed.holds, self.consumer.name
        return DeliveryBatch(d for d in batch if holds(name, d.id.shard_id, d.id.lsn))

    # Answers.

    def _answer(self, number: int, reply: pb.ConsumeReply, more: Sequence[bytes] = ()) -> None:
        """Queue an answer, which may have a field more, in serialized parts."""
        reply.number = number
        try:
            reply.events.extend(map(event_to, self.consumer.events()))
        except Exception:  # noqa: BLE001 - whoever asks next is told why
            reply.ClearField("events")
        if more:
            raw = b"".join((reply.SerializeToString(), *more))
            self._answers.put_nowait(Encoded(pb.ConsumeReply, raw))
        else:
            self._answers.put_nowait(reply)

    async def answers(self) -> AsyncIterator[pb.ConsumeReply | Encoded]:
        """Give what is to be sent, until the consumer is closed."""
        while True:
            answer = await self._answers.get()
            self._taken.set()
            if answer is None:
                return
            if isinstance(answer, Exception):
                raise answer
            yield answer

    async def stop(self) -> None:
        """Detach. Another session of the same token may stand in its place."""
        for task in list(self._fetches.values()):
            task.cancel()
        if self._leaving is None:
            self._leaving = asyncio.ensure_future(self.consumer.close())
        await asyncio.shield(self._leaving)
        self._answers.put_nowait(None)


class Consuming(Base):
    """The calls of consumers."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._sessions: dict[tuple[str, str], Session] = {}
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def Consume(
        self, requests: AsyncIterator[pb.ConsumeRequest], context: Context
    ) -> AsyncIterator[Any]:
        requests = aiter(requests)
        first = await anext(requests, None)
        if first is None or not first.HasField("attach"):
            raise ValueError("a consumer must attach first")
        session, attached = await self._attach(first.attach)
        reading = asyncio.ensure_future(session.read(requests))
        try:
            yield pb.ConsumeReply(number=first.number, attached=attached)
            async for reply in session.answers():
                yield reply
        finally:
            reading.cancel()
            key = (session.consumer.subscription, session.consumer.name)
            await session.stop()
            if self._sessions.get(key) is session:
                del self._sessions[key]

    async def _attach(
        self, attach: pb.ConsumeRequest.Attach
    ) -> tuple[Session, pb.ConsumeReply.Attached]:
        store = self.store
        if not 1 <= len(attach.name) <= _NAME_MAX:
            raise ValueError(f"a consumer's name must have 1 to {_NAME_MAX} characters")
        lease_ms = check_int("lease_ms", attach.lease_ms, LEASE_MS_MIN, LEASE_MS_MAX)
        feed = store._feeds.get(attach.subscription)
        options = ConsumerOptions.of(
            attach.name, 1, attach.max_unacked or None, attach.max_unacked_bytes or None
        )
        options = replace(options, lease_ns=lease_ms * 1_000_000)
        key = (attach.subscription, attach.name)
        turn = self._turns.setdefault(key, asyncio.Lock())
        async with turn:  # nobody gets the name while its owner takes the place of itself
            before = self._sessions.get(key)
            if before is not None and attach.session and before.token == attach.session:
                await before.stop()
            consumer = Consumer(store._bell, feed, options)
            session = self._sessions[key] = Session(self.node, consumer, attach.session)
        attached = pb.ConsumeReply.Attached(
            mode=feed.state.mode,
            ack_timeout_s=feed.state.ack_timeout,
            lease_ms=lease_ms,
            ahead=_ahead(feed.group.limits, options),
            joint_acks=True,
        )
        return session, attached


def _ahead(limits: Limits, options: ConsumerOptions) -> int:
    """Return how many records may lie at a client that nobody there has asked for.

    None where they count for more: an attempt of few, if the connection breaks, or bytes.
    """
    if (
        limits.retry.max_attempts
        or limits.max_unacked_bytes
        or limits.max_unacked_bytes_per_consumer
        or options.max_unacked_bytes
    ):
        return 0
    windows = limits.max_unacked, limits.max_unacked_per_consumer, options.max_unacked
    return min(filter(None, windows)) // _AHEAD_SHARE
