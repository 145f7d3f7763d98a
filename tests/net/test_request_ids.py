"""Every request has an id, by which its failure is found in the log."""

import re
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest

from hstreamlite.net import hstream_pb2 as pb, hstreamlite_pb2 as own
from hstreamlite.net.api.served import Context, Served
from hstreamlite.net.api.unserved import refuse_others
from hstreamlite.net.asked import ASKED
from hstreamlite.net.hstream_pb2_grpc import HStreamApiStub, add_HStreamApiServicer_to_server
from hstreamlite.net.hstreamlite_pb2_grpc import HStreamLiteStub
from hstreamlite.net.node import Node, Service
from hstreamlite.net.part import Part
from hstreamlite.net.server import Server
from tests.net.wire import config

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]
API = pb.DESCRIPTOR.services_by_name["HStreamApi"]


class Broken(Served):
    """Fails, and keeps the ids of what it failed at."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def Echo(self, _request: pb.EchoRequest, _context: Context) -> pb.EchoResponse:
        self.ids.append(ASKED.get().id)
        raise RuntimeError("the secret")


refuse_others(Broken)


class Breaking(Part):
    def __init__(self, servicer: Broken) -> None:
        self._servicer = servicer

    def services(self, _node: Node) -> Sequence[Service]:
        return [Service(API, self._servicer, add_HStreamApiServicer_to_server)]


def given_back(error: grpc.aio.AioRpcError) -> str:
    return str(dict(error.trailing_metadata() or ())["x-request-id"])


async def test_a_failure_is_told_with_the_id_that_its_log_has(tmp_path: Path) -> None:
    servicer = Broken()
    async with (
        Server(config(tmp_path), [Breaking(servicer)]) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = HStreamApiStub(channel)
        ids = []
        for given in ("abc-1", None, "", "a b", "x" * 129):
            metadata = [] if given is None else [("x-request-id", given)]
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub.Echo(pb.EchoRequest(msg="x"), metadata=metadata)
            ids.append(given_back(failed.value))
            told = failed.value.details() or ""
            assert f"as request {ids[-1]}." in told
            assert "secret" not in told
    assert servicer.ids == ids
    assert ids[0] == "abc-1"
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids[1:])


async def test_a_refusal_has_the_id_of_its_request(server: Server) -> None:
    metadata = [("x-request-id", "abc-2")]
    async with grpc.aio.insecure_channel(server.address) as channel:
        for call in (
            HStreamApiStub(channel).GetStream(pb.GetStreamRequest(name="none"), metadata=metadata),
            HStreamLiteStub(channel).DeleteStream(
                own.DeleteRequest(name="none"), metadata=metadata
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert given_back(refused.value) == "abc-2"
