"""The share of hstreamlite's own protocol in a server."""

from __future__ import annotations

from collections.abc import Sequence

from hstreamlite.net import hstreamlite_pb2 as pb, hstreamlite_pb2_grpc as rpc
from hstreamlite.net.node import Node, Service
from hstreamlite.net.part import Part
from hstreamlite.net.v1.refusals import told
from hstreamlite.net.v1.servicer import Servicer


class OwnProtocol(Part):
    """Serves `hstreamlite.connect`."""

    def services(self, node: Node) -> Sequence[Service]:
        descriptor = pb.DESCRIPTOR.services_by_name["HStreamLite"]
        servicer = Servicer(node)
        return [Service(descriptor, servicer, rpc.add_HStreamLiteServicer_to_server, told)]

    async def stop(self, node: Node) -> None:
        await node.backups.end()
