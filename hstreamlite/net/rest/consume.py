"""Consuming over HTTP: fetches that wait, streams of events, acks by record id.

A consumer that fetches stays attached between its requests, under the name it gives, so that what
it holds stays its own until it is acked, released or past the ack timeout. It is detached when
nothing was heard of it for that long, since it can hold nothing then. A consumer of a stream is
attached as long as its connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from hstreamlite.aio import Consumer
from hstreamlite.aio.bell import in_thread
from hstreamlite.errors import ConsumerClosed, HStreamError
from hstreamlite.net.errors import Refused, Status, told
from hstreamlite.net.node import Node
from hstreamlite.net.rest import described
from hstreamlite.net.rest.answers import Line, Streamed, json_answer, wants_events
from hstreamlite.net.rest.bodies import asked, whole_body
from hstreamlite.net.rest.config import RestConfig
from hstreamlite.net.rest.endpoints import Endpoint
from hstreamlite.net.rest.query import Query, record_id
from hstreamlite.net.rest.records import line, shown
from hstreamlite.net.rest.rules import Template
from hstreamlite.spans import spans_of
from hstreamlite.sub.effects import Damaged, Event, Sought

_TAKE = 100
_TAKE_MAX = 10_000
_HELD_BYTES = 64 << 20
"""What a consumer has out at most, and so the most that one answer to it takes."""


class Fetch(msgspec.Struct, forbid_unknown_fields=True):
    consumer: str
    maxRecords: int = _TAKE  # noqa: N815 - the field's name in JSON
    wait: float = 0
    ack: list[str] = []


class Ack(msgspec.Struct, forbid_unknown_fields=True):
    ids: list[str]
    consumer: str | None = None
    durable: bool = False


class Release(msgspec.Struct, forbid_unknown_fields=True):
    consumer: str
    ids: list[str]
    after: float | None = None
    reason: str | None = None


class Extend(msgspec.Struct, forbid_unknown_fields=True):
    consumer: str
    ids: list[str]
    by: float


class Session:
    """A consumer that belongs to requests; ``streaming`` if to the one of a stream."""

    def __init__(self, consumer: Consumer, idle: float, *, streaming: bool) -> None:
        self.consumer = consumer
        self.streaming = streaming
        self.fetching = asyncio.Lock()
        self.idle = idle
        self.heard = asyncio.get_running_loop().time()

    def touch(self) -> None:
        self.heard = asyncio.get_running_loop().time()


class Consuming:
    """The endpoints that consume."""

    def __init__(self, node: Node, config: RestConfig) -> None:
        self._node = node
        self._store = node.store
        self._config = config
        self._sessions: dict[tuple[str, str], Session] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def endpoints(self) -> Iterator[Endpoint]:
        at = "/v1/subscriptions/{subscription}"
        fetch = Template.parse(at + ":fetch")
        yield Endpoint("POST", fetch, self.fetch, described.FETCH)
        yield Endpoint("GET", fetch, self.fetch_by_get, described.FETCH_GET, takes_body=False)
        yield Endpoint("POST", Template.parse(at + ":ack"), self.ack, described.ACK)
        yield Endpoint("POST", Template.parse(at + ":release"), self.release, described.RELEASE)
        yield Endpoint("POST", Template.parse(at + ":extend"), self.extend, described.EXTEND)
        consume = Template.parse(at + ":consume")
        yield Endpoint("GET", consume, self.consume, described.CONSUME, takes_body=False)
        one = Template.parse(at + "/consumers/{consumer}")
        yield Endpoint("DELETE", one, self.detach, described.DETACH, takes_body=False)

    def _may(self, subscription: str) -> None:
        self._node.gate.require("consume", "subscription", subscription)

    # Fetching.

    async def fetch(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        Query(request, ())
        wanted = asked(Fetch, await whole_body(request, self._config))
        return await self._fetched(variables["subscription"], wanted)

    async def fetch_by_get(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        query = Query(request, ("consumer", "maxRecords", "wait"))
        wanted = Fetch(
            consumer=query.text("consumer") or "",
            maxRecords=query.number("maxRecords", 1, _TAKE_MAX) or _TAKE,
            wait=query.seconds("wait", self._config.wait_max) or 0,
        )
        return await self._fetched(variables["subscription"], wanted)

    async def _fetched(self, subscription: str, wanted: Fetch) -> ASGIApp:
        self._may(subscription)
        if not 1 <= wanted.maxRecords <= _TAKE_MAX:
            raise ValueError(f"maxRecords must be from 1 to {_TAKE_MAX}, not {wanted.maxRecords}")
        if not 0 <= wanted.wait <= self._config.wait_max:
            raise ValueError(f"wait must be seconds from 0 to {self._config.wait_max:g}")
        await self._acked(subscription, wanted.ack)
        for again in (True, False):
            session = await self._session(subscription, wanted.consumer)
            try:
                async with session.fetching:
                    return await self._received(session, wanted)
            except ConsumerClosed:  # meanwhile, by a request to detach it, or for its silence
                if not again:
                    raise
        raise AssertionError  # not reached: the second turn returns or raises

    async def _received(self, session: Session, wanted: Fetch) -> ASGIApp:
        consumer = session.consumer
        session.touch()
        try:
            with self._node.until_stop():
                batch = await consumer.receive(wanted.maxRecords, timeout=wanted.wait)
        finally:
            session.touch()
        events = [_event(each) for each in consumer.events()]
        return json_answer({"records": [shown(each) for each in batch], "events": events})

    async def _session(self, subscription: str, name: str) -> Session:
        """Return the session of a consumer, attached if it is not; 409 if another has its name."""
        session = self._sessions.get((subscription, name))
        if session is not None and not session.consumer.closed:
            session.consumer._check()
            if session.streaming:
                raise Refused(
                    Status.ALREADY_EXISTS,
                    0,
                    f"Consumer {name!r} of subscription {subscription!r} is that of a stream; "
                    "choose another name.",
                )
            return session
        idle = (await self._store.subscription(subscription).info()).ack_timeout
        session = self._attach(subscription, name, idle, streaming=False)
        self._watch((subscription, name), session)
        return session

    def _attach(
        self,
        subscription: str,
        name: str,
        idle: float,
        *,
        streaming: bool,
        max_unacked: int | None = None,
    ) -> Session:
        attach = self._store.subscription(subscription).consumer
        consumer = attach(name, max_unacked=max_unacked, max_unacked_bytes=_HELD_BYTES)
        session = Session(consumer, idle, streaming=streaming)
        self._sessions[subscription, name] = session
        return session

    def _watch(self, pair: tuple[str, str], session: Session) -> None:
        """Detach a session once nothing was heard of it for as long as it may be silent."""
        loop = asyncio.get_running_loop()
        left = session.heard + session.idle - loop.time()
        if self._sessions.get(pair) is not session:
            return
        if left > 0 or session.fetching.locked():
            loop.call_later(max(left, 1.0), self._watch, pair, session)
            return
        task = asyncio.ensure_future(self._end(pair, session))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, pair: tuple[str, str], session: Session) -> None:
        if self._sessions.get(pair) is session:
            del self._sessions[pair]
        with suppress(HStreamError):
            await session.consumer.close()

    async def close(self) -> None:
        """Detach all."""
        for pair, session in list(self._sessions.items()):
            await self._end(pair, session)
        if self._ending:
            await asyncio.wait(self._ending)

    # Acks.

    async def ack(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        Query(request, ())
        wanted = asked(Ack, await whole_body(request, self._config))
        subscription = variables["subscription"]
        if wanted.consumer is not None:
            session = self._sessions.get((subscription, wanted.consumer))
            if session is not None:
                session.touch()
        self._may(subscription)
        result = await self._acked(subscription, wanted.ids)
        if wanted.durable:
            feed = self._store._feeds.get(subscription)
            ticket = await in_thread(feed.progress.commit, may_block=True)
            assert ticket is not None
            await self._store._bell.ticket(ticket)
        return json_answer(result)

    async def _acked(self, subscription: str, ids: list[str]) -> dict[str, int]:
        feed = self._store._feeds.get(subscription)
        spans = spans_of([record_id(text) for text in ids])
        result = feed.ack_spans(spans, may_block=False)
        self._node.tally.acked(subscription, result.new)
        return {"new": result.new, "duplicate": result.duplicate, "void": result.void}

    async def release(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        Query(request, ())
        wanted = asked(Release, await whole_body(request, self._config))
        session = self._attached(variables["subscription"], wanted.consumer)
        ids = [record_id(text) for text in wanted.ids]
        count = await session.consumer.release(ids, after=wanted.after, reason=wanted.reason)
        return json_answer({"released": count})

    async def extend(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        Query(request, ())
        wanted = asked(Extend, await whole_body(request, self._config))
        session = self._attached(variables["subscription"], wanted.consumer)
        ids = [record_id(text) for text in wanted.ids]
        count = await session.consumer.extend(ids, by=wanted.by)
        session.idle = max(session.idle, wanted.by)
        return json_answer({"held": count})

    async def detach(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        Query(request, ())
        pair = variables["subscription"], variables["consumer"]
        session = self._attached(*pair)
        await self._end(pair, session)
        return json_answer({})

    def _attached(self, subscription: str, name: str) -> Session:
        self._may(subscription)
        self._store._feeds.get(subscription)
        session = self._sessions.get((subscription, name))
        if session is None or session.consumer.closed:
            raise Refused(
                Status.NOT_FOUND,
                0,
                f"Subscription {subscription!r} has no consumer {name!r} that fetches over HTTP; "
                "what it held went back when it was detached.",
            )
        session.touch()
        return session

    # Streams.

    async def consume(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        query = Query(request, ("consumer", "maxUnacked", "ack"))
        subscription = variables["subscription"]
        self._may(subscription)
        most = query.number("maxUnacked", 1, _TAKE_MAX) or _TAKE
        by_itself = query.choice("ack", ("manual", "auto")) == "auto"
        name = query.text("consumer") or ""
        session = self._attach(subscription, name, 0, streaming=True, max_unacked=most)
        lines = _Held(
            self._streamed(session, by_itself=by_itself),
            lambda: self._end((subscription, session.consumer.name), session),
        )
        what = f"consuming subscription {subscription}"
        events = wants_events(request)
        return Streamed(self._node, self._config, lines, told, what, events=events)

    async def _streamed(self, session: Session, *, by_itself: bool) -> AsyncGenerator[list[Line]]:
        consumer = session.consumer
        while True:
            batch = await consumer.receive(_TAKE)
            yield [*map(_event_line, consumer.events()), *map(line, batch)]
            if by_itself:
                await consumer.ack(batch)


class _Held:
    """Lines of a consumer that is detached with them."""

    def __init__(
        self, lines: AsyncGenerator[list[Line]], end: Callable[[], Awaitable[None]]
    ) -> None:
        self._lines = lines
        self._end = end

    async def __anext__(self) -> list[Line]:
        return await anext(self._lines)

    async def aclose(self) -> None:
        try:
            await self._lines.aclose()
        finally:
            await self._end()


def _event_line(event: Event) -> Line:
    told = _event(event)
    return Line(msgspec.json.encode(told), next(iter(told)))


def _event(event: Event) -> dict[str, Any]:
    if isinstance(event, Sought):
        return {"sought": {"to": str(event.to)}}
    told: dict[str, Any] = {
        "first": f"{event.shard_id}-{event.first_lsn}-0",
        "end": f"{event.shard_id}-{event.end_lsn}-0",
        "records": event.records,
    }
    if isinstance(event, Damaged):
        return {"damaged": told | {"reason": event.reason}}
    return {"gap": told}
