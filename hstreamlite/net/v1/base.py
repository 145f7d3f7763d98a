"""What the parts of the service share."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc

from hstreamlite.aio import Store
from hstreamlite.engine import Engine
from hstreamlite.net import hstreamlite_pb2_grpc as rpc
from hstreamlite.net.node import Node

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

BEAT_SECONDS = 5.0
"""How often a stream without news tells that it is alive."""


class Base(rpc.HStreamLiteServicer):
    """One for all calls of a server."""

    def __init__(self, node: Node) -> None:
        self.node = node

    @property
    def store(self) -> Store:
        return self.node.store

    @property
    def engine(self) -> Engine:
        return self.node.store._engine
