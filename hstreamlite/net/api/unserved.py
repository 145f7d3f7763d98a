"""The calls of HStreamDB that this server does not serve: SQL, connectors, schemas."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NoReturn

from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.api.served import Context, Served
from hstreamlite.net.errors import Refused, Status


class Unserved(Served):
    async def ListQueries(
        self, request: pb.ListQueriesRequest, context: Context
    ) -> pb.ListQueriesResponse:
        return pb.ListQueriesResponse()

    async def ListViews(
        self, request: pb.ListViewsRequest, context: Context
    ) -> pb.ListViewsResponse:
        return pb.ListViewsResponse()

    async def ListConnectors(
        self, request: pb.ListConnectorsRequest, context: Context
    ) -> pb.ListConnectorsResponse:
        return pb.ListConnectorsResponse()


def refuse_others(servicer: type[Served]) -> None:
    """Give the servicer what the protocol has and it lacks: a method that says so."""
    for method in pb.DESCRIPTOR.services_by_name["HStreamApi"].methods:
        if not hasattr(servicer, method.name):
            make = _many if method.server_streaming else _one
            setattr(servicer, method.name, make(method.name))


def _one(name: str) -> Any:
    async def refuse(self: Served, request: object, context: Context) -> NoReturn:
        raise _unserved(name)

    return refuse


def _many(name: str) -> Any:
    async def refuse(self: Served, request: object, context: Context) -> AsyncIterator[object]:
        raise _unserved(name)
        yield

    return refuse


def _unserved(name: str) -> Refused:
    return Refused(Status.UNIMPLEMENTED, 0, f"This server does not serve {name}.")
