"""Buffered producers: records gather into batches, and futures tell their ids.

A batch goes out when it has enough records or bytes, when its oldest record is old enough, at
`flush`, or when somebody asks for a result. The buffer is bounded by bytes that are not yet on disk
(at the level asked for): beyond it `submit` waits, or raises. Batches of one producer are staged in
the order of submission, so records of one key keep their order.

The core here never waits; its shells do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from hstreamlite._native import fast
from hstreamlite.config import (
    PRODUCER_NAME_MAX,
    check_compression,
    check_durability,
    check_int,
    check_seconds,
)
from hstreamlite.engine import Engine
from hstreamlite.errors import BufferFull, DuplicateAppend, ProducerClosed, RecordTooLarge
from hstreamlite.log.journal import PRODUCERS, Op, Run, Then
from hstreamlite.log.producers import ProducerState, StoredBatch, stage_op
from hstreamlite.log.routing import ids_order, record_ids
from hstreamlite.records import RecordIds

_RECORD_OVERHEAD = 64

Stage: TypeAlias = Callable[[list[Op], int, Then], tuple[int, list[Run]] | None]
"""Stages ops in one frame and tells of it; None where that would have to wait, and may not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerOptions:
    """How a producer gathers. See `Stream.producer`."""

    batch_records: int = 1000
    batch_bytes: int = 64 << 10
    batch_age: float = 0.01
    buffer_bytes: int = 32 << 20
    on_full: str = "block"
    durability: str | None = None
    compression: str = "none"
    name: str | None = None

    def __post_init__(self) -> None:
        check_int("batch_records", self.batch_records, 1, 1_000_000)
        check_int("batch_bytes", self.batch_bytes, 1, 16 << 20)
        check_seconds("batch_age", self.batch_age, 0.0, 3600.0)
        check_int("buffer_bytes", self.buffer_bytes, 1, 1 << 40)
        if self.on_full not in ("block", "raise"):
            raise ValueError(f"on_full must be 'block' or 'raise', not {self.on_full!r}")
        if self.durability is not None:
            check_durability(self.durability)
        check_compression(self.compression)
        if self.name is not None and (
            not isinstance(self.name, str) or not 1 <= len(self.name) <= PRODUCER_NAME_MAX
        ):
            raise ValueError(f"name must be a str of 1 to {PRODUCER_NAME_MAX} characters")


class OpenBatch:
    """Records submitted together; settled once by an error or by ids and a ticket."""

    __slots__ = ("body", "born_ns", "bytes", "error", "first", "ids", "records", "ticket")

    def __init__(self, first: int, born_ns: int) -> None:
        self.records: list[Any] = []
        self.body: tuple[int, bytes, int, int] | None = None
        """In place of records: codec, payload, number of records, bytes of it unpacked."""
        self.bytes = 0
        self.first = first
        self.born_ns = born_ns
        self.ids: RecordIds | None = None
        self.ticket = 0
        self.error: BaseException | None = None

    @property
    def settled(self) -> bool:
        return self.ids is not None or self.error is not None


class ProducerCore:
    """The state of one producer, under the lock of its shell."""

    def __init__(
        self, engine: Engine, stream: str, options: ProducerOptions, session: str = ""
    ) -> None:
        self.engine = engine
        self.stream = stream
        self.options = options
        self.level = (
            engine.level if options.durability is None else check_durability(options.durability)
        )
        self.codec = check_compression(options.compression)
        self.closed = False
        self.failure: BaseException | None = None
        self.open: OpenBatch | None = None
        self.sending: OpenBatch | None = None
        self.staged: deque[OpenBatch] = deque()
        self.buffered = 0
        state = engine.stream(stream)
        self._stream_id = state.id
        self._session = session
        self._batch_most = engine.config.transaction_bytes_max // 4
        self.known: ProducerState | None = None
        if options.name is not None:
            with engine.lock:
                self.known = engine.producers.get(state.id, options.name)
        self._next = 1 + (self.known.last if self.known else 0)

    @property
    def last_sequence(self) -> int:
        return self._next - 1

    @property
    def label(self) -> str:
        name = self.options.name
        return f"of {self.stream!r}" if name is None else f"{name!r} of {self.stream!r}"

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self.closed:
            raise ProducerClosed(self.stream)
        self.engine.check_open()

    def room(self, size: int) -> bool:
        """Say whether a record of this size may come in; an empty buffer takes any."""
        self.reap()
        return self.buffered == 0 or self.buffered + size <= self.options.buffer_bytes

    def full(self, size: int) -> BufferFull:
        return BufferFull(size, self.options.buffer_bytes, self.stream)

    def duplicate(self, sequence: int) -> tuple[OpenBatch, int] | None:
        """Return where a number was stored before, or None for the next one.

        DuplicateAppend when it was stored but its id is forgotten; ValueError when it would leave
        a hole.
        """
        if self.known is None:
            raise ValueError("sequence needs a producer with a name")
        check_int("sequence", sequence, 1, (1 << 63) - 1)
        if sequence == self._next:
            return None
        if sequence > self._next:
            raise ValueError(f"sequence must be {self._next} or below, not {sequence}")
        if self.open is not None and sequence >= self.open.first:
            return self.open, sequence - self.open.first
        if self.sending is not None and sequence >= self.sending.first:
            return self.sending, sequence - self.sending.first
        for batch in reversed(self.staged):
            if batch.first <= sequence < batch.first + len(batch.records):
                return batch, sequence - batch.first
        found = self.known.find(sequence)
        if found is None:
            raise DuplicateAppend(self.options.name or "", sequence)
        stored, index = found
        batch = OpenBatch(stored.first, 0)
        batch.ids, batch.ticket = stored.ids, stored.ticket
        return batch, index

    def add(self, item: Any, size: int) -> tuple[OpenBatch, int]:
        """Take a record in; the caller has made sure of the room."""
        batch = self.open
        if batch is None:
            batch = self.open = OpenBatch(self._next, self.engine.env.clock.mono_ns())
        batch.records.append(item)
        batch.bytes += size
        self.buffered += size
        self._next += 1
        return batch, len(batch.records) - 1

    def due(self) -> bool:
        """Say whether the open batch has reached a limit of size."""
        batch, options = self.open, self.options
        return batch is not None and (
            len(batch.records) >= options.batch_records
            or batch.bytes >= min(options.batch_bytes, self._batch_most)
        )

    def deadline_ns(self) -> int | None:
        """Return when the open batch must go out by age."""
        if self.open is None:
            return None
        return self.open.born_ns + int(self.options.batch_age * 1e9)

    def send(self) -> None:
        """Stage the open batch, behind one that a signal's handler left amid its sending."""
        batch = self.sending or self.detach()
        while batch is not None:
            if not batch.settled:
                self.stage(batch)
            self.settle(batch)
            batch = self.detach()

    def detach(self) -> OpenBatch | None:
        """Take the open batch out; it is to be staged and settled next."""
        batch = self.sending = self.open
        if batch is not None:
            self._next = batch.first + len(batch.records)
        self.open = None
        return batch

    def settle(self, batch: OpenBatch) -> None:
        """Count a staged batch, once. An error ends the producer: records behind lost ones would
        break the order."""
        if self.open is batch:  # it was taken out, but for this
            self.open = None
        if batch.error is None:
            if not self.staged or self.staged[-1] is not batch:
                self.staged.append(batch)
        else:
            self.failure = batch.error
            self.buffered -= batch.bytes
            batch.bytes = 0
        self.sending = None

    def stage(self, batch: OpenBatch) -> None:
        """Stage a detached batch; it has ids or an error then. May wait for room."""
        try:
            if self.failure is not None:
                raise self.failure
            self._stage(batch, self.engine.journal.stage_then)
        except Exception as error:  # noqa: BLE001 - it is the outcome of the batch
            _fail(batch, error)

    def try_stage(self, batch: OpenBatch) -> bool:
        """Stage a detached batch as `stage` does; False, and nothing done, if it would wait."""
        with fast.Held([self.engine.lock], blocking=False) as held:
            if not held:
                return False
            try:
                if self.failure is not None:
                    raise self.failure
                return self._stage(batch, self.engine.journal.try_stage_then)
            except Exception as error:  # noqa: BLE001 - it is the outcome of the batch
                _fail(batch, error)
                return True

    def _stage(self, batch: OpenBatch, stage: Stage) -> bool:
        engine = self.engine
        state = engine.stream(self.stream)
        if state.id != self._stream_id:
            raise ProducerClosed(self.stream, why="lost its stream: this is a new one of its name")
        ops: list[Op]
        if batch.body is not None:
            (shard,) = state.shard_ids
            ops, order = [(shard, *batch.body)], None
        else:
            ops, order = engine.ops_of(state, batch.records, None, self.codec)

        def placed(ticket: int, runs: list[Run]) -> None:
            batch.ticket = ticket
            batch.ids = record_ids(runs, order, ops)

        if self.known is None:
            return stage(ops, self.level, placed) is not None
        parts = [Run(op[0], 0, op[3] if len(op) > 3 else len(op[1])) for op in ops]
        op_order = _op_order(order, parts)
        stored = StoredBatch(
            batch.first,
            tuple(parts),
            None if op_order is None else tuple(op_order),
            session=self._session,
        )
        known, extra = self.known, stage_op(state.id, self.options.name or "", stored)

        def numbered(ticket: int, runs: list[Run]) -> None:
            runs = [run for run in runs if run.shard != PRODUCERS]
            located = tuple(_located(parts, runs))
            known.put(replace(stored, parts=located, ticket=ticket))
            placed(ticket, runs)

        with engine.lock:
            if batch.first != known.last + 1:
                raise ProducerClosed(self.stream, why="lost its name to another producer")
            return stage([*ops, extra], self.level, numbered) is not None

    def reap(self) -> None:
        """Give back the room of batches that have reached their level."""
        durable = self.engine.journal.durable()
        while self.staged and self.staged[0].ticket <= durable:
            self.buffered -= self.staged.popleft().bytes

    def oldest_ticket(self) -> int | None:
        return self.staged[0].ticket if self.staged else None

    def last_ticket(self) -> int:
        return max((batch.ticket for batch in self.staged), default=0)


def _fail(batch: OpenBatch, error: Exception) -> None:
    """Make the error the outcome of a batch; a signal's handler may have raised it behind that."""
    if batch.settled:
        raise error
    batch.error = error


def record_size(item: Any, batch_bytes_max: int, *, at_server: bool = False) -> int:
    """Return what a record counts in the buffer.

    What cannot be appended is refused here: in a batch it would take its neighbours with it.
    """
    size: int = fast.record_bytes(item)
    if size > batch_bytes_max:
        raise RecordTooLarge(size, batch_bytes_max, at_server=at_server)
    return size + _RECORD_OVERHEAD


def _op_order(order: list[int] | None, parts: list[Run]) -> list[int] | None:
    """Return the index of each record's part, where a shard may have several parts."""
    if order is None:
        return None
    shards = list(dict.fromkeys(part.shard for part in parts))
    return ids_order(parts, order, shards)


def _located(parts: list[Run], runs: list[Run]) -> list[Run]:
    """Fill in the first LSN of each part from the runs that were staged for it, in order."""
    located = []
    at = 0
    for part in parts:
        located.append(Run(part.shard, runs[at].first, part.records))
        left = part.records
        while left > 0:
            left -= runs[at].records
            at += 1
    return located
