"""One server as its parts see it: the store, the addresses, the time it started, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Literal

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from hstreamlite.aio import Store
from hstreamlite.aio.raw import RawStore
from hstreamlite.net.access.gate import CALLER, Gate
from hstreamlite.net.access.policy import Caller
from hstreamlite.net.access.token import one_of
from hstreamlite.net.backups import Backups
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.errors import Stopping, Teller, told
from hstreamlite.net.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """An address that is listened on, and the one that those who come in by it are told."""

    group: str
    kind: Literal["main", "group", "unix"]
    host: str
    port: int
    advertised_host: str
    advertised_port: int
    path: str = ""
    plaintext: bool = True


@dataclass(frozen=True, slots=True)
class Service:
    """A gRPC service: what it is called, who serves it, and how it is added to a server.

    ``told`` says what its clients are told about an error.
    """

    descriptor: ServiceDescriptor
    servicer: object
    add: Callable[[Any, grpc.aio.Server], None]
    told: Teller = told


@dataclass(frozen=True, slots=True)
class Call:
    """The call that is being served: by which listener it came, and its method's full path."""

    listener: Listener
    method: str


CALL: ContextVar[Call] = ContextVar("hstreamlite_call")


class Tally:
    """What servicers tell about traffic. This one forgets it; another may stand in its place."""

    def appended(self, stream: str, records: int, size: int) -> None:
        """A batch of so many records and bytes is durable."""

    def append_answered(self, ns: int) -> None:
        """So long it took from a request to append to its answer."""

    def append_failed(self, stream: str, error: BaseException) -> None:
        """An append was refused or failed."""

    def read(self, stream: str, batches: int, records: int, size: int) -> None:
        """A reader got these."""

    def sent(self, subscription: str, records: int, size: int) -> None:
        """A consumer got a batch for the first time."""

    def resent(self, subscription: str, records: int, size: int) -> None:
        """A consumer got records again."""

    def send_failed(self, subscription: str, records: int) -> None:
        """A consumer's call ended before a batch could be written to it."""

    def acked(self, subscription: str, records: int) -> None:
        """So many records were acked that had not been before."""

    def requested(self, subscription: str) -> None:
        """A consumer sent a message."""

    def responded(self, subscription: str) -> None:
        """A consumer was sent a message."""


class Node:
    """One server. Everything that serves is given this, and nothing else of the others."""

    def __init__(self, config: ServerConfig, store: Store) -> None:
        self.config = config
        self.store = store
        self.raw = RawStore(store)
        self.backups = Backups(config.backup_dir, store)
        self.id = config.node_id
        self._started = monotonic()
        self.listeners: tuple[Listener, ...] = ()
        self.http_address: tuple[str, int] | None = None
        self.services: dict[str, Service] = {}
        self.tally = Tally()
        self.limits = Limits(config.limits, config.receive_bytes_max)
        self.gate = Gate(config.tokens, config.grants, self)
        self.stream_of_reader: Callable[[str], str | None] = lambda _reader: None
        """Knows the streams of shard readers; whoever keeps readers puts its own here."""
        self.stopping = asyncio.Event()
        self.turned_away = 0
        """Calls refused because the server stops."""
        self._live: set[asyncio.Task[Any]] = set()

    def uptime(self) -> float:
        """Return seconds since the start."""
        return monotonic() - self._started

    def add_services(self, services: Sequence[Service]) -> None:
        for service in services:
            name = service.descriptor.full_name
            if name in self.services:
                raise ValueError(f"two parts serve {name}")
            self.services[name] = self._guarded(service)

    def _guarded(self, service: Service) -> Service:
        if not self.gate.limited:
            return service
        servicer = self.gate.guard(service.descriptor, service.servicer, self.caller)
        return replace(service, servicer=servicer)

    def stream_of_shard(self, shard: int) -> str | None:
        """Return the name of the stream that a shard is of, None if there is none."""
        stream = self.store._engine.catalog.of_shard(shard)
        return None if stream is None else stream.name

    def caller(self, context: Any) -> Caller:
        """Return who makes the call being served. Unauthenticated if that cannot be told."""
        known = CALLER.get(None)
        if known is not None:  # HTTP found out
            return known
        call = CALL.get(None)
        if call is None:
            return self.gate.identify(None, None)
        metadata = context.invocation_metadata() or ()
        authorization = one_of(str(value) for name, value in metadata if name == "authorization")
        names = context.auth_context().get("x509_common_name", ())
        certificate = next(iter(names), b"").decode(errors="replace")
        local = call.listener.kind == "unix"
        return self.gate.identify(authorization, certificate, local=local)

    def address(self) -> tuple[str, int]:
        """Return host and port that the client being served is to dial."""
        call = CALL.get(None)
        listener = self.listeners[0] if call is None else call.listener
        return listener.advertised_host, listener.advertised_port

    @contextmanager
    def until_stop(self) -> Iterator[None]:
        """Raise Stopping in the block when the server begins to stop; now if it has."""
        if self.stopping.is_set():
            raise Stopping
        task = asyncio.current_task()
        assert task is not None
        if task in self._live:
            yield
            return
        self._live.add(task)
        try:
            yield
        except asyncio.CancelledError:
            # Taken off the set by `begin_stop` only, which then cancelled it.
            if task not in self._live and task.uncancel() == 0:
                raise Stopping from None
            raise
        finally:
            self._live.discard(task)

    def finish(self) -> None:
        """Let the call of this task go on until it ends by itself, up to the drain's timeout."""
        task = asyncio.current_task()
        assert task is not None
        self._live.discard(task)

    def begin_stop(self) -> None:
        """End with Stopping what would not end by itself, and refuse what comes."""
        self.stopping.set()
        self.limits.end_arrivals(Stopping())
        live, self._live = self._live, set()
        for task in live:
            task.cancel()
