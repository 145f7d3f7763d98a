"""The server: opens a store, listens, and ends without losing what it was asked to do."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hstreamlite._native.files import real_env
from hstreamlite.aio import open as open_store
from hstreamlite.net import forks, needs
from hstreamlite.net.config import SOCKET_NAME, CannotListen, ServerConfig

try:
    import grpc
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection
except ModuleNotFoundError as error:
    raise needs("server", error) from error

from hstreamlite.net.border import Border
from hstreamlite.net.limiter import Limiter
from hstreamlite.net.node import Listener, Node
from hstreamlite.net.part import Part
from hstreamlite.net.parts import standard_parts

if TYPE_CHECKING:
    from hstreamlite.net.http import HttpServer

log = getLogger("hstreamlite.server")

SOCKET_PATH_MAX = 107
_TURNING_AWAY_MAX = 1.0
_BUSY = 1.0
_QUIET = 0.02
"""Seconds without a call after which none is thought to wait in gRPC."""
_EVERYWHERE = {"0.0.0.0", "::", "[::]", "*"}  # noqa: S104 - told apart, not listened on
_OPTIONS = [
    ("grpc.so_reuseport", 0),  # two servers on one port would share its clients between them
    # A client whose machine is gone is found out, and its records go to others.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_send_message_length", -1),
]


class Server:
    """A server of one store, on the running loop.

    ``async with Server(config) as server`` serves until the end of the block; `wait` returns when
    it was told to stop by `begin_stop`, which may be called from a signal handler of the loop.
    """

    def __init__(self, config: ServerConfig, parts: Sequence[Part] | None = None) -> None:
        self.config = config
        self._parts = standard_parts(config) if parts is None else list(parts)
        self._asked = asyncio.Event()
        self._open = AsyncExitStack()
        self._servers: list[grpc.aio.Server] = []
        self._health = health.aio.HealthServicer()
        self._http: HttpServer | None = None
        self._node: Node | None = None

    @property
    def node(self) -> Node:
        """What the parts are given; only of a server that was started."""
        assert self._node is not None, "the server was not started"
        return self._node

    @property
    def address(self) -> str:
        """Where it listens: ``host:port``, with the real port."""
        main = self.node.listeners[0]
        return _target(main.host, main.port)

    async def start(self) -> None:
        """Open the store and listen.

        Errors as `hstreamlite.open`, and CannotListen; nothing stays open then.
        """
        try:
            await self._start()
        except BaseException:
            await self._open.aclose()
            raise

    async def _start(self) -> None:
        config = self.config
        forks.grpc.begin(real_env(), config.store)
        store = await open_store(config.store, config=config.store_config)
        self._open.push_async_callback(store.close)
        store._engine.journal.use_cache = True  # what consumers read waits for its client next
        node = self._node = Node(config, store)
        for part in self._parts:
            self._open.push_async_callback(part.stop, node)
            await part.start(node)
            node.add_services(part.services(node))
        self._open.push_async_callback(self._end_calls)
        node.listeners = tuple(self._listen(node))
        for server in self._servers:
            await server.start()
        for name in node.services:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await self._start_http(node)
        for part in self._parts:
            await part.ready(node)

    def _listen(self, node: Node) -> list[Listener]:
        config = self.config
        found = [
            self._bound(
                node,
                Listener(
                    group="main",
                    kind="main",
                    host=config.host,
                    port=config.port,
                    advertised_host=config.advertised_host or _dialled(config.host),
                    advertised_port=config.advertised_port or 0,
                    plaintext=config.tls is None,
                ),
            )
        ]
        main = found[0]
        for extra in config.listeners:
            listener = Listener(
                group=extra.group,
                kind="group",
                host=extra.host,
                port=extra.port,
                advertised_host=extra.advertised_host or _dialled(extra.host),
                advertised_port=extra.advertised_port or 0,
                plaintext=config.tls is None or extra.plaintext,
            )
            found.append(self._bound(node, listener))
        path = f"{node.store.path}/{SOCKET_NAME}"
        dialled = self._short(path) if config.unix_socket else None
        if dialled is not None:
            listener = Listener(
                group="unix",
                kind="unix",
                host="",
                port=0,
                advertised_host=main.advertised_host,
                advertised_port=main.advertised_port,
                path=path,
            )
            found.append(self._bound(node, listener, dialled))
            Path(path).chmod(0o600)
            self._open.callback(Path(path).unlink, missing_ok=True)
        return found

    def _bound(self, node: Node, listener: Listener, path: str = "") -> Listener:
        """Make the gRPC server of a listener, and return that with the port it really has."""
        known = [listener]
        parts = self._parts
        server = grpc.aio.server(
            interceptors=[
                Border(node, lambda: known[0]),
                Limiter(node.limits),
                *(each for part in parts for each in part.interceptors(node, listener)),
            ],
            options=[
                *_OPTIONS,
                *self.config.limits.options(),
                # What is only somewhat too large is read, so that its client can be told of it.
                ("grpc.max_receive_message_length", 2 * self.config.receive_bytes_max),
            ],
        )
        self._serve(server, node)
        target = f"unix:{path}" if path else _target(listener.host, listener.port)
        offered = (part.credentials(node, listener) for part in parts)
        credentials = next((each for each in offered if each is not None), None)
        try:
            if credentials is None:
                port = server.add_insecure_port(target)
            else:
                port = server.add_secure_port(target, credentials)
        except RuntimeError as error:
            advice = "remove what is there, or give --no-unix-socket" if path else "choose another"
            raise CannotListen(
                f"Cannot listen on {listener.path or target}: it is in use, or not an address of "
                f"this machine, or not allowed; {advice}."
            ) from error
        self._servers.append(server)
        if not path:
            told = listener.advertised_port or port
            known[0] = replace(listener, port=port, advertised_port=told)
        return known[0]

    def _serve(self, server: grpc.aio.Server, node: Node) -> None:
        generic: Any = _Generic(server)
        for service in node.services.values():
            service.add(service.servicer, generic)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, generic)
        names = [*node.services, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, server)  # asks what kind of server it is

    def _short(self, path: str) -> str | None:
        """Return a path of the socket that fits into an address and says the same in a URI."""
        if Path("/proc/self/fd").is_dir():
            handle = os.open(Path(path).parent, os.O_PATH | os.O_DIRECTORY)
            self._open.callback(os.close, handle)
            return f"/proc/self/fd/{handle}/{SOCKET_NAME}"
        if len(os.fsencode(path)) <= SOCKET_PATH_MAX and not set("%?#") & set(path):
            return path
        log.warning("no Unix socket at %r: the path is too long for one, or has %%, ? or #", path)
        return None

    async def _start_http(self, node: Node) -> None:
        if not self.config.http:
            return
        from hstreamlite.net.http import HttpServer

        http = HttpServer(self._parts, node)
        host, port = self.config.http_host, self.config.http_port_wanted
        try:
            node.http_address = await http.start(host, port)
        except OSError as error:
            raise CannotListen(
                f"Cannot listen on {_target(host, port)} for HTTP: {error.strerror}. Give another "
                "http_port, or no http (--no-http)."
            ) from error
        self._http = http

    async def _end_calls(self) -> None:
        """Take no more calls, let those that can end by themselves do so, and end the others."""
        node = self.node
        await self._health.enter_graceful_shutdown()
        grace = self.config.drain_timeout
        node.begin_stop()
        if monotonic() - node.limits.last_call < _BUSY:
            await self._turn_away(min(grace, _TURNING_AWAY_MAX))
        stops = [asyncio.ensure_future(server.stop(grace)) for server in self._servers]
        if self._http is not None:
            stops.append(asyncio.ensure_future(self._http.stop()))
        for part in self._parts:
            await part.drain(node)
        if stops:
            await asyncio.wait(stops)

    async def _turn_away(self, seconds: float) -> None:
        """Refuse calls until no more come, at most for so long.

        gRPC would end with CANCELLED what still waits in it, and a client could not tell whether
        that was done.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for _ in range(2):
                    before = -1
                    while self.node.turned_away != before:
                        before = self.node.turned_away
                        await asyncio.sleep(_QUIET)

    def begin_stop(self) -> None:
        """Make `wait` return."""
        self._asked.set()

    async def wait(self) -> None:
        """Return when the server was told to stop."""
        await self._asked.wait()

    async def stop(self) -> None:
        """Drain and close the store. A second call does nothing."""
        self._asked.set()
        await self._open.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()


class _Generic:
    """A gRPC server to which services are added by name only, and not each of their methods, too:
    grpc.aio looks at all of those for every call that comes."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Nothing: they are among the generic ones."""


def _target(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _dialled(host: str) -> str:
    """Return what clients can dial: not the address that stands for all of the machine's."""
    return socket.gethostname() if host in _EVERYWHERE else host.strip("[]")
