"""What the parts of the servicer share."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc

from hstreamlite.net.node import Node

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Served:
    """A share of the servicer's calls."""

    def __init__(self, node: Node) -> None:
        self.node = node
