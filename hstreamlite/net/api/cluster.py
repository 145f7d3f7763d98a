"""Who is there, and where a client finds what it looks for: all of it here."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from hstreamlite import __version__
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.api.messages import check_name
from hstreamlite.net.api.served import Context, Served
from hstreamlite.net.errors import Refused, Status

PROTOCOL_VERSION = "0.1.0"


class Cluster(Served):
    async def Echo(self, request: pb.EchoRequest, context: Context) -> pb.EchoResponse:
        return pb.EchoResponse(msg=request.msg)

    async def DescribeCluster(self, request: Empty, context: Context) -> pb.DescribeClusterResponse:
        node = self._server_node()
        return pb.DescribeClusterResponse(
            protocolVersion=PROTOCOL_VERSION,
            serverNodes=[node],
            serverNodesStatus=[pb.ServerNodeStatus(node=node, state=pb.NodeState.Running)],
            clusterUpTime=int(self.node.uptime()),
        )

    # Clients look up what they are about to create, or what never will be: what does not exist has
    # a node, too, and the call that follows tells.

    async def LookupShard(
        self, request: pb.LookupShardRequest, context: Context
    ) -> pb.LookupShardResponse:
        return pb.LookupShardResponse(shardId=request.shardId, serverNode=self._server_node())

    async def LookupSubscription(
        self, request: pb.LookupSubscriptionRequest, context: Context
    ) -> pb.LookupSubscriptionResponse:
        return pb.LookupSubscriptionResponse(
            subscriptionId=request.subscriptionId, serverNode=self._server_node()
        )

    async def LookupShardReader(
        self, request: pb.LookupShardReaderRequest, context: Context
    ) -> pb.LookupShardReaderResponse:
        return pb.LookupShardReaderResponse(
            readerId=request.readerId, serverNode=self._server_node()
        )

    async def LookupResource(
        self, request: pb.LookupResourceRequest, context: Context
    ) -> pb.ServerNode:
        if request.resType not in pb.ResourceType.values():
            raise Refused(
                Status.INVALID_ARGUMENT, 0, f"There is no type of resource {request.resType}."
            )
        check_name("resource", 0, request.resId, first=False)
        if request.resType == pb.ResourceType.ResView:
            raise Refused(
                Status.NOT_FOUND,
                pb.ErrorCode.ViewNotFound,
                f"There is no view {request.resId!r}.",
                request.resId,
            )
        return self._server_node()

    async def LookupKey(self, request: pb.LookupKeyRequest, context: Context) -> pb.ServerNode:
        return self._server_node()

    def _server_node(self) -> pb.ServerNode:
        host, port = self.node.address()
        return pb.ServerNode(
            id=self.node.id,
            host=host,
            port=port,
            version=pb.HStreamVersion(version=__version__, commit=""),
        )
