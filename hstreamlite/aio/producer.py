"""The asyncio face of a producer."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import TracebackType
from typing import Any, Self

from hstreamlite.aio.bell import Bell, in_thread
from hstreamlite.batcher import OpenBatch, ProducerCore, record_size
from hstreamlite.records import Payload, Record, RecordId
from hstreamlite.transaction import record_of


class Submitted:
    """A record on its way: await it, or `result`, for its id."""

    __slots__ = ("_batch", "_index", "_producer")

    def __init__(self, producer: Producer, batch: OpenBatch, index: int) -> None:
        self._producer = producer
        self._batch = batch
        self._index = index

    async def result(self) -> RecordId:
        """Return the id once the record has reached its level, or raise the append's own error."""
        batch = self._batch
        if not batch.settled:
            await self._producer._send(batch)
        if batch.error is not None:
            raise batch.error
        assert batch.ids is not None
        await self._producer._bell.ticket(batch.ticket)
        return batch.ids[self._index]

    def __await__(self) -> Generator[Any, None, RecordId]:
        return self.result().__await__()

    def done(self) -> bool:
        """Say whether `result` would answer at once."""
        batch = self._batch
        durable = self._producer._engine.journal.durable()
        return batch.error is not None or (batch.ids is not None and batch.ticket <= durable)

    def __repr__(self) -> str:
        return f"<aio.Submitted {'done' if self.done() else 'pending'}>"


class Producer:
    """Gathers records into batches, as `hstreamlite.Producer`."""

    def __init__(self, bell: Bell, producers: set[Producer], core: ProducerCore) -> None:
        self._engine = core.engine
        self._bell = bell
        self._producers = producers
        self._core = core
        self._sending = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        producers.add(self)

    @property
    def last_sequence(self) -> int:
        """Number of the last record submitted or stored."""
        return self._core.last_sequence

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
        size = record_size(item, self._engine.config.batch_bytes_max)
        core = self._core
        core.check()
        while not core.room(size):
            if core.options.on_full == "raise":
                raise core.full(size)
            await self._send(core.open)
            core.check()
            ticket = core.oldest_ticket()
            if ticket is not None:
                await self._bell.ticket(ticket)
            core.check()
        if sequence is not None:
            known = core.duplicate(sequence)
            if known is not None:
                return Submitted(self, known[0], known[1])
        batch, index = core.add(item, size)
        if core.due():
            await self._send(batch)
        elif self._timer is None:
            self._timer = self._bell.loop.call_later(core.options.batch_age, self._age)
        return Submitted(self, batch, index)

    def _age(self) -> None:
        self._timer = None
        if self._core.open is not None:
            self._spawn(self._core.open)

    def _spawn(self, batch: OpenBatch) -> asyncio.Task[None]:
        task = self._bell.loop.create_task(self._stage(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _send(self, batch: OpenBatch | None) -> None:
        """Stage the batch if it is still gathering; returns when it is settled.

        A task of its own does it: a cancelled caller must not let the next batch overtake this one.
        """
        if batch is not None:
            await asyncio.shield(self._spawn(batch))

    async def _stage(self, batch: OpenBatch) -> None:
        async with self._sending:
            core = self._core
            if core.open is not batch:
                return
            core.detach()
            staging = asyncio.ensure_future(in_thread(core.stage, batch))
            try:
                await asyncio.shield(staging)
            except asyncio.CancelledError:
                staging.add_done_callback(lambda _: core.settle(batch))
                raise
            core.settle(batch)
            if batch.error is None and batch.ticket:
                self._bell.ticket(batch.ticket)

    async def flush(self) -> None:
        """Return when everything submitted has reached its level; raises what failed."""
        core = self._core
        if core.open is not None:
            await self._send(core.open)
        async with self._sending:
            pass
        ticket = core.last_ticket()
        if ticket:
            await self._bell.ticket(ticket)
        core.reap()
        if core.failure is not None:
            raise core.failure

    async def close(self) -> None:
        """Flush and refuse further records. A second call does nothing."""
        if self._core.closed:
            return
        self._core.closed = True
        self._producers.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if not self._engine.closed:
            await self.flush()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<aio.Producer {self._core.label} buffered={self._core.buffered}>"
