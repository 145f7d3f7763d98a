"""Readers of a remote stream: they follow one call, and go on by another when it breaks.

The server sends batches as fast as they are taken. With each the reader knows where it stands in
every shard; so after a broken connection it reads on there, and nothing comes twice or is left out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Generator
from typing import Any, Final, Generic, Self, TypeVar

import grpc

from hstreamlite.aio.tasks import look_at
from hstreamlite.errors import HStreamError, StoreClosed, Unavailable
from hstreamlite.log.reader import Batch
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.failures import error_of
from hstreamlite.net.wire import batch_from, records_from
from hstreamlite.records import Record
from hstreamlite.remote.link import Broken, Connection, Link, Retries

T = TypeVar("T", Record, Batch)

SILENCE_SECONDS: Final = 20.0
"""A server that tells nothing for so long, not even that it has no news, is gone."""


class _Reader(Generic[T]):
    """Iterates over what a call brings. One task at a time."""

    def __init__(self, link: Link, request: pb.ReadRequest) -> None:
        self._link = link
        self._request = request
        self._limit = request.limit if request.HasField("limit") else None
        self._closed = False
        self._done = False
        self._call: Any = None
        self._connection: Connection | None = None
        self._buffer: list[T] = []
        self._pieces: deque[pb.Piece] = deque()
        self._reading: asyncio.Task[list[T]] | None = None
        self._closing: asyncio.Future[None] = link.loop.create_future()
        self._opening = link.begin(self._open)

    def _decoded(self, piece: pb.Piece) -> list[T]:
        raise NotImplementedError

    async def _ready(self) -> Self:
        await asyncio.wait([self._opening])
        self._opening.result()
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        """Wait until the server has fixed where it begins and ends; raises what is wrong."""
        return self._ready().__await__()

    # The call.

    async def _open(self) -> None:
        """Begin, or go on where the last call broke; ConnectionFailed after the store's timeout."""
        link = self._link
        retries = Retries(link)
        while not self._closed:
            self._connection = await link.connection(retries.deadline)
            self._call = self._connection.stub.Read(self._request)
            try:
                part = await self._part(retries.left(SILENCE_SECONDS))
            except (Broken, Unavailable) as error:
                link.lost(self._connection)
                await retries.wait(error)
                continue
            if part is not None:
                self._request.stream_id = part.stream_id
                self._request.scan.CopyFrom(part.scan)
            return

    async def _part(self, seconds: float) -> pb.ReadPart | None:
        """Return the next part, None at the end."""
        try:
            async with asyncio.timeout(seconds):
                part = await self._link.read(self._call)
        except TimeoutError:
            self._call.cancel()
            raise Broken(f"was silent for {seconds:g} s", sent=True) from None
        return None if part is grpc.aio.EOF else part

    async def _more(self) -> list[T]:
        """Return what comes next; nothing when it is over."""
        await self._ready()
        while not self._closed:
            if found := self._decode():
                return found
            if self._done:
                break
            try:
                part = await self._part(SILENCE_SECONDS)
            except (Broken, Unavailable):
                assert self._connection is not None
                self._link.lost(self._connection)
                await self._open()
                continue
            if part is None:
                self._done = True
                continue
            if part.failure:
                self._request.scan.CopyFrom(part.scan)
                raise error_of(part.failure, self._link.address)
            self._pieces.extend(part.pieces)
        return []

    def _decode(self) -> list[T]:
        """Decode what has come, up to a batch that cannot be: that is told by the next call."""
        found: list[T] = []
        positions = self._request.scan.positions
        while self._pieces:
            piece = self._pieces[0]
            try:
                found += self._decoded(piece)
            except HStreamError:
                if found:
                    break
                self._pieces.popleft()
                positions[piece.shard] = piece.batch + piece.first + piece.records
                raise
            self._pieces.popleft()
            positions[piece.shard] = piece.batch + piece.first + piece.records
            if self._limit is not None:
                self._limit = max(0, self._limit - piece.records)
                self._request.limit = self._limit
        return found

    # Iterating.

    async def some(self) -> list[T]:
        """Return what comes next, as much as is at hand; nothing when it is over."""
        if self._closed:
            return []
        if not self._buffer:
            self._link.check()
            return await self._found()
        found, self._buffer = self._buffer[::-1], []
        return found

    async def _next(self) -> T:
        if not self._buffer:
            self._buffer = (await self.some())[::-1]
        if not self._buffer:
            raise StopAsyncIteration
        return self._buffer.pop()

    async def _found(self) -> list[T]:
        """Take what is next. Who is cancelled leaves it to the next call."""
        if self._reading is None:
            self._reading = self._link.loop.create_task(self._more())
            self._reading.add_done_callback(look_at)
        reading = self._reading
        waits: list[asyncio.Future[Any]] = [reading, self._closing, self._link.ending]
        await asyncio.wait(waits, return_when="FIRST_COMPLETED")
        if self._closed:
            return []
        if not reading.done():
            raise StoreClosed(self._link.path)
        self._reading = None
        if reading.cancelled():
            self._link.check()
        return reading.result()

    async def close(self) -> None:
        """End the iteration, also one that waits in another task."""
        if self._closed:
            return
        self._closed = True
        self._buffer = []
        if not self._closing.done():
            self._closing.set_result(None)
        if self._call is not None:
            self._call.cancel()
        waits = [task for task in (self._opening, self._reading) if task is not None]
        for task in waits:
            task.cancel()
        await asyncio.wait(waits)
        for task in waits:
            if not task.cancelled():
                task.exception()

    async def __aenter__(self) -> Self:
        return await self._ready()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<remote {type(self).__name__} of {self._request.stream!r}{state}>"

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        return await self._next()


class Reader(_Reader[Record]):
    """Iterates over records, as `hstreamlite.aio.Reader`."""

    def _decoded(self, piece: pb.Piece) -> list[Record]:
        records = records_from(piece)
        return records if self._limit is None else records[: self._limit]


class BatchReader(_Reader[Batch]):
    """Iterates over batches, as `hstreamlite.aio.BatchReader`."""

    def _decoded(self, piece: pb.Piece) -> list[Batch]:
        return [batch_from(piece)]
