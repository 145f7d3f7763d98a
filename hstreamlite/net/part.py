"""A module's share of the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from hstreamlite.net.node import Listener, Node, Service

if TYPE_CHECKING:
    from starlette.middleware import Middleware
    from starlette.routing import BaseRoute


class Part:
    """What one module adds. All of it is optional, and called in this order."""

    async def start(self, node: Node) -> None:
        """Begin: the store is open, and nothing listens yet."""

    def credentials(
        self,
        node: Node,  # noqa: ARG002 - for those who override it
        listener: Listener,  # noqa: ARG002 - the same
    ) -> grpc.ServerCredentials | None:
        """Return the credentials of a listener; of several parts the first counts. None: none."""
        return None

    def interceptors(
        self,
        node: Node,  # noqa: ARG002 - for those who override it
        listener: Listener,  # noqa: ARG002 - the same
    ) -> Sequence[grpc.aio.ServerInterceptor]:
        """Return what stands around every call of a listener, the outermost first."""
        return ()

    def services(self, node: Node) -> Sequence[Service]:  # noqa: ARG002 - for overriders
        """Return gRPC services to be served by every listener."""
        return ()

    def routes(self, node: Node) -> Sequence[BaseRoute]:  # noqa: ARG002 - for overriders
        """Return routes of the HTTP app. Those of parts before this one are matched first."""
        return ()

    def middleware(self, node: Node) -> Sequence[Middleware]:  # noqa: ARG002 - for overriders
        """Return what stands around the HTTP app, the outermost first."""
        return ()

    async def ready(self, node: Node) -> None:
        """Go on: everything listens, and the ports are known."""

    async def drain(self, node: Node) -> None:
        """Take no new work: the server stops, and its calls are finishing."""

    async def stop(self, node: Node) -> None:
        """End: no call is left, and the store is still open. The last part stops first."""
