"""A consumer's call: requests go out under a number, and answers come back under it.

When the connection breaks the consumer attaches again, under its name, and asks again for what was
not answered: acks count once however often they are made, and what was held is known lost by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final
from weakref import WeakMethod

import grpc

from hstreamlite.consumer import ConsumerOptions
from hstreamlite.errors import (
    ConnectionFailed,
    ConnectionLost,
    ConsumerClosed,
    HStreamError,
    StoreClosed,
    Unavailable,
    UnknownRecord,
)
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.failures import error_of
from hstreamlite.net.wire import spans_to
from hstreamlite.records import Delivery
from hstreamlite.remote.acks import Acked, Acks
from hstreamlite.remote.link import Broken, Connection, Link, Retries
from hstreamlite.remote.pace import Pace
from hstreamlite.remote.stock import Stock
from hstreamlite.spans import spans_of

log = logging.getLogger("hstreamlite")

LEASE_SECONDS: Final = 10.0
LEASE_SECONDS_MIN: Final = 0.1
LEASE_SECONDS_MAX: Final = 300.0
_SILENCE_SECONDS: Final = 10.0
"""A server that does not answer for so long is gone; with a shorter lease, for that long."""
_ATTACH_SECONDS: Final = 5.0
"""A connection on which nobody can attach in that time is given up, for all that use it."""
_BEATS: Final = 3
_LEAVE_SECONDS: Final = 5.0
_BESIDE_ACKS: Final = frozenset({"fetch", "ack", "joint_ack", "beat"})
"""What an ack may overtake; a release that it overtook would come too late."""

Answer = asyncio.Future[pb.ConsumeReply]


class _Silent(Broken):
    """One call brought nothing for too long; its connection may be as good as ever."""


class Attachment:
    """What a consumer is at the server, as long as it is wanted.

    It does not keep the consumer: when that is collected, it leaves.
    """

    def __init__(
        self,
        link: Link,
        subscription: str,
        options: ConsumerOptions,
        hear: Callable[[pb.ConsumeReply], None],
    ) -> None:
        self.link = link
        self.subscription = subscription
        self.name = options.name
        self._options = options
        self.closed = False
        self.count = 0
        """How often it attached: what was delivered at another count is not held any more."""
        self.mode = ""
        self.ack_timeout = 0.0
        self.stock = Stock()
        """What came ahead: it goes back before the consumer leaves."""
        self.pace = Pace(0.0, 0)
        self._hear = WeakMethod(hear, self._note_lost)
        self._lease_ms = (options.lease_ns or int(LEASE_SECONDS * 1e9)) // 1_000_000
        self._place = subscription, options.name
        former = link.sessions.take(self._place)
        self._session = former or link.random_bytes(16)
        self._is_there = former is not None
        """Whether the server may count it as there."""
        self._numbers = 0
        self._asked: dict[int, tuple[Answer, pb.ConsumeRequest]] = {}
        self._outgoing: asyncio.Queue[pb.ConsumeRequest | None] | None = None
        self._takes_joint_acks = False
        self._acks = link.acks.setdefault(subscription, Acks(link.loop))
        self._away_acks = 0
        """Acks that another attachment makes for this one."""
        self._behind: list[pb.ConsumeRequest] = []
        """What goes out once these are done."""
        self._call: Any = None
        self._missed = 0
        """Beats since the server was heard of."""
        self._failure: Exception | None = None
        self._away = False
        """Whether it was told that the server cannot be reached."""
        self._life: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._opening = link.begin(self._open)

    # The call.

    @property
    def attached(self) -> bool:
        return self._outgoing is not None

    async def opened(self) -> None:
        """Return when it is attached for the first time; raises why it cannot be."""
        if not self._opening.done():
            await asyncio.wait([self._opening])
        self._opening.result()

    async def _open(self) -> None:
        connection = await self._attach()
        self._live(connection)

    def _live(self, connection: Connection | None) -> None:
        self._life = self.link.loop.create_task(self._listen(connection))

    async def _attach(self) -> Connection:
        """Attach, for as long as calls try; raises what stands against it."""
        link = self.link
        retries = Retries(link)
        while True:
            connection = await link.connection(retries.deadline)
            outgoing: asyncio.Queue[pb.ConsumeRequest | None] = asyncio.Queue()
            attach = pb.ConsumeRequest.Attach(
                subscription=self.subscription,
                name=self.name,
                session=self._session,
                lease_ms=self._lease_ms,
                max_unacked=self._options.max_unacked,
                max_unacked_bytes=self._options.max_unacked_bytes,
            )
            outgoing.put_nowait(pb.ConsumeRequest(attach=attach))
            self._call = connection.stub.Consume(_requests(outgoing))
            self._is_there = True
            try:
                async with asyncio.timeout(retries.left(_ATTACH_SECONDS)):
                    reply = await self._reply()
                if reply is None:
                    raise Broken("was ended", sent=True)
            except (Broken, Unavailable, TimeoutError) as error:
                self._call.cancel()
                link.lost(connection)
                await retries.wait(error)
                continue
            except HStreamError:
                self._is_there = False
                raise
            self.mode = reply.attached.mode
            self.ack_timeout = reply.attached.ack_timeout_s
            self._takes_joint_acks = reply.attached.joint_acks
            self.stock.clear()  # others may have it by now
            self.pace = Pace(self.ack_timeout, reply.attached.ahead)
            self.count += 1
            self._outgoing = outgoing
            self._missed = 0
            self._tell_back()
            self._behind.clear()  # all of it that needs an answer is sent now
            for number, (_, request) in list(self._asked.items()):
                request.number = number
                outgoing.put_nowait(request)
            return connection

    async def _reply(self) -> pb.ConsumeReply | None:
        try:
            reply = await self.link.read(self._call)
        except Broken as error:
            if self._missed == _BEATS:
                raise _Silent(error.why, sent=True) from None
            raise
        return None if reply is grpc.aio.EOF else reply

    async def _listen(self, connection: Connection | None) -> None:
        """Pass on what comes, and attach again when the connection breaks."""
        beating = self.link.loop.create_task(self._beat())
        try:
            while True:
                try:
                    if connection is None:
                        connection = await self._attach()
                    reply = await self._reply()
                except (Broken, Unavailable) as error:
                    self._outgoing = None
                    if self.closed:
                        return
                    self._tell_away(error.why)
                    if connection is not None and not isinstance(error, _Silent):
                        self.link.lost(connection)
                    connection = None
                    continue
                if reply is None:  # of this call alone: its lease ran out
                    self._outgoing = connection = None
                    if self.closed:
                        return
                    continue
                self._missed = 0
                self._take(reply)
        except HStreamError as error:
            self._outgoing = None
            if not isinstance(error, ConnectionFailed | ConnectionLost):
                self._failure = error
            self._fail(error)
        finally:
            beating.cancel()

    def _tell_away(self, why: str) -> None:
        if self._away or self.link.ends:
            return
        self._away = True
        log.warning(
            "consumer %r of subscription %r: its connection to %s is gone (%s); it receives "
            "nothing until the server is back",
            self.name,
            self.subscription,
            self.link.address,
            why,
        )

    def _tell_back(self) -> None:
        if self._away:
            self._away = False
            log.info("consumer %r of subscription %r is back", self.name, self.subscription)

    async def _beat(self) -> None:
        """Tell the server of the consumer, and find out whether there is one."""
        interval = min(self._lease_ms / 1000, _SILENCE_SECONDS) / _BEATS
        while not self.closed:
            await asyncio.sleep(interval)
            if self._outgoing is None:
                continue
            if self._missed == _BEATS:
                self._call.cancel()
            else:
                self._missed += 1
                self._outgoing.put_nowait(pb.ConsumeRequest(beat=True))

    def _take(self, reply: pb.ConsumeReply) -> None:
        if (hear := self._hear()) is not None:
            hear(reply)
        elif pieces := reply.deliveries.pieces:
            spans = pb.Spans()
            for piece in pieces:
                first = piece.batch + piece.first
                spans.shards.append(piece.shard)
                spans.firsts.append(first)
                spans.ends.append(first + piece.records)
            self.unsend(spans)
        asked = self._asked.pop(reply.number, None)
        if asked is None:
            return
        answer, request = asked
        if answer.done():
            return
        if reply.HasField("failure"):
            error = error_of(reply.failure, self.link.address)
            if isinstance(error, UnknownRecord) and request.HasField("ack") and self.count > 1:
                # A server that was killed may not know what it delivered last: that comes again.
                void = sum(request.ack.ends) - sum(request.ack.firsts)
                acked = pb.ConsumeReply.Acked(void=void)
                answer.set_result(pb.ConsumeReply(number=reply.number, acked=acked))
                return
            answer.set_exception(self._over() if self.closed else error)
            answer.exception()  # seen: nobody may be waiting
        else:
            answer.set_result(reply)

    def _fail(self, error: Exception) -> None:
        asked, self._asked = self._asked, {}
        for answer, _ in asked.values():
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # seen: nobody may be waiting

    def _over(self) -> HStreamError:
        """Return what tells that it is closed."""
        if self.link.closed or self.link.ends:
            return StoreClosed(self.link.path)
        return ConsumerClosed(self.subscription, self.name)

    # Requests.

    def check(self) -> None:
        self.link.check()
        if self.closed:
            raise self._over()
        if self._failure is not None:
            raise self._failure

    def ask(self, request: pb.ConsumeRequest, *, at_once: bool = False) -> tuple[int, Answer]:
        """Send a request, now or when it is attached again; return its number and answer.

        at_once: ahead of what waits for acks.
        """
        self.check()
        self._numbers += 1
        number = request.number = self._numbers
        answer: Answer = self.link.loop.create_future()
        self._asked[number] = (answer, request)
        if self._outgoing is not None:
            if at_once:
                self._outgoing.put_nowait(request)
            else:
                self.tell(request)
        elif self._opening.done() and (self._life is None or self._life.done()):
            self._live(None)
        return number, answer

    def is_asked(self, number: int) -> bool:
        """Whether somebody waits for the answer."""
        asked = self._asked.get(number)
        return asked is not None and not asked[0].done()

    def tell(self, request: pb.ConsumeRequest) -> None:
        """Send what needs no answer, if that is possible now."""
        if self._outgoing is None:
            return
        if self._away_acks:
            self._behind.append(request)
        else:
            self._outgoing.put_nowait(request)

    # Acks.

    def ack(self, spans: pb.Spans) -> Acked:
        """Ack, alone or together with others of the same subscription."""
        self.check()
        behind = any(
            request.WhichOneof("request") not in _BESIDE_ACKS for _, request in self._asked.values()
        )
        return self._acks.ask(self, spans, alone=behind)

    @property
    def carries_acks(self) -> bool:
        """Whether it may make acks for others now."""
        return self.attached and self._takes_joint_acks and not self.closed

    def ask_joint_ack(self, acks: Iterable[tuple[str, pb.Spans]]) -> Answer | None:
        """Ask for acks of several, by their names; None where that cannot be now."""
        part = pb.ConsumeRequest.JointAck.Part
        joint = pb.ConsumeRequest.JointAck(
            parts=[part(consumer=name, spans=spans) for name, spans in acks]
        )
        try:
            return self.ask(pb.ConsumeRequest(joint_ack=joint), at_once=True)[1]
        except HStreamError:
            return None

    def begin_away_ack(self) -> None:
        """Note that another attachment makes an ack for this one: what is asked for from now on
        goes out behind it."""
        self._away_acks += 1

    def end_away_ack(self) -> None:
        """Note that such an ack is done, or has failed."""
        self._away_acks -= 1
        if not self._away_acks and self._outgoing is not None:
            for request in self._behind:
                self._outgoing.put_nowait(request)
            self._behind.clear()

    def unsend(self, spans: pb.Spans) -> None:
        """Give back what nobody has seen: that was no attempt."""
        release = pb.ConsumeRequest.Release(spans=spans, unseen=True)
        self.tell(pb.ConsumeRequest(release=release))

    def return_stock(self) -> tuple[int, list[Delivery]]:
        """Give back what came ahead; returns what that was, and the number of the request."""
        left = self.stock.clear()
        self.pace.slack()
        if not left or not self.attached or self.closed or self.link.closed:
            return 0, []
        release = pb.ConsumeRequest.Release(spans=spans_to(spans_of(left)), unseen=True)
        number, _ = self.ask(pb.ConsumeRequest(release=release))
        return number, left

    def forget(self, number: int) -> None:
        """Wait for an answer no more."""
        asked = self._asked.pop(number, None)
        if asked is not None:
            asked[0].cancel()
            self.tell(pb.ConsumeRequest(cancel=number))

    def refuse(self, number: int, error: Exception) -> None:
        """End the wait for an answer with an error."""
        asked = self._asked.get(number)
        if asked is not None and not asked[0].done():
            asked[0].set_exception(error)
            self.forget(number)

    # The end.

    def _note_lost(self, _: object) -> None:
        self.link.note_lost(self)

    def farewell(self) -> str:
        """Return what to warn of where the consumer was collected and is attached."""
        if self.closed or self._failure is not None or not self.count:
            return ""
        return (
            f"consumer {self.name!r} of subscription {self.subscription!r} was dropped without "
            "being closed; others get what it held"
        )

    async def leave(self) -> None:
        """Detach, if the server can be told soon; in any case it is over then."""
        self.link.members.pop(self, None)
        if self._ending is None:
            self._ending = self.link.loop.create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        await asyncio.wait([self._opening])
        if self._outgoing is not None and not self.link.closed:
            self.return_stock()
            _, answer = self.ask(pb.ConsumeRequest(close=True))
            self.closed = True
            waits: list[asyncio.Future[Any]] = [answer]
            if self._life is not None:
                waits.append(self._life)
            await asyncio.wait(waits, timeout=_LEAVE_SECONDS, return_when="FIRST_COMPLETED")
            self._is_there = not answer.done()
            if self._outgoing is not None:
                self._outgoing.put_nowait(None)
        self.closed = True
        self._fail(self._over())
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life])
        if self._is_there:
            self.link.sessions.keep(self._place, self._session, self._lease_ms / 1000)
        if self._call is not None:
            self._call.cancel()
        self._outgoing = None


async def _requests(
    outgoing: asyncio.Queue[pb.ConsumeRequest | None],
) -> AsyncIterator[pb.ConsumeRequest]:
    while (request := await outgoing.get()) is not None:
        yield request
