"""Two producers of one name: the newer one has it, also after the server was restarted."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

import hstreamlite as hs
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.failures import error_of
from hstreamlite.net.hstreamlite_pb2_grpc import HStreamLiteStub
from hstreamlite.net.wire import body_to
from tests.conformance.faces import served

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]


class Client:
    """A producer as the wire knows it, which does not close what it began."""

    def __init__(self, address: str, session: bytes) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._session = session
        self._stream_id = 0
        self._last = 0

    async def begin(self) -> int:
        """Begin, or go on; return the last number that is stored."""
        self._call = HStreamLiteStub(self._channel).Produce()
        begin = pb.ProduceRequest.Begin(
            stream="orders",
            name="till",
            session=self._session,
            stream_id=self._stream_id,
            last=self._last,
        )
        await self._call.write(pb.ProduceRequest(begin=begin))
        begun = (await self._reply()).begun
        if not self._stream_id:
            self._stream_id, self._last = begun.stream_id, begun.last
        return int(begun.last)

    async def store(self, first: int, payload: bytes, *, again: bool = False) -> str:
        """Store one record; return its id."""
        numbered = pb.ProduceRequest.Numbered(
            first=first, body=body_to([payload], None, 0), again=again
        )
        await self._call.write(pb.ProduceRequest(batch=numbered))
        stored = (await self._reply()).stored
        if stored.failure:
            raise error_of(stored.failure, "here")
        return f"{stored.ids}"

    async def _reply(self) -> pb.ProduceReply:
        reply = await self._call.read()
        assert isinstance(reply, pb.ProduceReply)
        return reply

    async def close(self) -> None:
        await self._channel.close()


async def test_who_lost_its_name_is_not_told_the_ids_of_its_successor(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 's' / 'server.sock'}"
    old, new = Client(address, b"old"), Client(address, b"new")
    async with served(tmp_path / "s"):
        async with hs.aio.connect(f"unix:{tmp_path / 's'}") as store:
            await store.create_stream("orders")
        assert await old.begin() == 0
        await old.store(1, b"a")
        assert await new.begin() == 1
        second = await new.store(2, b"b")
    async with served(tmp_path / "s"):
        with pytest.raises(grpc.aio.AioRpcError, match="lost its name to another producer"):
            await old.begin()
        assert await new.begin() == 2
        assert await new.store(2, b"b", again=True) == second
        async with hs.aio.connect(f"unix:{tmp_path / 's'}") as store:
            read = [record.payload async for record in store.stream("orders").read()]
    assert read == [b"a", b"b"]
    for client in (old, new):
        await client.close()


async def test_who_stored_nothing_before_the_restart_still_has_its_name(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 's' / 'server.sock'}"
    gone, new = Client(address, b"gone"), Client(address, b"new")
    async with served(tmp_path / "s"):
        async with hs.aio.connect(f"unix:{tmp_path / 's'}") as store:
            await store.create_stream("orders")
        await gone.begin()
        await gone.store(1, b"a")
        assert await new.begin() == 1
    async with served(tmp_path / "s"):
        assert await new.begin() == 1
        await new.store(2, b"b", again=True)
        with pytest.raises(grpc.aio.AioRpcError, match="lost its name to another producer"):
            await gone.begin()
    async with served(tmp_path / "s"):
        assert await new.begin() == 2
        await new.store(3, b"c")
    for client in (gone, new):
        await client.close()
