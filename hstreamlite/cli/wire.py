"""HStreamDB's own protocol, as far as the command line speaks it: shards, nodes, and the bench.

Everything else goes through `hstreamlite.connect`, whose nouns tell more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

import grpc

from hstreamlite.cli.exits import Exit, Refusal
from hstreamlite.net import hstream_pb2 as pb, hstream_pb2_grpc as rpc
from hstreamlite.remote.address import Address, parse
from hstreamlite.remote.diagnosis import explained
from hstreamlite.remote.security import Security

T = TypeVar("T")
Status = grpc.StatusCode
MESSAGE_BYTES = 64 << 20
_UNREACHABLE = frozenset({Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED})
_UNKNOWN = frozenset({Status.UNAUTHENTICATED, Status.PERMISSION_DENIED})


def address_of(url: str) -> Address:
    """Return the address that a user gave; Refusal for what is none."""
    try:
        return parse(url)
    except ValueError:
        raise Refusal(
            f"{url!r} is no address: give hstream://HOST:PORT, hstreams://HOST:PORT or unix:PATH",
            Exit.USAGE,
        ) from None


def channel_to(target: str, security: Security, *, secure: bool) -> grpc.Channel:
    options = (
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    )
    if not secure:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, security.credentials(), options)


class Wire:
    """Calls of one server, which answer within `timeout` seconds. Thread-safe."""

    def __init__(self, url: str, security: Security, timeout: float) -> None:
        self.url = url
        address = address_of(url)
        self._dialled = ExitStack()
        self._target = self._dialled.enter_context(address.dialled())
        self._secure = address.secure
        self._security = security
        self.timeout = timeout
        self._channels: dict[str, grpc.Channel] = {}
        self.stub = self.stub_at(self._target)

    def stub_of(self, node: pb.ServerNode) -> rpc.HStreamApiStub:
        """Return the calls of a node that a lookup named, as it wants to be dialled."""
        if self._target.startswith("unix:"):
            return self.stub  # a socket leads to the one server of this machine
        host = f"[{node.host}]" if ":" in node.host else node.host
        return self.stub_at(f"dns:///{host}:{node.port}")

    def stub_at(self, target: str) -> rpc.HStreamApiStub:
        """Return the calls at an address; the connection is kept until `close`."""
        channel = self._channels.get(target)
        if channel is None:
            channel = channel_to(target, self._security, secure=self._secure)
            self._channels[target] = channel
        return rpc.HStreamApiStub(channel)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return self._security.metadata

    def call(self, method: Callable[..., T], request: object) -> T:
        """Make a call; Refusal with what the server says if it fails."""
        try:
            return method(
                request, timeout=self.timeout, metadata=self.metadata, wait_for_ready=True
            )
        except grpc.RpcError as error:
            raise self.refusal(error) from None

    def refusal(self, error: grpc.RpcError) -> Refusal:
        status, detail = error.code(), error.details() or ""
        with suppress(ValueError, KeyError, TypeError):
            detail = str(json.loads(detail)["message"])
        text = " ".join(detail.split()) or status.name
        if status in _UNKNOWN:
            return Refusal(f"{self.url}: {text}; say who you are with --token or --tls-cert")
        if status in _UNREACHABLE:
            why = explained(text, secure=self._secure)
            return Refusal(
                f"no answer from {self.url}: {why}; is a server running there?", Exit.UNREACHABLE
            )
        return Refusal(text)

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()
        self._dialled.close()

    # Calls.

    def create_stream(
        self, name: str, *, shards: int, backlog: float, replication: int
    ) -> pb.Stream:
        request = pb.Stream(
            streamName=name,
            replicationFactor=replication,
            backlogDuration=int(backlog),
            shardCount=shards,
        )
        return self.call(self.stub.CreateStream, request)

    def shards(self, stream: str) -> list[pb.Shard]:
        reply = self.call(self.stub.ListShards, pb.ListShardsRequest(streamName=stream))
        return list(reply.shards)

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes of the cluster, as `node list` prints them."""
        from google.protobuf.empty_pb2 import Empty

        reply = self.call(self.stub.DescribeCluster, Empty())
        return [
            {
                "id": each.node.id,
                "state": pb.NodeState.Name(each.state).lower(),
                "address": f"{each.node.host}:{each.node.port}",
                "version": each.node.version.version,
                "pid": None,
                "store": None,
            }
            for each in reply.serverNodesStatus
        ]


@contextmanager
def reached(url: str, security: Security, timeout: float) -> Iterator[Wire]:
    wire = Wire(url, security, timeout)
    try:
        yield wire
    finally:
        wire.close()
