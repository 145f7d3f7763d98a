"""A producer of a stream of a remote store.

Its records are numbered, whether it has a name or not, and each batch is sent again when the
connection breaks before it was answered: the server stores it once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Generator
from types import TracebackType
from typing import Any, Final, Self

import grpc

from hstreamlite.batcher import ProducerOptions, record_size
from hstreamlite.config import CODECS, PRODUCER_WINDOW, check_int
from hstreamlite.errors import (
    BufferFull,
    ConnectionFailed,
    ConnectionLost,
    DuplicateAppend,
    HStreamError,
    ProducerClosed,
    Unavailable,
)
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.failures import error_of
from hstreamlite.net.wire import DURABILITIES, body_to, ids_from
from hstreamlite.records import Payload, Record, RecordId, RecordIds
from hstreamlite.remote.link import Broken, Link, Retries
from hstreamlite.transaction import record_of

IN_FLIGHT_MAX: Final = PRODUCER_WINDOW - 1
"""Batches that are sent and not answered: the server remembers the ids of one more."""


class Gathered:
    """Records that go out together; settled once, by their ids or an error."""

    def __init__(self, link: Link, first: int) -> None:
        self.first = first
        self.records: list[Any] = []
        self.bytes = 0
        self.body: pb.Body | None = None
        self.sent = False
        self.stored: asyncio.Future[RecordIds] = link.loop.create_future()

    def settle(self, outcome: RecordIds | Exception) -> None:
        if self.stored.done():
            return
        if isinstance(outcome, Exception):
            self.stored.set_exception(outcome)
            self.stored.exception()  # seen: nobody may ask
        else:
            self.stored.set_result(outcome)


class Submitted:
    """A record on its way: await it, or `result`, for its id."""

    __slots__ = ("_batch", "_index", "_producer")

    def __init__(self, producer: Producer, batch: Gathered, index: int) -> None:
        self._producer = producer
        self._batch = batch
        self._index = index

    async def result(self) -> RecordId:
        """Return the id once the record has reached its level, or raise the append's own error."""
        self._producer.send(self._batch)
        ids = await asyncio.shield(self._batch.stored)
        return ids[self._index]

    def __await__(self) -> Generator[Any, None, RecordId]:
        return self.result().__await__()

    def done(self) -> bool:
        """Say whether `result` would answer at once."""
        return self._batch.stored.done()

    def __repr__(self) -> str:
        return f"<remote Submitted {'done' if self.done() else 'pending'}>"


class Producer:
    """Gathers records into batches, as `hstreamlite.aio.Producer`; what it sends again when a
    connection breaks is stored once, also without a name."""

    def __init__(self, link: Link, stream: str, options: ProducerOptions) -> None:
        self._link = link
        self._stream = stream
        self._options = options
        self._name = options.name or f"~{link.random_bytes(8).hex()}"
        self._session = link.random_bytes(16)
        self._stream_id = 0
        self._next = 1
        self._open: Gathered | None = None
        self._waiting: deque[Gathered] = deque()
        self._flying: deque[Gathered] = deque()
        self._stored: deque[tuple[int, Gathered]] = deque(maxlen=PRODUCER_WINDOW)
        self._buffered = 0
        self._closed = False
        self._failure: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._outgoing: asyncio.Queue[pb.ProduceRequest | None] | None = None
        self._call: Any = None
        self._life: asyncio.Task[None] | None = None
        self._opening = link.begin(self._begin)
        link.members[self] = self._end

    async def _ready(self) -> Self:
        if not self._opening.done():
            await asyncio.wait([self._opening])
        self._opening.result()
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        """Wait until the server has told how far the name has come."""
        return self._ready().__await__()

    @property
    def last_sequence(self) -> int:
        """Number of the last record submitted or stored."""
        return self._next - 1

    # The call.

    async def _begin(self) -> None:
        begun = await self._connect()
        self._next = begun.last + 1
        for stored in begun.known:
            batch = Gathered(self._link, stored.first)
            batch.settle(ids_from(stored.ids))
            self._stored.append((sum(stored.ids.counts), batch))
        self._life = self._link.loop.create_task(self._listen())

    async def _connect(self) -> pb.ProduceReply.Begun:
        """Begin, or go on, and send again what was not answered."""
        link, options = self._link, self._options
        retries = Retries(link)
        while True:
            connection = await link.connection(retries.deadline)
            outgoing: asyncio.Queue[pb.ProduceRequest | None] = asyncio.Queue()
            begin = pb.ProduceRequest.Begin(
                stream=self._stream,
                name=self._name,
                session=self._session,
                stream_id=self._stream_id,
                durability=pb.Durability.ValueType(DURABILITIES[options.durability]),
                codec=pb.Codec.ValueType(CODECS[options.compression]),
            )
            outgoing.put_nowait(pb.ProduceRequest(begin=begin))
            self._call = connection.stub.Produce(_requests(outgoing))
            try:
                async with asyncio.timeout(retries.left(link.timeout)):
                    reply = await self._reply()
            except (Broken, Unavailable, TimeoutError) as error:
                self._call.cancel()
                link.lost(connection)
                await retries.wait(error)
                continue
            self._stream_id = reply.begun.stream_id
            self._outgoing = outgoing
            for batch in self._flying:
                self._put(batch)
            self._fill()
            return reply.begun

    async def _reply(self) -> pb.ProduceReply:
        try:
            reply = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._link.failure_of(error) from None
        if reply is grpc.aio.EOF:
            raise Broken("was ended", sent=True)
        found: pb.ProduceReply = reply
        return found

    async def _listen(self) -> None:
        """Settle what is answered, and begin anew when the connection breaks."""
        try:
            while True:
                try:
                    if self._outgoing is None:
                        await self._connect()
                    reply = await self._reply()
                except (Broken, Unavailable):
                    self._outgoing = None
                    if self._link.closed or (self._closed and not self._flying):
                        return
                    connection = self._link.current
                    if connection is not None:
                        self._link.lost(connection)
                    continue
                self._settle(reply.stored)
        except HStreamError as error:
            self._outgoing = None
            self._fail(error)

    def _settle(self, stored: pb.ProduceReply.Stored) -> None:
        while self._flying and self._flying[0].first <= stored.first:
            batch = self._flying.popleft()
            self._buffered -= batch.bytes
            if not stored.failure:
                batch.settle(ids_from(stored.ids))
                self._stored.append((len(batch.records), batch))
                continue
            error = error_of(stored.failure, self._link.address)
            batch.settle(error)
            if not isinstance(error, DuplicateAppend):
                self._fail(error)
        self._fill()

    def _fail(self, error: Exception) -> None:
        """End: records behind lost ones would break the order."""
        if self._failure is None:
            self._failure = error
        for batch in self._flying:
            told = error
            if isinstance(error, ConnectionFailed | ConnectionLost) and batch.sent:
                told = ConnectionLost(self._link.address, why="broke for good")
            batch.settle(told)
            self._buffered -= batch.bytes
        self._flying.clear()
        if self._open is not None:
            self._waiting.append(self._open)
            self._open = None
        for batch in self._waiting:
            batch.settle(error)
            self._buffered -= batch.bytes
        self._waiting.clear()

    # Batches.

    def send(self, batch: Gathered | None = None) -> None:
        """Let the open batch go out; or nothing, if it is not the one given."""
        if self._open is None or batch not in {None, self._open}:
            return
        gathered, self._open = self._open, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.append(gathered)
        if self._failure is not None:
            self._fail(self._failure)
        self._fill()

    def _fill(self) -> None:
        """Send as many as may be on their way."""
        while self._waiting and len(self._flying) < IN_FLIGHT_MAX and self._outgoing is not None:
            batch = self._waiting.popleft()
            batch.body = body_to(batch.records, None, CODECS[self._options.compression])
            self._flying.append(batch)
            self._put(batch)

    def _put(self, batch: Gathered) -> None:
        assert self._outgoing is not None
        numbered = pb.ProduceRequest.Numbered(first=batch.first, body=batch.body, again=batch.sent)
        batch.sent = True
        self._outgoing.put_nowait(pb.ProduceRequest(batch=numbered))

    def _age(self) -> None:
        self._timer = None
        self.send()

    def _check(self) -> None:
        self._link.check()
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise ProducerClosed(self._stream)

    async def submit(
        self,
        payload: Payload | Record,
        *,
        key: str | None = None,
        attributes: dict[str, str] | None = None,
        sequence: int | None = None,
    ) -> Submitted:
        """Take a record in; waits only while the buffer is full."""
        item: Any = payload
        if type(payload) is not bytes or key is not None or attributes is not None:
            item = record_of(payload, key, attributes)
        self._check()
        await self._ready()
        options = self._options
        size = record_size(item, self._link.hello.batch_bytes_max)
        self._check()
        while self._buffered and self._buffered + size > options.buffer_bytes:
            if options.on_full == "raise":
                raise BufferFull(size, options.buffer_bytes, self._stream)
            self.send()
            oldest = (self._flying or self._waiting)[0]
            await asyncio.wait([oldest.stored])
            self._check()
        if sequence is not None:
            known = self._duplicate(sequence)
            if known is not None:
                return Submitted(self, *known)
        batch = self._open
        if batch is None:
            batch = self._open = Gathered(self._link, self._next)
            self._timer = self._link.loop.call_later(options.batch_age, self._age)
        batch.records.append(item)
        batch.bytes += size
        self._buffered += size
        self._next += 1
        submitted = Submitted(self, batch, len(batch.records) - 1)
        most = min(options.batch_bytes, self._link.hello.transaction_bytes_max // 4)
        if len(batch.records) >= options.batch_records or batch.bytes >= most:
            self.send()
        return submitted

    def _duplicate(self, sequence: int) -> tuple[Gathered, int] | None:
        """Return where a number was submitted or stored before, or None for the next one."""
        if self._options.name is None:
            raise ValueError("sequence needs a producer with a name")
        check_int("sequence", sequence, 1, (1 << 63) - 1)
        if sequence == self._next:
            return None
        if sequence > self._next:
            raise ValueError(f"sequence must be {self._next} or below, not {sequence}")
        gathered = [*self._flying, *self._waiting, *([self._open] if self._open else [])]
        for batch in gathered:
            if batch.first <= sequence < batch.first + len(batch.records):
                return batch, sequence - batch.first
        for count, batch in self._stored:
            if batch.first <= sequence < batch.first + count:
                return batch, sequence - batch.first
        raise DuplicateAppend(self._name, sequence)

    async def flush(self) -> None:
        """Return when everything submitted has reached its level; raises what failed."""
        if self._failure is None:
            await self._ready()
            self.send()
        pending = [batch.stored for batch in (*self._flying, *self._waiting)]
        if pending:
            await asyncio.wait(pending)
        if self._failure is not None:
            raise self._failure

    # The end.

    async def close(self) -> None:
        """Flush and refuse further records. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._link.members.pop(self, None)
        if self._link.closed:
            return
        try:
            await self.flush()
        finally:
            await self._hang_up()

    async def _end(self) -> None:
        """Flush where the store is closed."""
        try:
            await self.close()
        except HStreamError:
            return  # whoever asks for a result is told

    async def _hang_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._outgoing is not None:
            if self._options.name is None:
                self._outgoing.put_nowait(pb.ProduceRequest(forget=True))
            self._outgoing.put_nowait(None)
        if self._life is not None:
            await asyncio.wait([self._life], timeout=0.5)
            self._life.cancel()
            await asyncio.wait([self._life])
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        return await self._ready()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        name = self._options.name
        label = f"of {self._stream!r}" if name is None else f"{name!r} of {self._stream!r}"
        return f"<remote Producer {label} buffered={self._buffered}>"


async def _requests(
    outgoing: asyncio.Queue[pb.ProduceRequest | None],
) -> AsyncIterator[pb.ProduceRequest]:
    while (request := await outgoing.get()) is not None:
        yield request
