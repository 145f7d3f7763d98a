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
from hstreamlite.net.unnamed import RETURN_SECONDS, name_of
from hstreamlite.net.wire import DURABILITIES, fill_body, ids_from
from hstreamlite.records import Payload, Record, RecordId, RecordIds
from hstreamlite.remote.link import Broken, Link, Retries
from hstreamlite.transaction import record_of

IN_FLIGHT_MAX: Final = PRODUCER_WINDOW - 1
"""Batches that are sent and not answered: the server remembers the ids of one more."""

_TURNS: Final = 4
"""Of the loop, for an answer that has come to be read, and for a batch that waited for it to be
encoded, taken from its queue and written."""


class Gathered:
    """Records that go out together; settled once, by their ids or an error."""

    def __init__(self, link: Link, first: int) -> None:
        self.first = first
        self.born = link.now()
        self.records: list[Any] = []
        self.bytes = 0
        self.request: pb.ProduceRequest | None = None
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
    connection breaks is stored once, also without a name.

    Belongs to the loop, but for `take`, which gathers from any thread. The lock guards what it
    touches: the open batch, those that wait, what is buffered, and the failure.
    """

    def __init__(self, link: Link, stream: str, options: ProducerOptions) -> None:
        self._link = link
        self._stream = stream
        self._options = options
        self._name = options.name or name_of(link.random_bytes(8))
        self._session = link.random_bytes(16)
        self._stream_id = 0
        self._last = 0
        self._next = 1
        self._lock = link.env.threads.rlock()
        self._open: Gathered | None = None
        self._waiting: deque[Gathered] = deque()
        self._flying: deque[Gathered] = deque()
        self._stored: deque[tuple[int, Gathered]] = deque(maxlen=PRODUCER_WINDOW)
        self._buffered = 0
        self._most = min(options.batch_bytes, link.hello.transaction_bytes_max // 4)
        self._closed = False
        self._failure: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._outgoing: asyncio.Queue[pb.ProduceRequest | None] | None = None
        self._call: Any = None
        self._life: asyncio.Task[None] | None = None
        self._opening = link.begin(self._begin)
        self._is_open = False
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
        self._last = begun.last
        self._next = begun.last + 1
        for stored in begun.known:
            batch = Gathered(self._link, stored.first)
            batch.settle(ids_from(stored.ids))
            self._stored.append((sum(stored.ids.counts), batch))
        self._life = self._link.loop.create_task(self._listen())

    async def _connect(self) -> pb.ProduceReply.Begun:
        """Begin, or go on, and send again what was not answered."""
        link, options = self._link, self._options
        unnamed = options.name is None and self._flying  # what it sent may be forgotten some time
        retries = Retries(link, RETURN_SECONDS if unnamed else link.timeout)
        while True:
            connection = await link.connection(retries.deadline)
            outgoing: asyncio.Queue[pb.ProduceRequest | None] = asyncio.Queue()
            begin = pb.ProduceRequest.Begin(
                stream=self._stream,
                name=self._name,
                session=self._session,
                stream_id=self._stream_id,
                last=self._last,
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
        reply = await self._link.read(self._call)
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
            batch.request = None
            with self._lock:
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
        with self._lock:
            if self._failure is None:
                self._failure = error
            flying, waiting = list(self._flying), list(self._waiting)
            if self._open is not None:
                waiting.append(self._open)
            self._open = None
            self._flying.clear()
            self._waiting.clear()
            self._buffered -= sum(batch.bytes for batch in (*flying, *waiting))
        for batch in flying:
            told = error
            if isinstance(error, ConnectionFailed | ConnectionLost) and batch.sent:
                told = ConnectionLost(self._link.address, why="broke for good")
            batch.settle(told)
        for batch in waiting:
            batch.settle(error)

    # Batches.

    def send(self, batch: Gathered | None = None) -> None:
        """Let the open batch go out; or nothing, if it is not the one given."""
        with self._lock:
            if self._open is None or batch not in {None, self._open}:
                return
            self._detach()
        self._fill()

    def _detach(self) -> None:
        """Let nothing more into the open batch; the caller has the lock."""
        if self._open is not None:
            self._waiting.append(self._open)
            self._open = None

    def _fill(self) -> None:
        """Send as many as may be on their way."""
        if self._failure is not None:
            self._fail(self._failure)
        while self._waiting and len(self._flying) < IN_FLIGHT_MAX and self._outgoing is not None:
            batch = self._waiting.popleft()
            request = batch.request = pb.ProduceRequest()
            request.batch.first = batch.first
            fill_body(request.batch.body, batch.records, None, CODECS[self._options.compression])
            self._flying.append(batch)
            self._put(batch)

    def _put(self, batch: Gathered) -> None:
        assert self._outgoing is not None
        assert batch.request is not None
        if batch.sent:
            batch.request.batch.again = True
        batch.sent = True
        self._outgoing.put_nowait(batch.request)

    def _attend(self) -> None:
        """See to batches that were begun or closed."""
        self._fill()
        self._age()

    def _age(self) -> None:
        """Send the open batch if it is old enough, else look again when it is."""
        batch = self._open
        if batch is None or self._timer is not None:
            return
        left = batch.born + self._options.batch_age - self._link.now()
        if left > 0:
            self._timer = self._link.loop.call_later(left, self._ring)
        else:
            self.send(batch)

    def _ring(self) -> None:
        self._timer = None
        self._age()

    def _check(self) -> None:
        self._link.check()
        self._check_open()

    def _check_open(self) -> None:
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
        item = payload
        if type(payload) is not bytes or key is not None or attributes is not None:
            item = record_of(payload, key, attributes)
        self._check()
        if not self._is_open:
            await self._ready()
            self._is_open = True
        while (taken := self._take(item, sequence)) is None:
            if self._options.on_full == "raise":
                size = record_size(item, self._link.hello.batch_bytes_max, at_server=True)
                raise BufferFull(size, self._options.buffer_bytes, self._stream)
            self.send()
            with self._lock:
                oldest = (self._flying or self._waiting)[0].stored
            await asyncio.wait([oldest])
            self._link.check()
        submitted, news = taken
        if news:
            self._attend()
            if self._open is None:
                await _give_way()
        return submitted

    def take(
        self, payload: Payload | Record, key: str | None, attributes: dict[str, str] | None
    ) -> Submitted | None:
        """Take a record in as `submit`, from any thread; None where that would have to wait."""
        item = payload
        if type(payload) is not bytes or key is not None or attributes is not None:
            item = record_of(payload, key, attributes)
        self._check()
        taken = self._take(item, None) if self._is_open else None
        if taken is None:
            return None
        submitted, news = taken
        if news:
            self._link.loop.call_soon_threadsafe(self._attend)
        return submitted

    def _take(self, item: Any, sequence: int | None) -> tuple[Submitted, bool] | None:
        """Take a record in, and tell whether the loop has to see to a batch now; None if there is
        no room."""
        options = self._options
        size = record_size(item, self._link.hello.batch_bytes_max, at_server=True)
        with self._lock:
            self._check_open()
            if self._buffered and self._buffered + size > options.buffer_bytes:
                return None
            if sequence is not None:
                known = self._duplicate(sequence)
                if known is not None:
                    return Submitted(self, *known), False
            batch = self._open
            news = batch is None
            if batch is None:
                batch = self._open = Gathered(self._link, self._next)
            batch.records.append(item)
            batch.bytes += size
            self._buffered += size
            self._next += 1
            submitted = Submitted(self, batch, len(batch.records) - 1)
            if len(batch.records) >= options.batch_records or batch.bytes >= self._most:
                self._detach()
                news = True
        return submitted, news

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
        with self._lock:
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


async def _give_way() -> None:
    """Let the loop see to what is on its way, so that the server works while the next gathers."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def _requests(
    outgoing: asyncio.Queue[pb.ProduceRequest | None],
) -> AsyncIterator[pb.ProduceRequest]:
    while (request := await outgoing.get()) is not None:
        yield request
