"""Producers: each is one call that stores numbered batches, none of them twice.

A batch that was sent before, on a connection that broke, may be stored: then its number is, and it
is answered with the ids of the first time. Of two producers of one name the newer one has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from hstreamlite.aio.bell import in_thread
from hstreamlite.batcher import OpenBatch, ProducerCore, ProducerOptions
from hstreamlite.config import CODEC_NAMES, LEVELS
from hstreamlite.errors import DuplicateAppend, ProducerClosed
from hstreamlite.log.producers import drop_op
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.failures import failure_of
from hstreamlite.net.node import Node
from hstreamlite.net.unnamed import Idle, Key, is_unnamed
from hstreamlite.net.v1.base import Base, Context
from hstreamlite.net.wire import DURABILITY_NAMES, ids_to, items_from, stored_from

_TAKEN = "lost its name to another producer"
_WAITING_MAX = 8
"""Batches that are staged and not yet answered."""

Answer = tuple[int, OpenBatch] | Exception | None


class Producing(Base):
    """The calls of producers."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._owners: dict[Key, bytes] = {}
        unnamed = filter(is_unnamed, self.engine.producers.names())
        self._idle = Idle(unnamed, self._now())

    def _now(self) -> float:
        return self.engine.env.clock.mono_ns() / 1e9

    async def Produce(
        self, requests: AsyncIterator[pb.ProduceRequest], context: Context
    ) -> AsyncIterator[pb.ProduceReply]:
        requests = aiter(requests)
        first = await anext(requests, None)
        if first is None or not first.HasField("begin"):
            raise ValueError("a producer must begin first")
        begin = first.begin
        core, begun = self._begin(begin)
        key = (core._stream_id, begin.name)
        answers: asyncio.Queue[Answer] = asyncio.Queue(_WAITING_MAX)
        self._idle.begin(key)
        storing = asyncio.ensure_future(self._store_all(begin, core, requests, answers))
        try:
            yield pb.ProduceReply(begun=begun)
            while (answer := await answers.get()) is not None:
                if isinstance(answer, Exception):
                    raise answer
                yield await self._answer(begin, *answer)
        finally:
            storing.cancel()
            self._idle.end(key, self._now())
            if not is_unnamed(key) or key not in self._owners:
                self._idle.forget(key)
            for over in self._idle.over(self._now()):
                self._forget(over)

    def _begin(self, begin: pb.ProduceRequest.Begin) -> tuple[ProducerCore, pb.ProduceReply.Begun]:
        engine = self.engine
        state = engine.stream(begin.stream)
        if begin.stream_id not in {0, state.id}:
            raise ProducerClosed(begin.stream, why="lost its stream: this is a new one of its name")
        key = (state.id, begin.name)
        if begin.stream_id and not self._may_go_on(key, begin):
            raise ProducerClosed(begin.stream, why=_TAKEN)
        self._owners[key] = begin.session
        options = ProducerOptions(
            name=begin.name,
            durability=DURABILITY_NAMES.get(begin.durability),
            compression=CODEC_NAMES[begin.codec],
        )
        session = "" if is_unnamed(key) else begin.session.hex()
        core = ProducerCore(engine, begin.stream, options, session)
        assert core.known is not None
        known = [
            pb.ProduceReply.Stored(first=batch.first, ids=ids_to(batch.ids))
            for batch in tuple(core.known.batches)
        ]
        return core, pb.ProduceReply.Begun(last=core.last_sequence, stream_id=state.id, known=known)

    def _may_go_on(self, key: Key, begin: pb.ProduceRequest.Begin) -> bool:
        """Tell whether nobody took the name of a producer since it began."""
        owner = self._owners.get(key)
        if owner is not None or is_unnamed(key) or key not in self.engine.producers:
            return owner in {None, begin.session}
        known = self.engine.producers.get(*key)
        return known.last <= begin.last or known.session() == begin.session.hex()

    async def _store_all(
        self,
        begin: pb.ProduceRequest.Begin,
        core: ProducerCore,
        requests: AsyncIterator[pb.ProduceRequest],
        answers: asyncio.Queue[Answer],
    ) -> None:
        """Stage what comes, in its order."""
        try:
            async for request in requests:
                if request.HasField("batch"):
                    batch = await self._store(begin, core, request.batch)
                    await answers.put((request.batch.first, batch))
                elif request.forget:
                    self._forget((core._stream_id, begin.name))
        except Exception as error:  # noqa: BLE001 - the border tells of it
            await answers.put(error)
        else:
            await answers.put(None)

    async def _store(
        self,
        begin: pb.ProduceRequest.Begin,
        core: ProducerCore,
        numbered: pb.ProduceRequest.Numbered,
    ) -> OpenBatch:
        """Stage a batch, unless it is staged; it has ids or an error then."""
        known, first = core.known, numbered.first
        assert known is not None
        batch = OpenBatch(first, 0)
        try:
            if self._owners.get((core._stream_id, begin.name)) != begin.session:
                raise ProducerClosed(begin.stream, why=_TAKEN)
            self._fill(batch, begin.stream, numbered.body)
            if first <= known.last:
                if not numbered.again:
                    raise ProducerClosed(begin.stream, why=_TAKEN)
                found = known.find(first)
                if found is None:
                    raise DuplicateAppend(begin.name, first)
                batch.ids, batch.ticket = found[0].ids, found[0].ticket
                return batch
            known.last = first - 1  # what lies between was lost, at a level that allows it
        except Exception as error:  # noqa: BLE001 - told to who sent it
            batch.error = error
            return batch
        if not core.try_stage(batch):
            staging = asyncio.ensure_future(in_thread(core.stage, batch))
            await asyncio.shield(staging)
        if batch.error is not None:
            core.failure = batch.error
        else:
            self.node.tally.appended(begin.stream, numbered.body.records, batch.bytes)
        return batch

    def _fill(self, batch: OpenBatch, stream: str, body: pb.Body) -> None:
        """Take in the records of a body: as it came where it can be a block of the one shard."""
        config = self.engine.config
        payload = body.payload  # each look makes a copy
        batch.bytes = len(payload)
        single = len(self.engine.stream(stream).shard_ids) == 1
        if single and payload and max(len(payload), body.decoded_bytes) <= config.batch_bytes_max:
            batch.body = stored_from(body, payload)
        else:
            batch.records = items_from(body, config.transaction_bytes_max)

    async def _answer(
        self, begin: pb.ProduceRequest.Begin, first: int, batch: OpenBatch
    ) -> pb.ProduceReply:
        stored = pb.ProduceReply.Stored(first=first)
        try:
            if batch.error is not None:
                raise batch.error
            assert batch.ids is not None
            if batch.ticket:
                await self.store._bell.ticket(batch.ticket)
            stored.ids.CopyFrom(ids_to(batch.ids))
        except Exception as error:  # noqa: BLE001 - told to who sent it
            self.node.tally.append_failed(begin.stream, error)
            stored.failure = failure_of(error)
        return pb.ProduceReply(stored=stored)

    def _forget(self, key: Key) -> None:
        """Forget a name that nobody will use again."""
        engine = self.engine
        self._owners.pop(key, None)
        with engine.lock:
            if not engine.closed and key in engine.producers:
                engine.journal.stage([drop_op(*key)], LEVELS["memory"], system=True)
                engine.producers.drop(*key)
