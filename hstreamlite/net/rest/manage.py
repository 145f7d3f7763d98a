"""Subscriptions over HTTP with all that a store can do: the protocol's own have no modes, no dead
letters and no way to be moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from hstreamlite.aio import Subscription
from hstreamlite.net.access.config import Action
from hstreamlite.net.node import Node
from hstreamlite.net.rest import described
from hstreamlite.net.rest.answers import json_answer
from hstreamlite.net.rest.bodies import asked, whole_body
from hstreamlite.net.rest.config import RestConfig
from hstreamlite.net.rest.endpoints import Endpoint
from hstreamlite.net.rest.query import Query, place_of
from hstreamlite.net.rest.records import iso
from hstreamlite.net.rest.rules import Template
from hstreamlite.sub.retry import Backoff


class Given(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Settings of a subscription that is to be made."""

    stream: str
    mode: str = "ordered"
    ack_timeout: float = 60.0
    max_unacked: int = 10_000
    max_unacked_bytes: int | None = None
    max_unacked_per_consumer: int | None = None
    max_unacked_bytes_per_consumer: int | None = None
    start: str = "earliest"
    max_attempts: int = 0
    dead_letter: str | None = None
    backoff: Backoff | None = None
    exists_ok: bool = False


class Sought(msgspec.Struct, forbid_unknown_fields=True):
    to: str


class Redriven(msgspec.Struct, forbid_unknown_fields=True):
    limit: int | None = None


class Managing:
    """The endpoints that make, tell of, and move subscriptions."""

    def __init__(self, node: Node, config: RestConfig) -> None:
        self._node = node
        self._store = node.store
        self._config = config

    def endpoints(self) -> Iterator[Endpoint]:
        at = "/v1/subscriptions/{subscription}"
        yield Endpoint("PUT", Template.parse(at), self.create, described.SUBSCRIBE)
        info = Template.parse(at + "/info")
        yield Endpoint("GET", info, self.info, described.INFO, takes_body=False)
        yield Endpoint("POST", Template.parse(at + ":seek"), self.seek, described.SEEK)
        yield Endpoint("POST", Template.parse(at + ":redrive"), self.redrive, described.REDRIVE)
        skip = Template.parse(at + ":skip-damaged")
        yield Endpoint("POST", skip, self.skip_damaged, described.SKIP_DAMAGED, takes_body=False)
        for verb, told in (("pause", described.PAUSE), ("resume", described.RESUME)):
            path = Template.parse(f"{at}:{verb}")
            yield Endpoint("POST", path, getattr(self, verb), told, takes_body=False)

    async def create(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        Query(request, ())
        wanted = asked(Given, await whole_body(request, self._config))
        name = variables["subscription"]
        self._node.gate.require("create", "subscription", name)
        self._node.gate.require("read", "stream", wanted.stream)
        if wanted.dead_letter:
            self._node.gate.require("append", "stream", wanted.dead_letter)
        subscription = await self._store.create_subscription(
            name,
            stream=wanted.stream,
            mode=wanted.mode,
            ack_timeout=wanted.ack_timeout,
            max_unacked=wanted.max_unacked,
            max_unacked_bytes=wanted.max_unacked_bytes,
            max_unacked_per_consumer=wanted.max_unacked_per_consumer,
            max_unacked_bytes_per_consumer=wanted.max_unacked_bytes_per_consumer,
            start=place_of("start", wanted.start),
            max_attempts=wanted.max_attempts,
            dead_letter=wanted.dead_letter,
            backoff=wanted.backoff,
            exists_ok=wanted.exists_ok,
        )
        return await _told(subscription)

    async def info(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        return await _told(self._subscription(request, variables, None))

    async def seek(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        wanted = asked(Sought, await whole_body(request, self._config))
        subscription = self._subscription(request, variables, "consume")
        await subscription.seek(place_of("to", wanted.to))
        return await _told(subscription)

    async def redrive(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        wanted = asked(Redriven, await whole_body(request, self._config) or b"{}")
        subscription = self._subscription(request, variables, "consume")
        return json_answer({"redriven": await subscription.redrive(wanted.limit)})

    async def skip_damaged(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        subscription = self._subscription(request, variables, "consume")
        return json_answer({"skipped": await subscription.skip_damaged()})

    async def pause(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        subscription = self._subscription(request, variables, "consume")
        await subscription.pause()
        return await _told(subscription)

    async def resume(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        subscription = self._subscription(request, variables, "consume")
        await subscription.resume()
        return await _told(subscription)

    def _subscription(
        self, request: Request, variables: Mapping[str, str], action: Action | None
    ) -> Subscription:
        Query(request, ())
        name = variables["subscription"]
        self._node.gate.require(action, "subscription", name)
        return self._store.subscription(name)


async def _told(subscription: Subscription) -> ASGIApp:
    info = await subscription.info()
    lag = await subscription.lag()
    group = subscription._store._feeds.get(info.name).stats()
    return json_answer(
        {
            "subscription": info.name,
            "stream": info.stream,
            "created": iso(info.created),
            "mode": info.mode,
            "unit": info.unit,
            "ackTimeout": info.ack_timeout,
            "maxUnacked": info.max_unacked,
            "maxUnackedBytes": info.max_unacked_bytes,
            "maxUnackedPerConsumer": info.max_unacked_per_consumer,
            "maxUnackedBytesPerConsumer": info.max_unacked_bytes_per_consumer,
            "maxAttempts": info.max_attempts,
            "deadLetter": info.dead_letter,
            "backoff": None if info.backoff is None else asdict(info.backoff),
            "paused": info.paused,
            "consumers": info.consumers,
            "unacked": lag.unacked,
            "backlog": lag.backlog,
            "age": lag.age,
            "damaged": group.damaged,
            "blocked": group.blocked,
        }
    )
